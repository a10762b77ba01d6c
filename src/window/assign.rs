//! Gives each record its fate and folds it into partial results.
//!
//! A record with event time `t` and effect time `tau` belongs on time to each window `[s, e)` with
//! `s <= t < e` and `tau < e`, as a revision where `e <= tau < e + keep`, and misses the others.
//!
//! * On time for all its windows (almost always): folded into its pane, once.
//! * Otherwise: folded into each window that it still reaches, one by one.
//!
//! Partial results are folded per slot and key before they travel, when that pays: with few keys
//! it halves the cost, with about one record per key and batch it would double it. The assigner
//! measures the reduction and stops folding for a while when it is below [`WORTH_FOLDING`].
//!
//! State: the partial results of the blocks since the last [`Assigner::take`]; nothing else.

use std::hash::{BuildHasher, Hash};

use hashbrown::HashTable;
use serde::{Deserialize, Serialize};

use super::{Late, WindowSpec};
use crate::aggregate::Aggregate;
use crate::ledger::{Fate, Fates};
use crate::time::EventTime;
use crate::wire::{FixedLayout, Raw3};

/// What a partial result is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Slot {
    /// All windows that hold the pane that starts here.
    Pane(EventTime),
    /// The on-time pane of the window that ends here.
    OnTime(EventTime),
    /// A revision of the window that ends here.
    Revision(EventTime),
}

/// What records of one key add to one slot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Partial<K, S> {
    /// Where it belongs.
    pub slot: Slot,
    /// The key.
    pub key: K,
    /// The aggregate over the records.
    pub state: S,
}

impl FixedLayout for Slot {
    type Raw = <(u8, EventTime) as FixedLayout>::Raw;

    #[inline(always)]
    fn to_raw(&self) -> Self::Raw {
        match *self {
            Self::Pane(start) => (0_u8, start).to_raw(),
            Self::OnTime(end) => (1_u8, end).to_raw(),
            Self::Revision(end) => (2_u8, end).to_raw(),
        }
    }

    #[inline(always)]
    fn from_raw(raw: Self::Raw) -> Option<Self> {
        match FixedLayout::from_raw(raw)? {
            (0_u8, start) => Some(Self::Pane(start)),
            (1, end) => Some(Self::OnTime(end)),
            (2, end) => Some(Self::Revision(end)),
            _ => None,
        }
    }
}

impl<K: FixedLayout, S: FixedLayout> FixedLayout for Partial<K, S> {
    type Raw = <(Slot, K, S) as FixedLayout>::Raw;

    #[inline(always)]
    fn to_raw(&self) -> Self::Raw {
        Raw3(self.slot.to_raw(), self.key.to_raw(), self.state.to_raw())
    }

    #[inline(always)]
    fn from_raw(raw: Self::Raw) -> Option<Self> {
        let (slot, key, state) = FixedLayout::from_raw(raw)?;
        Some(Self { slot, key, state })
    }
}

/// Folding goes on while a batch has at least this many records per partial result.
const WORTH_FOLDING: usize = 2;
/// So many batches are left unfolded before it is tried again.
const UNFOLDED_BATCHES: u32 = 64;

/// See the module.
pub struct Assigner<R, K, A: Aggregate<R>> {
    spec: WindowSpec,
    late: Late,
    aggregate: A,
    hasher: foldhash::fast::FixedState,
    index: HashTable<usize>,
    partials: Vec<Partial<K, A::State>>,
    last: usize,
    folded: usize,
    unfolded_batches: u32,
    window: CurrentPane,
}

/// The pane of the last record: the next one usually lies in it, too.
#[derive(Clone, Copy)]
struct CurrentPane {
    start: EventTime,
    end: EventTime,
    /// The earliest end of a window that holds the pane; `None` in a gap.
    first_end: Option<EventTime>,
}

impl<R, K: Copy + Eq + Hash, A: Aggregate<R>> Assigner<R, K, A> {
    /// For windows of this shape.
    pub fn new(spec: WindowSpec, late: Late, aggregate: A) -> Self {
        Self {
            spec,
            late,
            aggregate,
            hasher: foldhash::fast::FixedState::with_seed(0),
            index: HashTable::new(),
            partials: Vec::new(),
            last: usize::MAX,
            folded: 0,
            unfolded_batches: 0,
            window: CurrentPane {
                start: EventTime(0),
                end: EventTime(0),
                first_end: None,
            },
        }
    }

    /// Takes in a record and returns its fate, which is counted in `fates`.
    pub fn add(
        &mut self,
        time: EventTime,
        effect: EventTime,
        key: K,
        record: &R,
        fates: &mut Fates,
    ) -> Fate {
        if time < self.window.start || time >= self.window.end {
            self.move_to(time);
        }
        let fate = match self.window.first_end {
            None => Fate::NoWindow,
            Some(first_end) if effect < first_end => {
                self.fold(Slot::Pane(self.window.start), key, record);
                Fate::OnTime
            }
            Some(_) => self.add_to_each_window(time, effect, key, record, fates),
        };
        fates.add(fate, 1);
        fate
    }

    fn move_to(&mut self, time: EventTime) {
        let start = self.spec.pane_start(time);
        self.window = CurrentPane {
            start,
            end: start.plus(self.spec.pane()),
            first_end: self.spec.ends(time).next(),
        };
    }

