//! What a replay goes by: everything that is recorded of a job, from where it can be run again,
//! and whether what came of it then is what was recorded.
//!
//! A replay can begin where the state of operators is known: at the job's beginning, or after a
//! manifest whose objects are there (a base, the newest one, or one that was not cleared away yet)
//! and behind which no epoch is missing. It ends with the newest manifest, because what each
//! output has given in an epoch is recorded in the manifest that holds it.
//!
//! Nothing is claimed and nothing is put, so a replay may go on beside a run. Log objects that the
//! run moves into the history meanwhile are looked for there after the log was read; where the
//! objects of the chosen manifest have gone, everything is read again.

use std::collections::{BTreeMap, BTreeSet};

use super::checkpoint::{self, CHECKPOINT};
use super::history::{self, Objects};
use super::log::{JobRecord, LogItem, LogObject, Past, peek};
use super::manifest::{Digest, EpochDigest, Manifest};
use super::{Checkpoint, StateError, Storage};
use crate::epoch::EpochEntry;
use crate::ledger::Fates;
use crate::time::{Epoch, EventTime};

/// How often everything is read before what is missing counts as missing.
const ATTEMPTS: u32 = 3;
/// As many differences are kept; all are counted.
const KEPT_DIFFERENCES: usize = 1000;
/// How the sinks are called that take windows only when nothing can follow.
const FILE_KINDS: [&str; 2] = ["csv-", "parquet-"];

/// What is recorded of a job.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The job.
    pub job: JobRecord,
    /// Behind which manifests a replay can begin, oldest first; `None`: at the job's beginning.
    starts: Vec<Option<Manifest>>,
    epochs: BTreeMap<Epoch, EpochEntry>,
    manifests: BTreeMap<Epoch, Manifest>,
}

/// Where a replay begins.
#[derive(Debug)]
pub struct Begun {
    /// What is recorded.
    pub recording: Recording,
    /// The manifest behind which it begins; `None`: at the job's beginning.
    pub after: Option<Manifest>,
    /// The state of operators there.
    pub restored: Vec<Checkpoint>,
    /// Why it does not begin earlier, where something is damaged.
    pub passed_over: Vec<String>,
}

/// A stretch of recorded epochs whose outputs went to the same kinds of sinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The last epoch, which has a manifest.
    pub last: Epoch,
    /// The outputs that went somewhere, and whether only with what nothing can follow.
    pub outputs: BTreeMap<String, bool>,
}

impl Recording {
    /// Reads what is recorded of the newest job; `None`: there is no job.
    ///
    /// # Errors
    /// When the storage fails, or an object that must be read is damaged.
    pub fn read(storage: &dyn Storage) -> Result<Option<Self>, StateError> {
        let Some(past) = peek(storage)? else {
            return Ok(None);
        };
        let Past { job, numbers, .. } = past;
        let mut objects = Objects::new();
        for number in numbers {
            if let Some(object) = LogObject::read(storage, number)? {
                objects.insert(number, object);
            }
        }
        history::add_after(storage, job.job, None, &mut objects)?;
        let (epochs, manifests) = sorted(objects);
        let mut starts = manifests.clone();
        for name in history::bases(storage, job.job)? {
            if let Some(manifest) = history::read_base(storage, &name.object_name())? {
                starts.insert(manifest.epoch, manifest);
            }
        }
        let there: BTreeSet<String> = storage.list(CHECKPOINT)?.into_iter().collect();
        starts.retain(|_, it| it.objects.iter().all(|object| there.contains(&object.name)));
        let mut recording = Self {
            job,
            starts: Vec::new(),
            epochs,
            manifests,
        };
        recording.starts = recording.usable(starts);
        Ok(Some(recording))
    }

    /// The starts behind which every epoch up to the last one is recorded.
    fn usable(&self, starts: BTreeMap<Epoch, Manifest>) -> Vec<Option<Manifest>> {
        let Some(last) = self.last() else {
            return Vec::new();
        };
        let recorded = self.epochs.range(..=last).rev().map(|(epoch, _)| *epoch);
        let whole = recorded.zip((0..=last.0).rev());
        let first = whole
            .take_while(|(epoch, due)| epoch.0 == *due)
            .last()
            .map(|(epoch, _)| epoch);
        let Some(first) = first else {
            return Vec::new();
        };
        let beginning = (first == Epoch(0)).then_some(None);
        let others = starts.into_values();
        let others = others.filter(|it| it.epoch.next() >= first && it.epoch < last);
        beginning.into_iter().chain(others.map(Some)).collect()
    }

