//! Decides at each border, from the reports of all workers, what the log says about the epoch.
//!
//! With `K` the partitions known at border `k`, `w_p` the watermark that partition `p` reports and
//! `A` the active ones among `K`:
//!
//! ```text
//! W_k = max(W_{k-1}, min over A of w_p, rounded down to the grain)        A not empty
//! W_k = W_{k-1}, or moved on by elapsed wall time with --close-on-idle    all idle
//! W_k = after everything                                                  at the declared end
//! ```
//!
//! A partition that nobody reports yet counts as idle. Plain data in, plain data out: no clock of
//! its own, no thread, no timely.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::{Ending, EpochEntry, PartitionReport, Report, Resume, Standing};
use crate::rules::{self, Rule};
use crate::source::Partition;
use crate::time::{Epoch, EventTime, Offset, PartitionId, Span};

/// How borders are set.
#[derive(Clone, Debug)]
pub struct CoordinatorOptions {
    /// How many workers report.
    pub workers: usize,
    /// The longest epoch.
    pub epoch: Duration,
    /// How often an epoch is a checkpoint.
    pub checkpoint: Duration,
    /// W is rounded down to a multiple of this.
    pub grain: Span,
    /// Whether W follows the wall clock while all partitions are idle.
    pub close_on_idle: bool,
    /// Whether the end of all partitions closes the open windows.
    pub drain: bool,
    /// Whether the end of all partitions ends the run.
    pub ends: bool,
}

/// What the workers are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// Read `entry`'s ranges again and close its epoch, with the decisions that it records.
    Replay {
        /// What is recorded.
        entry: EpochEntry,
        /// The far-future reference of the next epoch.
        next_opened_at: EventTime,
    },
    /// Close `epoch` at the next block; the next one opens at wall time `next_opened_at`.
    Close {
        /// The epoch to be closed.
        epoch: Epoch,
        /// Whether to read nothing after it.
        stop: bool,
        /// The far-future reference of the next epoch.
        next_opened_at: EventTime,
    },
    /// The border of an epoch was decided.
    Mark(EpochEntry),
}

/// What was announced with the border that is being closed.
#[derive(Clone, Copy, Debug)]
struct Closing {
    stop: bool,
    next_opened_at: EventTime,
}

/// See the module.
#[derive(Debug)]
pub struct Coordinator {
    options: CoordinatorOptions,
    epoch: Epoch,
    opened_at: EventTime,
    opened: Instant,
    checkpointed: Instant,
    closing: Option<Closing>,
    wanted: bool,
    /// A worker that has closed this epoch already wants to close the next one, too.
    wanted_next: bool,
    stopping: bool,
    finished: bool,
    reports: BTreeMap<usize, Vec<PartitionReport>>,
    known: BTreeSet<PartitionId>,
    found: BTreeMap<PartitionId, Partition>,
    dims: Option<u64>,
    wants_full: bool,
    watermark: EventTime,
    /// Epochs that the workers have still to be told of.
    recorded: VecDeque<EpochEntry>,
}

impl Coordinator {
    /// At the start of a run that goes on at `resume`.
    pub fn new(options: CoordinatorOptions, resume: &Resume, now: Instant) -> Self {
        let known = resume.positions.iter().map(|it| it.partition.id);
        Self {
            options,
            epoch: resume.epoch,
            opened_at: resume.opened_at,
            opened: now,
            checkpointed: now,
            closing: None,
            wanted: false,
            wanted_next: false,
            stopping: false,
            finished: false,
            reports: BTreeMap::new(),
            known: known.collect(),
            found: BTreeMap::new(),
            dims: None,
            wants_full: false,
            watermark: resume.watermark,
            recorded: resume.recorded.iter().cloned().collect(),
        }
    }

    /// Takes in what a worker says at its border.
    pub fn report(&mut self, report: Report) {
        debug_assert_eq!(report.epoch, self.epoch, "one border at a time");
        self.reports.insert(report.worker, report.partitions);
    }

