//! How long a run takes until it has caught up with the run before it.
//!
//! All times count from the start of the command. Counted by whichever worker is first; the
//! frontier of what is committed is the same for all of them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::epoch::{EpochEntry, Resume};
use crate::time::Epoch;

/// What a run that goes on with a job has found and when it was done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// How many recorded epochs are read again.
    pub epochs: u64,
    /// How many records they have.
    pub records: u64,
    /// When the state was loaded, on all workers.
    pub loaded: Duration,
    /// When the first recorded epoch was committed in every sink; `None`: not yet, or there is
    /// none.
    pub first_epoch: Option<Duration>,
    /// The same of the last one.
    pub last_epoch: Option<Duration>,
}

/// See the module.
#[derive(Debug)]
pub struct Recovery {
    started: Instant,
    found: Mutex<Option<Found>>,
}

#[derive(Debug)]
struct Found {
    first: Epoch,
    /// The first epoch that is not recorded.
    next: Epoch,
    recovered: Recovered,
}

impl Recovery {
    /// Of a command that has started at `started`.
    pub const fn new(started: Instant) -> Self {
        Self {
            started,
            found: Mutex::new(None),
        }
    }

    /// The run goes on at `resume`.
    pub fn goes_on(&self, resume: &Resume) {
        let read = |entry: &EpochEntry| entry.partitions.iter().map(|row| row.read).sum::<u64>();
        let epochs = resume.recorded.len() as u64;
        let found = Found {
            first: resume.epoch,
            next: Epoch(resume.epoch.0 + epochs),
            recovered: Recovered {
                epochs,
                records: resume.recorded.iter().map(read).sum(),
                loaded: Duration::ZERO,
                first_epoch: None,
                last_epoch: None,
            },
        };
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
    }

    /// One more worker has what it needs of the state.
    pub fn loaded(&self) {
        self.note(|found, elapsed| found.recovered.loaded = elapsed);
    }

    /// Every sink has committed `epoch`.
    pub fn committed(&self, epoch: Epoch) {
        self.note(|found, elapsed| {
            if !(found.first..found.next).contains(&epoch) {
                return;
            }
            found.recovered.first_epoch.get_or_insert(elapsed);
            if epoch.next() == found.next {
                found.recovered.last_epoch.get_or_insert(elapsed);
            }
        });
    }

    fn note(&self, note: impl FnOnce(&mut Found, Duration)) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = found.as_mut() {
            note(found, self.started.elapsed());
        }
    }

    /// What there is to say; `None`: the run goes on with nothing.
    pub fn recovered(&self) -> Option<Recovered> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.as_ref().map(|found| found.recovered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::{PartitionReport, Standing};
    use crate::time::{EventTime, Offset, PartitionId};

    fn entry(epoch: u64, read: u64) -> EpochEntry {
        let row = PartitionReport {
            partition: PartitionId(0),
            is_located: true,
            from: Offset(0),
            to: Offset(read),
            gaps: 0,
            max_event: EventTime(0),
            read,
            watermark: EventTime(0),
            own_watermark: EventTime(0),
            standing: Standing::Active,
            has_backlog: false,
        };
        EpochEntry {
            epoch: Epoch(epoch),
            opened_at: EventTime(0),
            partitions: vec![row],
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

    #[test]
    fn the_recorded_epochs_are_timed_and_no_others() {
        let recovery = Recovery::new(Instant::now());
        recovery.committed(Epoch(4));
        assert_eq!(recovery.recovered(), None, "it goes on with nothing");
        let mut resume = Resume::fresh([], EventTime(0));
        resume.epoch = Epoch(5);
        recovery.goes_on(&resume);
        recovery.committed(Epoch(5));
        let nothing = recovery.recovered().unwrap();
        assert_eq!((nothing.first_epoch, nothing.epochs), (None, 0));
        assert_eq!(nothing.last_epoch, None);

        resume.recorded = vec![entry(5, 30), entry(6, 12)];
        recovery.goes_on(&resume);
        recovery.loaded();
        let before = recovery.recovered().unwrap();
        assert_eq!((before.epochs, before.records), (2, 42));
        for epoch in [4, 7] {
            recovery.committed(Epoch(epoch));
        }
        assert_eq!(
            recovery.recovered(),
            Some(before),
            "of this run, or of the one before"
        );
        recovery.committed(Epoch(5));
        let first = recovery.recovered().unwrap();
        assert!(first.first_epoch >= Some(first.loaded) && first.last_epoch.is_none());
        recovery.committed(Epoch(6));
        let all = recovery.recovered().unwrap();
        assert_eq!(all.first_epoch, first.first_epoch, "once");
        assert!(all.last_epoch >= all.first_epoch);
    }
}
