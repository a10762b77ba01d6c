//! `--from`: what it means, and when the input ends.

use std::sync::Arc;

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::error::CliError;
use super::flags::{GENERATOR_ONLY, KAFKA_INPUT_ONLY};
use super::plan::Settings;
use super::registry::PipelineEntry;
use super::schema::{self, SharedSchemas, Wanted};
use super::value::Speed;
use crate::runtime::control::wall_clock;
use crate::source::generate::{EventLog, GeneratorOptions, GeneratorSource};
use crate::source::uri::{SourceOptions, parse_source};
use crate::source::{SharedSource, SourceError, Start, Until};
use crate::time::Span;

/// How many windows the embedded generator fills when nothing says how much to generate.
const SHOWN_WINDOWS: i64 = 24;
/// The speed of the embedded generator when it is told how much to generate.
const SPEED: f64 = 1800.0;

/// The kind of input that `--from` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The embedded generator.
    Generate,
    /// Files.
    Files,
    /// Standard input.
    Stdin,
    /// A topic.
    Kafka,
}

impl Input {
    /// The kind of this URI; what is not understood is left to [`parse_source`].
    pub fn of(uri: &str) -> Self {
        match uri {
            "generate:" | "generate" => Self::Generate,
            "-" | "file:-" => Self::Stdin,
            uri if uri.starts_with("kafka:") => Self::Kafka,
            _ => Self::Files,
        }
    }
}

/// When the run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Whether the end of the input ends the run.
    pub ends: bool,
    /// Whether that closes the open windows.
    pub drain: bool,
}

impl End {
    /// By the flags, or by the nature of the input.
    pub fn of(input: Input, matches: &ArgMatches) -> Self {
        if matches.get_flag("follow") {
            Self {
                ends: false,
                drain: false,
            }
        } else if matches.get_flag("until-end") {
            Self {
                ends: true,
                drain: false,
            }
        } else if matches.get_flag("drain") {
            Self {
                ends: true,
                drain: true,
            }
        } else {
            // Files that go on tomorrow keep their last windows open in the state.
            let ends = input != Input::Kafka;
            let goes_on = input == Input::Files && matches.contains_id("state");
            Self {
                ends,
                drain: ends && !goes_on,
            }
        }
    }

    /// The same for the source.
    pub const fn until(self) -> Until {
        if self.ends {
            Until::End
        } else {
            Until::Forever
        }
    }
}

/// Refuses flags that mean nothing with this input.
pub fn refuse_foreign_flags(
    input: Input,
    entry: &dyn PipelineEntry,
    matches: &ArgMatches,
) -> Result<(), CliError> {
    let given = |id: &&str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let model = entry.model_args(clap::Command::new("model"));
    let model: Vec<_> = model
        .get_arguments()
        .map(|arg| arg.get_id().as_str().to_owned())
        .collect();
    let generator = GENERATOR_ONLY
        .into_iter()
        .chain(model.iter().map(String::as_str));
    let refuse = |flag: &str, with: &str| {
        Err(CliError::Usage(format!(
            "--{flag} only means something with --from {with}"
        )))
    };
    let for_generator = { generator }.find(|flag| input != Input::Generate && given(flag));
    if let Some(flag) = for_generator {
        return refuse(flag, "generate:");
    }
    let for_kafka = KAFKA_INPUT_ONLY
        .iter()
        .find(|flag| input != Input::Kafka && given(flag));
    if let Some(flag) = for_kafka {
        return refuse(flag, "kafka://HOST:PORT/TOPIC");
    }
    match (input, matches.get_one::<Start>("start")) {
        (Input::Files | Input::Stdin, Some(_)) => {
            refuse("start", "generate: or kafka://HOST:PORT/TOPIC")
        }
        (Input::Generate, Some(Start::Earliest | Start::Latest)) => Err(CliError::usage(
            "--start: with the generator, the time of the first event",
        )),
        _ => Ok(()),
    }
}

/// The input, and what its messages are read with.
pub struct Opened {
    /// The input.
    pub source: SharedSource,
    /// The schemas of its messages, when they have any.
    pub schemas: Option<SharedSchemas>,
}

/// Opens the input.
pub fn open(
    settings: &Settings,
    entry: &dyn PipelineEntry,
    matches: &ArgMatches,
) -> Result<Opened, CliError> {
    let source = open_plain(settings, entry, matches)?;
    let Some(wanted) = Wanted::new(matches, "--from", &settings.from)? else {
        let schemas = None;
        return Ok(Opened { source, schemas });
    };
    // A replay reads what was read before.
    let is_offline = !settings.tells_positions;
    let (source, schemas) = schema::framed(source, &wanted, entry, matches, is_offline)?;
    let schemas = Some(schemas);
    Ok(Opened { source, schemas })
}

