//! The servers and the Python that `dev/test` provides, found by environment variables.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::place::{Done, Place, finish};

/// The value of an environment variable that `dev/test` sets.
#[track_caller]
pub fn given(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run dev/test, which starts what this test needs")
    })
}

/// A name that no other test and no earlier run has.
pub fn unique(name: &str) -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    format!("{name}-{}-{}", std::process::id(), since.as_nanos())
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a workspace")
        .to_owned()
}

/// Runs a script with the Python that has `DuckDB` and `pyarrow`; asserts success.
#[track_caller]
pub fn python(arguments: &[String]) -> Done {
    let mut command = Command::new(given("HIGHWATER_TEST_PYTHON"));
    command.args(arguments);
    let done = finish(command);
    assert_eq!(done.code, 0, "{arguments:?}\n{}", done.stderr);
    done
}

/// The rows of a table of Delta Lake by an independent reader, in an order of their own, and what it
/// says of the table (tests/oracle/delta.py, which takes `more`).
#[track_caller]
pub fn delta_table(table: &str, more: &[&str]) -> (Vec<String>, Value) {
    let script = root().join("tests/oracle/delta.py").display().to_string();
    let mut arguments = vec![script, table.to_owned()];
    arguments.extend(more.iter().map(|it| (*it).to_owned()));
    let Done { stdout, stderr, .. } = python(&arguments);
    let about = stderr.lines().last().expect("what the table is");
    let rows = stdout.lines().map(str::to_owned).collect();
    (rows, serde_json::from_str(about).expect("JSON"))
}

/// How that reader gets at the object store.
pub fn bucket_keys() -> String {
    json!({
        "AWS_ENDPOINT_URL": given("AWS_ENDPOINT_URL"),
        "AWS_ACCESS_KEY_ID": given("AWS_ACCESS_KEY_ID"),
        "AWS_SECRET_ACCESS_KEY": given("AWS_SECRET_ACCESS_KEY"),
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    })
    .to_string()
}

/// The oracle's windows and its ledger, as texts.
#[track_caller]
pub fn oracle(arguments: &[String]) -> Done {
    let script = root().join("tests/oracle/windows.py").display().to_string();
    python(&[&[script], arguments].concat())
}

/// Tests that use a server hold it for reading; one that kills it holds it for writing.
static KAFKA: RwLock<()> = RwLock::new(());
static KAFKA3: RwLock<()> = RwLock::new(());
static POSTGRES: RwLock<()> = RwLock::new(());
static S3: RwLock<()> = RwLock::new(());
static REGISTRY: RwLock<()> = RwLock::new(());

/// What `dev/services` calls the brokers of the cluster.
pub const BROKERS: [&str; 3] = ["kafka3a", "kafka3b", "kafka3c"];

/// A server that stays up as long as this is held.
pub struct Server {
    address: String,
    _guard: RwLockReadGuard<'static, ()>,
}

/// A server that this test alone uses, and may kill.
pub struct Victim {
    name: &'static str,
    address: String,
    _guard: RwLockWriteGuard<'static, ()>,
}

fn shared(lock: &'static RwLock<()>, variable: &str) -> Server {
    let address = given(variable);
    Server {
        address,
        _guard: lock.read().unwrap_or_else(PoisonError::into_inner),
    }
}

fn alone(lock: &'static RwLock<()>, variable: &str, name: &'static str) -> Victim {
    let address = given(variable);
    Victim {
        name,
        address,
        _guard: lock.write().unwrap_or_else(PoisonError::into_inner),
    }
}

/// The broker.
pub fn kafka() -> Server {
    shared(&KAFKA, "HIGHWATER_TEST_KAFKA")
}

/// The broker, to be killed.
pub fn kafka_alone() -> Victim {
    alone(&KAFKA, "HIGHWATER_TEST_KAFKA", "kafka")
}

/// The cluster of three brokers, to be killed one by one.
pub fn kafka3_alone() -> Victim {
    alone(&KAFKA3, "HIGHWATER_TEST_KAFKA3", BROKERS[0])
}

/// The database.
pub fn postgres() -> Server {
    shared(&POSTGRES, "HIGHWATER_TEST_POSTGRES")
}

/// The database, to be killed.
pub fn postgres_alone() -> Victim {
    alone(&POSTGRES, "HIGHWATER_TEST_POSTGRES", "postgres")
}

/// The object store.
pub fn s3() -> Server {
    shared(&S3, "AWS_ENDPOINT_URL")
}

/// The object store, to be killed.
pub fn s3_alone() -> Victim {
    alone(&S3, "AWS_ENDPOINT_URL", "s3")
}

/// The schema registry.
pub fn registry() -> Server {
    shared(&REGISTRY, "HIGHWATER_TEST_REGISTRY")
}

