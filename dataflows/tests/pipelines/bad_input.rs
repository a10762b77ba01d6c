//! Input that is broken never stops a pipeline; what cannot be read or written ends it with an
//! error that says what to do.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::place::Place;

const GOOD: &str = r#"{"event_id":"b18a02f4-6d8d-46c3-b8c5-b62c83f707e8","event_time":"2024-01-01T00:00:00.000Z","car_id":1234567,"speed":185.5,"rpm":100,"gear":1}"#;
const RUN: &str = "run cars --quiet --from file:in.ndjson --dims dir:dims --report report.json --to ndjson:out.ndjson \
                   --to dead-letters=ndjson:dead.ndjson --to enriched=ndjson:enriched.ndjson";

fn place() -> Place {
    let place = Place::new();
    place.ok("dims cars --to dims");
    place
}

/// A good line with something else in place of `part`.
fn with(part: &str, other: &str) -> Vec<u8> {
    assert!(GOOD.contains(part));
    GOOD.replace(part, other).into_bytes()
}

/// Runs `line` between two good ones; returns the reason and detail of its dead letter, if it is
/// one. The good ones count in any case.
fn fate_of(line: &[u8]) -> Option<(String, String)> {
    let place = place();
    place.write(
        "in.ndjson",
        [GOOD.as_bytes(), line, GOOD.as_bytes(), b""].join(&b'\n'),
    );
    place.ok(RUN);
    let dead = place.rows("dead.ndjson");
    let input = &place.report("report.json")["inputs"][0];
    assert_eq!(
        (&input["read"], &input["rejected"]),
        (&3.into(), &dead.len().into()),
        "{input}"
    );
    let first = place
        .rows("out.ndjson")
        .into_iter()
        .find(|row| row["window_start"] == "2024-01-01T00:00:00.000Z");
    let counted = first.expect("the window of the good ones")["num_of_rows"]
        .as_u64()
        .expect("a number");
    assert!(counted >= 2);
    let text = |row: &Value, name: &str| row[name].as_str().expect("a text").to_owned();
    dead.first().map(|row| {
        assert_eq!(row["offset"], GOOD.len() + 1);
        (text(row, "reason"), text(row, "detail"))
    })
}

#[track_caller]
fn assert_rejected(line: &[u8], reason: &str) {
    let fate = fate_of(line);
    let shown = String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
    assert_eq!(
        fate.as_ref().map(|(reason, _)| &**reason),
        Some(reason),
        "{shown}: {fate:?}"
    );
}

#[test]
fn what_is_no_record_is_a_dead_letter() {
    assert_rejected(b"\xff\xfe\x00garbage", "undecodable");
    assert_rejected(
        &with("car_id\":1234567", "car_id\":\"\\ud800\""),
        "undecodable",
    );
    assert_rejected(&GOOD.as_bytes()[..60], "undecodable");
    assert_rejected(b"[1, 2, 3]", "undecodable");
    assert_rejected(b"null", "undecodable");
    assert_rejected(&with("185.5", "NaN"), "undecodable");
    assert_rejected(&with("185.5", "1e999"), "undecodable");
    assert_rejected(&with("\"gear\":1", "\"gear\":1.5"), "undecodable");
    assert_rejected(&with("\"gear\":1", "\"gear\":1,\"gear\":2"), "undecodable");
    assert_rejected(&with("2024-01-01T", "2024-13-01T"), "no_time");
    assert_rejected(
        &with(
            "\"event_time\":\"2024-01-01T00:00:00.000Z\"",
            "\"event_time\":null",
        ),
        "no_time",
    );
    assert_rejected(&with("\"car_id\":1234567", "\"car\":1234567"), "no_key");
    assert_rejected(&with("2024-01-01T", "9999-12-31T"), "too_far_ahead");
    assert_rejected("[".repeat(100_000).as_bytes(), "undecodable");
}

