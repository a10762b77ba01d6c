//! The control dataflow: reports go up to the coordinator, borders come down as data.
//!
//! It is a timely dataflow of its own, so that it works alike between threads and between
//! processes. Every worker has a [`ControlView`]: what it has been told, and what it has to say.
//! The operators of the data dataflow read the view; they are woken when something new is in it.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::operator::source;
use timely::dataflow::operators::generic::{Operator, OutputBuilderSession};
use timely::scheduling::{Activator, SyncActivator};
use timely::worker::Worker;

use super::{Failure, RunError};
use crate::epoch::{
    Audit, Coordinator, CoordinatorOptions, EpochEntry, EpochLog, Instruction, Report,
};
use crate::ledger::{Account, LedgerError};
use crate::source::{OffsetUnit, Partition};
use crate::time::{Epoch, EventTime, PartitionId};

/// The coordinator looks at the clock at most this often.
const SHORTEST_WAIT: Duration = Duration::from_micros(200);

/// What a worker says to the coordinator.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Up {
    Report(Report),
    Account(Account),
    WantBorder(Epoch),
}

/// What the coordinator says to a worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Down {
    Close {
        epoch: Epoch,
        stop: bool,
        next_opened_at: EventTime,
    },
    Mark(Box<EpochEntry>),
    Released(Epoch),
}

/// A border that was announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Border {
    /// The epoch to be closed.
    pub epoch: Epoch,
    /// Whether to read nothing after it.
    pub stop: bool,
    /// The wall time at which the next epoch was opened.
    pub next_opened_at: EventTime,
}

#[derive(Default)]
struct View {
    border: Option<Border>,
    marks: BTreeMap<Epoch, Rc<EpochEntry>>,
    released: Option<Epoch>,
    last: Option<Epoch>,
    outbox: Vec<Up>,
    uplink: Option<Activator>,
    waiters: Vec<Activator>,
}

/// What one worker has been told and has to say.
#[derive(Clone, Default)]
pub struct ControlView(Rc<RefCell<View>>);

impl ControlView {
    /// The border that was announced last.
    pub fn border(&self) -> Option<Border> {
        self.0.borrow().border
    }

    /// What was decided at the end of `epoch`.
    pub fn mark(&self, epoch: Epoch) -> Option<Rc<EpochEntry>> {
        self.0.borrow().marks.get(&epoch).cloned()
    }

    /// Whether the effects of `epoch` may be seen: it is in the log for good, and every record of
    /// it is accounted for, on all workers.
    pub fn is_released(&self, epoch: Epoch) -> bool {
        self.0
            .borrow()
            .released
            .is_some_and(|released| epoch <= released)
    }

    /// The last epoch of the run, once that is decided.
    pub fn last(&self) -> Option<Epoch> {
        self.0.borrow().last
    }

    /// Frees what was said about the epochs before `epoch`, which everybody has dealt with.
    pub fn forget_before(&self, epoch: Epoch) {
        let mut view = self.0.borrow_mut();
        view.marks = view.marks.split_off(&epoch);
    }

    /// Has `activator` called whenever there is news.
    pub fn wake(&self, activator: Activator) {
        self.0.borrow_mut().waiters.push(activator);
    }

    /// Reports what was read up to a border.
    pub fn report(&self, report: Report) {
        self.say(Up::Report(report));
    }

    /// Accounts for the records of an epoch, once all of this worker have their fate.
    pub fn account(&self, account: Account) {
        self.say(Up::Account(account));
    }

    /// Asks to close `epoch` before its time.
    pub fn want_border(&self, epoch: Epoch) {
        self.say(Up::WantBorder(epoch));
    }

    fn say(&self, up: Up) {
        let mut view = self.0.borrow_mut();
        view.outbox.push(up);
        if let Some(uplink) = &view.uplink {
            uplink.activate();
        }
    }

    fn hear(&self, down: Down) {
        let mut view = self.0.borrow_mut();
        match down {
            Down::Close {
                epoch,
                stop,
                next_opened_at,
            } => {
                view.border = Some(Border {
                    epoch,
                    stop,
                    next_opened_at,
                });
            }
            Down::Mark(entry) => {
                if entry.ending.is_some() {
                    view.last = Some(entry.epoch);
                }
                view.marks.insert(entry.epoch, Rc::new(*entry));
            }
            Down::Released(epoch) => view.released = Some(epoch),
        }
        for waiter in &view.waiters {
            waiter.activate();
        }
    }

