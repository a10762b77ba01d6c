//! What sinks and state share of a bucket that speaks S3: the client and its errors.
//!
//! Address, keys and region come from the usual variables (`AWS_ENDPOINT_URL`,
//! `AWS_ACCESS_KEY_ID`, ...); with an endpoint requests name the bucket in the path.

use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::HttpError;
use object_store::path::Path as Key;
use object_store::{ClientOptions, Error, ObjectStoreExt, RetryConfig};
use thiserror::Error as ThisError;
use tokio::runtime::Runtime;

use crate::sink::SinkError;
use crate::terminal::chain;

/// What `check` asks for; nothing has this name.
const PROBE: &str = ".highwater-probe";
const ENDPOINT_VARIABLES: [&str; 3] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];

/// A bucket with a prefix, and what is needed to talk to it.
pub(crate) struct Client {
    /// `s3://bucket/prefix`, for people.
    pub(crate) name: String,
    /// Makes one attempt at a request, and one more where that is cheap.
    pub(crate) store: AmazonS3,
    prefix: String,
    runtime: Runtime,
    connect_timeout: Duration,
}

/// Why a bucket cannot be used.
#[derive(Debug, ThisError)]
pub(crate) enum ClientError {
    /// The settings are wrong: the text says what to do.
    #[error("{0}")]
    Config(String),
    /// It does not answer within the time-out.
    #[error("{target}: cannot be reached: {reason}")]
    Unreachable {
        /// The bucket.
        target: String,
        /// What the client said.
        reason: String,
    },
    /// A request was refused.
    #[error("{target}: {reason}")]
    Failed {
        /// The bucket.
        target: String,
        /// What the store said, and what to do when that is known.
        reason: String,
    },
}

impl From<ClientError> for SinkError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Config(text) => Self::Config(text),
            ClientError::Unreachable { target, reason } => Self::Unreachable { target, reason },
            ClientError::Failed { target, reason } => Self::Write { target, reason },
        }
    }
}

impl Client {
    /// Reads the environment; connects to nothing yet.
    pub(crate) fn new(
        bucket: &str,
        prefix: &str,
        connect_timeout: Duration,
    ) -> Result<Self, ClientError> {
        let slash = if prefix.is_empty() { "" } else { "/" };
        let name = format!("s3://{bucket}{slash}{prefix}");
        let config =
            |reason: &dyn std::fmt::Display| ClientError::Config(format!("{name}: {reason}"));
        let endpoint = endpoint().map_err(|reason| config(&reason))?;
        let settings = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_virtual_hosted_style_request(endpoint.is_none());
        Self::with(settings, endpoint.as_deref(), name, prefix, connect_timeout)
    }

    /// Of what listens at this endpoint, without the environment.
    #[cfg(test)]
    pub(crate) fn at(endpoint: &str, connect_timeout: Duration) -> Result<Self, ClientError> {
        let settings = AmazonS3Builder::new()
            .with_bucket_name("bucket")
            .with_endpoint(endpoint)
            .with_access_key_id("key")
            .with_secret_access_key("secret");
        let name = "s3://bucket".to_owned();
        Self::with(settings, Some(endpoint), name, "", connect_timeout)
    }

    fn with(
        settings: AmazonS3Builder,
        endpoint: Option<&str>,
        name: String,
        prefix: &str,
        connect_timeout: Duration,
    ) -> Result<Self, ClientError> {
        let config =
            |reason: &dyn std::fmt::Display| ClientError::Config(format!("{name}: {reason}"));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| config(&error))?;
        // The first in the process wins; a second try changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Retries are made by the caller, where a run that is aborted ends them.
        let retry = RetryConfig {
            max_retries: 1,
            ..RetryConfig::default()
        };
        let store = settings
            .with_client_options(client_options(endpoint, connect_timeout))
            .with_retry(retry)
            .build()
            .map_err(|error| config(&error))?;
        Ok(Self {
            name,
            store,
            prefix: prefix.to_owned(),
            runtime,
            connect_timeout,
        })
    }

    /// The key of the object that is called `name` below the prefix.
    pub(crate) fn key(&self, name: &str) -> Key {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        Key::from(format!("{}{slash}{name}", self.prefix))
    }

    /// What the object with this key is called below the prefix.
    pub(crate) fn name_of<'k>(&self, key: &'k Key) -> &'k str {
        let key = key.as_ref();
        let rest = key.strip_prefix(&self.prefix).unwrap_or(key);
        rest.strip_prefix('/').unwrap_or(rest)
    }

    /// Waits for `request` on this thread.
    pub(crate) fn block_on<F: Future>(&self, request: F) -> F::Output {
        self.runtime.block_on(request)
    }

    /// Asks for an object that is not there: the answer shows whether the bucket is.
    pub(crate) fn check(&self) -> Result<String, ClientError> {
        let key = self.key(PROBE);
        let asked = self.block_on(async {
            tokio::time::timeout(self.connect_timeout, self.store.get(&key)).await
        });
        let unreachable = |reason: String| ClientError::Unreachable {
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
            _ if is_without_bucket(&error) => Err(self.failed(&error)),
            Error::NotFound { .. } => Ok(format!("bucket {} answers", self.name)),
            _ if is_passing(&error) => Err(unreachable(chain(&error))),
            _ => Err(self.failed(&error)),
        }
    }

    /// An error that a retry would not mend.
    pub(crate) fn failed(&self, error: &Error) -> ClientError {
        if is_without_bucket(error) {
            let advice = "there is no such bucket; make it, or correct the name";
            return ClientError::Config(format!("{}: {advice}", self.name));
        }
        let advice = match error {
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                "; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy \
                 (reading and writing objects are needed)"
            }
            _ => "",
        };
        ClientError::Failed {
            target: self.name.clone(),
            reason: format!("{}{advice}", chain(error)),
        }
    }
}

/// The bucket and the prefix that the part of a URI after `s3://` names; `None` without a bucket.
pub(crate) fn parse(rest: &str) -> Option<(&str, &str)> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    (!bucket.is_empty()).then(|| (bucket, prefix.trim_matches('/')))
}

/// The endpoint of the environment; an error when it could not be used.
fn endpoint() -> Result<Option<String>, String> {
    let set = |name: &&str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let Some(endpoint) = ENDPOINT_VARIABLES.iter().find_map(set) else {
        return Ok(None);
    };
    let allows_http = set(&"AWS_ALLOW_HTTP").is_some_and(|it| it == "true" || it == "1");
    if endpoint.starts_with("http://") && !allows_http {
        return Err(format!(
            "the endpoint {endpoint} is not encrypted; set AWS_ALLOW_HTTP=true if that is meant"
        ));
    }
    Ok(Some(endpoint))
}

fn client_options(endpoint: Option<&str>, connect_timeout: Duration) -> ClientOptions {
    ClientOptions::new()
        .with_allow_http(endpoint.is_some_and(|it| it.starts_with("http://")))
        .with_connect_timeout(connect_timeout.min(Duration::from_secs(5)))
        .with_timeout(Duration::from_secs(60))
}

fn is_without_bucket(error: &Error) -> bool {
    matches!(error, Error::NotFound { source, .. } if chain(source.as_ref()).contains("NoSuchBucket"))
}

/// Whether a later attempt may succeed: the network or the server failed, not the request.
pub(crate) fn is_passing(error: &Error) -> bool {
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
