//! `csv:` and `parquet:`: files that only ever appear whole, in a folder or a bucket.
//!
//! * `windows`: the rows of a window are held, the last revision per natural key, until the window
//!   is final: at the first epoch with `watermark >= end + keep`. Then it becomes one file per
//!   shard, under a name that is a function of window and shard only. Windows that are not final
//!   when the run ends are published nowhere.
//! * `records`: rows go into staged files as they come and are published at checkpoints, under a
//!   name made of the run's label, the checkpoint's epoch and the shard.
//! * `staging`: how a file is written, compressed and published.
//! * `names`: of files, and of the folders that a layout puts them into.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use self::names::{FolderRule, Naming};
use self::records::Records;
use self::staging::Out;
use self::windows::Windows;
use super::encode::Projection;
#[cfg(feature = "parquet")]
use super::encode::columnar::Codec;
use super::folder::{self, Folder};
use super::job::identity;
use super::lock::Lock;
use super::{
    EpochRows, Guarantee, JobContext, OutputKind, OutputSpec, Sink, SinkContext, SinkError,
    SinkFactory, Written,
};
use crate::time::{Epoch, Shard};

pub(super) use self::staging::{Store, taken};

mod names;
mod records;
mod staging;
#[cfg(test)]
mod testing;
mod windows;

/// Where files get published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A local folder.
    Folder(PathBuf),
    /// A bucket of an object store that speaks S3, and a prefix in it (empty, or without slashes
    /// at its ends).
    #[cfg(feature = "s3")]
    Bucket {
        /// Its name.
        bucket: String,
        /// What all names begin with.
        prefix: String,
    },
}

/// What the files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// CSV with a header, compressed with gzip.
    Csv,
    /// Parquet with this compression of its pages.
    #[cfg(feature = "parquet")]
    Parquet(Codec),
}

impl Format {
    fn kind(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            #[cfg(feature = "parquet")]
            Self::Parquet(_) => "parquet",
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Self::Csv => "csv.gz",
            #[cfg(feature = "parquet")]
            Self::Parquet(_) => "parquet",
        }
    }
}

/// What `csv:` and `parquet:` mean.
#[derive(Clone, Debug)]
pub struct FilesFactory {
    place: Place,
    format: Format,
    shards: u32,
    #[cfg_attr(
        not(feature = "s3"),
        expect(dead_code, reason = "only buckets are connected to")
    )]
    connect_timeout: std::time::Duration,
}

impl FilesFactory {
    /// Files of this format in this place, one per shard.
    pub fn new(
        place: Place,
        format: Format,
        shards: u32,
        connect_timeout: std::time::Duration,
    ) -> Self {
        Self {
            place,
            format,
            shards,
            connect_timeout,
        }
    }

    #[cfg_attr(
        not(feature = "s3"),
        expect(unused_variables, reason = "folders never wait")
    )]
    fn store(&self, context: &SinkContext) -> Result<Box<dyn Store>, SinkError> {
        match &self.place {
            Place::Folder(path) => Ok(Box::new(Folder::open(path)?)),
            #[cfg(feature = "s3")]
            Place::Bucket { bucket, prefix } => {
                let bucket = super::s3::Bucket::new(bucket, prefix, self.connect_timeout)?;
                Ok(Box::new(bucket.into_store(context.clone())?))
            }
        }
    }

    fn locks(&self, output: &OutputSpec, shards: &[Shard]) -> Result<Vec<Lock>, SinkError> {
        // Bound without a pattern that cannot fail when there is only one kind of place.
        #[cfg_attr(not(feature = "s3"), expect(clippy::infallible_destructuring_match))]
        let path = match &self.place {
            Place::Folder(path) => path,
            #[cfg(feature = "s3")]
            Place::Bucket { .. } => return Ok(Vec::new()),
        };
        let lock = |shard: &Shard| Lock::acquire(&lock_path(path, output.name, *shard), path);
        shards.iter().map(lock).collect()
    }
}

fn lock_path(root: &Path, output: &str, shard: Shard) -> PathBuf {
    root.join(folder::STAGING)
        .join(format!("{output}-s{:03}.lock", shard.0))
}

