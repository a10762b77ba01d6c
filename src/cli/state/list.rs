//! One line per object of a state.

use serde::Serialize;

use crate::epoch::{Ending, EpochEntry};
use crate::sink::RunNumber;
use crate::state::checkpoint::{CHECKPOINT, Checkpoint};
use crate::state::history::{self, BASE, HISTORY, Objects};
use crate::state::log::{LOG, LogItem, LogObject};
use crate::state::{FrameError, StateError, Storage, schemas};

/// What is said of an object.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// The run that wrote it, where it says.
    pub run: Option<RunNumber>,
    /// Its length.
    pub bytes: u64,
    /// What it holds, or what is wrong with it.
    pub what: String,
}

/// A line for each object, in the order of their names.
///
/// # Errors
/// When the storage fails.
pub fn lines(storage: &dyn Storage) -> Result<Vec<Line>, StateError> {
    let mut lines = Vec::new();
    for name in storage.list("")? {
        // One that was deleted meanwhile has no line.
        if let Some(bytes) = storage.get(&name)? {
            lines.push(line(name, bytes));
        }
    }
    Ok(lines)
}

fn line(name: String, object: Vec<u8>) -> Line {
    let bytes = object.len() as u64;
    let (run, what) =
        described(&name, object).unwrap_or_else(|problem| (None, problem.to_string()));
    Line {
        name,
        run,
        bytes,
        what,
    }
}

fn described(name: &str, object: Vec<u8>) -> Result<(Option<RunNumber>, String), FrameError> {
    if name.starts_with(LOG) {
        let object = LogObject::parse(&object)?;
        return Ok((Some(object.run), items(&object.items)));
    }
    if name.starts_with(CHECKPOINT) {
        let checkpoint = Checkpoint::parse(object.into())?;
        let header = checkpoint.header();
        let what = if header.is_full {
            "all of it"
        } else {
            "changes"
        };
        let (epoch, worker, entries) = (header.epoch, header.worker, checkpoint.len());
        let what = format!("epoch {epoch}, worker {worker}, {what}, {entries} entries");
        return Ok((Some(header.run), what));
    }
    if name.starts_with(HISTORY) {
        return Ok((None, chunk(&history::decode_chunk(&object)?)));
    }
    if name.starts_with(BASE) {
        let epoch = history::decode_base(&object)?.epoch;
        return Ok((None, format!("a replay can start after epoch {epoch}")));
    }
    if name.starts_with(schemas::SCHEMAS) {
        return Ok((None, "the schema of messages".to_owned()));
    }
    Ok((None, "other".to_owned()))
}

fn items(items: &[LogItem]) -> String {
    let described = items.iter().map(|item| match item {
        LogItem::Takeover(takeover) => format!("takeover by {} at {}", takeover.by, takeover.at),
        LogItem::Job(job) => format!("job {} {}", job.pipeline, job.job),
        LogItem::Epoch(entry) => epoch(entry),
        LogItem::Manifest(manifest) => {
            let drained = if manifest.is_drained { ", drained" } else { "" };
            format!("manifest of epoch {}{drained}", manifest.epoch)
        }
    });
    described.collect::<Vec<_>>().join(", ")
}

fn epoch(entry: &EpochEntry) -> String {
    let checkpoint = if entry.is_checkpoint {
        " (checkpoint)"
    } else {
        ""
    };
    let ending = match entry.ending {
        None => "",
        Some(Ending::Drained) => " (drained)",
        Some(Ending::Stopped) => " (stopped)",
    };
    format!("epoch {}{checkpoint}{ending}", entry.epoch)
}

fn chunk(objects: &Objects) -> String {
    let items = objects.values().flat_map(|object| &object.items);
    let mut epochs = items.filter_map(|item| match item {
        LogItem::Epoch(entry) => Some(entry.epoch),
        _ => None,
    });
    let Some(first) = epochs.next() else {
        return "no epochs".to_owned();
    };
    let last = epochs.next_back().unwrap_or(first);
    format!("epochs {first} to {last}")
}
