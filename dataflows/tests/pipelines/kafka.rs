//! The same results through a real broker, whole or in stages, and when it restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::cars::{Event, Tables, Unmatched, columns, enriched, generated, windows};
use crate::support::naive::{Shape, last_revisions};
use crate::support::place::Place;
use crate::support::services::{add_partitions, kafka, kafka_alone, messages, postgres, unique};

/// Windows of five minutes.
const SHAPE: Shape = Shape::tumbling(300_000, 10_000);
/// 100,000 events of 83 minutes, some of them too late, repeated, or none at all.
const DIRTY: &str = "--events 100_000 --disorder 20s --seed 7 --late-fraction 0.02 --duplicates 0.01 --garbage 0.01";
/// Nothing is later than 8 s.
const IN_TIME: &str = "--events 100_000 --disorder 8s --seed 9 --duplicates 0.01 --garbage 0.01";

/// Without what differs between files and topics: why a window is complete.
fn final_rows(place: &Place, file: &str) -> Vec<Value> {
    last_revisions(place.rows(file), "")
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_topics_of_any_width_give_the_windows_of_the_files() {
    let broker = kafka();
    for partitions in [1, 4, 12] {
        let flags = format!("{DIRTY} --partitions {partitions}");
        let place = generated(&flags);
        let topic = broker.uri(&unique("width"));
        place.ok(&format!("generate cars {flags} --to {topic}"));
        let naive = windows(
            &Tables::read(&place, "dims"),
            &place.partitions("in"),
            SHAPE,
            Unmatched::Keep,
        );
        for workers in [1, 3] {
            place.ok(&format!(
                "run cars --quiet --from {topic} --drain --dims dir:dims {} -w {workers} --report report.json \
                 --to windows=ndjson:out.ndjson",
                SHAPE.flags()
            ));
            assert_eq!(
                final_rows(&place, "out.ndjson"),
                naive.rows(columns),
                "{partitions} partitions"
            );
            naive.assert_ledger(&place.report("report.json"));
        }
    }
}

/// Rows keep the partition of their record, whichever process writes them; by their keys they would
/// go elsewhere.
#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_rows_of_all_processes_keep_their_partitions() {
    let broker = kafka();
    let place = Place::new();
    let (topic, alerts) = (broker.uri(&unique("origin")), broker.uri(&unique("alerts")));
    place.ok(&format!(
        "generate factory --events 3_000 --p-hot 1 --key-by none --to {topic}"
    ));
    place.ok(&format!(
        "run factory --quiet --from {topic} --drain -n 2 -w 2 --to alerts={alerts}?shards=4"
    ));
    let rows = |uri: &str, time: &str| {
        let shown = place.ok(&format!("view {uri} --format json --limit 0"));
        let row = |line: &str| {
            let row: Value = serde_json::from_str(line).expect("JSON");
            let text = |name: &str| row[name].as_str().expect("a text").to_owned();
            (row["partition"].as_u64(), text(time), text("device_id"))
        };
        // By partition, in the order in which they stand there.
        let mut rows: Vec<_> = shown.stdout.lines().map(row).collect();
        rows.sort_by_key(|row| row.0);
        rows
    };
    let (read, written) = (rows(&topic, "ts"), rows(&alerts, "event_ts"));
    assert_eq!(read.len(), 3_000);
    assert!(read == written);
}

#[test]
#[ignore = "needs kafka and postgres: run dev/test"]
fn kafka_postgres_and_files_hold_the_same_windows() {
    let (broker, database) = (kafka(), postgres());
    let place = generated(DIRTY);
    let topic = broker.uri(&unique("sensors"));
    let table = unique("windows").replace('-', "_");
    place.ok(&format!("generate cars {DIRTY} --to {topic}"));
    let alerts = broker.uri(&unique("alerts"));
    place.ok(&format!(
        "run cars --quiet --from {topic} --drain --dims dir:dims {} -w 2 --to ndjson:out.ndjson --to parquet:lake \
         --to windows={}?table={table} --to alerts={alerts}",
        SHAPE.flags(),
        database.uri(""),
    ));
    let naive = windows(
        &Tables::read(&place, "dims"),
        &place.partitions("in"),
        SHAPE,
        Unmatched::Keep,
    );
    let rows = naive.rows(columns);
    assert_eq!(final_rows(&place, "out.ndjson"), rows);
    assert_eq!(
        crate::postgres::windows_of(&database.query(&crate::postgres::select(&table))),
        rows
    );
    let shown = place.ok("view lake --format json --limit 0").stdout;
    let mut lake: Vec<Value> = shown
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    lake.sort_by_key(|row| row["window_end"].as_str().map(str::to_owned));
    assert_eq!(lake, rows);
    // The messages are keyed by the car and keep their partition.
    let tables = Tables::read(&place, "dims");
    let mut meant = Vec::new();
    for (partition, lines) in place.partitions("in").iter().enumerate() {
        let events = lines
            .iter()
            .filter_map(|line| enriched(&tables, line))
            .filter(Event::is_alert);
        meant.extend(events.map(|event| {
            (
                partition,
                event.json["car_id"].to_string(),
                event.json["event_id"].clone(),
            )
        }));
    }
    let found = messages(&place, &alerts).into_iter().map(|row| {
        let partition = row["partition"].as_u64().expect("a number") as usize;
        (
            partition,
            row["key"].as_str().expect("a key").to_owned(),
            row["event_id"].clone(),
        )
    });
    let found: Vec<_> = found.collect();
    assert_eq!(found.len(), meant.len());
    assert!(found == meant, "the same sequence in each partition");
}

