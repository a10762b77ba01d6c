//! Epochs: what is decided at their borders, by whom, and where that is recorded.
//!
//! * [`Coordinator`] announces borders, collects the workers' [`Report`]s and decides each
//!   epoch's [`EpochEntry`]; it is the only writer.
//! * The log is told each entry before any sink may commit its epoch; see [`crate::state`].
//! * [`Audit`] releases an epoch to the sinks once every record of it is accounted for.

use serde::{Deserialize, Serialize};

use crate::rows::Completeness;
use crate::source::Partition;
use crate::time::{Epoch, EventTime, Offset, PartitionId};

pub use self::audit::Audit;
pub use self::coordinator::{Coordinator, CoordinatorOptions, Instruction};
pub use self::resume::{Position, Resume};

mod audit;
mod coordinator;
mod resume;

/// What one worker says about one of its partitions when it closes an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionReport {
    /// The partition.
    pub partition: PartitionId,
    /// Whether it is known where reading begins; until then `from` and `to` are 0.
    pub is_located: bool,
    /// Where the epoch's records begin.
    pub from: Offset,
    /// The position after the epoch's last record.
    pub to: Offset,
    /// Offsets in the range that were never delivered.
    pub gaps: u64,
    /// The largest event time read so far.
    pub max_event: EventTime,
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

impl PartitionReport {
    /// Whether the border watermark becomes the partition's floor: it may have passed a partition
    /// that had no say in it, and records may follow in this run or a later one. For one that had
    /// a say this changes nothing.
    pub fn gets_floor(&self) -> bool {
        self.standing != Standing::Active
    }
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
    /// Whether that checkpoint holds everything, not only what has changed since the one before.
    pub is_full: bool,
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
