//! A process that starts the others on this machine, and starts them again together.
//!
//! It opens the places where they listen and hands them down, so that no port is ever free for
//! somebody else, and draws their secret. When one ends otherwise than well the others notice, and
//! end as well; whoever does not is killed. Then all start again, after a rest that grows.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, PipeReader, Read};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::PEER_LOST;
use super::secret::draw_text;
use crate::state::nonce_of_series;
use crate::terminal;

/// What a process is handed down, in this environment variable.
const INHERITED: &str = "HIGHWATER_PROCESS";
/// Where a process finds its secret, when no file is named.
pub const SECRET: &str = "HIGHWATER_SECRET";
/// How often to look whether a process has ended.
const LOOK: Duration = Duration::from_millis(20);
/// The first rest before all start again, ...
const FIRST_REST: Duration = Duration::from_millis(500);
/// ... and the longest.
const LONGEST_REST: Duration = Duration::from_secs(30);
/// A run that went on for so long was healthy.
const HEALTHY: Duration = Duration::from_secs(60);
/// After these codes nothing would be better another time: wrong flags, and a state that is refused
/// or that a newer run has.
const FINAL: [u8; 2] = [2, 4];
/// Ended well, or as a signal has asked for.
const CLEAN: [u8; 3] = [0, 130, 143];

/// What is to be supervised.
#[derive(Clone, Debug)]
pub struct Supervision {
    /// The program.
    pub program: PathBuf,
    /// Its arguments, for all processes; each gets `-p` and its number as well.
    pub arguments: Vec<OsString>,
    /// How many processes.
    pub processes: usize,
    /// Whether there is a state to go on from; without one nothing starts again.
    pub has_state: bool,
    /// How often all may start again before one of their runs was healthy; 0: never.
    pub restarts: u32,
    /// How soon a process must have ended after another one has.
    pub grace: Duration,
}

/// The way for a signal to the processes.
#[derive(Clone, Debug, Default)]
pub struct Children(Arc<ChildrenState>);

#[derive(Debug, Default)]
struct ChildrenState {
    pids: Mutex<Vec<u32>>,
    is_stopping: AtomicBool,
}

impl Children {
    /// Asks all processes for a clean end; none starts any more.
    pub fn stop(&self) {
        // Under the lock, so that none is left out that is just starting.
        let pids = self.pids();
        self.0.is_stopping.store(true, Ordering::SeqCst);
        pids.iter().for_each(|pid| send(*pid, libc::SIGTERM));
    }

    fn is_stopping(&self) -> bool {
        self.0.is_stopping.load(Ordering::SeqCst)
    }

    fn pids(&self) -> MutexGuard<'_, Vec<u32>> {
        self.0.pids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, pid: u32) {
        let mut pids = self.pids();
        pids.push(pid);
        if self.is_stopping() {
            send(pid, libc::SIGTERM);
        }
    }

    /// The child has ended and was waited for: its number may be another's soon.
    fn look(&self, child: &mut Child) -> Option<End> {
        let mut pids = self.pids();
        let end = match child.try_wait() {
            Ok(None) => return None,
            Ok(Some(status)) => End::of(status),
            // Somebody else has waited for it: how it has ended is not known.
            Err(_) => End::Code(PEER_LOST),
        };
        pids.retain(|pid| *pid != child.id());
        Some(end)
    }
}

fn send(pid: u32, signal: i32) {
    let Ok(pid) = libc::pid_t::try_from(pid) else {
        return;
    };
    // SAFETY: takes no pointer. The process is a child that was not waited for, so that its number
    // is still its own; one that is gone is an error result.
    unsafe { libc::kill(pid, signal) };
}

