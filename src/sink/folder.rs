//! A local folder in which files only ever appear whole.
//!
//! A file is written under `.staging/`, a folder of the same file system, under a name without
//! the published extension; it reaches the disk; then it gets its name, unless something else has
//! that name already. What an earlier run left in `.staging/` is removed.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

use super::SinkError;
use super::commit::claim::FilePlace;
use super::files::Store;

/// Where files are written before they are published.
pub(super) const STAGING: &str = ".staging";

/// A folder of published files.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    staging: PathBuf,
}

impl Folder {
    /// Opens the folder to be written to, and makes it when it is missing.
    pub(super) fn open(root: &Path) -> Result<Self, SinkError> {
        let folder = Self::at(root);
        let staging = &folder.staging;
        make_in(|| fs::create_dir_all(staging), || Ok(()))
            .and_then(|()| sweep_drafts(staging))
            .map_err(|error| SinkError::io(staging.display(), &error))?;
        Ok(folder)
    }

    /// The folder to be looked at: nothing is made before something is put there.
    pub(super) fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            staging: root.join(STAGING),
        }
    }
}

/// Makes a folder and something in it; both again when the folder was gone in between. Who finds a
/// folder empty may remove it, in this process or another: a sink that is closed that of staged
/// files, a job that replaces an output those of the removed files.
pub(crate) fn make_in<T>(
    make_folder: impl Fn() -> io::Result<()>,
    make: impl Fn() -> io::Result<T>,
) -> io::Result<T> {
    // Each further attempt means that somebody has removed the folder within the last.
    const ATTEMPTS: u32 = 100;
    const AT_ONCE: u32 = 10;
    let mut attempt = 1;
    loop {
        let made = make_folder();
        let kind = made.as_ref().err().map(io::Error::kind);
        // It goes after it was met and before it was looked at.
        let was_there = kind == Some(io::ErrorKind::AlreadyExists);
        let outcome = made.and_then(|()| make());
        let is_gone = matches!(&outcome, Err(error) if matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::StaleNetworkFileHandle
        ));
        if attempt == ATTEMPTS || !(was_there || is_gone) {
            return outcome;
        }
        if attempt > AT_ONCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        attempt += 1;
    }
}

/// Removes the drafts that killed processes have left. One that is a day old is nobody's: a draft is
/// written in one go.
fn sweep_drafts(staging: &Path) -> io::Result<()> {
    const OLD: Duration = Duration::from_secs(24 * 3600);
    let entries = match fs::read_dir(staging) {
        // The run that was there before has removed the folder, which was empty.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_suffix(".tmp"));
        if id.is_none_or(|id| Uuid::parse_str(id).is_err()) {
            continue;
        }
        // One that is gone was swept by another start.
        let age = entry.metadata().and_then(|found| found.modified());
        if age.is_ok_and(|written| written.elapsed().is_ok_and(|age| age > OLD)) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

impl Store for Folder {
    fn staging(&self) -> &Path {
        &self.staging
    }

    fn describe(&self) -> String {
        self.root.display().to_string()
    }

    fn publish(&mut self, staged: &Path, name: &str) -> Result<(), SinkError> {
        let target = self.root.join(name);
        let failed = |error: io::Error| SinkError::io(target.display(), &error);
        File::open(staged)
            .and_then(|file| file.sync_all())
            .map_err(failed)?;
        let parent = parent(&target);
        let linked = make_in(
            || make_folders(&self.root, parent),
            || link_new(staged, &target),
        );
        match linked {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !same_bytes(staged, &target).map_err(failed)? {
                    return Err(super::files::taken(&target.display().to_string()));
                }
            }
            Err(error) => return Err(failed(error)),
        }
        sync_folder(parent).map_err(failed)?;
        match fs::remove_file(staged) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        }
    }
}

impl Folder {
    /// Writes `bytes` to a file under `.staging/`.
    fn draft(&self, bytes: &[u8]) -> io::Result<PathBuf> {
        let draft = self.staging.join(format!("{}.tmp", Uuid::new_v4()));
        let make_staging = || fs::create_dir_all(&self.staging);
        let mut file = make_in(make_staging, || File::create_new(&draft))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(draft)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<bool> {
        let target = self.root.join(name);
        let draft = self.draft(bytes)?;
        let outcome = make_in(
            || make_folders(&self.root, parent(&target)),
            || link_new(&draft, &target),
        );
        let _ = fs::remove_file(&draft);
        match outcome {
            Ok(()) => sync_folder(parent(&target)).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let (mut names, mut folders) = (Vec::new(), vec![String::new()]);
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(self.root.join(&folder)) {
                // Its last file was removed just now, and it with it.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !folder.is_empty() => {
                    continue;
                }
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                // Names that are not UTF-8 are not ours.
                let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                    continue;
                };
                if name.starts_with(['.', '_']) {
                    continue;
                }
                if entry.file_type()?.is_dir() {
                    folders.push(format!("{folder}{name}/"));
                } else {
                    names.push(format!("{folder}{name}"));
                }
            }
        }
        names.sort();
        Ok(names)
    }

    fn failed(&self, name: &str) -> impl Fn(io::Error) -> SinkError {
        let path = self.root.join(name);
        move |error| SinkError::io(path.display(), &error)
    }
}

