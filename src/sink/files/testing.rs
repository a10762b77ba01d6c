//! Outputs, rows and a look into the folder, for the tests of the files beside this one.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use super::names::HOUR_MS;
use super::{FilesFactory, Format, Place};
use crate::rows::{Origin, Rows, Tabular};
use crate::sink::encode::sample::{Count, PANE, Sample, rows};
use crate::sink::{EpochRows, Layout, OutputKind, OutputSpec, folder};
use crate::time::{Epoch, EventTime, Offset, PartitionId, Shard, Span};

pub(super) fn windows(layout: Layout) -> OutputSpec {
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

pub(super) fn records(layout: Layout) -> OutputSpec {
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

pub(super) fn factory(root: &Path) -> FilesFactory {
    FilesFactory::new(
        Place::Folder(root.to_owned()),
        Format::Csv,
        4,
        Duration::ZERO,
    )
}

pub(super) fn epoch(number: u64, watermark: i64, is_checkpoint: bool, rows: Rows) -> EpochRows {
    let (epoch, watermark) = (Epoch(number), EventTime(watermark));
    EpochRows {
        shard: Shard(3),
        epoch,
        watermark,
        is_checkpoint,
        rows,
    }
}

pub(super) fn counts(items: &[(i64, Option<&'static str>, i64, i64)]) -> Rows {
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

pub(super) fn published(root: &Path) -> Vec<String> {
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

pub(super) fn text(path: &Path) -> String {
    let mut text = String::new();
    let mut reader = flate2::read::GzDecoder::new(File::open(path).unwrap());
    reader.read_to_string(&mut text).unwrap();
    text
}

pub(super) fn alerts(from: u64, to: u64) -> Rows {
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
