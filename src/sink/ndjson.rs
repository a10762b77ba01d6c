//! `ndjson:PATH`: one file of JSON lines, or standard output.
//!
//! The file is cut when it is opened, under an exclusive lock on `PATH.lock` that is held until the
//! sink is dropped. Each epoch is written at once; checkpoints also reach the disk.
//!
//! **With a state** the file is cut to the length that the checkpoint knows, and `PATH.job` says
//! which job writes there (see `sink::commit::lines`): move it along with the file. **Without one**,
//! it is cut to nothing. Standard output, pipes and devices cannot be cut: rows after the last
//! checkpoint come again after a crash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::commit::lines::{LineCommitter, LineFile};
use super::commit::owner::{Owner, beginning, read_owner, write_owner};
use super::encode::json::JsonEncoder;
use super::job::identity;
use super::lock::{Lock, held};
use super::null::NullSink;
use super::{
    EpochRows, Guarantee, JobContext, OutputSpec, Sink, SinkContext, SinkError, SinkFactory,
    Written, folder, sink_id,
};
use crate::fault;
use crate::rows::Columns;
use crate::terminal;
use crate::time::{Epoch, Shard};

/// How long a run waits at first for one that still has the file, and at most between two looks.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// What `ndjson:` means.
#[derive(Clone, Debug)]
pub struct NdjsonFactory {
    /// `None`: standard output.
    path: Option<PathBuf>,
}

impl NdjsonFactory {
    /// Lines on standard output.
    pub fn stdout() -> Self {
        Self { path: None }
    }

    /// Lines in the file at `path`.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self {
            path: Some(path.into()),
        }
    }
}

impl SinkFactory for NdjsonFactory {
    fn identity(&self) -> String {
        self.path.as_ref().map_or_else(
            || "ndjson-stdout".to_owned(),
            |path| identity("ndjson", &path.display().to_string()),
        )
    }

    fn guarantee(&self) -> Guarantee {
        match &self.path {
            Some(path) if !is_special(path) => Guarantee::ExactlyOnce,
            _ => Guarantee::AtLeastOnce,
        }
    }

    fn shards(&self) -> u32 {
        1
    }

    fn check(&self, _output: &OutputSpec) -> Result<String, SinkError> {
        let Some(path) = &self.path else {
            return Ok("standard output".to_owned());
        };
        let is_there = check_file(path)?;
        Lock::probe(&lock_path(path), path)?;
        let what = if is_there {
            "would be overwritten"
        } else {
            "would be created"
        };
        Ok(format!("{} {what}", path.display()))
    }

    fn prepare(
        &self,
        _output: &OutputSpec,
        _partitions: u32,
        _job: Option<&JobContext>,
    ) -> Result<(), SinkError> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let parent = folder::parent(path);
        fs::create_dir_all(parent).map_err(|error| SinkError::io(parent.display(), &error))?;
        check_file(path).map(|_| ())
    }

    fn check_free(&self, output: &OutputSpec, job: &JobContext) -> Result<(), SinkError> {
        let Some(path) = self.path.as_ref().filter(|path| !is_special(path)) else {
            return Ok(());
        };
        let mut file = JobFile::new(path, job, SinkContext::default());
        let (found, is_empty) = (file.owner()?, file.length()? == 0);
        let sink = sink_id(output.name, &self.identity());
        let target = path.display().to_string();
        beginning(job, &sink, &target, found, is_empty).map(|_| ())
    }

    fn open(
        &self,
        output: &OutputSpec,
        shards: &[Shard],
        context: &SinkContext,
    ) -> Result<Box<dyn Sink>, SinkError> {
        if shards.is_empty() {
            // The file belongs to the worker that has its only shard.
            return Ok(Box::new(NullSink));
        }
        if let (Some(path), Some(job)) = (&self.path, &context.job)
            && !is_special(path)
        {
            let file = JobFile::new(path, job, context.clone());
            let sink = sink_id(output.name, &self.identity());
            let target = path.display().to_string();
            let sink = JobSink::open(file, job, &sink, &target, &output.columns)?;
            return Ok(Box::new(sink));
        }
        let target = match &self.path {
            Some(path) => Target::open(path)?,
            None => Target::Stdout,
        };
        Ok(Box::new(NdjsonSink {
            target,
            encoder: JsonEncoder::new(&output.columns),
            buffer: Vec::new(),
        }))
    }
}

/// Whether `path` exists; an error when it cannot be a file that is written.
fn check_file(path: &Path) -> Result<bool, SinkError> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            let error = io::Error::from(io::ErrorKind::IsADirectory);
            Err(SinkError::io(path.display(), &error))
        }
        Ok(_) => folder::check_writable(path).map(|()| true),
        Err(_) => folder::check_creatable(folder::parent(path)).map(|()| false),
    }
}

