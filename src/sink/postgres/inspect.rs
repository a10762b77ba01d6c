//! What stands on the server already, and whether it fits.

use ::postgres::{Client, Error, Row};

use super::table::{Table, TableColumn};
use super::target::quote;

/// The first version with `NULLS NOT DISTINCT`, which natural keys with nulls need.
const OLDEST_VERSION: i32 = 150_000;

/// What is known about the server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) version: String,
    version_number: i32,
    encoding: String,
    is_read_only: bool,
}

impl Server {
    pub(super) fn look(client: &mut Client) -> Result<Self, Error> {
        let row = client.query_one(
            "SELECT current_setting('server_version'), \
                    current_setting('server_version_num')::integer, \
                    current_setting('server_encoding'), \
                    current_setting('transaction_read_only')::boolean",
            &[],
        )?;
        Ok(Self {
            version: row.try_get(0)?,
            version_number: row.try_get(1)?,
            encoding: row.try_get(2)?,
            is_read_only: row.try_get(3)?,
        })
    }

    /// Why this server cannot be used, and what to do.
    pub(super) fn problem(&self) -> Option<String> {
        if self.version_number < OLDEST_VERSION {
            return Some(format!(
                "the server is PostgreSQL {}, which has no UNIQUE NULLS NOT DISTINCT; use 15 or \
                 newer",
                self.version
            ));
        }
        if self.is_read_only {
            return Some(
                "the server takes no changes (a standby, or default_transaction_read_only is \
                 on); connect to the primary"
                    .to_owned(),
            );
        }
        if !matches!(self.encoding.as_str(), "UTF8" | "SQL_ASCII") {
            return Some(format!(
                "the database has the encoding {}, which cannot hold every text; make one with \
                 CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0;",
                self.encoding
            ));
        }
        None
    }
}

/// What stands where the table should be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing, and it can be made.
    Nothing,
    /// A table that fits.
    Fitting,
    /// Something that cannot be used, or nothing that cannot be made: one text per problem, with
    /// the SQL that solves it.
    Unfit(Vec<String>),
}

/// Looks for `table`.
pub(super) fn look(client: &mut Client, table: &Table) -> Result<Found, Error> {
    let name = table.name.to_string();
    let row = client.query_one("SELECT to_regclass($1)::oid", &[&name])?;
    let problems = match row.try_get::<_, Option<u32>>(0)? {
        None => match place_problem(client, table)? {
            None => return Ok(Found::Nothing),
            Some(problem) => vec![problem],
        },
        Some(oid) => problems(client, table, oid)?,
    };
    Ok(if problems.is_empty() {
        Found::Fitting
    } else {
        Found::Unfit(problems)
    })
}

/// Why the table cannot be made.
fn place_problem(client: &mut Client, table: &Table) -> Result<Option<String>, Error> {
    let schema = table.name.schema.as_deref();
    let row = client.query_one(
        "SELECT name, to_regnamespace(quote_ident(name)) IS NOT NULL, \
                has_schema_privilege(to_regnamespace(quote_ident(name))::oid, 'CREATE'), \
                current_user::text \
         FROM (SELECT coalesce($1::text, current_schema()::text) AS name) AS place",
        &[&schema],
    )?;
    let (name, exists): (Option<String>, bool) = (row.try_get(0)?, row.try_get(1)?);
    let (may_create, user): (Option<bool>, String) = (row.try_get(2)?, row.try_get(3)?);
    let Some(name) = name.map(|name| quote(&name)) else {
        return Ok(Some(
            "no schema of search_path exists; write table=SCHEMA.TABLE".to_owned(),
        ));
    };
    if !exists {
        return Ok(Some(format!(
            "there is no schema {name}: CREATE SCHEMA {name};"
        )));
    }
    let denied = format!(
        "user {user} may not make tables in schema {name}: GRANT CREATE ON SCHEMA {name} TO {};",
        quote(&user)
    );
    Ok((may_create != Some(true)).then_some(denied))
}

fn problems(client: &mut Client, table: &Table, oid: u32) -> Result<Vec<String>, Error> {
    if let Some(problem) = kind_problem(client, table, oid)? {
        return Ok(vec![problem]);
    }
    let mut problems = rights_problems(client, table, oid)?;
    problems.extend(column_problems(table, &columns(client, oid)?));
    problems.extend(key_problem(client, table, oid)?);
    Ok(problems)
}

