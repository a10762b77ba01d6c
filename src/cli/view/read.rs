//! Rows out of topics and files.

use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::ArgMatches;
use crossbeam_channel::bounded;
use serde_json::Value;

use super::row::Row;
use crate::cli::error::CliError;
use crate::cli::input::usage_or_failure;
use crate::cli::schema::{self, ValueFormat, Wanted};
use crate::decode::Rejection;
use crate::sink::mask_secrets;
use crate::source::file::FileSource;
use crate::source::uri::{SourceOptions, parse_source};
use crate::source::{
    Assignment, Inbox, Partition, RawBatch, SharedFormat, SharedSource, Unpack, Until, feed,
};

/// After so long without a record, what was read is shown.
const PAUSE: Duration = Duration::from_millis(200);

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Lines of files, or of standard input (`-`).
    Lines(String),
    /// Files in the order of their names.
    Files(Vec<PathBuf>),
    /// A topic, by its URI.
    Topic(String),
}

/// What a reader has to tell.
pub enum Seen {
    /// A row.
    Row(Row),
    /// Nothing follows for now.
    Pause,
}

/// Takes what was seen; may end the reading.
pub type Take<'a> = &'a mut dyn FnMut(Seen) -> Result<ControlFlow<()>, CliError>;

impl Target {
    /// Reads a URI; those of `--to` are understood as well.
    pub fn parse(uri: &str) -> Result<Self, CliError> {
        if uri.starts_with("kafka:") {
            return Ok(Self::Topic(uri.to_owned()));
        }
        let schemes = ["file:", "ndjson:", "csv:", "parquet:", "dir:"];
        let path = schemes
            .iter()
            .find_map(|scheme| uri.strip_prefix(scheme))
            .unwrap_or(uri);
        if path == uri && uri.contains("://") {
            return Err(CliError::Usage(format!(
                "{}: a file, a folder, a glob, - or kafka://HOST:PORT/TOPIC can be viewed",
                mask_secrets(uri)
            )));
        }
        let path = path.strip_prefix("//").unwrap_or(path);
        if Path::new(path).is_dir() {
            return files_in(Path::new(path)).map(Self::Files);
        }
        let is_lines = matches!(Format::of(Path::new(path)), Format::Lines);
        Ok(if is_lines {
            Self::Lines(path.to_owned())
        } else {
            Self::Files(files_of(path)?)
        })
    }
}

/// The files that a path or a glob names.
fn files_of(path: &str) -> Result<Vec<PathBuf>, CliError> {
    if Path::new(path).exists() {
        return Ok(vec![PathBuf::from(path)]);
    }
    let found = glob::glob(path).map_err(|error| CliError::Usage(format!("{path}: {error}")))?;
    let files: Vec<_> = found
        .filter_map(Result::ok)
        .filter(|path| path.is_file())
        .collect();
    if files.is_empty() {
        Err(CliError::Failed(format!("{path}: there is no such file")))
    } else {
        Ok(files)
    }
}

/// The data files in a folder and in those below it, without hidden ones.
fn files_in(folder: &Path) -> Result<Vec<PathBuf>, CliError> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let failed = |error| CliError::Failed(format!("{}: {error}", folder.display()));
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let is_hidden = path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(['.', '_']));
            match () {
                () if is_hidden => {}
                () if path.is_dir() => folders.push(path),
                () => files.push(path),
            }
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(CliError::Failed(format!(
            "{}: there is no file in this folder",
            folder.display()
        )));
    }
    Ok(files)
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Lines,
    Csv,
    Parquet,
}

impl Format {
    /// By the end of the name, after that of a compression.
    fn of(path: &Path) -> Self {
        let name = path.to_string_lossy();
        let name = name
            .strip_suffix(".gz")
            .or_else(|| name.strip_suffix(".zst"))
            .unwrap_or(&name);
        match name.rsplit('.').next() {
            Some("csv") => Self::Csv,
            Some("parquet") => Self::Parquet,
            _ => Self::Lines,
        }
    }
}

