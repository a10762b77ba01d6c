//! The command line.
//!
//! | module | what it holds |
//! |---|---|
//! | [`registry`] | what a pipeline tells the command line about itself |
//! | `command`, `flags`, `value` | the tree of commands, their flags, and the flags' values |
//! | `config` | flags from a file |
//! | `input`, `target`, `kafka` | what `--from`, `--to` and `--kafka` mean |
//! | `plan` | everything that follows from the flags of a run |
//! | `run`, `generate`, `check`, `view`, `state` | the commands |
//! | `progress`, `summary`, `report` | what is shown during and after a run |
//! | `signal`, `resources` | what the system tells |
//! | `error` | why a command ends, and its exit code |

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{ArgMatches, Command};

use self::command::Pipelines;
use self::error::{CliError, DONE, Outcome};
use self::registry::PipelineEntry;

mod check;
mod command;
mod config;
mod error;
mod flags;
mod generate;
mod input;
mod kafka;
mod plan;
mod progress;
pub mod registry;
mod report;
mod resources;
mod run;
mod signal;
mod state;
mod summary;
mod target;
#[cfg(test)]
mod testing;
mod value;
mod view;

/// Does what the command line of this process says, with these pipelines.
pub fn main(pipelines: &[&dyn PipelineEntry]) -> ExitCode {
    error::conclude(dispatch(pipelines, std::env::args_os().collect()))
}

fn dispatch(pipelines: Pipelines<'_>, line: Vec<OsString>) -> Outcome {
    let matches = parse(pipelines, line)?;
    let entry = |matches: &ArgMatches| {
        let name = matches.subcommand_name();
        pipelines
            .iter()
            .copied()
            .find(|entry| Some(entry.name()) == name)
    };
    let Some((name, command)) = matches.subcommand() else {
        return Ok(DONE);
    };
    match (name, entry(command), command.subcommand()) {
        ("run", Some(entry), Some((_, flags))) => run::command(entry, flags),
        ("generate", Some(entry), Some((_, flags))) => generate::command(entry, flags),
        ("check", Some(entry), Some((_, flags))) => check::command(entry, flags),
        ("dims", Some(entry), Some((_, flags))) => dims(entry, flags),
        ("check", None, _) => check::all(pipelines, |name| {
            let line = ["highwater", "check", name].map(OsString::from);
            let matches = command::root(pipelines).try_get_matches_from(line)?;
            Ok(matches
                .subcommand()
                .and_then(|(_, check)| check.subcommand())
                .map(|(_, flags)| flags.clone())
                .unwrap_or_default())
        }),
        ("view", ..) => view::command(command),
        ("state", _, Some((name, flags))) => state::command(name, flags),
        ("completions", ..) => completions(pipelines, command),
        // Invariant: the parser takes no other command, and those above only with a pipeline.
        _ => Ok(DONE),
    }
}

/// Parses the line, together with the file that `--config` names.
fn parse(pipelines: Pipelines<'_>, mut line: Vec<OsString>) -> Result<ArgMatches, CliError> {
    let mut root = command::root(pipelines);
    let matches = root.try_get_matches_from_mut(&line)?;
    let Some((name, pipeline, flags)) = configured(&matches) else {
        return Ok(matches);
    };
    let Some(file) = flags.try_get_one::<String>("config").ok().flatten() else {
        return Ok(matches);
    };
    // Built by the parser: with its groups and all arguments.
    let command = root
        .find_subcommand(name)
        .and_then(|command| command.find_subcommand(pipeline));
    let more = config::flags(
        Path::new(file),
        command.unwrap_or(&Command::new("none")),
        flags,
    )?;
    // Neither `highwater` nor `run` has flags of its own, so the pipeline is the third word.
    line.splice(3..3, more);
    Ok(root.try_get_matches_from(line)?)
}

fn configured(matches: &ArgMatches) -> Option<(&str, &str, &ArgMatches)> {
    let (name, command) = matches
        .subcommand()
        .filter(|(name, _)| matches!(*name, "run" | "check"))?;
    let (pipeline, flags) = command.subcommand()?;
    Some((name, pipeline, flags))
}

fn dims(entry: &dyn PipelineEntry, matches: &ArgMatches) -> Outcome {
    let text = entry.make_dims(matches).map_err(CliError::Failed)?;
    writeln!(std::io::stdout().lock(), "{}", text.trim_end())?;
    Ok(DONE)
}

fn completions(pipelines: Pipelines<'_>, matches: &ArgMatches) -> Outcome {
    let Some(shell) = matches.get_one::<clap_complete::Shell>("shell") else {
        return Ok(DONE);
    };
    let mut text = Vec::new();
    clap_complete::generate(
        *shell,
        &mut command::root(pipelines),
        "highwater",
        &mut text,
    );
    std::io::stdout().lock().write_all(&text)?;
    Ok(DONE)
}

#[cfg(test)]
mod tests {
    use super::testing::Dummy;
    use super::*;

    fn code(line: &[&str]) -> u8 {
        let line = std::iter::once("highwater").chain(line.iter().copied());
        dispatch(&[&Dummy], line.map(OsString::from).collect()).unwrap_or_else(|error| error.code())
    }

    #[test]
    fn the_command_tree_is_sound() {
        command::root(&[&Dummy]).debug_assert();
    }

    #[test]
    fn exit_codes() {
        assert_eq!(code(&["--version"]), 0);
        assert_eq!(code(&["run", "dummy", "--help"]), 0);
        for wrong in [
            &[][..],
            &["runn"],
            &["run"],
            &["run", "dumy"],
            &["run", "dummy", "--windwo", "1m"],
            &["run", "dummy", "--window", "soon"],
            &["run", "dummy", "--state", "x"],
            &["run", "dummy", "--config", "no-such-file.toml"],
            &["generate", "dummy"],
        ] {
            assert_eq!(code(wrong), 2, "{wrong:?}");
        }
        assert_eq!(code(&["check", "dummy", "--from", "file:no-such-file"]), 3);
        assert_eq!(code(&["check", "dummy"]), 0);
        assert_eq!(code(&["check"]), 0);
    }

    #[test]
    fn misspelt_words_are_corrected() {
        let error = |line: &[&str]| {
            let line = std::iter::once("highwater").chain(line.iter().copied());
            let error = parse(&[&Dummy], line.map(OsString::from).collect()).expect_err("wrong");
            match error {
                CliError::Parser(error) => error.to_string(),
                error => format!("{error:?}"),
            }
        };
        assert!(error(&["genrate"]).contains("'generate'"));
        assert!(error(&["run", "dumy"]).contains("'dummy'"));
        assert!(error(&["run", "dummy", "--windw", "1m"]).contains("'--window'"));
    }
}
