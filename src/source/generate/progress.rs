//! How far a log has been written.

use crate::time::EventTime;

/// How far a log has been written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Events, each once.
    pub events: u64,
    /// Records: events, their duplicates, and garbage.
    pub records: u64,
    /// Bytes before compression.
    pub bytes: u64,
    /// The base time of the last event.
    pub time: EventTime,
}