/// Starts all processes, and again when that helps; the exit code, when all have ended.
///
/// # Errors
/// When they cannot be started.
pub fn supervise(supervision: &Supervision, children: &Children) -> io::Result<u8> {
    wait_for_children()?;
    let restarts = if supervision.has_state {
        supervision.restarts
    } else {
        0
    };
    let mut patience = Patience::new(restarts);
    let (mut goes_on, series) = (false, Uuid::new_v4());
    for start in 0.. {
        let nonce = nonce_of_series(series, start);
        let attempt = Attempt::start(supervision, children, nonce, goes_on)?;
        let ended = attempt.wait(supervision, children);
        goes_on |= ended.lived.is_some();
        let (process, end) = match ended.verdict(children.is_stopping(), goes_on) {
            Verdict::Final(code) => return Ok(code),
            Verdict::Again(process, end) => (process, end),
        };
        let what = format!("process {process} {}", end.text());
        let Some(rest) = patience.rest(ended.lived.unwrap_or_default()) else {
            terminal::message(format_args!("{what}{}", supervision.why_not_again()));
            return Ok(end.code());
        };
        terminal::message(format_args!(
            "{what}; all {} processes start again in {} s (restart {} of {})",
            supervision.processes,
            rest.as_secs_f64(),
            patience.used,
            supervision.restarts
        ));
        let until = Instant::now() + rest;
        while Instant::now() < until && !children.is_stopping() {
            thread::sleep(LOOK);
        }
        if children.is_stopping() {
            return Ok(end.code());
        }
    }
    // It takes longer than any machine lives to come here.
    Ok(PEER_LOST)
}

impl Supervision {
    /// Why nothing starts again, for people, after what has ended how.
    fn why_not_again(&self) -> String {
        match self.restarts {
            _ if !self.has_state => "; without --state there is nothing to go on from".to_owned(),
            0 => "; nothing starts again (--restarts 0)".to_owned(),
            restarts => format!(", after {restarts} restarts in a row (--restarts); giving up"),
        }
    }
}

/// Has the system keep for us how a process has ended, also when whoever has started this one did
/// not want to know that of its own.
fn wait_for_children() -> io::Result<()> {
    // SAFETY: installs no handler and takes no pointer of ours.
    match unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// How often and after which rest to try again.
#[derive(Debug)]
struct Patience {
    limit: u32,
    used: u32,
    next: Duration,
}

impl Patience {
    const fn new(limit: u32) -> Self {
        Self {
            limit,
            used: 0,
            next: FIRST_REST,
        }
    }

    /// The rest before the next start, when the last run has lived for so long; `None`: no more.
    fn rest(&mut self, lived: Duration) -> Option<Duration> {
        if lived >= HEALTHY {
            *self = Self::new(self.limit);
        }
        if self.used == self.limit {
            return None;
        }
        self.used += 1;
        let rest = self.next;
        self.next = (2 * rest).min(LONGEST_REST);
        Some(rest)
    }
}

/// How a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Code(u8),
    Signal(i32),
}

impl End {
    fn of(status: ExitStatus) -> Self {
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        match (code, status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Code(PEER_LOST),
        }
    }

    /// The exit code of the whole: a process that was killed is one that the others have lost.
    const fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(_) => PEER_LOST,
        }
    }

    fn is_clean(self) -> bool {
        matches!(self, Self::Code(code) if CLEAN.contains(&code))
    }

    fn text(self) -> String {
        match self {
            Self::Code(code) => format!("has ended with exit code {code}"),
            Self::Signal(signal) => format!("was killed by signal {signal}"),
        }
    }
}

/// What to do after all processes have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// End with this code.
    Final(u8),
    /// Start again, because this process has ended like this.
    Again(usize, End),
}

/// How all processes have ended.
#[derive(Debug)]
struct Ended {
    /// Each with its number, in the order in which they did.
    ends: Vec<(usize, End)>,
    /// How long ago process 0 has begun its run, if it has.
    lived: Option<Duration>,
}

