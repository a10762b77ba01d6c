//! Each record once.
//!
//! Two records are copies of one when they have the same key and the same event time. Copies that
//! are admitted are held until they are [settled](super::settle); then the copy with the smallest
//! place (partition, offset) goes on, and the others were duplicates. All copies on time are there
//! by then, so which one goes on does not depend on how partitions and epochs have interleaved, nor
//! does whether any does: a record counts if some copy of it is on time. A copy that is late in its
//! own partition is late, and no duplicate, whatever became of the others.
//!
//! The fate `duplicate` is decided with the epoch in which a copy is read: the first copy, by epoch
//! and place, is on time, and the others are duplicates. So the sums of fates over all partitions
//! are a function of the log, and where copies lie in different partitions it is the recorded
//! epochs that say in which of them the duplicate is counted.
//!
//! Records without a key are not compared with anything, and go on in their own epoch.
//!
//! State: one record per identity of windows that have not ended. Nothing is remembered longer:
//! what comes later is late. Cost: one hash look-up per record.

use std::collections::BTreeMap;
use std::hash::Hash;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::WindowSpec;
use super::settle::{EmitEntry, Placed, Settle};
use crate::ledger::Fate;
use crate::time::EventTime;

type Map<K, V> = HashMap<K, V, foldhash::fast::FixedState>;

/// See the module.
pub struct Deduplicator<R, K> {
    spec: WindowSpec,
    /// The records by the end of their first window, event time and key.
    held: BTreeMap<EventTime, Map<(EventTime, K), Placed<R>>>,
    /// Records of the open epoch that have no key.
    keyless: Vec<Placed<R>>,
    watermark: EventTime,
    /// What was held since the last checkpoint; `None`: nobody asks.
    touched: Option<Vec<(EventTime, K)>>,
}

impl<R, K> Deduplicator<R, K> {
    /// For records of windows of this shape; `has_checkpoints`: what changes is noted for them.
    pub const fn new(spec: WindowSpec, has_checkpoints: bool) -> Self {
        Self {
            spec,
            held: BTreeMap::new(),
            keyless: Vec::new(),
            watermark: EventTime::MIN,
            touched: if has_checkpoints {
                Some(Vec::new())
            } else {
                None
            },
        }
    }
}

