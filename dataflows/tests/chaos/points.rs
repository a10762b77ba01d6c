//! SIGKILL at each fault point in turn: right before and right after everything that others can
//! see.

use crate::bed::{Bed, Pipeline, Victims};
use crate::outputs::{Output, Sink};

/// Each with the time at which it is due: the first object of the log is the job's.
const POINTS: &[&str] = &[
    "log.before:1",
    "log.after:1",
    "takeover.before:1",
    "takeover.after:1",
    "log.before:4",
    "log.after:4",
    "checkpoint.before:1",
    "checkpoint.after:2",
    "manifest.before:1",
    "manifest.after:1",
    "postgres.before:2",
    "postgres.begun:2",
    "postgres.after:3",
    "kafka.before:2",
    "kafka.begun:2",
    "kafka.after:3",
    "ndjson.before:2",
    "ndjson.after:2",
    "ndjson.sync.before:1",
    "ndjson.sync.after:2",
    "csv.before:1",
    "csv.after:2",
    "parquet.before:1",
    "parquet.after:2",
    "delta.before:1",
    "delta.before:3",
    "delta.after:2",
];

const OUTPUTS: &[Output] = &[
    Output::new("windows", Sink::Postgres),
    Output::new("windows", Sink::CsvFolder),
    Output::new("windows", Sink::Kafka),
    Output::new("alerts", Sink::Kafka),
    Output::new("alerts", Sink::ParquetBucket),
    Output::new("late", Sink::ParquetFolder),
    Output::new("late", Sink::Ndjson),
    Output::new("windows", Sink::DeltaBucket),
    Output::new("alerts", Sink::DeltaFolder),
];

#[test]
#[ignore = "needs kafka, postgres, s3 and python: run dev/test"]
fn kafka_postgres_s3_oracle_killed_at_each_point() {
    let mut bed = Bed::new(
        "killed_at_each_point",
        Pipeline::Factory,
        Victims::Nobody,
        OUTPUTS,
    );
    for point in bed.dice.some(6, POINTS) {
        let workers = bed.dice.within(1..4);
        let mut run = bed.start(workers, "", &[("HIGHWATER_FAULT", point)]);
        bed.feed(800);
        let end = run.end();
        assert_eq!(end, None, "{point}\n{}", run.said());
        assert!(run.said().contains("fault: "), "{point}\n{}", run.said());
        bed.kills += 1;
    }
    bed.drain();
    bed.compare();
}
