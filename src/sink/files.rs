//! `csv:` and `parquet:`: files that only ever appear whole, in a folder or a bucket.
//!
//! **Windows.** The rows of a window are held, the last revision per natural key, until the window
//! is final: at the first epoch with `watermark >= end + keep`. Then it becomes one file per shard,
//! under a name that is a function of window and shard only. Windows that are not final when the
//! run ends are published nowhere.
//!
//! **Records.** Rows go into staged files as they come and are published at checkpoints, under a
//! name made of the run's label, the checkpoint's epoch and the shard.
//!
//! Memory: the rows of windows that are not final; for records at most `BUFFER_BYTES` per shard
//! beyond the epoch at hand.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use flate2::Compression as GzLevel;
use flate2::write::GzEncoder;

#[cfg(feature = "parquet")]
use super::encode::columnar::{Codec, ParquetEncoder};
use super::encode::csv::CsvEncoder;
use super::encode::{Projection, date_and_time};
use super::folder::{self, Folder};
use super::job::identity;
use super::key::{NaturalKey, WINDOW_COLUMNS};
use super::lock::Lock;
use super::{
    EpochRows, Guarantee, JobContext, Layout, OutputKind, OutputSpec, Sink, SinkContext, SinkError,
    SinkFactory, Written,
};
use crate::rows::{Cell, Rows};
use crate::time::{Epoch, EventTime, Shard, Span};

/// How much of a shard's records may be buffered in memory across all its staged files.
const BUFFER_BYTES: usize = 32 << 20;
/// How much of one staged file is collected before its file is opened and appended to.
const APPEND_BYTES: usize = 32 << 10;
/// The folder value that readers of partitioned folders take for null.
const NULL_FOLDER: &str = "__HIVE_DEFAULT_PARTITION__";
const HOUR_MS: i64 = 3_600_000;

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
        sink.clean_staging()?;
        Ok(Box::new(sink))
    }

    fn rolls_files(&self) -> bool {
        true
    }
}

/// Where staged files become published ones.
pub(super) trait Store: Send {
    /// The local folder in which files are written first.
    fn staging(&self) -> &Path;

    /// The place, for people.
    fn describe(&self) -> String;

    /// Makes the staged file visible, whole and for good, under `name` (folders and file name,
    /// with slashes), and removes it from the staging folder. A file that is there already is
    /// never replaced: with equal bytes all is well, with others it is an error.
    fn publish(&mut self, staged: &Path, name: &str) -> Result<(), SinkError>;
}

/// The error of a name under which something else was published.
pub(super) fn taken(target: &str) -> SinkError {
    SinkError::Write {
        target: target.to_owned(),
        reason: "stands there already with other contents, from another run; choose an empty \
                 place, or remove the earlier run's files"
            .to_owned(),
    }
}

/// Names of published and staged files.
#[derive(Clone, Debug)]
struct Naming {
    output: &'static str,
    run_label: String,
    extension: &'static str,
}

impl Naming {
    /// `windows-20240101T000000Z-20240101T001500Z-s003.parquet`
    fn window(&self, start: EventTime, end: EventTime, shard: Shard) -> String {
        let (start, end) = (compact(start), compact(end));
        format!(
            "{}-{start}-{end}-s{:03}.{}",
            self.output, shard.0, self.extension
        )
    }

    /// `alerts-LABEL-e000000012-s003.parquet`, without the label where there is none.
    fn records(&self, epoch: Epoch, shard: Shard) -> String {
        let dash = if self.run_label.is_empty() { "" } else { "-" };
        format!(
            "{}{dash}{}-e{:09}-s{:03}.{}",
            self.output, self.run_label, epoch.0, shard.0, self.extension
        )
    }

    /// What the names of a shard's staged files begin with.
    fn staged(&self, shard: Shard) -> String {
        format!("{}-s{:03}-", self.output, shard.0)
    }
}