/// Hands all rows of `target` to `take`.
pub fn rows(
    target: &Target,
    follow: bool,
    matches: &ArgMatches,
    take: Take<'_>,
) -> Result<(), CliError> {
    let until = if follow { Until::Forever } else { Until::End };
    match target {
        Target::Lines(_) | Target::Files(_) if ValueFormat::of(matches) != ValueFormat::Json => {
            Err(CliError::usage(
                "--value-format only means something with kafka://HOST:PORT/TOPIC",
            ))
        }
        Target::Lines(pattern) => lines(pattern, until, take).map(drop),
        Target::Topic(uri) => {
            let options = SourceOptions {
                until,
                ..crate::cli::kafka::source_options(matches)?
            };
            let format = match Wanted::new(matches, "a topic:", uri)? {
                Some(wanted) => Some(schema::viewer(&wanted, matches)? as SharedFormat),
                None => None,
            };
            let source = parse_source(uri, &options).map_err(usage_or_failure)?;
            let viewed = Viewed { source, format };
            records(&viewed, until, message_row, take).map(drop)
        }
        Target::Files(_) if follow => Err(CliError::usage(
            "--follow: only lines (.ndjson) and topics grow; files appear whole",
        )),
        Target::Files(files) => {
            for file in files {
                if file_rows(file, take)?.is_break() {
                    break;
                }
            }
            Ok(())
        }
    }
}

fn file_rows(file: &Path, take: Take<'_>) -> Result<ControlFlow<()>, CliError> {
    match Format::of(file) {
        Format::Lines => {
            // A name with brackets would be a glob.
            let pattern = glob::Pattern::escape(&file.to_string_lossy());
            let is_plain = pattern == file.to_string_lossy();
            lines(
                if is_plain {
                    &pattern
                } else {
                    file.to_str().unwrap_or(&pattern)
                },
                Until::End,
                take,
            )
        }
        Format::Csv => csv_rows(file, take),
        Format::Parquet => parquet_rows(file, take),
    }
}

fn lines(pattern: &str, until: Until, take: Take<'_>) -> Result<ControlFlow<()>, CliError> {
    let source = FileSource::new(pattern, until).map_err(CliError::usage)?;
    let source: SharedSource = Arc::new(source);
    let format = None;
    records(
        &Viewed { source, format },
        until,
        |_, _, value, _| value.map_or_else(|_| Row::default(), Row::of_payload),
        take,
    )
}

/// A message of a topic: where it is, its time and key, then its payload, or what is wrong with it.
fn message_row(
    partition: &Partition,
    offset: u64,
    value: Result<&[u8], Rejection>,
    about: About<'_>,
) -> Row {
    let mut fields = vec![
        ("partition".to_owned(), Value::from(partition.id.0)),
        ("offset".to_owned(), Value::from(offset)),
    ];
    if let Some(time) = about.time {
        fields.push(("time".to_owned(), time.to_string().into()));
    }
    let key = about
        .key
        .map(|key| String::from_utf8_lossy(key).into_owned());
    fields.push(("key".to_owned(), key.map_or(Value::Null, Value::from)));
    match value {
        Ok(value) => fields.extend(Row::of_payload(value).0),
        Err(rejection) => fields.push((
            rejection.reason.as_str().to_owned(),
            rejection.detail.into(),
        )),
    }
    Row(fields)
}

/// What a record has besides place and payload.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    key: Option<&'a [u8]>,
    time: Option<crate::time::EventTime>,
}

