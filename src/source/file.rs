//! Files, globs and standard input: a line is a record.
//!
//! Each file of a glob is one partition, and an offset is the byte at which a line begins in the
//! (decompressed) file. Numbers are given to files in the order of their paths when they are first
//! seen; files that come later get the next ones. Blank lines (of nothing but white space) are no
//! records: they are counted, as read and skipped.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use glob::{MatchOptions, glob_with};

use self::input::{Input, is_stream};
use self::reader::FileReader;
use super::{OffsetUnit, Partition, Reader, Source, SourceError, Until};
use crate::time::{Offset, PartitionId};

mod input;
mod lines;
mod reader;

/// The pattern, and the partition's name, of standard input.
const STDIN: &str = "-";
/// How often a followed glob is looked at for new files.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(1);

const MATCHING: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    // Hidden files are often unfinished copies.
    require_literal_leading_dot: true,
};

/// The folder to which names of partitions are relative.
#[derive(Clone, Debug)]
struct Root(PathBuf);

impl Root {
    /// The longest beginning of `pattern` that has no wildcard and is not its last part.
    fn of(pattern: &Path, literal: bool) -> Self {
        let parent = pattern.parent().unwrap_or(Path::new(""));
        if literal {
            return Self(parent.to_owned());
        }
        let fixed =
            |part: &std::path::Component<'_>| !has_wildcard(&part.as_os_str().to_string_lossy());
        Self(parent.components().take_while(fixed).collect())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn name(&self, path: &Path) -> Result<String, SourceError> {
        let name = path.strip_prefix(&self.0).unwrap_or(path);
        name.to_str().map(str::to_owned).ok_or_else(|| {
            SourceError::Config(format!(
                "{}: the name is not valid UTF-8, so it cannot be recorded: rename the file",
                path.display()
            ))
        })
    }
}

/// The lines of a file, of all files of a glob, or of standard input.
pub struct FileSource {
    pattern: String,
    /// The pattern is the path of one file (or standard input).
    literal: bool,
    root: Root,
    until: Until,
    /// The numbers of the files seen so far.
    numbers: Mutex<BTreeMap<String, PartitionId>>,
}

impl FileSource {
    /// The files that `pattern` names: a path, a glob (`*`, `?`, `[...]`, and `**` for any depth)
    /// or `-` for standard input. With [`Until::Forever`] they are followed as they grow.
    ///
    /// # Errors
    /// When the pattern is empty or no valid glob.
    pub fn new(pattern: &str, until: Until) -> Result<Self, SourceError> {
        if pattern.is_empty() {
            return Err(SourceError::Config(
                "file: needs a path, a glob, or `-` for standard input: file:events.ndjson"
                    .to_owned(),
            ));
        }
        let path = Path::new(pattern);
        // A file whose name looks like a glob is meant by its name.
        let literal = !has_wildcard(pattern) || path.exists();
        if !literal {
            glob::Pattern::new(pattern).map_err(|error| {
                SourceError::Config(format!("file:{pattern}: this is no valid glob: {error}"))
            })?;
        }
        let root = Root::of(path, literal);
        let numbers = Mutex::default();
        Ok(Self {
            pattern: pattern.to_owned(),
            literal,
            root,
            until,
            numbers,
        })
    }

    fn is_stdin(&self) -> bool {
        self.pattern == STDIN
    }

    /// The paths of the files that are there now, in the order of their numbering.
    fn files(&self) -> Result<Vec<PathBuf>, SourceError> {
        let files = if self.literal {
            self.single_file()?.into_iter().collect()
        } else {
            self.matches()?
        };
        if files.is_empty() {
            return Err(self.nothing_found());
        }
        Ok(files)
    }

