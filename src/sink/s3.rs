//! A bucket of an object store that speaks S3, in which files only ever appear whole.
//!
//! A file is written to a local folder first and put with the condition that its name is free.
//! Where an answer was lost, or an earlier run got further than it could say, the object is there
//! already: with the same bytes that is success. The address, keys and region come from the usual
//! variables (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, ...); with an endpoint requests name the
//! bucket in the path.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::HttpError;
use object_store::path::Path as Key;
use object_store::{
    ClientOptions, Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig,
};
use tokio::runtime::Runtime;

use super::files::{Store, taken};
use super::{SinkContext, SinkError};

/// A file up to this size is put in one request, which holds it in memory; a larger one is sent in
/// parts of this size.
const PART_BYTES: usize = 32 << 20;
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How often a sink that waits looks whether the run was aborted.
const ABORT_CHECK: Duration = Duration::from_millis(100);
/// What `check` asks for; nothing has this name.
const PROBE: &str = ".highwater-probe";
const ENDPOINT_VARIABLES: [&str; 3] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];

/// A bucket, and what is needed to talk to it.
pub(super) struct Bucket {
    /// `s3://bucket/prefix`, for people.
    name: String,
    prefix: String,
    client: AmazonS3,
    runtime: Runtime,
    connect_timeout: Duration,
}

impl Bucket {
    /// Reads the environment; connects to nothing yet.
    pub(super) fn new(
        bucket: &str,
        prefix: &str,
        connect_timeout: Duration,
    ) -> Result<Self, SinkError> {
        let slash = if prefix.is_empty() { "" } else { "/" };
        let name = format!("s3://{bucket}{slash}{prefix}");
        let endpoint = endpoint(&name)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| SinkError::io(&name, &error))?;
        // The first in the process wins; a second try changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Retries are made here, where a run that is aborted ends them.
        let retry = RetryConfig {
            max_retries: 1,
            ..RetryConfig::default()
        };
        let client = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_virtual_hosted_style_request(endpoint.is_none())
            .with_client_options(client_options(connect_timeout))
            .with_retry(retry)
            .build()
            .map_err(|error| SinkError::Config(format!("{name}: {error}")))?;
        Ok(Self {
            name,
            prefix: prefix.to_owned(),
            client,
            runtime,
            connect_timeout,
        })
    }

    /// Asks for an object that is not there: the answer shows whether the bucket is.
    pub(super) fn check(&self) -> Result<String, SinkError> {
        let key = self.key(PROBE);
        let asked = self.runtime.block_on(async {
            tokio::time::timeout(self.connect_timeout, self.client.get(&key)).await
        });
        let unreachable = |reason: String| SinkError::Unreachable {
            target: self.name.clone(),
            reason,
        };
        let error = match asked {
            Err(_) => {
                let waited = self.connect_timeout.as_secs_f64();
                return Err(unreachable(format!("no answer within {waited} s")));
            }
            Ok(Ok(_)) => return Ok(format!("bucket {} answers", self.name)),
            Ok(Err(error)) => error,
        };
        match &error {
            Error::NotFound { source, .. } if chain(source.as_ref()).contains("NoSuchBucket") => {
                let advice = "there is no such bucket; make it, or correct the name";
                Err(SinkError::Config(format!("{}: {advice}", self.name)))
            }
            Error::NotFound { .. } => Ok(format!("bucket {} answers", self.name)),
            _ if is_passing(&error) => Err(unreachable(chain(&error))),
            _ => Err(self.failed(&error)),
        }
    }

    /// The store of a sink, with a folder of its own for files that are being written.
    pub(super) fn into_store(self, context: SinkContext) -> Result<BucketStore, SinkError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = format!("highwater-{}-{number}", std::process::id());
        let staging = std::env::temp_dir().join(folder);
        fs::create_dir_all(&staging).map_err(|error| SinkError::io(staging.display(), &error))?;
        Ok(BucketStore {
            bucket: self,
            staging,
            context,
        })
    }

    fn key(&self, name: &str) -> Key {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        Key::from(format!("{}{slash}{name}", self.prefix))
    }

    fn failed(&self, error: &Error) -> SinkError {
        let advice = match error {
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                "; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy \
                 (reading and writing objects are needed)"
            }
            _ => "",
        };
        SinkError::Write {
            target: self.name.clone(),
            reason: format!("{}{advice}", chain(error)),
        }
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
                .put_opts(key, PutPayload::from(bytes), options)
                .await?;
            return Ok(());
        }
        // Parts are not put under a condition; a shard's only writer asks first.
        match self.client.head(key).await {
            Ok(_) => return Err(PutError::Exists),
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let mut upload = self.client.put_multipart(key).await?;
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
        if self.client.head(key).await?.size != size {
            return Ok(false);
        }
        let mut at = 0;
        while let Some(part) = next_part(&mut file)? {
            let end = at + part.len() as u64;
            if self.client.get_range(key, at..end).await? != part {
                return Ok(false);
            }
            at = end;
        }
        Ok(true)
    }
}

