//! Results in a real database, and when it restarts.

use serde_json::Value;

use crate::support::cars::{Tables, Unmatched, columns, generated, windows};
use crate::support::naive::Shape;
use crate::support::services::{postgres, postgres_alone, unique};

/// A table's rows as the JSON of the output `windows`.
pub fn select(table: &str) -> String {
    let time = |name: &str| {
        format!("'{name}', to_char({name} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')")
    };
    let plain = [
        "num_of_rows",
        "num_of_black",
        "num_of_white",
        "num_of_silver",
        "maximum_speed",
        "maximum_gear",
        "maximum_rpm",
    ]
    .map(|name| format!("'{name}', {name}"));
    format!(
        "SELECT json_build_object({}, {}, {}) FROM {table} ORDER BY window_end, window_start",
        time("window_start"),
        time("window_end"),
        plain.join(", ")
    )
}

/// Rows of [`select`].
pub fn windows_of(rows: &[String]) -> Vec<Value> {
    let row = |text: &String| {
        let mut row: Value = serde_json::from_str(text).expect("JSON");
        // PostgreSQL writes 200.0 as 200.
        row["maximum_speed"] = row["maximum_speed"].as_f64().into();
        row
    };
    rows.iter().map(row).collect()
}

fn table() -> String {
    unique("cars").replace('-', "_")
}

/// Revisions replace what was there, and a second run over the same input changes nothing.
#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_holds_the_last_revision_of_each_window_once() {
    let database = postgres();
    let place = generated(
        "--events 100_000 --disorder 30s --seed 7 --late-fraction 0.02 --duplicates 0.01",
    );
    let shape = Shape {
        keep: 240_000,
        ..Shape::tumbling(300_000, 10_000)
    };
    let naive = windows(
        &Tables::read(&place, "dims"),
        &place.partitions("in"),
        shape,
        Unmatched::Keep,
    );
    let (table, enriched) = (table(), table());
    for workers in [2, 4] {
        let uri = database.uri("");
        place.ok(&format!(
            "run cars --quiet --from file:in/*.ndjson --dims dir:dims {} -w {workers} --epoch 20ms \
             --to windows={uri}?table={table} --to enriched={uri}?table={enriched}",
            shape.flags()
        ));
        assert_eq!(
            windows_of(&database.query(&select(&table))),
            naive.rows(columns)
        );
        // Repeated records are records of their own: the key is their place.
        let read: u64 = naive.ledger.iter().map(|ledger| ledger.read).sum();
        assert!(read > 100_000);
        assert_eq!(
            database.query(&format!("SELECT count(*) FROM {enriched}")),
            [read.to_string()]
        );
        let ids = database.query(&format!("SELECT count(DISTINCT event_id) FROM {enriched}"));
        assert_eq!(ids, ["100000"]);
    }
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_restarts_in_the_middle_of_a_run() {
    let database = postgres_alone();
    let flags = "--events 300_000 --disorder 8s --seed 23";
    let place = generated(flags);
    let shape = Shape::tumbling(60_000, 10_000);
    let naive = windows(
        &Tables::read(&place, "dims"),
        &place.partitions("in"),
        shape,
        Unmatched::Keep,
    );
    let (table, alerts) = (table(), table());
    let uri = database.uri("");
    // 300,000 events in 5 s.
    let mut run = place.start(&format!(
        "run cars {flags} --speed 3000 {} -w 2 --epoch 50ms --report report.json \
         --to windows={uri}?table={table} --to alerts={uri}?table={alerts}",
        shape.flags()
    ));
    let count = format!("SELECT count(*) FROM {table}");
    let exists = format!("SELECT count(*) FROM pg_tables WHERE tablename = '{table}'");
    run.until("the first windows", || {
        let is_there = database.query(&exists) == ["1"] && database.query(&count) != ["0"];
        is_there.then_some(())
    });
    database.kill();
    assert!(run.is_alive());
    database.start();
    let before: usize = database.query(&count)[0].parse().expect("a number");
    assert!(
        0 < before && before < naive.windows.len(),
        "{before} of {} windows",
        naive.windows.len()
    );
    let done = run.wait();
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(
        windows_of(&database.query(&select(&table))),
        naive.rows(columns)
    );
    let on_time: u64 = naive.ledger.iter().map(|ledger| ledger.on_time).sum();
    let counts = database.query(&format!(
        "SELECT count(*), count(DISTINCT event_id) FROM {alerts}"
    ));
    assert_eq!(counts, [format!("{on_time}|{on_time}")]);
    naive.assert_ledger(&place.report("report.json"));
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_a_table_of_another_shape_is_explained() {
    let database = postgres();
    let place = crate::support::place::Place::new();
    let uri = database.uri("");
    let shapes = [
        (
            "window_start timestamptz, window_end timestamptz",
            "num_of_rows",
        ),
        (
            "window_start text, window_end timestamptz, num_of_rows bigint",
            "window_start",
        ),
    ];
    for (columns, culprit) in shapes {
        let table = table();
        database.query(&format!("CREATE TABLE {table} ({columns})"));
        let error = place
            .run(&format!(
                "run cars --events 1000 --speed max --to {uri}?table={table}"
            ))
            .failed_with(1);
        assert!(error.contains(&table) && error.contains(culprit), "{error}");
        assert_eq!(
            database.query(&format!("SELECT count(*) FROM {table}")),
            ["0"]
        );
    }
    // A table that is one row per key for somebody else: without our key, rows could come twice.
    let table = table();
    place.ok(&format!(
        "run cars --quiet --events 1000 --speed max --to {uri}?table={table}"
    ));
    let constraints =
        "SELECT conname FROM pg_constraint WHERE contype IN ('u', 'p') AND conrelid =";
    for name in database.query(&format!("{constraints} '{table}'::regclass")) {
        database.query(&format!("ALTER TABLE {table} DROP CONSTRAINT {name}"));
    }
    let indexes = database.query(&format!(
        "SELECT indexname FROM pg_indexes WHERE tablename = '{table}'"
    ));
    indexes
        .iter()
        .for_each(|index| drop(database.query(&format!("DROP INDEX {index}"))));
    let error = place
        .run(&format!(
            "run cars --events 1000 --speed max --to {uri}?table={table}"
        ))
        .failed_with(1);
    assert!(
        error.contains(&table) && error.contains("unique"),
        "{error}"
    );
}

/// Nobody listens: it ends within the time-out, and says where, without the password.
#[test]
fn a_database_that_is_not_there_is_an_error_within_the_time_out() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|port| port.local_addr())
        .expect("a port");
    let place = crate::support::place::Place::new();
    let start = std::time::Instant::now();
    let run = format!(
        "run cars --events 10 --to postgres://u:s3cret@{port}/db?table=t --connect-timeout 2s"
    );
    let error = place.run(&run).failed_with(1);
    assert!(
        error.contains(&port.port().to_string()) && !error.contains("s3cret"),
        "{error}"
    );
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}
