//! What travels between the source and the first keyed operator.

use serde::{Deserialize, Serialize};

use crate::time::{EventTime, Offset, PartitionId};

/// A record with its place and times.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record<R> {
    /// Its offset in the block's partition.
    pub offset: Offset,
    /// Its event time `t`.
    pub time: EventTime,
    /// When it takes effect, `tau = max(t, w)`.
    pub effect: EventTime,
    /// The rest.
    pub value: R,
}

/// A range of offsets of one partition, decoded. Stateless operators map blocks to blocks and keep
/// the range, even when no record is left in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block<R> {
    /// The partition.
    pub partition: PartitionId,
    /// The first offset of the range.
    pub from: Offset,
    /// The position after the range.
    pub to: Offset,
    /// The records that are left, in offset order.
    pub records: Vec<Record<R>>,
}

impl<R> Block<R> {
    /// The same range with other records.
    pub fn with<S>(&self, records: Vec<Record<S>>) -> Block<S> {
        Block {
            partition: self.partition,
            from: self.from,
            to: self.to,
            records,
        }
    }
}
