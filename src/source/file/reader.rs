//! The threads that read files into feeds.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, unbounded};

use super::input::{Change, Input, is_stream};
use super::lines::{Limits, Lines};
use super::{Root, STDIN};
use crate::source::{Assignment, Feed, Reader, SourceError, Until};
use crate::time::Offset;

/// How often the end of a followed file is looked at.
const POLL: Duration = Duration::from_millis(200);
/// How often it is looked how long files are, for whoever watches how far behind a run is.
const END_INTERVAL: Duration = Duration::from_millis(500);
/// How long to wait for room in one full feed before looking at the others.
const FULL_WAIT: Duration = Duration::from_millis(2);

/// Reads files on one thread, in turn; each stream, which may block, has a thread of its own.
pub(super) struct FileReader {
    root: Root,
    until: Until,
    files: Sender<Assignment>,
    /// Dropping a sender ends its thread.
    streams: Vec<Sender<Assignment>>,
}

impl FileReader {
    pub fn new(root: Root, until: Until) -> Result<Self, SourceError> {
        let files = start_thread(&root, until)?;
        Ok(Self {
            root,
            until,
            files,
            streams: Vec::new(),
        })
    }

    fn thread_for(&mut self, name: &str) -> Result<&Sender<Assignment>, SourceError> {
        if name == STDIN || is_stream(&self.root.path(name)) {
            self.streams.push(start_thread(&self.root, self.until)?);
        } else {
            return Ok(&self.files);
        }
        Ok(self.streams.last().unwrap_or(&self.files))
    }
}

impl Reader for FileReader {
    fn assign(&mut self, assignment: Assignment) {
        match self.thread_for(&assignment.partition.name) {
            Ok(thread) => {
                if let Err(unsent) = thread.send(assignment) {
                    let assignment = unsent.into_inner();
                    let partition = assignment.partition.name;
                    let reason = "the thread that reads files has ended".to_owned();
                    assignment
                        .feed
                        .fail(SourceError::Read { partition, reason });
                }
            }
            Err(error) => assignment.feed.fail(error),
        }
    }
}

fn start_thread(root: &Root, until: Until) -> Result<Sender<Assignment>, SourceError> {
    let (sender, receiver) = unbounded();
    let own_root = root.clone();
    thread::Builder::new()
        .name("read-files".to_owned())
        .spawn(move || run(&receiver, &own_root, until))
        .map_err(|error| SourceError::Read {
            partition: root.0.display().to_string(),
            reason: format!("no thread can be started: {error}"),
        })?;
    Ok(sender)
}

/// What came of one look at a partition, from the dullest to the most promising.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// It needs no more looks.
    Done,
    /// Everything there is has been read.
    AtEnd,
    /// Its feed is full.
    Full,
    /// Something was read.
    Read,
}

