//! Processes that are started, watched, and ended in all ways.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// How long a condition may take that depends on other processes, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(120);
/// What all processes of a test know.
const SECRET: &str = "a secret of the tests alone";

/// A command line of the binary; paths of the test's folder stand for `{dir}`.
pub fn words(dir: &Path, line: &str) -> Vec<String> {
    let dir = dir.display().to_string();
    let word = |word: &str| word.replace("{dir}", &dir);
    line.split_whitespace().map(word).collect()
}

/// Runs it to its end, which must be a good one.
#[track_caller]
pub fn done(dir: &Path, line: &str) {
    let running = Running::start(dir, line);
    let (code, text) = running.end();
    assert_eq!(code, 0, "{line}: {text}");
}

/// Looks until there is something.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process that runs; it does not outlive the test.
pub struct Running {
    child: Child,
    said: Arc<Mutex<String>>,
    listening: Option<JoinHandle<()>>,
}

impl Running {
    pub fn start(dir: &Path, line: &str) -> Self {
        Self::start_with(dir, line, SECRET)
    }

    pub fn start_with(dir: &Path, line: &str, secret: &str) -> Self {
        Self::spawn(Self::command(dir, line).env("HIGHWATER_SECRET", secret))
    }

    /// Paths that are not absolute lie in `host`.
    pub fn start_in(host: &Path, dir: &Path, line: &str) -> Self {
        let mut command = Self::command(dir, line);
        Self::spawn(command.current_dir(host).env("HIGHWATER_SECRET", SECRET))
    }

    fn command(dir: &Path, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
        command.args(words(dir, line)).env("NO_COLOR", "1");
        command
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let said = Arc::new(Mutex::new(String::new()));
        let (stderr, hearing) = (child.stderr.take().expect("piped"), Arc::clone(&said));
        let listening = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                let line = line.expect("text") + "\n";
                hearing.lock().expect("no panic").push_str(&line);
            }
        });
        Self {
            child,
            said,
            listening: Some(listening),
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) {
        signal_to(self.id(), signal);
    }

    /// What it has said until now.
    pub fn said(&self) -> String {
        self.said.lock().expect("no panic").clone()
    }

    #[track_caller]
    pub fn waits_to_say(&self, text: &str) {
        wait_for(text, || self.said().contains(text).then_some(()));
    }

    /// Its exit code and all that it has said; 128 and the signal that has killed it.
    #[track_caller]
    pub fn end(mut self) -> (i32, String) {
        let ended = wait_for("it ends", || self.child.try_wait().expect("a child"));
        // Those that it has started may still have its standard error for a moment.
        if let Some(listening) = self.listening.take() {
            listening.join().expect("no panic");
        }
        let signal = std::os::unix::process::ExitStatusExt::signal(&ended);
        let code = ended.code().or(signal.map(|signal| 128 + signal));
        (code.expect("an end"), self.said())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended, or is ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn signal_to(id: u32, signal: &str) {
    let id = id.to_string();
    let sent = Command::new("kill").args(["-s", signal, &id]).status();
    assert!(sent.expect("kill").success());
}

/// The process that `parent` has started as its process `index`.
pub fn child(parent: u32, index: usize) -> Option<u32> {
    let processes = fs::read_dir("/proc").expect("there");
    let mut ids =
        processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    ids.find(|id| {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        status.contains(&format!("PPid:\t{parent}\n"))
            && line.ends_with(format!("-p\0{index}\0").as_bytes())
    })
}

/// The memory of a process, in bytes.
pub fn memory(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib = line.split_whitespace().nth(1)?.parse::<u64>().ok()?;
    Some(kib * 1024)
}

/// A hostfile with free ports of this machine.
pub fn hostfile(dir: &Path, processes: usize) -> Vec<String> {
    let listeners: Vec<_> = (0..processes)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("a port"))
        .collect();
    let address = |listener: &TcpListener| listener.local_addr().expect("bound").to_string();
    let addresses: Vec<_> = listeners.iter().map(address).collect();
    fs::write(dir.join("hosts"), addresses.join("\n")).expect("written");
    addresses
}

/// The lines of a file, in an order of their own.
pub fn sorted(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).expect("a file");
    assert!(text.ends_with('\n'), "the last line is whole");
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

pub fn report(path: &Path) -> Value {
    let text = fs::read_to_string(path).expect("a report");
    serde_json::from_str(&text).expect("JSON")
}

/// A run of cars whose results are known, at a pace at which much can happen to it.
pub struct Job {
    dir: TempDir,
    windows: Vec<String>,
    alerts: Vec<String>,
}

impl Job {
    /// Computed once, by one process alone.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        done(
            dir.path(),
            &format!(
                "run cars {INPUT} --speed max --to ndjson:{{dir}}/w0 --to alerts=ndjson:{{dir}}/a0"
            ),
        );
        let windows = sorted(&dir.path().join("w0"));
        let alerts = sorted(&dir.path().join("a0"));
        assert!(windows.len() > 20 && alerts.len() > 100);
        Self {
            dir,
            windows,
            alerts,
        }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// Starts it, or goes on with it; `more`: flags of this start.
    pub fn start(&self, more: &str) -> Running {
        Running::start(self.dir(), &Self::line(more))
    }

    pub fn line(more: &str) -> String {
        format!(
            "run cars {INPUT} --speed 3600 --epoch 50ms --checkpoint 300ms --state {{dir}}/state \
             --to ndjson:{{dir}}/w --to alerts=ndjson:{{dir}}/a --report {{dir}}/report {more}"
        )
    }

    /// Waits until so many lines of its results stand in the file.
    #[track_caller]
    pub fn waits_for_alerts(&self, lines: usize) {
        wait_for("alerts", || (self.alerts_now() >= lines).then_some(()));
    }

    /// How many lines there are now.
    pub fn alerts_now(&self) -> usize {
        let text = fs::read_to_string(self.path("a")).unwrap_or_default();
        text.matches('\n').count()
    }

    /// How many there will be.
    pub fn all_alerts(&self) -> usize {
        self.alerts.len()
    }

    /// The results are those of one process that nobody has disturbed.
    #[track_caller]
    pub fn is_as_if_undisturbed(&self) {
        assert_eq!(sorted(&self.path("w")), self.windows, "windows");
        assert!(sorted(&self.path("a")) == self.alerts, "alerts");
    }
}

/// Six hours of event time, in one folder for all runs of a test.
const INPUT: &str = "--events 200_000 --rate 9 --disorder 5s --late-fraction 0.01 --drain";
