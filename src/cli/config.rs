//! `--config FILE.toml`: flags from a file.
//!
//! What the file says becomes flags in front of those of the command line, so that there is one
//! set of rules for both. A flag that is given on the command line hides the file's.

use std::ffi::OsString;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{CliError, similar};

/// The flags that the file adds to those of `matches`, which was parsed by `command` (that of the
/// pipeline).
pub fn flags(
    path: &Path,
    command: &Command,
    matches: &ArgMatches,
) -> Result<Vec<OsString>, CliError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| CliError::Usage(format!("{}: {error}", path.display())))?;
    from_text(&text, &path.display().to_string(), command, matches)
}

fn from_text(
    text: &str,
    name: &str,
    command: &Command,
    matches: &ArgMatches,
) -> Result<Vec<OsString>, CliError> {
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        CliError::Usage(format!("{name}:{line}: {}", error.message()))
    })?;
    let mut flags = Vec::new();
    for (key, value) in table.get_ref() {
        let at = |error| {
            CliError::Usage(format!(
                "{name}:{}: {error}",
                line_of(text, key.span().start)
            ))
        };
        let arg = known(command, key.get_ref()).map_err(at)?;
        if !is_hidden(command, arg, matches) {
            flags.extend(arguments(arg, value).map_err(at)?);
        }
    }
    Ok(flags)
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// The flag called `key`.
fn known<'c>(command: &'c Command, key: &str) -> Result<&'c Arg, String> {
    let flags = || {
        command
            .get_arguments()
            .filter(|arg| !matches!(arg.get_id().as_str(), "config" | "help"))
    };
    let named = |name: &str| flags().find(|arg| arg.get_long() == Some(name));
    named(key).ok_or_else(|| {
        let meant = similar(key, flags().filter_map(Arg::get_long));
        let meant = meant
            .map(|meant| format!("; is `{meant}` meant?"))
            .unwrap_or_default();
        format!("unknown key `{key}`{meant}")
    })
}

/// Whether the command line says something else in place of `arg`: the flag itself, or another one
/// of a group of which only one can be.
fn is_hidden(command: &Command, arg: &Arg, matches: &ArgMatches) -> bool {
    let id = arg.get_id();
    let given = |id: &clap::Id| matches.value_source(id.as_str()) == Some(ValueSource::CommandLine);
    // Derived flags come in groups of which any number may be given.
    let excludes = |group: &&ArgGroup| {
        !ArgGroup::clone(group).is_multiple() && group.get_args().any(|member| member == id)
    };
    let groups = command.get_groups().filter(excludes);
    given(id) || groups.flat_map(ArgGroup::get_args).any(given)
}

/// `key = value` as flags.
fn arguments(arg: &Arg, value: &Spanned<DeValue<'_>>) -> Result<Vec<OsString>, String> {
    let key = arg.get_long().unwrap_or_default();
    let flag = |value: &str| OsString::from(format!("--{key}={value}"));
    let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
    let is_repeatable = matches!(arg.get_action(), ArgAction::Append);
    match value.get_ref() {
        DeValue::Boolean(on) if is_switch => {
            Ok(on.then(|| format!("--{key}").into()).into_iter().collect())
        }
        _ if is_switch => Err(format!("`{key}` is true or false")),
        DeValue::Array(values) if is_repeatable => values
            .iter()
            .map(|value| Ok(flag(&scalar(key, value.get_ref())?)))
            .collect(),
        DeValue::Array(_) => Err(format!("`{key}` takes one value, not a list")),
        DeValue::Table(table) if is_repeatable => {
            let pair = |(name, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
                Ok(flag(&format!(
                    "{}={}",
                    name.get_ref(),
                    scalar(key, value.get_ref())?
                )))
            };
            table.iter().map(pair).collect()
        }
        value => Ok(vec![flag(&scalar(key, value)?)]),
    }
}

fn scalar(key: &str, value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.clone().into_owned()),
        DeValue::Integer(number) => Ok(number.as_str().to_owned()),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        DeValue::Boolean(on) => Ok(on.to_string()),
        DeValue::Datetime(time) => Ok(time.to_string()),
        DeValue::Array(_) | DeValue::Table(_) => Err(format!("`{key}` takes a plain value here")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags::run_flags;
    use crate::cli::testing::Dummy;

    fn merged(file: &str, line: &[&str]) -> Result<ArgMatches, String> {
        let command = || run_flags(Command::new("dummy").args_override_self(true), &Dummy);
        let words = |more: Vec<OsString>| {
            let line = line.iter().map(OsString::from);
            [OsString::from("dummy")]
                .into_iter()
                .chain(more)
                .chain(line)
                .collect::<Vec<_>>()
        };
        let mut built = command();
        built.build();
        let first = command()
            .try_get_matches_from(words(Vec::new()))
            .map_err(|e| e.to_string())?;
        let more = from_text(file, "job.toml", &built, &first).map_err(|error| match error {
            CliError::Usage(text) => text,
            other => format!("{other:?}"),
        })?;
        command()
            .try_get_matches_from(words(more))
            .map_err(|error| error.to_string())
    }

    fn texts(matches: &ArgMatches, id: &str) -> Vec<String> {
        matches
            .get_many::<String>(id)
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }

    #[test]
    fn flags_win() {
        let file =
            "workers = 4\nto = [\"null:\", \"late=null:\"]\nuntil-end = true\nquiet = true\n";
        let matches = merged(file, &[]).expect("valid");
        assert_eq!(matches.get_one::<u32>("workers"), Some(&4));
        assert_eq!(texts(&matches, "to"), ["null:", "late=null:"]);
        assert!(matches.get_flag("until-end") && matches.get_flag("quiet"));
        let matches = merged(file, &["-w", "2", "--to", "console:", "--follow"]).expect("valid");
        assert_eq!(matches.get_one::<u32>("workers"), Some(&2));
        assert_eq!(texts(&matches, "to"), ["console:"]);
        assert!(matches.get_flag("follow") && !matches.get_flag("until-end"));
    }

    #[test]
    fn only_flags_that_exclude_each_other_hide_each_other() {
        let matches = merged("dummies = 7", &["--more", "2"]).expect("valid");
        assert_eq!(matches.get_one::<u64>("dummies"), Some(&7));
    }

    #[test]
    fn properties_may_be_a_table() {
        let file = "[kafka]\n\"sasl.username\" = \"me\"\n\"fetch.min.bytes\" = 1\n";
        let kafka = texts(&merged(file, &[]).expect("valid"), "kafka");
        assert!(kafka.contains(&"sasl.username=me".to_owned()), "{kafka:?}");
        assert!(kafka.contains(&"fetch.min.bytes=1".to_owned()), "{kafka:?}");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let error = |file: &str| merged(file, &[]).expect_err("wrong");
        assert_eq!(
            error("wait = \"1s\"\nwindwo = \"1m\"\n"),
            "job.toml:2: unknown key `windwo`; is `window` meant?"
        );
        assert_eq!(
            error("wait = [\"1s\"]"),
            "job.toml:1: `wait` takes one value, not a list"
        );
        assert_eq!(error("quiet = 1"), "job.toml:1: `quiet` is true or false");
        assert!(error("a = = 1").starts_with("job.toml:1: "));
        assert!(error("window = \"soon\"").contains("soon"));
    }
}
