//! Where a run goes on: from the beginning, or after a checkpoint with the epochs that are
//! recorded since.
//!
//! The recorded epochs are read again with their recorded ranges and decisions, so that they have
//! the same effects; only then does the run decide anything itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Ending, EpochEntry, Standing};
use crate::source::Partition;
use crate::time::{Epoch, EventTime, Offset, PartitionId};

/// Where a partition goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The partition.
    pub partition: Partition,
    /// The first offset to be read; `None`: wherever the source begins.
    pub offset: Option<Offset>,
    /// The largest event time that was read.
    pub max_event: EventTime,
    /// Its last floor.
    pub floor: EventTime,
    /// Whether it had a say at the last border.
    pub standing: Standing,
}

impl Position {
    /// Of a partition of which nothing was read, there from the start.
    pub const fn start(partition: Partition) -> Self {
        Self {
            partition,
            offset: None,
            max_event: EventTime::MIN,
            floor: EventTime::MIN,
            standing: Standing::Active,
        }
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The first epoch of this run.
    pub epoch: Epoch,
    /// The wall time at which that epoch was opened.
    pub opened_at: EventTime,
    /// The border watermark of the epoch before it.
    pub watermark: EventTime,
    /// The partitions known at its start.
    pub positions: Vec<Position>,
    /// The last load of the dimension tables that is in effect in that epoch.
    pub dims: u64,
    /// A later load that takes effect in the epoch after it.
    pub dims_next: Option<u64>,
    /// What is recorded of it and the epochs that follow, without a hole.
    pub recorded: Vec<EpochEntry>,
}

impl Resume {
    /// The beginning of an input with `partitions`.
    pub fn fresh(partitions: impl IntoIterator<Item = Partition>, opened_at: EventTime) -> Self {
        Self {
            epoch: Epoch(0),
            opened_at,
            watermark: EventTime::MIN,
            positions: partitions.into_iter().map(Position::start).collect(),
            dims: 0,
            dims_next: None,
            recorded: Vec::new(),
        }
    }

    /// Adds the epochs that are recorded after the starting point: a run that was stopped goes on
    /// behind its last epoch, and partitions begin where their first record was found.
    #[must_use]
    pub fn with_recorded(mut self, mut recorded: Vec<EpochEntry>) -> Self {
        for entry in &mut recorded {
            if entry.ending == Some(Ending::Stopped) {
                entry.ending = None;
            }
        }
        self.opened_at = recorded.first().map_or(self.opened_at, |it| it.opened_at);
        self.recorded = recorded;
        let firsts = self.first_offsets();
        for position in &mut self.positions {
            let first = firsts.get(&position.partition.id).copied();
            position.offset = position.offset.or(first);
        }
        self
    }

    /// Where the partitions begin that were found in a recorded epoch.
    pub fn found_at(&self, partition: PartitionId) -> Option<Offset> {
        self.first_offsets().get(&partition).copied()
    }

    /// Whether `partition` is known at the start or found in a recorded epoch.
    pub fn knows(&self, partition: PartitionId) -> bool {
        let known = self.positions.iter().map(|it| it.partition.id);
        let found = self.recorded.iter().flat_map(|entry| &entry.found);
        known.chain(found.map(|it| it.id)).any(|id| id == partition)
    }

    /// The first offset of each partition in the recorded epochs.
    fn first_offsets(&self) -> BTreeMap<PartitionId, Offset> {
        let rows = self.recorded.iter().flat_map(|entry| &entry.partitions);
        let mut firsts = BTreeMap::new();
        for row in rows.filter(|row| row.is_located) {
            firsts.entry(row.partition).or_insert(row.from);
        }
        firsts
    }
}
