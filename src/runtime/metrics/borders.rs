//! When epochs end, are committed and become checkpoints, for whoever watches a run.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::durations::Durations;
use crate::epoch::EpochEntry;
use crate::state::Manifest;
use crate::time::{Epoch, EventTime};

/// What a restart would load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateSize {
    /// The bytes of all objects that the newest manifest names.
    pub bytes: u64,
    /// How many there are.
    pub objects: u64,
}

/// What is known of the epochs of a run.
#[derive(Clone, Debug, Default)]
pub struct BorderStatus {
    /// The last epoch that was decided.
    pub decided: Option<Epoch>,
    /// The last one that every sink has committed, and when that was seen.
    pub committed: Option<(Epoch, EventTime)>,
    /// How long epochs were: from border to border, those that were read again left out.
    pub lengths: Durations,
    /// How long it took from the border of a checkpoint until its manifest was recorded.
    pub checkpoints: Durations,
    /// When the newest checkpoint was complete.
    pub checkpoint_at: Option<EventTime>,
    /// Its size.
    pub state: Option<StateSize>,
}

#[derive(Debug, Default)]
struct Table {
    status: BorderStatus,
    last_border: Option<Instant>,
    /// Checkpoints that are not complete, since when, and how large they are once that is known.
    open: BTreeMap<Epoch, (Instant, Option<StateSize>)>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Borders(Mutex<Table>);

fn size(manifest: &Manifest) -> StateSize {
    StateSize {
        bytes: manifest.objects.iter().map(|object| object.bytes).sum(),
        objects: manifest.objects.len() as u64,
    }
}

impl Borders {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Valid between any two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The run goes on after `manifest`.
    pub fn goes_on(&self, manifest: &Manifest) {
        let mut table = self.table();
        table.status.state = Some(size(manifest));
        table.status.checkpoint_at = Some(manifest.opened_at);
    }

    /// An epoch was decided at `now`; `is_new`: by this run.
    pub fn decided(&self, entry: &EpochEntry, is_new: bool, now: Instant) {
        let mut table = self.table();
        table.status.decided = Some(entry.epoch);
        let last = table.last_border.replace(now);
        if is_new && let Some(last) = last {
            table
                .status
                .lengths
                .record(now.saturating_duration_since(last));
        }
        if entry.is_checkpoint {
            table.open.insert(entry.epoch, (now, None));
        }
    }

    /// Every sink has committed `epoch`, at the wall time `at`.
    pub fn committed(&self, epoch: Epoch, at: EventTime) {
        let mut table = self.table();
        if table.status.committed.is_none_or(|(last, _)| last < epoch) {
            table.status.committed = Some((epoch, at));
        }
    }

    /// A checkpoint is complete, but for its record.
    pub fn gathered(&self, manifest: &Manifest) {
        if let Some((_, known)) = self.table().open.get_mut(&manifest.epoch) {
            *known = Some(size(manifest));
        }
    }

    /// The manifest of `epoch` is recorded for good at `now`, the wall time `at`.
    pub fn published(&self, epoch: Epoch, now: Instant, at: EventTime) {
        let mut table = self.table();
        let later = table.open.split_off(&epoch.next());
        let open = std::mem::replace(&mut table.open, later).remove(&epoch);
        let Some((since, state)) = open else { return };
        let status = &mut table.status;
        status
            .checkpoints
            .record(now.saturating_duration_since(since));
        status.checkpoint_at = Some(at);
        status.state = state.or(status.state);
    }

    /// What is known now.
    pub fn status(&self) -> BorderStatus {
        self.table().status.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::state::{Checksum, ObjectRef};

    fn entry(epoch: u64, is_checkpoint: bool) -> EpochEntry {
        EpochEntry {
            epoch: Epoch(epoch),
            opened_at: EventTime(0),
            partitions: Vec::new(),
            found: Vec::new(),
            watermark: EventTime(0),
            proved: EventTime(0),
            proved_but_ended: EventTime(0),
            before_clock: EventTime(0),
            is_checkpoint,
            is_full: false,
            ending: None,
            dims: None,
        }
    }

    fn manifest(epoch: u64, bytes: &[u64]) -> Manifest {
        let object = |bytes: &u64| ObjectRef {
            name: String::new(),
            bytes: *bytes,
            checksum: Checksum(0),
        };
        Manifest {
            epoch: Epoch(epoch),
            watermark: EventTime(0),
            opened_at: EventTime(5),
            partitions: Vec::new(),
            objects: bytes.iter().map(object).collect(),
            sinks: BTreeMap::new(),
            outputs: BTreeMap::new(),
            digests: Vec::new(),
            dims: 0,
            dims_next: None,
            is_drained: false,
        }
    }

    #[test]
    fn epochs_are_measured_from_border_to_border_and_replayed_ones_are_not() {
        let (borders, start) = (Borders::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        borders.decided(&entry(3, false), false, start);
        borders.decided(&entry(4, false), false, at(1));
        assert_eq!(borders.status().lengths.buckets(&[]).count, 0);
        borders.decided(&entry(5, false), true, at(201));
        let buckets = borders.status().lengths.buckets(&[0.1, 0.3]);
        assert_eq!(buckets.cumulative, [0, 1]);
        assert_eq!(borders.status().decided, Some(Epoch(5)));
    }

    #[test]
    fn the_newest_commit_counts_whoever_says_it_last() {
        let borders = Borders::default();
        borders.committed(Epoch(7), EventTime(70));
        borders.committed(Epoch(6), EventTime(80));
        borders.committed(Epoch(7), EventTime(90));
        let committed = borders.status().committed;
        assert_eq!(committed, Some((Epoch(7), EventTime(70))));
    }

    #[test]
    fn a_checkpoint_counts_when_its_manifest_is_recorded() {
        let (borders, start) = (Borders::default(), Instant::now());
        borders.goes_on(&manifest(1, &[100, 7]));
        let before = borders.status();
        assert_eq!(before.checkpoint_at, Some(EventTime(5)));
        let state = before.state.expect("known");
        assert_eq!((state.bytes, state.objects), (107, 2));
        borders.decided(&entry(4, true), true, start);
        borders.gathered(&manifest(4, &[50]));
        assert_eq!(borders.status().checkpoints.buckets(&[]).count, 0);
        borders.published(Epoch(4), start + Duration::from_secs(2), EventTime(9));
        // One that is no checkpoint of this run changes nothing.
        borders.published(Epoch(3), start + Duration::from_secs(9), EventTime(99));
        let after = borders.status();
        assert_eq!(after.checkpoint_at, Some(EventTime(9)));
        assert_eq!(after.state.expect("known").bytes, 50);
        assert_eq!(after.checkpoints.buckets(&[1.0, 3.0]).cumulative, [0, 1]);
    }
}
