//! Sinks of files against the real thing: an S3 store, a full device.
//!
//! Tests whose names begin with `s3_` need the store of `dev/services`; `dev/test` starts it.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    clippy::large_stack_arrays,
    clippy::unused_self,
    reason = "a test fails by panicking, and tells its whole story in one place"
)]
#![cfg(feature = "s3")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use highwater::rows::{
    Column, ColumnType, Completeness, Origin, Pane, RowWriter, Rows, Tabular, Timing,
};
use highwater::sink::{
    EpochRows, JobContext, JobId, Layout, NewestRun, OutputKind, OutputSpec, RunNumber, Sink,
    SinkContext, SinkError, SinkFactory, SinkOptions, parse_sink,
};
use highwater::time::{Epoch, EventTime, Offset, PartitionId, Shard, Span};

struct Count(i64, i64);

impl Tabular for Count {
    fn columns() -> Vec<Column> {
        vec![
            Column::new("window_start", ColumnType::Timestamp),
            Column::new("window_end", ColumnType::Timestamp),
            Column::new("count", ColumnType::Int),
        ]
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.timestamp(EventTime(self.0));
        row.timestamp(EventTime(self.0 + 60_000));
        row.int(self.1);
    }
}

/// A record of bytes that no codec makes smaller.
struct Noise(u64, usize);

impl Tabular for Noise {
    fn columns() -> Vec<Column> {
        vec![Column::new("noise", ColumnType::Bytes)]
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        let mut state = self.0.wrapping_mul(2).wrapping_add(1);
        let noise: Vec<u8> = (0..self.1)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect();
        row.bytes(noise.as_slice());
    }
}

fn windows() -> OutputSpec {
    OutputSpec {
        pipeline: "test",
        name: "windows",
        columns: Count::columns().into(),
        kind: OutputKind::Windows {
            key: Vec::new(),
            keep: Span::ZERO,
        },
        layout: Layout::DateHour("window_start"),
    }
}

fn records() -> OutputSpec {
    OutputSpec {
        pipeline: "test",
        name: "noise",
        columns: Noise::columns().into(),
        kind: OutputKind::Records {
            source: "in".to_owned(),
        },
        layout: Layout::Flat,
    }
}

fn count(count: i64) -> EpochRows {
    let pane = Pane {
        timing: Timing::OnTime,
        index: 0,
        is_final: true,
        complete: Completeness::Proved,
    };
    let mut rows = Rows::new(Count::columns().into());
    rows.push_result(&Count(0, count), pane, 1);
    epoch(rows)
}

fn noise(rows: u64, bytes: usize) -> EpochRows {
    let mut batch = Rows::new(Noise::columns().into());
    for row in 0..rows {
        let origin = Origin {
            partition: PartitionId(0),
            offset: Offset(row),
        };
        batch.push_record(&Noise(row, bytes), origin);
    }
    epoch(batch)
}

fn epoch(rows: Rows) -> EpochRows {
    EpochRows {
        shard: Shard(3),
        epoch: Epoch(7),
        watermark: EventTime::MAX,
        is_checkpoint: true,
        rows,
    }
}

fn factory(uri: &str) -> Arc<dyn SinkFactory> {
    let connect_timeout = Duration::from_secs(2);
    let options = SinkOptions {
        connect_timeout,
        ..SinkOptions::default()
    };
    parse_sink(uri, &options).unwrap_or_else(|error| panic!("{uri}: {error}"))
}

/// One epoch through a sink that is opened and closed for it.
fn commit(uri: &str, output: &OutputSpec, epoch: &EpochRows) -> Result<u64, SinkError> {
    commit_within(uri, output, epoch, &SinkContext::default())
}

fn commit_within(
    uri: &str,
    output: &OutputSpec,
    epoch: &EpochRows,
    context: &SinkContext,
) -> Result<u64, SinkError> {
    let factory = factory(uri);
    let mut sink = factory.open(output, &[epoch.shard], context)?;
    let mut written = sink.commit(epoch)?;
    written += sink.close()?;
    Ok(written.rows)
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; run dev/test"))
}

/// The S3 tests take turns: one of them kills the store.
fn store() -> MutexGuard<'static, ()> {
    static STORE: Mutex<()> = Mutex::new(());
    STORE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A prefix that no other test and no earlier run has used.
fn prefix(name: &str) -> String {
    let since = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .expect("a clock after 1970");
    format!(
        "s3://{}/{name}-{}",
        variable("HIGHWATER_TEST_S3_BUCKET"),
        since.as_nanos()
    )
}

/// The store comes back, also when the test that has killed it has failed.
struct Restart;

impl Drop for Restart {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = dev_services("start").status();
        }
    }
}

