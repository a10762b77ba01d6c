//! Sinks: where the outputs of a pipeline go.
//!
//! A sink lives on a thread of its own, behind a bounded queue. Its thread may block: on a
//! network, on an fsync, on a database that sleeps. Nothing here runs on a worker.
//!
//! An output has [`OutputSpec`]; a [`SinkFactory`] is what a `--to` URI means; [`Sink`]s are
//! opened from it, one per worker, for the shards that belong to that worker.
//!
//! | module | what it holds |
//! |---|---|
//! | [`uri`] | what a `--to` URI means |
//! | [`commit`] | how each kind of target commits every epoch exactly once |
//! | [`job`] | what a sink must know to commit each epoch exactly once |
//! | [`commit`] | the rules of doing so, apart from the world |
//! | [`thread`] | one sink on a thread of its own, behind a bounded queue |
//! | [`console`], [`ndjson`], [`null`] | standard output, one file, nothing |
//! | [`detach`] | standard output beside outputs that matter when nobody reads it any more |
//! | [`files`] | CSV and Parquet files that appear whole, in a folder or a bucket |
//! | `delta` | tables of Delta Lake, made of such files |
//! | [`encode`] | rows as JSON, CSV and Parquet |

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::rows::{Columns, Rows};
use crate::time::{Epoch, EventTime, Shard, Span};

pub mod commit;
pub mod console;
#[cfg(feature = "parquet")]
pub mod delta;
pub mod detach;
pub mod encode;
pub mod files;
mod folder;
pub mod job;
#[cfg(feature = "kafka")]
pub mod kafka;
mod key;
mod lock;
pub mod ndjson;
pub mod null;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "s3")]
mod s3;
pub mod thread;
pub mod uri;

pub use self::commit::explained;
pub(crate) use self::folder::{make_folders, make_in, parent, sync_folder};
pub use self::job::{JobContext, JobId, NewestRun, RunNumber, SinkMark, sink_id};
pub use self::thread::{SinkEvent, SinkThread};
pub use self::uri::{SinkOptions, mask_secrets, parse_sink};

/// How often a sink that waits looks whether the run is over.
const ABORT_CHECK: Duration = Duration::from_millis(50);

/// What a sink has to know about an output.
#[derive(Clone, Debug)]
pub struct OutputSpec {
    /// The pipeline, as on the command line.
    pub pipeline: &'static str,
    /// The output, as on the command line (`windows`, `alerts`, ...).
    pub name: &'static str,
    /// Its columns.
    pub columns: Columns,
    /// What its rows are.
    pub kind: OutputKind,
    /// How a folder of files is partitioned: `date=YYYY-MM-DD/hour=HH/` of a timestamp column,
    /// or `NAME=VALUE/` of a text column. These columns of a `Value` layout are not in the files.
    pub layout: Layout,
}

/// What the rows of an output are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// Changes of window results: the natural key of a row is `window_start`, `window_end` and
    /// the group columns; later revisions of a key replace earlier ones.
    Windows {
        /// The names of the natural key's columns.
        key: Vec<&'static str>,
        /// How long after its end a window may still be revised: a window is final at the first
        /// epoch with `watermark >= end + keep`.
        keep: Span,
    },
    /// One row per record; the natural key is `source_topic`, `source_partition`,
    /// `source_offset`, which sinks that are tables add as columns.
    Records {
        /// The topic or path that `source_topic` shows.
        source: String,
    },
    /// Rows without a natural key (a summary per checkpoint).
    Log,
}

/// How a folder of files is partitioned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// All files lie in the folder itself.
    Flat,
    /// Under `date=YYYY-MM-DD/hour=HH/`, in UTC, of this timestamp column.
    DateHour(&'static str),
    /// Under `NAME=VALUE/` of this text column, which is not repeated in the files.
    Value(&'static str),
}

/// One shard's rows of one epoch, ready to be committed.
#[derive(Clone, Debug)]
pub struct EpochRows {
    /// The shard.
    pub shard: Shard,
    /// The epoch.
    pub epoch: Epoch,
    /// The border watermark of the epoch: windows with `end + keep <= watermark` are final.
    pub watermark: EventTime,
    /// Whether the epoch is a checkpoint: row files roll here.
    pub is_checkpoint: bool,
    /// The rows, in their deterministic order.
    pub rows: Rows,
}

/// What a sink wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows made visible.
    pub rows: u64,
    /// Encoded bytes, before the transport's own compression.
    pub bytes: u64,
}

impl std::ops::AddAssign for Written {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.bytes += other.bytes;
    }
}

/// What a `--to` URI means: checks the target and opens sinks on it.
pub trait SinkFactory: Send + Sync {
    /// What names this target within its job, without address or credentials, so that a target
    /// may move: kind and table, topic or path (`postgres-vehicles`, `ndjson-out/windows.ndjson`).
    /// Letters, digits, `.`, `_`, `-`, `/`.
    fn identity(&self) -> String;

