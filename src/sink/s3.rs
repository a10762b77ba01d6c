//! A bucket of an object store that speaks S3, in which files only ever appear whole.
//!
//! A file is written to a local folder first and put with the condition that its name is free.
//! Where an answer was lost, or an earlier run got further than it could say, the object is there
//! already: with the same bytes that is success.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::path::Path as Key;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use uuid::Uuid;

use super::commit::claim::FilePlace;
use super::files::{Store, taken};
use super::lock::Lock;
use super::{SinkContext, SinkError};
use crate::s3::{Client, is_passing};
use crate::terminal::chain;

/// A file up to this size is put in one request, which holds it in memory; a larger one is sent in
/// parts of this size.
const PART_BYTES: usize = 32 << 20;
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What the names of folders begin with in which files are written first. Beside each lies a lock.
const STAGING: &str = "highwater-staging-";

/// A bucket that files are published in.
pub(super) struct Bucket {
    client: Client,
}

impl Bucket {
    /// Reads the environment; connects to nothing yet.
    pub(super) fn new(
        bucket: &str,
        prefix: &str,
        connect_timeout: Duration,
    ) -> Result<Self, SinkError> {
        let client = Client::new(bucket, prefix, connect_timeout)?;
        Ok(Self { client })
    }

    /// Whether the bucket is there.
    pub(super) fn check(&self) -> Result<String, SinkError> {
        Ok(self.client.check()?)
    }

    /// The store of a sink, with a folder of its own for files that are being written.
    pub(super) fn into_store(self, context: SinkContext) -> Result<BucketStore, SinkError> {
        let (staging, lock) = claim_staging(&std::env::temp_dir())?;
        Ok(BucketStore {
            bucket: self,
            staging,
            context,
            _lock: lock,
        })
    }

    async fn put(&self, staged: &Path, key: &Key) -> Result<(), PutError> {
        let mut file = File::open(staged)?;
        let size = file.metadata()?.len();
        if size <= PART_BYTES as u64 {
            let mut bytes = Vec::with_capacity(size as usize);
            file.read_to_end(&mut bytes)?;
            let options = PutOptions {
                mode: PutMode::Create,
                ..PutOptions::default()
            };
            self.client
                .store
                .put_opts(key, PutPayload::from(bytes), options)
                .await?;
            return Ok(());
        }
        // Parts are not put under a condition: the client offers none for their completion. Whoever
        // may put this name asks first, and puts the same bytes, so it does no harm if two do.
        match self.client.store.head(key).await {
            Ok(_) => return Err(PutError::Exists),
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let mut upload = self.client.store.put_multipart(key).await?;
        while let Some(part) = next_part(&mut file)? {
            if let Err(error) = upload.put_part(part.into()).await {
                // The bucket's own rules remove what cannot be removed now.
                let _ = upload.abort().await;
                return Err(error.into());
            }
        }
        upload.complete().await?;
        Ok(())
    }

    /// Whether the object holds the file's bytes; an object that is gone does not.
    async fn is_same(&self, staged: &Path, key: &Key) -> Result<bool, PutError> {
        let mut file = File::open(staged)?;
        let size = file.metadata()?.len();
        if self.client.store.head(key).await?.size != size {
            return Ok(false);
        }
        let mut at = 0;
        while let Some(part) = next_part(&mut file)? {
            let end = at + part.len() as u64;
            if self.client.store.get_range(key, at..end).await? != part {
                return Ok(false);
            }
            at = end;
        }
        Ok(true)
    }
}

impl Bucket {
    /// The key of an object by its name as [`FilePlace::list`] has it, which is encoded already.
    fn listed_key(&self, name: &str) -> Result<Key, SinkError> {
        let base = self.client.key("");
        let slash = if base.as_ref().is_empty() { "" } else { "/" };
        let key = Key::parse(format!("{base}{slash}{name}"));
        key.map_err(|error| SinkError::Config(format!("{}: {error}", self.client.name)))
    }

    fn failed(&self, error: &Error) -> SinkError {
        if is_passing(error) {
            return SinkError::Unreachable {
                target: self.client.name.clone(),
                reason: chain(error),
            };
        }
        self.client.failed(error).into()
    }