    fn is_finished(&self) -> bool {
        let view = self.0.borrow();
        view.last.is_some() && view.last <= view.released
    }
}

/// What other threads tell the coordinator.
#[derive(Clone, Debug)]
pub enum Notice {
    /// The source has these partitions now.
    Found(Vec<Partition>),
    /// A dimension refresh with this number is ready.
    Refreshed(u64),
    /// End at the next border.
    Stop,
    /// The log has this epoch for good.
    Durable(Epoch),
}

/// The way for other threads to reach the coordinator of this run.
#[derive(Clone, Default)]
pub struct Notices(Arc<Mutex<NoticeQueue>>);

#[derive(Default)]
struct NoticeQueue {
    queue: VecDeque<Notice>,
    wake: Option<SyncActivator>,
}

impl Notices {
    /// Tells the coordinator; callable from any thread, at any time.
    pub fn send(&self, notice: Notice) {
        let mut notices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notices.queue.push_back(notice);
        if let Some(wake) = &notices.wake {
            // The worker may be gone already: then nobody needs to be woken.
            let _ = wake.activate();
        }
    }

    /// Whether there is a coordinator that hears notices. Before that, a run is still looking for
    /// its input, its tables and its targets: it has read nothing and written nothing.
    pub fn are_heard(&self) -> bool {
        let notices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notices.wake.is_some()
    }

    fn attach(&self, wake: SyncActivator) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).wake = Some(wake);
    }

    fn take(&self) -> VecDeque<Notice> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).queue)
    }
}

/// What the coordinator of a run needs.
pub struct ControlOptions {
    /// How borders are set.
    pub coordinator: CoordinatorOptions,
    /// The partitions known at the start.
    pub partitions: Vec<PartitionId>,
    /// Where other threads leave notices.
    pub notices: Notices,
    /// Called with each epoch entry, in order; hands it to the log's thread and returns at once.
    /// `None` on workers other than the first.
    pub log: Option<Box<dyn FnMut(EpochEntry)>>,
    /// The wall time at the start.
    pub started_at: EventTime,
    /// What the source's offsets count.
    pub offset_unit: OffsetUnit,
    /// Where it is said that the ledger is off.
    pub failure: Failure,
}

/// Runs `log` on a thread of its own. The result hands it entries and never blocks for long: the
/// coordinator sets a border only after the one before was decided, and sinks wait for the log.
pub fn log_thread(
    mut log: Box<dyn EpochLog>,
    notices: Notices,
    fail: impl FnOnce(crate::epoch::LogError) + Send + 'static,
) -> impl FnMut(EpochEntry) {
    let (sender, receiver) = crossbeam_channel::bounded::<EpochEntry>(64);
    std::thread::spawn(move || {
        for entry in receiver {
            if let Err(error) = log.append(&entry) {
                fail(error);
                return;
            }
            notices.send(Notice::Durable(entry.epoch));
        }
    });
    move |entry| {
        // A log that failed has ended its thread, and with it the run.
        let _ = sender.send(entry);
    }
}

/// The wall clock as an event time.
pub fn wall_clock() -> EventTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    EventTime(since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }))
}

