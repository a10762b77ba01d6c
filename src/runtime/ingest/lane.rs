//! One partition, as its worker reads it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::epoch::{PartitionReport, Standing};
use crate::host;
use crate::source::{FeedState, Inbox, Partition, RawBatch, SourceError, Unpack};
use crate::time::{EventTime, Offset, Span};
use crate::watermark::PartitionWatermark;

/// A broker's answer counts as confirmation that it can be reached for so long.
const CONFIRMED: Duration = Duration::from_secs(5);

/// A partition that this worker reads.
pub(super) struct Lane {
    pub(super) partition: Partition,
    pub(super) inbox: Inbox,
    /// What payloads go through before they are decoded.
    pub(super) unpack: Option<Box<dyn Unpack>>,
    /// What comes before the feed: a batch that cannot be unpacked yet, and what lies behind the end
    /// of a recorded epoch, of a batch that reaches beyond it; each with since when it has been there.
    pub(super) rest: VecDeque<(EventTime, RawBatch)>,
    /// Whether the next batch was found to be one that cannot be unpacked yet.
    pub(super) is_blocked: bool,
    pub(super) watermark: PartitionWatermark,
    pub(super) standing: Standing,
    /// Where the records of the open epoch begin.
    pub(super) epoch_from: Option<Offset>,
    pub(super) position: Option<Offset>,
    /// Offsets of the open epoch that were never delivered, and records that were.
    pub(super) gaps: u64,
    pub(super) read: u64,
    pub(super) heard: Instant,
}

impl Lane {
    /// What the reader says, and whether records wait here.
    pub(super) fn state(&self) -> (FeedState, bool) {
        let (state, has_batch) = self.inbox.state();
        (state, has_batch || !self.rest.is_empty())
    }

    /// Whether records wait here that may be read, if only they have been here long enough.
    pub(super) fn is_ready(&self, patience: Patience) -> bool {
        let since = self.rest.front().map(|(since, _)| *since);
        let Some(since) = since.or_else(|| self.inbox.since()) else {
            return false;
        };
        patience.is_over(since) || self.inbox.state().0.ended
    }

    fn pop(&mut self) -> Option<(EventTime, RawBatch)> {
        self.rest.pop_front().or_else(|| self.inbox.pop_since())
    }

    /// The next batch, unless something is to be found out first: then it stays here.
    pub(super) fn pop_ready(&mut self) -> Option<RawBatch> {
        let (since, batch) = self.pop()?;
        self.prepared(since, batch)
    }

    /// A batch that is the next one, unless something is to be found out first.
    fn prepared(&mut self, since: EventTime, batch: RawBatch) -> Option<RawBatch> {
        let unpack = self.unpack.as_mut();
        self.is_blocked = unpack.is_some_and(|unpack| !unpack.prepare(&batch));
        if self.is_blocked {
            self.rest.push_front((since, batch));
            return None;
        }
        Some(batch)
    }

    /// The next batch of a recorded epoch that ends at `row.to`; what reaches beyond stays here.
    pub(super) fn pop_recorded(&mut self, row: &PartitionReport) -> Option<RawBatch> {
        if self.position.is_some_and(|position| position >= row.to) || row.from == row.to {
            return None;
        }
        let (since, mut batch) = self.pop()?;
        let gaps_left = row.gaps.saturating_sub(self.gaps);
        let read_left = row.read.saturating_sub(self.read);
        let rest = batch.split_off(row.to, gaps_left, read_left);
        // What lies behind may have to wait for longer.
        if let Some(rest) = rest {
            self.rest.push_front((since, rest));
        }
        self.prepared(since, batch)
    }

    /// Whether a recorded epoch that ends as `row` says was read again.
    pub(super) fn has_reached(&self, row: &PartitionReport) -> bool {
        row.from == row.to || self.position.is_some_and(|position| position >= row.to)
    }

    /// An input that has ended before the end of a recorded epoch has become shorter.
    pub(super) fn check_goes_on(&self, row: &PartitionReport) -> Result<(), SourceError> {
        let (state, waiting) = self.state();
        if !state.ended || waiting {
            return Ok(());
        }
        let at = self.position.unwrap_or_default();
        Err(self.changed(format!(
            "it ends at {at}, but was read up to {} before",
            row.to
        )))
    }

    pub(super) fn check_watermark(&self, row: &PartitionReport) -> Result<(), SourceError> {
        let watermark = self.watermark.current();
        if row.watermark == watermark {
            return Ok(());
        }
        Err(self.changed(format!(
            "read again up to {}, its watermark is {watermark}, and was {} before",
            row.to, row.watermark
        )))
    }

    /// A topic that was compacted since, or a file that was edited, has other records between the
    /// same offsets.
    pub(super) fn check_counts(&self, row: &PartitionReport) -> Result<(), SourceError> {
        if self.read == row.read && self.gaps == row.gaps {
            return Ok(());
        }
        Err(self.changed(format!(
            "between {} and {} there are {} records now, and were {} before",
            row.from, row.to, self.read, row.read
        )))
    }

    fn changed(&self, how: String) -> SourceError {
        SourceError::Changed {
            partition: self.partition.name.clone(),
            how,
        }
    }

    fn is_silent(&self, state: &FeedState, idle_after: Duration) -> bool {
        let confirmed = state.caught_up.is_some_and(|at| elapsed(at) < CONFIRMED);
        let is_empty = self.watermark.max_event() == EventTime::MIN;
        confirmed && (is_empty || elapsed(self.heard) >= idle_after)
    }

    /// Ends the epoch here, and says what it was.
    pub(super) fn close(&mut self, idle_after: Duration, patience: Patience) -> PartitionReport {
        let (state, waiting) = self.state();
        let has_backlog = waiting && self.is_ready(patience);
        if waiting && (self.is_blocked || !has_backlog) {
            // The watermark must not pass records that wait for a schema or for dimension rows.
            self.standing = Standing::Active;
        } else if !waiting {
            if state.ended {
                self.standing = Standing::Ended;
            } else if self.is_silent(&state, idle_after) {
                self.standing = Standing::Idle;
            }
        }
        // Unknown until the reader has found out where it begins.
        let known = self.position.or(state.start);
        let position = known.unwrap_or_default();
        let report = PartitionReport {
            partition: self.partition.id,
            is_located: known.is_some(),
            from: self.epoch_from.unwrap_or(position),
            to: position,
            gaps: self.gaps,
            max_event: self.watermark.max_event(),
            read: self.read,
            watermark: self.watermark.current(),
            own_watermark: self.watermark.own(),
            standing: self.standing,
            has_backlog,
        };
        (self.epoch_from, self.gaps, self.read) = (known, 0, 0);
        report
    }
}

/// Which records have waited long enough for dimension rows that come late.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) wait: Span,
    /// When the epoch before the open one was opened: what was found of the tables until then takes
    /// effect in the open one at the latest. `None`: that was before this run.
    pub(super) settled: Option<EventTime>,
}

impl Patience {
    /// Whether records that have been there since `since` may be read.
    fn is_over(self, since: EventTime) -> bool {
        let settled = || self.settled.is_some_and(|it| since.plus(self.wait) <= it);
        self.wait == Span::ZERO || settled()
    }
}

/// How long ago that was.
pub(super) fn elapsed(since: Instant) -> Duration {
    host::now().saturating_duration_since(since)
}
