//! `csv:` and `parquet:`: files that only ever appear whole, in a folder or a bucket.
//!
//! * `windows`: the rows of a window are held, the last revision per natural key, until the window
//!   is final: at the first epoch with `watermark >= end + keep`. Then it becomes one file per
//!   shard, under a name that is a function of window and shard only. Windows that are not final
//!   when the run ends are published nowhere.
//! * `records`: rows go into staged files as they come and are published at checkpoints, under a
//!   name made of the run's label, the checkpoint's epoch and the shard.
//!
//! **With a state** names hold the tag of the job in place of the run's label, and a file that is
//! there already was published by an earlier run: see `sink::commit::claim`. Windows come when
//! they are final and are published at once, so that the sink holds nothing that a restart could
//! lose but staged records, which the replay makes again. There is no lock: a run that was left
//! behind can only publish the same files, and stages them under names of its own.
//!
//! * `staging`: how a file is written, compressed and published.
//! * `names`: of files, and of the folders that a layout puts them into.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::names::{FolderRule, Naming};
use self::records::Records;
use self::staging::Out;
use self::windows::Windows;
use super::commit::check_newest;
use super::commit::claim::{Claim, FilePlace};
use super::commit::owner::read_owner;
use super::encode::Projection;
#[cfg(feature = "parquet")]
use super::encode::columnar::Codec;
use super::folder::{self, Folder};
use super::job::identity;
use super::lock::Lock;
use super::{
    EpochRows, Guarantee, JobContext, OutputKind, OutputSpec, Sink, SinkContext, SinkError,
    SinkFactory, Written, sink_id,
};
use crate::time::{Epoch, Shard};

pub(crate) use self::staging::{Store, taken};

pub(super) mod names;
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
    /// The same for a Delta table, which has times in microseconds.
    #[cfg(feature = "parquet")]
    Delta(Codec),
}

