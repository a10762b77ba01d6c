//! How a run goes on writing, until a newer one does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use thiserror::Error;
use uuid::Uuid;

use super::claim::Claim;
use super::{JobRecord, LogItem, LogObject, Past, highest, numbers, object_name};
use crate::fault;
use crate::sink::{NewestRun, RunNumber, SinkError};
use crate::state::retention::{History, Own, Retention};
use crate::state::{Put, StateError, Storage, StorageError};

/// The only writer of the log, as long as its run is the newest.
pub struct LogWriter {
    storage: Arc<dyn Storage>,
    run: RunNumber,
    nonce: Uuid,
    job_at: Option<u64>,
    /// The numbers of the objects that were there at the start.
    numbers: Vec<u64>,
    /// The number of the last object written.
    last: Arc<AtomicU64>,
    /// Whether a put has failed: what stands at the next number is unknown.
    is_broken: bool,
}

/// Why the log was not written.
#[derive(Debug, Error)]
pub enum LogWriteError {
    /// A newer run has claimed the log: this one must end.
    #[error("run {run} goes on with this job now; this one has ended")]
    Fenced {
        /// The run that stands where this one was to write.
        run: RunNumber,
    },
    /// It cannot be read or written.
    #[error("{0}")]
    State(#[from] StateError),
}

impl LogWriter {
    pub(super) fn new(claim: Claim) -> Self {
        Self {
            storage: claim.storage,
            run: claim.run,
            nonce: claim.nonce,
            job_at: claim.job_at,
            numbers: claim.numbers,
            last: Arc::new(AtomicU64::new(claim.number)),
            is_broken: false,
        }
    }

    /// The number of the run.
    pub const fn run(&self) -> RunNumber {
        self.run
    }

    /// The number of the last object written.
    pub fn last_number(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// Writes one object with these items and returns its number; when this returns, they are
    /// durable and belong to the newest run.
    ///
    /// # Errors
    /// [`LogWriteError::Fenced`] when a newer run has claimed the log. After any error the items
    /// may be in the log or not, and nothing more can be appended: the next run will see.
    pub fn append(&mut self, items: &[LogItem]) -> Result<u64, LogWriteError> {
        if self.is_broken {
            return Err(self.refused("it cannot be written after an error").into());
        }
        let number = self.last_number() + 1;
        let has_job = items.iter().any(|item| matches!(item, LogItem::Job(_)));
        let object = LogObject {
            run: self.run,
            nonce: self.nonce,
            job_at: if has_job { Some(number) } else { self.job_at },
            items: items.to_vec(),
        };
        let what = what_is_put(items);
        fault::around(what, "before");
        let result = self.put(number, &object);
        fault::around(what, "after");
        self.is_broken = result.is_err();
        result?;
        self.job_at = object.job_at;
        self.last.store(number, Ordering::Release);
        Ok(number)
    }

    fn put(&self, number: u64, object: &LogObject) -> Result<(), LogWriteError> {
        let name = object_name(number);
        let put = self.storage.put(&name, &object.encode());
        if put.map_err(StateError::from)? == Put::Written {
            return Ok(());
        }
        match LogObject::read(&*self.storage, number)? {
            Some(found) if found == *object => Ok(()),
            Some(found) if found.nonce != self.nonce => {
                Err(LogWriteError::Fenced { run: found.run })
            }
            Some(_) => Err(self
                .refused(&format!("{name} is not what was put there"))
                .into()),
            // An answer was lost, and what was put is deleted again: only a newer run does that.
            None => match highest(&*self.storage)? {
                Some((_, newest)) if newest.nonce != self.nonce => {
                    Err(LogWriteError::Fenced { run: newest.run })
                }
                _ => Err(self.refused(&format!("{name} is gone")).into()),
            },
        }
    }

    fn refused(&self, what: &str) -> StateError {
        StateError::Refused(format!("{}: the epoch log: {what}", self.storage.name()))
    }

    /// What deletes that which is no longer needed of this job, `past` being what this run goes on
    /// from (`None`: the job is new).
    pub fn retention(
        &mut self,
        history: History,
        job: &JobRecord,
        past: Option<&Past>,
    ) -> Retention {
        let own = Own {
            job: job.job,
            opened_at: job.opened_at,
            job_at: self.job_at.unwrap_or(0),
            run: self.run,
            numbers: std::mem::take(&mut self.numbers),
            chain: past
                .and_then(|past| past.manifest.as_ref())
                .map_or_else(Vec::new, |manifest| manifest.objects.clone()),
        };
        Retention::new(Arc::clone(&self.storage), history, own)
    }

    /// The log as others on this run's side see it.
    pub fn view(&self) -> LogView {
        let last = Arc::clone(&self.last);
        LogView::beside(Arc::clone(&self.storage), self.run, self.nonce, last)
    }
}

/// Which points of [`fault`] the put of these items passes.
fn what_is_put(items: &[LogItem]) -> &'static str {
    if items.iter().any(|it| matches!(it, LogItem::Manifest(_))) {
        "manifest"
    } else {
        "log"
    }
}

/// Says which run is the newest.
#[derive(Clone)]
pub struct LogView {
    storage: Arc<dyn Storage>,
    run: RunNumber,
    nonce: Uuid,
    /// The number of the last object written, beside the writer.
    last: Option<Arc<AtomicU64>>,
}

impl LogView {
    /// The log beside its writer, which keeps the number of the last object in `last`.
    pub(super) fn beside(
        storage: Arc<dyn Storage>,
        run: RunNumber,
        nonce: Uuid,
        last: Arc<AtomicU64>,
    ) -> Self {
        Self {
            storage,
            run,
            nonce,
            last: Some(last),
        }
    }

