//! What one process has done of the run, for whoever shows it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::EventTime;

/// What a process has used of its host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time, user and system, of all threads.
    pub cpu: Duration,
    /// The most memory that was resident at once, in bytes.
    pub peak_rss: u64,
}

/// Rows and bytes of one output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputShare {
    /// The output.
    pub name: String,
    /// Rows made visible.
    pub rows: u64,
    /// Their encoded bytes.
    pub bytes: u64,
    /// The ends of windows that had a result for the first time here, since the last share.
    pub new_windows: Vec<EventTime>,
}

/// The counters of a process, from its start on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Records that left the source.
    pub read: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Dead letters.
    pub rejected: u64,
    /// Records on time.
    pub on_time: u64,
    /// Records late for all their windows.
    pub late: u64,
    /// Records whose dimension row was missing.
    pub unmatched: u64,
    /// Windows with records that have not fired, on the worker that has most of them.
    pub open_windows: usize,
    /// What was written.
    pub outputs: Vec<OutputShare>,
    /// How often commits took so many microseconds.
    pub latencies: Vec<(u64, u64)>,
    /// What it has used.
    pub usage: Usage,
}
