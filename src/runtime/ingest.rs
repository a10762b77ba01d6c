//! What one worker reads: takes batches from its partitions' inboxes, decodes them, gives each
//! record its effect time, and reports at borders.
//!
//! A plain struct: the source operator in `flow` asks it for blocks and moves capabilities. The
//! rules it keeps, from the protocol:
//!
//! * A partition that was idle or is new is read in epoch `k + 1` only once the mark of border `k`
//!   has come, because that mark brings its floor; until its first record it is reported idle.
//! * The mark of border `k - 1` comes before epoch `k` is closed.
//! * A recorded epoch is read again up to its recorded offsets, whatever the limits are now; its
//!   mark counts once it is closed. How many records there were, and what the partitions'
//!   watermarks are then, must be what the record says: otherwise the input is not the one that was
//!   read before.
//! * A batch whose payloads cannot be understood yet (their schema is on its way) waits in its
//!   partition, which counts as one with records; others go on.
//! * Partitions that run far ahead of the slowest one that has records wait: of
//!   this worker's own that is known at once, of the others' since the last border.
//! * With `--dims-wait D` records are read in epoch `k` when they had been there for `D` before
//!   epoch `k - 1` was opened: what was found of the tables until then takes effect in epoch `k` at
//!   the latest. A partition whose records wait so has a say in the watermark. Recorded epochs and
//!   partitions that have ended do not wait.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use self::batch::BatchWork;
pub use self::batch::Ingested;
use self::lane::{Lane, Patience, elapsed};
use crate::decode::{Decoded, Message, Rejection};
use crate::epoch::{EpochEntry, Position, Report, Resume, Standing};
use crate::flow::Block;
use crate::host;
use crate::ledger::{Fate, Fates};
use crate::rules::{self, Rule};
use crate::source::{Inbox, Partition, RawBatch, SharedFormat, SourceError};
use crate::time::{Epoch, EventTime, Offset, PartitionId, Span, Zone};
use crate::watermark::PartitionWatermark;

mod batch;
mod lane;

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
    /// Where clocks show the times that come without an offset.
    pub zone: Zone,
    /// How far partitions may run ahead of the slowest in event time.
    pub alignment: Span,
    /// How long records wait, in wall time, for dimension rows that come late.
    pub dims_wait: Span,
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

/// See the module.
pub struct Ingest<R> {
    worker: usize,
    options: IngestOptions,
    decode: DecodeFn<R>,
    format: Option<SharedFormat>,
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
    /// When the epoch before the open one was opened, if that was in this run.
    opened_before: Option<EventTime>,
    opened: Instant,
    /// The record of the open epoch, when it is read again.
    recorded: Option<Rc<EpochEntry>>,
    read: u64,
    read_bytes: u64,
    wanted: bool,
    ended: bool,
    stopped: bool,
}

impl<R> Ingest<R> {
    /// On `worker`, without partitions, at the epoch at which `resume` goes on.
    pub fn new(
        worker: usize,
        options: IngestOptions,
        decode: DecodeFn<R>,
        resume: &Resume,
    ) -> Self {
        Self {
            worker,
            options,
            decode,
            format: None,
            lanes: Vec::new(),
            next_lane: 0,
            epoch: resume.epoch,
            marked: resume.epoch,
            border_watermark: resume.watermark,
            slowest_elsewhere: None,
            is_aligned: false,
            opened_at: resume.opened_at,
            opened_before: None,
            opened: host::now(),
            recorded: None,
            read: 0,
            read_bytes: 0,
            wanted: false,
            ended: false,
            stopped: false,
        }
    }

    /// The same, with payloads of this format.
    #[must_use]
    pub fn with_format(self, format: Option<SharedFormat>) -> Self {
        Self { format, ..self }
    }

    /// Adds a partition that was found: it begins idle, at the floor of the border that announced
    /// it.
    pub fn add_found(&mut self, partition: Partition, offset: Option<Offset>, inbox: Inbox) {
        let position = Position {
            offset,
            floor: self.border_watermark,
            standing: Standing::Idle,
            ..Position::start(partition)
        };
        self.add_partition(position, inbox);
    }

