//! SIGKILL at random moments of a job's life: while it starts, replays, commits, or writes a
//! checkpoint. Each start has another number of workers.

use std::time::Duration;

use crate::bed::{Bed, Pipeline, Victims};
use crate::dice::{is_long, number};
use crate::outputs::{Output, Sink};

/// All kinds of sinks, for windows and for records.
const OUTPUTS: &[Output] = &[
    Output::new("windows", Sink::Postgres),
    Output::new("windows", Sink::CsvFolder),
    Output::new("windows", Sink::ParquetBucket),
    Output::new("windows", Sink::Ndjson),
    Output::new("windows", Sink::Kafka),
    Output::new("alerts", Sink::Kafka),
    Output::new("alerts", Sink::ParquetFolder),
    Output::new("alerts", Sink::Ndjson),
    Output::new("alerts", Sink::Postgres),
    Output::new("late", Sink::CsvBucket),
    Output::new("late", Sink::Ndjson),
    Output::new("dead-letters", Sink::Postgres),
];

/// What is wrong with readings, and how much of it there is; the latter only where no row may come
/// again.
const QUALITY: &[Output] = &[
    Output::new("quarantine", Sink::ParquetFolder),
    Output::new("quarantine", Sink::ParquetBucket),
    Output::new("quality", Sink::Postgres),
    Output::new("quality", Sink::Ndjson),
];

/// The tables and the lake of the fleet, and what else its outputs may go to.
const FLEET: &[Output] = &[
    Output::new("kept", Sink::Postgres),
    Output::new("kept", Sink::ParquetFolder),
    Output::new("kept", Sink::ParquetBucket),
    Output::new("kept", Sink::Kafka),
    Output::new("windows", Sink::Postgres),
    Output::new("windows", Sink::ParquetBucket),
    Output::new("windows", Sink::Ndjson),
    Output::new("windows", Sink::CsvFolder),
    Output::new("late", Sink::CsvBucket),
    Output::new("dead-letters", Sink::Postgres),
    Output::new("kept", Sink::DeltaBucket),
    Output::new("windows", Sink::DeltaFolder),
];

/// The lake and the table of the turnstiles, and what else its outputs may go to.
const TURNSTILE: &[Output] = &[
    Output::new("windows", Sink::CsvFolder),
    Output::new("windows", Sink::CsvBucket),
    Output::new("windows", Sink::Postgres),
    Output::new("windows", Sink::Kafka),
    Output::new("windows", Sink::Ndjson),
    Output::new("windows", Sink::DeltaFolder),
    Output::new("late", Sink::Postgres),
    Output::new("late", Sink::ParquetBucket),
    Output::new("dead-letters", Sink::Postgres),
];

/// All outputs of the cars, each kind of sink for windows and for records.
const CARS: &[Output] = &[
    Output::new("windows", Sink::Postgres),
    Output::new("windows", Sink::Ndjson),
    Output::new("windows", Sink::Kafka),
    Output::new("windows", Sink::CsvBucket),
    Output::new("windows", Sink::ParquetFolder),
    Output::new("windows", Sink::DeltaBucket),
    Output::new("enriched", Sink::Postgres),
    Output::new("enriched", Sink::Kafka),
    Output::new("enriched", Sink::ParquetBucket),
    Output::new("enriched", Sink::DeltaFolder),
    Output::new("alerts", Sink::Kafka),
    Output::new("alerts", Sink::Ndjson),
    Output::new("alerts", Sink::CsvFolder),
    Output::new("alerts", Sink::DeltaBucket),
    Output::new("late", Sink::Postgres),
    Output::new("late", Sink::DeltaFolder),
    Output::new("dead-letters", Sink::Postgres),
];

#[test]
#[ignore = "needs kafka, postgres and s3: run dev/test"]
fn kafka_postgres_s3_killed_at_random_moments() {
    let mut bed = Bed::new(
        "killed_at_random_moments",
        Pipeline::Factory,
        Victims::Nobody,
        &[OUTPUTS, QUALITY].concat(),
    );
    kill_at_random_moments(&mut bed, number("HIGHWATER_CHAOS_KILLS").unwrap_or(5));
}

