//! Runs recorded epochs again, with their ranges and decisions, and compares what comes of them
//! with what is recorded.
//!
//! It is an ordinary run that goes on behind a manifest, reads nothing but what is recorded, and
//! ends with it. Its sinks only count; its checkpoints go into memory, and its manifests, which
//! hold what each output has given, to the comparison. Of the job's state nothing is changed, and
//! its input is told nothing. Long stretches are run in slices, each of which goes on with the last
//! checkpoint of the one before, so that memory holds no more than one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::beginning::{Beginning, Kept};
use super::control::{Notices, wall_clock};
use super::execute::run_from;
use super::metrics::Metrics;
use super::record::{Observer, Recorder, StoreOptions};
use super::targets::{outputs_with_sinks, shards_of};
use super::{Pipeline, RunError, RunOptions, describe, state};
use crate::epoch::{Ending, Resume};
use crate::flow::{FlowOptions, Restored};
use crate::sink::null::{NullFactory, NullSink};
use crate::sink::{
    Guarantee, JobContext, OutputSpec, RunNumber, Sink, SinkContext, SinkError, SinkFactory,
};
use crate::source::{SharedSource, SourceError};
use crate::state::replay::{Begun, Comparison, Difference, Recording, Slice};
use crate::state::{Checkpoint, Manifest, MemoryStorage, Storage, checkpoint};
use crate::time::{Epoch, Shard};

/// How many epochs are run at once.
const SLICE_EPOCHS: u64 = 20_000;
/// The run number in the names of checkpoints in memory: that of no run.
const NO_RUN: RunNumber = RunNumber(0);

