//! Advisory locks on files: one writer per target, among processes that ask.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::SinkError;
use super::folder::{make_in, parent};

/// An exclusive lock, held until dropped; its file names the process and is removed with it.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    /// Holds the lock: the system frees it when the descriptor is closed, also after a crash.
    _file: File,
}

/// Who has a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    process: Option<u32>,
    /// What it said of itself.
    pub(super) note: String,
}

impl Holder {
    /// Whether it is this process.
    pub(super) fn is_here(&self) -> bool {
        self.process == Some(std::process::id())
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.process {
            Some(_) if self.is_here() => f.write_str("this process already")?,
            Some(id) => write!(f, "process {id}")?,
            None => f.write_str("another process")?,
        }
        if !self.note.is_empty() {
            write!(f, " ({})", self.note)?;
        }
        Ok(())
    }
}

impl Lock {
    /// Takes the lock at `path`, which protects `target`; its folder is made when it is missing.
    ///
    /// # Errors
    /// When another process has it, which the error names, or the file cannot be made.
    pub(super) fn acquire(path: &Path, target: &Path) -> Result<Self, SinkError> {
        let make_folder = || fs::create_dir_all(parent(path));
        let open = |options: &OpenOptions| make_in(make_folder, || options.open(path));
        Self::take(path, "", open)?.map_err(|holder| held(&holder, target))
    }

    /// Takes the lock at `path`, and says of itself `note`, one line; or says who has it.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub(super) fn try_acquire(path: &Path, note: &str) -> Result<Result<Self, Holder>, SinkError> {
        Self::take(path, note, |options| options.open(path))
    }

    fn take(
        path: &Path,
        note: &str,
        open: impl Fn(&OpenOptions) -> io::Result<File>,
    ) -> Result<Result<Self, Holder>, SinkError> {
        let failed = |error: &io::Error| SinkError::io(path.display(), error);
        loop {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            let mut file = open(&options).map_err(|error| failed(&error))?;
            if !try_lock(&file).map_err(|error| failed(&error))? {
                return Ok(Err(holder(&mut file)));
            }
            // The holder before us may have removed the file between our open and our lock; then
            // others lock a new file of this name, and ours protects nothing.
            if !is_same(&file, path) {
                continue;
            }
            sign(&mut file, note).map_err(|error| failed(&error))?;
            return Ok(Ok(Self {
                path: path.to_owned(),
                _file: file,
            }));
        }
    }

    /// Takes the lock at `path` if its file is there and surely nobody holds it: not where the file
    /// system knows no locks.
    #[cfg(any(feature = "s3", test))]
    pub(super) fn try_abandoned(path: &Path) -> Option<Self> {
        let file = File::open(path).ok()?;
        let is_ours = matches!(flock(&file), Ok(true)) && is_same(&file, path);
        is_ours.then(|| Self {
            path: path.to_owned(),
            _file: file,
        })
    }

    /// Says who holds the lock at `path`, without taking it.
    pub(super) fn probe(path: &Path, target: &Path) -> Result<(), SinkError> {
        let Ok(mut file) = File::open(path) else {
            return Ok(());
        };
        match try_lock(&file) {
            Ok(false) => Err(held(&holder(&mut file), target)),
            Ok(true) | Err(_) => Ok(()),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed while still locked; a file that stays behind does no harm.
        let _ = fs::remove_file(&self.path);
    }
}

/// `false`: another process holds it.
fn try_lock(file: &File) -> io::Result<bool> {
    match flock(file) {
        // Some network file systems know no locks; they are no worse off than without ours.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(true),
        other => other,
    }
}

/// `false`: another process holds it.
fn flock(file: &File) -> io::Result<bool> {
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and flock touches no memory.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.kind() {
        io::ErrorKind::WouldBlock => Ok(false),
        _ => Err(error),
    }
}

fn is_same(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(named)) => ours.ino() == named.ino() && ours.dev() == named.dev(),
        _ => false,
    }
}

fn sign(file: &mut File, note: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{} {note}", std::process::id())
}

fn holder(file: &mut File) -> Holder {
    let mut text = String::new();
    let _ = file.take(200).read_to_string(&mut text);
    let (process, note) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    Holder {
        process: process.parse().ok(),
        note: note.to_owned(),
    }
}

/// The error of a lock that somebody else has.
pub(super) fn held(holder: &Holder, target: &Path) -> SinkError {
    SinkError::Config(format!(
        "{}: {holder} writes there; stop it first, or choose another place",
        target.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let (path, target) = (folder.path().join("out.lock"), folder.path().join("out"));
        let lock = Lock::acquire(&path, &target).unwrap();
        let error = Lock::acquire(&path, &target).unwrap_err().to_string();
        assert!(error.contains("this process already writes"), "{error}");
        assert!(Lock::probe(&path, &target).is_err());
        drop(lock);
        assert!(!path.exists());
        Lock::probe(&path, &target).unwrap();
        assert!(!path.exists());
        Lock::acquire(&path, &target).unwrap();
    }

    #[test]
    fn only_what_nobody_holds_is_abandoned() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.lock");
        assert!(Lock::try_abandoned(&path).is_none() && !path.exists());
        let lock = Lock::acquire(&path, folder.path()).unwrap();
        assert!(Lock::try_abandoned(&path).is_none());
        drop(lock);
        fs::write(&path, "").unwrap();
        let taken = Lock::try_abandoned(&path).unwrap();
        assert!(Lock::try_abandoned(&path).is_none());
        drop(taken);
        assert!(!path.exists());
    }

    #[test]
    fn the_holder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.lock");
        let _lock = Lock::try_acquire(&path, "run 3").unwrap().unwrap();
        let holder = Lock::try_acquire(&path, "run 4").unwrap().unwrap_err();
        assert!(holder.is_here());
        assert_eq!(holder.note, "run 3");
        let elsewhere = Holder {
            process: Some(1),
            ..holder
        };
        assert_eq!(elsewhere.to_string(), "process 1 (run 3)");
    }
}