impl Format {
    fn kind(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            #[cfg(feature = "parquet")]
            Self::Parquet(_) => "parquet",
            #[cfg(feature = "parquet")]
            Self::Delta(_) => "delta",
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Self::Csv => "csv.gz",
            #[cfg(feature = "parquet")]
            Self::Parquet(_) | Self::Delta(_) => "parquet",
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
    pub(super) fn store(&self, context: &SinkContext) -> Result<Box<dyn Store>, SinkError> {
        match &self.place {
            Place::Folder(path) => Ok(Box::new(Folder::open(path)?)),
            #[cfg(feature = "s3")]
            Place::Bucket { bucket, prefix } => {
                let bucket = super::s3::Bucket::new(bucket, prefix, self.connect_timeout)?;
                Ok(Box::new(bucket.into_store(context.clone())?))
            }
        }
    }

    fn naming(&self, output: &OutputSpec, job: Option<&JobContext>, run_label: &str) -> Naming {
        Naming {
            output: output.name,
            run_label: run_label.to_owned(),
            kind: self.format.kind(),
            extension: self.format.extension(),
            job: job.map(|job| (job.job.tag(), job.run)),
        }
    }

    /// Sees to it that no other job writes this output to this place; with `only_check`, asks
    /// whether that can be, and changes nothing.
    fn claim(
        &self,
        output: &OutputSpec,
        job: &JobContext,
        only_check: bool,
    ) -> Result<(), SinkError> {
        let target = match &self.place {
            Place::Folder(path) => format!("{}, output {}", path.display(), output.name),
            #[cfg(feature = "s3")]
            Place::Bucket { bucket, prefix } => {
                format!("s3://{bucket}/{prefix}, output {}", output.name)
            }
        };
        match &self.place {
            Place::Folder(path) if only_check && !path.is_dir() => Ok(()),
            Place::Folder(path) => {
                let mut folder = Folder::at(path);
                self.claim_in(&mut folder, &target, output, job, only_check)
            }
            #[cfg(feature = "s3")]
            Place::Bucket { bucket, prefix } => {
                let mut bucket = super::s3::Bucket::new(bucket, prefix, self.connect_timeout)?;
                self.claim_in(&mut bucket, &target, output, job, only_check)
            }
        }
    }

    /// The same in any place, which people call `target`.
    pub(crate) fn claim_in(
        &self,
        place: &mut impl FilePlace,
        target: &str,
        output: &OutputSpec,
        job: &JobContext,
        only_check: bool,
    ) -> Result<(), SinkError> {
        let naming = self.naming(output, Some(job), "");
        let claim = Claim {
            sink: &sink_id(output.name, &self.identity()),
            target,
            marker: &naming.marker(),
            is_output: &|name| naming.is_published(name),
        };
        if only_check {
            claim.check(place, job)
        } else {
            claim.make(place, job)
        }
    }

    /// Opens a sink that publishes into any store.
    pub(crate) fn open_in(
        &self,
        store: Box<dyn Store>,
        output: &OutputSpec,
        shards: &[Shard],
        context: &SinkContext,
    ) -> Result<Box<dyn Sink>, SinkError> {
        let job = context.job.clone();
        let naming = self.naming(output, job.as_deref(), &context.run_label);
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
        let locks = match job {
            Some(_) => Vec::new(),
            None => self.locks(output, shards)?,
        };
        let shards: BTreeMap<Shard, Content> = shards
            .iter()
            .map(|shard| Ok((*shard, Content::of(output, job.is_some())?)))
            .collect::<Result<_, SinkError>>()?;
        let sink = FilesSink {
            out,
            shards,
            last: BTreeMap::new(),
            locks,
            job,
        };
        sink.out.clean(sink.shards.keys().copied())?;
        Ok(Box::new(sink))
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
        Guarantee::ExactlyOnce
    }

    fn shards(&self) -> u32 {
        self.shards
    }

    fn check(&self, output: &OutputSpec) -> Result<String, SinkError> {
        Content::of(output, false)?;
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
        job: Option<&JobContext>,
    ) -> Result<(), SinkError> {
        Content::of(output, false)?;
        match &self.place {
            Place::Folder(path) => {
                Folder::open(path)?;
                folder::check_writable(path)?;
            }
            #[cfg(feature = "s3")]
            Place::Bucket { bucket, prefix } => {
                super::s3::Bucket::new(bucket, prefix, self.connect_timeout)?.check()?;
            }
        }
        job.map_or(Ok(()), |job| self.claim(output, job, false))
    }

    fn check_free(&self, output: &OutputSpec, job: &JobContext) -> Result<(), SinkError> {
        self.claim(output, job, true)
    }

    fn sees_job(&self, output: &OutputSpec, job: &JobContext) -> Result<bool, SinkError> {
        match &self.place {
            Place::Folder(path) => {
                let marker = path.join(self.naming(output, Some(job), "").marker());
                let bytes = match fs::read(&marker) {
                    Ok(bytes) => bytes,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                    Err(error) => return Err(SinkError::io(marker.display(), &error)),
                };
                let owner = read_owner(&bytes, &marker.display().to_string())?;
                Ok(owner.job == job.job)
            }
            #[cfg(feature = "s3")]
            Place::Bucket { .. } => Ok(true),
        }
    }

    fn open(
        &self,
        output: &OutputSpec,
        shards: &[Shard],
        context: &SinkContext,
    ) -> Result<Box<dyn Sink>, SinkError> {
        self.open_in(self.store(context)?, output, shards, context)
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
    /// `is_final`: windows come when they are final.
    fn of(output: &OutputSpec, is_final: bool) -> Result<Self, SinkError> {
        Ok(match output.kind {
            OutputKind::Windows { keep, .. } => {
                Self::Windows(Windows::new(output, keep, is_final)?)
            }
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
    job: Option<Arc<JobContext>>,
}

impl FilesSink {
    fn publish(&mut self, epoch: &EpochRows) -> Result<Written, SinkError> {
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
}

impl Sink for FilesSink {
    fn commit(&mut self, epoch: &EpochRows) -> Result<Written, SinkError> {
        let outcome = self.publish(epoch);
        if let (Err(SinkError::Write { .. }), Some(job)) = (&outcome, &self.job) {
            // A newer run has removed what this one had staged: that is why it failed.
            check_newest(job, &self.out.store.describe())?;
        }
        outcome
    }

    fn close(&mut self) -> Result<Written, SinkError> {
        let mut written = Written::default();
        if self.job.is_some() {
            // The last epoch of a run is a checkpoint. What came after an earlier one is staged,
            // and the next run makes it again under the name that belongs to it.
            return Ok(written);
        }
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
    use std::sync::atomic::Ordering;

    use super::testing::{alerts, counts, epoch, factory, published, records, windows};
    use super::*;
    use crate::rows::Rows;
    use crate::sink::commit::sample::{Log, job};
    use crate::sink::{JobId, Layout, SinkMark};

    const SHARD: Shard = Shard(3);
    const NEW_YEAR: i64 = 1_704_067_200_000;

    fn of_job(job: &JobContext) -> SinkContext {
        SinkContext {
            job: Some(Arc::new(job.clone())),
            ..SinkContext::default()
        }
    }

    fn start(root: &Path, output: &OutputSpec, job: &JobContext) -> Box<dyn Sink> {
        let factory = factory(root);
        factory.prepare(output, 1, Some(job)).unwrap();
        factory.open(output, &[SHARD], &of_job(job)).unwrap()
    }

    /// Names and bytes.
    fn contents(root: &Path) -> BTreeMap<String, Vec<u8>> {
        let names = published(root).into_iter();
        names
            .map(|name| (name.clone(), fs::read(root.join(name)).unwrap()))
            .collect()
    }

    /// Six epochs; 2 and 5 are checkpoints.
    fn epochs(rows: impl Fn(u64) -> Rows) -> Vec<EpochRows> {
        let is_checkpoint = |number| number == 2 || number == 5;
        (0..6)
            .map(|number| epoch(number, 0, is_checkpoint(number), rows(number)))
            .collect()
    }

    /// A final window per epoch, in two folders.
    fn window_rows(number: u64) -> Rows {
        let start = NEW_YEAR + number as i64 * 900_000;
        counts(&[(start, Some("b"), 1, 1), (start, Some("a"), 2, 1)])
    }

    fn undisturbed(output: &OutputSpec, epochs: &[EpochRows]) -> BTreeMap<String, Vec<u8>> {
        let root = tempfile::tempdir().unwrap();
        let mut sink = start(root.path(), output, &job(1, None, None));
        epochs.iter().for_each(|epoch| {
            sink.commit(epoch).unwrap();
        });
        sink.close().unwrap();
        drop(sink);
        contents(root.path())
    }

    #[test]
    fn a_crash_and_a_replay_leave_the_same_files() {
        let cases = [
            (
                records(Layout::DateHour("time")),
                epochs(|number| alerts(number * 3, number * 3 + 3)),
            ),
            (
                windows(Layout::DateHour("window_start")),
                epochs(window_rows),
            ),
        ];
        for (output, epochs) in cases {
            let expected = undisturbed(&output, &epochs);
            assert!(expected.len() > 3, "{:?}", expected.keys());
            for crash in 0..6 {
                let root = tempfile::tempdir().unwrap();
                let mut sink = start(root.path(), &output, &job(1, None, None));
                for epoch in &epochs[..=crash] {
                    sink.commit(epoch).unwrap();
                }
                std::mem::forget(sink);
                // Its checkpoint may have come to the log, or not.
                let mut again = job(2, (crash > 3).then_some(2), Some(crash as u64));
                if again.checkpoint.is_some() {
                    let sink = sink_id(output.name, &factory(root.path()).identity());
                    again.sinks.insert(sink, SinkMark::default());
                }
                let from = again.checkpoint.map_or(0, |epoch| epoch.0 as usize + 1);
                let mut sink = start(root.path(), &output, &again);
                for epoch in &epochs[from..] {
                    sink.commit(epoch).unwrap();
                }
                sink.close().unwrap();
                drop(sink);
                assert_eq!(contents(root.path()), expected, "a crash after {crash}");
                assert!(!root.path().join(folder::STAGING).exists());
            }
        }
    }

    #[test]
    fn a_run_that_was_left_behind_harms_nobody() {
        let output = records(Layout::Flat);
        let epochs = epochs(|number| alerts(number * 3, number * 3 + 3));
        let expected = undisturbed(&output, &epochs);
        let root = tempfile::tempdir().unwrap();
        let log = Arc::new(Log::new(1));
        let older = JobContext {
            log: Arc::clone(&log) as _,
            ..job(1, None, None)
        };
        let mut older = start(root.path(), &output, &older);
        older.commit(&epochs[0]).unwrap();
        // The newer run begins while the older one still has staged files.
        let mut newer = start(root.path(), &output, &job(2, None, Some(0)));
        log.0.store(2, Ordering::SeqCst);
        for epoch in &epochs[..2] {
            newer.commit(epoch).unwrap();
        }
        older.commit(&epochs[1]).unwrap();
        let fenced = older.commit(&epochs[2]).unwrap_err();
        assert!(matches!(fenced, SinkError::Fenced(_)), "{fenced:?}");
        drop(older);
        for epoch in &epochs[2..] {
            newer.commit(epoch).unwrap();
        }
        assert_eq!(contents(root.path()), expected);
    }

    #[test]
    fn a_folder_belongs_to_one_job() {
        let root = tempfile::tempdir().unwrap();
        let output = windows(Layout::Flat);
        let rows = epochs(window_rows);
        let mut sink = start(root.path(), &output, &job(1, None, None));
        sink.commit(&rows[0]).unwrap();
        drop(sink);
        let mut other = JobContext {
            job: JobId(uuid::Uuid::from_u128(u128::MAX)),
            ..job(1, None, None)
        };
        let factory = factory(root.path());
        let refused = factory.prepare(&output, 1, Some(&other)).unwrap_err();
        assert!(matches!(refused, SinkError::Refused(_)), "{refused:?}");
        // Another output there is another matter.
        let alerts = records(Layout::Flat);
        factory.prepare(&alerts, 1, Some(&other)).unwrap();
        assert_eq!(published(root.path()).len(), 3);
        other.replace_output = true;
        let mut sink = start(root.path(), &output, &other);
        sink.commit(&rows[1]).unwrap();
        sink.close().unwrap();
        assert_eq!(
            published(root.path()),
            [
                "_highwater-alerts.csv.gz.json",
                "_highwater-windows.csv.gz.json",
                "windows-jffffffff-20240101T001500Z-20240101T003000Z-s003.csv.gz",
            ]
        );
    }

    /// As on two hosts, whose folders may be one or not.
    #[test]
    fn another_process_sees_whose_folder_it_is() {
        let (output, mine) = (windows(Layout::Flat), job(1, None, None));
        let root = tempfile::tempdir().unwrap();
        let factory = factory(root.path());
        let sees = |job: &JobContext| factory.sees_job(&output, job).unwrap();
        assert!(!sees(&mine));
        factory.prepare(&output, 1, None).unwrap();
        assert!(!sees(&mine));
        factory.prepare(&output, 1, Some(&mine)).unwrap();
        assert!(sees(&mine));
        let other = JobContext {
            job: JobId(uuid::Uuid::from_u128(u128::MAX)),
            ..job(1, None, None)
        };
        assert!(!sees(&other));
    }

    #[test]
    fn a_window_that_is_there_with_other_rows_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let output = windows(Layout::Flat);
        let mut sink = start(root.path(), &output, &job(1, None, None));
        let rows = |count| counts(&[(NEW_YEAR, None, count, 1)]);
        sink.commit(&epoch(0, 0, true, rows(1))).unwrap();
        sink.commit(&epoch(0, 0, true, rows(1))).unwrap();
        let error = sink.commit(&epoch(0, 0, true, rows(2))).unwrap_err();
        assert!(matches!(error, SinkError::Write { .. }), "{error:?}");
        assert!(error.to_string().contains("other contents"), "{error}");
    }

    /// Each sink removes the folder of staged files when it is closed and finds it empty, while the
    /// others are about to write there.
    #[test]
    fn a_sink_that_is_closed_does_not_disturb_another_one_in_its_folder() {
        let root = tempfile::tempdir().unwrap();
        for job in [None, Some(job(1, None, None))] {
            let run_sinks = |shard: u32| {
                let (output, shard) = (windows(Layout::Flat), Shard(shard));
                let context = job.as_ref().map_or_else(SinkContext::default, of_job);
                for number in 0..500 {
                    let mut sink = factory(root.path())
                        .open(&output, &[shard], &context)
                        .unwrap();
                    let rows = counts(&[(NEW_YEAR, None, 1, 1)]);
                    let rows = EpochRows {
                        shard,
                        ..epoch(number, i64::MAX, true, rows)
                    };
                    sink.commit(&rows).unwrap();
                    sink.close().unwrap();
                }
            };
            std::thread::scope(|scope| {
                for shard in 0..4 {
                    scope.spawn(move || run_sinks(shard));
                }
            });
        }
    }

    #[test]
    fn leftovers_are_removed_and_another_writer_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let staging = root.path().join(folder::STAGING);
        fs::create_dir(&staging).unwrap();
        fs::write(staging.join("alerts-csv-s003-9.tmp"), "").unwrap();
        fs::write(staging.join("alerts-csv-s002-9.tmp"), "").unwrap();
        let (output, context) = (records(Layout::Flat), SinkContext::default());
        let factory = factory(root.path());
        let sink = factory.open(&output, &[Shard(3)], &context).unwrap();
        assert!(!staging.join("alerts-csv-s003-9.tmp").exists());
        assert!(staging.join("alerts-csv-s002-9.tmp").exists());
        assert!(factory.check(&output).is_err());
        assert!(factory.open(&output, &[Shard(3)], &context).is_err());
        assert!(factory.open(&output, &[Shard(1)], &context).is_ok());
        drop(sink);
        assert!(factory.open(&output, &[Shard(3)], &context).is_ok());
    }
}
