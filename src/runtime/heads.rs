//! What the partitions of an input begin with, by which a run knows that they are the ones that an
//! earlier run has read.
//!
//! A file can be replaced by one that is longer than what was read of the old one: its length says
//! nothing, and nothing before the recorded offset is read again. So each manifest holds a checksum of
//! the first 4 KiB of each file, or of as much of it as was read by then.

use std::collections::BTreeMap;

use super::RunError;
use crate::source::{Partition, SharedSource, SourceError};
use crate::state::{Checksum, Head, Manifest};
use crate::time::PartitionId;

/// Of so many bytes at most.
const LONGEST: u64 = 4 << 10;

/// What is known of each partition's beginning.
pub struct Heads {
    source: SharedSource,
    known: BTreeMap<PartitionId, Head>,
}

impl Heads {
    /// Of `source`, as the manifest says from which a run goes on.
    pub fn new(source: SharedSource, manifest: Option<&Manifest>) -> Self {
        let partitions = manifest.into_iter().flat_map(|it| &it.partitions);
        let known = partitions.filter_map(|it| Some((it.partition.id, it.head?)));
        Self {
            source,
            known: known.collect(),
        }
    }

    /// Has the manifest say what its partitions begin with.
    pub fn add_to(&mut self, manifest: &mut Manifest) {
        for state in &mut manifest.partitions {
            let read = state.offset.unwrap_or_default().0.min(LONGEST);
            self.extend(&state.partition, read);
            state.head = self.known.get(&state.partition.id).copied();
        }
    }

    /// Makes what is known of a partition `read` bytes long. One that cannot be looked at now, or
    /// begins with something else than before, keeps what was known of it: that is what was read.
    fn extend(&mut self, partition: &Partition, read: u64) {
        let known = self.known.get(&partition.id);
        if known.map_or(0, |it| it.bytes) >= read {
            return;
        }
        let Ok(Some(bytes)) = self.source.head(partition, read) else {
            return;
        };
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

/// Whether the partitions are still as long as what was read of them, and begin with what they began
/// with when the manifest was made.
///
/// # Errors
/// [`SourceError::Changed`] for the first that is not.
pub fn check(source: &SharedSource, manifest: &Manifest) -> Result<(), RunError> {
    for state in &manifest.partitions {
        let changed = |how: String| {
            Err(RunError::Source(SourceError::Changed {
                partition: state.partition.name.clone(),
                how,
            }))
        };
        let read = state.offset.unwrap_or_default();
        if let Some(end) = source.end(&state.partition)
            && end < read
        {
            return changed(format!(
                "it is shorter than what was read of it: it has {end} bytes, and {read} were read"
            ));
        }
        let Some(known) = state.head else { continue };
        let found = source.head(&state.partition, known.bytes);
        let found = found.map_err(RunError::Source)?;
        if found.is_some_and(|found| head(&found, known.bytes) != Some(known)) {
            return changed(format!(
                "its first {} bytes are others than when they were read",
                known.bytes
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::epoch::Standing;
    use crate::ledger::Fates;
    use crate::source::Until;
    use crate::source::file::FileSource;
    use crate::state::PartitionState;
    use crate::time::{Epoch, EventTime, Offset};

    fn source(folder: &Path) -> SharedSource {
        let pattern = folder.join("*.ndjson").display().to_string();
        Arc::new(FileSource::new(&pattern, Until::End).expect("a pattern"))
    }

    /// Of one file, read up to `offset`.
    fn manifest(source: &SharedSource, offset: u64) -> Manifest {
        let state = |partition| PartitionState {
            partition,
            offset: Some(Offset(offset)),
            max_event: EventTime::MIN,
            floor: EventTime::MIN,
            standing: Standing::Active,
            fates: Fates::default(),
            gaps: 0,
            first_offset: None,
            head: None,
        };
        let partitions = source.partitions().expect("a file");
        Manifest {
            epoch: Epoch(0),
            watermark: EventTime::MIN,
            opened_at: EventTime(0),
            partitions: partitions.into_iter().map(state).collect(),
            objects: Vec::new(),
            sinks: BTreeMap::new(),
            outputs: BTreeMap::new(),
            digests: Vec::new(),
            dims: 0,
            dims_next: None,
            is_drained: false,
        }
    }

    fn length(manifest: &Manifest) -> Option<u64> {
        manifest.partitions[0].head.map(|head| head.bytes)
    }

    #[test]
    fn a_head_grows_with_what_was_read_and_is_looked_at_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.ndjson");
        fs::write(&path, "1\n2\n3\n").expect("written");
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
        fs::write(&path, "1\n2\n4\n").expect("written");
        check(&source, &four).expect("as before");
        let six = of(6);
        assert_eq!(length(&six), Some(6));
        let long = format!("1\n2\n4\n{}", "5\n".repeat(4000));
        fs::write(&path, &long).expect("written");
        check(&source, &six).expect("it has grown");
        let whole = of(8006);
        assert_eq!(length(&whole), Some(LONGEST));
        // What lies behind is not looked at.
        fs::write(
            &path,
            format!("{}{}", &long[..4096], long[4096..].replace('5', "6")),
        )
        .expect("written");
        check(&source, &whole).expect("as before");
        fs::write(&path, long.replacen('4', "3", 1)).expect("written");
        let error = check(&source, &whole).expect_err("another one");
        assert!(error.is_refusal(), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains("a.ndjson") && text.contains("first 4096 bytes"),
            "{text}"
        );
        fs::write(&path, &long[..8000]).expect("written");
        let text = check(&source, &whole).expect_err("shorter").to_string();
        assert!(
            text.contains("has 8000 bytes, and 8006 were read"),
            "{text}"
        );
        // What happens to files that are gone is the reader's business.
        fs::remove_file(&path).expect("removed");
        check(&source, &whole).expect("nothing to compare");
    }

    #[test]
    fn a_file_that_is_replaced_while_it_is_read_keeps_the_head_that_was_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.ndjson");
        fs::write(&path, "1\n2\n").expect("written");
        let source = source(folder.path());
        let mut first = manifest(&source, 4);
        Heads::new(Arc::clone(&source), None).add_to(&mut first);
        fs::write(&path, "0\n2\n3\n").expect("written");
        // As in the next run.
        let mut heads = Heads::new(Arc::clone(&source), Some(&first));
        let mut second = manifest(&source, 6);
        heads.add_to(&mut second);
        assert_eq!(second.partitions[0].head, first.partitions[0].head);
        check(&source, &second).expect_err("another one");
        // The old one is put back, and has grown.
        fs::write(&path, "1\n2\n3\n").expect("written");
        heads.add_to(&mut second);
        assert_eq!(length(&second), Some(6));
        check(&source, &second).expect("as it was read");
    }
}
