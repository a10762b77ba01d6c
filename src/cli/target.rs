//! `--to`: which output goes where.

use std::io::IsTerminal;
use std::sync::Arc;

use clap::ArgMatches;

use super::error::{CliError, similar};
use crate::sink::{OutputSpec, SinkError, SinkFactory, SinkOptions, mask_secrets, parse_sink};

/// Where an output goes.
pub struct Target {
    /// The output.
    pub output: &'static str,
    /// The URI, without secrets.
    pub uri: String,
    /// What the URI means.
    pub factory: Arc<dyn SinkFactory>,
}

/// Output and URI of each `--to`; without any, the main output goes to the console.
pub fn wanted(
    matches: &ArgMatches,
    outputs: &[OutputSpec],
    main: &'static str,
) -> Result<Vec<(&'static str, String)>, CliError> {
    let given: Vec<_> = matches
        .get_many::<String>("to")
        .into_iter()
        .flatten()
        .collect();
    if given.is_empty() {
        return Ok(vec![(main, "console:".to_owned())]);
    }
    given
        .into_iter()
        .map(|text| split(text, outputs, main))
        .collect()
}

/// Splits at the first `=` when the left side is an output.
fn split(
    text: &str,
    outputs: &[OutputSpec],
    main: &'static str,
) -> Result<(&'static str, String), CliError> {
    let Some((name, uri)) = text.split_once('=') else {
        return Ok((main, text.to_owned()));
    };
    if let Some(output) = outputs.iter().find(|output| output.name == name) {
        return Ok((output.name, uri.to_owned()));
    }
    // `windwos=console:` is a slip; `postgres://...?table=t` is a URI.
    if name.contains(':') {
        return Ok((main, text.to_owned()));
    }
    let names: Vec<_> = outputs.iter().map(|output| output.name).collect();
    let meant = similar(name, names.iter().copied());
    let meant = meant
        .map(|meant| format!("; is {meant} meant?"))
        .unwrap_or_default();
    Err(CliError::Usage(format!(
        "--to {}: there is no output {name}; the outputs are {}{meant}",
        mask_secrets(text),
        names.join(", ")
    )))
}

/// Opens all targets.
pub fn open_all(
    matches: &ArgMatches,
    outputs: &[OutputSpec],
    main: &'static str,
) -> Result<Vec<Target>, CliError> {
    let wanted = wanted(matches, outputs, main)?;
    let options = options(matches)?;
    let open = |(output, uri): (&'static str, String)| {
        let factory = open(&uri, &options)?;
        Ok(Target {
            output,
            uri: mask_secrets(&uri),
            factory,
        })
    };
    wanted.into_iter().map(open).collect()
}

/// What a `--to` URI means.
pub fn open(uri: &str, options: &SinkOptions) -> Result<Arc<dyn SinkFactory>, CliError> {
    parse_sink(uri, options).map_err(|error| match error {
        SinkError::Config(text) => CliError::Usage(text),
        error => CliError::failed(error),
    })
}

/// What sinks need besides their URI.
pub fn options(matches: &ArgMatches) -> Result<SinkOptions, CliError> {
    Ok(SinkOptions {
        kafka: super::kafka::properties(matches)?,
        connect_timeout: super::kafka::connect_timeout(matches),
        color: uses_color(),
    })
}

/// Whether standard output takes colours.
fn uses_color() -> bool {
    let is_off = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !is_off && std::io::stdout().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::{outputs, parse};

    fn targets(flags: &[&str]) -> Result<Vec<(&'static str, String)>, String> {
        wanted(&parse(flags), &outputs(&["windows", "late"]), "windows").map_err(
            |error| match error {
                CliError::Usage(text) => text,
                other => format!("{other:?}"),
            },
        )
    }

    #[test]
    fn only_an_output_before_the_equals_sign_is_split_off() {
        let is = |flag: &str, output, uri: &str| {
            assert_eq!(
                targets(&["--to", flag]),
                Ok(vec![(output, uri.to_owned())]),
                "{flag}"
            );
        };
        is("null:", "windows", "null:");
        is("late=null:", "late", "null:");
        is(
            "postgres://u@h/db?table=t",
            "windows",
            "postgres://u@h/db?table=t",
        );
        is(
            "late=postgres://u@h/db?table=t",
            "late",
            "postgres://u@h/db?table=t",
        );
        is("ndjson:late=1.ndjson", "windows", "ndjson:late=1.ndjson");
        assert_eq!(targets(&[]), Ok(vec![("windows", "console:".to_owned())]));
    }

    #[test]
    fn a_misspelt_output_is_named() {
        let error = targets(&["--to", "windwos=null:"]).expect_err("no such output");
        assert!(
            error.contains("is windows meant?") && error.contains("windows, late"),
            "{error}"
        );
    }
}
