//! A run, from its options to what is left of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::beginning::{Beginning, Begun, Kept, lead};
use super::control::{ControlView, Notices};
use super::helpers::{Helpers, tell_found};
use super::metrics::{Metrics, OutputCount, Range};
use super::processes::{count, follow, together};
use super::record::Recorder;
use super::state::StateOptions;
use super::targets::{Sinks, outputs_with_sinks};
use super::workers::{Ledgers, Total, build, drop_dataflows, step_workers, total, worker_context};
use super::{Failure, RunError};
use crate::cluster::{Cluster, Usage};
use crate::epoch::Resume;
use crate::flow::{Flow, FlowOptions, RunShared};
use crate::join::DimLoader;
use crate::ledger::Fates;
use crate::sink::{OutputSpec, SinkContext, SinkFactory};
use crate::source::{Partition, SharedSource};
use crate::time::EventTime;

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
    pub(super) fn peers(&self) -> usize {
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
