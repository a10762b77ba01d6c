//! Tables from one place, to be made in another.

use super::load::{CheckedRow, check_whole};
use super::{Contents, TablePlace, TableRows};
use crate::join::{DimError, DimTable, VALID_FROM};
use crate::rows::{Cell, Column, ColumnType, RowWriter, Rows, Tabular};
use crate::time::{EventTime, parse_rfc3339};

/// The rows of `tables` in `place`, with the times from which they are valid.
///
/// # Errors
/// When they cannot be read, a cell does not fit its column, or the place is a log, which does not
/// tell from when on a row without a time counts.
pub fn rows_in(place: &dyn TablePlace, tables: &[DimTable]) -> Result<Vec<TableRows>, DimError> {
    let contents = place.read(tables)?;
    let rows = |(table, contents): (&DimTable, Contents)| match contents {
        Contents::Whole(whole) => {
            let checked = check_whole(table, &whole)?;
            Ok(TableRows {
                table: *table,
                rows: rows_of(table, checked.into_iter().map(|it| it.1).collect()),
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
