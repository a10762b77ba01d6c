//! `run fleet` over files, through a broker and into a database: what is kept, metrics per vehicle,
//! input that is broken, and jobs that are killed.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::support::fleet::{Vehicles, as_message, columns, generated, kept, windows};
use crate::support::naive::{Shape, last_revisions};
use crate::support::place::Place;
use crate::support::services::{kafka, oracle, postgres, python, root, unique};

/// The pipeline's own.
const SHAPE: Shape = Shape {
    size: 300_000,
    slide: 60_000,
    offset: 0,
    wait: 60_000,
    keep: 0,
};
/// 60,000 events of 100 minutes, some of them too late, repeated, or none at all.
const DIRTY: &str =
    "--events 60_000 --disorder 50s --late-fraction 0.02 --duplicates 0.01 --garbage 0.01 --seed 7";
const RUN: &str = "run fleet --quiet --from file:in/*.ndjson --report report.json";

fn sorted(rows: impl IntoIterator<Item = Value>) -> Vec<String> {
    let mut texts: Vec<_> = rows
        .into_iter()
        .map(|row| as_message(row).to_string())
        .collect();
    texts.sort();
    texts
}

/// The rows of a folder of files.
fn view(place: &Place, folder: &str) -> Vec<Value> {
    let shown = place.ok(&format!("view {folder} --format json --limit 0"));
    let rows = shown.stdout.lines();
    rows.map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// Each file lies in the folder of its hour, and nothing else is there.
#[track_caller]
fn assert_published(place: &Place, folder: &str) {
    let files = place.files(folder);
    let is_published = |file: &String| {
        file.starts_with("date=") && file.contains("/hour=") && file.ends_with(".parquet")
    };
    assert!(files.iter().all(is_published), "{files:?}");
    for row in view(place, folder) {
        let time = row.get("timestamp").unwrap_or(&row["window_start"]);
        let time = time.as_str().expect("a time");
        assert_eq!(
            (&row["date"], &row["hour"]),
            (&time[..10].into(), &time[11..13].into()),
            "{row}"
        );
    }
}

#[test]
fn windows_and_kept_records_are_the_same_for_any_workers() {
    let place = generated(DIRTY);
    let partitions = place.partitions("in");
    let naive = windows(&partitions, SHAPE);
    assert!(
        naive
            .ledger
            .iter()
            .all(|it| it.late > 10 && it.rejected > 10 && it.filtered > 1000),
        "{:?}",
        naive.ledger
    );
    let (lines, records) = (naive.lines(columns), sorted(kept(&partitions)));
    let mut lakes = Vec::new();
    for workers in [1, 2, 4] {
        let lake = format!("lake{workers}");
        place.ok(&format!(
            "{RUN} -w {workers} --to ndjson:windows.ndjson --to windows=parquet:{lake} \
             --to kept=ndjson:kept.ndjson --to kept=parquet:fleet{workers}"
        ));
        assert!(place.read("windows.ndjson") == lines, "-w {workers}");
        naive.assert_ledger(&place.report("report.json"));
        assert!(sorted(place.rows("kept.ndjson")) == records, "-w {workers}");
        let folder = format!("fleet{workers}");
        assert!(sorted(view(&place, &folder)) == records, "-w {workers}");
        assert_published(&place, &folder);
        assert_published(&place, &lake);
        let bytes = |name: String| {
            let bytes = fs::read(place.path(&lake).join(&name)).expect("read");
            (name, bytes)
        };
        lakes.push(
            place
                .files(&lake)
                .into_iter()
                .map(bytes)
                .collect::<Vec<_>>(),
        );
    }
    assert!(
        lakes.iter().all(|lake| *lake == lakes[0]),
        "the same files with the same bytes"
    );
}

#[test]
fn windows_that_take_late_records_are_revised() {
    let place = generated(DIRTY);
    let shape = Shape {
        keep: 120_000,
        wait: 20_000,
        ..SHAPE
    };
    let naive = windows(&place.partitions("in"), shape);
    for workers in [1, 4] {
        place.ok(&format!(
            "{RUN} {} -w {workers} --epoch 20ms --to ndjson:out.ndjson",
            shape.flags()
        ));
        let last = last_revisions(place.rows("out.ndjson"), "vehicle_id");
        assert!(last == naive.rows(columns), "-w {workers}");
    }
}

/// Five days that the original generator would have sent at once: nothing is late for a wait as
/// long as they are.
#[test]
fn a_backfill_is_complete_with_a_wait_as_long() {
    let place = generated("--events 5_000 --backfill 5d --seed 3");
    let shape = Shape {
        wait: 5 * 86_400_000,
        ..SHAPE
    };
    let naive = windows(&place.partitions("in"), shape);
    place.ok(&format!("{RUN} {} --to ndjson:out.ndjson", shape.flags()));
    assert!(naive.ledger.iter().all(|ledger| ledger.late == 0));
    assert!(place.read("out.ndjson") == naive.lines(columns));
    let again = generated("--events 5_000 --backfill 5d --seed 3");
    assert!(again.partitions("in") == place.partitions("in"));
}

const GOOD: &str = r#"{"vehicle_id":"ABC-1234","timestamp":"2024-01-01T00:00:00Z","latitude":40.5,"longitude":-74.0,"speed":80.5,"event_type":"braking","braking_event":true,"collision_alert":false,"lane_change_event":false,"harsh_acceleration_event":false,"sensor_fault_event":false,"network_delay_event":false,"gps_loss_event":false,"weather":"sunny","road_type":"city","traffic_density":"low","hour_of_day":0,"sensor_battery":55.5,"sensor_signal_strength":3,"risk_label":false}"#;

/// A good line with something else in place of `part`.
fn with(part: &str, other: &str) -> String {
    assert!(GOOD.contains(part), "{part}");
    GOOD.replace(part, other)
}

/// Runs all `lines` as one input; returns the reasons of the dead letters by line, and the kept
/// records by line.
fn fates(lines: &[String], flags: &str) -> (BTreeMap<usize, String>, BTreeMap<usize, Value>) {
    let place = Place::new();
    place.write("in.ndjson", lines.join("\n"));
    place.ok(&format!(
        "run fleet --quiet --from file:in.ndjson {flags} --report report.json --to null: \
         --to dead-letters=ndjson:dead.ndjson --to kept=csv:kept --to kept=parquet:rows"
    ));
    let mut starts = BTreeMap::new();
    let mut offset = 0;
    for (number, line) in lines.iter().enumerate() {
        starts.insert(offset, number);
        offset += line.len() as u64 + 1;
    }
    let line = |offset: &Value| starts[&offset.as_u64().expect("an offset")];
    let dead: BTreeMap<usize, String> = place
        .rows("dead.ndjson")
        .iter()
        .map(|row| {
            (
                line(&row["offset"]),
                row["reason"].as_str().expect("a text").to_owned(),
            )
        })
        .collect();
    let rows = if place.path("rows").exists() {
        view(&place, "rows")
    } else {
        Vec::new()
    };
    let kept: BTreeMap<usize, Value> = rows
        .into_iter()
        .map(|row| (line(&row["source_offset"]), row))
        .collect();
    let input = &place.report("report.json")["inputs"][0];
    assert_eq!(input["read"], lines.len());
    assert_eq!(input["rejected"], dead.len());
    assert_eq!(input["filtered"], lines.len() - dead.len() - kept.len());
    (dead, kept)
}

#[test]
fn each_kind_of_bad_input_has_its_reason() {
    let cases = [
        (with("80.5", "NaN"), "undecodable"),
        (with("40.5", "Infinity"), "undecodable"),
        (with("40.5", "-NaN"), "undecodable"),
        (with("40.5", "nan"), "undecodable"),
        (with("true", "True"), "undecodable"),
        (with("true", "1"), "undecodable"),
        (
            with("\"hour_of_day\":0", "\"hour_of_day\":0.5"),
            "undecodable",
        ),
        (
            with("\"hour_of_day\":0", "\"hour_of_day\":3000000000"),
            "undecodable",
        ),
        (with("80.5", "\"fast\""), "undecodable"),
        (with("80.5", "1e999"), "undecodable"),
        (
            with("\"latitude\":40.5", "\"latitude\":NaN,\"latitude\":NaN"),
            "undecodable",
        ),
        ("[1, 2]".to_owned(), "undecodable"),
        ("null".to_owned(), "undecodable"),
        (GOOD[..100].to_owned(), "undecodable"),
        (
            with("\"timestamp\":\"2024-01-01T00:00:00Z\",", ""),
            "no_time",
        ),
        (with("2024-01-01T00:00:00Z", "yesterday"), "no_time"),
        (with("2024-01-01", "2024-02-30"), "no_time"),
        (with("2024-01-01", "9999-01-01"), "too_far_ahead"),
        (with("\"vehicle_id\":\"ABC-1234\",", ""), "no_key"),
        (with("\"ABC-1234\"", "null"), "no_key"),
        (with("ABC-1234", ""), "no_key"),
        (with("ABC-1234", "ABCDEFGHIJKLMNOPQRSTUVWX"), "too_long"),
        (
            with("sunny", "a very long text about the weather"),
            "too_long",
        ),
        (with("80.5", "1e10"), "out_of_range"),
    ];
    let mut lines = vec![GOOD.to_owned()];
    lines.extend(cases.iter().map(|(line, _)| line.clone()));
    lines.push(GOOD.to_owned());
    let (dead, kept) = fates(&lines, "");
    for (number, (line, reason)) in (1..).zip(&cases) {
        assert_eq!(dead.get(&number).map(|it| &**it), Some(*reason), "{line}");
    }
    assert_eq!(
        kept.keys().copied().collect::<Vec<_>>(),
        [0, lines.len() - 1]
    );
}

#[test]
fn what_is_unusual_is_a_record() {
    let lines = [
        with("40.5", "NaN"),
        with("\"longitude\":-74.0", "\"longitude\" :\tNaN "),
        with("ABC-1234", "NaN"),
        with("sunny", "\\\"latitude\\\":NaN,"),
        with("\"weather\":\"sunny\",", ""),
        with("true", "null"),
        with("2024-01-01T00:00:00Z", "2024-01-01T00:00:00.123456+00:00"),
        with(
            "\"risk_label\":false",
            "\"risk_label\":false,\"more\":{\"deep\":[1]}",
        ),
        with("55.5", "-0.0"),
    ];
    let (dead, kept) = fates(&lines, "");
    assert_eq!((dead, kept.len()), (BTreeMap::new(), lines.len()));
    assert_eq!(
        (&kept[&0]["latitude"], &kept[&0]["longitude"]),
        (&Value::Null, &(-74.0).into())
    );
    assert_eq!(kept[&1]["longitude"], Value::Null);
    assert_eq!(kept[&2]["vehicle_id"], "NaN");
    assert_eq!(kept[&3]["weather"], "\"latitude\":NaN,");
    assert_eq!(kept[&4]["weather"], Value::Null);
    assert_eq!(kept[&5]["braking_event"], Value::Null);
    assert_eq!(kept[&6]["timestamp"], "2024-01-01T00:00:00.123Z");
    assert_eq!(kept[&8]["sensor_battery"].as_f64(), Some(0.0));
    assert_eq!(
        (&kept[&0]["braking_event"], &kept[&0]["hour_of_day"]),
        (&true.into(), &0.into())
    );
}

#[test]
fn flags_say_what_is_kept() {
    let lines = [
        with("80.5", "50"),
        with("80.5", "50.01"),
        with("80.5", "null"),
        with("40.5", "NaN"),
        with("80.5", "0"),
    ];
    let fate = |flags| {
        let (dead, kept) = fates(&lines, flags);
        (
            dead.into_keys().collect::<Vec<_>>(),
            kept.into_keys().collect::<Vec<_>>(),
        )
    };
    assert_eq!(fate(""), (vec![], vec![1, 3]));
    assert_eq!(fate("--nan reject"), (vec![3], vec![1]));
    assert_eq!(fate("--min-speed 50.01"), (vec![], vec![3]));
    assert_eq!(fate("--min-speed -1"), (vec![], vec![0, 1, 3, 4]));
    let place = Place::new();
    let error = place.run("run fleet --min-speed NaN").failed_with(2);
    assert!(error.contains("speed"), "{error}");
}

/// Everything that a job has left, in an order of its own.
#[derive(PartialEq)]
struct Left(BTreeMap<&'static str, Vec<String>>);

const OUTPUTS: &str = "--to windows=ndjson:windows.ndjson --to windows=parquet:windows \
     --to kept=ndjson:kept.ndjson --to kept=parquet:kept --to late=csv:late \
     --to dead-letters=ndjson:dead.ndjson";

impl Left {
    fn of(place: &Place) -> Self {
        let lines = |name: &str| place.read(name).lines().map(str::to_owned).collect();
        let rows = |name: &str| view(place, name).iter().map(Value::to_string).collect();
        let mut left: BTreeMap<&'static str, Vec<String>> = BTreeMap::from([
            ("windows.ndjson", lines("windows.ndjson")),
            ("kept.ndjson", lines("kept.ndjson")),
            ("dead.ndjson", lines("dead.ndjson")),
            ("windows", rows("windows")),
            ("kept", rows("kept")),
            ("late", rows("late")),
        ]);
        left.values_mut().for_each(|lines| lines.sort());
        Self(left)
    }

    #[track_caller]
    fn assert_equal(&self, other: &Self) {
        for (name, lines) in &self.0 {
            assert!(lines.len() > 10, "{name} has {} rows", lines.len());
            assert!(*lines == other.0[name], "{name} differs");
        }
    }
}