/// `20240101T000000Z`, with milliseconds only where there are some.
fn compact(time: EventTime) -> String {
    let (date, time) = date_and_time(time);
    let time = time.strip_suffix(".000").unwrap_or(&time);
    format!("{}T{}Z", date.replace('-', ""), time.replace(':', ""))
}

/// In which folder a row belongs; the order decides in which order files are published.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum FolderKey {
    Flat,
    Null,
    /// Hours since 1970.
    Hour(i64),
    Value(String),
}

/// How a row's folder is found.
#[derive(Clone, Copy, Debug)]
enum FolderRule {
    Flat,
    DateHour { column: usize },
    Value { column: usize, name: &'static str },
}

impl FolderRule {
    fn of(output: &OutputSpec) -> Result<Self, SinkError> {
        Ok(match output.layout {
            Layout::Flat => Self::Flat,
            Layout::DateHour(name) => Self::DateHour {
                column: position(output, name)?,
            },
            Layout::Value(name) => Self::Value {
                column: position(output, name)?,
                name,
            },
        })
    }

    fn key(self, rows: &Rows, row: usize) -> FolderKey {
        match self {
            Self::Flat => FolderKey::Flat,
            Self::DateHour { column } => match rows.cell(column, row) {
                Cell::Timestamp(time) => FolderKey::Hour(time.0.div_euclid(HOUR_MS)),
                _ => FolderKey::Null,
            },
            Self::Value { column, .. } => match rows.cell(column, row) {
                Cell::Text(text) => FolderKey::Value(text.to_owned()),
                _ => FolderKey::Null,
            },
        }
    }

    /// The folder with a slash at its end, or nothing.
    fn path(self, key: &FolderKey) -> String {
        match (self, key) {
            (Self::DateHour { .. }, FolderKey::Hour(hours)) => {
                let (date, time) = date_and_time(EventTime(hours.saturating_mul(HOUR_MS)));
                format!("date={date}/hour={}/", &time[..2])
            }
            (Self::DateHour { .. }, _) => format!("date={NULL_FOLDER}/hour={NULL_FOLDER}/"),
            (Self::Value { name, .. }, FolderKey::Value(value)) if !value.is_empty() => {
                format!("{name}={}/", escape(value))
            }
            (Self::Value { name, .. }, _) => format!("{name}={NULL_FOLDER}/"),
            (Self::Flat, _) => String::new(),
        }
    }
}

fn position(output: &OutputSpec, name: &str) -> Result<usize, SinkError> {
    output
        .columns
        .iter()
        .position(|column| column.name == name)
        .ok_or_else(|| {
            SinkError::Config(format!(
                "output {} has no column {name}, which its files are named by; \
             send it to another kind of sink",
                output.name
            ))
        })
}

/// Replaces what has a meaning in paths or in partitioned folders by `%` and two digits.
fn escape(value: &str) -> String {
    let mut out = String::new();
    for character in value.chars() {
        let is_special = "/\\:%\"'*?=#{}[]^".contains(character) || character.is_control();
        if is_special || (out.is_empty() && character == '.') {
            let mut buffer = [0; 4];
            for byte in character.encode_utf8(&mut buffer).bytes() {
                out.extend(format!("%{byte:02X}").chars());
            }
        } else {
            out.push(character);
        }
    }
    out
}

/// The part of a sink that all its shards share: how rows become published files.
struct Out {
    store: Box<dyn Store>,
    naming: Naming,
    layout: FolderRule,
    projection: Projection,
    format: Format,
    /// How many files were staged, which tells their names apart.
    staged: u64,
}

impl Out {
    fn create(&mut self, shard: Shard) -> Result<StagedWriter, SinkError> {
        self.staged += 1;
        let name = format!("{}{}.tmp", self.naming.staged(shard), self.staged);
        let path = self.store.staging().join(name);
        StagedWriter::create(path, self.format, self.projection.clone())
    }