#[test]
fn what_is_unusual_is_a_record() {
    assert_eq!(
        fate_of(&with(
            "\"gear\":1",
            "\"gear\":1,\"color\":{\"deep\":[1,2,{}]}"
        )),
        None,
        "unknown fields"
    );
    assert_eq!(
        fate_of(&with("2024-01-01T", "1969-07-20T")),
        None,
        "before 1970"
    );
    assert_eq!(
        fate_of(&with("2024-01-01T", "0001-01-01T")),
        None,
        "long ago"
    );
    assert_eq!(fate_of(&with("185.5", "null")), None, "nulls");
    assert_eq!(
        fate_of(&with("\"rpm\":100,", "")),
        None,
        "missing measurements"
    );
    assert_eq!(
        fate_of(&with("1234567", "\"1234567\"")),
        None,
        "digits as a text"
    );
    assert_eq!(fate_of(&with("00.000Z", "00Z")), None, "no fraction");
    assert_eq!(
        fate_of(&with("00.000Z", "00.123456789+05:30")),
        None,
        "nanoseconds and an offset"
    );
    let spaced = GOOD
        .replace(',', " ,\t")
        .replace(':', ": ")
        .replace(": 00", ":00");
    assert_eq!(fate_of(spaced.as_bytes()), None, "spaces");
}

#[test]
fn a_line_of_ten_megabytes_is_one_record_or_none() {
    let long = format!("{{\"note\":\"{}\",{}", "x".repeat(10 << 20), &GOOD[1..]);
    let fate = fate_of(long.as_bytes());
    assert!(
        fate.as_ref()
            .is_none_or(|(_, detail)| detail.contains("long") || detail.contains("MiB")),
        "{fate:?}"
    );
    let garbage = "x".repeat(10 << 20);
    assert!(fate_of(garbage.as_bytes()).is_some());
}

#[test]
fn windows_before_1970_begin_where_they_should() {
    let place = place();
    place.write(
        "in.ndjson",
        with("2024-01-01T00:00:00.000Z", "1969-12-31T23:59:59.999Z"),
    );
    place.ok(RUN);
    let row = &place.rows("out.ndjson")[0];
    assert_eq!(row["window_start"], "1969-12-31T23:45:00.000Z");
    assert_eq!(
        (&row["window_end"], &row["num_of_rows"]),
        (&"1970-01-01T00:00:00.000Z".into(), &1.into())
    );
}

#[test]
fn an_empty_file_is_no_input() {
    let place = place();
    for nothing in ["", "\n\n", " \n"] {
        place.write("in.ndjson", nothing);
        place.ok(RUN);
        assert_eq!(place.read("out.ndjson"), "");
        assert_eq!(
            place.report("report.json")["inputs"]
                .as_array()
                .expect("inputs")
                .len(),
            1
        );
    }
}

/// Its partition has nothing to wait for: the windows of the others come out.
#[test]
fn an_empty_file_among_others_holds_nobody_back() {
    let place = place();
    place.write("in/a.ndjson", "");
    place.write("in/b.ndjson", GOOD);
    place.write("in/c.ndjson", "");
    place.ok(&RUN.replace("in.ndjson", "in/*.ndjson"));
    let rows = place.rows("out.ndjson");
    assert_eq!(
        (rows.len(), &rows[0]["num_of_rows"]),
        (1, &1.into()),
        "the last line has no line end"
    );
}

#[test]
fn a_missing_file_is_named() {
    let place = place();
    let error = place.run(RUN).failed_with(1);
    assert!(
        error.contains("in.ndjson") && error.contains("no such file"),
        "{error}"
    );
    let error = place
        .run(&RUN.replace("in.ndjson", "nowhere/*.ndjson"))
        .failed_with(1);
    assert!(
        error.contains("nowhere") && error.contains("does not exist"),
        "{error}"
    );
    assert!(
        !place.path("out.ndjson").exists(),
        "nothing is made when nothing can be read"
    );
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id");
    id.stdout.trim_ascii() == b"0"
}

/// Runs a command of the shell with the binary as `$1` and the place as `$2`.
fn shell(place: &Place, script: &str) -> std::process::Output {
    let binary = place.command("").get_program().to_owned();
    let mut command = Command::new("bash");
    command
        .args(["-c", script, "bash"])
        .arg(binary)
        .arg(place.path(""))
        .current_dir(place.path(""));
    command.output().expect("bash")
}

/// A folder of one megabyte in a mount namespace of its own, so that nothing is left behind.
const SMALL: &str = "mkdir -p small && mount -t tmpfs -o size=1m tmpfs small";

