//! What process 0 hands out before a run, and what it gets back at the end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Share;
use crate::epoch::Resume;
use crate::ledger::Fates;
use crate::sink::{JobId, RunNumber, SinkMark};
use crate::state::Manifest;
use crate::time::{Epoch, PartitionId};

/// Everything that all processes must agree on, as process 0 has found it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Drawn by process 0 at its start: what tells this run from any other.
    pub run: Uuid,
    /// `None`: there is nothing to be done.
    pub work: Option<Box<Work>>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Where the run goes on.
    pub resume: Resume,
    /// How many partitions the source has.
    pub partitions: u32,
    /// What tells this run's files from those of others.
    pub run_label: String,
    /// The loads of the dimension tables, oldest first; none, when they lie in the state.
    pub loads: Vec<Vec<u8>>,
    /// The job, when the run has a state.
    pub job: Option<JobPart>,
}

/// What a process must know of the job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobPart {
    /// The job.
    pub job: JobId,
    /// The number of the run.
    pub run: RunNumber,
    /// The epoch of the checkpoint that the run starts from.
    pub checkpoint: Option<Epoch>,
    /// The last epoch in the log.
    pub logged: Option<Epoch>,
    /// The sinks that the checkpoint knows.
    pub sinks: BTreeMap<String, SinkMark>,
    /// Whether what another job has left in the targets may be removed.
    pub replace_output: bool,
    /// The manifest whose objects are to be loaded.
    pub manifest: Option<Manifest>,
}

/// What a process has done, when it has done all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its counters.
    pub share: Share,
    /// The fates of the records that it has read.
    pub fates: BTreeMap<PartitionId, Fates>,
}
