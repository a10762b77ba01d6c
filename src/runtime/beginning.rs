//! Where a run begins: at the start of its input, or where its state says.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::RunError;
use super::execute::RunOptions;
use super::heads::Heads;
use super::processes;
use super::record::{Recorded, Recorder, StoreOptions};
use super::state;
use super::targets::{Sinks, check_free, prepare_sinks, shards_of};
use crate::cluster::{Plan, Work};
use crate::epoch::Resume;
use crate::flow::Restored;
use crate::sink::{JobContext, OutputSpec};
use crate::source::Partition;
use crate::state::Manifest;
use crate::terminal;

/// Where a run begins, and what it writes down.
pub struct Beginning {
    /// What tells this run from any other.
    pub run: Uuid,
    pub resume: Resume,
    pub partitions: Vec<Partition>,
    pub kept: Option<Kept>,
    pub job: Option<Arc<JobContext>>,
    /// In the process of the coordinator.
    pub recorder: Option<Recorder>,
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
pub struct Kept {
    pub store: StoreOptions,
    pub restored: Restored,
    pub manifest: Option<Manifest>,
    pub shards: BTreeMap<String, u32>,
}

/// Whether there is anything to be done.
pub enum Begun {
    Now(Box<Beginning>),
    /// The input was declared complete, and all of it is committed; what tells this run from others.
    Drained(Uuid),
}

/// Finds out where the run goes on, and prepares the targets; tells the other processes, if there
/// are any.
pub fn lead(
    options: &RunOptions,
    outputs: &[OutputSpec],
    sinks: &Sinks,
) -> Result<Begun, RunError> {
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
    let recorded = Recorded {
        writer: opened.writer,
        retention: opened.retention,
        heads: Heads::new(Arc::clone(&options.source), opened.manifest.as_ref()),
    };
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
        recorder: Some(Recorder::new(Some(recorded), options.notices.clone())),
    };
    Ok((Begun::Now(Box::new(beginning)), Vec::new()))
}
