//! Since when records have been there, by what is known of the end of their partition.
//!
//! A record before offset `e` has been there at the latest since it was known that the partition
//! ends at `e`. So records that a full feed keeps out for long do not count as new when they come.

use std::collections::VecDeque;

use crate::time::{EventTime, Offset};

/// So many ends are told apart; after that the last one moves on, with its time.
const MOST_ENDS: usize = 1024;

/// What was known of the end of a partition, and from when on.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// Ends that no batch has reached yet; both parts ascend.
    ends: VecDeque<(Offset, EventTime)>,
}

impl Arrivals {
    /// At `now` the partition was known to go on up to `end`.
    pub(super) fn ends_at(&mut self, end: Offset, now: EventTime) {
        let last = self.ends.back().copied();
        if last.is_some_and(|(last, _)| end <= last) {
            return;
        }
        if self.ends.len() == MOST_ENDS {
            self.ends.pop_back();
        }
        let now = last.map_or(now, |(_, time)| now.max(time));
        self.ends.push_back((end, now));
    }

    /// Since when all records before `next` have been there, when they are handed over at `now`.
    pub(super) fn of(&mut self, next: Offset, now: EventTime) -> EventTime {
        while self.ends.front().is_some_and(|(end, _)| *end < next) {
            self.ends.pop_front();
        }
        self.ends.front().map_or(now, |(_, time)| now.min(*time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_been_there_since_the_end_behind_them_was_known() {
        let mut arrivals = Arrivals::default();
        assert_eq!(arrivals.of(Offset(5), EventTime(1)), EventTime(1));
        arrivals.ends_at(Offset(10), EventTime(2));
        arrivals.ends_at(Offset(10), EventTime(3));
        arrivals.ends_at(Offset(20), EventTime(4));
        let mut of = |next, now| arrivals.of(Offset(next), EventTime(now)).0;
        assert_eq!(of(8, 9), 2);
        assert_eq!(of(10, 9), 2);
        assert_eq!(of(11, 9), 4, "some of them may have come later");
        assert_eq!(of(21, 9), 9, "of these nobody knew");
        assert_eq!(of(22, 10), 10);
    }

    #[test]
    fn ends_do_not_pile_up() {
        let mut arrivals = Arrivals::default();
        let many = MOST_ENDS as u64 + 10;
        for end in 1..=many {
            arrivals.ends_at(Offset(end), EventTime(end as i64));
        }
        assert_eq!(arrivals.ends.len(), MOST_ENDS);
        let of_last = arrivals.of(Offset(MOST_ENDS as u64), EventTime(9999));
        assert_eq!(of_last, EventTime(many as i64), "never too early");
    }
}
