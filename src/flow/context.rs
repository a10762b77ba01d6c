//! What the operators of a pipeline share: the run's options, the control view, the ledger.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use timely::dataflow::Scope;
use timely::dataflow::operators::probe::Handle as ProbeHandle;

use super::{Blocks, Keep};
use crate::decode::DeadLetter;
use crate::epoch::Resume;
use crate::join::Policy;
use crate::ledger::{Ledger, LedgerError};
use crate::runtime::control::{ControlView, Notices};
use crate::runtime::ingest::IngestOptions;
use crate::runtime::metrics::Metrics;
use crate::runtime::{Failure, RunError};
use crate::sink::{OutputSpec, SinkContext, SinkFactory};
use crate::source::SharedSource;
use crate::time::{Epoch, Time};
use crate::window::{Late, WindowSpec};

/// How far the sources may run ahead of what is committed, in epochs.
const EPOCHS_AHEAD: u64 = 4;

/// What the options of a run mean to the operators.
#[derive(Clone, Debug)]
pub struct FlowOptions {
    /// The shape of the main windows.
    pub window: WindowSpec,
    /// What happens to late records.
    pub late: Late,
    /// Which version of a dimension row a record sees.
    pub dims_policy: Policy,
    /// The rules of reading.
    pub ingest: IngestOptions,
}

/// What the workers of a run share.
pub struct RunShared {
    /// The pipeline's name.
    pub pipeline: &'static str,
    /// The options.
    pub options: FlowOptions,
    /// The input.
    pub source: SharedSource,
    /// Where the run goes on.
    pub resume: Arc<Resume>,
    /// The sinks of each output.
    pub sinks: BTreeMap<String, Vec<Arc<dyn SinkFactory>>>,
    /// Whether the run has a state.
    pub has_state: bool,
    /// What the sinks share.
    pub sink_context: SinkContext,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// How the coordinator is reached, to end the run.
    pub notices: Notices,
    /// The first error ends the run.
    pub failure: Failure,
    /// Records whose dimension row was missing.
    pub unmatched: AtomicU64,
    /// The outputs that the pipeline has declared.
    pub declared: Mutex<BTreeMap<&'static str, OutputSpec>>,
}

impl RunShared {
    pub(super) fn declare(&self, spec: &OutputSpec) {
        let mut declared = self.declared.lock().unwrap_or_else(PoisonError::into_inner);
        declared.insert(spec.name, spec.clone());
    }

    /// Whether some sink takes windows only when they are final, in a run with a state.
    pub fn wants_finals(&self) -> bool {
        self.has_state && self.sinks.values().flatten().any(|sink| sink.rolls_files())
    }

    /// Whether the output called `name` goes anywhere.
    pub fn has_sink(&self, name: &str) -> bool {
        self.sinks.get(name).is_some_and(|sinks| !sinks.is_empty())
    }

    /// Counts records whose dimension row was missing.
    pub fn count_unmatched(&self, records: u64) {
        self.unmatched.fetch_add(records, Ordering::Relaxed);
        self.metrics.unmatched(records);
    }
}

/// What the operators of one worker share.
pub struct WorkerContext {
    /// This worker.
    pub index: usize,
    /// How many workers there are.
    pub peers: usize,
    /// What the coordinator has said.
    pub view: ControlView,
    /// The fates of the records that this worker reads.
    pub ledger: RefCell<Ledger>,
    /// How many operators say that all fates are decided.
    pub main_ends: Cell<usize>,
    /// What gathers the parts of checkpoints, when the run has a state.
    pub keep: Option<Keep>,
    /// The frontier of what all sinks have committed.
    pub committed: ProbeHandle<Time>,
    /// What all workers share.
    pub run: Arc<RunShared>,
}

impl WorkerContext {
    /// Whether records of `epoch` may be read: not too far ahead of what is committed.
    pub fn may_read(&self, epoch: Epoch) -> bool {
        epoch.0 < self.uncommitted().saturating_add(EPOCHS_AHEAD)
    }

    /// Whether every sink has committed `epoch`.
    pub fn is_committed(&self, epoch: Epoch) -> bool {
        epoch.0 < self.uncommitted()
    }

    /// The first epoch that some sink has not committed.
    fn uncommitted(&self) -> u64 {
        self.committed.with_frontier(|frontier| {
            frontier
                .iter()
                .map(|time| time.epoch.0)
                .min()
                .unwrap_or(u64::MAX)
        })
    }

    /// The worker to which `shard` belongs.
    pub const fn owns(&self, shard: u32) -> bool {
        shard as usize % self.peers == self.index
    }

    /// All records that this worker read in `epoch` have been through: each has its fate.
    pub fn close_ledger(&self, epoch: Epoch) {
        let account = self.ledger.borrow_mut().close(epoch);
        self.view.account(account);
    }

    /// The run is over: nothing may have been counted that no account has.
    pub fn end_ledger(&self) {
        let left = self.ledger.borrow_mut().close(Epoch(u64::MAX));
        if let Some((partition, fates)) = left.partitions.into_iter().next() {
            let (epoch, read) = (self.view.last().unwrap_or_default(), 0);
            self.run.failure.set(RunError::Ledger(LedgerError::Fates {
                partition,
                epoch,
                read,
                fates,
            }));
        }
    }
}

/// The graph of a pipeline, while it is written down.
pub struct Flow<'s> {
    pub(super) scope: Scope<'s, Time>,
    pub(super) context: Rc<WorkerContext>,
    pub(super) dead_letters: Vec<Blocks<'s, DeadLetter>>,
}

impl<'s> Flow<'s> {
    /// An empty graph in `scope`.
    pub const fn new(scope: Scope<'s, Time>, context: Rc<WorkerContext>) -> Self {
        Self {
            scope,
            context,
            dead_letters: Vec::new(),
        }
    }

    /// The options of the run.
    pub fn options(&self) -> &FlowOptions {
        &self.context.run.options
    }

    /// Sends everything that could not be used to the output `dead-letters`. The last step.
    ///
    /// # Panics
    /// When the pipeline is no pipeline: its main path has no end (`window` or `main_output`), so
    /// that its records have no fate and no epoch is ever released, or it has several.
    pub fn finish(mut self) {
        let (pipeline, ends) = (self.context.run.pipeline, self.context.main_ends.get());
        assert_eq!(ends, 1, "ends of the main path of pipeline {pipeline}");
        let letters = std::mem::take(&mut self.dead_letters);
        if let Some(letters) = Blocks::concatenate(letters) {
            self.dead_letter_output(letters);
        }
    }
}
