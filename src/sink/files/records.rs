//! Records as files: staged as they come, published at checkpoints.
//!
//! Memory: at most `BUFFER_BYTES` per shard beyond the epoch at hand.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::names::FolderKey;
use super::staging::{Out, StagedWriter};
use crate::rows::Rows;
use crate::sink::{EpochRows, SinkError, Written};
use crate::time::{Epoch, Shard};

/// How much of a shard's records may be buffered in memory across all its staged files.
const BUFFER_BYTES: usize = 32 << 20;

/// The staged files of records since the last checkpoint.
#[derive(Default)]
pub(super) struct Records {
    open: BTreeMap<FolderKey, StagedWriter>,
}

impl Records {
    /// Stages the rows of an epoch; a checkpoint publishes them.
    pub(super) fn commit(
        &mut self,
        out: &mut Out,
        epoch: &EpochRows,
    ) -> Result<Written, SinkError> {
        self.add(out, epoch.shard, &epoch.rows)?;
        if epoch.is_checkpoint {
            return self.publish(out, epoch.shard, epoch.epoch);
        }
        Ok(Written::default())
    }

    fn add(&mut self, out: &mut Out, shard: Shard, rows: &Rows) -> Result<(), SinkError> {
        for row in 0..rows.len() {
            let key = out.layout.key(rows, row);
            let writer = match self.open.entry(key) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(out.create(shard)?),
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

    /// Publishes what is staged, as the files of `epoch`.
    pub(super) fn publish(
        &mut self,
        out: &mut Out,
        shard: Shard,
        epoch: Epoch,
    ) -> Result<Written, SinkError> {
        let mut written = Written::default();
        let name = out.naming.records(epoch, shard);
        while let Some((key, writer)) = self.open.pop_first() {
            let path = format!("{}{name}", out.layout.path(&key));
            written += out.publish(writer, &path)?;
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{alerts, epoch, factory, published, records};
    #[cfg(feature = "parquet")]
    use super::super::{FilesFactory, Format};
    #[cfg(feature = "parquet")]
    use crate::sink::encode::columnar::Codec;
    use crate::sink::{Layout, SinkContext, SinkFactory};
    use crate::time::Shard;

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

    #[cfg(feature = "parquet")]
    #[test]
    fn many_folders_stay_within_memory_and_files() {
        let root = tempfile::tempdir().unwrap();
        let output = records(Layout::DateHour("time"));
        let factory = FilesFactory {
            format: Format::Parquet(Codec::Snappy),
            ..factory(root.path())
        };
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
