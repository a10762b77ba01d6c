//! What a run finds in its state, and where it goes on from there.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{RunError, heads};
use crate::epoch::{EpochEntry, Position, Resume};
use crate::host;
use crate::join::DimLoader;
use crate::rules::{self, Rule};
use crate::sink::{JobContext, JobId, NewestRun, RunNumber, SinkError};
use crate::source::{Partition, SharedSource};
use crate::state::retention::{History, Retention};
use crate::state::{
    Checkpoint, Claim, JobRecord, LogWriteError, LogWriter, Manifest, PartitionState, Past,
    Starter, StateError, Storage, checkpoint, claim, config, dims, peek,
};
use crate::terminal;
use crate::time::{Epoch, EventTime};

/// The state of a run.
#[derive(Clone)]
pub struct StateOptions {
    /// Where it lies.
    pub storage: Arc<dyn Storage>,
    /// Whether to begin a new job, whatever is there.
    pub is_fresh: bool,
    /// Whether what another job has left in the targets may be removed.
    pub replace_output: bool,
    /// The configuration, in its canonical form.
    pub config: BTreeMap<String, String>,
    /// The keys of it that may change from run to run.
    pub may_change: &'static [&'static str],
    /// The version of the pipeline's own rules.
    pub version: String,
    /// For how long recorded epochs are kept.
    pub history: History,
    /// Who starts.
    pub starter: Starter,
}

/// A state that was opened for this run.
pub struct Opened {
    /// Writes the log.
    pub writer: LogWriter,
    /// Deletes what is no longer needed.
    pub retention: Retention,
    /// What the sinks must know.
    pub job: JobContext,
    /// Where to go on.
    pub resume: Resume,
    /// The newest manifest.
    pub manifest: Option<Manifest>,
    /// The objects that it names.
    pub restored: Vec<Checkpoint>,
    /// The partitions that are there now.
    pub partitions: Vec<Partition>,
}

/// What the run is, apart from its state.
pub struct Setting<'a> {
    /// The pipeline's name.
    pub pipeline: &'a str,
    /// The input.
    pub source: &'a SharedSource,
    /// The dimension tables, if there are any.
    pub dimensions: Option<&'a dyn DimLoader>,
    /// Into how many shards each sink is split.
    pub shards: BTreeMap<String, u32>,
    /// Whether this job may have those of its outputs that it has not begun.
    pub check_free: &'a dyn Fn(&JobContext) -> Result<(), RunError>,
    /// The wall time.
    pub started_at: EventTime,
}

/// Claims the state for this run, and reads what it goes on from.
///
/// # Errors
/// When the state cannot be read, is another job's, is damaged, or the input or a dimension table
/// cannot be read.
pub fn open(options: &StateOptions, setting: &Setting<'_>) -> Result<Opened, RunError> {
    let storage = &options.storage;
    let partitions = look_ahead(options, setting)?;
    let claim = claim(Arc::clone(storage), &options.starter)?;
    let (run, log) = (claim.run(), claim.view());
    open_claimed(options, setting, claim, partitions).map_err(|error| {
        // What a newer run has deleted is not damage.
        match log.newest_run() {
            Ok(newest) if newest > run && error.is_refusal() => {
                RunError::from(LogWriteError::Fenced { run: newest })
            }
            _ => error,
        }
    })
}

