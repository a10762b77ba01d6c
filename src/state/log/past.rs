//! What a starting run reads of the runs before it.

use std::collections::BTreeMap;

use super::{JobRecord, LogItem, LogObject, object_name};
use crate::epoch::EpochEntry;
use crate::state::checkpoint::load_one;
use crate::state::history::Objects;
use crate::state::manifest::Manifest;
use crate::state::{StateError, Storage, history};
use crate::time::Epoch;

/// What the runs before have left of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// The job.
    pub job: JobRecord,
    /// The newest manifest; `None`: nothing was checkpointed yet.
    pub manifest: Option<Manifest>,
    /// The epochs after the manifest (without one: from epoch 0), in order and without holes.
    pub epochs: Vec<EpochEntry>,
    /// Where the job's objects in the log lie: from that of the job record, below the takeover.
    pub(in crate::state) numbers: Vec<u64>,
}

impl Past {
    /// The last epoch in the log.
    pub fn last_epoch(&self) -> Option<Epoch> {
        let logged = self.epochs.last().map(|entry| entry.epoch);
        logged.or(self.checkpoint())
    }

    /// The epoch of the manifest.
    pub fn checkpoint(&self) -> Option<Epoch> {
        self.manifest.as_ref().map(|manifest| manifest.epoch)
    }

    /// Reads downwards from `below`, no further than what is to be replayed; `numbers` are those of
    /// the whole log, and `job_at` is that of the newest job record.
    pub(super) fn read(
        storage: &dyn Storage,
        job_at: u64,
        below: u64,
        mut numbers: Vec<u64>,
    ) -> Result<Self, StateError> {
        numbers.retain(|number| (job_at..below).contains(number));
        let mut objects = BTreeMap::new();
        let mut seen = Seen::default();
        for number in numbers.iter().rev() {
            // One that was listed and is gone was deleted by a run that has ended since.
            let Some(object) = LogObject::read(storage, *number)? else {
                continue;
            };
            seen.take(&object);
            objects.insert(*number, object);
            if seen.is_enough() {
                break;
            }
        }
        let job = read_job(storage, job_at, objects.get(&job_at))?;
        let after = seen.manifest.as_ref().map(|manifest| manifest.epoch);
        if !seen.is_enough() {
            // A run that had to go on from an older checkpoint may name one whose epochs are in the
            // history already.
            history::add_after(storage, job.job, after, &mut objects)?;
        }
        let manifest = seen.manifest;
        let epochs = follow(storage, &objects, after)?;
        Ok(Self {
            job,
            manifest,
            epochs,
            numbers,
        })
    }

    /// What can be gone on from when the objects of this manifest are damaged or missing: an older
    /// manifest of which everything is there (or the job's beginning), and all epochs after it.
    /// `None`: nothing.
    ///
    /// # Errors
    /// When the storage fails, or what must be read is damaged.
    pub fn previous(&self, storage: &dyn Storage) -> Result<Option<Self>, StateError> {
        let Some(newest) = self.checkpoint() else {
            return Ok(None);
        };
        let mut objects = BTreeMap::new();
        for number in &self.numbers {
            if let Some(object) = LogObject::read(storage, *number)? {
                objects.insert(*number, object);
            }
        }
        let (mut chunks, mut tried) = (history::chunks(storage, self.job.job)?, newest);
        loop {
            for manifest in manifests_before(tried, &objects) {
                tried = manifest.epoch;
                if is_whole(storage, &manifest)?
                    && let Some(past) = self.from(storage, Some(manifest), &objects)
                {
                    return Ok(Some(past));
                }
            }
            let Some(chunk) = chunks.pop() else {
                return Ok(self.from(storage, None, &objects));
            };
            let more = history::read_chunk(storage, &chunk.object_name())?;
            objects.extend(more.into_iter().flatten());
        }
    }

