//! Builds and steps the dataflows of all workers.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use timely::WorkerConfig;
use timely::communication::WorkerGuards;
use timely::dataflow::operators::probe::Handle as ProbeHandle;
use timely::worker::Worker;
use uuid::Uuid;

use super::control::{ControlOptions, ControlView, Decision, Notices, control_dataflow};
use super::helpers::{Helpers, tell_found};
use super::manifests::Manifests;
use super::metrics::{Metrics, OutputCount, Range};
use super::processes;
use super::record::{Recorder, StoreOptions, store_parts};
use super::state::{self, StateOptions};
use super::{Failure, RunError};
use crate::cluster::{Cluster, Counters, Part, Plan, Usage, Work};
use crate::epoch::{CoordinatorOptions, Resume};
use crate::flow::{Flow, FlowOptions, Keep, Restored, RunShared, WorkerContext};
use crate::host;
use crate::join::DimLoader;
use crate::ledger::{Fates, Ledger};
use crate::sink::{
    JobContext, OutputSpec, SinkContext, SinkError, SinkFactory, explained, sink_id,
};
use crate::source::{Partition, SharedSource};
use crate::state::{LogItem, Manifest};
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
    /// Whether workers of one process exchange bytes, as those of several do: to test that.
    pub serializes: bool,
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
    /// This process among several; `None`: it is the only one.
    pub cluster: Option<Arc<Cluster>>,
}

impl RunOptions {
    /// The other processes, when one of them leads.
    fn leader(&self) -> Option<&Arc<Cluster>> {
        let cluster = self.cluster.as_ref();
        cluster.filter(|cluster| !cluster.shape().leads())
    }

    /// How many workers there are in all processes.
    fn peers(&self) -> usize {
        let cluster = self.cluster.as_ref();
        cluster.map_or(self.workers, |cluster| cluster.shape().peers())
    }
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
    /// What the other processes together have used.
    pub elsewhere: Usage,
}

