//! Builds and steps the dataflows of all workers.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use timely::WorkerConfig;
use timely::dataflow::operators::probe::Handle as ProbeHandle;
use timely::worker::Worker;

use super::control::{
    ControlOptions, ControlView, Notice, Notices, control_dataflow, log_thread, wall_clock,
};
use super::metrics::{Metrics, OutputCount, Range};
use super::{Failure, RunError};
use crate::epoch::{CoordinatorOptions, EpochEntry, EpochLog};
use crate::flow::{Flow, FlowOptions, RunShared, WorkerContext};
use crate::join::DimLoader;
use crate::ledger::{Fates, Ledger};
use crate::sink::{OutputSpec, SinkContext, SinkFactory};
use crate::source::{Partition, SharedSource};
use crate::terminal;
use crate::time::{PartitionId, Time};

/// How often a worker without work looks whether the run has failed.
const LOOK: Duration = Duration::from_millis(50);

/// A pipeline with its options: builds its graph on each worker.
pub trait Pipeline: Send + Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// The output that `--to URI` without a name means.
    fn main_output(&self) -> &'static str;

    /// Its dimension tables, if it has any.
    fn dimensions(&self) -> Option<Arc<dyn DimLoader>> {
        None
    }

    /// Writes down the graph.
    fn build(&self, flow: &mut Flow<'_>);
}

/// What a run needs.
pub struct RunOptions {
    /// The pipeline.
    pub pipeline: Arc<dyn Pipeline>,
    /// Its input.
    pub source: SharedSource,
    /// Where outputs go: output name and target.
    pub sinks: Vec<(String, Arc<dyn SinkFactory>)>,
    /// What the options mean to the operators.
    pub flow: FlowOptions,
    /// How many worker threads.
    pub workers: usize,
    /// The longest epoch.
    pub epoch: Duration,
    /// How often an epoch is a checkpoint.
    pub checkpoint: Duration,
    /// Whether the watermark follows the wall clock while all partitions are idle.
    pub close_on_idle: bool,
    /// Whether the end of the input ends the run.
    pub ends: bool,
    /// Whether that end closes the open windows.
    pub drain: bool,
    /// How often dimension tables are read again; `None`: never.
    pub dims_refresh: Option<Duration>,
    /// What tells this run's files from those of others.
    pub run_label: String,
    /// Where epochs are recorded.
    pub log: Box<dyn EpochLog>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// How other threads reach the run, to stop it.
    pub notices: Notices,
}

/// What is left of a run.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The partitions, with what was read of them and the fates of their records.
    pub inputs: Vec<(Partition, Range, Fates)>,
    /// What was written to each output.
    pub outputs: BTreeMap<&'static str, OutputCount>,
    /// Records whose dimension row was missing.
    pub unmatched: u64,
    /// How long it took.
    pub wall: Duration,
}

impl Summary {
    /// The fates over all partitions.
    pub fn total(&self) -> Fates {
        let mut total = Fates::default();
        self.inputs.iter().for_each(|(_, _, fates)| total += *fates);
        total
    }
}

/// The outputs of a pipeline, without running it.
pub fn describe(
    pipeline: &Arc<dyn Pipeline>,
    flow: &FlowOptions,
    source: &SharedSource,
) -> Vec<OutputSpec> {
    let shared = Arc::new(RunShared {
        pipeline: pipeline.name(),
        options: flow.clone(),
        source: Arc::clone(source),
        partitions: Vec::new(),
        sinks: BTreeMap::new(),
        sink_context: SinkContext::default(),
        metrics: Arc::default(),
        notices: Notices::default(),
        failure: Failure::default(),
        unmatched: AtomicU64::new(0),
        declared: Mutex::default(),
    });
    let (inner, pipeline) = (Arc::clone(&shared), Arc::clone(pipeline));
    timely::execute_directly(move |worker| {
        let context = worker_context(worker, ControlView::default(), inner);
        build(worker, context, &*pipeline);
        drop_dataflows(worker);
    });
    let declared = shared
        .declared
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    declared.values().cloned().collect()
}

