//! The table of an output: its columns, its key, and the SQL that makes and fills it.

use super::target::{TableName, quote};
use crate::rows::{Cell, ColumnType, Rows};
use crate::sink::encode::{Projection, SOURCE_COLUMNS};
use crate::sink::key::WINDOW_COLUMNS;
use crate::sink::{OutputKind, OutputSpec};

/// Where the cells of a column come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CellSource {
    Column(usize),
    Topic,
    Partition,
    Offset,
}

/// A column of the table.
#[derive(Clone, Debug)]
pub(super) struct TableColumn {
    pub(super) name: &'static str,
    pub(super) kind: ColumnType,
    pub(super) nullable: bool,
    /// Of integers: whether 32 bits hold them.
    is_narrow: bool,
    from: CellSource,
}

impl TableColumn {
    /// The type in which the column is made.
    pub(super) fn sql_type(&self) -> &'static str {
        if self.is_narrow {
            "integer"
        } else {
            sql_type(self.kind)
        }
    }

    /// Whether an existing column of this type holds every cell without a change.
    pub(super) fn fits(&self, existing: &str) -> bool {
        match self.kind {
            ColumnType::Text => matches!(existing, "text" | "character varying"),
            ColumnType::Int if self.is_narrow => {
                matches!(existing, "integer" | "bigint" | "numeric")
            }
            ColumnType::Int => matches!(existing, "bigint" | "numeric"),
            kind => existing == sql_type(kind),
        }
    }
}

/// The server's type of a column; also the element type of its parameter.
fn sql_type(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::Int => "bigint",
        ColumnType::Float => "double precision",
        ColumnType::Text => "text",
        ColumnType::Timestamp => "timestamp with time zone",
        ColumnType::Bool => "boolean",
        ColumnType::Uuid => "uuid",
        ColumnType::Bytes => "bytea",
    }
}

/// The table that an output needs.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) name: TableName,
    pub(super) columns: Vec<TableColumn>,
    /// The positions of the natural key's columns, in the order of the index; empty: no key.
    pub(super) key: Vec<usize>,
    topic: String,
}

impl Table {
    pub(super) fn of(output: &OutputSpec, name: TableName) -> Self {
        let projection = Projection::table(output);
        let mut columns: Vec<TableColumn> = output.columns.iter().enumerate().map(own).collect();
        if projection.source.is_some() {
            columns.extend(
                SOURCE_COLUMNS
                    .iter()
                    .zip([CellSource::Topic, CellSource::Partition, CellSource::Offset])
                    .map(|(column, from)| TableColumn {
                        name: column.name,
                        kind: column.kind,
                        nullable: false,
                        is_narrow: from == CellSource::Partition,
                        from,
                    }),
            );
        }
        let names: Vec<&str> = match &output.kind {
            OutputKind::Windows { key, .. } => WINDOW_COLUMNS.iter().chain(key).copied().collect(),
            OutputKind::Records { .. } => SOURCE_COLUMNS.iter().map(|column| column.name).collect(),
            OutputKind::Log => Vec::new(),
        };
        // From the end: columns of the source stand behind an output's own of the same name.
        let position = |name| columns.iter().rposition(|column| column.name == name);
        let key = names.into_iter().filter_map(position).collect();
        Self {
            name,
            columns,
            key,
            topic: projection.source.unwrap_or_default(),
        }
    }

    pub(super) fn key_columns(&self) -> impl Iterator<Item = &TableColumn> + Clone {
        self.key.iter().map(|&at| &self.columns[at])
    }

    /// The cell of `row` in `column`.
    pub(super) fn cell<'a>(&'a self, column: &TableColumn, rows: &'a Rows, row: usize) -> Cell<'a> {
        match column.from {
            CellSource::Column(at) => rows.cell(at, row),
            CellSource::Topic => Cell::Text(&self.topic),
            CellSource::Partition => Cell::Int(i64::from(rows.origins[row].partition.0)),
            CellSource::Offset => Cell::Int(rows.origins[row].offset.0 as i64),
        }
    }

