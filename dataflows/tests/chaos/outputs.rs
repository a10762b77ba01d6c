//! What sinks hold, in a form in which two runs can be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::support::place::{Place, finish};
use crate::support::services::{bucket_keys, delta_table, given};

/// Where an output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    Postgres,
    Kafka,
    Ndjson,
    CsvFolder,
    ParquetFolder,
    CsvBucket,
    ParquetBucket,
    DeltaFolder,
    DeltaBucket,
}

/// An output with its target.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    pub name: &'static str,
    pub sink: Sink,
}

/// The servers' addresses, and what names on them begin with.
pub struct Site {
    pub kafka: String,
    pub postgres: String,
    /// Unique for the scenario.
    pub name: String,
}

impl Output {
    pub const fn new(name: &'static str, sink: Sink) -> Self {
        Self { name, sink }
    }

    /// What tells it from others in messages.
    pub fn label(self) -> String {
        format!("{} in {:?}", self.name, self.sink)
    }

    /// Its flag in the run `tag`.
    pub fn flag(self, site: &Site, tag: &str) -> String {
        format!("--to {}={}", self.name, self.uri(site, tag))
    }

    /// Whether a row that comes again replaces itself.
    pub fn replaces(self) -> bool {
        let is_file = matches!(
            self.sink,
            Sink::CsvFolder | Sink::CsvBucket | Sink::ParquetFolder | Sink::ParquetBucket
        );
        self.sink == Sink::Postgres || (self.is_windows() && is_file)
    }

    fn is_windows(self) -> bool {
        self.name == "windows"
    }

    /// More rows than so many are there.
    pub fn fewest(self) -> usize {
        if self.is_quality() { 0 } else { 3 }
    }

    fn is_quality(self) -> bool {
        self.name == "quality"
    }

    fn table(self, site: &Site, tag: &str) -> String {
        format!("{}_{tag}_{}", site.name, self.name).replace('-', "_")
    }

    fn topic(self, site: &Site, tag: &str) -> String {
        let kafka = &site.kafka;
        format!("kafka://{kafka}/{}-{tag}-{}", site.name, self.name)
    }

    fn folder(self, tag: &str) -> String {
        format!("{tag}/{:?}-{}", self.sink, self.name).to_lowercase()
    }

    fn uri(self, site: &Site, tag: &str) -> String {
        let folder = self.folder(tag);
        let bucket = bucket(site, &folder);
        match self.sink {
            Sink::Postgres => format!(
                // A run that is frozen within a transaction keeps others waiting for so long.
                "{}?table={}&options=-c%20idle_in_transaction_session_timeout%3D3s",
                site.postgres,
                self.table(site, tag)
            ),
            Sink::Kafka => format!("{}?shards=2", self.topic(site, tag)),
            Sink::Ndjson => format!("ndjson:{folder}.ndjson"),
            Sink::CsvFolder => format!("csv:{folder}"),
            Sink::ParquetFolder => format!("parquet:{folder}"),
            Sink::CsvBucket => format!("csv:{bucket}"),
            Sink::ParquetBucket => format!("parquet:{bucket}"),
            Sink::DeltaFolder => format!("delta:{folder}"),
            Sink::DeltaBucket => format!("delta:{bucket}"),
        }
    }

    /// All that the run `tag` has left there, as lines in an order of their own. Windows in files
    /// come with the files' names and bytes, which must be the same as well.
    pub fn contents(self, place: &Place, site: &Site, tag: &str) -> Vec<String> {
        let mut lines = self.lines(place, site, tag);
        if self.is_quality() {
            lines = vec![sum_of_quality(&lines)];
        } else if !self.is_windows() {
            assert_in_order(&lines, self);
        }
        lines.sort();
        lines
    }

    /// The same where some may be there more than once.
    pub fn repeated_contents(self, place: &Place, site: &Site, tag: &str) -> Vec<String> {
        let mut lines = self.lines(place, site, tag);
        lines.sort();
        lines
    }

