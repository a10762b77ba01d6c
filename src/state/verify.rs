//! Whether a state is as it was written: every object is read and checked by itself, and then
//! whether they fit together.
//!
//! * The log: each writer stands above its takeover and below that of the next writer; every
//!   epoch is there once, begins where the one before has ended, and its watermark does not fall.
//! * The newest manifest: its objects are there, its offsets are those of its epoch, its ledger is
//!   balanced, and no more records were read than offsets were passed.
//! * History: chunks hold what their names say, and the same as the log; bases are whole.

use std::collections::BTreeMap;

use serde::Serialize;
use uuid::Uuid;

use super::checkpoint::{self, CHECKPOINT, Checkpoint};
use super::frame::FrameError;
use super::history::{self, BASE, BaseName, ChunkName, HISTORY, Objects};
use super::log::{LOG, LogItem, LogObject, object_name, object_number, peek};
use super::manifest::{Manifest, PartitionState};
use super::{StateError, Storage};
use crate::epoch::EpochEntry;
use crate::sink::{JobId, RunNumber};
use crate::time::Offset;

/// What was read, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// How many objects were read.
    pub objects: u64,
    /// How many bytes they have.
    pub bytes: u64,
    /// Checkpoint objects that no manifest names: left over, or of a checkpoint under way.
    pub unnamed: Vec<String>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The object at which it shows.
    pub name: String,
    /// What is wrong.
    pub problem: String,
}

/// Reads and checks everything in `storage`. Of a state that is in use, what a run deletes
/// meanwhile is no finding.
///
/// # Errors
/// When the storage fails.
pub fn verify(storage: &dyn Storage) -> Result<Verdict, StateError> {
    let mut check = Check {
        storage,
        verdict: Verdict::default(),
        log: Objects::new(),
    };
    let names = storage.list("")?;
    for name in &names {
        check.object(name)?;
    }
    check.writers();
    check.newest(&names)?;
    Ok(check.verdict)
}

struct Check<'s> {
    storage: &'s dyn Storage,
    verdict: Verdict,
    /// The objects of the log that are whole.
    log: Objects,
}