fn lock_path(path: &Path) -> PathBuf {
    beside(path, ".lock")
}

/// Where it stands which job writes to the file.
fn marker_path(path: &Path) -> PathBuf {
    beside(path, ".job")
}

fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(extension);
    name.into()
}

/// A pipe or a device has neither a lock, nor contents to cut, nor a disk to reach.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !found.is_file())
}

enum Target {
    Stdout,
    File {
        path: PathBuf,
        file: File,
        lock: Option<Lock>,
    },
}

impl Target {
    fn open(path: &Path) -> Result<Self, SinkError> {
        let is_special = is_special(path);
        let lock = if is_special {
            None
        } else {
            Some(Lock::acquire(&lock_path(path), path)?)
        };
        let failed = |error: io::Error| SinkError::io(path.display(), &error);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(!is_special)
            .open(path)
            .map_err(failed)?;
        // What a job had written there is gone. Usually there is none.
        let _ = fs::remove_file(marker_path(path));
        Ok(Self::File {
            path: path.to_owned(),
            file,
            lock,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        match self {
            Self::Stdout => write_stdout(bytes),
            Self::File { path, file, .. } => file
                .write_all(bytes)
                .map_err(|error| SinkError::io(path.display(), &error)),
        }
    }

    fn sync(&mut self) -> Result<(), SinkError> {
        match self {
            Self::File {
                path,
                file,
                lock: Some(_),
            } => file
                .sync_data()
                .map_err(|error| SinkError::io(path.display(), &error)),
            Self::File { .. } | Self::Stdout => Ok(()),
        }
    }
}

/// Writes and flushes; when the reader is gone, [`SinkError::Closed`].
pub(super) fn write_stdout(bytes: &[u8]) -> Result<(), SinkError> {
    // Rows never mix with the progress line of the same terminal.
    let _pause = terminal::pause();
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => SinkError::Closed,
        _ => SinkError::io("standard output", &error),
    })
}

struct NdjsonSink {
    target: Target,
    encoder: JsonEncoder,
    buffer: Vec<u8>,
}

impl Sink for NdjsonSink {
    fn commit(&mut self, epoch: &EpochRows) -> Result<Written, SinkError> {
        if !epoch.rows.is_empty() {
            self.buffer.clear();
            self.encoder.lines(&epoch.rows, &mut self.buffer);
            self.target.write(&self.buffer)?;
        }
        if epoch.is_checkpoint {
            self.target.sync()?;
        }
        let bytes = if epoch.rows.is_empty() {
            0
        } else {
            self.buffer.len() as u64
        };
        Ok(Written {
            rows: epoch.rows.len() as u64,
            bytes,
        })
    }

    fn close(&mut self) -> Result<Written, SinkError> {
        self.target.sync()?;
        Ok(Written::default())
    }
}

/// The file of a run of a job.
#[derive(Debug)]
struct JobFile {
    path: PathBuf,
    /// What the lock says of this run.
    note: String,
    context: SinkContext,
    waited: Option<Duration>,
    lock: Option<Lock>,
    file: Option<File>,
}

impl JobFile {
    fn new(path: &Path, job: &JobContext, context: SinkContext) -> Self {
        Self {
            path: path.to_owned(),
            note: format!("run {} of job {}", job.run, job.job),
            context,
            waited: None,
            lock: None,
            file: None,
        }
    }

    fn failed(&self, error: &io::Error) -> SinkError {
        SinkError::io(self.path.display(), error)
    }

    /// The file, which is made when it is missing.
    fn file(&mut self) -> Result<&mut File, SinkError> {
        let file = if let Some(file) = self.file.take() {
            file
        } else {
            self.open().map_err(|error| self.failed(&error))?
        };
        Ok(self.file.insert(file))
    }

    fn open(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).open(&self.path)?;
        folder::sync_folder(folder::parent(&self.path))?;
        Ok(file)
    }

    fn write_marker(&self, owner: &Owner) -> io::Result<()> {
        let path = marker_path(&self.path);
        let draft = beside(&path, ".tmp");
        let mut file = File::create(&draft)?;
        file.write_all(&write_owner(owner))?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        folder::sync_folder(folder::parent(&path))
    }
}

impl LineFile for JobFile {
    fn lock(&mut self) -> Result<Option<String>, SinkError> {
        match Lock::try_acquire(&lock_path(&self.path), &self.note)? {
            Ok(lock) => {
                self.lock = Some(lock);
                if self.waited.take().is_some() {
                    self.context.set_status(None);
                }
                Ok(None)
            }
            // Two outputs of one run in one file: no wait would end that.
            Err(holder) if holder.is_here() && holder.note == self.note => {
                Err(held(&holder, &self.path))
            }
            Err(holder) => Ok(Some(holder.to_string())),
        }
    }

