//! `highwater dims`: makes the dimension tables of a pipeline, or copies them.

use std::io::Write;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::error::{CliError, DONE, Outcome};
use super::flags;
use super::kafka;
use super::registry::PipelineEntry;
use crate::join::Policy;
use crate::tables::copy::rows_in;
use crate::tables::{PlaceOptions, SharedPlace, TableFormat, WriteOptions, parse_place};
use crate::time::Span;

/// Adds the flags that are the same for all pipelines.
pub fn flags(command: Command) -> Command {
    let uri = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("URI").help(help)
    };
    let command = command
        .arg(
            uri("to", "Where to make them: dir:PATH | s3://BUCKET/PREFIX | postgres://USER@HOST/DB[?schema=S&prefix=P] | kafka://HOST:PORT/TOPIC-PREFIX")
                .required(true),
        )
        .arg(uri("from", "Copy the tables that are there (dir:, s3:, postgres:) instead of making some"))
        .arg(
            Arg::new("format")
                .long("format")
                .value_name("FORMAT")
                .value_parser(value_parser!(TableFormat))
                .default_value("csv")
                .help("The form of files"),
        )
        .arg(
            Arg::new("replace")
                .long("replace")
                .action(ArgAction::SetTrue)
                .help("Replace the rows that tables of a server hold already"),
        );
    flags::kafka_flags(command)
}

/// Makes the tables.
pub fn command(entry: &dyn PipelineEntry, matches: &ArgMatches) -> Outcome {
    let to =
        place(matches, "to")?.ok_or_else(|| CliError::usage("where to? give --to dir:PATH"))?;
    let tables = match place(matches, "from")? {
        Some(from) => rows_in(&*from, entry.tables()).map_err(CliError::failed)?,
        None => entry.make_dims(matches).map_err(CliError::Failed)?,
    };
    let options = WriteOptions {
        format: matches.get_one("format").copied().unwrap_or_default(),
        replace: matches.get_flag("replace"),
    };
    let made = to.write(&tables, &options).map_err(CliError::failed)?;
    writeln!(std::io::stdout().lock(), "{made}")?;
    Ok(DONE)
}

/// `--dims-wait`, if it can change anything.
///
/// # Errors
/// When no change of the tables would ever be waited for.
pub fn wait(matches: &ArgMatches) -> Result<Span, CliError> {
    let wait = matches.get_one::<Span>("dims-wait").copied();
    let wait = wait.unwrap_or_default();
    let reason = if wait == Span::ZERO {
        return Ok(wait);
    } else if matches.get_one::<Span>("dims-refresh").is_none() {
        "the tables are read once, so that no change of them comes: add --dims-refresh 1s"
    } else if matches.get_one("dims-policy") == Some(&Policy::Static) {
        "--dims-policy static keeps the tables as they were at the first start: leave one of the \
         two away"
    } else {
        return Ok(wait);
    };
    Err(CliError::Usage(format!("--dims-wait {wait}: {reason}")))
}

/// The place that the flag `name` names.
pub fn place(matches: &ArgMatches, name: &str) -> Result<Option<SharedPlace>, CliError> {
    let Some(uri) = matches.get_one::<String>(name) else {
        return Ok(None);
    };
    let options = PlaceOptions {
        kafka: kafka::properties(matches)?,
        connect_timeout: kafka::connect_timeout(matches),
    };
    parse_place(uri, &options)
        .map(Some)
        .map_err(|error| CliError::Usage(format!("--{name} {error}")))
}
