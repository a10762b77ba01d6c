//! What a run asks of the machine that it runs on: threads, clocks, the next item of a queue.
//!
//! All waiting that a run does on threads of its own goes through here, so that in the engine's own
//! tests one seeded scheduler can stand in for the machine (`crate::simulation`): then each of
//! these functions is a point at which something else may happen first. In a build that is not
//! such a test there is only the machine.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use timely::scheduling::Activator;
use timely::worker::Worker;
use timely::{CommunicationConfig, WorkerConfig};
use uuid::Uuid;

use crate::fault;
#[cfg(test)]
use crate::simulation::machine as simulated;
use crate::time::EventTime;

/// The monotonic clock.
pub fn now() -> Instant {
    #[cfg(test)]
    if let Some(now) = simulated::now() {
        return now;
    }
    Instant::now()
}

/// The wall clock as an event time.
pub fn wall_clock() -> EventTime {
    #[cfg(test)]
    if let Some(wall) = simulated::wall_clock() {
        return wall;
    }
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let since = since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    });
    EventTime(since.saturating_add(fault::clock_offset_ms()))
}

/// Whether a simulation stands in for the machine: then it takes what is said to people.
#[cfg_attr(not(test), expect(unused_variables, reason = "nobody else listens"))]
pub fn overhears(message: fmt::Arguments<'_>) -> bool {
    #[cfg(test)]
    if simulated::is_on() {
        simulated::overhear(message.to_string());
        return true;
    }
    false
}

/// A new random identity.
pub fn new_id() -> Uuid {
    #[cfg(test)]
    if let Some(id) = simulated::new_id() {
        return id;
    }
    Uuid::new_v4()
}

/// A thread that was started.
#[derive(Debug)]
pub struct Thread(Option<JoinHandle<()>>);

impl Thread {
    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.0.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// What it panicked with.
    pub fn join(self) -> Result<(), Box<dyn Any + Send>> {
        self.0.map_or(Ok(()), JoinHandle::join)
    }
}

/// Starts a thread.
///
/// # Errors
/// When the system gives none.
pub fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
    #[cfg(test)]
    if simulated::is_on() {
        simulated::spawn(None, body);
        return Ok(Thread(None));
    }
    let builder = std::thread::Builder::new().name(name);
    builder.spawn(body).map(|thread| Thread(Some(thread)))
}

/// Waits for the next item of `queue`; `None`: nothing follows.
pub fn receive<T>(queue: &Receiver<T>) -> Option<T> {
    #[cfg(test)]
    if simulated::is_on() {
        return simulated::receive(queue);
    }
    queue.recv().ok()
}

/// Runs `body`; an error when it panics.
///
/// # Errors
/// What it panicked with.
pub fn catch<T>(body: impl FnOnce() -> T) -> Result<T, Box<dyn Any + Send>> {
    let outcome = catch_unwind(AssertUnwindSafe(body));
    #[cfg(test)]
    let outcome = simulated::let_die(outcome);
    outcome
}

/// Has `worker` do what there is to do, or waits for something, at most `patience`.
pub fn step(worker: &mut Worker, patience: Duration) {
    #[cfg(test)]
    if simulated::is_on() {
        return simulated::step(worker);
    }
    worker.step_or_park(Some(patience));
}

/// Activates an operator of this worker after `wait`.
pub fn activate_after(activator: &Activator, wait: Duration) {
    #[cfg(test)]
    if simulated::is_on() {
        return simulated::activate_after(activator, wait);
    }
    activator.activate_after(wait);
}

/// Runs `body` on so many workers, and returns what they return. `serializes`: records travel
/// between them as bytes, as between processes.
///
/// # Errors
/// When a worker cannot be started, or has panicked.
pub fn execute<T: Send + 'static>(
    workers: usize,
    serializes: bool,
    body: impl Fn(&mut Worker) -> T + Send + Sync + 'static,
) -> Result<Vec<T>, String> {
    #[cfg(test)]
    if simulated::is_on() {
        return Ok(simulated::execute(workers, body));
    }
    let config = timely::Config {
        communication: match workers {
            _ if serializes => CommunicationConfig::ProcessBinary(workers),
            1 => CommunicationConfig::Thread,
            _ => CommunicationConfig::Process(workers),
        },
        worker: WorkerConfig::default(),
    };
    let guards = timely::execute(config, body)?;
    guards.join().into_iter().collect()
}
