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

use crate::epoch::{Coordinator, CoordinatorOptions, EpochEntry, EpochLog, Instruction, Report};
use crate::source::Partition;
use crate::time::{Epoch, EventTime, PartitionId};

/// The coordinator looks at the clock at most this often.
const SHORTEST_WAIT: Duration = Duration::from_micros(200);

/// What a worker says to the coordinator.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Up {
    Report(Report),
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
    Durable(Epoch),
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
    durable: Option<Epoch>,
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

    /// Whether `epoch` is in the log for good, so that its effects may be seen.
    pub fn is_durable(&self, epoch: Epoch) -> bool {
        self.0
            .borrow()
            .durable
            .is_some_and(|durable| epoch <= durable)
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
            Down::Durable(epoch) => view.durable = Some(epoch),
        }
        for waiter in &view.waiters {
            waiter.activate();
        }
    }

    fn is_finished(&self) -> bool {
        let view = self.0.borrow();
        view.last.is_some() && view.last <= view.durable
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
    capability: Option<Capability<u64>>,
    notices: Notices,
    log: Option<Box<dyn FnMut(EpochEntry)>>,
    peers: u64,
    last: Option<Epoch>,
    durable: Option<Epoch>,
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
        } = options;
        let coordinator = Coordinator::new(coordinator, partitions, Instant::now(), started_at);
        Self {
            coordinator,
            capability,
            notices,
            log,
            peers,
            last: None,
            durable: None,
            alarm: None,
        }
    }

    fn hear(&mut self, up: Up) {
        match up {
            Up::Report(report) => self.coordinator.report(report),
            Up::WantBorder(epoch) => self.coordinator.want_border(epoch),
        }
    }

    /// What there is to say, and to whom.
    fn answer(&mut self) -> Vec<(u64, Down)> {
        if self.capability.is_none() {
            return Vec::new();
        }
        let mut answers = Vec::new();
        for notice in self.notices.take() {
            match notice {
                Notice::Found(partitions) => self.coordinator.found(partitions),
                Notice::Refreshed(number) => self.coordinator.refreshed(number),
                Notice::Stop => self.coordinator.stop(),
                Notice::Durable(epoch) => {
                    self.durable = Some(epoch);
                    answers.push(Down::Durable(epoch));
                }
            }
        }
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
                    self.last = entry.ending.map(|_| entry.epoch).or(self.last);
                    if let Some(log) = &mut self.log {
                        log(entry.clone());
                    }
                    Down::Mark(Box::new(entry))
                }
            });
        }
        let everyone = answers
            .into_iter()
            .flat_map(|answer| (0..self.peers).map(move |worker| (worker, answer.clone())));
        everyone.collect()
    }

    /// Once the last epoch is durable there is nothing left to say.
    fn leave_when_done(&mut self) {
        if self.last.is_some() && self.last == self.durable {
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
