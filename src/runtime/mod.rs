//! A run: threads, control, and what is left at the end.
//!
//! * [`run`]: from the options of a run to what is left of it, when the last epoch is committed.
//! * `beginning`: where it begins, by its state or at the start of its input.
//! * `targets`: what the targets of its outputs are asked before that.
//! * `workers`: builds and steps the dataflows.
//! * `heads`: whether the files of an input are those that an earlier run has read.
//! * `helpers`: what goes on beside the workers, on threads of its own.
//! * [`control`]: how workers and the coordinator talk.
//! * [`ingest`]: what one worker reads.
//! * [`state`]: what it finds in its state, and where it goes on from there.
//! * [`replay`]: recorded epochs are run again, and what comes of them is compared.
//! * [`manifests`]: when a checkpoint is complete, and what its manifest says.
//! * `record`: what is written down of it, on threads of its own.
//! * `processes`: how a run begins and ends that has several processes.
//! * [`metrics`]: what is counted while it goes on.
//! * [`recovery`]: how long it takes until it has caught up with the run before it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

use crate::cluster::ClusterError;
use crate::join::DimError;
use crate::ledger::LedgerError;
use crate::sink::SinkError;
use crate::source::SourceError;
use crate::state::StateError;

pub use self::execute::{Pipeline, RunOptions, Summary, describe, run};

mod beginning;
pub mod control;
mod execute;
mod heads;
mod helpers;
pub mod ingest;
pub mod manifests;
pub mod metrics;
mod processes;
mod record;
pub mod recovery;
pub mod replay;
pub mod state;
mod targets;
mod workers;

/// Why a run failed.
#[derive(Debug, Error)]
pub enum RunError {
    /// The input cannot be read.
    #[error("input: {0}")]
    Source(#[source] SourceError),
    /// An output cannot be written.
    #[error("output {output}: {error}")]
    Sink {
        /// Which output.
        output: &'static str,
        /// Why.
        error: SinkError,
    },
    /// An offset or a record is not accounted for.
    #[error(
        "the ledger is off: {0}; this is a defect of highwater, please report it. Nothing of that \
         epoch was committed"
    )]
    Ledger(#[source] LedgerError),
    /// The state cannot be read or written.
    #[error("{0}")]
    State(#[source] StateError),
    /// The state is not for this run, or a newer run has taken it over.
    #[error("{0}")]
    Refused(String),
    /// An object of a checkpoint is not what was written.
    #[error("state: {0}; it is whole, but holds something else")]
    Checkpoint(String),
    /// The dimension tables cannot be read.
    #[error("dimensions: {0}")]
    Dimensions(#[source] DimError),
    /// The system gives no thread.
    #[error("no thread could be started: {0}")]
    Thread(String),
    /// An option makes no sense for this pipeline.
    #[error("{0}")]
    Usage(String),
    /// Another process did not come, or was lost.
    #[error("{0}")]
    Peer(String),
    /// A worker panicked.
    #[error("a worker failed: {0}; this is a defect of highwater")]
    Worker(String),
}

impl RunError {
    /// Whether the run was not allowed to go on: its state is another's, a newer run has it, or what
    /// it is to read again is not there as it was.
    pub const fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Refused(_)
                | Self::Checkpoint(_)
                | Self::Source(SourceError::Changed { .. } | SourceError::Gone { .. })
                | Self::Sink {
                    error: SinkError::Fenced(_) | SinkError::Refused(_),
                    ..
                }
        )
    }

    /// Whether the run only ended because the reader of standard output went away.
    pub const fn is_closed_output(&self) -> bool {
        matches!(
            self,
            Self::Sink {
                error: SinkError::Closed,
                ..
            }
        )
    }
}

impl From<ClusterError> for RunError {
    fn from(error: ClusterError) -> Self {
        match error {
            ClusterError::Mismatch(text) => Self::Usage(text),
            ClusterError::Peer(text) => Self::Peer(text),
        }
    }
}

/// The first error of a run; it ends all workers.
#[derive(Clone, Debug, Default)]
pub struct Failure(Arc<FailureState>);

#[derive(Debug, Default)]
struct FailureState {
    is_set: AtomicBool,
    error: Mutex<Option<RunError>>,
}

impl Failure {
    /// Ends the run because of `error`, unless it ends because of another one already.
    pub fn set(&self, error: RunError) {
        let mut first = self.0.error.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(error);
        self.0.is_set.store(true, Ordering::SeqCst);
    }

    /// Whether the run has failed.
    pub fn is_set(&self) -> bool {
        self.0.is_set.load(Ordering::SeqCst)
    }

    /// The error.
    pub fn take(&self) -> Option<RunError> {
        self.0
            .error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}