impl Check<'_> {
    fn find(&mut self, name: &str, problem: impl ToString) {
        let finding = Finding {
            name: name.to_owned(),
            problem: problem.to_string(),
        };
        if !self.verdict.findings.contains(&finding) {
            self.verdict.findings.push(finding);
        }
    }

    /// Notes what is wrong with an object; other failures are passed on.
    fn find_error(&mut self, error: StateError) -> Result<(), StateError> {
        match error {
            StateError::Damaged { name, problem, .. } => self.find(&name, problem),
            StateError::Inconsistent { name, problem, .. } => self.find(&name, problem),
            other => return Err(other),
        }
        Ok(())
    }

    /// Checks one object by itself.
    fn object(&mut self, name: &str) -> Result<(), StateError> {
        let Some(bytes) = self.storage.get(name)? else {
            return Ok(());
        };
        self.verdict.objects += 1;
        self.verdict.bytes += bytes.len() as u64;
        let checked = if name.starts_with(LOG) {
            self.log_object(name, &bytes)
        } else if name.starts_with(CHECKPOINT) {
            checkpoint_object(name, bytes)
        } else if name.starts_with(HISTORY) {
            chunk_object(name, &bytes)
        } else if name.starts_with(BASE) {
            base_object(name, &bytes)
        } else {
            Ok(())
        };
        if let Err(problem) = checked {
            self.find(name, problem);
        }
        Ok(())
    }

    fn log_object(&mut self, name: &str, bytes: &[u8]) -> Result<(), FrameError> {
        let number = object_number(name).ok_or_else(no_such_name)?;
        self.log.insert(number, LogObject::parse(bytes)?);
        Ok(())
    }

    /// The objects of each run stand between its takeover and that of the next one that wrote. A
    /// takeover without anything more may stand anywhere: its claim was repeated, or given up.
    fn writers(&mut self) {
        let mut taken: BTreeMap<(RunNumber, Uuid), u64> = BTreeMap::new();
        let mut writer: Option<(RunNumber, Uuid)> = None;
        let mut found = Vec::new();
        for (number, object) in &self.log {
            let run = (object.run, object.nonce);
            if object.is_takeover() {
                taken.insert(run, *number);
                continue;
            }
            let begun = taken.get(&run);
            if begun.is_none() {
                found.push((
                    *number,
                    format!("run {} writes without a takeover", object.run),
                ));
            }
            match writer {
                Some(other) if other != run && other.0 >= run.0 => {
                    let (earlier, later) = (object.run, other.0);
                    found.push((*number, format!("run {earlier} writes after run {later}")));
                }
                _ => writer = Some(run),
            }
        }
        for (number, problem) in found {
            self.find(&object_name(number), problem);
        }
    }

    /// What the next start would read, and the history before it.
    fn newest(&mut self, names: &[String]) -> Result<(), StateError> {
        let past = match peek(self.storage) {
            Ok(Some(past)) => past,
            Ok(None) => return Ok(()),
            Err(error) => return self.find_error(error),
        };
        let (job, mut all) = (past.job.job, Objects::new());
        let mut named = Vec::new();
        let job_at = past.numbers.first().copied().unwrap_or(0);
        all.extend(
            self.log
                .range(job_at..)
                .map(|(number, it)| (*number, it.clone())),
        );
        self.add_history(job, &mut all)?;
        if let Some(manifest) = &past.manifest {
            named.extend(manifest.objects.iter().map(|object| object.name.clone()));
            self.manifest(manifest, &all)?;
        }
        for base in history::bases(self.storage, job)? {
            if let Ok(Some(manifest)) = history::read_base(self.storage, &base.object_name()) {
                named.extend(manifest.objects.iter().map(|object| object.name.clone()));
                self.chain(&manifest)?;
            }
        }
        self.epochs(&all);
        let is_unnamed = |name: &&String| name.starts_with(CHECKPOINT) && !named.contains(name);
        self.verdict.unnamed = names.iter().filter(is_unnamed).cloned().collect();
        Ok(())
    }

    fn add_history(&mut self, job: JobId, all: &mut Objects) -> Result<(), StateError> {
        for chunk in history::chunks(self.storage, job)? {
            let name = chunk.object_name();
            // One that is damaged was found before.
            let Ok(Some(objects)) = history::read_chunk(self.storage, &name) else {
                continue;
            };
            for (number, object) in objects {
                if all.get(&number).is_some_and(|other| *other != object) {
                    let log = object_name(number);
                    self.find(&name, format!("what it holds as {log} is another object"));
                }
                all.insert(number, object);
            }
        }
        Ok(())
    }

    fn chain(&mut self, manifest: &Manifest) -> Result<(), StateError> {
        for object in &manifest.objects {
            let name = &object.name;
            let is_known = self.verdict.findings.iter().any(|it| it.name == *name);
            if !is_known && let Err(error) = checkpoint::load_one(self.storage, object) {
                self.find_error(error)?;
            }
        }
        Ok(())
    }

    fn manifest(&mut self, manifest: &Manifest, all: &Objects) -> Result<(), StateError> {
        self.chain(manifest)?;
        let is_it = |item: &LogItem| matches!(item, LogItem::Manifest(it) if **it == *manifest);
        let number = all
            .iter()
            .find(|(_, object)| object.items.iter().any(is_it));
        let name = number.map_or_else(String::new, |(number, _)| object_name(*number));
        for partition in &manifest.partitions {
            for problem in ledger_problems(partition) {
                let partition = &partition.partition.name;
                self.find(&name, format!("partition {partition}: {problem}"));
            }
        }
        let entry = entries(all).find(|(_, entry)| entry.epoch == manifest.epoch);
        let Some((_, entry)) = entry else {
            return Ok(());
        };
        if entry.watermark != manifest.watermark {
            let (its, own) = (entry.watermark, manifest.watermark);
            self.find(
                &name,
                format!("its watermark is {own}, that of its epoch {its}"),
            );
        }
        for report in &entry.partitions {
            let mut states = manifest.partitions.iter();
            let state = states.find(|state| state.partition.id == report.partition);
            let offset = state.and_then(|state| state.offset);
            if report.is_located && offset != Some(report.to) {
                let (id, ends) = (report.partition, report.to);
                let own = offset.map_or_else(|| "unknown".to_owned(), |it| it.to_string());
                self.find(
                    &name,
                    format!("partition {id}: its offset is {own}, its epoch ends at {ends}"),
                );
            }
        }
        Ok(())
    }

    /// Each epoch goes on where the one before has ended.
    fn epochs(&mut self, all: &Objects) {
        let mut found = Vec::new();
        let mut before: Option<&EpochEntry> = None;
        let mut ends: BTreeMap<_, Offset> = BTreeMap::new();
        for (number, entry) in entries(all) {
            let mut problem = |problem: String| found.push((number, problem));
            match before {
                Some(before) if entry.epoch != before.epoch.next() => {
                    let (epoch, before) = (entry.epoch, before.epoch);
                    problem(format!("epoch {epoch} follows epoch {before}"));
                    ends.clear();
                }
                Some(before) if entry.watermark < before.watermark => {
                    problem(format!("the watermark falls in epoch {}", entry.epoch));
                }
                _ => {}
            }
            for report in &entry.partitions {
                let (id, from) = (report.partition, report.from);
                if let Some(end) = ends.insert(id, report.to)
                    && end != from
                {
                    let epoch = entry.epoch;
                    problem(format!(
                        "epoch {epoch}: partition {id} begins at {from}, it was read up to {end}"
                    ));
                }
            }
            before = Some(entry);
        }
        for (number, problem) in found {
            self.find(&object_name(number), problem);
        }
    }
}