/// Builds the control dataflow on `worker`.
pub fn control_dataflow(worker: &mut Worker, view: &ControlView, options: ControlOptions) {
    let peers = worker.peers() as u64;
    let is_first = worker.index() == 0;
    worker.dataflow::<u64, _, _>(|scope| {
        let up = source(scope, "Uplink", |capability, info| {
            let view = view.clone();
            view.0.borrow_mut().uplink = Some(scope.activator_for(Rc::clone(&info.address)));
            view.wake(scope.activator_for(Rc::clone(&info.address)));
            let mut capability = Some(capability);
            move |output: &mut OutputBuilderSession<'_, _, CapacityContainerBuilder<Vec<Up>>>| {
                let said = std::mem::take(&mut view.0.borrow_mut().outbox);
                if let Some(capability) = &capability {
                    output.session(capability).give_iterator(said.into_iter());
                }
                if view.is_finished() {
                    capability = None;
                }
            }
        });
        let down = up.unary_frontier::<CapacityContainerBuilder<Vec<(u64, Down)>>, _, _, _>(
            Exchange::new(|_: &Up| 0),
            "Coordinator",
            |capability, info| {
                if is_first {
                    let address = info.address.to_vec();
                    options
                        .notices
                        .attach(scope.worker().sync_activator_for(address));
                }
                let timer = scope.activator_for(Rc::clone(&info.address));
                let mut desk = Desk::new(is_first.then_some(capability), options, peers);
                move |(input, _), output| {
                    input.for_each(|_, said| said.drain(..).for_each(|up| desk.hear(up)));
                    let answers = desk.answer();
                    if let Some(capability) = &desk.capability {
                        output
                            .session(capability)
                            .give_iterator(answers.into_iter());
                    }
                    desk.leave_when_done();
                    if let Some(wait) = desk.next_poll() {
                        timer.activate_after(wait);
                    }
                }
            },
        );
        let view = view.clone();
        let to_worker = Exchange::new(|(worker, _): &(u64, Down)| *worker);
        down.sink(to_worker, "Downlink", move |(input, _)| {
            input.for_each(|_, said| said.drain(..).for_each(|(_, down)| view.hear(down)));
        });
    });
}

/// The coordinator with its log and its way to the workers.
struct Desk {
    coordinator: Coordinator,
    audit: Audit,
    failure: Failure,
    capability: Option<Capability<u64>>,
    notices: Notices,
    log: Option<Box<dyn FnMut(EpochEntry)>>,
    peers: u64,
    last: Option<Epoch>,
    released: Option<Epoch>,
    alarm: Option<Instant>,
}

impl Desk {
    fn new(capability: Option<Capability<u64>>, options: ControlOptions, peers: u64) -> Self {
        let ControlOptions {
            coordinator,
            partitions,
            notices,
            log,
            started_at,
            offset_unit,
            failure,
        } = options;
        let audit = Audit::new(offset_unit, peers as usize);
        let coordinator = Coordinator::new(coordinator, partitions, Instant::now(), started_at);
        Self {
            coordinator,
            audit,
            failure,
            capability,
            notices,
            log,
            peers,
            last: None,
            released: None,
            alarm: None,
        }
    }

    fn hear(&mut self, up: Up) {
        match up {
            Up::Report(report) => self.coordinator.report(report),
            Up::Account(account) => self.audit.account(account),
            Up::WantBorder(epoch) => self.coordinator.want_border(epoch),
        }
    }

    /// What there is to say, and to whom.
    fn answer(&mut self) -> Vec<(u64, Down)> {
        if self.capability.is_none() {
            return Vec::new();
        }
        let answers = self.decide().into_iter();
        let everyone =
            answers.flat_map(|answer| (0..self.peers).map(move |worker| (worker, answer.clone())));
        everyone.collect()
    }

    /// What there is to say to everybody.
    fn decide(&mut self) -> Vec<Down> {
        for notice in self.notices.take() {
            match notice {
                Notice::Found(partitions) => self.coordinator.found(partitions),
                Notice::Refreshed(number) => self.coordinator.refreshed(number),
                Notice::Stop => self.coordinator.stop(),
                Notice::Durable(epoch) => self.audit.durable(epoch),
            }
        }
        let mut answers = Vec::new();
        let outcome = self.release(&mut answers);
        if let Err(error) = outcome.and_then(|()| self.follow_borders(&mut answers)) {
            self.failure.set(RunError::Ledger(error));
            // Nothing more is decided, recorded or released: the run ends.
            self.capability = None;
        }
        answers
    }

    /// Lets the sinks have the epochs of which every record is accounted for.
    fn release(&mut self, answers: &mut Vec<Down>) -> Result<(), LedgerError> {
        if let Some(epoch) = self.audit.release()? {
            self.released = Some(epoch);
            answers.push(Down::Released(epoch));
        }
        Ok(())
    }

