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

use super::manifests::{Committed, Manifests};
use super::metrics::Metrics;
use super::{Failure, RunError};
use crate::epoch::{
    Audit, Coordinator, CoordinatorOptions, EpochEntry, Instruction, Report, Resume,
};
use crate::host;
pub use crate::host::wall_clock;
use crate::join::DimLoader;
use crate::ledger::{Account, LedgerError};
use crate::source::{OffsetUnit, Partition};
use crate::state::{Manifest, ObjectRef};
use crate::time::{Epoch, EventTime};

/// The coordinator looks at the clock at most this often.
const SHORTEST_WAIT: Duration = Duration::from_micros(200);

/// What a worker says to the coordinator.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Up {
    Report(Report),
    Account(Account),
    WantBorder(Epoch),
    /// This worker's object of a checkpoint is stored.
    Stored(Epoch, usize, ObjectRef),
    Committed(Committed),
}

/// What the coordinator says to a worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Down {
    Replay {
        entry: Box<EpochEntry>,
        next_opened_at: EventTime,
    },
    Close {
        epoch: Epoch,
        stop: bool,
        next_opened_at: EventTime,
    },
    Mark(Box<EpochEntry>),
    Released(Epoch),
    /// A load of the dimension tables that a later mark speaks of, for other processes.
    Load(Vec<u8>),
    /// The last epoch is behind everybody.
    Finished,
    /// All that is to be read again was said.
    Started,
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

/// An epoch that is to be read again.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// What is recorded of it.
    pub entry: Rc<EpochEntry>,
    /// The wall time at which the next epoch was opened.
    pub next_opened_at: EventTime,
}

#[derive(Default)]
struct View {
    border: Option<Border>,
    marks: BTreeMap<Epoch, Rc<EpochEntry>>,
    recorded: BTreeMap<Epoch, Recorded>,
    /// Whether it is known which epochs are recorded.
    is_started: bool,
    released: Option<Epoch>,
    last: Option<Epoch>,
    is_finished: bool,
    post: PostBox,
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

    /// What is recorded of `epoch`, if it is to be read again.
    pub fn recorded(&self, epoch: Epoch) -> Option<Recorded> {
        self.0.borrow().recorded.get(&epoch).cloned()
    }

    /// Whether it is known which epochs are to be read again.
    pub fn is_started(&self) -> bool {
        self.0.borrow().is_started
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
        view.recorded = view.recorded.split_off(&epoch);
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

    /// Shards of a sink have committed a checkpoint's epoch.
    pub fn committed(&self, committed: Committed) {
        self.say(Up::Committed(committed));
    }

    /// The way for other threads of this worker to reach the coordinator.
    pub fn post(&self) -> PostBox {
        self.0.borrow().post.clone()
    }

    fn take_outbox(&self) -> Vec<Up> {
        let mut view = self.0.borrow_mut();
        let mut said = std::mem::take(&mut view.outbox);
        said.append(&mut view.post.take());
        said
    }

    fn say(&self, up: Up) {
        let mut view = self.0.borrow_mut();
        view.outbox.push(up);
        if let Some(uplink) = &view.uplink {
            uplink.activate();
        }
    }

    /// Takes in what the coordinator says; `load` takes loads of the dimension tables.
    fn hear(&self, down: Down, load: impl FnOnce(Vec<u8>)) {
        let mut view = self.0.borrow_mut();
        match down {
            Down::Replay {
                entry,
                next_opened_at,
            } => {
                let entry = Rc::new(*entry);
                if entry.ending.is_some() {
                    view.last = Some(entry.epoch);
                }
                view.marks.insert(entry.epoch, Rc::clone(&entry));
                let recorded = Recorded {
                    entry,
                    next_opened_at,
                };
                view.recorded.insert(recorded.entry.epoch, recorded);
            }
            Down::Load(bytes) => load(bytes),
            Down::Started => view.is_started = true,
            Down::Finished => view.is_finished = true,
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
        self.0.borrow().is_finished
    }
}

/// What other threads of a worker have to say.
#[derive(Clone, Default)]
pub struct PostBox(Arc<Mutex<Post>>);

#[derive(Default)]
struct Post {
    said: Vec<Up>,
    wake: Option<SyncActivator>,
}

impl PostBox {
    /// The object of `worker` at the checkpoint `epoch` is stored.
    pub fn stored(&self, epoch: Epoch, worker: usize, object: ObjectRef) {
        let mut post = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        post.said.push(Up::Stored(epoch, worker, object));
        if let Some(wake) = &post.wake {
            // The worker may be gone already: then nobody needs to be woken.
            let _ = wake.activate();
        }
    }

    fn attach(&self, wake: SyncActivator) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).wake = Some(wake);
    }

