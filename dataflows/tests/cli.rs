//! The command line as people use it: the binary itself, its output and its exit codes.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

#[cfg(unix)]
#[path = "cli/ending.rs"]
mod ending;

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
        &["state"],
        &["replay"],
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
            &["dims", "cars", "--to", "postgre://h/d"],
            "did you mean postgres:?",
        ),
        (&["dims", "cars"], "--to <URI>"),
        (
            &[
                "run",
                "factory",
                "--to",
                "ndjson:x",
                "--to",
                "late=ndjson:./x",
            ],
            "writes to the same place",
        ),
        (&["run", "cars", "-n", "2", "-p", "0"], "--hostfile"),
        (&["run", "cars", "-p", "0"], "-n N"),
        (&["run", "cars", "--http=nowhere"], "HOST:PORT"),
        (&["run", "nexmark"], "not in this version"),
        (&["status"], "not in this version"),
        (&["lab", "check", "x"], "not in this version"),
        (
            &["run", "cars", "--state", "ftp://x/y"],
            "s3://BUCKET/PREFIX",
        ),
        (&["run", "cars", "--fresh"], "--state"),
        (
            &["run", "cars", "--delivery", "exactly-once"],
            "needs --state",
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
fn a_bad_value_in_a_configuration_file_is_named_with_its_line() {
    let dir = dir();
    let config = dir.path().join("job.toml");
    for (line, meant) in [
        ("window = 'soon'", "invalid value 'soon' for '--window"),
        ("workers = 0", "invalid value '0' for '--workers"),
        ("to = 'windwos=null:'", "is windows meant?"),
        ("from = 'flie:x'", "did you mean file:PATH"),
        ("slide = '7ms'", "choose a slide"),
        ("http = 'nowhere'", "invalid value 'nowhere' for '--http"),
    ] {
        let text = format!("quiet = false\n\n# why\n{line}\nepoch = '1s'\n");
        std::fs::write(&config, text).expect("written");
        for command in ["run", "check"] {
            let path = config.display().to_string();
            let output = output(&[command, "factory", "--window", "1h", "--config", &path]);
            let told = stdout(&output) + &stderr(&output);
            // What the command line says hides it, and what a check finds is its result.
            if line.starts_with("window") || command == "check" && code(&output) == 3 {
                continue;
            }
            assert_eq!(code(&output), 2, "{line}: {told}");
            assert!(told.contains("job.toml:4: "), "{line}: {told}");
            assert!(told.contains(meant), "{line}: {told}");
        }
    }
    std::fs::write(&config, "quiet = true\nwindow = 'soon'\n").expect("written");
    let output = output(&["run", "factory", "--config", &config.display().to_string()]);
    assert!(stderr(&output).contains("job.toml:2: invalid value 'soon'"));
}

#[test]
fn counts_may_have_underscores_everywhere() {
    for line in [
        "run factory --events 1_0 --speed 1_000_000_000 -w 0_2 --partitions 0_4 --seed 1_0 --devices 1_0 --rate 1_0 --quiet --to null:",
        "generate cars --events 1_0 --cars 1_0 --partitions 0_4 --seed 1_0",
        "check cars --cars 1_0 --workers 1_0",
    ] {
        done(&line.split(' ').collect::<Vec<_>>());
    }
    let dir = dir();
    let from = factory_input(dir.path(), "100");
    let shown = done(&["view", &from, "--limit", "1_0", "--format", "json"]);
    assert_eq!(shown.lines().count(), 10);
    let to = dir.path().join("dims").display().to_string();
    done(&[
        "dims", "cars", "--to", &to, "--cars", "1_0", "--seed", "1_0",
    ]);
}

#[test]
fn tables_can_be_made_under_the_name_that_a_run_takes() {
    let dir = dir();
    let uri = format!("dir:{}/dims", dir.path().display());
    let told = done(&["dims", "cars", "--to", &uri]);
    assert!(!told.contains("dir:"), "{told}");
    assert!(dir.path().join("dims/cars.csv").is_file());
    done(&["check", "cars", "--dims", &uri]);
}

#[test]
fn blank_lines_are_read_and_skipped() {
    let dir = dir();
    done(&[
        "generate",
        "factory",
        "--events",
        "3",
        "--partitions",
        "1",
        "--to",
        &format!("file:{}/in/", dir.path().display()),
    ]);
    let event = read(&dir.path().join("in/part-00000.ndjson"));
    let path = dir.path().join("blank.ndjson");
    let text = format!("\n{event}\r\n \t\n{event}\n  ");
    std::fs::write(&path, &text).expect("written");
    let (from, to_report) = (
        format!("file:{}", path.display()),
        dir.path().join("report.json"),
    );
    let report_text = to_report.display().to_string();
    let line = ["run", "factory", "--from", &from, "--to", "null:"];
    let output = output(&[&line[..], &["--report", &report_text]].concat());
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stderr(&output).contains("skipped"), "{}", stderr(&output));
    let input = &report(&to_report)["inputs"][0];
    let count = |fate: &str| input[fate].as_u64().expect("a number");
    assert_eq!(count("skipped"), 5);
    assert_eq!(count("read"), text.lines().count() as u64);
    assert_eq!((count("rejected"), count("gaps")), (0, 0));
    assert_eq!(count("to_offset") - count("from_offset"), text.len() as u64);
}

