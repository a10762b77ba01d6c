//! A process of the binary, in a process group of its own: whatever it starts ends with it.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a run may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(10);

/// A run that was started.
pub struct Process {
    child: Child,
    /// Where its standard error goes.
    log: PathBuf,
    line: String,
    started: Instant,
}

impl Process {
    /// Starts `command`; `line` is what people would type.
    pub fn start(mut command: Command, line: &str, log: PathBuf) -> Self {
        let file = File::create(&log).expect("a log");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(file).process_group(0);
        let child = command.spawn().expect("the binary starts");
        Self {
            child,
            log,
            line: line.to_owned(),
            started: Instant::now(),
        }
    }

    /// When it was started.
    pub const fn started(&self) -> Instant {
        self.started
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Sends a signal to it and to all that it has started.
    pub fn signal(&self, signal: &str) {
        // It may have ended in this moment.
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill")
            .args([&format!("-{signal}"), "--", &group])
            .stderr(Stdio::null())
            .status();
    }

    /// Sends a signal to a process, and to no other.
    pub fn signal_one(id: u32, signal: &str) {
        let mut command = Command::new("kill");
        let _ = command
            .args([&format!("-{signal}"), &id.to_string()])
            .status();
    }

    /// The process that it has started as its process `index`.
    pub fn child(&self, index: u64) -> Option<u32> {
        let mut ids = fs::read_dir("/proc")
            .expect("there")
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let parent = format!("PPid:\t{}\n", self.child.id());
        let flag = format!("-p\0{index}\0");
        ids.find(|id| {
            let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
            let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            status.contains(&parent) && line.ends_with(flag.as_bytes())
        })
    }

    /// Ends it as by SIGKILL; returns whether that is what ended it.
    pub fn kill(mut self) -> bool {
        self.signal("KILL");
        let status = self.child.wait().expect("a child");
        status.code().is_none()
    }

    /// Whether it runs; also when it is frozen.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Whether it is frozen.
    pub fn is_frozen(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.unwrap_or_default();
        stat.rsplit_once(')')
            .is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
    }

    /// Waits until `condition` holds, as long as it runs.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            let is_alive = self.is_alive();
            assert!(
                is_alive && start.elapsed() < PATIENCE,
                "{what}: alive {is_alive} after {:?}: {}\n{}",
                self.started.elapsed(),
                self.line,
                self.said()
            );
            std::thread::sleep(LOOK);
        }
    }

    /// Waits for its end: `None` when a signal ended it.
    #[track_caller]
    pub fn end(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code();
            }
            assert!(
                start.elapsed() < PATIENCE,
                "it does not end: {}\n{}",
                self.line,
                self.said()
            );
            std::thread::sleep(LOOK);
        }
    }

    /// Waits for its end with this exit code.
    #[track_caller]
    pub fn ends_with(mut self, code: i32) -> String {
        let found = self.end();
        let said = self.said();
        assert!(
            found == Some(code) && !said.contains("panicked"),
            "exit {found:?}, not {code}: {}\n{said}",
            self.line
        );
        said
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal("KILL");
        let _ = self.child.wait();
    }
}
