//! A folder in which commands are run, and what they leave.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// How long a condition may take that depends on other processes.
const PATIENCE: Duration = Duration::from_secs(60);

/// The binary under test. Cargo gives its path when it runs the tests; the other one is for who
/// runs the test binary by hand.
fn binary() -> PathBuf {
    let given = std::env::var_os("CARGO_BIN_EXE_highwater");
    given.map_or_else(|| env!("CARGO_BIN_EXE_highwater").into(), PathBuf::from)
}

/// What a command left.
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    /// Asserts that it failed with `code`, and not by a panic; returns its error, in lower case.
    #[track_caller]
    pub fn failed_with(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self.stderr.to_lowercase()
    }
}

/// A folder of a test. Commands are one line, split at spaces, and run in it.
pub struct Place {
    folder: TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    /// The folder stays when this is dropped, for who wants to look.
    pub fn keep(&mut self) {
        self.folder.disable_cleanup(true);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `highwater` with the words of `line`.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(binary());
        command
            .args(line.split_whitespace())
            .current_dir(self.folder.path());
        command.stdin(Stdio::null());
        command
    }

    /// Runs `highwater LINE` to its end.
    pub fn run(&self, line: &str) -> Done {
        finish(self.command(line))
    }

    /// Runs `highwater LINE` and asserts that it succeeds.
    #[track_caller]
    pub fn ok(&self, line: &str) -> Done {
        let done = self.run(line);
        assert_eq!(done.code, 0, "highwater {line}\n{}", done.stderr);
        done
    }

    /// Starts `highwater LINE`.
    pub fn start(&self, line: &str) -> Running {
        let mut command = self.command(line);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let mut stderr = child.stderr.take().expect("piped");
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Running {
            child,
            errors: Some(errors),
            line: line.to_owned(),
        }
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        let parent = path.parent().expect("it is in the folder");
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, text))
            .expect("written");
    }

    /// Replaces a file in one step, as a careful writer of tables does.
    pub fn replace(&self, name: &str, text: &str) {
        self.write(".replacement", text);
        fs::rename(self.path(".replacement"), self.path(name)).expect("renamed");
    }

    /// Appends lines to a file in one write.
    pub fn append(&self, name: &str, lines: &[String]) {
        let mut text = lines.join("\n");
        text.push('\n');
        let file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.path(name));
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .expect("appended");
    }

    pub fn read(&self, name: &str) -> String {
        let path = self.path(name);
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        String::from_utf8(bytes).expect("UTF-8")
    }

    /// With replacements for what is no UTF-8.
    pub fn read_lossy(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.path(name)).expect("read")).into_owned()
    }

    /// The JSON lines of a file; what is not whole yet is left out, and a missing file is empty.
    pub fn rows(&self, name: &str) -> Vec<Value> {
        let Ok(text) = fs::read_to_string(self.path(name)) else {
            return Vec::new();
        };
        let whole = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        whole
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }

    pub fn report(&self, name: &str) -> Value {
        serde_json::from_str(&self.read(name)).expect("JSON")
    }

    /// The files below a folder, by their paths in it.
    pub fn files(&self, name: &str) -> Vec<String> {
        let root = self.path(name);
        let mut found = Vec::new();
        list(&root, &root, &mut found);
        found.sort();
        found
    }

    /// The lines of `FOLDER/*.ndjson`: one partition per file, in the order of their names.
    pub fn partitions(&self, folder: &str) -> Vec<Vec<Vec<u8>>> {
        let files = self.files(folder);
        let lines = |file: &String| {
            let bytes = fs::read(self.path(folder).join(file)).expect("read");
            let lines = bytes
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty());
            lines.map(<[u8]>::to_vec).collect()
        };
        files
            .iter()
            .filter(|file| file.ends_with(".ndjson"))
            .map(lines)
            .collect()
    }
}

fn list(root: &Path, folder: &Path, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            list(root, &path, found);
        } else {
            let name = path.strip_prefix(root).expect("below");
            found.push(name.to_str().expect("UTF-8").to_owned());
        }
    }
}

/// Runs a command to its end.
pub fn finish(mut command: Command) -> Done {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Done {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A command that goes on. It is killed when the test fails.
pub struct Running {
    child: Child,
    errors: Option<JoinHandle<String>>,
    line: String,
}

impl Running {
    /// Waits until `condition` gives something, as long as the command runs.
    #[track_caller]
    pub fn until<T>(&mut self, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = condition() {
                return found;
            }
            let ended = self.child.try_wait().expect("a child");
            if ended.is_some() || start.elapsed() > PATIENCE {
                let _ = self.child.kill();
                let errors = self.errors();
                panic!("highwater {}: {what}: {ended:?}\n{errors}", self.line);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether the command still runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// A number that Linux counts for the process: the one behind `name` in `/proc/PID/FILE`.
    #[cfg(target_os = "linux")]
    pub fn counted(&self, file: &str, name: &str) -> u64 {
        let path = format!("/proc/{}/{file}", self.child.id());
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut lines = text.lines();
        let rest = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = rest.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        number.unwrap_or_else(|| panic!("{path} has no {name}:\n{text}"))
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Done {
        let status = self.child.wait().expect("a child");
        let stderr = self.errors();
        Done {
            code: status.code().unwrap_or(-1),
            stdout: String::new(),
            stderr,
        }
    }

    /// Ends it as Ctrl-C does.
    pub fn interrupt(self) -> Done {
        let process = self.child.id().to_string();
        let sent = Command::new("kill")
            .args(["-INT", &process])
            .status()
            .expect("kill");
        assert!(sent.success());
        self.wait()
    }

    /// Ends it as a crash does.
    pub fn kill(mut self) {
        self.child.kill().expect("a child");
        self.child.wait().expect("a child");
    }

    fn errors(&mut self) -> String {
        self.errors
            .take()
            .and_then(|errors| errors.join().ok())
            .unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
