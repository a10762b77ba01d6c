//! Tables from one place, to be made in another.

use std::collections::BTreeMap;

use super::load::{CheckedRow, check_whole};
use super::{Contents, TablePlace, TableRows};
use crate::join::{DimError, DimTable, VALID_FROM};
use crate::rows::{Cell, Column, ColumnType, RowWriter, Rows, Tabular};
use crate::time::{EventTime, parse_rfc3339};

/// The rows of `tables` in `place`, with the times from which they are valid.
///
/// # Errors
/// When they cannot be read, a cell does not fit its column, or the place is a log, which does not
/// tell from when on a row without a time counts, or two rows of a table contradict each other.
pub fn rows_in(place: &dyn TablePlace, tables: &[DimTable]) -> Result<Vec<TableRows>, DimError> {
    let contents = place.read(tables)?;
    let rows = |(table, contents): (&DimTable, Contents)| match contents {
        Contents::Whole(whole) => {
            let checked = without_copies(table, check_whole(table, &whole)?)?;
            Ok(TableRows {
                table: *table,
                rows: rows_of(table, checked),
            })
        }
        Contents::Log(_) => Err(DimError(format!(
            "{}: tables can be copied into topics, not out of them: copy from dir:, s3: or \
             postgres:",
            place.name()
        ))),
    };
    tables.iter().zip(contents).map(rows).collect()
}

/// Each row once, in the order of the first of them.
fn without_copies(
    table: &DimTable,
    checked: Vec<(String, CheckedRow)>,
) -> Result<Vec<CheckedRow>, DimError> {
    let mut rows: Vec<CheckedRow> = Vec::with_capacity(checked.len());
    let mut seen: BTreeMap<(Option<String>, Option<EventTime>), usize> = BTreeMap::new();
    for (place, row) in checked {
        let key = row.record.get(table.key()).map(str::to_owned);
        let first = *seen.entry((key, row.valid_from)).or_insert(rows.len());
        if first == rows.len() {
            rows.push(row);
        } else if rows[first].record != row.record {
            return Err(DimError(format!(
                "{place}: a second row for the same key and {VALID_FROM}: leave the right one"
            )));
        }
    }
    Ok(rows)
}

fn rows_of(table: &DimTable, checked: Vec<CheckedRow>) -> Rows {
    let mut columns = table.columns.to_vec();
    if checked.iter().any(|row| row.valid_from.is_some()) {
        columns.push(Column::nullable(VALID_FROM, ColumnType::Timestamp));
    }
    let mut rows = Rows::new(columns.clone().into());
    for row in checked {
        rows.push(&CopiedRow {
            columns: &columns,
            row,
        });
    }
    rows
}

/// A row of columns that are known at run time only.
struct CopiedRow<'a> {
    columns: &'a [Column],
    row: CheckedRow,
}

impl Tabular for CopiedRow<'_> {
    fn columns() -> Vec<Column> {
        Vec::new()
    }

    fn write(&self, writer: &mut RowWriter<'_>) {
        for column in self.columns {
            let text = self.row.record.get(column.name);
            // The texts were checked against their columns.
            let cell = match (column.kind, text) {
                (ColumnType::Timestamp, _) if column.name == VALID_FROM => {
                    timestamp(self.row.valid_from)
                }
                (ColumnType::Int, Some(text)) => text.parse().map_or(Cell::Null, Cell::Int),
                (ColumnType::Float, Some(text)) => text.parse().map_or(Cell::Null, Cell::Float),
                (ColumnType::Bool, Some(text)) => text.parse().map_or(Cell::Null, Cell::Bool),
                (ColumnType::Timestamp, Some(text)) => {
                    timestamp(parse_rfc3339(text.as_bytes()).ok())
                }
                (ColumnType::Text, Some(text)) => Cell::Text(text),
                _ => Cell::Null,
            };
            writer.cell(cell);
        }
    }
}

fn timestamp(time: Option<EventTime>) -> Cell<'static> {
    time.map_or(Cell::Null, Cell::Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::DimRecord;

    const CARS: DimTable = DimTable {
        name: "cars",
        columns: &[Column::new("car_id", ColumnType::Int)],
    };

    fn row(at: &str, car: &str, from: i64, driver: &str) -> (String, CheckedRow) {
        let cells = [("car_id", car), ("driver_id", driver)];
        let cells = cells.map(|(name, cell)| (name.to_owned(), cell.to_owned()));
        let row = CheckedRow {
            valid_from: Some(EventTime(from)),
            record: DimRecord::new(cells),
        };
        (at.to_owned(), row)
    }

    #[test]
    fn a_row_that_is_there_twice_is_copied_once_and_contradictions_are_refused() {
        let same = vec![
            row("cars.csv:2", "1", 5, "7"),
            row("cars.csv:3", "1", 6, "8"),
            row("cars.csv:4", "1", 5, "7"),
        ];
        let rows = without_copies(&CARS, same).expect("they agree");
        let times: Vec<_> = rows.iter().filter_map(|row| row.valid_from).collect();
        assert_eq!(times, [EventTime(5), EventTime(6)]);
        let other = vec![
            row("cars.csv:2", "1", 5, "7"),
            row("cars.csv:3", "1", 5, "8"),
        ];
        let error = without_copies(&CARS, other).err().expect("refused").0;
        assert!(error.starts_with("cars.csv:3: a second row"), "{error}");
    }
}