/// Runs a pipeline until its input ends, it is stopped, or it fails.
///
/// # Errors
/// The first thing that went wrong; everything before it that was committed stays committed.
pub fn run(options: RunOptions) -> Result<Summary, RunError> {
    let started = Instant::now();
    let failure = Failure::default();
    let partitions = options.source.partitions().map_err(RunError::Source)?;
    let dimensions = options.pipeline.dimensions();
    if let Some(dimensions) = &dimensions {
        dimensions.first().map_err(RunError::Dimensions)?;
    }
    let sinks = prepare_sinks(&options, partitions.len())?;
    let shared = Arc::new(RunShared {
        pipeline: options.pipeline.name(),
        options: options.flow.clone(),
        source: Arc::clone(&options.source),
        partitions: partitions.clone(),
        sinks,
        sink_context: SinkContext {
            run_label: options.run_label.clone(),
            ..SinkContext::default()
        },
        metrics: Arc::clone(&options.metrics),
        notices: options.notices.clone(),
        failure: failure.clone(),
        unmatched: AtomicU64::new(0),
        declared: Mutex::default(),
    });
    let helpers = Helpers::start(&options, dimensions);
    let abort = Arc::clone(&shared.sink_context.abort);
    let (metrics, workers) = (Arc::clone(&options.metrics), options.workers);
    let ledgers = step_workers(options, &shared, &failure, workers);
    helpers.stop();
    if let Some(error) = failure.take() {
        abort.store(true, Ordering::SeqCst);
        return Err(error);
    }
    Ok(summarize(&metrics, &shared, &ledgers?, partitions, started))
}

/// Makes what is missing in the targets, and checks the names of the outputs.
fn prepare_sinks(
    options: &RunOptions,
    partitions: usize,
) -> Result<BTreeMap<String, Vec<Arc<dyn SinkFactory>>>, RunError> {
    let outputs = describe(&options.pipeline, &options.flow, &options.source);
    let mut sinks: BTreeMap<String, Vec<Arc<dyn SinkFactory>>> = BTreeMap::new();
    for (name, factory) in &options.sinks {
        let Some(output) = outputs.iter().find(|output| output.name == name) else {
            let names: Vec<_> = outputs.iter().map(|output| output.name).collect();
            return Err(RunError::Usage(format!(
                "{} has no output {name:?} here; its outputs are {}",
                options.pipeline.name(),
                names.join(", ")
            )));
        };
        factory
            .prepare(output, partitions as u32, None)
            .map_err(|error| RunError::Sink {
                output: output.name,
                error,
            })?;
        sinks
            .entry(name.clone())
            .or_default()
            .push(Arc::clone(factory));
    }
    Ok(sinks)
}

type Ledgers = Vec<BTreeMap<PartitionId, Fates>>;

type Record = Box<dyn FnMut(EpochEntry) + Send>;

/// What each worker takes for itself when it starts.
struct WorkerKit {
    pipeline: Arc<dyn Pipeline>,
    shared: Arc<RunShared>,
    coordinator: CoordinatorOptions,
    partitions: Vec<PartitionId>,
    notices: Notices,
    /// For the first worker of the run.
    record: Mutex<Option<Record>>,
}

fn step_workers(
    options: RunOptions,
    shared: &Arc<RunShared>,
    failure: &Failure,
    workers: usize,
) -> Result<Ledgers, RunError> {
    let coordinator = CoordinatorOptions {
        workers,
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
        log,
        ..
    } = options;
    let log_failure = failure.clone();
    let fail = move |error| log_failure.set(RunError::Log(error));
    let mut append = log_thread(log, notices.clone(), fail);
    let record: Record = Box::new(move |entry| {
        metrics.decided(&entry);
        append(entry);
    });
    let kit = WorkerKit {
        pipeline,
        shared: Arc::clone(shared),
        coordinator,
        partitions: shared
            .partitions
            .iter()
            .map(|partition| partition.id)
            .collect(),
        notices,
        record: Mutex::new(Some(record)),
    };
    let config = if workers == 1 {
        timely::Config::thread()
    } else {
        timely::Config::process(workers)
    };
    let config = timely::Config {
        worker: WorkerConfig::default(),
        ..config
    };
    let guards = timely::execute(config, move |worker| guarded_worker(worker, &kit));
    let guards = guards.map_err(RunError::Worker)?;
    guards
        .join()
        .into_iter()
        .collect::<Result<Ledgers, String>>()
        .map_err(RunError::Worker)
}

