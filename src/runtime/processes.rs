//! How a run begins and ends that has several processes.
//!
//! Process 0 opens the state, finds out where the run goes on and prepares the targets, as a run of
//! one process does; then it hands out what it has found, and the others load the checkpoint
//! themselves. Nothing is read before all processes have said that they are ready for this run.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use timely::communication::Hooks;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};
use uuid::Uuid;

use super::RunError;
use super::control::{Notice, Notices};
use super::state::StateOptions;
use crate::cluster::{Cluster, JobPart};
use crate::sink::JobContext;
use crate::state::{Checkpoint, LogView, Manifest, StateError, checkpoint};

/// How long a process looks for what process 0 has put into the state: network file systems may
/// show it late.
const SEEN_WITHIN: Duration = Duration::from_secs(10);

/// What timely exchanges data with: over the connections of `cluster`.
pub fn networking(
    cluster: &Cluster,
) -> Result<(Vec<AllocatorBuilder>, Box<dyn Any + Send>), RunError> {
    let (shape, hooks) = (cluster.shape(), Hooks::default());
    let (refill, spill) = (hooks.refill.clone(), hooks.spill.clone());
    let here = ProcessBuilder::new_typed_vector(shape.workers, refill, spill);
    let sockets = cluster.take_data();
    let started =
        initialize_networking_from_sockets(here, sockets, shape.process, shape.workers, hooks);
    let (builders, guard) = started.map_err(|error| RunError::Thread(error.to_string()))?;
    let builders = builders.into_iter().map(AllocatorBuilder::Tcp);
    Ok((builders.collect(), Box::new(guard)))
}

/// The job, as the other processes must know it.
pub fn job_part(job: &JobContext, manifest: Option<&Manifest>) -> JobPart {
    JobPart {
        job: job.job,
        run: job.run,
        checkpoint: job.checkpoint,
        logged: job.logged,
        sinks: job.sinks.clone(),
        replace_output: job.replace_output,
        manifest: manifest.cloned(),
    }
}

/// What a process finds of the job that process 0 goes on with.
pub struct Found {
    /// What the sinks must know.
    pub job: JobContext,
    /// The objects of the manifest.
    pub restored: Vec<Checkpoint>,
}

/// Loads what process 0 goes on from.
///
/// # Errors
/// When this process does not see what process 0 has written, or cannot read it.
pub fn find(state: &StateOptions, run: Uuid, part: JobPart) -> Result<Found, RunError> {
    let log = LogView::elsewhere(Arc::clone(&state.storage), part.run, run);
    look_for(&log, state)?;
    let load = |manifest: &Manifest| checkpoint::load(&*state.storage, manifest);
    let restored = part.manifest.as_ref().map(load).transpose()?;
    Ok(Found {
        job: JobContext {
            job: part.job,
            run: part.run,
            checkpoint: part.checkpoint,
            logged: part.logged,
            sinks: part.sinks,
            replace_output: part.replace_output,
            log: Arc::new(log),
        },
        restored: restored.unwrap_or_default(),
    })
}

/// The takeover of process 0 must be seen here: a folder of this host alone is not the state.
fn look_for(log: &LogView, state: &StateOptions) -> Result<(), RunError> {
    let deadline = Instant::now() + SEEN_WITHIN;
    while !log.sees_the_run().map_err(StateError::from)? {
        if Instant::now() > deadline {
            return Err(RunError::Refused(format!(
                "{}: what process 0 has written there is not seen here: the state must be one \
                 place for all processes, a folder that all hosts share or s3://BUCKET/PREFIX",
                state.storage.name()
            )));
        }
        std::thread::sleep(SEEN_WITHIN / 100);
    }
    Ok(())
}

/// In a process without the coordinator: what would be told to it goes to process 0.
pub fn forward_notices(notices: &Notices, cluster: &Arc<Cluster>) {
    let cluster = Arc::clone(cluster);
    notices.forward(move |notice| {
        // Partitions, tables and the log are the business of process 0 alone.
        if matches!(notice, Notice::Stop) {
            cluster.ask_to_stop();
        }
    });
}
