//! What is printed of an execution.

use crate::epoch::{EpochEntry, Standing};
use crate::state::{LogItem, LogObject};

/// An object of the log on one line.
pub(super) fn object(number: u64, object: &LogObject) -> String {
    let items: Vec<String> = object.items.iter().map(item).collect();
    format!("run {}: log {number}: {}", object.run, items.join("; "))
}

fn item(item: &LogItem) -> String {
    match item {
        LogItem::Takeover(_) => "takeover".to_owned(),
        LogItem::Job(job) => format!("job of {} partitions", job.partitions.len()),
        LogItem::Epoch(entry) => epoch(entry),
        LogItem::Manifest(manifest) => format!("manifest {}", manifest.epoch),
    }
}

fn epoch(entry: &EpochEntry) -> String {
    let rows = entry.partitions.iter().map(|row| {
        let standing = match row.standing {
            Standing::Active => "",
            Standing::Idle => " idle",
            Standing::Ended => " ended",
        };
        format!("{}:{}..{}{standing}", row.partition, row.from, row.to)
    });
    let rows: Vec<String> = rows.collect();
    let found: Vec<String> = entry.found.iter().map(|it| it.id.to_string()).collect();
    let checkpoint = match (entry.is_checkpoint, entry.is_full) {
        (false, _) => "",
        (true, false) => " checkpoint",
        (true, true) => " full checkpoint",
    };
    let ending = entry
        .ending
        .map_or_else(String::new, |ending| format!(" {ending:?}"));
    format!(
        "epoch {} [{}] found {found:?} W {}{checkpoint}{ending}",
        entry.epoch,
        rows.join(", "),
        entry.watermark.0
    )
}