fn kind_problem(client: &mut Client, table: &Table, oid: u32) -> Result<Option<String>, Error> {
    let row = client.query_one("SELECT relkind::text FROM pg_class WHERE oid = $1", &[&oid])?;
    let kind: String = row.try_get(0)?;
    let what = match kind.as_str() {
        "r" | "p" => return Ok(None),
        "v" => "a view",
        "m" => "a materialized view",
        "f" => "a foreign table",
        _ => "not a table",
    };
    Ok(Some(format!(
        "{} is {what}; choose another name",
        table.name
    )))
}

fn rights_problems(client: &mut Client, table: &Table, oid: u32) -> Result<Vec<String>, Error> {
    let row = client.query_one(
        "SELECT has_table_privilege($1::oid, 'SELECT'), has_table_privilege($1::oid, 'INSERT'), \
                has_table_privilege($1::oid, 'UPDATE'), has_table_privilege($1::oid, 'DELETE'), \
                current_user::text",
        &[&oid],
    )?;
    let needed = ["SELECT", "INSERT", "UPDATE", "DELETE"];
    let mut missing = Vec::new();
    for (at, right) in needed.into_iter().enumerate() {
        let is_needed = right == "INSERT" || !table.key.is_empty();
        if is_needed && !row.try_get::<_, bool>(at)? {
            missing.push(right);
        }
    }
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let (rights, user) = (missing.join(", "), row.try_get::<_, String>(4)?);
    let grant = format!("GRANT {rights} ON {} TO {};", table.name, quote(&user));
    Ok(vec![format!("user {user} may not {rights}: {grant}")])
}

/// A column that exists.
#[derive(Debug)]
struct Existing {
    name: String,
    sql_type: String,
    is_not_null: bool,
    filled: Filled,
}

/// What the server itself puts into a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filled {
    No,
    /// A value, when none is given.
    Default,
    /// Always a number of its own.
    Identity,
    /// Always the value of an expression.
    Expression,
}

fn columns(client: &mut Client, oid: u32) -> Result<Vec<Existing>, Error> {
    let rows = client.query(
        "SELECT attname::text, format_type(atttypid, atttypmod), attnotnull, \
                CASE WHEN attgenerated <> '' THEN 'expression' \
                     WHEN attidentity = 'a' THEN 'identity' \
                     WHEN atthasdef OR attidentity <> '' THEN 'default' ELSE 'no' END \
         FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped \
         ORDER BY attnum",
        &[&oid],
    )?;
    rows.iter().map(existing).collect()
}

fn existing(row: &Row) -> Result<Existing, Error> {
    let filled = match row.try_get(3)? {
        "expression" => Filled::Expression,
        "identity" => Filled::Identity,
        "default" => Filled::Default,
        _ => Filled::No,
    };
    Ok(Existing {
        name: row.try_get(0)?,
        sql_type: row.try_get(1)?,
        is_not_null: row.try_get(2)?,
        filled,
    })
}

fn column_problems(table: &Table, existing: &[Existing]) -> Vec<String> {
    let found = |name: &str| existing.iter().find(|it| it.name == name);
    let needed = table
        .columns
        .iter()
        .flat_map(|column| match found(column.name) {
            None => vec![missing_column(table, column)],
            Some(it) => misfits(table, column, it),
        });
    let is_needed = |name: &str| table.columns.iter().any(|column| column.name == name);
    let extra = existing.iter().filter(|it| !is_needed(&it.name));
    let in_the_way = extra
        .filter(|it| it.is_not_null && it.filled == Filled::No)
        .map(|it| {
            let name = quote(&it.name);
            format!(
                "column {name} is not of this output, and must not be null: \
             ALTER TABLE {} ALTER COLUMN {name} DROP NOT NULL;",
                table.name
            )
        });
    needed.chain(in_the_way).collect()
}

fn missing_column(table: &Table, column: &TableColumn) -> String {
    let (name, kind) = (quote(column.name), column.sql_type());
    format!(
        "column {name} is missing: ALTER TABLE {} ADD COLUMN {name} {kind};",
        table.name
    )
}