    /// `CREATE TABLE`.
    pub(super) fn create_sql(&self) -> String {
        let mut lines: Vec<String> = self.columns.iter().map(definition).collect();
        if !self.key.is_empty() {
            lines.push(self.unique_sql());
        }
        format!("CREATE TABLE {} (\n  {}\n)", self.name, lines.join(",\n  "))
    }

    /// The constraint that makes the natural key unique; two nulls in it are the same.
    pub(super) fn unique_sql(&self) -> String {
        format!("UNIQUE NULLS NOT DISTINCT ({})", list(self.key_columns()))
    }

    /// Inserts rows, or replaces those of the same natural key. One array per column.
    pub(super) fn upsert_sql(&self) -> String {
        let arrays: Vec<String> = parameters(self.columns.iter()).collect();
        let insert = format!(
            "INSERT INTO {} ({}) SELECT * FROM UNNEST({})",
            self.name,
            list(self.columns.iter()),
            arrays.join(", ")
        );
        if self.key.is_empty() {
            return insert;
        }
        let values = self
            .columns
            .iter()
            .enumerate()
            .filter(|(at, _)| !self.key.contains(at));
        let set: Vec<String> = values
            .map(|(_, it)| format!("{0} = EXCLUDED.{0}", quote(it.name)))
            .collect();
        let action = match set.len() {
            0 => "DO NOTHING".to_owned(),
            _ => format!("DO UPDATE SET {}", set.join(", ")),
        };
        format!(
            "{insert} ON CONFLICT ({}) {action}",
            list(self.key_columns())
        )
    }

    /// Deletes the rows of natural keys whose cells are null where `nulls` says so, which no index
    /// would find by `IS NOT DISTINCT FROM`. One array per column of the key.
    pub(super) fn delete_sql(&self, nulls: &[bool]) -> String {
        let arrays: Vec<String> = parameters(self.key_columns()).collect();
        let names: Vec<String> = (0..self.key.len()).map(|at| format!("k{at}")).collect();
        let cells = self.key_columns().zip(&names).zip(nulls);
        let same: Vec<String> = cells
            .map(
                |((column, name), is_null)| match (quote(column.name), is_null) {
                    (column, true) => format!("t.{column} IS NULL"),
                    (column, false) => format!("t.{column} = gone.{name}"),
                },
            )
            .collect();
        format!(
            "DELETE FROM {} AS t USING UNNEST({}) AS gone ({}) WHERE {}",
            self.name,
            arrays.join(", "),
            names.join(", "),
            same.join(" AND ")
        )
    }

    /// Which cells of the natural key of `row` are null.
    pub(super) fn key_nulls(&self, rows: &Rows, row: usize) -> Vec<bool> {
        self.key_columns()
            .map(|column| self.cell(column, rows, row) == Cell::Null)
            .collect()
    }
}

fn own((at, column): (usize, &crate::rows::Column)) -> TableColumn {
    TableColumn {
        name: column.name,
        kind: column.kind,
        nullable: column.nullable,
        is_narrow: column.is_narrow,
        from: CellSource::Column(at),
    }
}

fn definition(column: &TableColumn) -> String {
    let null = if column.nullable { "" } else { " NOT NULL" };
    format!("{} {}{null}", quote(column.name), column.sql_type())
}

fn list<'a>(columns: impl Iterator<Item = &'a TableColumn>) -> String {
    columns
        .map(|column| quote(column.name))
        .collect::<Vec<_>>()
        .join(", ")
}