impl FilePlace for Folder {
    fn read(&mut self, name: &str) -> Result<Option<Vec<u8>>, SinkError> {
        match fs::read(self.root.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(name)(error)),
        }
    }

    fn put_new(&mut self, name: &str, bytes: &[u8]) -> Result<bool, SinkError> {
        self.put(name, bytes).map_err(self.failed(name))
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> Result<(), SinkError> {
        let target = self.root.join(name);
        let folder = parent(&target);
        let rename = |draft: PathBuf| {
            make_in(
                || make_folders(&self.root, folder),
                || fs::rename(&draft, &target),
            )
        };
        self.draft(bytes)
            .and_then(rename)
            .and_then(|()| sync_folder(folder))
            .map_err(self.failed(name))
    }

    fn list(&mut self) -> Result<Vec<String>, SinkError> {
        self.names().map_err(self.failed(""))
    }

    fn list_folder(&mut self, folder: &str, from: &str) -> Result<Vec<String>, SinkError> {
        let entries = match fs::read_dir(self.root.join(folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(self.failed(folder))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(self.failed(folder))?;
            let is_file = entry.file_type().map_err(self.failed(folder))?.is_file();
            // Names that are not UTF-8 are nobody's.
            let name = entry.file_name().into_string().ok();
            names.extend(name.filter(|name| is_file && **name >= *from));
        }
        names.sort();
        Ok(names)
    }

    fn remove(&mut self, name: &str) -> Result<(), SinkError> {
        let path = self.root.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(self.failed(name)(error));
            }
            _ => {}
        }
        // A folder goes with its last file.
        let mut folder = parent(&path);
        while folder != self.root && fs::remove_dir(folder).is_ok() {
            folder = parent(folder);
        }
        Ok(())
    }
}

/// Gives `staged` the name `target` as well (or instead), never replacing a file.
fn link_new(staged: &Path, target: &Path) -> io::Result<()> {
    let Err(error) = fs::hard_link(staged, target) else {
        return Ok(());
    };
    let has_no_links = matches!(error.raw_os_error(), Some(libc::EPERM | libc::EMLINK))
        || error.kind() == io::ErrorKind::Unsupported;
    if !has_no_links {
        return Err(error);
    }
    // A file system without hard links: the shard's lock keeps other writers away in between, and
    // with a job those can only put the same file there.
    if target.try_exists()? {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    fs::rename(staged, target)
}

/// Makes `folder` below `root`; each new entry reaches the disk.
pub(crate) fn make_folders(root: &Path, folder: &Path) -> io::Result<()> {
    if folder == root || folder.is_dir() {
        return Ok(());
    }
    let above = parent(folder);
    make_folders(root, above)?;
    match fs::create_dir(folder) {
        // Another shard's sink was quicker.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !folder.is_dir() => {
            Err(error)
        }
        _ => sync_folder(above),
    }
}

/// Returns once the names in `folder` are on disk.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some network file systems cannot do this for folders, and need not.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}

fn same_bytes(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let count = one.read(&mut left)?;
        if count == 0 {
            return Ok(true);
        }
        other.read_exact(&mut right[..count])?;
        if left[..count] != right[..count] {
            return Ok(false);
        }
    }
}

/// The folder in which `path` lies.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Whether this process may write to what is at `path`.
pub(super) fn check_writable(path: &Path) -> Result<(), SinkError> {
    let failed = |error: io::Error| SinkError::io(path.display(), &error);
    let text = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
    // SAFETY: `text` ends with a zero byte and lives until the call returns.
    if unsafe { libc::access(text.as_ptr(), libc::W_OK) } == 0 {
        return Ok(());
    }
    Err(failed(io::Error::last_os_error()))
}

