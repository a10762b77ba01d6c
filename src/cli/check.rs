//! `highwater check`: validates a configuration and reaches every component; nothing is made.

use std::fmt::Display;
use std::io::Write;
use std::sync::Arc;

use clap::ArgMatches;

use super::command::Pipelines;
use super::error::{CliError, DONE, Outcome};
use super::input::Opened;
use super::plan::Settings;
use super::registry::PipelineEntry;
use super::schema::{self, Wanted};
use super::signal::{Answer, Signals};
use super::{http, target};
use crate::runtime::{Pipeline, describe};
use crate::sink::{OutputSpec, mask_secrets};
use crate::source::SharedSource;
use crate::source::uri::{SourceOptions, parse_source};
use crate::terminal;

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
    catch(lines.quiet)?;
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
    catch(lines.quiet)?;
    for entry in pipelines {
        check(*entry, &parse(entry.name())?, &mut lines)?;
    }
    lines.outcome()
}

/// A signal ends a check at once: it has nothing to bring in order.
fn catch(quiet: bool) -> Result<(), CliError> {
    let stop = move || {
        if !quiet {
            terminal::message(format_args!("stopped before everything was checked"));
        }
        Answer::Leave
    };
    let signals = Signals::take(stop);
    signals
        .map(drop)
        .map_err(|error| CliError::Failed(format!("signals: {error}")))
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
    if let Some(address) = http::check(matches) {
        lines.show("http", address)?;
    }
    let source = match settings.input(entry, matches) {
        Ok(Opened { source, .. }) => {
            lines.show("input", source.check().map(|about| ((), about)))?;
            Some(source)
        }
        Err(error) => lines.show("input", Err::<(_, String), _>(error))?,
    };
    if let Ok(Some(wanted)) = Wanted::new(matches, "--from", &settings.from) {
        let found = schema::check(&wanted, entry, matches);
        lines.show("schemas", found.map(|about| ((), about)))?;
    }
    let pipeline = match settings.pipeline(entry, matches) {
        Ok(pipeline) => {
            if let Some(tables) = pipeline.dimensions() {
                lines.show("dimensions", tables.check().map(|about| ((), about)))?;
            }
            Some(pipeline)
        }
        Err(error) => lines.show("pipeline", Err::<(_, String), _>(error))?,
    };
    let is_whole = pipeline.is_some();
    let Some((pipeline, source)) = sketched(pipeline, source, entry, matches) else {
        return Ok(());
    };
    let outputs = describe(&pipeline, &settings.flow(&source, matches), &source);
    let names: Vec<_> = outputs.iter().map(|output| output.name).collect();
    if is_whole {
        let about = format!("outputs {}", names.join(", "));
        lines.show("pipeline", Ok::<_, CliError>(((), about)))?;
    }
    check_targets(matches, &outputs, pipeline.main_output(), lines)
}

/// What tells which outputs there are, also when the input or the tables are not as they should
/// be: that has been shown, and the outputs can be checked all the same.
fn sketched(
    pipeline: Option<Arc<dyn Pipeline>>,
    source: Option<SharedSource>,
    entry: &dyn PipelineEntry,
    matches: &ArgMatches,
) -> Option<(Arc<dyn Pipeline>, SharedSource)> {
    let pipeline = pipeline.or_else(|| Settings::sketch(entry, matches).ok())?;
    let source = source.or_else(|| parse_source("-", &SourceOptions::default()).ok())?;
    Some((pipeline, source))
}

fn check_targets(
    matches: &ArgMatches,
    outputs: &[OutputSpec],
    main: &'static str,
    lines: &mut Lines,
) -> Result<(), CliError> {
    let options = match target::options(matches) {
        Ok(options) => options,
        Err(error) => {
            return lines
                .show("outputs", Err::<((), String), _>(error))
                .map(drop);
        }
    };
    let mut places = Vec::new();
    for wanted in target::wanted(matches, outputs, main) {
        let (name, uri) = match wanted {
            Ok(wanted) => wanted,
            Err(error) => {
                lines.show("output", Err::<((), String), _>(error))?;
                continue;
            }
        };
        let title = format!("output {name} → {}", mask_secrets(&uri));
        // Invariant: `wanted` only names outputs.
        let Some(output) = outputs.iter().find(|output| output.name == name) else {
            continue;
        };
        let result = target::open(&uri, &options)
            .and_then(|factory| factory.check(output).map_err(CliError::failed));
        lines.show(&title, result.map(|about| ((), about)))?;
        places.push((name, uri));
    }
    target::refuse_shared_places(matches, &places)
}
