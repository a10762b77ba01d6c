//! `run turnstile` over files and topics: copies in one and in several partitions, counters that go
//! on, lines that are none, and jobs that are killed.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::place::Place;
use crate::support::services::{kafka, postgres, python, root, unique};
use crate::support::turnstile::{
    CROWD, HEADER, WEEK_LINES, crowded, lake, lake_lines, naive, plain, reasons, week, week_deltas,
};

/// Readings of [`crowded`] are up to 50 s out of order, and some more than that.
const WAIT: i64 = 50_000;
const RUN: &str = "run turnstile --quiet --from file:in/*.ndjson --wait 50s --report report.json";

#[test]
fn sums_are_those_of_a_plain_loop_for_any_number_of_workers() {
    let place = crowded();
    let naive = naive(&place.partitions("in"), WAIT);
    assert!(naive.duplicates > 1000 && naive.late.len() > 300);
    let mut windows = Vec::new();
    for workers in [1, 2, 4] {
        place.ok(&format!(
            "{RUN} -w {workers} --to ndjson:out.ndjson --to csv:lake{workers} --to late=ndjson:late.ndjson"
        ));
        windows.push(place.read("out.ndjson"));
        assert!(
            plain(place.rows("out.ndjson")) == naive.rows(),
            "-w {workers}"
        );
        assert!(lake(&place, &format!("lake{workers}")) == lake_lines(&naive.rows()));
        let ids = place.rows("late.ndjson").into_iter().map(|row| {
            let partition = row["partition"].as_u64().expect("a number") as usize;
            (partition, row["ID"].as_str().expect("an id").to_owned())
        });
        assert!(ids.collect::<BTreeSet<_>>() == naive.late, "-w {workers}");
        naive.assert_ledger(&place.report("report.json"));
    }
    assert!(
        windows.iter().all(|text| *text == windows[0]),
        "the same bytes"
    );
    let files = |workers: u32| {
        let folder = format!("lake{workers}");
        let names = place.files(&folder).into_iter();
        let names = names.filter(|name| !name.starts_with(['.', '_']));
        let read = |name: String| {
            let bytes = std::fs::read(place.path(&folder).join(&name)).expect("read");
            (name, bytes)
        };
        names.map(read).collect::<Vec<_>>()
    };
    assert!(
        files(1) == files(2) && files(1) == files(4),
        "the same files"
    );
}

#[test]
fn short_epochs_change_nothing() {
    let place = crowded();
    let naive = naive(&place.partitions("in"), WAIT);
    place.ok(&format!("{RUN} -w 3 --epoch 1ms --to ndjson:out.ndjson"));
    assert!(plain(place.rows("out.ndjson")) == naive.rows());
    naive.assert_ledger(&place.report("report.json"));
}

#[test]
fn the_embedded_run_shows_its_windows() {
    let place = Place::new();
    let done =
        place.ok("run turnstile --quiet --events 2_160 --speed max --to csv:lake --to ndjson:-");
    let rows: Vec<Value> = done
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    // Six hours, one reading each ten seconds.
    assert_eq!(rows.len(), 72);
    assert_eq!(rows[0]["DATE"], "01/01/2024");
    assert_eq!(rows[0]["TIME"], "00:05:00");
    assert_eq!(lake(&place, "lake"), lake_lines(&rows));
    let names = place.files("lake").into_iter();
    let is_window = |name: &String| name.starts_with("windows-20240101T");
    assert_eq!(names.filter(is_window).count(), 72, "a file per window");
}

#[test]
fn counters_that_go_on_become_deltas() {
    let place = Place::new();
    week(&place, "week.csv");
    let (rows, meant) = week_deltas();
    assert!(
        rows.len() > 1000 && meant.len() == 4 && meant.values().all(|it| *it > 20),
        "{meant:?}"
    );
    for workers in [1, 2, 4] {
        place.ok(&format!(
            "{CUMULATIVE} --from file:week.csv -w {workers} --wait 8d --report report.json --to ndjson:out.ndjson \
             --to quarantine=ndjson:quarantine.ndjson"
        ));
        assert!(plain(place.rows("out.ndjson")) == rows, "-w {workers}");
        assert_eq!(reasons(&place.rows("quarantine.ndjson")), meant);
        let input = &place.report("report.json")["inputs"][0];
        assert_eq!(
            (&input["skipped"], &input["on_time"]),
            (&1.into(), &WEEK_LINES.into())
        );
    }
    assert!(rows.iter().any(|row| row["DESC"] == "RECOVR AUD"));
}

const CUMULATIVE: &str = "run turnstile --quiet --counters cumulative --time-zone America/New_York";

