//! What each sink has committed, and whether it waits, for whoever watches a run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::sink::{SinkStatus, Written};
use crate::time::Epoch;

/// One worker's part of a sink.
#[derive(Debug)]
pub struct SinkGauge {
    rows: AtomicU64,
    bytes: AtomicU64,
    /// The first epoch that is not committed.
    uncommitted: AtomicU64,
    status: Arc<SinkStatus>,
}

impl SinkGauge {
    fn new(next: Epoch) -> Self {
        Self {
            rows: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            uncommitted: AtomicU64::new(next.0),
            status: Arc::default(),
        }
    }

    /// Rows became visible.
    pub fn wrote(&self, written: Written) {
        self.rows.fetch_add(written.rows, Relaxed);
        self.bytes.fetch_add(written.bytes, Relaxed);
    }

    /// All epochs before `next` are committed.
    pub fn committed_before(&self, next: Epoch) {
        self.uncommitted.store(next.0, Relaxed);
    }

    /// Where the sink says what it waits for.
    pub const fn status(&self) -> &Arc<SinkStatus> {
        &self.status
    }
}

/// An output in one target, over all workers of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkReport {
    /// The output.
    pub output: &'static str,
    /// The target's [identity](crate::sink::SinkFactory::identity).
    pub sink: String,
    /// What was made visible there by this process.
    pub written: Written,
    /// The last epoch that all workers of this process have committed; `None`: not one.
    pub committed: Option<Epoch>,
    /// What it waits for.
    pub waits_for: Option<String>,
    /// How often it has begun to wait.
    pub waits: u64,
}

type Gauges = BTreeMap<(&'static str, String), Vec<Arc<SinkGauge>>>;

/// See the module.
#[derive(Debug, Default)]
pub struct Sinks(Mutex<Gauges>);

impl Sinks {
    fn gauges(&self) -> MutexGuard<'_, Gauges> {
        // A map of shared counters is valid between any two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The gauge of one worker's part of `output` in the target `sink`, where `next` is the first
    /// epoch of this run.
    pub fn open(&self, output: &'static str, sink: String, next: Epoch) -> Arc<SinkGauge> {
        let gauge = Arc::new(SinkGauge::new(next));
        let mut gauges = self.gauges();
        let parts = gauges.entry((output, sink)).or_default();
        parts.push(Arc::clone(&gauge));
        gauge
    }

    /// All sinks of this process.
    pub fn reports(&self) -> Vec<SinkReport> {
        let gauges = self.gauges();
        gauges.iter().map(|(id, parts)| report(id, parts)).collect()
    }
}

fn report(id: &(&'static str, String), parts: &[Arc<SinkGauge>]) -> SinkReport {
    let sum = |count: fn(&SinkGauge) -> &AtomicU64| {
        parts.iter().map(|part| count(part).load(Relaxed)).sum()
    };
    let uncommitted = parts
        .iter()
        .map(|part| part.uncommitted.load(Relaxed))
        .min();
    SinkReport {
        output: id.0,
        sink: id.1.clone(),
        written: Written {
            rows: sum(|part| &part.rows),
            bytes: sum(|part| &part.bytes),
        },
        committed: uncommitted.and_then(|next| next.checked_sub(1)).map(Epoch),
        waits_for: parts.iter().find_map(|part| part.status.waits_for()),
        waits: parts.iter().map(|part| part.status.waits()).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_is_as_far_as_its_slowest_worker() {
        let sinks = Sinks::default();
        let open = || sinks.open("windows", "postgres-t".to_owned(), Epoch(4));
        let (first, second) = (open(), open());
        first.committed_before(Epoch(9));
        let report = || sinks.reports().remove(0);
        assert_eq!(report().committed, Some(Epoch(3)), "that of the run before");
        second.committed_before(Epoch(8));
        first.wrote(Written { rows: 2, bytes: 20 });
        second.wrote(Written { rows: 3, bytes: 30 });
        assert_eq!(report().committed, Some(Epoch(7)));
        assert_eq!(report().written, Written { rows: 5, bytes: 50 });
        assert_eq!((report().waits_for, report().waits), (None, 0));
        second.status().set(Some("a database".to_owned()));
        assert_eq!(report().waits_for.as_deref(), Some("a database"));
        second.status().set(None);
        assert_eq!((report().waits_for, report().waits), (None, 1));
    }

    #[test]
    fn before_its_first_epoch_a_new_job_has_committed_nothing() {
        let sinks = Sinks::default();
        sinks.open("windows", "null".to_owned(), Epoch(0));
        assert_eq!(sinks.reports()[0].committed, None);
    }
}
