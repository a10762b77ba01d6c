//! Each record with the one before it.
//!
//! The records of a key are taken in the order of `(t, partition, offset)`, once they are
//! [settled](super::settle). The record before one counts when it is at most `reach` older.
//!
//! ```text
//! previous(r) = the last r' of the same key with (t', place') < (t, place) and t - t' <= reach
//! ```
//!
//! State: the records of windows that have not ended, and of each key the last record that is
//! settled, until the watermark has passed it by `reach` and a window: as many as there are keys in
//! that stretch of time. Cost: one insertion into an ordered map per record.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;

use hashbrown::HashMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::WindowSpec;
use super::settle::{EmitEntry, Placed, Settle};
use crate::ledger::Fate;
use crate::time::{EventTime, Offset, PartitionId, Span};

/// A record with the one before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Successive<R> {
    /// The one before it, if there is one within reach.
    pub previous: Option<R>,
    /// The record.
    pub current: R,
}

/// Where an entry of a checkpoint belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LagPlace {
    /// A record that is not settled, by event time, partition and offset.
    Held(EventTime, PartitionId, Offset),
    /// The key's last settled record.
    Last,
}

/// The order in which records are settled, key by key.
type Position<K> = (K, EventTime, PartitionId, Offset);

/// See the module.
pub struct Lag<R, K> {
    spec: WindowSpec,
    reach: Span,
    /// The records by the end of their first window.
    held: BTreeMap<EventTime, BTreeMap<Position<K>, Placed<R>>>,
    last: HashMap<K, Placed<R>, foldhash::fast::FixedState>,
    /// The keys by the times of their last records.
    by_time: BTreeSet<(EventTime, K)>,
    watermark: EventTime,
    /// What has changed since the last checkpoint; `None`: nobody asks.
    touched: Option<BTreeSet<(K, LagPlace)>>,
}

impl<R: Clone, K: Copy + Ord + Hash> Lag<R, K> {
    /// For records of windows of this shape; `has_checkpoints`: what changes is noted for them.
    pub fn new(spec: WindowSpec, reach: Span, has_checkpoints: bool) -> Self {
        Self {
            spec,
            reach,
            held: BTreeMap::new(),
            last: HashMap::default(),
            by_time: BTreeSet::new(),
            watermark: EventTime::MIN,
            touched: has_checkpoints.then(BTreeSet::new),
        }
    }

    fn touch(&mut self, key: K, place: LagPlace) {
        if let Some(touched) = &mut self.touched {
            touched.insert((key, place));
        }
    }

    fn hold(&mut self, key: K, record: Placed<R>) {
        let Some(end) = self.spec.ends(record.time).next() else {
            return;
        };
        let position = (key, record.time, record.partition, record.offset);
        self.held.entry(end).or_default().insert(position, record);
    }

    /// Makes `record` the last one of `key`; returns the one before.
    fn succeed(&mut self, key: K, record: Placed<R>) -> Option<Placed<R>> {
        self.by_time.insert((record.time, key));
        let time = record.time;
        let previous = self.last.insert(key, record)?;
        if previous.time != time {
            self.by_time.remove(&(previous.time, key));
        }
        Some(previous)
    }

    /// Whether a record at `time` is out of reach for all that are not settled at `watermark`.
    fn is_out_of_reach(&self, time: EventTime, watermark: EventTime) -> bool {
        // What is not settled lies in a window that ends after the watermark.
        time.plus(self.reach) < watermark.minus(self.spec.size())
    }

    fn forget(&mut self) {
        while let Some((time, key)) = self.by_time.first().copied()
            && self.is_out_of_reach(time, self.watermark)
        {
            self.by_time.pop_first();
            self.last.remove(&key);
        }
    }

    fn entry(&self, key: K, place: LagPlace) -> Option<Placed<R>> {
        let LagPlace::Held(time, partition, offset) = place else {
            return self.last.get(&key).cloned();
        };
        let held = self.held.get(&self.spec.ends(time).next()?)?;
        held.get(&(key, time, partition, offset)).cloned()
    }
}

