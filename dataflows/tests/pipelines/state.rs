//! Jobs that keep a state: stopped, killed and started again with other numbers of workers they
//! leave what one undisturbed run leaves, and what cannot go on is refused by name.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::support::cars::generated;
use crate::support::place::{Done, Place, Running};

/// 40,000 events of 33 minutes, in no particular order.
const EVENTS: &str = "--events 60_000 --disorder 8s --late-fraction 0.01 --duplicates 0.01 --garbage 0.005 --seed 11";
/// Many epochs and many checkpoints.
const SHORT: &str = "--epoch 5ms --checkpoint 25ms";
/// Windows and records in each kind of file.
const OUTPUTS: &str = "--to windows=ndjson:windows.ndjson --to windows=csv:csv --to windows=parquet:parquet \
     --to alerts=ndjson:alerts.ndjson --to enriched=parquet:enriched --to alerts=csv:alerts --to late=ndjson:late.ndjson";
const WINDOWS: &str = "--window 1m --wait 5s";

/// A run over what `generated` has made, in the same folder.
fn run(outputs: &str, more: &str) -> String {
    format!(
        "run cars --quiet --from file:in/*.ndjson --dims dir:dims --state state {WINDOWS} {SHORT} {outputs} {more}"
    )
}

/// The lines of a file, in the order of their texts.
fn sorted(place: &Place, file: &str) -> Vec<String> {
    let mut lines: Vec<_> = place.read(file).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// The rows of a folder, in the order of their texts: per-record files begin and end where
/// checkpoints were.
fn rows(place: &Place, folder: &str) -> Vec<String> {
    let shown = place.ok(&format!("view {folder} --format json --limit 0"));
    let mut lines: Vec<_> = shown.stdout.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// The files of windows with their bytes, by names without that of the job.
fn files(place: &Place, folder: &str) -> BTreeMap<String, Vec<u8>> {
    let files = place.files(folder);
    let data = files
        .iter()
        .filter(|name| !name.split('/').any(|it| it.starts_with(['.', '_'])));
    let file = |name: &String| {
        let bytes = fs::read(place.path(folder).join(name)).expect("read");
        (without_job(name), bytes)
    };
    data.map(file).collect()
}

/// A name without `j` and eight hexadecimal digits.
fn without_job(name: &str) -> String {
    let is_tag = |part: &&str| {
        let digits = part.strip_prefix('j');
        digits.is_some_and(|it| it.len() == 8 && it.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    let parts = name.split('-');
    parts
        .filter(|part| !is_tag(part))
        .collect::<Vec<_>>()
        .join("-")
}

/// Everything that a job of [`OUTPUTS`] has left.
#[derive(PartialEq)]
struct Left {
    windows: Vec<String>,
    csv: BTreeMap<String, Vec<u8>>,
    parquet: BTreeMap<String, Vec<u8>>,
    late: Vec<String>,
    alerts: Vec<String>,
    alert_files: Vec<String>,
    enriched: Vec<String>,
}

impl Left {
    fn of(place: &Place) -> Self {
        Self {
            windows: sorted(place, "windows.ndjson"),
            csv: files(place, "csv"),
            parquet: files(place, "parquet"),
            late: sorted(place, "late.ndjson"),
            alerts: sorted(place, "alerts.ndjson"),
            alert_files: rows(place, "alerts"),
            enriched: rows(place, "enriched"),
        }
    }

    /// Says which output differs, instead of showing thousands of lines.
    #[track_caller]
    fn assert_equal(&self, other: &Self) {
        assert!(!self.windows.is_empty() && !self.late.is_empty() && !self.csv.is_empty());
        let names = |it: &Self| it.csv.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(self), names(other));
        for (what, is_equal) in [
            ("windows.ndjson", self.windows == other.windows),
            ("csv", self.csv == other.csv),
            ("parquet", self.parquet == other.parquet),
            ("late.ndjson", self.late == other.late),
            ("alerts.ndjson", self.alerts == other.alerts),
            ("alerts", self.alert_files == other.alert_files),
            ("enriched", self.enriched == other.enriched),
        ] {
            assert!(is_equal, "{what} differs");
        }
    }
}

/// What one run leaves that nothing disturbs.
fn undisturbed() -> Left {
    let place = generated(EVENTS);
    place.ok(&run(OUTPUTS, "--drain -w 2"));
    Left::of(&place)
}

/// Whether the state holds a checkpoint.
fn has_checkpoint(place: &Place) -> Option<()> {
    (!place.files("state/checkpoint").is_empty()).then_some(())
}

/// A run that goes on, at least up to its first checkpoint.
fn started(place: &Place, line: &str) -> Running {
    let mut running = place.start(line);
    running.until("a checkpoint", || has_checkpoint(place));
    running
}

#[test]
fn stopped_and_killed_at_any_moment_a_job_leaves_what_one_run_leaves() {
    let expected = undisturbed();
    let place = generated(EVENTS);
    for (turn, workers) in [1, 3, 2, 4, 1, 2].into_iter().enumerate() {
        let running = place.start(&run(OUTPUTS, &format!("--drain -w {workers}")));
        std::thread::sleep(Duration::from_millis(40 + 37 * turn as u64));
        if turn % 2 == 0 {
            running.kill();
        } else {
            let done = running.interrupt();
            assert!([0, 130].contains(&done.code), "{}", done.stderr);
        }
    }
    place.ok(&run(OUTPUTS, "--drain -w 3"));
    Left::of(&place).assert_equal(&expected);
    place.ok("state verify state");
    // A drained job has nothing left to do, and says so.
    let again = place.ok(&run(OUTPUTS, "--drain").replace("--quiet", ""));
    assert!(
        again.stderr.contains("declared complete"),
        "{}",
        again.stderr
    );
    Left::of(&place).assert_equal(&expected);
}

/// Of each line: it is there at least as often as it should be, and no other is.
#[track_caller]
fn assert_at_least(what: &str, got: &[String], want: &[String]) {
    let counts = |lines: &[String]| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        lines
            .iter()
            .for_each(|it| *counts.entry(it.clone()).or_default() += 1);
        counts
    };
    let (got, want) = (counts(got), counts(want));
    let lost = want
        .iter()
        .find(|(line, count)| got.get(*line).is_none_or(|it| it < count));
    assert_eq!(lost, None, "{what}: lost");
    let strange = got.keys().find(|line| !want.contains_key(*line));
    assert_eq!(strange, None, "{what}: nobody has asked for this");
}

/// Kills runs of `place` with these flags, each once it has published `checkpoints` more.
fn kill_after_checkpoints(place: &Place, more: &str, checkpoints: &[u64]) {
    for (turn, count) in checkpoints.iter().enumerate() {
        let mut running = place.start(&run(OUTPUTS, &format!("{more} -w {}", 1 + turn % 3)));
        let known = newest_checkpoint(place);
        running.until("more checkpoints", || {
            (newest_checkpoint(place) >= known + count).then_some(())
        });
        running.kill();
    }
}

/// The number in the name of the last object of a checkpoint; 0 without one.
pub fn newest_checkpoint(place: &Place) -> u64 {
    let files = place.files("state/checkpoint");
    let numbers = files
        .iter()
        .filter_map(|name| name.split('-').next()?.parse().ok());
    numbers.max().unwrap_or(0)
}

#[test]
fn at_least_once_loses_nothing_over_kills_and_windows_come_out_equal() {
    let expected = undisturbed();
    let place = generated(EVENTS);
    let more = "--delivery at-least-once --follow";
    kill_after_checkpoints(&place, more, &[1, 3, 8, 2, 5, 1]);
    place.ok(&run(OUTPUTS, "--delivery at-least-once --drain -w 2"));
    let left = Left::of(&place);
    // A window file is replaced by itself, and a file of lines is cut to its checkpoint.
    assert_eq!(left.csv, expected.csv);
    assert_eq!(left.parquet, expected.parquet);
    for (what, got, want) in [
        ("windows.ndjson", &left.windows, &expected.windows),
        ("late.ndjson", &left.late, &expected.late),
        ("alerts.ndjson", &left.alerts, &expected.alerts),
        ("alerts", &left.alert_files, &expected.alert_files),
        ("enriched", &left.enriched, &expected.enriched),
    ] {
        assert_at_least(what, got, want);
    }
}

#[test]
fn the_delivery_of_a_job_may_change_between_its_runs() {
    let expected = undisturbed();
    let place = generated(EVENTS);
    for (delivery, checkpoints) in [
        ("at-least-once", [1, 2]),
        ("exactly-once", [2, 1]),
        ("at-least-once", [3, 1]),
    ] {
        kill_after_checkpoints(
            &place,
            &format!("--delivery {delivery} --follow"),
            &checkpoints,
        );
    }
    place.ok(&run(OUTPUTS, "--delivery exactly-once --drain -w 2"));
    let left = Left::of(&place);
    assert_eq!(left.csv, expected.csv);
    assert_eq!(left.parquet, expected.parquet);
    assert_at_least("windows.ndjson", &left.windows, &expected.windows);
    assert_at_least("enriched", &left.enriched, &expected.enriched);
    place.ok("state verify state");
}

#[test]
fn a_second_run_takes_over_and_the_first_one_ends_with_code_4() {
    let place = generated(EVENTS);
    let outputs = "--to windows=ndjson:windows.ndjson";
    let first = started(&place, &run(outputs, "--follow"));
    let second = place.ok(&run(outputs, "--until-end"));
    assert_eq!(second.code, 0);
    let error = first.wait().failed_with(4);
    assert!(error.contains("run 2"), "{error}");
    place.ok("state verify state");
}

#[test]
fn another_configuration_is_refused_with_the_differences_and_disturbs_nobody() {
    let place = generated(EVENTS);
    let outputs = "--to windows=ndjson:windows.ndjson";
    let mut first = started(&place, &run(outputs, "--follow"));
    let other = run(outputs, "--until-end").replace("--window 1m", "--window 2m --keep 3s");
    let error = place.run(&other).failed_with(4);
    for difference in [
        "window: 1m in the state, 2m now",
        "keep: 0s in the state, 3s now",
        "--fresh",
    ] {
        assert!(error.contains(difference), "{error}");
    }
    let missing = run(outputs, "").replace("file:in/", "file:elsewhere/");
    let error = place.run(&missing).failed_with(4);
    assert!(
        error.contains("from: file:in/*.ndjson in the state"),
        "{error}"
    );
    assert!(first.is_alive(), "a refused start ends no other run");
    first.interrupt();
    // Workers, intervals and sinks may change.
    let more = "--to windows=ndjson:windows.ndjson --to alerts=ndjson:alerts.ndjson";
    place.ok(&run(more, "--drain -w 4 --history 1h").replace("--epoch 5ms", "--epoch 50ms"));
}

#[test]
fn another_job_takes_an_output_only_when_it_is_told_to() {
    let place = generated("--events 5_000 --seed 3");
    let outputs = "--to windows=ndjson:windows.ndjson --to windows=csv:csv";
    place.ok(&run(outputs, "--drain"));
    let before = (sorted(&place, "windows.ndjson"), files(&place, "csv"));
    let error = place.run(&run(outputs, "--drain --fresh")).failed_with(4);
    assert!(error.contains("--replace-output"), "{error}");
    assert_eq!(sorted(&place, "windows.ndjson"), before.0);
    // The job that is there has not been given up for one that was refused.
    let kept = place.ok(&run(outputs, "--drain").replace("--quiet", ""));
    assert!(kept.stderr.contains("declared complete"), "{}", kept.stderr);
    place.ok(&run(outputs, "--drain --fresh --replace-output"));
    assert_eq!(
        (sorted(&place, "windows.ndjson"), files(&place, "csv")),
        before
    );
    // The new job's files alone are there.
    assert_eq!(
        files(&place, "csv").len(),
        place
            .files("csv")
            .iter()
            .filter(|it| it.ends_with(".gz"))
            .count()
    );
}

/// The newest of the files of a folder of the state.
fn newest(place: &Place, folder: &str) -> String {
    let files = place.files(folder);
    format!("{folder}/{}", files.last().expect("a file"))
}

#[test]
fn a_damaged_checkpoint_is_named_and_the_one_before_is_used() {
    let expected = {
        let place = generated(EVENTS);
        place.ok(&run(OUTPUTS, "--drain"));
        Left::of(&place)
    };
    for damage in ["torn", "missing", "flipped", "foreign"] {
        let place = generated(EVENTS);
        started(&place, &run(OUTPUTS, "-w 2")).wait();
        let name = newest(&place, "state/checkpoint");
        let path = place.path(&name);
        let mut bytes = fs::read(&path).expect("read");
        match damage {
            "torn" => bytes.truncate(bytes.len() / 2),
            "flipped" => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 4;
            }
            "foreign" => bytes = b"PAR1, and then something else".to_vec(),
            _ => {}
        }
        if damage == "missing" {
            fs::remove_file(&path).expect("removed");
        } else {
            fs::write(&path, bytes).expect("written");
        }
        let short = name.strip_prefix("state/").expect("in the state");
        let verified = place.run("state verify state");
        assert_eq!(verified.code, 3);
        assert!(
            verified.stdout.contains(short),
            "{damage}: {}",
            verified.stdout
        );
        let done = place.ok(&run(OUTPUTS, "--drain -w 3"));
        assert!(done.stderr.contains(short), "{damage}: {}", done.stderr);
        Left::of(&place).assert_equal(&expected);
    }
}

#[test]
fn a_damaged_log_is_named_and_nothing_is_guessed() {
    let place = generated("--events 20_000");
    place.ok(&run("--to windows=ndjson:windows.ndjson", ""));
    let name = newest(&place, "state/log");
    let path = place.path(&name);
    let mut bytes = fs::read(&path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).expect("written");
    let windows = place.read("windows.ndjson");
    let error = place
        .run(&run("--to windows=ndjson:windows.ndjson", "--drain"))
        .failed_with(4);
    assert!(
        error.contains(name.strip_prefix("state/").expect("in it")),
        "{error}"
    );
    assert!(error.contains("restore it from a copy"), "{error}");
    assert_eq!(place.read("windows.ndjson"), windows);
}

/// Cuts a file of the input, or changes a digit in it.
fn change_input(place: &Place, change: impl FnOnce(&mut Vec<u8>)) {
    let path = place.path("in/part-00001.ndjson");
    let mut bytes = fs::read(&path).expect("read");
    change(&mut bytes);
    fs::write(&path, bytes).expect("written");
}

#[test]
fn an_input_that_has_become_shorter_is_refused() {
    let place = generated("--events 20_000");
    let outputs = "--to windows=ndjson:windows.ndjson";
    place.ok(&run(outputs, ""));
    change_input(&place, |bytes| bytes.truncate(bytes.len() / 2));
    let windows = place.read("windows.ndjson");
    let error = place.run(&run(outputs, "--drain")).failed_with(4);
    assert!(
        error.contains("part-00001.ndjson") && error.contains("shorter"),
        "{error}"
    );
    assert_eq!(place.read("windows.ndjson"), windows);
}

#[test]
fn an_input_that_begins_with_something_else_is_refused_and_disturbs_nobody() {
    let place = generated("--events 20_000");
    let outputs = "--to windows=ndjson:windows.ndjson";
    place.ok(&run(outputs, ""));
    let state = files_of_state(&place);
    let windows = place.read("windows.ndjson");
    let mut first = (0, b' ');
    change_input(&place, |bytes| {
        let at = bytes.iter().position(u8::is_ascii_digit).expect("a digit");
        first = (at, std::mem::replace(&mut bytes[at], b'x'));
    });
    let error = place.run(&run(outputs, "--drain")).failed_with(4);
    assert!(
        error.contains("part-00001.ndjson") && error.contains("first 4096 bytes"),
        "{error}"
    );
    assert_eq!(files_of_state(&place), state);
    assert_eq!(place.read("windows.ndjson"), windows);
    change_input(&place, |bytes| bytes[first.0] = first.1);
    place.ok(&run(outputs, "--drain"));
}

/// The result of a replay, on standard output.
fn replayed(place: &Place, more: &str) -> Done {
    place.run(&format!("replay state {more}"))
}

#[test]
fn a_replay_gives_what_is_recorded_whatever_the_workers() {
    let place = generated(EVENTS);
    for workers in [2, 3, 1] {
        let running = started(&place, &run(OUTPUTS, &format!("-w {workers}")));
        running.interrupt();
    }
    place.ok(&run(OUTPUTS, "--drain -w 2"));
    let state = files_of_state(&place);
    let left = Left::of(&place);
    for workers in [1, 4] {
        let done = replayed(&place, &format!("-w {workers}"));
        assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
        assert!(done.stdout.contains("state: equal; "), "{}", done.stdout);
        assert!(
            done.stderr.contains("the beginning of the job"),
            "{}",
            done.stderr
        );
        assert!(done.stdout.contains("enriched"), "{}", done.stdout);
    }
    let shown = replayed(&place, "--json --quiet").stdout;
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown["outputs"]["enriched"]["rows"], left.enriched.len());
    assert_eq!(shown["outputs"]["windows"]["rows"], left.windows.len());
    assert_eq!(shown["outputs"]["late"]["rows"], left.late.len());
    // It has only read.
    assert_eq!(files_of_state(&place), state);
    Left::of(&place).assert_equal(&left);
}