    /// A worker asks to close `epoch` before its time: it has read much, or all there is.
    pub fn want_border(&mut self, epoch: Epoch) {
        if epoch == self.epoch {
            self.wanted |= self.closing.is_none();
        } else {
            self.wanted_next |= epoch > self.epoch;
        }
    }

    /// The source has these partitions now.
    pub fn found(&mut self, partitions: impl IntoIterator<Item = Partition>) {
        for partition in partitions {
            if !self.known.contains(&partition.id) {
                self.found.insert(partition.id, partition);
            }
        }
    }

    /// A dimension refresh with this number is ready to take effect.
    pub const fn refreshed(&mut self, number: u64) {
        self.dims = Some(number);
    }

    /// Whether the next checkpoint is to hold everything.
    pub const fn want_full(&mut self, wants: bool) {
        self.wants_full = wants;
    }

    /// End at the next border, without draining.
    pub const fn stop(&mut self) {
        self.stopping = true;
        self.wanted = true;
    }

    /// Whether the last border was decided.
    pub const fn is_finished(&self) -> bool {
        self.finished
    }

    /// When [`Coordinator::poll`] has something to do, if nothing is reported before.
    pub fn next_poll(&self, now: Instant) -> Duration {
        (self.opened + self.options.epoch).saturating_duration_since(now)
    }

    /// Announces a border that is due, decides one that all workers have reported.
    pub fn poll(&mut self, now: Instant, wall: EventTime) -> Vec<Instruction> {
        let mut instructions = self.replay(now, wall);
        if self.finished {
            return instructions;
        }
        if self.closing.is_none() && (self.wanted || now >= self.opened + self.options.epoch) {
            let closing = Closing {
                stop: self.stopping,
                next_opened_at: wall,
            };
            self.closing = Some(closing);
            self.wanted = false;
            instructions.push(Instruction::Close {
                epoch: self.epoch,
                stop: closing.stop,
                next_opened_at: closing.next_opened_at,
            });
        }
        if let Some(closing) = self.closing
            && self.reports.len() == self.options.workers
        {
            instructions.push(Instruction::Mark(self.decide(closing, now)));
        }
        instructions
    }

    /// Has the recorded epochs replayed, all at once; the epoch after them is the first that is
    /// decided here.
    fn replay(&mut self, now: Instant, wall: EventTime) -> Vec<Instruction> {
        let mut instructions = Vec::new();
        while let Some(mut entry) = self.recorded.pop_front() {
            entry.is_checkpoint &= rules::on(Rule::CheckpointLogged) || entry.ending.is_some();
            debug_assert_eq!(entry.epoch, self.epoch, "recorded without a hole");
            let next = self.recorded.front();
            let next_opened_at = next.map_or(wall, |next| next.opened_at);
            self.opened_at = next_opened_at;
            (self.opened, self.checkpointed) = (now, now);
            self.epoch = entry.epoch.next();
            self.watermark = entry.watermark;
            self.known.extend(entry.found.iter().map(|found| found.id));
            self.finished = entry.ending.is_some();
            instructions.push(Instruction::Replay {
                entry,
                next_opened_at,
            });
        }
        let known = &self.known;
        self.found.retain(|id, _| !known.contains(id));
        instructions
    }