    fn add_to_each_window(
        &mut self,
        time: EventTime,
        effect: EventTime,
        key: K,
        record: &R,
        fates: &mut Fates,
    ) -> Fate {
        let (mut on_time, mut kept) = (false, false);
        for end in self.spec.ends(time) {
            if effect < end {
                self.fold(Slot::OnTime(end), key, record);
                on_time = true;
            } else if effect < end.plus(self.spec.keep()) {
                self.fold(Slot::Revision(end), key, record);
                kept = true;
            } else {
                fates.late_windows += 1;
            }
        }
        match (on_time, kept, self.late) {
            (true, _, _) => Fate::OnTime,
            (false, true, _) => Fate::LateKept,
            (false, false, Late::Divert) => Fate::LateDiverted,
            (false, false, Late::Drop) => Fate::LateDropped,
        }
    }

    fn fold(&mut self, slot: Slot, key: K, record: &R) {
        self.folded += 1;
        if let Some(last) = self.partials.get_mut(self.last)
            && last.slot == slot
            && last.key == key
        {
            self.aggregate.add(&mut last.state, record);
            return;
        }
        self.last = if self.unfolded_batches > 0 {
            self.insert(slot, key)
        } else {
            self.find(slot, key)
        };
        self.aggregate
            .add(&mut self.partials[self.last].state, record);
    }

    fn insert(&mut self, slot: Slot, key: K) -> usize {
        self.partials.push(Partial {
            slot,
            key,
            state: self.aggregate.empty(),
        });
        self.partials.len() - 1
    }

    fn find(&mut self, slot: Slot, key: K) -> usize {
        let hash = self.hasher.hash_one((slot, key));
        let partials = &self.partials;
        let same = |at: &usize| partials[*at].slot == slot && partials[*at].key == key;
        if let Some(at) = self.index.find(hash, same) {
            return *at;
        }
        let at = self.insert(slot, key);
        let (partials, hasher) = (&self.partials, &self.hasher);
        let rehash = |at: &usize| hasher.hash_one((partials[*at].slot, partials[*at].key));
        self.index.insert_unique(hash, at, rehash);
        at
    }

    /// The partial results since the last call.
    pub fn take(&mut self) -> Vec<Partial<K, A::State>> {
        let partials = std::mem::take(&mut self.partials);
        if self.unfolded_batches > 0 {
            self.unfolded_batches -= 1;
        } else if partials.len() >= 1024 && self.folded < partials.len() * WORTH_FOLDING {
            self.unfolded_batches = UNFOLDED_BATCHES;
        }
        self.index.clear();
        self.folded = 0;
        self.last = usize::MAX;
        partials
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{Count, count};
    use crate::time::Span;

    fn assigner(size: i64, slide: i64, keep: i64) -> Assigner<(), u8, Count> {
        let spec = WindowSpec::new(Span(size), Span(slide), Span::ZERO, Span(keep));
        Assigner::new(spec.expect("valid"), Late::Divert, count())
    }

    fn add(assigner: &mut Assigner<(), u8, Count>, time: i64, effect: i64) -> (Fate, u64) {
        let mut fates = Fates::default();
        let fate = assigner.add(EventTime(time), EventTime(effect), 0, &(), &mut fates);
        (fate, fates.late_windows)
    }

    #[test]
    fn the_effect_time_decides_what_is_late() {
        let mut tumbling = assigner(10, 10, 5);
        assert_eq!(add(&mut tumbling, 3, 9), (Fate::OnTime, 0));
        assert_eq!(add(&mut tumbling, 3, 10), (Fate::LateKept, 0));
        assert_eq!(add(&mut tumbling, 3, 14), (Fate::LateKept, 0));
        assert_eq!(add(&mut tumbling, 3, 15), (Fate::LateDiverted, 1));
        let slots: Vec<_> = tumbling.take().iter().map(|p| (p.slot, p.state)).collect();
        assert_eq!(
            slots,
            [
                (Slot::Pane(EventTime(0)), 1),
                (Slot::Revision(EventTime(10)), 2)
            ]
        );
    }

    #[test]
    fn a_record_may_be_late_for_some_of_its_windows() {
        let mut hopping = assigner(15, 5, 0);
        // Time 12 lies in the windows that end at 15, 20 and 25.
        assert_eq!(add(&mut hopping, 12, 20), (Fate::OnTime, 2));
        let slots: Vec<_> = hopping.take().iter().map(|p| p.slot).collect();
        assert_eq!(slots, [Slot::OnTime(EventTime(25))]);
    }

    #[test]
    fn gaps_between_windows_are_no_window() {
        let mut gaps = assigner(5, 10, 0);
        assert_eq!(add(&mut gaps, 4, 4).0, Fate::OnTime);
        assert_eq!(add(&mut gaps, 5, 5).0, Fate::NoWindow);
        assert_eq!(add(&mut gaps, 10, 10).0, Fate::OnTime);
    }

    #[test]
    fn many_keys_are_not_folded_and_few_are() {
        let spec = WindowSpec::tumbling(Span(10)).expect("valid");
        let mut assigner: Assigner<(), u32, Count> = Assigner::new(spec, Late::Drop, count());
        let mut fates = Fates::default();
        for round in 0..3 {
            for key in 0..5000 {
                assigner.add(EventTime(0), EventTime(0), key, &(), &mut fates);
            }
            assert_eq!(assigner.take().len(), 5000, "round {round}");
        }
        assert!(assigner.unfolded_batches > 0);
        assigner.unfolded_batches = 0;
        for key in 0..5000 {
            assigner.add(EventTime(0), EventTime(0), key % 7, &(), &mut fates);
        }
        assert_eq!(assigner.take().len(), 7);
        assert_eq!(fates.on_time, 20_000);
    }
}