    fn lines(self, place: &Place, site: &Site, tag: &str) -> Vec<String> {
        match self.sink {
            Sink::Postgres => self.table_rows(site, tag),
            Sink::Kafka => self.messages(place, site, tag),
            Sink::Ndjson => place
                .read(&format!("{}.ndjson", self.folder(tag)))
                .lines()
                .map(str::to_owned)
                .collect(),
            Sink::CsvFolder | Sink::ParquetFolder => self.files(place, &self.folder(tag)),
            Sink::CsvBucket | Sink::ParquetBucket => {
                let folder = self.folder(tag);
                let copy = format!("copy-{}", folder.replace('/', "-"));
                fetch_bucket(place, &format!("{}/{folder}/", site.name), &copy);
                self.files(place, &copy)
            }
            Sink::DeltaFolder => {
                let table = place.path(&self.folder(tag)).display().to_string();
                delta_table(&table, &[]).0
            }
            Sink::DeltaBucket => {
                let table = bucket(site, &self.folder(tag));
                delta_table(&table, &["--storage-options", &bucket_keys()]).0
            }
        }
    }

    fn table_rows(self, site: &Site, tag: &str) -> Vec<String> {
        let table = self.table(site, tag);
        query(
            &site.postgres,
            &format!("SELECT row_to_json(t)::text FROM {table} AS t"),
        )
    }

    fn messages(self, place: &Place, site: &Site, tag: &str) -> Vec<String> {
        let uri = self.topic(site, tag);
        let shown = place
            .ok(&format!("view {uri} --format json --limit 0"))
            .stdout;
        let line = |line: &str| {
            let mut row: Value = serde_json::from_str(line).expect("JSON");
            let fields = row.as_object_mut().expect("an object");
            // Aborted transactions and markers have offsets as well; which partition a window goes
            // to is the partitioner's business.
            fields.remove("offset");
            fields.remove("timestamp");
            if self.is_windows() {
                fields.remove("partition");
            }
            row.to_string()
        };
        shown.lines().map(line).collect()
    }

    fn files(self, place: &Place, folder: &str) -> Vec<String> {
        let files = place.files(folder);
        let is_hidden = |name: &String| name.split('/').any(|part| part.starts_with(['.', '_']));
        let files: Vec<_> = files.into_iter().filter(|name| !is_hidden(name)).collect();
        if files.is_empty() {
            return Vec::new();
        }
        let shown = place
            .ok(&format!("view {folder} --format json --limit 0"))
            .stdout;
        let mut lines: Vec<String> = shown.lines().map(str::to_owned).collect();
        if self.is_windows() {
            // Without the job: `j` and eight digits.
            lines.extend(files.iter().map(|name| {
                let bytes = fs::read(place.path(folder).join(name)).expect("read");
                let digest = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                    (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
                });
                format!(
                    "{}: {} bytes, {digest:016x}",
                    without_job(name),
                    bytes.len()
                )
            }));
        }
        lines
    }
}

/// The place of a folder of this site in the object store.
fn bucket(site: &Site, folder: &str) -> String {
    let bucket = given("HIGHWATER_TEST_S3_BUCKET");
    format!("s3://{bucket}/{}/{folder}", site.name)
}