/// The rest of it, once the log has the run's takeover.
fn open_claimed(
    options: &StateOptions,
    setting: &Setting<'_>,
    claim: Claim,
    partitions: Vec<Partition>,
) -> Result<Opened, RunError> {
    let past = if options.is_fresh {
        None
    } else {
        claim.past()?
    };
    let state = &*options.storage;
    if let Some(past) = past {
        check_job(&past.job, options, setting)?;
        let (past, restored) = load(state, past)?;
        remember(setting, &past);
        let partitions = setting.source.partitions().map_err(RunError::Source)?;
        let mut writer = claim.go_on()?;
        let retention = writer.retention(options.history, &past.job, Some(&past));
        let manifest = past.manifest.as_ref();
        let resume = resume(&past.job, manifest, past.epochs.clone(), setting.started_at);
        restore_dimensions(state, writer.run(), &resume, setting.dimensions)?;
        return Ok(Opened {
            job: job_context(options, &writer, past.job.job, Some(&past)),
            resume,
            retention,
            writer,
            manifest: past.manifest,
            restored,
            partitions,
        });
    }
    let dims = first_load(state, claim.run(), setting)?;
    let record = JobRecord {
        job: JobId(host::new_id()),
        pipeline: setting.pipeline.to_owned(),
        version: options.version.clone(),
        config: options.config.clone(),
        partitions: partitions.clone(),
        dims,
        shards: setting.shards.clone(),
        opened_at: setting.started_at,
        created_at: options.starter.at,
    };
    let mut writer = claim.begin(record.clone())?;
    let retention = writer.retention(options.history, &record, None);
    Ok(Opened {
        job: job_context(options, &writer, record.job, None),
        resume: Resume {
            dims: dims.unwrap_or(0),
            ..Resume::fresh(partitions.clone(), setting.started_at)
        },
        retention,
        writer,
        manifest: None,
        restored: Vec::new(),
        partitions,
    })
}

/// Finds out what keeps this run from starting, so that a start that is going to be refused, or has
/// no input, does not fence the run that is going on; the partitions.
fn look_ahead(options: &StateOptions, setting: &Setting<'_>) -> Result<Vec<Partition>, RunError> {
    let past = if options.is_fresh {
        None
    } else {
        peek(&*options.storage)?
    };
    if let Some(past) = &past {
        check_job(&past.job, options, setting)?;
        remember(setting, past);
        heads::check(
            setting.source,
            &past.job,
            past.manifest.as_ref(),
            &past.epochs,
        )?;
    }
    if past.is_some() || options.is_fresh {
        (setting.check_free)(&unclaimed(options, past.as_ref()))?;
    }
    let partitions = setting.source.partitions().map_err(RunError::Source)?;
    if past.is_none()
        && let Some(dimensions) = setting.dimensions
    {
        dimensions.read_ahead().map_err(RunError::Dimensions)?;
    }
    Ok(partitions)
}

/// What the sinks would be told if this run went on from `past`, or began a job.
fn unclaimed(options: &StateOptions, past: Option<&Past>) -> JobContext {
    let unborn = JobContext {
        job: JobId(host::new_id()),
        run: RunNumber(0),
        checkpoint: None,
        logged: None,
        sinks: BTreeMap::new(),
        replace_output: options.replace_output,
        log: Arc::new(NoLog),
    };
    let Some(past) = past else { return unborn };
    let manifest = past.manifest.as_ref();
    JobContext {
        job: past.job.job,
        checkpoint: past.checkpoint(),
        logged: past.last_epoch(),
        sinks: manifest.map_or_else(BTreeMap::new, |manifest| manifest.sinks.clone()),
        ..unborn
    }
}

struct NoLog;

impl NewestRun for NoLog {
    fn newest_run(&self) -> Result<RunNumber, SinkError> {
        Ok(RunNumber(0))
    }
}

fn job_context(
    options: &StateOptions,
    writer: &LogWriter,
    job: JobId,
    past: Option<&Past>,
) -> JobContext {
    let manifest = past.and_then(|past| past.manifest.as_ref());
    JobContext {
        job,
        run: writer.run(),
        checkpoint: past.and_then(Past::checkpoint),
        logged: past.and_then(Past::last_epoch),
        sinks: manifest.map_or_else(BTreeMap::new, |manifest| manifest.sinks.clone()),
        replace_output: options.replace_output,
        log: Arc::new(writer.view()),
    }
}