/// Killed 20 times while it starts, reads, commits or writes a checkpoint, with another number of
/// workers at each start.
#[test]
fn killed_twenty_times_a_job_leaves_what_one_run_leaves() {
    let place = generated(DIRTY);
    let run = |more: &str| {
        format!(
            "run fleet --quiet --from file:in/*.ndjson {OUTPUTS} --epoch 5ms --checkpoint 25ms {more}"
        )
    };
    let mut kills = 0;
    while kills < 20 {
        let workers = [1, 3, 2, 4][kills as usize % 4];
        let mut running = place.start(&run(&format!("--state state --follow -w {workers}")));
        std::thread::sleep(Duration::from_millis(30 + 23 * (kills * 7 % 11)));
        assert!(running.is_alive(), "with --follow it never ends by itself");
        running.kill();
        kills += 1;
    }
    place.ok(&run("--state state --drain -w 3"));
    place.ok("state verify state");
    let whole = generated(DIRTY);
    whole.ok(&run("--state state --drain -w 2"));
    Left::of(&place).assert_equal(&Left::of(&whole));
    let partitions = place.partitions("in");
    let naive = windows(&partitions, SHAPE);
    assert!(sorted(place.rows("kept.ndjson")) == sorted(kept(&partitions)));
    assert!(last_revisions(place.rows("windows.ndjson"), "vehicle_id") == naive.rows(columns));
    let late: u64 = naive.ledger.iter().map(|ledger| ledger.late).sum();
    assert_eq!(view(&place, "late").len() as u64, late);
}

