//! The rules of the exactly-once protocol by name, so that the engine's tests can switch each one
//! off and see a simulated execution fail (`crate::simulation`).
//!
//! In a build that is not such a test every rule is on, and asking costs nothing.

/// A rule of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "some are kept by the world outside")
)]
pub enum Rule {
    /// A sink commits an epoch only when it is durable in the log.
    LogBeforeEffects,
    /// The border watermark, not the local frontier, decides a pane's epoch.
    WDecidesEpoch,
    /// Floors are logged and replayed.
    FloorsLogged,
    /// The floor is raised at every border at which the partition is idle.
    FloorEachBorder,
    /// An idle or new partition is not read in epoch `k + 1` before the mark of border `k`.
    FloorWait,
    /// A starting run claims the next number in the log.
    Takeover,
    /// After its takeover put a run lists again.
    ClaimRelist,
    /// Takeover entries carry a nonce: the same run number is not enough.
    Nonce,
    /// Takeover entries are never deleted.
    TakeoverKept,
    /// Manifest `k` only after every sink has committed `k`.
    ManifestAfterSinks,
    /// Checkpoint objects are named by run as well.
    ObjectNames,
    /// Checkpoint borders are logged decisions.
    CheckpointLogged,
    /// Sinks work by shard, not by worker.
    Shards,
    /// A restarted sink skips committed epochs.
    SkipCommitted,
    /// Rows and epoch in one transaction.
    EpochInTxn,
    /// A commit to a table demands `run = mine and epoch < k`.
    GuardedCommit,
    /// A start takes a table over only where `run < mine`.
    GuardedTakeover,
    /// `run = mine and epoch >= k` means that the commit has happened.
    RetryIsSuccess,
    /// A start initialises the producers of all shards, which fences those of earlier runs.
    InitFences,
    /// The committed epochs of a topic are read after all initialisations.
    InitBeforeRead,
    /// A fenced producer of the newest run initialises again.
    Reinit,
    /// ... and reads the committed epoch again.
    Reread,
    /// Window files are written when a window is final, not when it fires.
    FinalOnce,
    /// A name is given once: objects of the state and data files are put if absent.
    PutIfAbsent,
    /// A file of lines is locked by one live run.
    LinesLock,
    /// Once it has the lock, a run asks the log again whether it is still the newest.
    LinesRecheck,
    /// A file of lines is cut to the manifest's length at a start.
    LinesCut,
    /// Empty epochs are committed at least at checkpoints.
    EmptyAtCheckpoint,
    /// An epoch's rows are sorted.
    Consolidate,
}

#[cfg(test)]
impl Rule {
    /// All of them.
    pub(crate) const ALL: [Self; 29] = [
        Self::LogBeforeEffects,
        Self::WDecidesEpoch,
        Self::FloorsLogged,
        Self::FloorEachBorder,
        Self::FloorWait,
        Self::Takeover,
        Self::ClaimRelist,
        Self::Nonce,
        Self::TakeoverKept,
        Self::ManifestAfterSinks,
        Self::ObjectNames,
        Self::CheckpointLogged,
        Self::Shards,
        Self::SkipCommitted,
        Self::EpochInTxn,
        Self::GuardedCommit,
        Self::GuardedTakeover,
        Self::RetryIsSuccess,
        Self::InitFences,
        Self::InitBeforeRead,
        Self::Reinit,
        Self::Reread,
        Self::FinalOnce,
        Self::PutIfAbsent,
        Self::LinesLock,
        Self::LinesRecheck,
        Self::LinesCut,
        Self::EmptyAtCheckpoint,
        Self::Consolidate,
    ];
}

/// Whether `rule` is kept.
#[cfg(not(test))]
#[inline]
pub const fn on(_rule: Rule) -> bool {
    true
}

#[cfg(test)]
pub(crate) use crate::simulation::rules::on;