    /// What holds for the rows of this target after any sequence of crashes and restarts, when the
    /// run has a state.
    fn guarantee(&self) -> Guarantee;

    /// How many shards the output is split into (1 for a single file or the console).
    fn shards(&self) -> u32;

    /// Checks that the target can be reached and written, and changes nothing. Returns one line
    /// for people that says what was found.
    ///
    /// # Errors
    /// When it cannot, with what to do about it.
    fn check(&self, output: &OutputSpec) -> Result<String, SinkError>;

    /// Makes what is missing (folder, table, topic), once per run, before any sink is opened.
    /// `partitions`: how many partitions the source has; a topic for per-record output is
    /// created with as many. With `job`, also what the target needs to commit exactly once, and
    /// whether it holds another job's output.
    ///
    /// # Errors
    /// When the target is wrong or cannot be reached.
    fn prepare(
        &self,
        output: &OutputSpec,
        partitions: u32,
        job: Option<&JobContext>,
    ) -> Result<(), SinkError>;

    /// Prepares for [`SinkFactory::open`] in a process that follows: the first one has prepared the
    /// target, for the job if there is one, and what may be missing is what only this host or this
    /// process has (a folder, what is known of a topic). `partitions` as for
    /// [`SinkFactory::prepare`].
    ///
    /// # Errors
    /// When the target is wrong or cannot be reached.
    fn prepare_follower(&self, output: &OutputSpec, partitions: u32) -> Result<(), SinkError> {
        self.prepare(output, partitions, None)
    }

    /// Checks whether `job`, to which the target is new, may have it, and changes nothing: asked
    /// before the run that goes on, or an earlier job in the same state, is ended for it.
    ///
    /// # Errors
    /// [`SinkError::Refused`] when the target holds something that is not to be removed.
    fn check_free(&self, _output: &OutputSpec, _job: &JobContext) -> Result<(), SinkError> {
        Ok(())
    }

    /// Checks, at the same moment, whether what the target holds can be replaced by the output of
    /// `job`, as was asked for; changes nothing.
    ///
    /// # Errors
    /// [`SinkError::Refused`] when the target itself keeps what it holds.
    fn check_replaceable(&self, _output: &OutputSpec, _job: &JobContext) -> Result<(), SinkError> {
        Ok(())
    }

    /// Whether this process sees what the first process of a run has put there for `job`; yes,
    /// where nothing can be put that others do not see.
    ///
    /// # Errors
    /// When the target cannot be looked at.
    fn sees_job(&self, _output: &OutputSpec, _job: &JobContext) -> Result<bool, SinkError> {
        Ok(true)
    }

    /// Opens a sink for `shards`. Called on the sink's own thread.
    ///
    /// # Errors
    /// When the target cannot be opened.
    fn open(
        &self,
        output: &OutputSpec,
        shards: &[Shard],
        context: &SinkContext,
    ) -> Result<Box<dyn Sink>, SinkError>;

    /// Whether `is_checkpoint` epochs publish files, so that the default checkpoint interval is
    /// 60 s, not 10 s.
    fn rolls_files(&self) -> bool {
        false
    }

    /// Whether each shard has a sink and a thread of its own, since commits are mostly waiting for
    /// a server.
    fn commits_shards_apart(&self, _context: &SinkContext) -> bool {
        false
    }
}

/// What a target can promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarantee {
    /// Each row is there once.
    ExactlyOnce,
    /// Rows after the last checkpoint may come again.
    AtLeastOnce,
}

/// What a sink waits for, for people and for whoever counts that.
#[derive(Debug, Default)]
pub struct SinkStatus {
    waits_for: Mutex<Option<String>>,
    waits: AtomicU64,
}

impl SinkStatus {
    /// The sink waits for this (or, with `None`, no longer for anything).
    pub fn set(&self, status: Option<String>) {
        let mut current = self
            .waits_for
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let begins = current.is_none() && status.is_some();
        *current = status;
        self.waits.fetch_add(u64::from(begins), Ordering::Relaxed);
    }

    /// What it waits for; `None` when all is well.
    pub fn waits_for(&self) -> Option<String> {
        let current = self
            .waits_for
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }

    /// How often it has begun to wait.
    pub fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }
}

