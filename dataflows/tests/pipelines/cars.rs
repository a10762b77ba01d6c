//! `run cars` over files: windows, late records, per-record outputs and the ledger.

use std::collections::HashMap;

use serde_json::Value;

use crate::support::cars::{Alerts, Tables, Unmatched, columns, enriched, generated, windows};
use crate::support::naive::{Shape, last_revisions};
use crate::support::place::Place;
use crate::support::services::oracle;

const MINUTE: i64 = 60_000;

/// 200,000 events of 2 h 47 min, in 4 partitions, no later than 30 s.
const CLEAN: &str = "--events 200_000 --disorder 30s --seed 7 --partitions 4";
/// The same with records that are much later, repeated, or none at all.
const DIRTY: &str = "--events 200_000 --disorder 30s --seed 7 --partitions 4 \
                     --late-fraction 0.02 --duplicates 0.01 --garbage 0.01";

const RUN: &str = "run cars --quiet --from file:in/*.ndjson --dims dir:dims --report report.json";

/// What should come out of the input in `place`.
fn expected(place: &Place, shape: Shape) -> Alerts {
    windows(
        &Tables::read(place, "dims"),
        &place.partitions("in"),
        shape,
        Unmatched::Keep,
    )
}

/// Runs it with 1, 2, 4 and 8 workers: the same bytes each time, and those of the plain loop.
#[track_caller]
fn assert_for_any_workers(place: &Place, shape: Shape) -> Alerts {
    let naive = expected(place, shape);
    let lines = naive.lines(columns);
    for workers in [1, 2, 4, 8] {
        place.ok(&format!(
            "{RUN} {} -w {workers} --to windows=ndjson:out.ndjson",
            shape.flags()
        ));
        assert!(
            place.read("out.ndjson") == lines,
            "-w {workers}, {shape:?}: {}",
            place.read("out.ndjson")
        );
        let report = place.report("report.json");
        naive.assert_ledger(&report);
        assert_eq!(report["outputs"]["windows"]["rows"], naive.windows.len());
    }
    naive
}

#[test]
fn disorder_within_the_wait() {
    let place = generated(CLEAN);
    let naive = assert_for_any_workers(&place, Shape::tumbling(15 * MINUTE, 30_000));
    assert_eq!(
        naive.windows.len(),
        13,
        "one begins before the first event's turn"
    );
    assert_eq!(
        naive.ledger.iter().map(|ledger| ledger.late).sum::<u64>(),
        0
    );
    assert_eq!(
        naive.ledger.iter().map(|ledger| ledger.read).sum::<u64>(),
        200_000
    );
}

#[test]
fn disorder_beyond_the_wait_repeated_records_and_garbage() {
    let place = generated(DIRTY);
    let naive = assert_for_any_workers(&place, Shape::tumbling(5 * MINUTE, 10_000));
    for ledger in &naive.ledger {
        assert!(
            ledger.late > 100 && ledger.rejected > 100,
            "the input is as bad as it should be: {ledger:?}"
        );
    }
}

#[test]
fn hopping_windows() {
    let place = generated(DIRTY);
    let shape = Shape {
        size: 15 * MINUTE,
        slide: 5 * MINUTE,
        offset: 0,
        wait: 30_000,
        keep: 0,
    };
    let naive = assert_for_any_workers(&place, shape);
    assert!(
        naive
            .ledger
            .iter()
            .all(|ledger| ledger.late_windows > ledger.late * 3),
        "some miss only a part"
    );
}

#[test]
fn windows_with_gaps_between_them_and_an_offset() {
    let place = generated(DIRTY);
    let shape = Shape {
        size: 5 * MINUTE,
        slide: 15 * MINUTE,
        offset: 90_000,
        wait: 20_000,
        keep: 0,
    };
    let naive = assert_for_any_workers(&place, shape);
    assert!(
        naive
            .ledger
            .iter()
            .all(|ledger| ledger.no_window > ledger.on_time)
    );
}

#[test]
fn the_last_revisions_are_the_same() {
    let place = generated(DIRTY);
    let tumbling = Shape {
        keep: 4 * MINUTE,
        ..Shape::tumbling(5 * MINUTE, 10_000)
    };
    let hopping = Shape {
        size: 10 * MINUTE,
        slide: 4 * MINUTE,
        ..tumbling
    };
    for shape in [tumbling, hopping] {
        let naive = expected(&place, shape);
        let kept: u64 = naive.ledger.iter().map(|ledger| ledger.late_kept).sum();
        assert!(kept > 100, "there is something to revise");
        let rows = naive.rows(columns);
        for workers in [1, 2, 4] {
            // Short epochs, so that there are revisions.
            let flags = shape.flags();
            place.ok(&format!(
                "{RUN} {flags} -w {workers} --epoch 20ms --to ndjson:out.ndjson"
            ));
            assert_eq!(
                last_revisions(place.rows("out.ndjson"), ""),
                rows,
                "-w {workers}, {shape:?}"
            );
            naive.assert_ledger(&place.report("report.json"));
        }
    }
}

