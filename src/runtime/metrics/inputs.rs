//! What became of each partition of the input, for whoever watches a run.
//!
//! Fates are added up from the accounts that the ledger is checked with, epoch by epoch, and
//! watermarks are those of the last border: no record is counted one by one for this.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::epoch::{EpochEntry, PartitionReport, Position};
use crate::ledger::{Account, Fates};
use crate::source::{FeedGauge, Partition};
use crate::time::{Offset, PartitionId};

/// A partition as of the last border.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionStatus {
    /// What people call it; empty until that is known.
    pub name: String,
    /// The fates of its records, of all epochs that were accounted for.
    pub fates: Fates,
    /// Offsets that were never delivered.
    pub gaps: u64,
    /// What was reported of it at the last border.
    pub report: Option<PartitionReport>,
}

/// Where the reading of a partition stands now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standpoint {
    /// The position after the last record that its worker took.
    pub position: Option<Offset>,
    /// The position after the last record that there is, as far as the reader knows.
    pub end: Option<Offset>,
}

impl Standpoint {
    /// How far the position is behind the end, in the unit of the source's offsets.
    pub fn lag(self) -> Option<u64> {
        let (position, end) = self.position.zip(self.end)?;
        Some(end.0.saturating_sub(position.0))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Inputs {
    /// Of all partitions of the run, where its coordinator is.
    statuses: Mutex<BTreeMap<PartitionId, PartitionStatus>>,
    /// Of those that this process reads.
    gauges: Mutex<BTreeMap<PartitionId, FeedGauge>>,
}

impl Inputs {
    fn statuses(&self) -> MutexGuard<'_, BTreeMap<PartitionId, PartitionStatus>> {
        // Valid between any two statements.
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gauges(&self) -> MutexGuard<'_, BTreeMap<PartitionId, FeedGauge>> {
        self.gauges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The run goes on with these partitions.
    pub fn begin(&self, positions: &[Position]) {
        let mut statuses = self.statuses();
        for position in positions {
            let Partition { id, name } = position.partition.clone();
            statuses.entry(id).or_default().name = name;
        }
    }

    /// This process reads `partition`, and `gauge` says how far.
    pub fn watch(&self, partition: PartitionId, gauge: FeedGauge) {
        self.gauges().insert(partition, gauge);
    }

    /// An epoch was decided.
    pub fn decided(&self, entry: &EpochEntry) {
        let mut statuses = self.statuses();
        for found in &entry.found {
            statuses
                .entry(found.id)
                .or_default()
                .name
                .clone_from(&found.name);
        }
        for row in &entry.partitions {
            let status = statuses.entry(row.partition).or_default();
            status.gaps += row.gaps;
            status.report = Some(row.clone());
        }
    }

    /// All records that a worker read in an epoch have their fate.
    pub fn accounted(&self, account: &Account) {
        let mut statuses = self.statuses();
        for (partition, fates) in &account.partitions {
            statuses.entry(*partition).or_default().fates += *fates;
        }
    }

    /// All partitions of the run, in the process that decides its epochs; none in others.
    pub fn partitions(&self) -> BTreeMap<PartitionId, PartitionStatus> {
        self.statuses().clone()
    }

    /// Where the partitions stand that this process reads.
    pub fn standpoints(&self) -> Vec<(PartitionId, Standpoint)> {
        let gauges = self.gauges();
        let standpoint = |(id, gauge): (&PartitionId, &FeedGauge)| {
            let (position, end) = gauge.read();
            (*id, Standpoint { position, end })
        };
        gauges.iter().map(standpoint).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Fate;
    use crate::source::{RawBatch, feed};
    use crate::time::Epoch;

    #[test]
    fn accounts_of_epochs_and_workers_add_up() {
        let inputs = Inputs::default();
        let partition = Partition {
            id: PartitionId(3),
            name: "cars[3]".to_owned(),
        };
        inputs.begin(&[Position::start(partition)]);
        for (epoch, records) in [(0, 2), (1, 5)] {
            let mut fates = Fates {
                read: records,
                ..Fates::default()
            };
            fates.add(Fate::OnTime, records);
            inputs.accounted(&Account {
                epoch: Epoch(epoch),
                partitions: [(PartitionId(3), fates)].into(),
            });
        }
        let status = &inputs.partitions()[&PartitionId(3)];
        assert_eq!(status.name, "cars[3]");
        assert_eq!((status.fates.read, status.fates.on_time), (7, 7));
    }

    #[test]
    fn lag_is_what_lies_between_what_was_taken_and_the_end() {
        let inputs = Inputs::default();
        let (feed, inbox) = feed(|| ());
        inputs.watch(PartitionId(0), inbox.gauge());
        let lag = || inputs.standpoints()[0].1.lag();
        assert_eq!(lag(), None, "nothing is known yet");
        feed.begin(Offset(10));
        feed.ends_at(Offset(30));
        assert_eq!(lag(), Some(20));
        feed.push(RawBatch {
            next_offset: Offset(25),
            ..RawBatch::default()
        });
        assert_eq!(lag(), Some(20), "nobody has taken it");
        inbox.pop();
        assert_eq!(lag(), Some(5));
        feed.push(RawBatch {
            next_offset: Offset(40),
            ..RawBatch::default()
        });
        inbox.pop();
        assert_eq!(lag(), Some(0), "an end that is older than the position");
    }
}
