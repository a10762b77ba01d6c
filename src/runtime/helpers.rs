//! What goes on beside the workers, on threads of its own: partitions and changed dimension tables
//! are looked for, and the coordinator is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::RunOptions;
use super::control::{Notice, Notices, wall_clock};
use super::execute::Kept;
use crate::epoch::Resume;
use crate::join::DimLoader;
use crate::source::Partition;
use crate::state::{Storage, dims};
use crate::terminal;

/// Partitions that are there now and that the state does not know were found since.
pub(super) fn tell_found(notices: &Notices, resume: &Resume, partitions: &[Partition]) {
    let unknown = partitions.iter().filter(|it| !resume.knows(it.id));
    let unknown: Vec<_> = unknown.cloned().collect();
    if !unknown.is_empty() {
        notices.send(Notice::Found(unknown));
    }
}

/// Reads the dimension tables again; what has changed is stored before the coordinator hears of
/// it. `unstored`: a load that could not be stored yet; `tells`: whether other processes need it.
fn refresh(
    dimensions: &dyn DimLoader,
    storage: Option<&dyn Storage>,
    unstored: &mut Option<u64>,
    tells: bool,
    notices: &Notices,
) {
    let failed = |error: &dyn std::fmt::Display| {
        terminal::message(format_args!(
            "dimensions: {error}; the rows read before stay in use"
        ));
    };
    if unstored.is_none() {
        match dimensions.again(wall_clock()) {
            Ok(number) => *unstored = number,
            Err(error) => return failed(&error),
        }
    }
    let Some(number) = *unstored else { return };
    let stored = storage.map(|storage| dims::store(storage, &dimensions.stored()));
    if let Some(Err(error)) = stored {
        return failed(&error);
    }
    *unstored = None;
    let load = tells.then(|| dimensions.stored().bytes);
    notices.send(Notice::Refreshed(number, load));
}

/// The threads that look for new partitions and for changed dimension tables.
pub(super) struct Helpers {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Helpers {
    pub(super) fn none() -> Self {
        Self {
            stop: Arc::default(),
            threads: Vec::new(),
        }
    }

    pub(super) fn start(options: &RunOptions, kept: Option<&Kept>) -> Self {
        let mut helpers = Self::none();
        if let Some(interval) = options.source.discovery_interval() {
            let (source, notices) = (Arc::clone(&options.source), options.notices.clone());
            helpers.every(interval, move || {
                // A source that cannot be reached now is looked at again later; its readers know.
                if let Ok(partitions) = source.partitions() {
                    notices.send(Notice::Found(partitions));
                }
            });
        }
        if let (Some(interval), Some(dimensions)) =
            (options.dims_refresh, options.pipeline.dimensions())
        {
            let notices = options.notices.clone();
            let storage = kept.map(|kept| Arc::clone(&kept.store.storage));
            let (mut unstored, tells) = (None, options.cluster.is_some());
            let mut refresh = move || {
                refresh(
                    &*dimensions,
                    storage.as_deref(),
                    &mut unstored,
                    tells,
                    &notices,
                );
            };
            if kept.is_some() {
                // What has changed while nobody ran.
                refresh();
            }
            helpers.every(interval, refresh);
        }
        helpers
    }

    fn every(&mut self, interval: Duration, mut work: impl FnMut() + Send + 'static) {
        let stop = Arc::clone(&self.stop);
        self.threads.push(std::thread::spawn(move || {
            let mut last = Instant::now();
            while !stop.load(Ordering::SeqCst) {
                std::thread::park_timeout(interval.saturating_sub(last.elapsed()));
                if last.elapsed() >= interval {
                    last = Instant::now();
                    work();
                }
            }
        }));
    }

    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in &self.threads {
            thread.thread().unpark();
        }
    }
}
