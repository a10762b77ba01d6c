//! The state of operators: one object per worker and checkpoint.
//!
//! Keys fall into 256 buckets by their hash; a bucket belongs to one worker at a time, and to
//! another one when the number of workers changes. An object holds what a worker has touched since
//! the checkpoint before (or all of it), bucket by bucket, so that each bucket can be read alone:
//!
//! ```text
//! u32, header           length and text (JSON) of the CheckpointHeader
//! 256 x (u64, u64)      bytes and entries of each bucket
//! entries               in the order of the buckets
//! entry                 operator, key length, 0 for a removed key or 1 + value length
//!                       (LEB128 each), key, value
//! ```
//!
//! in a [frame]. The state is what the chain of a manifest's objects gives, oldest
//! first, where a later entry of a key replaces the earlier one.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::frame::{self, FrameError, Kind};
use super::manifest::{Checksum, Manifest, ObjectRef};
use super::{StateError, Storage};
use crate::rules::{self, Rule};
use crate::sink::{JobId, RunNumber};
use crate::time::Epoch;

/// Under which names checkpoints lie.
pub const CHECKPOINT: &str = "checkpoint/";
/// How many buckets there are.
pub const BUCKETS: usize = 256;
const INDEX_BYTES: usize = BUCKETS * 16;

/// What an object is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointHeader {
    /// The job.
    pub job: JobId,
    /// The state is that at the end of this epoch.
    pub epoch: Epoch,
    /// The run that wrote it.
    pub run: RunNumber,
    /// The worker that wrote it.
    pub worker: usize,
    /// Whether it holds all entries of the worker's buckets; otherwise those that have changed.
    pub is_full: bool,
    /// What the operators are called, by their numbers in the entries.
    pub operators: Vec<String>,
}

impl CheckpointHeader {
    /// The object's name: a run never uses that of another.
    pub fn object_name(&self) -> String {
        let run = if rules::on(Rule::ObjectNames) {
            self.run
        } else {
            RunNumber(0)
        };
        format!("{CHECKPOINT}{:020}-{run}-{}", self.epoch.0, self.worker)
    }
}

/// Epoch, run and worker of the checkpoint object of this name, if it is one.
pub fn parse_name(name: &str) -> Option<(Epoch, RunNumber, usize)> {
    let mut parts = name.strip_prefix(CHECKPOINT)?.split('-');
    let mut number = || parts.next()?.parse::<u64>().ok();
    let parsed = (Epoch(number()?), RunNumber(number()?), number()? as usize);
    parts.next().is_none().then_some(parsed)
}

/// Entries on their way into an object.
#[derive(Clone, Debug)]
pub struct Snapshot {
    buckets: Vec<Bucket>,
}

#[derive(Clone, Debug, Default)]
struct Bucket {
    entries: u64,
    bytes: Vec<u8>,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            buckets: vec![Bucket::default(); BUCKETS],
        }
    }
}

impl Snapshot {
    /// Notes the value of a key, which need be unique only within its operator.
    pub fn put(&mut self, bucket: u8, operator: u16, key: &[u8], value: &[u8]) {
        let bytes = self.entry(bucket, operator, key, value.len() as u64 + 1);
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
    }

    /// Notes that a key is gone.
    pub fn remove(&mut self, bucket: u8, operator: u16, key: &[u8]) {
        self.entry(bucket, operator, key, 0).extend_from_slice(key);
    }

    fn entry(&mut self, bucket: u8, operator: u16, key: &[u8], value: u64) -> &mut Vec<u8> {
        let bucket = &mut self.buckets[usize::from(bucket)];
        bucket.entries += 1;
        for number in [u64::from(operator), key.len() as u64, value] {
            write_number(&mut bucket.bytes, number);
        }
        &mut bucket.bytes
    }

    /// How many bytes the entries take.
    pub fn bytes(&self) -> usize {
        self.buckets.iter().map(|bucket| bucket.bytes.len()).sum()
    }

    /// Whether nothing was noted.
    pub fn is_empty(&self) -> bool {
        self.buckets.iter().all(|bucket| bucket.entries == 0)
    }

    /// The bytes of the object.
    pub fn encode(self, header: &CheckpointHeader) -> Vec<u8> {
        let text = frame::json(header);
        let capacity = 4 + text.len() + INDEX_BYTES + self.bytes();
        let mut bytes = frame::begin(Kind::Checkpoint, capacity);
        bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&text);
        for bucket in &self.buckets {
            bytes.extend_from_slice(&(bucket.bytes.len() as u64).to_le_bytes());
            bytes.extend_from_slice(&bucket.entries.to_le_bytes());
        }
        for bucket in self.buckets {
            bytes.extend_from_slice(&bucket.bytes);
        }
        frame::finish(bytes)
    }
}

