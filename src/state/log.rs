//! The epoch log: what was decided, by which run, in objects numbered 0, 1, 2, ...
//!
//! | module | what it holds |
//! |---|---|
//! | `claim` | how a starting run makes the log its own |
//! | `past` | what it then reads: the job, the newest manifest, the epochs after it |
//! | `writer` | how it goes on writing, until a newer run does |
//!
//! The rules, each of which the model of the protocol fails without:
//!
//! * A number is given once: objects are put if absent, one put in flight.
//! * An object carries its run's number and a nonce that was drawn at the start of the process.
//!   Where a number is taken, only the own nonce means that the own put has succeeded (an answer
//!   was lost); anything else means that a newer run goes on here.
//! * Objects with a takeover are never deleted, nor is the one with the highest number: the number
//!   at which a run is fenced stays taken.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::frame::{self, FrameError, Kind};
use super::manifest::Manifest;
use super::{StateError, Storage};
use crate::epoch::EpochEntry;
use crate::sink::{JobId, RunNumber};
use crate::source::Partition;
use crate::time::EventTime;

pub use self::claim::{Claim, Starter, claim, nonce_of_series};
pub use self::past::Past;
pub use self::writer::{LogView, LogWriteError, LogWriter};

mod claim;
mod past;
#[cfg(test)]
pub(in crate::state) mod tests;
mod writer;

/// Under which names the log lies.
pub const LOG: &str = "log/";
/// How often [`peek`] looks before it believes that the log is not whole.
const PEEKS: u32 = 3;

/// One object of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogObject {
    /// The run that wrote it.
    pub run: RunNumber,
    /// Drawn by that run at its start: run numbers alone can be given twice.
    pub nonce: Uuid,
    /// The number of the object with the newest job record, itself included; so a start need not
    /// read the whole log to find it.
    pub job_at: Option<u64>,
    /// What it says.
    pub items: Vec<LogItem>,
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogItem {
    /// A run begins here; runs with lower numbers can write nothing after it.
    Takeover(Takeover),
    /// A job begins here; everything before it is another job's.
    Job(JobRecord),
    /// An epoch's decisions.
    Epoch(EpochEntry),
    /// Every sink has committed this manifest's epoch, and its objects are all there.
    Manifest(Box<Manifest>),
}

/// Who has begun a run, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Takeover {
    /// When, by its own clock.
    pub at: EventTime,
    /// Host and process.
    pub by: String,
}

/// What is fixed for all runs of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobRecord {
    /// The job.
    pub job: JobId,
    /// The pipeline, as on the command line.
    pub pipeline: String,
    /// The version of the pipeline's own rules.
    pub version: String,
    /// The configuration in its canonical form.
    pub config: BTreeMap<String, String>,
    /// The partitions that were there when the job began.
    pub partitions: Vec<Partition>,
    /// The first load of the dimension tables, if there are any.
    pub dims: Option<u64>,
    /// Into how many shards each sink is split, by [`sink_id`](crate::sink::sink_id).
    pub shards: BTreeMap<String, u32>,
    /// The wall time at which epoch 0 was opened.
    pub opened_at: EventTime,
    /// When the job was made.
    pub created_at: EventTime,
}

impl LogObject {
    /// Whether a run begins with it.
    pub fn is_takeover(&self) -> bool {
        self.items
            .iter()
            .any(|item| matches!(item, LogItem::Takeover(_)))
    }

    /// As the bytes of an object: JSON in a frame, because people look at it.
    pub fn encode(&self) -> Vec<u8> {
        frame::encode_json(Kind::Log, self)
    }

    /// Out of the bytes of an object.
    ///
    /// # Errors
    /// When they are no whole log object.
    pub fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        frame::decode_json(Kind::Log, bytes)
    }

    /// Reads the object with this number; `None`: there is none.
    ///
    /// # Errors
    /// When the storage fails, or the object is damaged.
    pub fn read(storage: &dyn Storage, number: u64) -> Result<Option<Self>, StateError> {
        let name = object_name(number);
        let Some(bytes) = storage.get(&name)? else {
            return Ok(None);
        };
        let object = Self::parse(&bytes);
        object
            .map(Some)
            .map_err(|problem| StateError::damaged(storage, &name, problem))
    }
}

/// The name of the object with this number.
pub fn object_name(number: u64) -> String {
    format!("{LOG}{number:020}")
}

/// The number of the object of this name, if it is one of the log.
pub fn object_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(LOG)?;
    let is_number = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten()
}

/// The numbers of all objects of the log, ascending.
///
/// # Errors
/// When the storage fails.
pub fn numbers(storage: &dyn Storage) -> Result<Vec<u64>, StateError> {
    let names = storage.list(LOG)?;
    Ok(names
        .iter()
        .filter_map(|name| object_number(name))
        .collect())
}

/// What a start would go on from now, read without starting anything; `None`: there is no job.
///
/// # Errors
/// As [`Claim::past`].
pub fn peek(storage: &dyn Storage) -> Result<Option<Past>, StateError> {
    let mut attempt = 1;
    loop {
        let Some((number, top)) = highest(storage)? else {
            return Ok(None);
        };
        let read = |job_at| Past::read(storage, job_at, number + 1, numbers(storage)?);
        match top.job_at.map(read).transpose() {
            // A run that lives may have deleted something between two looks.
            Err(error) if error.is_refusal() && attempt < PEEKS => attempt += 1,
            other => return other,
        }
    }
}

/// The object with the highest number. Its run is the newest: runs write only at the top, and a
/// takeover that stands elsewhere, in a deleted place, was given up.
fn highest(storage: &dyn Storage) -> Result<Option<(u64, LogObject)>, StateError> {
    loop {
        let Some(number) = numbers(storage)?.pop() else {
            return Ok(None);
        };
        // Once others stand above it, it may be deleted.
        if let Some(object) = LogObject::read(storage, number)? {
            return Ok(Some((number, object)));
        }
    }
}