    fn decide(&mut self, closing: Closing, now: Instant) -> EpochEntry {
        let partitions = self.complete_reports();
        let found: Vec<Partition> = std::mem::take(&mut self.found).into_values().collect();
        let ending = self.ending(closing, &partitions, &found);
        let drains = self.options.drain;
        let own = |keep: &dyn Fn(&PartitionReport) -> bool| {
            let passed = partitions
                .iter()
                .filter(|row| keep(row))
                .map(|row| row.own_watermark);
            passed.min().unwrap_or(EventTime::MAX)
        };
        let before_clock = self.rounded_minimum(&partitions);
        let watermark = match ending {
            Some(Ending::Drained) => EventTime::MAX,
            Some(Ending::Stopped) => before_clock,
            None => self.follow_clock(&partitions, before_clock, now),
        };
        let last = ending.is_some();
        let is_checkpoint = last || now >= self.checkpointed + self.options.checkpoint;
        let entry = EpochEntry {
            epoch: self.epoch,
            opened_at: self.opened_at,
            watermark,
            proved: own(&|_| true),
            proved_but_ended: own(&|row| !(drains && row.standing == Standing::Ended)),
            before_clock,
            is_checkpoint,
            is_full: is_checkpoint && self.wants_full,
            ending,
            dims: self.dims.take(),
            partitions,
            found,
        };
        self.open_next(closing, &entry, now);
        entry
    }

    /// The rows of all known partitions in order; one that nobody reads yet is idle and empty.
    fn complete_reports(&mut self) -> Vec<PartitionReport> {
        let mut rows: BTreeMap<PartitionId, PartitionReport> = std::mem::take(&mut self.reports)
            .into_values()
            .flatten()
            .map(|row| (row.partition, row))
            .collect();
        let unread = |partition: &PartitionId| PartitionReport {
            partition: *partition,
            is_located: false,
            from: Offset(0),
            to: Offset(0),
            gaps: 0,
            max_event: EventTime::MIN,
            read: 0,
            watermark: EventTime::MIN,
            own_watermark: EventTime::MIN,
            standing: Standing::Idle,
            has_backlog: false,
        };
        self.known
            .iter()
            .map(|id| rows.remove(id).unwrap_or_else(|| unread(id)))
            .collect()
    }

    fn ending(
        &self,
        closing: Closing,
        partitions: &[PartitionReport],
        found: &[Partition],
    ) -> Option<Ending> {
        let all_ended = partitions.iter().all(|row| row.standing == Standing::Ended);
        if self.options.ends && all_ended && found.is_empty() {
            let drained = self.options.drain;
            return Some(if drained {
                Ending::Drained
            } else {
                Ending::Stopped
            });
        }
        closing.stop.then_some(Ending::Stopped)
    }

    fn rounded_minimum(&self, partitions: &[PartitionReport]) -> EventTime {
        // Where the input is not declared complete, a partition at its end may go on in another run.
        let goes_on = |row: &PartitionReport| {
            !self.options.drain && row.standing == Standing::Ended && row.own_watermark.is_finite()
        };
        let active = partitions
            .iter()
            .filter(|row| row.standing == Standing::Active || goes_on(row));
        let minimum = active.map(|row| row.watermark).min();
        minimum.map_or(self.watermark, |minimum| {
            self.watermark.max(minimum.floor_to(self.options.grain))
        })
    }