#[test]
#[ignore = "needs kafka, postgres, s3 and python: run dev/test"]
fn kafka_postgres_s3_oracle_fleet_killed_at_random_moments() {
    let mut bed = Bed::new(
        "fleet_killed_at_random_moments",
        Pipeline::Fleet,
        Victims::Nobody,
        FLEET,
    );
    kill_at_random_moments(&mut bed, number("HIGHWATER_CHAOS_KILLS").unwrap_or(5));
}

#[test]
#[ignore = "needs kafka, postgres, s3 and python: run dev/test"]
fn kafka_postgres_s3_oracle_cars_killed_at_random_moments() {
    let mut bed = Bed::new(
        "cars_killed_at_random_moments",
        Pipeline::Cars,
        Victims::Nobody,
        CARS,
    );
    kill_at_random_moments(&mut bed, number("HIGHWATER_CHAOS_KILLS").unwrap_or(5));
}

#[test]
#[ignore = "needs kafka, postgres, s3 and python: run dev/test"]
fn kafka_postgres_s3_oracle_turnstile_killed_at_random_moments() {
    let mut bed = Bed::new(
        "turnstile_killed_at_random_moments",
        Pipeline::Turnstile,
        Victims::Nobody,
        TURNSTILE,
    );
    kill_at_random_moments(&mut bed, number("HIGHWATER_CHAOS_KILLS").unwrap_or(5));
}

/// Windows overlap, in each of which a record counts.
#[test]
#[ignore = "needs kafka, postgres and s3: run dev/test"]
fn kafka_postgres_s3_sliding_windows_killed_at_random_moments() {
    let mut bed = Bed::new(
        "sliding_windows_killed_at_random_moments",
        Pipeline::Factory,
        Victims::Nobody,
        OUTPUTS,
    );
    bed.shape.slide = bed.shape.size / 4;
    kill_at_random_moments(&mut bed, if is_long() { 20 } else { 2 });
}

/// Rows may come again, but none is lost, and what replaces itself is equal.
#[test]
#[ignore = "needs kafka, postgres and s3: run dev/test"]
fn kafka_postgres_s3_at_least_once_killed_at_random_moments() {
    let mut bed = Bed::new(
        "at_least_once_killed_at_random_moments",
        Pipeline::Factory,
        Victims::Nobody,
        OUTPUTS,
    );
    bed.flags = "--delivery at-least-once".to_owned();
    bed.repeats = true;
    kill_at_random_moments(&mut bed, if is_long() { 20 } else { 3 });
}

/// The log is slow: a run is killed whose sinks might be ahead of what the next run knows.
#[test]
#[ignore = "needs kafka, postgres and s3: run dev/test"]
fn kafka_postgres_s3_at_least_once_ahead_of_a_slow_log() {
    let mut bed = Bed::new(
        "at_least_once_ahead_of_a_slow_log",
        Pipeline::Factory,
        Victims::Nobody,
        OUTPUTS,
    );
    bed.flags = "--delivery at-least-once".to_owned();
    bed.repeats = true;
    // Each epoch publishes files, so that the next run comes to the same names.
    bed.pace = "--epoch 100ms --checkpoint 100ms";
    for _ in 0..if is_long() { 6 } else { 3 } {
        // More than the run before could read, so that the epochs after the log's end hold more.
        let events = bed.dice.within(500..2000);
        bed.feed(events);
        let puts = bed.dice.within(1..4);
        let fault = format!("log.before:{puts}:sleep:60000");
        let run = bed.start(2, "", &[("HIGHWATER_FAULT", &fault)]);
        // Nothing can be waited for: what must not come is a file.
        std::thread::sleep(Duration::from_secs(2));
        bed.kill(run);
    }
    bed.feed(1000);
    bed.drain();
    bed.compare();
}

fn kill_at_random_moments(bed: &mut Bed, kills: u64) {
    while u64::from(bed.kills) < kills {
        let mut run = bed.start_any_processes();
        if bed.dice.within(0..3) == 0 {
            // Before it has done anything, or just then.
            std::thread::sleep(Duration::from_millis(bed.dice.within(0..1200)));
            bed.kill(run);
            continue;
        }
        let events = bed.dice.within(500..4000);
        bed.feed(events);
        bed.until_it_works(&mut run);
        std::thread::sleep(Duration::from_millis(bed.dice.within(0..700)));
        bed.kill(run);
    }
    bed.feed(2000);
    bed.drain();
    bed.compare();
}
