//! Rows on their way from the dataflow to a sink: a small columnar batch that every encoder reads.
//!
//! Workers append typed cells; sinks (on threads of their own) encode them. The layout is close
//! to Arrow's, without depending on it, so that the library builds with no feature at all.

mod digest;

use std::sync::Arc;

use crate::time::EventTime;
use crate::time::{Offset, PartitionId};
use crate::wire::FixedLayout;

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// 64-bit signed integer.
    Int,
    /// 64-bit float; always finite.
    Float,
    /// UTF-8 text.
    Text,
    /// [`EventTime`] in milliseconds, UTC.
    Timestamp,
    /// True or false.
    Bool,
    /// 128-bit UUID.
    Uuid,
    /// Any bytes (the payload of a dead letter).
    Bytes,
}

/// A column of an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name in every sink.
    pub name: &'static str,
    /// The type of its cells.
    pub kind: ColumnType,
    /// Whether cells may be null.
    pub nullable: bool,
    /// Of [`ColumnType::Int`]: whether all cells fit into 32 bits, so that a database may hold
    /// them in its `integer`.
    pub is_narrow: bool,
    /// Whether it is written into files of CSV and Parquet, too.
    pub in_files: bool,
}

impl Column {
    /// A column without nulls.
    pub const fn new(name: &'static str, kind: ColumnType) -> Self {
        Self {
            name,
            kind,
            nullable: false,
            is_narrow: false,
            in_files: true,
        }
    }

    /// The same column, left out of files of CSV and Parquet: for the bounds of windows where the
    /// columns of files are given, since the names of files say them.
    #[must_use]
    pub const fn not_in_files(mut self) -> Self {
        self.in_files = false;
        self
    }

    /// A column that may hold nulls.
    pub const fn nullable(name: &'static str, kind: ColumnType) -> Self {
        Self {
            name,
            kind,
            nullable: true,
            is_narrow: false,
            in_files: true,
        }
    }

    /// The same, with cells of 32 bits.
    #[must_use]
    pub const fn narrow(self) -> Self {
        Self {
            is_narrow: true,
            ..self
        }
    }
}

/// The columns of an output, in order.
pub type Columns = Arc<[Column]>;

/// Something that is written as one row.
pub trait Tabular {
    /// The columns that [`Tabular::write`] fills, in order.
    fn columns() -> Vec<Column>;

    /// Writes exactly one cell per column, in order.
    fn write(&self, row: &mut RowWriter<'_>);

    /// Appends the entity that keys the row's message in a topic (nothing: no key).
    fn message_key(&self, _key: &mut Vec<u8>) {}
}

/// The cells of one column; a null has a default value in `values`.
#[derive(Clone, Debug)]
pub enum Values {
    /// See [`ColumnType::Int`].
    Int(Vec<i64>),
    /// See [`ColumnType::Float`].
    Float(Vec<f64>),
    /// See [`ColumnType::Text`].
    Text(VarBytes),
    /// See [`ColumnType::Timestamp`].
    Timestamp(Vec<EventTime>),
    /// See [`ColumnType::Bool`].
    Bool(Vec<bool>),
    /// See [`ColumnType::Uuid`].
    Uuid(Vec<u128>),
    /// See [`ColumnType::Bytes`].
    Bytes(VarBytes),
}

/// Byte strings of any length, back to back.
#[derive(Clone, Debug, Default)]
pub struct VarBytes {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl VarBytes {
    /// Appends one string.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len());
    }

    /// The string at `index`.
    ///
    /// # Panics
    /// When there is none.
    pub fn get(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start..self.ends[index]]
    }

    /// How many strings there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

/// One column of a [`Rows`].
#[derive(Clone, Debug)]
pub struct Cells {
    /// The values.
    pub values: Values,
    /// Whether the cell at an index holds a value; `false` = null.
    pub valid: Vec<bool>,
}

/// One cell, borrowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'a> {
    /// No value.
    Null,
    /// See [`ColumnType::Int`].
    Int(i64),
    /// See [`ColumnType::Float`].
    Float(f64),
    /// See [`ColumnType::Text`].
    Text(&'a str),
    /// See [`ColumnType::Timestamp`].
    Timestamp(EventTime),
    /// See [`ColumnType::Bool`].
    Bool(bool),
    /// See [`ColumnType::Uuid`].
    Uuid(u128),
    /// See [`ColumnType::Bytes`].
    Bytes(&'a [u8]),
}

/// Where a per-record row comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The source partition.
    pub partition: PartitionId,
    /// The record's offset in it.
    pub offset: Offset,
}

/// What is known about the pane that a window row comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Pane {
    /// When it fired, relative to the watermark.
    pub timing: Timing,
    /// 0 for the first pane of a window and key, then 1, 2, ...
    pub index: u32,
    /// Whether no other pane of this window and key can follow.
    pub is_final: bool,
    /// Why the window is known to be complete.
    pub complete: Completeness,
}