    /// The log as the other processes of a run see it, whose takeover has this nonce: they do not
    /// know how far it was written.
    pub fn elsewhere(storage: Arc<dyn Storage>, run: RunNumber, nonce: Uuid) -> Self {
        Self {
            storage,
            run,
            nonce,
            last: None,
        }
    }

    /// Whether the run that has this nonce can be seen in the log. A higher run number proves
    /// nothing: it may stand in the log of another job, in a folder of this host alone.
    ///
    /// # Errors
    /// When the storage fails, or an object that must be read is damaged.
    pub fn sees_the_run(&self) -> Result<bool, StateError> {
        for number in numbers(&*self.storage)?.into_iter().rev() {
            match LogObject::read(&*self.storage, number)? {
                Some(object) if object.nonce == self.nonce => return Ok(true),
                // Its takeover is never deleted, and only newer runs write above it.
                Some(object) if object.run < self.run => return Ok(false),
                _ => {}
            }
        }
        Ok(false)
    }

    fn newest(&self) -> Result<RunNumber, StateError> {
        if let Some(last) = &self.last
            && self.is_alone(last.load(Ordering::Acquire))?
        {
            return Ok(self.run);
        }
        match highest(&*self.storage)? {
            Some((_, object)) => Ok(object.run),
            None if self.last.is_some() => Ok(self.run),
            // The newest takeover is never deleted.
            None => Err(StateError::Refused(format!(
                "{}: the log is gone: somebody has removed the state, or it lies elsewhere now",
                self.storage.name()
            ))),
        }
    }

    /// Whether nothing but this run's own objects stand after this number.
    ///
    /// What follows the own last object is the own next one, or the takeover of a newer run, which
    /// is never deleted. So the log need not be listed as long as nothing has happened.
    fn is_alone(&self, mut number: u64) -> Result<bool, StateError> {
        loop {
            number += 1;
            match LogObject::read(&*self.storage, number)? {
                None => return Ok(true),
                Some(object) if object.nonce == self.nonce => {}
                Some(_) => return Ok(false),
            }
        }
    }
}

impl NewestRun for LogView {
    fn newest_run(&self) -> Result<RunNumber, SinkError> {
        self.newest().map_err(|error| match error {
            StateError::Storage(StorageError::Aborted) => SinkError::Aborted,
            StateError::Storage(StorageError::Unreachable { target, reason }) => {
                SinkError::Unreachable { target, reason }
            }
            other => SinkError::Write {
                target: self.storage.name(),
                reason: other.to_string(),
            },
        })
    }
}
