//! State in a bucket of an object store that speaks S3.
//!
//! An object is put under the condition that its name is free. While the server is away requests
//! are repeated, until it answers, the run is aborted, or patience ends. A put whose answer was
//! lost is repeated as well and then finds its own object: it reports [`Put::Exists`], and the log
//! tells by the nonce in the object whose it is.

use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::path::Path as Key;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::storage::{Put, Storage, StorageError, StorageOptions, check_name, place_of};
use crate::s3::{Client, ClientError, is_passing};
use crate::terminal::chain;

/// A larger object is sent and fetched in parts of this size, so that none of its requests takes
/// longer than the client's time-out.
const PART_BYTES: usize = 32 << 20;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How often one that waits looks whether the run was aborted.
const ABORT_CHECK: Duration = Duration::from_millis(100);

/// A bucket, or what begins with a prefix in it.
pub struct BucketStorage {
    client: Client,
    options: StorageOptions,
}

/// What one attempt has come to.
enum Attempt<T> {
    Done(T),
    /// Not this time; a later attempt may succeed.
    Again(String),
    Failed(Error),
}

impl<T> From<Error> for Attempt<T> {
    fn from(error: Error) -> Self {
        if is_passing(&error) {
            Self::Again(chain(&error))
        } else {
            Self::Failed(error)
        }
    }
}

impl<T> From<Result<T, Error>> for Attempt<T> {
    fn from(result: Result<T, Error>) -> Self {
        result.map_or_else(Self::from, Self::Done)
    }
}

impl From<ClientError> for StorageError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Config(text) => Self::Config(text),
            ClientError::Unreachable { target, reason } => Self::Unreachable { target, reason },
            ClientError::Failed { target, reason } => Self::Failed { target, reason },
        }
    }
}

impl BucketStorage {
    /// Of this bucket and prefix; asks whether the bucket is there.
    ///
    /// # Errors
    /// When it does not answer within the time-out, or not as a bucket should.
    pub fn open(bucket: &str, prefix: &str, options: StorageOptions) -> Result<Self, StorageError> {
        let client = Client::new(bucket, prefix, options.connect_timeout)?;
        client.check()?;
        Ok(Self { client, options })
    }

    fn key(&self, name: &str) -> Result<Key, StorageError> {
        check_name(name)?;
        Ok(self.client.key(name))
    }

    /// Repeats `request` until it is answered.
    fn ask<T, F: Future<Output = Attempt<T>>>(
        &self,
        request: impl Fn() -> F,
    ) -> Result<T, StorageError> {
        let (begun, mut pause) = (Instant::now(), FIRST_WAIT);
        loop {
            match self.unless_aborted(request())? {
                Attempt::Done(answer) => {
                    self.options.set_status(None);
                    return Ok(answer);
                }
                Attempt::Failed(error) => return Err(self.client.failed(&error).into()),
                Attempt::Again(reason) => {
                    let patience = self.options.patience;
                    if patience.is_some_and(|patience| begun.elapsed() >= patience) {
                        let target = self.client.name.clone();
                        return Err(StorageError::Unreachable { target, reason });
                    }
                    let status = format!("{} does not answer: {reason}", self.client.name);
                    self.options.set_status(Some(status));
                    // Within a block: a timer can be made only where the runtime runs.
                    self.unless_aborted(async { tokio::time::sleep(pause).await })?;
                    pause = (2 * pause).min(LONGEST_WAIT);
                }
            }
        }
    }

    /// Waits for `request`, but not beyond the end of the run.
    fn unless_aborted<F: Future>(&self, request: F) -> Result<F::Output, StorageError> {
        self.client.block_on(async {
            let mut request = pin!(request);
            loop {
                if self.options.is_aborted() {
                    return Err(StorageError::Aborted);
                }
                if let Ok(answer) = tokio::time::timeout(ABORT_CHECK, request.as_mut()).await {
                    return Ok(answer);
                }
            }
        })
    }

    async fn put_new(&self, key: &Key, bytes: &Bytes) -> Attempt<Put> {
        let store = &self.client.store;
        let options = PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        let payload = PutPayload::from(bytes.clone());
        match store.put_opts(key, payload, options).await {
            Ok(_) => return Attempt::Done(Put::Written),
            Err(Error::AlreadyExists { .. }) => {}
            Err(error) => return error.into(),
        }
        // The same answer means that another put of this name is under way, and may yet fail.
        match store.head(key).await {
            Ok(_) => Attempt::Done(Put::Exists),
            Err(Error::NotFound { .. }) => Attempt::Again("another put is under way".to_owned()),
            Err(error) => error.into(),
        }
    }

