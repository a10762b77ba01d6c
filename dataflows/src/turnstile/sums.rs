//! The rows of the output `windows`: entries and exits of one turnstile, day and kind in a window.

use highwater::flow::WindowRow;
use highwater::rows::{Column, ColumnType, RowWriter, Tabular};
use highwater::time::{EventTime, LocalTime, Zone};

use super::event::Group;

/// The natural key, with the window's bounds.
pub const KEY: &[&str] = &[
    "CA", "UNIT", "SCP", "STATION", "LINENAME", "DIVISION", "DATE", "DESC",
];

/// One row of the output `windows`. Files of CSV and Parquet hold the columns that the warehouse
/// has; the window's bounds are in their names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sums {
    group: Group,
    entries: i64,
    exits: i64,
    start: EventTime,
    end: EventTime,
    /// What clocks show when the window ends.
    shown: LocalTime,
}

impl Sums {
    /// Of a window that ends when clocks in `zone` show its `TIME`.
    pub fn of(row: WindowRow<'_, Group, (i64, i64)>, zone: &Zone) -> Self {
        let (entries, exits) = *row.value;
        Self {
            group: *row.key,
            entries,
            exits,
            start: row.start,
            end: row.end,
            shown: zone.local(row.end),
        }
    }
}

impl Tabular for Sums {
    fn columns() -> Vec<Column> {
        let bound = |name| Column::new(name, ColumnType::Timestamp).not_in_files();
        let mut columns = vec![bound("window_start"), bound("window_end")];
        columns.extend(Group::columns());
        columns.extend([
            Column::new("TIME", ColumnType::Text),
            Column::new("DESC", ColumnType::Text),
            Column::new("ENTRIES", ColumnType::Int),
            Column::new("EXITS", ColumnType::Int),
        ]);
        columns
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.timestamp(self.start);
        row.timestamp(self.end);
        self.group.write(row);
        let (hour, minute, second) = self.shown.hour_minute_second();
        row.text(format!("{hour:02}:{minute:02}:{second:02}").as_str());
        row.text(self.group.desc.as_str());
        row.int(self.entries);
        row.int(self.exits);
    }

    fn message_key(&self, key: &mut Vec<u8>) {
        self.group.message_key(key);
    }
}

#[cfg(test)]
mod tests {
    use highwater::rows::{Cell, Rows};
    use highwater::time::{Date, parse_rfc3339};

    use super::*;

    #[test]
    fn the_time_is_that_of_the_window_s_end_on_the_clocks_of_the_zone() {
        let date = Date::new(2023, 12, 31).expect("a day");
        let group = Group {
            date,
            ..Group::default()
        };
        let at = |text: &str| parse_rfc3339(text.as_bytes()).expect("a time");
        let row = WindowRow {
            start: at("2024-01-01T04:55:00Z"),
            end: at("2024-01-01T05:00:00Z"),
            key: &group,
            value: &(7, 9),
        };
        let zone = Zone::named("America/New_York").expect("a zone");
        let mut rows = Rows::new(Sums::columns().into());
        rows.push(&Sums::of(row, &zone));
        let cell = |name| {
            let at = rows.columns().iter().position(|column| column.name == name);
            rows.cell(at.expect("a column"), 0)
        };
        assert_eq!(cell("DATE"), Cell::Text("12/31/2023"));
        assert_eq!(cell("TIME"), Cell::Text("00:00:00"));
        assert_eq!(
            (cell("ENTRIES"), cell("EXITS")),
            (Cell::Int(7), Cell::Int(9))
        );
    }

    #[test]
    fn files_hold_the_columns_of_the_warehouse() {
        let in_files = Sums::columns().into_iter().filter(|it| it.in_files);
        let names: Vec<_> = in_files.map(|column| column.name).collect();
        assert_eq!(
            names.join(","),
            "CA,UNIT,SCP,STATION,LINENAME,DIVISION,DATE,TIME,DESC,ENTRIES,EXITS"
        );
    }
}
