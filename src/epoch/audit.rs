//! Compares what was read with what became of it, before any effect of an epoch may be seen.
//!
//! For each partition, with the range `[from, to)` that its worker reports at border `k`:
//!
//! ```text
//! from_k    = to_{k-1}                  at border k, once the partition has a position
//! to - from = read + gaps               at border k (offsets that count bytes: >= read)
//! read      = the sum of its fates      once all workers have worked epoch k off
//! ```
//!
//! An epoch that is off at its border is not recorded in the log. One whose fates are off is never
//! released, so that no sink of any worker commits it. Plain data in, plain data out.

use std::collections::BTreeMap;

use super::{EpochEntry, PartitionReport, Resume};
use crate::ledger::{Account, Fates, LedgerError};
use crate::rules::{self, Rule};
use crate::source::OffsetUnit;
use crate::time::{Epoch, Offset, PartitionId};

/// What is known of an epoch that is not released.
#[derive(Debug, Default)]
struct Open {
    /// What was read of each partition, once the border is decided.
    read: Option<BTreeMap<PartitionId, u64>>,
    is_checkpoint: bool,
    /// How many workers have given their account.
    accounts: usize,
    fates: BTreeMap<PartitionId, Fates>,
}

/// See the module.
#[derive(Debug)]
pub struct Audit {
    unit: OffsetUnit,
    workers: usize,
    /// How far each partition was read.
    positions: BTreeMap<PartitionId, Offset>,
    open: BTreeMap<Epoch, Open>,
    /// The first epoch that is not released.
    next: Epoch,
    durable: Option<Epoch>,
    /// The fates of all records of this run up to `next`.
    total: BTreeMap<PartitionId, Fates>,
    /// The same up to the checkpoints that were released.
    checkpoints: Vec<(Epoch, BTreeMap<PartitionId, Fates>)>,
}

impl Audit {
    /// Of a run of so many workers that goes on at `resume` and whose source counts offsets in
    /// `unit`s.
    pub fn new(unit: OffsetUnit, workers: usize, resume: &Resume) -> Self {
        let positions = resume.positions.iter();
        Self {
            unit,
            workers,
            positions: positions
                .filter_map(|it| Some((it.partition.id, it.offset?)))
                .collect(),
            open: BTreeMap::new(),
            next: resume.epoch,
            durable: None,
            total: BTreeMap::new(),
            checkpoints: Vec::new(),
        }
    }

    /// A border was decided: compares its ranges with what was read.
    ///
    /// # Errors
    /// When an offset is not accounted for: the epoch must not be recorded.
    pub fn border(&mut self, entry: &EpochEntry) -> Result<(), LedgerError> {
        let mut read = BTreeMap::new();
        for row in &entry.partitions {
            self.check_range(entry.epoch, row)?;
            read.insert(row.partition, row.read);
        }
        let open = self.open.entry(entry.epoch).or_default();
        (open.read, open.is_checkpoint) = (Some(read), entry.is_checkpoint);
        Ok(())
    }

    fn check_range(&mut self, epoch: Epoch, row: &PartitionReport) -> Result<(), LedgerError> {
        let (partition, from, to) = (row.partition, row.from, row.to);
        if !row.is_located {
            return Ok(());
        }
        let due = self.positions.insert(partition, to).unwrap_or(from);
        if due != from {
            return Err(LedgerError::Jump {
                partition,
                epoch,
                due,
                from,
            });
        }
        let (read, gaps) = (row.read, row.gaps);
        let agrees = |range: u64| match self.unit {
            OffsetUnit::Records => range == read + gaps,
            OffsetUnit::Bytes => range >= read,
        };
        if to.0.checked_sub(from.0).is_some_and(agrees) {
            return Ok(());
        }
        Err(LedgerError::Offsets {
            partition,
            epoch,
            from,
            to,
            read,
            gaps,
        })
    }

    /// One worker has worked an epoch off.
    pub fn account(&mut self, account: Account) {
        let open = self.open.entry(account.epoch).or_default();
        open.accounts += 1;
        for (partition, fates) in account.partitions {
            *open.fates.entry(partition).or_default() += fates;
        }
    }

    /// The log has `epoch` for good.
    pub const fn durable(&mut self, epoch: Epoch) {
        self.durable = Some(epoch);
    }

    /// The newest epoch whose effects may be seen, if there is a new one: it and all before it
    /// are in the log, and each of their records has one fate.
    ///
    /// # Errors
    /// When a record has no fate, or two: the epoch must not be committed.
    pub fn release(&mut self) -> Result<Option<Epoch>, LedgerError> {
        let mut released = None;
        while self.is_recorded()
            && let Some(first) = self.open.first_entry()
            && *first.key() == self.next
            && first.get().accounts == self.workers
        {
            let open = first.remove();
            let is_checkpoint = open.is_checkpoint;
            for (partition, fates) in check_fates(self.next, open)? {
                *self.total.entry(partition).or_default() += fates;
            }
            if is_checkpoint {
                self.checkpoints.push((self.next, self.total.clone()));
            }
            released = Some(self.next);
            self.next = self.next.next();
        }
        Ok(released)
    }

    /// Whether the next epoch is in the log.
    fn is_recorded(&self) -> bool {
        if rules::on(Rule::LogBeforeEffects) {
            return self.durable.is_some_and(|durable| self.next <= durable);
        }
        let next = self.open.get(&self.next);
        next.is_some_and(|open| open.read.is_some())
    }

    /// The fates of this run's records up to each checkpoint that was released since it was asked
    /// last.
    pub fn take_checkpoints(&mut self) -> Vec<(Epoch, BTreeMap<PartitionId, Fates>)> {
        std::mem::take(&mut self.checkpoints)
    }
}