    /// Parts cannot be put under a condition: large objects are checkpoints, whose names belong to
    /// one writer, which puts the same bytes again when it repeats itself.
    async fn put_parts(&self, key: &Key, bytes: &Bytes) -> Attempt<Put> {
        let store = &self.client.store;
        match store.head(key).await {
            Ok(_) => return Attempt::Done(Put::Exists),
            Err(Error::NotFound { .. }) => {}
            Err(error) => return error.into(),
        }
        self.upload(key, bytes).await.map(|()| Put::Written).into()
    }

    async fn upload(&self, key: &Key, bytes: &Bytes) -> Result<(), Error> {
        let mut upload = self.client.store.put_multipart(key).await?;
        for start in (0..bytes.len()).step_by(PART_BYTES) {
            let part = bytes.slice(start..bytes.len().min(start + PART_BYTES));
            if let Err(error) = upload.put_part(part.into()).await {
                // The bucket's own rules remove what cannot be removed now.
                let _ = upload.abort().await;
                return Err(error);
            }
        }
        upload.complete().await?;
        Ok(())
    }

    async fn get_whole(&self, key: &Key) -> Result<Option<Vec<u8>>, Error> {
        let store = &self.client.store;
        let found = match store.get(key).await {
            Err(Error::NotFound { .. }) => return Ok(None),
            other => other?,
        };
        let size = found.meta.size;
        if size <= PART_BYTES as u64 {
            return Ok(Some(found.bytes().await?.into()));
        }
        drop(found);
        let mut bytes = Vec::with_capacity(size as usize);
        while (bytes.len() as u64) < size {
            let start = bytes.len() as u64;
            let end = size.min(start + PART_BYTES as u64);
            bytes.extend_from_slice(&store.get_range(key, start..end).await?);
        }
        Ok(Some(bytes))
    }

    async fn list_place(&self, place: &str, prefix: &str) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        let mut places = vec![self.client.key(place)];
        while let Some(place) = places.pop() {
            let found = self.client.store.list_with_delimiter(Some(&place)).await?;
            let keys = found.objects.iter().map(|object| &object.location);
            names.extend(keys.map(|key| self.client.name_of(key).to_owned()));
            places.extend(found.common_prefixes);
        }
        names.retain(|name| name.starts_with(prefix) && check_name(name).is_ok());
        names.sort_unstable();
        Ok(names)
    }
}