impl SinkFactory for FilesFactory {
    fn identity(&self) -> String {
        let (kind, place) = match (&self.format, &self.place) {
            (format, Place::Folder(path)) => (format.kind(), path.display().to_string()),
            #[cfg(feature = "s3")]
            (format, Place::Bucket { prefix, .. }) => (format.kind(), prefix.clone()),
        };
        identity(kind, &place)
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    fn shards(&self) -> u32 {
        self.shards
    }

    fn check(&self, output: &OutputSpec) -> Result<String, SinkError> {
        Content::of(output)?;
        match &self.place {
            Place::Folder(path) => {
                folder::check_creatable(path)?;
                for shard in 0..self.shards {
                    Lock::probe(&lock_path(path, output.name, Shard(shard)), path)?;
                }
                let state = if path.is_dir() {
                    "can be written"
                } else {
                    "would be created"
                };
                Ok(format!("folder {} {state}", path.display()))
            }
            #[cfg(feature = "s3")]
            Place::Bucket { bucket, prefix } => {
                super::s3::Bucket::new(bucket, prefix, self.connect_timeout)?.check()
            }
        }
    }

    fn prepare(
        &self,
        output: &OutputSpec,
        _partitions: u32,
        _job: Option<&JobContext>,
    ) -> Result<(), SinkError> {
        Content::of(output)?;
        match &self.place {
            Place::Folder(path) => {
                Folder::open(path)?;
                folder::check_writable(path)
            }
            #[cfg(feature = "s3")]
            Place::Bucket { bucket, prefix } => {
                super::s3::Bucket::new(bucket, prefix, self.connect_timeout)?
                    .check()
                    .map(drop)
            }
        }
    }

    fn open(
        &self,
        output: &OutputSpec,
        shards: &[Shard],
        context: &SinkContext,
    ) -> Result<Box<dyn Sink>, SinkError> {
        let store = self.store(context)?;
        let naming = Naming {
            output: output.name,
            run_label: context.run_label.clone(),
            extension: self.format.extension(),
        };
        let layout = FolderRule::of(output)?;
        let projection = Projection::file(output);
        let out = Out {
            store,
            naming,
            layout,
            projection,
            format: self.format,
            staged: 0,
        };
        let locks = self.locks(output, shards)?;
        let shards: BTreeMap<Shard, Content> = shards
            .iter()
            .map(|shard| Ok((*shard, Content::of(output)?)))
            .collect::<Result<_, SinkError>>()?;
        let sink = FilesSink {
            out,
            shards,
            last: BTreeMap::new(),
            locks,
        };
        sink.out.clean(sink.shards.keys().copied())?;
        Ok(Box::new(sink))
    }

    fn rolls_files(&self) -> bool {
        true
    }
}

/// What one shard has not published yet.
enum Content {
    Windows(Windows),
    Records(Records),
}

impl Content {
    fn of(output: &OutputSpec) -> Result<Self, SinkError> {
        Ok(match output.kind {
            OutputKind::Windows { keep, .. } => Self::Windows(Windows::new(output, keep)?),
            _ => Self::Records(Records::default()),
        })
    }
}

struct FilesSink {
    out: Out,
    shards: BTreeMap<Shard, Content>,
    /// The last epoch of each shard.
    last: BTreeMap<Shard, Epoch>,
    locks: Vec<Lock>,
}

impl Sink for FilesSink {
    fn commit(&mut self, epoch: &EpochRows) -> Result<Written, SinkError> {
        let shard = epoch.shard;
        self.last.insert(shard, epoch.epoch);
        let Some(content) = self.shards.get_mut(&shard) else {
            return Err(SinkError::Config(format!(
                "{}: shard {shard} was not opened here; this is a defect, please report it",
                self.out.store.describe()
            )));
        };
        match content {
            Content::Windows(windows) => windows.commit(&mut self.out, epoch),
            Content::Records(records) => records.commit(&mut self.out, epoch),
        }
    }

    fn close(&mut self) -> Result<Written, SinkError> {
        let mut written = Written::default();
        for (shard, content) in &mut self.shards {
            if let (Content::Records(records), Some(epoch)) = (content, self.last.get(shard)) {
                written += records.publish(&mut self.out, *shard, *epoch)?;
            }
        }
        Ok(written)
    }
}

impl Drop for FilesSink {
    fn drop(&mut self) {
        // What is left behind is removed by the next run.
        let _ = self.out.clean(self.shards.keys().copied());
        self.locks.clear();
        // Only succeeds when no other sink uses it.
        let _ = fs::remove_dir(self.out.store.staging());
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{factory, records};
    use super::*;
    use crate::sink::Layout;

    #[test]
    fn leftovers_are_removed_and_another_writer_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let staging = root.path().join(folder::STAGING);
        fs::create_dir(&staging).unwrap();
        fs::write(staging.join("alerts-s003-9.tmp"), "").unwrap();
        fs::write(staging.join("alerts-s002-9.tmp"), "").unwrap();
        let (output, context) = (records(Layout::Flat), SinkContext::default());
        let factory = factory(root.path());
        let sink = factory.open(&output, &[Shard(3)], &context).unwrap();
        assert!(!staging.join("alerts-s003-9.tmp").exists());
        assert!(staging.join("alerts-s002-9.tmp").exists());
        assert!(factory.check(&output).is_err());
        assert!(factory.open(&output, &[Shard(3)], &context).is_err());
        assert!(factory.open(&output, &[Shard(1)], &context).is_ok());
        drop(sink);
        assert!(factory.open(&output, &[Shard(3)], &context).is_ok());
    }
}
