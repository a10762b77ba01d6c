//! The shape of windows: tumbling and hopping.

use thiserror::Error;

use crate::time::{EventTime, Span};

/// What happens to records that are late for all their windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// They go to the pipeline's late output.
    Divert,
    /// They are counted.
    Drop,
}

/// Windows `[n * slide + offset, n * slide + offset + size)` for each integer `n`.
///
/// `slide == size` is tumbling, `slide < size` hopping with overlaps, `slide > size` leaves gaps.
/// A record takes part in a window on time when its effect time is before the window's end, and
/// as a revision when it is less than `keep` after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSpec {
    size: Span,
    slide: Span,
    offset: Span,
    keep: Span,
}

/// Why a shape makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct WindowSpecError(String);

impl WindowSpec {
    /// Windows of `size`, one every `slide`, the first at `offset` after 1970, kept for `keep`.
    ///
    /// # Errors
    /// When size or slide is not positive, keep is negative, or a window would consist of more
    /// than 100,000 panes.
    pub fn new(size: Span, slide: Span, offset: Span, keep: Span) -> Result<Self, WindowSpecError> {
        let error = |text: String| Err(WindowSpecError(text));
        if size.0 <= 0 || slide.0 <= 0 {
            return error("a window's size and slide must be longer than 0".to_owned());
        }
        if keep.0 < 0 {
            return error("--keep must not be negative".to_owned());
        }
        let spec = Self {
            size,
            slide,
            offset: Span(offset.0.rem_euclid(slide.0)),
            keep,
        };
        let panes = size.0 / spec.pane().0;
        if panes > 100_000 {
            return error(format!(
                "a window of {size} every {slide} would be merged from {panes} panes of {}: choose a \
                 slide that shares a larger divisor with the size",
                spec.pane()
            ));
        }
        Ok(spec)
    }

    /// One window after the other.
    ///
    /// # Errors
    /// As [`WindowSpec::new`].
    pub fn tumbling(size: Span) -> Result<Self, WindowSpecError> {
        Self::new(size, size, Span::ZERO, Span::ZERO)
    }

    /// The length of a window.
    pub const fn size(&self) -> Span {
        self.size
    }

    /// The distance between window starts.
    pub const fn slide(&self) -> Span {
        self.slide
    }

    /// How long after its end a window accepts records.
    pub const fn keep(&self) -> Span {
        self.keep
    }

    /// The length of a pane, the piece of which windows are made: the greatest common divisor of
    /// size and slide.
    pub const fn pane(&self) -> Span {
        let (mut a, mut b) = (self.size.0, self.slide.0);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        Span(a)
    }

    /// The start of the pane that holds `time`.
    pub const fn pane_start(&self, time: EventTime) -> EventTime {
        let pane = self.pane().0;
        EventTime((time.0 - self.offset.0).div_euclid(pane) * pane + self.offset.0)
    }

    /// The ends of the windows that hold `time`, earliest first; none in a gap.
    pub fn ends(&self, time: EventTime) -> impl Iterator<Item = EventTime> + use<> {
        let (size, slide) = (self.size.0, self.slide.0);
        let last_start = (time.0 - self.offset.0).div_euclid(slide) * slide + self.offset.0;
        let windows = if last_start + size > time.0 {
            (last_start + size - time.0 - 1) / slide + 1
        } else {
            0
        };
        (0..windows)
            .rev()
            .map(move |back| EventTime(last_start - back * slide + size))
    }

    /// The latest end of a window that holds `time`; `None` in a gap.
    pub const fn last_end(&self, time: EventTime) -> Option<EventTime> {
        let (size, slide) = (self.size.0, self.slide.0);
        let last_start = (time.0 - self.offset.0).div_euclid(slide) * slide + self.offset.0;
        if last_start + size > time.0 {
            Some(EventTime(last_start + size))
        } else {
            None
        }
    }

    /// The ends after `after` and up to `upto` of the windows that hold `time`, earliest first. Costs
    /// no more than what it gives.
    pub fn ends_between(
        &self,
        time: EventTime,
        after: EventTime,
        upto: EventTime,
    ) -> impl Iterator<Item = EventTime> + use<> {
        let slide = self.slide.0;
        let bounds = self.ends(time).next().zip(self.last_end(time));
        let (first, last) = bounds.map_or((1, 0), |(first, last)| (first.0, last.0.min(upto.0)));
        let skipped = if after.0 < first {
            0
        } else {
            (after.0 - first) / slide + 1
        };
        let first = first.saturating_add(skipped.saturating_mul(slide));
        let count = if first > last {
            0
        } else {
            (last - first) / slide + 1
        };
        (0..count).map(move |n| EventTime(first + n * slide))
    }

    /// The start of the window that ends at `end`.
    pub fn start_of(&self, end: EventTime) -> EventTime {
        end.minus(self.size)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tumbling_windows_hold_their_start_and_not_their_end() {
        let spec = WindowSpec::tumbling(Span(10)).expect("valid");
        let ends = |time| {
            spec.ends(EventTime(time))
                .map(|end| end.0)
                .collect::<Vec<_>>()
        };
        assert_eq!(ends(0), [10]);
        assert_eq!(ends(9), [10]);
        assert_eq!(ends(10), [20]);
        assert_eq!(ends(-1), [0], "floor division before 1970");
    }

    #[test]
    fn shapes_that_make_no_sense_are_refused() {
        let new = |size, slide| WindowSpec::new(Span(size), Span(slide), Span::ZERO, Span::ZERO);
        assert!(new(0, 1).is_err() && new(1, 0).is_err() && new(86_400_000, 7).is_err());
    }

    proptest! {
        /// Against the definition: all n with n * slide + offset <= t < n * slide + offset + size.
        #[test]
        fn windows_are_those_of_the_definition(
            time in -1000_i64..1000, size in 1_i64..60, slide in 1_i64..60, offset in -100_i64..100,
        ) {
            let spec = WindowSpec::new(Span(size), Span(slide), Span(offset), Span::ZERO)
                .expect("valid");
            let expected: Vec<i64> = (-3000..3000)
                .map(|n| n * slide + offset)
                .filter(|start| *start <= time && time < start + size)
                .map(|start| start + size)
                .collect();
            let ends: Vec<i64> = spec.ends(EventTime(time)).map(|end| end.0).collect();
            prop_assert_eq!(&ends, &expected);
            let pane = spec.pane_start(EventTime(time));
            prop_assert!(pane.0 <= time && time < pane.0 + spec.pane().0);
            prop_assert_eq!(spec.last_end(EventTime(time)).map(|end| end.0), expected.last().copied());
            let between = |after: i64, upto: i64| -> Vec<i64> {
                let ends = spec.ends_between(EventTime(time), EventTime(after), EventTime(upto));
                ends.map(|end| end.0).collect()
            };
            for (after, upto) in [(time, time + 30), (i64::MIN, i64::MAX), (time + 20, i64::MAX)] {
                let part = expected.iter().copied().filter(|end| *end > after && *end <= upto);
                prop_assert_eq!(between(after, upto), part.collect::<Vec<_>>());
            }
            // All times of a pane lie in the same windows.
            prop_assert!(spec.ends(pane).map(|end| end.0).eq(expected));
        }
    }
}
