//! What one worker reads: takes batches from its partitions' inboxes, decodes them, gives each
//! record its effect time, and reports at borders.
//!
//! A plain struct: the source operator in `flow` asks it for blocks and moves capabilities. The
//! rules it keeps, from the protocol:
//!
//! * A partition that was idle or is new is read in epoch `k + 1` only once the mark of border `k`
//!   has come, because that mark brings its floor; until its first record it is reported idle.
//! * The mark of border `k - 1` comes before epoch `k` is closed.
//! * Partitions that run far ahead of the slowest one that has records wait: of
//!   this worker's own that is known at once, of the others' since the last border.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::decode::{DeadLetter, Decoded, Message, Reason, Rejection};
use crate::epoch::{EpochEntry, PartitionReport, Report, Standing};
use crate::flow::{Block, Record};
use crate::ledger::{Fate, Fates};
use crate::source::{FeedState, Inbox, Partition, RawBatch, RawRecord, SourceError};
use crate::time::{Epoch, EventTime, Offset, PartitionId, Span};
use crate::watermark::PartitionWatermark;

/// A broker's answer counts as confirmation that it can be reached for so long.
const CONFIRMED: Duration = Duration::from_secs(5);
/// A worker asks for a border when it has read so many records in an epoch ...
const EPOCH_RECORDS: u64 = 400_000;
/// ... or so many bytes.
const EPOCH_BYTES: u64 = 48 << 20;
/// Partitions wait when they are this many windows ahead of the slowest one with records.
const ALIGNMENT: i64 = 16;

/// An epoch in which a partition waits for one of another worker lasts at least so long.
const ALIGNED_EPOCH: Duration = Duration::from_millis(10);

/// The rules of reading.
#[derive(Clone, Debug)]
pub struct IngestOptions {
    /// What `source_topic` shows.
    pub topic: String,
    /// How far the watermark stays behind.
    pub wait: Span,
    /// Capabilities move in steps of this.
    pub grain: Span,
    /// How long a partition is silent before it counts as idle.
    pub idle_after: Duration,
    /// How far ahead of the clock an event time may be.
    pub max_ahead: Span,
    /// How far partitions may run ahead of the slowest in event time.
    pub alignment: Span,
    /// Whether new partitions may be found while running.
    pub discovers: bool,
    /// The far-future reference of the first epoch.
    pub started_at: EventTime,
}

impl IngestOptions {
    /// The alignment limit for windows of `size`: never less than what disorder needs.
    pub fn alignment_for(size: Span, wait: Span) -> Span {
        Span(
            size.0
                .max(60_000)
                .saturating_mul(ALIGNMENT)
                .saturating_add(wait.0.saturating_mul(2)),
        )
    }
}

