//! The bounded queue between a reading thread and a worker, one per partition.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::arrivals::Arrivals;
use super::{RawBatch, SourceError};
use crate::host;
use crate::time::{EventTime, Offset};

/// How many bytes a feed holds before it counts as full.
const CAPACITY_BYTES: usize = 4 << 20;

/// What a reader has said about its partition.
#[derive(Clone, Debug, Default)]
pub struct FeedState {
    /// Where reading began, once that is known.
    pub start: Option<Offset>,
    /// The reader stands at the end of the partition (the client's own event said so), and this
    /// is when a broker last confirmed that it can be reached. Cleared by the next record.
    pub caught_up: Option<Instant>,
    /// The position after the last record that there is, as far as the reader knows.
    pub end: Option<Offset>,
    /// No record will ever follow.
    pub ended: bool,
    /// Reading failed for good.
    pub failed: Option<SourceError>,
}

#[derive(Default)]
struct State {
    /// Each with the wall time since when its records have been there.
    batches: VecDeque<(EventTime, RawBatch)>,
    arrivals: Arrivals,
    bytes: usize,
    /// The position after the last batch that was taken.
    taken: Option<Offset>,
    about: FeedState,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    room: Condvar,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is plain data that is valid between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reader's end of a feed.
#[derive(Clone)]
pub struct Feed(Arc<Shared>);

/// The worker's end of a feed; dropping it closes the feed.
pub struct Inbox(Arc<Shared>);

/// For whoever shows how far a partition is read.
#[derive(Clone)]
pub struct FeedGauge(Arc<Shared>);

impl FeedGauge {
    /// The position after what the worker has taken, and the last one that the reader knows of.
    pub fn read(&self) -> (Option<Offset>, Option<Offset>) {
        let state = self.0.lock();
        (state.taken.or(state.about.start), state.about.end)
    }
}

impl std::fmt::Debug for FeedGauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FeedGauge").field(&self.read()).finish()
    }
}

/// A new feed. `wake` is called whenever the worker has something new to look at; it must be
/// cheap and must not block.
pub fn feed(wake: impl Fn() + Send + Sync + 'static) -> (Feed, Inbox) {
    let shared = Arc::new(Shared {
        state: Mutex::default(),
        room: Condvar::new(),
        wake: Box::new(wake),
    });
    (Feed(Arc::clone(&shared)), Inbox(shared))
}

impl Feed {
    /// Reading begins at `start`.
    pub fn begin(&self, start: Offset) {
        self.0.lock().about.start = Some(start);
        (self.0.wake)();
    }

    /// The last record that there is lies before `end`; to be repeated when there are more. Wakes
    /// nobody.
    pub fn ends_at(&self, end: Offset) {
        let now = host::wall_clock();
        let mut state = self.0.lock();
        state.about.end = Some(end);
        state.arrivals.ends_at(end, now);
    }

    /// Whether another batch may be pushed now.
    pub fn has_room(&self) -> bool {
        let state = self.0.lock();
        !state.closed && state.bytes < CAPACITY_BYTES
    }

    /// Waits until there is room, at most `timeout`; `false` when there still is none.
    pub fn wait_for_room(&self, timeout: Duration) -> bool {
        let full = |state: &mut State| !state.closed && state.bytes >= CAPACITY_BYTES;
        let (state, _) = self
            .0
            .room
            .wait_timeout_while(self.0.lock(), timeout, full)
            .unwrap_or_else(PoisonError::into_inner);
        !state.closed && state.bytes < CAPACITY_BYTES
    }

    /// Hands over a batch, whether there is room or not.
    pub fn push(&self, batch: RawBatch) {
        let now = host::wall_clock();
        let mut state = self.0.lock();
        if state.closed {
            return;
        }
        state.bytes += weight(&batch);
        let since = state.arrivals.of(batch.next_offset, now);
        state.batches.push_back((since, batch));
        state.about.caught_up = None;
        drop(state);
        (self.0.wake)();
    }