    /// This past from another manifest on; `None`: not all epochs after it are there, which is no
    /// damage when they were deleted.
    fn from(
        &self,
        storage: &dyn Storage,
        manifest: Option<Manifest>,
        objects: &Objects,
    ) -> Option<Self> {
        let after = manifest.as_ref().map(|manifest| manifest.epoch);
        let epochs = follow(storage, objects, after).ok()?;
        let last = epochs.last().map(|entry| entry.epoch);
        (last == self.last_epoch()).then(|| Self {
            job: self.job.clone(),
            manifest,
            epochs,
            numbers: self.numbers.clone(),
        })
    }
}

/// The manifests of earlier epochs, the latest first.
fn manifests_before(epoch: Epoch, objects: &Objects) -> Vec<Manifest> {
    let items = objects.values().flat_map(|object| &object.items);
    let found = items.filter_map(|item| match item {
        LogItem::Manifest(manifest) if manifest.epoch < epoch => {
            Some((manifest.epoch, (**manifest).clone()))
        }
        _ => None,
    });
    let found: BTreeMap<_, _> = found.collect();
    found.into_values().rev().collect()
}

/// Whether all objects of a manifest are there as they should be.
fn is_whole(storage: &dyn Storage, manifest: &Manifest) -> Result<bool, StateError> {
    for object in &manifest.objects {
        match load_one(storage, object) {
            Ok(_) => {}
            Err(error) if error.is_refusal() => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// What was read on the way down.
#[derive(Default)]
struct Seen {
    manifest: Option<Manifest>,
    lowest: Option<Epoch>,
}

impl Seen {
    fn take(&mut self, object: &LogObject) {
        for item in object.items.iter().rev() {
            match item {
                LogItem::Manifest(manifest) if self.manifest.is_none() => {
                    self.manifest = Some((**manifest).clone());
                }
                LogItem::Epoch(entry) => {
                    self.lowest = Some(self.lowest.map_or(entry.epoch, |it| it.min(entry.epoch)));
                }
                LogItem::Manifest(_) | LogItem::Takeover(_) | LogItem::Job(_) => {}
            }
        }
    }

    /// Whether nothing further down belongs to what is to be replayed: epochs stand in order, but
    /// a manifest may stand after epochs that it does not hold.
    fn is_enough(&self) -> bool {
        let due = self.manifest.as_ref().map(|manifest| manifest.epoch.next());
        due.is_some_and(|due| self.lowest.is_some_and(|lowest| lowest <= due))
    }
}

fn read_job(
    storage: &dyn Storage,
    job_at: u64,
    object: Option<&LogObject>,
) -> Result<JobRecord, StateError> {
    let read = match object {
        Some(object) => Some(object.clone()),
        None => LogObject::read(storage, job_at)?,
    };
    let mut items = read.into_iter().flat_map(|object| object.items);
    let job = items.find_map(|item| match item {
        LogItem::Job(job) => Some(job),
        _ => None,
    });
    job.ok_or_else(|| {
        let what = "the record of the job should stand there, and does not";
        StateError::inconsistent(storage, &object_name(job_at), what)
    })
}

/// The epochs after `after` in these objects, each in its place.
///
/// # Errors
/// When one is missing or there twice.
pub(in crate::state) fn follow(
    storage: &dyn Storage,
    objects: &Objects,
    after: Option<Epoch>,
) -> Result<Vec<EpochEntry>, StateError> {
    let mut epochs = Vec::new();
    let mut due = after.map_or(Epoch(0), Epoch::next);
    let first = due;
    for (number, object) in objects {
        for item in &object.items {
            let LogItem::Epoch(entry) = item else {
                continue;
            };
            if entry.epoch < first {
                continue;
            }
            if entry.epoch != due {
                let what = if entry.epoch < due {
                    format!("epoch {} is there twice", entry.epoch)
                } else {
                    format!("epoch {} stands where epoch {due} should", entry.epoch)
                };
                return Err(StateError::inconsistent(
                    storage,
                    &object_name(*number),
                    &what,
                ));
            }
            due = due.next();
            epochs.push(entry.clone());
        }
    }
    Ok(epochs)
}
