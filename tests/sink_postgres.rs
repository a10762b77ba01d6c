//! The sink of `postgres://`: against a real server, and against none at all.
#![cfg(feature = "postgres")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};
use std::thread;
use std::time::{Duration, Instant};

use highwater::rows::{
    Column, ColumnType, Completeness, Origin, Pane, RowWriter, Rows, Tabular, Timing,
};
use highwater::sink::postgres::PostgresFactory;
use highwater::sink::{
    EpochRows, JobContext, JobId, Layout, NewestRun, OutputKind, OutputSpec, RunNumber, Sink,
    SinkContext, SinkError, SinkFactory, SinkMark, sink_id,
};
use highwater::time::{Epoch, EventTime, Offset, PartitionId, Shard, Span};
use postgres::{Client, NoTls};
use uuid::Uuid;

/// 2024-01-01T00:00:00Z.
const NEW_YEAR: i64 = 1_704_067_200_000;
const PATIENCE: Duration = Duration::from_secs(60);
const QUICK: Duration = Duration::from_secs(5);

/// Read by ordinary tests, written by the one that takes the server away.
static SERVER: RwLock<()> = RwLock::new(());

// ------------------------------------------------------------------------------------- rows

/// A row with a column of each type; all but the window may be null.
#[derive(Clone, Debug, Default)]
struct Wide {
    start: i64,
    car: Option<u128>,
    driver: Option<&'static str>,
    count: Option<i64>,
    speed: Option<f64>,
    seen: Option<i64>,
    moving: Option<bool>,
    payload: Option<&'static [u8]>,
}

impl Tabular for Wide {
    fn columns() -> Vec<Column> {
        vec![
            Column::new("window_start", ColumnType::Timestamp),
            Column::new("window_end", ColumnType::Timestamp),
            Column::nullable("car", ColumnType::Uuid),
            Column::nullable("driver", ColumnType::Text),
            Column::nullable("count", ColumnType::Int),
            Column::nullable("speed", ColumnType::Float),
            Column::nullable("seen", ColumnType::Timestamp),
            Column::nullable("moving", ColumnType::Bool),
            Column::nullable("payload", ColumnType::Bytes),
        ]
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.timestamp(EventTime(self.start));
        row.timestamp(EventTime(self.start + 1000));
        row.uuid(self.car);
        row.text(self.driver);
        row.int(self.count);
        row.float(self.speed);
        row.timestamp(self.seen.map(EventTime));
        row.boolean(self.moving);
        row.bytes(self.payload);
    }
}

/// A window of `car` with `count`.
fn counted(car: u128, count: i64) -> Wide {
    Wide {
        start: NEW_YEAR,
        car: Some(car),
        count: Some(count),
        ..Wide::default()
    }
}

fn pane(index: u32) -> Pane {
    let (timing, complete) = (Timing::OnTime, Completeness::Proved);
    Pane {
        timing,
        index,
        is_final: false,
        complete,
    }
}

fn epoch(number: u64, rows: Rows) -> EpochRows {
    EpochRows {
        shard: Shard(0),
        epoch: Epoch(number),
        watermark: EventTime(NEW_YEAR),
        is_checkpoint: true,
        rows,
    }
}

/// An epoch of window changes: row, pane index, diff.
fn windows(number: u64, changes: &[(Wide, u32, i64)]) -> EpochRows {
    let mut rows = Rows::new(Wide::columns().into());
    for (row, index, diff) in changes {
        rows.push_result(row, pane(*index), *diff);
    }
    epoch(number, rows)
}

fn inserted(number: u64, rows: impl IntoIterator<Item = Wide>) -> EpochRows {
    let changes: Vec<_> = rows.into_iter().map(|row| (row, 0, 1)).collect();
    windows(number, &changes)
}

fn output(kind: OutputKind) -> OutputSpec {
    OutputSpec {
        pipeline: "test",
        name: "wide-rows",
        columns: Wide::columns().into(),
        kind,
        layout: Layout::Flat,
    }
}

fn window_output() -> OutputSpec {
    output(OutputKind::Windows {
        key: vec!["car", "driver"],
        keep: Span(0),
    })
}

fn record_output() -> OutputSpec {
    output(OutputKind::Records {
        source: "trips".to_owned(),
    })
}

// ----------------------------------------------------------------------------------- server

fn environment(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!(
            "{name} is not set: run dev/test, or eval \"$(dev/services env)\" after dev/services up"
        )
    })
}

/// A database of its own on the test server, dropped at the end.
struct Database {
    name: String,
    /// Up to the host, the port.
    base: String,
    guard: Option<RwLockReadGuard<'static, ()>>,
}

impl Database {
    fn new() -> Self {
        let guard = SERVER
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut database = Self::unguarded();
        database.guard = Some(guard);
        database
    }

