//! Files on their way: written in a staging folder, published whole, never replaced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use flate2::Compression as GzLevel;
use flate2::write::GzEncoder;

use super::Format;
use super::names::{FolderRule, Naming};
use crate::fault;
use crate::rows::Rows;
use crate::sink::encode::Projection;
#[cfg(feature = "parquet")]
use crate::sink::encode::columnar::{ParquetEncoder, TimeUnit};
use crate::sink::encode::csv::CsvEncoder;
use crate::sink::folder::make_in;
use crate::sink::{SinkError, Written};
use crate::time::Shard;

/// How much of one staged file is collected before its file is opened and appended to.
const APPEND_BYTES: usize = 32 << 10;

/// Where staged files become published ones.
pub(crate) trait Store: Send {
    /// The local folder in which files are written first.
    fn staging(&self) -> &Path;

    /// The place, for people.
    fn describe(&self) -> String;

    /// What a file that is published under `name` is really called there.
    #[cfg(feature = "parquet")]
    fn name_there(&self, name: &str) -> String {
        name.to_owned()
    }

    /// Makes the staged file visible, whole and for good, under `name` (folders and file name,
    /// with slashes), and removes it from the staging folder. A file that is there already is
    /// never replaced: with equal bytes all is well, with others it is an error.
    fn publish(&mut self, staged: &Path, name: &str) -> Result<(), SinkError>;
}

/// The error of a name under which something else was published.
pub(crate) fn taken(target: &str) -> SinkError {
    SinkError::Write {
        target: target.to_owned(),
        reason: "stands there already with other contents, from another run; choose an empty \
                 place, or remove the earlier run's files (a file that a run of the same job has \
                 published with another version of highwater: remove that one, and it is made again)"
            .to_owned(),
    }
}

/// The part of a sink that all its shards share: how rows become published files.
pub(super) struct Out {
    pub(super) store: Box<dyn Store>,
    pub(super) naming: Naming,
    pub(super) layout: FolderRule,
    pub(super) projection: Projection,
    pub(super) format: Format,
    /// How many files were staged, which tells their names apart.
    pub(super) staged: u64,
}

impl Out {
    pub(super) fn create(&mut self, shard: Shard) -> Result<StagedWriter, SinkError> {
        self.staged += 1;
        let name = format!("{}{}.tmp", self.naming.staged(shard), self.staged);
        let staging = self.store.staging();
        let path = staging.join(name);
        let make_staging = || fs::create_dir_all(staging);
        make_in(make_staging, || File::create_new(&path))
            .map_err(|error| SinkError::io(path.display(), &error))?;
        StagedWriter::append_to(path, self.format, self.projection.clone())
    }

    pub(super) fn publish(
        &mut self,
        writer: StagedWriter,
        name: &str,
    ) -> Result<Written, SinkError> {
        let rows = writer.rows;
        let staged = writer.finish()?;
        let size =
            fs::metadata(&staged).map_err(|error| SinkError::io(staged.display(), &error))?;
        fault::around(self.format.kind(), "before");
        self.store.publish(&staged, name)?;
        fault::around(self.format.kind(), "after");
        Ok(Written {
            rows,
            bytes: size.len(),
        })
    }

    /// Removes what an earlier run, or this one, has staged for `shards`.
    pub(super) fn clean(&self, shards: impl Iterator<Item = Shard>) -> Result<(), SinkError> {
        let staging = self.store.staging();
        let failed = |error: io::Error| SinkError::io(staging.display(), &error);
        let shards: Vec<Shard> = shards.collect();
        let entries = match fs::read_dir(staging) {
            // A run that was left behind has removed the folder, which was empty, just now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let is_ours = |shard: &Shard| self.naming.is_leftover(&name, *shard);
            if shards.iter().any(is_ours) {
                match fs::remove_file(entry.path()) {
                    // Its own run was quicker.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    outcome => outcome.map_err(failed)?,
                }
            }
        }
        Ok(())
    }
}

/// One file that is being written.
pub(super) struct StagedWriter {
    path: PathBuf,
    encoder: Encoder,
    rows: u64,
}