/// Runs one worker; a panic ends the run as a failure, so that the other workers do not wait for
/// ever.
fn guarded_worker(worker: &mut Worker, kit: &WorkerKit) -> BTreeMap<PartitionId, Fates> {
    let failure = &kit.shared.failure;
    let outcome = catch_unwind(AssertUnwindSafe(|| step_worker(worker, kit)));
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        failure.set(RunError::Worker(text.unwrap_or_default()));
        drop_dataflows(worker);
        BTreeMap::new()
    })
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
        partitions: kit.partitions.clone(),
        notices: kit.notices.clone(),
        log: record.map(|record| record as Box<dyn FnMut(EpochEntry)>),
        started_at: kit.shared.options.ingest.started_at,
        offset_unit: kit.shared.source.offset_unit(),
        failure: kit.shared.failure.clone(),
    };
    control_dataflow(worker, &view, control);
    let context = worker_context(worker, view, Arc::clone(&kit.shared));
    build(worker, Rc::clone(&context), &*kit.pipeline);
    while worker.has_dataflows() {
        if kit.shared.failure.is_set() {
            drop_dataflows(worker);
            return BTreeMap::new();
        }
        worker.step_or_park(Some(LOOK));
    }
    context.end_ledger();
    context.ledger.borrow().total().clone()
}

fn worker_context(worker: &Worker, view: ControlView, run: Arc<RunShared>) -> Rc<WorkerContext> {
    Rc::new(WorkerContext {
        index: worker.index(),
        peers: worker.peers(),
        view,
        ledger: Ledger::default().into(),
        main_ends: Cell::new(0),
        committed: ProbeHandle::new(),
        run,
    })
}

fn build(worker: &mut Worker, context: Rc<WorkerContext>, pipeline: &dyn Pipeline) {
    worker.dataflow::<Time, _, _>(|scope| {
        let mut flow = Flow::new(scope, context);
        pipeline.build(&mut flow);
        flow.finish();
    });
}

fn drop_dataflows(worker: &mut Worker) {
    for dataflow in worker.installed_dataflows() {
        worker.drop_dataflow(dataflow);
    }
}

fn summarize(
    metrics: &Metrics,
    shared: &RunShared,
    ledgers: &Ledgers,
    mut partitions: Vec<Partition>,
    started: Instant,
) -> Summary {
    let mut fates: BTreeMap<PartitionId, Fates> = BTreeMap::new();
    for (partition, part) in ledgers.iter().flatten() {
        *fates.entry(*partition).or_default() += *part;
    }
    let ranges = metrics.ranges();
    partitions.extend(metrics.found());
    let inputs = partitions.into_iter().map(|partition| {
        let id = partition.id;
        let range = ranges.get(&id).copied().unwrap_or_default();
        (
            partition,
            range,
            fates.get(&id).copied().unwrap_or_default(),
        )
    });
    Summary {
        inputs: inputs.collect(),
        outputs: metrics.outputs(),
        unmatched: shared.unmatched.load(Ordering::Relaxed),
        wall: started.elapsed(),
    }
}

/// The threads that look for new partitions and for changed dimension tables.
struct Helpers {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Helpers {
    fn start(options: &RunOptions, dimensions: Option<Arc<dyn DimLoader>>) -> Self {
        let mut helpers = Self {
            stop: Arc::default(),
            threads: Vec::new(),
        };
        if let Some(interval) = options.source.discovery_interval() {
            let (source, notices) = (Arc::clone(&options.source), options.notices.clone());
            helpers.every(interval, move || {
                // A source that cannot be reached now is looked at again later; its readers know.
                if let Ok(partitions) = source.partitions() {
                    notices.send(Notice::Found(partitions));
                }
            });
        }
        if let (Some(interval), Some(dimensions)) = (options.dims_refresh, dimensions) {
            let notices = options.notices.clone();
            helpers.every(interval, move || match dimensions.again(wall_clock()) {
                Ok(Some(number)) => notices.send(Notice::Refreshed(number)),
                Ok(None) => {}
                Err(error) => terminal::message(format_args!(
                    "dimensions: {error}; the rows read before stay in use"
                )),
            });
        }
        helpers
    }

    fn every(&mut self, interval: Duration, mut work: impl FnMut() + Send + 'static) {
        let stop = Arc::clone(&self.stop);
        self.threads.push(std::thread::spawn(move || {
            let mut last = Instant::now();
            while !stop.load(Ordering::SeqCst) {
                std::thread::park_timeout(interval.saturating_sub(last.elapsed()));
                if last.elapsed() >= interval {
                    last = Instant::now();
                    work();
                }
            }
        }));
    }

    fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in &self.threads {
            thread.thread().unpark();
        }
    }
}
