//! The command line.
//!
//! | module | what it holds |
//! |---|---|
//! | [`registry`] | what a pipeline tells the command line about itself |
//! | `command`, `flags`, `value` | the tree of commands, their flags, and the flags' values |
//! | `config` | flags from a file |
//! | `input`, `target`, `kafka` | what `--from`, `--to` and `--kafka` mean |
//! | `plan` | everything that follows from the flags of a run |
//! | `planned` | what this version does not have |
//! | `processes` | what this process is among several |
//! | `schema` | messages whose schema a registry has |
//! | `run`, `generate`, `check`, `view`, `state`, `replay` | the commands |
//! | `progress`, `summary`, `report` | what is shown during and after a run |
//! | `http` | what is shown to programs during a run |
//! | `signal`, `resources` | what the system tells |
//! | `error` | why a command ends, and its exit code |

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{ArgMatches, Command};

use self::command::Pipelines;
use self::config::Given;
use self::error::{CliError, DONE, Outcome};
use self::registry::PipelineEntry;

mod check;
mod command;
mod config;
mod dims;
mod error;
mod flags;
mod generate;
mod http;
mod input;
mod job;
mod kafka;
mod plan;
mod planned;
mod processes;
mod progress;
pub mod registry;
mod replay;
mod report;
mod resources;
mod run;
mod schema;
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
    let (matches, given) = parse(pipelines, line)?;
    obey(pipelines, &matches).map_err(|error| config::locate(error, &given))
}

fn obey(pipelines: Pipelines<'_>, matches: &ArgMatches) -> Outcome {
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
        ("dims", Some(entry), Some((_, flags))) => dims::command(entry, flags),
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
        ("replay", ..) => replay::command(pipelines, command),
        ("state", _, Some((name, flags))) => state::command(name, flags),
        ("completions", ..) => completions(pipelines, command),
        // Invariant: the parser takes no other command, and those above only with a pipeline.
        _ => Ok(DONE),
    }
}

/// Parses the line, together with the file that `--config` names; also what that file gives.
fn parse(
    pipelines: Pipelines<'_>,
    line: Vec<OsString>,
) -> Result<(ArgMatches, Vec<Given>), CliError> {
    let mut root = command::root(pipelines);
    let matches = root
        .try_get_matches_from_mut(&line)
        .map_err(planned::explain)?;
    let Some((name, pipeline, flags)) = configured(&matches) else {
        return Ok((matches, Vec::new()));
    };
    let Some(file) = flags.try_get_one::<String>("config").ok().flatten() else {
        return Ok((matches, Vec::new()));
    };
    // Built by the parser: with its groups and all arguments.
    let command = root
        .find_subcommand(name)
        .and_then(|command| command.find_subcommand(pipeline));
    let given = config::flags(
        Path::new(file),
        command.unwrap_or(&Command::new("none")),
        flags,
    )?;
    let with = |more: &[Given]| {
        let mut line = line.clone();
        // Neither `highwater` nor `run` has flags of its own, so the pipeline is the third word.
        line.splice(3..3, more.iter().map(|given| given.word.clone().into()));
        command::root(pipelines).try_get_matches_from(line)
    };
    match with(&given) {
        Ok(matches) => Ok((matches, given)),
        Err(error) => Err(config::blame(error, file, &given, |one| with(&[one]).err())),
    }
}

fn configured(matches: &ArgMatches) -> Option<(&str, &str, &ArgMatches)> {
    let (name, command) = matches
        .subcommand()
        .filter(|(name, _)| matches!(*name, "run" | "check"))?;
    let (pipeline, flags) = command.subcommand()?;
    Some((name, pipeline, flags))
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
            &["run", "dummy", "--delivery", "exactly-once"],
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
            error.to_string()
        };
        assert!(error(&["genrate"]).contains("'generate'"));
        assert!(error(&["run", "dumy"]).contains("'dummy'"));
        assert!(error(&["run", "dummy", "--windw", "1m"]).contains("'--window'"));
    }
}