    /// Adds a partition that goes on at `position`.
    pub fn add_partition(&mut self, position: Position, inbox: Inbox) {
        let Position {
            partition,
            offset,
            max_event,
            floor,
            standing,
        } = position;
        self.ended = false;
        let format = self.format.as_ref();
        self.lanes.push(Lane {
            partition,
            unpack: format.map(|format| format.unpacker(inbox.waker())),
            inbox,
            rest: VecDeque::new(),
            is_blocked: false,
            watermark: PartitionWatermark::resume(self.options.wait, max_event, floor),
            standing: taken_up(standing),
            epoch_from: offset,
            position: offset,
            gaps: 0,
            read: 0,
            heard: host::now(),
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

    /// The mark of the next border has come: partitions without a say in its watermark get it
    /// as their floor.
    pub fn take_mark(&mut self, entry: &EpochEntry) {
        debug_assert_eq!(entry.epoch, self.marked, "marks come in order");
        let rows = entry.partitions.iter().filter(|row| row.gets_floor());
        let without_say: BTreeSet<PartitionId> = rows.map(|row| row.partition).collect();
        for lane in self
            .lanes
            .iter_mut()
            .filter(|lane| without_say.contains(&lane.partition.id))
        {
            if lane.watermark.floor() > EventTime::MIN && !rules::on(Rule::FloorEachBorder) {
                continue;
            }
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

    /// The open epoch is one that is recorded as `entry`: reads its ranges, and no more.
    pub fn replay(&mut self, entry: Rc<EpochEntry>) {
        self.recorded = Some(entry);
    }

    /// Whether the open epoch is recorded.
    pub const fn is_replaying(&self) -> bool {
        self.recorded.is_some()
    }

    /// Closes the open epoch, if it is recorded and its ranges were read again; the next one was
    /// opened at `next_opened_at`. `false`: not yet.
    ///
    /// # Errors
    /// When the input is not what it was: it has ended too early, or other event times were read.
    pub fn close_recorded(&mut self, next_opened_at: EventTime) -> Result<bool, SourceError> {
        let Some(entry) = self.recorded.clone() else {
            return Ok(false);
        };
        let row_of = |id| entry.partitions.iter().find(|row| row.partition == id);
        let rows: Vec<_> = self
            .lanes
            .iter()
            .map(|it| row_of(it.partition.id))
            .collect();
        for (lane, row) in self.lanes.iter().zip(&rows) {
            let Some(row) = row else { continue };
            if !lane.has_reached(row) {
                return lane.check_goes_on(row).map(|()| false);
            }
            lane.check_counts(row)?;
            lane.check_watermark(row)?;
        }
        for (lane, row) in self.lanes.iter_mut().zip(&rows) {
            lane.standing = row.map_or(lane.standing, |row| taken_up(row.standing));
            (lane.epoch_from, lane.gaps, lane.read) = (lane.position, 0, 0);
        }
        self.recorded = None;
        self.open_next(next_opened_at);
        Ok(true)
    }

    fn open_next(&mut self, opened_at: EventTime) {
        self.epoch = self.epoch.next();
        self.opened_before = Some(self.opened_at);
        self.opened_at = opened_at;
        self.opened = host::now();
        (self.read, self.read_bytes, self.wanted) = (0, 0, false);
    }

    /// Closes the open epoch and says what was read in it. Afterwards, with `stop`, nothing more is.
    pub fn close(&mut self, next_opened_at: EventTime, stop: bool) -> Report {
        let (idle_after, patience) = (self.options.idle_after, self.patience());
        let partitions = self
            .lanes
            .iter_mut()
            .map(|lane| lane.close(idle_after, patience))
            .collect();
        let report = Report {
            worker: self.worker,
            epoch: self.epoch,
            partitions,
        };
        self.stopped = stop;
        self.open_next(next_opened_at);
        report
    }

    /// Whether to ask for a border now: once per epoch when much was read or the next mark is
    /// waited for, and once when all has ended.
    pub fn wants_border(&mut self) -> bool {
        if self.is_replaying() {
            return false;
        }
        let full = self.read >= EPOCH_RECORDS || self.read_bytes >= EPOCH_BYTES;
        let ends = !self.ended && self.has_ended();
        let waits = self.is_aligned && self.may_close() && elapsed(self.opened) >= ALIGNED_EPOCH;
        let wants = !self.stopped && (((full || waits) && !self.wanted) || ends);
        self.wanted |= wants;
        self.ended |= ends;
        wants
    }

    fn has_ended(&self) -> bool {
        !self.lanes.is_empty()
            && self.lanes.iter().all(|lane| {
                let (state, waiting) = lane.state();
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
            let (state, waiting) = lane.state();
            state.failed.filter(|_| !waiting)
        })
    }

    /// The next batch of the partitions in turn, decoded; `None` when none may be read now.
    pub fn next_batch(&mut self) -> Option<Ingested<R>> {
        if let Some(entry) = self.recorded.clone() {
            return self.next_recorded(&entry);
        }
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
        let (free_here, patience) = (self.limit_of(here), self.patience());
        self.is_aligned = self.lanes.iter().any(|lane| {
            let watermark = lane.watermark.current();
            watermark > limit && watermark <= free_here && lane.is_ready(patience)
        });
        None
    }

    fn next_recorded(&mut self, entry: &EpochEntry) -> Option<Ingested<R>> {
        for turn in 0..self.lanes.len() {
            let index = (self.next_lane + turn) % self.lanes.len();
            let lane = &mut self.lanes[index];
            let mut rows = entry.partitions.iter();
            let row = rows.find(|row| row.partition == lane.partition.id);
            if let Some(batch) = row.and_then(|row| lane.pop_recorded(row)) {
                self.next_lane = index + 1;
                return Some(self.decode_batch(index, batch));
            }
        }
        None
    }

    /// The watermark of the slowest partition of this worker that has records.
    fn slowest_here(&self) -> Option<EventTime> {
        let patience = self.patience();
        let waiting = self
            .lanes
            .iter()
            .filter(|lane| lane.standing == Standing::Active && lane.is_ready(patience));
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

    fn patience(&self) -> Patience {
        Patience {
            wait: self.options.dims_wait,
            settled: self.opened_before,
        }
    }

    fn take_from(&mut self, index: usize, limit: EventTime) -> Option<RawBatch> {
        let patience = self.patience();
        let lane = &mut self.lanes[index];
        let floor_is_known = lane.standing != Standing::Idle
            || self.marked == self.epoch
            || !rules::on(Rule::FloorWait);
        if !floor_is_known || lane.watermark.current() > limit || !lane.is_ready(patience) {
            return None;
        }
        lane.pop_ready()
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
            unpack: lane.unpack.as_deref_mut(),
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
        lane.heard = host::now();
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

/// The standing of a partition that another run has left so: an input that had ended may have grown
/// since, and only its own reader knows.
const fn taken_up(standing: Standing) -> Standing {
    match standing {
        Standing::Ended => Standing::Active,
        standing => standing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Reason;
    use crate::epoch::PartitionReport;
    use crate::source::{Feed, RawRecord, Unpack, feed};

    /// A worker that reads partition 0, and what it reads from.
    fn reading() -> (Ingest<()>, Feed) {
        reading_after(Span::ZERO)
    }

    /// The same, with `--dims-wait`.
    fn reading_after(dims_wait: Span) -> (Ingest<()>, Feed) {
        let options = IngestOptions {
            topic: "test".to_owned(),
            wait: Span::ZERO,
            grain: Span(1),
            idle_after: Duration::ZERO,
            max_ahead: Span::minutes(5),
            zone: Zone::UTC,
            alignment: Span::minutes(5),
            dims_wait,
            discovers: false,
            started_at: EventTime(0),
        };
        let partition = Partition {
            id: PartitionId(0),
            name: "p0".to_owned(),
        };
        let resume = Resume::fresh([partition.clone()], EventTime(0));
        let decode: DecodeFn<()> = Box::new(|_| Ok(Decoded::Skip));
        let mut ingest = Ingest::new(0, options, decode, &resume);
        let (feed, inbox) = feed(|| ());
        ingest.add_partition(Position::start(partition), inbox);
        (ingest, feed)
    }

    /// Epoch 0 as it is recorded when the partition had ended without a record.
    fn ended_empty(watermark: i64) -> EpochEntry {
        let row = PartitionReport {
            partition: PartitionId(0),
            is_located: false,
            from: Offset(0),
            to: Offset(0),
            gaps: 0,
            max_event: EventTime::MIN,
            read: 0,
            watermark: EventTime::MIN,
            own_watermark: EventTime::MIN,
            standing: Standing::Ended,
            has_backlog: false,
        };
        EpochEntry {
            epoch: Epoch(0),
            opened_at: EventTime(0),
            partitions: vec![row],
            found: Vec::new(),
            watermark: EventTime(watermark),
            proved: EventTime::MIN,
            proved_but_ended: EventTime::MIN,
            before_clock: EventTime::MIN,
            is_checkpoint: false,
            is_full: false,
            ending: None,
            dims: None,
        }
    }

    #[test]
    fn what_had_ended_in_another_run_may_go_on_in_this_one() {
        let (mut ingest, feed) = reading();
        let entry = Rc::new(ended_empty(90));
        ingest.replay(Rc::clone(&entry));
        assert!(ingest.close_recorded(EventTime(0)).unwrap());
        ingest.take_mark(&entry);
        let report = ingest.close(EventTime(0), false);
        assert_eq!(report.partitions[0].standing, Standing::Active);
        feed.end();
        ingest.take_mark(&EpochEntry {
            epoch: Epoch(1),
            ..ended_empty(90)
        });
        let report = ingest.close(EventTime(0), false);
        assert_eq!(report.partitions[0].standing, Standing::Ended);
    }

    /// Payloads that cannot be understood before `is_known`; then they lose their first byte.
    struct Slow(Rc<std::cell::Cell<bool>>);

    impl Unpack for Slow {
        fn prepare(&mut self, _: &RawBatch) -> bool {
            self.0.get()
        }

        fn unpack<'a>(&'a mut self, payload: &'a [u8]) -> Result<&'a [u8], Rejection> {
            match payload {
                [b'x', rest @ ..] => Ok(rest),
                _ => Err(Rejection::new(Reason::Undecodable, "no x")),
            }
        }
    }

    #[test]
    fn a_batch_that_cannot_be_unpacked_waits_and_counts_as_there() {
        let (mut ingest, feed) = reading();
        ingest.decode = Box::new(|message| match message.value {
            b"{}" => Ok(Decoded::Record(EventTime(0), ())),
            other => panic!("{other:?} was not unpacked"),
        });
        let is_known = Rc::new(std::cell::Cell::new(false));
        ingest.lanes[0].unpack = Some(Box::new(Slow(Rc::clone(&is_known))));
        let record = |offset, start, end| RawRecord {
            offset: Offset(offset),
            value: Some((start, end)),
            key: None,
            append_time: None,
        };
        feed.push(RawBatch {
            bytes: b"x{}y{}".to_vec(),
            records: vec![record(0, 0, 3), record(1, 3, 6)],
            next_offset: Offset(2),
            ..RawBatch::default()
        });
        feed.end();
        assert!(ingest.next_batch().is_none() && ingest.next_batch().is_none());
        assert!(!ingest.has_ended(), "a batch waits");
        let report = ingest.close(EventTime(0), false);
        let row = &report.partitions[0];
        assert!(row.has_backlog && row.read == 0 && row.to == Offset(0));
        assert_eq!(row.standing, Standing::Active);
        is_known.set(true);
        ingest.take_mark(&ended_empty(0));
        let ingested = ingest.next_batch().expect("it can be read now");
        assert_eq!(ingested.block.records.len(), 1);
        assert_eq!(ingested.dead[0].value.value, b"y{}", "as it came");
        assert!(ingest.has_ended());
    }

    #[test]
    fn a_silent_partition_whose_batch_cannot_be_unpacked_has_a_say_again() {
        let (mut ingest, feed) = reading();
        let is_known = Rc::new(std::cell::Cell::new(false));
        ingest.lanes[0].unpack = Some(Box::new(Slow(Rc::clone(&is_known))));
        feed.caught_up();
        assert_eq!(close(&mut ingest, EventTime(0)).standing, Standing::Idle);
        feed.push(batch(7));
        assert!(ingest.next_batch().is_none());
        assert_eq!(close(&mut ingest, EventTime(0)).standing, Standing::Active);
        is_known.set(true);
        assert!(ingest.next_batch().is_some());
    }

    #[test]
    fn a_recorded_epoch_needs_no_schema_of_what_lies_behind_it() {
        /// Knows the schemas of what lies before this offset.
        struct UpTo(Offset);
        impl Unpack for UpTo {
            fn prepare(&mut self, batch: &RawBatch) -> bool {
                batch.next_offset <= self.0
            }
            fn unpack<'a>(&'a mut self, payload: &'a [u8]) -> Result<&'a [u8], Rejection> {
                Ok(payload)
            }
        }
        let (mut ingest, feed) = reading();
        ingest.lanes[0].unpack = Some(Box::new(UpTo(Offset(4))));
        feed.push(batch(7));
        let mut entry = ended_empty(0);
        entry.partitions[0].to = Offset(4);
        entry.partitions[0].standing = Standing::Active;
        ingest.replay(Rc::new(entry.clone()));
        let read = ingest.next_batch().expect("its schemas are known");
        assert_eq!(read.block.to, Offset(4));
        assert!(ingest.close_recorded(EventTime(0)).unwrap());
        ingest.take_mark(&entry);
        assert!(ingest.next_batch().is_none() && !ingest.has_ended());
        ingest.lanes[0].unpack = None;
        assert_eq!(ingest.next_batch().expect("the rest").block.to, Offset(7));
    }

    #[test]
    fn a_partition_that_ended_empty_gets_a_floor() {
        let (mut ingest, feed) = reading();
        feed.end();
        let report = ingest.close(EventTime(0), false);
        assert_eq!(report.partitions[0].standing, Standing::Ended);
        ingest.take_mark(&ended_empty(90));
        let report = ingest.close(EventTime(0), false);
        assert_eq!(report.partitions[0].watermark, EventTime(90));
    }

    /// A batch without a record that ends at `next_offset`.
    fn batch(next_offset: u64) -> RawBatch {
        RawBatch {
            next_offset: Offset(next_offset),
            ..RawBatch::default()
        }
    }

    /// Closes the open epoch; the next one opens at `opened_at`.
    fn close(ingest: &mut Ingest<()>, opened_at: EventTime) -> PartitionReport {
        let epoch = ingest.epoch();
        let report = ingest.close(opened_at, false);
        ingest.take_mark(&EpochEntry {
            epoch,
            partitions: report.partitions.clone(),
            ..ended_empty(0)
        });
        report.partitions[0].clone()
    }

    #[test]
    fn records_wait_until_what_was_found_meanwhile_has_taken_effect() {
        let (mut ingest, feed) = reading_after(Span::minutes(1));
        feed.caught_up();
        assert_eq!(close(&mut ingest, EventTime(0)).standing, Standing::Idle);
        feed.push(batch(7));
        feed.caught_up();
        let since = ingest.lanes[0].inbox.since().expect("a batch");
        let over = since.plus(Span::minutes(1));
        for opened_at in [EventTime(over.0 - 1), over, over] {
            assert!(ingest.next_batch().is_none(), "{}", ingest.epoch());
            let row = close(&mut ingest, opened_at);
            assert_eq!(row.standing, Standing::Active, "the watermark waits, too");
            assert_eq!((row.to, row.has_backlog), (Offset(0), false));
        }
        let read = ingest.next_batch().expect("the wait is over");
        assert_eq!(read.block.to, Offset(7));
    }

    #[test]
    fn a_wait_that_was_over_before_the_run_begins_anew() {
        let (mut ingest, feed) = reading_after(Span(1));
        ingest.opened_at = EventTime::MAX;
        feed.push(batch(7));
        assert!(ingest.next_batch().is_none());
        close(&mut ingest, EventTime::MAX);
        assert!(ingest.next_batch().is_some());
    }

    #[test]
    fn the_end_of_the_input_releases_what_waits() {
        let (mut ingest, feed) = reading_after(Span::minutes(1));
        feed.push(batch(7));
        assert!(ingest.next_batch().is_none());
        feed.end();
        assert!(ingest.next_batch().is_some());
    }

    #[test]
    fn a_recorded_epoch_is_read_without_a_wait_and_what_follows_waits() {
        let (mut ingest, feed) = reading_after(Span::minutes(1));
        feed.push(batch(7));
        let mut entry = ended_empty(0);
        entry.partitions[0].to = Offset(4);
        entry.partitions[0].standing = Standing::Active;
        ingest.replay(Rc::new(entry.clone()));
        let read = ingest.next_batch().expect("it is recorded");
        assert_eq!(read.block.to, Offset(4));
        assert!(ingest.close_recorded(EventTime(0)).unwrap());
        ingest.take_mark(&entry);
        assert!(ingest.next_batch().is_none());
        assert_eq!(close(&mut ingest, EventTime::MAX).to, Offset(4));
        close(&mut ingest, EventTime::MAX);
        let read = ingest.next_batch().expect("the wait is over");
        assert_eq!(read.block.to, Offset(7));
    }
}
