//! A small state for the tests of others.

use std::sync::Arc;

use super::MemoryStorage;
use super::retention::History;
use super::retention::tests::Run;

pub(crate) use super::log::tests::{entry, job};
pub(crate) use super::manifest::tests::manifest;

/// Two runs of ten epochs and a checkpoint each.
pub(crate) fn sample() -> Arc<MemoryStorage> {
    let storage = Arc::new(MemoryStorage::default());
    for _ in 0..2 {
        let mut run = Run::start(&storage, History::All);
        run.ten_epochs();
        run.clean_up();
    }
    storage
}
