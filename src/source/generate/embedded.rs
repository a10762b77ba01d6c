//! The generator as a source inside the process.
//!
//! One thread per reader serves its partitions in turn. Each partition makes only its own events
//! and only while its feed has room, so that a full feed never holds up another partition.

use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use super::pace::Pace;
use super::route::{Place, Walk};
use super::{EventLog, GenerateError};
use crate::source::{
    Assignment, Feed, Partition, RawBatch, RawRecord, Reader, Source, SourceError,
};
use crate::time::{Offset, PartitionId};

/// A batch is handed over when it has grown to this.
const BATCH_BYTES: usize = 128 << 10;
/// How often what has come due is delivered.
const TICK: Duration = Duration::from_millis(20);
/// How long the thread sleeps at most, so that it notices a closed feed.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);
/// How long the thread sleeps at most while a feed is full.
const FULL_SLEEP: Duration = Duration::from_millis(2);
/// How many events one turn of a partition that seeks its position passes at most.
const SEEK_LIMIT: u64 = 1 << 16;

/// An [`EventLog`] as a source: partition `p` has the offsets 0, 1, 2, ... and holds the same
/// records as partition `p` of the folder that [`super::write_files`] makes.
pub struct GeneratorSource(Arc<Inner>);

struct Inner {
    log: EventLog,
    pace: Pace,
    tick: Duration,
}

impl GeneratorSource {
    /// A source that delivers `log` at `speed`: event time against wall clock; `None` as fast as
    /// possible. A live log is delivered at the wall clock, whatever `speed`.
    ///
    /// # Errors
    /// When `speed` is not a positive number.
    pub fn new(log: EventLog, speed: Option<f64>) -> Result<Self, GenerateError> {
        let pace = Pace::new(&log, speed)?;
        Ok(Self(Arc::new(Inner {
            log,
            pace,
            tick: TICK,
        })))
    }

    /// Delivers what has come due every `tick` instead of every 20 ms (for latency measurements).
    ///
    /// # Panics
    /// When a reader has been made already.
    #[must_use]
    pub fn with_tick(mut self, tick: Duration) -> Self {
        Arc::get_mut(&mut self.0)
            .expect("called before the source is shared")
            .tick = tick;
        self
    }
}

impl Source for GeneratorSource {
    fn name(&self) -> String {
        "generate:".to_owned()
    }

    fn partitions(&self) -> Result<Vec<Partition>, SourceError> {
        let partition = |id| Partition {
            id: PartitionId(id),
            name: format!("{}[{id}]", self.name()),
        };
        Ok((0..self.0.log.options().partitions)
            .map(partition)
            .collect())
    }

    fn reader(&self) -> Result<Box<dyn Reader>, SourceError> {
        let (sender, receiver) = unbounded();
        let inner = Arc::clone(&self.0);
        let thread = Builder::new()
            .name("generate".to_owned())
            .spawn(move || run(&inner, &receiver))
            .map_err(|reason| SourceError::Missing(format!("generate: no thread: {reason}")))?;
        Ok(Box::new(GeneratorReader {
            sender: Some(sender),
            thread: Some(thread),
        }))
    }

    fn check(&self) -> Result<String, SourceError> {
        let options = self.0.log.options();
        let events = match self.0.log.schedule().count() {
            Some(count) => format!("{count} events"),
            None => "events without end".to_owned(),
        };
        let (partitions, rate, seed) = (options.partitions, options.rate, options.seed);
        Ok(format!(
            "generate: {events}, {rate}/s, {partitions} partitions, seed {seed}"
        ))
    }
}

struct GeneratorReader {
    /// Gone when the reader is dropped: that ends the thread.
    sender: Option<Sender<Assignment>>,
    thread: Option<JoinHandle<()>>,
}

impl Reader for GeneratorReader {
    fn assign(&mut self, assignment: Assignment) {
        if let Some(sender) = &self.sender {
            // An error means that the thread has panicked; then its feeds stay silent.
            let _ = sender.send(assignment);
        }
    }
}

