//! `ndjson:PATH`: one file of JSON lines, or standard output.
//!
//! The file is cut to nothing when it is opened, under an exclusive lock on `PATH.lock` that is
//! held until the sink is dropped. Each epoch is written at once; checkpoints also reach the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::encode::json::JsonEncoder;
use super::job::identity;
use super::lock::Lock;
use super::null::NullSink;
use super::{
    EpochRows, Guarantee, JobContext, OutputSpec, Sink, SinkContext, SinkError, SinkFactory,
    Written, folder,
};
use crate::terminal;
use crate::time::Shard;

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
        Guarantee::AtLeastOnce
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

    fn open(
        &self,
        output: &OutputSpec,
        shards: &[Shard],
        _context: &SinkContext,
    ) -> Result<Box<dyn Sink>, SinkError> {
        if shards.is_empty() {
            // The file belongs to the worker that has its only shard.
            return Ok(Box::new(NullSink));
        }
        let target = match &self.path {
            Some(path) => Target::open(path)?,
            None => Target::Stdout,
        };
        let encoder = JsonEncoder::new(&output.columns);
        Ok(Box::new(NdjsonSink {
            target,
            encoder,
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
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
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
        // A pipe or a device has neither a lock, nor contents to cut, nor a disk to reach.
        let is_special = fs::metadata(path).is_ok_and(|found| !found.is_file());
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

#[cfg(test)]
mod tests {
    use super::super::encode::sample::{Count, PANE, rows};
    use super::*;
    use crate::rows::Tabular;
    use crate::sink::{Layout, OutputKind};
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
