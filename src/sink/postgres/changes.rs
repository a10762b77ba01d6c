//! What an epoch changes in the table: one upsert or one delete per natural key.

use std::ops::Range;

use super::table::Table;
use super::wire::put_key;
use crate::rows::Rows;

/// The rows of an epoch to write, in the order of their natural keys.
///
/// The order is the same on every thread, so two transactions that meet in several rows wait for
/// each other and do not lock each other out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Rows that are inserted, or replace the row of their key.
    pub(super) upserts: Vec<usize>,
    /// Rows whose key disappears.
    pub(super) deletes: Vec<usize>,
}

impl Changes {
    pub(super) fn of(table: &Table, rows: &Rows) -> Self {
        if table.key.is_empty() {
            return Self {
                upserts: (0..rows.len()).collect(),
                deletes: Vec::new(),
            };
        }
        let keys = Keys::of(table, rows);
        let mut order: Vec<usize> = (0..rows.len()).collect();
        // Stable: rows of one key stay in the order of the epoch.
        order.sort_by(|&a, &b| keys.get(a).cmp(keys.get(b)));
        let mut changes = Self::default();
        for group in order.chunk_by(|&a, &b| keys.get(a) == keys.get(b)) {
            match last_revision(rows, group) {
                Some(row) => changes.upserts.push(row),
                None => changes.deletes.push(group[0]),
            }
        }
        changes
    }
}

/// The row that stands at the end of the epoch among those of one key; `None`: all are withdrawn.
fn last_revision(rows: &Rows, group: &[usize]) -> Option<usize> {
    let diff = |row: usize| rows.panes.get(row).map_or(1, |(_, diff)| *diff);
    let index = |row: usize| rows.panes.get(row).map_or(0, |(pane, _)| pane.index);
    let is_withdrawn = |row: usize| {
        let same = |other: usize| index(other) == index(row) && is_equal(rows, other, row);
        group.iter().any(|&other| diff(other) < 0 && same(other))
    };
    let standing = group
        .iter()
        .copied()
        .filter(|&row| diff(row) > 0 && !is_withdrawn(row));
    // The last of those with the highest index.
    standing.max_by_key(|&row| index(row))
}

fn is_equal(rows: &Rows, a: usize, b: usize) -> bool {
    (0..rows.columns().len()).all(|column| rows.cell(column, a) == rows.cell(column, b))
}

/// The natural keys of all rows, back to back.
struct Keys {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Keys {
    fn of(table: &Table, rows: &Rows) -> Self {
        let mut keys = Self {
            bytes: Vec::new(),
            ends: Vec::with_capacity(rows.len()),
        };
        for row in 0..rows.len() {
            for column in table.key_columns() {
                put_key(table.cell(column, rows, row), &mut keys.bytes);
            }
            keys.ends.push(keys.bytes.len());
        }
        keys
    }

    fn get(&self, row: usize) -> &[u8] {
        &self.bytes[self.range(row)]
    }

    fn range(&self, row: usize) -> Range<usize> {
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before]);
        start..self.ends[row]
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::table;
    use super::*;
    use crate::rows::{
        Cell, Column, ColumnType, Completeness, Origin, Pane, RowWriter, Tabular, Timing,
    };
    use crate::sink::OutputKind;
    use crate::time::{EventTime, Offset, PartitionId, Span};

    struct Count(&'static str, i64);

    impl Tabular for Count {
        fn columns() -> Vec<Column> {
            vec![
                Column::new("window_start", ColumnType::Timestamp),
                Column::new("window_end", ColumnType::Timestamp),
                Column::nullable("key", ColumnType::Text),
                Column::new("count", ColumnType::Int),
            ]
        }

        fn write(&self, row: &mut RowWriter<'_>) {
            row.timestamp(EventTime(0));
            row.timestamp(EventTime(10));
            row.text(Some(self.0).filter(|key| !key.is_empty()));
            row.int(self.1);
        }
    }

    fn changes(rows: &[(&'static str, i64, u32, i64)]) -> Changes {
        let kind = OutputKind::Windows {
            key: vec!["key"],
            keep: Span(0),
        };
        let table = table(kind, &Count::columns());
        let mut batch = Rows::new(Count::columns().into());
        for &(key, count, index, diff) in rows {
            let (timing, complete) = (Timing::Late, Completeness::Proved);
            let pane = Pane {
                timing,
                index,
                is_final: false,
                complete,
            };
            batch.push_result(&Count(key, count), pane, diff);
        }
        Changes::of(&table, &batch)
    }

    fn expect(upserts: &[usize], deletes: &[usize]) -> Changes {
        Changes {
            upserts: upserts.to_vec(),
            deletes: deletes.to_vec(),
        }
    }

    #[test]
    fn the_last_revision_of_a_key_stands() {
        assert_eq!(
            changes(&[("a", 1, 0, -1), ("a", 2, 1, 1)]),
            expect(&[1], &[])
        );
        assert_eq!(
            changes(&[("a", 2, 1, 1), ("a", 1, 0, -1)]),
            expect(&[0], &[])
        );
        let twice = [
            ("a", 1, 0, -1),
            ("a", 2, 1, -1),
            ("a", 2, 1, 1),
            ("a", 3, 2, 1),
        ];
        assert_eq!(changes(&twice), expect(&[3], &[]));
        assert_eq!(
            changes(&[("a", 1, 0, 1), ("a", 5, 0, 1)]),
            expect(&[1], &[])
        );
    }

    #[test]
    fn a_withdrawn_key_is_deleted() {
        assert_eq!(changes(&[("a", 1, 0, -1)]), expect(&[], &[0]));
        assert_eq!(
            changes(&[("a", 1, 0, -1), ("a", 1, 0, 1)]),
            expect(&[], &[0])
        );
        assert_eq!(
            changes(&[("a", 1, 3, -1), ("", 1, 0, 1), ("b", 1, 0, 1)]),
            expect(&[2, 1], &[0])
        );
    }

    #[test]
    fn keys_that_are_stored_alike_are_one() {
        assert_eq!(
            changes(&[("x\0", 1, 0, 1), ("x\u{fffd}", 2, 0, 1)]),
            expect(&[1], &[])
        );
    }

    #[test]
    fn rows_are_sorted_by_their_keys() {
        let reversed = [("c", 1, 0, 1), ("b", 1, 0, 1), ("a", 1, 0, 1)];
        assert_eq!(changes(&reversed), expect(&[2, 1, 0], &[]));
    }

    #[test]
    fn a_record_is_written_once() {
        let table = table(
            OutputKind::Records {
                source: "t".to_owned(),
            },
            &Count::columns(),
        );
        let mut rows = Rows::new(Count::columns().into());
        for offset in [7, 5, 7] {
            let origin = Origin {
                partition: PartitionId(1),
                offset: Offset(offset),
            };
            rows.push_record(&Count("a", 1), origin);
        }
        assert_eq!(Changes::of(&table, &rows), expect(&[1, 2], &[]));
        assert_eq!(table.cell(&table.columns[4], &rows, 0), Cell::Text("t"));
    }
}
