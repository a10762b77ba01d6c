//! `--config FILE.toml`: flags from a file.
//!
//! What the file says becomes flags in front of those of the command line, so that there is one
//! set of rules for both. A flag that is given on the command line hides the file's.

use std::path::Path;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{CliError, similar};
use super::planned;

/// A flag that the file gives.
#[derive(Clone, Debug)]
pub struct Given {
    /// `FILE:LINE`
    place: String,
    /// The flag without dashes.
    key: String,
    /// The flag as it would stand on the command line, with its value.
    pub word: String,
}

impl Given {
    /// Whether `text` is about this flag.
    fn is_meant_by(&self, text: &str) -> bool {
        let flag = format!("--{}", self.key);
        let ends = |at: usize| {
            let next = text[at + flag.len()..].chars().next();
            next.is_none_or(|next| next != '-' && !next.is_alphanumeric())
        };
        text.match_indices(&flag).any(|(at, _)| ends(at))
    }

    fn value(&self) -> &str {
        self.word.split_once('=').map_or("", |(_, value)| value)
    }
}

/// Names the line of the file that the parser stumbled over: the first that it does not take
/// alone (`try_one`), or the whole file when its lines do not go together.
pub fn blame(
    error: clap::Error,
    file: &str,
    given: &[Given],
    try_one: impl Fn(Given) -> Option<clap::Error>,
) -> CliError {
    let guilty = given
        .iter()
        .find_map(|one| try_one(one.clone()).map(|error| (one.place.as_str(), error)));
    let (place, error) = guilty.unwrap_or((file, error));
    CliError::Usage(format!("{place}: {}", parser_text(&error)))
}

/// What is wrong, without what the parser says before and after it.
fn parser_text(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let ends = ["\n\nUsage:", "\n\nFor more information"];
    let end = ends.iter().filter_map(|end| text.find(end)).min();
    text[..end.unwrap_or(text.len())].trim().to_owned()
}

/// Adds the line of the file to an error about a flag that stands there.
pub fn locate(error: CliError, given: &[Given]) -> CliError {
    let CliError::Usage(text) = error else {
        return error;
    };
    let meant = || given.iter().filter(|given| given.is_meant_by(&text));
    // A flag may stand there several times, and one value may be part of another.
    let exact = meant()
        .filter(|given| text.contains(given.value()))
        .max_by_key(|given| given.value().len());
    let place = exact.or_else(|| meant().next()).map(|given| &given.place);
    CliError::Usage(place.map_or(text.clone(), |place| format!("{place}: {text}")))
}

/// The flags that the file adds to those of `matches`, which was parsed by `command` (that of the
/// pipeline).
pub fn flags(path: &Path, command: &Command, matches: &ArgMatches) -> Result<Vec<Given>, CliError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| CliError::Usage(format!("{}: {error}", path.display())))?;
    from_text(&text, &path.display().to_string(), command, matches)
}

fn from_text(
    text: &str,
    name: &str,
    command: &Command,
    matches: &ArgMatches,
) -> Result<Vec<Given>, CliError> {
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        CliError::Usage(format!("{name}:{line}: {}", error.message()))
    })?;
    let mut flags = Vec::new();
    for (key, value) in table.get_ref() {
        let place = |at: usize| format!("{name}:{}", line_of(text, at));
        let wrong = |error| CliError::Usage(format!("{}: {error}", place(key.span().start)));
        let arg = known(command, key.get_ref()).map_err(wrong)?;
        if is_hidden(command, arg, matches) {
            continue;
        }
        let words = arguments(arg, value).map_err(wrong)?;
        flags.extend(words.into_iter().map(|(word, at)| Given {
            place: place(at),
            key: key.get_ref().clone().into_owned(),
            word,
        }));
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
        if let Some(hint) = planned::hint(&format!("--{key}")) {
            return hint;
        }
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

/// `key = value` as flags, and where each value stands.
fn arguments(arg: &Arg, value: &Spanned<DeValue<'_>>) -> Result<Vec<(String, usize)>, String> {
    let key = arg.get_long().unwrap_or_default();
    let flag =
        |text: &str, value: &Spanned<DeValue<'_>>| (format!("--{key}={text}"), value.span().start);
    let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
    let is_repeatable = matches!(arg.get_action(), ArgAction::Append);
    match value.get_ref() {
        DeValue::Boolean(on) if is_switch => {
            let word = on.then(|| (format!("--{key}"), value.span().start));
            Ok(word.into_iter().collect())
        }
        _ if is_switch => Err(format!("`{key}` is true or false")),
        DeValue::Array(values) if is_repeatable => values
            .iter()
            .map(|value| Ok(flag(&scalar(key, value.get_ref())?, value)))
            .collect(),
        DeValue::Array(_) => Err(format!("`{key}` takes one value, not a list")),
        DeValue::Table(table) if is_repeatable => {
            let pair = |(name, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
                let text = scalar(key, value.get_ref())?;
                Ok(flag(&format!("{}={text}", name.get_ref()), value))
            };
            table.iter().map(pair).collect()
        }
        plain => Ok(vec![flag(&scalar(key, plain)?, value)]),
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
        let words = |more: &[Given]| {
            let more = more.iter().map(|given| given.word.clone());
            let line = line.iter().map(|word| (*word).to_owned());
            std::iter::once("dummy".to_owned())
                .chain(more)
                .chain(line)
                .collect::<Vec<_>>()
        };
        let mut built = command();
        built.build();
        let first = command()
            .try_get_matches_from(words(&[]))
            .map_err(|e| e.to_string())?;
        let more =
            from_text(file, "job.toml", &built, &first).map_err(|error| error.to_string())?;
        let parse = |more: &[Given]| command().try_get_matches_from(words(more));
        parse(&more)
            .map_err(|error| blame(error, "job.toml", &more, |one| parse(&[one]).err()).to_string())
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
        let soon = error("wait = \"1s\"\n\nwindow = \"soon\"\n");
        assert!(
            soon.starts_with("job.toml:3: invalid value 'soon' for '--window"),
            "{soon}"
        );
        assert!(
            !soon.contains("error:") && !soon.contains("--help"),
            "{soon}"
        );
        let pair = error("quiet = true\nverbose = true");
        assert!(
            pair.starts_with("job.toml: ") && pair.contains("--verbose"),
            "{pair}"
        );
        let nowhere = error("http = \"nowhere\"");
        assert!(
            nowhere.starts_with("job.toml:1: invalid value 'nowhere' for '--http"),
            "{nowhere}"
        );
    }
    #[test]
    fn what_is_found_wrong_later_has_its_line_as_well() {
        let first = run_flags(Command::new("dummy"), &Dummy)
            .try_get_matches_from(["dummy"])
            .expect("valid");
        let mut command = run_flags(Command::new("dummy"), &Dummy);
        command.build();
        let file = "to = [\n  'null:',\n  'lat=null:',\n]\nlate = 'drop'\n";
        let given = from_text(file, "job.toml", &command, &first).expect("valid");
        let located = |text: &str| locate(CliError::usage(text), &given).to_string();
        assert_eq!(
            located("--to lat=null: what?"),
            "job.toml:3: --to lat=null: what?"
        );
        assert_eq!(located("--late: what?"), "job.toml:5: --late: what?");
        assert_eq!(located("--late-fraction: what?"), "--late-fraction: what?");
        assert_eq!(located("what?"), "what?");
    }
}