impl Drop for GeneratorReader {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The reading thread: ends when the reader is dropped.
fn run(inner: &Inner, assignments: &Receiver<Assignment>) {
    let mut lanes: Vec<Lane> = Vec::new();
    loop {
        let mut sleep = if lanes.is_empty() {
            Duration::MAX
        } else {
            LONGEST_SLEEP
        };
        lanes.retain_mut(|lane| match lane.turn(inner) {
            Turn::Go => {
                sleep = Duration::ZERO;
                true
            }
            Turn::Wait(wait) => {
                sleep = sleep.min(wait);
                true
            }
            Turn::Over => {
                sleep = Duration::ZERO;
                false
            }
        });
        match next_assignment(assignments, sleep) {
            Ok(assignment) => lanes.push(Lane::new(inner, assignment)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn next_assignment(
    assignments: &Receiver<Assignment>,
    sleep: Duration,
) -> Result<Assignment, RecvTimeoutError> {
    match Instant::now().checked_add(sleep) {
        Some(deadline) => assignments.recv_deadline(deadline),
        None => assignments.recv().map_err(RecvTimeoutError::from),
    }
}

/// What a partition says after its turn.
enum Turn {
    /// It has more to do at once.
    Go,
    /// It has nothing to do for this long.
    Wait(Duration),
    /// It has ended, or nobody reads it.
    Over,
}

/// One partition on its way into its feed.
struct Lane {
    feed: Feed,
    cursor: Cursor,
    /// What the last batch came to: bytes and records. The next one will need about as much.
    usual: (usize, usize),
}

impl Lane {
    fn new(inner: &Inner, assignment: Assignment) -> Self {
        let start = assignment.from.unwrap_or_default();
        assignment.feed.begin(start);
        Self {
            feed: assignment.feed,
            cursor: Cursor::new(&inner.log, assignment.partition.id, start),
            usual: (0, 0),
        }
    }

    /// Delivers one batch of what is due.
    fn turn(&mut self, inner: &Inner) -> Turn {
        if !self.feed.has_room() {
            return if self.feed.is_closed() {
                Turn::Over
            } else {
                Turn::Wait(FULL_SLEEP)
            };
        }
        let mut batch = RawBatch {
            bytes: Vec::with_capacity(self.usual.0),
            records: Vec::with_capacity(self.usual.1),
            ..RawBatch::default()
        };
        let turn = self.fill(inner, &mut batch);
        if !batch.records.is_empty() {
            self.usual = (batch.bytes.len() + 1024, batch.records.len() + 8);
            batch.next_offset = Offset(self.cursor.offset);
            self.feed.push(batch);
        }
        match turn {
            Turn::Over => self.feed.end(),
            // At the wall clock, what is not yet due does not yet exist.
            Turn::Wait(wait) if inner.log.options().live && wait > inner.tick => {
                self.feed.caught_up();
            }
            _ => {}
        }
        turn
    }

    /// Fills `batch` with what is due.
    fn fill(&mut self, inner: &Inner, batch: &mut RawBatch) -> Turn {
        if !self.cursor.seek(&inner.log) {
            return Turn::Go;
        }
        let mut horizon = None;
        while batch.bytes.len() < BATCH_BYTES {
            let (index, found) = match self.cursor.place(&inner.log) {
                Place::At(index) => (index, true),
                Place::Searching(index) => (index, false),
                Place::End => return Turn::Over,
            };
            let base = inner.log.schedule().base(index);
            // Asked once per batch: a clock costs more than an event.
            let horizon = *horizon.get_or_insert_with(|| inner.pace.horizon(base));
            if base > horizon {
                return Turn::Wait(inner.pace.until(base, horizon).max(inner.tick));
            }
            if !found {
                return Turn::Go;
            }
            self.cursor.append(&inner.log, index, batch);
        }
        Turn::Go
    }
}

/// A position in a partition of the log.
struct Cursor {
    walk: Walk,
    /// The offset of the next record.
    offset: u64,
    /// Records between the walk's place and `offset`.
    to_skip: u64,
    /// Whether `to_skip` records all belong to the event at which the walk stands.
    sought: bool,
}

impl Cursor {
    fn new(log: &EventLog, partition: PartitionId, start: Offset) -> Self {
        let mut walk = Walk::new(log.router(), partition.0);
        let sought = start.0 == 0 || log.is_one_line_per_event() && walk.leap(start.0);
        Self {
            walk,
            offset: start.0,
            to_skip: if sought { 0 } else { start.0 },
            sought,
        }
    }

    /// Moves the walk to the event of the first record that is wanted, a limited way at each
    /// call; `true` when it is there.
    fn seek(&mut self, log: &EventLog) -> bool {
        for _ in 0..SEEK_LIMIT {
            if self.sought {
                return true;
            }
            match self.place(log) {
                Place::At(index) => {
                    let lines = log.fate(index).lines();
                    self.sought = self.to_skip < lines;
                    if !self.sought {
                        self.to_skip -= lines;
                        self.walk.step();
                    }
                }
                Place::Searching(_) => return false,
                Place::End => self.sought = true,
            }
        }
        false
    }

    fn place(&mut self, log: &EventLog) -> Place {
        self.walk.place(log.router(), log.model(), log.schedule())
    }

    /// Appends the records of event `index`, where the walk stands.
    fn append(&mut self, log: &EventLog, index: u64, batch: &mut RawBatch) {
        let start = batch.bytes.len() as u32;
        log.key(index, &mut batch.bytes);
        let end = batch.bytes.len() as u32;
        let key = (start < end).then_some((start, end));
        let lines = log.append(index, &mut batch.bytes);
        for value in lines.ranges().skip(self.to_skip as usize) {
            let offset = Offset(self.offset);
            batch.records.push(RawRecord {
                offset,
                value: Some(value),
                key,
                append_time: None,
            });
            self.offset += 1;
        }
        self.to_skip = 0;
        self.walk.step();
    }
}
