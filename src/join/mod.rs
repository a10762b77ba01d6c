//! Dimensions: slowly changing tables that records are enriched from.
//!
//! A dimension is a set of rows `(key, valid_from, row)`. It is fed into a differential
//! arrangement, at the epoch from which its changes count; the join follows the arrangement's
//! batches into an [`AsOfIndex`] and looks up each record's own event time.
//!
//! * [`Dimensions`]: what a pipeline says about its tables.
//! * [`AsOfIndex`]: the versions of each key in time order, and the look-up.
//! * [`load`]: tables from CSV and Parquet files.
//! * [`refresh`]: finds what has changed between two loads.

use std::hash::Hash;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::time::EventTime;

pub use self::index::{AsOfIndex, Policy};
pub use self::load::{DimRecord, DirTables, TableSource};
pub use self::refresh::{Change, DimLoader, DimStore, Snapshot, StoreLoader};

pub mod index;
pub mod load;
pub mod refresh;

/// A value that can be a key or a row of a dimension.
pub trait DimValue:
    Clone + Ord + Hash + Send + Sync + Serialize + DeserializeOwned + std::fmt::Debug + 'static
{
}
impl<T> DimValue for T where
    T: Clone + Ord + Hash + Send + Sync + Serialize + DeserializeOwned + std::fmt::Debug + 'static
{
}

/// A version of a row: valid from this time on, until the next version of its key. `None`: there
/// is no row from then on.
pub type Version<V> = (EventTime, Option<V>);

/// What a pipeline says about its dimension tables: their names, and how a row is read. All tables
/// share one key type and one row type (enums, usually), and so one arrangement.
pub struct Dimensions<K, V> {
    /// The names of the tables (`cars`), which are those of the files (`cars.csv`).
    pub tables: &'static [&'static str],
    /// Reads a row of a table; the error says what is wrong with it.
    pub parse: fn(table: &str, record: &DimRecord) -> Result<(K, V), String>,
}

impl<K, V> Clone for Dimensions<K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, V> Copy for Dimensions<K, V> {}

/// Why dimension tables cannot be read.
#[derive(Clone, Debug, Error)]
#[error("{0}")]
pub struct DimError(pub String);
