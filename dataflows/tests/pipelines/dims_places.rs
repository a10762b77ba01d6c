//! Dimension tables in a folder, a bucket, a database and compacted topics: the same tables give
//! the same join in all of them, also while they change and the job that reads them dies.

use serde_json::Value;

use crate::support::cars::{Tables, Unmatched, columns, enriched, generated, windows};
use crate::support::naive::Shape;
use crate::support::place::{Place, Running};
use crate::support::services::{
    Victim, given, kafka, kafka_alone, postgres, postgres_alone, s3, s3_alone, unique,
};

/// 17 minutes of twenty cars, out of order, some of it broken.
const EVENTS: &str = "--events 20_000 --disorder 8s --seed 3 --late-fraction 0.01 --garbage 0.01";
const SHAPE: Shape = Shape::tumbling(60_000, 5_000);
const HEADER: &str = "car_id,driver_id,model_id,color_id,valid_from\n";

fn bucket() -> String {
    let bucket = given("HIGHWATER_TEST_S3_BUCKET");
    format!("s3://{bucket}/{}", unique("dims"))
}

fn schema(database: &str) -> String {
    format!("{database}?schema={}&prefix=dim_", unique("dims"))
}

/// Cars that change their drivers, models and colours while the events go by: every third has a
/// row without a time, the others are in the table only from some time on.
fn cars_with_a_history(place: &Place) {
    let made = place.read("dims/cars.csv");
    let mut text = HEADER.to_owned();
    for (index, line) in made.lines().skip(1).enumerate() {
        let car = line.split(',').next().expect("a column");
        let first = if index % 3 == 0 {
            String::new()
        } else {
            format!("2024-01-01T00:0{}:{:02}.5Z", index % 5, index * 2)
        };
        let rest = line.strip_prefix(car).expect("it begins with it");
        text.push_str(&format!("{car}{rest},{first}\n"));
        for turn in 1..=3 {
            let (driver, minute) = (500_000_000 + 10 * index + turn, 4 * turn + index % 4 + 1);
            let (model, color) = ((index + turn) % 7 + 1, (index * turn) % 7 + 1);
            text.push_str(&format!(
                "{car},{driver},{model},{color},2024-01-01T00:{minute:02}:00Z\n"
            ));
        }
    }
    place.write("history/cars.csv", text);
    for table in ["models", "colors"] {
        place.write(
            &format!("history/{table}.csv"),
            place.read(&format!("dims/{table}.csv")),
        );
    }
}

/// The lines of a file as JSON texts, sorted.
fn sorted(rows: impl IntoIterator<Item = Value>) -> Vec<String> {
    let mut lines: Vec<_> = rows.into_iter().map(|row| row.to_string()).collect();
    lines.sort();
    lines
}

#[test]
#[ignore = "needs kafka, postgres and s3: run dev/test"]
fn kafka_postgres_s3_every_place_gives_the_same_join() {
    let (broker, database, _store) = (kafka(), postgres(), s3());
    let place = generated(EVENTS);
    cars_with_a_history(&place);
    let (csv, parquet) = (bucket(), bucket());
    let places = [
        "dir:history".to_owned(),
        "dir:parquet".to_owned(),
        csv,
        parquet,
        schema(database.address()),
        broker.uri(&unique("dims")),
    ];
    for (at, to) in places.iter().enumerate().skip(1) {
        let format = if at % 2 == 1 { "parquet" } else { "csv" };
        place.ok(&format!(
            "dims cars --from dir:history --to {to} --format {format}"
        ));
    }
    let tables = Tables::read(&place, "history");
    let partitions = place.partitions("in");
    let lines = partitions.iter().flatten();
    let meant = sorted(lines.filter_map(|line| Some(enriched(&tables, line)?.json)));
    let naive = windows(&tables, &partitions, SHAPE, Unmatched::Keep);
    let mut first: Option<(Vec<String>, String)> = None;
    for dims in &places {
        place.ok(&format!(
            "run cars --quiet --from file:in/*.ndjson --dims {dims} {} -w 2 --to enriched=ndjson:enriched.ndjson \
             --to windows=ndjson:windows.ndjson",
            SHAPE.flags()
        ));
        assert_eq!(
            sorted(place.rows("enriched.ndjson")),
            meant,
            "{dims} and the oracle"
        );
        assert_eq!(place.read("windows.ndjson"), naive.lines(columns), "{dims}");
        let mut bytes: Vec<_> = place
            .read("enriched.ndjson")
            .lines()
            .map(str::to_owned)
            .collect();
        bytes.sort();
        let left = (bytes, place.read("windows.ndjson"));
        let is_equal = first.get_or_insert_with(|| left.clone()) == &left;
        assert!(is_equal, "{dims} and {}: not the same bytes", places[0]);
    }
    assert!(meant.iter().any(|line| line.contains("\"driver_id\":null")));
    assert!(meant.iter().any(|line| line.contains("\"driver_id\":5000")));
}

