//! How long records wait for changes of the tables that come later than they do.
//!
//! With a wait of `D`, a record of epoch `k` sees the rows in effect in the epoch
//!
//! ```text
//! j(k) = the first j >= k with |opened_at(j) - opened_at(k)| >= D, and j(k) >= j(k - 1);
//!        the last epoch of the run, if there is none
//! ```
//!
//! When an epoch was opened is logged, so this is a function of the log, at whatever speed it is
//! read again. A clock that is set back by more than `D` ends the wait rather than prolongs it.
//!
//! State: the epochs that wait, and those that nobody has committed yet; none of it is kept in a
//! checkpoint, because an epoch that waits is not committed and is read again.

use std::collections::{BTreeMap, VecDeque};

use crate::time::{Epoch, EventTime, Span};

/// Which epochs wait, and what those see whose wait is over.
#[derive(Debug)]
pub struct DimWait {
    wait: Span,
    /// The epochs that wait, and when they were opened.
    waiting: VecDeque<(Epoch, EventTime)>,
    /// The first epoch of which nothing is known.
    next: Epoch,
    /// How many bytes were read in epochs that wait, or may yet.
    bytes: BTreeMap<Epoch, u64>,
    /// `j` of the epochs whose wait is over.
    over: BTreeMap<Epoch, Epoch>,
}

impl DimWait {
    /// Of a run that begins with the epoch `first`.
    pub const fn new(wait: Span, first: Epoch) -> Self {
        Self {
            wait,
            waiting: VecDeque::new(),
            next: first,
            bytes: BTreeMap::new(),
            over: BTreeMap::new(),
        }
    }

    /// The border of `epoch`, which was opened at `opened_at`, was decided; with `is_last` the run
    /// ends there. Called for each epoch in turn.
    pub fn decided(&mut self, epoch: Epoch, opened_at: EventTime, is_last: bool) {
        debug_assert_eq!(epoch, self.next, "each epoch in turn");
        self.next = epoch.next();
        self.waiting.push_back((epoch, opened_at));
        while let Some((first, since)) = self.waiting.front()
            && (is_last || since.0.abs_diff(opened_at.0) >= self.wait.0.unsigned_abs())
        {
            self.over.insert(*first, epoch);
            self.waiting.pop_front();
        }
        self.bytes = self.bytes.split_off(&self.first());
    }

    /// So many more bytes were read in `epoch`.
    pub fn read(&mut self, epoch: Epoch, bytes: u64) {
        *self.bytes.entry(epoch).or_default() += bytes;
    }

    /// How many bytes wait.
    pub fn bytes(&self) -> u64 {
        self.bytes.values().sum()
    }

    /// The epoch whose rows records of `epoch` see; `None`: they wait.
    pub fn seen_by(&self, epoch: Epoch) -> Option<Epoch> {
        self.over.get(&epoch).copied()
    }

    /// The first epoch whose records wait.
    pub fn first(&self) -> Epoch {
        self.waiting.front().map_or(self.next, |first| first.0)
    }

    /// Forgets the epochs before `epoch`, of which there are no records any more.
    pub fn forget_before(&mut self, epoch: Epoch) {
        self.over = self.over.split_off(&epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What epochs that were opened at these times see, and the first that waits in the end.
    fn seen(wait: i64, opened: &[i64], is_ended: bool) -> (Vec<Option<u64>>, u64) {
        let mut waits = DimWait::new(Span(wait), Epoch(0));
        for (number, opened_at) in opened.iter().enumerate() {
            let is_last = is_ended && number + 1 == opened.len();
            waits.decided(Epoch(number as u64), EventTime(*opened_at), is_last);
        }
        let seen = |number| waits.seen_by(Epoch(number)).map(|epoch| epoch.0);
        let all = (0..opened.len() as u64).map(seen).collect();
        (all, waits.first().0)
    }

    #[test]
    fn an_epoch_sees_the_first_one_that_was_opened_late_enough() {
        let opened = [0, 250, 500, 900, 1000, 1250];
        let (all, first) = seen(500, &opened, false);
        assert_eq!(all, [Some(2), Some(3), Some(4), None, None, None]);
        assert_eq!(first, 3);
        // The end of the run ends all waits.
        let (all, first) = seen(500, &opened, true);
        assert_eq!(all, [Some(2), Some(3), Some(4), Some(5), Some(5), Some(5)]);
        assert_eq!(first, 6);
    }

    #[test]
    fn a_clock_that_is_set_ends_no_later_wait_first() {
        // Back by an hour: what waits sees that epoch; back by less: it waits for longer.
        let (all, _) = seen(500, &[10_000, 10_250, -3_590_000, -3_589_000], false);
        assert_eq!(all, [Some(2), Some(2), Some(3), None]);
        let (all, _) = seen(500, &[10_000, 9_800, 10_050, 10_300, 10_500], false);
        assert_eq!(all, [Some(4), Some(4), None, None, None]);
    }

    #[test]
    fn what_is_committed_is_forgotten() {
        let mut waits = DimWait::new(Span(1), Epoch(7));
        assert_eq!(waits.first(), Epoch(7));
        (7..12).for_each(|number| waits.decided(Epoch(number), EventTime(number as i64), false));
        waits.read(Epoch(11), 5);
        waits.read(Epoch(12), 3);
        waits.read(Epoch(12), 4);
        assert_eq!(waits.bytes(), 12);
        waits.decided(Epoch(12), EventTime(12), false);
        assert_eq!((waits.bytes(), waits.first()), (7, Epoch(12)));
        waits.forget_before(Epoch(9));
        assert_eq!(waits.seen_by(Epoch(8)), None);
        assert_eq!(waits.seen_by(Epoch(9)), Some(Epoch(10)));
        waits.decided(Epoch(13), EventTime(13), true);
        assert_eq!((waits.bytes(), waits.first()), (0, Epoch(14)));
    }
}
