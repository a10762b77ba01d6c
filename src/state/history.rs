//! History: epochs that no start needs any more, kept for a replay.
//!
//! Log objects whose epochs a manifest holds are copied into chunks,
//! `history/JOB/FIRST-LAST-UNTIL` (epochs, and the wall time of the last one in milliseconds), and
//! then deleted from the log: so the log stays as short as the time between two checkpoints, and a
//! start lists and reads no more than that. A replay begins at the job's beginning, or at a base,
//! `base/JOB/EPOCH-AT`: a manifest whose checkpoint objects are kept.
//!
//! A chunk may hold objects that are also in another chunk or still in the log (a run ended between
//! copying and deleting): they are known by their numbers in the log.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::frame::{self, FrameError, Kind};
use super::log::{LogItem, LogObject};
use super::manifest::Manifest;
use super::{StateError, Storage};
use crate::sink::JobId;
use crate::time::{Epoch, EventTime};

/// Under which names chunks lie.
pub const HISTORY: &str = "history/";
/// Under which names bases lie.
pub const BASE: &str = "base/";

/// Log objects with their numbers.
pub type Objects = BTreeMap<u64, LogObject>;

/// What the name of a chunk says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkName {
    /// The job.
    pub job: JobId,
    /// The first epoch.
    pub first: Epoch,
    /// The last one.
    pub last: Epoch,
    /// When the last one was opened.
    pub until: EventTime,
}

/// What the name of a base says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseName {
    /// The job.
    pub job: JobId,
    /// The epoch of the manifest.
    pub epoch: Epoch,
    /// When the next epoch was opened.
    pub at: EventTime,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Numbered {
    number: u64,
    object: LogObject,
}

impl ChunkName {
    /// Of a chunk with these objects; `None` when there is no epoch in them.
    pub fn of(job: JobId, objects: &Objects) -> Option<Self> {
        let entries = objects.values().flat_map(|object| &object.items);
        let mut entries = entries.filter_map(|item| match item {
            LogItem::Epoch(entry) => Some((entry.epoch, entry.opened_at)),
            _ => None,
        });
        let (first, at) = entries.next()?;
        let (last, until) = entries.next_back().unwrap_or((first, at));
        Some(Self {
            job,
            first,
            last,
            until,
        })
    }

    /// The name.
    pub fn object_name(&self) -> String {
        let (job, first, last) = (self.job, self.first.0, self.last.0);
        format!(
            "{HISTORY}{job}/{first:020}-{last:020}-{}",
            self.until.0.max(0)
        )
    }

    /// What `name` says, if it is that of a chunk.
    pub fn parse(name: &str) -> Option<Self> {
        let (job, [first, last, until]) = parts(name.strip_prefix(HISTORY)?)?;
        Some(Self {
            job,
            first: Epoch(first),
            last: Epoch(last),
            until: EventTime(until as i64),
        })
    }
}

impl BaseName {
    /// Of this manifest.
    pub fn of(job: JobId, manifest: &Manifest) -> Self {
        Self {
            job,
            epoch: manifest.epoch,
            at: manifest.opened_at,
        }
    }

    /// The name.
    pub fn object_name(&self) -> String {
        format!(
            "{BASE}{}/{:020}-{}",
            self.job,
            self.epoch.0,
            self.at.0.max(0)
        )
    }

    /// What `name` says, if it is that of a base.
    pub fn parse(name: &str) -> Option<Self> {
        let (job, [epoch, at]) = parts(name.strip_prefix(BASE)?)?;
        Some(Self {
            job,
            epoch: Epoch(epoch),
            at: EventTime(at as i64),
        })
    }
}

/// `JOB/N-N-...` as a job and `N` numbers.
fn parts<const N: usize>(text: &str) -> Option<(JobId, [u64; N])> {
    let (job, rest) = text.split_once('/')?;
    let numbers: Option<Vec<u64>> = rest.split('-').map(|part| part.parse().ok()).collect();
    Some((JobId(Uuid::try_parse(job).ok()?), numbers?.try_into().ok()?))
}

