//! Sources: where the records of a pipeline come from.
//!
//! A [`Source`] knows its partitions and starts readers: threads that push batches of undecoded
//! records into bounded [`Feed`]s. A worker takes them out of the matching [`Inbox`]es. Reading
//! never happens on a worker's thread, so a slow disk or broker never stalls the dataflow.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::time::{EventTime, Offset, PartitionId};

pub use self::feed::{Feed, FeedGauge, FeedState, Inbox, feed};
pub use self::format::{Format, Pack, SharedFormat, Unpack, Waker};

pub mod file;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod murmur2;
pub mod uri;

mod arrivals;
mod feed;
mod format;
pub mod generate;

/// One record as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawRecord {
    /// Its place in the partition.
    pub offset: Offset,
    /// Start and end of the payload in [`RawBatch::bytes`]; `None` for a message without one.
    pub value: Option<(u32, u32)>,
    /// Start and end of the message key in [`RawBatch::bytes`], when there is one.
    pub key: Option<(u32, u32)>,
    /// The broker's append time, on topics that have it (`LogAppendTime`); else `None`.
    pub append_time: Option<EventTime>,
}

/// Records of one partition, in offset order, with their bytes. There may be none, when only the
/// position moved on (empty lines, offsets that were never delivered).
#[derive(Clone, Debug, Default)]
pub struct RawBatch {
    /// Payloads (and keys), at the ranges that `records` names.
    pub bytes: Vec<u8>,
    /// The records.
    pub records: Vec<RawRecord>,
    /// The position after the last record: where a restart would read on.
    pub next_offset: Offset,
    /// Offsets in the range of this batch that were never delivered (transaction markers,
    /// compaction); 0 for files.
    pub gaps: u64,
    /// Blank lines in between: read and skipped. No topic has any.
    pub blank: u64,
    /// A record that was too long to be held whole: its bytes are only its beginning.
    pub truncated: Vec<Offset>,
}

impl RawBatch {
    /// Cuts the batch at offset `end`; what lies at or behind it is returned, if there is anything.
    /// Before `end` lie at most `gaps` of the gaps, and at most `read` records and blank lines.
    pub fn split_off(&mut self, end: Offset, gaps: u64, read: u64) -> Option<Self> {
        if self.next_offset <= end {
            return None;
        }
        let first = self.records.partition_point(|record| record.offset < end);
        let gaps_before = self.gaps.min(gaps);
        let blank_before = self.blank.min(read.saturating_sub(first as u64));
        let rest = Self {
            bytes: self.bytes.clone(),
            records: self.records.split_off(first),
            next_offset: self.next_offset,
            gaps: self.gaps - gaps_before,
            blank: self.blank - blank_before,
            truncated: self.truncated.clone(),
        };
        self.next_offset = end;
        self.gaps = gaps_before;
        self.blank = blank_before;
        Some(rest)
    }

    /// The payload of `record`.
    pub fn value(&self, record: &RawRecord) -> Option<&[u8]> {
        record
            .value
            .map(|(start, end)| &self.bytes[start as usize..end as usize])
    }

    /// The message key of `record`.
    pub fn key(&self, record: &RawRecord) -> Option<&[u8]> {
        record
            .key
            .map(|(start, end)| &self.bytes[start as usize..end as usize])
    }
}

/// A partition that a source has.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Partition {
    /// Its number: that of the topic, or the rank of the file at first sight.
    pub id: PartitionId,
    /// What people call it: `topic[3]`, or the file's path relative to the glob's root.
    pub name: String,
}

/// Where to begin in a partition without a recorded position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the oldest record there is.
    Earliest,
    /// After the newest record there is.
    Latest,
    /// With the first record whose broker timestamp is at or after this.
    At(EventTime),
}

/// What the difference of two offsets of a source means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetUnit {
    /// Each record takes one; what was never delivered is counted as gaps.
    Records,
    /// Each record takes as many as it has bytes, at least one.
    Bytes,
}

/// When an input counts as ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// At the end of what was there when the run began.
    End,
    /// Never: wait for more.
    Forever,
}

