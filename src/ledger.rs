//! The ledger: one fate for each record that was read, per input partition.
//!
//! ```text
//! read = rejected + skipped + duplicate + filtered + no_window
//!      + late_dropped + late_diverted + late_kept + on_time
//! ```
//!
//! relative to the pipeline's main output. `read` is counted where records leave the source and
//! the fates where they are decided, so the equation is a check, not a definition. A run whose
//! ledger is off reports no success.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::time::{Epoch, PartitionId};

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

/// A partition whose records do not all have a fate at the end of an epoch.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the ledger of partition {partition} is off at epoch {epoch}: {fates}")]
pub struct LedgerError {
    /// The partition.
    pub partition: PartitionId,
    /// The epoch that was to be closed.
    pub epoch: Epoch,
    /// Its counts.
    pub fates: Fates,
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

    /// All records of the epochs up to `epoch` have been through the dataflow: checks them and
    /// adds them to the total.
    ///
    /// # Errors
    /// When a record has no fate, or two.
    pub fn close(&mut self, epoch: Epoch) -> Result<(), LedgerError> {
        while let Some(first) = self.open.first_entry()
            && *first.key() <= epoch
        {
            let (epoch, partitions) = first.remove_entry();
            for (partition, fates) in partitions {
                if !fates.is_balanced() {
                    return Err(LedgerError {
                        partition,
                        epoch,
                        fates,
                    });
                }
                *self.total.entry(partition).or_default() += fates;
            }
        }
        Ok(())
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
    fn an_epoch_closes_only_when_each_record_has_a_fate() {
        let mut ledger = Ledger::default();
        let fates = ledger.entry(Epoch(3), PartitionId(1));
        fates.read = 3;
        fates.add(Fate::OnTime, 2);
        assert!(ledger.clone().close(Epoch(3)).is_err());
        assert!(
            ledger.clone().close(Epoch(2)).is_ok(),
            "an open epoch is not judged"
        );
        ledger
            .entry(Epoch(3), PartitionId(1))
            .add(Fate::LateDropped, 1);
        ledger.close(Epoch(3)).expect("it is balanced now");
        assert_eq!(ledger.total()[&PartitionId(1)].read, 3);
    }

    #[test]
    fn a_record_with_two_fates_is_found() {
        let mut ledger = Ledger::default();
        let fates = ledger.entry(Epoch(0), PartitionId(0));
        fates.read = 1;
        fates.add(Fate::Filtered, 1);
        fates.add(Fate::OnTime, 1);
        assert!(ledger.close(Epoch(0)).is_err());
    }
}