/// The job must be the one that the command line describes.
fn check_job(
    job: &JobRecord,
    options: &StateOptions,
    setting: &Setting<'_>,
) -> Result<(), RunError> {
    let refused = |what: &str, more: &str| {
        let place = options.storage.name();
        Err(RunError::Refused(format!(
            "{place}: {what}; go on with the job's own configuration, name another --state, or \
             start anew with --fresh{more}"
        )))
    };
    if job.pipeline != setting.pipeline {
        let (theirs, ours) = (&job.pipeline, setting.pipeline);
        return refused(&format!("the job there runs {theirs}, not {ours}"), "");
    }
    if job.version != options.version {
        let what = format!(
            "the rules of {} were version {} when the job began, and are version {} now",
            job.pipeline, job.version, options.version
        );
        return refused(&what, "");
    }
    let mut differences = config::differences(&job.config, &options.config, options.may_change);
    for (sink, shards) in &setting.shards {
        if let Some(theirs) = job.shards.get(sink)
            && theirs != shards
            && rules::on(Rule::Shards)
        {
            differences.push(format!("{sink}: {theirs} shards, now {shards}"));
        }
    }
    if differences.is_empty() {
        return Ok(());
    }
    let lines = differences.join("\n  ");
    refused("the configuration has changed", &format!(":\n  {lines}"))
}

/// What people are told, among other things, when the newest checkpoint cannot be read.
pub(crate) const OLDER_CHECKPOINT: &str = "the checkpoint before it is whole";

/// The objects of the newest checkpoint, or of the one before it when they are damaged.
fn load(storage: &dyn Storage, past: Past) -> Result<(Past, Vec<Checkpoint>), StateError> {
    let Some(manifest) = &past.manifest else {
        return Ok((past, Vec::new()));
    };
    let error = match checkpoint::load(storage, manifest) {
        Ok(restored) => return Ok((past, restored)),
        Err(error) if error.is_refusal() => error,
        Err(error) => return Err(error),
    };
    let Some(previous) = past.previous(storage)? else {
        return Err(error);
    };
    let epoch = previous
        .checkpoint()
        .map_or_else(|| "the beginning".to_owned(), |it| format!("epoch {it}"));
    let restored = match &previous.manifest {
        Some(manifest) => checkpoint::load(storage, manifest)?,
        None => Vec::new(),
    };
    terminal::message(format_args!(
        "{error}\n{OLDER_CHECKPOINT}: going on from {epoch}"
    ));
    Ok((previous, restored))
}

/// Partitions keep the numbers that they have in the state.
fn remember(setting: &Setting<'_>, past: &Past) {
    let known = known_partitions(&past.job, past.manifest.as_ref(), &past.epochs);
    setting.source.remember(&known);
}

/// The partitions that were known behind `manifest` (or at the beginning of `job`) and those found
/// in the epochs since.
pub(super) fn known_partitions(
    job: &JobRecord,
    manifest: Option<&Manifest>,
    epochs: &[EpochEntry],
) -> Vec<Partition> {
    let at_start = match manifest {
        Some(manifest) => manifest
            .partitions
            .iter()
            .map(|it| it.partition.clone())
            .collect(),
        None => job.partitions.clone(),
    };
    let found = epochs.iter().flat_map(|entry| entry.found.clone());
    at_start.into_iter().chain(found).collect()
}

/// Where a run goes on that has `epochs` to read again behind `manifest` (or the beginning of
/// `job`).
pub(super) fn resume(
    job: &JobRecord,
    manifest: Option<&Manifest>,
    epochs: Vec<EpochEntry>,
    now: EventTime,
) -> Resume {
    let start = match manifest {
        None => Resume {
            dims: job.dims.unwrap_or(0),
            ..Resume::fresh(job.partitions.clone(), now)
        },
        Some(manifest) => Resume {
            epoch: manifest.epoch.next(),
            opened_at: now,
            watermark: manifest.watermark,
            positions: manifest.partitions.iter().map(position).collect(),
            dims: manifest.dims,
            dims_next: manifest.dims_next,
            recorded: Vec::new(),
        },
    };
    start.with_recorded(epochs)
}

fn position(state: &PartitionState) -> Position {
    Position {
        partition: state.partition.clone(),
        offset: state.offset,
        max_event: state.max_event,
        floor: if rules::on(Rule::FloorsLogged) {
            state.floor
        } else {
            EventTime::MIN
        },
        standing: state.standing,
    }
}

