//! How a job commits to a Delta table: whose table it is, and each checkpoint's files once.
//!
//! The table itself says which job writes to it (in its configuration) and how far that job has
//! got: an entry with files also holds the version of the job's transaction, which is the epoch.
//! Who finds that version at or above its own epoch has been there before, be it by an answer that
//! was lost, or as a run that has been succeeded: the files of an epoch are the same in any run.

use std::collections::BTreeMap;

use serde_json::json;

use super::actions::{Action, Add, Format, MetaData, Remove, Txn};
use super::schema::columns_of;
use super::table::TableLog;
use crate::host;
use crate::sink::commit::owner::{Beginning, Owner, beginning, read_owner};
use crate::sink::{JobContext, JobId, SinkError};
use crate::terminal;
use crate::time::{Epoch, Shard};

/// The only shard: a table has one log.
pub(super) const SHARD: Shard = Shard(0);
/// Where the table's configuration says which job writes to it.
const OWNER: &str = "highwater.owner";
/// ... and which output of it.
const OUTPUT: &str = "highwater.output";

/// What the table of an output must look like.
pub(super) struct Shape {
    pub(super) output: &'static str,
    /// As Delta writes it.
    pub(super) schema: serde_json::Value,
    pub(super) partition_columns: Vec<String>,
}

impl Shape {
    /// Of a new table.
    fn meta_data(&self, owner: Option<&Owner>) -> MetaData {
        let made = MetaData {
            id: host::new_id().to_string(),
            name: Some(self.output.to_owned()),
            description: None,
            format: Format::default(),
            schema_string: self.schema.to_string(),
            partition_columns: self.partition_columns.clone(),
            configuration: BTreeMap::new(),
            created_time: Some(host::wall_clock().0),
        };
        self.owned(made, owner)
    }

    /// The same table, which is `owner`'s from now on.
    fn owned(&self, mut found: MetaData, owner: Option<&Owner>) -> MetaData {
        if let Some(owner) = owner.and_then(|owner| serde_json::to_string(owner).ok()) {
            let configuration = &mut found.configuration;
            configuration.insert(OWNER.to_owned(), Some(owner));
            configuration.insert(OUTPUT.to_owned(), Some(self.output.to_owned()));
        }
        found
    }

    /// Two outputs of a job do not go into one table.
    fn check_output(&self, found: &MetaData, target: &str) -> Result<(), SinkError> {
        match found.configuration.get(OUTPUT).and_then(Option::as_deref) {
            Some(other) if other != self.output => Err(SinkError::Refused(format!(
                "{target}: holds the output {other} of this job; choose another place for output {}",
                self.output
            ))),
            _ => Ok(()),
        }
    }

    fn check(&self, found: &MetaData, target: &str) -> Result<(), SinkError> {
        let theirs: serde_json::Value =
            serde_json::from_str(&found.schema_string).unwrap_or_default();
        if let Some(column) = stricter(&theirs, &self.schema) {
            return Err(SinkError::Refused(format!(
                "{target}: column {column} of the Delta table there has rules of its own (no nulls, \
                 or invariants) that output {} does not keep; choose another place",
                self.output
            )));
        }
        let (theirs, ours) = (columns_of(&theirs), columns_of(&self.schema));
        if theirs == ours && found.partition_columns == self.partition_columns {
            return Ok(());
        }
        Err(SinkError::Refused(format!(
            "{target}: the Delta table there has other columns ({}, partitioned by [{}]) than \
             output {} ({}, partitioned by [{}]); choose another place, or start anew with \
             --fresh --replace-output",
            theirs.join(", "),
            found.partition_columns.join(", "),
            self.output,
            ours.join(", "),
            self.partition_columns.join(", "),
        )))
    }
}

/// The first column of `theirs` that takes less than that of `ours` may give.
fn stricter(theirs: &serde_json::Value, ours: &serde_json::Value) -> Option<String> {
    let fields =
        |schema: &serde_json::Value| schema["fields"].as_array().cloned().unwrap_or_default();
    let mut pairs = fields(theirs).into_iter().zip(fields(ours));
    let (found, _) = pairs.find(|(theirs, ours)| {
        let no_nulls = theirs["nullable"] == false && ours["nullable"] != false;
        no_nulls || !theirs["metadata"]["delta.invariants"].is_null()
    })?;
    Some(found["name"].to_string())
}

/// # Errors
/// When the table's own rules keep its rows for ever.
fn check_append_only(found: &MetaData, target: &str) -> Result<(), SinkError> {
    let rule = found.configuration.get("delta.appendOnly");
    if rule.and_then(Option::as_deref) == Some("true") {
        return Err(SinkError::Refused(format!(
            "{target}: nothing may be removed from this table (delta.appendOnly), so it is not \
             replaced; choose another place"
        )));
    }
    Ok(())
}