    async fn names(&self) -> Result<Vec<String>, Error> {
        let (mut names, mut places) = (Vec::new(), vec![self.client.key("")]);
        while let Some(place) = places.pop() {
            let found = self.client.store.list_with_delimiter(Some(&place)).await?;
            let keys = found.objects.iter().map(|object| &object.location);
            names.extend(keys.map(|key| self.client.name_of(key).to_owned()));
            places.extend(found.common_prefixes);
        }
        let is_hidden = |name: &str| name.split('/').any(|part| part.starts_with(['.', '_']));
        names.retain(|name| !is_hidden(name));
        names.sort_unstable();
        Ok(names)
    }
}

impl FilePlace for Bucket {
    fn read(&mut self, name: &str) -> Result<Option<Vec<u8>>, SinkError> {
        let (store, key) = (&self.client.store, self.client.key(name));
        let read = self.client.block_on(async {
            match store.get(&key).await {
                Err(Error::NotFound { .. }) => Ok(None),
                found => Ok(Some(found?.bytes().await?.into())),
            }
        });
        read.map_err(|error| self.failed(&error))
    }

    /// `false` also where another put is under way, which may yet fail: whoever then reads the
    /// object sees what has become of it.
    fn put_new(&mut self, name: &str, bytes: &[u8]) -> Result<bool, SinkError> {
        let (store, key) = (&self.client.store, self.client.key(name));
        let options = PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        let payload = PutPayload::from(bytes.to_vec());
        match self.client.block_on(store.put_opts(&key, payload, options)) {
            Ok(_) => Ok(true),
            Err(Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> Result<(), SinkError> {
        let (store, key) = (&self.client.store, self.client.key(name));
        let payload = PutPayload::from(bytes.to_vec());
        let put = self.client.block_on(store.put(&key, payload));
        put.map(drop).map_err(|error| self.failed(&error))
    }

    fn list(&mut self) -> Result<Vec<String>, SinkError> {
        self.client
            .block_on(self.names())
            .map_err(|error| self.failed(&error))
    }

    fn list_folder(&mut self, folder: &str, from: &str) -> Result<Vec<String>, SinkError> {
        let (store, place) = (&self.client.store, self.client.key(folder));
        let found = self.client.block_on(async {
            let before = just_before(from).map(|name| place.clone().join(name));
            let mut found = match &before {
                Some(before) => store.list_with_offset(Some(&place), before),
                None => store.list(Some(&place)),
            };
            let mut names = Vec::new();
            while let Some(object) = found.try_next().await? {
                let mut parts = object.location.prefix_match(&place).into_iter().flatten();
                if let (Some(name), None) = (parts.next(), parts.next()) {
                    names.push(name.as_ref().to_owned());
                }
            }
            Ok::<_, Error>(names)
        });
        let mut names = found.map_err(|error| self.failed(&error))?;
        names.retain(|name| **name >= *from);
        names.sort_unstable();
        Ok(names)
    }

    fn remove(&mut self, name: &str) -> Result<(), SinkError> {
        let key = self.listed_key(name)?;
        match self.client.block_on(self.client.store.delete(&key)) {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(&error)),
        }
    }
}

/// A name behind which all stand that begin with `number` or a greater one of as many digits, and few
/// others do. `None`: there is no better one than the beginning.
fn just_before(number: &str) -> Option<String> {
    let before = number.parse::<u64>().ok()?.checked_sub(1)?;
    let width = number.len();
    Some(format!("{before:0width$}"))
}

/// The next bytes of the file; `None` at its end.
fn next_part(file: &mut File) -> io::Result<Option<Bytes>> {
    let mut part = Vec::new();
    file.take(PART_BYTES as u64).read_to_end(&mut part)?;
    Ok(if part.is_empty() {
        None
    } else {
        Some(part.into())
    })
}

/// Why an object was not put or compared.
enum PutError {
    /// Reading the staged file failed.
    File(io::Error),
    /// Something has this name already.
    Exists,
    /// Another put of this name is under way, and may yet fail.
    UnderWay,
    /// The store refused.
    Store(Error),
}

impl From<io::Error> for PutError {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

impl From<Error> for PutError {
    fn from(error: Error) -> Self {
        match error {
            Error::AlreadyExists { .. } => Self::Exists,
            other => Self::Store(other),
        }
    }
}

/// A new folder in `parent` for files that are being written, and the lock beside it.
fn claim_staging(parent: &Path) -> Result<(PathBuf, Lock), SinkError> {
    sweep(parent);
    let staging = parent.join(format!("{STAGING}{}", Uuid::new_v4().simple()));
    let path = staging.with_extension("lock");
    let lock = loop {
        match Lock::try_acquire(&path, "")? {
            Ok(lock) => break lock,
            // The sweep of another start has found the file before it was locked: it lets go.
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    fs::create_dir_all(&staging).map_err(|error| SinkError::io(staging.display(), &error))?;
    Ok((staging, lock))
}

/// Removes the folders that killed processes have left in `parent`: nobody has their locks.
fn sweep(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for lock in entries.map(|entry| entry.path()) {
        let name = lock.file_name().unwrap_or_default().to_string_lossy();
        let is_lock = name.starts_with(STAGING) && lock.extension().is_some_and(|it| it == "lock");
        if is_lock && let Some(_held) = Lock::try_abandoned(&lock) {
            // What cannot be removed now is left to another start.
            let _ = fs::remove_dir_all(lock.with_extension(""));
        }
    }
}

/// Publishes files in a bucket.
pub(super) struct BucketStore {
    bucket: Bucket,
    staging: PathBuf,
    context: SinkContext,
    /// Tells others that the staging folder is in use.
    _lock: Lock,
}

impl BucketStore {
    /// One attempt; an equal object that is there already is success.
    fn attempt(&self, staged: &Path, key: &Key) -> Result<(), PutError> {
        let (bucket, client) = (&self.bucket, &self.bucket.client);
        match client.block_on(bucket.put(staged, key)) {
            Err(PutError::Exists) => {}
            other => return other,
        }
        match client.block_on(bucket.is_same(staged, key)) {
            Ok(true) => Ok(()),
            Ok(false) => Err(PutError::Exists),
            Err(PutError::Store(Error::NotFound { .. })) => Err(PutError::UnderWay),
            Err(error) => Err(error),
        }
    }
}

impl Store for BucketStore {
    fn staging(&self) -> &Path {
        &self.staging
    }

    fn describe(&self) -> String {
        self.bucket.client.name.clone()
    }

    fn name_there(&self, name: &str) -> String {
        let client = &self.bucket.client;
        client.name_of(&client.key(name)).to_owned()
    }

    fn publish(&mut self, staged: &Path, name: &str) -> Result<(), SinkError> {
        let client = &self.bucket.client;
        let key = client.key(name);
        let mut pause = FIRST_WAIT;
        loop {
            match self.attempt(staged, &key) {
                Ok(()) => break,
                Err(PutError::File(error)) => return Err(SinkError::io(staged.display(), &error)),
                Err(PutError::Exists) => {
                    return Err(taken(&format!("{}/{name}", client.name)));
                }
                Err(PutError::UnderWay) => {
                    self.context.pause(pause)?;
                    pause = (2 * pause).min(LONGEST_WAIT);
                }
                Err(PutError::Store(error)) if is_passing(&error) => {
                    let why = chain(&error);
                    let status = format!("{} does not answer: {why}", client.name);
                    self.context.set_status(Some(status));
                    self.context.pause(pause)?;
                    pause = (2 * pause).min(LONGEST_WAIT);
                }
                Err(PutError::Store(error)) => return Err(client.failed(&error).into()),
            }
        }
        self.context.set_status(None);
        fs::remove_file(staged).map_err(|error| SinkError::io(staged.display(), &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_killed_processes_have_staged_is_removed_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let path = |name: &str| parent.path().join(name);
        let [left, used, other] = ["highwater-staging-1-0", "highwater-staging-2-0", "other"];
        for folder in [left, used, other] {
            fs::create_dir(path(folder)).unwrap();
            fs::write(path(folder).join("w.tmp"), "x").unwrap();
        }
        fs::write(path(left).with_extension("lock"), "").unwrap();
        fs::write(path(other).with_extension("lock"), "").unwrap();
        let held = Lock::acquire(&path(used).with_extension("lock"), parent.path()).unwrap();
        sweep(parent.path());
        assert!(!path(left).exists() && !path(left).with_extension("lock").exists());
        assert!(path(used).join("w.tmp").exists() && path(other).join("w.tmp").exists());
        drop(held);
    }

    #[test]
    fn starts_at_the_same_time_do_not_take_each_others_folders() {
        let parent = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let (staging, lock) = claim_staging(parent.path()).unwrap();
                        fs::write(staging.join("w.tmp"), "x").unwrap();
                        sweep(parent.path());
                        assert!(staging.join("w.tmp").exists());
                        drop(lock);
                    }
                });
            }
        });
    }
}