    fn publish(&mut self, writer: StagedWriter, name: &str) -> Result<Written, SinkError> {
        let rows = writer.rows;
        let staged = writer.finish()?;
        let size =
            fs::metadata(&staged).map_err(|error| SinkError::io(staged.display(), &error))?;
        self.store.publish(&staged, name)?;
        Ok(Written {
            rows,
            bytes: size.len(),
        })
    }
}

/// One file that is being written.
struct StagedWriter {
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
    fn create(path: PathBuf, format: Format, projection: Projection) -> Result<Self, SinkError> {
        let encoder = Appender::create(&path).and_then(|file| {
            Ok(match format {
                Format::Csv => Encoder::Csv(Box::new(CsvEncoder::new(projection, file)?)),
                #[cfg(feature = "parquet")]
                Format::Parquet(codec) => {
                    Encoder::Parquet(Box::new(ParquetEncoder::new(projection, codec, file)?))
                }
            })
        });
        match encoder {
            Ok(encoder) => Ok(Self {
                path,
                encoder,
                rows: 0,
            }),
            Err(error) => Err(SinkError::io(path.display(), &error)),
        }
    }

    fn row(&mut self, rows: &Rows, row: usize) -> Result<(), SinkError> {
        self.rows += 1;
        let outcome = match &mut self.encoder {
            Encoder::Csv(encoder) => encoder.row(rows, row),
            #[cfg(feature = "parquet")]
            Encoder::Parquet(encoder) => encoder.row(rows, row),
        };
        outcome.map_err(|error| SinkError::io(self.path.display(), &error))
    }

    fn buffered(&self) -> usize {
        match &self.encoder {
            Encoder::Csv(_) => APPEND_BYTES,
            #[cfg(feature = "parquet")]
            Encoder::Parquet(encoder) => encoder.buffered(),
        }
    }

    fn flush(&mut self) -> Result<(), SinkError> {
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
    fn create(path: &Path) -> io::Result<Self> {
        File::create(path)?;
        Ok(Self {
            path: path.to_owned(),
            buffer: Vec::new(),
        })
    }

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

/// What one shard has not published yet.
enum Content {
    Windows(Windows),
    Records(Records),
}

impl Content {
    fn of(output: &OutputSpec) -> Result<Self, SinkError> {
        let OutputKind::Windows { keep, .. } = output.kind else {
            return Ok(Self::Records(Records::default()));
        };
        let [start, end] = WINDOW_COLUMNS;
        Ok(Self::Windows(Windows {
            start: position(output, start)?,
            end: position(output, end)?,
            keep,
            key: NaturalKey::of(output),
            held: BTreeMap::new(),
        }))
    }
}

/// The rows of windows that are not final, by end and start.
struct Windows {
    start: usize,
    end: usize,
    keep: Span,
    key: NaturalKey,
    held: BTreeMap<(EventTime, EventTime), Held>,
}

/// The rows of one window.
struct Held {
    rows: Rows,
    /// The row of the last revision of each key.
    last: BTreeMap<Vec<u8>, usize>,
}

impl Windows {
    fn add(&mut self, rows: &Rows, row: usize, key: &mut Vec<u8>) {
        let (Cell::Timestamp(start), Cell::Timestamp(end)) =
            (rows.cell(self.start, row), rows.cell(self.end, row))
        else {
            debug_assert!(false, "a window has a start and an end");
            return;
        };
        let held = self.held.entry((end, start)).or_insert_with(|| Held {
            rows: Rows::new(rows.columns().clone()),
            last: BTreeMap::new(),
        });
        self.key.write(rows, row, key);
        if rows.panes.get(row).is_some_and(|(_, diff)| *diff < 0) {
            held.last.remove(key.as_slice());
            return;
        }
        let at = held.rows.len();
        held.rows.push_row_of(rows, row);
        held.last.insert(key.clone(), at);
        held.compact();
    }

    /// Takes the windows out that are final, in the order of their ends and starts.
    fn take_final(&mut self, watermark: EventTime) -> Vec<((EventTime, EventTime), Held)> {
        let mut taken = Vec::new();
        while let Some(entry) = self.held.first_entry() {
            if entry.key().0.plus(self.keep) > watermark {
                break;
            }
            taken.push(entry.remove_entry());
        }
        taken
    }
}

impl Held {
    /// Forgets replaced rows once they are most of all rows.
    fn compact(&mut self) {
        if self.rows.len() < 1024 || self.rows.len() < 2 * self.last.len() {
            return;
        }
        let mut rows = Rows::new(self.rows.columns().clone());
        for at in self.last.values_mut() {
            rows.push_row_of(&self.rows, *at);
            *at = rows.len() - 1;
        }
        self.rows = rows;
    }
}

/// The staged files of records since the last checkpoint.
#[derive(Default)]
struct Records {
    open: BTreeMap<FolderKey, StagedWriter>,
}

impl Records {
    fn add(&mut self, out: &mut Out, shard: Shard, rows: &Rows) -> Result<(), SinkError> {
        for row in 0..rows.len() {
            let key = out.layout.key(rows, row);
            let writer = match self.open.entry(key) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(out.create(shard)?)
                }
            };
            writer.row(rows, row)?;
        }
        self.bound_memory()
    }