/// A job that keeps a state and follows a file of events of one car, whose driver changes each
/// minute. The tables are changed by copying a folder.
struct Job {
    place: Place,
    dims: String,
    /// Rows of the table of cars, without its header.
    cars: String,
    sent: usize,
    turn: usize,
    run: Option<Running>,
}

impl Job {
    fn new(dims: &str) -> Self {
        let place = Place::new();
        place.ok("dims cars --to next");
        place.write("in.ndjson", "");
        let mut job = Self {
            place,
            dims: dims.to_owned(),
            cars: String::new(),
            sent: 0,
            turn: 0,
            run: None,
        };
        job.change(1);
        job.start();
        job
    }

    fn start(&mut self) {
        let workers = 1 + self.turn % 3;
        self.turn += 1;
        self.run = Some(self.place.start(&format!(
            "run cars --from file:in.ndjson --follow --dims {} --dims-refresh 50ms --epoch 20ms --checkpoint 150ms \
             --connect-timeout 2s --wait 1h --state state -w {workers} --to enriched=ndjson:out.ndjson",
            self.dims
        )));
    }

    fn run(&mut self) -> &mut Running {
        self.run.as_mut().expect("it runs")
    }

    fn kill(&mut self) {
        self.run.take().expect("it runs").kill();
    }

    /// From the minute `driver` on, that driver drives.
    fn change(&mut self, driver: usize) {
        let color = driver % 7 + 1;
        self.cars.push_str(&format!(
            "1000001,{driver},1,{color},2024-01-01T10:{driver:02}:00Z\n"
        ));
        let table = format!("{HEADER}{}", self.cars);
        self.place.write("next/cars.csv", table);
        self.place.ok(&format!(
            "dims cars --from dir:next --to {} --replace",
            self.dims
        ));
    }

    /// Sends an event of the minute `minute`; what it looks like when it comes out.
    fn send(&mut self, minute: usize) -> Value {
        let event = format!(
            r#"{{"event_time":"2024-01-01T10:{minute:02}:30Z","car_id":1000001,"speed":10.0,"rpm":1,"gear":1}}"#
        );
        self.place.append("in.ndjson", &[event]);
        self.sent += 1;
        let (place, sent) = (&self.place, self.sent);
        let run = self.run.as_mut().expect("it runs");
        let rows = run.until("the event comes out", || {
            Some(place.rows("out.ndjson")).filter(|rows| rows.len() >= sent)
        });
        assert_eq!(rows.len(), sent);
        rows[sent - 1].clone()
    }

    /// Sends events of the driver's first minute until one has that driver: before, the one of the
    /// minute before still drives.
    #[track_caller]
    fn send_until(&mut self, driver: usize) {
        let start = std::time::Instant::now();
        loop {
            let row = self.send(driver);
            if row["driver_id"] == driver {
                return;
            }
            assert_eq!(row["driver_id"], driver - 1, "{row}");
            assert!(
                start.elapsed().as_secs() < 60,
                "tables are read again: {row}"
            );
        }
    }

    /// Nothing was lost or doubled, history is as it was, and a replay agrees in every row.
    fn end(mut self) {
        for driver in 1..self.cars.lines().count() {
            let row = self.send(driver);
            assert_eq!(row["driver_id"], driver, "{row}");
        }
        let done = self.run.take().expect("it runs").interrupt();
        assert_eq!(done.code, 130, "{}", done.stderr);
        assert_eq!(self.place.rows("out.ndjson").len(), self.sent);
        self.place.ok("state verify state");
        self.place.ok("replay state");
    }
}

/// Changes while it runs, at the moment of its death, and while it is dead.
fn changed_and_killed(dims: &str) {
    let mut job = Job::new(dims);
    job.send_until(1);
    let mut driver = 1;
    for turn in 0..9 {
        driver += 1;
        match turn % 3 {
            0 => {
                job.change(driver);
                job.send_until(driver);
                job.kill();
            }
            1 => {
                // Perhaps it has read the change, and stored it, and said so; perhaps not.
                job.change(driver);
                std::thread::sleep(std::time::Duration::from_millis(17 * turn));
                job.kill();
            }
            _ => {
                job.kill();
                job.change(driver);
            }
        }
        job.start();
        job.send_until(driver);
    }
    job.end();
}

#[test]
fn a_folder_that_changes_while_a_job_dies() {
    changed_and_killed("dir:dims");
}