    fn take(&self) -> Vec<Up> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).said)
    }
}

/// What other threads tell the coordinator.
#[derive(Clone, Debug)]
pub enum Notice {
    /// The source has these partitions now.
    Found(Vec<Partition>),
    /// A dimension refresh with this number is ready; with its changes where other processes
    /// have to hear of them.
    Refreshed(u64, Option<Vec<u8>>),
    /// End at the next border.
    Stop,
    /// The log has this epoch for good.
    Durable(Epoch),
    /// The log has the manifest of this epoch for good.
    Published(Epoch),
}

/// The way for other threads to reach the coordinator of this run.
#[derive(Clone, Default)]
pub struct Notices(Arc<Mutex<NoticeQueue>>);

#[derive(Default)]
struct NoticeQueue {
    queue: VecDeque<Notice>,
    wake: Option<SyncActivator>,
    /// In another process than that of the coordinator: the way to it.
    forward: Option<Box<dyn Fn(Notice) + Send>>,
}

impl Notices {
    /// Tells the coordinator; callable from any thread, at any time.
    pub fn send(&self, notice: Notice) {
        let mut notices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(forward) = &notices.forward {
            return forward(notice);
        }
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
        notices.wake.is_some() || notices.forward.is_some()
    }

    /// From now on `forward` takes the notices to the coordinator, which is in another process;
    /// also those that nobody has taken yet.
    pub fn forward(&self, forward: impl Fn(Notice) + Send + 'static) {
        let mut notices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notices.queue.drain(..).for_each(&forward);
        notices.forward = Some(Box::new(forward));
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
    /// Where the run goes on.
    pub resume: Arc<Resume>,
    /// Where other threads leave notices.
    pub notices: Notices,
    /// Called with each epoch, in order; hands what is new to the log's thread and returns at
    /// once. `None` on workers other than the first.
    pub record: Option<Box<dyn FnMut(Decision)>>,
    /// What the source's offsets count.
    pub offset_unit: OffsetUnit,
    /// Where it is said that the ledger is off.
    pub failure: Failure,
    /// What makes manifests, when the run has a state; on the first worker.
    pub manifests: Option<Manifests>,
    /// How many workers are in each process.
    pub local: usize,
    /// Takes the loads of the dimension tables that come from the coordinator's process.
    pub dimensions: Option<Arc<dyn DimLoader>>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// An epoch of a run.
#[derive(Clone, Debug)]
pub enum Decision {
    /// It was recorded by an earlier run.
    Replayed(EpochEntry),
    /// It was decided by this run.
    Decided(EpochEntry),
    /// Its checkpoint is complete.
    Checkpoint(Box<Manifest>),
}

/// Builds the control dataflow on `worker`.
pub fn control_dataflow(worker: &mut Worker, view: &ControlView, options: ControlOptions) {
    let peers = worker.peers() as u64;
    let is_first = worker.index() == 0;
    let (dimensions, failure) = (options.dimensions.clone(), options.failure.clone());
    worker.dataflow::<u64, _, _>(|scope| {
        let up = source(scope, "Uplink", |capability, info| {
            let view = view.clone();
            view.0.borrow_mut().uplink = Some(scope.activator_for(Rc::clone(&info.address)));
            view.wake(scope.activator_for(Rc::clone(&info.address)));
            let address = info.address.to_vec();
            view.post()
                .attach(scope.worker().sync_activator_for(address));
            let mut capability = Some(capability);
            move |output: &mut OutputBuilderSession<'_, _, CapacityContainerBuilder<Vec<Up>>>| {
                let said = view.take_outbox();
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
                        host::activate_after(&timer, wait);
                    }
                }
            },
        );
        let view = view.clone();
        let to_worker = Exchange::new(|(worker, _): &(u64, Down)| *worker);
        down.sink(to_worker, "Downlink", move |(input, _)| {
            let hear =
                |(_, down)| view.hear(down, |bytes| load(dimensions.as_deref(), bytes, &failure));
            input.for_each(|_, said| said.drain(..).for_each(hear));
        });
    });
}