/// What a sink shares with the run.
#[derive(Clone, Debug, Default)]
pub struct SinkContext {
    /// Set when the run fails or is aborted: a sink that retries gives up.
    pub abort: Arc<AtomicBool>,
    /// What the sink is waiting for.
    pub status: Arc<SinkStatus>,
    /// What tells the files of this run from those of other runs in the same folder, where a name
    /// holds an epoch: without state, epochs begin at 0 in each run. With state: the same text in
    /// every run of the job, so that a replay finds its own files. Letters, digits, `-` and `_`.
    pub run_label: String,
    /// The job that the run goes on with; `None`: nothing is kept.
    pub job: Option<Arc<JobContext>>,
    /// Whether rows may come again after a crash, in exchange for coming at once: then they do not
    /// wait for the log, and targets that can commit epochs do not.
    pub is_at_least_once: bool,
}

impl SinkContext {
    /// The job whose epochs are to be committed exactly once, if that is wanted.
    pub fn exactly_once(&self) -> Option<&Arc<JobContext>> {
        self.job.as_ref().filter(|_| !self.is_at_least_once)
    }

    /// Whether the run is over and a retry is pointless.
    pub fn is_aborted(&self) -> bool {
        self.abort.load(Ordering::Relaxed)
    }

    /// Waits for so long, unless the run is over before that.
    ///
    /// # Errors
    /// [`SinkError::Aborted`] when it is.
    pub fn pause(&self, how_long: Duration) -> Result<(), SinkError> {
        let end = Instant::now() + how_long;
        loop {
            if self.is_aborted() {
                return Err(SinkError::Aborted);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(ABORT_CHECK));
        }
    }

    /// Tells people what the sink waits for (or, with `None`, that it no longer does).
    pub fn set_status(&self, status: Option<String>) {
        self.status.set(status);
    }
}

/// One worker's part of an output in one target.
pub trait Sink: Send {
    /// Makes the rows of one epoch of one shard visible (window files: stages them until they are
    /// final; row files: until the next checkpoint). Epochs of a shard come in order. Every shard
    /// is called for every checkpoint epoch, with or without rows. A temporary failure (a server
    /// that restarts) is retried here, for as long as `SinkContext::is_aborted` is false.
    ///
    /// # Errors
    /// When it cannot be done and a retry would not help (disk full, permission denied, wrong table).
    fn commit(&mut self, epoch: &EpochRows) -> Result<Written, SinkError>;

    /// The last epoch that `shard` has committed, in this run or an earlier one of the job; it is
    /// asked before each commit, and epochs up to it are skipped. `None`: none, or unknown to a
    /// target that takes the same epoch twice without harm.
    fn committed(&self, _shard: Shard) -> Option<Epoch> {
        None
    }

    /// What the next checkpoint has to know of `shard` after what was committed: the length of a
    /// file that is cut to it at the next start. Asked after each commit.
    fn position(&self, _shard: Shard) -> u64 {
        0
    }

    /// The run is over: all epochs were committed. Publishes what waits and releases the target.
    /// Windows that are not final (the run was stopped, not drained) are published nowhere.
    ///
    /// # Errors
    /// As [`Sink::commit`].
    fn close(&mut self) -> Result<Written, SinkError>;
}

/// Why a sink cannot go on.
#[derive(Debug, Error)]
pub enum SinkError {
    /// The URI or the target's shape is wrong: the text says what to do.
    #[error("{0}")]
    Config(String),
    /// The target cannot be reached within the time-out.
    #[error("{target}: cannot be reached: {reason}")]
    Unreachable {
        /// Address, without credentials.
        target: String,
        /// What the client said.
        reason: String,
    },
    /// Writing failed.
    #[error("{target}: {reason}")]
    Write {
        /// File, table or topic.
        target: String,
        /// What went wrong, and what to do when that is known.
        reason: String,
    },
    /// A newer run of the job has taken the target over: this one must end, and nothing that it
    /// does afterwards is seen.
    #[error("{0}")]
    Fenced(String),
    /// The target does not fit the state of the job: the text says why and what to do.
    #[error("{0}")]
    Refused(String),
    /// The reader of standard output went away: the run ends quietly.
    #[error("standard output was closed")]
    Closed,
    /// The run was aborted while the sink waited.
    #[error("aborted")]
    Aborted,
}

impl SinkError {
    /// A failed operation on `target` (a file or a folder), with what to do about it.
    pub(crate) fn io(target: impl std::fmt::Display, error: &io::Error) -> Self {
        let advice = match error.kind() {
            io::ErrorKind::StorageFull => "; free some space there, or choose another place",
            io::ErrorKind::QuotaExceeded => "; the quota of this user is used up",
            io::ErrorKind::ReadOnlyFilesystem => "; choose a place that can be written",
            io::ErrorKind::PermissionDenied => {
                "; give this user write permission, or choose another place"
            }
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                "; a file stands where a folder is needed"
            }
            io::ErrorKind::IsADirectory => "; a folder stands where a file is needed",
            _ => "",
        };
        Self::Write {
            target: target.to_string(),
            reason: format!("{error}{advice}"),
        }
    }
}
