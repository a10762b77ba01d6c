//! The windows of the keys of one worker.
//!
//! At the border of epoch `k` with border watermark `W_k`, the changes of the epoch are, for each
//! window that ends at `e` and each key in it:
//!
//! ```text
//! +new            the first time, in the first k with W_k >= e
//! -old, +new      in each later epoch with a revision, until W_k >= e + keep
//! ```
//!
//! so that an epoch's output is a function of the records of the epochs up to it and of the logged
//! `W`, never of the frontier that somebody happened to see. A pane and its revisions in one epoch
//! give one row, the last. Where somebody waits for results that are final, a change with `diff` 0
//! says that the result emitted before is: in the first `k` with `W_k >= e + keep`.
//!
//! State held: panes until the last window that holds them has fired; with `keep`, the fired
//! windows until `W_k >= e + keep`. Cost: one hash look-up per partial result, one merge per pane
//! and window when it fires.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;

use hashbrown::{HashMap, HashSet};

use super::{Entry, Partial, Place, Slot, WindowSpec};
use crate::aggregate::Aggregate;
use crate::epoch::EpochEntry;
use crate::rows::{Pane, Timing};
use crate::time::EventTime;
use crate::wire::{FixedLayout, Raw6};

/// A change of a window's result for one key.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Change<K, V> {
    /// The window's start.
    pub start: EventTime,
    /// The window's end.
    pub end: EventTime,
    /// The key.
    pub key: K,
    /// The result.
    pub value: V,
    /// What is known about the pane.
    pub pane: Pane,
    /// +1, -1 for a result that is withdrawn, 0 for one that stands and has become final.
    pub diff: i64,
}

impl<K: FixedLayout, V: FixedLayout> FixedLayout for Change<K, V> {
    type Raw = <(EventTime, EventTime, K, V, Pane, i64) as FixedLayout>::Raw;

    #[inline(always)]
    fn to_raw(&self) -> Self::Raw {
        Raw6(
            self.start.to_raw(),
            self.end.to_raw(),
            self.key.to_raw(),
            self.value.to_raw(),
            self.pane.to_raw(),
            self.diff,
        )
    }

    #[inline(always)]
    fn from_raw(raw: Self::Raw) -> Option<Self> {
        let (start, end, key, value, pane, diff) = FixedLayout::from_raw(raw)?;
        Some(Self {
            start,
            end,
            key,
            value,
            pane,
            diff,
        })
    }
}

type Map<K, V> = HashMap<K, V, foldhash::fast::FixedState>;

/// A partial result, and whether it has changed since the last checkpoint.
struct Cell<S> {
    state: S,
    is_touched: bool,
}

/// What reached a window apart from its panes.
struct Extra<S> {
    on_time: Option<S>,
    revision: Option<S>,
}

impl<S> Default for Extra<S> {
    fn default() -> Self {
        Self {
            on_time: None,
            revision: None,
        }
    }
}

/// A result that was emitted and may still be revised.
struct Fired<S> {
    state: S,
    pane: Pane,
}

/// See the module.
pub struct WindowState<R, K, A: Aggregate<R>> {
    spec: WindowSpec,
    aggregate: A,
    panes: BTreeMap<EventTime, Map<K, Cell<A::State>>>,
    extras: BTreeMap<EventTime, Map<K, Extra<A::State>>>,
    fired: BTreeMap<EventTime, Map<K, Fired<A::State>>>,
    watermark: EventTime,
    /// What has changed since the last checkpoint; `None`: nobody asks.
    touched: Option<Vec<(Place, K)>>,
    says_final: bool,
}

impl<R, K: Copy + Ord + Hash, A: Aggregate<R>> WindowState<R, K, A> {
    /// Without any window.
    pub fn new(spec: WindowSpec, aggregate: A) -> Self {
        Self {
            touched: None,
            says_final: false,
            spec,
            aggregate,
            panes: BTreeMap::new(),
            extras: BTreeMap::new(),
            fired: BTreeMap::new(),
            watermark: EventTime::MIN,
        }
    }

    /// Notes from now on what changes, for [`WindowState::checkpoint`].
    #[must_use]
    pub fn with_checkpoints(mut self) -> Self {
        self.touched = Some(Vec::new());
        self
    }