/// A chunk as the bytes of an object.
pub fn encode_chunk(objects: &Objects) -> Vec<u8> {
    let numbered = |(number, object): (&u64, &LogObject)| Numbered {
        number: *number,
        object: object.clone(),
    };
    frame::encode_json(
        Kind::History,
        &objects.iter().map(numbered).collect::<Vec<_>>(),
    )
}

/// A base as the bytes of an object.
pub fn encode_base(manifest: &Manifest) -> Vec<u8> {
    frame::encode_json(Kind::Base, manifest)
}

/// The objects of a chunk out of its bytes.
///
/// # Errors
/// When they are no whole chunk.
pub fn decode_chunk(bytes: &[u8]) -> Result<Objects, FrameError> {
    let chunk: Vec<Numbered> = frame::decode_json(Kind::History, bytes)?;
    let objects = chunk.into_iter().map(|it| (it.number, it.object));
    Ok(objects.collect())
}

/// The manifest of a base out of its bytes.
///
/// # Errors
/// When they are no whole base.
pub fn decode_base(bytes: &[u8]) -> Result<Manifest, FrameError> {
    frame::decode_json(Kind::Base, bytes)
}

fn read<T>(
    storage: &dyn Storage,
    name: &str,
    decode: fn(&[u8]) -> Result<T, FrameError>,
) -> Result<Option<T>, StateError> {
    let Some(bytes) = storage.get(name)? else {
        return Ok(None);
    };
    let decoded = decode(&bytes).map(Some);
    decoded.map_err(|problem| StateError::damaged(storage, name, problem))
}

/// The objects of the chunk of this name; `None`: it is gone.
///
/// # Errors
/// When the storage fails, or it is damaged.
pub fn read_chunk(storage: &dyn Storage, name: &str) -> Result<Option<Objects>, StateError> {
    read(storage, name, decode_chunk)
}

/// The manifest of the base of this name; `None`: it is gone.
///
/// # Errors
/// When the storage fails, or it is damaged.
pub fn read_base(storage: &dyn Storage, name: &str) -> Result<Option<Manifest>, StateError> {
    read(storage, name, decode_base)
}

/// The chunks of `job`, in the order of their first epochs.
///
/// # Errors
/// When the storage fails.
pub fn chunks(storage: &dyn Storage, job: JobId) -> Result<Vec<ChunkName>, StateError> {
    let names = storage.list(&format!("{HISTORY}{job}/"))?;
    Ok(names.iter().filter_map(|it| ChunkName::parse(it)).collect())
}

/// The bases of `job`, in the order of their epochs.
///
/// # Errors
/// When the storage fails.
pub fn bases(storage: &dyn Storage, job: JobId) -> Result<Vec<BaseName>, StateError> {
    let names = storage.list(&format!("{BASE}{job}/"))?;
    Ok(names.iter().filter_map(|it| BaseName::parse(it)).collect())
}

/// Adds what the chunks of `job` have of the epochs after `epoch` (`None`: of all).
///
/// # Errors
/// When the storage fails, or a chunk is damaged.
pub fn add_after(
    storage: &dyn Storage,
    job: JobId,
    epoch: Option<Epoch>,
    objects: &mut Objects,
) -> Result<(), StateError> {
    for chunk in chunks(storage, job)? {
        if Some(chunk.last) > epoch
            && let Some(more) = read_chunk(storage, &chunk.object_name())?
        {
            objects.extend(more);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::manifest::tests::manifest;

    #[test]
    fn names_say_what_is_in_it() {
        let job = JobId(Uuid::from_u128(0xabc));
        let chunk = ChunkName {
            job,
            first: Epoch(3),
            last: Epoch(40),
            until: EventTime(1_700_000_000_000),
        };
        assert_eq!(ChunkName::parse(&chunk.object_name()), Some(chunk));
        let base = BaseName::of(job, &manifest(7));
        assert_eq!(BaseName::parse(&base.object_name()), Some(base));
        assert_eq!(ChunkName::parse(&base.object_name()), None);
        for wrong in [
            "history/x/1-2-3",
            "history/1-2-3",
            "history/",
            "history/a/1-2",
        ] {
            assert_eq!(ChunkName::parse(wrong), None, "{wrong}");
        }
    }
}