fn check_fates(epoch: Epoch, open: Open) -> Result<BTreeMap<PartitionId, Fates>, LedgerError> {
    let mut reported = open.read.unwrap_or_default();
    for (&partition, &fates) in &open.fates {
        let read = reported.remove(&partition).unwrap_or(0);
        if read != fates.read || !fates.is_balanced() {
            return Err(LedgerError::Fates {
                partition,
                epoch,
                read,
                fates,
            });
        }
    }
    let lost = reported.into_iter().find(|(_, read)| *read > 0);
    lost.map_or(Ok(open.fates), |(partition, read)| {
        Err(LedgerError::Fates {
            partition,
            epoch,
            read,
            fates: Fates::default(),
        })
    })
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::super::Standing;
    use super::*;
    use crate::ledger::Fate;
    use crate::time::EventTime;

    fn row(partition: u32, range: Range<u64>, read: u64, gaps: u64) -> PartitionReport {
        PartitionReport {
            partition: PartitionId(partition),
            is_located: range != (0..0),
            from: Offset(range.start),
            to: Offset(range.end),
            gaps,
            read,
            max_event: EventTime(0),
            watermark: EventTime(0),
            own_watermark: EventTime(0),
            standing: Standing::Active,
            has_backlog: false,
        }
    }

    fn entry(epoch: u64, partitions: Vec<PartitionReport>) -> EpochEntry {
        EpochEntry {
            epoch: Epoch(epoch),
            opened_at: EventTime(0),
            partitions,
            found: Vec::new(),
            watermark: EventTime(0),
            proved: EventTime(0),
            proved_but_ended: EventTime(0),
            before_clock: EventTime(0),
            is_checkpoint: false,
            is_full: false,
            ending: None,
            dims: None,
        }
    }

    fn audit(unit: OffsetUnit, workers: usize) -> Audit {
        Audit::new(unit, workers, &Resume::fresh([], EventTime(0)))
    }

    fn account(epoch: u64, partition: u32, read: u64, on_time: u64) -> Account {
        let mut fates = Fates {
            read,
            ..Fates::default()
        };
        fates.add(Fate::OnTime, on_time);
        Account {
            epoch: Epoch(epoch),
            partitions: [(PartitionId(partition), fates)].into(),
        }
    }

    fn nothing(epoch: u64) -> Account {
        Account {
            epoch: Epoch(epoch),
            partitions: BTreeMap::new(),
        }
    }

    #[test]
    fn an_epoch_is_released_when_it_is_durable_and_all_workers_account_for_it() {
        let mut audit = audit(OffsetUnit::Records, 2);
        audit.border(&entry(0, vec![row(0, 5..9, 3, 1)])).unwrap();
        audit.account(account(0, 0, 3, 3));
        audit.durable(Epoch(0));
        assert_eq!(audit.release(), Ok(None), "a worker is still at it");
        audit.account(nothing(0));
        assert_eq!(audit.release(), Ok(Some(Epoch(0))));
        assert_eq!(audit.release(), Ok(None), "once");

        audit.border(&entry(1, vec![row(0, 9..9, 0, 0)])).unwrap();
        audit.border(&entry(2, vec![row(0, 9..10, 1, 0)])).unwrap();
        [nothing(1), nothing(1), account(2, 0, 1, 1), nothing(2)]
            .into_iter()
            .for_each(|account| audit.account(account));
        assert_eq!(audit.release(), Ok(None), "not in the log");
        audit.durable(Epoch(2));
        assert_eq!(audit.release(), Ok(Some(Epoch(2))));
    }

    #[test]
    fn an_offset_that_is_neither_a_record_nor_a_gap_is_found() {
        let check = |unit, row| audit(unit, 1).border(&entry(0, vec![row]));
        for (range, read, gaps) in [
            (0..9, 8, 0),
            (0..9, 9, 1),
            (Range { start: 3, end: 2 }, 0, 0),
        ] {
            let off = check(OffsetUnit::Records, row(0, range, read, gaps));
            assert!(matches!(off, Err(LedgerError::Offsets { .. })), "{off:?}");
        }
        assert!(check(OffsetUnit::Bytes, row(0, 0..900, 8, 0)).is_ok());
        assert!(check(OffsetUnit::Bytes, row(0, 0..7, 8, 0)).is_err());
    }

    #[test]
    fn an_offset_between_two_epochs_is_found() {
        let mut audit = audit(OffsetUnit::Records, 1);
        audit.border(&entry(0, vec![row(0, 0..0, 0, 0)])).unwrap();
        audit
            .border(&entry(1, vec![row(0, 70..80, 10, 0)]))
            .expect("it begins where its reader says");
        let jump = audit.border(&entry(2, vec![row(0, 81..90, 9, 0)]));
        assert!(matches!(jump, Err(LedgerError::Jump { .. })), "{jump:?}");
    }

    #[test]
    fn an_epoch_whose_fates_are_off_is_never_released() {
        let off = [
            account(0, 0, 3, 2),
            account(0, 0, 3, 4),
            account(0, 0, 2, 2),
            account(0, 1, 0, 1),
            nothing(0),
        ];
        for account in off {
            let mut audit = audit(OffsetUnit::Records, 1);
            audit.border(&entry(0, vec![row(0, 0..3, 3, 0)])).unwrap();
            audit.durable(Epoch(0));
            audit.account(account);
            assert!(matches!(audit.release(), Err(LedgerError::Fates { .. })));
        }
    }
}