/// Decodes one message.
pub type DecodeFn<R> = Box<dyn Fn(Message<'_>) -> Result<Decoded<R>, Rejection>>;

/// A partition that this worker reads.
struct Lane {
    partition: Partition,
    inbox: Inbox,
    watermark: PartitionWatermark,
    standing: Standing,
    /// Where the records of the open epoch begin.
    epoch_from: Option<Offset>,
    position: Option<Offset>,
    /// Offsets of the open epoch that were never delivered, and records that were.
    gaps: u64,
    read: u64,
    heard: Instant,
}

impl Lane {
    fn is_silent(&self, state: &FeedState, idle_after: Duration) -> bool {
        let confirmed = state.caught_up.is_some_and(|at| at.elapsed() < CONFIRMED);
        let is_empty = self.watermark.max_event() == EventTime::MIN;
        confirmed && (is_empty || self.heard.elapsed() >= idle_after)
    }
}

/// One batch, decoded.
pub struct Ingested<R> {
    /// The records.
    pub block: Block<R>,
    /// What could not be used.
    pub dead: Vec<Record<DeadLetter>>,
    /// How many records were read, rejected and skipped.
    pub fates: Fates,
    /// How many bytes they had.
    pub bytes: u64,
}

/// See the module.
pub struct Ingest<R> {
    worker: usize,
    options: IngestOptions,
    decode: DecodeFn<R>,
    lanes: Vec<Lane>,
    next_lane: usize,
    epoch: Epoch,
    /// Marks of the borders before this epoch have come.
    marked: Epoch,
    border_watermark: EventTime,
    /// The slowest partition of other workers that had records at the last border.
    slowest_elsewhere: Option<EventTime>,
    /// Whether a partition waits for one of another worker.
    is_aligned: bool,
    opened_at: EventTime,
    opened: Instant,
    read: u64,
    read_bytes: u64,
    wanted: bool,
    ended: bool,
    stopped: bool,
}

impl<R> Ingest<R> {
    /// On `worker`, without partitions, in epoch 0.
    pub fn new(worker: usize, options: IngestOptions, decode: DecodeFn<R>) -> Self {
        let opened_at = options.started_at;
        Self {
            worker,
            options,
            decode,
            lanes: Vec::new(),
            next_lane: 0,
            epoch: Epoch(0),
            marked: Epoch(0),
            border_watermark: EventTime::MIN,
            slowest_elsewhere: None,
            is_aligned: false,
            opened_at,
            opened: Instant::now(),
            read: 0,
            read_bytes: 0,
            wanted: false,
            ended: false,
            stopped: false,
        }
    }

    /// Adds a partition: one that is there at the start has a say at once, one that is found later
    /// begins idle, at the floor of the border that announced it.
    pub fn add_partition(&mut self, partition: Partition, inbox: Inbox, standing: Standing) {
        let mut watermark = PartitionWatermark::new(self.options.wait);
        if standing == Standing::Idle {
            watermark.raise_floor(self.border_watermark);
        }
        self.ended = false;
        self.lanes.push(Lane {
            partition,
            inbox,
            watermark,
            standing,
            epoch_from: None,
            position: None,
            gaps: 0,
            read: 0,
            heard: Instant::now(),
        });
    }

    /// The epoch that is open.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The next border whose mark is due.
    pub const fn next_mark(&self) -> Epoch {
        self.marked
    }

    /// The mark of the next border has come: idle partitions get its watermark as their floor.
    pub fn take_mark(&mut self, entry: &EpochEntry) {
        debug_assert_eq!(entry.epoch, self.marked, "marks come in order");
        let idle = entry
            .partitions
            .iter()
            .filter(|row| row.standing == Standing::Idle);
        let idle: BTreeSet<PartitionId> = idle.map(|row| row.partition).collect();
        for lane in self
            .lanes
            .iter_mut()
            .filter(|lane| idle.contains(&lane.partition.id))
        {
            lane.watermark.raise_floor(entry.watermark);
        }
        self.marked = entry.epoch.next();
        self.border_watermark = entry.watermark;
        let elsewhere = entry.partitions.iter().filter(|row| {
            row.standing == Standing::Active
                && row.has_backlog
                && !self
                    .lanes
                    .iter()
                    .any(|lane| lane.partition.id == row.partition)
        });
        self.slowest_elsewhere = elsewhere.map(|row| row.watermark).min();
    }

    /// Whether the open epoch may be closed: the mark of the border before it has come.
    pub fn may_close(&self) -> bool {
        self.marked == self.epoch
    }

    /// A lower bound of the effect time of every record still to be read here, rounded down.
    pub fn frontier(&self) -> EventTime {
        let open = self
            .lanes
            .iter()
            .filter(|lane| lane.standing != Standing::Ended);
        let lowest = open.map(|lane| lane.watermark.current()).min();
        let bound = match lowest {
            Some(lowest) if !self.options.discovers => lowest,
            Some(lowest) => lowest.min(self.border_watermark),
            None => self.border_watermark,
        };
        bound.floor_to(self.options.grain)
    }

    /// Closes the open epoch and says what was read in it. Afterwards, with `stop`, nothing more is.
    pub fn close(&mut self, next_opened_at: EventTime, stop: bool) -> Report {
        let idle_after = self.options.idle_after;
        let partitions = self
            .lanes
            .iter_mut()
            .map(|lane| close_lane(lane, idle_after))
            .collect();
        let report = Report {
            worker: self.worker,
            epoch: self.epoch,
            partitions,
        };
        self.epoch = self.epoch.next();
        self.opened_at = next_opened_at;
        self.opened = Instant::now();
        self.stopped = stop;
        (self.read, self.read_bytes, self.wanted) = (0, 0, false);
        report
    }

    /// Whether to ask for a border now: once per epoch when much was read or the next mark is
    /// waited for, and once when all has ended.
    pub fn wants_border(&mut self) -> bool {
        let full = self.read >= EPOCH_RECORDS || self.read_bytes >= EPOCH_BYTES;
        let ends = !self.ended && self.has_ended();
        let waits = self.is_aligned && self.may_close() && self.opened.elapsed() >= ALIGNED_EPOCH;
        let wants = !self.stopped && (((full || waits) && !self.wanted) || ends);
        self.wanted |= wants;
        self.ended |= ends;
        wants
    }

    fn has_ended(&self) -> bool {
        !self.lanes.is_empty()
            && self.lanes.iter().all(|lane| {
                let (state, waiting) = lane.inbox.state();
                state.ended && !waiting
            })
    }

    /// Whether a partition waits for one of another worker.
    pub const fn is_aligned(&self) -> bool {
        self.is_aligned
    }

    /// The first failure of a reader.
    pub fn failure(&self) -> Option<SourceError> {
        self.lanes.iter().find_map(|lane| {
            let (state, waiting) = lane.inbox.state();
            state.failed.filter(|_| !waiting)
        })
    }

    /// The next batch of the partitions in turn, decoded; `None` when none may be read now.
    pub fn next_batch(&mut self) -> Option<Ingested<R>> {
        if self.stopped || self.read >= 2 * EPOCH_RECORDS || self.read_bytes >= 2 * EPOCH_BYTES {
            return None;
        }
        let here = self.slowest_here();
        let limit = self.limit(here);
        self.is_aligned = false;
        for turn in 0..self.lanes.len() {
            let index = (self.next_lane + turn) % self.lanes.len();
            if let Some(batch) = self.take_from(index, limit) {
                self.next_lane = index + 1;
                return Some(self.decode_batch(index, batch));
            }
        }
        let free_here = self.limit_of(here);
        self.is_aligned = self.lanes.iter().any(|lane| {
            let watermark = lane.watermark.current();
            watermark > limit && watermark <= free_here && lane.inbox.has_batch()
        });
        None
    }

    /// The watermark of the slowest partition of this worker that has records.
    fn slowest_here(&self) -> Option<EventTime> {
        let waiting = self
            .lanes
            .iter()
            .filter(|lane| lane.standing == Standing::Active && lane.inbox.has_batch());
        waiting.map(|lane| lane.watermark.current()).min()
    }

    /// Partitions with a watermark above this wait for the slowest one that has records.
    fn limit(&self, here: Option<EventTime>) -> EventTime {
        self.limit_of(here.into_iter().chain(self.slowest_elsewhere).min())
    }

    fn limit_of(&self, slowest: Option<EventTime>) -> EventTime {
        match slowest {
            Some(slowest) if slowest > EventTime::MIN => slowest.plus(self.options.alignment),
            _ => EventTime::MAX,
        }
    }

    fn take_from(&self, index: usize, limit: EventTime) -> Option<RawBatch> {
        let lane = &self.lanes[index];
        let floor_is_known = lane.standing != Standing::Idle || self.marked == self.epoch;
        if !floor_is_known || lane.watermark.current() > limit {
            return None;
        }
        lane.inbox.pop()
    }

    fn decode_batch(&mut self, index: usize, batch: RawBatch) -> Ingested<R> {
        let lane = &mut self.lanes[index];
        // What comes before the first record (a blank line, a gap) counts as well.
        let from = lane
            .position
            .or_else(|| lane.inbox.state().0.start)
            .or_else(|| batch.records.first().map(|record| record.offset));
        let from = from.unwrap_or(batch.next_offset);
        let mut work = BatchWork {
            options: &self.options,
            opened_at: self.opened_at,
            decode: &self.decode,
            watermark: &mut lane.watermark,
            partition: lane.partition.id,
            records: Vec::with_capacity(batch.records.len()),
            dead: Vec::new(),
            fates: Fates::default(),
        };
        for record in &batch.records {
            work.record(&batch, record);
        }
        let BatchWork {
            records,
            dead,
            mut fates,
            ..
        } = work;
        fates.read = batch.records.len() as u64 + batch.blank;
        fates.add(Fate::Skipped, batch.blank);
        if !records.is_empty() {
            lane.standing = Standing::Active;
        }
        lane.epoch_from.get_or_insert(from);
        lane.position = Some(batch.next_offset);
        lane.gaps += batch.gaps;
        lane.read += fates.read;
        lane.heard = Instant::now();
        let bytes = batch.bytes.len() as u64;
        self.read += fates.read;
        self.read_bytes += bytes;
        let block = Block {
            partition: lane.partition.id,
            from,
            to: batch.next_offset,
            records,
        };
        Ingested {
            block,
            dead,
            fates,
            bytes,
        }
    }
}

fn close_lane(lane: &mut Lane, idle_after: Duration) -> PartitionReport {
    let (state, has_backlog) = lane.inbox.state();
    if !has_backlog {
        if state.ended {
            lane.standing = Standing::Ended;
        } else if lane.is_silent(&state, idle_after) {
            lane.standing = Standing::Idle;
        }
    }
    // Unknown until the reader has found out where it begins.
    let known = lane.position.or(state.start);
    let position = known.unwrap_or_default();
    let report = PartitionReport {
        partition: lane.partition.id,
        from: lane.epoch_from.unwrap_or(position),
        to: position,
        gaps: lane.gaps,
        read: lane.read,
        watermark: lane.watermark.current(),
        own_watermark: lane.watermark.own(),
        standing: lane.standing,
        has_backlog,
    };
    (lane.epoch_from, lane.gaps, lane.read) = (known, 0, 0);
    report
}

/// Decoding one batch of one partition.
struct BatchWork<'a, R> {
    options: &'a IngestOptions,
    opened_at: EventTime,
    decode: &'a DecodeFn<R>,
    watermark: &'a mut PartitionWatermark,
    partition: PartitionId,
    records: Vec<Record<R>>,
    dead: Vec<Record<DeadLetter>>,
    fates: Fates,
}