/// What a replay needs.
pub struct ReplayOptions {
    /// The pipeline.
    pub pipeline: Arc<dyn Pipeline>,
    /// Its input.
    pub source: SharedSource,
    /// What the options mean to the operators.
    pub flow: FlowOptions,
    /// How many worker threads.
    pub workers: usize,
    /// The job's state, which is only read.
    pub storage: Arc<dyn Storage>,
    /// The last epoch to be compared; `None`: the last one that can be.
    pub until: Option<Epoch>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// Runs what is recorded from where it was begun, and compares. An input that is not what it
/// was ends that, and is the last difference.
///
/// # Errors
/// As [`run`](super::run), and when the end of what is recorded was not reached.
pub fn replay(options: &ReplayOptions, begun: Begun) -> Result<Comparison, RunError> {
    let Begun {
        recording,
        after,
        restored,
        ..
    } = begun;
    let first = after.as_ref().map(|it| it.epoch);
    let slices = recording.slices(first, options.until, SLICE_EPOCHS);
    prepare(options, &recording, after.as_ref(), &slices)?;
    let scratch = Arc::new(in_memory(&restored));
    let comparison = Comparison::new(&recording, first);
    let observed = Arc::new(Mutex::new(Observed { comparison, after }));
    let run = run_slices(options, &recording, &slices, &scratch, &observed);
    let mut comparison = std::mem::take(&mut lock(&observed).comparison);
    match run {
        Err(RunError::Source(SourceError::Changed { partition, how })) => {
            comparison.differ(Difference::Input { partition, how });
            Ok(comparison)
        }
        run => run.map(|()| comparison),
    }
}

/// Runs one slice after the other, each of them to its end.
fn run_slices(
    options: &ReplayOptions,
    recording: &Recording,
    slices: &[Slice],
    scratch: &Arc<MemoryStorage>,
    observed: &Arc<Mutex<Observed>>,
) -> Result<(), RunError> {
    if slices.is_empty() {
        let what = "there was nothing for the replay to compare";
        return Err(RunError::Worker(what.to_owned()));
    }
    for slice in slices {
        run_slice(options, recording, slice, scratch, observed)?;
        let comparison = &lock(observed).comparison;
        if !comparison.covers(slice.last) {
            return Err(RunError::Worker(format!(
                "the replay has ended before epoch {}, and should have gone on to epoch {}",
                comparison.next(),
                slice.last
            )));
        }
    }
    Ok(())
}

/// What the manifests of the replay have brought.
struct Observed {
    comparison: Comparison,
    /// The last of them.
    after: Option<Manifest>,
}

fn lock(observed: &Mutex<Observed>) -> MutexGuard<'_, Observed> {
    observed.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Partitions get the numbers that they had, and the dimension tables what they held.
fn prepare(
    options: &ReplayOptions,
    recording: &Recording,
    after: Option<&Manifest>,
    slices: &[Slice],
) -> Result<(), RunError> {
    let Some(last) = slices.last().map(|slice| slice.last) else {
        return Ok(());
    };
    let epochs = recording.epochs(after.map(|it| it.epoch), last);
    let known = state::known_partitions(&recording.job, after, &epochs);
    options.source.remember(&known);
    let resume = state::resume(&recording.job, after, epochs, wall_clock());
    let dimensions = options.pipeline.dimensions();
    state::restore_dimensions(&*options.storage, NO_RUN, &resume, dimensions.as_deref())
}

fn run_slice(
    options: &ReplayOptions,
    recording: &Recording,
    slice: &Slice,
    scratch: &Arc<MemoryStorage>,
    observed: &Arc<Mutex<Observed>>,
) -> Result<(), RunError> {
    let started = Instant::now();
    let after = lock(observed).after.clone();
    let restored = match &after {
        Some(manifest) => checkpoint::load(&**scratch, manifest)?,
        None => Vec::new(),
    };
    let run = run_options(options, slice);
    let outputs = describe(&run.pipeline, &run.flow, &run.source);
    let sinks = outputs_with_sinks(&run, &outputs)?;
    let beginning = Beginning {
        resume: resume(recording, slice, after.as_ref()),
        partitions: options.source.partitions().map_err(RunError::Source)?,
        kept: Some(Kept {
            store: StoreOptions {
                storage: Arc::clone(scratch) as Arc<dyn Storage>,
                job: recording.job.job,
                run: NO_RUN,
            },
            restored: Restored::new(restored, run.workers),
            manifest: after,
            shards: shards_of(&sinks),
        }),
        job: None,
        recorder: Some(Recorder::observed(
            observer(scratch, observed),
            run.notices.clone(),
        )),
        run: Uuid::nil(),
    };
    run_from(beginning, run, &outputs, sinks, started)?;
    Ok(())
}

fn observer(scratch: &Arc<MemoryStorage>, observed: &Arc<Mutex<Observed>>) -> Observer {
    let (scratch, observed) = (Arc::clone(scratch), Arc::clone(observed));
    Box::new(move |manifest| {
        let mut observed = lock(&observed);
        observed.comparison.take(manifest);
        forget_all_but(&scratch, manifest);
        observed.after = Some(manifest.clone());
    })
}

fn run_options(options: &ReplayOptions, slice: &Slice) -> RunOptions {
    let sink = |(output, finals_only): (&String, &bool)| {
        let factory: Arc<dyn SinkFactory> = Arc::new(Counting {
            finals_only: *finals_only,
        });
        (output.clone(), factory)
    };
    RunOptions {
        pipeline: Arc::clone(&options.pipeline),
        source: Arc::clone(&options.source),
        sinks: slice.outputs.iter().map(sink).collect(),
        flow: options.flow.clone(),
        workers: options.workers,
        serializes: false,
        // Of no meaning here: all borders are recorded.
        epoch: Duration::from_secs(1),
        checkpoint: Duration::from_secs(1),
        close_on_idle: false,
        ends: true,
        drain: false,
        dims_refresh: None,
        run_label: "replay".to_owned(),
        state: None,
        is_at_least_once: false,
        metrics: Arc::clone(&options.metrics),
        notices: Notices::default(),
        cluster: None,
    }
}

/// From behind `after` to the end of the slice, and no further.
fn resume(recording: &Recording, slice: &Slice, after: Option<&Manifest>) -> Resume {
    let epochs = recording.epochs(after.map(|it| it.epoch), slice.last);
    let mut resume = state::resume(&recording.job, after, epochs, wall_clock());
    if let Some(last) = resume.recorded.last_mut() {
        last.ending = last.ending.or(Some(Ending::Stopped));
    }
    resume
}

/// The objects from which a replay begins, in memory.
fn in_memory(restored: &[Checkpoint]) -> MemoryStorage {
    let storage = MemoryStorage::default();
    for object in restored {
        let (name, bytes) = (object.header().object_name(), object.bytes().to_vec());
        storage.objects().insert(name, bytes);
    }
    storage
}

/// Frees what no later checkpoint goes on from.
fn forget_all_but(storage: &MemoryStorage, manifest: &Manifest) {
    let needed: BTreeSet<&String> = manifest.objects.iter().map(|it| &it.name).collect();
    let is_later = |name: &str| {
        checkpoint::parse_name(name).is_some_and(|(epoch, _, _)| epoch > manifest.epoch)
    };
    let mut objects = storage.objects();
    objects.retain(|name, _| needed.contains(name) || is_later(name));
}

/// Rows are made as for any sink, and then forgotten: what counts was noted before.
struct Counting {
    /// Whether it wants windows only when nothing can follow, as folders of files do.
    finals_only: bool,
}

impl SinkFactory for Counting {
    fn identity(&self) -> String {
        "replay".to_owned()
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn shards(&self) -> u32 {
        NullFactory.shards()
    }

    fn check(&self, output: &OutputSpec) -> Result<String, SinkError> {
        NullFactory.check(output)
    }

    fn prepare(
        &self,
        _output: &OutputSpec,
        _partitions: u32,
        _job: Option<&JobContext>,
    ) -> Result<(), SinkError> {
        Ok(())
    }

    fn open(
        &self,
        _output: &OutputSpec,
        _shards: &[Shard],
        _context: &SinkContext,
    ) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(NullSink))
    }

    fn rolls_files(&self) -> bool {
        self.finals_only
    }
}