/// The epochs in these objects, with the numbers of the objects.
fn entries(objects: &Objects) -> impl Iterator<Item = (u64, &EpochEntry)> {
    objects.iter().flat_map(|(number, object)| {
        object.items.iter().filter_map(|item| match item {
            LogItem::Epoch(entry) => Some((*number, entry)),
            _ => None,
        })
    })
}

/// What is wrong with the counts of a partition.
fn ledger_problems(partition: &PartitionState) -> Vec<String> {
    let fates = &partition.fates;
    let mut problems = Vec::new();
    if !fates.is_balanced() {
        problems.push(format!("its ledger is off: {fates}"));
    }
    // Equal where offsets count records, less where they are places in a file.
    let offset = partition.offset.unwrap_or_default();
    let first = partition.first_offset.unwrap_or_default();
    let passed = offset.0.checked_sub(first.0);
    let seen = fates.read.saturating_add(partition.gaps);
    if passed.is_none_or(|passed| seen > passed) {
        problems.push(format!(
            "{} records read and {} gaps between offsets {first} and {offset}",
            fates.read, partition.gaps
        ));
    }
    problems
}

fn no_such_name() -> FrameError {
    FrameError::Content("no object of a state has such a name".to_owned())
}

fn misplaced() -> FrameError {
    FrameError::Content("it is whole, but belongs under another name".to_owned())
}

fn checkpoint_object(name: &str, bytes: Vec<u8>) -> Result<(), FrameError> {
    let checkpoint = Checkpoint::parse(bytes.into())?;
    if checkpoint.header().object_name() == name {
        Ok(())
    } else {
        Err(misplaced())
    }
}

fn chunk_object(name: &str, bytes: &[u8]) -> Result<(), FrameError> {
    let objects = history::decode_chunk(bytes)?;
    let named = ChunkName::parse(name).ok_or_else(no_such_name)?;
    if ChunkName::of(named.job, &objects) == Some(named) {
        Ok(())
    } else {
        Err(misplaced())
    }
}