impl<R> BatchWork<'_, R> {
    fn record(&mut self, batch: &RawBatch, record: &RawRecord) {
        match self.decoded(batch, record) {
            Ok(Decoded::Record(time, value)) => {
                let effect = self.watermark.observe(time);
                self.records.push(Record {
                    offset: record.offset,
                    time,
                    effect,
                    value,
                });
            }
            Ok(Decoded::Skip) => self.fates.add(Fate::Skipped, 1),
            Err(rejection) => self.reject(batch, record, rejection),
        }
    }

    fn decoded(&self, batch: &RawBatch, record: &RawRecord) -> Result<Decoded<R>, Rejection> {
        let value = batch
            .value(record)
            .ok_or_else(|| Rejection::new(Reason::NoValue, "the message has no payload"))?;
        if batch.truncated.contains(&record.offset) {
            let detail = "the record is longer than the longest that is read whole";
            return Err(Rejection::new(Reason::Undecodable, detail));
        }
        let decoded = (self.decode)(Message {
            value,
            key: batch.key(record),
            record,
        })?;
        if let Decoded::Record(time, _) = &decoded {
            let reference = record.append_time.unwrap_or(self.opened_at);
            let limit = reference.plus(self.options.max_ahead);
            if *time > limit {
                let detail = format!("{time} is more than {} ahead", self.options.max_ahead);
                return Err(Rejection::new(Reason::TooFarAhead, detail));
            }
        }
        Ok(decoded)
    }

    fn reject(&mut self, batch: &RawBatch, record: &RawRecord, rejection: Rejection) {
        self.fates.add(Fate::Rejected, 1);
        let letter = DeadLetter {
            topic: self.options.topic.clone(),
            partition: self.partition,
            offset: record.offset,
            reason: rejection.reason,
            detail: rejection.detail,
            value: batch.value(record).unwrap_or_default().to_vec(),
        };
        let effect = self.watermark.current();
        self.dead.push(Record {
            offset: record.offset,
            time: effect,
            effect,
            value: letter,
        });
    }
}