    /// Announces borders, and records those that were decided.
    fn follow_borders(&mut self, answers: &mut Vec<Down>) -> Result<(), LedgerError> {
        for instruction in self.coordinator.poll(Instant::now(), wall_clock()) {
            answers.push(match instruction {
                Instruction::Close {
                    epoch,
                    stop,
                    next_opened_at,
                } => Down::Close {
                    epoch,
                    stop,
                    next_opened_at,
                },
                Instruction::Mark(entry) => {
                    self.audit.border(&entry)?;
                    self.last = entry.ending.map(|_| entry.epoch).or(self.last);
                    if let Some(log) = &mut self.log {
                        log(entry.clone());
                    }
                    Down::Mark(Box::new(entry))
                }
            });
        }
        Ok(())
    }

    /// Once the last epoch is released there is nothing left to say.
    fn leave_when_done(&mut self) {
        if self.last.is_some() && self.last == self.released {
            self.capability = None;
        }
    }

    /// When to look again, unless that is arranged already or everything was said.
    fn next_poll(&mut self) -> Option<Duration> {
        self.capability.as_ref()?;
        let now = Instant::now();
        if self.alarm.is_some_and(|alarm| alarm > now) {
            return None;
        }
        let wait = self.coordinator.next_poll(now).max(SHORTEST_WAIT);
        self.alarm = Some(now + wait);
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::{PartitionReport, Standing};
    use crate::ledger::{Fate, Fates};
    use crate::time::{Offset, Span};

    /// A coordinator of two workers without a dataflow, whose borders are always due.
    fn desk() -> Desk {
        let coordinator = CoordinatorOptions {
            workers: 2,
            epoch: Duration::ZERO,
            checkpoint: Duration::ZERO,
            grain: Span(1),
            close_on_idle: false,
            drain: true,
            ends: false,
        };
        let options = ControlOptions {
            coordinator,
            partitions: vec![PartitionId(0)],
            notices: Notices::default(),
            log: None,
            started_at: EventTime(0),
            offset_unit: OffsetUnit::Records,
            failure: Failure::default(),
        };
        Desk::new(None, options, 2)
    }

    /// Both workers close epoch 0, in which partition 0 had three records.
    fn close_epoch(desk: &mut Desk, to: Offset) -> Vec<Down> {
        let row = PartitionReport {
            partition: PartitionId(0),
            from: Offset(0),
            to,
            gaps: 0,
            read: 3,
            watermark: EventTime(0),
            own_watermark: EventTime(0),
            standing: Standing::Active,
            has_backlog: false,
        };
        assert!(matches!(desk.decide()[..], [Down::Close { .. }]));
        for (worker, partitions) in [vec![row], Vec::new()].into_iter().enumerate() {
            let epoch = Epoch(0);
            desk.hear(Up::Report(Report {
                worker,
                epoch,
                partitions,
            }));
        }
        desk.decide()
    }

    fn account(desk: &mut Desk, on_time: u64) {
        let mut fates = Fates {
            read: 3,
            ..Fates::default()
        };
        fates.add(Fate::OnTime, on_time);
        for partitions in [[(PartitionId(0), fates)].into(), BTreeMap::new()] {
            let epoch = Epoch(0);
            desk.hear(Up::Account(Account { epoch, partitions }));
        }
    }

    fn releases(answers: &[Down]) -> bool {
        answers.iter().any(|down| matches!(down, Down::Released(_)))
    }

    #[test]
    fn an_epoch_is_released_once_it_is_durable_and_accounted_for() {
        let mut desk = desk();
        let decided = close_epoch(&mut desk, Offset(3));
        assert!(matches!(decided[0], Down::Mark(_)), "{decided:?}");
        desk.notices.send(Notice::Durable(Epoch(0)));
        assert!(!releases(&desk.decide()), "nobody accounts for it");
        account(&mut desk, 3);
        assert!(releases(&desk.decide()));
        assert!(!desk.failure.is_set());
    }

    #[test]
    fn an_epoch_that_is_off_is_not_released() {
        let mut desk = desk();
        close_epoch(&mut desk, Offset(3));
        desk.notices.send(Notice::Durable(Epoch(0)));
        account(&mut desk, 2);
        assert!(!releases(&desk.decide()));
        assert!(desk.failure.is_set());
    }

    #[test]
    fn a_border_that_is_off_is_not_marked() {
        let mut desk = desk();
        assert!(close_epoch(&mut desk, Offset(4)).is_empty());
        assert!(desk.failure.is_set());
    }
}
