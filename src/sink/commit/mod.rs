//! How sinks commit each epoch exactly once: the rules, apart from the world that they rule.
//!
//! Each committer is a plain struct over a small trait. A method of such a trait is one atomic step
//! outside (a transaction, a lock, a cut, a put), and so are its pauses: nothing here has a thread,
//! a clock or a sleep of its own.
//!
//! | module | what it holds |
//! |---|---|
//! | [`table`] | rows and their epoch in one guarded transaction |
//! | [`lines`] | one file, appended to by one run at a time and cut at a start |
//! | [`claim`] | files that are put once, in a folder or a bucket that is one job's |
//! | [`topic`] | a transaction per epoch and shard in a topic |
//! | [`owner`] | whose output a file or a folder holds |

use super::{JobContext, SinkError};

pub mod claim;
pub mod lines;
pub mod owner;
pub mod table;
pub mod topic;

/// Asks the log whether the run of `job`, which writes to `target`, is still the newest.
///
/// # Errors
/// [`SinkError::Fenced`] when it is not.
pub fn check_newest(job: &JobContext, target: &str) -> Result<(), SinkError> {
    let newest = job.log.newest_run()?;
    if newest > job.run {
        return Err(SinkError::Fenced(format!(
            "{target}: run {newest} of the job has started, this is run {}",
            job.run
        )));
    }
    Ok(())
}

/// Why a run of `job` cannot write, when a target has refused it with `error`: a target that does
/// not fit what the run knows may simply be ahead of it, because a newer run has been there. Then
/// nothing is to be restored or begun anew.
pub fn explained(error: SinkError, job: Option<&JobContext>) -> SinkError {
    let (SinkError::Refused(_), Some(job)) = (&error, job) else {
        return error;
    };
    match job.log.newest_run() {
        Ok(newest) if newest > job.run => SinkError::Fenced(format!(
            "run {newest} of the job has started and writes there now, this is run {}",
            job.run
        )),
        _ => error,
    }
}

#[cfg(test)]
pub(crate) mod sample {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use uuid::Uuid;

    use super::super::{JobContext, JobId, NewestRun, RunNumber, SinkError};
    use crate::time::Epoch;

    /// A log that knows only the number of its newest run.
    #[derive(Debug)]
    pub(crate) struct Log(pub(crate) AtomicU64);

    impl Log {
        pub(crate) const fn new(run: u64) -> Self {
            Self(AtomicU64::new(run))
        }
    }

    impl NewestRun for Log {
        fn newest_run(&self) -> Result<RunNumber, SinkError> {
            Ok(RunNumber(self.0.load(Ordering::SeqCst)))
        }
    }

    /// The newest run of a job, from `checkpoint`, with epochs up to `logged` in the log.
    pub(crate) fn job(run: u64, checkpoint: Option<u64>, logged: Option<u64>) -> JobContext {
        JobContext {
            job: JobId(Uuid::from_u128(7)),
            run: RunNumber(run),
            checkpoint: checkpoint.map(Epoch),
            logged: logged.map(Epoch),
            sinks: BTreeMap::new(),
            replace_output: false,
            log: Arc::new(Log::new(run)),
        }
    }
}