crate::fixed_layout!(Pane {
    timing,
    index,
    is_final,
    complete
});

/// When a pane fired, relative to the watermark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Timing {
    /// Before the watermark passed the window's end.
    Early,
    /// When the watermark passed it.
    OnTime,
    /// After that, because of a late record that was kept.
    Late,
}

impl Timing {
    /// The word used in outputs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Early => "early",
            Self::OnTime => "on-time",
            Self::Late => "late",
        }
    }
}

impl FixedLayout for Timing {
    type Raw = u8;

    #[inline(always)]
    fn to_raw(&self) -> u8 {
        *self as u8
    }

    #[inline(always)]
    fn from_raw(raw: u8) -> Option<Self> {
        let all = [Self::Early, Self::OnTime, Self::Late];
        all.get(usize::from(raw)).copied()
    }
}

/// Why a window is known to be complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Completeness {
    /// The watermark of every partition passed the window's end.
    Proved,
    /// A partition that had not passed it was idle.
    Idle,
    /// All partitions were idle and the watermark followed the wall clock (`--close-on-idle`).
    WallClock,
    /// A partition that had not passed it had reached its declared end.
    EndOfInput,
}

impl Completeness {
    /// The word used in outputs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proved => "proved",
            Self::Idle => "idle",
            Self::WallClock => "wall-clock",
            Self::EndOfInput => "end-of-input",
        }
    }
}

impl FixedLayout for Completeness {
    type Raw = u8;

    #[inline(always)]
    fn to_raw(&self) -> u8 {
        *self as u8
    }

    #[inline(always)]
    fn from_raw(raw: u8) -> Option<Self> {
        let all = [Self::Proved, Self::Idle, Self::WallClock, Self::EndOfInput];
        all.get(usize::from(raw)).copied()
    }
}

/// A batch of rows of one output, by column.
#[derive(Clone, Debug)]
pub struct Rows {
    columns: Columns,
    cells: Vec<Cells>,
    keys: VarBytes,
    /// For window outputs: pane and diff (+1, or -1 for a withdrawn row) of each row; else empty.
    pub panes: Vec<(Pane, i64)>,
    /// For per-record outputs: where each row comes from; else empty.
    pub origins: Vec<Origin>,
}

impl Rows {
    /// An empty batch of these columns.
    pub fn new(columns: Columns) -> Self {
        let cells = columns
            .iter()
            .map(|column| Cells {
                values: match column.kind {
                    ColumnType::Int => Values::Int(Vec::new()),
                    ColumnType::Float => Values::Float(Vec::new()),
                    ColumnType::Text => Values::Text(VarBytes::default()),
                    ColumnType::Timestamp => Values::Timestamp(Vec::new()),
                    ColumnType::Bool => Values::Bool(Vec::new()),
                    ColumnType::Uuid => Values::Uuid(Vec::new()),
                    ColumnType::Bytes => Values::Bytes(VarBytes::default()),
                },
                valid: Vec::new(),
            })
            .collect();
        Self {
            columns,
            cells,
            keys: VarBytes::default(),
            panes: Vec::new(),
            origins: Vec::new(),
        }
    }

    /// The columns.
    pub fn columns(&self) -> &Columns {
        &self.columns
    }

    /// The cells of the column at `index`.
    pub fn cells(&self, index: usize) -> &Cells {
        &self.cells[index]
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The message key of a row (empty: none).
    pub fn message_key(&self, row: usize) -> &[u8] {
        self.keys.get(row)
    }

    /// The position of the column called `name`.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// The cell of `row` in the column at `column`.
    ///
    /// # Panics
    /// When there is no such row or column.
    pub fn cell(&self, column: usize, row: usize) -> Cell<'_> {
        let cells = &self.cells[column];
        if !cells.valid[row] {
            return Cell::Null;
        }
        match &cells.values {
            Values::Int(values) => Cell::Int(values[row]),
            Values::Float(values) => Cell::Float(values[row]),
            // Invariant: `RowWriter::text` takes `&str`.
            Values::Text(values) => {
                Cell::Text(std::str::from_utf8(values.get(row)).unwrap_or("\u{fffd}"))
            }
            Values::Timestamp(values) => Cell::Timestamp(values[row]),
            Values::Bool(values) => Cell::Bool(values[row]),
            Values::Uuid(values) => Cell::Uuid(values[row]),
            Values::Bytes(values) => Cell::Bytes(values.get(row)),
        }
    }