fn run(assignments: &Receiver<Assignment>, root: &Root, until: Until) {
    let mut partitions: Vec<FilePartition> = Vec::new();
    let mut last = Step::Done;
    loop {
        let next = match last {
            Step::Done => assignments
                .recv()
                .map_err(|_| RecvTimeoutError::Disconnected),
            Step::AtEnd => assignments.recv_timeout(POLL),
            Step::Full | Step::Read => assignments.try_recv().map_err(|error| match error {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            }),
        };
        match next {
            Ok(assignment) => partitions.push(FilePartition::new(assignment, root, until)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        last = Step::Done;
        partitions.retain_mut(|partition| {
            let step = partition.step();
            last = last.max(step);
            step != Step::Done
        });
        if last == Step::Full {
            wait_for_room(&partitions);
        }
    }
}

fn wait_for_room(partitions: &[FilePartition]) {
    if let Some(full) = partitions
        .iter()
        .find(|partition| !partition.feed().has_room())
    {
        full.feed().wait_for_room(FULL_WAIT);
    }
}

/// A file (or a stream) on its way into a feed.
struct FilePartition {
    assignment: Assignment,
    /// What messages call it.
    path: PathBuf,
    until: Until,
    open: Option<(Input, Lines)>,
    /// The end was met; it is not looked at before this.
    next_look: Option<Instant>,
    /// The length is not looked at before this.
    next_end: Instant,
}

impl FilePartition {
    fn new(assignment: Assignment, root: &Root, until: Until) -> Self {
        let path = root.path(&assignment.partition.name);
        Self {
            assignment,
            path,
            until,
            open: None,
            next_look: None,
            next_end: Instant::now(),
        }
    }

    fn feed(&self) -> &Feed {
        &self.assignment.feed
    }

    fn step(&mut self) -> Step {
        if self.feed().is_closed() {
            return Step::Done;
        }
        self.show_end();
        if self.next_look.is_some_and(|at| Instant::now() < at) {
            return Step::AtEnd;
        }
        if !self.feed().has_room() {
            return Step::Full;
        }
        self.read_on().unwrap_or_else(|error| {
            self.feed().fail(error);
            Step::Done
        })
    }

    fn show_end(&mut self) {
        let now = Instant::now();
        if now < self.next_end {
            return;
        }
        self.next_end = now + END_INTERVAL;
        if let Some(len) = self.open.as_ref().and_then(|(input, _)| input.len()) {
            self.feed().ends_at(Offset(len));
        }
    }

    fn read_on(&mut self) -> Result<Step, SourceError> {
        let (mut input, mut lines) = match self.open.take() {
            Some(open) => open,
            None => self.open()?,
        };
        if self.next_look.take().is_some() {
            self.look_again(&mut input, lines.read_to())?;
        }
        let (count, outcome) = input.fill(lines.space());
        lines.filled(count);
        while let Some(batch) = lines.next_batch() {
            self.feed().push(batch);
        }
        outcome.map_err(|error| self.read_error(&lines, &error))?;
        let step = match count {
            0 => self.at_end(&input, &mut lines),
            _ => Step::Read,
        };
        self.open = Some((input, lines));
        Ok(step)
    }

    fn at_end(&mut self, input: &Input, lines: &mut Lines) -> Step {
        self.feed().ends_at(Offset(lines.read_to()));
        if self.until == Until::Forever && !input.is_stream() {
            self.feed().caught_up();
            self.next_look = Some(Instant::now() + POLL);
            return Step::AtEnd;
        }
        if let Some(batch) = lines.finish() {
            self.feed().push(batch);
        }
        self.feed().end();
        Step::Done
    }

    fn open(&self) -> Result<(Input, Lines), SourceError> {
        let from = self.assignment.from.unwrap_or_default();
        let opened = if self.assignment.partition.name == STDIN {
            open_stdin(from)?
        } else {
            open_at(&self.path, from).map_err(|reason| self.error(from, reason))?
        };
        self.feed().begin(from);
        Ok((opened, Lines::new(Limits::default(), from.0)))
    }

    fn look_again(&self, input: &mut Input, read_to: u64) -> Result<(), SourceError> {
        let change = input
            .look_again(read_to)
            .map_err(|error| self.error(Offset(read_to), error.to_string()))?;
        let reason = match change {
            Change::None | Change::Grown => return Ok(()),
            Change::Shorter(len) => format!(
                "the file became shorter while it was followed: it has {len} bytes now. Only \
                 append to followed files; rotate by writing to a new file of the glob"
            ),
            Change::Replaced => "another file took its place while it was followed. Only append \
                 to followed files; rotate by writing to a new file of the glob"
                .to_owned(),
        };
        Err(self.error(Offset(read_to), reason))
    }

    fn read_error(&self, lines: &Lines, error: &std::io::Error) -> SourceError {
        let reason = match error.kind() {
            std::io::ErrorKind::UnexpectedEof => format!(
                "the compressed data ends in the middle ({error}): the file is truncated, or \
                 still being written"
            ),
            _ => error.to_string(),
        };
        self.error(Offset(lines.read_to()), reason)
    }

    fn error(&self, at: Offset, reason: String) -> SourceError {
        let partition = format!("{}, at byte {at}", self.path.display());
        SourceError::Read { partition, reason }
    }
}

fn open_stdin(from: Offset) -> Result<Input, SourceError> {
    if from == Offset(0) {
        return Ok(Input::stdin());
    }
    Err(SourceError::Config(format!(
        "standard input was read up to byte {from} by an earlier run and cannot be read again: \
         give a file, or start anew with --fresh"
    )))
}

/// Opens a file at the beginning of a line, or at its end.
fn open_at(path: &Path, from: Offset) -> Result<Input, String> {
    let shorter = || {
        format!(
            "the file is shorter than what was read of it before ({from} bytes): it was \
             truncated or replaced. Restore it, or start anew with --fresh"
        )
    };
    // One byte more is read: it ends the line before, unless the file was changed.
    let before = from.0.saturating_sub(1);
    let mut input = Input::open(path, before)
        .map_err(|error| error.to_string())?
        .ok_or_else(shorter)?;
    if from.0 > 0 {
        let mut last = [0];
        let (count, outcome) = input.fill(&mut last);
        outcome.map_err(|error| error.to_string())?;
        if count == 0 {
            return Err(shorter());
        }
        if last != *b"\n" && !at_line_border(path, from).map_err(|error| error.to_string())? {
            return Err(format!(
                "byte {from}, up to which the file was read before, is inside a line now: the \
                 file was changed, or its unfinished last line was read and then continued. \
                 Start anew with --fresh"
            ));
        }
    }
    Ok(input)
}

/// Whether a line that was read without a line end has none, or got one, at `from`.
fn at_line_border(path: &Path, from: Offset) -> std::io::Result<bool> {
    let Some(mut input) = Input::open(path, from.0)? else {
        return Ok(false);
    };
    let mut next = [0];
    let (count, outcome) = input.fill(&mut next);
    outcome?;
    Ok(count == 0 || next == *b"\n" || next == *b"\r")
}
