//! What must have come out, from the input and the logged decisions alone.
//!
//! It shares no code with the engine but the types of the log's entries: windows are kept per key in
//! one map, and everything is worked out record by record.

use std::collections::{BTreeMap, BTreeSet};

use super::rows::{ItemRow, WindowKey, WindowRow};
use super::world::{Item, Shape, World};
use crate::epoch::{Ending, EpochEntry, PartitionReport, Standing};
use crate::state::{LogItem, Manifest};

/// Before everything, after everything.
const NEVER: i64 = i64::MIN;

/// How many records had which fate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) on_time: u64,
    pub(super) late_kept: u64,
    pub(super) late_dropped: u64,
}

/// See the module.
#[derive(Default)]
pub(super) struct Oracle {
    /// The changes of windows, by epoch and in the order of each.
    pub(super) changes: Vec<(u64, WindowRow)>,
    /// The results that are final, in the epoch in which they are.
    pub(super) finals: Vec<(u64, WindowRow)>,
    pub(super) items: Vec<(u64, ItemRow)>,
    pub(super) fates: BTreeMap<usize, Count>,
    /// The results of all windows in the end.
    pub(super) windows: BTreeMap<WindowKey, (i64, i64)>,
    shown: BTreeMap<WindowKey, (i64, i64)>,
    places: BTreeMap<usize, Place>,
    watermark: i64,
    /// Whether a floor had a say in the effect time of any record.
    has_floors: bool,
}

/// How far a partition was read.
#[derive(Clone, Copy)]
struct Place {
    offset: usize,
    largest: i64,
    floor: i64,
}

const START: Place = Place {
    offset: 0,
    largest: NEVER,
    floor: NEVER,
};

impl Place {
    fn own(&self, wait: i64) -> i64 {
        if self.largest == NEVER {
            NEVER
        } else {
            self.largest - wait
        }
    }

    fn watermark(&self, wait: i64) -> i64 {
        self.own(wait).max(self.floor)
    }
}

fn row((end, start, key): WindowKey, (count, sum): (i64, i64), diff: i64) -> WindowRow {
    WindowRow {
        end,
        start,
        key,
        diff,
        count,
        sum,
    }
}

fn ends(shape: &Shape, time: i64) -> impl Iterator<Item = i64> + use<> {
    let (size, slide) = (shape.size, shape.slide);
    let first = (time.div_euclid(slide) + 1) * slide;
    (0..)
        .map(move |n| first + n * slide)
        .take_while(move |end| *end - size <= time)
}

/// The entries of the log in order, each once, and the manifests.
///
/// # Errors
/// When a number was used twice, or an epoch is missing or there twice.
pub(super) fn read_log(world: &World) -> Result<(Vec<EpochEntry>, Vec<Manifest>), String> {
    let (mut epochs, mut manifests) = (Vec::new(), Vec::new());
    for (number, objects) in &world.log {
        // A takeover in a deleted place was given up.
        if objects.iter().skip(1).any(|object| !object.is_takeover()) {
            return Err(format!("log object {number} was written twice"));
        }
        for item in objects.iter().take(1).flat_map(|object| &object.items) {
            match item {
                LogItem::Epoch(entry) if entry.epoch.0 == epochs.len() as u64 => {
                    epochs.push(entry.clone());
                }
                LogItem::Epoch(entry) => {
                    let (found, due) = (entry.epoch, epochs.len());
                    return Err(format!("epoch {found} is in the log where {due} should be"));
                }
                LogItem::Manifest(manifest) => manifests.push((**manifest).clone()),
                LogItem::Takeover(_) | LogItem::Job(_) => {}
            }
        }
    }
    Ok((epochs, manifests))
}

impl Oracle {
    /// Works out what these epochs mean.
    ///
    /// # Errors
    /// When a decision is not what its definition says.
    pub(super) fn of(world: &World, epochs: &[EpochEntry]) -> Result<Self, String> {
        let mut oracle = Self {
            watermark: NEVER,
            ..Self::default()
        };
        for entry in epochs {
            oracle.epoch(world, entry)?;
        }
        if !oracle.has_floors && pure(world, epochs) != oracle.windows {
            return Err("the windows are no function of the input".to_owned());
        }
        Ok(oracle)
    }

    fn epoch(&mut self, world: &World, entry: &EpochEntry) -> Result<(), String> {
        let (shape, epoch) = (&world.shape, entry.epoch.0);
        let mut changed = BTreeSet::new();
        for row in &entry.partitions {
            let partition = row.partition.0 as usize;
            let (from, to) = (row.from.0 as usize, row.to.0 as usize);
            let place = *self.places.entry(partition).or_insert(START);
            if row.is_located && place.offset != from {
                let due = place.offset;
                return Err(format!(
                    "epoch {epoch}: partition {partition} begins at {from}, not at {due}"
                ));
            }
            for offset in from..to {
                let item = world.input[partition][offset];
                self.record(shape, epoch, (partition, offset, &item), &mut changed)?;
            }
        }
        self.check_watermark(shape, entry)?;
        self.border(shape, entry, &changed);
        Ok(())
    }

