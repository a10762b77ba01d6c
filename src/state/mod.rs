//! The state of a job: what a run goes on from after the one before it has ended, however it ended.
//!
//! A state is a set of objects in a folder or a bucket. The epoch log, `log/00000000000000000000`,
//! `...1`, and so on, says what was decided and by which run; a number is given once, so that only
//! the newest run can go on writing. `checkpoint/EPOCH-RUN-WORKER` hold the state of operators;
//! the manifest that names them is an entry of the log. See DESIGN.md, "Exactly once".
//!
//! | module | what it holds |
//! |---|---|
//! | [`storage`] | objects that are put once, read, listed and deleted: all that is asked of a place |
//! | [`folder`], `bucket`, [`memory`] | such places: a folder, a bucket that speaks S3, a map for tests |
//! | [`frame`] | what tells a whole object from a torn, damaged, foreign or newer one |
//! | [`log`] | the epoch log: claiming it, reading it, writing it |
//! | [`manifest`] | everything that a run goes on from, as of one epoch |
//! | [`config`] | how a configuration differs from that of the job |
//! | [`checkpoint`] | the state of operators in one object per worker and checkpoint |
//! | [`dims`] | loads of dimension tables |
//! | [`schemas`] | schemas of messages, as a registry had them |
//! | [`history`] | epochs that are kept for a replay, out of the way of a start |
//! | [`replay`] | from where epochs can be run again, and whether the same comes of it |
//! | [`retention`] | what may be deleted, and when |
//! | [`verify`] | whether all objects are as they were written, and fit together |

use std::path::Path;
use std::sync::Arc;

use thiserror::Error;

pub use self::checkpoint::{Checkpoint, CheckpointHeader, Snapshot};
pub use self::folder::FolderStorage;
pub use self::frame::FrameError;
pub use self::log::{
    Claim, JobRecord, LogItem, LogObject, LogView, LogWriteError, LogWriter, Past, Starter,
    Takeover, claim, nonce_of_series, peek,
};
pub use self::manifest::{
    Checksum, Digest, EpochDigest, Head, Manifest, ObjectRef, OutputTotals, PartitionState,
};
pub use self::memory::MemoryStorage;
pub use self::storage::{Put, Storage, StorageError, StorageOptions};

#[cfg(feature = "s3")]
mod bucket;
pub mod checkpoint;
pub mod config;
pub mod dims;
pub mod folder;
pub mod frame;
pub mod history;
pub mod log;
pub mod manifest;
pub mod memory;
pub mod replay;
pub mod retention;
pub mod schemas;
pub mod storage;
#[cfg(test)]
pub(crate) mod testing;
pub mod verify;

/// Why a state cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// The URI means no place: the text says what to do.
    #[error("{0}")]
    Config(String),
    /// The place cannot be read or written.
    #[error("state: {0}")]
    Storage(#[from] StorageError),
    /// An object is not what was written.
    #[error("{place}: {name}: {problem}{}", advice(.problem))]
    Damaged {
        /// The storage.
        place: String,
        /// The object.
        name: String,
        /// What is wrong with it.
        problem: FrameError,
    },
    /// Objects are whole, but do not fit together.
    #[error("{place}: {name}: {problem}")]
    Inconsistent {
        /// The storage.
        place: String,
        /// The object at which it shows.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// The state is not for this run: the text says why and what to do.
    #[error("{0}")]
    Refused(String),
}

/// What to do about an object that cannot be read.
fn advice(problem: &FrameError) -> &'static str {
    match problem {
        FrameError::Newer { .. } => "",
        _ => "; restore it from a copy, or begin a new state in another place",
    }
}

impl StateError {
    fn damaged(storage: &dyn Storage, name: &str, problem: FrameError) -> Self {
        Self::Damaged {
            place: storage.name(),
            name: name.to_owned(),
            problem,
        }
    }

    fn inconsistent(storage: &dyn Storage, name: &str, problem: &str) -> Self {
        Self::Inconsistent {
            place: storage.name(),
            name: name.to_owned(),
            problem: problem.to_owned(),
        }
    }

    /// Whether the state was read well enough to say that it is not for this run, or that
    /// something is wrong with it; otherwise the place or the address is.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Refused(_) | Self::Damaged { .. } | Self::Inconsistent { .. }
        )
    }
}

/// The place that `uri` names: a folder, also as `dir:PATH`, or `s3://bucket/prefix`. A bucket is
/// asked whether it is there; a folder is made at the first put.
///
/// # Errors
/// When it is no such place, or cannot be reached.
pub fn open(uri: &str, options: StorageOptions) -> Result<Arc<dyn Storage>, StateError> {
    if let Some(rest) = uri.strip_prefix("s3://") {
        return open_bucket(uri, rest, options);
    }
    let path = uri.strip_prefix("dir:").unwrap_or(uri);
    let scheme = path.split_once("://").map(|(scheme, _)| scheme);
    if path.is_empty() || scheme.is_some() {
        return Err(wrong(uri, "a state is a folder, or s3://BUCKET/PREFIX"));
    }
    Ok(Arc::new(FolderStorage::new(Path::new(path))?))
}

fn wrong(uri: &str, what: &str) -> StateError {
    StateError::Config(format!("{:?}: {what}", crate::sink::mask_secrets(uri)))
}

#[cfg(feature = "s3")]
fn open_bucket(
    uri: &str,
    rest: &str,
    options: StorageOptions,
) -> Result<Arc<dyn Storage>, StateError> {
    let Some((bucket, prefix)) = crate::s3::parse(rest) else {
        return Err(wrong(uri, "it needs a bucket: s3://BUCKET/PREFIX"));
    };
    Ok(Arc::new(bucket::BucketStorage::open(
        bucket, prefix, options,
    )?))
}

#[cfg(not(feature = "s3"))]
fn open_bucket(uri: &str, _: &str, _: StorageOptions) -> Result<Arc<dyn Storage>, StateError> {
    Err(wrong(
        uri,
        "this build lacks the Cargo feature `s3`; build with --features s3",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_a_folder_or_a_bucket() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("state");
        let path = path.to_str().unwrap();
        for uri in [path.to_owned(), format!("dir:{path}")] {
            let storage = open(&uri, StorageOptions::default()).unwrap();
            assert_eq!(storage.name(), path);
        }
        assert!(!Path::new(path).exists(), "made at the first put");
        for wrong in ["", "dir:", "kafka://host/topic", "s3:///x"] {
            let error = open(wrong, StorageOptions::default()).err().unwrap();
            assert!(error.to_string().contains("s3://BUCKET/PREFIX"), "{error}");
        }
    }
}
