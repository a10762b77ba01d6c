//! The watermark of one partition, a function of the partition's own prefix.
//!
//! For records in offset order with event times `t_0, t_1, ...`:
//!
//! ```text
//! w_i   = max(max over j < i of t_j - wait, floor)      the watermark before record i
//! tau_i = max(t_i, w_i)                                 when record i takes effect
//! ```
//!
//! A window `[s, e)` holds record `i` on time when `t_i` lies in it and `tau_i < e`. Which record
//! is late therefore depends on the prefix and on the logged floors alone: not on batches,
//! workers, other partitions or restarts.

use crate::time::{EventTime, Span};

/// Bounded out-of-orderness: the watermark stays `wait` behind the largest event time seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionWatermark {
    wait: Span,
    max_event: EventTime,
    floor: EventTime,
}

impl PartitionWatermark {
    /// Of a partition of which nothing was read.
    pub const fn new(wait: Span) -> Self {
        Self {
            wait,
            max_event: EventTime::MIN,
            floor: EventTime::MIN,
        }
    }

    /// Of a partition of which everything up to `max_event` was read, with the last floor that was
    /// decided for it.
    pub const fn resume(wait: Span, max_event: EventTime, floor: EventTime) -> Self {
        Self {
            wait,
            max_event,
            floor,
        }
    }

    /// No record of this partition takes effect before this any more.
    pub fn current(&self) -> EventTime {
        self.own().max(self.floor)
    }

    /// The watermark by the partition's own records, whatever floor was decided for it.
    pub fn own(&self) -> EventTime {
        if self.max_event == EventTime::MIN {
            EventTime::MIN
        } else {
            self.max_event.minus(self.wait)
        }
    }

    /// The largest event time seen; [`EventTime::MIN`] when there was no record.
    pub const fn max_event(&self) -> EventTime {
        self.max_event
    }

    /// The last floor that was decided.
    pub const fn floor(&self) -> EventTime {
        self.floor
    }

    /// Takes in the next record and returns its effect time `tau`.
    pub fn observe(&mut self, time: EventTime) -> EventTime {
        let effect = time.max(self.current());
        self.max_event = self.max_event.max(time);
        effect
    }

    /// The partition was idle, empty or new at a border: no record read after the border takes
    /// effect before `floor`.
    pub fn raise_floor(&mut self, floor: EventTime) {
        self.floor = self.floor.max(floor);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_watermark_trails_the_largest_time_by_wait() {
        let mut watermark = PartitionWatermark::new(Span(10));
        assert_eq!(watermark.current(), EventTime::MIN);
        assert_eq!(watermark.observe(EventTime(100)), EventTime(100));
        assert_eq!(watermark.current(), EventTime(90));
        assert_eq!(
            watermark.observe(EventTime(95)),
            EventTime(95),
            "late by less than wait"
        );
        assert_eq!(
            watermark.observe(EventTime(50)),
            EventTime(90),
            "takes effect at the watermark"
        );
        assert_eq!(watermark.current(), EventTime(90));
    }

    #[test]
    fn a_floor_holds_from_the_border_on_and_never_falls() {
        let mut watermark = PartitionWatermark::new(Span(10));
        watermark.raise_floor(EventTime(1000));
        watermark.raise_floor(EventTime(500));
        assert_eq!(watermark.observe(EventTime(20)), EventTime(1000));
        assert_eq!(watermark.own(), EventTime(10));
        assert_eq!(watermark.current(), EventTime(1000));
    }

    proptest! {
        /// Against the definition, written as it stands above.
        #[test]
        fn effect_times_are_those_of_the_definition(
            steps in proptest::collection::vec((any::<i16>(), prop::option::of(any::<i16>())), 0..60),
            wait in 0_i64..5000,
        ) {
            let mut watermark = PartitionWatermark::new(Span(wait));
            let (mut seen, mut floor) = (Vec::new(), i64::MIN);
            for (time, raised) in steps {
                let time = i64::from(time);
                if let Some(raised) = raised {
                    floor = floor.max(i64::from(raised));
                    watermark.raise_floor(EventTime(i64::from(raised)));
                }
                let before = seen.iter().max().map_or(i64::MIN, |max: &i64| max - wait).max(floor);
                let previous = watermark.current();
                prop_assert_eq!(watermark.observe(EventTime(time)).0, time.max(before));
                prop_assert!(watermark.current() >= previous, "never decreases");
                seen.push(time);
            }
        }
    }
}