impl Ended {
    /// `has_begun`: whether this start or an earlier one has begun the run. Until then, what fails
    /// is a wrong name or the like.
    fn verdict(&self, is_stopping: bool, has_begun: bool) -> Verdict {
        let bad = || self.ends.iter().filter(|(_, end)| !end.is_clean());
        let is_final = |end: &End| match end {
            End::Code(code) => FINAL.contains(code) || (!has_begun && *code != PEER_LOST),
            End::Signal(_) => false,
        };
        if let Some((_, end)) = bad().find(|(_, end)| is_final(end)) {
            return Verdict::Final(end.code());
        }
        // One that has only lost another one is not the reason.
        let is_reason = |end: &End| *end != End::Code(PEER_LOST);
        let reason = bad()
            .find(|(_, end)| is_reason(end))
            .or_else(|| bad().next());
        match reason {
            None => {
                let codes = self.ends.iter().map(|(_, end)| end.code());
                Verdict::Final(codes.max().unwrap_or(0))
            }
            Some((_, end)) if is_stopping => Verdict::Final(end.code()),
            Some((process, end)) => Verdict::Again(*process, *end),
        }
    }
}

/// All processes of one start.
struct Attempt {
    running: Vec<(usize, Child)>,
    errors: Vec<JoinHandle<()>>,
    /// When process 0 has begun its run; known when it has ended.
    begun: Option<JoinHandle<Option<Instant>>>,
}

impl Attempt {
    fn start(
        supervision: &Supervision,
        children: &Children,
        nonce: Uuid,
        goes_on: bool,
    ) -> io::Result<Self> {
        let listeners: io::Result<Vec<_>> = (0..supervision.processes)
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect();
        let listeners = listeners?;
        let addresses: io::Result<Vec<_>> = listeners.iter().map(TcpListener::local_addr).collect();
        let addresses: Vec<_> = addresses?.iter().map(ToString::to_string).collect();
        let (begun, beginning) = io::pipe()?;
        let secret = draw_text();
        let mut attempt = Self {
            running: Vec::new(),
            errors: Vec::new(),
            begun: Some(thread::spawn(move || wait_for_beginning(begun))),
        };
        for (process, listener) in listeners.iter().enumerate() {
            let status = (process == 0).then(|| beginning.as_raw_fd());
            let inherited = Inherited {
                listener: listener.as_raw_fd(),
                status,
                nonce,
                goes_on,
                addresses: addresses.clone(),
            };
            let mut child = command(supervision, process, &inherited, &secret).spawn()?;
            children.add(child.id());
            if let Some(errors) = child.stderr.take() {
                let errors = thread::spawn(move || repeat(process, errors));
                attempt.errors.push(errors);
            }
            attempt.running.push((process, child));
        }
        Ok(attempt)
    }

    /// Waits until all have ended; after the first that has not ended well, no longer than the
    /// grace.
    fn wait(mut self, supervision: &Supervision, children: &Children) -> Ended {
        let mut ends = Vec::new();
        let mut deadline: Option<Instant> = None;
        while !self.running.is_empty() {
            self.running.retain_mut(|(process, child)| {
                let Some(end) = children.look(child) else {
                    return true;
                };
                ends.push((*process, end));
                false
            });
            let is_bad = ends.iter().any(|(_, end)| !end.is_clean());
            if is_bad && deadline.is_none() {
                deadline = Some(Instant::now() + supervision.grace);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                for (_, child) in &mut self.running {
                    // One that has ended just now need not be killed.
                    let _ = child.kill();
                }
            }
            thread::sleep(LOOK);
        }
        for errors in self.errors.drain(..) {
            let _ = errors.join();
        }
        let begun = self.begun.take().and_then(|begun| begun.join().ok());
        let lived = begun.flatten().map(|begun| begun.elapsed());
        Ended { ends, lived }
    }
}

/// Until process 0 says that it has begun its run, or has ended without.
fn wait_for_beginning(mut begun: PipeReader) -> Option<Instant> {
    let said = begun.read(&mut [0]);
    matches!(said, Ok(1..)).then(Instant::now)
}