/// A partition to be read, from where, and into what.
pub struct Assignment {
    /// The partition.
    pub partition: Partition,
    /// The recorded position; without one the source's own `Start` counts.
    pub from: Option<Offset>,
    /// Where the records go.
    pub feed: Feed,
}

/// An input: a topic, a set of files, a generator.
pub trait Source: Send + Sync {
    /// What `source_topic` shows and messages call it: the topic, the glob, `generate:`.
    fn name(&self) -> String;

    /// The partitions that are there now, ordered by id. Called at the start and then every
    /// [`Source::discovery_interval`], on a thread of its own. Ids are stable: the partitions of
    /// an earlier answer keep theirs.
    ///
    /// # Errors
    /// When the input is missing or cannot be reached within the time-out.
    fn partitions(&self) -> Result<Vec<Partition>, SourceError>;

    /// Partitions that an earlier run has recorded: the numbers of these names are taken. Called
    /// before [`Source::partitions`]; sources whose partitions are numbered by nature ignore it.
    fn remember(&self, _known: &[Partition]) {}

    /// How often to look for new partitions; `None`: there will be none.
    fn discovery_interval(&self) -> Option<Duration> {
        None
    }

    /// What its offsets count: the ledger compares them with the records that were read.
    fn offset_unit(&self) -> OffsetUnit {
        OffsetUnit::Records
    }

    /// The first bytes of a partition, at most so many: a run compares them with what an earlier run
    /// has read. `None`: that is not asked of this source, or the partition is not there.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    fn head(&self, _partition: &Partition, _bytes: u64) -> Result<Option<Vec<u8>>, SourceError> {
        Ok(None)
    }

    /// Where a partition ends now, if it could have become shorter and that can be seen without
    /// reading it.
    fn end(&self, _partition: &Partition) -> Option<Offset> {
        None
    }

    /// What payloads go through before a decoder sees them; `None`: nothing.
    fn format(&self) -> Option<SharedFormat> {
        None
    }

    /// Starts a reader for one worker. It begins without partitions.
    ///
    /// # Errors
    /// When the client cannot be made.
    fn reader(&self) -> Result<Box<dyn Reader>, SourceError>;

    /// Checks that the input is there, reading nothing. Returns one line for people.
    ///
    /// # Errors
    /// When it is not, with what to do about it.
    fn check(&self) -> Result<String, SourceError>;
}

/// The reading threads of one worker; dropping it stops them.
pub trait Reader: Send {
    /// Adds a partition. Returns at once; failures go into its feed.
    fn assign(&mut self, assignment: Assignment);

    /// All records below these positions are committed in every sink (for lag tools). Must not
    /// block.
    fn committed(&mut self, _positions: &[(PartitionId, Offset)]) {}
}

/// Why a source cannot go on.
#[derive(Clone, Debug, Error)]
pub enum SourceError {
    /// The URI or an option is wrong: the text says what to do.
    #[error("{0}")]
    Config(String),
    /// The input is not there.
    #[error("{0}")]
    Missing(String),
    /// The input cannot be reached within the time-out.
    #[error("{target}: cannot be reached: {reason}")]
    Unreachable {
        /// Address, without credentials.
        target: String,
        /// What the client said.
        reason: String,
    },
    /// The input is not the one that was read before: what is recorded cannot be read again.
    #[error(
        "{partition}: the input is not what it was: {how}; put the old input back, or start anew with --fresh"
    )]
    Changed {
        /// Which partition or file.
        partition: String,
        /// What is different.
        how: String,
    },
    /// What is to be read next does not exist any more.
    #[error("{partition}: {reason}")]
    Gone {
        /// Which partition.
        partition: String,
        /// What is missing, and what to do.
        reason: String,
    },
    /// Reading failed.
    #[error("{partition}: {reason}")]
    Read {
        /// Which partition or file, and where in it.
        partition: String,
        /// What went wrong.
        reason: String,
    },
}

/// A shared source.
pub type SharedSource = Arc<dyn Source>;
