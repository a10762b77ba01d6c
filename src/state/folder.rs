//! State in a folder of a local or network file system.
//!
//! An object is written under `.state-staging/`, reaches the disk, gets its name unless something
//! else has that name, and then the folder reaches the disk. So an object is there whole or not at
//! all, also after a power cut. What a crash has left in `.state-staging/` is removed before the
//! first put of the next run; a run whose file is swept away by another's start writes it again.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

use super::storage::{Put, Storage, StorageError, check_name, place_of};
use crate::sink::{make_folders, make_in, parent, sync_folder};

const STAGING: &str = ".state-staging";
/// How often a staged file may be swept away by others before that is an error.
const ATTEMPTS: u32 = 5;

/// A folder of objects.
#[derive(Debug)]
pub struct FolderStorage {
    root: PathBuf,
    /// The folders that are known to be there and on the disk, in this process.
    ready: Mutex<BTreeSet<PathBuf>>,
}

impl FolderStorage {
    /// Of this folder, which is made at the first put.
    ///
    /// # Errors
    /// When something else stands there.
    pub fn new(root: &Path) -> Result<Self, StorageError> {
        if root.exists() && !root.is_dir() {
            let error = io::ErrorKind::NotADirectory.into();
            return Err(StorageError::io(root.display(), &error));
        }
        Ok(Self {
            root: root.to_owned(),
            ready: Mutex::default(),
        })
    }

    fn path(&self, name: &str) -> Result<PathBuf, StorageError> {
        check_name(name)?;
        Ok(self.root.join(name))
    }

    /// Makes `folder` below the root, and sees to it that its name is on the disk: an earlier
    /// process may have made it and crashed before that.
    fn prepare(&self, folder: &Path) -> io::Result<()> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if ready.contains(folder) {
            return Ok(());
        }
        if ready.is_empty() {
            let staging = self.root.join(STAGING);
            let highest = if staging.is_absolute() { "/" } else { "." };
            make_folders(Path::new(highest), &staging)?;
            sweep(&staging)?;
            sync_folder(parent(&self.root))?;
        }
        make_folders(&self.root, folder)?;
        let mut above = folder;
        while above != self.root {
            above = parent(above);
            sync_folder(above)?;
        }
        ready.insert(folder.to_owned());
        Ok(())
    }

    fn put_file(&self, target: &Path, bytes: &[u8]) -> io::Result<Put> {
        let folder = parent(target);
        self.prepare(folder)?;
        let mut attempt = 1;
        let put = loop {
            let staged = Staged::write(&self.root.join(STAGING), bytes)?;
            match link_new(&staged.0, target) {
                Ok(()) => break Put::Written,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => break Put::Exists,
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < ATTEMPTS => {
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        };
        // Also for what another has put: it may have crashed before this.
        sync_folder(folder)?;
        Ok(put)
    }
}

impl Storage for FolderStorage {
    fn name(&self) -> String {
        self.root.display().to_string()
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, StorageError> {
        let target = self.path(name)?;
        self.put_file(&target, bytes)
            .map_err(|error| StorageError::io(target.display(), &error))
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
        let path = self.path(name)?;
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StorageError::io(path.display(), &error)),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let mut names = Vec::new();
        let mut places = vec![place_of(prefix).to_owned()];
        while let Some(place) = places.pop() {
            let folder = self.root.join(&place);
            let failed = |error: io::Error| StorageError::io(folder.display(), &error);
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(failed)?,
            };
            for entry in entries {
                let entry = entry.map_err(failed)?;
                let Some(name) = entry.file_name().to_str().map(|it| format!("{place}{it}")) else {
                    continue;
                };
                if check_name(&name).is_err() {
                    continue;
                }
                if entry.file_type().map_err(failed)?.is_dir() {
                    places.push(format!("{name}/"));
                } else if name.starts_with(prefix) {
                    names.push(name);
                }
            }
        }
        // A folder whose name goes beyond the prefix in another way holds nothing of it.
        names.retain(|name| name.starts_with(prefix));
        names.sort_unstable();
        Ok(names)
    }

    fn delete(&self, name: &str) -> Result<(), StorageError> {
        let path = self.path(name)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StorageError::io(path.display(), &error))
            }
            _ => Ok(()),
        }
    }
}

/// A file that is on the disk and has no published name yet; removed when dropped.
struct Staged(PathBuf);

impl Staged {
    fn write(staging: &Path, bytes: &[u8]) -> io::Result<Self> {
        let staged = Self(staging.join(Uuid::new_v4().simple().to_string()));
        // Somebody may tidy up more than the files.
        let mut file = make_in(
            || fs::create_dir_all(staging),
            || File::create_new(&staged.0),
        )?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(staged)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // What stays behind is swept at the next start.
        let _ = fs::remove_file(&self.0);
    }
}