/// An object that was read and found whole.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    header: CheckpointHeader,
    object: Arc<[u8]>,
    /// Where each bucket begins in the object; the last one ends at the last border.
    borders: Vec<usize>,
    entries: u64,
}

impl Checkpoint {
    /// Checks all of the object: frame, header, index and each entry.
    ///
    /// # Errors
    /// When anything about it is not as it was written.
    pub fn parse(object: Arc<[u8]>) -> Result<Self, FrameError> {
        let payload = frame::payload(Kind::Checkpoint, &object)?;
        let offset = payload.as_ptr() as usize - object.as_ptr() as usize;
        let nonsense = |what: &str| FrameError::Content(what.to_owned());
        let cut = || nonsense("its index is cut off");
        let (length, rest) = payload.split_first_chunk::<4>().ok_or_else(cut)?;
        let (text, rest) = rest
            .split_at_checked(u32::from_le_bytes(*length) as usize)
            .ok_or_else(cut)?;
        let header: CheckpointHeader =
            serde_json::from_slice(text).map_err(|error| nonsense(&error.to_string()))?;
        let (index, data) = rest.split_at_checked(INDEX_BYTES).ok_or_else(cut)?;
        let mut borders = vec![offset + payload.len() - data.len()];
        let (mut data, mut entries) = (data, 0);
        for numbers in index.as_chunks::<16>().0 {
            let (length, count) = halves(numbers);
            let (bucket, rest) = usize::try_from(length)
                .ok()
                .and_then(|length| data.split_at_checked(length))
                .ok_or_else(|| nonsense("a bucket is longer than the object"))?;
            check_bucket(bucket, count, header.operators.len())?;
            borders.push(borders[borders.len() - 1] + bucket.len());
            data = rest;
            entries += count;
        }
        if !data.is_empty() {
            return Err(nonsense("there are bytes after the last bucket"));
        }
        Ok(Self {
            header,
            object,
            borders,
            entries,
        })
    }

    /// What it is about.
    pub const fn header(&self) -> &CheckpointHeader {
        &self.header
    }

    /// All of its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.object
    }

    /// How many entries it has.
    pub const fn len(&self) -> u64 {
        self.entries
    }

    /// Whether it has none.
    pub const fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// The entries of a bucket, in the order in which they were noted: operator, key, and the
    /// value unless the key was removed.
    pub fn entries(&self, bucket: u8) -> impl Iterator<Item = (u16, &[u8], Option<&[u8]>)> {
        let bucket = usize::from(bucket);
        let range = self.borders[bucket]..self.borders[bucket + 1];
        Entries(&self.object[range])
    }
}

/// The entries in the bytes of a bucket; ends at what is none.
struct Entries<'b>(&'b [u8]);