/// Whether the job may replace the table, if it would.
///
/// # Errors
/// [`SinkError::Refused`] when it may not.
pub(super) fn check_replaceable(
    log: &TableLog,
    job: &JobContext,
    sink: &str,
    target: &str,
) -> Result<(), SinkError> {
    match (
        look(log, job, sink, target, owner(log, target)?)?,
        &log.table.meta_data,
    ) {
        (Beginning::Replaces(_), Some(found)) => check_append_only(found, target),
        _ => Ok(()),
    }
}

fn owner_of(found: &MetaData, target: &str) -> Result<Option<Owner>, SinkError> {
    let text = found.configuration.get(OWNER).cloned().flatten();
    text.map(|text| read_owner(text.as_bytes(), target))
        .transpose()
}

/// Sees to it that there is a table of this shape, which is the job's if there is one; `sink` is
/// what the state calls it.
///
/// # Errors
/// [`SinkError::Refused`] when it is not, and must not be made so.
pub(super) fn prepare(
    log: &mut TableLog,
    shape: &Shape,
    target: &str,
    job: Option<(&JobContext, &str)>,
) -> Result<(), SinkError> {
    let mine = job.map(|(job, _)| Owner::of(job));
    loop {
        let now = host::wall_clock().0;
        let Some(found) = log.table.meta_data.clone() else {
            let head = [
                Action::info("CREATE TABLE", now, json!({})),
                TableLog::protocol().into(),
                shape.meta_data(mine.as_ref()).into(),
            ];
            if log.append(&head)? {
                return Ok(());
            }
            continue;
        };
        let owner = owner_of(&found, target)?;
        let Some((job, sink)) = job else {
            return match owner {
                None => shape.check(&found, target),
                Some(owner) => Err(SinkError::Refused(format!(
                    "{target}: holds the output of job {}; give its --state, or choose another \
                     place",
                    owner.job
                ))),
            };
        };
        if owner.is_some_and(|owner| owner.job == job.job) {
            shape.check_output(&found, target)?;
        }
        match look(log, job, sink, target, owner)? {
            Beginning::GoesOn => return shape.check(&found, target),
            Beginning::Begins if owner == mine => return shape.check(&found, target),
            Beginning::Begins => {
                shape.check(&found, target)?;
                let actions = [shape.owned(found, mine.as_ref()).into()];
                if log.append(&actions)? {
                    return Ok(());
                }
            }
            Beginning::Replaces(_) => {
                check_append_only(&found, target)?;
                if log.append(&replacing(log, shape, mine.as_ref()))? {
                    terminal::message(format_args!(
                        "{target}: replaced, it was not the output of this job; the versions \
                         before can still be read"
                    ));
                    return Ok(());
                }
            }
        }
    }
}

/// What the sink does with the table as it stands.
///
/// # Errors
/// [`SinkError::Refused`] when it may not have it.
pub(super) fn look(
    log: &TableLog,
    job: &JobContext,
    sink: &str,
    target: &str,
    owner: Option<Owner>,
) -> Result<Beginning, SinkError> {
    let is_ours = owner.is_some_and(|owner| owner.job == job.job);
    let is_empty = log.table.files.is_empty() && (owner.is_none() || is_ours);
    beginning(job, sink, target, owner, is_empty)
}

/// Whose table it is; `None`: nobody's, or there is none.
///
/// # Errors
/// When it says so in a way that cannot be read.
pub(super) fn owner(log: &TableLog, target: &str) -> Result<Option<Owner>, SinkError> {
    let found = log.table.meta_data.as_ref();
    found.map_or(Ok(None), |found| owner_of(found, target))
}

fn replacing(log: &TableLog, shape: &Shape, mine: Option<&Owner>) -> Vec<Action> {
    let now = host::wall_clock().0;
    let removes = log.table.files.keys().map(|path| {
        Action::from(Remove {
            path: path.clone(),
            deletion_timestamp: Some(now),
            data_change: true,
        })
    });
    [
        Action::info("CREATE OR REPLACE TABLE", now, json!({})),
        shape.meta_data(mine).into(),
    ]
    .into_iter()
    .chain(removes)
    .collect()
}

/// Commits the files of epochs.
pub(super) struct Committer {
    log: TableLog,
    /// The place, for people.
    target: String,
    /// The job and what its transactions are called; `None`: nothing is kept, and entries have
    /// none.
    job: Option<(JobId, String)>,
}