/// Loads the dimension tables of a new job, and stores what was read; the number of the load.
fn first_load(
    storage: &dyn Storage,
    run: RunNumber,
    setting: &Setting<'_>,
) -> Result<Option<u64>, RunError> {
    let Some(dimensions) = setting.dimensions else {
        return Ok(None);
    };
    let number = dims::first_number(run);
    dimensions.first(number).map_err(RunError::Dimensions)?;
    dims::store(storage, &dimensions.stored())?;
    Ok(Some(number))
}

/// Puts the dimension tables back as they were.
pub(super) fn restore_dimensions(
    storage: &dyn Storage,
    run: RunNumber,
    resume: &Resume,
    dimensions: Option<&dyn DimLoader>,
) -> Result<(), RunError> {
    let Some(dimensions) = dimensions else {
        return Ok(());
    };
    let recorded = resume.recorded.iter().filter_map(|entry| entry.dims);
    let last = recorded.max().or(resume.dims_next).unwrap_or(resume.dims);
    let loads = dims::load_up_to(storage, last)?;
    let next = dims::first_number(run);
    let restored = dimensions.restore(&loads, next);
    restored.map_err(RunError::Dimensions)
}

/// Whether nothing is left to be done: the input was declared complete, and all of it is
/// committed.
pub fn is_drained(opened: &Opened) -> bool {
    let is_drained = opened.manifest.as_ref().is_some_and(|it| it.is_drained);
    is_drained && opened.resume.recorded.is_empty()
}

