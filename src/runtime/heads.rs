//! What the partitions of an input begin with, by which a run knows that they are the ones that an
//! earlier run has read.
//!
//! A file can be replaced by one that is longer than what was read of the old one: its length says
//! nothing, and nothing before the recorded offset is read again. So each manifest holds a checksum of
//! the first 4 KiB of each file, or of as much of it as was read when it was looked at.
//!
//! It is looked at beside the reader, on the log's thread, a while after it was read: a file that is
//! replaced within that while is taken for the one that was read.

use std::collections::BTreeMap;

use super::RunError;
use super::state::known_partitions;
use crate::epoch::EpochEntry;
use crate::source::{Partition, SharedSource, SourceError};
use crate::state::{Checksum, Head, JobRecord, Manifest};
use crate::time::{Offset, PartitionId};

/// Of so many bytes at most.
const LONGEST: u64 = 4 << 10;
/// So many partitions at most are looked at for one manifest: epochs wait for it.
const AT_ONCE: usize = 256;

/// What is known of each partition's beginning.
pub struct Heads {
    source: SharedSource,
    known: BTreeMap<PartitionId, Head>,
    /// From which of the partitions on the next manifest looks.
    turn: usize,
}

impl Heads {
    /// Of `source`, as the manifest says from which a run goes on.
    pub fn new(source: SharedSource, manifest: Option<&Manifest>) -> Self {
        let partitions = manifest.into_iter().flat_map(|it| &it.partitions);
        let known = partitions.filter_map(|it| Some((it.partition.id, it.head?)));
        Self {
            source,
            known: known.collect(),
            turn: 0,
        }
    }

    /// Has the manifest say what its partitions begin with.
    pub fn add_to(&mut self, manifest: &mut Manifest) {
        let count = manifest.partitions.len();
        let (first, mut looks) = (self.turn, 0);
        for step in 0..count {
            let index = (first + step) % count;
            let state = &manifest.partitions[index];
            let read = state.offset.unwrap_or_default().0.min(LONGEST);
            if self.is_short(&state.partition, read) {
                self.extend(&state.partition, read);
                looks += 1;
            }
            if looks == AT_ONCE {
                self.turn = index + 1;
                break;
            }
        }
        for state in &mut manifest.partitions {
            state.head = self.known.get(&state.partition.id).copied();
        }
    }

    /// Whether so little is known of a partition of which `read` bytes were read that it is worth
    /// another look: one that grows slowly is not looked at each time.
    fn is_short(&self, partition: &Partition, read: u64) -> bool {
        let known = self.known.get(&partition.id).map_or(0, |it| it.bytes);
        known < read && (read == LONGEST || read >= 2 * known)
    }

    /// Makes what is known of a partition `read` bytes long. One that cannot be looked at now, or
    /// begins with something else than before, keeps what was known of it.
    fn extend(&mut self, partition: &Partition, read: u64) {
        let Ok(Some(bytes)) = self.source.head(partition, read) else {
            return;
        };
        let known = self.known.get(&partition.id);
        let goes_on = known.is_none_or(|known| head(&bytes, known.bytes) == Some(*known));
        if let Some(head) = head(&bytes, read)
            && goes_on
        {
            self.known.insert(partition.id, head);
        }
    }
}

/// Of the first `length` bytes, if there are so many.
fn head(bytes: &[u8], length: u64) -> Option<Head> {
    let bytes = bytes.get(..length as usize)?;
    Some(Head {
        bytes: length,
        checksum: Checksum::of(bytes),
    })
}

