//! What the workers of this process do, for whoever watches them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What one worker counts; nobody else writes it.
#[derive(Debug, Default)]
pub struct WorkerGauge {
    steps: AtomicU64,
    is_done: AtomicUsize,
    entries: AtomicUsize,
}

impl WorkerGauge {
    /// It has made one more step.
    pub fn step(&self) {
        self.steps.fetch_add(1, Relaxed);
    }

    /// It makes no more steps.
    pub fn end(&self) {
        self.is_done.store(1, Relaxed);
    }

    /// Its windows hold so many entries: one per pane or fired window, and key.
    pub fn entries(&self, entries: usize) {
        self.entries.store(entries, Relaxed);
    }
}

/// What is known of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerStatus {
    /// Its number among all workers of the run.
    pub worker: usize,
    /// Steps that it has made; a worker without work makes about twenty a second.
    pub steps: u64,
    /// Whether it makes no more.
    pub is_done: bool,
    /// Entries of its windows.
    pub entries: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Workers(Mutex<BTreeMap<usize, Arc<WorkerGauge>>>);

impl Workers {
    fn gauges(&self) -> MutexGuard<'_, BTreeMap<usize, Arc<WorkerGauge>>> {
        // A map of shared counters is valid between any two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The gauge of `worker`.
    pub fn gauge(&self, worker: usize) -> Arc<WorkerGauge> {
        Arc::clone(self.gauges().entry(worker).or_default())
    }

    /// All workers of this process that have begun.
    pub fn statuses(&self) -> Vec<WorkerStatus> {
        let gauges = self.gauges();
        let status = |(worker, gauge): (&usize, &Arc<WorkerGauge>)| WorkerStatus {
            worker: *worker,
            steps: gauge.steps.load(Relaxed),
            is_done: gauge.is_done.load(Relaxed) != 0,
            entries: gauge.entries.load(Relaxed),
        };
        gauges.iter().map(status).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_counts_for_itself() {
        let workers = Workers::default();
        let (first, second) = (workers.gauge(0), workers.gauge(5));
        first.step();
        second.step();
        second.step();
        second.entries(9);
        workers.gauge(5).end();
        let seen = workers.statuses();
        let seen: Vec<_> = seen
            .iter()
            .map(|it| (it.worker, it.steps, it.is_done, it.entries))
            .collect();
        assert_eq!(seen, [(0, 1, false, 0), (5, 2, true, 9)]);
    }
}