impl Committer {
    /// For the run of `job` that has prepared the table of `log`.
    ///
    /// # Errors
    /// [`SinkError::Refused`] when the table and the state do not fit together.
    pub(super) fn open(
        log: TableLog,
        target: &str,
        job: Option<(&JobContext, &str)>,
    ) -> Result<Self, SinkError> {
        let app_id = |job: JobId, sink: &str| format!("highwater/{job}/{sink}");
        let committer = Self {
            log,
            target: target.to_owned(),
            job: job.map(|(job, sink)| (job.job, app_id(job.job, sink))),
        };
        if let Some((job, sink)) = job {
            let committed = committer.committed();
            if committed > job.logged {
                job.check_committed(sink, SHARD, committed)?;
            }
            let known = job.mark(sink).and_then(|mark| mark.positions.get(&SHARD));
            let known = known.copied().unwrap_or_default();
            let entries = committer.position();
            if entries < known {
                return Err(SinkError::Refused(format!(
                    "{target}: the log of the table has {entries} entries, and the checkpoint knows \
                     of {known}: somebody has restored or replaced the table; restore the state \
                     that belongs to it, or start anew with --fresh --replace-output"
                )));
            }
        }
        Ok(committer)
    }

    /// Whether entries have transactions.
    pub(super) const fn has_job(&self) -> bool {
        self.job.is_some()
    }

    /// The last epoch whose files are in the table.
    pub(super) fn committed(&self) -> Option<Epoch> {
        let (_, app_id) = self.job.as_ref()?;
        let version = self.log.table.txns.get(app_id)?;
        u64::try_from(*version).ok().map(Epoch)
    }

    /// How many entries the log has.
    pub(super) fn position(&self) -> u64 {
        self.log.version().map_or(0, |version| version + 1)
    }

    /// Puts `files`, those since the checkpoint before, into the table as those of `epoch`.
    ///
    /// # Errors
    /// When the log cannot be read or written.
    pub(super) fn commit(&mut self, epoch: Epoch, files: Vec<Add>) -> Result<(), SinkError> {
        let now = host::wall_clock().0;
        let mut actions = vec![Action::info(
            "STREAMING UPDATE",
            now,
            json!({"outputMode": "Append", "epochId": epoch.0.to_string()}),
        )];
        if let Some((_, app_id)) = &self.job {
            actions.push(
                Txn {
                    app_id: app_id.clone(),
                    version: epoch.0 as i64,
                    last_updated: Some(now),
                }
                .into(),
            );
        }
        actions.extend(files.into_iter().map(Action::from));
        while self.committed() < Some(epoch) {
            self.check_owner()?;
            // An entry of somebody else in between fails, and then all is asked again.
            if self.log.append(&actions)? {
                break;
            }
        }
        Ok(())
    }