/// One stage after the other, each a process of its own.
#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_three_stages_give_the_windows_of_one_dataflow() {
    let broker = kafka();
    let flags = format!("{IN_TIME} --partitions 4");
    let place = generated(&flags);
    let [samples, enriched, alerts] =
        ["samples", "enriched", "alerts"].map(|name| broker.uri(&unique(name)));
    place.ok(&format!("generate cars {flags} --to {samples}"));
    let naive = windows(
        &Tables::read(&place, "dims"),
        &place.partitions("in"),
        SHAPE,
        Unmatched::Keep,
    );
    let shape = SHAPE.flags();
    let stage = |name: &str, from: &str, to: &str| {
        place.ok(&format!(
            "run cars --quiet --stage {name} --from {from} --drain {shape} -w 2 --to {to} --report {name}.json"
        ));
        let report = place.report(&format!("{name}.json"));
        let inputs = report["inputs"].as_array().expect("inputs").clone();
        let count = |fate: &str| {
            inputs
                .iter()
                .map(|input| input[fate].as_u64().expect("a number"))
                .collect::<Vec<_>>()
        };
        (count("read"), count("rejected"), count("on_time"))
    };
    let (read, rejected, sent) = stage("enrich", &samples, &format!("{enriched} --dims dir:dims"));
    assert_eq!(
        read,
        naive
            .ledger
            .iter()
            .map(|ledger| ledger.read)
            .collect::<Vec<_>>()
    );
    assert_eq!(
        rejected,
        naive
            .ledger
            .iter()
            .map(|ledger| ledger.rejected)
            .collect::<Vec<_>>()
    );
    let (read, _, found) = stage("detect", &enriched, &alerts);
    assert_eq!(read, sent, "partition by partition");
    assert_eq!(
        found,
        naive
            .ledger
            .iter()
            .map(|ledger| ledger.on_time)
            .collect::<Vec<_>>()
    );
    let (read, _, counted) = stage("count", &alerts, "ndjson:out.ndjson");
    assert_eq!((&read, &counted), (&found, &found));
    assert_eq!(final_rows(&place, "out.ndjson"), naive.rows(columns));
}