impl Summary {
    /// Of a run that had nothing to do.
    fn nothing(wall: Duration) -> Self {
        Self {
            inputs: Vec::new(),
            outputs: BTreeMap::new(),
            unmatched: 0,
            wall,
            elsewhere: Usage::default(),
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
pub fn run(mut options: RunOptions) -> Result<Summary, RunError> {
    let started = Instant::now();
    let outputs = describe(&options.pipeline, &options.flow, &options.source);
    let sinks = outputs_with_sinks(&options, &outputs)?;
    let begun = match options.leader().cloned() {
        None => lead(&options, &outputs, &sinks)?,
        Some(cluster) => follow(&mut options, &cluster, &outputs, &sinks)?,
    };
    match begun {
        Begun::Now(beginning) => run_from(*beginning, options, &outputs, sinks, started),
        Begun::Drained(run) => {
            if let Some(cluster) = &options.cluster {
                cluster.meet(run);
                together(cluster, &options.metrics, 0, Total::new(), &outputs);
            }
            Ok(Summary::nothing(started.elapsed()))
        }
    }
}

/// Runs a pipeline from where `beginning` says; its targets are prepared.
///
/// # Errors
/// As [`run`].
pub(super) fn run_from(
    beginning: Beginning,
    options: RunOptions,
    outputs: &[OutputSpec],
    sinks: Sinks,
    started: Instant,
) -> Result<Summary, RunError> {
    let cluster = options.cluster.clone();
    let Beginning {
        run,
        resume,
        partitions,
        kept,
        job,
        recorder,
    } = beginning;
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
        failure: Failure::default(),
        unmatched: AtomicU64::new(0),
        declared: Mutex::default(),
    });
    options.metrics.begin(options.workers, &shared.resume);
    if let Some(manifest) = kept.as_ref().and_then(|kept| kept.manifest.as_ref()) {
        options.metrics.borders.goes_on(manifest);
    }
    let job = shared.sink_context.job.as_ref();
    if job.is_some_and(|job| job.logged.is_some()) {
        options.metrics.recovery.goes_on(&shared.resume);
    }
    if let Some(cluster) = &cluster {
        count(cluster, &shared, outputs);
        cluster.meet(run);
    }
    let ledgers = work(options, &shared, kept, recorder, &partitions)?;
    let mut fates = total(&ledgers);
    let metrics = &shared.metrics;
    let mut unmatched = shared.unmatched.load(Ordering::Relaxed);
    if let Some(cluster) = &cluster {
        fates = together(cluster, metrics, unmatched, fates, outputs);
        unmatched += metrics.unmatched_elsewhere();
    }
    Ok(Summary {
        inputs: inputs(metrics, &fates, partitions),
        outputs: metrics.outputs(),
        unmatched,
        wall: started.elapsed(),
        elsewhere: metrics.usage_elsewhere(),
    })
}

/// Reads, computes and commits, until nothing is left to be done here.
fn work(
    options: RunOptions,
    shared: &Arc<RunShared>,
    kept: Option<Kept>,
    recorder: Option<Recorder>,
    partitions: &[Partition],
) -> Result<Ledgers, RunError> {
    let helpers = if options.leader().is_some() {
        // New partitions and tables are the business of process 0.
        Helpers::none()
    } else {
        tell_found(&options.notices, &shared.resume, partitions);
        Helpers::start(&options, kept.as_ref())
    };
    let ledgers = step_workers(options, shared, kept, recorder);
    helpers.stop();
    if let Some(error) = shared.failure.take() {
        shared.sink_context.abort.store(true, Ordering::SeqCst);
        return Err(error);
    }
    ledgers
}

/// Finds out where the run goes on, and prepares the targets; tells the other processes, if there
/// are any.
fn lead(options: &RunOptions, outputs: &[OutputSpec], sinks: &Sinks) -> Result<Begun, RunError> {
    let (begun, loads) = begin(options, outputs, sinks)?;
    if let Some(cluster) = &options.cluster {
        // Before the targets are claimed: a new job that has claimed them must not begin again.
        cluster.begun();
    }
    if let Begun::Now(beginning) = &begun {
        let job = beginning.job.as_deref();
        prepare_sinks(outputs, sinks, beginning.partitions.len(), job)?;
    }
    if let Some(cluster) = &options.cluster {
        let (run, work) = match &begun {
            Begun::Now(beginning) => {
                let work = beginning.work(options.run_label.clone(), loads);
                (beginning.run, Some(Box::new(work)))
            }
            Begun::Drained(run) => (*run, None),
        };
        cluster.hand_out(Plan { run, work });
    }
    Ok(begun)
}

/// Goes on where process 0 says.
fn follow(
    options: &mut RunOptions,
    cluster: &Arc<Cluster>,
    outputs: &[OutputSpec],
    sinks: &Sinks,
) -> Result<Begun, RunError> {
    processes::forward_notices(&options.notices, cluster);
    let plan = cluster.plan();
    let Some(work) = plan.work else {
        return Ok(Begun::Drained(plan.run));
    };
    let work = *work;
    let dimensions = options.pipeline.dimensions();
    let found = match (&options.state, work.job) {
        (Some(state), Some(part)) => Some((state, processes::find(state, plan.run, part)?)),
        _ => None,
    };
    match (&found, &dimensions) {
        (Some((state, found)), _) => {
            let (storage, run) = (&*state.storage, found.job.run);
            state::restore_dimensions(storage, run, &work.resume, dimensions.as_deref())?;
            processes::look_for_outputs(outputs, sinks, &found.job)?;
        }
        (None, Some(dimensions)) => {
            let restored = dimensions.restore(&work.loads, 0);
            restored.map_err(RunError::Dimensions)?;
        }
        (None, None) => {}
    }
    prepare_follower(outputs, sinks, work.partitions)?;
    let (kept, job) = found.map_or((None, None), |(state, found)| {
        let kept = Kept {
            store: StoreOptions {
                storage: Arc::clone(&state.storage),
                job: found.job.job,
                run: found.job.run,
            },
            restored: Restored::new(found.restored, options.workers),
            manifest: None,
            shards: shards_of(sinks),
        };
        (Some(kept), Some(Arc::new(found.job)))
    });
    options.run_label = work.run_label;
    Ok(Begun::Now(Box::new(Beginning {
        run: plan.run,
        resume: work.resume,
        partitions: Vec::new(),
        kept,
        job,
        recorder: None,
    })))
}

/// Has what is counted told to process 0, which shows it.
fn count(cluster: &Arc<Cluster>, shared: &Arc<RunShared>, outputs: &[OutputSpec]) {
    if !cluster.shape().leads() {
        shared.metrics.will_share();
    }
    let names: Vec<_> = outputs.iter().map(|output| output.name).collect();
    let (own, usage) = (Arc::clone(shared), cluster.usage_of_this());
    let metrics = Arc::clone(&shared.metrics);
    cluster.count(Counters {
        own: Box::new(move || {
            let unmatched = own.unmatched.load(Ordering::Relaxed);
            own.metrics.share(unmatched, usage())
        }),
        other: Box::new(move |process, share| metrics.absorb(process, share, &names)),
    });
}

/// Hands in what was done here, or, in process 0, adds what all others have done. Nothing is left
/// to be done by anybody afterwards.
fn together(
    cluster: &Cluster,
    metrics: &Metrics,
    unmatched: u64,
    mut fates: Total,
    outputs: &[OutputSpec],
) -> Total {
    if !cluster.shape().leads() {
        cluster.hand_in(|| Part {
            share: metrics.share(unmatched, cluster.usage_of_this()()),
            fates,
        });
        return Total::new();
    }
    let names: Vec<_> = outputs.iter().map(|output| output.name).collect();
    for (process, part) in cluster.parts() {
        metrics.absorb(process, part.share, &names);
        for (partition, more) in part.fates {
            *fates.entry(partition).or_default() += more;
        }
    }
    cluster.leave();
    fates
}

/// The sinks of each output, by its name.
pub(super) type Sinks = BTreeMap<String, Vec<Arc<dyn SinkFactory>>>;

/// Checks the names of the outputs.
pub(super) fn outputs_with_sinks(
    options: &RunOptions,
    outputs: &[OutputSpec],
) -> Result<Sinks, RunError> {
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

/// Has each output's targets do `step`.
fn each_target(
    outputs: &[OutputSpec],
    sinks: &Sinks,
    mut step: impl FnMut(&OutputSpec, &dyn SinkFactory) -> Result<(), SinkError>,
) -> Result<(), RunError> {
    for output in outputs {
        for factory in sinks.get(output.name).into_iter().flatten() {
            step(output, &**factory).map_err(|error| RunError::Sink {
                output: output.name,
                error,
            })?;
        }
    }
    Ok(())
}

/// Makes what is missing in the targets.
fn prepare_sinks(
    outputs: &[OutputSpec],
    sinks: &Sinks,
    partitions: usize,
    job: Option<&JobContext>,
) -> Result<(), RunError> {
    each_target(outputs, sinks, |output, factory| {
        let prepared = factory.prepare(output, partitions as u32, job);
        prepared.map_err(|error| explained(error, job))
    })
}

/// Makes what only this process or its host lacks: process 0 has prepared the targets.
fn prepare_follower(
    outputs: &[OutputSpec],
    sinks: &Sinks,
    partitions: u32,
) -> Result<(), RunError> {
    each_target(outputs, sinks, |output, factory| {
        factory.prepare_follower(output, partitions)
    })
}

/// Whether `job` may have those of its outputs that it has not begun.
fn check_free(outputs: &[OutputSpec], sinks: &Sinks, job: &JobContext) -> Result<(), RunError> {
    each_target(outputs, sinks, |output, factory| {
        let sink = sink_id(output.name, &factory.identity());
        if job.mark(&sink).is_some() {
            Ok(())
        } else if job.replace_output {
            factory.check_replaceable(output, job)
        } else {
            factory.check_free(output, job)
        }
    })
}

/// Into how many shards each sink is split, by its id.
pub(super) fn shards_of(sinks: &Sinks) -> BTreeMap<String, u32> {
    let each = sinks.iter().flat_map(|(output, factories)| {
        let id = |factory: &Arc<dyn SinkFactory>| sink_id(output, &factory.identity());
        factories
            .iter()
            .map(move |factory| (id(factory), factory.shards()))
    });
    each.collect()
}

/// Where a run begins, and what it writes down.
pub(super) struct Beginning {
    /// What tells this run from any other.
    pub(super) run: Uuid,
    pub(super) resume: Resume,
    pub(super) partitions: Vec<Partition>,
    pub(super) kept: Option<Kept>,
    pub(super) job: Option<Arc<JobContext>>,
    /// In the process of the coordinator.
    pub(super) recorder: Option<Recorder>,
}

impl Beginning {
    /// What the other processes must know of it.
    fn work(&self, run_label: String, loads: Vec<Vec<u8>>) -> Work {
        let manifest = self.kept.as_ref().and_then(|kept| kept.manifest.as_ref());
        let job = self.job.as_deref();
        Work {
            resume: self.resume.clone(),
            partitions: self.partitions.len() as u32,
            run_label,
            loads,
            job: job.map(|job| processes::job_part(job, manifest)),
        }
    }
}

/// What a run with a state has of it.
pub(super) struct Kept {
    pub(super) store: StoreOptions,
    pub(super) restored: Restored,
    pub(super) manifest: Option<Manifest>,
    pub(super) shards: BTreeMap<String, u32>,
}

/// Whether there is anything to be done.
enum Begun {
    Now(Box<Beginning>),
    /// The input was declared complete, and all of it is committed; what tells this run from others.
    Drained(Uuid),
}

/// Where the run goes on, and, without a state, the loads of the dimension tables that it needs for
/// that: with one they are there.
fn begin(
    options: &RunOptions,
    outputs: &[OutputSpec],
    sinks: &Sinks,
) -> Result<(Begun, Vec<Vec<u8>>), RunError> {
    let dimensions = options.pipeline.dimensions();
    let started_at = options.flow.ingest.started_at;
    let Some(state) = &options.state else {
        let partitions = options.source.partitions().map_err(RunError::Source)?;
        if let Some(dimensions) = &dimensions {
            dimensions.first(0).map_err(RunError::Dimensions)?;
        }
        let beginning = Beginning {
            run: Uuid::new_v4(),
            resume: Resume::fresh(partitions.clone(), started_at),
            partitions,
            kept: None,
            job: None,
            recorder: Some(Recorder::new(None, options.notices.clone())),
        };
        let loads = dimensions.map(|dimensions| dimensions.stored().bytes);
        let loads = loads.into_iter().collect();
        return Ok((Begun::Now(Box::new(beginning)), loads));
    };
    let shards = shards_of(sinks);
    let setting = state::Setting {
        pipeline: options.pipeline.name(),
        source: &options.source,
        dimensions: dimensions.as_deref(),
        shards: shards.clone(),
        check_free: &|job| check_free(outputs, sinks, job),
        started_at,
    };
    let opened = state::open(state, &setting)?;
    let run = state.starter.nonce;
    if !options.metrics.is_quiet() {
        terminal::message(format_args!("{}", state::describe(&opened)));
    }
    if state::is_drained(&opened) {
        terminal::message(format_args!(
            "its input was declared complete and everything is committed; --fresh begins a new job"
        ));
        return Ok((Begun::Drained(run), Vec::new()));
    }
    let recorder = Some((opened.writer, opened.retention));
    let beginning = Beginning {
        run,
        resume: opened.resume,
        partitions: opened.partitions,
        kept: Some(Kept {
            store: StoreOptions {
                storage: Arc::clone(&state.storage),
                job: opened.job.job,
                run: opened.job.run,
            },
            restored: Restored::new(opened.restored, options.workers),
            manifest: opened.manifest,
            shards,
        }),
        job: Some(Arc::new(opened.job)),
        recorder: Some(Recorder::new(recorder, options.notices.clone())),
    };
    Ok((Begun::Now(Box::new(beginning)), Vec::new()))
}

/// The fates of what was read.
type Total = BTreeMap<PartitionId, Fates>;
/// Those of each worker.
type Ledgers = Vec<Total>;

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

fn step_workers(
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

/// The fates over all workers.
fn total(ledgers: &Ledgers) -> Total {
    let mut fates = Total::new();
    for (partition, part) in ledgers.iter().flatten() {
        *fates.entry(*partition).or_default() += *part;
    }
    fates
}

/// What was read of each partition, and what became of it.
fn inputs(
    metrics: &Metrics,
    fates: &Total,
    mut partitions: Vec<Partition>,
) -> Vec<(Partition, Range, Fates)> {
    let ranges = metrics.ranges();
    partitions.extend(metrics.found());
    let input = |partition: Partition| {
        let id = partition.id;
        let range = ranges.get(&id).copied().unwrap_or_default();
        let fates = fates.get(&id).copied().unwrap_or_default();
        (partition, range, fates)
    };
    partitions.into_iter().map(input).collect()
}