    /// Writes the largest buffers out. Only this shard's rows decide about it, so that its files
    /// are the same for any number of workers.
    fn bound_memory(&mut self) -> Result<(), SinkError> {
        let mut sizes: Vec<(usize, FolderKey)> = self
            .open
            .iter()
            .map(|(key, writer)| (writer.buffered(), key.clone()))
            .collect();
        let mut total: usize = sizes.iter().map(|(size, _)| size).sum();
        if total <= BUFFER_BYTES {
            return Ok(());
        }
        sizes.sort();
        while total > BUFFER_BYTES / 2 {
            let Some((size, key)) = sizes.pop() else {
                break;
            };
            if let Some(writer) = self.open.get_mut(&key) {
                writer.flush()?;
            }
            total -= size;
        }
        Ok(())
    }

    fn publish(&mut self, out: &mut Out, shard: Shard, epoch: Epoch) -> Result<Written, SinkError> {
        let mut written = Written::default();
        let name = out.naming.records(epoch, shard);
        while let Some((key, writer)) = self.open.pop_first() {
            let path = format!("{}{name}", out.layout.path(&key));
            written += out.publish(writer, &path)?;
        }
        Ok(written)
    }
}

struct FilesSink {
    out: Out,
    shards: BTreeMap<Shard, Content>,
    /// The last epoch of each shard.
    last: BTreeMap<Shard, Epoch>,
    locks: Vec<Lock>,
}

impl FilesSink {
    /// Removes what an earlier run, or this one, has staged for these shards.
    fn clean_staging(&self) -> Result<(), SinkError> {
        let staging = self.out.store.staging();
        let failed = |error: io::Error| SinkError::io(staging.display(), &error);
        let prefixes: Vec<String> = self
            .shards
            .keys()
            .map(|shard| self.out.naming.staged(*shard))
            .collect();
        for entry in fs::read_dir(staging).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let is_ours = prefixes.iter().any(|prefix| name.starts_with(prefix));
            if is_ours && name.ends_with(".tmp") {
                fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn publish_window(
        &mut self,
        shard: Shard,
        (end, start): (EventTime, EventTime),
        held: &Held,
    ) -> Result<Written, SinkError> {
        let name = self.out.naming.window(start, end, shard);
        let mut files: BTreeMap<FolderKey, StagedWriter> = BTreeMap::new();
        for &row in held.last.values() {
            let key = self.out.layout.key(&held.rows, row);
            if !files.contains_key(&key) {
                files.insert(key.clone(), self.out.create(shard)?);
            }
            if let Some(writer) = files.get_mut(&key) {
                writer.row(&held.rows, row)?;
            }
        }
        let mut written = Written::default();
        for (key, writer) in files {
            let path = format!("{}{name}", self.out.layout.path(&key));
            written += self.out.publish(writer, &path)?;
        }
        Ok(written)
    }
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
            Content::Windows(windows) => {
                let mut key = Vec::new();
                for row in 0..epoch.rows.len() {
                    windows.add(&epoch.rows, row, &mut key);
                }
                let mut written = Written::default();
                for (window, held) in windows.take_final(epoch.watermark) {
                    written += self.publish_window(shard, window, &held)?;
                }
                Ok(written)
            }
            Content::Records(records) => {
                records.add(&mut self.out, shard, &epoch.rows)?;
                if epoch.is_checkpoint {
                    return records.publish(&mut self.out, shard, epoch.epoch);
                }
                Ok(Written::default())
            }
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
        let _ = self.clean_staging();
        self.locks.clear();
        // Only succeeds when no other sink uses it.
        let _ = fs::remove_dir(self.out.store.staging());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Duration;

    use super::super::encode::sample::{Count, PANE, Sample, rows};
    use super::*;
    use crate::rows::{Origin, Tabular};
    use crate::time::{Offset, PartitionId};

    fn windows(layout: Layout) -> OutputSpec {
        OutputSpec {
            pipeline: "test",
            name: "windows",
            columns: Count::columns().into(),
            kind: OutputKind::Windows {
                key: vec!["key"],
                keep: Span::minutes(1),
            },
            layout,
        }
    }

    fn records(layout: Layout) -> OutputSpec {
        OutputSpec {
            pipeline: "test",
            name: "alerts",
            columns: Sample::columns().into(),
            kind: OutputKind::Records {
                source: "in".to_owned(),
            },
            layout,
        }
    }

    fn factory(root: &Path) -> FilesFactory {
        FilesFactory::new(
            Place::Folder(root.to_owned()),
            Format::Csv,
            4,
            Duration::ZERO,
        )
    }

    fn epoch(number: u64, watermark: i64, is_checkpoint: bool, rows: Rows) -> EpochRows {
        let (epoch, watermark) = (Epoch(number), EventTime(watermark));
        EpochRows {
            shard: Shard(3),
            epoch,
            watermark,
            is_checkpoint,
            rows,
        }
    }

    fn counts(items: &[(i64, Option<&'static str>, i64, i64)]) -> Rows {
        let mut batch = rows::<Count>();
        for (start, key, count, diff) in items {
            let count = Count {
                start: *start,
                end: start + 900_000,
                key: *key,
                count: *count,
            };
            batch.push_result(&count, PANE, *diff);
        }
        batch
    }

    fn published(root: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(path.strip_prefix(root).unwrap().display().to_string());
                }
            }
        }
        found.retain(|name| !name.starts_with(folder::STAGING));
        found.sort();
        found
    }

    fn text(path: &Path) -> String {
        let mut text = String::new();
        let mut reader = flate2::read::GzDecoder::new(File::open(path).unwrap());
        reader.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_window_is_published_once_it_is_final() {
        let root = tempfile::tempdir().unwrap();
        let output = windows(Layout::DateHour("window_start"));
        let context = SinkContext::default();
        let mut sink = factory(root.path())
            .open(&output, &[Shard(3)], &context)
            .unwrap();
        let start = 1_704_067_200_000;
        let end = start + 900_000;
        let first = counts(&[
            (start, Some("b"), 1, 1),
            (start, Some("a"), 2, 1),
            (start, Some("gone"), 9, 1),
            (end, Some("a"), 5, 1),
        ]);
        sink.commit(&epoch(0, end, false, first)).unwrap();
        assert!(published(root.path()).is_empty());
        let second = counts(&[
            (start, Some("b"), 1, -1),
            (start, Some("b"), 3, 1),
            (start, Some("gone"), 9, -1),
        ]);
        sink.commit(&epoch(1, end + 59_999, true, second)).unwrap();
        assert!(published(root.path()).is_empty());
        let written = sink
            .commit(&epoch(2, end + 60_000, true, counts(&[])))
            .unwrap();
        assert_eq!(written.rows, 2);
        sink.close().unwrap();
        drop(sink);
        let name = "date=2024-01-01/hour=00/windows-20240101T000000Z-20240101T001500Z-s003.csv.gz";
        assert_eq!(published(root.path()), [name]);
        assert_eq!(
            text(&root.path().join(name)),
            "window_start,window_end,key,count\n\
             2024-01-01T00:00:00.000Z,2024-01-01T00:15:00.000Z,a,2\n\
             2024-01-01T00:00:00.000Z,2024-01-01T00:15:00.000Z,b,3\n"
        );
        assert!(!root.path().join(folder::STAGING).exists());
    }

    fn alerts(from: u64, to: u64) -> Rows {
        let mut batch = rows::<Sample>();
        for offset in from..to {
            let time = offset as i64 * HOUR_MS / 2;
            let origin = Origin {
                partition: PartitionId(0),
                offset: Offset(offset),
            };
            batch.push_record(
                &Sample {
                    time,
                    ..Sample::full()
                },
                origin,
            );
        }
        batch
    }

    #[test]
    fn records_are_published_at_checkpoints() {
        let root = tempfile::tempdir().unwrap();
        let output = records(Layout::DateHour("time"));
        let context = SinkContext {
            run_label: "r7".to_owned(),
            ..SinkContext::default()
        };
        let mut sink = factory(root.path())
            .open(&output, &[Shard(3)], &context)
            .unwrap();
        sink.commit(&epoch(0, 0, false, alerts(0, 2))).unwrap();
        assert!(published(root.path()).is_empty());
        assert_eq!(
            sink.commit(&epoch(1, 0, true, alerts(2, 3))).unwrap().rows,
            3
        );
        assert_eq!(
            published(root.path()),
            [
                "date=1970-01-01/hour=00/alerts-r7-e000000001-s003.csv.gz",
                "date=1970-01-01/hour=01/alerts-r7-e000000001-s003.csv.gz",
            ]
        );
        sink.commit(&epoch(2, 0, false, alerts(3, 4))).unwrap();
        assert_eq!(sink.close().unwrap().rows, 1);
        assert_eq!(published(root.path()).len(), 3);
    }

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

    #[test]
    fn a_run_that_stops_leaves_open_windows_out() {
        let root = tempfile::tempdir().unwrap();
        let (output, context) = (windows(Layout::Flat), SinkContext::default());
        let mut sink = factory(root.path())
            .open(&output, &[Shard(3)], &context)
            .unwrap();
        sink.commit(&epoch(0, 0, true, counts(&[(0, None, 1, 1)])))
            .unwrap();
        sink.close().unwrap();
        assert!(published(root.path()).is_empty());
    }

    #[test]
    fn values_become_folders() {
        let rule = FolderRule::Value {
            column: 0,
            name: "reason",
        };
        let path = |value: &str| rule.path(&FolderKey::Value(value.to_owned()));
        assert_eq!(path("out_of_range"), "reason=out_of_range/");
        assert_eq!(path("a/b=c"), "reason=a%2Fb%3Dc/");
        assert_eq!(path("../x"), "reason=%2E.%2Fx/");
        assert_eq!(path(""), format!("reason={NULL_FOLDER}/"));
    }

    #[test]
    fn names_show_milliseconds_only_where_there_are_some() {
        assert_eq!(compact(EventTime(1_704_067_200_000)), "20240101T000000Z");
        assert_eq!(
            compact(EventTime(1_704_067_200_250)),
            "20240101T000000.250Z"
        );
    }

    #[cfg(feature = "parquet")]
    #[test]
    fn many_folders_stay_within_memory_and_files() {
        let root = tempfile::tempdir().unwrap();
        let output = records(Layout::DateHour("time"));
        let place = Place::Folder(root.path().to_owned());
        let format = Format::Parquet(Codec::Snappy);
        let factory = FilesFactory::new(place, format, 4, Duration::ZERO);
        let mut sink = factory
            .open(&output, &[Shard(3)], &SinkContext::default())
            .unwrap();
        for number in 0..4 {
            sink.commit(&epoch(number, 0, false, alerts(0, 3000)))
                .unwrap();
        }
        assert_eq!(sink.close().unwrap().rows, 12_000);
        assert_eq!(published(root.path()).len(), 1500);
    }
}