impl<R, K> Settle<R> for Deduplicator<R, K>
where
    R: Clone + Serialize + DeserializeOwned + 'static,
    K: Copy + Ord + Hash + Serialize + DeserializeOwned + 'static,
{
    type Key = K;
    /// The event time.
    type Place = EventTime;
    type Entry = Placed<R>;
    type Output = R;

    fn resume(&mut self, watermark: EventTime) {
        self.watermark = watermark;
    }

    fn absorb(&mut self, key: Option<K>, record: Placed<R>) -> Fate {
        let first_end = self.spec.ends(record.time).next();
        let (Some(key), Some(first_end)) = (key, first_end) else {
            self.keyless.push(record);
            return Fate::OnTime;
        };
        debug_assert!(
            first_end > self.watermark,
            "admitted to a window that has ended"
        );
        let identity = (record.time, key);
        let (fate, is_kept) = match self.held.entry(first_end).or_default().entry(identity) {
            Entry::Vacant(entry) => {
                entry.insert(record);
                (Fate::OnTime, true)
            }
            Entry::Occupied(mut entry) => {
                let is_smaller = record.place() < entry.get().place();
                if is_smaller {
                    entry.insert(record);
                }
                (Fate::Duplicate, is_smaller)
            }
        };
        if is_kept && let Some(touched) = &mut self.touched {
            touched.push(identity);
        }
        fate
    }

    fn settle(&mut self, watermark: EventTime) -> Vec<Placed<R>> {
        let mut settled = std::mem::take(&mut self.keyless);
        while let Some(first) = self.held.first_entry()
            && *first.key() <= watermark
        {
            settled.extend(first.remove().into_values());
        }
        self.watermark = watermark;
        settled
    }

    fn checkpoint(&mut self, is_full: bool, emit: &mut EmitEntry<'_, R, Self>) {
        let touched = self
            .touched
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default();
        if is_full {
            let held = self.held.values().flatten();
            held.for_each(|((time, key), record)| emit(*key, *time, record.clone()));
            return;
        }
        for (time, key) in touched {
            let held = self.spec.ends(time).next();
            let held = held.and_then(|end| self.held.get(&end)?.get(&(time, key)));
            // What is gone since is settled.
            if let Some(record) = held {
                emit(key, time, record.clone());
            }
        }
    }

    fn restore(&mut self, key: K, time: EventTime, record: Placed<R>) {
        if let Some(end) = self.spec.ends(time).next()
            && end > self.watermark
        {
            self.held
                .entry(end)
                .or_default()
                .insert((time, key), record);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::time::{Offset, PartitionId, Span};

    type Dedup = Deduplicator<char, u8>;

    fn dedup() -> Dedup {
        Deduplicator::new(WindowSpec::tumbling(Span(10)).unwrap(), true)
    }

    fn record(place: (u32, u64), time: i64, value: char) -> Placed<char> {
        Placed {
            partition: PartitionId(place.0),
            offset: Offset(place.1),
            time: EventTime(time),
            effect: EventTime(time),
            value,
        }
    }

    fn settled(dedup: &mut Dedup, watermark: i64) -> String {
        let mut settled = dedup.settle(EventTime(watermark));
        settled.sort_by_key(|record| (record.time, record.place()));
        settled.iter().map(|record| record.value).collect()
    }

    #[test]
    fn of_copies_the_one_with_the_smallest_place_goes_on_when_its_window_ends() {
        let mut dedup = dedup();
        assert_eq!(dedup.absorb(Some(7), record((1, 5), 3, 'b')), Fate::OnTime);
        assert_eq!(settled(&mut dedup, 9), "");
        // In a later epoch, from another partition.
        assert_eq!(
            dedup.absorb(Some(7), record((0, 9), 3, 'a')),
            Fate::Duplicate
        );
        assert_eq!(
            dedup.absorb(Some(7), record((1, 6), 3, 'c')),
            Fate::Duplicate
        );
        assert_eq!(settled(&mut dedup, 10), "a");
        assert!(dedup.held.is_empty(), "nothing is remembered");
    }

    #[test]
    fn another_key_or_time_is_another_record() {
        let mut dedup = dedup();
        let records = [(7, 3, 'a'), (8, 3, 'b'), (7, 4, 'c'), (7, 13, 'd')];
        for ((key, time, value), offset) in records.into_iter().zip(0..) {
            let fate = dedup.absorb(Some(key), record((0, offset), time, value));
            assert_eq!(fate, Fate::OnTime);
        }
        assert_eq!(settled(&mut dedup, 12), "abc");
        assert_eq!(settled(&mut dedup, 20), "d");
    }

    #[test]
    fn records_without_a_key_go_on_at_once_and_all() {
        let mut dedup = dedup();
        for offset in 0..2 {
            let fate = dedup.absorb(None, record((0, offset), 3, 'x'));
            assert_eq!(fate, Fate::OnTime);
        }
        assert_eq!(settled(&mut dedup, 0), "xx");
        assert_eq!(settled(&mut dedup, 10), "");
    }

    /// What a checkpoint holds.
    fn entries(dedup: &mut Dedup, is_full: bool) -> Vec<(u8, EventTime, Placed<char>)> {
        let mut entries = Vec::new();
        dedup.checkpoint(is_full, &mut |key, place, entry| {
            entries.push((key, place, entry));
        });
        entries
    }

    #[test]
    fn a_checkpoint_holds_what_has_changed_and_what_is_settled_is_not_restored() {
        let mut dedup = dedup();
        dedup.absorb(Some(1), record((1, 0), 3, 'b'));
        dedup.absorb(Some(2), record((0, 1), 13, 'x'));
        let mut kept = entries(&mut dedup, false);
        assert_eq!(kept.len(), 2);
        assert_eq!(entries(&mut dedup, false), []);
        dedup.absorb(Some(1), record((0, 2), 3, 'a'));
        dedup.absorb(Some(1), record((2, 0), 3, 'c'));
        let changed = entries(&mut dedup, false);
        assert_eq!(changed.len(), 1, "a copy that is not kept changes nothing");
        kept.extend(changed);
        assert_eq!(entries(&mut dedup, true).len(), 2);
        let restored = |watermark| {
            let mut restored = self::dedup();
            restored.resume(EventTime(watermark));
            let put = |(key, place, entry)| restored.restore(key, place, entry);
            kept.clone().into_iter().for_each(put);
            settled(&mut restored, 20)
        };
        assert_eq!(restored(9), "ax", "the later entry counts");
        assert_eq!(restored(10), "x");
    }

    proptest! {
        /// However the records are spread over epochs, and in whichever order the epochs come, the
        /// same go on, and as many are duplicates.
        #[test]
        fn what_goes_on_does_not_depend_on_epochs(
            records in proptest::collection::vec((0_u32..3, 0_i64..40, 0_u8..3), 1..60),
            turns in proptest::collection::vec(0_usize..5, 60),
        ) {
            let records: Vec<_> = records
                .iter()
                .zip(0..)
                .map(|((partition, time, key), offset)| (*key, record((*partition, offset), *time, 'r')))
                .collect();
            let run = |epochs: Vec<Vec<usize>>| {
                let (mut dedup, mut duplicates) = (dedup(), 0);
                for epoch in epochs {
                    for at in epoch {
                        let (key, record) = records[at];
                        duplicates += u32::from(dedup.absorb(Some(key), record) == Fate::Duplicate);
                    }
                    assert!(dedup.settle(EventTime(0)).is_empty());
                }
                let mut places: Vec<_> = dedup.settle(EventTime(50)).iter().map(Placed::place).collect();
                places.sort();
                (places, duplicates)
            };
            let spread = (0..5).map(|turn| (0..records.len()).filter(|at| turns[*at] == turn).collect());
            prop_assert_eq!(run(spread.collect()), run(vec![(0..records.len()).rev().collect()]));
        }
    }
}