impl<R, K> Settle<R> for Lag<R, K>
where
    R: Clone + Serialize + DeserializeOwned + 'static,
    K: Copy + Ord + Hash + Serialize + DeserializeOwned + 'static,
{
    type Key = K;
    type Place = LagPlace;
    type Entry = Placed<R>;
    type Output = Successive<R>;

    fn resume(&mut self, watermark: EventTime) {
        self.watermark = watermark;
    }

    fn absorb(&mut self, key: Option<K>, record: Placed<R>) -> Fate {
        let Some(key) = key else {
            debug_assert!(false, "each record has a key here");
            return Fate::Filtered;
        };
        let place = LagPlace::Held(record.time, record.partition, record.offset);
        self.touch(key, place);
        self.hold(key, record);
        Fate::OnTime
    }

    fn settle(&mut self, watermark: EventTime) -> Vec<Placed<Successive<R>>> {
        let mut settled = Vec::new();
        while let Some(first) = self.held.first_entry()
            && *first.key() <= watermark
        {
            for ((key, ..), record) in first.remove() {
                let previous = self.succeed(key, record.clone());
                let reaches = |it: &Placed<R>| it.time.plus(self.reach) >= record.time;
                let previous = previous.filter(reaches).map(|it| it.value);
                let current = record.value.clone();
                settled.push(record.with(Successive { previous, current }));
                self.touch(key, LagPlace::Last);
            }
        }
        self.watermark = watermark;
        self.forget();
        settled
    }

    fn checkpoint(&mut self, is_full: bool, emit: &mut EmitEntry<'_, R, Self>) {
        let touched = self
            .touched
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default();
        if is_full {
            for ((key, time, partition, offset), record) in self.held.values().flatten() {
                let place = LagPlace::Held(*time, *partition, *offset);
                emit(*key, place, record.clone());
            }
            let last = self.last.iter();
            last.for_each(|(key, record)| emit(*key, LagPlace::Last, record.clone()));
            return;
        }
        for (key, place) in touched {
            // What is gone since is settled, or out of reach.
            if let Some(record) = self.entry(key, place) {
                emit(key, place, record);
            }
        }
    }

    fn restore(&mut self, key: K, place: LagPlace, record: Placed<R>) {
        let end = self.spec.ends(record.time).next();
        match place {
            LagPlace::Held(..) if end.is_some_and(|end| end > self.watermark) => {
                self.hold(key, record);
            }
            LagPlace::Last if !self.is_out_of_reach(record.time, self.watermark) => {
                self.succeed(key, record);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Windows of 10, and a reach of 25.
    fn lag() -> Lag<i64, u8> {
        let spec = WindowSpec::tumbling(Span(10)).unwrap();
        Lag::new(spec, Span(25), true)
    }

    /// A record whose value is its time.
    fn record(place: (u32, u64), time: i64) -> Placed<i64> {
        Placed {
            partition: PartitionId(place.0),
            offset: Offset(place.1),
            time: EventTime(time),
            effect: EventTime(time),
            value: time,
        }
    }

    fn add(lag: &mut Lag<i64, u8>, key: u8, times: &[i64]) {
        for time in times {
            let fate = lag.absorb(Some(key), record((0, *time as u64), *time));
            assert_eq!(fate, Fate::OnTime);
        }
    }

    /// Pairs of times.
    fn settled(lag: &mut Lag<i64, u8>, watermark: i64) -> Vec<(Option<i64>, i64)> {
        let settled = lag.settle(EventTime(watermark));
        let pair = |it: Placed<Successive<i64>>| (it.value.previous, it.value.current);
        settled.into_iter().map(pair).collect()
    }

    #[test]
    fn records_follow_one_another_by_their_times() {
        let mut lag = lag();
        add(&mut lag, 1, &[17, 4, 9]);
        assert_eq!(settled(&mut lag, 9), []);
        add(&mut lag, 1, &[2]);
        assert_eq!(
            settled(&mut lag, 10),
            [(None, 2), (Some(2), 4), (Some(4), 9)]
        );
        assert_eq!(settled(&mut lag, 20), [(Some(9), 17)]);
    }

    #[test]
    fn keys_have_nothing_to_do_with_one_another() {
        let mut lag = lag();
        add(&mut lag, 1, &[1]);
        add(&mut lag, 2, &[2, 3]);
        assert_eq!(settled(&mut lag, 10), [(None, 1), (None, 2), (Some(2), 3)]);
    }

    #[test]
    fn at_one_time_the_place_decides() {
        let mut lag = lag();
        for (place, value) in [((1, 0), 'c'), ((0, 7), 'b'), ((0, 3), 'a')] {
            let value = i64::from(value as u32);
            lag.absorb(
                Some(1),
                Placed {
                    value,
                    ..record(place, 5)
                },
            );
        }
        let [a, b, c] = ['a', 'b', 'c'].map(|it| i64::from(it as u32));
        assert_eq!(
            settled(&mut lag, 10),
            [(None, a), (Some(a), b), (Some(b), c)]
        );
    }

    #[test]
    fn what_is_out_of_reach_is_forgotten_and_what_is_within_is_not() {
        let mut lag = lag();
        add(&mut lag, 1, &[5]);
        add(&mut lag, 2, &[5]);
        settled(&mut lag, 10);
        add(&mut lag, 1, &[30]);
        assert_eq!(settled(&mut lag, 40), [(Some(5), 30)], "25 older");
        add(&mut lag, 1, &[56]);
        assert_eq!(settled(&mut lag, 60), [(None, 56)], "26 older");
        assert_eq!(lag.last.len(), 1, "key 2 has been silent for too long");
        assert_eq!(lag.by_time.len(), 1);
    }

    #[test]
    fn a_checkpoint_goes_on_where_it_was_made() {
        let mut lag = lag();
        let mut kept = Vec::new();
        let mut keep = |lag: &mut Lag<i64, u8>, is_full| {
            let before = kept.len();
            lag.checkpoint(is_full, &mut |key, place, entry| {
                kept.push((key, place, entry));
            });
            kept.len() - before
        };
        add(&mut lag, 1, &[5, 7, 15, 27]);
        assert_eq!(keep(&mut lag, false), 4);
        settled(&mut lag, 10);
        assert_eq!(keep(&mut lag, false), 1, "the last one");
        settled(&mut lag, 20);
        assert_eq!(keep(&mut lag, true), 2, "the last one and one that is held");
        let mut restored = self::lag();
        restored.resume(EventTime(20));
        for (key, place, entry) in kept {
            restored.restore(key, place, entry);
        }
        assert_eq!(restored.by_time.len(), 1);
        assert_eq!(settled(&mut restored, 30), settled(&mut lag, 30));
        assert_eq!(restored.last[&1].value, 27);
    }
}