    /// The last epoch of which it is recorded what came of it.
    pub fn last(&self) -> Option<Epoch> {
        self.manifests.keys().next_back().copied()
    }

    /// Epochs that are recorded, but not what came of them: after the newest checkpoint.
    pub fn unaccounted(&self) -> usize {
        let last = self.last();
        let after = self.epochs.keys().rev();
        after.take_while(|epoch| Some(**epoch) > last).count()
    }

    /// The manifest of `epoch`.
    pub fn manifest(&self, epoch: Epoch) -> Option<&Manifest> {
        self.manifests.get(&epoch)
    }

    /// The recorded epochs behind `after`, up to and with `last`.
    pub fn epochs(&self, after: Option<Epoch>, last: Epoch) -> Vec<EpochEntry> {
        let first = after.map_or(Epoch(0), Epoch::next);
        self.epochs
            .range(first..=last)
            .map(|(_, it)| it.clone())
            .collect()
    }

    /// When the epoch behind `after` was opened.
    pub fn opened_at(&self, after: Option<Epoch>) -> EventTime {
        let first = after.map_or(Epoch(0), Epoch::next);
        self.epochs
            .get(&first)
            .map_or(self.job.opened_at, |it| it.opened_at)
    }

    /// What is run at once, from behind `after` to the manifest that holds `until` (without it, to
    /// the newest one): as long as the sinks are of the same kinds, and about `most` epochs.
    pub fn slices(&self, after: Option<Epoch>, until: Option<Epoch>, most: u64) -> Vec<Slice> {
        let first = after.map_or(Epoch(0), Epoch::next);
        let mut slices: Vec<Slice> = Vec::new();
        let mut begins = first;
        for (epoch, manifest) in self.manifests.range(first..) {
            if let (Some(slice), Some(until)) = (slices.last(), until)
                && slice.last >= until
            {
                break;
            }
            let outputs = outputs_of(manifest);
            match slices.last_mut() {
                Some(slice) if slice.outputs == outputs && epoch.0 - begins.0 < most => {
                    slice.last = *epoch;
                }
                _ => {
                    begins = slices.last().map_or(first, |slice| slice.last.next());
                    let last = *epoch;
                    slices.push(Slice { last, outputs });
                }
            }
        }
        slices
    }

    /// The starts to be tried, the best one first: the newest before `from`, or the oldest.
    fn candidates(&self, from: Option<Epoch>) -> Vec<Option<Manifest>> {
        let after = |start: &Option<Manifest>| start.as_ref().map(|it| it.epoch.next());
        let best = from.map_or(0, |from| {
            let is_before = |it: &Option<Manifest>| after(it).unwrap_or(Epoch(0)) <= from;
            self.starts.partition_point(is_before).saturating_sub(1)
        });
        self.starts.get(best..).unwrap_or_default().to_vec()
    }
}

/// The epochs and the manifests in these objects. A run that had to go on from an older checkpoint
/// comes by a manifest a second time: the later one counts.
fn sorted(objects: Objects) -> (BTreeMap<Epoch, EpochEntry>, BTreeMap<Epoch, Manifest>) {
    let (mut epochs, mut manifests) = (BTreeMap::new(), BTreeMap::new());
    for item in objects.into_values().flat_map(|object| object.items) {
        match item {
            LogItem::Epoch(entry) => {
                epochs.insert(entry.epoch, entry);
            }
            LogItem::Manifest(manifest) => {
                manifests.insert(manifest.epoch, *manifest);
            }
            LogItem::Takeover(_) | LogItem::Job(_) => {}
        }
    }
    (epochs, manifests)
}

/// The outputs whose rows went into the digests of `manifest`, and whether only the final ones.
fn outputs_of(manifest: &Manifest) -> BTreeMap<String, bool> {
    let mut outputs = BTreeMap::new();
    for (output, identity) in manifest.sinks.keys().filter_map(|id| id.split_once('/')) {
        let takes_finals = FILE_KINDS.iter().any(|kind| identity.starts_with(kind));
        let finals_only = outputs.entry(output.to_owned()).or_insert(true);
        *finals_only &= takes_finals;
    }
    outputs
}

