//! Where dimension tables are: read at the start of a job and at each refresh, and made by
//! `highwater dims`.
//!
//! | module | the place |
//! |---|---|
//! | `folder` | `dir:PATH`: a file per table, CSV or Parquet |
//! | `s3` | `s3://BUCKET/PREFIX`: the same as objects |
//! | `postgres` | `postgres://USER@HOST/DB`: a table per table, all read in one transaction |
//! | `kafka` | `kafka://HOST/TOPIC-PREFIX`: a compacted topic per table |
//! | [`uri`] | which of them a URI means |
//! | [`value`] | a cell as a place has it, and whether it fits its column |
//! | `files` | tables as bytes of CSV and Parquet |
//! | [`load`] | what a place holds, as the rows that a pipeline joins with |
//! | [`copy`] | tables from one place for another |
//!
//! A place holds a table in one of two ways. A *whole* table is all of its rows: one that is not
//! there any more has been deleted. A *log* is messages, the oldest first, of which compaction may
//! have removed all but the last of each key: a row that is not there any more may have been
//! removed by compaction, and only a message without a row deletes.

use std::fmt;
use std::sync::Arc;

pub use self::load::PlaceTables;
pub use self::uri::{PlaceOptions, parse_place};
pub use self::value::Value;
use crate::join::{DimError, DimTable};
use crate::rows::Rows;
use crate::time::EventTime;

pub mod copy;
mod files;
mod folder;
#[cfg(feature = "kafka")]
mod kafka;
pub mod load;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "s3")]
mod s3;
pub mod uri;
pub mod value;

/// A place that the tables of a pipeline are in.
pub trait TablePlace: Send + Sync {
    /// What messages call it, without secrets.
    fn name(&self) -> String;

    /// Reads these tables, in their order. A place that can read all of them as of one moment does.
    ///
    /// # Errors
    /// When the place cannot be reached or a table is missing; the text says what to do.
    fn read(&self, tables: &[DimTable]) -> Result<Vec<Contents>, DimError>;

    /// Makes these tables with these rows, and says in one line what was made.
    ///
    /// # Errors
    /// When they cannot be written, or would replace what is there without leave.
    fn write(&self, tables: &[TableRows], options: &WriteOptions) -> Result<String, DimError>;
}

/// A place that several have a hand on.
pub type SharedPlace = Arc<dyn TablePlace>;

impl fmt::Debug for dyn TablePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// What a place holds of one table.
#[derive(Clone, Debug)]
pub enum Contents {
    /// All its rows.
    Whole(Whole),
    /// Its messages, the oldest of each key first.
    Log(Vec<Message>),
}

/// A whole table.
#[derive(Clone, Debug, Default)]
pub struct Whole {
    /// What messages call it: the path of a file, the name of a table.
    pub name: String,
    /// Its columns, also those that nobody asked for.
    pub columns: Vec<String>,
    /// Its rows, with a cell for each column.
    pub rows: Vec<(At, Vec<Value>)>,
}

/// Where in its table a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The line of a file, from 1 on.
    Line(usize),
    /// The row of a file, from 1 on.
    Row(usize),
    /// Nowhere: the table has no order, so that the key must tell.
    Unordered,
}

/// A message about one row.
#[derive(Clone, Debug)]
pub struct Message {
    /// What messages call its place: `cars[0] offset 17`.
    pub at: String,
    /// The key of the row, as text.
    pub key: String,
    /// Its time in the log.
    pub time: Option<EventTime>,
    /// The cells by column; `None`: the row is deleted. An error says why it cannot be read.
    pub row: Result<Option<Vec<(String, Value)>>, String>,
}

/// A table to be made.
#[derive(Debug)]
pub struct TableRows {
    /// Which.
    pub table: DimTable,
    /// Its rows, whose columns are those of the table, perhaps with
    /// [`VALID_FROM`](crate::join::VALID_FROM) behind them.
    pub rows: Rows,
}

/// How tables are made.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteOptions {
    /// The form of files.
    pub format: TableFormat,
    /// Whether rows that a server holds already may be replaced.
    pub replace: bool,
}

/// The form of files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum TableFormat {
    /// Comma-separated values with a header.
    #[default]
    Csv,
    /// Parquet.
    Parquet,
}

impl TableFormat {
    /// What the names of files end in.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        }
    }

    /// The other one.
    const fn other(self) -> Self {
        match self {
            Self::Csv => Self::Parquet,
            Self::Parquet => Self::Csv,
        }
    }
}

/// `models.csv (7 rows), colors.csv (7 rows)`.
fn listed(tables: &[TableRows], named: impl Fn(&DimTable) -> String) -> String {
    let one = |it: &TableRows| format!("{} ({} rows)", named(&it.table), it.rows.len());
    tables.iter().map(one).collect::<Vec<_>>().join(", ")
}