/// A file's name without the job that is part of it.
fn without_job(name: &str) -> String {
    let is_job = |part: &&str| {
        let digits = part.strip_prefix('j').unwrap_or_default();
        digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let parts: Vec<_> = name.split('-').filter(|part| !is_job(part)).collect();
    parts.join("-")
}

/// One row per checkpoint, none of them twice: which these are is chance, what they add up to is not.
#[track_caller]
fn sum_of_quality(lines: &[String]) -> String {
    let rows = lines
        .iter()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    let rows: Vec<Value> = rows.collect();
    let number = |row: &Value, name: &str| row[name].as_u64().expect("a number");
    let epochs: BTreeSet<_> = rows
        .iter()
        .map(|row| number(row, "checkpoint_epoch"))
        .collect();
    assert_eq!(
        epochs.len(),
        rows.len(),
        "a checkpoint has two rows: {lines:?}"
    );
    let sum = |name| rows.iter().map(|row| number(row, name)).sum::<u64>();
    let names = ["rows", "out_of_range", "missing_key"];
    serde_json::json!(BTreeMap::from(names.map(|name| (name, sum(name))))).to_string()
}

/// Records of a partition stand in its order, where rows say from where they are, and none is
/// there twice.
#[track_caller]
fn assert_in_order(lines: &[String], output: Output) {
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    for line in lines {
        let row: Value = serde_json::from_str(line).expect("JSON");
        let number = |name: &str| match &row[name] {
            Value::String(text) => text.parse().ok(),
            number => number.as_i64(),
        };
        let (Some(offset), partition) =
            (number("source_offset"), row["source_partition"].to_string())
        else {
            continue;
        };
        // Tables and files have no order of their own; but nothing is twice in them.
        let is_ordered = matches!(output.sink, Sink::Kafka | Sink::Ndjson);
        let before = last.insert(partition, offset);
        assert!(
            !is_ordered || before < Some(offset),
            "{}: offset {offset} after {before:?}: {line}",
            output.label()
        );
    }
}

/// Copies all published objects below `prefix` to a folder.
fn fetch_bucket(place: &Place, prefix: &str, folder: &str) {
    let keys = list_bucket(prefix);
    let _ = fs::remove_dir_all(place.path(folder));
    for keys in keys.chunks(100) {
        let mut command = curl();
        command.arg("--create-dirs");
        for key in keys {
            let name = key.strip_prefix(prefix).expect("below the prefix");
            command.arg(format!("{}/{}", bucket_url(), encoded(key)));
            command.arg("-o").arg(place.path(folder).join(name));
        }
        let done = finish(command);
        assert_eq!(done.code, 0, "{}", done.stderr);
    }
}

fn list_bucket(prefix: &str) -> Vec<String> {
    let (mut keys, mut after) = (Vec::new(), String::new());
    loop {
        let mut command = curl();
        let start = if after.is_empty() {
            String::new()
        } else {
            format!("&start-after={}", all_encoded(&after))
        };
        command.arg(format!(
            "{}?list-type=2&prefix={}{start}",
            bucket_url(),
            all_encoded(prefix)
        ));
        let done = finish(command);
        assert!(
            done.code == 0 && done.stdout.contains("<ListBucketResult"),
            "{} {}",
            done.stdout,
            done.stderr
        );
        let found = done
            .stdout
            .split("<Key>")
            .skip(1)
            .filter_map(|rest| rest.split("</Key>").next());
        keys.extend(found.map(str::to_owned));
        if !done.stdout.contains("<IsTruncated>true") {
            return keys;
        }
        after = keys.last().cloned().unwrap_or_default();
    }
}

fn bucket_url() -> String {
    format!(
        "{}/{}",
        given("AWS_ENDPOINT_URL"),
        given("HIGHWATER_TEST_S3_BUCKET")
    )
}

fn curl() -> Command {
    let mut command = Command::new("curl");
    let user = format!(
        "{}:{}",
        given("AWS_ACCESS_KEY_ID"),
        given("AWS_SECRET_ACCESS_KEY")
    );
    command.args(["-s", "-S", "--fail", "--noproxy", "*", "-m", "60"]);
    command.args(["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &user]);
    command
}

fn all_encoded(text: &str) -> String {
    encoded(text).replace('/', "%2F")
}

/// As signatures want it.
fn encoded(key: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    let byte = |byte: u8| {
        if plain(byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    key.bytes().map(byte).collect()
}

/// What `psql` prints: a line per row.
#[track_caller]
pub fn query(uri: &str, sql: &str) -> Vec<String> {
    let mut command = Command::new("psql");
    command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]);
    command.args(["--set", "ON_ERROR_STOP=1", "--command", sql, uri]);
    let done = finish(command);
    assert_eq!(done.code, 0, "{sql}: {}", done.stderr);
    done.stdout.lines().map(str::to_owned).collect()
}
