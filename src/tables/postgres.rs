//! A table per table: `postgres://USER@HOST/DB[?schema=SCHEMA&prefix=PREFIX]`.
//!
//! All tables are read in one transaction that sees them as of one moment. `schema` and `prefix`
//! (which stands before the name of each table) are ours; other parameters are the driver's.
//! `valid_from` may be `timestamptz`, or `timestamp`, which is read as UTC.

use ::postgres::types::Type;
use ::postgres::{Client, Config, IsolationLevel, Row, Transaction};

use super::{
    At, Contents, PlaceOptions, TablePlace, TableRows, Value, Whole, WriteOptions, listed,
};
use crate::join::{DimError, DimTable, VALID_FROM};
use crate::rows::{Cell, Column, ColumnType, Rows};
use crate::sink::postgres::server::{self, Address, chain, quote};
use crate::time::EventTime;

const FORM: &str = "postgres://USER@HOST/DATABASE";

/// Tables of a database.
pub(super) struct DatabasePlace {
    config: Config,
    /// Host and database.
    server: String,
    schema: Option<String>,
    prefix: String,
    options: PlaceOptions,
}

impl DatabasePlace {
    /// Connects to nothing yet.
    pub(super) fn new(uri: &str, options: &PlaceOptions) -> Result<Self, String> {
        let address = Address::parse(uri, &["schema", "prefix"], FORM, options.connect_timeout);
        let address = address.map_err(|error| error.to_string())?;
        let own = |name| {
            let found = address.own.iter().find(|(it, _)| *it == name);
            found.map(|(_, value)| value.clone())
        };
        let schema = own("schema");
        if schema.as_deref() == Some("") {
            return Err(format!("postgres {}: schema= is empty", address.place));
        }
        let prefix = own("prefix").unwrap_or_default();
        Ok(Self {
            config: address.config,
            server: address.place,
            schema,
            prefix,
            options: options.clone(),
        })
    }

    /// The name of a table, for people.
    fn shown(&self, table: &str) -> String {
        let schema = self.schema.iter().map(|schema| format!("{schema}."));
        format!("{}{}{table}", schema.collect::<String>(), self.prefix)
    }

    /// The name of a table, for the server.
    fn quoted(&self, table: &str) -> String {
        let schema = self.schema.iter().map(|it| format!("{}.", quote(it)));
        let name = quote(&format!("{}{table}", self.prefix));
        format!("{}{name}", schema.collect::<String>())
    }

    fn place_of(&self, table: &str) -> String {
        format!("postgres {}, table {}", self.server, self.shown(table))
    }

    fn connect(&self) -> Result<Client, DimError> {
        server::connect(&self.config, self.options.connect_timeout).map_err(|reason| {
            DimError(format!(
                "postgres {}: cannot be reached: {reason}; check the address, the user and that \
                 the server runs",
                self.server
            ))
        })
    }

    fn failed(&self, table: &str, error: &::postgres::Error) -> DimError {
        let (place, told) = (self.place_of(table), chain(error));
        let advice = match error.code().map(::postgres::error::SqlState::code) {
            Some("42P01" | "3F000") => {
                "; `highwater dims PIPELINE --to postgres://...` makes the tables; or name where \
                 they are: ?schema=...&prefix=..."
            }
            Some("42501") => "; let the owner say GRANT SELECT ON the table TO the user",
            _ => "",
        };
        DimError(format!("{place}: {told}{advice}"))
    }

    fn read_table(
        &self,
        transaction: &mut Transaction<'_>,
        table: &DimTable,
    ) -> Result<Whole, DimError> {
        let failed = |error: ::postgres::Error| self.failed(table.name, &error);
        let name = self.quoted(table.name);
        let statement = transaction.prepare(&format!("SELECT * FROM {name} LIMIT 0"));
        let statement = statement.map_err(failed)?;
        let is_wanted = |name: &str| {
            name == VALID_FROM || table.columns.iter().any(|column| column.name == name)
        };
        let columns = statement.columns().iter();
        let columns: Vec<(&str, &Type)> = columns
            .map(|column| (column.name(), column.type_()))
            .filter(|(name, _)| is_wanted(name))
            .collect();
        let mut whole = Whole {
            name: self.place_of(table.name),
            columns: columns.iter().map(|(name, _)| (*name).to_owned()).collect(),
            rows: Vec::new(),
        };
        if columns.is_empty() {
            return Ok(whole);
        }
        let texts: Vec<_> = columns.iter().map(|it| as_text(it.0, it.1)).collect();
        let query = format!("SELECT {} FROM {name}", texts.join(", "));
        for row in transaction.query(&query, &[]).map_err(failed)? {
            let cells: Result<Vec<_>, _> = columns
                .iter()
                .enumerate()
                .map(|(at, (_, kind))| cell(&row, at, kind))
                .collect();
            whole.rows.push((At::Unordered, cells.map_err(failed)?));
        }
        Ok(whole)
    }