    /// Appends `record` as one row that comes from `origin`.
    pub fn push_record<R: Tabular>(&mut self, record: &R, origin: Origin) {
        self.push(record);
        self.origins.push(origin);
    }

    /// Appends `result` as one row of a window output.
    pub fn push_result<R: Tabular>(&mut self, result: &R, pane: Pane, diff: i64) {
        self.push(result);
        self.panes.push((pane, diff));
    }

    /// Appends `row` without origin or pane.
    pub fn push<R: Tabular>(&mut self, row: &R) {
        let mut writer = RowWriter {
            cells: &mut self.cells,
            next: 0,
        };
        row.write(&mut writer);
        debug_assert_eq!(writer.next, self.columns.len(), "a cell for each column");
        let mut key = Vec::new();
        row.message_key(&mut key);
        self.keys.push(&key);
    }

    /// Appends a copy of row `row` of `other`, which has the same columns.
    pub fn push_row_of(&mut self, other: &Self, row: usize) {
        let mut writer = RowWriter {
            cells: &mut self.cells,
            next: 0,
        };
        for column in 0..other.columns.len() {
            writer.cell(other.cell(column, row));
        }
        self.keys.push(other.keys.get(row));
        if let Some(pane) = other.panes.get(row) {
            self.panes.push(*pane);
        }
        if let Some(origin) = other.origins.get(row) {
            self.origins.push(*origin);
        }
    }

    /// Appends all rows of `other`, which has the same columns.
    pub fn append(&mut self, other: &Self) {
        for row in 0..other.len() {
            self.push_row_of(other, row);
        }
    }
}

/// Fills one row, cell by cell, in the order of the columns.
pub struct RowWriter<'a> {
    cells: &'a mut [Cells],
    next: usize,
}

impl RowWriter<'_> {
    /// An integer, or null.
    pub fn int(&mut self, value: impl Into<Option<i64>>) {
        self.cell(value.into().map_or(Cell::Null, Cell::Int));
    }

    /// A float, or null; NaN counts as null.
    pub fn float(&mut self, value: impl Into<Option<f64>>) {
        let value = value.into().filter(|value| !value.is_nan());
        self.cell(value.map_or(Cell::Null, Cell::Float));
    }

    /// A text, or null.
    pub fn text<'t>(&mut self, value: impl Into<Option<&'t str>>) {
        self.cell(value.into().map_or(Cell::Null, Cell::Text));
    }

    /// An instant, or null.
    pub fn timestamp(&mut self, value: impl Into<Option<EventTime>>) {
        self.cell(value.into().map_or(Cell::Null, Cell::Timestamp));
    }

    /// True or false, or null.
    pub fn boolean(&mut self, value: impl Into<Option<bool>>) {
        self.cell(value.into().map_or(Cell::Null, Cell::Bool));
    }

    /// A UUID, or null.
    pub fn uuid(&mut self, value: impl Into<Option<u128>>) {
        self.cell(value.into().map_or(Cell::Null, Cell::Uuid));
    }

    /// Bytes, or null.
    pub fn bytes<'t>(&mut self, value: impl Into<Option<&'t [u8]>>) {
        self.cell(value.into().map_or(Cell::Null, Cell::Bytes));
    }

    /// Any cell.
    ///
    /// # Panics
    /// When the cell's type is not that of the column, or the row is already full.
    pub fn cell(&mut self, cell: Cell<'_>) {
        let cells = &mut self.cells[self.next];
        self.next += 1;
        cells.valid.push(cell != Cell::Null);
        match (&mut cells.values, cell) {
            (Values::Int(values), Cell::Int(value)) => values.push(value),
            (Values::Float(values), Cell::Float(value)) => values.push(value),
            (Values::Text(values), Cell::Text(value)) => values.push(value.as_bytes()),
            (Values::Timestamp(values), Cell::Timestamp(value)) => values.push(value),
            (Values::Bool(values), Cell::Bool(value)) => values.push(value),
            (Values::Uuid(values), Cell::Uuid(value)) => values.push(value),
            (Values::Bytes(values), Cell::Bytes(value)) => values.push(value),
            (Values::Int(values), Cell::Null) => values.push(0),
            (Values::Float(values), Cell::Null) => values.push(0.0),
            (Values::Text(values) | Values::Bytes(values), Cell::Null) => values.push(b""),
            (Values::Timestamp(values), Cell::Null) => values.push(EventTime(0)),
            (Values::Bool(values), Cell::Null) => values.push(false),
            (Values::Uuid(values), Cell::Null) => values.push(0),
            (values, cell) => panic!("column {}: {cell:?} into {values:?}", self.next - 1),
        }
    }
}
