//! Epochs: what is decided at their borders, by whom, and where that is recorded.
//!
//! * [`Coordinator`] announces borders, collects the workers' [`Report`]s and decides each
//!   epoch's [`EpochEntry`]; it is the only writer.
//! * [`EpochLog`] is told each entry before any sink may commit its epoch.
//! * [`Audit`] releases an epoch to the sinks once every record of it is accounted for.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::rows::Completeness;
use crate::source::Partition;
use crate::time::{Epoch, EventTime, Offset, PartitionId};

pub use self::audit::Audit;
pub use self::coordinator::{Coordinator, CoordinatorOptions, Instruction};

mod audit;
mod coordinator;

/// What one worker says about one of its partitions when it closes an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionReport {
    /// The partition.
    pub partition: PartitionId,
    /// Where the epoch's records begin.
    pub from: Offset,
    /// The position after the epoch's last record.
    pub to: Offset,
    /// Offsets in the range that were never delivered.
    pub gaps: u64,
    /// Records in the range.
    pub read: u64,
    /// The partition's watermark.
    pub watermark: EventTime,
    /// The same by its own records alone, without floors.
    pub own_watermark: EventTime,
    /// Whether it has no say in the border watermark.
    pub standing: Standing,
    /// Whether records wait to be read.
    pub has_backlog: bool,
}

/// Whether a partition has a say in the border watermark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It has.
    Active,
    /// Silent for longer than `--idle-after`, empty, or newly found.
    Idle,
    /// At its declared end: nothing follows.
    Ended,
}

/// What one worker says when it closes an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The worker.
    pub worker: usize,
    /// The epoch that it closed.
    pub epoch: Epoch,
    /// Its partitions.
    pub partitions: Vec<PartitionReport>,
}

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// The input was declared complete: all windows are closed.
    Drained,
    /// The run stopped; windows stay open.
    Stopped,
}

/// Everything that was decided at the end of an epoch and is not a function of the input log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochEntry {
    /// The epoch.
    pub epoch: Epoch,
    /// The wall time at which it was opened: the reference of the far-future guard.
    pub opened_at: EventTime,
    /// What was read, per known partition.
    pub partitions: Vec<PartitionReport>,
    /// Partitions found since the last border; they are read from the next epoch on.
    pub found: Vec<Partition>,
    /// The border watermark W: every pane that ends at or before it belongs to this epoch or an
    /// earlier one.
    pub watermark: EventTime,
    /// Windows that end at or before this were passed by every partition's own records.
    pub proved: EventTime,
    /// Windows that end at or before this were passed by every partition that has not ended.
    pub proved_but_ended: EventTime,
    /// Windows that end after this were closed by the wall clock.
    pub before_clock: EventTime,
    /// Whether the epoch is a checkpoint.
    pub is_checkpoint: bool,
    /// Whether it is the last one.
    pub ending: Option<Ending>,
    /// The number of the dimension refresh that takes effect two epochs later, if there is one.
    pub dims: Option<u64>,
}

impl EpochEntry {
    /// Why a window that ends at `end`, and was closed in this epoch, is complete.
    pub fn completeness(&self, end: EventTime) -> Completeness {
        if end <= self.proved {
            Completeness::Proved
        } else if end <= self.proved_but_ended {
            Completeness::EndOfInput
        } else if end <= self.before_clock {
            Completeness::Idle
        } else if self.ending == Some(Ending::Drained) {
            Completeness::EndOfInput
        } else {
            Completeness::WallClock
        }
    }
}

/// Where epochs are recorded. Lives on a thread of its own and may block.
///
/// An entry is appended before any effect of its epoch is visible in any sink.
pub trait EpochLog: Send {
    /// Records `entry`; returns when it is durable.
    ///
    /// # Errors
    /// When it cannot be recorded: the run must end.
    fn append(&mut self, entry: &EpochEntry) -> Result<(), LogError>;
}

/// Why an epoch cannot be recorded.
#[derive(Debug, Error)]
#[error("the epoch log cannot be written: {0}")]
pub struct LogError(pub String);

/// A log that lives as long as the run: nothing can be recovered from it.
#[derive(Debug, Default)]
pub struct MemoryLog {
    last: Option<Epoch>,
}

impl EpochLog for MemoryLog {
    fn append(&mut self, entry: &EpochEntry) -> Result<(), LogError> {
        let expected = self.last.map_or(Epoch(0), Epoch::next);
        if entry.epoch != expected {
            return Err(LogError(format!(
                "epoch {} came where {expected} was due",
                entry.epoch
            )));
        }
        self.last = Some(entry.epoch);
        Ok(())
    }
}
