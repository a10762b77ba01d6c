//! Dimensions: slowly changing tables that records are enriched from.
//!
//! A dimension is a set of rows `(key, valid_from, row)`. It is fed into a differential
//! arrangement, at the epoch from which its changes count; the join follows the arrangement's
//! batches into an [`AsOfIndex`] and looks up each record's own event time.
//!
//! * [`Dimensions`]: what a pipeline says about its tables.
//! * [`AsOfIndex`]: the versions of each key in time order, and the look-up.
//! * [`DimRecord`]: a row before a pipeline has read it.
//! * [`TableSource`]: where tables come from; [`crate::tables`] has the real places.
//! * [`refresh`]: finds what has changed between two loads.

use std::hash::Hash;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::rows::Column;
use crate::time::EventTime;

pub use self::index::{AsOfIndex, Policy};
pub use self::load::{Load, TableSource};
pub use self::record::DimRecord;
pub use self::refresh::{Change, DimLoader, DimStore, Snapshot, StoreLoader};

pub mod index;
mod load;
mod record;
pub mod refresh;

/// The column that says from when on a row is valid; a table may have it besides its own.
pub const VALID_FROM: &str = "valid_from";

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

/// A dimension table: its name in every place (the file `cars.csv`, the table `cars`, a topic that
/// ends in `cars`), and its columns. The first column is the key.
#[derive(Clone, Copy, Debug)]
pub struct DimTable {
    /// The name.
    pub name: &'static str,
    /// The columns without [`VALID_FROM`]; there may be more, which nobody reads.
    pub columns: &'static [Column],
}

impl DimTable {
    /// The name of the column that is the key.
    pub fn key(&self) -> &'static str {
        self.columns.first().map_or("", |column| column.name)
    }
}

/// What a pipeline says about its dimension tables: which there are, and how a row is read. All
/// tables share one key type and one row type (enums, usually), and so one arrangement.
pub struct Dimensions<K, V> {
    /// The tables.
    pub tables: &'static [DimTable],
    /// The name of the table that a key belongs to.
    pub table_of: fn(&K) -> &'static str,
    /// Reads the key of a row of a table; the error says what is wrong with it. No other column
    /// may be needed for that.
    pub key: fn(table: &str, record: &DimRecord) -> Result<K, String>,
    /// Reads the rest of a row of a table.
    pub row: fn(table: &str, record: &DimRecord) -> Result<V, String>,
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