/// The schema registry, to be killed.
pub fn registry_alone() -> Victim {
    alone(&REGISTRY, "HIGHWATER_TEST_REGISTRY", "registry")
}

impl Server {
    /// Of the broker: the URI of a topic. Of the database: its own.
    pub fn uri(&self, topic: &str) -> String {
        uri(&self.address, topic)
    }

    /// See [`query`].
    pub fn query(&self, sql: &str) -> Vec<String> {
        query(&self.address, sql)
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Victim {
    /// See [`Server::uri`].
    pub fn uri(&self, topic: &str) -> String {
        uri(&self.address, topic)
    }

    /// See [`query`].
    pub fn query(&self, sql: &str) -> Vec<String> {
        query(&self.address, sql)
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// It is gone at once, as in a crash.
    pub fn kill(&self) {
        told("kill", self.name);
    }

    /// It is back, with what it had.
    pub fn start(&self) {
        told("start", self.name);
    }

    /// One of [`BROKERS`] is gone at once.
    pub fn kill_one(&self, broker: &str) {
        assert!(BROKERS.contains(&self.name), "it is no cluster");
        told("kill", broker);
    }

    /// One of [`BROKERS`] is back.
    pub fn start_one(&self, broker: &str) {
        assert!(BROKERS.contains(&self.name), "it is no cluster");
        told("start", broker);
    }

    /// It stands still with all its connections open, and answers nobody.
    pub fn pause(&self) {
        told("pause", self.name);
    }

    /// It goes on where it was paused.
    pub fn resume(&self) {
        told("resume", self.name);
    }
}

fn told(what: &str, name: &str) {
    let done = finish(service(what, name));
    assert_eq!(done.code, 0, "dev/services {what} {name}: {}", done.stderr);
}

fn service(what: &str, name: &str) -> Command {
    let mut command = Command::new(root().join("dev/services"));
    command.args([what, name, "--dir", &given("HIGHWATER_SERVICES_DIR")]);
    command
}

impl Drop for Victim {
    /// Other tests need it, also when this one has failed while it was gone or paused.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let own = [self.name];
        let names: &[&str] = if BROKERS.contains(&self.name) {
            &BROKERS
        } else {
            &own
        };
        for name in names {
            let _ = service("resume", name).status();
            let _ = service("start", name).status();
        }
    }
}

fn uri(address: &str, topic: &str) -> String {
    if address.contains("://") {
        address.to_owned()
    } else {
        format!("kafka://{address}/{topic}")
    }
}

/// What `psql` prints: a line per row.
#[track_caller]
fn query(uri: &str, sql: &str) -> Vec<String> {
    let mut command = Command::new("psql");
    command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]);
    command.args(["--set", "ON_ERROR_STOP=1", "--command", sql, uri]);
    let done = finish(command);
    assert_eq!(done.code, 0, "{sql}: {}", done.stderr);
    done.stdout.lines().map(str::to_owned).collect()
}

/// The messages of a topic, partition by partition, as objects with partition, offset, key and the
/// fields of the payload.
pub fn messages(place: &Place, uri: &str) -> Vec<Value> {
    let shown = place
        .ok(&format!("view {uri} --format json --limit 0"))
        .stdout;
    shown
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// Asks the broker for more partitions of a topic: a `CreatePartitions` request of version 0, as
/// Kafka's protocol has it. No client library is at hand here.
pub fn add_partitions(address: &str, topic: &str, count: i32) {
    let mut body = Vec::new();
    // Key, version, correlation id, client id (none); one topic, its count, no placement;
    // time-out, not only for validation.
    body.extend_from_slice(&37_i16.to_be_bytes());
    body.extend_from_slice(&0_i16.to_be_bytes());
    body.extend_from_slice(&7_i32.to_be_bytes());
    body.extend_from_slice(&(-1_i16).to_be_bytes());
    body.extend_from_slice(&1_i32.to_be_bytes());
    body.extend_from_slice(&(topic.len() as i16).to_be_bytes());
    body.extend_from_slice(topic.as_bytes());
    body.extend_from_slice(&count.to_be_bytes());
    body.extend_from_slice(&(-1_i32).to_be_bytes());
    body.extend_from_slice(&10_000_i32.to_be_bytes());
    body.push(0);
    let mut broker = TcpStream::connect(address).expect("the broker");
    broker
        .write_all(&(body.len() as i32).to_be_bytes())
        .expect("sent");
    broker.write_all(&body).expect("sent");
    let mut length = [0; 4];
    broker.read_exact(&mut length).expect("an answer");
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    broker.read_exact(&mut answer).expect("an answer");
    // Correlation id, throttle time, one topic with its name; then the error.
    let error = &answer[4 + 4 + 4 + 2 + topic.len()..][..2];
    assert_eq!(error, [0, 0], "the broker refuses: {answer:?}");
}