const GOOD: &str = "\"A001,R001,02-00-00,Test-Station1,456NQR,BMT,01-01-24,00:00:10,REGULAR,7,9,6c1f,2024-01-01 00:00:10\"";

/// Runs `line` between two good ones, of which the second is another reading; returns the reason of
/// its dead letter, if it is one, and the report of the input.
fn fate_of(line: &[u8]) -> (Option<String>, Value) {
    let place = Place::new();
    let other = GOOD.replace("6c1f", "7d2e");
    place.write(
        "in.csv",
        [GOOD.as_bytes(), line, other.as_bytes(), b""].join(&b'\n'),
    );
    place.ok("run turnstile --quiet --from file:in.csv --report report.json --to ndjson:out.ndjson --to dead-letters=ndjson:dead.ndjson");
    let counted = place
        .rows("out.ndjson")
        .into_iter()
        .find(|row| row["CA"] == "A001");
    let counted = counted.expect("the window of the good ones");
    assert!(counted["ENTRIES"].as_u64().expect("a number") >= 14);
    let reason = place.rows("dead.ndjson").first().map(|row| {
        assert_eq!(row["offset"], GOOD.len() + 1);
        row["reason"].as_str().expect("a text").to_owned()
    });
    (reason, place.report("report.json")["inputs"][0].clone())
}

#[track_caller]
fn assert_rejected(line: &[u8], reason: &str) {
    let (found, input) = fate_of(line);
    assert_eq!(
        found.as_deref(),
        Some(reason),
        "{}",
        String::from_utf8_lossy(line)
    );
    assert_eq!(
        (&input["rejected"], &input["on_time"]),
        (&1.into(), &2.into())
    );
}

/// The good line with something else in place of `part`.
fn with(part: &str, other: &str) -> Vec<u8> {
    assert!(GOOD.contains(part));
    GOOD.replace(part, other).into_bytes()
}

#[test]
fn a_line_with_other_columns_is_a_dead_letter() {
    assert_rejected(&with(",REGULAR", ""), "undecodable");
    assert_rejected(&with(",R001,02-00-00,", ","), "no_time");
    assert_rejected(b"A001,R001,02-00-00", "undecodable");
    assert_rejected(&with("Test-Station1", "Test,Station,1,2,3"), "undecodable");
    assert_rejected(b"{\"CA\": \"A001\"}", "undecodable");
}

#[test]
fn a_string_that_is_no_json_is_a_dead_letter() {
    assert_rejected(&GOOD.as_bytes()[..60], "undecodable");
    assert_rejected(&with("REGULAR", "REG\\ULAR"), "undecodable");
    assert_rejected(b"\"", "undecodable");
}

#[test]
fn a_counter_that_is_no_number_is_a_dead_letter() {
    assert_rejected(&with(",7,9,", ",seven,9,"), "undecodable");
    assert_rejected(&with(",7,9,", ",7,,"), "undecodable");
    assert_rejected(&with(",7,9,", ",7,-9,"), "out_of_range");
    assert_rejected(&with(",7,9,", ",7.5,9,"), "out_of_range");
    assert_rejected(&with(",7,9,", ",7,99999999999999999999,"), "out_of_range");
}

#[test]
fn a_time_that_is_none_is_a_dead_letter() {
    assert_rejected(
        &with("2024-01-01 00:00:10", "2024-02-30 00:00:10"),
        "no_time",
    );
    assert_rejected(&with("01-01-24", "01-32-24"), "no_time");
    let line = with(",2024-01-01 00:00:10", ",");
    let line = String::from_utf8(line)
        .expect("text")
        .replace("00:00:10", "00:61:10");
    assert_rejected(line.as_bytes(), "no_time");
    assert_rejected(
        &with("2024-01-01 00:00:10", "9999-01-01 00:00:10"),
        "too_far_ahead",
    );
}

#[test]
fn a_field_that_is_too_long_is_a_dead_letter() {
    assert_rejected(&with("Test-Station1", &"x".repeat(32)), "too_long");
    assert_rejected(&with("6c1f", &"x".repeat(40)), "too_long");
    assert_rejected(&with("A001", &"x".repeat(16)), "too_long");
}

#[test]
fn a_reading_of_no_turnstile_is_a_dead_letter() {
    assert_rejected(&with("A001", ""), "no_key");
}

#[test]
fn what_is_no_text_is_a_dead_letter() {
    assert_rejected(b"\"A001,\xff\xfe\"", "undecodable");
}

