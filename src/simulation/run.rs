//! One run of the job: the engine's own `runtime::run`, on coroutines.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::machine::{self, Task};
use super::pipeline::Sums;
use super::sinks::targets;
use super::source::{SimulatedSource, discover};
use super::storage::SimulatedStorage;
use super::world::{Shape, world};
use crate::flow::FlowOptions;
use crate::join::Policy;
use crate::runtime::control::{Notice, Notices};
use crate::runtime::ingest::IngestOptions;
use crate::runtime::metrics::Metrics;
use crate::runtime::state::{OLDER_CHECKPOINT, StateOptions};
use crate::runtime::{RunError, RunOptions, run};
use crate::sink::{SinkError, SinkFactory};
use crate::state::retention::History;
use crate::state::{Starter, StateError, StorageError};
use crate::time::{EventTime, Span};
use crate::window::{Late, WindowSpec};

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Of its own accord.
    Done,
    Failed {
        cause: Cause,
        why: String,
    },
}

/// What a failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// A defect in any case.
    Defect,
    /// The storage is out of reach: may happen to any run while there are outages.
    Outage,
    /// It says that a newer run has taken over: only a run that is not the newest one may fail so.
    Superseded,
}

/// What is known of the input's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// It has none.
    Forever,
    /// What is there when the run begins is read, and windows stay open.
    End,
    /// It is complete once all of it is there.
    Drained,
}

/// See the module.
pub(super) struct Run {
    /// Its number in the execution.
    pub(super) number: usize,
    nonce: Uuid,
    notices: Notices,
    tasks: Vec<Task>,
    outcome: Rc<RefCell<Option<Outcome>>>,
    /// The step before which it does nothing: its processes were stopped, and go on later.
    pub(super) asleep_until: usize,
}

impl Run {
    /// Starts run number `number`.
    pub(super) fn start(number: usize, workers: usize, until: Until) -> Self {
        let nonce = Uuid::from_u128(number as u128 + 1);
        let notices = Notices::default();
        let outcome: Rc<RefCell<Option<Outcome>>> = Rc::default();
        let (sent, told) = (Rc::clone(&outcome), notices.clone());
        let main = Task::new(number, 0, move || {
            let options = options(nonce, workers, until, told.clone());
            machine::spawn(None, move || discover(&told));
            let ended = run(options);
            *sent.borrow_mut() = Some(ended.map_or_else(Outcome::of, |_| Outcome::Done));
        });
        world(|world| {
            world.note(|| format!("run {number} starts: {workers} workers, {until:?}"));
        });
        Self {
            number,
            nonce,
            notices,
            tasks: vec![main],
            outcome,
            asleep_until: 0,
        }
    }

    /// Lets one of its threads, picked at random, go on to its next pause.
    pub(super) fn step(&mut self) {
        if self.tasks.is_empty() {
            return;
        }
        let at = world(|world| world.chance.below(self.tasks.len()));
        if !self.tasks[at].resume() {
            drop(self.tasks.swap_remove(at));
        }
        self.tasks.append(&mut machine::take_spawned());
        for panic in machine::take_panics() {
            world(|world| world.flaw(format!("a thread has panicked: {panic}")));
        }
        for message in machine::take_messages() {
            // Nothing damages objects here: only one that was superseded may miss some.
            let is_flaw = message.contains(OLDER_CHECKPOINT) && self.is_newest();
            world(|world| {
                world.note(|| format!("run {} says: {message}", self.number));
                if is_flaw {
                    world.flaw(format!("the newest run has lost a checkpoint: {message}"));
                }
            });
        }
        if self.outcome.borrow().is_some() {
            // The process ends, and all its threads with it.
            self.kill();
        }
    }

    /// How it ended, once it has.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.outcome.borrow().clone()
    }

    /// Whether anything of it is left.
    pub(super) fn is_alive(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// Ends all its threads where they stand.
    pub(super) fn kill(&mut self) {
        self.tasks.clear();
    }

    /// Ends the threads of one worker.
    pub(super) fn kill_worker(&mut self, worker: usize) {
        self.tasks.retain(|task| task.worker != worker);
    }

    /// Asks it to end at its next border.
    pub(super) fn stop(&self) {
        self.notices.send(Notice::Stop);
    }

    /// Whether it stands at the top of the log.
    pub(super) fn is_newest(&self) -> bool {
        world(|world| world.newest()).is_some_and(|object| object.nonce == self.nonce)
    }

    /// Whether it stands anywhere in the log.
    pub(super) fn has_claimed(&self) -> bool {
        world(|world| {
            let mut objects = world.log.values().flatten();
            objects.any(|object| object.nonce == self.nonce)
        })
    }
}

impl Outcome {
    fn of(error: RunError) -> Self {
        Self::Failed {
            cause: match &error {
                RunError::State(StateError::Storage(StorageError::Unreachable { .. }))
                | RunError::Sink {
                    error: SinkError::Unreachable { .. },
                    ..
                } => Cause::Outage,
                RunError::Sink {
                    error: SinkError::Fenced(_),
                    ..
                } => Cause::Superseded,
                RunError::Refused(why) if why.contains("goes on with this job now") => {
                    Cause::Superseded
                }
                _ => Cause::Defect,
            },
            why: error.to_string(),
        }
    }
}

fn options(nonce: Uuid, workers: usize, until: Until, notices: Notices) -> RunOptions {
    let shape = world(|world| world.shape.clone());
    let targets = targets(workers).into_iter().map(|target| {
        let output = target.kind.output().to_owned();
        (output, Arc::new(target) as Arc<dyn SinkFactory>)
    });
    let metrics = Arc::new(Metrics::default());
    metrics.be_quiet();
    RunOptions {
        pipeline: Arc::new(Sums),
        source: Arc::new(SimulatedSource {
            until,
            notices: notices.clone(),
        }),
        sinks: targets.collect(),
        flow: flow(&shape),
        workers,
        epoch: Duration::from_millis(shape.epoch_ms),
        checkpoint: Duration::from_millis(shape.checkpoint_ms),
        close_on_idle: shape.closes_on_idle,
        ends: until != Until::Forever,
        drain: until == Until::Drained,
        dims_refresh: None,
        run_label: String::new(),
        state: Some(state(&shape, nonce)),
        is_at_least_once: false,
        metrics,
        notices,
        cluster: None,
        serializes: false,
    }
}

fn flow(shape: &Shape) -> FlowOptions {
    let (size, slide) = (Span(shape.size), Span(shape.slide));
    let window = WindowSpec::new(size, slide, Span::ZERO, Span(shape.keep));
    FlowOptions {
        window: window.expect("these windows make sense"),
        late: Late::Drop,
        dims_policy: Policy::AsOf,
        ingest: IngestOptions {
            topic: "simulated".to_owned(),
            wait: Span(shape.wait),
            grain: Span(shape.grain),
            idle_after: Duration::from_millis(shape.idle_after_ms),
            max_ahead: Span::minutes(5),
            zone: crate::time::Zone::UTC,
            dims_wait: Span::ZERO,
            alignment: Span(shape.alignment),
            discovers: true,
            started_at: crate::host::wall_clock(),
        },
    }
}

fn state(shape: &Shape, nonce: Uuid) -> StateOptions {
    StateOptions {
        storage: Arc::new(SimulatedStorage),
        is_fresh: false,
        replace_output: false,
        config: BTreeMap::new(),
        may_change: &[],
        version: "1".to_owned(),
        history: [History::None, History::All, History::For(Span(40))][shape.history],
        starter: Starter {
            nonce,
            at: EventTime(0),
            by: "simulated".to_owned(),
            goes_on: false,
        },
    }
}
