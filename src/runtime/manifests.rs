//! When a checkpoint is complete, and what its manifest says.
//!
//! Manifest `k` is due once every worker's object of epoch `k` is stored, every shard of every sink
//! has committed `k`, and the ledger of `k` agrees; manifests come in order. A plain struct, fed by
//! the coordinator's desk.

use std::collections::BTreeMap;

use crate::epoch::{Ending, EpochEntry, PartitionReport, Resume, Standing};
use crate::ledger::Fates;
use crate::rules::{self, Rule};
use crate::sink::SinkMark;
use crate::source::Partition;
use crate::state::{EpochDigest, Manifest, ObjectRef, OutputTotals, PartitionState};
use crate::time::{Epoch, EventTime, PartitionId, Shard};

/// What a shard's sink says at a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Committed {
    /// The checkpoint's epoch.
    pub epoch: Epoch,
    /// The sink.
    pub sink: String,
    /// Where each shard of one worker stands.
    pub positions: BTreeMap<Shard, u64>,
    /// What that worker gave the sink in the epochs since the checkpoint before.
    pub digests: Vec<EpochDigest>,
}

#[derive(Default)]
struct Open {
    /// The checkpoint's entry, and what goes on from it.
    decided: Option<(EpochEntry, Base)>,
    fates: Option<BTreeMap<PartitionId, Fates>>,
    objects: BTreeMap<usize, ObjectRef>,
    sinks: BTreeMap<String, SinkMark>,
    digests: Vec<EpochDigest>,
}

impl Open {
    fn is_complete(&self, workers: usize, shards: &BTreeMap<String, u32>) -> bool {
        let has_committed = |(sink, count): (&String, &u32)| {
            let mark = self.sinks.get(sink);
            mark.is_some_and(|mark| mark.positions.len() == *count as usize)
        };
        self.decided.is_some()
            && self.fates.is_some()
            && self.objects.len() == workers
            && (shards.iter().all(has_committed) || !rules::on(Rule::ManifestAfterSinks))
    }
}

/// What goes on from epoch to epoch.
#[derive(Clone, Default)]
struct Base {
    partitions: BTreeMap<PartitionId, PartitionState>,
    /// The last dimension load that is in effect in the next epoch, and one that is in the epoch
    /// after it.
    dims: u64,
    dims_next: Option<u64>,
}

/// See the module.
pub struct Manifests {
    workers: usize,
    /// The sinks and how many shards each has.
    shards: BTreeMap<String, u32>,
    base: Base,
    /// The chain of the last manifest.
    chain: Chain,
    outputs: BTreeMap<String, OutputTotals>,
    open: BTreeMap<Epoch, Open>,
}

/// The objects of a manifest, oldest first: a full one per worker, then what has changed.
#[derive(Default)]
struct Chain {
    objects: Vec<ObjectRef>,
    full_bytes: u64,
    bytes: u64,
}

impl Chain {
    fn of(objects: Vec<ObjectRef>) -> Self {
        let bytes = objects.iter().map(|object| object.bytes).sum();
        // What of it was full is not known: half of it, so that it is folded before it doubles.
        let full_bytes = bytes / 2;
        Self {
            objects,
            full_bytes,
            bytes,
        }
    }

    fn extend(&mut self, is_full: bool, objects: impl Iterator<Item = ObjectRef>) {
        if is_full {
            self.objects.clear();
            self.bytes = 0;
        }
        for object in objects {
            self.bytes += object.bytes;
            self.objects.push(object);
        }
        if is_full {
            self.full_bytes = self.bytes;
        }
    }

    /// Whether a restart would read more of changes than of what they change.
    fn is_long(&self) -> bool {
        self.bytes > 2 * self.full_bytes
    }
}

impl Manifests {
    /// Of a run with so many workers and these sinks, which goes on at `resume`, after `last`.
    pub fn new(
        workers: usize,
        shards: BTreeMap<String, u32>,
        resume: &Resume,
        last: Option<&Manifest>,
    ) -> Self {
        let (dims, dims_next) = (resume.dims, resume.dims_next);
        let states = last.into_iter().flat_map(|last| &last.partitions);
        let mut partitions: BTreeMap<_, _> =
            states.map(|it| (it.partition.id, it.clone())).collect();
        for position in &resume.positions {
            let start = || start(&position.partition, EventTime::MIN, Standing::Active);
            partitions
                .entry(position.partition.id)
                .or_insert_with(start);
        }
        Self {
            workers,
            shards,
            base: Base {
                partitions,
                dims,
                dims_next,
            },
            chain: Chain::of(last.map_or_else(Vec::new, |last| last.objects.clone())),
            outputs: last.map_or_else(BTreeMap::new, |last| last.outputs.clone()),
            open: BTreeMap::new(),
        }
    }