    fn write_table(
        &self,
        transaction: &mut Transaction<'_>,
        it: &TableRows,
        options: &WriteOptions,
    ) -> Result<(), DimError> {
        let table = it.table.name;
        let failed = |error: ::postgres::Error| self.failed(table, &error);
        let name = self.quoted(table);
        let sql = create_sql(&name, &it.table);
        transaction.batch_execute(&sql).map_err(failed)?;
        let lock = format!("LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE");
        transaction.batch_execute(&lock).map_err(failed)?;
        let found = transaction.query_one(&format!("SELECT EXISTS (SELECT FROM {name})"), &[]);
        let has_rows: bool = found.and_then(|row| row.try_get(0)).map_err(failed)?;
        if has_rows && !options.replace {
            return Err(DimError(format!(
                "{}: there are rows already; add --replace to put the new ones in their place, or \
                 choose another schema= or prefix=",
                self.place_of(table)
            )));
        }
        let delete = format!("DELETE FROM {name}");
        transaction.batch_execute(&delete).map_err(failed)?;
        let columns: Vec<Vec<Option<String>>> = (0..it.rows.columns().len())
            .map(|at| {
                (0..it.rows.len())
                    .map(|row| text(&it.rows, at, row))
                    .collect()
            })
            .collect();
        let parameters: Vec<_> = columns
            .iter()
            .map(|column| column as &(dyn ::postgres::types::ToSql + Sync))
            .collect();
        let insert = insert_sql(&name, it.rows.columns());
        transaction
            .execute(&insert, &parameters)
            .map_err(failed)
            .map(drop)
    }
}

/// An expression for a column as text: of a time, its milliseconds since 1970.
fn as_text(name: &str, kind: &Type) -> String {
    let name = quote(name);
    if *kind == Type::TIMESTAMPTZ || *kind == Type::TIMESTAMP {
        format!(
            "CASE WHEN isfinite({name}) THEN floor(extract(epoch FROM {name}) * 1000)::bigint::text \
             ELSE {name}::text END"
        )
    } else {
        format!("{name}::text")
    }
}

fn cell(row: &Row, at: usize, kind: &Type) -> Result<Value, ::postgres::Error> {
    let text: Option<String> = row.try_get(at)?;
    Ok(text.map_or(Value::Null, |text| value(text, kind)))
}

fn value(text: String, kind: &Type) -> Value {
    let name = || format!("of type {}", kind.name());
    let other = |text: String| Value::Other(name(), text);
    match *kind {
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME => Value::Text(text),
        Type::INT2 | Type::INT4 | Type::INT8 | Type::NUMERIC => {
            text.parse().map_or_else(|_| other(text), Value::Int)
        }
        Type::FLOAT4 | Type::FLOAT8 => text.parse().map_or_else(|_| other(text), Value::Float),
        Type::BOOL => Value::Bool(text == "true"),
        Type::TIMESTAMPTZ | Type::TIMESTAMP => {
            let millis = text.parse().map(EventTime);
            millis.map_or_else(|_| other(text), Value::Time)
        }
        _ => other(text),
    }
}

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

fn create_sql(name: &str, table: &DimTable) -> String {
    let column = |column: &Column| {
        let null = if column.nullable { "" } else { " NOT NULL" };
        format!("{} {}{null}", quote(column.name), sql_type(column.kind))
    };
    let columns: Vec<_> = table.columns.iter().map(column).collect();
    let (key, valid_from) = (quote(table.key()), quote(VALID_FROM));
    format!(
        "CREATE TABLE IF NOT EXISTS {name} ({}, {valid_from} timestamp with time zone, \
         UNIQUE NULLS NOT DISTINCT ({key}, {valid_from}))",
        columns.join(", ")
    )
}