/// Whether files can be made in the folder at `path`: in some that the kernel shows, nobody can,
/// whatever the permissions say.
fn check_holds_files(path: &Path) -> Result<(), SinkError> {
    check_writable(path)?;
    if is_of_kernel(path) {
        return Err(SinkError::Write {
            target: path.display().to_string(),
            reason: "no file can be made there; choose another place".to_owned(),
        });
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn is_of_kernel(path: &Path) -> bool {
    // proc, sysfs, cgroup, cgroup2, debugfs, tracefs, securityfs: see statfs(2).
    const KERNEL: [u64; 7] = [
        0x9fa0,
        0x6265_6572,
        0x0027_e0eb,
        0x6367_7270,
        0x6462_6720,
        0x7472_6163,
        0x7363_6673,
    ];
    let Ok(text) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: a statfs is a plain C struct of integers, for which all zeroes are a valid value.
    let mut about: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `text` ends with a zero byte; it and `about`, to which nobody else has a pointer,
    // live until the call returns.
    let result = unsafe { libc::statfs(text.as_ptr(), &raw mut about) };
    result == 0 && KERNEL.contains(&(about.f_type as u64))
}

#[cfg(not(target_os = "linux"))]
fn is_of_kernel(_: &Path) -> bool {
    false
}

/// Whether this process may write to the folder at `path`, or make it.
pub(super) fn check_creatable(path: &Path) -> Result<(), SinkError> {
    let mut nearest = path;
    loop {
        match fs::metadata(nearest) {
            Ok(found) if found.is_dir() => return check_holds_files(nearest),
            Ok(_) => {
                let error = io::Error::from(io::ErrorKind::NotADirectory);
                return Err(SinkError::io(nearest.display(), &error));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_free(nearest) => {
                nearest = parent(nearest);
            }
            Err(error) => return Err(SinkError::io(nearest.display(), &error)),
        }
    }
}

/// Whether nothing has this name: a link to nothing has it, and no folder can be made there.
fn is_free(path: &Path) -> bool {
    path != Path::new("/") && fs::symlink_metadata(path).is_err()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_folder_that_goes_away_is_made_again() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("in");
        let make_folder = || fs::create_dir_all(&folder);
        let removals = Cell::new(20);
        let made = make_in(make_folder, || {
            if removals.get() > 0 {
                removals.set(removals.get() - 1);
                fs::remove_dir(&folder)?;
            }
            File::create_new(folder.join("a"))
        });
        made.unwrap();
        assert!(folder.join("a").exists() && removals.get() == 0);
        // Whatever else is wrong is said: a file that is there at once, one that never is in the end.
        let attempts = Cell::new(0);
        let fails = |kind: io::ErrorKind| {
            attempts.set(0);
            let error = make_in(make_folder, || {
                attempts.set(attempts.get() + 1);
                Err::<(), _>(io::Error::from(kind))
            });
            (error.unwrap_err().kind(), attempts.get())
        };
        let there = io::ErrorKind::AlreadyExists;
        assert_eq!(fails(there), (there, 1));
        let (kind, times) = fails(io::ErrorKind::NotFound);
        assert!(kind == io::ErrorKind::NotFound && times > 20, "{times}");
    }

    #[test]
    fn published_files_are_whole_and_never_replaced() {
        let root = tempfile::tempdir().unwrap();
        let mut folder = Folder::open(root.path()).unwrap();
        let staged = folder.staging().join("w.tmp");
        let target = root.path().join("date=2024-01-01/hour=00/w.parquet");
        let mut publish = |text: &str| {
            fs::write(&staged, text).unwrap();
            folder.publish(&staged, "date=2024-01-01/hour=00/w.parquet")
        };
        publish("one").unwrap();
        assert!(!staged.exists());
        publish("one").unwrap();
        assert!(!staged.exists());
        let error = publish("two").unwrap_err().to_string();
        assert!(error.contains("w.parquet"), "{error}");
        assert_eq!(fs::read_to_string(target).unwrap(), "one");
    }

    #[test]
    fn drafts_of_the_killed_are_swept_a_day_later() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        let drafts = [folder.draft(b"old").unwrap(), folder.draft(b"new").unwrap()];
        let staged = folder.staging().join("staged-by-a-run.tmp");
        fs::write(&staged, "").unwrap();
        for path in [&drafts[0], &staged] {
            let two_days_ago = std::time::SystemTime::now() - Duration::from_secs(48 * 3600);
            let file = File::options().write(true).open(path).unwrap();
            file.set_modified(two_days_ago).unwrap();
        }
        let mut folder = Folder::open(root.path()).unwrap();
        let kept = [drafts[1].clone(), staged].map(|path| {
            let name = path.file_name().unwrap();
            name.to_str().unwrap().to_owned()
        });
        let found = folder.list_folder(STAGING, "").unwrap();
        assert!(
            found.len() == 2 && kept.iter().all(|name| found.contains(name)),
            "{found:?}"
        );
        assert!(folder.list_folder("nowhere", "").unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_made_is_found_without_trying() {
        let root = tempfile::tempdir().unwrap();
        check_creatable(&root.path().join("a/b/c")).unwrap();
        assert!(!root.path().join("a").exists());
        fs::write(root.path().join("file"), "").unwrap();
        assert!(check_creatable(&root.path().join("file/b")).is_err());
        assert!(check_creatable(&root.path().join("file/b/c")).is_err());
        std::os::unix::fs::symlink("nowhere", root.path().join("link")).unwrap();
        assert!(check_creatable(&root.path().join("link/b")).is_err());
        #[cfg(target_os = "linux")]
        assert!(check_creatable(Path::new("/proc/x/y")).is_err());
        check_creatable(Path::new("relative/folder")).unwrap();
    }
}
