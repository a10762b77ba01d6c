//! The threads that write a run's state: its log, and each worker's objects of checkpoints. They
//! may block; workers hand things over and never wait.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use super::control::{Notice, Notices, PostBox};
use super::heads::Heads;
use super::{Failure, RunError};
use crate::fault;
use crate::flow::Part;
use crate::host;
use crate::sink::{JobId, RunNumber};
use crate::state::retention::Retention;
use crate::state::{
    CheckpointHeader, LogItem, LogWriteError, LogWriter, Manifest, StateError, Storage, checkpoint,
};
use crate::terminal;

/// As many items at most go into one object of the log.
const ITEMS_PER_OBJECT: usize = 256;

/// Where the items of the log go.
pub struct Recorder {
    /// `None`: nothing is kept, and everything counts as recorded.
    state: Option<Recorded>,
    /// Who looks at the manifests.
    observer: Option<Observer>,
    notices: Notices,
}

/// What is kept, and what that needs.
pub struct Recorded {
    /// Writes the log.
    pub writer: LogWriter,
    /// Deletes what is no longer needed.
    pub retention: Retention,
    /// Goes into the manifests.
    pub heads: Heads,
}

/// Takes manifests as they are made.
pub type Observer = Box<dyn FnMut(&Manifest) + Send>;

impl Recorder {
    /// Into the log of `state`.
    pub const fn new(state: Option<Recorded>, notices: Notices) -> Self {
        Self {
            state,
            observer: None,
            notices,
        }
    }

    /// Nowhere; `observer` takes the manifests.
    pub const fn observed(observer: Observer, notices: Notices) -> Self {
        Self {
            state: None,
            observer: Some(observer),
            notices,
        }
    }

    /// Starts the thread that writes; what it returns takes items and never blocks for long: the
    /// coordinator is only ever a few epochs ahead of the log.
    pub fn start(self, failure: Failure) -> impl FnMut(LogItem) + Send + 'static {
        let (sender, receiver) = crossbeam_channel::bounded(4 * ITEMS_PER_OBJECT);
        start_thread("log", failure, move || self.write_all(&receiver));
        move |item| {
            // A log that failed has ended its thread, and with it the run.
            let _ = sender.send(item);
        }
    }

    fn write_all(mut self, items: &Receiver<LogItem>) -> Result<(), RunError> {
        while let Some(first) = self.next(items) {
            let more = items.try_iter().take(ITEMS_PER_OBJECT - 1);
            let mut items: Vec<LogItem> = std::iter::once(first).chain(more).collect();
            let number = match &mut self.state {
                Some(state) => state.append(&mut items)?,
                None => 0,
            };
            self.tell(items, number);
        }
        Ok(())
    }

    /// The next item. In the meantime what is no longer needed is deleted, a step at a time.
    fn next(&mut self, items: &Receiver<LogItem>) -> Option<LogItem> {
        while let Some(state) = &mut self.state
            && items.is_empty()
        {
            match state.retention.step() {
                Ok(true) => {}
                Ok(false) => break,
                // The state is only larger than it need be; the next run deletes what is left.
                Err(error) => {
                    terminal::message(format_args!("state: nothing more is deleted: {error}"));
                    break;
                }
            }
        }
        host::receive(items)
    }

    fn tell(&mut self, items: Vec<LogItem>, number: u64) {
        for item in items {
            match item {
                LogItem::Epoch(entry) => self.notices.send(Notice::Durable(entry.epoch)),
                LogItem::Manifest(manifest) => {
                    if let Some(observe) = &mut self.observer {
                        observe(&manifest);
                    }
                    self.notices.send(Notice::Published(manifest.epoch));
                    if let Some(state) = &mut self.state {
                        state.retention.named(*manifest, number);
                    }
                }
                LogItem::Takeover(_) | LogItem::Job(_) => {}
            }
        }
    }
}

impl Recorded {
    /// Writes one object; its number.
    fn append(&mut self, items: &mut [LogItem]) -> Result<u64, RunError> {
        for item in &mut *items {
            if let LogItem::Manifest(manifest) = item {
                self.heads.add_to(manifest);
            }
        }
        Ok(self.writer.append(items)?)
    }
}

impl From<LogWriteError> for RunError {
    fn from(error: LogWriteError) -> Self {
        match error {
            LogWriteError::Fenced { .. } => Self::Refused(error.to_string()),
            LogWriteError::State(error) => Self::from(error),
        }
    }
}

impl From<StateError> for RunError {
    fn from(error: StateError) -> Self {
        if error.is_refusal() {
            Self::Refused(error.to_string())
        } else {
            Self::State(error)
        }
    }
}

/// What every worker needs to store its objects.
#[derive(Clone)]
pub struct StoreOptions {
    /// Where they go.
    pub storage: Arc<dyn Storage>,
    /// The job.
    pub job: JobId,
    /// The run.
    pub run: RunNumber,
}

/// Starts the thread that stores the objects of `worker`; what it returns takes their contents.
pub fn store_parts(
    options: StoreOptions,
    worker: usize,
    post: PostBox,
    failure: Failure,
) -> Sender<Part> {
    let (sender, parts) = crossbeam_channel::unbounded::<Part>();
    start_thread("checkpoint", failure, move || {
        while let Some(part) = host::receive(&parts) {
            store(&options, worker, &post, part)?;
        }
        Ok(())
    });
    sender
}

/// Starts a thread whose error ends the run.
fn start_thread(
    name: &str,
    failure: Failure,
    body: impl FnOnce() -> Result<(), RunError> + Send + 'static,
) {
    let told = failure.clone();
    let started = host::spawn(name.to_owned(), move || {
        if let Err(error) = body() {
            told.set(error);
        }
    });
    if let Err(error) = started {
        failure.set(RunError::Thread(error.to_string()));
    }
}

fn store(
    options: &StoreOptions,
    worker: usize,
    post: &PostBox,
    part: Part,
) -> Result<(), RunError> {
    let header = CheckpointHeader {
        job: options.job,
        epoch: part.epoch,
        run: options.run,
        worker,
        is_full: part.is_full,
        operators: part.operators,
    };
    let (name, bytes) = (header.object_name(), part.snapshot.encode(&header));
    // A name that is there already is this very object, put by a request whose answer was lost:
    // no other run has names like it.
    fault::around("checkpoint", "before");
    let put = options.storage.put(&name, &bytes);
    put.map_err(StateError::from)?;
    fault::around("checkpoint", "after");
    let object = checkpoint::object_ref(&name, &bytes);
    post.stored(header.epoch, worker, object);
    Ok(())
}