fn parameters<'a>(columns: impl Iterator<Item = &'a TableColumn>) -> impl Iterator<Item = String> {
    let numbered = columns.enumerate();
    numbered.map(|(at, column)| format!("${}::{}[]", at + 1, sql_type(column.kind)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::rows::Column;
    use crate::sink::Layout;
    use crate::time::Span;

    pub(in super::super) fn table(kind: OutputKind, columns: &[Column]) -> Table {
        let output = OutputSpec {
            pipeline: "cars",
            name: "late-rows",
            columns: columns.into(),
            kind,
            layout: Layout::Flat,
        };
        Table::of(&output, TableName::of(&output))
    }

    const WINDOWS: [Column; 4] = [
        Column::nullable("car", ColumnType::Uuid),
        Column::new("window_start", ColumnType::Timestamp),
        Column::new("window_end", ColumnType::Timestamp),
        Column::nullable("speed", ColumnType::Float),
    ];

    #[test]
    fn windows_have_their_bounds_and_groups_as_key() {
        let kind = OutputKind::Windows {
            key: vec!["car"],
            keep: Span(0),
        };
        let table = table(kind, &WINDOWS);
        assert_eq!(
            table.create_sql(),
            r#"CREATE TABLE "cars_late_rows" (
  "car" uuid,
  "window_start" timestamp with time zone NOT NULL,
  "window_end" timestamp with time zone NOT NULL,
  "speed" double precision,
  UNIQUE NULLS NOT DISTINCT ("window_start", "window_end", "car")
)"#
        );
        assert_eq!(
            table.upsert_sql(),
            r#"INSERT INTO "cars_late_rows" ("car", "window_start", "window_end", "speed") "#
                .to_owned()
                + "SELECT * FROM UNNEST($1::uuid[], $2::timestamp with time zone[], "
                + "$3::timestamp with time zone[], $4::double precision[]) "
                + r#"ON CONFLICT ("window_start", "window_end", "car") "#
                + r#"DO UPDATE SET "speed" = EXCLUDED."speed""#
        );
        assert_eq!(
            table.delete_sql(&[false, false, true]),
            r#"DELETE FROM "cars_late_rows" AS t USING UNNEST($1::timestamp with time zone[], "#
                .to_owned()
                + "$2::timestamp with time zone[], $3::uuid[]) AS gone (k0, k1, k2) "
                + r#"WHERE t."window_start" = gone.k0 AND t."window_end" = gone.k1 "#
                + r#"AND t."car" IS NULL"#
        );
    }

    #[test]
    fn records_have_their_origin_as_key_and_logs_have_none() {
        let columns = [Column::new("n", ColumnType::Int)];
        let kind = OutputKind::Records {
            source: "topic".to_owned(),
        };
        let sql = table(kind, &columns).create_sql();
        assert!(sql.contains("\"n\" bigint NOT NULL"), "{sql}");
        assert!(
            sql.contains("\"source_partition\" integer NOT NULL"),
            "{sql}"
        );
        let key = r#"NOT DISTINCT ("source_topic", "source_partition", "source_offset")"#;
        assert!(sql.contains(key), "{sql}");
        let log = table(OutputKind::Log, &columns);
        assert!(!log.create_sql().contains("UNIQUE"));
        assert!(log.upsert_sql().ends_with("UNNEST($1::bigint[])"));
    }

    #[test]
    fn narrow_integers_are_integers_and_fit_into_wider_ones() {
        let columns = [
            Column::nullable("hour", ColumnType::Int).narrow(),
            Column::nullable("n", ColumnType::Int),
        ];
        let table = table(OutputKind::Log, &columns);
        let sql = table.create_sql();
        assert!(sql.contains("\"hour\" integer,"), "{sql}");
        // As bigint on their way: the server makes them narrow.
        assert!(table.upsert_sql().contains("$1::bigint[], $2::bigint[]"));
        let fits = |column: usize, existing| table.columns[column].fits(existing);
        assert!(fits(0, "integer") && fits(0, "bigint") && !fits(0, "smallint"));
        assert!(!fits(1, "integer") && fits(1, "bigint"));
    }

    #[test]
    fn a_key_without_values_conflicts_quietly() {
        let kind = OutputKind::Windows {
            key: vec!["car"],
            keep: Span(0),
        };
        assert!(
            table(kind, &WINDOWS[..3])
                .upsert_sql()
                .ends_with("DO NOTHING")
        );
    }
}