impl<'b> Iterator for Entries<'b> {
    type Item = (u16, &'b [u8], Option<&'b [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let mut rest = self.0;
        let operator = u16::try_from(read_number(&mut rest)?).ok()?;
        let key = usize::try_from(read_number(&mut rest)?).ok()?;
        let value = usize::try_from(read_number(&mut rest)?).ok()?;
        let (key, rest) = rest.split_at_checked(key)?;
        let (value, rest) = match value.checked_sub(1) {
            None => (None, rest),
            Some(length) => {
                let (value, rest) = rest.split_at_checked(length)?;
                (Some(value), rest)
            }
        };
        self.0 = rest;
        Some((operator, key, value))
    }
}

/// Whether the bucket consists of `count` entries of known operators, and of nothing else.
fn check_bucket(bucket: &[u8], count: u64, operators: usize) -> Result<(), FrameError> {
    let mut entries = Entries(bucket);
    let mut found = 0;
    for (operator, _, _) in entries.by_ref() {
        if usize::from(operator) >= operators {
            let what = format!("an entry belongs to operator {operator} of {operators}");
            return Err(FrameError::Content(what));
        }
        found += 1;
    }
    if found == count && entries.0.is_empty() {
        return Ok(());
    }
    let what = format!("a bucket has {found} of {count} entries");
    Err(FrameError::Content(what))
}

fn halves(bytes: &[u8; 16]) -> (u64, u64) {
    let number = u128::from_le_bytes(*bytes);
    (number as u64, (number >> 64) as u64)
}

fn write_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn read_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// How a manifest names the object `bytes`.
pub fn object_ref(name: &str, bytes: &[u8]) -> ObjectRef {
    ObjectRef {
        name: name.to_owned(),
        bytes: bytes.len() as u64,
        checksum: Checksum::of(bytes),
    }
}

/// The objects that a manifest names, in its order.
///
/// # Errors
/// When the storage fails, or an object is missing or is not the one that the manifest means; the
/// error names it.
pub fn load(storage: &dyn Storage, manifest: &Manifest) -> Result<Vec<Checkpoint>, StateError> {
    let objects = manifest.objects.iter();
    objects.map(|object| load_one(storage, object)).collect()
}

/// The object that a manifest names so.
///
/// # Errors
/// As [`load`].
pub fn load_one(storage: &dyn Storage, object: &ObjectRef) -> Result<Checkpoint, StateError> {
    let name = &object.name;
    let wrong = |what: &str| StateError::inconsistent(storage, name, what);
    let Some(bytes) = storage.get(name)? else {
        return Err(wrong("the checkpoint needs this object, and it is missing"));
    };
    let damaged = |problem| StateError::damaged(storage, name, problem);
    // First what is wrong with the object itself, if that can be said.
    let found = object_ref(name, &bytes);
    let checkpoint = Checkpoint::parse(bytes.into()).map_err(damaged)?;
    if found != *object {
        return Err(wrong(
            "it is whole, but not the object that the checkpoint means",
        ));
    }
    if checkpoint.header.object_name() != *name {
        return Err(wrong("it is whole, but belongs under another name"));
    }
    Ok(checkpoint)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Instant;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::state::MemoryStorage;
    use crate::state::manifest::tests::manifest;

    type Entry = (u8, u16, Vec<u8>, Option<Vec<u8>>);

    fn header(epoch: u64) -> CheckpointHeader {
        CheckpointHeader {
            job: JobId(Uuid::nil()),
            epoch: Epoch(epoch),
            run: RunNumber(3),
            worker: 1,
            is_full: epoch == 0,
            operators: vec!["windows".to_owned(), "late".to_owned()],
        }
    }

    fn encoded(epoch: u64, entries: &[Entry]) -> Vec<u8> {
        let mut snapshot = Snapshot::default();
        for (bucket, operator, key, value) in entries {
            match value {
                Some(value) => snapshot.put(*bucket, *operator, key, value),
                None => snapshot.remove(*bucket, *operator, key),
            }
        }
        snapshot.encode(&header(epoch))
    }

    fn decoded(bytes: Vec<u8>) -> Vec<Entry> {
        let checkpoint = Checkpoint::parse(bytes.into()).unwrap();
        let entries = (0..=255).flat_map(|bucket| {
            let entries = checkpoint
                .entries(bucket)
                .map(move |(operator, key, value)| {
                    (bucket, operator, key.to_vec(), value.map(<[u8]>::to_vec))
                });
            entries.collect::<Vec<_>>()
        });
        let entries: Vec<_> = entries.collect();
        assert_eq!(checkpoint.len(), entries.len() as u64);
        entries
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let key = prop_oneof![vec(0_u8..3, 0..3), vec(any::<u8>(), 0..300)];
        let value = prop::option::of(vec(any::<u8>(), 0..200));
        let bucket = prop_oneof![0_u8..2, any::<u8>()];
        (bucket, 0_u16..2, key, value)
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out_by_bucket(mut entries in vec(entry(), 0..40)) {
            let bytes = encoded(0, &entries);
            entries.sort_by_key(|entry| entry.0);
            prop_assert_eq!(decoded(bytes), entries);
        }

        #[test]
        fn a_chain_of_objects_gives_the_map(chain in vec(vec(entry(), 0..20), 1..6)) {
            let (mut map, mut folded) = (BTreeMap::new(), BTreeMap::new());
            for (epoch, entries) in chain.iter().enumerate() {
                for (bucket, operator, key, value) in entries {
                    map.insert((*bucket, *operator, key.clone()), value.clone());
                }
                for (bucket, operator, key, value) in decoded(encoded(epoch as u64, entries)) {
                    folded.insert((bucket, operator, key), value);
                }
            }
            prop_assert_eq!(folded, map);
        }

        /// Behind a frame that is right, whatever the payload is.
        #[test]
        fn nonsense_is_an_error_and_no_panic(
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            entries in vec(entry(), 0..4),
        ) {
            let mut bytes = encoded(0, &entries);
            bytes.truncate(bytes.len() - 8);
            let at = 24 + at.index(bytes.len() - 24);
            bytes[at] = byte;
            let parsed = Checkpoint::parse(frame::finish(bytes).into());
            if let Ok(checkpoint) = parsed {
                let found: usize = (0..=255).map(|it| checkpoint.entries(it).count()).sum();
                prop_assert_eq!(found as u64, checkpoint.len());
            }
        }
    }

    #[test]
    fn each_flipped_bit_and_each_cut_is_found() {
        let whole = encoded(
            0,
            &[(7, 0, vec![1, 2], Some(vec![3])), (9, 1, vec![4], None)],
        );
        // The index is long and dull: of its bits every 37th.
        for bit in (0..whole.len() * 8).filter(|bit| *bit < 2000 || bit % 37 == 0) {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Checkpoint::parse(bytes.into()).is_err(), "bit {bit}");
        }
        for length in 0..whole.len() {
            let cut = whole[..length].into();
            assert!(Checkpoint::parse(cut).is_err(), "{length}");
        }
    }

