//! A server is killed in the middle of a commit, and comes back. The job is frozen at a fault
//! point, the server is killed, and the job goes on without it until it is there again.

use std::time::Duration;

use crate::bed::{Bed, Pipeline, Server3};
use crate::outputs::{Output, Sink};

/// How long a server is away.
const AWAY: Duration = Duration::from_millis(700);

fn survives(bed: &mut Bed, points: &[&str]) {
    for point in points {
        let fault = format!("{point}:stop");
        let workers = bed.dice.within(1..4);
        let mut run = bed.start(workers, "", &[("HIGHWATER_FAULT", &fault)]);
        bed.feed(1000);
        run.until(point, |run| run.is_frozen());
        bed.victim().kill();
        run.signal("CONT");
        std::thread::sleep(AWAY);
        assert!(run.is_alive(), "{point}\n{}", run.said());
        bed.victim().start();
        bed.until_it_works(&mut run);
        bed.feed(500);
        bed.until_it_works(&mut run);
        bed.servers_killed += 1;
        // Half of them end as well as may be, the others do not.
        if bed.dice.within(0..2) == 0 {
            run.signal("INT");
            run.ends_with(130);
        } else {
            bed.kill(run);
        }
    }
    bed.drain();
    bed.compare();
}

#[test]
#[ignore = "needs kafka, postgres and s3: run dev/test"]
fn kafka_broker_killed_within_a_commit() {
    let outputs = [
        Output::new("windows", Sink::Kafka),
        Output::new("windows", Sink::Ndjson),
        Output::new("alerts", Sink::Kafka),
        Output::new("alerts", Sink::ParquetFolder),
    ];
    let mut bed = Bed::new(
        "broker_killed_within_a_commit",
        Pipeline::Factory,
        Server3::Kafka,
        &outputs,
    );
    survives(&mut bed, &["kafka.begun:3"]);
}

#[test]
#[ignore = "needs kafka: run dev/chaos"]
fn kafka_long_broker_killed_at_each_point() {
    let outputs = [
        Output::new("windows", Sink::Kafka),
        Output::new("windows", Sink::Ndjson),
        Output::new("alerts", Sink::Kafka),
        Output::new("late", Sink::Kafka),
        Output::new("alerts", Sink::ParquetFolder),
    ];
    let mut bed = Bed::new(
        "long_broker_killed_at_each_point",
        Pipeline::Factory,
        Server3::Kafka,
        &outputs,
    );
    let points = [
        "kafka.before:2",
        "kafka.begun:4",
        "kafka.after:2",
        "log.before:5",
        "log.after:5",
        "manifest.before:1",
        "manifest.after:1",
        "checkpoint.after:1",
        "takeover.after:1",
    ];
    survives(&mut bed, &points);
}

#[test]
#[ignore = "needs kafka, postgres and s3: run dev/test"]
fn kafka_postgres_killed_within_a_commit() {
    let outputs = [
        Output::new("windows", Sink::Postgres),
        Output::new("alerts", Sink::Postgres),
        Output::new("dead-letters", Sink::Postgres),
        Output::new("windows", Sink::Ndjson),
    ];
    let mut bed = Bed::new(
        "postgres_killed_within_a_commit",
        Pipeline::Factory,
        Server3::Postgres,
        &outputs,
    );
    survives(
        &mut bed,
        &[
            "postgres.before:3",
            "postgres.begun:3",
            "postgres.after:3",
            "log.after:4",
            "manifest.before:1",
            "takeover.after:1",
        ],
    );
}

#[test]
#[ignore = "needs kafka, postgres and s3: run dev/test"]
fn kafka_s3_killed_within_a_commit() {
    let outputs = [
        Output::new("windows", Sink::ParquetBucket),
        Output::new("alerts", Sink::CsvBucket),
        Output::new("windows", Sink::Ndjson),
    ];
    let mut bed = Bed::new(
        "s3_killed_within_a_commit",
        Pipeline::Factory,
        Server3::S3,
        &outputs,
    );
    bed.state = bed.bucket_state();
    survives(
        &mut bed,
        &[
            "log.before:3",
            "log.after:4",
            "checkpoint.before:1",
            "manifest.before:1",
            "parquet.before:2",
            "csv.after:1",
        ],
    );
}