impl Storage for BucketStorage {
    fn name(&self) -> String {
        self.client.name.clone()
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, StorageError> {
        let key = self.key(name)?;
        let bytes = Bytes::copy_from_slice(bytes);
        self.ask(|| async {
            if bytes.len() <= PART_BYTES {
                self.put_new(&key, &bytes).await
            } else {
                self.put_parts(&key, &bytes).await
            }
        })
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
        let key = self.key(name)?;
        self.ask(|| async { self.get_whole(&key).await.into() })
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let place = place_of(prefix);
        self.ask(|| async { self.list_place(place, prefix).await.into() })
    }

    fn delete(&self, name: &str) -> Result<(), StorageError> {
        let key = self.key(name)?;
        self.ask(|| async {
            match self.client.store.delete(&key).await {
                Err(Error::NotFound { .. }) => Attempt::Done(()),
                other => other.into(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::state::storage::tests::keeps_its_promises;

    const PATIENT: Duration = Duration::from_secs(60);

    /// A server that answers each request with the next of these lines (`None`: it hangs up), and
    /// then with the last one; the storage on it.
    fn answering(
        answers: &'static [Option<&'static str>],
        options: &StorageOptions,
    ) -> BucketStorage {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let mut left = answers.iter();
            for stream in listener.incoming() {
                let answer = left.next().or(answers.last()).unwrap();
                answer_one(stream.unwrap(), *answer);
            }
        });
        BucketStorage {
            client: Client::at(&endpoint, Duration::from_secs(5)).unwrap(),
            options: options.clone(),
        }
    }

    fn answer_one(mut stream: TcpStream, answer: Option<&str>) {
        let mut request = BufReader::new(stream.try_clone().unwrap());
        let (mut line, mut length) = (String::new(), 0);
        while request.read_line(&mut line).unwrap_or(0) > 2 {
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            line.clear();
        }
        let mut body = vec![0; length];
        let _ = request.read_exact(&mut body);
        let Some(status) = answer else {
            return;
        };
        let _ = write!(
            stream,
            "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\netag: \"x\"\r\n\
             last-modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n\r\n"
        );
    }

    #[test]
    fn a_server_that_is_away_is_asked_again() {
        const AWAY: Option<&str> = Some("503 Slow Down");
        let options = StorageOptions {
            patience: Some(PATIENT),
            ..StorageOptions::default()
        };
        let storage = answering(&[AWAY, AWAY, None, None, AWAY, Some("200 OK")], &options);
        assert_eq!(storage.put("log/1", b"x").unwrap(), Put::Written);
        assert_eq!(*options.status.lock().unwrap(), None);
    }

    #[test]
    fn a_put_whose_answer_was_lost_finds_its_object() {
        let storage = answering(
            &[None, Some("412 Precondition Failed"), Some("200 OK")],
            &StorageOptions::default(),
        );
        assert_eq!(storage.put("log/1", b"x").unwrap(), Put::Exists);
    }

    #[test]
    fn a_conflict_is_no_object() {
        let storage = answering(
            &[Some("409 Conflict"), Some("404 Not Found"), Some("200 OK")],
            &StorageOptions::default(),
        );
        assert_eq!(storage.put("log/1", b"x").unwrap(), Put::Written);
    }

    #[test]
    fn patience_ends() {
        let options = StorageOptions {
            patience: Some(Duration::ZERO),
            ..StorageOptions::default()
        };
        let storage = answering(&[Some("503 Slow Down")], &options);
        let error = storage.get("log/1").unwrap_err();
        assert!(matches!(error, StorageError::Unreachable { .. }), "{error}");
        let storage = answering(&[Some("403 Forbidden")], &options);
        let error = storage.get("log/1").unwrap_err().to_string();
        assert!(error.contains("AWS_ACCESS_KEY_ID"), "{error}");
    }

    #[test]
    fn an_aborted_run_waits_for_nothing() {
        let options = StorageOptions::default();
        let storage = answering(&[Some("503 Slow Down")], &options);
        let abort = std::sync::Arc::clone(&options.abort);
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            abort.store(true, Ordering::Relaxed);
        });
        assert!(matches!(storage.get("log/1"), Err(StorageError::Aborted)));
        let status = options.status.lock().unwrap().clone().unwrap();
        assert!(status.contains("does not answer"), "{status}");
    }

    fn opened(options: StorageOptions) -> BucketStorage {
        let bucket = std::env::var("HIGHWATER_TEST_S3_BUCKET").expect("dev/test sets it");
        let prefix = format!("state-{}", uuid::Uuid::new_v4().simple());
        BucketStorage::open(&bucket, &prefix, options).unwrap()
    }

    #[test]
    #[ignore = "needs s3: run dev/test"]
    fn s3_keeps_the_promises_of_storage() {
        keeps_its_promises(&opened(StorageOptions::default()));
    }

    #[test]
    #[ignore = "needs s3: run dev/test"]
    fn s3_takes_large_objects_in_parts() {
        let storage = opened(StorageOptions::default());
        let bytes: Vec<u8> = (0..PART_BYTES + 1000).map(|i| (i % 251) as u8).collect();
        assert_eq!(storage.put("checkpoint/x", &bytes).unwrap(), Put::Written);
        assert_eq!(storage.put("checkpoint/x", &bytes).unwrap(), Put::Exists);
        assert!(storage.get("checkpoint/x").unwrap().unwrap() == bytes);
    }

    #[test]
    #[ignore = "needs s3: run dev/test"]
    fn s3_gives_a_name_to_one_of_many_writers() {
        let storage = opened(StorageOptions::default());
        for name in 0..10 {
            let name = format!("log/{name}");
            let won: Vec<_> = std::thread::scope(|scope| {
                let put = |i: u8| {
                    let (storage, name) = (&storage, name.clone());
                    scope.spawn(move || storage.put(&name, &[i]).unwrap())
                };
                let threads: Vec<_> = (0..4).map(put).collect();
                threads.into_iter().map(|it| it.join().unwrap()).collect()
            });
            let written = won.iter().filter(|put| **put == Put::Written).count();
            assert!(written <= 1, "{won:?}");
            let found = usize::from(storage.get(&name).unwrap().unwrap()[0]);
            assert!(
                written == 0 || won[found] == Put::Written,
                "{won:?}, {found}"
            );
        }
    }
}