enum Encoder {
    /// Not compressed yet, so that an open file costs little memory.
    Csv(Box<CsvEncoder<Appender>>),
    #[cfg(feature = "parquet")]
    Parquet(Box<ParquetEncoder<Appender>>),
}

impl StagedWriter {
    /// `path`: an empty file.
    fn append_to(path: PathBuf, format: Format, projection: Projection) -> Result<Self, SinkError> {
        let file = Appender {
            path: path.clone(),
            buffer: Vec::new(),
        };
        let encoder: io::Result<Encoder> = (|| {
            Ok(match format {
                Format::Csv => Encoder::Csv(Box::new(CsvEncoder::new(projection, file)?)),
                #[cfg(feature = "parquet")]
                Format::Parquet(codec) => {
                    let unit = TimeUnit::Millisecond;
                    Encoder::Parquet(Box::new(ParquetEncoder::new(
                        projection, unit, codec, file,
                    )?))
                }
                #[cfg(feature = "parquet")]
                Format::Delta(codec) => {
                    let unit = TimeUnit::Microsecond;
                    Encoder::Parquet(Box::new(ParquetEncoder::new(
                        projection, unit, codec, file,
                    )?))
                }
            })
        })();
        match encoder {
            Ok(encoder) => Ok(Self {
                path,
                encoder,
                rows: 0,
            }),
            Err(error) => Err(SinkError::io(path.display(), &error)),
        }
    }

    pub(super) fn row(&mut self, rows: &Rows, row: usize) -> Result<(), SinkError> {
        self.rows += 1;
        let outcome = match &mut self.encoder {
            Encoder::Csv(encoder) => encoder.row(rows, row),
            #[cfg(feature = "parquet")]
            Encoder::Parquet(encoder) => encoder.row(rows, row),
        };
        outcome.map_err(|error| SinkError::io(self.path.display(), &error))
    }

    pub(super) fn buffered(&self) -> usize {
        match &self.encoder {
            Encoder::Csv(_) => APPEND_BYTES,
            #[cfg(feature = "parquet")]
            Encoder::Parquet(encoder) => encoder.buffered(),
        }
    }

    pub(super) fn flush(&mut self) -> Result<(), SinkError> {
        let outcome = match &mut self.encoder {
            Encoder::Csv(encoder) => encoder.flush(),
            #[cfg(feature = "parquet")]
            Encoder::Parquet(encoder) => encoder.flush(),
        };
        outcome.map_err(|error| SinkError::io(self.path.display(), &error))
    }

    /// The whole file, in the staging folder.
    fn finish(self) -> Result<PathBuf, SinkError> {
        let path = self.path;
        let outcome = match self.encoder {
            Encoder::Csv(encoder) => encoder
                .finish()
                .and_then(|mut file| file.flush())
                .and_then(|()| compress(&path)),
            #[cfg(feature = "parquet")]
            Encoder::Parquet(encoder) => encoder
                .finish()
                .and_then(|mut file| file.flush())
                .map(|()| path.clone()),
        };
        outcome.map_err(|error| SinkError::io(path.display(), &error))
    }
}

/// Replaces the file at `path` by a compressed one beside it; its header holds no time and no
/// name, so that equal rows give equal bytes.
fn compress(path: &Path) -> io::Result<PathBuf> {
    let compressed = path.with_extension("gz.tmp");
    let target = BufWriter::new(File::create(&compressed)?);
    let mut encoder = GzEncoder::new(target, GzLevel::default());
    io::copy(
        &mut BufReader::with_capacity(1 << 16, File::open(path)?),
        &mut encoder,
    )?;
    encoder
        .finish()?
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    fs::remove_file(path)?;
    Ok(compressed)
}

/// A file that is open only while it is appended to: a backfill may write to a thousand at once.
struct Appender {
    path: PathBuf,
    buffer: Vec<u8>,
}

impl Appender {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        OpenOptions::new()
            .append(true)
            .open(&self.path)?
            .write_all(bytes)
    }
}

impl Write for Appender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > APPEND_BYTES {
            self.flush()?;
        }
        if bytes.len() > APPEND_BYTES {
            self.append(bytes)?;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.append(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}