/// The rows of the oracle, which shares no code with the engine.
fn opinion(place: &Place, shape: Shape) -> (Vec<Value>, String) {
    let input = place.path("in").join("*.ndjson").display().to_string();
    let mut arguments = vec![input, "--pipeline".to_owned(), "fleet".to_owned()];
    arguments.extend(shape.oracle_flags());
    let opinion = oracle(&arguments);
    let rows = opinion.stdout.lines();
    let rows = rows.map(|line| serde_json::from_str(line).expect("JSON"));
    (rows.collect(), opinion.stderr)
}

fn assert_oracle(naive: &Vehicles, rows: &[Value]) {
    assert!(rows.len() > 1000, "{}", rows.len());
    assert!(
        naive.rows(columns) == rows,
        "the plain loop and the database agree"
    );
}

#[test]
#[ignore = "needs the oracle's Python: run dev/test"]
fn oracle_windows_of_fleet() {
    let place = generated(DIRTY);
    let shape = Shape {
        wait: 20_000,
        ..SHAPE
    };
    let naive = windows(&place.partitions("in"), shape);
    let (rows, ledger) = opinion(&place, shape);
    assert_oracle(&naive, &rows);
    let filtered: u64 = ledger
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok()?["filtered"].as_u64())
        .sum();
    assert_eq!(
        filtered,
        naive.ledger.iter().map(|it| it.filtered).sum::<u64>()
    );
    place.ok(&format!(
        "{RUN} {} -w 2 --to ndjson:out.ndjson",
        shape.flags()
    ));
    assert!(last_revisions(place.rows("out.ndjson"), "vehicle_id") == rows);
    naive.assert_ledger(&place.report("report.json"));
}