#[test]
#[ignore = "needs s3: run dev/test"]
fn s3_tables_that_change_while_a_job_dies() {
    let _store = s3();
    changed_and_killed(&bucket());
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_tables_that_change_while_a_job_dies() {
    let database = postgres();
    changed_and_killed(&schema(database.address()));
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_tables_that_change_while_a_job_dies() {
    let broker = kafka();
    changed_and_killed(&broker.uri(&unique("dims")));
}

/// A server that is away while a job runs is waited for; the job goes on with the rows that it
/// knows. Without it no job begins, and one that has its tables in its state goes on.
fn server_away(server: &Victim, dims: &str) {
    let mut job = Job::new(dims);
    job.send_until(1);
    server.kill();
    for _ in 0..20 {
        assert_eq!(job.send(1)["driver_id"], 1);
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    assert!(job.run().is_alive());
    job.kill();
    let error = job
        .place
        .run(&format!(
            "run cars --from file:in.ndjson --dims {dims} --connect-timeout 1s --to null:"
        ))
        .failed_with(1);
    assert!(error.contains("cannot be reached"), "{error}");
    assert!(error.contains("check"), "{error}");
    let checked = job.place.run(&format!(
        "check cars --from file:in.ndjson --dims {dims} --connect-timeout 1s"
    ));
    assert_eq!(checked.code, 3, "{}{}", checked.stdout, checked.stderr);
    job.start();
    assert_eq!(job.send(1)["driver_id"], 1, "the rows in the state");
    server.start();
    job.change(2);
    job.send_until(2);
    let done = job.run.take().expect("it runs").interrupt();
    assert_eq!(done.code, 130, "{}", done.stderr);
    for told in ["the rows read before stay in use", "dimensions: read again"] {
        assert!(done.stderr.contains(told), "{told}: {}", done.stderr);
    }
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_that_is_away_is_waited_for() {
    let broker = kafka_alone();
    server_away(&broker, &broker.uri(&unique("dims")));
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_that_is_away_is_waited_for() {
    let database = postgres_alone();
    server_away(&database, &schema(database.address()));
}

#[test]
#[ignore = "needs s3: run dev/test"]
fn s3_that_is_away_is_waited_for() {
    let store = s3_alone();
    server_away(&store, &bucket());
}

#[test]
#[ignore = "needs postgres: run dev/test"]
fn postgres_tables_of_other_types_are_explained() {
    let database = postgres();
    let place = generated("--events 10");
    let schema = unique("types");
    let uri = format!("{}?schema={schema}", database.address());
    let run = format!("run cars --from file:in/*.ndjson --dims {uri} --to null:");
    let error = place.run(&run).failed_with(1);
    assert!(
        error.contains("table") && error.contains("highwater dims"),
        "{error}"
    );
    place.ok(&format!("dims cars --to {uri}"));
    let error = place.run(&format!("dims cars --to {uri}")).failed_with(1);
    assert!(error.contains("--replace"), "{error}");
    let sql = |sql: &str| {
        let table = format!("ALTER TABLE \"{schema}\".cars");
        database.query(&sql.replace("ALTER TABLE cars", &table));
    };
    // Other types that hold the same values are as good.
    sql(
        "ALTER TABLE cars ALTER driver_id TYPE numeric, ALTER model_id TYPE smallint, ADD note jsonb",
    );
    sql("ALTER TABLE cars ALTER valid_from TYPE timestamp");
    place.ok(&run);
    let cars = place.read("dims/cars.csv");
    let car = cars.lines().nth(2).and_then(|line| line.split(',').next());
    let car = car.expect("a car");
    database.query(&format!(
        "UPDATE \"{schema}\".cars SET driver_id = 1.5 WHERE car_id = {car}"
    ));
    let error = place.run(&run).failed_with(1);
    let row = format!("cars, car_id {car}: driver_id: 1.5");
    for part in [&*row, "numeric", "whole number", "bigint"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    sql("ALTER TABLE cars ALTER driver_id TYPE double precision");
    assert!(place.run(&run).failed_with(1).contains("floating-point"));
    sql("ALTER TABLE cars DROP driver_id");
    let error = place.run(&run).failed_with(1);
    assert!(error.contains("no column driver_id"), "{error}");
}

/// The address of the tables may change, and their kind; what was recorded stays.
#[test]
#[ignore = "needs kafka and postgres: run dev/test"]
fn kafka_postgres_tables_may_move() {
    let (broker, database) = (kafka(), postgres());
    let mut job = Job::new("dir:dims");
    job.send_until(1);
    let places = [
        schema(database.address()),
        broker.uri(&unique("dims")),
        "dir:elsewhere".to_owned(),
    ];
    for (turn, dims) in places.into_iter().enumerate() {
        job.kill();
        job.dims = dims;
        let driver = turn + 2;
        job.change(driver);
        job.start();
        job.send_until(driver);
    }
    job.end();
}