/// The stages at the same time: each follows the topic of the one before while that one writes it.
/// The last one is started when no partition is empty: an empty one waits for nobody, and what
/// comes into it long after the others have gone on would be late.
#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_stages_that_follow_each_other() {
    let broker = kafka();
    let flags = format!("{IN_TIME} --partitions 4");
    let place = generated(&flags);
    let [samples, enriched, alerts] =
        ["samples", "enriched", "alerts"].map(|name| broker.uri(&unique(name)));
    // This makes the topics.
    for (stage, from, to) in [
        ("enrich", &samples, &enriched),
        ("detect", &enriched, &alerts),
    ] {
        place.ok(&format!(
            "generate cars --events 0 --partitions 4 --to {from}"
        ));
        let run = "run cars --quiet --drain --dims dir:dims";
        place.ok(&format!("{run} --stage {stage} --from {from} --to {to}"));
    }
    let shape = SHAPE.flags();
    let start = |stage: &str, from: &str, to: &str| {
        let run = "run cars --dims dir:dims --epoch 50ms";
        place.start(&format!(
            "{run} --stage {stage} --from {from} {shape} --to {to}"
        ))
    };
    let first = start("enrich", &samples, &enriched);
    let mut second = start("detect", &enriched, &alerts);
    place.ok(&format!("generate cars {flags} --to {samples}"));
    second.until("alerts in all partitions", || {
        let found = messages(&place, &alerts);
        let partitions: BTreeSet<_> = found.iter().map(|row| row["partition"].as_u64()).collect();
        (partitions.len() == 4).then_some(())
    });
    let mut third = start("count", &alerts, "ndjson:out.ndjson");
    // Windows that only the end of the input would close stay open.
    let tables = Tables::read(&place, "dims");
    let naive = windows(&tables, &place.partitions("in"), SHAPE, Unmatched::Keep);
    let proved = naive
        .windows
        .keys()
        .filter(|window| window.0 <= naive.proved)
        .count();
    assert!(proved > 10);
    let mut rows = naive.rows(columns);
    // By the alerts alone the last of them may not be proved.
    rows.truncate(proved - 1);
    third.until("all proved windows", || {
        (place.rows("out.ndjson").len() >= rows.len()).then_some(())
    });
    for running in [first, second, third] {
        assert_eq!(running.interrupt().code, 130);
    }
    let mut found = final_rows(&place, "out.ndjson");
    found.truncate(rows.len());
    assert_eq!(found, rows);
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_restarts_in_the_middle_of_a_run() {
    let broker = kafka_alone();
    let flags = "--events 400_000 --disorder 8s --seed 21 --partitions 4";
    let place = generated(flags);
    let (topic, alerts) = (
        broker.uri(&unique("restart")),
        broker.uri(&unique("alerts")),
    );
    place.ok(&format!("generate cars {flags} --to {topic}"));
    let naive = windows(
        &Tables::read(&place, "dims"),
        &place.partitions("in"),
        SHAPE,
        Unmatched::Keep,
    );
    // A worker that fetches little at a time has most of the topic still to read.
    let mut run = place.start(&format!(
        "run cars --from {topic} --drain --dims dir:dims {} --epoch 50ms --kafka fetch.message.max.bytes=20000 \
         --kafka queued.max.messages.kbytes=64 --to windows=ndjson:out.ndjson --to alerts={alerts} --report report.json",
        SHAPE.flags()
    ));
    run.until("the first windows", || {
        (!place.rows("out.ndjson").is_empty()).then_some(())
    });
    broker.kill();
    let before = place.rows("out.ndjson").len();
    assert!(
        before < naive.windows.len() && run.is_alive(),
        "{before} of {} windows",
        naive.windows.len()
    );
    broker.start();
    let done = run.wait();
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(final_rows(&place, "out.ndjson"), naive.rows(columns));
    naive.assert_ledger(&place.report("report.json"));
    // No alert is lost, and none is there twice.
    let mut sent: BTreeMap<String, u32> = BTreeMap::new();
    for message in messages(&place, &alerts) {
        *sent.entry(message["event_id"].to_string()).or_default() += 1;
    }
    let on_time: u64 = naive.ledger.iter().map(|ledger| ledger.on_time).sum();
    assert_eq!(sent.len() as u64, on_time);
    assert!(sent.values().all(|times| *times == 1));
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_new_partitions_are_found_while_running() {
    let broker = kafka();
    let place = Place::new();
    place.ok("dims cars --to dims");
    let name = unique("grows");
    let topic = broker.uri(&name);
    place.ok(&format!(
        "generate cars --events 2000 --partitions 2 --to {topic}"
    ));
    let mut run = place.start(&format!(
        "run cars --from {topic} --dims dir:dims --epoch 50ms -w 2 --kafka topic.metadata.refresh.interval.ms=200 \
         --to enriched=ndjson:out.ndjson --report report.json"
    ));
    run.until("the first events", || {
        (place.rows("out.ndjson").len() >= 2000).then_some(())
    });
    add_partitions(broker.address(), &name, 6);
    place.ok(&format!("generate cars --events 2000 --partitions 6 --seed 2 --start 2024-01-01T01:00:00Z --to {topic}"));
    run.until("those of the new partitions", || {
        (place.rows("out.ndjson").len() >= 4000).then_some(())
    });
    assert_eq!(run.interrupt().code, 130);
    let report = place.report("report.json");
    let read: Vec<_> = report["inputs"]
        .as_array()
        .expect("inputs")
        .iter()
        .map(|input| input["read"].as_u64())
        .collect();
    assert_eq!(
        (read.len(), read.iter().flatten().sum::<u64>()),
        (6, 4000),
        "{read:?}"
    );
    let mut ids: Vec<_> = place
        .rows("out.ndjson")
        .iter()
        .map(|row| row["event_id"].to_string())
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4000);
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_a_missing_topic_is_an_error_and_is_not_made() {
    let broker = kafka();
    let place = Place::new();
    let name = unique("missing");
    let topic = broker.uri(&name);
    for _ in 0..2 {
        let start = Instant::now();
        let run = format!(
            "run cars --stage detect --from {topic} --drain --to null: --connect-timeout 5s"
        );
        let error = place.run(&run).failed_with(1);
        assert!(error.contains(&name) && error.contains("topic"), "{error}");
        assert!(
            start.elapsed() < Duration::from_secs(15),
            "{:?}",
            start.elapsed()
        );
    }
}

/// Nobody listens, or nobody answers: either way it ends, and says where.
#[test]
fn a_broker_that_is_not_there_is_an_error_within_the_time_out() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = silent.local_addr().expect("an address").to_string();
    let closed = TcpListener::bind("127.0.0.1:0")
        .and_then(|port| port.local_addr())
        .expect("a port")
        .to_string();
    let place = Place::new();
    for address in [silent, closed] {
        for (from, to) in [
            (format!("kafka://{address}/topic"), "null:".to_owned()),
            (
                "generate:".to_owned(),
                format!("alerts=kafka://{address}/topic"),
            ),
        ] {
            let start = Instant::now();
            let stage = if from == "generate:" {
                ""
            } else {
                "--stage count"
            };
            let run = format!("run cars {stage} --from {from} --to {to} --connect-timeout 2s");
            let error = place.run(&run).failed_with(1);
            assert!(error.contains(&address), "{error}");
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "{:?}: {error}",
                start.elapsed()
            );
        }
    }
}