    fn wait(&mut self, holder: &str) -> Result<(), SinkError> {
        let path = self.path.display();
        let status = format!("{path}: {holder} still has the file; waiting for it to end");
        self.context.set_status(Some(status));
        let pause = self.waited.map_or(FIRST_WAIT, |last| last * 2);
        let pause = pause.min(LONGEST_WAIT);
        self.waited = Some(pause);
        self.context.pause(pause)
    }

    fn owner(&mut self) -> Result<Option<Owner>, SinkError> {
        match fs::read(marker_path(&self.path)) {
            Ok(bytes) => read_owner(&bytes, &self.path.display().to_string()).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn own(&mut self, owner: &Owner) -> Result<(), SinkError> {
        self.write_marker(owner)
            .map_err(|error| self.failed(&error))
    }

    fn length(&mut self) -> Result<u64, SinkError> {
        match fs::metadata(&self.path) {
            Ok(found) => Ok(found.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn cut(&mut self, length: u64) -> Result<(), SinkError> {
        let outcome = self.file()?.set_len(length);
        outcome.map_err(|error| self.failed(&error))
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        fault::around("ndjson", "before");
        let outcome = self.file()?.write_all(bytes);
        fault::around("ndjson", "after");
        outcome.map_err(|error| self.failed(&error))
    }

    fn sync(&mut self) -> Result<(), SinkError> {
        fault::around("ndjson.sync", "before");
        let outcome = self.file()?.sync_data();
        fault::around("ndjson.sync", "after");
        outcome.map_err(|error| self.failed(&error))
    }
}

/// Lines that are committed once.
pub(crate) struct JobSink<F> {
    lines: LineCommitter<F>,
    encoder: JsonEncoder,
    buffer: Vec<u8>,
}

impl<F: LineFile> JobSink<F> {
    /// Takes `file`, which people call `target`, over for the run of `job`.
    pub(crate) fn open(
        file: F,
        job: &JobContext,
        sink: &str,
        target: &str,
        columns: &Columns,
    ) -> Result<Self, SinkError> {
        Ok(Self {
            lines: LineCommitter::open(file, job, sink, target)?,
            encoder: JsonEncoder::new(columns),
            buffer: Vec::new(),
        })
    }
}

impl<F: LineFile + Send> Sink for JobSink<F> {
    fn commit(&mut self, epoch: &EpochRows) -> Result<Written, SinkError> {
        self.buffer.clear();
        if !epoch.rows.is_empty() {
            self.encoder.lines(&epoch.rows, &mut self.buffer);
        }
        self.lines
            .commit(epoch.epoch, &self.buffer, epoch.is_checkpoint)?;
        Ok(Written {
            rows: epoch.rows.len() as u64,
            bytes: self.buffer.len() as u64,
        })
    }

    fn committed(&self, _shard: Shard) -> Option<Epoch> {
        self.lines.committed()
    }

    fn position(&self, _shard: Shard) -> u64 {
        self.lines.length()
    }

    fn close(&mut self) -> Result<Written, SinkError> {
        self.lines.sync()?;
        Ok(Written::default())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::commit::sample::job;
    use super::super::encode::sample::{Count, PANE, rows};
    use super::*;
    use crate::rows::Tabular;
    use crate::sink::{Layout, OutputKind, SinkMark};
    use crate::time::{Epoch, EventTime, Span};

    fn output() -> OutputSpec {
        OutputSpec {
            pipeline: "test",
            name: "windows",
            columns: Count::columns().into(),
            kind: OutputKind::Windows {
                key: vec!["key"],
                keep: Span::ZERO,
            },
            layout: Layout::Flat,
        }
    }

    fn epoch(count: i64) -> EpochRows {
        let mut batch = rows::<Count>();
        batch.push_result(
            &Count {
                start: 0,
                end: 60_000,
                key: None,
                count,
            },
            PANE,
            1,
        );
        EpochRows {
            shard: Shard(0),
            epoch: Epoch(count as u64),
            watermark: EventTime(60_000),
            is_checkpoint: true,
            rows: batch,
        }
    }

    #[test]
    fn makes_folders_and_cuts_an_older_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/out.ndjson");
        let factory = NdjsonFactory::file(&path);
        assert!(
            factory
                .check(&output())
                .unwrap()
                .ends_with("would be created")
        );
        assert!(!folder.path().join("a").exists());
        for counts in [vec![1, 2], vec![3]] {
            factory.prepare(&output(), 1, None).unwrap();
            let mut sink = factory
                .open(&output(), &[Shard(0)], &SinkContext::default())
                .unwrap();
            for count in &counts {
                sink.commit(&epoch(*count)).unwrap();
            }
            sink.close().unwrap();
            let text = fs::read_to_string(&path).unwrap();
            assert_eq!(text.lines().count(), counts.len());
        }
        assert!(!lock_path(&path).exists());
        assert!(
            factory
                .check(&output())
                .unwrap()
                .ends_with("would be overwritten")
        );
    }

    #[test]
    fn a_second_writer_is_refused_and_cuts_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.ndjson");
        let factory = NdjsonFactory::file(&path);
        let context = SinkContext::default();
        let mut first = factory.open(&output(), &[Shard(0)], &context).unwrap();
        first.commit(&epoch(1)).unwrap();
        assert!(factory.check(&output()).is_err());
        assert!(factory.open(&output(), &[Shard(0)], &context).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
    }

    fn of_job(job: &JobContext) -> SinkContext {
        SinkContext {
            job: Some(Arc::new(job.clone())),
            ..SinkContext::default()
        }
    }

    fn start(path: &Path, context: &SinkContext) -> Result<Box<dyn Sink>, SinkError> {
        let factory = NdjsonFactory::file(path);
        factory.prepare(&output(), 1, context.job.as_deref())?;
        factory.open(&output(), &[Shard(0)], context)
    }

    fn counts(path: &Path) -> Vec<i64> {
        let text = fs::read_to_string(path).unwrap();
        let value = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        text.lines()
            .map(|line| value(line)["count"].as_i64().unwrap())
            .collect()
    }

    #[test]
    fn a_job_goes_on_where_its_checkpoint_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/out.ndjson");
        let first = job(1, None, None);
        let mut sink = start(&path, &of_job(&first)).unwrap();
        sink.commit(&epoch(1)).unwrap();
        let length = sink.position(Shard(0));
        assert_eq!(length, fs::metadata(&path).unwrap().len());
        sink.commit(&epoch(2)).unwrap();
        drop(sink);

        let mut second = job(2, Some(1), Some(2));
        let mark = SinkMark {
            positions: [(Shard(0), length)].into(),
        };
        let identity = NdjsonFactory::file(&path).identity();
        second.sinks.insert(sink_id("windows", &identity), mark);
        let mut sink = start(&path, &of_job(&second)).unwrap();
        assert_eq!(sink.committed(Shard(0)), Some(Epoch(1)));
        assert_eq!(counts(&path), [1]);
        sink.commit(&epoch(2)).unwrap();
        sink.commit(&epoch(3)).unwrap();
        sink.close().unwrap();
        drop(sink);
        assert_eq!(counts(&path), [1, 2, 3]);
        assert!(!lock_path(&path).exists());

        // A run without a state takes the file over, and the job no longer goes on with it.
        start(&path, &SinkContext::default()).unwrap();
        fs::write(&path, vec![b' '; 1 << 16]).unwrap();
        let refused = start(&path, &of_job(&second)).err().unwrap();
        assert!(matches!(refused, SinkError::Refused(_)), "{refused:?}");
    }

    #[test]
    fn a_restart_waits_for_the_run_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.ndjson");
        let zombie = start(&path, &of_job(&job(1, None, None))).unwrap();
        let context = of_job(&job(2, None, None));
        let (inner, target) = (context.clone(), path.clone());
        let restart = std::thread::spawn(move || start(&target, &inner).map(drop));
        let status = loop {
            let status = context.status.waits_for();
            if let Some(status) = status {
                break status;
            }
            assert!(!restart.is_finished());
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(status.contains("out.ndjson"), "{status}");
        assert!(status.contains("run 1 of job"), "{status}");
        drop(zombie);
        restart.join().unwrap().unwrap();
        assert_eq!(context.status.waits_for(), None);
    }

    #[test]
    fn a_wait_ends_when_the_run_does_and_two_outputs_do_not_wait_for_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.ndjson");
        let context = of_job(&job(1, None, None));
        let _sink = start(&path, &context).unwrap();
        let twice = start(&path, &context).err().unwrap();
        assert!(matches!(twice, SinkError::Config(_)), "{twice:?}");
        let aborted = of_job(&job(2, None, None));
        aborted
            .abort
            .store(true, std::sync::atomic::Ordering::Relaxed);
        let outcome = start(&path, &aborted);
        assert!(matches!(outcome, Err(SinkError::Aborted)));
    }

    #[test]
    fn only_files_promise_each_row_once() {
        let promised = |path: &str| NdjsonFactory::file(path).guarantee();
        assert_eq!(promised("out.ndjson"), Guarantee::ExactlyOnce);
        assert_eq!(promised("/dev/null"), Guarantee::AtLeastOnce);
        let stdout = NdjsonFactory::stdout().guarantee();
        assert_eq!(stdout, Guarantee::AtLeastOnce);
    }

    #[test]
    fn a_folder_is_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let error = NdjsonFactory::file(folder.path())
            .check(&output())
            .unwrap_err();
        assert!(
            error.to_string().contains("folder stands where a file"),
            "{error}"
        );
    }
}