/// From a broker into the tables that the original wrote and into Parquet, killed on the way: equal
/// to what other programs make of the same input.
#[test]
#[ignore = "needs kafka, postgres and the oracle's Python: run dev/test"]
fn kafka_postgres_oracle_tables_and_lake_after_kills() {
    let (broker, database) = (kafka(), postgres());
    let place = generated(DIRTY);
    let topic = broker.uri(&unique("fleet-data"));
    place.ok(&format!("generate fleet {DIRTY} --to {topic}"));
    let [kept_table, metrics_table] = ["fleet_stream_processed", "telemetry_metrics_vehicle_5m"]
        .map(|name| format!("{name}_{}", unique("t").replace('-', "_")));
    let uri = database.uri("");
    let run = |end: &str, workers: u64| {
        format!(
            "run fleet --quiet --from {topic} --idle-after 10h --state state --epoch 20ms --checkpoint 200ms \
             -w {workers} {end} --to kept={uri}?table={kept_table} --to windows={uri}?table={metrics_table} \
             --to kept=parquet:fleet"
        )
    };
    for turn in 0..5 {
        let mut running = place.start(&run("--follow", 1 + turn % 3));
        running.until("a checkpoint", || {
            (!place.files("state/checkpoint").is_empty()).then_some(())
        });
        std::thread::sleep(Duration::from_millis(97 * turn));
        running.kill();
    }
    place.ok(&run("--drain", 2));

    let partitions = place.partitions("in");
    let records = sorted(kept(&partitions));
    let rows = |table: &str| {
        let rows = database.query(&format!("SELECT row_to_json(t)::text FROM {table} AS t"));
        let row = |text: String| serde_json::from_str(&text).expect("JSON");
        rows.into_iter().map(row).collect::<Vec<Value>>()
    };
    assert!(sorted(rows(&kept_table)) == records);
    let script = root().join("tests/oracle/lake.py").display().to_string();
    let lake = place.path("fleet").display().to_string();
    let read = python(&[script, lake, "--reader".to_owned(), "duckdb".to_owned()]);
    let read = read.stdout.lines();
    assert!(sorted(read.map(|line| serde_json::from_str(line).expect("JSON"))) == records);
    let (windows, _) = opinion(&place, SHAPE);
    assert!(sorted(rows(&metrics_table)) == sorted(windows));
    assert_types(&database.query(&format!(
        "SELECT column_name || ' ' || data_type FROM information_schema.columns \
         WHERE table_name = '{kept_table}' ORDER BY ordinal_position"
    )));
    let offsets = database.query(&format!(
        "SELECT count(DISTINCT (source_topic, source_partition, source_offset)) FROM {kept_table}"
    ));
    assert_eq!(offsets, [records.len().to_string()]);
}

