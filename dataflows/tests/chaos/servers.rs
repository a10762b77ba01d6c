//! A server is killed in the middle of a commit, and comes back. The job is frozen at a fault
//! point, the server is killed, and the job goes on without it until it is there again.

use std::time::{Duration, Instant};

use crate::bed::{Bed, Pipeline, Victims};
use crate::outputs::{Output, Sink};
use crate::process::Process;
use crate::replicas::{Replicas, replicas};
use crate::support::services::BROKERS;

/// How long a server is away.
const AWAY: Duration = Duration::from_millis(700);

fn survives(bed: &mut Bed, points: &[&str]) {
    for point in bed.dice.some(1, points) {
        let fault = format!("{point}:stop");
        let workers = bed.dice.within(1..4);
        let mut run = bed.start(workers, "", &[("HIGHWATER_FAULT", &fault)]);
        bed.feed(1000);
        run.until(point, Process::is_frozen);
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
        Victims::Kafka,
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
        Victims::Kafka,
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
        Victims::Postgres,
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
        Victims::S3,
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

/// A cluster with three replicas loses the leader of a partition, of the input and of the output in
/// turn, which leads a third of all offsets and transactions as well. Two brokers go on, and the
/// job with them, before the third is back.
#[test]
#[ignore = "needs kafka3, postgres and s3: run dev/chaos"]
fn kafka_long_leaders_killed_in_a_cluster() {
    let outputs = [
        Output::new("windows", Sink::Kafka),
        Output::new("windows", Sink::Ndjson),
        Output::new("alerts", Sink::Kafka),
        Output::new("late", Sink::Kafka),
        Output::new("windows", Sink::Postgres),
    ];
    let scenario = "long_leaders_killed_in_a_cluster";
    let mut bed = Bed::new(scenario, Pipeline::Factory, Victims::Kafka3, &outputs);
    for (point, topic) in [
        ("kafka.begun:3", ""),
        ("kafka.after:3", "-kept-windows"),
        ("log.after:4", "-kept-alerts"),
        ("kafka.before:4", ""),
    ] {
        let fault = format!("{point}:stop");
        let workers = bed.dice.within(1..4);
        let mut run = bed.start(workers, "", &[("HIGHWATER_FAULT", &fault)]);
        bed.feed(1000);
        run.until(point, Process::is_frozen);
        let topic = format!("{}{topic}", bed.site.name);
        let found = replicas(&bed.site.kafka);
        let led = found.iter().find(|it| it.topic == topic);
        let leader = led.expect("the topic is there").leader;
        let broker = BROKERS[leader as usize - 1];
        bed.victim().kill_one(broker);
        bed.servers_killed += 1;
        run.signal("CONT");
        bed.until_it_works(&mut run);
        bed.feed(1000);
        bed.until_it_works(&mut run);
        bed.kill(run);
        bed.victim().start_one(broker);
        // Another one is only lost when this one has all that the others have.
        let start = Instant::now();
        let is_behind = |it: &Replicas| it.in_sync.len() < it.all.len();
        while replicas(&bed.site.kafka).iter().any(is_behind) {
            assert!(
                start.elapsed() < Duration::from_secs(120),
                "{broker} stays behind"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    bed.drain();
    bed.compare();
}
