//! `delta:`: a Delta Lake table, in a folder or a bucket.
//!
//! Its data files are those that `parquet:` publishes, with times in microseconds; what makes them
//! part of the table is an entry in the table's log, one per checkpoint of the run. So readers of
//! the table see all files of a checkpoint or none. Windows come when they are final, and are never
//! revised: an entry only ever adds files.
//!
//! **With a state** each entry also holds the transaction of the job and this sink, whose version
//! is the checkpoint's epoch (see `commit`). **Without one** entries have no transaction.
//!
//! There is one shard, since a table has one log.
//!
//! | module | what it holds |
//! |---|---|
//! | `actions` | what entries consist of |
//! | `table` | the log: entries, checkpoints, the table that they tell of |
//! | `commit` | whose table it is; each epoch's files once |
//! | `schema` | columns, folders, statistics |

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use self::actions::Add;
use self::commit::{Committer, SHARD, Shape};
use self::table::TableLog;
use super::commit::claim::FilePlace;
use super::encode::columnar::Codec;
use super::files::{FilesFactory, Format, Place, Store};
use super::folder::Folder;
use super::{
    EpochRows, Guarantee, JobContext, OutputSpec, Sink, SinkContext, SinkError, SinkFactory,
    Written, sink_id,
};
use crate::fault;
use crate::host;
use crate::time::{Epoch, Shard};

mod actions;
mod checkpoint;
mod commit;
mod schema;
mod table;

const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What `delta:` means.
#[derive(Clone, Debug)]
pub struct DeltaFactory {
    place: Place,
    files: FilesFactory,
    #[cfg_attr(
        not(feature = "s3"),
        expect(dead_code, reason = "only buckets are connected to")
    )]
    connect_timeout: Duration,
}

impl DeltaFactory {
    /// The table in this place, whose files are compressed so.
    pub fn new(place: Place, codec: Codec, connect_timeout: Duration) -> Self {
        let format = Format::Delta(codec);
        Self {
            files: FilesFactory::new(place.clone(), format, 1, connect_timeout),
            place,
            connect_timeout,
        }
    }

    fn target(&self) -> String {
        match &self.place {
            Place::Folder(path) => path.display().to_string(),
            #[cfg(feature = "s3")]
            Place::Bucket { bucket, prefix } => format!("s3://{bucket}/{prefix}"),
        }
    }

    fn file_place(&self) -> Result<Box<dyn FilePlace + Send>, SinkError> {
        Ok(match &self.place {
            Place::Folder(path) => Box::new(Folder::at(path)),
            #[cfg(feature = "s3")]
            Place::Bucket { bucket, prefix } => Box::new(super::s3::Bucket::new(
                bucket,
                prefix,
                self.connect_timeout,
            )?),
        })
    }

    /// The log as it is now; nothing is made. `None`: not even the folder is there.
    fn look(&self) -> Result<Option<TableLog>, SinkError> {
        if let Place::Folder(path) = &self.place
            && !path.is_dir()
        {
            return Ok(None);
        }
        TableLog::open(self.file_place()?, self.target()).map(Some)
    }

    fn id(&self, output: &OutputSpec) -> String {
        sink_id(output.name, &self.identity())
    }
}

fn shape(output: &OutputSpec) -> Result<Shape, SinkError> {
    Ok(Shape {
        output: output.name,
        schema: schema::schema(output)?,
        partition_columns: schema::partition_columns(output),
    })
}

impl SinkFactory for DeltaFactory {
    fn identity(&self) -> String {
        self.files.identity()
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn shards(&self) -> u32 {
        1
    }

    fn check(&self, output: &OutputSpec) -> Result<String, SinkError> {
        shape(output)?;
        let text = self.files.check(output)?;
        let found = self.look()?;
        let version = found.as_ref().and_then(TableLog::version);
        Ok(match version {
            Some(version) => format!("{text}; a Delta table at version {version}"),
            None => format!("{text}; the Delta table would be created"),
        })
    }

    fn prepare(
        &self,
        output: &OutputSpec,
        partitions: u32,
        job: Option<&JobContext>,
    ) -> Result<(), SinkError> {
        let shape = shape(output)?;
        self.files.prepare(output, partitions, None)?;
        let (target, sink) = (self.target(), self.id(output));
        let mut log = TableLog::open(self.file_place()?, target.clone())?;
        let job = job.map(|job| (job, sink.as_str()));
        commit::prepare(&mut log, &shape, &target, job)
    }

    fn prepare_follower(&self, output: &OutputSpec, partitions: u32) -> Result<(), SinkError> {
        self.files.prepare_follower(output, partitions)
    }

    fn check_free(&self, output: &OutputSpec, job: &JobContext) -> Result<(), SinkError> {
        let Some(log) = self.look()? else {
            return Ok(());
        };
        let target = self.target();
        let owner = commit::owner(&log, &target)?;
        commit::look(&log, job, &self.id(output), &target, owner).map(drop)
    }

    fn check_replaceable(&self, output: &OutputSpec, job: &JobContext) -> Result<(), SinkError> {
        let Some(log) = self.look()? else {
            return Ok(());
        };
        commit::check_replaceable(&log, job, &self.id(output), &self.target())
    }

    fn sees_job(&self, _output: &OutputSpec, job: &JobContext) -> Result<bool, SinkError> {
        let Some(log) = self.look()? else {
            return Ok(false);
        };
        let owner = commit::owner(&log, &self.target())?;
        Ok(owner.is_some_and(|owner| owner.job == job.job))
    }

    fn open(
        &self,
        output: &OutputSpec,
        shards: &[Shard],
        context: &SinkContext,
    ) -> Result<Box<dyn Sink>, SinkError> {
        if shards.is_empty() {
            // The table belongs to the worker that has its only shard.
            return Ok(Box::new(super::null::NullSink));
        }
        let published = Published::default();
        let store = Recording {
            store: self.files.store(context)?,
            published: published.clone(),
        };
        let files = self
            .files
            .open_in(Box::new(store), output, shards, context)?;
        let place = Patient {
            place: self.file_place()?,
            context: context.clone(),
        };
        let (target, sink) = (self.target(), self.id(output));
        let log = TableLog::open(Box::new(place), target.clone())?;
        let job = context.job.as_deref().map(|job| (job, sink.as_str()));
        Ok(Box::new(DeltaSink {
            files,
            published,
            committer: Committer::open(log, &target, job)?,
            written: Written::default(),
            last: Epoch(0),
        }))
    }

    fn rolls_files(&self) -> bool {
        true
    }
}

/// Data files that were published and are not in the table yet.
#[derive(Clone, Default)]
struct Published(Arc<Mutex<Vec<Add>>>);

impl Published {
    fn push(&self, add: Add) {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.push(add);
    }

