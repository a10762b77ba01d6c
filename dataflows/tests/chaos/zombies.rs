//! A run that is left behind: it sleeps in the middle of something, another one takes its job
//! over, and it wakes up. It must end with exit 4, and nothing that it still does may be seen.

use crate::bed::{Bed, Pipeline, Victims};
use crate::dice::is_long;
use crate::outputs::{Output, Sink};
use crate::process::Process;

/// Without NDJSON, whose lock a frozen run keeps: see below.
const OUTPUTS: &[Output] = &[
    Output::new("windows", Sink::Postgres),
    Output::new("windows", Sink::CsvFolder),
    Output::new("windows", Sink::Kafka),
    Output::new("alerts", Sink::Kafka),
    Output::new("alerts", Sink::ParquetBucket),
    Output::new("late", Sink::ParquetFolder),
    Output::new("alerts", Sink::Postgres),
];

const POINTS: &[&str] = &[
    "log.before:3",
    "log.after:3",
    "checkpoint.before:1",
    "checkpoint.after:1",
    "manifest.before:1",
    "manifest.after:1",
    "kafka.before:3",
    "kafka.begun:2",
    "kafka.after:3",
    "csv.before:1",
    "csv.after:1",
    "parquet.before:1",
    "parquet.after:1",
    "postgres.after:2",
];

#[test]
#[ignore = "needs kafka, postgres and s3: run dev/test"]
fn kafka_postgres_s3_zombies_commit_nothing() {
    let mut bed = Bed::new(
        "zombies_commit_nothing",
        Pipeline::Factory,
        Victims::Nobody,
        OUTPUTS,
    );
    for point in bed.dice.some(3, POINTS) {
        let fault = format!("{point}:stop");
        let workers = bed.dice.within(1..4);
        let mut zombie = bed.start(workers, "", &[("HIGHWATER_FAULT", &fault)]);
        bed.feed(1000);
        zombie.until(point, Process::is_frozen);
        let mut heir = bed.start_any();
        bed.until_it_works(&mut heir);
        zombie.signal("CONT");
        bed.feed(500);
        zombie.ends_with(4);
        bed.until_it_works(&mut heir);
        bed.kill(heir);
    }
    bed.drain();
    bed.compare();
}

/// The older of two runs ends, whatever it does.
#[test]
#[ignore = "needs kafka, postgres and s3: run dev/test"]
fn kafka_postgres_s3_two_runs_at_once() {
    let outputs = [
        OUTPUTS,
        &[
            Output::new("windows", Sink::Ndjson),
            Output::new("late", Sink::Ndjson),
        ],
    ]
    .concat();
    let mut bed = Bed::new(
        "two_runs_at_once",
        Pipeline::Factory,
        Victims::Nobody,
        &outputs,
    );
    let mut older = bed.start_any();
    bed.until_it_works(&mut older);
    for _ in 0..if is_long() { 10 } else { 2 } {
        let mut newer = bed.start_any();
        bed.feed(1000);
        let said = older.ends_with(4);
        assert!(said.contains("run "), "{said}");
        bed.until_it_works(&mut newer);
        older = newer;
    }
    bed.kill(older);
    bed.drain();
    bed.compare();
}

/// A frozen run keeps the lock of a file: its heir waits for it, says for whom, and goes on when it
/// has ended.
#[test]
#[ignore = "needs kafka, postgres and s3: run dev/test"]
fn kafka_a_frozen_run_keeps_its_file() {
    let outputs = [
        Output::new("windows", Sink::Ndjson),
        Output::new("alerts", Sink::Ndjson),
    ];
    let mut bed = Bed::new(
        "a_frozen_run_keeps_its_file",
        Pipeline::Factory,
        Victims::Nobody,
        &outputs,
    );
    for point in [
        "ndjson.before:2:stop",
        "ndjson.after:2:stop",
        "ndjson.sync.before:1:stop",
    ] {
        let mut zombie = bed.start(2, "", &[("HIGHWATER_FAULT", point)]);
        bed.feed(1000);
        zombie.until(point, Process::is_frozen);
        let mut heir = bed.start_any();
        heir.until("it has taken over", |heir| {
            heir.said().contains("on from") || heir.said().contains("from the beginning")
        });
        zombie.signal("CONT");
        zombie.ends_with(4);
        bed.feed(500);
        bed.until_it_works(&mut heir);
        bed.kill(heir);
    }
    bed.drain();
    bed.compare();
}

/// A start sleeps right behind its takeover, and another run begins. When it wakes up it finds a
/// higher number in the log, claims the job again, and is the newest.
#[test]
#[ignore = "needs kafka, postgres and s3: run dev/test"]
fn kafka_postgres_s3_a_start_sleeps() {
    let outputs = &OUTPUTS[..4];
    let mut bed = Bed::new(
        "a_start_sleeps",
        Pipeline::Factory,
        Victims::Nobody,
        outputs,
    );
    for point in ["takeover.before:1:stop", "takeover.after:1:stop"] {
        let mut sleeper = bed.start(2, "", &[("HIGHWATER_FAULT", point)]);
        sleeper.until(point, Process::is_frozen);
        let mut other = bed.start_any();
        bed.until_it_works(&mut other);
        sleeper.signal("CONT");
        bed.feed(1000);
        other.ends_with(4);
        bed.until_it_works(&mut sleeper);
        bed.kill(sleeper);
    }
    bed.drain();
    bed.compare();
}
