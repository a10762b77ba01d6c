//! What a failure means: whether a retry can help, and what to do when it cannot.

use std::error::Error;
use std::io;

use ::postgres::error::DbError;

use super::epochs::EPOCHS_TABLE;
use super::target::{TableName, quote};

/// What to make of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The server is away, busy or full: wait for as long as it takes.
    Retry,
    /// Perhaps a person's doing, perhaps a setting that will strike again: a few attempts.
    RetryAFewTimes,
    /// No retry can help.
    Fail,
}

/// Whether a retry of the whole transaction can help.
pub(super) fn verdict(error: &::postgres::Error) -> Verdict {
    match error.code() {
        Some(code) => verdict_of_state(code.code()),
        None if error.is_closed() || has_io_source(error) => Verdict::Retry,
        // A connection that breaks within a message.
        None if error.to_string().contains("unexpected message") => Verdict::RetryAFewTimes,
        None => Verdict::Fail,
    }
}

fn verdict_of_state(state: &str) -> Verdict {
    match state {
        // The database was dropped; a statement broke a deferred constraint.
        "57P04" | "40002" => Verdict::Fail,
        // Cancelled, by a person or by statement_timeout; statements that a proxy has lost.
        "57014" | "26000" => Verdict::RetryAFewTimes,
        // Locked by someone; read-only, as the old primary after a failover is; idle too long.
        "55P03" | "25006" | "25P03" | "25P04" => Verdict::Retry,
        // Connection; shutdown, crash and start; disk, memory or connections used up;
        // deadlocks and serialization.
        _ => match state.get(..2) {
            Some("08" | "53" | "57" | "40") => Verdict::Retry,
            _ => Verdict::Fail,
        },
    }
}

fn has_io_source(error: &::postgres::Error) -> bool {
    let mut next = error.source();
    while let Some(source) = next {
        if source.downcast_ref::<io::Error>().is_some_and(|error| {
            // Credentials that cannot be used are told as such errors too.
            !matches!(
                error.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::Other
            ) || error.raw_os_error().is_some()
                || error.to_string().contains("lookup address")
        }) {
            return true;
        }
        next = source.source();
    }
    false
}

/// What the driver and the server said, in one line.
pub(crate) fn chain(error: &::postgres::Error) -> String {
    if let Some(told) = error.as_db_error() {
        return told_by_server(told);
    }
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

fn told_by_server(told: &DbError) -> String {
    let mut text = format!("{} (SQLSTATE {})", told.message(), told.code().code());
    for more in [told.detail(), told.hint()].into_iter().flatten() {
        text.push_str("; ");
        text.push_str(more.trim_end_matches('.'));
    }
    text
}

/// As [`chain`], with what to do about it when that is known.
pub(super) fn explain(error: &::postgres::Error, table: &TableName, database: &str) -> String {
    let told = chain(error);
    let epochs = table.beside(EPOCHS_TABLE);
    let table = if told.contains(EPOCHS_TABLE) {
        &epochs
    } else {
        table
    };
    let advice = error
        .code()
        .and_then(|code| advice(code.code(), table, database));
    advice.map_or(told.clone(), |advice| format!("{told}; {advice}"))
}

fn advice(state: &str, table: &TableName, database: &str) -> Option<String> {
    let text = match state {
        "28P01" => "check the user and the password in the URI".to_owned(),
        "28000" => "pg_hba.conf of the server has no line that lets this user in from here \
                    without TLS: add one, or use another user"
            .to_owned(),
        "3D000" | "57P04" => {
            format!(
                "make the database (CREATE DATABASE {};) or name another",
                quote(database)
            )
        }
        "3F000" => "make the schema (CREATE SCHEMA ...;) or name another in table=".to_owned(),
        "42501" => {
            format!("let the owner say GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO ...;")
        }
        "42P01" | "42703" | "42804" | "42P10" => format!(
            "table {table} was dropped or changed during the run; start again: a missing table \
             is made at the start, a wrong one is explained"
        ),
        "54000" => format!(
            "a value of the natural key is too long for the unique index of {table}; shorten it \
             in the pipeline"
        ),
        "57014" => "raise statement_timeout for this user (ALTER ROLE ... SET \
                    statement_timeout = 0;) and start again"
            .to_owned(),
        "26000" => "a proxy loses prepared statements: use its session mode, or connect to the \
                    server itself"
            .to_owned(),
        "22021" | "22P05" => "a text cannot be stored in the encoding of this database; make one \
                    with ENCODING 'UTF8'"
            .to_owned(),
        _ if state.starts_with("23") => format!(
            "a constraint or trigger of {table} refuses the row: drop it there, or choose \
             another table with table=NAME"
        ),
        _ if state.starts_with("22") => {
            format!("a value does not fit into its column of {table}: widen the column")
        }
        _ => return None,
    };
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_that_pass_are_retried() {
        for state in [
            "08006", "57P01", "57P02", "57P03", "53300", "53100", "40001", "40P01",
        ] {
            assert_eq!(verdict_of_state(state), Verdict::Retry, "{state}");
        }
        for state in [
            "42501", "42P01", "23514", "22001", "28P01", "3D000", "57P04", "XX000",
        ] {
            assert_eq!(verdict_of_state(state), Verdict::Fail, "{state}");
        }
        assert_eq!(verdict_of_state("57014"), Verdict::RetryAFewTimes);
    }

    #[test]
    fn advice_names_the_table() {
        let table = TableName::parse("s.t").unwrap();
        for state in ["42501", "42P01", "23514", "22001", "54000"] {
            let text = advice(state, &table, "db").unwrap();
            assert!(text.contains(r#""s"."t""#), "{state}: {text}");
        }
        assert!(
            advice("3D000", &table, "db")
                .unwrap()
                .contains("CREATE DATABASE \"db\";")
        );
        assert_eq!(advice("XX000", &table, "db"), None);
    }
}