/// What goes on, for people.
pub fn describe(opened: &Opened) -> String {
    let JobContext { job, run, .. } = &opened.job;
    let RunNumber(run) = run;
    match (opened.job.checkpoint, opened.job.logged) {
        (_, None) => format!("job {job}, run {run}: from the beginning"),
        (checkpoint, Some(logged)) => {
            let after = checkpoint.map_or(Epoch(0), Epoch::next);
            let recorded = opened.resume.recorded.len();
            let from = checkpoint.map_or_else(
                || "the beginning".to_owned(),
                |epoch| format!("the checkpoint at epoch {epoch}"),
            );
            if recorded == 0 {
                format!("job {job}, run {run}: on from {from}")
            } else {
                format!(
                    "job {job}, run {run}: on from {from}; epochs {after} to {logged} are read again"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use uuid::Uuid;

    use super::*;
    use crate::join::DimError;
    use crate::join::refresh::StoredLoad;
    use crate::sink::SinkMark;
    use crate::source::{Reader, Source, SourceError};
    use crate::state::replay::Recording;
    use crate::state::testing::sample;
    use crate::state::{LogItem, MemoryStorage, Storage};

    /// An input that is there or not.
    struct Input {
        is_there: bool,
    }

    impl Source for Input {
        fn name(&self) -> String {
            "test".to_owned()
        }

        fn partitions(&self) -> Result<Vec<Partition>, SourceError> {
            let missing = SourceError::Missing("no input".to_owned());
            self.is_there.then(Vec::new).ok_or(missing)
        }

        fn reader(&self) -> Result<Box<dyn Reader>, SourceError> {
            Err(SourceError::Missing("nothing is read here".to_owned()))
        }

        fn check(&self) -> Result<String, SourceError> {
            Ok(String::new())
        }
    }

    /// Tables that are missing.
    struct NoTables;

    impl DimLoader for NoTables {
        fn read_ahead(&self) -> Result<(), DimError> {
            Err(DimError("no table".to_owned()))
        }

        fn first(&self, _number: u64) -> Result<(), DimError> {
            self.read_ahead()
        }

        fn restore(&self, _loads: &[Vec<u8>], _next: u64) -> Result<(), DimError> {
            Ok(())
        }

        fn stored(&self) -> StoredLoad {
            StoredLoad {
                number: 0,
                previous: None,
                bytes: Vec::new(),
            }
        }

        fn told(&self) -> Vec<u8> {
            Vec::new()
        }

        fn hear(&self, _told: &[u8]) -> Result<(), DimError> {
            Ok(())
        }

        fn again(&self, _now: EventTime) -> Result<Option<u64>, DimError> {
            Ok(None)
        }

        fn check(&self) -> Result<String, DimError> {
            Ok(String::new())
        }
    }

    /// A start, as it is tried beside a run that goes on.
    struct Start {
        is_fresh: bool,
        has_input: bool,
        dimensions: Option<&'static dyn DimLoader>,
        is_free: bool,
    }

    const FINE: Start = Start {
        is_fresh: false,
        has_input: true,
        dimensions: None,
        is_free: true,
    };

    impl Start {
        /// The jobs that were to be asked about their outputs, and what came of the start.
        fn open(
            &self,
            storage: &Arc<MemoryStorage>,
            nonce: u128,
        ) -> (Vec<JobContext>, Result<Opened, RunError>) {
            let options = StateOptions {
                storage: Arc::clone(storage) as Arc<dyn Storage>,
                is_fresh: self.is_fresh,
                replace_output: false,
                config: BTreeMap::new(),
                may_change: &[],
                version: "1".to_owned(),
                history: History::All,
                starter: Starter {
                    nonce: Uuid::from_u128(nonce),
                    at: EventTime(0),
                    by: "a test".to_owned(),
                    goes_on: false,
                },
            };
            let source: SharedSource = Arc::new(Input {
                is_there: self.has_input,
            });
            let asked = Mutex::new(Vec::new());
            let check_free = |job: &JobContext| {
                asked.lock().expect("no panic").push(job.clone());
                let refused = RunError::Refused("another job's".to_owned());
                self.is_free.then_some(()).ok_or(refused)
            };
            let opened = open(
                &options,
                &Setting {
                    pipeline: "test",
                    source: &source,
                    dimensions: self.dimensions,
                    shards: BTreeMap::new(),
                    check_free: &check_free,
                    started_at: EventTime(0),
                },
            );
            (asked.into_inner().expect("no panic"), opened)
        }
    }

    fn begun(storage: &Arc<MemoryStorage>) -> Opened {
        FINE.open(storage, 1).1.expect("opened")
    }

    #[test]
    fn a_start_that_cannot_succeed_leaves_the_run_that_goes_on_alone() {
        let storage = Arc::new(MemoryStorage::default());
        let mut running = begun(&storage);
        for is_fresh in [false, true] {
            let fine = Start { is_fresh, ..FINE };
            let mut starts = vec![
                Start {
                    has_input: false,
                    ..fine
                },
                Start {
                    is_free: false,
                    ..fine
                },
            ];
            if is_fresh {
                starts.push(Start {
                    dimensions: Some(&NoTables),
                    ..fine
                });
            }
            for start in starts {
                assert!(start.open(&storage, 2).1.is_err());
                running
                    .writer
                    .append(&[] as &[LogItem])
                    .expect("not fenced");
            }
        }
        FINE.open(&storage, 3).1.expect("opened");
        assert!(running.writer.append(&[] as &[LogItem]).is_err());
    }

    #[test]
    fn an_empty_state_stays_so_when_the_first_start_cannot_succeed() {
        let storage = Arc::new(MemoryStorage::default());
        let starts = [
            Start {
                has_input: false,
                ..FINE
            },
            Start {
                dimensions: Some(&NoTables),
                ..FINE
            },
        ];
        for start in starts {
            assert!(start.open(&storage, 1).1.is_err());
            assert!(storage.objects().is_empty());
        }
    }

    #[test]
    fn sinks_are_asked_as_those_of_the_job_that_goes_on() {
        let storage = Arc::new(MemoryStorage::default());
        let mut running = begun(&storage);
        let sample = sample();
        let recording = Recording::read(&*sample).expect("read").expect("a job");
        let mut manifest = recording.manifest(Epoch(9)).expect("kept").clone();
        manifest.sinks = BTreeMap::from([("windows/csv-a".to_owned(), SinkMark::default())]);
        let item = LogItem::Manifest(Box::new(manifest));
        running.writer.append(&[item]).expect("written");
        let refused = Start {
            is_free: false,
            ..FINE
        };
        let (asked, opened) = refused.open(&storage, 2);
        assert!(opened.is_err());
        let [job] = &asked[..] else {
            panic!("asked {} times", asked.len());
        };
        assert_eq!(job.job, running.job.job);
        assert_eq!(job.checkpoint, Some(Epoch(9)));
        assert!(job.mark("windows/csv-a").is_some());
    }
}
