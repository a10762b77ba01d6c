//! The client of a schema registry, by the interface of Confluent's (Apicurio has it as well, at
//! `/apis/ccompat/v7`).
//!
//! Every call waits for its answer, or for the time-out: none is made on a worker.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use reqwest::{Client, Method, StatusCode, Url, header};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::runtime::Runtime;

use super::SchemaKind;
use super::frame::SchemaId;
use crate::terminal::chain;

const CONTENT_TYPE: &str = "application/vnd.schemaregistry.v1+json";
/// What the interface answers for an id, a subject or a version that is not there.
const NO_SCHEMA: u64 = 40403;
const NO_SUBJECT: u64 = 40401;
const NO_VERSION: u64 = 40402;
/// Schemas refer to others at most so deep.
const DEEPEST: usize = 8;

/// Where a registry is, and how to get in.
#[derive(Clone)]
pub struct RegistryOptions {
    /// `http://HOST:PORT/PATH`; may hold `USER:PASSWORD@`.
    pub url: String,
    /// `USER:PASSWORD`, when the URL does not hold them.
    pub auth: Option<String>,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// Why a registry did not do what it was asked for.
#[derive(Clone, Debug, Error)]
pub enum RegistryError {
    /// The address or the settings are wrong: the text says what to do.
    #[error("{0}")]
    Config(String),
    /// It does not answer, or cannot just now.
    #[error("schema registry {target}: cannot be reached: {reason}")]
    Away {
        /// The address, without credentials.
        target: String,
        /// What happened.
        reason: String,
    },
    /// It answers, and refuses.
    #[error("schema registry {target}: {message}{}", advice(.status))]
    Refused {
        /// The address, without credentials.
        target: String,
        /// The status of the answer.
        status: u16,
        /// The interface's own code; 0 when it gave none.
        code: u64,
        /// What it said.
        message: String,
    },
}

fn advice(status: &u16) -> &'static str {
    match status {
        401 | 403 => "; check user and password (--schema-registry-auth) and their rights",
        404 => {
            "; does the URL name the interface of Confluent's? Apicurio has it at /apis/ccompat/v7"
        }
        _ => "",
    }
}

impl RegistryError {
    /// Whether it may come right by itself, so that whoever needs the answer waits.
    pub const fn is_passing(&self) -> bool {
        !matches!(self, Self::Config(_))
    }

    const fn code(&self) -> u64 {
        match self {
            Self::Refused { code, .. } => *code,
            _ => 0,
        }
    }
}

/// A schema, as a registry has it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Registered {
    /// `AVRO`, `JSON`, `PROTOBUF`.
    pub kind: String,
    /// The text.
    pub schema: String,
    /// The texts of those that it refers to, each behind those that it refers to itself.
    pub others: Vec<String>,
}

/// What stands in a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Counted from 1.
    pub version: u64,
    /// The schema's number.
    pub id: SchemaId,
    /// The schema.
    pub schema: Registered,
}

/// A registry.
pub struct Registry {
    base: String,
    auth: Option<(String, String)>,
    client: Client,
    runtime: Runtime,
}