    fn single_file(&self) -> Result<Option<PathBuf>, SourceError> {
        let path = Path::new(&self.pattern);
        match fs::metadata(path) {
            Ok(about) if about.is_dir() => Err(SourceError::Missing(format!(
                "{}: this is a folder. To read the files in it: file:{}",
                self.name(),
                path.join("*.ndjson").display()
            ))),
            Ok(_) => Ok(Some(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(SourceError::Missing(format!("{}: {error}", self.name()))),
        }
    }

    fn matches(&self) -> Result<Vec<PathBuf>, SourceError> {
        let paths = glob_with(&self.pattern, MATCHING).map_err(|error| {
            SourceError::Config(format!("{}: this is no valid glob: {error}", self.name()))
        })?;
        let mut files = Vec::new();
        for path in paths {
            let path = path.map_err(|error| SourceError::Read {
                partition: error.path().display().to_string(),
                reason: error.error().to_string(),
            })?;
            if !path.is_dir() {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    fn nothing_found(&self) -> SourceError {
        let folder = &self.root.0;
        let what = if self.literal {
            "there is no such file"
        } else {
            "no file matches"
        };
        let advice = if !folder.as_os_str().is_empty() && !folder.is_dir() {
            format!("the folder {} does not exist", folder.display())
        } else if self.literal {
            "check the path, or make input with `highwater generate`".to_owned()
        } else {
            "check the pattern, and quote it so that the shell leaves it alone".to_owned()
        };
        SourceError::Missing(format!("{}: {what}; {advice}", self.name()))
    }

    /// The partitions of these names; those without a number get the next ones, in this order.
    fn number(&self, names: Vec<String>) -> Vec<Partition> {
        let mut numbers = self.numbers();
        let mut next = numbers.values().max().map_or(0, |last| last.0 + 1);
        let mut number = |name: String| {
            let id = *numbers.entry(name.clone()).or_insert_with(|| {
                next += 1;
                PartitionId(next - 1)
            });
            Partition { id, name }
        };
        let mut partitions: Vec<_> = names.into_iter().map(&mut number).collect();
        partitions.sort_by_key(|partition| partition.id);
        partitions
    }

    fn numbers(&self) -> MutexGuard<'_, BTreeMap<String, PartitionId>> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for FileSource {
    fn name(&self) -> String {
        format!("file:{}", self.pattern)
    }

    /// The files that are there now. One that is gone is not listed any more, and its number is
    /// not given to another.
    fn partitions(&self) -> Result<Vec<Partition>, SourceError> {
        if self.is_stdin() {
            return Ok(vec![Partition {
                id: PartitionId(0),
                name: STDIN.to_owned(),
            }]);
        }
        let files = self.files()?;
        let names: Result<Vec<_>, _> = files.iter().map(|file| self.root.name(file)).collect();
        Ok(self.number(names?))
    }

    fn remember(&self, known: &[Partition]) {
        let known = known
            .iter()
            .map(|partition| (partition.name.clone(), partition.id));
        self.numbers().extend(known);
    }

    fn discovery_interval(&self) -> Option<Duration> {
        (self.until == Until::Forever && !self.literal).then_some(DISCOVERY_INTERVAL)
    }

    fn offset_unit(&self) -> OffsetUnit {
        OffsetUnit::Bytes
    }

    fn head(&self, partition: &Partition, bytes: u64) -> Result<Option<Vec<u8>>, SourceError> {
        let path = self.root.path(&partition.name);
        if partition.name == STDIN || is_stream(&path) {
            return Ok(None);
        }
        let failed = |error: io::Error| {
            let partition = partition.name.clone();
            match error.raw_os_error() {
                Some(_) => SourceError::Read {
                    partition,
                    reason: error.to_string(),
                },
                // What it says is no compressed data any more.
                None => SourceError::Changed {
                    partition,
                    how: format!("it could be decompressed when it was read: {error}"),
                },
            }
        };
        let mut input = match Input::open(&path, 0) {
            Ok(Some(input)) => input,
            Ok(None) => return Ok(None),
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut head = vec![0; bytes as usize];
        let (count, outcome) = input.fill(&mut head);
        outcome.map_err(failed)?;
        head.truncate(count);
        Ok(Some(head))
    }

    /// Of a file that is stored as it is read.
    fn end(&self, partition: &Partition) -> Option<Offset> {
        let path = self.root.path(&partition.name);
        if partition.name == STDIN {
            return None;
        }
        input::len(&path).map(Offset)
    }

    fn reader(&self) -> Result<Box<dyn Reader>, SourceError> {
        Ok(Box::new(FileReader::new(self.root.clone(), self.until)?))
    }

    fn check(&self) -> Result<String, SourceError> {
        if self.is_stdin() {
            return Ok("standard input".to_owned());
        }
        let files = self.files()?;
        let mut bytes = 0;
        for file in &files {
            let readable = fs::File::open(file).and_then(|file| file.metadata());
            bytes += readable
                .map_err(|error| {
                    SourceError::Missing(format!("{}: cannot be read: {error}", file.display()))
                })?
                .len();
        }
        let plural = if files.len() == 1 { "file" } else { "files" };
        Ok(format!(
            "{}: {} {plural}, {bytes} bytes",
            self.name(),
            files.len()
        ))
    }
}

/// Whether there is no file where one was.
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory)
}

fn has_wildcard(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

#[cfg(test)]
mod tests;