    /// Says from now on when a result that was emitted before becomes final.
    #[must_use]
    pub const fn with_finals(mut self) -> Self {
        self.says_final = true;
        self
    }

    /// Goes on where a checkpoint at border watermark `watermark` was made; before the entries are
    /// put back with [`WindowState::restore`].
    pub const fn resume(&mut self, watermark: EventTime) {
        self.watermark = watermark;
    }

    /// Puts an entry of a checkpoint back, in place of an older one. What no window needs any more
    /// at the border watermark is left out.
    pub fn restore(&mut self, place: Place, key: K, entry: Entry<A::State>) {
        let (spec, watermark) = (self.spec, self.watermark);
        match (place, entry) {
            (Place::Pane(start), Entry::Pane(state))
                if spec.last_end(start).is_some_and(|end| end > watermark) =>
            {
                let is_touched = false;
                let pane = self.panes.entry(start).or_default();
                pane.insert(key, Cell { state, is_touched });
            }
            (Place::Extra(end), Entry::Extra { on_time, revision }) if end > watermark => {
                let extras = self.extras.entry(end).or_default();
                extras.insert(key, Extra { on_time, revision });
            }
            (Place::Fired(end), Entry::Fired { state, pane })
                if end.plus(spec.keep()) > watermark =>
            {
                let fired = self.fired.entry(end).or_default();
                fired.insert(key, Fired { state, pane });
            }
            _ => {}
        }
    }

    /// Gives `emit` what has changed since the last checkpoint, or everything, between two epochs.
    pub fn checkpoint(&mut self, is_full: bool, mut emit: impl FnMut(Place, K, Entry<A::State>)) {
        let touched = self.touched.as_mut().map(std::mem::take);
        if is_full {
            self.emit_all(&mut emit);
            return;
        }
        for (place, key) in touched.unwrap_or_default() {
            // What is gone since is not needed any more.
            if let Some(entry) = self.entry(place, key) {
                emit(place, key, entry);
            }
        }
    }

    fn entry(&mut self, place: Place, key: K) -> Option<Entry<A::State>> {
        match place {
            Place::Pane(start) => {
                let cell = self.panes.get_mut(&start)?.get_mut(&key)?;
                cell.is_touched = false;
                Some(Entry::Pane(cell.state.clone()))
            }
            Place::Extra(end) => self.extras.get(&end)?.get(&key).map(Extra::entry),
            Place::Fired(end) => self.fired.get(&end)?.get(&key).map(Fired::entry),
        }
    }

    fn emit_all(&mut self, emit: &mut impl FnMut(Place, K, Entry<A::State>)) {
        for (start, pane) in &mut self.panes {
            for (key, cell) in pane {
                cell.is_touched = false;
                emit(Place::Pane(*start), *key, Entry::Pane(cell.state.clone()));
            }
        }
        for (end, extras) in &self.extras {
            let entries = extras.iter().map(|(key, extra)| (*key, extra.entry()));
            entries.for_each(|(key, entry)| emit(Place::Extra(*end), key, entry));
        }
        for (end, fired) in &self.fired {
            let entries = fired.iter().map(|(key, fired)| (*key, fired.entry()));
            entries.for_each(|(key, entry)| emit(Place::Fired(*end), key, entry));
        }
    }

    fn touch(touched: &mut Option<Vec<(Place, K)>>, place: Place, key: K) {
        if let Some(touched) = touched {
            touched.push((place, key));
        }
    }

    /// How many windows hold records and have not fired.
    pub fn open_windows(&self) -> usize {
        let (mut windows, mut counted) = (0, self.watermark);
        for start in self.panes.keys() {
            let Some(last) = self.spec.last_end(*start) else {
                continue;
            };
            // Panes come in order, and so do the ends of their windows.
            let first = self.spec.ends_between(*start, counted, last).next();
            if let Some(first) = first {
                windows += ((last.0 - first.0) / self.spec.slide().0 + 1) as usize;
                counted = last;
            }
        }
        windows
    }

    /// How much is held: one entry per pane or window, and key.
    pub fn entries(&self) -> usize {
        let panes = self.panes.values().map(HashMap::len);
        let extras = self.extras.values().map(HashMap::len);
        let fired = self.fired.values().map(HashMap::len);
        panes.chain(extras).chain(fired).sum()
    }