#[test]
fn a_header_line_is_skipped_and_a_copy_is_counted() {
    let (reason, input) = fate_of(format!("\"{HEADER}\"").as_bytes());
    assert_eq!((reason, &input["skipped"]), (None, &1.into()));
    let (reason, input) = fate_of(GOOD.as_bytes());
    assert_eq!(
        (reason, &input["duplicate"], &input["on_time"]),
        (None, &1.into(), &2.into())
    );
    // Without an id it is no copy of anything.
    let (reason, input) = fate_of(&with(",6c1f,2024-01-01 00:00:10", ""));
    assert_eq!((reason, &input["on_time"]), (None, &3.into()));
    // The same reading at another station is another one.
    let (_, input) = fate_of(&with("Test-Station1", "Test-Station2"));
    assert_eq!(input["on_time"], 3);
}

#[test]
fn flags_that_make_no_sense_are_refused() {
    let place = Place::new();
    let error = place.run("run turnstile --keep 1m").failed_with(2);
    assert!(
        error.contains("--keep") && error.contains("--wait"),
        "{error}"
    );
    for overlapping in ["--slide 1m", "--window 1h --slide 30m"] {
        let error = place
            .run(&format!("run turnstile {overlapping}"))
            .failed_with(2);
        assert!(error.contains("do not overlap"), "{error}");
    }
    for tumbling in ["--slide 5m", "--window 1m --slide 1m"] {
        place.ok(&format!(
            "run turnstile --quiet --events 10 --speed max {tumbling}"
        ));
    }
    let error = place
        .run("run turnstile --time-zone Mars/Olympus")
        .failed_with(2);
    assert!(error.contains("america/new_york"), "{error}");
    let error = place
        .run("run turnstile --to quarantine=null:")
        .failed_with(2);
    assert!(error.contains("quarantine"), "{error}");
}

/// Many epochs and many checkpoints.
const SHORT: &str = "--epoch 5ms --checkpoint 25ms";

/// How often a job is disturbed.
const TURNS: usize = 24;

/// Runs `line` on the files of `in`, in turns: each has a little more of every file, other workers, and
/// ends when it has made a checkpoint, four times in good order and twenty times by a kill. What is
/// held at the end of a turn is needed in the next one. The last run has everything and ends by itself.
fn disturb(place: &Place, line: &str) {
    let names = place
        .files("in")
        .into_iter()
        .map(|name| format!("in/{name}"));
    let read = |name: String| {
        let bytes = std::fs::read(place.path(&name)).expect("read");
        (name, bytes)
    };
    let whole: Vec<_> = names.map(read).collect();
    for turn in 0..TURNS {
        for (name, bytes) in &whole {
            let part = &bytes[..bytes.len() * (turn + 1) / TURNS];
            let end = part
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1);
            place.write(name, &part[..end]);
        }
        let before = place.files("state/checkpoint");
        let workers = [1, 3, 2, 4][turn % 4];
        let mut running = place.start(&format!("{line} --follow -w {workers}"));
        running.until("a checkpoint of its own", || {
            let now = place.files("state/checkpoint");
            now.iter().any(|name| !before.contains(name)).then_some(())
        });
        std::thread::sleep(std::time::Duration::from_millis(7 * turn as u64 % 40));
        if turn % 6 == 5 {
            let done = running.interrupt();
            assert_eq!(done.code, 130, "{}", done.stderr);
        } else {
            running.kill();
        }
    }
    place.ok(&format!("{line} --drain -w 2"));
    place.ok("state verify state");
}

