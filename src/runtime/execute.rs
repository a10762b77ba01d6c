//! Builds and steps the dataflows of all workers.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use timely::dataflow::operators::probe::Handle as ProbeHandle;
use timely::worker::Worker;

use super::control::{
    ControlOptions, ControlView, Decision, Notice, Notices, control_dataflow, wall_clock,
};
use super::manifests::Manifests;
use super::metrics::{Metrics, OutputCount, Range};
use super::record::{Recorder, StoreOptions, store_parts};
use super::state::{self, StateOptions};
use super::{Failure, RunError};
use crate::epoch::{CoordinatorOptions, Resume};
use crate::flow::{Flow, FlowOptions, Keep, RunShared, WorkerContext};
use crate::host;
use crate::join::DimLoader;
use crate::ledger::{Fates, Ledger};
use crate::sink::{JobContext, OutputSpec, SinkContext, SinkFactory, sink_id};
use crate::source::{Partition, SharedSource};
use crate::state::{Checkpoint, LogItem, Manifest, Storage, dims};
use crate::terminal;
use crate::time::{EventTime, PartitionId, Time};

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
    /// Where the run's state is kept; `None`: nowhere.
    pub state: Option<StateOptions>,
    /// Whether rows may come again after a crash, in exchange for coming at once.
    pub is_at_least_once: bool,
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
    /// Of a run that had nothing to do.
    const fn nothing(wall: Duration) -> Self {
        Self {
            inputs: Vec::new(),
            outputs: BTreeMap::new(),
            unmatched: 0,
            wall,
        }
    }

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
        resume: Arc::new(Resume::fresh([], EventTime::MIN)),
        sinks: BTreeMap::new(),
        has_state: false,
        sink_context: SinkContext::default(),
        metrics: Arc::default(),
        notices: Notices::default(),
        failure: Failure::default(),
        unmatched: AtomicU64::new(0),
        declared: Mutex::default(),
    });
    let (inner, pipeline) = (Arc::clone(&shared), Arc::clone(pipeline));
    timely::execute_directly(move |worker| {
        let context = worker_context(worker, ControlView::default(), None, inner);
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
    let outputs = describe(&options.pipeline, &options.flow, &options.source);
    let sinks = outputs_with_sinks(&options, &outputs)?;
    let Beginning {
        resume,
        partitions,
        kept,
        job,
        recorder,
    } = match begin(&options, &sinks)? {
        Begun::Now(beginning) => *beginning,
        Begun::Drained => return Ok(Summary::nothing(started.elapsed())),
    };
    prepare_sinks(&outputs, &sinks, partitions.len(), job.as_deref())?;
    let shared = Arc::new(RunShared {
        pipeline: options.pipeline.name(),
        options: options.flow.clone(),
        source: Arc::clone(&options.source),
        resume: Arc::new(resume),
        sinks,
        has_state: kept.is_some(),
        sink_context: SinkContext {
            run_label: options.run_label.clone(),
            job,
            is_at_least_once: options.is_at_least_once,
            ..SinkContext::default()
        },
        metrics: Arc::clone(&options.metrics),
        notices: options.notices.clone(),
        failure: failure.clone(),
        unmatched: AtomicU64::new(0),
        declared: Mutex::default(),
    });
    tell_found(&options.notices, &shared.resume, &partitions);
    let helpers = Helpers::start(&options, kept.as_ref());
    let abort = Arc::clone(&shared.sink_context.abort);
    let metrics = Arc::clone(&options.metrics);
    let ledgers = step_workers(options, &shared, kept, recorder);
    helpers.stop();
    if let Some(error) = failure.take() {
        abort.store(true, Ordering::SeqCst);
        return Err(error);
    }
    Ok(summarize(&metrics, &shared, &ledgers?, partitions, started))
}

/// The sinks of each output, by its name.
type Sinks = BTreeMap<String, Vec<Arc<dyn SinkFactory>>>;

/// Checks the names of the outputs.
fn outputs_with_sinks(options: &RunOptions, outputs: &[OutputSpec]) -> Result<Sinks, RunError> {
    let mut sinks = Sinks::new();
    for (name, factory) in &options.sinks {
        if !outputs.iter().any(|output| output.name == name) {
            let names: Vec<_> = outputs.iter().map(|output| output.name).collect();
            return Err(RunError::Usage(format!(
                "{} has no output {name:?} here; its outputs are {}",
                options.pipeline.name(),
                names.join(", ")
            )));
        }
        sinks
            .entry(name.clone())
            .or_default()
            .push(Arc::clone(factory));
    }
    Ok(sinks)
}

/// Makes what is missing in the targets.
fn prepare_sinks(
    outputs: &[OutputSpec],
    sinks: &Sinks,
    partitions: usize,
    job: Option<&JobContext>,
) -> Result<(), RunError> {
    for output in outputs {
        for factory in sinks.get(output.name).into_iter().flatten() {
            let prepared = factory.prepare(output, partitions as u32, job);
            prepared.map_err(|error| RunError::Sink {
                output: output.name,
                error,
            })?;
        }
    }
    Ok(())
}

/// Into how many shards each sink is split, by its id.
fn shards_of(sinks: &Sinks) -> BTreeMap<String, u32> {
    let each = sinks.iter().flat_map(|(output, factories)| {
        let id = |factory: &Arc<dyn SinkFactory>| sink_id(output, &factory.identity());
        factories
            .iter()
            .map(move |factory| (id(factory), factory.shards()))
    });
    each.collect()
}

/// Where a run begins, and what it writes down.
struct Beginning {
    resume: Resume,
    partitions: Vec<Partition>,
    kept: Option<Kept>,
    job: Option<Arc<JobContext>>,
    recorder: Recorder,
}

/// What a run with a state has of it.
struct Kept {
    store: StoreOptions,
    restored: Arc<Vec<Checkpoint>>,
    manifest: Option<Manifest>,
    shards: BTreeMap<String, u32>,
}

/// Whether there is anything to be done.
enum Begun {
    Now(Box<Beginning>),
    /// The input was declared complete, and all of it is committed.
    Drained,
}

fn begin(options: &RunOptions, sinks: &Sinks) -> Result<Begun, RunError> {
    let dimensions = options.pipeline.dimensions();
    let started_at = options.flow.ingest.started_at;
    let Some(state) = &options.state else {
        let partitions = options.source.partitions().map_err(RunError::Source)?;
        if let Some(dimensions) = dimensions {
            dimensions.first(0).map_err(RunError::Dimensions)?;
        }
        return Ok(Begun::Now(Box::new(Beginning {
            resume: Resume::fresh(partitions.clone(), started_at),
            partitions,
            kept: None,
            job: None,
            recorder: Recorder::new(None, options.notices.clone()),
        })));
    };
    let shards = shards_of(sinks);
    let setting = state::Setting {
        pipeline: options.pipeline.name(),
        source: &options.source,
        dimensions: dimensions.as_deref(),
        shards: shards.clone(),
        started_at,
    };
    let opened = state::open(state, &setting)?;
    if !options.metrics.is_quiet() {
        terminal::message(format_args!("{}", state::describe(&opened)));
    }
    if state::is_drained(&opened) {
        terminal::message(format_args!(
            "its input was declared complete and everything is committed; --fresh begins a new job"
        ));
        return Ok(Begun::Drained);
    }
    let recorder = Some((opened.writer, opened.retention));
    Ok(Begun::Now(Box::new(Beginning {
        resume: opened.resume,
        partitions: opened.partitions,
        kept: Some(Kept {
            store: StoreOptions {
                storage: Arc::clone(&state.storage),
                job: opened.job.job,
                run: opened.job.run,
            },
            restored: Arc::new(opened.restored),
            manifest: opened.manifest,
            shards,
        }),
        job: Some(Arc::new(opened.job)),
        recorder: Recorder::new(recorder, options.notices.clone()),
    })))
}

/// Partitions that are there now and that the state does not know were found since.
fn tell_found(notices: &Notices, resume: &Resume, partitions: &[Partition]) {
    let unknown = partitions.iter().filter(|it| !resume.knows(it.id));
    let unknown: Vec<_> = unknown.cloned().collect();
    if !unknown.is_empty() {
        notices.send(Notice::Found(unknown));
    }
}

type Ledgers = Vec<BTreeMap<PartitionId, Fates>>;

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
}