    /// Takes in a partial result of the epoch that is open.
    pub fn absorb(&mut self, partial: &Partial<K, A::State>) {
        let aggregate = &self.aggregate;
        match partial.slot {
            Slot::Pane(start) => {
                let cell = self.panes.entry(start).or_default().entry(partial.key);
                let cell = cell.or_insert_with(|| Cell {
                    state: aggregate.empty(),
                    is_touched: false,
                });
                aggregate.merge(&mut cell.state, &partial.state);
                if !std::mem::replace(&mut cell.is_touched, true) {
                    Self::touch(&mut self.touched, Place::Pane(start), partial.key);
                }
            }
            Slot::OnTime(end) => {
                let extra = self
                    .extras
                    .entry(end)
                    .or_default()
                    .entry(partial.key)
                    .or_default();
                merge_option(aggregate, &mut extra.on_time, &partial.state);
                Self::touch(&mut self.touched, Place::Extra(end), partial.key);
            }
            Slot::Revision(end) => {
                let extra = self
                    .extras
                    .entry(end)
                    .or_default()
                    .entry(partial.key)
                    .or_default();
                merge_option(aggregate, &mut extra.revision, &partial.state);
                Self::touch(&mut self.touched, Place::Extra(end), partial.key);
            }
        }
    }

    /// The epoch is complete: its changes, ordered by end, start, key, withdrawals first.
    pub fn close(&mut self, entry: &EpochEntry) -> Vec<Change<K, A::Output>> {
        let mut changes = Vec::new();
        for end in self.due(entry.watermark) {
            let first = changes.len();
            if end > self.watermark {
                self.fire(end, entry, &mut changes);
            } else {
                self.revise(end, entry, &mut changes);
            }
            changes[first..].sort_by_key(|change| (change.key, change.diff));
        }
        self.watermark = entry.watermark;
        self.forget(&mut changes);
        changes
    }

    /// The ends of the windows that fire or are revised when the border watermark is `watermark`.
    fn due(&self, watermark: EventTime) -> BTreeSet<EventTime> {
        let panes = self.panes.range(..watermark).map(|(start, _)| *start);
        let fresh =
            panes.flat_map(|start| self.spec.ends_between(start, self.watermark, watermark));
        let revised = self.extras.range(..=watermark).map(|(end, _)| *end);
        fresh.chain(revised).collect()
    }

    fn fire(
        &mut self,
        end: EventTime,
        entry: &EpochEntry,
        changes: &mut Vec<Change<K, A::Output>>,
    ) {
        let mut results = self.merged_panes(end);
        let mut late_only = HashSet::new();
        for (key, extra) in self.extras.remove(&end).unwrap_or_default() {
            if extra.on_time.is_none() && !results.contains_key(&key) {
                late_only.insert(key);
            }
            for part in extra.on_time.iter().chain(&extra.revision) {
                let aggregate = &self.aggregate;
                let state = results.entry(key).or_insert_with(|| aggregate.empty());
                aggregate.merge(state, part);
            }
        }
        let pane = self.pane(end, entry, Timing::OnTime, 0);
        for (key, state) in &results {
            let timing = if late_only.contains(key) {
                Timing::Late
            } else {
                Timing::OnTime
            };
            changes.push(self.change(end, *key, state, Pane { timing, ..pane }, 1));
        }
        if !pane.is_final {
            let timing = |key: &K| {
                if late_only.contains(key) {
                    Timing::Late
                } else {
                    Timing::OnTime
                }
            };
            let keep = |(key, state)| {
                let pane = Pane {
                    timing: timing(&key),
                    ..pane
                };
                (key, Fired { state, pane })
            };
            let results = results.into_iter();
            let fired: Map<K, Fired<A::State>> = results.map(keep).collect();
            for key in fired.keys() {
                Self::touch(&mut self.touched, Place::Fired(end), *key);
            }
            self.fired.insert(end, fired);
        }
    }

