//! How a run begins and ends that has several processes.
//!
//! Process 0 opens the state, finds out where the run goes on and prepares the targets, as a run of
//! one process does; then it hands out what it has found, and the others load the checkpoint
//! themselves. Nothing is read before all processes have said that they are ready for this run.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use timely::communication::Hooks;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};
use uuid::Uuid;

use super::RunError;
use super::beginning::{Beginning, Begun, Kept};
use super::control::{Notice, Notices};
use super::execute::RunOptions;
use super::metrics::Metrics;
use super::record::StoreOptions;
use super::state::{self, StateOptions};
use super::targets::{Sinks, prepare_follower, shards_of};
use super::workers::Total;
use crate::cluster::{Cluster, Counters, JobPart, Part};
use crate::flow::{Restored, RunShared};
use crate::sink::{JobContext, OutputSpec};
use crate::state::{Checkpoint, LogView, Manifest, checkpoint};

/// How long a process looks for what process 0 has put into the state: network file systems may
/// show it late.
const SEEN_WITHIN: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 10_000 });

/// Goes on where process 0 says.
pub fn follow(
    options: &mut RunOptions,
    cluster: &Arc<Cluster>,
    outputs: &[OutputSpec],
    sinks: &Sinks,
) -> Result<Begun, RunError> {
    forward_notices(&options.notices, cluster);
    let plan = cluster.plan();
    let Some(work) = plan.work else {
        return Ok(Begun::Drained(plan.run));
    };
    let work = *work;
    let dimensions = options.pipeline.dimensions();
    let found = match (&options.state, work.job) {
        (Some(state), Some(part)) => Some((state, find(state, plan.run, part)?)),
        _ => None,
    };
    match (&found, &dimensions) {
        (Some((state, found)), _) => {
            let (storage, run) = (&*state.storage, found.job.run);
            state::restore_dimensions(storage, run, &work.resume, dimensions.as_deref())?;
            look_for_outputs(outputs, sinks, &found.job)?;
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
struct Found {
    /// What the sinks must know.
    pub job: JobContext,
    /// The objects of the manifest.
    pub restored: Vec<Checkpoint>,
}

/// Loads what process 0 goes on from.
///
/// # Errors
/// When this process does not see what process 0 has written, or cannot read it.
fn find(state: &StateOptions, run: Uuid, part: JobPart) -> Result<Found, RunError> {
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
    while !log.sees_the_run()? {
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

/// What process 0 has put into the targets must be seen here: a folder of this host alone is not
/// the output.
///
/// # Errors
/// [`RunError::Refused`] when it is not seen.
fn look_for_outputs(
    outputs: &[OutputSpec],
    sinks: &Sinks,
    job: &JobContext,
) -> Result<(), RunError> {
    let deadline = Instant::now() + SEEN_WITHIN;
    for output in outputs {
        for factory in sinks.get(output.name).into_iter().flatten() {
            let sees = || {
                let seen = factory.sees_job(output, job);
                seen.map_err(|error| RunError::Sink {
                    output: output.name,
                    error,
                })
            };
            while !sees()? {
                if Instant::now() > deadline {
                    return Err(RunError::Refused(format!(
                        "output {}: {}: what process 0 has put there is not seen here, or is of \
                         another job: the output must be one place for all processes, a folder \
                         that all hosts share or s3://BUCKET/PREFIX",
                        output.name,
                        factory.identity()
                    )));
                }
                std::thread::sleep(SEEN_WITHIN / 100);
            }
        }
    }
    Ok(())
}

/// In a process without the coordinator: what would be told to it goes to process 0.
fn forward_notices(notices: &Notices, cluster: &Arc<Cluster>) {
    let cluster = Arc::clone(cluster);
    notices.forward(move |notice| {
        // Partitions, tables and the log are the business of process 0 alone.
        if matches!(notice, Notice::Stop) {
            cluster.ask_to_stop();
        }
    });
}

/// Has what is counted told to process 0, which shows it.
pub fn count(cluster: &Arc<Cluster>, shared: &Arc<RunShared>, outputs: &[OutputSpec]) {
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
pub fn together(
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::sink::{JobId, RunNumber};
    use crate::state::retention::History;
    use crate::state::{JobRecord, LogItem, LogWriter, MemoryStorage, Starter, Storage, claim};
    use crate::time::EventTime;

    fn starter(nonce: u128) -> Starter {
        Starter {
            nonce: Uuid::from_u128(nonce),
            at: EventTime(0),
            by: "a test".to_owned(),
            goes_on: false,
        }
    }

    /// Process 0 begins a job.
    fn begin_job(storage: &Arc<dyn Storage>, nonce: u128) -> LogWriter {
        let claim = claim(Arc::clone(storage), &starter(nonce)).expect("claimed");
        let job = JobRecord {
            job: JobId(Uuid::from_u128(1)),
            pipeline: "test".to_owned(),
            version: "1".to_owned(),
            config: BTreeMap::new(),
            partitions: Vec::new(),
            dims: None,
            shards: BTreeMap::new(),
            opened_at: EventTime(0),
            created_at: EventTime(0),
        };
        claim.begin(job).expect("begun")
    }

    fn options(storage: &Arc<dyn Storage>) -> StateOptions {
        StateOptions {
            storage: Arc::clone(storage),
            is_fresh: false,
            replace_output: false,
            config: BTreeMap::new(),
            may_change: &[],
            version: "1".to_owned(),
            history: History::All,
            starter: starter(99),
        }
    }

    fn find_run(storage: &Arc<dyn Storage>, nonce: u128) -> Result<Found, RunError> {
        let part = JobPart {
            job: JobId(Uuid::from_u128(1)),
            run: RunNumber(1),
            checkpoint: None,
            logged: None,
            sinks: BTreeMap::new(),
            replace_output: false,
            manifest: None,
        };
        find(&options(storage), Uuid::from_u128(nonce), part)
    }

    #[test]
    fn another_process_sees_the_run_and_the_one_that_takes_over() {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
        let mut writer = begin_job(&storage, 5);
        let found = find_run(&storage, 5).expect("seen");
        let newest = || found.job.log.newest_run().expect("read");
        assert_eq!(newest(), RunNumber(1));
        writer.append(&[] as &[LogItem]).expect("written");
        // What retention deletes below the top changes nothing.
        storage.delete("log/00000000000000000001").expect("deleted");
        assert_eq!(newest(), RunNumber(1));
        claim(Arc::clone(&storage), &starter(6)).expect("claimed");
        assert_eq!(newest(), RunNumber(2));
        // A process that comes late sees the run below the one that has taken over.
        assert!(find_run(&storage, 5).is_ok());
    }

    #[test]
    fn a_state_that_is_gone_says_nothing_of_the_newest_run() {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
        begin_job(&storage, 5);
        let found = find_run(&storage, 5).expect("seen");
        for name in storage.list("log/").expect("listed") {
            storage.delete(&name).expect("deleted");
        }
        let error = found.job.log.newest_run().expect_err("gone");
        assert!(error.to_string().contains("the log is gone"), "{error}");
    }

    #[test]
    fn a_folder_of_this_host_alone_is_refused() {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
        let refused = |nonce| {
            let error = find_run(&storage, nonce).err().expect("refused");
            assert!(error.is_refusal(), "{error:?}");
            error.to_string()
        };
        assert!(refused(5).contains("all hosts share"));
        // Nor is it the state when another run has left something there.
        begin_job(&storage, 4);
        assert!(refused(5).contains("all hosts share"));
        // Not even when there were more runs of it.
        begin_job(&storage, 6);
        assert!(refused(5).contains("all hosts share"));
    }
}
