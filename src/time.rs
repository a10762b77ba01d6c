//! Times, epochs and the identity of partitions, offsets and shards.
//!
//! [`Time`] is the timestamp of the dataflow: a product of an epoch and an event time, partially
//! ordered. The `event` coordinate of a frontier is the watermark; its `epoch` coordinate is the
//! commit barrier. See DESIGN.md, "Why a product timestamp".

use std::fmt;

use differential_dataflow::lattice::Lattice;
use serde::{Deserialize, Serialize};
use timely::order::PartialOrder;
use timely::progress::timestamp::{PathSummary, Refines, Timestamp};

pub use self::local::{Date, LocalTime};
pub use self::text::{ParseTimeError, parse_duration, parse_rfc3339, parse_time};
pub use self::zone::Zone;

mod local;
mod text;
mod zone;

/// An instant in event time: milliseconds since 1970-01-01T00:00:00Z; negative before.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[repr(transparent)]
pub struct EventTime(pub i64);

impl EventTime {
    /// Before every record: the watermark of a partition of which nothing is known.
    pub const MIN: Self = Self(i64::MIN);
    /// After every record: the watermark at the declared end of input.
    pub const MAX: Self = Self(i64::MAX);

    /// This instant moved back by `duration`, saturating at [`EventTime::MIN`].
    #[must_use]
    pub fn minus(self, duration: Span) -> Self {
        Self(self.0.saturating_sub(duration.0))
    }

    /// This instant moved on by `duration`, saturating at [`EventTime::MAX`].
    #[must_use]
    pub fn plus(self, duration: Span) -> Self {
        Self(self.0.saturating_add(duration.0))
    }

    /// Whether this is an instant, and neither of the two ends.
    pub fn is_finite(self) -> bool {
        self != Self::MIN && self != Self::MAX
    }

    /// The largest multiple of `grain` at or before this instant; the two ends stay as they are.
    #[must_use]
    pub fn floor_to(self, grain: Span) -> Self {
        if !self.is_finite() {
            return self;
        }
        Self(self.0.div_euclid(grain.0).saturating_mul(grain.0))
    }
}

/// RFC 3339 in UTC with milliseconds, as in every output: `2024-01-01T00:00:00.000Z`.
impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut buffer = Vec::with_capacity(24);
        text::write_rfc3339(*self, &mut buffer);
        f.pad(&String::from_utf8_lossy(&buffer))
    }
}

impl EventTime {
    /// Appends the RFC 3339 text (UTC, milliseconds) of this instant to `out`.
    pub fn write_rfc3339(self, out: &mut Vec<u8>) {
        text::write_rfc3339(self, out);
    }
}

/// A length of event time in milliseconds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[repr(transparent)]
pub struct Span(pub i64);

impl Span {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// `seconds` seconds.
    pub const fn seconds(seconds: i64) -> Self {
        Self(seconds * 1000)
    }

    /// `minutes` minutes.
    pub const fn minutes(minutes: i64) -> Self {
        Self::seconds(minutes * 60)
    }
}

/// The shortest exact form in which [`parse_duration`] reads it: `15m`, `1m30s`, `250ms`.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&text::format_duration(*self))
    }
}

/// A short stretch of ingestion; the unit of logging and committing.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[repr(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A partition of an input: the partition number of a topic, or the rank of a file of a glob.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[repr(transparent)]
pub struct PartitionId(pub u32);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The position of a record in its partition: a Kafka offset, or the byte at which a line of a
/// (decompressed) file begins.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[repr(transparent)]
pub struct Offset(pub u64);

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A fixed part of a sink's output. Names and ids outside the process are made of shards, never of
/// workers, so that they survive a change of the number of workers.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[repr(transparent)]
pub struct Shard(pub u32);

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The timestamp of the dataflow: `(a, b) <= (c, d)` when `a <= c` and `b <= d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time {
    /// The epoch in which the source read the data.
    pub epoch: Epoch,
    /// A lower bound of the effect times of the data.
    pub event: EventTime,
}

impl Time {
    /// The time with these coordinates.
    pub const fn new(epoch: Epoch, event: EventTime) -> Self {
        Self { epoch, event }
    }
}

impl PartialOrder for Time {
    fn less_equal(&self, other: &Self) -> bool {
        self.epoch <= other.epoch && self.event <= other.event
    }
}

impl Timestamp for Time {
    type Summary = ();

    fn minimum() -> Self {
        Self::new(Epoch(0), EventTime::MIN)
    }
}

impl PathSummary<Time> for () {
    fn results_in(&self, src: &Time) -> Option<Time> {
        Some(*src)
    }

    fn followed_by(&self, _other: &Self) -> Option<Self> {
        Some(())
    }
}

impl Refines<()> for Time {
    fn to_inner((): ()) -> Self {
        Self::minimum()
    }

    fn to_outer(self) {}

    fn summarize((): ()) {}
}

impl Lattice for Time {
    fn join(&self, other: &Self) -> Self {
        Self::new(self.epoch.max(other.epoch), self.event.max(other.event))
    }

    fn meet(&self, other: &Self) -> Self {
        Self::new(self.epoch.min(other.epoch), self.event.min(other.event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_partially_ordered() {
        let a = Time::new(Epoch(5), EventTime(100));
        let b = Time::new(Epoch(6), EventTime(90));
        assert!(!a.less_equal(&b) && !b.less_equal(&a));
        assert_eq!(a.join(&b), Time::new(Epoch(6), EventTime(100)));
        assert_eq!(a.meet(&b), Time::new(Epoch(5), EventTime(90)));
    }

    #[test]
    fn flooring_is_right_before_1970() {
        assert_eq!(EventTime(-1).floor_to(Span(100)), EventTime(-100));
        assert_eq!(EventTime(199).floor_to(Span(100)), EventTime(100));
        assert_eq!(EventTime::MIN.floor_to(Span(100)), EventTime::MIN);
        assert_eq!(EventTime::MAX.floor_to(Span(100)), EventTime::MAX);
    }
}