/// Reads what is recorded, and the state of operators from which it can be run again: from the
/// newest start before the epoch `from`, or from the oldest one. `None`: there is no job.
///
/// # Errors
/// When the storage fails, what must be read is damaged, or there is nothing to begin with.
pub fn begin(storage: &dyn Storage, from: Option<Epoch>) -> Result<Option<Begun>, StateError> {
    for attempt in 1.. {
        let Some(recording) = Recording::read(storage)? else {
            return Ok(None);
        };
        let candidates = recording.candidates(from);
        check_start(storage, &recording, &candidates, from)?;
        let mut passed_over = Vec::new();
        for after in candidates {
            let restored = match &after {
                Some(manifest) => checkpoint::load(storage, manifest),
                None => Ok(Vec::new()),
            };
            match restored {
                Ok(restored) => {
                    return Ok(Some(Begun {
                        recording,
                        after,
                        restored,
                        passed_over,
                    }));
                }
                Err(error) if !error.is_refusal() => return Err(error),
                // A run that goes on may have deleted it meanwhile: then there is a newer one.
                Err(_) if attempt < ATTEMPTS => break,
                Err(error) => passed_over.push(error.to_string()),
            }
        }
        if attempt >= ATTEMPTS {
            let what =
                "no earlier state of operators can be read, so that nothing can be run again";
            let reasons = passed_over.join("; ");
            return Err(refused(storage, &format!("{what}: {reasons}")));
        }
    }
    Ok(None)
}

fn check_start(
    storage: &dyn Storage,
    recording: &Recording,
    candidates: &[Option<Manifest>],
    from: Option<Epoch>,
) -> Result<(), StateError> {
    let Some(last) = recording.last() else {
        let what = "no checkpoint is complete yet, and with it there is nothing to compare with; \
                    come back when `highwater state show` has one";
        return Err(refused(storage, what));
    };
    if let Some(from) = from.filter(|from| *from > last) {
        let what = format!(
            "epoch {from} is none of those of which it is recorded what came of them: the last is {last}"
        );
        return Err(refused(storage, &what));
    }
    let Some(start) = candidates.first() else {
        let what = "nothing before the newest checkpoint is kept, so that nothing can be run again; \
                    start the job with --history 7d (or all) to keep it from then on";
        return Err(refused(storage, what));
    };
    let first = start.as_ref().map_or(Epoch(0), |it| it.epoch.next());
    if let Some(from) = from.filter(|from| *from < first) {
        let what =
            format!("epoch {from} is no longer kept: the first that can be run again is {first}");
        return Err(refused(storage, &what));
    }
    Ok(())
}

fn refused(storage: &dyn Storage, what: &str) -> StateError {
    StateError::Refused(format!("{}: {what}", storage.name()))
}

/// How many rows, and which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RowsDigest {
    /// How many.
    pub rows: u64,
    /// The order-free digest.
    pub digest: Digest,
}

/// Something that came out otherwise than recorded.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Difference {
    /// What an output has given in an epoch.
    Output {
        /// The epoch.
        epoch: Epoch,
        /// The output.
        output: String,
        /// What is recorded.
        recorded: RowsDigest,
        /// What the replay gave.
        replayed: RowsDigest,
    },
    /// What became of the records of a partition, from the job's beginning to a checkpoint.
    Ledger {
        /// The checkpoint at which it shows first.
        epoch: Epoch,
        /// The partition.
        partition: String,
        /// What is recorded.
        recorded: Box<Fates>,
        /// What the replay gave.
        replayed: Box<Fates>,
    },
    /// The input is not what was read then, so that the replay has ended there.
    Input {
        /// The partition.
        partition: String,
        /// What is different.
        how: String,
    },
}

/// What was compared of an output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Compared {
    /// Epochs in which it gave rows.
    pub epochs: u64,
    /// The recorded rows.
    pub rows: u64,
    /// Epochs in which something else came out.
    pub differences: u64,
}

