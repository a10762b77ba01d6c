//! Advisory locks on files: one writer per target, among processes that ask.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::SinkError;

/// An exclusive lock, held until dropped; its file names the process and is removed with it.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    /// Holds the lock: the system frees it when the descriptor is closed, also after a crash.
    _file: File,
}

impl Lock {
    /// Takes the lock at `path`, which protects `target`.
    ///
    /// # Errors
    /// When another process has it, which the error names, or the file cannot be made.
    pub(super) fn acquire(path: &Path, target: &Path) -> Result<Self, SinkError> {
        let failed = |error: &io::Error| SinkError::io(path.display(), error);
        loop {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            let mut file = options.open(path).map_err(|error| failed(&error))?;
            if !try_lock(&file).map_err(|error| failed(&error))? {
                return Err(held(&mut file, target));
            }
            // The holder before us may have removed the file between our open and our lock; then
            // others lock a new file of this name, and ours protects nothing.
            if !is_same(&file, path) {
                continue;
            }
            sign(&mut file).map_err(|error| failed(&error))?;
            return Ok(Self {
                path: path.to_owned(),
                _file: file,
            });
        }
    }

    /// Says who holds the lock at `path`, without taking it.
    pub(super) fn probe(path: &Path, target: &Path) -> Result<(), SinkError> {
        let Ok(mut file) = File::open(path) else {
            return Ok(());
        };
        match try_lock(&file) {
            Ok(false) => Err(held(&mut file, target)),
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
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and flock touches no memory.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.kind() {
        io::ErrorKind::WouldBlock => Ok(false),
        // Some network file systems know no locks; they are no worse off than without ours.
        io::ErrorKind::Unsupported => Ok(true),
        _ => Err(error),
    }
}

fn is_same(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(named)) => ours.ino() == named.ino() && ours.dev() == named.dev(),
        _ => false,
    }
}

fn sign(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())
}

fn held(file: &mut File, target: &Path) -> SinkError {
    let mut text = String::new();
    let _ = file.take(20).read_to_string(&mut text);
    let holder = match text.trim().parse::<u32>() {
        Ok(id) if id == std::process::id() => "this process already writes".to_owned(),
        Ok(id) => format!("process {id} writes"),
        Err(_) => "another process writes".to_owned(),
    };
    SinkError::Config(format!(
        "{}: {holder} there; stop it first, or choose another place",
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
}