impl Registry {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// When the URL is none, or the system does not give what a client needs.
    pub fn new(options: &RegistryOptions) -> Result<Self, RegistryError> {
        let config = |reason: &dyn std::fmt::Display| RegistryError::Config(reason.to_string());
        let (base, in_url) = address(&options.url)?;
        let auth = options.auth.as_deref().map(credentials).transpose()?;
        // The first in the process wins; a second try changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| config(&error))?;
        let client = Client::builder()
            .connect_timeout(options.timeout)
            .timeout(options.timeout)
            // Requests are few: a connection that was left open may be closed when it is needed.
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|error| config(&error))?;
        Ok(Self {
            base,
            auth: auth.or(in_url),
            client,
            runtime,
        })
    }

    /// Its address, without credentials.
    pub fn name(&self) -> &str {
        &self.base
    }

    /// The schema with this id; `None`: the registry says that there is none.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn schema(&self, id: SchemaId) -> Result<Option<Registered>, RegistryError> {
        match self.ask(Method::GET, &format!("/schemas/ids/{id}"), None) {
            Ok(found) => self.registered(&found, 0, &mut BTreeSet::new()).map(Some),
            Err(error) if error.code() == NO_SCHEMA => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The versions of a subject, ascending; none when there is no such subject.
    ///
    /// # Errors
    /// When the registry cannot be asked.
    pub fn versions(&self, subject: &str) -> Result<Vec<u64>, RegistryError> {
        let found = self.ask(Method::GET, &format!("/subjects/{subject}/versions"), None);
        match found {
            Ok(found) => {
                let versions = found.as_array().into_iter().flatten();
                Ok(versions.filter_map(Value::as_u64).collect())
            }
            Err(error) if error.code() == NO_SUBJECT => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// A version of a subject: a number, or `latest`; `None`: there is none.
    ///
    /// # Errors
    /// When the registry cannot be asked.
    pub fn version(&self, subject: &str, version: &str) -> Result<Option<Version>, RegistryError> {
        let path = format!("/subjects/{subject}/versions/{version}");
        let found = match self.ask(Method::GET, &path, None) {
            Ok(found) => found,
            Err(error) if [NO_SUBJECT, NO_VERSION].contains(&error.code()) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(Version {
            version: self.number(&found, "version")?,
            id: self.id(&found)?,
            schema: self.registered(&found, 0, &mut BTreeSet::new())?,
        }))
    }

    /// Registers a schema under a subject; one that stands there already keeps its id.
    ///
    /// # Errors
    /// When the registry refuses it ([`RegistryError::Refused`], status 409 when it is not
    /// compatible) or cannot be asked.
    pub fn register(
        &self,
        subject: &str,
        kind: SchemaKind,
        schema: &str,
    ) -> Result<SchemaId, RegistryError> {
        let path = format!("/subjects/{subject}/versions");
        let found = self.ask(Method::POST, &path, Some(&body(kind, schema)))?;
        self.id(&found)
    }

    /// What the registry has against a schema as the next version of a subject, one text per
    /// finding; `None`: nothing.
    ///
    /// # Errors
    /// When it cannot be asked, or there is no such subject.
    pub fn objections(
        &self,
        subject: &str,
        kind: SchemaKind,
        schema: &str,
    ) -> Result<Option<Vec<String>>, RegistryError> {
        let path = format!("/compatibility/subjects/{subject}/versions/latest?verbose=true");
        let found = self.ask(Method::POST, &path, Some(&body(kind, schema)))?;
        if found["is_compatible"].as_bool() == Some(true) {
            return Ok(None);
        }
        // Confluent's registry has a list, Apicurio one text.
        let messages = found["messages"].as_array().into_iter().flatten();
        let reason = found["reason"].as_str();
        let texts = messages.filter_map(Value::as_str).chain(reason);
        Ok(Some(texts.map(str::to_owned).collect()))
    }

    /// The rule of compatibility of a subject, or else that of the registry.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn rule(&self, subject: &str) -> Result<String, RegistryError> {
        let own = self.ask(Method::GET, &format!("/config/{subject}"), None);
        let found = match own {
            Err(RegistryError::Refused { status: 404, .. }) => {
                self.ask(Method::GET, "/config", None)?
            }
            other => other?,
        };
        let level = found["compatibilityLevel"].as_str();
        let level = level.or_else(|| found["compatibility"].as_str());
        level
            .map(str::to_owned)
            .ok_or_else(|| self.nonsense("its configuration names no rule of compatibility"))
    }

    /// A schema with what it refers to, but for the subjects and versions that were `seen` before:
    /// each comes once, behind what it refers to itself.
    fn registered(
        &self,
        found: &Value,
        depth: usize,
        seen: &mut BTreeSet<(String, u64)>,
    ) -> Result<Registered, RegistryError> {
        let schema = found["schema"].as_str();
        let schema = schema.ok_or_else(|| self.nonsense("its answer holds no schema"))?;
        if depth > DEEPEST {
            return Err(self.nonsense("schemas refer to each other without end"));
        }
        let mut others = Vec::new();
        for reference in found["references"].as_array().into_iter().flatten() {
            let subject = reference["subject"].as_str().unwrap_or_default();
            let version = self.number(reference, "version")?;
            if !seen.insert((subject.to_owned(), version)) {
                continue;
            }
            let subject = segment(subject);
            let path = format!("/subjects/{subject}/versions/{version}");
            let found = self.ask(Method::GET, &path, None)?;
            let other = self.registered(&found, depth + 1, seen)?;
            others.extend(other.others);
            others.push(other.schema);
        }
        Ok(Registered {
            kind: found["schemaType"].as_str().unwrap_or("AVRO").to_owned(),
            schema: schema.to_owned(),
            others,
        })
    }

    fn id(&self, found: &Value) -> Result<SchemaId, RegistryError> {
        let id = self.number(found, "id")?;
        let id = u32::try_from(id).map(SchemaId);
        id.map_err(|_| self.nonsense("an id is larger than a frame can hold"))
    }

    fn number(&self, found: &Value, field: &str) -> Result<u64, RegistryError> {
        let number = found[field].as_u64();
        number.ok_or_else(|| self.nonsense(&format!("its answer holds no {field}")))
    }

    /// One request and its answer.
    fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, RegistryError> {
        let mut request = self
            .client
            .request(method, format!("{}{path}", self.base))
            .header(header::ACCEPT, format!("{CONTENT_TYPE}, application/json"));
        if let Some((user, password)) = &self.auth {
            request = request.basic_auth(user, Some(password));
        }
        if let Some(body) = body {
            let request_body = body.to_string();
            request = request
                .header(header::CONTENT_TYPE, CONTENT_TYPE)
                .body(request_body);
        }
        let answer = self.runtime.block_on(async {
            let answer = request.send().await?;
            let status = answer.status();
            Ok::<_, reqwest::Error>((status, answer.text().await?))
        });
        let (status, text) = answer.map_err(|error| self.away(&chain(&error.without_url())))?;
        self.answer(status, &text)
    }

    fn answer(&self, status: StatusCode, text: &str) -> Result<Value, RegistryError> {
        let value: Result<Value, _> = serde_json::from_str(text);
        if status.is_success() {
            return value
                .map_err(|error| self.nonsense(&format!("its answer is no JSON: {error}")));
        }
        let value = value.unwrap_or_default();
        let said = value["message"].as_str().filter(|it| !it.is_empty());
        let message = said.map_or_else(|| format!("it answers {status}"), str::to_owned);
        if status.is_server_error() || [408, 429].contains(&status.as_u16()) {
            return Err(self.away(&message));
        }
        Err(RegistryError::Refused {
            target: self.base.clone(),
            status: status.as_u16(),
            code: value["error_code"].as_u64().unwrap_or_default(),
            message,
        })
    }

    fn away(&self, reason: &str) -> RegistryError {
        RegistryError::Away {
            target: self.base.clone(),
            reason: reason.to_owned(),
        }
    }

    fn nonsense(&self, what: &str) -> RegistryError {
        self.away(&format!(
            "{what}; does the URL name the interface of Confluent's? Apicurio has it at /apis/ccompat/v7"
        ))
    }
}

fn body(kind: SchemaKind, schema: &str) -> Value {
    json!({"schemaType": kind.registry_name(), "schema": schema})
}

/// The URL without credentials and without a slash at the end, and the credentials.
fn address(url: &str) -> Result<(String, Option<(String, String)>), RegistryError> {
    // What is wrong with it may be the password: it is not repeated.
    let wrong = || {
        RegistryError::Config(
            "--schema-registry: write http://HOST:PORT/PATH, as http://localhost:8081, or \
             http://localhost:8085/apis/ccompat/v7 for Apicurio"
                .to_owned(),
        )
    };
    let mut parsed = Url::parse(url).map_err(|_| wrong())?;
    if !["http", "https"].contains(&parsed.scheme())
        || !parsed.has_host()
        || parsed.query().is_some()
    {
        return Err(wrong());
    }
    let decoded = |text: &str| {
        let decoded = percent_decode_str(text).decode_utf8();
        decoded.map(Cow::into_owned).map_err(|_| wrong())
    };
    let user = decoded(parsed.username())?;
    let password = decoded(parsed.password().unwrap_or_default())?;
    if !user.is_empty() && password.is_empty() {
        return Err(RegistryError::Config(
            "--schema-registry: a user without a password; write http://USER:PASSWORD@HOST:PORT/PATH, or give both \
             with --schema-registry-auth @FILE"
                .to_owned(),
        ));
    }
    let _ = parsed.set_username("");
    let _ = parsed.set_password(None);
    let credentials = (!user.is_empty()).then_some((user, password));
    Ok((
        parsed.as_str().trim_end_matches('/').to_owned(),
        credentials,
    ))
}

/// A text as one part of a path.
fn segment(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn credentials(text: &str) -> Result<(String, String), RegistryError> {
    let pair = text.split_once(':').filter(|(user, _)| !user.is_empty());
    let (user, password) = pair.ok_or_else(|| {
        RegistryError::Config(
            "--schema-registry-auth: what is given is not USER:PASSWORD".to_owned(),
        )
    })?;
    Ok((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_taken_out_of_the_address() {
        let (base, auth) = address("https://u:s3cret@registry:8081/api/").expect("valid");
        assert_eq!(base, "https://registry:8081/api");
        assert_eq!(auth, Some(("u".to_owned(), "s3cret".to_owned())));
        assert_eq!(
            address("http://h:1").expect("valid"),
            ("http://h:1".to_owned(), None)
        );
        for wrong in [
            "registry:8081",
            "kafka://h",
            "u:s3cret@h",
            "http://",
            "http://h/?a=s3cret",
        ] {
            let error = address(wrong).expect_err(wrong).to_string();
            assert!(
                error.contains("http://HOST:PORT") && !error.contains("s3cret"),
                "{error}"
            );
        }
        let (_, auth) = address("https://u:p%40s%2F+=@registry").expect("valid");
        assert_eq!(auth, Some(("u".to_owned(), "p@s/+=".to_owned())));
        let error = address("https://t0ken@registry").expect_err("no password");
        assert!(!error.to_string().contains("t0ken"), "{error}");
        let error = credentials("s3cret").expect_err("no user").to_string();
        assert!(!error.contains("s3cret"), "{error}");
    }

    #[test]
    fn what_a_server_cannot_do_now_passes_and_what_it_refuses_does_not_read_as_an_answer() {
        let options = RegistryOptions {
            url: "http://u:s3cret@127.0.0.1:1".to_owned(),
            auth: None,
            timeout: Duration::from_secs(1),
        };
        let registry = Registry::new(&options).expect("valid");
        let away = registry.schema(SchemaId(1)).expect_err("nobody listens");
        assert!(matches!(away, RegistryError::Away { .. }), "{away}");
        assert!(!away.to_string().contains("s3cret"), "{away}");
        let of = |status: u16, text: &str| {
            let status = StatusCode::from_u16(status).expect("a status");
            registry.answer(status, text).expect_err("an error")
        };
        assert!(matches!(of(503, "later"), RegistryError::Away { .. }));
        assert!(matches!(of(200, "<html>"), RegistryError::Away { .. }));
        assert_eq!(
            of(404, r#"{"error_code":40403,"message":"none"}"#).code(),
            NO_SCHEMA
        );
        assert_eq!(of(404, "no such page").code(), 0);
        assert!(of(401, "").to_string().contains("--schema-registry-auth"));
    }
}