/// Drivers and colours change in the middle: each event keeps the row of its own time, whenever it
/// arrives.
#[test]
fn dimension_rows_count_from_their_valid_from() {
    let place = generated(DIRTY);
    let cars = place.read("dims/cars.csv");
    let mut dated = String::from("valid_from,car_id,driver_id,model_id,color_id\n");
    for (at, row) in cars.lines().skip(1).enumerate() {
        dated += &format!(",{row}\n");
        let car = row.split(',').next().expect("a car");
        dated += &format!(
            "2024-01-01T00:{:02}:30Z,{car},10000000{at:02},{},1\n",
            at + 10,
            at % 7 + 1
        );
        dated += &format!(
            "2024-01-01T02:00:00+01:00,{car},20000000{at:02},1,{}\n",
            at % 7 + 1
        );
    }
    place.write("dims/cars.csv", dated);
    assert_for_any_workers(&place, Shape::tumbling(5 * MINUTE, 15_000));
    place.ok(&format!("{RUN} -w 2 --to enriched=ndjson:enriched.ndjson"));
    assert_sequences(&place, "enriched.ndjson", |_| true);
}

#[test]
fn enriched_and_alerts_are_the_sequence_of_the_input() {
    let place = generated(DIRTY);
    place.ok(&format!(
        "{RUN} -w 4 --to enriched=ndjson:enriched.ndjson --to alerts=ndjson:alerts.ndjson"
    ));
    assert_sequences(&place, "enriched.ndjson", |_| true);
    assert_sequences(
        &place,
        "alerts.ndjson",
        crate::support::cars::Event::is_alert,
    );
}

/// What a file of enriched samples should hold: those of each partition in their order.
#[track_caller]
fn assert_sequences(
    place: &Place,
    file: &str,
    is_meant: impl Fn(&crate::support::cars::Event) -> bool,
) {
    let tables = Tables::read(place, "dims");
    let mut found: HashMap<Value, Vec<Value>> = HashMap::new();
    let fields: Vec<String> = first_fields(&place.read(file));
    assert_eq!(fields[..11], FIELDS, "the order of the fields is contract");
    for row in place.rows(file) {
        found
            .entry(row["car_id"].clone())
            .or_default()
            .push(fields_of(&row));
    }
    let mut meant: HashMap<Value, Vec<Value>> = HashMap::new();
    for line in place.partitions("in").iter().flatten() {
        if let Some(event) = enriched(&tables, line).filter(&is_meant) {
            meant
                .entry(event.json["car_id"].clone())
                .or_default()
                .push(event.json);
        }
    }
    assert_eq!(found.len(), 20);
    for (car, rows) in &meant {
        assert!(found.get(car) == Some(rows), "{file}: car {car}");
    }
}

const FIELDS: [&str; 11] = [
    "event_id",
    "event_time",
    "car_id",
    "driver_id",
    "brand_name",
    "model_name",
    "color_name",
    "speed",
    "rpm",
    "gear",
    "expected_gear",
];

fn first_fields(text: &str) -> Vec<String> {
    let line = text.lines().next().expect("a line");
    line.split(['{', ','])
        .filter_map(|part| part.strip_prefix('"')?.split('"').next())
        .map(str::to_owned)
        .collect()
}

