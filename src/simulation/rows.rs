//! What the simulated sinks hold: rows as plain numbers, apart from the engine's own types.

use crate::rows::{Cell, Rows};

/// The natural key of a window's row: end, start, key.
pub(super) type WindowKey = (i64, i64, i64);

/// A change of a window's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WindowRow {
    pub(super) end: i64,
    pub(super) start: i64,
    pub(super) key: i64,
    /// -1 comes before +1 in the order of an epoch's rows.
    pub(super) diff: i64,
    pub(super) count: i64,
    pub(super) sum: i64,
}

impl WindowRow {
    pub(super) fn key(&self) -> WindowKey {
        (self.end, self.start, self.key)
    }
}

/// A record as it comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ItemRow {
    pub(super) partition: i64,
    pub(super) offset: i64,
    pub(super) time: i64,
    pub(super) value: i64,
}

/// One or the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Row {
    Window(WindowRow),
    Item(ItemRow),
}

fn number(rows: &Rows, column: usize, row: usize) -> i64 {
    match rows.cell(column, row) {
        Cell::Int(value) => value,
        Cell::Timestamp(time) => time.0,
        other => panic!("a number, not {other:?}"),
    }
}

/// The rows of a window output.
pub(super) fn window_rows(rows: &Rows) -> Vec<WindowRow> {
    let window = |row| WindowRow {
        start: number(rows, 0, row),
        end: number(rows, 1, row),
        key: number(rows, 2, row),
        count: number(rows, 3, row),
        sum: number(rows, 4, row),
        diff: rows.panes[row].1,
    };
    (0..rows.len()).map(window).collect()
}

/// The rows of either output.
pub(super) fn rows_of(rows: &Rows) -> Vec<Row> {
    if rows.position("window_end").is_some() {
        return window_rows(rows).into_iter().map(Row::Window).collect();
    }
    let item = |row| ItemRow {
        partition: number(rows, 0, row),
        offset: number(rows, 1, row),
        time: number(rows, 2, row),
        value: number(rows, 3, row),
    };
    (0..rows.len()).map(|row| Row::Item(item(row))).collect()
}
