//! What a sink must know of the job and the run to commit each epoch exactly once.
//!
//! Everything that a sink writes down for itself is keyed by the job; the run only fences. Epochs
//! up to the last committed one are skipped when a run goes on where another has ended.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::SinkError;
use crate::time::{Epoch, Shard};

/// The identity of a job: drawn once, when its state is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobId(pub Uuid);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_simple().fmt(f)
    }
}

impl JobId {
    /// What tells names of this job from those of others in one folder: `j` and eight digits.
    pub fn tag(self) -> String {
        let digits = self.to_string();
        format!("j{}", &digits[..8])
    }
}

/// The number of a run of a job, from 1: one higher at each start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RunNumber(pub u64);

impl fmt::Display for RunNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Says which run is the newest, by the log itself.
pub trait NewestRun: Send + Sync {
    /// The highest run number in the log now.
    ///
    /// # Errors
    /// When the log cannot be read.
    fn newest_run(&self) -> Result<RunNumber, SinkError>;
}

/// Where a sink stood at a checkpoint: per shard what [`Sink::position`](super::Sink::position)
/// said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkMark {
    /// The positions.
    pub positions: BTreeMap<Shard, u64>,
}

/// The job that a run goes on with.
#[derive(Clone)]
pub struct JobContext {
    /// The job.
    pub job: JobId,
    /// This run.
    pub run: RunNumber,
    /// The epoch of the checkpoint that the run starts from; `None`: from the beginning.
    pub checkpoint: Option<Epoch>,
    /// The last epoch in the log; never less than `checkpoint`.
    pub logged: Option<Epoch>,
    /// The sinks that the checkpoint knows, by output and identity as in [`sink_id`].
    pub sinks: BTreeMap<String, SinkMark>,
    /// Whether what another job has left in the targets may be removed.
    pub replace_output: bool,
    /// The log, to ask which run is the newest.
    pub log: Arc<dyn NewestRun>,
}

/// The identity of a target: its kind, and its own name with what is no letter, digit, `.`, `_` or
/// `/` replaced by `_`.
pub(super) fn identity(kind: &str, name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._/".contains(c);
    let name: String = name
        .chars()
        .map(|c| if is_plain(c) { c } else { '_' })
        .collect();
    format!("{kind}-{name}")
}

/// How the sink of `output` with this identity is called within its job: in transactional ids, in
/// tables of epochs, in manifests. Letters, digits, `.`, `_`, `-`, `/`.
pub fn sink_id(output: &str, identity: &str) -> String {
    format!("{output}/{identity}")
}

impl JobContext {
    /// What the checkpoint knows of the sink with this id; `None`: it is new to the job.
    pub fn mark(&self, sink: &str) -> Option<&SinkMark> {
        self.sinks.get(sink)
    }

    /// Whether `committed`, the last epoch that a shard of `sink` has committed, is one that this
    /// run can go on from.
    ///
    /// # Errors
    /// [`SinkError::Refused`], with both numbers, when the shard is ahead of the log, or when it
    /// lacks epochs that the log can no longer replay.
    pub fn check_committed(
        &self,
        sink: &str,
        shard: Shard,
        committed: Option<Epoch>,
    ) -> Result<(), SinkError> {
        let number = |epoch: Option<Epoch>| {
            epoch.map_or_else(|| "none".to_owned(), |epoch| epoch.to_string())
        };
        let refused = |what: &str, theirs: Option<Epoch>, ours: Option<Epoch>| {
            SinkError::Refused(format!(
                "{sink}, shard {}: its last committed epoch is {}, {what} {}; \
                 restore the state or the target that is older, or start anew with \
                 --fresh --replace-output",
                shard.0,
                number(theirs),
                number(ours)
            ))
        };
        if committed > self.logged {
            return Err(refused(
                "the last one in the log is",
                committed,
                self.logged,
            ));
        }
        let is_known = committed.is_some() || self.mark(sink).is_some();
        if is_known && committed < self.checkpoint {
            return Err(refused(
                "and the log can be replayed only after",
                committed,
                self.checkpoint,
            ));
        }
        Ok(())
    }
}

impl fmt::Debug for JobContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobContext")
            .field("job", &self.job)
            .field("run", &self.run)
            .field("checkpoint", &self.checkpoint)
            .field("logged", &self.logged)
            .finish_non_exhaustive()
    }
}