    fn merged_panes(&mut self, end: EventTime) -> Map<K, A::State> {
        let start = self.spec.start_of(end);
        if self.spec.pane() == self.spec.size() && self.spec.slide() >= self.spec.size() {
            let pane = self.panes.remove(&start).unwrap_or_default();
            return pane
                .into_iter()
                .map(|(key, cell)| (key, cell.state))
                .collect();
        }
        let mut merged: Map<K, A::State> = Map::default();
        for (_, pane) in self.panes.range(start..end) {
            for (key, cell) in pane {
                let into = merged.entry(*key).or_insert_with(|| self.aggregate.empty());
                self.aggregate.merge(into, &cell.state);
            }
        }
        merged
    }

    fn revise(
        &mut self,
        end: EventTime,
        entry: &EpochEntry,
        changes: &mut Vec<Change<K, A::Output>>,
    ) {
        for (key, extra) in self.extras.remove(&end).unwrap_or_default() {
            debug_assert!(
                extra.on_time.is_none(),
                "on time for a window that has fired"
            );
            let Some(revision) = extra.revision else {
                continue;
            };
            let old = self
                .fired
                .get_mut(&end)
                .and_then(|fired| fired.remove(&key));
            let index = old.as_ref().map_or(0, |old| old.pane.index + 1);
            let mut pane = self.pane(end, entry, Timing::Late, index);
            let mut state = revision;
            if let Some(old) = old {
                // What made the window complete does not change afterwards.
                pane.complete = old.pane.complete;
                changes.push(self.change(end, key, &old.state, old.pane, -1));
                self.aggregate.merge(&mut state, &old.state);
            }
            changes.push(self.change(end, key, &state, pane, 1));
            self.fired
                .entry(end)
                .or_default()
                .insert(key, Fired { state, pane });
            Self::touch(&mut self.touched, Place::Fired(end), key);
        }
    }

    /// Results that were not known to be final when they were emitted.
    fn say_final(
        &self,
        end: EventTime,
        fired: Map<K, Fired<A::State>>,
        changes: &mut Vec<Change<K, A::Output>>,
    ) {
        let first = changes.len();
        for (key, Fired { state, pane }) in fired.into_iter().filter(|it| !it.1.pane.is_final) {
            let is_final = true;
            let change = self.change(end, key, &state, Pane { is_final, ..pane }, 0);
            changes.push(change);
        }
        changes[first..].sort_by_key(|change| change.key);
    }

    fn pane(&self, end: EventTime, entry: &EpochEntry, timing: Timing, index: u32) -> Pane {
        let is_final = end.plus(self.spec.keep()) <= entry.watermark;
        Pane {
            timing,
            index,
            is_final,
            complete: entry.completeness(end),
        }
    }

    fn change(
        &self,
        end: EventTime,
        key: K,
        state: &A::State,
        pane: Pane,
        diff: i64,
    ) -> Change<K, A::Output> {
        let start = self.spec.start_of(end);
        Change {
            start,
            end,
            key,
            value: self.aggregate.finish(state),
            pane,
            diff,
        }
    }

    /// Frees panes that no window needs any more, and windows that are final.
    fn forget(&mut self, changes: &mut Vec<Change<K, A::Output>>) {
        let (spec, watermark) = (self.spec, self.watermark);
        while let Some(first) = self.panes.first_entry()
            && spec
                .last_end(*first.key())
                .is_none_or(|end| end <= watermark)
        {
            first.remove();
        }
        while let Some(first) = self.fired.first_entry()
            && first.key().plus(spec.keep()) <= watermark
        {
            let (end, fired) = first.remove_entry();
            if self.says_final {
                self.say_final(end, fired, changes);
            }
        }
    }
}

impl<S: Clone> Extra<S> {
    fn entry(&self) -> Entry<S> {
        Entry::Extra {
            on_time: self.on_time.clone(),
            revision: self.revision.clone(),
        }
    }
}

impl<S: Clone> Fired<S> {
    fn entry(&self) -> Entry<S> {
        Entry::Fired {
            state: self.state.clone(),
            pane: self.pane,
        }
    }
}

fn merge_option<R, A: Aggregate<R>>(aggregate: &A, into: &mut Option<A::State>, part: &A::State) {
    match into {
        Some(state) => aggregate.merge(state, part),
        None => *into = Some(part.clone()),
    }
}