    /// Another job may have been given the table.
    fn check_owner(&self) -> Result<(), SinkError> {
        let owner = owner(&self.log, &self.target)?.map(|owner| owner.job);
        if owner == self.job.as_ref().map(|(job, _)| *job) {
            return Ok(());
        }
        let whose = owner.map_or_else(|| "nobody's".to_owned(), |job| format!("that of job {job}"));
        Err(SinkError::Fenced(format!(
            "{}: the table is {whose} now",
            self.target
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::{Memory, open};
    use super::*;
    use crate::sink::SinkMark;
    use crate::sink::commit::sample::job;

    const SINK: &str = "alerts/delta-out";

    fn shape(column: &str) -> Shape {
        Shape {
            output: "alerts",
            schema: json!({"type": "struct", "fields": [{"name": column, "type": "long"}]}),
            partition_columns: Vec::new(),
        }
    }

    fn add(path: &str) -> Add {
        Add {
            path: path.to_owned(),
            partition_values: BTreeMap::new(),
            size: 1,
            modification_time: 2,
            data_change: true,
            stats: None,
            tags: None,
        }
    }

    fn start(memory: &Memory, job: &JobContext) -> Result<Committer, SinkError> {
        let mut log = open(memory)?;
        prepare(&mut log, &shape("a"), "table", Some((job, SINK)))?;
        Committer::open(log, "table", Some((job, SINK)))
    }

    fn files(memory: &Memory) -> Vec<String> {
        open(memory).unwrap().table.files.into_keys().collect()
    }

    #[test]
    fn an_epoch_is_committed_once_whoever_says_it() {
        let memory = Memory::default();
        let mut zombie = start(&memory, &job(1, None, Some(3))).unwrap();
        zombie.commit(Epoch(2), vec![add("2")]).unwrap();
        let mut heir = start(&memory, &job(2, None, Some(3))).unwrap();
        assert_eq!(heir.committed(), Some(Epoch(2)));
        heir.commit(Epoch(3), vec![add("3")]).unwrap();
        let entries = heir.position();
        // It has been left behind, wakes up, and says the same.
        zombie.commit(Epoch(3), vec![add("3")]).unwrap();
        assert_eq!(zombie.position(), entries);
        assert_eq!(files(&memory), ["2", "3"]);
        // It is behind: what it says is known.
        let mut late = start(&memory, &job(3, None, Some(9))).unwrap();
        heir.commit(Epoch(7), vec![add("7")]).unwrap();
        late.commit(Epoch(5), vec![add("5")]).unwrap();
        assert_eq!(files(&memory), ["2", "3", "7"]);
    }

    #[test]
    fn a_table_that_is_ahead_of_the_log_or_behind_the_checkpoint_is_refused() {
        let memory = Memory::default();
        let mut first = start(&memory, &job(1, None, Some(3))).unwrap();
        first.commit(Epoch(3), vec![add("3")]).unwrap();
        let error = start(&memory, &job(2, None, Some(2))).err().unwrap();
        assert!(
            error.to_string().contains("its last committed epoch is 3"),
            "{error}"
        );
        let mut known = job(2, Some(5), Some(5));
        let positions = [(SHARD, 9)].into();
        known.sinks.insert(SINK.to_owned(), SinkMark { positions });
        let error = start(&memory, &known).err().unwrap();
        assert!(error.to_string().contains("has 2 entries"), "{error}");
    }

    #[test]
    fn the_table_of_another_job_is_replaced_only_when_that_is_asked_for() {
        let memory = Memory::default();
        let mut first = start(&memory, &job(1, None, None)).unwrap();
        first.commit(Epoch(1), vec![add("1")]).unwrap();
        let mut other = job(1, None, None);
        other.job = JobId(uuid::Uuid::from_u128(99));
        let error = start(&memory, &other).err().unwrap();
        assert!(matches!(error, SinkError::Refused(_)), "{error:?}");
        other.replace_output = true;
        let mut heir = start(&memory, &other).unwrap();
        let fenced = first.commit(Epoch(2), vec![add("2")]).unwrap_err();
        assert!(matches!(fenced, SinkError::Fenced(_)), "{fenced:?}");
        assert_eq!(files(&memory), Vec::<String>::new());
        assert_eq!(heir.committed(), None);
        heir.commit(Epoch(0), vec![add("0")]).unwrap();
        // The replaced job would write into the other one's table.
        let mut back = job(2, Some(1), Some(1));
        back.sinks.insert(SINK.to_owned(), SinkMark::default());
        let error = start(&memory, &back).err().unwrap();
        assert!(
            error.to_string().contains("has written there since"),
            "{error}"
        );
        // Nor may a run without a state.
        let mut log = open(&memory).unwrap();
        let error = prepare(&mut log, &shape("a"), "table", None).unwrap_err();
        assert!(error.to_string().contains("give its --state"), "{error}");
    }

    #[test]
    fn a_table_whose_rows_stay_is_not_replaced() {
        let memory = Memory::default();
        let mut first = start(&memory, &job(1, None, None)).unwrap();
        first.commit(Epoch(1), vec![add("1")]).unwrap();
        let mut log = open(&memory).unwrap();
        let mut rules = log.table.meta_data.clone().unwrap();
        let rule = ("delta.appendOnly".to_owned(), Some("true".to_owned()));
        rules.configuration.extend([rule]);
        assert!(log.append(&[rules.into()]).unwrap());
        let mut other = job(1, None, None);
        other.job = JobId(uuid::Uuid::from_u128(99));
        other.replace_output = true;
        let early = check_replaceable(&open(&memory).unwrap(), &other, SINK, "table");
        for error in [early.unwrap_err(), start(&memory, &other).err().unwrap()] {
            assert!(error.to_string().contains("delta.appendOnly"), "{error}");
        }
        assert_eq!(files(&memory), ["1"]);
        // Its own job goes on.
        let mut heir = start(&memory, &job(2, None, Some(1))).unwrap();
        heir.commit(Epoch(2), vec![add("2")]).unwrap();
        assert_eq!(files(&memory), ["1", "2"]);
    }

    #[test]
    fn other_columns_are_named() {
        let memory = Memory::default();
        start(&memory, &job(1, None, None)).unwrap();
        let mut log = open(&memory).unwrap();
        let job = job(2, None, None);
        let error = prepare(&mut log, &shape("b"), "table", Some((&job, SINK))).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("(a long") && text.contains("(b long"),
            "{text}"
        );
    }

    #[test]
    fn without_a_state_entries_are_appended() {
        let memory = Memory::default();
        for run in 0..2 {
            let mut log = open(&memory).unwrap();
            prepare(&mut log, &shape("a"), "table", None).unwrap();
            let mut committer = Committer::open(log, "table", None).unwrap();
            committer
                .commit(Epoch(0), vec![add(&run.to_string())])
                .unwrap();
            assert_eq!(committer.committed(), None);
        }
        assert_eq!(files(&memory), ["0", "1"]);
    }
}
