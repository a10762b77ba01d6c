//! Builds and steps the dataflows of the workers of this process.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::RecvTimeoutError;
use timely::WorkerConfig;
use timely::communication::WorkerGuards;
use timely::dataflow::operators::probe::Handle as ProbeHandle;
use timely::worker::Worker;

use super::beginning::Kept;
use super::control::{ControlOptions, ControlView, Decision, Notices, control_dataflow};
use super::execute::{Pipeline, RunOptions};
use super::manifests::Manifests;
use super::metrics::Metrics;
use super::processes;
use super::record::{Recorder, store_parts};
use super::{Failure, RunError};
use crate::cluster::Cluster;
use crate::epoch::CoordinatorOptions;
use crate::flow::{Flow, Keep, RunShared, WorkerContext};
use crate::host;
use crate::ledger::{Fates, Ledger};
use crate::state::LogItem;
use crate::time::{PartitionId, Time};

/// How often a worker without work looks whether the run has failed.
const LOOK: Duration = Duration::from_millis(50);

/// The fates of what was read.
pub type Total = BTreeMap<PartitionId, Fates>;

/// Those of each worker.
pub type Ledgers = Vec<Total>;

type Record = Box<dyn FnMut(Decision) + Send>;

/// What each worker takes for itself when it starts.
struct WorkerKit {
    pipeline: Arc<dyn Pipeline>,
    shared: Arc<RunShared>,
    coordinator: CoordinatorOptions,
    notices: Notices,
    /// For the first worker of the run.
    record: Mutex<Option<Record>>,
    kept: Option<Kept>,
    cluster: Option<Arc<Cluster>>,
    /// How many workers are in each process.
    local: usize,
}

pub fn step_workers(
    options: RunOptions,
    shared: &Arc<RunShared>,
    kept: Option<Kept>,
    recorder: Option<Recorder>,
) -> Result<Ledgers, RunError> {
    let (workers, serializes) = (options.workers, options.serializes);
    let coordinator = CoordinatorOptions {
        workers: options.peers(),
        epoch: options.epoch,
        checkpoint: options.checkpoint,
        grain: options.flow.ingest.grain,
        close_on_idle: options.close_on_idle,
        drain: options.drain,
        ends: options.ends,
    };
    let RunOptions {
        pipeline,
        metrics,
        notices,
        cluster,
        ..
    } = options;
    let kit = WorkerKit {
        pipeline,
        shared: Arc::clone(shared),
        coordinator,
        notices,
        record: Mutex::new(recorder.map(|it| record(it, metrics, &shared.failure))),
        kept,
        cluster: cluster.clone(),
        local: workers,
    };
    let step = move |worker: &mut Worker| guarded_worker(worker, &kit);
    let Some(cluster) = cluster else {
        let ledgers = host::execute(workers, serializes, step);
        return ledgers.map_err(RunError::Worker);
    };
    let (builders, guard) = processes::networking(&cluster)?;
    let config = WorkerConfig::default();
    let guards = timely::execute::execute_from(builders, guard, config, step);
    join(guards.map_err(RunError::Worker)?, &shared.failure)
}

/// What becomes of the coordinator's decisions.
fn record(recorder: Recorder, metrics: Arc<Metrics>, failure: &Failure) -> Record {
    let mut append = recorder.start(failure.clone());
    Box::new(move |decision| match decision {
        Decision::Replayed(entry) => {
            metrics.decided(&entry);
            metrics.borders.decided(&entry, false, host::now());
        }
        Decision::Decided(entry) => {
            metrics.decided(&entry);
            metrics.borders.decided(&entry, true, host::now());
            append(LogItem::Epoch(entry));
        }
        Decision::Checkpoint(manifest) => {
            metrics.borders.gathered(&manifest);
            append(LogItem::Manifest(manifest));
        }
    })
}

fn ledgers(results: Vec<Result<Total, String>>) -> Result<Ledgers, RunError> {
    let results = results.into_iter().collect::<Result<Ledgers, String>>();
    results.map_err(RunError::Worker)
}

/// Waits for the workers of this process, whose connections end only when those of all other
/// processes do; after a failure nobody waits for that.
fn join(guards: WorkerGuards<Total>, failure: &Failure) -> Result<Ledgers, RunError> {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    std::thread::spawn(move || {
        // Nobody waits any more: then the run has failed.
        let _ = sender.send(guards.join());
    });
    loop {
        match receiver.recv_timeout(LOOK) {
            Ok(results) => return ledgers(results),
            Err(RecvTimeoutError::Timeout) if !failure.is_set() => {}
            Err(RecvTimeoutError::Timeout) => return Ok(Vec::new()),
            Err(RecvTimeoutError::Disconnected) => {
                let text = "its connections with the other processes".to_owned();
                return Err(RunError::Worker(text));
            }
        }
    }
}

