//! Whether the workers of this process make steps.
//!
//! A worker never waits for anything but work, and then not for long: one that stands still is a
//! defect that only a new start mends. A server that does not answer stops no worker.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::runtime::metrics::workers::WorkerStatus;

/// See the module.
#[derive(Debug)]
pub struct Liveness {
    deadline: Duration,
    /// The steps of each worker, and when they were first seen to be so many.
    seen: Mutex<BTreeMap<usize, (u64, Instant)>>,
}

impl Liveness {
    /// A worker may take as long as `deadline` for one step.
    pub const fn new(deadline: Duration) -> Self {
        Self {
            deadline,
            seen: Mutex::new(BTreeMap::new()),
        }
    }

    /// What stands still by now, if anything does.
    pub fn look(&self, workers: &[WorkerStatus], now: Instant) -> Option<String> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stuck = None;
        for worker in workers {
            let known = seen.entry(worker.worker).or_insert((worker.steps, now));
            if known.0 != worker.steps {
                *known = (worker.steps, now);
            }
            let still = now.saturating_duration_since(known.1);
            if !worker.is_done && still > self.deadline {
                stuck.get_or_insert((worker.worker, still));
            }
        }
        stuck.map(|(worker, still)| {
            let seconds = still.as_secs();
            format!("worker {worker} has made no step for {seconds} s (--heartbeat-timeout)")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(worker: usize, steps: u64, is_done: bool) -> WorkerStatus {
        WorkerStatus {
            worker,
            steps,
            is_done,
            entries: 0,
        }
    }

    #[test]
    fn a_worker_that_stands_still_for_too_long_is_told() {
        let liveness = Liveness::new(Duration::from_secs(10));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let look = |steps, seconds| {
            liveness.look(&[worker(0, 7, true), worker(3, steps, false)], at(seconds))
        };
        assert_eq!(look(5, 0), None, "it has just been seen");
        assert_eq!(look(5, 10), None);
        let stuck = look(5, 11).expect("stuck");
        assert!(
            stuck.contains("worker 3") && stuck.contains("11 s"),
            "{stuck}"
        );
        assert_eq!(look(6, 12), None, "it goes on");
        assert_eq!(look(6, 22), None);
        assert!(look(6, 23).is_some());
    }

    #[test]
    fn nothing_is_expected_before_the_workers_have_begun() {
        let liveness = Liveness::new(Duration::from_secs(10));
        assert_eq!(liveness.look(&[], Instant::now()), None);
    }
}