    fn take(&self) -> Vec<Add> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Publishes files, and remembers what the table must know of them.
struct Recording {
    store: Box<dyn Store>,
    published: Published,
}

impl Store for Recording {
    fn staging(&self) -> &Path {
        self.store.staging()
    }

    fn describe(&self) -> String {
        self.store.describe()
    }

    fn name_there(&self, name: &str) -> String {
        self.store.name_there(name)
    }

    fn publish(&mut self, staged: &Path, name: &str) -> Result<(), SinkError> {
        let failed = |error: &dyn std::fmt::Display| SinkError::Write {
            target: staged.display().to_string(),
            reason: error.to_string(),
        };
        let size = std::fs::metadata(staged).map_err(|error| failed(&error))?;
        let stats = schema::stats(staged).map_err(|error| failed(&error))?;
        self.store.publish(staged, name)?;
        self.published.push(Add {
            path: schema::uri(&self.store.name_there(name)),
            partition_values: schema::partition_values(name),
            size: size.len() as i64,
            modification_time: host::wall_clock().0,
            data_change: true,
            stats: Some(stats),
            tags: None,
        });
        Ok(())
    }
}

/// Waits for a place that does not answer for a while.
struct Patient {
    place: Box<dyn FilePlace + Send>,
    context: SinkContext,
}

impl Patient {
    fn again<T>(
        &mut self,
        mut step: impl FnMut(&mut dyn FilePlace) -> Result<T, SinkError>,
    ) -> Result<T, SinkError> {
        let mut pause = FIRST_WAIT;
        loop {
            match step(&mut *self.place) {
                Err(SinkError::Unreachable { target, reason }) => {
                    let status = format!("{target} does not answer: {reason}");
                    self.context.set_status(Some(status));
                    self.context.pause(pause)?;
                    pause = (2 * pause).min(LONGEST_WAIT);
                }
                outcome => {
                    if pause > FIRST_WAIT {
                        self.context.set_status(None);
                    }
                    return outcome;
                }
            }
        }
    }
}

impl FilePlace for Patient {
    fn read(&mut self, name: &str) -> Result<Option<Vec<u8>>, SinkError> {
        self.again(|place| place.read(name))
    }

    fn put_new(&mut self, name: &str, bytes: &[u8]) -> Result<bool, SinkError> {
        let is_new = self.again(|place| place.put_new(name, bytes))?;
        if !is_new && self.read(name)?.is_none() {
            // Another put of this name is under way, and may yet fail.
            self.context.pause(FIRST_WAIT)?;
        }
        Ok(is_new)
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> Result<(), SinkError> {
        self.again(|place| place.replace(name, bytes))
    }

    fn list(&mut self) -> Result<Vec<String>, SinkError> {
        self.again(|place| place.list())
    }

    fn list_folder(&mut self, folder: &str, from: &str) -> Result<Vec<String>, SinkError> {
        self.again(|place| place.list_folder(folder, from))
    }

    fn remove(&mut self, name: &str) -> Result<(), SinkError> {
        self.again(|place| place.remove(name))
    }
}

struct DeltaSink {
    files: Box<dyn Sink>,
    published: Published,
    committer: Committer,
    /// What was published and is not in the table yet.
    written: Written,
    last: Epoch,
}

impl DeltaSink {
    fn enter(&mut self, epoch: Epoch) -> Result<Written, SinkError> {
        let files = self.published.take();
        if files.is_empty() {
            return Ok(Written::default());
        }
        fault::around("delta", "before");
        self.committer.commit(epoch, files)?;
        fault::around("delta", "after");
        Ok(std::mem::take(&mut self.written))
    }
}

impl Sink for DeltaSink {
    fn commit(&mut self, epoch: &EpochRows) -> Result<Written, SinkError> {
        self.last = epoch.epoch;
        self.written += self.files.commit(epoch)?;
        if epoch.is_checkpoint {
            return self.enter(epoch.epoch);
        }
        Ok(Written::default())
    }

    fn committed(&self, shard: Shard) -> Option<Epoch> {
        self.committer.committed().filter(|_| shard == SHARD)
    }

    fn position(&self, _shard: Shard) -> u64 {
        self.committer.position()
    }

    fn close(&mut self) -> Result<Written, SinkError> {
        self.written += self.files.close()?;
        if self.committer.has_job() {
            // The last epoch of a run is a checkpoint: nothing is left.
            return Ok(Written::default());
        }
        self.enter(self.last)
    }
}