/// Whether the partitions are still as long as what was read of them up to the end of `epochs`, which
/// follow `manifest`, and begin with what they began with when that was made. Of a job whose input was
/// declared complete nothing is read again, and nothing asked.
///
/// # Errors
/// [`SourceError::Changed`] for the first that is not.
pub fn check(
    source: &SharedSource,
    job: &JobRecord,
    manifest: Option<&Manifest>,
    epochs: &[EpochEntry],
) -> Result<(), RunError> {
    if manifest.is_some_and(|it| it.is_drained) && epochs.is_empty() {
        return Ok(());
    }
    let states = manifest.into_iter().flat_map(|it| &it.partitions);
    let heads: BTreeMap<_, _> = states
        .clone()
        .map(|it| (it.partition.id, it.head))
        .collect();
    let offsets = states.filter_map(|it| Some((it.partition.id, it.offset?)));
    let mut read: BTreeMap<PartitionId, Offset> = offsets.collect();
    for row in epochs.iter().flat_map(|entry| &entry.partitions) {
        let read = read.entry(row.partition).or_default();
        *read = row.to.max(*read);
    }
    for partition in known_partitions(job, manifest, epochs) {
        let read = read.get(&partition.id).copied().unwrap_or_default();
        let head = heads.get(&partition.id).copied().flatten();
        check_partition(source, &partition, read, head)?;
    }
    Ok(())
}