fn files_of_state(place: &Place) -> BTreeMap<String, Vec<u8>> {
    let file = |name: String| {
        let bytes = fs::read(place.path("state").join(&name)).expect("read");
        (name, bytes)
    };
    place.files("state").into_iter().map(file).collect()
}

#[test]
fn a_replay_of_another_input_names_what_differs() {
    let place = generated("--events 20_000");
    let outputs =
        "--to windows=ndjson:windows.ndjson --to enriched=ndjson:enriched.ndjson --to alerts=null:";
    place.ok(&run(outputs, "--drain"));
    assert_eq!(replayed(&place, "").code, 0);
    // One digit of one speed, where no time and no length shows it.
    change_input(&place, |bytes| {
        let text = String::from_utf8(bytes.clone()).expect("text");
        let at = text[text.len() / 2..].find("\"speed\":").expect("a speed") + text.len() / 2 + 8;
        bytes[at] = if bytes[at] == b'1' { b'2' } else { b'1' };
    });
    let done = replayed(&place, "");
    assert_eq!(done.code, 3, "{}{}", done.stdout, done.stderr);
    assert!(
        done.stdout.contains("output enriched: recorded"),
        "{}",
        done.stdout
    );
    assert!(
        done.stdout.contains("difference: epoch "),
        "{}",
        done.stdout
    );
    // Two lines have become one, and no byte is missing.
    change_input(&place, |bytes| {
        let middle = bytes.len() / 2;
        let end = bytes[middle..].iter().position(|byte| *byte == b'\n');
        bytes[middle + end.expect("a line")] = b' ';
    });
    let done = replayed(&place, "");
    assert_eq!(done.code, 3, "{}{}", done.stdout, done.stderr);
    assert!(
        done.stdout.contains("records now, and were"),
        "{}",
        done.stdout
    );
    // A file that is shorter cannot be read as it was.
    change_input(&place, |bytes| bytes.truncate(bytes.len() / 2));
    let done = replayed(&place, "");
    assert_eq!(done.code, 3, "{}{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("part-00001.ndjson"), "{}", done.stdout);
}

#[test]
fn a_replay_says_why_there_is_nothing_to_compare() {
    let place = generated("--events 20_000");
    let error = replayed(&place, "").failed_with(1);
    assert!(error.contains("there is no state"), "{error}");
}

#[test]
fn the_embedded_generator_is_an_input_that_can_be_read_again() {
    let place = Place::new();
    let line = "run factory --quiet --events 20_000 --speed max --seed 5 --state state --epoch 5ms \
                --checkpoint 25ms --to windows=ndjson:windows.ndjson --to quality=ndjson:quality.ndjson";
    place.ok(&format!("{line} --start 2023-05-01T00:00:00Z"));
    let done = replayed(&place, "-w 3");
    assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("quality"), "{}", done.stdout);
    // Other events are another input.
    let error = place.run(line).failed_with(4);
    assert!(error.contains("first_event: 2023-05-01"), "{error}");
}

#[test]
fn a_state_that_cannot_be_written_says_what_to_do() {
    let place = generated("--events 5_000");
    let outputs = "--to windows=ndjson:windows.ndjson";
    place.ok(&run(outputs, ""));
    let log = place.path("state/log");
    let is_root = fs::metadata(place.path("state")).is_ok() && nobody_can_lock(&log);
    if is_root {
        return;
    }
    let error = place.run(&run(outputs, "--drain")).failed_with(1);
    assert!(error.contains("write permission"), "{error}");
    allow(&log, 0o755);
}

/// Takes away the right to write; whether that means nothing, because this user may do anything.
fn nobody_can_lock(folder: &std::path::Path) -> bool {
    allow(folder, 0o555);
    let probe = folder.join("probe");
    let may_write = fs::write(&probe, "").is_ok();
    if may_write {
        fs::remove_file(&probe).expect("removed");
        allow(folder, 0o755);
    }
    may_write
}

fn allow(folder: &std::path::Path, mode: u32) {
    fs::set_permissions(folder, fs::Permissions::from_mode(mode)).expect("permissions");
}