    /// Whether the next checkpoint should hold everything.
    pub fn wants_full(&self) -> bool {
        self.chain.objects.is_empty() || self.chain.is_long()
    }

    /// An epoch was decided, or is to be replayed.
    pub fn decided(&mut self, entry: &EpochEntry) {
        self.base.follow(entry);
        if entry.is_checkpoint {
            self.open(entry.epoch).decided = Some((entry.clone(), self.base.clone()));
        }
    }

    /// All records up to the checkpoint at `epoch` have these fates, in this run.
    pub fn accounted(&mut self, epoch: Epoch, fates: BTreeMap<PartitionId, Fates>) {
        self.open(epoch).fates = Some(fates);
    }

    /// The object of `worker` is stored.
    pub fn stored(&mut self, epoch: Epoch, worker: usize, object: ObjectRef) {
        self.open(epoch).objects.insert(worker, object);
    }

    /// Shards of a sink have committed the epoch.
    pub fn committed(&mut self, committed: Committed) {
        let open = self.open(committed.epoch);
        let mark = open.sinks.entry(committed.sink).or_default();
        mark.positions.extend(committed.positions);
        open.digests.extend(committed.digests);
    }

    fn open(&mut self, epoch: Epoch) -> &mut Open {
        self.open.entry(epoch).or_default()
    }

    /// The next manifest, if it is complete.
    pub fn take_complete(&mut self) -> Option<Manifest> {
        let first = self.open.first_entry()?;
        if !first.get().is_complete(self.workers, &self.shards) {
            return None;
        }
        let open = first.remove();
        let (entry, base) = open.decided?;
        let (dims, dims_next) = (base.dims, base.dims_next);
        self.chain.extend(entry.is_full, open.objects.into_values());
        let mut digests = open.digests;
        digests.sort_by(|a, b| (a.epoch, &a.output).cmp(&(b.epoch, &b.output)));
        let digests = merged(digests);
        for digest in &digests {
            let output = self.outputs.entry(digest.output.clone()).or_default();
            output.rows += digest.rows;
        }
        Some(Manifest {
            epoch: entry.epoch,
            watermark: entry.watermark,
            opened_at: entry.opened_at,
            partitions: base.states(&open.fates.unwrap_or_default()),
            objects: self.chain.objects.clone(),
            sinks: open.sinks,
            outputs: self.outputs.clone(),
            digests,
            dims,
            dims_next,
            is_drained: entry.ending == Some(Ending::Drained),
        })
    }
}

/// The parts of several workers as one per epoch and output.
fn merged(parts: Vec<EpochDigest>) -> Vec<EpochDigest> {
    let mut digests: Vec<EpochDigest> = Vec::new();
    for part in parts {
        match digests.last_mut() {
            Some(last) if (last.epoch, &last.output) == (part.epoch, &part.output) => {
                last.rows += part.rows;
                last.digest.0 = last.digest.0.wrapping_add(part.digest.0);
            }
            _ => digests.push(part),
        }
    }
    digests
}

/// A partition of which nothing was read.
fn start(partition: &Partition, floor: EventTime, standing: Standing) -> PartitionState {
    PartitionState {
        partition: partition.clone(),
        offset: None,
        max_event: EventTime::MIN,
        floor,
        standing,
        fates: Fates::default(),
        gaps: 0,
        first_offset: None,
        head: None,
    }
}

impl Base {
    fn follow(&mut self, entry: &EpochEntry) {
        for row in &entry.partitions {
            if let Some(state) = self.partitions.get_mut(&row.partition) {
                follow_row(state, row, entry.watermark);
            }
        }
        for found in &entry.found {
            let state = start(found, entry.watermark, Standing::Idle);
            self.partitions.entry(found.id).or_insert(state);
        }
        self.dims = self.dims_next.unwrap_or(self.dims);
        self.dims_next = entry.dims;
    }

    fn states(mut self, fates: &BTreeMap<PartitionId, Fates>) -> Vec<PartitionState> {
        for (partition, fates) in fates {
            if let Some(state) = self.partitions.get_mut(partition) {
                state.fates += *fates;
            }
        }
        self.partitions.into_values().collect()
    }
}

/// As of the mark of the border: an idle partition has got its watermark as the floor.
fn follow_row(state: &mut PartitionState, row: &PartitionReport, watermark: EventTime) {
    if row.is_located {
        state.first_offset.get_or_insert(row.from);
        state.offset = Some(row.to);
    }
    state.max_event = row.max_event;
    state.gaps += row.gaps;
    state.standing = row.standing;
    if row.watermark > row.own_watermark {
        state.floor = state.floor.max(row.watermark);
    }
    if row.gets_floor() {
        state.floor = state.floor.max(watermark);
    }
}