    fn record(
        &mut self,
        shape: &Shape,
        epoch: u64,
        (partition, offset, item): (usize, usize, &Item),
        changed: &mut BTreeSet<WindowKey>,
    ) -> Result<(), String> {
        let place = self
            .places
            .get_mut(&partition)
            .ok_or("an unknown partition")?;
        let effect = item.time.max(place.watermark(shape.wait));
        self.has_floors |= effect > item.time.max(place.own(shape.wait));
        place.largest = place.largest.max(item.time);
        place.offset = offset + 1;
        self.items.push((
            epoch,
            ItemRow {
                partition: partition as i64,
                offset: offset as i64,
                time: item.time,
                value: item.value,
            },
        ));
        let (mut on_time, mut kept) = (false, false);
        for end in ends(shape, item.time) {
            let is_on_time = effect < end;
            let is_kept = !is_on_time && effect < end + shape.keep;
            if !is_on_time && !is_kept {
                continue;
            }
            let closes = if is_on_time { end } else { end + shape.keep };
            if closes <= self.watermark {
                return Err(format!(
                    "epoch {epoch}: record {offset} of partition {partition} belongs to a pane \
                     that is closed"
                ));
            }
            (on_time, kept) = (on_time || is_on_time, kept || is_kept);
            let key = (end, end - shape.size, i64::from(item.key));
            let window = self.windows.entry(key).or_default();
            *window = (window.0 + 1, window.1 + item.value);
            changed.insert(key);
        }
        let fates = self.fates.entry(partition).or_default();
        match (on_time, kept) {
            (true, _) => fates.on_time += 1,
            (false, true) => fates.late_kept += 1,
            (false, false) => fates.late_dropped += 1,
        }
        Ok(())
    }

    fn check_watermark(&self, shape: &Shape, entry: &EpochEntry) -> Result<(), String> {
        let (epoch, watermark, before) = (entry.epoch, entry.watermark.0, self.watermark);
        if watermark < before {
            return Err(format!("W_{epoch} falls from {before} to {watermark}"));
        }
        if entry.ending == Some(Ending::Drained) {
            return Ok(());
        }
        let minimum = |also_ended: bool| {
            let active = entry.partitions.iter().filter(|row| match row.standing {
                Standing::Active => true,
                Standing::Idle => false,
                Standing::Ended => also_ended && row.max_event.0 != NEVER,
            });
            let watermarks = active.map(|row| {
                let place = self
                    .places
                    .get(&(row.partition.0 as usize))
                    .unwrap_or(&START);
                place.watermark(shape.wait)
            });
            watermarks.min().map(|least| match least {
                NEVER => before,
                least => before.max(least.div_euclid(shape.grain) * shape.grain),
            })
        };
        // Whether an ended partition has a say depends on whether the input is complete.
        let agrees = |minimum: Option<i64>| match minimum {
            Some(minimum) => watermark == minimum,
            None => watermark == before || shape.closes_on_idle,
        };
        if agrees(minimum(false)) || agrees(minimum(true)) {
            return Ok(());
        }
        let due = minimum(false);
        Err(format!(
            "W_{epoch} is {watermark}, and {due:?} by its definition"
        ))
    }

    fn border(&mut self, shape: &Shape, entry: &EpochEntry, changed: &BTreeSet<WindowKey>) {
        let (epoch, before, now) = (entry.epoch.0, self.watermark, entry.watermark.0);
        for (key, value) in &self.windows {
            let end = key.0;
            let fires = before < end && end <= now;
            if fires || (end <= before && changed.contains(key)) {
                if let Some(old) = self.shown.insert(*key, *value) {
                    self.changes.push((epoch, row(*key, old, -1)));
                }
                self.changes.push((epoch, row(*key, *value, 1)));
            }
            let last = end + shape.keep;
            if before < last && last <= now {
                self.finals.push((epoch, row(*key, *value, 1)));
            }
        }
        self.watermark = now;
        let has_no_say = |row: &&PartitionReport| row.standing != Standing::Active;
        let rows = entry.partitions.iter().filter(has_no_say);
        let without_say = rows.map(|row| row.partition);
        for partition in without_say.chain(entry.found.iter().map(|found| found.id)) {
            let place = self.places.entry(partition.0 as usize).or_insert(START);
            place.floor = place.floor.max(now);
        }
    }
}

/// The windows as the definition gives them when nothing but the input has a say.
fn pure(world: &World, epochs: &[EpochEntry]) -> BTreeMap<WindowKey, (i64, i64)> {
    let shape = &world.shape;
    let mut windows: BTreeMap<WindowKey, (i64, i64)> = BTreeMap::new();
    let mut read: BTreeMap<usize, usize> = BTreeMap::new();
    for row in epochs.iter().flat_map(|entry| &entry.partitions) {
        read.insert(row.partition.0 as usize, row.to.0 as usize);
    }
    for (partition, read) in read {
        let mut largest = NEVER;
        for item in &world.input[partition][..read] {
            let effect = if largest == NEVER {
                item.time
            } else {
                item.time.max(largest - shape.wait)
            };
            largest = largest.max(item.time);
            for end in ends(shape, item.time).filter(|end| effect < end + shape.keep) {
                let key = (end, end - shape.size, i64::from(item.key));
                let window = windows.entry(key).or_default();
                *window = (window.0 + 1, window.1 + item.value);
            }
        }
    }
    windows
}
