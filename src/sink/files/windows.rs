//! Windows as files: held until they are final, then one file per window, shard and folder.
//!
//! With a job, only final rows arrive, in the epoch in which their window became final, and
//! nothing is held from one epoch to the next: a restart would lose it.
//!
//! Memory: the rows of windows that are not final.

use std::collections::BTreeMap;

use super::names::{FolderKey, position};
use super::staging::{Out, StagedWriter};
use crate::rows::{Cell, Rows};
use crate::sink::key::{NaturalKey, WINDOW_COLUMNS};
use crate::sink::{EpochRows, OutputSpec, SinkError, Written};
use crate::time::{EventTime, Shard, Span};

/// A window: its end and its start.
type Bounds = (EventTime, EventTime);

/// The rows of windows that are not final.
pub(super) struct Windows {
    start: usize,
    end: usize,
    keep: Span,
    /// Whether only final rows arrive.
    is_final: bool,
    key: NaturalKey,
    held: BTreeMap<Bounds, Held>,
}

/// The rows of one window.
struct Held {
    rows: Rows,
    /// The row of the last revision of each key.
    last: BTreeMap<Vec<u8>, usize>,
}

impl Windows {
    pub(super) fn new(output: &OutputSpec, keep: Span, is_final: bool) -> Result<Self, SinkError> {
        let [start, end] = WINDOW_COLUMNS;
        Ok(Self {
            start: position(output, start)?,
            end: position(output, end)?,
            keep,
            is_final,
            key: NaturalKey::of(output),
            held: BTreeMap::new(),
        })
    }

    /// Takes the changes of an epoch in, and publishes the windows that are final with it.
    pub(super) fn commit(
        &mut self,
        out: &mut Out,
        epoch: &EpochRows,
    ) -> Result<Written, SinkError> {
        let mut key = Vec::new();
        for row in 0..epoch.rows.len() {
            self.add(&epoch.rows, row, &mut key);
        }
        let mut written = Written::default();
        let watermark = if self.is_final {
            EventTime::MAX
        } else {
            epoch.watermark
        };
        for (window, held) in self.take_final(watermark) {
            written += held.publish(out, epoch.shard, window)?;
        }
        Ok(written)
    }

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
    fn take_final(&mut self, watermark: EventTime) -> Vec<(Bounds, Held)> {
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

    fn publish(
        &self,
        out: &mut Out,
        shard: Shard,
        (end, start): Bounds,
    ) -> Result<Written, SinkError> {
        let name = out.naming.window(start, end, shard);
        let mut files: BTreeMap<FolderKey, StagedWriter> = BTreeMap::new();
        for &row in self.last.values() {
            let key = out.layout.key(&self.rows, row);
            if !files.contains_key(&key) {
                files.insert(key.clone(), out.create(shard)?);
            }
            if let Some(writer) = files.get_mut(&key) {
                writer.row(&self.rows, row)?;
            }
        }
        let mut written = Written::default();
        for (key, writer) in files {
            let path = format!("{}{name}", out.layout.path(&key));
            written += out.publish(writer, &path)?;
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{counts, epoch, factory, published, text, windows};
    use crate::sink::folder;
    use crate::sink::{Layout, SinkContext, SinkFactory};
    use crate::time::Shard;

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
}