fn step_workers(
    options: RunOptions,
    shared: &Arc<RunShared>,
    kept: Option<Kept>,
    recorder: Recorder,
) -> Result<Ledgers, RunError> {
    let workers = options.workers;
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
        ..
    } = options;
    let mut append = recorder.start(shared.failure.clone());
    let record: Record = Box::new(move |decision| match decision {
        Decision::Replayed(entry) => metrics.decided(&entry),
        Decision::Decided(entry) => {
            metrics.decided(&entry);
            append(LogItem::Epoch(entry));
        }
        Decision::Checkpoint(manifest) => append(LogItem::Manifest(manifest)),
    });
    let kit = WorkerKit {
        pipeline,
        shared: Arc::clone(shared),
        coordinator,
        notices,
        record: Mutex::new(Some(record)),
        kept,
    };
    let ledgers = host::execute(workers, move |worker| guarded_worker(worker, &kit));
    ledgers.map_err(RunError::Worker)
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
        Some(Keep::new(Arc::clone(&kept.restored), send))
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
    };
    control_dataflow(worker, &view, control);
    let keep = kit.keep(worker.index(), &view);
    let context = worker_context(worker, view, keep, Arc::clone(&kit.shared));
    build(worker, Rc::clone(&context), &*kit.pipeline);
    while worker.has_dataflows() {
        if kit.shared.failure.is_set() {
            drop_dataflows(worker);
            return BTreeMap::new();
        }
        host::step(worker, LOOK);
    }
    context.end_ledger();
    context.ledger.borrow().total().clone()
}

fn worker_context(
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

/// Reads the dimension tables again; what has changed is stored before the coordinator hears of
/// it. `unstored`: a load that could not be stored yet.
fn refresh(
    dimensions: &dyn DimLoader,
    storage: Option<&dyn Storage>,
    unstored: &mut Option<u64>,
    notices: &Notices,
) {
    let failed = |error: &dyn std::fmt::Display| {
        terminal::message(format_args!(
            "dimensions: {error}; the rows read before stay in use"
        ));
    };
    if unstored.is_none() {
        match dimensions.again(wall_clock()) {
            Ok(number) => *unstored = number,
            Err(error) => return failed(&error),
        }
    }
    let Some(number) = *unstored else { return };
    let stored = storage.map(|storage| dims::store(storage, &dimensions.stored()));
    if let Some(Err(error)) = stored {
        return failed(&error);
    }
    *unstored = None;
    notices.send(Notice::Refreshed(number));
}

/// The threads that look for new partitions and for changed dimension tables.
struct Helpers {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Helpers {
    fn start(options: &RunOptions, kept: Option<&Kept>) -> Self {
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
        if let (Some(interval), Some(dimensions)) =
            (options.dims_refresh, options.pipeline.dimensions())
        {
            let notices = options.notices.clone();
            let storage = kept.map(|kept| Arc::clone(&kept.store.storage));
            let mut unstored = None;
            let mut refresh =
                move || refresh(&*dimensions, storage.as_deref(), &mut unstored, &notices);
            if kept.is_some() {
                // What has changed while nobody ran.
                refresh();
            }
            helpers.every(interval, refresh);
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