fn base_object(name: &str, bytes: &[u8]) -> Result<(), FrameError> {
    let manifest = history::decode_base(bytes)?;
    let named = BaseName::parse(name).ok_or_else(no_such_name)?;
    if BaseName::of(named.job, &manifest) == named {
        Ok(())
    } else {
        Err(misplaced())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::log::tests::entry;
    use crate::state::manifest::tests::manifest;
    use crate::state::testing::sample;
    use crate::state::{MemoryStorage, Put};
    use crate::time::EventTime;

    fn problems(storage: &MemoryStorage) -> Vec<String> {
        let findings = verify(storage).unwrap().findings.into_iter();
        findings
            .map(|it| format!("{}: {}", it.name, it.problem))
            .collect()
    }

    #[test]
    fn a_state_that_was_left_alone_is_sound() {
        let storage = sample();
        let verdict = verify(&*storage).unwrap();
        assert_eq!(verdict.findings, []);
        assert!(verdict.unnamed.is_empty());
        assert_eq!(verdict.objects, storage.objects().len() as u64);
        let bytes: usize = storage.objects().values().map(Vec::len).sum();
        assert_eq!(verdict.bytes, bytes as u64);
        assert_eq!(
            verify(&MemoryStorage::default()).unwrap(),
            Verdict::default()
        );
    }

    #[test]
    fn a_change_of_any_object_is_found_and_named() {
        let names: Vec<String> = sample().objects().keys().cloned().collect();
        assert!(
            ["log/", "checkpoint/", "history/"]
                .iter()
                .all(|kind| { names.iter().any(|name| name.starts_with(kind)) })
        );
        for name in names {
            let storage = sample();
            let at = storage.objects()[&name].len() / 2;
            storage.objects().get_mut(&name).unwrap()[at] ^= 4;
            let problems = problems(&storage);
            assert!(
                problems.iter().any(|it| it.starts_with(&name)),
                "{name}: {problems:?}"
            );
        }
    }

    #[test]
    fn an_object_under_another_name_is_found() {
        let storage = sample();
        let name = storage.list(CHECKPOINT).unwrap()[0].clone();
        let bytes = storage.objects()[&name].clone();
        storage
            .put("checkpoint/00000000000000000500-1-0", &bytes)
            .unwrap();
        let verdict = verify(&*storage).unwrap();
        assert_eq!(verdict.findings.len(), 1);
        assert_eq!(verdict.unnamed.len(), 1);
    }

    #[test]
    fn a_missing_object_of_the_chain_is_found() {
        let storage = sample();
        let name = storage.list(CHECKPOINT).unwrap()[0].clone();
        storage.delete(&name).unwrap();
        let problems = problems(&storage);
        assert!(
            problems[0].contains(&name) && problems[0].contains("missing"),
            "{problems:?}"
        );
    }

    /// Writes this item behind the log's back, as the newest run, or as another one.
    fn forge(storage: &MemoryStorage, items: Vec<LogItem>, nonce: Option<u128>) {
        let number = crate::state::log::numbers(storage).unwrap().pop().unwrap();
        let mut object = LogObject::read(storage, number).unwrap().unwrap();
        object.items = items;
        object.nonce = nonce.map_or(object.nonce, Uuid::from_u128);
        let put = storage.put(&object_name(number + 1), &object.encode());
        assert_eq!(put.unwrap(), Put::Written);
    }

    #[test]
    fn what_does_not_fit_together_is_found() {
        let off = |change: &dyn Fn(&mut Manifest)| {
            let mut manifest = manifest(19);
            change(&mut manifest);
            vec![LogItem::Manifest(Box::new(manifest))]
        };
        let mut falling = entry(20);
        falling.watermark = EventTime(3);
        for (items, expected) in [
            (
                off(&|it| it.partitions[0].fates.on_time -= 1),
                "ledger is off",
            ),
            (
                off(&|it| it.partitions[0].gaps = 1),
                "between offsets 0 and 200",
            ),
            (off(&|it| it.watermark = EventTime(7)), "its watermark is"),
            (vec![LogItem::Epoch(falling)], "the watermark falls"),
            (vec![LogItem::Epoch(entry(21))], "epoch 21"),
            (vec![LogItem::Epoch(entry(19))], "epoch 19"),
        ] {
            let storage = sample();
            forge(&storage, items, None);
            let problems = problems(&storage);
            assert!(
                problems.iter().any(|it| it.contains(expected)),
                "{expected}: {problems:?}"
            );
        }
        let storage = sample();
        forge(&storage, vec![LogItem::Epoch(entry(20))], Some(77));
        let problems = problems(&storage);
        assert!(problems[0].contains("without a takeover"), "{problems:?}");
    }
}