impl Drop for Attempt {
    /// When not all could be started, none may be left.
    fn drop(&mut self) {
        for (_, child) in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn command(
    supervision: &Supervision,
    process: usize,
    inherited: &Inherited,
    secret: &str,
) -> Command {
    let mut command = Command::new(&supervision.program);
    if let Some(name) = std::env::args_os().next() {
        command.arg0(name);
    }
    command
        .args(&supervision.arguments)
        .arg("-p")
        .arg(process.to_string())
        .env(INHERITED, inherited.to_text())
        .env(SECRET, secret)
        // So that a Ctrl-C at the terminal comes once, from here.
        .process_group(0);
    if process > 0 {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
    }
    let parent = std::process::id();
    let kept: Vec<_> = std::iter::once(inherited.listener)
        .chain(inherited.status)
        .collect();
    // SAFETY: between fork and exec the closure calls only functions that are safe there (fcntl,
    // prctl, getppid), on descriptors that are open until the child is started, and allocates
    // nothing.
    unsafe {
        command.pre_exec(move || {
            for descriptor in &kept {
                inherit(*descriptor)?;
            }
            die_with(parent)
        })
    };
    command
}

/// Keeps a descriptor open in the program that is started.
fn inherit(descriptor: RawFd) -> io::Result<()> {
    // SAFETY: takes no pointer; a descriptor that is closed is an error result.
    match unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has this process killed when its parent dies, however that happens.
fn die_with(parent: u32) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    // SAFETY: takes no pointer.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if std::os::unix::process::parent_id() == parent {
        Ok(())
    } else {
        // It has died before that.
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

/// Shows what a process says on its standard error.
fn repeat(process: usize, errors: ChildStderr) {
    let is_terminal = io::stderr().is_terminal();
    let mut reader = BufReader::new(errors);
    let mut line = Vec::new();
    while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
        let text = String::from_utf8_lossy(&line);
        // Process 0 may have a line there that it updates in place.
        let erase = if is_terminal { "\r\x1b[2K" } else { "" };
        terminal::message(format_args!("{erase}[p{process}] {}", text.trim_end()));
        line.clear();
    }
}

/// What a process is handed down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// The descriptor of the place where it listens.
    listener: RawFd,
    /// Process 0: where it says that its run has begun.
    status: Option<RawFd>,
    /// The nonce of the run, in the series of all that the supervising process starts.
    pub nonce: Uuid,
    /// Whether an earlier start has begun this run: it goes on, whatever the flags say.
    pub goes_on: bool,
    /// Where all processes listen.
    pub addresses: Vec<String>,
}

impl Inherited {
    /// What this process was handed down; `None`: nobody supervises it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn find() -> Result<Option<Self>, String> {
        let Some(text) = std::env::var_os(INHERITED) else {
            return Ok(None);
        };
        let text = text.to_string_lossy().into_owned();
        let inherited = Self::parse(&text);
        let wrong = || format!("{INHERITED}={text}: only a supervising process sets this");
        inherited.map(Some).ok_or_else(wrong)
    }