fn can_mount(place: &Place) -> bool {
    let script = format!("unshare --mount bash -c '{SMALL}'");
    is_root() && shell(place, &script).status.success()
}

#[test]
fn a_full_disk_is_an_error_that_says_so() {
    let place = place();
    if !can_mount(&place) {
        // The kernel's own full disk, which any user may write to.
        let script = "\"$1\" run cars --quiet --events 20_000 --speed max --to enriched=ndjson:- > /dev/full";
        let output = shell(&place, script);
        let error = String::from_utf8_lossy(&output.stderr).to_lowercase();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(
            error.contains("no space") && !error.contains("panicked"),
            "{error}"
        );
        eprintln!("a full folder is tested as root only, where file systems can be mounted");
        return;
    }
    for output in [
        "ndjson:small/out.ndjson",
        "csv:small/csv",
        "parquet:small/parquet",
    ] {
        let run =
            format!("\"$1\" run cars --quiet --events 200_000 --speed max --to enriched={output}");
        let script = format!(
            "unshare --mount bash -c '{SMALL} && {run}; code=$?; ls -R small; exit $code' bash \"$1\""
        );
        let done = shell(&place, &script);
        let error = String::from_utf8_lossy(&done.stderr).to_lowercase();
        let left = String::from_utf8_lossy(&done.stdout);
        assert_eq!(done.status.code(), Some(1), "{output}: {error}");
        assert!(
            error.contains("space") && error.contains("small") && !error.contains("panicked"),
            "{output}: {error}"
        );
        assert!(
            !left.contains(".parquet\n") && !left.contains(".csv.gz\n"),
            "nothing is published: {left}"
        );
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_before_anything_runs() {
    let place = place();
    place.write("in.ndjson", GOOD);
    // For root a folder that is only protected is no obstacle; one that is a file is for anybody.
    place.write("file", "");
    let outputs = [
        "ndjson:file/out.ndjson",
        "parquet:file/lake",
        "csv:file/lake",
    ];
    let run = "run cars --quiet --from file:in.ndjson --dims dir:dims --to";
    for output in outputs {
        let error = place.run(&format!("{run} {output}")).failed_with(1);
        assert!(error.contains("file"), "{error}");
    }
    if is_root() {
        eprintln!("folders without permission are tested for ordinary users only");
        return;
    }
    std::fs::create_dir(place.path("locked")).expect("made");
    std::fs::set_permissions(place.path("locked"), PermissionsExt::from_mode(0o555))
        .expect("locked");
    for output in outputs {
        let error = place
            .run(&format!("{run} {}", output.replace("file", "locked")))
            .failed_with(1);
        assert!(
            error.contains("locked") && error.contains("permission"),
            "{error}"
        );
    }
}

/// `| head -n 3`: the reader goes away, and that is no failure.
#[test]
fn a_closed_standard_output_is_no_failure() {
    let place = place();
    for output in ["enriched=ndjson:-", "enriched=console:"] {
        let mut command = place.command(&format!(
            "run cars --events 400_000 --speed max --to {output}"
        ));
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        assert!(
            lines
                .by_ref()
                .take(3)
                .all(|line| line.is_ok_and(|line| !line.is_empty()))
        );
        drop(lines);
        let done = child.wait_with_output().expect("a child");
        let error = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(0), "{output}: {error}");
        assert!(
            !error.contains("panicked") && !error.contains("Broken pipe"),
            "{output}: {error}"
        );
    }
    let output = shell(
        &place,
        "set -o pipefail; \"$1\" generate cars --events 1_000_000 --to - | head -n 3",
    );
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.stdout.split(|byte| *byte == b'\n').count(), 4);
}

/// Standard input is a file without a name.
#[test]
fn standard_input_is_read_to_its_end() {
    let place = place();
    let mut command = place.command("run cars --quiet --from - --dims dir:dims --to ndjson:-");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut stdin = child.stdin.take().expect("piped");
    stdin
        .write_all(format!("{GOOD}\nrubbish\n\n{GOOD}").as_bytes())
        .expect("written");
    drop(stdin);
    let done = child.wait_with_output().expect("a child");
    let row: Value = serde_json::from_slice(&done.stdout).expect("one row");
    assert_eq!(
        (done.status.code(), &row["num_of_rows"]),
        (Some(0), &2.into())
    );
}
