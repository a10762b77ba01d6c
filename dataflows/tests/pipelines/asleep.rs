//! A database that sleeps: it is frozen, not gone. Its connections stay open, what is sent to it
//! is taken in by the system until the socket is full, and nothing is answered.
//!
//! ```text
//! before    the run writes at full speed, and the database is what limits it
//! asleep    sinks wait for an answer, their queues fill, the source may read a few epochs ahead
//!           of what is committed: then it stands, and so does memory
//! after     the run ends as if nothing had been
//! ```

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::cars::generated;
use crate::support::place::Running;
use crate::support::services::{Victim, postgres_alone, unique};

const EVENTS: u64 = 1_000_000;
/// What the run may hold at any time, in bytes: less than all these events as rows.
const MOST_MEMORY: u64 = 192 << 20;
/// What it may still read when the database has gone to sleep, in bytes: a few epochs, and what
/// the feeds of two partitions hold; less than half of the input.
const MOST_READ: u64 = 64 << 20;
/// Less than a reader takes at once, in bytes; what wakes a thread is read, too.
const A_BATCH: u64 = 16 << 10;
/// What still counts as flat, in bytes.
const FLAT: u64 = 8 << 20;

/// How long the database sleeps; long enough to read all of the input several times.
fn sleep() -> Duration {
    let seconds = std::env::var("HIGHWATER_TEST_SLEEP_S");
    Duration::from_secs(seconds.map_or(8, |text| text.parse().expect("seconds")))
}

/// A run at one moment: what it holds, and what it has read since its start, in bytes.
#[derive(Clone, Copy, Debug)]
struct Sample {
    memory: u64,
    read: u64,
}

impl Sample {
    fn of(run: &Running) -> Self {
        Self {
            memory: run.counted("status", "VmRSS") << 10,
            read: run.counted("io", "rchar"),
        }
    }
}

/// Looks at the run again and again for so long.
fn watch(run: &mut Running, time: Duration) -> Vec<Sample> {
    let end = Instant::now() + time;
    let mut samples = Vec::new();
    while Instant::now() < end {
        assert!(run.is_alive(), "it waits for the database");
        samples.push(Sample::of(run));
        std::thread::sleep(Duration::from_millis(50));
    }
    samples
}

/// What was seen while the database slept, against what was seen just before.
fn assert_it_stands(before: Sample, asleep: &[Sample]) {
    let last = asleep.last().expect("it was looked at");
    let most = asleep.iter().map(|sample| sample.memory).max();
    let read = last.read - before.read;
    assert!(read <= MOST_READ, "{read} more bytes were read: {asleep:?}");
    assert!(most <= Some(MOST_MEMORY), "{most:?} bytes: {asleep:?}");
    let half = asleep[asleep.len() / 2];
    assert!(last.read <= half.read + A_BATCH, "it reads on: {asleep:?}");
    assert!(last.memory <= half.memory + FLAT, "it grows on: {asleep:?}");
}

/// A run that writes its windows and alerts to tables whose names begin with `name`.
fn line(database: &Victim, name: &str) -> String {
    let uri = database.uri("");
    format!(
        "run cars --from file:in/*.ndjson --dims dir:dims --window 1m --wait 10s -w 2 \
         --epoch 50ms --report {name}.json \
         --to windows={uri}?table={name}_windows --to alerts={uri}?table={name}_alerts"
    )
}

/// How many rows there are, and a sum over all that is in them, which has no order.
fn digest(database: &Victim, table: &str) -> Vec<String> {
    database.query(&format!(
        "SELECT count(*), sum(hashtextextended(rows::text, 0)) FROM {table} AS rows"
    ))
}

fn total(report: &Value, fate: &str) -> u64 {
    let inputs = report["inputs"].as_array().expect("inputs");
    let counts = inputs.iter().map(|input| input[fate].as_u64());
    counts.map(|count| count.expect("a number")).sum()
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_asleep_memory_stays_flat() {
    let database = postgres_alone();
    let place = generated(&format!(
        "--events {EVENTS} --disorder 8s --seed 31 --partitions 2"
    ));
    let name = unique("asleep").replace('-', "_");
    let (whole, broken) = (format!("{name}_whole"), format!("{name}_broken"));
    place.ok(&line(&database, &whole));

    let mut run = place.start(&line(&database, &broken));
    let is_there = format!("SELECT 1 FROM pg_tables WHERE tablename = '{broken}_alerts'");
    let has_rows = format!("SELECT 1 FROM {broken}_alerts LIMIT 1");
    run.until("the first alerts", || {
        let some = |sql| !database.query(sql).is_empty();
        (some(&is_there) && some(&has_rows)).then_some(())
    });
    let before = Sample::of(&run);
    database.pause();
    let asleep = watch(&mut run, sleep());
    database.resume();
    assert_it_stands(before, &asleep);

    let done = run.wait();
    assert_eq!(done.code, 0, "{}", done.stderr);
    let report = place.report(&format!("{broken}.json"));
    let on_time = total(&report, "on_time");
    assert_eq!(total(&report, "read"), EVENTS);
    for output in ["windows", "alerts"] {
        let rows = digest(&database, &format!("{broken}_{output}"));
        assert_eq!(rows, digest(&database, &format!("{whole}_{output}")));
        let is_complete = output == "windows" || rows[0].starts_with(&format!("{on_time}|"));
        assert!(is_complete, "{rows:?} for {on_time} alerts");
    }
    let undisturbed = place.report(&format!("{whole}.json"));
    eprintln!(
        "bytes: {before:?}, asleep {:?} to {:?}, most ever {}, most undisturbed {}",
        asleep[asleep.len() / 2],
        asleep[asleep.len() - 1],
        report["peak_rss_bytes"],
        undisturbed["peak_rss_bytes"]
    );
}