    #[test]
    fn an_entry_of_an_unknown_operator_is_refused() {
        let mut snapshot = Snapshot::default();
        snapshot.put(0, 2, b"key", b"value");
        let error = Checkpoint::parse(snapshot.encode(&header(0)).into()).unwrap_err();
        assert!(error.to_string().contains("operator 2 of 2"), "{error}");
    }

    #[test]
    fn names_say_epoch_run_and_worker() {
        let name = header(12).object_name();
        assert_eq!(name, "checkpoint/00000000000000000012-3-1");
        assert_eq!(parse_name(&name), Some((Epoch(12), RunNumber(3), 1)));
        for wrong in [
            "checkpoint/1-2",
            "checkpoint/1-2-3-4",
            "log/1-2-3",
            "checkpoint/a-1-1",
        ] {
            assert_eq!(parse_name(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn loading_names_the_object_that_is_wrong() {
        let storage = MemoryStorage::default();
        let mut manifest = manifest(5);
        for epoch in [4, 5] {
            let (name, bytes) = (header(epoch).object_name(), encoded(epoch, &[]));
            storage.put(&name, &bytes).unwrap();
            manifest.objects.push(object_ref(&name, &bytes));
        }
        assert_eq!(load(&storage, &manifest).unwrap().len(), 2);
        let name = manifest.objects[1].name.clone();
        let whole = storage.objects()[&name].clone();
        let other = encoded(4, &[]);
        let same_name = encoded(5, &[(0, 0, vec![], None)]);
        let cut = whole[..50].to_vec();
        for (bytes, expected) in [
            (Some(other), "not the object"),
            (Some(same_name), "not the object"),
            (Some(cut), "cut off"),
            (Some(Vec::new()), "empty"),
            (None, "missing"),
        ] {
            storage.objects().remove(&name);
            storage
                .objects()
                .extend(bytes.map(|bytes| (name.clone(), bytes)));
            let error = load(&storage, &manifest).unwrap_err();
            assert!(error.is_refusal());
            let error = error.to_string();
            assert!(error.contains(expected) && error.contains(&name), "{error}");
        }
    }

    /// Not a test of speed: it prints what a million entries take.
    #[test]
    fn a_million_entries() {
        let mut watch = Instant::now();
        let mut lap = || std::mem::replace(&mut watch, Instant::now()).elapsed();
        let mut snapshot = Snapshot::default();
        for key in 0..1_000_000_u64 {
            let bytes = key.to_le_bytes();
            snapshot.put(bytes[0], 0, &bytes, &[7; 48]);
        }
        let noted = lap();
        let object = snapshot.encode(&header(0));
        let encoded = lap();
        let checkpoint = Checkpoint::parse(object.into()).unwrap();
        let parsed = lap();
        let bytes: usize = (0..=255)
            .flat_map(|bucket| checkpoint.entries(bucket))
            .map(|(_, key, value)| key.len() + value.map_or(0, <[u8]>::len))
            .sum();
        assert_eq!((checkpoint.len(), bytes), (1_000_000, 56_000_000));
        println!(
            "1 M entries: noted {noted:.0?}, encoded {encoded:.0?}, parsed {parsed:.0?}, \
             read {:.0?}",
            lap()
        );
    }
}