fn dev_services(action: &str) -> Command {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/dev/services");
    let folder = variable("HIGHWATER_SERVICES_DIR");
    let mut command = Command::new(script);
    command.args([action, "s3", "--dir", &folder]);
    command
}

fn service(action: &str) {
    let status = dev_services(action).status();
    assert!(
        status.expect("dev/services runs").success(),
        "dev/services {action} s3"
    );
}

#[test]
#[ignore = "needs s3: run dev/test"]
fn s3_objects_are_put_once() {
    let _store = store();
    for format in ["csv", "parquet"] {
        let uri = format!("{format}:{}", prefix("once"));
        factory(&uri).check(&windows()).unwrap();
        factory(&uri).prepare(&windows(), 4, None).unwrap();
        assert_eq!(commit(&uri, &windows(), &count(1)).unwrap(), 1);
        // The same again, as after a crash before the commit was known.
        assert_eq!(commit(&uri, &windows(), &count(1)).unwrap(), 1);
        let error = commit(&uri, &windows(), &count(2)).unwrap_err().to_string();
        let name = "date=1970-01-01/hour=00/windows-19700101T000000Z-19700101T000100Z-s003";
        assert!(
            error.contains(name) && error.contains("other contents"),
            "{error}"
        );
    }
}

#[test]
#[ignore = "needs s3: run dev/test"]
fn s3_large_objects_are_sent_in_parts() {
    let _store = store();
    let uri = format!("parquet:{}", prefix("large"));
    let epoch = noise(9000, 8000);
    assert_eq!(commit(&uri, &records(), &epoch).unwrap(), 9000);
    assert_eq!(commit(&uri, &records(), &epoch).unwrap(), 9000);
    let error = commit(&uri, &records(), &noise(9001, 8000))
        .unwrap_err()
        .to_string();
    assert!(error.contains("other contents"), "{error}");
}

#[test]
#[ignore = "needs s3: run dev/test"]
fn s3_a_missing_bucket_is_named() {
    let _store = store();
    let sink = factory("csv:s3://no-such-bucket-here/prefix");
    for error in [
        sink.check(&windows()).unwrap_err(),
        sink.prepare(&windows(), 1, None).unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(text.contains("s3://no-such-bucket-here/prefix"), "{text}");
        assert!(text.contains("no such bucket"), "{text}");
    }
}

#[test]
#[ignore = "needs s3: run dev/test"]
fn s3_a_restart_is_waited_for() {
    let _store = store();
    let uri = format!("csv:{}", prefix("restart"));
    let waiting = factory(&uri);
    let _restart = Restart;
    service("kill");
    let asked = Instant::now();
    let error = waiting.check(&windows()).unwrap_err();
    assert!(matches!(error, SinkError::Unreachable { .. }), "{error}");
    assert!(asked.elapsed() < Duration::from_secs(10));

    let context = SinkContext::default();
    let (inside, target) = (context.clone(), uri.clone());
    let commit = std::thread::spawn(move || commit_within(&target, &windows(), &count(1), &inside));
    let deadline = Instant::now() + Duration::from_secs(30);
    let status = loop {
        let status = context.status.waits_for();
        match status {
            Some(status) => break status,
            None => assert!(Instant::now() < deadline, "no status"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.contains("s3://"), "{status}");
    service("start");
    assert_eq!(commit.join().unwrap().unwrap(), 1);
    assert_eq!(context.status.waits_for(), None);
}

#[test]
#[ignore = "needs s3: run dev/test"]
fn s3_an_aborted_run_does_not_wait() {
    let _store = store();
    let uri = format!("csv:{}", prefix("abort"));
    let _restart = Restart;
    service("kill");
    let context = SinkContext::default();
    let inside = context.clone();
    let commit = std::thread::spawn(move || commit_within(&uri, &windows(), &count(1), &inside));
    std::thread::sleep(Duration::from_millis(300));
    context
        .abort
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let outcome = commit.join().unwrap();
    service("start");
    assert!(matches!(outcome, Err(SinkError::Aborted)), "{outcome:?}");
}

/// A log that no newer run has claimed.
struct Newest(u64);

impl NewestRun for Newest {
    fn newest_run(&self) -> Result<RunNumber, SinkError> {
        Ok(RunNumber(self.0))
    }
}

fn job(id: u128, run: u64, replace_output: bool) -> JobContext {
    JobContext {
        job: JobId(uuid::Uuid::from_u128(id)),
        run: RunNumber(run),
        checkpoint: None,
        logged: None,
        sinks: BTreeMap::new(),
        replace_output,
        log: Arc::new(Newest(run)),
    }
}

fn start(uri: &str, output: &OutputSpec, job: &JobContext) -> Box<dyn Sink> {
    let factory = factory(uri);
    factory.prepare(output, 1, Some(job)).unwrap();
    let context = SinkContext {
        job: Some(Arc::new(job.clone())),
        ..SinkContext::default()
    };
    factory.open(output, &[Shard(3)], &context).unwrap()
}

/// All objects below the prefix of a URI, with their bytes.
fn objects(uri: &str) -> BTreeMap<String, Vec<u8>> {
    use object_store::{ObjectStore, ObjectStoreExt};
    let (bucket, prefix) = uri
        .split_once("s3://")
        .and_then(|(_, rest)| rest.split_once('/'))
        .unwrap();
    let store = object_store::aws::AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .build()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut objects = BTreeMap::new();
        let mut places = vec![object_store::path::Path::from(prefix)];
        while let Some(place) = places.pop() {
            let found = store.list_with_delimiter(Some(&place)).await.unwrap();
            places.extend(found.common_prefixes);
            for object in found.objects {
                let bytes = store.get(&object.location).await.unwrap();
                let name = object.location.as_ref().strip_prefix(prefix).unwrap();
                objects.insert(name.to_owned(), bytes.bytes().await.unwrap().to_vec());
            }
        }
        objects
    })
}

