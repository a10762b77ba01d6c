//! What a load of dimension tables gives.

use std::collections::BTreeMap;

use super::DimError;
use super::refresh::Snapshot;
use crate::time::EventTime;

/// The rows of all tables at one load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load<K, V> {
    /// The rows of each key.
    pub rows: Snapshot<K, V>,
    /// From when on a change of a key counts that has no `valid_from` of its own, where the place
    /// knows; otherwise it is the wall time of the load.
    pub times: BTreeMap<K, EventTime>,
}

impl<K, V> Default for Load<K, V> {
    fn default() -> Self {
        Self {
            rows: BTreeMap::new(),
            times: BTreeMap::new(),
        }
    }
}

/// Where the tables of a pipeline come from; may be read again and again.
pub trait TableSource<K, V>: Send + Sync {
    /// Reads all tables. `known` is what the last load gave, and empty at the first.
    ///
    /// # Errors
    /// When one is missing, has a row that is wrong, or has lost what it cannot have lost
    /// (see `crate::tables`); with place, table and row.
    fn load(&self, known: &Snapshot<K, V>) -> Result<Load<K, V>, DimError>;

    /// What people call it.
    fn name(&self) -> String;
}