fn sorted(place: &Place, file: &str) -> Vec<String> {
    let mut lines: Vec<_> = place.read(file).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn killed_at_any_moment_a_job_sums_each_reading_once() {
    let place = crowded();
    let naive = naive(&place.partitions("in"), WAIT);
    let outputs = "--to ndjson:out.ndjson --to csv:lake --to late=ndjson:late.ndjson";
    disturb(&place, &format!("{RUN} --state state {SHORT} {outputs}"));
    assert!(plain(place.rows("out.ndjson")) == naive.rows());
    assert!(lake(&place, "lake") == lake_lines(&naive.rows()));
    assert_eq!(
        place.rows("late.ndjson").len(),
        naive
            .ledger
            .iter()
            .map(|it| it.late as usize)
            .sum::<usize>()
    );
    let undisturbed = crowded();
    undisturbed.ok(&format!("{RUN} -w 1 {outputs}"));
    for file in ["out.ndjson", "late.ndjson"] {
        assert!(sorted(&place, file) == sorted(&undisturbed, file), "{file}");
    }
}

#[test]
fn killed_at_any_moment_a_job_knows_the_reading_before() {
    let place = Place::new();
    week(&place, "week.csv");
    // In the order of their times, as they would come; three partitions, by turnstile.
    let text = place.read("week.csv");
    let mut lines: Vec<_> = text.lines().skip(1).collect();
    lines.sort_by_key(|line| {
        let fields: Vec<_> = line.split(',').collect();
        (fields[6].to_owned(), fields[7].to_owned())
    });
    for partition in 0..3 {
        let own = lines
            .iter()
            .filter(|line| line.as_bytes()[3] % 3 == partition);
        let mut text = own.copied().collect::<Vec<_>>().join("\n");
        text.push('\n');
        place.write(&format!("in/part-{partition}.csv"), text);
    }
    let (rows, meant) = week_deltas();
    disturb(
        &place,
        &format!(
            "{CUMULATIVE} --from file:in/*.csv --wait 10m --state state {SHORT} --to ndjson:out.ndjson \
             --to csv:lake --to quarantine=ndjson:quarantine.ndjson"
        ),
    );
    assert!(plain(place.rows("out.ndjson")) == rows);
    assert!(lake(&place, "lake") == lake_lines(&rows));
    assert_eq!(reasons(&place.rows("quarantine.ndjson")), meant);
}

/// The opinion of a database on the lake; see `tests/oracle/turnstile.py`.
fn opinion(place: &Place, arguments: &str) -> Value {
    let script = root()
        .join("tests/oracle/turnstile.py")
        .display()
        .to_string();
    let words = arguments.split_whitespace().map(|word| {
        let path = word.strip_prefix('@');
        path.map_or_else(
            || word.to_owned(),
            |path| place.path(path).display().to_string(),
        )
    });
    let words: Vec<_> = std::iter::once(script).chain(words).collect();
    serde_json::from_str(&python(&words).stdout).expect("JSON")
}

#[test]
#[ignore = "needs the oracle's Python: run dev/test"]
fn oracle_the_lake_is_one_table_with_the_sums_of_a_database() {
    let place = crowded();
    place.ok(&format!("{RUN} -w 2 --to csv:lake"));
    let opinion = opinion(&place, "delta @in/*.ndjson @lake --wait-ms 50000");
    let naive = naive(&place.partitions("in"), WAIT);
    assert_eq!(opinion["rows"], naive.sums.len());
    assert_eq!(
        opinion["entries"],
        naive.sums.values().map(|sums| sums.0).sum::<i64>()
    );
}

#[test]
#[ignore = "needs the oracle's Python: run dev/test"]
fn oracle_the_deltas_of_a_week_are_those_of_a_database() {
    let place = Place::new();
    week(&place, "week.csv");
    place.ok(&format!(
        "{CUMULATIVE} --from file:week.csv -w 2 --wait 8d --to csv:lake --to quarantine=csv:quarantine"
    ));
    let opinion = opinion(
        &place,
        "cumulative @week.csv @lake --quarantine @quarantine",
    );
    let (rows, meant) = week_deltas();
    assert_eq!(opinion["rows"], rows.len());
    for (reason, deltas) in meant {
        assert_eq!(opinion[reason], deltas, "{reason}");
    }
}

#[test]
#[ignore = "needs kafka and postgres: run dev/test"]
fn kafka_postgres_and_the_lake_hold_the_same_sums() {
    let (broker, database) = (kafka(), postgres());
    let place = Place::new();
    let topic = broker.uri(&unique("turnstile"));
    let table = unique("turnstile").replace('-', "_");
    place.ok(&format!(
        "generate turnstile {CROWD} --seed 11 --to file:in/"
    ));
    place.ok(&format!(
        "generate turnstile {CROWD} --seed 11 --to {topic}"
    ));
    let naive = naive(&place.partitions("in"), WAIT);
    // What went into the topic by hand, or again, comes out once.
    place.ok(&format!(
        "run turnstile --quiet --from {topic} --drain --wait 50s -w 2 --state state --report report.json \
         --to ndjson:out.ndjson --to csv:lake --to windows={}?table={table}",
        database.uri("")
    ));
    let rows = naive.rows();
    assert!(plain(place.rows("out.ndjson")) == rows);
    assert!(lake(&place, "lake") == lake_lines(&rows));
    naive.assert_ledger(&place.report("report.json"));
    let columns = format!("\"{}\"", HEADER.replace(',', "\", \""));
    let mut lines = database.query(&format!("SELECT concat_ws(',', {columns}) FROM {table}"));
    lines.sort();
    assert!(lines == lake_lines(&rows));
    let types = database.query(&format!(
        "SELECT column_name || ' ' || data_type FROM information_schema.columns WHERE table_name = '{table}' \
         AND column_name IN ('window_end', 'ENTRIES', 'DATE') ORDER BY 1"
    ));
    assert_eq!(
        types,
        [
            "DATE text",
            "ENTRIES bigint",
            "window_end timestamp with time zone"
        ]
    );
}