/// Opens the input, whatever its messages are.
fn open_plain(
    settings: &Settings,
    entry: &dyn PipelineEntry,
    matches: &ArgMatches,
) -> Result<SharedSource, CliError> {
    if settings.input == Input::Generate {
        return embedded(settings.end, settings.window.slide(), entry, matches);
    }
    let group = matches.get_one::<String>("group").cloned();
    let group = group.unwrap_or_else(|| format!("highwater-{}", settings.name));
    let options = SourceOptions {
        until: settings.end.until(),
        group: settings.tells_positions.then_some(group),
        ..super::kafka::source_options(matches)?
    };
    parse_source(&settings.from, &options).map_err(|error| match usage_or_failure(error) {
        CliError::Usage(text) => CliError::Usage(format!("--from: {text}")),
        error => error,
    })
}

/// A source's error is one of usage when the URI or an option is wrong.
pub fn usage_or_failure(error: SourceError) -> CliError {
    match error {
        SourceError::Config(text) => CliError::Usage(text),
        error => CliError::failed(error),
    }
}

fn embedded(
    end: End,
    slide: Span,
    entry: &dyn PipelineEntry,
    matches: &ArgMatches,
) -> Result<SharedSource, CliError> {
    let mut options = generator_options(entry, matches)?;
    let mut speed = matches.get_one::<Speed>("speed").copied();
    if let Some(Start::At(start)) = matches.get_one("start") {
        options.start = *start;
    }
    let is_unlimited = options.events.is_none() && options.duration.is_none();
    if is_unlimited && !options.live && end.ends {
        options.duration = Some(Span(slide.0.saturating_mul(SHOWN_WINDOWS)));
        // Two windows a second.
        speed = speed.or(Some(Speed::Times(slide.0 as f64 / 500.0)));
    }
    let speed = speed.unwrap_or(Speed::Times(SPEED)).factor();
    let (model, _) = entry.model(matches).map_err(CliError::Usage)?;
    let log = EventLog::new(model, options).map_err(CliError::usage)?;
    Ok(Arc::new(
        GeneratorSource::new(log, speed).map_err(CliError::usage)?,
    ))
}

/// The generator's options, but for `--start`.
pub fn generator_options(
    entry: &dyn PipelineEntry,
    matches: &ArgMatches,
) -> Result<GeneratorOptions, CliError> {
    let defaults = GeneratorOptions::default();
    let (_, rate) = entry.model(matches).map_err(CliError::Usage)?;
    let chance = |id| matches.get_one::<f64>(id).copied().unwrap_or_default();
    let live = matches.get_flag("live");
    Ok(GeneratorOptions {
        events: matches.get_one::<u64>("events").copied(),
        duration: matches.get_one::<Span>("duration").copied(),
        rate: matches.get_one::<f64>("rate").copied().unwrap_or(rate),
        disorder: matches
            .get_one::<Span>("disorder")
            .copied()
            .unwrap_or_default(),
        late_fraction: chance("late-fraction"),
        duplicates: chance("duplicates"),
        garbage: chance("garbage"),
        partitions: matches
            .get_one::<u32>("partitions")
            .copied()
            .unwrap_or(defaults.partitions),
        seed: matches
            .get_one::<u64>("seed")
            .copied()
            .unwrap_or(defaults.seed),
        start: if live { wall_clock() } else { defaults.start },
        live,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::{Dummy, parse};

    fn end(uri: &str, flags: &[&str]) -> (bool, bool) {
        let end = End::of(Input::of(uri), &parse(flags));
        (end.ends, end.drain)
    }

    #[test]
    fn each_input_has_its_own_end() {
        assert_eq!(end("generate:", &[]), (true, true));
        assert_eq!(end("file:x", &[]), (true, true));
        assert_eq!(end("-", &[]), (true, true));
        assert_eq!(end("kafka://h/t", &[]), (false, false));
        assert_eq!(end("kafka://h/t", &["--until-end"]), (true, false));
        assert_eq!(end("kafka://h/t", &["--drain"]), (true, true));
        assert_eq!(end("file:x", &["--follow"]), (false, false));
    }

    #[test]
    fn flags_of_another_input_are_refused() {
        let refuse = |uri, flags: &[&str]| {
            refuse_foreign_flags(Input::of(uri), &Dummy, &parse(flags)).is_err()
        };
        assert!(refuse("file:x", &["--rate", "5"]) && refuse("file:x", &["--dummies", "5"]));
        assert!(
            refuse("generate:", &["--group", "g"]) && refuse("generate:", &["--start", "latest"])
        );
        assert!(
            !refuse("generate:", &["--rate", "5"])
                && !refuse("kafka://h/t", &["--start", "latest"])
        );
    }
}
