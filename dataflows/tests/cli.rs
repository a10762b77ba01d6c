//! The command line as people use it: the binary itself, its output and its exit codes.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

fn highwater(line: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
    command.args(line).stdin(Stdio::null()).env("NO_COLOR", "1");
    command
}

fn output(line: &[&str]) -> Output {
    highwater(line).output().expect("the binary starts")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("an exit code")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

/// Runs it, wants success, and gives back its standard output.
fn done(line: &[&str]) -> String {
    let output = output(line);
    assert_eq!(code(&output), 0, "{line:?}: {}", stderr(&output));
    stdout(&output)
}

fn dir() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a file")
}

fn report(path: &Path) -> Value {
    serde_json::from_str(&read(path)).expect("JSON")
}

/// A folder with `events` events of the factory, one line of garbage among them, and its glob.
fn factory_input(dir: &Path, events: &str) -> String {
    let to = format!("file:{}/in/", dir.display());
    done(&[
        "generate",
        "factory",
        "--events",
        events,
        "--disorder",
        "5s",
        "--to",
        &to,
    ]);
    let more = dir.join("in").join("part-99999.ndjson");
    std::fs::write(more, "no event\n").expect("written");
    format!("file:{}/in/*.ndjson", dir.display())
}

#[test]
fn each_help_text_ends_with_examples() {
    for command in [
        &[][..],
        &["run"],
        &["run", "cars"],
        &["run", "factory"],
        &["generate"],
        &["generate", "cars"],
        &["dims"],
        &["view"],
        &["check"],
        &["check", "factory"],
        &["completions"],
    ] {
        let text = done(&[command, &["--help"]].concat());
        let (_, examples) = text.split_once("\nExamples:\n").expect("examples");
        assert!(
            examples.matches("\n  highwater ").count() >= 2,
            "{command:?}: {examples}"
        );
    }
    assert!(done(&["--version"]).starts_with("highwater "));
}

#[test]
fn usage_errors_have_code_2_and_say_what_was_meant() {
    for (line, meant) in [
        (&["runn", "cars"][..], "'run'"),
        (&["run", "crs"], "'cars'"),
        (&["run", "cars", "--windwo", "1m"], "'--window'"),
        (&["run", "cars", "--window", "soon"], "15m, 1h30m"),
        (
            &["run", "cars", "--to", "windwos=null:"],
            "is windows meant?",
        ),
        (&["run", "cars", "--from", "flie:x"], "file:PATH"),
        (&["run", "cars", "--from", "file:x"], "--dims dir:FOLDER"),
        (
            &["run", "cars", "--state", "x"],
            "nothing is kept between runs yet",
        ),
        (
            &["run", "cars", "--delivery", "exactly-once"],
            "nothing is kept between runs yet",
        ),
        (&["run", "cars", "--semantics", "flink"], "only native"),
        (
            &["run", "factory", "--drain", "--follow"],
            "cannot be used with",
        ),
        (&["generate", "cars"], "--events N or --duration D"),
        (
            &["generate", "cars", "--events", "5", "--to", "x.ndjson"],
            "file:x.ndjson",
        ),
    ] {
        let output = output(line);
        assert_eq!(code(&output), 2, "{line:?}: {}", stderr(&output));
        let text = stderr(&output);
        assert!(text.contains(meant), "{line:?}: {text}");
        assert_eq!(text.matches("error:").count(), 1, "{line:?}: {text}");
        assert!(stdout(&output).is_empty(), "{line:?}");
    }
}