fn check_partition(
    source: &SharedSource,
    partition: &Partition,
    read: Offset,
    known: Option<Head>,
) -> Result<(), RunError> {
    let changed = |how: String| {
        Err(RunError::Source(SourceError::Changed {
            partition: partition.name.clone(),
            how,
        }))
    };
    let shorter = |end: u64| {
        changed(format!(
            "it is shorter than what was read of it: it has {end} bytes, and {read} were read"
        ))
    };
    if let Some(end) = source.end(partition)
        && end < read
    {
        return shorter(end.0);
    }
    let Some(known) = known else { return Ok(()) };
    let found = source.head(partition, known.bytes);
    match found.map_err(RunError::Source)? {
        Some(found) if (found.len() as u64) < known.bytes => shorter(found.len() as u64),
        Some(found) if head(&found, known.bytes) != Some(known) => changed(format!(
            "its first {} bytes are others than when they were read",
            known.bytes
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::epoch::{PartitionReport, Standing};
    use crate::source::Until;
    use crate::source::file::FileSource;
    use crate::state::{PartitionState, testing};
    use crate::time::EventTime;

    fn source(folder: &Path) -> SharedSource {
        let pattern = folder.join("*.ndjson").display().to_string();
        Arc::new(FileSource::new(&pattern, Until::End).expect("a pattern"))
    }

    /// Of these files, each read up to `offset`.
    fn manifest(source: &SharedSource, offset: u64) -> Manifest {
        let sample = testing::manifest(0);
        let state = |partition| PartitionState {
            partition,
            offset: Some(Offset(offset)),
            head: None,
            ..sample.partitions[0].clone()
        };
        let partitions = source.partitions().expect("a file");
        Manifest {
            partitions: partitions.into_iter().map(state).collect(),
            ..sample.clone()
        }
    }

    fn length(manifest: &Manifest) -> Option<u64> {
        manifest.partitions[0].head.map(|head| head.bytes)
    }

    fn check_at(source: &SharedSource, manifest: &Manifest) -> Result<(), RunError> {
        check(source, &testing::job(1), Some(manifest), &[])
    }

    #[test]
    fn a_head_grows_with_what_was_read_and_is_looked_at_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.ndjson");
        let write = |text: &str| fs::write(&path, text).expect("written");
        write("1\n2\n3\n4\n");
        let source = source(folder.path());
        let mut heads = Heads::new(Arc::clone(&source), None);
        let mut of = |offset| {
            let mut manifest = manifest(&source, offset);
            heads.add_to(&mut manifest);
            manifest
        };
        assert_eq!(length(&of(0)), None);
        let four = of(4);
        assert_eq!(length(&four), Some(4));
        // What was not read may change.
        write("1\n2\n5\n6\n7\n");
        check_at(&source, &four).expect("as before");
        // A little more is not worth a look.
        assert_eq!(length(&of(6)), Some(4));
        let eight = of(8);
        assert_eq!(length(&eight), Some(8));
        let long = format!("1\n2\n5\n6\n{}", "7\n".repeat(4000));
        write(&long);
        check_at(&source, &eight).expect("it has grown");
        let whole = of(8008);
        assert_eq!(length(&whole), Some(LONGEST));
        // What lies behind is not looked at.
        write(&format!(
            "{}{}",
            &long[..4096],
            long[4096..].replace('7', "8")
        ));
        check_at(&source, &whole).expect("as before");
        write(&long.replacen('5', "3", 1));
        let error = check_at(&source, &whole).expect_err("another one");
        assert!(error.is_refusal(), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains("a.ndjson") && text.contains("first 4096 bytes"),
            "{text}"
        );
        // Nothing of it is read again.
        let mut drained = whole.clone();
        drained.is_drained = true;
        check_at(&source, &drained).expect("all is done");
        write(&long[..8000]);
        let text = check_at(&source, &whole).expect_err("shorter").to_string();
        assert!(
            text.contains("has 8000 bytes, and 8008 were read"),
            "{text}"
        );
        // What happens to files that are gone is the reader's business.
        fs::remove_file(&path).expect("removed");
        check_at(&source, &whole).expect("nothing to compare");
    }

    #[test]
    fn recorded_epochs_count_as_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.ndjson");
        fs::write(&path, "1\n2\n3\n").expect("written");
        let source = source(folder.path());
        let manifest = manifest(&source, 2);
        let epochs = [EpochEntry {
            partitions: vec![PartitionReport {
                partition: PartitionId(0),
                is_located: true,
                from: Offset(2),
                to: Offset(6),
                gaps: 0,
                max_event: EventTime::MIN,
                read: 2,
                watermark: EventTime::MIN,
                own_watermark: EventTime::MIN,
                standing: Standing::Active,
                has_backlog: false,
            }],
            ..testing::entry(1)
        }];
        let check = || check(&source, &testing::job(1), Some(&manifest), &epochs);
        check().expect("all of it is there");
        fs::write(&path, "1\n2\n").expect("written");
        let text = check().expect_err("shorter").to_string();
        assert!(text.contains("has 4 bytes, and 6 were read"), "{text}");
    }

    #[test]
    fn a_file_that_is_replaced_while_it_is_read_keeps_the_head_that_was_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.ndjson");
        fs::write(&path, "1\n2\n").expect("written");
        let source = source(folder.path());
        let mut first = manifest(&source, 4);
        Heads::new(Arc::clone(&source), None).add_to(&mut first);
        fs::write(&path, "0\n2\n3\n4\n").expect("written");
        // As in the next run.
        let mut heads = Heads::new(Arc::clone(&source), Some(&first));
        let mut second = manifest(&source, 8);
        heads.add_to(&mut second);
        assert_eq!(second.partitions[0].head, first.partitions[0].head);
        check_at(&source, &second).expect_err("another one");
        // The old one is put back, and has grown.
        fs::write(&path, "1\n2\n3\n4\n").expect("written");
        heads.add_to(&mut second);
        assert_eq!(length(&second), Some(8));
        check_at(&source, &second).expect("as it was read");
    }

    #[test]
    fn what_cannot_be_decompressed_any_more_is_another_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.ndjson.gz");
        fs::write(&path, "1\n2\n").expect("written");
        let pattern = path.display().to_string();
        let source: SharedSource = Arc::new(FileSource::new(&pattern, Until::End).expect("a path"));
        let mut manifest = manifest(&source, 4);
        manifest.partitions[0].head = head(b"1\n2\n", 4);
        let error = check_at(&source, &manifest).expect_err("no gzip");
        assert!(error.is_refusal(), "{error:?}");
    }

    #[test]
    fn many_files_are_looked_at_in_turn() {
        let folder = tempfile::tempdir().expect("a folder");
        let count = 2 * AT_ONCE + 5;
        for index in 0..count {
            let path = folder.path().join(format!("{index:04}.ndjson"));
            fs::write(&path, "1\n2\n").expect("written");
        }
        let source = source(folder.path());
        let mut manifest = manifest(&source, 4);
        // These can never be looked at, and keep no others from it.
        for index in 0..AT_ONCE {
            let path = folder.path().join(format!("{index:04}.ndjson"));
            fs::remove_file(path).expect("removed");
        }
        let mut heads = Heads::new(source, None);
        for known in [0, AT_ONCE, AT_ONCE + 5] {
            heads.add_to(&mut manifest);
            let of = manifest.partitions.iter().filter(|it| it.head.is_some());
            assert_eq!(of.count(), known);
        }
    }
}