/// Removes what crashes have left.
fn sweep(staging: &Path) -> io::Result<()> {
    for entry in fs::read_dir(staging)? {
        match fs::remove_file(entry?.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Gives `staged` the name `target` as well (or instead), in one step and only if it is free.
fn link_new(staged: &Path, target: &Path) -> io::Result<()> {
    let Err(error) = fs::hard_link(staged, target) else {
        return Ok(());
    };
    let has_no_links = matches!(error.raw_os_error(), Some(libc::EPERM | libc::EMLINK))
        || error.kind() == io::ErrorKind::Unsupported;
    if has_no_links {
        rename_new(staged, target)
    } else {
        Err(error)
    }
}

/// For file systems without hard links.
#[cfg(target_os = "linux")]
fn rename_new(staged: &Path, target: &Path) -> io::Result<()> {
    let text = |path: &Path| {
        CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput)
    };
    let (staged, target) = (text(staged)?, text(target)?);
    // SAFETY: both texts end with a zero byte and live until the call returns.
    let answer = unsafe {
        libc::renameat2(
            libc::AT_FDCWD,
            staged.as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            libc::RENAME_NOREPLACE,
        )
    };
    if answer == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) {
        return Err(no_put_if_absent());
    }
    Err(error)
}

#[cfg(not(target_os = "linux"))]
fn rename_new(_: &Path, _: &Path) -> io::Result<()> {
    Err(no_put_if_absent())
}

fn no_put_if_absent() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "this file system can neither link files nor rename them without replacing others; \
         keep the state on another one, or in a bucket (s3://...)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::storage::tests::keeps_its_promises;

    #[test]
    fn a_folder_keeps_the_promises_of_storage() {
        let root = tempfile::tempdir().unwrap();
        let storage = FolderStorage::new(&root.path().join("a/b/state")).unwrap();
        keeps_its_promises(&storage);
    }

    #[test]
    fn what_a_crash_has_left_is_swept_and_never_listed() {
        let root = tempfile::tempdir().unwrap();
        let left = root.path().join(STAGING).join("half");
        fs::create_dir_all(left.parent().unwrap()).unwrap();
        fs::write(&left, "ha").unwrap();
        let storage = FolderStorage::new(root.path()).unwrap();
        assert!(storage.list("").unwrap().is_empty());
        assert!(left.exists(), "reading changes nothing");
        storage.put("log/1", b"x").unwrap();
        assert!(!left.exists());
        let staged: Vec<_> = fs::read_dir(root.path().join(STAGING)).unwrap().collect();
        assert!(staged.is_empty(), "{staged:?}");
    }

    #[test]
    fn a_put_survives_the_sweep_of_another_start() {
        let root = tempfile::tempdir().unwrap();
        let storage = FolderStorage::new(root.path()).unwrap();
        storage.put("log/1", b"x").unwrap();
        fs::remove_dir_all(root.path().join(STAGING)).unwrap();
        assert_eq!(storage.put("log/2", b"y").unwrap(), Put::Written);
        assert_eq!(storage.get("log/2").unwrap().unwrap(), b"y");
    }

    #[test]
    fn of_many_writers_of_one_name_one_wins() {
        let root = tempfile::tempdir().unwrap();
        let storages: Vec<_> = (0..4)
            .map(|_| FolderStorage::new(root.path()).unwrap())
            .collect();
        for name in 0..20 {
            let name = format!("log/{name}");
            let won: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = storages
                    .iter()
                    .enumerate()
                    .map(|(i, storage)| {
                        let name = name.clone();
                        scope.spawn(move || storage.put(&name, &[i as u8; 100]).unwrap())
                    })
                    .collect();
                threads.into_iter().map(|it| it.join().unwrap()).collect()
            });
            let winner: Vec<_> = (0..4).filter(|i| won[*i] == Put::Written).collect();
            assert_eq!(winner.len(), 1, "{won:?}");
            assert_eq!(
                storages[0].get(&name).unwrap().unwrap(),
                [winner[0] as u8; 100]
            );
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn renaming_replaces_nothing() {
        let root = tempfile::tempdir().unwrap();
        let (one, two) = (root.path().join("one"), root.path().join("two"));
        fs::write(&one, "1").unwrap();
        rename_new(&one, &two).unwrap();
        assert!(!one.exists() && two.exists());
        fs::write(&one, "other").unwrap();
        let error = rename_new(&one, &two).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&two).unwrap(), "1");
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let error = FolderStorage::new(&file).unwrap_err().to_string();
        assert!(
            error.contains("file") && error.contains("folder"),
            "{error}"
        );
        let storage = FolderStorage::new(&file.join("below")).unwrap();
        assert!(storage.put("log/1", b"").is_err());
    }
}