type ToRow = fn(&Partition, u64, Result<&[u8], Rejection>, About<'_>) -> Row;

/// What is read, and what its payloads go through.
struct Viewed {
    source: SharedSource,
    format: Option<SharedFormat>,
}

/// A partition that is read.
struct Open {
    partition: Partition,
    inbox: Inbox,
    unpack: Option<Box<dyn Unpack>>,
}

/// Reads a source: its partitions one after the other, or, when it is followed, all at once.
fn records(
    viewed: &Viewed,
    until: Until,
    to_row: ToRow,
    take: Take<'_>,
) -> Result<ControlFlow<()>, CliError> {
    let partitions = viewed.source.partitions().map_err(CliError::failed)?;
    let at_once = if until == Until::Forever {
        partitions.len().max(1)
    } else {
        1
    };
    for partitions in partitions.chunks(at_once) {
        if drain(viewed, partitions, to_row, take)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn drain(
    viewed: &Viewed,
    partitions: &[Partition],
    to_row: ToRow,
    take: Take<'_>,
) -> Result<ControlFlow<()>, CliError> {
    let mut reader = viewed.source.reader().map_err(CliError::failed)?;
    let (news, has_news) = bounded(1);
    let mut inboxes: Vec<Open> = Vec::new();
    for partition in partitions {
        let news = news.clone();
        let (feed, inbox) = feed(move || {
            // Full: the news that waits there says the same.
            let _ = news.try_send(());
        });
        reader.assign(Assignment {
            partition: partition.clone(),
            from: None,
            feed,
        });
        let format = viewed.format.as_ref();
        inboxes.push(Open {
            partition: partition.clone(),
            unpack: format.map(|format| format.unpacker(inbox.waker())),
            inbox,
        });
    }
    while !inboxes.is_empty() {
        let mut is_idle = true;
        for open in &mut inboxes {
            while let Some(batch) = open.inbox.pop() {
                is_idle = false;
                while open.unpack.as_mut().is_some_and(|it| !it.prepare(&batch)) {
                    // Its schema is on its way; news of others come through here as well.
                    let _ = has_news.recv_timeout(PAUSE);
                }
                if batch_rows(open, &batch, to_row, take)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        forget_ended(&mut inboxes)?;
        let is_silent = is_idle && !inboxes.is_empty() && has_news.recv_timeout(PAUSE).is_err();
        if is_silent && take(Seen::Pause)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn forget_ended(inboxes: &mut Vec<Open>) -> Result<(), CliError> {
    let mut failed = None;
    inboxes.retain(|open| {
        let (state, has_batch) = open.inbox.state();
        if has_batch {
            return true;
        }
        failed = failed.take().or(state.failed);
        !state.ended
    });
    failed.map_or(Ok(()), |error| Err(CliError::failed(error)))
}

fn batch_rows(
    open: &mut Open,
    batch: &RawBatch,
    to_row: ToRow,
    take: Take<'_>,
) -> Result<ControlFlow<()>, CliError> {
    for record in &batch.records {
        let about = About {
            key: batch.key(record),
            time: record.append_time,
        };
        let value = batch.value(record);
        let value = match (&mut open.unpack, value) {
            (Some(unpack), Some(value)) => unpack.unpack(value),
            (_, value) => Ok(value.unwrap_or_default()),
        };
        let row = to_row(&open.partition, record.offset.0, value, about);
        if take(Seen::Row(row))?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn open(path: &Path) -> Result<Box<dyn Read>, CliError> {
    let failed = |error| CliError::Failed(format!("{}: {error}", path.display()));
    let file = BufReader::new(File::open(path).map_err(failed)?);
    Ok(
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(file)),
            Some("zst") => Box::new(zstd::Decoder::with_buffer(file).map_err(failed)?),
            _ => Box::new(file),
        },
    )
}

fn csv_rows(path: &Path, take: Take<'_>) -> Result<ControlFlow<()>, CliError> {
    let failed = |error: csv::Error| CliError::Failed(format!("{}: {error}", path.display()));
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .from_reader(open(path)?);
    let names = reader.headers().map_err(failed)?.clone();
    for record in reader.records() {
        let record = record.map_err(failed)?;
        let field = |(name, cell): (&str, &str)| (name.to_owned(), Value::from(cell));
        let mut row = Row(names.iter().zip(&record).map(field).collect());
        row.0.extend(values_of_path(path));
        if take(Seen::Row(row))?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The columns that stand in the names of folders: `date=2024-01-01/hour=00/`.
fn values_of_path(path: &Path) -> Vec<(String, Value)> {
    let folders = path.parent().into_iter().flat_map(Path::components);
    let pair = |folder: std::path::Component<'_>| {
        let text = folder.as_os_str().to_str()?;
        text.split_once('=')
            .map(|(name, value)| (name.to_owned(), value.into()))
    };
    folders.filter_map(pair).collect()
}

#[cfg(feature = "parquet")]
fn parquet_rows(path: &Path, take: Take<'_>) -> Result<ControlFlow<()>, CliError> {
    use parquet::file::reader::{FileReader, SerializedFileReader};

    let failed =
        |error: &dyn std::fmt::Display| CliError::Failed(format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(|error| failed(&error))?;
    let reader = SerializedFileReader::new(file).map_err(|error| failed(&error))?;
    for row in reader.get_row_iter(None).map_err(|error| failed(&error))? {
        let row = row.map_err(|error| failed(&error))?;
        let fields = row
            .get_column_iter()
            .map(|(name, field)| (name.clone(), parquet_value(field)));
        let mut row = Row(fields.collect());
        row.0.extend(values_of_path(path));
        if take(Seen::Row(row))?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

#[cfg(feature = "parquet")]
fn parquet_value(field: &parquet::record::Field) -> Value {
    use crate::time::EventTime;
    use parquet::record::Field;

    match field {
        Field::TimestampMillis(millis) => EventTime(*millis).to_string().into(),
        Field::TimestampMicros(micros) => EventTime(micros.div_euclid(1000)).to_string().into(),
        Field::Bytes(bytes) => match (std::str::from_utf8(bytes.data()), bytes.data().try_into()) {
            (Ok(text), _) => text.into(),
            (Err(_), Ok(id)) => uuid::Uuid::from_bytes(id).to_string().into(),
            (Err(_), Err(_)) => String::from_utf8_lossy(bytes.data()).into_owned().into(),
        },
        Field::Null => Value::Null,
        Field::Bool(value) => (*value).into(),
        Field::Int(value) => (*value).into(),
        Field::Long(value) => (*value).into(),
        Field::Double(value) => (*value).into(),
        Field::Str(text) => text.as_str().into(),
        field => field.to_string().into(),
    }
}

#[cfg(not(feature = "parquet"))]
fn parquet_rows(path: &Path, _: Take<'_>) -> Result<ControlFlow<()>, CliError> {
    let path = path.display();
    Err(CliError::Failed(format!(
        "{path}: this highwater was built without the feature `parquet`"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(path: &Path) -> Vec<String> {
        let target = Target::parse(&path.display().to_string()).expect("valid");
        let matches = crate::cli::testing::parse(&[]);
        let mut rows = Vec::new();
        let mut take = |seen| {
            if let Seen::Row(row) = seen {
                rows.push(row.json());
            }
            Ok(ControlFlow::Continue(()))
        };
        rows_of(&target, &matches, &mut take);
        rows
    }

    fn rows_of(target: &Target, matches: &ArgMatches, take: Take<'_>) {
        rows(target, false, matches, take).expect("read");
    }

    #[test]
    fn lines_and_tables_plain_or_compressed() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("date=2024-01-01");
        std::fs::create_dir(&folder).expect("made");
        let write =
            |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).expect("written");
        write("a.ndjson", b"{\"x\":1}\nno json\n");
        let packed = zstd::encode_all(&b"x,y\n1,\"a\nb\"\n"[..], 1).expect("packed");
        write("b.csv.zst", &packed);
        write(".hidden.csv", b"x\n9\n");
        assert_eq!(
            seen(&folder.join("a.ndjson")),
            [r#"{"x":1}"#, r#"{"value":"no json"}"#]
        );
        let csv = r#"{"x":"1","y":"a\nb","date":"2024-01-01"}"#;
        assert_eq!(seen(&folder.join("b.csv.zst")), [csv]);
        assert_eq!(
            seen(dir.path()),
            [r#"{"x":1}"#, r#"{"value":"no json"}"#, csv]
        );
    }

    #[test]
    fn what_cannot_be_viewed_is_refused() {
        assert_eq!(
            Target::parse("postgres://u:p@h/d").expect_err("no").code(),
            2
        );
        assert_eq!(
            Target::parse("no-such.parquet")
                .expect_err("missing")
                .code(),
            1
        );
        assert_eq!(
            Target::parse("kafka://h/t").ok(),
            Some(Target::Topic("kafka://h/t".into()))
        );
    }
}