#[track_caller]
fn assert_types(columns: &[String]) {
    assert_eq!(columns.len(), 23, "{columns:?}");
    for (name, kind) in [
        ("vehicle_id", "text"),
        ("timestamp", "timestamp with time zone"),
        ("latitude", "double precision"),
        ("sensor_battery", "double precision"),
        ("braking_event", "boolean"),
        ("risk_label", "boolean"),
        ("hour_of_day", "integer"),
        ("sensor_signal_strength", "integer"),
        ("source_topic", "text"),
        ("source_partition", "integer"),
        ("source_offset", "bigint"),
    ] {
        assert!(columns.contains(&format!("{name} {kind}")), "{columns:?}");
    }
}

/// A table that somebody made before, with narrower integers and a key of its own.
#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_a_table_that_is_there_is_used_as_it_is() {
    let database = postgres();
    let place = generated("--events 2_000 --seed 5");
    let table = unique("fleet").replace('-', "_");
    let uri = database.uri("");
    let run = format!("{RUN} --to kept={uri}?table={table}");
    place.ok(&run);
    // The original's integers; and what one of them holds now it held before.
    database.query(&format!(
        "ALTER TABLE {table} ALTER sensor_signal_strength TYPE bigint, ADD loaded_at timestamptz DEFAULT now()"
    ));
    place.ok(&run);
    let count = database.query(&format!("SELECT count(*) FROM {table}"));
    assert_eq!(count, [kept(&place.partitions("in")).len().to_string()]);
}