fn fields_of(row: &Value) -> Value {
    FIELDS
        .iter()
        .map(|name| ((*name).to_owned(), row[name].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// A car's records lie in one partition, so the late ones of each are the naive loop's.
#[test]
fn late_records_are_diverted_or_dropped_and_counted() {
    let place = generated(DIRTY);
    let shape = Shape::tumbling(5 * MINUTE, 10_000);
    let naive = expected(&place, shape);
    let mut meant: Vec<_> = naive
        .late
        .iter()
        .flatten()
        .map(|event| event.json["event_id"].clone())
        .collect();
    let count = meant.len();
    place.ok(&format!(
        "{RUN} {} -w 2 --to null: --to late=ndjson:late.ndjson",
        shape.flags()
    ));
    let late = place.rows("late.ndjson");
    let mut found: Vec<_> = late.iter().map(|row| row["event_id"].clone()).collect();
    for ids in [&mut meant, &mut found] {
        ids.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
    }
    assert!(found == meant && count > 0);
    let sum = |report: &Value, fate: &str| -> u64 {
        report["inputs"]
            .as_array()
            .expect("inputs")
            .iter()
            .filter_map(|input| input[fate].as_u64())
            .sum()
    };
    let report = place.report("report.json");
    assert_eq!(
        (sum(&report, "late_diverted"), sum(&report, "late_dropped")),
        (count as u64, 0)
    );
    assert_eq!(report["outputs"]["late"]["rows"], count);
    place.ok(&format!(
        "{RUN} {} -w 2 --late drop --to null: --to late=ndjson:late.ndjson",
        shape.flags()
    ));
    let report = place.report("report.json");
    assert_eq!(
        (sum(&report, "late_diverted"), sum(&report, "late_dropped")),
        (0, count as u64)
    );
    assert_eq!(place.read("late.ndjson"), "");
}

/// Every dead letter is a line of the input: at its offset, with its bytes.
#[test]
fn dead_letters_say_where_they_came_from() {
    let place = generated(DIRTY);
    place.ok(&format!(
        "{RUN} -w 2 --to null: --to dead-letters=ndjson:dead.ndjson"
    ));
    let tables = Tables::read(&place, "dims");
    let mut meant = Vec::new();
    for (partition, lines) in place.partitions("in").iter().enumerate() {
        let mut offset = 0;
        for line in lines {
            if enriched(&tables, line).is_none() {
                let text = std::str::from_utf8(line).ok().map(str::to_owned);
                meant.push((partition as u64, offset, text));
            }
            offset += line.len() as u64 + 1;
        }
    }
    let place_of = |row: &Value| {
        assert!(row["reason"].is_string() && row["detail"].is_string());
        let text = row["value"].as_str().map(str::to_owned);
        (
            row["partition"].as_u64().expect("a number"),
            row["offset"].as_u64().expect("a number"),
            text,
        )
    };
    let mut found: Vec<_> = place.rows("dead.ndjson").iter().map(place_of).collect();
    found.sort();
    assert_eq!(found.len(), meant.len());
    assert!(
        found == meant && meant.iter().any(|(_, _, text)| text.is_none()),
        "some are no UTF-8"
    );
}

/// What is compressed is the same input.
#[test]
fn compressed_files_are_the_same_input() {
    let place = Place::new();
    place.ok("dims cars --to dims");
    let mut results = Vec::new();
    for suffix in ["", ".gz", ".zst"] {
        place.ok(&format!(
            "generate cars --events 20_000 --to file:in.ndjson{suffix}"
        ));
        place.ok(&format!(
            "run cars --quiet --from file:in.ndjson{suffix} --dims dir:dims --report report.json --to ndjson:out.ndjson"
        ));
        let offset = place.report("report.json")["inputs"][0]["to_offset"].clone();
        results.push((place.read("out.ndjson"), offset));
    }
    assert!(results[0].0.len() > 200);
    assert!(results.iter().all(|result| *result == results[0]));
}

#[test]
fn the_embedded_generator_is_the_generated_files() {
    let place = generated("--events 50_000 --disorder 10s --seed 3 --duplicates 0.01");
    let window = "--window 5m --wait 10s --quiet --to";
    place.ok(&format!(
        "run cars --from file:in/*.ndjson --dims dir:dims {window} ndjson:files.ndjson"
    ));
    place.ok(&format!(
        "run cars --events 50_000 --disorder 10s --seed 3 --duplicates 0.01 --speed max -w 4 {window} ndjson:own.ndjson"
    ));
    assert!(place.read("own.ndjson").lines().count() > 5);
    assert_eq!(place.read("own.ndjson"), place.read("files.ndjson"));
}

/// A database's opinion on the same input: byte for byte the same numbers, and the same ledger.
#[test]
#[ignore = "needs the oracle's Python: run dev/test"]
fn oracle_windows_and_ledger_of_cars() {
    let place = generated(DIRTY);
    let tumbling = Shape::tumbling(15 * MINUTE, 10_000);
    let shapes = [
        tumbling,
        Shape {
            slide: 5 * MINUTE,
            wait: 30_000,
            ..tumbling
        },
        Shape {
            size: 5 * MINUTE,
            offset: 45_000,
            ..tumbling
        },
        Shape {
            size: 5 * MINUTE,
            slide: 5 * MINUTE,
            keep: 4 * MINUTE,
            ..tumbling
        },
    ];
    for shape in shapes {
        let input = place.path("in").join("*.ndjson").display().to_string();
        let mut arguments = vec![
            input,
            "--dims".to_owned(),
            place.path("dims").display().to_string(),
        ];
        arguments.extend(shape.oracle_flags());
        let opinion = oracle(&arguments);
        place.ok(&format!(
            "{RUN} {} -w 2 --to ndjson:out.ndjson",
            shape.flags()
        ));
        let rows: Vec<Value> = opinion
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert!(rows.len() > 10);
        assert_eq!(
            last_revisions(place.rows("out.ndjson"), ""),
            rows,
            "{shape:?}"
        );
        let naive = expected(&place, shape);
        assert_eq!(
            naive.rows(columns),
            rows,
            "the plain loop and the database agree"
        );
        naive.assert_ledger(&place.report("report.json"));
        assert_ledger(&naive, &opinion.stderr);
    }
}

#[track_caller]
fn assert_ledger(naive: &Alerts, opinion: &str) {
    let rows: Vec<Value> = opinion
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(rows.len(), naive.ledger.len());
    for (row, ledger) in rows.iter().zip(&naive.ledger) {
        let counts = [
            "read",
            "rejected",
            "filtered",
            "no_window",
            "on_time",
            "late_kept",
            "late",
            "late_windows",
        ]
        .map(|name| row[name].as_u64().expect("a number"));
        let crate::support::naive::Ledger {
            read,
            rejected,
            filtered,
            no_window,
            on_time,
            late_kept,
            late,
            late_windows,
        } = *ledger;
        assert_eq!(
            counts,
            [
                read,
                rejected,
                filtered,
                no_window,
                on_time,
                late_kept,
                late,
                late_windows
            ]
        );
    }
}
