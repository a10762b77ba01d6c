//! The log as files: a folder with one file per partition, a single file, or standard output.
//!
//! Files are written under a temporary name and renamed once all of them are whole, so that no
//! reader takes half a log for the log. A live log has no end to wait for: its files grow in place.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::drive::{LogRecord, LogWriter, check_end, write_log};
use super::{EventLog, GenerateError, Progress};

/// Where the files go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `part-00000.ndjson`, ... in this folder, one per partition.
    Folder(PathBuf),
    /// One file with all events in order; `.gz` and `.zst` are compressed.
    File(PathBuf),
    /// All events in order.
    Stdout,
}

/// Writes `log` to `target`, a live log at the pace of the wall clock. `progress` is called now
/// and then, and once at the end; when it breaks, what has been written so far is completed.
///
/// # Errors
/// When the log has no end (and is not live), when the folder holds partitions of another log that
/// would not be overwritten, or when a file cannot be written. Closing the other end of standard
/// output is no error.
pub fn write_files(
    log: &EventLog,
    target: &Target,
    progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<Progress, GenerateError> {
    // Before a file is made that would hold nothing.
    check_end(log)?;
    let written = match target {
        Target::Folder(folder) => write_folder(log, folder, progress),
        Target::File(path) => {
            let part = Part::create(path, log.options().live)?;
            write_parts(&log.with_partitions(1)?, vec![part], progress)
        }
        Target::Stdout => write_parts(&log.with_partitions(1)?, vec![Part::stdout()], progress),
    };
    match written {
        Err(GenerateError::Output(reason)) if reason.kind() == io::ErrorKind::BrokenPipe => {
            Ok(Progress::default())
        }
        written => written,
    }
}

fn write_folder(
    log: &EventLog,
    folder: &Path,
    progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<Progress, GenerateError> {
    fs::create_dir_all(folder).map_err(GenerateError::file(folder))?;
    let names: Vec<String> = (0..log.options().partitions).map(part_name).collect();
    refuse_foreign_parts(folder, &names)?;
    let parts = names
        .iter()
        .map(|name| Part::create(&folder.join(name), log.options().live))
        .collect::<Result<Vec<_>, _>>()?;
    write_parts(log, parts, progress)
}

fn part_name(partition: u32) -> String {
    format!("part-{partition:05}.ndjson")
}

/// Parts of an earlier, wider log would be read together with the new ones.
fn refuse_foreign_parts(folder: &Path, names: &[String]) -> Result<(), GenerateError> {
    for entry in fs::read_dir(folder).map_err(GenerateError::file(folder))? {
        let name = entry.map_err(GenerateError::file(folder))?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("part-") && names.binary_search_by(|n| (**n).cmp(&name)).is_err() {
            return Err(GenerateError::Config(format!(
                "{} holds {name} of an earlier log, which would be read together with the new \
                 one: remove it or choose another folder",
                folder.display()
            )));
        }
    }
    Ok(())
}

/// The parts, by partition.
struct Parts(Vec<Part>);

impl LogWriter for Parts {
    fn write(&mut self, record: &LogRecord<'_>) -> Result<(), GenerateError> {
        self.0[record.partition as usize].write_line(record.value)
    }

    fn flush(&mut self) -> Result<(), GenerateError> {
        self.0.iter_mut().try_for_each(Part::flush)
    }
}

/// Writes all of `log` and completes the files.
fn write_parts(
    log: &EventLog,
    parts: Vec<Part>,
    progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<Progress, GenerateError> {
    let mut parts = Parts(parts);
    let written = write_log(log, &mut parts, progress)?;
    Part::finish_all(parts.0)?;
    Ok(written)
}

/// A file on its way, or standard output.
struct Part {
    out: Encoder,
    /// The name that it gets when it is whole, and the one that it has until then.
    path: Option<(PathBuf, PathBuf)>,
}

enum Encoder {
    Plain(BufWriter<File>),
    Gzip(GzEncoder<BufWriter<File>>),
    Zstd(zstd::Encoder<'static, BufWriter<File>>),
    Stdout(BufWriter<io::Stdout>),
}

impl Part {
    /// A file that becomes `path`; a live one is `path` from the beginning.
    fn create(path: &Path, live: bool) -> Result<Self, GenerateError> {
        let Some(name) = path.file_name().map(|name| name.to_string_lossy()) else {
            return Err(GenerateError::Config(format!(
                "{} is no file name",
                path.display()
            )));
        };
        let temporary = if live {
            path.to_path_buf()
        } else {
            path.with_file_name(format!(".{name}.tmp"))
        };
        let file = File::create(&temporary).map_err(GenerateError::file(&temporary))?;
        let file = BufWriter::with_capacity(64 << 10, file);
        let out = match path.extension().and_then(|extension| extension.to_str()) {
            Some("gz") => Encoder::Gzip(GzEncoder::new(file, Compression::default())),
            Some("zst") => {
                let encoder = zstd::Encoder::new(file, 3).map_err(GenerateError::file(path))?;
                Encoder::Zstd(encoder)
            }
            _ => Encoder::Plain(file),
        };
        Ok(Self {
            out,
            path: Some((path.to_path_buf(), temporary)),
        })
    }

    fn stdout() -> Self {
        Self {
            out: Encoder::Stdout(BufWriter::with_capacity(64 << 10, io::stdout())),
            path: None,
        }
    }

    fn write_line(&mut self, line: &[u8]) -> Result<(), GenerateError> {
        let out = self.out.as_write();
        out.write_all(line)
            .and_then(|()| out.write_all(b"\n"))
            .map_err(|reason| self.error(reason))
    }

    fn flush(&mut self) -> Result<(), GenerateError> {
        self.out
            .as_write()
            .flush()
            .map_err(|reason| self.error(reason))
    }

    fn error(&self, reason: io::Error) -> GenerateError {
        match &self.path {
            Some((path, _)) => GenerateError::File {
                path: path.clone(),
                reason,
            },
            None => GenerateError::Output(reason),
        }
    }

    /// Completes all files, and only then gives them their names.
    fn finish_all(parts: Vec<Self>) -> Result<(), GenerateError> {
        let mut renames = Vec::new();
        for part in parts {
            renames.extend(part.finish()?);
        }
        for (path, temporary) in renames {
            fs::rename(&temporary, &path).map_err(GenerateError::file(&path))?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Option<(PathBuf, PathBuf)>, GenerateError> {
        self.flush()?;
        let path = self.path.take();
        let finished = match self.out {
            Encoder::Gzip(encoder) => encoder.finish().and_then(|mut file| file.flush()),
            Encoder::Zstd(encoder) => encoder.finish().and_then(|mut file| file.flush()),
            Encoder::Plain(_) | Encoder::Stdout(_) => Ok(()),
        };
        if let (Err(reason), Some((path, _))) = (finished, &path) {
            return Err(GenerateError::File {
                path: path.clone(),
                reason,
            });
        }
        Ok(path.filter(|(path, temporary)| path != temporary))
    }
}

impl Encoder {
    fn as_write(&mut self) -> &mut dyn Write {
        match self {
            Self::Plain(out) => out,
            Self::Gzip(out) => out,
            Self::Zstd(out) => out,
            Self::Stdout(out) => out,
        }
    }
}
