//! `highwater check`: validates a configuration and reaches every component; nothing is made.

use std::fmt::Display;
use std::io::Write;

use clap::ArgMatches;

use super::command::Pipelines;
use super::error::{CliError, DONE, Outcome};
use super::plan::Settings;
use super::registry::PipelineEntry;
use super::target;
use crate::runtime::describe;
use crate::sink::{OutputSpec, mask_secrets};

/// The lines, as they come.
struct Lines {
    is_fine: bool,
    quiet: bool,
}

impl Lines {
    /// Shows one component; gives back what was found when it is fine.
    fn show<T>(
        &mut self,
        component: &str,
        result: Result<(T, String), impl Display>,
    ) -> Result<Option<T>, CliError> {
        let mut out = std::io::stdout().lock();
        match result {
            Ok((value, _)) if self.quiet => Ok(Some(value)),
            Ok((value, about)) => {
                writeln!(out, "ok    {component} · {about}")?;
                Ok(Some(value))
            }
            Err(error) => {
                self.is_fine = false;
                writeln!(out, "FAIL  {component} · {error}")?;
                Ok(None)
            }
        }
    }

    const fn outcome(&self) -> Outcome {
        if self.is_fine {
            Ok(DONE)
        } else {
            Err(CliError::Difference)
        }
    }
}

/// Checks one pipeline with all its flags.
pub fn command(entry: &dyn PipelineEntry, matches: &ArgMatches) -> Outcome {
    let mut lines = Lines {
        is_fine: true,
        quiet: matches.get_flag("quiet"),
    };
    check(entry, matches, &mut lines)?;
    lines.outcome()
}

/// Checks all pipelines as they are by default.
pub fn all(
    pipelines: Pipelines<'_>,
    parse: impl Fn(&str) -> Result<ArgMatches, clap::Error>,
) -> Outcome {
    let mut lines = Lines {
        is_fine: true,
        quiet: false,
    };
    for entry in pipelines {
        check(*entry, &parse(entry.name())?, &mut lines)?;
    }
    lines.outcome()
}

fn check(
    entry: &dyn PipelineEntry,
    matches: &ArgMatches,
    lines: &mut Lines,
) -> Result<(), CliError> {
    let settings = Settings::new(entry, matches).map(|settings| {
        let window = &settings.window;
        let about = format!(
            "windows of {} every {}, wait {}, keep {}",
            window.size(),
            window.slide(),
            settings.wait,
            window.keep()
        );
        (settings, about)
    });
    let Some(settings) = lines.show(&format!("{} configuration", entry.name()), settings)? else {
        return Ok(());
    };
    let opened = settings.source(entry, matches);
    let source = match opened {
        Ok(source) => {
            lines.show("input", source.check().map(|about| ((), about)))?;
            Some(source)
        }
        Err(error) => lines.show("input", Err::<(_, String), _>(error))?,
    };
    let pipeline = settings.pipeline(entry, matches).map(|pipeline| {
        let about = pipeline.name().to_owned();
        (pipeline, about)
    });
    let (Some(source), Ok((pipeline, _))) = (&source, &pipeline) else {
        lines.show("pipeline", pipeline.map(|(_, about)| ((), about)))?;
        return Ok(());
    };
    if let Some(tables) = pipeline.dimensions() {
        lines.show("dimensions", tables.check().map(|about| ((), about)))?;
    }
    let outputs = describe(pipeline, &settings.flow(source, matches), source);
    let names: Vec<_> = outputs.iter().map(|output| output.name).collect();
    let about = format!("outputs {}", names.join(", "));
    lines.show("pipeline", Ok::<_, CliError>(((), about)))?;
    check_targets(matches, &outputs, pipeline.main_output(), lines)
}

fn check_targets(
    matches: &ArgMatches,
    outputs: &[OutputSpec],
    main: &'static str,
    lines: &mut Lines,
) -> Result<(), CliError> {
    let wanted = match target::wanted(matches, outputs, main) {
        Ok(wanted) => wanted,
        Err(error) => {
            return lines
                .show("outputs", Err::<((), String), _>(error))
                .map(drop);
        }
    };
    let options = match target::options(matches) {
        Ok(options) => options,
        Err(error) => {
            return lines
                .show("outputs", Err::<((), String), _>(error))
                .map(drop);
        }
    };
    for (name, uri) in wanted {
        let title = format!("output {name} → {}", mask_secrets(&uri));
        // Invariant: `wanted` only names outputs.
        let Some(output) = outputs.iter().find(|output| output.name == name) else {
            continue;
        };
        let result = target::open(&uri, &options)
            .and_then(|factory| factory.check(output).map_err(CliError::failed));
        lines.show(&title, result.map(|about| ((), about)))?;
    }
    Ok(())
}
