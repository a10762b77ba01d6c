//! What exactly-once costs, and how long a run takes to go on after `kill -9`.
//!
//! | part | what it measures |
//! |---|---|
//! | `cost` | the same input to the same files: without a state, at least once with one, exactly once; CPU time and wall time of the whole command, alternating, medians |
//! | `recovery` | a job with a million keys in its state is killed while it goes on, and started again: from the start of the command until the state is loaded, until the first recorded epoch is committed again, and how fast recorded epochs are read again in comparison with what follows them |
//!
//! `cargo bench --bench delivery` (both), `-- cost`, `-- recovery`. Numbers of one invocation are to
//! be compared with one another; the ratios matter.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// How big everything is.
#[derive(Clone, Copy)]
struct Size {
    /// Records per run of `cost`.
    records: u64,
    /// How often each way of delivery is run.
    rounds: usize,
    /// Keys in the state of `recovery`.
    keys: u64,
    /// How many records follow, per key, of which some are to be read again.
    follow: u64,
}

const MEASURED: Size = Size {
    records: 2_000_000,
    rounds: 5,
    keys: 1_000_000,
    follow: 4,
};
/// `cargo test --benches` only tries it out.
const TRIED: Size = Size {
    records: 5_000,
    rounds: 1,
    keys: 500,
    follow: 1_000,
};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_measured = arguments.iter().any(|argument| argument == "--bench");
    let wanted = |part: &str| {
        let mut names = arguments
            .iter()
            .filter(|it| !it.starts_with('-'))
            .peekable();
        names.peek().is_none() || names.any(|name| part.contains(name.as_str()))
    };
    let size = if is_measured { MEASURED } else { TRIED };
    if wanted("cost") {
        cost(size);
    }
    if wanted("recovery") {
        recovery(size);
    }
}

