//! When a process that says nothing counts as gone, and a worker that makes no step as stuck.
//!
//! A plain struct that is told what was heard and when. The deadline is on signs of life, never on
//! the frontier: a sink that waits for its database is no reason to give up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// See the module.
#[derive(Debug)]
pub struct Health {
    deadline: Duration,
    peers: BTreeMap<usize, Pulse>,
    looked: Instant,
}

/// What was heard of a process.
#[derive(Debug)]
struct Pulse {
    heard: Instant,
    /// When it said last how many steps its workers have made.
    beaten: Instant,
    /// The steps of each worker, and since when they are that many.
    steps: Vec<(u64, Instant)>,
}

/// A process that counts as gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silence {
    /// Which one.
    pub process: usize,
    /// Why.
    pub why: String,
}

impl Health {
    /// Of these processes, which were all heard just now.
    pub fn new(
        deadline: Duration,
        processes: impl IntoIterator<Item = usize>,
        now: Instant,
    ) -> Self {
        let pulse = |process| {
            (
                process,
                Pulse {
                    heard: now,
                    beaten: now,
                    steps: Vec::new(),
                },
            )
        };
        Self {
            deadline,
            peers: processes.into_iter().map(pulse).collect(),
            looked: now,
        }
    }

    /// `process` said something.
    pub fn heard(&mut self, process: usize, now: Instant) {
        if let Some(pulse) = self.peers.get_mut(&process) {
            pulse.heard = now;
        }
    }

    /// The workers of `process` have made so many steps.
    pub fn beat(&mut self, process: usize, steps: &[u64], now: Instant) {
        let Some(pulse) = self.peers.get_mut(&process) else {
            return;
        };
        (pulse.heard, pulse.beaten) = (now, now);
        pulse.steps.resize(steps.len(), (0, now));
        for (known, steps) in pulse.steps.iter_mut().zip(steps) {
            if known.0 != *steps {
                *known = (*steps, now);
            }
        }
    }

    /// `process` has said that it ends: nothing more is expected of it.
    pub fn forget(&mut self, process: usize) {
        self.peers.remove(&process);
    }

    /// The process that is gone by now, if there is one. To be asked several times within the
    /// deadline: when it was not, this process itself was stopped, and the others have as long
    /// again.
    pub fn look(&mut self, now: Instant) -> Option<Silence> {
        if now.duration_since(self.looked) > self.deadline / 2 {
            self.begin_again(now);
        }
        self.looked = now;
        let seconds = self.deadline.as_secs_f64();
        for (&process, pulse) in &self.peers {
            if now.duration_since(pulse.heard) > self.deadline {
                let why = format!(
                    "it has said nothing for {seconds} s: it is stopped, its host hangs, or the \
                     network is cut (--heartbeat-timeout)"
                );
                return Some(Silence { process, why });
            }
            // By its own word: what it has not said yet is no step that it has not made.
            let stuck = |(steps, since): &(u64, Instant)| {
                let still = pulse.beaten.saturating_duration_since(*since);
                (1..u64::MAX).contains(steps) && still > self.deadline
            };
            if let Some(worker) = pulse.steps.iter().position(stuck) {
                let why = format!(
                    "its worker {worker} has made no step for {seconds} s (--heartbeat-timeout)"
                );
                return Some(Silence { process, why });
            }
        }
        None
    }

    fn begin_again(&mut self, now: Instant) {
        for pulse in self.peers.values_mut() {
            pulse.heard = now;
            pulse.steps.iter_mut().for_each(|(_, since)| *since = now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    fn looked_every_second(health: &mut Health, start: Instant, seconds: u64) -> Option<Silence> {
        (0..=seconds).find_map(|second| health.look(start + Duration::from_secs(second)))
    }

    #[test]
    fn a_process_that_says_nothing_is_gone_after_the_deadline() {
        let start = Instant::now();
        let mut health = Health::new(DEADLINE, [1, 2], start);
        assert_eq!(looked_every_second(&mut health, start, 10), None);
        health.heard(1, start + Duration::from_secs(10));
        let silence = looked_every_second(&mut health, start + DEADLINE, 1);
        assert_eq!(silence.expect("gone").process, 2);
    }

    #[test]
    fn a_worker_that_makes_no_step_is_stuck_unless_it_has_not_begun_or_is_done() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut health = Health::new(DEADLINE, [1], start);
        let mut last = None;
        for second in 0..30 {
            health.beat(1, &[0, u64::MAX, 7 + second.min(15)], at(second));
            last = last.or(health.look(at(second)).map(|silence| (second, silence)));
        }
        let (second, silence) = last.expect("stuck");
        assert_eq!(second, 26);
        assert!(silence.why.contains("worker 2"), "{silence:?}");
    }

    #[test]
    fn a_process_that_is_stopped_is_not_taken_for_one_with_a_stuck_worker() {
        let start = Instant::now();
        let mut health = Health::new(DEADLINE, [1], start);
        health.beat(1, &[5], start);
        health.beat(1, &[5], start + Duration::from_secs(1));
        let silence = looked_every_second(&mut health, start, 12).expect("gone");
        assert!(silence.why.contains("said nothing"), "{silence:?}");
    }

    #[test]
    fn whoever_was_stopped_accuses_nobody_at_once() {
        let start = Instant::now();
        let mut health = Health::new(DEADLINE, [1], start);
        let woken = start + Duration::from_secs(60);
        assert_eq!(health.look(woken), None);
        assert_eq!(looked_every_second(&mut health, woken, 10), None);
        assert!(looked_every_second(&mut health, woken + DEADLINE, 1).is_some());
    }

    #[test]
    fn nothing_is_expected_of_whoever_has_said_goodbye() {
        let start = Instant::now();
        let mut health = Health::new(DEADLINE, [1], start);
        health.forget(1);
        health.beat(1, &[5], start);
        assert_eq!(looked_every_second(&mut health, start, 60), None);
    }
}