#[test]
fn a_report_names_flags_and_nothing_else() {
    let dir = dir();
    let path = dir.path().join("report.json");
    let text = path.display().to_string();
    done(&[
        "run", "cars", "--events", "1_000", "--speed", "max", "--drain", "--to", "null:",
        "--report", &text, "--quiet",
    ]);
    let options = report(&path)["options"].clone();
    assert_eq!(options["gear_rule"], "round");
    assert_eq!(
        (&options["events"], &options["late_fraction"]),
        (&1000.into(), &0.into())
    );
    let help = done(&["run", "cars", "--help"]);
    for key in options.as_object().expect("a table").keys() {
        assert!(!key.contains('-'), "{key}");
        let flag = format!("--{}", key.replace('_', "-"));
        assert!(help.contains(&flag), "{flag}");
    }
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
fn a_check_goes_on_to_the_outputs_when_the_tables_are_missing() {
    let dir = dir();
    let to = format!("alerts=csv:{}", dir.path().join("new").display());
    let line = [
        "check",
        "cars",
        "--from",
        "file:no-such-file",
        "--to",
        "null:",
        "--to",
        &to,
        "--to",
        "windwos=null:",
        "--to",
        "late=csv:/proc/x/y",
        "--to",
        "enriched=ndjson:/dev/null/x",
    ];
    let output = output(&line);
    let text = stdout(&output);
    assert_eq!(code(&output), 3, "{text}");
    let starts: Vec<_> = text
        .lines()
        .map(|line| line.split(" · ").next().unwrap_or_default())
        .map(|line| line.split(" → ").next().unwrap_or_default())
        .collect();
    assert_eq!(
        starts,
        [
            "ok    cars configuration",
            "FAIL  input",
            "FAIL  pipeline",
            "ok    output windows",
            "ok    output alerts",
            "FAIL  output",
            "FAIL  output late",
            "FAIL  output enriched",
        ],
        "{text}"
    );
    assert!(text.contains("--dims dir:FOLDER"), "{text}");
    assert!(!dir.path().join("new").exists());
}

#[test]
fn a_check_leaves_nothing_where_files_are() {
    let dir = dir();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let table = format!("windows=delta:{}", at("table"));
    let files = format!("late=csv:{}", at("files"));
    let (events, state) = ("--events=2000", at("state"));
    let targets = ["--to", &table, "--to", &files];
    let mut line = vec!["run", "factory", "--quiet", "--speed=max", events];
    line.extend(["--drain", "--state", &state]);
    done(&[&line[..], &targets].concat());
    let entries = |name: &str| {
        let mut names: Vec<_> = std::fs::read_dir(at(name))
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort();
        names
    };
    let before = ["table", "files"].map(entries);
    let said = done(&[&["check", "factory"], &targets[..]].concat());
    assert!(said.contains("a Delta table at version"), "{said}");
    assert_eq!(["table", "files"].map(entries), before);
}

#[test]
fn a_check_refuses_outputs_that_write_over_each_other() {
    let line = [
        "check",
        "factory",
        "--to",
        "ndjson:x",
        "--to",
        "late=ndjson:./x",
    ];
    let output = output(&line);
    assert_eq!(code(&output), 2, "{}", stdout(&output));
    assert!(stderr(&output).contains("writes to the same place"));
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