/// The command with these words, in `folder`.
fn highwater(folder: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
    command
        .args(line.split_whitespace())
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// Runs it to its end, which has to be a good one.
fn finish(folder: &Path, line: &str) {
    let status = highwater(folder, line).status();
    assert!(status.is_ok_and(|status| status.success()), "{line}");
}

fn report(folder: &Path) -> Value {
    let text = fs::read_to_string(folder.join("report.json")).expect("the run has written it");
    serde_json::from_str(&text).expect("it is JSON")
}

fn number(report: &Value, name: &str) -> f64 {
    report
        .pointer(name)
        .and_then(Value::as_f64)
        .unwrap_or(f64::NAN)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The least and the greatest.
fn range(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    (least, values.iter().copied().fold(0.0, f64::max))
}

// ------------------------------------------------------------------------------------- cost

/// A way of delivery: its name, and its flags.
const WAYS: [(&str, &str); 3] = [
    ("no state", ""),
    (
        "at least once",
        "--state state --fresh --delivery at-least-once --replace-output",
    ),
    ("exactly once", "--state state --fresh --replace-output"),
];

/// What is run: its name, how its input is made, and the run.
const CASES: [(&str, &str, &str); 2] = [
    (
        "cars, 20 keys, windows and a few per-record rows",
        "generate cars --disorder 10s --garbage 0.001",
        "run cars --to windows=csv:windows --to dead-letters=ndjson:dead.ndjson",
    ),
    (
        "factory, 100,000 devices, windows and alerts",
        "generate factory --devices 100000 --rate 5000",
        "run factory --to windows=parquet:windows --to alerts=ndjson:alerts.ndjson",
    ),
];

fn cost(size: Size) {
    for (name, generate, run) in CASES {
        let folder = TempDir::new().expect("a folder");
        let folder = folder.path();
        let records = size.records;
        finish(
            folder,
            &format!("{generate} --quiet --events {records} --to file:in.ndjson"),
        );
        finish(folder, "dims cars --to dims");
        let dims = if name.starts_with("cars") {
            " --dims dir:dims"
        } else {
            ""
        };
        let mut costs: [(Vec<f64>, Vec<f64>); 3] = Default::default();
        for _ in 0..size.rounds {
            for ((_, flags), (cpu, wall)) in WAYS.iter().zip(&mut costs) {
                clear(folder);
                finish(
                    folder,
                    &format!(
                        "{run}{dims} --from file:in.ndjson --drain --quiet --report report.json {flags}"
                    ),
                );
                let report = report(folder);
                cpu.push(number(&report, "/cpu_s"));
                wall.push(number(&report, "/wall_s"));
            }
        }
        println!(
            "\n{name}: {records} records, {} alternating runs each",
            size.rounds
        );
        println!(
            "{:<16}{:>10}{:>22}{:>9}{:>10}{:>9}",
            "delivery", "CPU s", "(least to most)", "ratio", "wall s", "ratio"
        );
        let medians = costs.map(|(cpu, wall)| (median(cpu.clone()), median(wall), range(&cpu)));
        let [base, once_or_more, once] = medians;
        for ((way, _), (cpu, wall, (least, most))) in WAYS.iter().zip(medians) {
            println!(
                "{way:<16}{cpu:>10.2}{:>22}{:>9.3}{wall:>10.2}{:>9.3}",
                format!("{least:.2} to {most:.2}"),
                cpu / base.0,
                wall / base.1
            );
        }
        println!(
            "exactly once against at least once: CPU {:.3}, wall {:.3}",
            once.0 / once_or_more.0,
            once.1 / once_or_more.1
        );
    }
}

/// Removes what a run has left.
fn clear(folder: &Path) {
    for name in ["state", "windows"] {
        let _ = fs::remove_dir_all(folder.join(name));
    }
    for name in [
        "dead.ndjson",
        "dead.ndjson.job",
        "alerts.ndjson",
        "alerts.ndjson.job",
    ] {
        let _ = fs::remove_file(folder.join(name));
    }
}

// --------------------------------------------------------------------------------- recovery

/// A window that no record ends: all keys stay in the state.
const RUN: &str = "run factory --window 1000d --from file:in.ndjson --checkpoint 1h --epoch 100ms \
                   --state state --report report.json --quiet --to windows=ndjson:out.ndjson";

fn recovery(size: Size) {
    let folder = TempDir::new().expect("a folder");
    let folder = folder.path();
    let Size { keys, follow, .. } = size;
    let all = keys * (1 + follow);
    finish(
        folder,
        &format!(
            "generate factory --devices {keys} --rate 5000 --quiet --events {all} --to file:all.ndjson"
        ),
    );
    // One reading of every device, and a checkpoint at the end.
    let begins = split_lines(&folder.join("all.ndjson"), &folder.join("in.ndjson"), keys);
    finish(folder, RUN);
    let checkpoint = size_of(&folder.join("state/checkpoint"));
    // The rest follows; the run that reads it is killed before its next checkpoint.
    fs::rename(folder.join("all.ndjson"), folder.join("in.ndjson")).expect("the same file, longer");
    let logged = files(&folder.join("state/log"));
    let started = Instant::now();
    let mut run = highwater(folder, RUN).spawn().expect("it starts");
    let is_killed = kill_when(&mut run, || files(&folder.join("state/log")) > logged + 3);
    if !is_killed {
        println!("recovery: the run has ended before it could be killed; give it more to read");
        return;
    }
    let killed = started.elapsed();
    finish(folder, RUN);
    let report = report(folder);
    let of = |name: &str| number(&report, name);
    let (epochs, records) = (of("/recovery/epochs"), of("/recovery/records"));
    let (loaded, first, last) = (
        of("/recovery/loaded_s"),
        of("/recovery/first_epoch_s"),
        of("/recovery/last_epoch_s"),
    );
    println!(
        "\nrecovery: {keys} keys, {:.0} MB of checkpoints, {begins} bytes read before them",
        checkpoint as f64 / 1e6
    );
    println!(
        "killed after {:.2} s; {epochs} epochs with {records} records are read again",
        killed.as_secs_f64()
    );
    println!("state loaded            {loaded:>8.2} s after the start of the command");
    println!("first epoch committed   {first:>8.2} s");
    println!("last epoch committed    {last:>8.2} s");
    let again = records / (last - loaded);
    let rest = all as f64 - keys as f64 - records;
    let normal = rest / (of("/wall_s") - last);
    println!(
        "read again at {:.2} M records/s, then on at {:.2} M/s: {:.0} %",
        again / 1e6,
        normal / 1e6,
        100.0 * again / normal
    );
}

/// Writes the first `lines` lines of `all` into `start`; how many bytes they are.
fn split_lines(all: &Path, start: &Path, lines: u64) -> u64 {
    let bytes = fs::read(all).expect("generated");
    let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    let end = ends
        .map(|(at, _)| at + 1)
        .nth(lines as usize - 1)
        .expect("so many lines");
    fs::write(start, &bytes[..end]).expect("room");
    end as u64
}

fn files(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

fn size_of(folder: &PathBuf) -> u64 {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    entries
        .filter_map(|it| it.metadata().ok())
        .map(|it| it.len())
        .sum()
}

/// Kills the run once `is_due`; `false`: it has ended before.
fn kill_when(run: &mut Child, is_due: impl Fn() -> bool) -> bool {
    loop {
        if run.try_wait().expect("a child").is_some() {
            return false;
        }
        if is_due() {
            run.kill().expect("a child");
            run.wait().expect("a child");
            return true;
        }
        thread::sleep(Duration::from_millis(2));
    }
}