    fn unguarded() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let admin = environment("HIGHWATER_TEST_POSTGRES");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("hw_{}_{number}", std::process::id());
        let (base, _) = admin
            .rsplit_once('/')
            .expect("a database in HIGHWATER_TEST_POSTGRES");
        let database = Self {
            name,
            base: base.to_owned(),
            guard: None,
        };
        Self::admin()
            .batch_execute(&format!("CREATE DATABASE {}", database.name))
            .unwrap();
        database
    }

    fn admin() -> Client {
        Client::connect(&environment("HIGHWATER_TEST_POSTGRES"), NoTls).expect("the test server")
    }

    fn uri(&self) -> String {
        format!("{}/{}", self.base, self.name)
    }

    /// `host:port` of the server.
    fn address(&self) -> &str {
        self.base
            .rsplit_once('@')
            .map_or(self.base.as_str(), |(_, address)| address)
    }

    fn client(&self) -> Client {
        Client::connect(&self.uri(), NoTls).expect("the test database")
    }

    fn factory(&self, parameters: &str) -> PostgresFactory {
        PostgresFactory::new(&format!("{}{parameters}", self.uri()), QUICK).unwrap()
    }

    /// A sink on a table that was made for it.
    fn sink(&self, output: &OutputSpec) -> Box<dyn Sink> {
        self.sink_with(output, &SinkContext::default())
    }

    fn sink_with(&self, output: &OutputSpec, context: &SinkContext) -> Box<dyn Sink> {
        let factory = self.factory("");
        factory.prepare(output, 4, None).unwrap();
        factory.open(output, &[Shard(0)], context).unwrap()
    }

    /// The cells of all rows as text, columns split by `|`.
    fn rows(&self, select: &str) -> Vec<String> {
        let sql = format!("SELECT concat_ws('|', {select}) FROM test_wide_rows ORDER BY 1");
        self.client()
            .query(&sql, &[])
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect()
    }

    /// How many connections of the engine match `condition`.
    fn activity(&self, condition: &str) -> i64 {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity \
             WHERE datname = $1 AND application_name = 'highwater' AND {condition}"
        );
        Self::admin().query_one(&sql, &[&self.name]).unwrap().get(0)
    }

    fn terminate_sinks(&self) {
        let sql = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity \
                   WHERE datname = $1 AND application_name = 'highwater'";
        assert!(!Self::admin().query(sql, &[&self.name]).unwrap().is_empty());
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Ok(mut admin) = Client::connect(&environment("HIGHWATER_TEST_POSTGRES"), NoTls) {
            let _ = admin.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.name));
        }
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(
            start.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

fn services(command: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/dev/services");
    let folder = environment("HIGHWATER_SERVICES_DIR");
    let status = Command::new(script)
        .args([command, "postgres", "--dir", &folder])
        .status();
    assert!(
        status.expect("dev/services").success(),
        "dev/services {command} postgres"
    );
}

/// A crash of the server; the end brings it back, also when the test fails.
struct Outage;

impl Outage {
    fn begin() -> Self {
        services("kill");
        Self
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        services("start");
    }
}

// ------------------------------------------------------------------------- rows that arrive

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_every_type_arrives_and_nulls_do() {
    let database = Database::new();
    let mut sink = database.sink(&window_output());
    let full = Wide {
        start: NEW_YEAR,
        car: Some(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
        driver: Some("Zo\u{eb}\0 \"x\" \\ \u{1f697}"),
        count: Some(i64::MIN),
        speed: Some(-0.1),
        seen: Some(NEW_YEAR - 1),
        moving: Some(true),
        payload: Some(b"\0\xff\n"),
    };
    let empty = Wide {
        start: NEW_YEAR - 1,
        ..Wide::default()
    };
    let written = sink.commit(&inserted(0, [full, empty])).unwrap();
    assert_eq!(written.rows, 2);
    assert!(written.bytes > 100, "{written:?}");
    let utc =
        |column: &str| format!("to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.MS')");
    let cells = database.rows(&format!(
        "{}, {}, car, driver, count, speed, {}, moving, encode(payload, 'hex')",
        utc("window_start"),
        utc("window_end"),
        utc("seen")
    ));
    let expected = [
        "2023-12-31 23:59:59.999|2024-01-01 00:00:00.999",
        "2024-01-01 00:00:00.000|2024-01-01 00:00:01.000|01234567-89ab-cdef-0123-456789abcdef|\
         Zo\u{eb}\u{fffd} \"x\" \\ \u{1f697}|-9223372036854775808|-0.1|\
         2023-12-31 23:59:59.999|t|00ff0a",
    ];
    assert_eq!(cells, expected);
    assert_eq!(sink.close().unwrap().rows, 0);
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_later_revisions_replace_and_withdrawn_rows_go() {
    let database = Database::new();
    let mut sink = database.sink(&window_output());
    let nobody = |count| Wide {
        car: None,
        ..counted(0, count)
    };
    sink.commit(&inserted(
        0,
        [counted(1, 10), counted(2, 20), counted(3, 30), nobody(40)],
    ))
    .unwrap();
    let changes = [
        (counted(1, 10), 0, -1),
        (counted(1, 11), 1, 1),
        (counted(1, 11), 1, -1),
        (counted(1, 12), 2, 1),
        (counted(2, 20), 0, -1),
        (nobody(40), 0, -1),
        (nobody(41), 1, 1),
        (counted(4, 50), 0, 1),
        (counted(4, 50), 0, -1),
    ];
    let written = sink.commit(&windows(1, &changes)).unwrap();
    assert_eq!(written.rows, 4);
    assert_eq!(
        database.rows("right(car::text, 1), count"),
        ["1|12", "3|30", "41"]
    );
    sink.commit(&windows(2, &[(nobody(41), 1, -1)])).unwrap();
    assert_eq!(database.rows("count"), ["12", "30"]);
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_a_large_epoch_is_one_transaction() {
    let database = Database::new();
    let mut sink = database.sink(&window_output());
    let rows = |count| (0..25_000).map(move |car| counted(car, count));
    assert_eq!(sink.commit(&inserted(0, rows(1))).unwrap().rows, 25_000);
    let sql = "SELECT count(*), count(DISTINCT xmin::text), sum(count)::bigint FROM test_wide_rows";
    let totals = |client: &mut Client| {
        let row = client.query_one(sql, &[]).unwrap();
        (
            row.get::<_, i64>(0),
            row.get::<_, i64>(1),
            row.get::<_, i64>(2),
        )
    };
    assert_eq!(totals(&mut database.client()), (25_000, 1, 25_000));
    sink.commit(&inserted(1, rows(2))).unwrap();
    assert_eq!(totals(&mut database.client()), (25_000, 1, 50_000));
    let gone: Vec<_> = (0..24_000).map(|car| (counted(car, 2), 0, -1)).collect();
    sink.commit(&windows(2, &gone)).unwrap();
    assert_eq!(totals(&mut database.client()), (1000, 1, 2000));
}

fn records(number: u64, offsets: impl IntoIterator<Item = u64>) -> EpochRows {
    let mut rows = Rows::new(Wide::columns().into());
    for offset in offsets {
        let origin = Origin {
            partition: PartitionId(3),
            offset: Offset(offset),
        };
        rows.push_record(&counted(1, 7), origin);
    }
    epoch(number, rows)
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_replayed_records_do_not_double() {
    let database = Database::new();
    let mut sink = database.sink(&record_output());
    sink.commit(&records(0, 5..8)).unwrap();
    sink.commit(&records(0, 5..9)).unwrap();
    let cells = database.rows("source_topic, source_partition, source_offset, count");
    assert_eq!(
        cells,
        ["trips|3|5|7", "trips|3|6|7", "trips|3|7|7", "trips|3|8|7"]
    );
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_rows_of_a_log_are_all_kept() {
    let database = Database::new();
    let output = output(OutputKind::Log);
    let mut sink = database.sink(&output);
    for number in 0..2 {
        let mut rows = Rows::new(Wide::columns().into());
        rows.push(&counted(1, 7));
        rows.push(&counted(1, 7));
        sink.commit(&epoch(number, rows)).unwrap();
    }
    assert_eq!(database.rows("count"), ["7"; 4]);
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_an_epoch_without_rows_needs_no_server() {
    let database = Database::new();
    let mut sink = database.sink(&window_output());
    assert_eq!(sink.commit(&inserted(0, [])).unwrap().rows, 0);
    assert_eq!(database.activity("true"), 0);
}

// ----------------------------------------------------------------------- check and prepare

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_check_changes_nothing_and_prepare_makes_the_table_once() {
    let database = Database::new();
    let (factory, output) = (database.factory(""), window_output());
    let found = factory.check(&output).unwrap();
    assert!(
        found.starts_with("PostgreSQL 1") && found.ends_with("will be made"),
        "{found}"
    );
    let tables = "SELECT count(*) FROM pg_tables WHERE tablename = 'test_wide_rows'";
    assert_eq!(
        database
            .client()
            .query_one(tables, &[])
            .unwrap()
            .get::<_, i64>(0),
        0
    );
    factory.prepare(&output, 1, None).unwrap();
    factory.prepare(&output, 1, None).unwrap();
    let found = factory.check(&output).unwrap();
    assert!(
        found.ends_with("\"test_wide_rows\" exists and fits"),
        "{found}"
    );
    let definition = "SELECT pg_get_constraintdef(oid) FROM pg_constraint \
                      WHERE conrelid = 'test_wide_rows'::regclass";
    let unique: String = database.client().query_one(definition, &[]).unwrap().get(0);
    assert_eq!(
        unique,
        "UNIQUE NULLS NOT DISTINCT (window_start, window_end, car, driver)"
    );
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_another_process_makes_the_table_first() {
    let database = Database::new();
    database
        .factory("?table=model")
        .prepare(&window_output(), 1, None)
        .unwrap();
    let mut other = database.client();
    let make = "BEGIN; CREATE TABLE test_wide_rows (LIKE model INCLUDING ALL)";
    other.batch_execute(make).unwrap();
    let factory = database.factory("");
    let preparing = thread::spawn(move || factory.prepare(&window_output(), 1, None));
    wait_until("the other table is met", || {
        database.activity("wait_event_type = 'Lock'") == 1
    });
    other.batch_execute("COMMIT").unwrap();
    preparing.join().unwrap().unwrap();
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_a_table_in_another_schema_with_a_strange_name() {
    let database = Database::new();
    let factory = database.factory("?table=Sales.Per%22Day%20x&shards=3");
    assert_eq!(factory.shards(), 3);
    let refused = factory.check(&window_output()).unwrap_err().to_string();
    assert!(refused.contains("CREATE SCHEMA \"Sales\";"), "{refused}");
    database
        .client()
        .batch_execute("CREATE SCHEMA \"Sales\"")
        .unwrap();
    factory.prepare(&window_output(), 1, None).unwrap();
    factory.prepare(&window_output(), 1, None).unwrap();
    let context = SinkContext::default();
    let mut sink = factory
        .open(&window_output(), &[Shard(0)], &context)
        .unwrap();
    sink.commit(&inserted(0, [counted(1, 1)])).unwrap();
    sink.commit(&windows(
        1,
        &[(counted(1, 1), 0, -1), (counted(2, 2), 0, 1)],
    ))
    .unwrap();
    let sql = "SELECT count FROM \"Sales\".\"Per\"\"Day x\"";
    assert_eq!(
        database
            .client()
            .query_one(sql, &[])
            .unwrap()
            .get::<_, i64>(0),
        2
    );
}

/// Refused with a text that, executed, makes it fit.
fn mended(database: &Database, output: &OutputSpec, made: &str, complaints: &[&str]) {
    let mut client = database.client();
    client
        .batch_execute("DROP TABLE IF EXISTS test_wide_rows")
        .unwrap();
    client.batch_execute(made).unwrap();
    let factory = database.factory("");
    let refused = factory.check(output).unwrap_err().to_string();
    assert_eq!(
        factory.prepare(output, 1, None).unwrap_err().to_string(),
        refused
    );
    for complaint in complaints {
        assert!(refused.contains(complaint), "{complaint} in: {refused}");
    }
    for line in refused.lines().skip(1) {
        let (_, sql) = line.split_once(": ").expect("a colon before the SQL");
        client
            .batch_execute(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    factory.check(output).unwrap();
    let context = SinkContext::default();
    let mut sink = factory.open(output, &[Shard(0)], &context).unwrap();
    sink.commit(&match output.kind {
        OutputKind::Records { .. } => records(0, [1]),
        _ => inserted(0, [counted(1, 1)]),
    })
    .unwrap();
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_a_wrong_table_is_explained_with_sql_that_mends_it() {
    let database = Database::new();
    let columns = "car uuid, driver varchar, count bigint, speed float8, seen timestamptz, \
                   moving boolean, payload bytea";
    let bounds = "window_start timestamptz, window_end timestamptz";
    let output = window_output();
    let cases = [
        (
            format!("CREATE TABLE test_wide_rows ({bounds}, {columns})"),
            vec!["no unique index"],
        ),
        (
            format!(
                "CREATE TABLE test_wide_rows ({bounds}, {columns}, UNIQUE (window_start, window_end, car, driver))"
            ),
            vec!["NULLS NOT DISTINCT"],
        ),
        (
            format!(
                "CREATE TABLE test_wide_rows ({bounds}, {}, UNIQUE NULLS NOT DISTINCT \
                 (window_start, window_end, car, driver))",
                columns
                    .replace("count bigint", "count bigint GENERATED ALWAYS AS IDENTITY")
                    .replace(
                        "speed float8",
                        "speed float8 GENERATED ALWAYS AS (0.5) STORED"
                    )
            ),
            vec!["\"count\" is filled", "\"speed\" is filled"],
        ),
        (
            format!(
                "CREATE TABLE test_wide_rows ({bounds}, {columns}); CREATE UNIQUE INDEX ON \
                 test_wide_rows (window_start, window_end, car, driver) NULLS NOT DISTINCT WHERE count > 0"
            ),
            vec!["no unique index"],
        ),
        (
            "CREATE TABLE test_wide_rows (window_start timestamp, car uuid, driver varchar(9), \
             count int NOT NULL, speed float8, seen timestamptz, moving boolean, payload bytea, \
             extra int NOT NULL)"
                .to_owned(),
            vec![
                "\"window_start\" has type timestamp without time zone",
                "\"window_end\" is missing",
                "\"driver\" has type character varying(9)",
                "\"count\" has type integer",
                "\"extra\" is not of this output",
            ],
        ),
    ];
    for (made, complaints) in cases {
        mended(&database, &output, &made, &complaints);
    }
    let made = "CREATE TABLE test_wide_rows (n int)";
    mended(
        &database,
        &record_output(),
        made,
        &["\"source_offset\" is missing"],
    );
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_a_table_made_by_hand_may_have_more_columns_and_another_key_order() {
    let database = Database::new();
    database.client().batch_execute(
        "CREATE TABLE test_wide_rows (id bigserial PRIMARY KEY, driver text, car uuid, payload bytea, \
         moving boolean, seen timestamptz, speed float8, count numeric, window_end timestamptz, \
         window_start timestamptz, noted timestamptz DEFAULT now() NOT NULL); \
         CREATE UNIQUE INDEX ON test_wide_rows (driver, car, window_end, window_start) \
         INCLUDE (count) NULLS NOT DISTINCT",
    ).unwrap();
    let mut sink = database.sink(&window_output());
    sink.commit(&inserted(0, [counted(1, 1)])).unwrap();
    sink.commit(&windows(
        1,
        &[(counted(1, 1), 0, -1), (counted(1, 2), 1, 1)],
    ))
    .unwrap();
    assert_eq!(database.rows("count"), ["2"]);
    database
        .client()
        .batch_execute(
            "ALTER TABLE test_wide_rows RENAME TO t; CREATE VIEW test_wide_rows AS SELECT * FROM t",
        )
        .unwrap();
    let refused = database
        .factory("")
        .check(&window_output())
        .unwrap_err()
        .to_string();
    assert!(refused.contains("is a view"), "{refused}");
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_missing_rights_are_explained() {
    let database = Database::new();
    let user = format!("{}_user", database.name);
    let mut client = database.client();
    client
        .batch_execute(&format!("CREATE ROLE {user} LOGIN PASSWORD 'hunter2'"))
        .unwrap();
    let uri = format!(
        "postgres://{user}:hunter2@{}/{}",
        database.address(),
        database.name
    );
    let factory = PostgresFactory::new(&uri, QUICK).unwrap();
    let refused = factory.check(&window_output()).unwrap_err().to_string();
    assert!(
        refused.contains("GRANT CREATE ON SCHEMA \"public\""),
        "{refused}"
    );
    database
        .factory("")
        .prepare(&window_output(), 1, None)
        .unwrap();
    let refused = factory.check(&window_output()).unwrap_err().to_string();
    assert!(
        refused.contains("GRANT SELECT, INSERT, UPDATE, DELETE ON"),
        "{refused}"
    );
    client
        .batch_execute(&format!("GRANT SELECT, INSERT ON test_wide_rows TO {user}"))
        .unwrap();
    let context = SinkContext::default();
    let mut sink = factory
        .open(&window_output(), &[Shard(0)], &context)
        .unwrap();
    let failed = sink.commit(&inserted(0, [counted(1, 1)])).unwrap_err();
    assert!(matches!(failed, SinkError::Write { .. }), "{failed:?}");
    assert!(failed.to_string().contains("42501"), "{failed}");
    assert!(!failed.to_string().contains("hunter2"), "{failed}");
    client
        .batch_execute(&format!("DROP OWNED BY {user}; DROP ROLE {user}"))
        .unwrap();
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_a_missing_database_is_explained() {
    let database = Database::new();
    let uri = format!("{}/no_such_place", database.base);
    let factory = PostgresFactory::new(&uri, QUICK).unwrap();
    let start = Instant::now();
    let refused = factory.check(&window_output()).unwrap_err().to_string();
    assert!(
        refused.contains("CREATE DATABASE \"no_such_place\";"),
        "{refused}"
    );
    assert!(start.elapsed() < QUICK, "no retry can help");
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_rows_that_the_table_refuses_fail_with_advice() {
    let database = Database::new();
    let mut sink = database.sink(&window_output());
    let mut client = database.client();
    client
        .batch_execute("ALTER TABLE test_wide_rows ADD CHECK (count < 100)")
        .unwrap();
    let failed = sink
        .commit(&inserted(0, [counted(1, 1), counted(2, 100)]))
        .unwrap_err()
        .to_string();
    assert!(
        failed.contains("23514") && failed.contains("drop it there"),
        "{failed}"
    );
    assert!(
        database.rows("count").is_empty(),
        "nothing of a failed epoch is visible"
    );
    client.batch_execute("DROP TABLE test_wide_rows").unwrap();
    let failed = sink
        .commit(&inserted(0, [counted(1, 1)]))
        .unwrap_err()
        .to_string();
    assert!(
        failed.contains("42P01") && failed.contains("start again"),
        "{failed}"
    );
}

// ------------------------------------------------------------------------ what goes wrong

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_a_terminated_connection_is_made_again() {
    let database = Database::new();
    let context = SinkContext::default();
    let mut sink = database.sink_with(&window_output(), &context);
    for number in 0..3 {
        sink.commit(&inserted(number, [counted(1, number as i64)]))
            .unwrap();
        database.terminate_sinks();
    }
    sink.commit(&inserted(3, [counted(2, 9)])).unwrap();
    assert_eq!(database.rows("count"), ["2", "9"]);
    assert_eq!(context.status.waits_for(), None);
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_a_restart_in_the_middle_loses_and_doubles_nothing() {
    let _alone = SERVER
        .write()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let database = Database::unguarded();
    let context = SinkContext::default();
    let mut sink = database.sink_with(&record_output(), &context);
    let is_done = Arc::new(AtomicBool::new(false));
    let reached = Arc::new(AtomicU32::new(0));
    let writer = {
        let (is_done, reached) = (Arc::clone(&is_done), Arc::clone(&reached));
        thread::spawn(move || {
            let mut number = 0;
            while !is_done.load(Ordering::SeqCst) {
                sink.commit(&records(number, number * 50..(number + 1) * 50))
                    .unwrap();
                number += 1;
                reached.store(number as u32, Ordering::SeqCst);
            }
            number
        })
    };
    for _ in 0..2 {
        let before = reached.load(Ordering::SeqCst);
        wait_until("epochs go on", || {
            reached.load(Ordering::SeqCst) > before + 5
        });
        let outage = Outage::begin();
        wait_until("a status", || context.status.waits_for().is_some());
        let status = context.status.waits_for().unwrap();
        assert!(status.starts_with("postgres 127.0.0.1"), "{status}");
        assert!(status.ends_with("; retrying"), "{status}");
        drop(outage);
    }
    wait_until("no status", || context.status.waits_for().is_none());
    is_done.store(true, Ordering::SeqCst);
    let epochs = writer.join().unwrap();
    let sql = "SELECT count(*), max(source_offset) FROM test_wide_rows";
    let row = database.client().query_one(sql, &[]).unwrap();
    let expected = (epochs as i64 * 50, epochs as i64 * 50 - 1);
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), expected);
}

/// Stands between sink and server; can swallow the answer to a COMMIT and hang up.
struct Proxy {
    address: String,
    is_armed: Arc<AtomicBool>,
}

impl Proxy {
    fn before(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let is_armed = Arc::new(AtomicBool::new(false));
        let (server, armed) = (server.to_owned(), Arc::clone(&is_armed));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(&server).unwrap();
                let is_mute = Arc::new(AtomicBool::new(false));
                let (from, to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let mute = Arc::clone(&is_mute);
                thread::spawn(move || pass_answers(from, to, &mute));
                let armed = Arc::clone(&armed);
                thread::spawn(move || pass_requests(client, server, &armed, &is_mute));
            }
        });
        Self { address, is_armed }
    }
}

fn pass_requests(mut from: TcpStream, mut to: TcpStream, armed: &AtomicBool, mute: &AtomicBool) {
    let mut buffer = [0; 1 << 13];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let is_commit = buffer[..length].windows(6).any(|part| part == b"COMMIT");
        if is_commit && armed.swap(false, Ordering::SeqCst) {
            mute.store(true, Ordering::SeqCst);
        }
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

fn pass_answers(mut from: TcpStream, mut to: TcpStream, mute: &AtomicBool) {
    let mut buffer = [0; 1 << 13];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if mute.load(Ordering::SeqCst) || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// Commits one epoch whose answer is lost and says how many rows of it are there.
fn rows_after_a_lost_answer(output: &OutputSpec, rows: &EpochRows) -> usize {
    let database = Database::new();
    let proxy = Proxy::before(database.address());
    let (credentials, _) = database.base.rsplit_once('@').unwrap();
    let uri = format!("{credentials}@{}/{}", proxy.address, database.name);
    let factory = PostgresFactory::new(&uri, QUICK).unwrap();
    factory.prepare(output, 1, None).unwrap();
    let context = SinkContext::default();
    let mut sink = factory.open(output, &[Shard(0)], &context).unwrap();
    proxy.is_armed.store(true, Ordering::SeqCst);
    let written = sink.commit(rows).unwrap();
    assert_eq!(written.rows, rows.rows.len() as u64);
    assert!(!proxy.is_armed.load(Ordering::SeqCst), "an answer was lost");
    database.rows("count").len()
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_a_lost_answer_doubles_nothing() {
    let rows = records(0, 0..10);
    assert_eq!(rows_after_a_lost_answer(&record_output(), &rows), 10);
    let windows = inserted(0, (0..10).map(|car| counted(car, 1)));
    assert_eq!(rows_after_a_lost_answer(&window_output(), &windows), 10);
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_a_lost_answer_does_not_double_a_log() {
    let mut rows = Rows::new(Wide::columns().into());
    (0..10).for_each(|count| rows.push(&counted(1, count)));
    assert_eq!(
        rows_after_a_lost_answer(&output(OutputKind::Log), &epoch(0, rows)),
        10
    );
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_a_deadlock_with_others_is_retried() {
    let database = Database::new();
    let mut sink = database.sink(&window_output());
    sink.commit(&inserted(0, [counted(1, 0), counted(2, 0)]))
        .unwrap();
    let mut other = database.client();
    let update = |car: u32| {
        format!("UPDATE test_wide_rows SET speed = 1 WHERE right(car::text, 1) = '{car}'")
    };
    other
        .batch_execute(&format!(
            "SET deadlock_timeout = '60s'; BEGIN; {}",
            update(2)
        ))
        .unwrap();
    let writer = thread::spawn(move || sink.commit(&inserted(1, [counted(2, 5), counted(1, 5)])));
    wait_until("the sink waits", || {
        database.activity("wait_event_type = 'Lock'") == 1
    });
    other.batch_execute(&update(1)).unwrap();
    other.batch_execute("COMMIT").unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(database.rows("count"), ["5", "5"]);
    let sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    wait_until("the deadlock is counted", || {
        other.query_one(sql, &[]).unwrap().get::<_, i64>(0) == 1
    });
}

/// Two sinks write the same rows in opposite orders and both stop at a row in the middle that
/// someone has locked: if either had locked its rows in the order of its epoch, they would hold
/// what the other needs next.
#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_sinks_that_write_the_same_keys_never_deadlock() {
    let database = Database::new();
    let cars = |count| (0..500).map(move |car| counted(car, count));
    database
        .sink(&window_output())
        .commit(&inserted(0, cars(0)))
        .unwrap();
    let mut other = database.client();
    let lock = "BEGIN; SELECT FROM test_wide_rows WHERE right(car::text, 3) = '0fa' FOR UPDATE";
    other.batch_execute(lock).unwrap();
    let epochs = [inserted(1, cars(1)), inserted(1, cars(2).rev())];
    let writers = epochs.map(|epoch| {
        let mut sink = database.sink(&window_output());
        thread::spawn(move || sink.commit(&epoch).map(drop))
    });
    wait_until("both wait", || {
        database.activity("wait_event_type = 'Lock'") == 2
    });
    other.batch_execute("COMMIT").unwrap();
    for writer in writers {
        writer.join().unwrap().unwrap();
    }
    // A backend that has gone has told its statistics.
    wait_until("the sinks are gone", || database.activity("true") == 0);
    let sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(
        database
            .client()
            .query_one(sql, &[])
            .unwrap()
            .get::<_, i64>(0),
        0
    );
}

// ------------------------------------------------------------------------------- exactly once

/// A log that is not asked: the table fences by itself.
struct Silent;

impl NewestRun for Silent {
    fn newest_run(&self) -> Result<RunNumber, SinkError> {
        Err(SinkError::Aborted)
    }
}

const JOB: u128 = 0x1111_2222_3333_4444_5555_6666_7777_8888;
const OTHER_JOB: u128 = 0x9999;

/// A run of a job that starts from `checkpoint` with epochs up to `logged` in the log.
fn job(run: u64, checkpoint: Option<u64>, logged: Option<u64>) -> JobContext {
    let sink = sink_id("wide-rows", "postgres-");
    JobContext {
        job: JobId(Uuid::from_u128(JOB)),
        run: RunNumber(run),
        checkpoint: checkpoint.map(Epoch),
        logged: logged.map(Epoch),
        sinks: checkpoint
            .map(|_| (sink, SinkMark::default()))
            .into_iter()
            .collect(),
        replace_output: false,
        log: Arc::new(Silent),
    }
}

fn of_job(job: &JobContext) -> SinkContext {
    SinkContext {
        job: Some(Arc::new(job.clone())),
        ..SinkContext::default()
    }
}

impl Database {
    fn start(&self, output: &OutputSpec, job: &JobContext) -> Result<Box<dyn Sink>, SinkError> {
        let factory = self.factory("");
        factory.prepare(output, 4, Some(job))?;
        factory.open(output, &[Shard(0)], &of_job(job))
    }

    /// `run|epoch` of shard 0, per sink.
    fn epochs(&self) -> Vec<String> {
        let sql = "SELECT concat_ws('|', sink, run, coalesce(epoch::text, '-')) \
                   FROM highwater_epochs WHERE shard = 0 ORDER BY 1";
        let rows = self.client().query(sql, &[]).unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_the_older_of_two_runs_can_do_nothing_any_more() {
    let database = Database::new();
    let output = window_output();
    let mut older = database.start(&output, &job(1, None, None)).unwrap();
    older.commit(&inserted(0, [counted(1, 1)])).unwrap();
    let mut newer = database.start(&output, &job(2, None, Some(1))).unwrap();
    assert_eq!(newer.committed(Shard(0)), Some(Epoch(0)));
    let late = inserted(1, [counted(1, 100), counted(2, 100)]);
    let fenced = older.commit(&late).unwrap_err();
    assert!(matches!(fenced, SinkError::Fenced(_)), "{fenced:?}");
    assert!(fenced.to_string().contains("run 2"), "{fenced}");
    let fenced = database.start(&output, &job(1, None, None)).err().unwrap();
    assert!(matches!(fenced, SinkError::Fenced(_)), "{fenced:?}");
    newer.commit(&inserted(1, [counted(1, 2)])).unwrap();
    assert!(older.commit(&late).is_err());
    assert_eq!(database.rows("count"), ["2"]);
    assert_eq!(database.epochs(), ["wide-rows/postgres-test_wide_rows|2|1"]);
}

/// The older run has set its epoch and waits for a row: the newer one waits for its end, and then
/// knows of it.
#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_a_takeover_waits_for_a_commit_in_flight() {
    let database = Database::new();
    let output = window_output();
    let mut older = database.start(&output, &job(1, None, None)).unwrap();
    older.commit(&inserted(0, [counted(1, 0)])).unwrap();
    let mut other = database.client();
    let lock = "BEGIN; SELECT FROM test_wide_rows FOR UPDATE";
    other.batch_execute(lock).unwrap();
    let writer = thread::spawn(move || older.commit(&inserted(1, [counted(1, 1)])).map(drop));
    wait_until("the commit waits", || {
        database.activity("wait_event_type = 'Lock'") == 1
    });
    let (uri, taken) = (database.uri(), Arc::new(AtomicBool::new(false)));
    let newer = {
        let taken = Arc::clone(&taken);
        thread::spawn(move || {
            let factory = PostgresFactory::new(&uri, QUICK).unwrap();
            let sink = factory.open(
                &window_output(),
                &[Shard(0)],
                &of_job(&job(2, None, Some(1))),
            );
            taken.store(true, Ordering::SeqCst);
            sink
        })
    };
    wait_until("the takeover waits", || {
        database.activity("wait_event_type = 'Lock'") == 2
    });
    assert!(!taken.load(Ordering::SeqCst));
    other.batch_execute("COMMIT").unwrap();
    writer.join().unwrap().unwrap();
    let newer = newer.join().unwrap().unwrap();
    assert_eq!(newer.committed(Shard(0)), Some(Epoch(1)));
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_a_commit_that_is_killed_in_the_middle_is_made_once() {
    let database = Database::new();
    let output = output(OutputKind::Log);
    let context = of_job(&job(1, None, None));
    let factory = database.factory("");
    factory.prepare(&output, 1, context.job.as_deref()).unwrap();
    let mut sink = factory.open(&output, &[Shard(0)], &context).unwrap();
    let log = |number: u64| {
        let mut rows = Rows::new(Wide::columns().into());
        (0..10).for_each(|count| rows.push(&counted(1, count)));
        epoch(number, rows)
    };
    sink.commit(&log(0)).unwrap();
    let mut other = database.client();
    other
        .batch_execute("BEGIN; LOCK TABLE test_wide_rows IN SHARE MODE")
        .unwrap();
    let writer = thread::spawn(move || {
        let written = sink.commit(&log(1)).unwrap();
        (sink, written)
    });
    wait_until("the rows wait, the epoch is set", || {
        database.activity("wait_event_type = 'Lock'") == 1
    });
    database.terminate_sinks();
    wait_until("a status", || context.status.waits_for().is_some());
    wait_until("the repetition waits", || {
        database.activity("wait_event_type = 'Lock'") == 1
    });
    assert_eq!(database.epochs(), ["wide-rows/postgres-test_wide_rows|1|0"]);
    other.batch_execute("COMMIT").unwrap();
    let (sink, written) = writer.join().unwrap();
    assert_eq!((written.rows, database.rows("count").len()), (10, 20));
    assert_eq!(sink.committed(Shard(0)), Some(Epoch(1)));
    assert_eq!(database.epochs(), ["wide-rows/postgres-test_wide_rows|1|1"]);
    assert_eq!(context.status.waits_for(), None);
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_an_answer_that_is_lost_is_success() {
    let database = Database::new();
    let output = output(OutputKind::Log);
    let proxy = Proxy::before(database.address());
    let (credentials, _) = database.base.rsplit_once('@').unwrap();
    let uri = format!("{credentials}@{}/{}", proxy.address, database.name);
    let factory = PostgresFactory::new(&uri, QUICK).unwrap();
    let context = of_job(&job(1, None, None));
    factory.prepare(&output, 1, context.job.as_deref()).unwrap();
    let mut sink = factory.open(&output, &[Shard(0)], &context).unwrap();
    for number in 0..3 {
        let mut rows = Rows::new(Wide::columns().into());
        (0..10).for_each(|count| rows.push(&counted(1, count)));
        proxy.is_armed.store(number == 1, Ordering::SeqCst);
        let written = sink.commit(&epoch(number, rows)).unwrap();
        assert_eq!(written.rows, 10);
        assert!(!proxy.is_armed.load(Ordering::SeqCst), "an answer was lost");
    }
    assert_eq!(database.rows("count").len(), 30);
    assert_eq!(context.status.waits_for(), None);
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_a_restart_goes_on_after_the_last_committed_epoch() {
    let database = Database::new();
    let output = window_output();
    let mut sink = database.start(&output, &job(1, None, None)).unwrap();
    assert_eq!(sink.committed(Shard(0)), None);
    sink.commit(&inserted(4, [counted(1, 4)])).unwrap();
    // Without rows: nothing at an ordinary epoch, the epoch alone at a checkpoint.
    let quiet = EpochRows {
        is_checkpoint: false,
        ..inserted(5, [])
    };
    assert_eq!(sink.commit(&quiet).unwrap().rows, 0);
    assert_eq!(database.epochs(), ["wide-rows/postgres-test_wide_rows|1|4"]);
    assert_eq!(sink.commit(&inserted(6, [])).unwrap().rows, 0);
    drop(sink);
    let sink = database.start(&output, &job(2, Some(5), Some(8))).unwrap();
    assert_eq!(sink.committed(Shard(0)), Some(Epoch(6)));
    for (checkpoint, logged, numbers) in [(7, 8, ["6", "7"]), (4, 5, ["6", "5"])] {
        let job = job(3, Some(checkpoint), Some(logged));
        let refused = database.start(&output, &job).err().unwrap();
        assert!(matches!(refused, SinkError::Refused(_)), "{refused:?}");
        let text = refused.to_string();
        assert!(numbers.iter().all(|number| text.contains(number)), "{text}");
    }
}

fn other_job(replace_output: bool) -> JobContext {
    JobContext {
        job: JobId(Uuid::from_u128(OTHER_JOB)),
        replace_output,
        ..job(1, None, None)
    }
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_another_jobs_output_is_refused_or_replaced() {
    let database = Database::new();
    let output = window_output();
    let mut first = database.start(&output, &job(1, None, None)).unwrap();
    first
        .commit(&inserted(0, [counted(1, 1), counted(2, 1)]))
        .unwrap();
    let elsewhere = database.factory("?table=elsewhere");
    let other = other_job(false);
    elsewhere.prepare(&output, 1, Some(&other)).unwrap();

    let refused = database.start(&output, &other).err().unwrap();
    assert!(matches!(refused, SinkError::Refused(_)), "{refused:?}");
    let text = refused.to_string();
    let says = ["11112222333344445555666677778888", "--replace-output"];
    assert!(says.iter().all(|it| text.contains(it)), "{text}");
    assert_eq!(database.rows("count").len(), 2);

    let mut second = database.start(&output, &other_job(true)).unwrap();
    assert!(database.rows("count").is_empty());
    second.commit(&inserted(0, [counted(3, 3)])).unwrap();
    // The same again, as after a crash: its own output stays.
    second = database
        .start(
            &output,
            &JobContext {
                run: RunNumber(2),
                logged: Some(Epoch(0)),
                ..other_job(true)
            },
        )
        .unwrap();
    assert_eq!(database.rows("count"), ["3"]);
    assert_eq!(second.committed(Shard(0)), Some(Epoch(0)));

    // The first job is over: it neither goes on nor comes back.
    let refused = first.commit(&inserted(1, [counted(1, 9)])).unwrap_err();
    assert!(matches!(refused, SinkError::Refused(_)), "{refused:?}");
    let refused = database
        .factory("")
        .open(&output, &[Shard(0)], &of_job(&job(2, None, Some(1))));
    assert!(matches!(refused, Err(SinkError::Refused(_))));
    let refused = database.start(&output, &job(2, None, Some(1)));
    assert!(matches!(refused, Err(SinkError::Refused(_))));
    assert_eq!(database.rows("count"), ["3"]);
    let sinks = database.epochs();
    assert_eq!(
        sinks,
        [
            "wide-rows/postgres-elsewhere|1|-",
            "wide-rows/postgres-test_wide_rows|2|0"
        ]
    );
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_rows_that_no_job_has_written_stay() {
    let database = Database::new();
    let output = window_output();
    database
        .sink(&output)
        .commit(&inserted(0, [counted(1, 1), counted(2, 1)]))
        .unwrap();
    let mut sink = database.start(&output, &other_job(true)).unwrap();
    sink.commit(&inserted(0, [counted(2, 2)])).unwrap();
    assert_eq!(database.rows("count"), ["1", "2"]);
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_a_target_that_was_dropped_is_refused() {
    let database = Database::new();
    let output = window_output();
    let mut sink = database.start(&output, &job(1, None, None)).unwrap();
    sink.commit(&inserted(3, [counted(1, 1)])).unwrap();
    let mut client = database.client();
    client.batch_execute("DROP TABLE test_wide_rows").unwrap();
    for _ in 0..2 {
        let refused = database
            .start(&output, &job(2, None, Some(3)))
            .err()
            .unwrap();
        assert!(matches!(refused, SinkError::Refused(_)), "{refused:?}");
        assert!(refused.to_string().contains("epoch 3"), "{refused}");
    }
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_the_table_of_epochs_stands_beside_the_target() {
    let database = Database::new();
    let mut client = database.client();
    client
        .batch_execute(&format!(
            "CREATE SCHEMA \"Sales\"; ALTER DATABASE {} SET synchronous_commit = off",
            database.name
        ))
        .unwrap();
    let factory = database.factory("?table=Sales.Per%22Day%20x&shards=2");
    let output = window_output();
    let job = job(1, None, None);
    factory.prepare(&output, 1, Some(&job)).unwrap();
    factory.prepare(&output, 1, Some(&job)).unwrap();
    let shards = [Shard(0), Shard(1)];
    let mut sink = factory.open(&output, &shards, &of_job(&job)).unwrap();
    for shard in shards {
        let rows = inserted(2, [counted(u128::from(shard.0), 1)]);
        sink.commit(&EpochRows { shard, ..rows }).unwrap();
    }
    let sql = "SELECT concat_ws('|', job, sink, shard, run, epoch) \
               FROM \"Sales\".highwater_epochs ORDER BY shard";
    let rows: Vec<String> = client
        .query(sql, &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    let key = "11112222-3333-4444-5555-666677778888|wide-rows/postgres-Per\"Day x";
    assert_eq!(rows, [format!("{key}|0|1|2"), format!("{key}|1|1|2")]);
}

// ---------------------------------------------------------------------- without any server

#[test]
fn nobody_listens() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let uri = format!("postgres://ada:hunter2@127.0.0.1:{port}/shop");
    let factory = PostgresFactory::new(&uri, Duration::from_millis(300)).unwrap();
    for error in [
        factory.check(&window_output()).unwrap_err(),
        factory.prepare(&window_output(), 1, None).unwrap_err(),
    ] {
        assert!(matches!(error, SinkError::Unreachable { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&format!("127.0.0.1:{port}/shop")), "{text}");
        assert!(!text.contains("hunter2") && !text.contains("ada"), "{text}");
    }
}

#[test]
fn a_server_that_hangs_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("postgres://ada@{}/shop", listener.local_addr().unwrap());
    let factory = PostgresFactory::new(&uri, Duration::from_millis(300)).unwrap();
    let error = factory.check(&window_output()).unwrap_err();
    assert!(matches!(error, SinkError::Unreachable { .. }), "{error:?}");
    assert!(
        error.to_string().contains("no answer within 0.3 s"),
        "{error}"
    );
}

#[test]
fn an_abort_ends_the_wait() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for (address, has_status) in [(closed, true), (silent.local_addr().unwrap(), false)] {
        let factory =
            PostgresFactory::new(&format!("postgres://ada@{address}/shop"), QUICK).unwrap();
        let context = SinkContext::default();
        let outcome = Arc::new(Mutex::new(None));
        let writer = {
            let (context, outcome) = (context.clone(), Arc::clone(&outcome));
            thread::spawn(move || {
                let mut sink = factory
                    .open(&window_output(), &[Shard(0)], &context)
                    .unwrap();
                *outcome.lock().unwrap() = Some(sink.commit(&inserted(0, [counted(1, 1)])));
            })
        };
        // Refused, it is between two attempts; taken, it waits for the first word.
        let taken = if has_status {
            wait_until("a status", || context.status.waits_for().is_some());
            None
        } else {
            Some(silent.accept().unwrap())
        };
        assert!(outcome.lock().unwrap().is_none());
        context.abort.store(true, Ordering::SeqCst);
        // Half of the time that a reconnection may take.
        let start = Instant::now();
        writer.join().unwrap();
        assert!(
            start.elapsed() < Duration::from_secs(15),
            "the abort was not seen"
        );
        drop(taken);
        let outcome = outcome.lock().unwrap().take();
        assert!(
            matches!(outcome, Some(Err(SinkError::Aborted))),
            "{outcome:?}"
        );
    }
}