fn insert_sql(name: &str, columns: &[Column]) -> String {
    let list = |of: &dyn Fn(usize, &Column) -> String| {
        let one = columns
            .iter()
            .enumerate()
            .map(|(at, column)| of(at, column));
        one.collect::<Vec<_>>().join(", ")
    };
    format!(
        "INSERT INTO {name} ({}) SELECT {} FROM unnest({}) AS given({})",
        list(&|_, column| quote(column.name)),
        list(&|at, column| format!("c{at}::{}", sql_type(column.kind))),
        list(&|at, _| format!("${}::text[]", at + 1)),
        list(&|at, _| format!("c{at}")),
    )
}

fn text(rows: &Rows, column: usize, row: usize) -> Option<String> {
    match rows.cell(column, row) {
        Cell::Int(number) => Some(number.to_string()),
        Cell::Float(number) => Some(number.to_string()),
        Cell::Text(text) => Some(text.to_owned()),
        Cell::Timestamp(time) => Some(time.to_string()),
        Cell::Bool(is) => Some(is.to_string()),
        Cell::Null | Cell::Uuid(_) | Cell::Bytes(_) => None,
    }
}

impl TablePlace for DatabasePlace {
    fn name(&self) -> String {
        let is_plain = self.schema.is_none() && self.prefix.is_empty();
        if is_plain {
            format!("postgres {}", self.server)
        } else {
            format!("postgres {}, tables {}", self.server, self.shown("*"))
        }
    }

    fn read(&self, tables: &[DimTable]) -> Result<Vec<Contents>, DimError> {
        let mut client = self.connect()?;
        let failed = |error: &::postgres::Error| {
            DimError(format!("postgres {}: {}", self.server, chain(error)))
        };
        let prepared = client.batch_execute(server::LOCK_TIMEOUT);
        prepared.map_err(|error| failed(&error))?;
        let transaction = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start();
        let mut transaction = transaction.map_err(|error| failed(&error))?;
        let read = |table| {
            self.read_table(&mut transaction, table)
                .map(Contents::Whole)
        };
        tables.iter().map(read).collect()
    }

    /// All tables in one transaction: readers see the new rows of all of them at once.
    fn write(&self, tables: &[TableRows], options: &WriteOptions) -> Result<String, DimError> {
        let mut client = self.connect()?;
        let failed = |error: &::postgres::Error| {
            DimError(format!("postgres {}: {}", self.server, chain(error)))
        };
        let prepared = client.batch_execute(server::LOCK_TIMEOUT);
        prepared.map_err(|error| failed(&error))?;
        let mut transaction = client.transaction().map_err(|error| failed(&error))?;
        if let Some(schema) = &self.schema {
            let sql = format!("CREATE SCHEMA IF NOT EXISTS {}", quote(schema));
            let made = transaction.batch_execute(&sql);
            made.map_err(|error| failed(&error))?;
        }
        for it in tables {
            self.write_table(&mut transaction, it, options)?;
        }
        transaction.commit().map_err(|error| failed(&error))?;
        let made = listed(tables, |table| self.shown(table.name));
        Ok(format!("postgres {}: {made}", self.server))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_have_the_types_of_their_columns() {
        let of = |text: &str, kind| value(text.to_owned(), &kind);
        assert_eq!(of("7", Type::INT2), Value::Int(7));
        assert_eq!(of("7", Type::NUMERIC), Value::Int(7));
        assert_eq!(of("7", Type::VARCHAR), Value::Text("7".to_owned()));
        assert_eq!(of("-1", Type::TIMESTAMPTZ), Value::Time(EventTime(-1)));
        for (text, kind) in [
            ("7.5", Type::NUMERIC),
            ("infinity", Type::TIMESTAMPTZ),
            ("{}", Type::JSONB),
            ("2024-01-01", Type::DATE),
        ] {
            let value = of(text, kind.clone());
            assert!(matches!(value, Value::Other(..)), "{kind}: {value:?}");
        }
    }

    #[test]
    fn statements_quote_names() {
        let columns = [
            Column::new("id", ColumnType::Int),
            Column::nullable("na\"me", ColumnType::Text),
        ];
        assert_eq!(
            insert_sql("\"t\"", &columns),
            "INSERT INTO \"t\" (\"id\", \"na\"\"me\") SELECT c0::bigint, c1::text FROM \
             unnest($1::text[], $2::text[]) AS given(c0, c1)"
        );
    }
}