#[test]
fn what_fails_has_code_1() {
    for line in [
        &["run", "factory", "--from", "file:no-such-folder/*.ndjson"][..],
        &["view", "no-such-file.ndjson"],
        &[
            "generate",
            "cars",
            "--events",
            "5",
            "--to",
            "file:no-such-folder/x.ndjson",
        ],
    ] {
        let output = output(line);
        assert_eq!(code(&output), 1, "{line:?}: {}", stderr(&output));
        assert!(
            stderr(&output).contains("no-such-"),
            "{line:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let make = |seed| done(&["generate", "cars", "--events", "1_00", "--seed", seed]);
    assert_eq!(make("7"), make("7"));
    assert_ne!(make("7"), make("8"));
    assert_eq!(make("7").lines().count(), 100);
}

#[test]
fn what_is_generated_can_be_run_and_every_record_has_a_fate() {
    let dir = dir();
    let from = factory_input(dir.path(), "20_000");
    let (to, to_report) = (
        dir.path().join("windows.ndjson"),
        dir.path().join("report.json"),
    );
    let to_text = format!("ndjson:{}", to.display());
    let report_text = to_report.display().to_string();
    let line = [
        "run",
        "factory",
        "-w",
        "2",
        "--from",
        &from,
        "--to",
        &to_text,
        "--report",
        &report_text,
    ];
    let output = output(&line);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(output.stdout.is_empty());
    let text = stderr(&output);
    for told in [
        "windows of 1m, wait 2m, keep 0s",
        "delivery: at-least-once",
        "records per CPU-second",
        "dead letter: ",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
    let rows: Vec<Value> = read(&to)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let counted: i64 = rows
        .iter()
        .map(|row| row["n_events"].as_i64().expect("a number"))
        .sum();
    let report = report(&to_report);
    let inputs = report["inputs"].as_array().expect("a list");
    let sum = |fate: &str| {
        inputs
            .iter()
            .map(|input| input[fate].as_i64().expect("a number"))
            .sum::<i64>()
    };
    assert_eq!((sum("read"), sum("rejected")), (20_001, 1));
    assert_eq!(sum("on_time"), counted);
    let fates = [
        "on_time",
        "late_kept",
        "late_diverted",
        "late_dropped",
        "rejected",
        "skipped",
        "duplicate",
        "filtered",
        "no_window",
    ];
    assert_eq!(sum("read"), fates.iter().map(|fate| sum(fate)).sum::<i64>());
    assert_eq!(report["outputs"]["windows"]["rows"], rows.len());
    assert_eq!(
        (&report["pipeline"], &report["workers"]),
        (&"factory".into(), &2.into())
    );
    for key in [
        "highwater",
        "options",
        "processes",
        "wall_s",
        "cpu_s",
        "peak_rss_bytes",
        "epochs",
        "checkpoints",
        "latency_ms",
        "unmatched",
    ] {
        assert!(!report[key].is_null(), "{key}");
    }
}

#[test]
fn a_configuration_file_holds_flags_and_flags_win() {
    let dir = dir();
    let from = factory_input(dir.path(), "1000");
    let config = dir.path().join("job.toml");
    let to_report = dir.path().join("report.json");
    let text = format!(
        "from = '{from}'\nto = ['null:', 'alerts=null:']\nworkers = 2\nwindow = '30s'\nquiet = true\nreport = '{}'\n",
        to_report.display()
    );
    std::fs::write(&config, text).expect("written");
    let config = config.display().to_string();
    let output = output(&["run", "factory", "--config", &config, "--window", "20s"]);
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
    let options = &report(&to_report)["options"];
    assert_eq!(
        (&options["window"], &options["workers"]),
        (&"20s".into(), &2.into())
    );
    assert_eq!(
        options["to"],
        Value::from(vec!["windows=null:", "alerts=null:"])
    );
}

#[test]
fn a_mistake_in_a_configuration_file_is_named_with_its_line() {
    let dir = dir();
    let config = dir.path().join("job.toml");
    std::fs::write(&config, "workers = 2\n\nwindwo = '30s'\n").expect("written");
    let output = output(&["run", "factory", "--config", &config.display().to_string()]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("job.toml:3: unknown key `windwo`; is `window` meant?"));
}

#[test]
fn quiet_runs_say_nothing() {
    let output = output(&[
        "run", "factory", "--events", "1000", "--speed", "max", "--to", "null:", "--quiet",
    ]);
    assert_eq!(
        (
            code(&output),
            stdout(&output).as_str(),
            stderr(&output).as_str()
        ),
        (0, "", "")
    );
}

/// Reads one line of its standard output and closes that.
fn read_one_line(line: &[&str]) -> (Child, String) {
    let mut child = highwater(line)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut first = String::new();
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    out.read_line(&mut first).expect("a line");
    (child, first)
}

#[test]
fn a_closed_standard_output_is_no_failure() {
    for line in [
        &["generate", "cars", "--events", "1_000_000"][..],
        &[
            "run",
            "factory",
            "--duration",
            "100d",
            "--speed",
            "max",
            "--to",
            "ndjson:-",
        ],
        &["run", "factory", "--duration", "100d", "--speed", "max"],
    ] {
        let (mut child, first) = read_one_line(line);
        assert!(!first.is_empty(), "{line:?}");
        let mut text = String::new();
        child
            .stderr
            .take()
            .expect("piped")
            .read_to_string(&mut text)
            .expect("text");
        assert_eq!(
            child.wait().expect("ends").code(),
            Some(0),
            "{line:?}: {text}"
        );
        assert!(
            !text.contains("panic") && !text.contains("error"),
            "{line:?}: {text}"
        );
    }
}

#[test]
#[cfg(unix)]
fn a_signal_ends_a_run_in_good_order() {
    for (signal, expected) in [("INT", 130), ("TERM", 143)] {
        let mut child = highwater(&["run", "factory", "--follow", "--to", "ndjson:-"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        out.read_line(&mut String::new()).expect("a line");
        let id = child.id().to_string();
        let sent = Command::new("kill")
            .args(["-s", signal, &id])
            .status()
            .expect("kill");
        assert!(sent.success());
        out.read_to_string(&mut String::new()).expect("text");
        let mut text = String::new();
        child
            .stderr
            .take()
            .expect("piped")
            .read_to_string(&mut text)
            .expect("text");
        assert_eq!(child.wait().expect("ends").code(), Some(expected), "{text}");
        assert!(
            text.contains("stopping…") && text.contains("records per CPU-second"),
            "{text}"
        );
    }
}

#[test]
fn checks_have_a_line_for_each_component() {
    let fine = output(&["check", "factory", "--to", "null:", "--to", "late=null:"]);
    assert_eq!(code(&fine), 0);
    assert_eq!(
        stdout(&fine)
            .lines()
            .filter(|line| line.starts_with("ok "))
            .count(),
        5
    );
    let wrong = output(&[
        "check",
        "factory",
        "--from",
        "file:no-such-file",
        "--to",
        "null:",
    ]);
    assert_eq!(code(&wrong), 3);
    let failed: Vec<_> = stdout(&wrong)
        .lines()
        .filter(|line| line.starts_with("FAIL"))
        .map(str::to_owned)
        .collect();
    assert!(
        failed.len() == 1 && failed[0].contains("no-such-file"),
        "{failed:?}"
    );
    assert_eq!(code(&output(&["check"])), 0);
}

#[test]
fn rows_and_letters_can_be_viewed() {
    let dir = dir();
    let from = factory_input(dir.path(), "100");
    let table = done(&["view", &from, "--limit", "3"]);
    assert!(table.starts_with("device_id  ts "), "{table}");
    assert_eq!(table.lines().count(), 4);
    assert_eq!(
        done(&["view", &from, "--limit", "0", "--format", "json"])
            .lines()
            .count(),
        101
    );
    let letters = dir.path().join("dead.ndjson");
    let to = format!("dead-letters=ndjson:{}", letters.display());
    done(&["run", "factory", "--from", &from, "--to", &to, "--quiet"]);
    let text = done(&["view", &letters.display().to_string(), "--dead-letters"]);
    assert!(
        text.contains("undecodable") && text.ends_with("    no event\n"),
        "{text}"
    );
}

#[test]
fn completions_know_the_pipelines() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(done(&["completions", shell]).contains("factory"), "{shell}");
    }
}