    /// The reader stands at the end of the partition, as a broker (or the file system) has just
    /// confirmed. To be repeated while that stays true.
    pub fn caught_up(&self) {
        let mut state = self.0.lock();
        let news = state.about.caught_up.is_none();
        state.about.caught_up = Some(host::now());
        drop(state);
        if news {
            (self.0.wake)();
        }
    }

    /// No record will ever follow.
    pub fn end(&self) {
        self.0.lock().about.ended = true;
        (self.0.wake)();
    }

    /// Reading failed for good.
    pub fn fail(&self, error: SourceError) {
        self.0.lock().about.failed = Some(error);
        (self.0.wake)();
    }

    /// Whether the worker is gone, so that reading on is pointless.
    pub fn is_closed(&self) -> bool {
        self.0.lock().closed
    }
}

impl Inbox {
    /// The next batch.
    pub fn pop(&self) -> Option<RawBatch> {
        self.pop_since().map(|(_, batch)| batch)
    }

    /// The next batch, with the wall time since when its records have been there.
    pub fn pop_since(&self) -> Option<(EventTime, RawBatch)> {
        let mut state = self.0.lock();
        let (since, batch) = state.batches.pop_front()?;
        state.bytes -= weight(&batch);
        state.taken = Some(batch.next_offset);
        drop(state);
        self.0.room.notify_one();
        Some((since, batch))
    }

    /// The wall time since when the records of the next batch have been there.
    pub fn since(&self) -> Option<EventTime> {
        self.0.lock().batches.front().map(|(since, _)| *since)
    }

    /// Wakes the worker, as news of the reader do.
    pub fn waker(&self) -> super::Waker {
        let shared = Arc::clone(&self.0);
        Box::new(move || (shared.wake)())
    }

    /// Shows how far the partition is read.
    pub fn gauge(&self) -> FeedGauge {
        FeedGauge(Arc::clone(&self.0))
    }

    /// Whether a batch waits.
    pub fn has_batch(&self) -> bool {
        !self.0.lock().batches.is_empty()
    }

    /// What the reader has said, and whether a batch still waits in front of it.
    pub fn state(&self) -> (FeedState, bool) {
        let state = self.0.lock();
        (state.about.clone(), !state.batches.is_empty())
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        state.batches.clear();
        state.bytes = 0;
        drop(state);
        self.0.room.notify_all();
    }
}

fn weight(batch: &RawBatch) -> usize {
    batch.bytes.len() + batch.records.len() * size_of::<super::RawRecord>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(bytes: usize) -> RawBatch {
        RawBatch {
            bytes: vec![0; bytes],
            ..RawBatch::default()
        }
    }

    #[test]
    fn a_full_feed_has_no_room_until_a_batch_is_taken() {
        let (feed, inbox) = feed(|| ());
        assert!(feed.has_room());
        feed.push(batch(CAPACITY_BYTES));
        assert!(!feed.wait_for_room(Duration::from_millis(1)));
        assert!(inbox.pop().is_some());
        assert!(feed.wait_for_room(Duration::from_secs(5)));
    }

    #[test]
    fn a_dropped_inbox_closes_the_feed_and_frees_a_waiting_reader() {
        let (feed, inbox) = feed(|| ());
        feed.push(batch(CAPACITY_BYTES));
        let waiting = std::thread::spawn(move || {
            while !feed.is_closed() {
                feed.wait_for_room(Duration::from_secs(5));
            }
        });
        drop(inbox);
        waiting.join().expect("the reader ends");
    }

    #[test]
    fn a_batch_ends_the_state_of_being_caught_up() {
        let (feed, inbox) = feed(|| ());
        feed.caught_up();
        assert!(inbox.state().0.caught_up.is_some());
        feed.push(batch(1));
        assert!(inbox.state().0.caught_up.is_none());
    }
}