/// Four epochs with rows; 1 and 3 are checkpoints.
fn four_epochs(rows: impl Fn(u64) -> EpochRows) -> Vec<EpochRows> {
    let numbered = |number: u64| EpochRows {
        epoch: Epoch(number),
        is_checkpoint: number % 2 == 1,
        ..rows(number)
    };
    (0..4).map(numbered).collect()
}

fn window(number: u64) -> EpochRows {
    let pane = Pane {
        timing: Timing::OnTime,
        index: 0,
        is_final: true,
        complete: Completeness::Proved,
    };
    let mut rows = Rows::new(Count::columns().into());
    rows.push_result(&Count(number as i64 * 1_800_000, 7), pane, 1);
    epoch(rows)
}

#[test]
#[ignore = "needs s3: run dev/test"]
fn s3_a_crash_and_a_replay_leave_the_same_objects() {
    let _store = store();
    let cases = [
        (windows(), four_epochs(window)),
        (records(), four_epochs(|number| noise(number + 3, 100))),
    ];
    for (format, (output, epochs)) in ["csv", "parquet"].into_iter().flat_map(|format| {
        let cases = cases.clone().into_iter();
        cases.map(move |case| (format, case))
    }) {
        let (whole, broken) = (prefix("whole"), prefix("broken"));
        let (whole, broken) = (format!("{format}:{whole}"), format!("{format}:{broken}"));
        let mut sink = start(&whole, &output, &job(7, 1, false));
        for epoch in &epochs {
            sink.commit(epoch).unwrap();
        }
        sink.close().unwrap();

        let mut zombie = start(&broken, &output, &job(7, 1, false));
        for epoch in &epochs[..3] {
            zombie.commit(epoch).unwrap();
        }
        let mut sink = start(&broken, &output, &job(7, 2, false));
        for epoch in &epochs {
            sink.commit(epoch).unwrap();
        }
        zombie.commit(&epochs[3]).unwrap();
        sink.close().unwrap();
        let expected = objects(&whole);
        assert!(expected.len() > 2, "{:?}", expected.keys());
        assert_eq!(objects(&broken), expected);
    }
}

#[test]
#[ignore = "needs s3: run dev/test"]
fn s3_a_prefix_belongs_to_one_job() {
    let _store = store();
    let output = OutputSpec {
        layout: Layout::DateHour("window_start"),
        ..windows()
    };
    let uri = format!("csv:{}", prefix("owner"));
    let mut sink = start(&uri, &output, &job(7, 1, false));
    sink.commit(&window(0)).unwrap();
    let other = job(u128::MAX, 1, false);
    let refused = factory(&uri).prepare(&output, 1, Some(&other)).unwrap_err();
    assert!(matches!(refused, SinkError::Refused(_)), "{refused:?}");
    let mut sink = start(&uri, &output, &job(u128::MAX, 1, true));
    sink.commit(&window(1)).unwrap();
    let names: Vec<String> = objects(&uri).into_keys().collect();
    assert_eq!(
        names,
        [
            "/_highwater-windows.csv.gz.json",
            "/date=1970-01-01/hour=00/\
             windows-jffffffff-19700101T003000Z-19700101T003100Z-s003.csv.gz"
        ]
    );
}

#[test]
fn a_full_device_is_an_error_with_advice() {
    let error = commit("ndjson:/dev/full", &windows(), &count(1))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("/dev/full") && error.contains("free some space"),
        "{error}"
    );
    assert!(!Path::new("/dev/full.lock").exists());
}