/// Takes over a load of the dimension tables. Each worker of a process gets it, so that it is there
/// before any of them hears of it; the second time it changes nothing.
fn load(dimensions: Option<&dyn DimLoader>, bytes: Vec<u8>, failure: &Failure) {
    let heard = dimensions.map(|dimensions| dimensions.hear(&bytes));
    if let Some(Err(error)) = heard {
        failure.set(RunError::Dimensions(error));
    }
}

/// The coordinator with its log and its way to the workers.
struct Desk {
    coordinator: Coordinator,
    audit: Audit,
    manifests: Option<Manifests>,
    failure: Failure,
    metrics: Arc<Metrics>,
    capability: Option<Capability<u64>>,
    notices: Notices,
    record: Option<Box<dyn FnMut(Decision)>>,
    is_started: bool,
    peers: u64,
    local: u64,
    last: Option<Epoch>,
    released: Option<Epoch>,
    published: Option<Epoch>,
    alarm: Option<Instant>,
}

impl Desk {
    fn new(capability: Option<Capability<u64>>, options: ControlOptions, peers: u64) -> Self {
        let ControlOptions {
            coordinator,
            resume,
            notices,
            record,
            offset_unit,
            failure,
            manifests,
            local,
            dimensions: _,
            metrics,
        } = options;
        let audit = Audit::new(offset_unit, peers as usize, &resume);
        let coordinator = Coordinator::new(coordinator, &resume, host::now());
        Self {
            coordinator,
            audit,
            manifests,
            failure,
            metrics,
            capability,
            notices,
            record,
            is_started: false,
            peers,
            local: local as u64,
            last: None,
            released: None,
            published: None,
            alarm: None,
        }
    }

    fn hear(&mut self, up: Up) {
        match up {
            Up::Report(report) => self.coordinator.report(report),
            Up::Account(account) => {
                self.metrics.inputs.accounted(&account);
                self.audit.account(account);
            }
            Up::WantBorder(epoch) => self.coordinator.want_border(epoch),
            Up::Stored(epoch, worker, object) => {
                if let Some(manifests) = &mut self.manifests {
                    manifests.stored(epoch, worker, object);
                }
            }
            Up::Committed(committed) => {
                if let Some(manifests) = &mut self.manifests {
                    manifests.committed(committed);
                }
            }
        }
    }

    /// What there is to say, and to whom.
    fn answer(&mut self) -> Vec<(u64, Down)> {
        if self.capability.is_none() {
            return Vec::new();
        }
        let answers = self.decide().into_iter();
        let everyone = answers.flat_map(|answer| {
            let workers = self.hearers(&answer);
            workers.map(move |worker| (worker, answer.clone()))
        });
        everyone.collect()
    }

    /// The workers to which something is said: the loads that this process has read itself are
    /// there for its own.
    const fn hearers(&self, answer: &Down) -> std::ops::Range<u64> {
        let first = match answer {
            Down::Load(_) => self.local,
            _ => 0,
        };
        first..self.peers
    }

    /// What there is to say to everybody.
    fn decide(&mut self) -> Vec<Down> {
        let mut answers = Vec::new();
        for notice in self.notices.take() {
            match notice {
                Notice::Found(partitions) => self.coordinator.found(partitions),
                Notice::Refreshed(number, load) => {
                    // Ahead of the mark that speaks of it.
                    answers.extend(load.map(Down::Load));
                    self.coordinator.refreshed(number);
                }
                Notice::Stop => self.coordinator.stop(),
                Notice::Durable(epoch) => self.audit.durable(epoch),
                Notice::Published(epoch) => {
                    self.published = Some(epoch);
                    let borders = &self.metrics.borders;
                    borders.published(epoch, host::now(), wall_clock());
                }
            }
        }
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
        self.publish();
        if self.is_done() {
            answers.push(Down::Finished);
        }
        Ok(())
    }

