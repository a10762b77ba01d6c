//! The ledger: one fate for each record that was read, per input partition.
//!
//! ```text
//! read = rejected + skipped + duplicate + filtered + no_window
//!      + late_dropped + late_diverted + late_kept + on_time
//! ```
//!
//! relative to the pipeline's main output. `read` is counted where records leave the source and
//! the fates where they are decided, so the equation is a check, not a definition. Each worker
//! keeps the book of its own partitions; [`crate::epoch::Audit`] compares the books, and nothing
//! of an epoch is committed before they agree.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::time::{Epoch, Offset, PartitionId};

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fate {
    /// It could not be decoded, or was implausible: a dead letter.
    Rejected,
    /// It is no record by the input's own rules (a blank line, a header line).
    Skipped,
    /// It repeats an earlier one.
    Duplicate,
    /// A rule of the pipeline left it out.
    Filtered,
    /// Its time lies in no window (hopping windows with gaps).
    NoWindow,
    /// It came too late for all its windows and nobody asked for it.
    LateDropped,
    /// It came too late for all its windows and went to the late output.
    LateDiverted,
    /// It came late, but within `keep`.
    LateKept,
    /// It counts in a window (or, without windows, in the main output).
    OnTime,
}

/// Counts of records by fate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fates {
    /// Records that left the source.
    pub read: u64,
    /// See [`Fate::OnTime`].
    pub on_time: u64,
    /// See [`Fate::LateKept`].
    pub late_kept: u64,
    /// See [`Fate::LateDiverted`].
    pub late_diverted: u64,
    /// See [`Fate::LateDropped`].
    pub late_dropped: u64,
    /// Pairs of a record and a window that it missed; not a fate.
    pub late_windows: u64,
    /// See [`Fate::Rejected`].
    pub rejected: u64,
    /// See [`Fate::Skipped`].
    pub skipped: u64,
    /// See [`Fate::Duplicate`].
    pub duplicate: u64,
    /// See [`Fate::Filtered`].
    pub filtered: u64,
    /// See [`Fate::NoWindow`].
    pub no_window: u64,
}

impl Fates {
    /// Counts `records` records of one fate.
    pub fn add(&mut self, fate: Fate, records: u64) {
        *match fate {
            Fate::Rejected => &mut self.rejected,
            Fate::Skipped => &mut self.skipped,
            Fate::Duplicate => &mut self.duplicate,
            Fate::Filtered => &mut self.filtered,
            Fate::NoWindow => &mut self.no_window,
            Fate::LateDropped => &mut self.late_dropped,
            Fate::LateDiverted => &mut self.late_diverted,
            Fate::LateKept => &mut self.late_kept,
            Fate::OnTime => &mut self.on_time,
        } += records;
    }

    /// Records with a fate.
    pub const fn decided(&self) -> u64 {
        self.rejected
            + self.skipped
            + self.duplicate
            + self.filtered
            + self.no_window
            + self.late_dropped
            + self.late_diverted
            + self.late_kept
            + self.on_time
    }

    /// Whether each record that was read has exactly one fate.
    pub const fn is_balanced(&self) -> bool {
        self.read == self.decided()
    }
}

impl AddAssign for Fates {
    fn add_assign(&mut self, other: Self) {
        self.read += other.read;
        self.on_time += other.on_time;
        self.late_kept += other.late_kept;
        self.late_diverted += other.late_diverted;
        self.late_dropped += other.late_dropped;
        self.late_windows += other.late_windows;
        self.rejected += other.rejected;
        self.skipped += other.skipped;
        self.duplicate += other.duplicate;
        self.filtered += other.filtered;
        self.no_window += other.no_window;
    }
}

/// The equation with its numbers, for a message about one that is off.
impl fmt::Display for Fates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "read {} = rejected {} + skipped {} + duplicate {} + filtered {} + no window {} + \
             late dropped {} + late diverted {} + late kept {} + on time {}",
            self.read,
            self.rejected,
            self.skipped,
            self.duplicate,
            self.filtered,
            self.no_window,
            self.late_dropped,
            self.late_diverted,
            self.late_kept,
            self.on_time
        )
    }
}

