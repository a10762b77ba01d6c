//! Dimension tables that change while a pipeline runs, and cars that are in none.

use serde_json::Value;

use crate::support::cars::{Tables, Unmatched, columns, generated, windows};
use crate::support::naive::{Shape, time_text};
use crate::support::place::{Place, Running};

/// A run that follows a growing file, in a folder with one black car of driver 1.
struct Followed {
    place: Place,
    run: Running,
    sent: usize,
}

const HEADER: &str = "car_id,driver_id,model_id,color_id,valid_from\n";
const BLACK: &str = "1000001,1,1,1,\n";

impl Followed {
    fn new() -> Self {
        let place = Place::new();
        place.ok("dims cars --to dims");
        place.write("dims/cars.csv", format!("{HEADER}{BLACK}"));
        place.write("in.ndjson", "");
        let run = place.start(
            "run cars --from file:in.ndjson --follow --dims dir:dims --dims-refresh 50ms --epoch 20ms -w 2 \
             --wait 1h --to enriched=ndjson:out.ndjson",
        );
        Self {
            place,
            run,
            sent: 0,
        }
    }

    /// Sends an event of this time; what it looks like when it comes out.
    fn send(&mut self, time: &str) -> Value {
        let event =
            format!(r#"{{"event_time":"{time}","car_id":1000001,"speed":10.0,"rpm":1,"gear":1}}"#);
        self.place.append("in.ndjson", &[event]);
        self.sent += 1;
        let (place, sent) = (&self.place, self.sent);
        let rows = self.run.until("the event comes out", || {
            Some(place.rows("out.ndjson")).filter(|r| r.len() >= sent)
        });
        assert_eq!(rows.len(), sent);
        rows[sent - 1].clone()
    }

    /// Sends events of this time until one has this driver.
    fn send_until(&mut self, time: &str, driver: u64) -> Value {
        let start = std::time::Instant::now();
        loop {
            let row = self.send(time);
            if row["driver_id"] == driver {
                return row;
            }
            assert!(
                start.elapsed().as_secs() < 60,
                "the tables are read again: {row}"
            );
        }
    }

    #[track_caller]
    fn assert(&mut self, time: &str, driver: impl Into<Value>, color: impl Into<Value>) {
        let row = self.send(time);
        assert_eq!(
            (&row["driver_id"], &row["color_name"]),
            (&driver.into(), &color.into()),
            "{row}"
        );
    }

    fn end(self) {
        let done = self.run.interrupt();
        assert_eq!(done.code, 130, "{}", done.stderr);
    }
}

#[test]
fn a_row_with_valid_from_counts_by_the_time_of_the_event() {
    let mut followed = Followed::new();
    followed.assert("2024-01-01T09:58:00Z", 1, "Black");
    followed.assert("2024-01-01T10:01:00Z", 1, "Black");
    let silver = "1000001,2,1,7,2024-01-01T10:00:00Z\n";
    followed
        .place
        .replace("dims/cars.csv", &format!("{HEADER}{BLACK}{silver}"));
    let row = followed.send_until("2024-01-01T10:01:00Z", 2);
    assert_eq!(row["color_name"], "Silver");
    followed.assert("2024-01-01T09:59:59.999Z", 1, "Black");
    followed.assert("2024-01-01T10:00:00Z", 2, "Silver");
    // The row is withdrawn, and another one comes that begins earlier.
    followed.place.replace(
        "dims/cars.csv",
        &format!("{HEADER}{BLACK}1000001,3,1,2,2024-01-01T09:00:00Z\n"),
    );
    followed.send_until("2024-01-01T10:01:00Z", 3);
    followed.assert("2024-01-01T09:30:00Z", 3, "Red");
    followed.assert("2024-01-01T08:59:59Z", 1, "Black");
    followed.end();
}

#[test]
fn a_row_without_valid_from_counts_from_when_it_was_found() {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    let now = now.as_millis() as i64;
    let (before, after) = (time_text(now - 1000), time_text(now + 200_000));
    let mut followed = Followed::new();
    followed.assert(&after, 1, "Black");
    followed
        .place
        .replace("dims/cars.csv", &format!("{HEADER}1000001,2,1,7,\n"));
    followed.send_until(&after, 2);
    followed.assert(&before, 1, "Black");
    followed.assert(&after, 2, "Silver");
    // The car is sold: from then on nothing is known of it. Another one is left: a table without
    // any row is refused.
    followed
        .place
        .replace("dims/cars.csv", &format!("{HEADER}1000002,2,1,7,\n"));
    let mut row = followed.send(&after);
    let start = std::time::Instant::now();
    while !row["driver_id"].is_null() {
        assert!(start.elapsed().as_secs() < 60, "{row}");
        row = followed.send(&after);
    }
    followed.assert(&before, 1, "Black");
    followed.end();
}

/// Somebody saves half a table: what was known stays known, and the next good table counts.
#[test]
fn a_broken_table_does_not_end_the_run() {
    let mut followed = Followed::new();
    followed.assert("2024-01-01T10:01:00Z", 1, "Black");
    followed.place.replace(
        "dims/cars.csv",
        "car_id,driver_id,model_id,color_id\n1000001,many,1,1\n",
    );
    for _ in 0..20 {
        followed.assert("2024-01-01T10:01:00Z", 1, "Black");
    }
    followed.place.replace(
        "dims/cars.csv",
        &format!("{HEADER}{BLACK}1000001,2,1,7,2024-01-01T10:00:00Z\n"),
    );
    followed.send_until("2024-01-01T10:01:00Z", 2);
    let done = followed.run.interrupt();
    assert_eq!(done.code, 130);
    assert!(
        done.stderr.contains("cars.csv:2: driver_id"),
        "the table was read while it was broken: {}",
        done.stderr
    );
}

/// A table that has lost its rows or a column looks like one that is just being written.
#[test]
fn a_table_that_has_lost_something_does_not_count() {
    let mut followed = Followed::new();
    let white = "1000001,1,1,4,2024-01-01T10:00:00Z\n";
    let good = format!("{HEADER}{BLACK}{white}");
    followed.place.replace("dims/cars.csv", &good);
    let time = "2024-01-01T10:01:00Z";
    while followed.send(time)["color_name"] != "White" {}
    for bad in [
        HEADER,
        "car_id,driver_id,model_id,valid_from\n1000001,1,1,\n",
        "car_id,driver_id,model_id,color_id\n1000001,1,1,1\n",
    ] {
        followed.place.replace("dims/cars.csv", bad);
        for _ in 0..20 {
            followed.assert(time, 1, "White");
        }
    }
    followed.place.replace(
        "dims/cars.csv",
        &format!("{good}1000001,2,1,7,2024-01-01T10:00:30Z\n"),
    );
    followed.send_until(time, 2);
    let done = followed.run.interrupt();
    assert_eq!(done.code, 130);
    for told in [
        "cars has no rows any more",
        "there is no column color_id",
        "the column valid_from is gone",
        "dimensions: read again",
    ] {
        assert!(done.stderr.contains(told), "{told}: {}", done.stderr);
    }
}

#[test]
fn cars_in_no_table_are_kept_dropped_or_dead_letters() {
    let place = generated("--events 40_000 --disorder 10s --seed 5 --late-fraction 0.02");
    let cars = place.read("dims/cars.csv");
    let some: Vec<_> = cars.lines().take(16).collect();
    place.write("dims/cars.csv", some.join("\n"));
    let tables = Tables::read(&place, "dims");
    let shape = Shape::tumbling(300_000, 10_000);
    for (flag, unmatched) in [
        ("keep", Unmatched::Keep),
        ("drop", Unmatched::Drop),
        ("dead-letter", Unmatched::DeadLetter),
    ] {
        let naive = windows(&tables, &place.partitions("in"), shape, unmatched);
        place.ok(&format!(
            "run cars --quiet --from file:in/*.ndjson --dims dir:dims {} --unmatched {flag} -w 2 --report report.json \
             --to windows=ndjson:out.ndjson --to dead-letters=ndjson:dead.ndjson",
            shape.flags()
        ));
        assert_eq!(place.read("out.ndjson"), naive.lines(columns), "{flag}");
        let report = place.report("report.json");
        naive.assert_ledger(&report);
        assert_eq!(report["unmatched"], 40_000 / 20 * 5, "always counted");
        let dead = place.rows("dead.ndjson");
        let of_cars = if unmatched == Unmatched::DeadLetter {
            10_000
        } else {
            0
        };
        assert_eq!(
            dead.iter()
                .filter(|row| row["reason"] == "unmatched")
                .count(),
            of_cars,
            "{flag}"
        );
        assert_eq!(dead.len(), of_cars);
    }
}

#[test]
fn missing_tables_are_named() {
    let place = generated("--events 10");
    let run = "run cars --from file:in/*.ndjson --to null:";
    let error = place.run(run).failed_with(2);
    assert!(
        error.contains("--dims dir:folder") && error.contains("highwater dims cars"),
        "{error}"
    );
    let error = place
        .run(&format!("{run} --dims dir:nowhere"))
        .failed_with(1);
    assert!(
        error.contains("nowhere") && error.contains("models.csv"),
        "{error}"
    );
    place.write("dims/colors.csv", "color_id,color_name\n1,Black\n1,White\n");
    let error = place.run(&format!("{run} --dims dir:dims")).failed_with(1);
    assert!(error.contains("colors.csv:3"), "{error}");
}

/// The newest load of the tables that is in effect at a checkpoint of `state`.
fn load_of_checkpoint(place: &Place) -> Option<u64> {
    let objects = std::fs::read_dir(place.path("state/log")).ok()?;
    let mut newest = None;
    for object in objects {
        let bytes = std::fs::read(object.ok()?.path()).ok()?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let manifests = text.split(",\"dims_next\"");
        let of_manifest = |before: &str| before.rsplit_once("\"dims\":")?.1.parse().ok();
        newest = newest.max(manifests.filter_map(of_manifest).max());
    }
    newest
}

/// The row of a car comes after its record, and the job dies while the record waits for it.
#[test]
fn a_row_that_comes_after_its_record_counts_for_it_where_records_wait() {
    let event =
        r#"{"event_time":"2024-01-01T10:01:00Z","car_id":1000001,"speed":10.0,"rpm":1,"gear":1}"#;
    let later = format!("{HEADER}{BLACK}1000001,2,1,7,2024-01-01T10:00:00Z\n");
    let run = "run cars --from file:in.ndjson --dims dir:dims --dims-refresh 50ms --epoch 20ms --checkpoint 50ms \
               -w 2 --wait 1h --state state --to enriched=ndjson:out.ndjson";
    let place = Place::new();
    place.ok("dims cars --to dims");
    place.write("dims/cars.csv", format!("{HEADER}{BLACK}"));
    place.write("in.ndjson", format!("{event}\n"));
    let mut waiting = place.start(&format!("{run} --follow --dims-wait 1h"));
    let first = waiting.until("a checkpoint", || load_of_checkpoint(&place));
    place.replace("dims/cars.csv", &later);
    waiting.until("the row counts", || {
        load_of_checkpoint(&place).filter(|load| *load > first)
    });
    assert!(place.rows("out.ndjson").is_empty(), "it waits");
    waiting.kill();
    place.ok(&format!("{run} -w 1 --dims-wait 1h").replacen("-w 2 ", "", 1));
    let rows = place.rows("out.ndjson");
    assert_eq!((rows.len(), &rows[0]["driver_id"]), (1, &Value::from(2)));
    place.ok("state verify state");
    place.ok("replay state");
}

/// Nothing happens to the job: the row comes while its record waits, and the next ones find it there.
#[test]
fn a_row_that_comes_within_the_wait_counts() {
    let place = Place::new();
    place.ok("dims cars --to dims");
    place.write("dims/cars.csv", format!("{HEADER}{BLACK}"));
    let event =
        r#"{"event_time":"2024-01-01T10:01:00Z","car_id":1000001,"speed":10.0,"rpm":1,"gear":1}"#;
    place.write("in.ndjson", format!("{event}\n"));
    let mut run = place.start(
        "run cars --from file:in.ndjson --follow --dims dir:dims --dims-refresh 50ms --dims-wait 6s --epoch 20ms \
         -w 2 --wait 1h --state state --history 1h --to enriched=ndjson:out.ndjson",
    );
    run.until("it runs", || place.path("state/log").exists().then_some(()));
    let later = format!("{HEADER}{BLACK}1000001,2,1,7,2024-01-01T10:00:00Z\n");
    place.replace("dims/cars.csv", &later);
    place.append("in.ndjson", &[event.to_owned()]);
    let rows = run.until("the events come out", || {
        Some(place.rows("out.ndjson")).filter(|rows| rows.len() == 2)
    });
    let drivers: Vec<_> = rows.iter().map(|row| row["driver_id"].clone()).collect();
    assert_eq!(drivers, [2, 2]);
    assert_eq!(run.interrupt().code, 130);
    place.ok("replay state");
}

#[test]
fn a_record_waits_for_as_long_as_it_should_and_no_longer() {
    let wait = std::time::Duration::from_secs(1);
    let place = Place::new();
    place.ok("dims cars --to dims");
    place.write("in.ndjson", "");
    let mut run = place.start(
        "run cars --from file:in.ndjson --follow --dims dir:dims --dims-refresh 50ms --dims-wait 1s --epoch 20ms \
         -w 2 --wait 1h --to enriched=ndjson:out.ndjson",
    );
    let event =
        r#"{"event_time":"2024-01-01T10:01:00Z","car_id":1000001,"speed":10.0,"rpm":1,"gear":1}"#;
    for sent in 1..=2 {
        let start = std::time::Instant::now();
        place.append("in.ndjson", &[event.to_owned()]);
        run.until("the event comes out", || {
            Some(place.rows("out.ndjson")).filter(|rows| rows.len() == sent)
        });
        assert!(start.elapsed() >= wait, "{:?}", start.elapsed());
    }
    assert_eq!(run.interrupt().code, 130);
}

/// The end of the input releases what waits, and nothing is late that would not be without a wait.
#[test]
fn a_wait_changes_no_result_of_tables_that_do_not_change() {
    let place = generated("--events 40_000 --disorder 10s --seed 5 --late-fraction 0.02");
    let shape = Shape::tumbling(300_000, 10_000).flags();
    let run =
        format!("run cars --quiet --from file:in/*.ndjson --dims dir:dims {shape} --to ndjson:");
    place.ok(&format!("{run}plain.ndjson"));
    for workers in [1, 2, 4] {
        let out = format!("out-{workers}.ndjson");
        place.ok(&format!(
            "{run}{out} -w {workers} --dims-refresh 1h --dims-wait 1h"
        ));
        assert!(place.read(&out) == place.read("plain.ndjson"), "{out}");
    }
    for (more, told) in [
        ("--dims-wait 1s", "add --dims-refresh"),
        (
            "--dims-wait 1s --dims-refresh 1s --dims-policy static",
            "static",
        ),
    ] {
        let error = place.run(&format!("{run}x.ndjson {more}")).failed_with(2);
        assert!(error.contains(told), "{error}");
    }
}