fn misfits(table: &Table, column: &TableColumn, existing: &Existing) -> Vec<String> {
    let (name, kind) = (quote(column.name), column.sql_type());
    let alter = format!("ALTER TABLE {} ALTER COLUMN {name}", table.name);
    let mut misfits = Vec::new();
    let always = match existing.filled {
        Filled::Identity => Some("IDENTITY"),
        Filled::Expression => Some("EXPRESSION"),
        Filled::No | Filled::Default => None,
    };
    if let Some(what) = always {
        misfits.push(format!(
            "column {name} is filled by the server: {alter} DROP {what};"
        ));
    }
    if !column.fits(&existing.sql_type) {
        misfits.push(format!(
            "column {name} has type {}, and {kind} is needed: {alter} TYPE {kind};",
            existing.sql_type
        ));
    }
    if column.nullable && existing.is_not_null {
        misfits.push(format!(
            "column {name} must not be null, and the output has nulls: {alter} DROP NOT NULL;"
        ));
    }
    misfits
}

/// Whether `ON CONFLICT` finds an index with exactly the columns of the natural key.
fn key_problem(client: &mut Client, table: &Table, oid: u32) -> Result<Option<String>, Error> {
    if table.key.is_empty() {
        return Ok(None);
    }
    let names: Vec<&str> = table.key_columns().map(|column| column.name).collect();
    let needs_nulls = table.key_columns().any(|column| column.nullable);
    let row = client.query_one(
        "SELECT EXISTS (SELECT FROM pg_index WHERE indrelid = $1 AND indisunique \
           AND indisvalid AND indimmediate AND indpred IS NULL AND indexprs IS NULL \
           AND (indnullsnotdistinct OR NOT $3) \
           AND (SELECT array_agg(attname::text ORDER BY attname::text) FROM pg_attribute \
                WHERE attrelid = $1 AND attnum = ANY (indkey[0:indnkeyatts - 1])) \
             = (SELECT array_agg(name ORDER BY name) FROM unnest($2::text[]) AS name))",
        &[&oid, &names, &needs_nulls],
    )?;
    let problem = format!(
        "no unique index has exactly the columns of the natural key: ALTER TABLE {} ADD {};",
        table.name,
        table.unique_sql()
    );
    Ok((!row.try_get::<_, bool>(0)?).then_some(problem))
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::table;
    use super::*;
    use crate::rows::{Column, ColumnType};
    use crate::sink::OutputKind;

    fn server() -> Server {
        Server {
            version: "16.4".to_owned(),
            version_number: 160_004,
            encoding: "UTF8".to_owned(),
            is_read_only: false,
        }
    }

    #[test]
    fn servers_that_cannot_be_used_are_explained() {
        assert_eq!(server().problem(), None);
        let old = Server {
            version: "14.9".to_owned(),
            version_number: 140_009,
            ..server()
        };
        let problem = old.problem().unwrap();
        assert!(
            problem.contains("14.9") && problem.contains("15 or newer"),
            "{problem}"
        );
        let standby = Server {
            is_read_only: true,
            ..server()
        };
        assert!(standby.problem().unwrap().contains("primary"));
        let latin = Server {
            encoding: "LATIN1".to_owned(),
            ..server()
        };
        assert!(latin.problem().unwrap().contains("ENCODING 'UTF8'"));
    }

    #[test]
    fn each_wrong_column_is_named_with_the_sql_that_mends_it() {
        let columns = [
            Column::new("n", ColumnType::Int),
            Column::nullable("name", ColumnType::Text),
            Column::new("at", ColumnType::Timestamp),
        ];
        let table = table(OutputKind::Log, &columns);
        let existing = |name: &str, sql_type: &str, is_not_null| Existing {
            name: name.to_owned(),
            sql_type: sql_type.to_owned(),
            is_not_null,
            filled: Filled::No,
        };
        let found = [
            existing("n", "integer", false),
            existing("name", "text", true),
            existing("x", "uuid", true),
        ];
        let problems = column_problems(&table, &found);
        let parts = [
            r#""n" has type integer, and bigint is needed: ALTER TABLE "cars_late_rows" ALTER COLUMN "n" TYPE bigint;"#,
            r#"ALTER COLUMN "name" DROP NOT NULL;"#,
            r#""at" is missing: ALTER TABLE "cars_late_rows" ADD COLUMN "at" timestamp with time zone;"#,
            r#"ALTER COLUMN "x" DROP NOT NULL;"#,
        ];
        assert_eq!(problems.len(), parts.len(), "{problems:?}");
        for (problem, part) in problems.iter().zip(parts) {
            assert!(problem.contains(part), "{problem}");
        }
    }
}