    /// Announces borders, and records those that were decided.
    fn follow_borders(&mut self, answers: &mut Vec<Down>) -> Result<(), LedgerError> {
        for instruction in self.coordinator.poll(host::now(), wall_clock()) {
            answers.push(match instruction {
                Instruction::Replay {
                    entry,
                    next_opened_at,
                } => {
                    self.last = entry.ending.map(|_| entry.epoch).or(self.last);
                    self.audit.border(&entry)?;
                    self.audit.durable(entry.epoch);
                    self.note(&entry);
                    self.record(Decision::Replayed(entry.clone()));
                    Down::Replay {
                        entry: Box::new(entry),
                        next_opened_at,
                    }
                }
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
                    self.note(&entry);
                    self.record(Decision::Decided(entry.clone()));
                    Down::Mark(Box::new(entry))
                }
            });
        }
        if !std::mem::replace(&mut self.is_started, true) {
            // Behind what is to be replayed, before any border.
            let replayed = answers.iter().take_while(|it| {
                matches!(it, Down::Replay { .. } | Down::Released(_) | Down::Load(_))
            });
            answers.insert(replayed.count(), Down::Started);
        }
        Ok(())
    }

    fn note(&mut self, entry: &EpochEntry) {
        if let Some(manifests) = &mut self.manifests {
            manifests.decided(entry);
        }
    }

    /// Has the manifests recorded whose checkpoints are complete.
    fn publish(&mut self) {
        let checkpoints = self.audit.take_checkpoints();
        let Some(manifests) = &mut self.manifests else {
            return;
        };
        for (epoch, fates) in checkpoints {
            manifests.accounted(epoch, fates);
        }
        let complete: Vec<_> = std::iter::from_fn(|| manifests.take_complete()).collect();
        self.coordinator.want_full(manifests.wants_full());
        for manifest in complete {
            self.record(Decision::Checkpoint(Box::new(manifest)));
        }
    }

    fn record(&mut self, decision: Decision) {
        if let Some(record) = &mut self.record {
            record(decision);
        }
    }

    /// Whether the last epoch is released, and its manifest recorded where that is done.
    fn is_done(&self) -> bool {
        let is_published = self.manifests.is_none() || self.published == self.last;
        self.last.is_some() && self.last == self.released && is_published
    }

    /// Nothing is left to say.
    fn leave_when_done(&mut self) {
        if self.is_done() {
            self.capability = None;
        }
    }

    /// When to look again, unless that is arranged already or everything was said.
    fn next_poll(&mut self) -> Option<Duration> {
        self.capability.as_ref()?;
        let now = host::now();
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
    use crate::time::{Offset, PartitionId, Span};

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
        let partition = Partition {
            id: PartitionId(0),
            name: "rows[0]".to_owned(),
        };
        let options = ControlOptions {
            coordinator,
            resume: Arc::new(Resume::fresh([partition], EventTime(0))),
            notices: Notices::default(),
            record: None,
            offset_unit: OffsetUnit::Records,
            failure: Failure::default(),
            manifests: None,
            local: 1,
            dimensions: None,
            metrics: Arc::default(),
        };
        let mut desk = Desk::new(None, options, 2);
        assert!(matches!(
            desk.decide()[..],
            [Down::Started, Down::Close { .. }]
        ));
        desk
    }

    /// Both workers close epoch 0, in which partition 0 had three records.
    fn close_epoch(desk: &mut Desk, to: Offset) -> Vec<Down> {
        let row = PartitionReport {
            partition: PartitionId(0),
            is_located: true,
            from: Offset(0),
            to,
            gaps: 0,
            read: 3,
            max_event: EventTime(0),
            watermark: EventTime(0),
            own_watermark: EventTime(0),
            standing: Standing::Active,
            has_backlog: false,
        };
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
    fn a_load_goes_to_other_processes_ahead_of_the_mark_that_speaks_of_it() {
        let mut desk = desk();
        desk.notices.send(Notice::Refreshed(7, Some(vec![1])));
        let decided = close_epoch(&mut desk, Offset(3));
        let [Down::Load(bytes), Down::Mark(entry)] = &decided[..2] else {
            panic!("{decided:?}");
        };
        assert_eq!((bytes, entry.dims), (&vec![1], Some(7)));
        assert_eq!(desk.hearers(&decided[0]), 1..2);
        assert_eq!(desk.hearers(&decided[1]), 0..2);
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