    fn to_text(&self) -> String {
        let status = self.status.unwrap_or(-1);
        let goes_on = u8::from(self.goes_on);
        let addresses = self.addresses.join(",");
        format!(
            "{} {status} {} {goes_on} {addresses}",
            self.listener, self.nonce
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let listener = words.next()?.parse().ok().filter(|it| *it > 2)?;
        let status: RawFd = words.next()?.parse().ok()?;
        let nonce = words.next()?.parse().ok()?;
        let goes_on = words.next()? == "1";
        let addresses = words.next()?.split(',').map(str::to_owned).collect();
        Some(Self {
            listener,
            status: (status > 2).then_some(status),
            nonce,
            goes_on,
            addresses,
        })
    }

    /// The place where it listens; once.
    ///
    /// # Errors
    /// When it was not handed down.
    pub fn listener(&self) -> io::Result<TcpListener> {
        close_on_exec(self.listener)?;
        // SAFETY: the descriptor is open, as was just seen; the supervising process has handed it
        // down for this, and nothing else in this process knows of it.
        Ok(unsafe { TcpListener::from_raw_fd(self.listener) })
    }

    /// Where to say that the run has begun, by a byte; once.
    ///
    /// # Errors
    /// When it was not handed down.
    pub fn status(&self) -> io::Result<Option<File>> {
        let Some(status) = self.status else {
            return Ok(None);
        };
        close_on_exec(status)?;
        // SAFETY: as above.
        Ok(Some(unsafe { File::from_raw_fd(status) }))
    }
}

fn close_on_exec(descriptor: RawFd) -> io::Result<()> {
    // SAFETY: takes no pointer; a descriptor that is closed is an error result.
    match unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(ends: &[End]) -> Ended {
        Ended {
            ends: ends.iter().copied().enumerate().collect(),
            lived: None,
        }
    }

    fn verdict(ends: &[End], is_stopping: bool) -> Verdict {
        ended(ends).verdict(is_stopping, true)
    }

    #[test]
    fn all_start_again_unless_that_is_of_no_use() {
        use End::{Code, Signal};
        use Verdict::{Again, Final};
        assert_eq!(verdict(&[Code(0), Code(0)], false), Final(0));
        assert_eq!(verdict(&[Code(0), Code(143)], true), Final(143));
        let killed = [Code(70), Signal(9), Code(70)];
        assert_eq!(verdict(&killed, false), Again(1, Signal(9)));
        assert_eq!(verdict(&killed, true), Final(70));
        assert_eq!(verdict(&[Code(70), Code(1)], false), Again(1, Code(1)));
        assert_eq!(verdict(&[Code(70), Code(70)], false), Again(0, Code(70)));
        assert_eq!(verdict(&[Code(70), Code(4)], false), Final(4));
        assert_eq!(verdict(&[Code(2), Code(70)], false), Final(2));
    }

    #[test]
    fn what_fails_before_a_run_is_not_tried_again() {
        use End::{Code, Signal};
        use Verdict::{Again, Final};
        let verdict = |ends: &[End]| ended(ends).verdict(false, false);
        assert_eq!(verdict(&[Code(70), Code(1)]), Final(1));
        assert_eq!(verdict(&[Signal(9), Code(1)]), Final(1));
        assert_eq!(verdict(&[Code(70), Signal(9)]), Again(1, Signal(9)));
        assert_eq!(verdict(&[Code(70), Code(70)]), Again(0, Code(70)));
    }

    #[test]
    fn why_nothing_starts_again_is_told() {
        let why = |has_state, restarts| {
            let supervision = Supervision {
                program: PathBuf::new(),
                arguments: Vec::new(),
                processes: 2,
                has_state,
                restarts,
                grace: Duration::ZERO,
            };
            supervision.why_not_again()
        };
        assert!(why(false, 10).contains("without --state"));
        assert!(why(true, 0).contains("--restarts 0"));
        assert!(why(true, 3).contains("after 3 restarts"));
    }

    #[test]
    fn a_run_lives_from_its_beginning_on() {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        let begun = thread::spawn(move || wait_for_beginning(reader));
        io::Write::write_all(&mut writer, &[1]).expect("written");
        assert!(begun.join().expect("no panic").is_some());
        let (reader, writer) = io::pipe().expect("a pipe");
        drop(writer);
        assert_eq!(wait_for_beginning(reader), None);
    }

    #[test]
    fn rests_grow_and_a_healthy_run_forgets_them() {
        let mut patience = Patience::new(9);
        let mut rests = |lived| patience.rest(lived).map(|rest| rest.as_millis());
        let short: Vec<_> = (0..9).map(|_| rests(Duration::ZERO)).collect();
        let expected = [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000];
        assert_eq!(short, expected.map(Some));
        assert_eq!(rests(Duration::ZERO), None);
        assert_eq!(rests(HEALTHY), Some(500));
        assert_eq!(Patience::new(0).rest(HEALTHY), None);
    }

    #[test]
    fn what_is_handed_down_comes_back() {
        let inherited = Inherited {
            listener: 7,
            status: None,
            nonce: Uuid::from_u128(12),
            goes_on: true,
            addresses: vec!["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()],
        };
        assert_eq!(
            Inherited::parse(&inherited.to_text()),
            Some(inherited.clone())
        );
        let first = Inherited {
            status: Some(8),
            goes_on: false,
            ..inherited
        };
        assert_eq!(Inherited::parse(&first.to_text()), Some(first));
        assert_eq!(Inherited::parse(&format!("1 -1 {} 0 x", Uuid::nil())), None);
        assert_eq!(Inherited::parse("x"), None);
    }
}