/// Compares what a replay gives, checkpoint by checkpoint, with what is recorded.
#[derive(Debug, Default)]
pub struct Comparison {
    recorded: BTreeMap<Epoch, Manifest>,
    next: Epoch,
    /// How many epochs were compared.
    pub epochs: u64,
    /// How many were run of which it is not recorded any more what came of them.
    pub unrecorded: u64,
    /// What was compared of each output.
    pub outputs: BTreeMap<String, Compared>,
    /// What differs, up to a thousand.
    pub differences: Vec<Difference>,
    /// How much differs.
    pub count: u64,
    off: BTreeSet<String>,
}

impl Comparison {
    /// With what `recording` has of the epochs behind `after`.
    pub fn new(recording: &Recording, after: Option<Epoch>) -> Self {
        let next = after.map_or(Epoch(0), Epoch::next);
        Self {
            recorded: recording.manifests.clone(),
            next,
            epochs: 0,
            unrecorded: 0,
            outputs: BTreeMap::new(),
            differences: Vec::new(),
            count: 0,
            off: BTreeSet::new(),
        }
    }

    /// The first epoch that was not compared yet.
    pub const fn next(&self) -> Epoch {
        self.next
    }

    /// A checkpoint of the replay is complete. Each one that is recorded has a manifest: where it is
    /// missing, nobody knows any more what came of its epochs.
    pub fn take(&mut self, replayed: &Manifest) {
        let epochs = (replayed.epoch.0 + 1).saturating_sub(self.next.0);
        self.next = replayed.epoch.next();
        let Some(recorded) = self.recorded.remove(&replayed.epoch) else {
            self.unrecorded += epochs;
            return;
        };
        self.epochs += epochs;
        for output in outputs_of(&recorded).into_keys() {
            self.outputs.entry(output).or_default();
        }
        self.outputs(&recorded, replayed);
        self.ledger(&recorded, replayed);
    }

    fn outputs(&mut self, recorded: &Manifest, replayed: &Manifest) {
        let digests = |of: &Manifest| of.digests.iter().map(entry).collect::<BTreeMap<_, _>>();
        let (recorded, replayed) = (digests(recorded), digests(replayed));
        let keys: BTreeSet<_> = recorded.keys().chain(replayed.keys()).collect();
        for key in keys {
            let at = |of: &BTreeMap<_, RowsDigest>| of.get(key).copied().unwrap_or_default();
            let (recorded, replayed) = (at(&recorded), at(&replayed));
            let (epoch, output) = key.clone();
            let compared = self.outputs.entry(output.clone()).or_default();
            compared.epochs += 1;
            compared.rows += recorded.rows;
            if recorded != replayed {
                compared.differences += 1;
                self.differ(Difference::Output {
                    epoch,
                    output,
                    recorded,
                    replayed,
                });
            }
        }
    }

    /// Once a partition is off it stays so: that is said once.
    fn ledger(&mut self, recorded: &Manifest, replayed: &Manifest) {
        for state in &recorded.partitions {
            let id = state.partition.id;
            let mut all = replayed.partitions.iter();
            let fates = all.find(|it| it.partition.id == id).map(|it| it.fates);
            let fates = fates.unwrap_or_default();
            let name = &state.partition.name;
            if fates != state.fates && self.off.insert(name.clone()) {
                self.differ(Difference::Ledger {
                    epoch: recorded.epoch,
                    partition: name.clone(),
                    recorded: Box::new(state.fates),
                    replayed: Box::new(fates),
                });
            }
        }
    }

    /// Whether everything up to the epoch `last` was run, and something of it compared.
    pub fn covers(&self, last: Epoch) -> bool {
        self.next > last && self.epochs > 0
    }

    /// Notes that something differs.
    pub fn differ(&mut self, difference: Difference) {
        self.count += 1;
        if self.differences.len() < KEPT_DIFFERENCES {
            self.differences.push(difference);
        }
    }
}

fn entry(digest: &EpochDigest) -> ((Epoch, String), RowsDigest) {
    let EpochDigest {
        epoch,
        output,
        rows,
        digest,
    } = digest;
    let (rows, digest) = (*rows, *digest);
    ((*epoch, output.clone()), RowsDigest { rows, digest })
}

#[cfg(test)]
mod tests;
