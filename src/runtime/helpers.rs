//! What goes on beside the workers, on threads of its own: partitions and changed dimension tables
//! are looked for, and the coordinator is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::RunOptions;
use super::beginning::Kept;
use super::control::{Notice, Notices, wall_clock};
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
/// it.
struct Refresh {
    dimensions: Arc<dyn DimLoader>,
    storage: Option<Arc<dyn Storage>>,
    notices: Notices,
    /// Whether other processes need what has changed.
    tells: bool,
    /// A load that could not be stored yet.
    unstored: Option<u64>,
    /// Why it does not work, as people were told last.
    trouble: Option<String>,
}

impl Refresh {
    /// One look. Whatever goes wrong is told once, and tried again at the next.
    fn run(&mut self) {
        match self.attempt() {
            Ok(()) if self.trouble.take().is_some() => {
                terminal::message(format_args!("dimensions: read again"));
            }
            Ok(()) => {}
            Err(reason) if self.trouble.as_ref() == Some(&reason) => {}
            Err(reason) => {
                terminal::message(format_args!(
                    "dimensions: {reason}; the rows read before stay in use, and the tables are \
                     read again at the next refresh"
                ));
                self.trouble = Some(reason);
            }
        }
    }

    fn attempt(&mut self) -> Result<(), String> {
        if self.unstored.is_none() {
            let found = self.dimensions.again(wall_clock());
            self.unstored = found.map_err(|error| error.to_string())?;
        }
        let Some(number) = self.unstored else {
            return Ok(());
        };
        if let Some(storage) = &self.storage {
            let stored = dims::store(&**storage, &self.dimensions.stored());
            stored.map_err(|error| error.to_string())?;
        }
        self.unstored = None;
        let told = self.tells.then(|| self.dimensions.told());
        self.notices.send(Notice::Refreshed(number, told));
        Ok(())
    }
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
            let mut refresh = Refresh {
                dimensions,
                storage: kept.map(|kept| Arc::clone(&kept.store.storage)),
                notices: options.notices.clone(),
                tells: options.cluster.is_some(),
                unstored: None,
                trouble: None,
            };
            if kept.is_some() {
                // What has changed while nobody ran.
                refresh.run();
            }
            helpers.every(interval, move || refresh.run());
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
