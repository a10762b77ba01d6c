//! Where a state lies: objects with names that are put once, read, listed and deleted.
//!
//! Nothing is ever overwritten: whoever puts a name first has it. This is all that the epoch log
//! needs to have one writer at a time (see [`log`](super::log)), so that a folder, a bucket, and a
//! map in a test serve alike. Each method is one step of the outside world.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use thiserror::Error;

use crate::sink::SinkError;

/// A set of objects.
///
/// A name is made of parts separated by `/`; a part has letters, digits, `.`, `_` and `-`, and
/// does not begin with `.`.
pub trait Storage: Send + Sync {
    /// What people call it: the folder, or `s3://bucket/prefix`.
    fn name(&self) -> String;

    /// Puts an object unless there is one of this name. On return what now has the name is
    /// durable, whichever it is. A request that is repeated because its answer was lost may find
    /// its own object: [`Put::Exists`] then says nothing about who wrote it.
    ///
    /// # Errors
    /// When it cannot be done; the object may be there all the same.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, StorageError>;

    /// The object of this name, if there is one.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StorageError>;

    /// The names that begin with `prefix`, ascending.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError>;

    /// Deletes the object of this name; one that is not there is as good.
    ///
    /// # Errors
    /// When it cannot be done.
    fn delete(&self, name: &str) -> Result<(), StorageError>;
}

/// What a put has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The name was free; it has these bytes now.
    Written,
    /// Something has this name: another object, or the same one by an earlier attempt.
    Exists,
}

/// How storage is used.
#[derive(Clone, Debug)]
pub struct StorageOptions {
    /// Set when the run fails or is aborted: what waits for a server gives up.
    pub abort: Arc<AtomicBool>,
    /// What the storage waits for, for people; `None` when all is well.
    pub status: Arc<Mutex<Option<String>>>,
    /// How long the first connection to a server may take.
    pub connect_timeout: Duration,
    /// For how long a server that does not answer is asked again; `None`: until `abort`.
    pub patience: Option<Duration>,
}

impl Default for StorageOptions {
    fn default() -> Self {
        Self {
            abort: Arc::default(),
            status: Arc::default(),
            connect_timeout: Duration::from_secs(10),
            patience: None,
        }
    }
}

impl StorageOptions {
    /// Whether the run is over and a retry is pointless.
    pub fn is_aborted(&self) -> bool {
        self.abort.load(Ordering::Relaxed)
    }

    /// Tells people what the storage waits for (or, with `None`, that it no longer does).
    pub fn set_status(&self, status: Option<String>) {
        if let Ok(mut current) = self.status.lock() {
            *current = status;
        }
    }
}

/// Why storage did not do what it was asked for.
#[derive(Debug, Error)]
pub enum StorageError {
    /// The address or the settings are wrong: the text says what to do.
    #[error("{0}")]
    Config(String),
    /// It does not answer, and patience is at its end.
    #[error("{target}: cannot be reached: {reason}")]
    Unreachable {
        /// The folder or bucket.
        target: String,
        /// What the client said.
        reason: String,
    },
    /// It refused.
    #[error("{target}: {reason}")]
    Failed {
        /// The file or bucket.
        target: String,
        /// What went wrong, and what to do when that is known.
        reason: String,
    },
    /// The run was aborted while the storage waited.
    #[error("aborted")]
    Aborted,
}

impl StorageError {
    /// A failed operation on a file or a folder; with the same advice that sinks give.
    pub(super) fn io(target: impl std::fmt::Display, error: &io::Error) -> Self {
        match SinkError::io(&target, error) {
            SinkError::Write { target, reason } => Self::Failed { target, reason },
            other => Self::Config(other.to_string()),
        }
    }
}

/// An error when `name` is none that every kind of storage can have.
pub(super) fn check_name(name: &str) -> Result<(), StorageError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_part =
        |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(is_plain);
    if name.split('/').all(is_part) {
        return Ok(());
    }
    Err(StorageError::Config(format!(
        "{name:?} cannot be the name of an object; this is a defect of highwater"
    )))
}

/// `prefix` as the place to look in (with its final `/`) and the beginning of names there.
pub(super) fn place_of(prefix: &str) -> &str {
    prefix.rfind('/').map_or("", |end| &prefix[..=end])
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What holds for every kind of storage, when it is empty.
    pub(in crate::state) fn keeps_its_promises(storage: &dyn Storage) {
        let name = "log/00000000000000000007";
        assert_eq!(storage.get(name).unwrap(), None);
        assert!(storage.list("").unwrap().is_empty());
        storage.delete(name).unwrap();
        assert_eq!(storage.put(name, b"one").unwrap(), Put::Written);
        assert_eq!(storage.put(name, b"two").unwrap(), Put::Exists);
        assert_eq!(storage.put(name, b"one").unwrap(), Put::Exists);
        assert_eq!(storage.get(name).unwrap().unwrap(), b"one");
        for other in ["log/00000000000000000010", "checkpoint/9-1-0", "log/x/y"] {
            assert_eq!(storage.put(other, b"").unwrap(), Put::Written);
        }
        assert_eq!(storage.get("checkpoint/9-1-0").unwrap().unwrap(), b"");
        let all = [
            "checkpoint/9-1-0",
            name,
            "log/00000000000000000010",
            "log/x/y",
        ];
        assert_eq!(storage.list("").unwrap(), all);
        assert_eq!(storage.list("log/").unwrap(), all[1..]);
        assert_eq!(storage.list("log/0000").unwrap(), all[1..3]);
        assert_eq!(storage.list("log/x").unwrap(), all[3..]);
        assert!(storage.list("lo").unwrap() == all[1..] && storage.list("z/").unwrap().is_empty());
        storage.delete(name).unwrap();
        assert_eq!(storage.get(name).unwrap(), None);
        assert_eq!(storage.put(name, b"two").unwrap(), Put::Written);
        for wrong in ["", "/a", "a/", "../a", "a b", ".a", "a//b"] {
            assert!(storage.put(wrong, b"").is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_prefix_may_end_within_a_name() {
        assert_eq!(place_of("log/00"), "log/");
        assert_eq!(place_of("log/"), "log/");
        assert_eq!(place_of("lo"), "");
    }
}