/// The ledger of one worker: the open epochs apart, so that each can be checked when it is
/// complete and only whole epochs enter the total.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    open: BTreeMap<Epoch, BTreeMap<PartitionId, Fates>>,
    total: BTreeMap<PartitionId, Fates>,
}

/// The fates of the records that one worker read in an epoch, when all of them are decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The epoch.
    pub epoch: Epoch,
    /// The counts of each of the worker's partitions that had any.
    pub partitions: BTreeMap<PartitionId, Fates>,
}

/// What does not agree for a partition at the end of an epoch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Offsets were passed over between two epochs.
    #[error(
        "partition {partition} goes on at offset {from} in epoch {epoch}, but was read up to {due}"
    )]
    Jump {
        /// The partition.
        partition: PartitionId,
        /// The epoch.
        epoch: Epoch,
        /// Where the epoch before ended.
        due: Offset,
        /// Where this one begins.
        from: Offset,
    },
    /// The offsets of an epoch are not those of its records.
    #[error(
        "partition {partition} went from offset {from} to {to} in epoch {epoch}, with {read} \
         records and {gaps} offsets that were never delivered"
    )]
    Offsets {
        /// The partition.
        partition: PartitionId,
        /// The epoch.
        epoch: Epoch,
        /// Where the epoch begins.
        from: Offset,
        /// Where it ends.
        to: Offset,
        /// Records that were read.
        read: u64,
        /// Offsets that were never delivered.
        gaps: u64,
    },
    /// Records were lost or made between the source and the fates, or a record has no fate, or two.
    #[error("partition {partition} had {read} records in epoch {epoch}, but {fates}")]
    Fates {
        /// The partition.
        partition: PartitionId,
        /// The epoch.
        epoch: Epoch,
        /// Records that were read, as reported at the border.
        read: u64,
        /// What was counted on the way.
        fates: Fates,
    },
}

impl Ledger {
    /// The counts of `partition` in `epoch`.
    pub fn entry(&mut self, epoch: Epoch, partition: PartitionId) -> &mut Fates {
        self.open
            .entry(epoch)
            .or_default()
            .entry(partition)
            .or_default()
    }

    /// All records of `epoch` have been through the dataflow: takes its counts out and adds them to
    /// the total. What was counted for an earlier epoch after that was closed is among them, where
    /// it cannot agree with anything.
    pub fn close(&mut self, epoch: Epoch) -> Account {
        let mut partitions: BTreeMap<PartitionId, Fates> = BTreeMap::new();
        while let Some(first) = self.open.first_entry()
            && *first.key() <= epoch
        {
            for (partition, fates) in first.remove() {
                *partitions.entry(partition).or_default() += fates;
                *self.total.entry(partition).or_default() += fates;
            }
        }
        Account { epoch, partitions }
    }

    /// The counts of all closed epochs.
    pub const fn total(&self) -> &BTreeMap<PartitionId, Fates> {
        &self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_closed_alone() {
        let mut ledger = Ledger::default();
        let partition = PartitionId(1);
        ledger.entry(Epoch(3), partition).add(Fate::OnTime, 2);
        ledger.entry(Epoch(4), partition).add(Fate::Filtered, 1);
        let account = ledger.close(Epoch(3));
        assert_eq!(account.partitions[&partition].decided(), 2);
        assert_eq!(ledger.total()[&partition].decided(), 2);
        assert_eq!(
            ledger.close(Epoch(4)).partitions[&partition].decided(),
            1,
            "the rest is closed with its own epoch"
        );
    }

    #[test]
    fn what_is_counted_after_its_epoch_was_closed_shows_in_the_next_one() {
        let mut ledger = Ledger::default();
        assert!(ledger.close(Epoch(0)).partitions.is_empty());
        let partition = PartitionId(0);
        ledger.entry(Epoch(0), partition).add(Fate::Filtered, 1);
        let account = ledger.close(Epoch(1));
        assert!(!account.partitions[&partition].is_balanced());
    }
}
