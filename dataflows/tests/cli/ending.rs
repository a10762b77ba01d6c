//! How commands end before their time: by a signal, or because nobody reads standard output.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{dir, done, highwater, read, report};

/// How long a condition may take that depends on another process.
const PATIENCE: Duration = Duration::from_secs(60);

/// Looks until there is something.
#[track_caller]
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A command that runs; it does not outlive the test.
struct Running {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Running {
    fn start(line: &[&str]) -> Self {
        let mut command = highwater(line);
        let streams = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = streams.spawn().expect("the binary starts");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        Self { child, stderr }
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &id]).status();
        assert!(sent.expect("kill").success());
    }

    /// Its exit code and the rest of its standard error.
    #[track_caller]
    fn end(mut self) -> (i32, String) {
        let ended = wait_for("it ends", || self.child.try_wait().expect("a child"));
        let mut text = String::new();
        self.stderr.read_to_string(&mut text).expect("text");
        (ended.code().expect("an exit code"), text)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended, or is ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// With a time-out of an hour: only the signal can end it.
#[test]
fn a_signal_is_heard_while_a_server_does_not_answer() {
    for (signal, expected) in [("INT", 130), ("TERM", 143)] {
        for line in [
            "run factory --from kafka://ADDRESS/in --to null:",
            "run factory --to kafka://ADDRESS/out",
            "check factory --from kafka://ADDRESS/in",
            "generate factory --events 5 --to kafka://ADDRESS/in",
        ] {
            let server = TcpListener::bind("127.0.0.1:0").expect("a port");
            server.set_nonblocking(true).expect("a socket");
            let address = server.local_addr().expect("bound").to_string();
            let line = line.replace("ADDRESS", &address) + " --connect-timeout 1h";
            let command = Running::start(&line.split(' ').collect::<Vec<_>>());
            let _connection = wait_for("it connects", || server.accept().ok());
            command.signal(signal);
            let (code, text) = command.end();
            assert_eq!(code, expected, "{line}: {text}");
            assert!(text.contains("stopped before"), "{line}: {text}");
        }
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = read(path);
    assert!(text.ends_with('\n'), "the last line is whole");
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// Rows of the files in a folder, as `view` sees them.
fn rows(folder: &Path) -> usize {
    let folder = folder.display().to_string();
    let shown = done(&["view", &folder, "--limit", "0", "--format", "json"]);
    shown.lines().count()
}

#[test]
fn files_are_whole_after_a_signal() {
    let dir = dir();
    let [windows, alerts, summary] = ["w.ndjson", "alerts", "r.json"].map(|it| dir.path().join(it));
    let (to, more) = (
        format!("ndjson:{}", windows.display()),
        format!("alerts=csv:{}", alerts.display()),
    );
    let summary_text = summary.display().to_string();
    let run = Running::start(&[
        "run",
        "factory",
        "--follow",
        "--speed",
        "max",
        "--checkpoint",
        "100ms",
        "--to",
        &to,
        "--to",
        &more,
        "--report",
        &summary_text,
    ]);
    let is_published = |path: &Path| {
        let entries = fs::read_dir(path).ok()?.filter_map(Result::ok);
        let names = entries.map(|entry| entry.file_name());
        { names }.find(|name| !name.to_string_lossy().starts_with('.'))
    };
    wait_for("there are files", || {
        fs::metadata(&windows).ok().filter(|it| it.len() > 0)?;
        is_published(&alerts)
    });
    run.signal("INT");
    let (code, text) = run.end();
    assert_eq!(code, 130, "{text}");
    for told in ["stopping…", "records per CPU-second"] {
        assert!(text.contains(told), "{told}: {text}");
    }
    let outputs = &report(&summary)["outputs"];
    assert_eq!(outputs["windows"]["rows"], lines(&windows).len());
    assert_eq!(outputs["alerts"]["rows"], rows(&alerts));
}

/// A pipe into which nothing goes any more, and which nobody reads.
#[cfg(target_os = "linux")]
fn full_pipe(path: &Path) -> File {
    const O_NONBLOCK: i32 = 0o4000;
    let made = Command::new("mkfifo").arg(path).status();
    assert!(made.expect("mkfifo").success());
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).custom_flags(O_NONBLOCK);
    let mut pipe = options.open(path).expect("a pipe");
    loop {
        match pipe.write(b"\n") {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return pipe,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The first waits for an output that nobody reads.
#[test]
#[cfg(target_os = "linux")]
fn a_second_signal_ends_a_run_at_once() {
    let dir = dir();
    let (pipe, windows) = (dir.path().join("pipe"), dir.path().join("windows.ndjson"));
    let _reader = full_pipe(&pipe);
    let (to, more) = (
        format!("ndjson:{}", windows.display()),
        format!("alerts=ndjson:{}", pipe.display()),
    );
    let mut run = Running::start(&[
        "run", "factory", "--follow", "--speed", "max", "--to", &to, "--to", &more,
    ]);
    // From here on there are alerts that wait for the pipe.
    wait_for("there are windows", || {
        fs::metadata(&windows).ok().filter(|it| it.len() > 0)
    });
    run.signal("INT");
    let mut line = String::new();
    while !line.contains("stopping…") {
        line.clear();
        assert_ne!(run.stderr.read_line(&mut line).expect("text"), 0);
    }
    run.signal("INT");
    let (code, text) = run.end();
    assert_eq!(code, 130, "{text}");
    assert!(!text.contains("records per CPU-second"), "{text}");
}

/// Whoever writes there holds the terminal, and no message can be shown.
#[test]
fn a_second_signal_is_heard_behind_a_standard_output_that_nobody_takes_from() {
    let dir = dir();
    let windows = dir.path().join("windows.ndjson");
    let to = format!("ndjson:{}", windows.display());
    let mut run = Running::start(&[
        "run",
        "factory",
        "--follow",
        "--speed",
        "max",
        "--to",
        &to,
        "--to",
        "alerts=ndjson:-",
    ]);
    let mut last = 0;
    wait_for("nothing moves any more", || {
        std::thread::sleep(Duration::from_millis(500));
        let now = fs::metadata(&windows).map_or(0, |it| it.len());
        (now > 0 && std::mem::replace(&mut last, now) == now).then_some(())
    });
    wait_for("it ends", || {
        run.signal("INT");
        std::thread::sleep(Duration::from_millis(200));
        run.child.try_wait().expect("a child")
    });
    assert_eq!(run.end().0, 130);
}

#[test]
fn outputs_beside_a_closed_standard_output_are_whole() {
    let input = ["run", "factory", "--duration", "12h", "--speed", "max"];
    let dir = dir();
    let file = |name: &str| {
        let path = dir.path().join(name);
        let to = format!("alerts=ndjson:{}", path.display());
        (path, to)
    };
    let sorted = |path: &Path| {
        let mut lines: Vec<_> = read(path).lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    let (expected, to) = file("expected");
    done(&[&input[..], &["--to", "null:", "--to", &to]].concat());
    let expected = sorted(&expected);
    assert!(!expected.is_empty());
    for closed in ["ndjson:-", "console:"] {
        let (alerts, to) = file(closed);
        let mut run = Running::start(&[&input[..], &["--to", closed, "--to", &to]].concat());
        let mut first = String::new();
        let mut out = BufReader::new(run.child.stdout.take().expect("piped"));
        out.read_line(&mut first).expect("a line");
        drop(out);
        let (code, text) = run.end();
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("standard output was closed"), "{text}");
        assert_eq!(sorted(&alerts), expected, "{closed}");
    }
}