/// The endpoint of the environment; an error when it could not be used.
fn endpoint(name: &str) -> Result<Option<String>, SinkError> {
    let set = |name: &&str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let Some(endpoint) = ENDPOINT_VARIABLES.iter().find_map(set) else {
        return Ok(None);
    };
    let allows_http = set(&"AWS_ALLOW_HTTP").is_some_and(|it| it == "true" || it == "1");
    if endpoint.starts_with("http://") && !allows_http {
        return Err(SinkError::Config(format!(
            "{name}: the endpoint {endpoint} is not encrypted; set AWS_ALLOW_HTTP=true if that is \
             meant"
        )));
    }
    Ok(Some(endpoint))
}

fn client_options(connect_timeout: Duration) -> ClientOptions {
    let allows_http = endpoint("")
        .ok()
        .flatten()
        .is_some_and(|it| it.starts_with("http://"));
    ClientOptions::new()
        .with_allow_http(allows_http)
        .with_connect_timeout(connect_timeout.min(Duration::from_secs(5)))
        .with_timeout(Duration::from_secs(60))
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

/// Whether a later attempt may succeed: the network or the server failed, not the request.
fn is_passing(error: &Error) -> bool {
    let Error::Generic { source, .. } = error else {
        return false;
    };
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(source.as_ref());
    while let Some(error) = cause {
        if error.is::<HttpError>() {
            return true;
        }
        cause = error.source();
    }
    // The type that holds the status is not public. 507: the store's disk is full.
    let text = chain(error);
    let has = |status: &str| text.contains(&format!("status code: {status}"));
    (has("5") && !has("507")) || has("429") || has("408")
}

/// An error and what is not already said of its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// Publishes files in a bucket.
pub(super) struct BucketStore {
    bucket: Bucket,
    staging: PathBuf,
    context: SinkContext,
}

impl BucketStore {
    /// One attempt; an equal object that is there already is success.
    fn attempt(&self, staged: &Path, key: &Key) -> Result<(), PutError> {
        let bucket = &self.bucket;
        match bucket.runtime.block_on(bucket.put(staged, key)) {
            Err(PutError::Exists) => {}
            other => return other,
        }
        if bucket.runtime.block_on(bucket.is_same(staged, key))? {
            return Ok(());
        }
        Err(PutError::Exists)
    }

    fn wait(&self, how_long: Duration) -> Result<(), SinkError> {
        let mut left = how_long;
        while !left.is_zero() {
            if self.context.is_aborted() {
                return Err(SinkError::Aborted);
            }
            let step = left.min(ABORT_CHECK);
            std::thread::sleep(step);
            left -= step;
        }
        Ok(())
    }
}

impl Store for BucketStore {
    fn staging(&self) -> &Path {
        &self.staging
    }

    fn describe(&self) -> String {
        self.bucket.name.clone()
    }

    fn publish(&mut self, staged: &Path, name: &str) -> Result<(), SinkError> {
        let key = self.bucket.key(name);
        let mut pause = FIRST_WAIT;
        loop {
            match self.attempt(staged, &key) {
                Ok(()) => break,
                Err(PutError::File(error)) => return Err(SinkError::io(staged.display(), &error)),
                Err(PutError::Exists) => {
                    return Err(taken(&format!("{}/{name}", self.bucket.name)));
                }
                Err(PutError::Store(error)) if is_passing(&error) => {
                    let why = chain(&error);
                    let status = format!("{} does not answer: {why}", self.bucket.name);
                    self.context.set_status(Some(status));
                    self.wait(pause)?;
                    pause = (2 * pause).min(LONGEST_WAIT);
                }
                Err(PutError::Store(error)) => return Err(self.bucket.failed(&error)),
            }
        }
        self.context.set_status(None);
        fs::remove_file(staged).map_err(|error| SinkError::io(staged.display(), &error))
    }
}