    fn follow_clock(
        &self,
        partitions: &[PartitionReport],
        base: EventTime,
        now: Instant,
    ) -> EventTime {
        let has_a_say = |row: &PartitionReport| match row.standing {
            Standing::Active => true,
            Standing::Idle => false,
            Standing::Ended => !self.options.drain,
        };
        let all_idle = partitions.iter().any(|row| row.standing == Standing::Idle)
            && !partitions.iter().any(has_a_say);
        if !(self.options.close_on_idle && all_idle) || base == EventTime::MIN {
            return base;
        }
        let elapsed = now.saturating_duration_since(self.opened);
        base.plus(Span(i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)))
    }

    fn open_next(&mut self, closing: Closing, entry: &EpochEntry, now: Instant) {
        self.watermark = entry.watermark;
        self.known
            .extend(entry.found.iter().map(|partition| partition.id));
        self.finished = entry.ending.is_some();
        if entry.is_checkpoint {
            self.checkpointed = now;
        }
        self.epoch = self.epoch.next();
        self.opened = now;
        self.opened_at = closing.next_opened_at;
        self.closing = None;
        self.wanted |= std::mem::take(&mut self.wanted_next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::Completeness;

    fn options(workers: usize) -> CoordinatorOptions {
        CoordinatorOptions {
            workers,
            epoch: Duration::from_millis(250),
            checkpoint: Duration::from_secs(10),
            grain: Span(100),
            close_on_idle: false,
            drain: true,
            ends: true,
        }
    }

    /// A coordinator with its clocks.
    struct Desk {
        coordinator: Coordinator,
        now: Instant,
        wall: i64,
    }

    impl Desk {
        fn new(options: CoordinatorOptions, partitions: u32) -> Self {
            let now = Instant::now();
            let partitions = (0..partitions).map(|id| Partition {
                id: PartitionId(id),
                name: format!("p{id}"),
            });
            let resume = Resume::fresh(partitions, EventTime(0));
            Self {
                coordinator: Coordinator::new(options, &resume, now),
                now,
                wall: 0,
            }
        }

        /// Lets time pass until a border, reports `rows` from one worker, and returns the entry.
        fn border(&mut self, rows: &[PartitionReport]) -> EpochEntry {
            self.now += Duration::from_millis(250);
            self.wall += 250;
            let announced = self.coordinator.poll(self.now, EventTime(self.wall));
            assert!(
                matches!(announced[..], [Instruction::Close { .. }]),
                "{announced:?}"
            );
            let epoch = self.coordinator.epoch;
            self.coordinator.report(Report {
                worker: 0,
                epoch,
                partitions: rows.to_vec(),
            });
            match self
                .coordinator
                .poll(self.now, EventTime(self.wall))
                .remove(0)
            {
                Instruction::Mark(entry) => entry,
                other => panic!("{other:?}"),
            }
        }
    }

    fn row(partition: u32, watermark: i64, standing: Standing) -> PartitionReport {
        let watermark = EventTime(watermark);
        PartitionReport {
            partition: PartitionId(partition),
            is_located: true,
            from: Offset(0),
            to: Offset(0),
            gaps: 0,
            max_event: watermark,
            read: 0,
            watermark,
            own_watermark: watermark,
            standing,
            has_backlog: false,
        }
    }

    #[test]
    fn w_is_the_rounded_minimum_of_the_active_partitions_and_never_falls() {
        let mut desk = Desk::new(options(1), 2);
        let active = |p, w| row(p, w, Standing::Active);
        assert_eq!(
            desk.border(&[active(0, 1234), active(1, 999)]).watermark,
            EventTime(900)
        );
        let idle = desk.border(&[active(0, 1234), row(1, 999, Standing::Idle)]);
        assert_eq!(idle.watermark, EventTime(1200));
        assert_eq!(idle.completeness(EventTime(900)), Completeness::Proved);
        assert_eq!(idle.completeness(EventTime(1100)), Completeness::Idle);
        assert_eq!(
            desk.border(&[active(0, 1234), active(1, 1000)]).watermark,
            EventTime(1200)
        );
    }

    #[test]
    fn a_partition_that_nobody_reports_is_idle() {
        let mut desk = Desk::new(options(1), 1);
        let partition = Partition {
            id: PartitionId(7),
            name: "late".to_owned(),
        };
        desk.coordinator.found([partition.clone()]);
        let entry = desk.border(&[row(0, 500, Standing::Active)]);
        assert_eq!(entry.found, [partition]);
        assert_eq!(entry.partitions.len(), 1, "known from the next epoch on");
        let entry = desk.border(&[row(0, 800, Standing::Active)]);
        assert_eq!(entry.partitions[1].standing, Standing::Idle);
        assert_eq!(entry.watermark, EventTime(800));
    }

    #[test]
    fn with_nobody_active_w_stays_or_follows_the_clock() {
        let mut desk = Desk::new(options(1), 1);
        desk.border(&[row(0, 500, Standing::Active)]);
        assert_eq!(
            desk.border(&[row(0, 500, Standing::Idle)]).watermark,
            EventTime(500)
        );
        let mut desk = Desk::new(
            CoordinatorOptions {
                close_on_idle: true,
                ..options(1)
            },
            1,
        );
        assert_eq!(
            desk.border(&[row(0, i64::MIN, Standing::Idle)]).watermark,
            EventTime::MIN
        );
        desk.border(&[row(0, 500, Standing::Active)]);
        let closed = desk.border(&[row(0, 500, Standing::Idle)]);
        assert_eq!(closed.watermark, EventTime(750));
        assert_eq!(closed.completeness(EventTime(700)), Completeness::WallClock);
    }

    #[test]
    fn the_end_of_all_partitions_drains_and_ends() {
        let mut desk = Desk::new(options(1), 2);
        let rows = [row(0, 500, Standing::Ended), row(1, 900, Standing::Active)];
        let entry = desk.border(&rows);
        assert_eq!((entry.watermark, entry.ending), (EventTime(900), None));
        assert_eq!(entry.completeness(EventTime(800)), Completeness::EndOfInput);
        let entry = desk.border(&[row(0, 500, Standing::Ended), row(1, 900, Standing::Ended)]);
        assert_eq!(
            (entry.watermark, entry.ending),
            (EventTime::MAX, Some(Ending::Drained))
        );
        assert!(entry.is_checkpoint && desk.coordinator.is_finished());
        assert_eq!(
            entry.completeness(EventTime(2000)),
            Completeness::EndOfInput
        );
    }

    #[test]
    fn without_a_drain_an_ended_partition_keeps_its_say() {
        let mut desk = Desk::new(
            CoordinatorOptions {
                drain: false,
                ..options(1)
            },
            3,
        );
        let empty = row(2, i64::MIN, Standing::Ended);
        let rows = [
            row(0, 500, Standing::Ended),
            row(1, 900, Standing::Active),
            empty.clone(),
        ];
        assert_eq!(
            desk.border(&rows).watermark,
            EventTime(500),
            "its records may go on tomorrow"
        );
        let ended = |p, w| row(p, w, Standing::Ended);
        let entry = desk.border(&[ended(0, 500), ended(1, 900), empty]);
        assert_eq!(
            (entry.watermark, entry.ending),
            (EventTime(500), Some(Ending::Stopped))
        );
    }

    #[test]
    fn a_stop_takes_effect_at_the_next_announced_border() {
        let mut desk = Desk::new(options(2), 1);
        let close = desk
            .coordinator
            .poll(desk.now + Duration::from_secs(1), EventTime(9));
        assert!(matches!(
            close[..],
            [Instruction::Close { stop: false, .. }]
        ));
        desk.coordinator.stop();
        for worker in 0..2 {
            desk.coordinator.report(Report {
                worker,
                epoch: Epoch(0),
                partitions: Vec::new(),
            });
        }
        let instructions = desk.coordinator.poll(desk.now, EventTime(10));
        let [Instruction::Mark(entry)] = &instructions[..] else {
            panic!("{instructions:?}")
        };
        assert_eq!(entry.ending, None, "the workers were told to go on");
        let close = desk.coordinator.poll(desk.now, EventTime(11));
        assert!(matches!(
            close[..],
            [Instruction::Close {
                stop: true,
                epoch: Epoch(1),
                ..
            }]
        ));
    }

    #[test]
    fn a_request_for_a_border_counts_once() {
        let mut desk = Desk::new(options(1), 1);
        desk.coordinator.want_border(Epoch(0));
        assert_eq!(desk.coordinator.poll(desk.now, EventTime(1)).len(), 1);
        desk.coordinator.want_border(Epoch(0));
        desk.coordinator.report(Report {
            worker: 0,
            epoch: Epoch(0),
            partitions: Vec::new(),
        });
        assert_eq!(desk.coordinator.poll(desk.now, EventTime(1)).len(), 1);
        assert!(desk.coordinator.poll(desk.now, EventTime(1)).is_empty());
    }
}