/// Runs one worker; a panic ends the run as a failure, so that the other workers do not wait for
/// ever.
fn guarded_worker(worker: &mut Worker, kit: &WorkerKit) -> BTreeMap<PartitionId, Fates> {
    let failure = &kit.shared.failure;
    let outcome = host::catch(|| step_worker(worker, kit));
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        failure.set(RunError::Worker(text.unwrap_or_default()));
        drop_dataflows(worker);
        BTreeMap::new()
    })
}

impl WorkerKit {
    fn manifests(&self) -> Option<Manifests> {
        let kept = self.kept.as_ref()?;
        Some(Manifests::new(
            self.coordinator.workers,
            kept.shards.clone(),
            &self.shared.resume,
            kept.manifest.as_ref(),
        ))
    }

    fn keep(&self, worker: usize, view: &ControlView) -> Option<Keep> {
        let kept = self.kept.as_ref()?;
        let failure = self.shared.failure.clone();
        let parts = store_parts(kept.store.clone(), worker, view.post(), failure);
        let send = move |part| {
            // A thread that failed has ended the run.
            let _ = parts.send(part);
        };
        Some(Keep::new(kept.restored.take(), send))
    }
}

fn step_worker(worker: &mut Worker, kit: &WorkerKit) -> BTreeMap<PartitionId, Fates> {
    let view = ControlView::default();
    let record = kit
        .record
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take_if(|_| worker.index() == 0);
    let control = ControlOptions {
        coordinator: kit.coordinator.clone(),
        resume: Arc::clone(&kit.shared.resume),
        notices: kit.notices.clone(),
        record: record.map(|record| record as Box<dyn FnMut(Decision)>),
        offset_unit: kit.shared.source.offset_unit(),
        failure: kit.shared.failure.clone(),
        manifests: kit.manifests().filter(|_| worker.index() == 0),
        local: kit.local,
        dimensions: kit.pipeline.dimensions(),
        metrics: Arc::clone(&kit.shared.metrics),
    };
    control_dataflow(worker, &view, control);
    let keep = kit.keep(worker.index(), &view);
    let context = worker_context(worker, view, keep, Arc::clone(&kit.shared));
    build(worker, Rc::clone(&context), &*kit.pipeline);
    if let Some(keep) = &context.keep {
        keep.is_restored();
    }
    let metrics = &kit.shared.metrics;
    metrics.recovery.loaded();
    metrics.progressing.loaded();
    let gauge = metrics.workers.gauge(worker.index());
    while worker.has_dataflows() {
        if let Some(cluster) = &kit.cluster {
            cluster.step(worker.index());
        }
        if kit.shared.failure.is_set() {
            drop_dataflows(worker);
            return BTreeMap::new();
        }
        host::step(worker, LOOK);
        gauge.step();
    }
    gauge.end();
    if let Some(cluster) = &kit.cluster {
        cluster.is_done(worker.index());
    }
    context.end_ledger();
    context.ledger.borrow().total().clone()
}

pub fn worker_context(
    worker: &Worker,
    view: ControlView,
    keep: Option<Keep>,
    run: Arc<RunShared>,
) -> Rc<WorkerContext> {
    Rc::new(WorkerContext {
        index: worker.index(),
        peers: worker.peers(),
        view,
        ledger: Ledger::default().into(),
        main_ends: Cell::new(0),
        keep,
        committed: ProbeHandle::new(),
        run,
    })
}

pub fn build(worker: &mut Worker, context: Rc<WorkerContext>, pipeline: &dyn Pipeline) {
    worker.dataflow::<Time, _, _>(|scope| {
        let mut flow = Flow::new(scope, context);
        pipeline.build(&mut flow);
        flow.finish();
    });
}

pub fn drop_dataflows(worker: &mut Worker) {
    for dataflow in worker.installed_dataflows() {
        worker.drop_dataflow(dataflow);
    }
}

/// The fates over all workers.
pub fn total(ledgers: &Ledgers) -> Total {
    let mut fates = Total::new();
    for (partition, part) in ledgers.iter().flatten() {
        *fates.entry(*partition).or_default() += *part;
    }
    fates
}
