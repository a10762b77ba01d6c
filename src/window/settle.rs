//! Records that are held until nothing can come before them.
//!
//! With `e1(t)` the end of the first window that holds event time `t`, a record with effect time
//! `tau` is
//!
//! ```text
//! admitted      when tau < e1(t): it is on time for the first of its windows
//! settled       in the first epoch k with W_k >= e1(t)
//! ```
//!
//! All admitted records up to and including those of a window have been read when it ends, because
//! whatever is read later takes effect at its end or after it. So what an operator makes of the
//! settled records in the order of their times is a function of the log, however partitions,
//! workers and epochs have interleaved; and since a window fires in the epoch in which its records
//! are settled, nothing comes later because of it. A record that is late for the first of its
//! windows is late for all of them here.
//!
//! What waits is bounded by the watermark: the records of windows that have not ended.

use std::hash::Hash;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Late, WindowSpec};
use crate::ledger::{Fate, Fates};
use crate::time::{EventTime, Offset, PartitionId};
use crate::wire::FixedLayout;

/// A record with its times and the place from which it was read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Placed<R> {
    /// Its partition.
    pub partition: PartitionId,
    /// Its offset there.
    pub offset: Offset,
    /// Its event time `t`.
    pub time: EventTime,
    /// When it takes effect, `tau`.
    pub effect: EventTime,
    /// The rest.
    pub value: R,
}

impl<R> Placed<R> {
    /// Partition and offset.
    pub const fn place(&self) -> (PartitionId, Offset) {
        (self.partition, self.offset)
    }

    /// Another value at the same place and time.
    pub fn with<S>(&self, value: S) -> Placed<S> {
        Placed {
            partition: self.partition,
            offset: self.offset,
            time: self.time,
            effect: self.effect,
            value,
        }
    }
}

type PlacedTuple<R> = (PartitionId, Offset, EventTime, EventTime, R);

impl<R: FixedLayout> FixedLayout for Placed<R> {
    type Raw = <PlacedTuple<R> as FixedLayout>::Raw;

    #[inline(always)]
    fn to_raw(&self) -> Self::Raw {
        let value = self.value.clone();
        (self.partition, self.offset, self.time, self.effect, value).to_raw()
    }

    #[inline(always)]
    fn from_raw(raw: Self::Raw) -> Option<Self> {
        let (partition, offset, time, effect, value) = PlacedTuple::from_raw(raw)?;
        Some(Self {
            partition,
            offset,
            time,
            effect,
            value,
        })
    }
}

/// Says which records are admitted; see the module.
#[derive(Clone, Copy, Debug)]
pub struct Admission {
    spec: WindowSpec,
    late: Late,
}

impl Admission {
    /// To windows of this shape.
    pub const fn new(spec: WindowSpec, late: Late) -> Self {
        Self { spec, late }
    }

    /// The fate of a record that is not admitted, which is counted in `fates`; `None`: it is, and
    /// its fate is decided later.
    pub fn refuse(&self, time: EventTime, effect: EventTime, fates: &mut Fates) -> Option<Fate> {
        let fate = match (self.spec.ends(time).next(), self.late) {
            (Some(first_end), _) if effect < first_end => return None,
            (None, _) => Fate::NoWindow,
            (Some(_), Late::Divert) => Fate::LateDiverted,
            (Some(_), Late::Drop) => Fate::LateDropped,
        };
        fates.late_windows += self.spec.ends(time).count() as u64;
        fates.add(fate, 1);
        Some(fate)
    }
}

/// The state of an operator that holds records until they are settled: of the keys of one worker.
pub trait Settle<R>: 'static {
    /// What the records are grouped by.
    type Key: Copy + Ord + Hash + Serialize + DeserializeOwned + 'static;
    /// What tells the entries of a key apart in a checkpoint.
    type Place: Serialize + DeserializeOwned;
    /// An entry of a checkpoint.
    type Entry: Serialize + DeserializeOwned;
    /// What becomes of a record.
    type Output: Clone + 'static;

    /// Goes on behind a checkpoint at border watermark `watermark`; before
    /// [`Settle::restore`].
    fn resume(&mut self, watermark: EventTime);

    /// Takes in an admitted record of the open epoch and gives it its fate. Records of an epoch
    /// come in the order of their places.
    fn absorb(&mut self, key: Option<Self::Key>, record: Placed<R>) -> Fate;

    /// The epoch is complete, with this border watermark: what is settled.
    fn settle(&mut self, watermark: EventTime) -> Vec<Placed<Self::Output>>;

    /// Gives `emit` what has changed since the last checkpoint, or everything.
    fn checkpoint(&mut self, is_full: bool, emit: &mut EmitEntry<'_, R, Self>);

    /// Puts an entry back, in place of an older one with its key and place. What is settled at the
    /// border watermark is left out.
    fn restore(&mut self, key: Self::Key, place: Self::Place, entry: Self::Entry);
}

/// Takes the entries of a checkpoint.
pub type EmitEntry<'a, R, S> =
    dyn FnMut(<S as Settle<R>>::Key, <S as Settle<R>>::Place, <S as Settle<R>>::Entry) + 'a;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Span;

    #[test]
    fn only_what_is_on_time_for_its_first_window_is_admitted() {
        let spec = WindowSpec::new(Span(10), Span(5), Span::ZERO, Span::ZERO).unwrap();
        let judge = |time, effect| {
            let mut fates = Fates::default();
            let admission = Admission::new(spec, Late::Divert);
            let fate = admission.refuse(EventTime(time), EventTime(effect), &mut fates);
            (fate, fates.decided(), fates.late_windows)
        };
        // Time 7 lies in the windows that end at 10 and 15.
        assert_eq!(judge(7, 9), (None, 0, 0));
        assert_eq!(judge(7, 10), (Some(Fate::LateDiverted), 1, 2));
        let mut fates = Fates::default();
        let drops = Admission::new(spec, Late::Drop);
        let fate = drops.refuse(EventTime(7), EventTime(10), &mut fates);
        assert_eq!((fate, fates.late_dropped), (Some(Fate::LateDropped), 1));
        let gaps = WindowSpec::new(Span(5), Span(10), Span::ZERO, Span::ZERO).unwrap();
        let gaps = Admission::new(gaps, Late::Drop);
        let fate = gaps.refuse(EventTime(7), EventTime(7), &mut fates);
        assert_eq!(fate, Some(Fate::NoWindow));
    }
}
