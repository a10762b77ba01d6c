//! What a run would do: everything that follows from the flags, before anything is made.

use std::sync::Arc;
use std::time::Duration;

use clap::ArgMatches;

use super::dims;
use super::error::CliError;
use super::input::{self, End, Input, Opened};
use super::registry::{Common, PipelineEntry};
use super::schema::SharedSchemas;
use super::target::{self, Target};
use crate::flow::FlowOptions;
use crate::runtime::control::wall_clock;
use crate::runtime::ingest::IngestOptions;
use crate::runtime::{Pipeline, describe};
use crate::sink::OutputSpec;
use crate::source::SharedSource;
use crate::time::{Span, Zone};
use crate::window::WindowSpec;

/// Capabilities move in steps of this.
const GRAIN: Span = Span(100);
/// How often files appear, in epochs' checkpoints, with and without folders of files as outputs.
const CHECKPOINT: Duration = Duration::from_secs(10);
const FILES_CHECKPOINT: Duration = Duration::from_secs(60);

/// The settings, before anything is opened.
pub struct Settings {
    /// The name of the job.
    pub name: String,
    /// `--from`
    pub from: String,
    /// What kind of input that is.
    pub input: Input,
    /// When the run ends.
    pub end: End,
    /// The shape of windows.
    pub window: WindowSpec,
    /// How far the watermark stays behind.
    pub wait: Span,
    /// How long until a partition is idle.
    pub idle_after: Span,
    /// `--close-on-idle`
    pub close_on_idle: bool,
    /// Worker threads of each process.
    pub workers: usize,
    /// Processes.
    pub processes: usize,
    /// The longest epoch.
    pub epoch: Duration,
    /// `--checkpoint`, when it was given.
    pub checkpoint: Option<Duration>,
    /// Whether rows may come again after a crash.
    pub is_at_least_once: bool,
    /// `--dims-refresh`
    pub dims_refresh: Option<Duration>,
    /// `--dims-wait`
    pub dims_wait: Span,
    /// Whether the input is told how far it was read.
    pub tells_positions: bool,
}

/// Everything that is opened.
pub struct Plan {
    /// The settings.
    pub settings: Settings,
    /// The pipeline.
    pub pipeline: Arc<dyn Pipeline>,
    /// Its input.
    pub source: SharedSource,
    /// What the messages of the input are read with, when they have schemas.
    pub schemas: Option<SharedSchemas>,
    /// What the options mean to the operators.
    pub flow: FlowOptions,
    /// The pipeline's outputs.
    pub outputs: Vec<OutputSpec>,
    /// Where outputs go.
    pub targets: Vec<Target>,
}

impl Plan {
    /// What `matches` says.
    pub fn new(entry: &dyn PipelineEntry, matches: &ArgMatches) -> Result<Self, CliError> {
        let settings = Settings::new(entry, matches)?;
        let Opened { source, schemas } = settings.input(entry, matches)?;
        let pipeline = settings.pipeline(entry, matches)?;
        let flow = settings.flow(&source, matches);
        let outputs = describe(&pipeline, &flow, &source);
        let targets = target::open_all(matches, &outputs, pipeline.main_output())?;
        Ok(Self {
            settings,
            pipeline,
            source,
            schemas,
            flow,
            outputs,
            targets,
        })
    }

    /// How often an epoch is a checkpoint.
    pub fn checkpoint(&self) -> Duration {
        let rolls_files = self
            .targets
            .iter()
            .any(|target| target.factory.rolls_files());
        let default = if rolls_files {
            FILES_CHECKPOINT
        } else {
            CHECKPOINT
        };
        self.settings.checkpoint.unwrap_or(default)
    }
}

impl Settings {
    /// Checks what can be checked without opening anything.
    pub fn new(entry: &dyn PipelineEntry, matches: &ArgMatches) -> Result<Self, CliError> {
        let span = |id| matches.get_one::<Span>(id).copied();
        let defaults = entry.defaults();
        let size = span("window").unwrap_or(defaults.size);
        // The pipeline's own slide goes with its own size.
        let own_slide = if span("window").is_none() {
            defaults.slide
        } else {
            None
        };
        let slide = span("slide").or(own_slide).unwrap_or(size);
        let or_zero = |id| span(id).unwrap_or_default();
        let window = WindowSpec::new(size, slide, or_zero("offset"), or_zero("keep"))
            .map_err(|error| CliError::Usage(format!("--window, --slide: {error}")))?;
        let from = matches
            .get_one::<String>("from")
            .cloned()
            .unwrap_or_default();
        let input = Input::of(&from);
        input::refuse_foreign_flags(input, entry, matches)?;
        let name = matches.get_one::<String>("name").cloned();
        Ok(Self {
            name: name.unwrap_or_else(|| entry.name().to_owned()),
            end: End::of(input, matches),
            from,
            input,
            window,
            wait: span("wait").unwrap_or(defaults.wait),
            idle_after: or_zero("idle-after"),
            close_on_idle: matches.get_flag("close-on-idle"),
            workers: matches
                .get_one::<u32>("workers")
                .map_or(1, |workers| *workers as usize),
            processes: matches
                .get_one::<u32>("processes")
                .map_or(1, |processes| *processes as usize),
            epoch: std_duration(or_zero("epoch")),
            checkpoint: span("checkpoint").map(std_duration),
            is_at_least_once: is_at_least_once(matches)?,
            dims_refresh: span("dims-refresh").map(std_duration),
            dims_wait: dims::wait(matches)?,
            tells_positions: true,
        })
    }

    /// Opens the input.
    pub fn input(
        &self,
        entry: &dyn PipelineEntry,
        matches: &ArgMatches,
    ) -> Result<Opened, CliError> {
        input::open(self, entry, matches)
    }

    /// Makes the pipeline.
    pub fn pipeline(
        &self,
        entry: &dyn PipelineEntry,
        matches: &ArgMatches,
    ) -> Result<Arc<dyn Pipeline>, CliError> {
        let common = Common {
            dims: dims::place(matches, "dims")?,
            is_generated: self.input == Input::Generate,
            ..common(matches)
        };
        entry.pipeline(matches, &common).map_err(CliError::Usage)
    }

    /// The pipeline with tables of its own in place of those that are missing: to tell which
    /// outputs it has, never to be run.
    pub fn sketch(
        entry: &dyn PipelineEntry,
        matches: &ArgMatches,
    ) -> Result<Arc<dyn Pipeline>, CliError> {
        let common = Common {
            is_generated: true,
            ..common(matches)
        };
        entry.pipeline(matches, &common).map_err(CliError::Usage)
    }

    /// What the options mean to the operators.
    pub fn flow(&self, source: &SharedSource, matches: &ArgMatches) -> FlowOptions {
        let span = |id| matches.get_one::<Span>(id).copied().unwrap_or_default();
        FlowOptions {
            window: self.window,
            late: matches
                .get_one("late")
                .copied()
                .unwrap_or(crate::window::Late::Divert),
            dims_policy: matches.get_one("dims-policy").copied().unwrap_or_default(),
            ingest: IngestOptions {
                topic: source.name(),
                wait: self.wait,
                grain: GRAIN,
                idle_after: std_duration(self.idle_after),
                max_ahead: span("max-ahead"),
                zone: zone(matches),
                // What ends by itself is history: nothing more comes for it.
                dims_wait: if self.end.ends {
                    Span::ZERO
                } else {
                    self.dims_wait
                },
                alignment: IngestOptions::alignment_for(self.window.size(), self.wait),
                discovers: source.discovery_interval().is_some(),
                started_at: wall_clock(),
            },
        }
    }
}

/// By `--delivery`, or because nothing is kept.
fn is_at_least_once(matches: &ArgMatches) -> Result<bool, CliError> {
    let has_state = matches.contains_id("state");
    match matches.get_one::<String>("delivery").map(String::as_str) {
        None => Ok(!has_state),
        Some("at-least-once") => Ok(true),
        Some(_) if has_state => Ok(false),
        Some(_) => Err(CliError::usage(
            "--delivery exactly-once needs --state: a run that keeps nothing cannot go on where it has ended",
        )),
    }
}

/// What all pipelines share, with tables of their own.
fn common(matches: &ArgMatches) -> Common {
    Common {
        dims: None,
        policy: matches.get_one("dims-policy").copied().unwrap_or_default(),
        unmatched: matches.get_one("unmatched").copied().unwrap_or_default(),
        is_generated: false,
        zone: zone(matches),
    }
}

/// `--time-zone`
fn zone(matches: &ArgMatches) -> Zone {
    matches.get_one("time-zone").cloned().unwrap_or_default()
}

fn std_duration(span: Span) -> Duration {
    Duration::from_millis(span.0.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::{Dummy, parse};

    fn settings(flags: &[&str]) -> Result<Settings, String> {
        Settings::new(&Dummy, &parse(flags)).map_err(|error| format!("{error:?}"))
    }

    #[test]
    fn windows_are_the_pipelines_own_unless_flags_say_otherwise() {
        let shape = |flags: &[&str]| {
            let settings = settings(flags).expect("valid");
            (
                settings.window.size(),
                settings.window.slide(),
                settings.wait,
            )
        };
        assert_eq!(
            shape(&[]),
            (Span::minutes(10), Span::minutes(5), Span::seconds(2))
        );
        assert_eq!(
            shape(&["--window", "1h"]),
            (Span::minutes(60), Span::minutes(60), Span::seconds(2))
        );
        assert_eq!(shape(&["--slide", "1m", "--wait", "0"]).1, Span::minutes(1));
    }

    #[test]
    fn the_default_output_is_the_console() {
        let plan = Plan::new(&Dummy, &parse(&[])).expect("valid");
        assert_eq!(plan.targets.len(), 1);
        assert_eq!(
            (plan.targets[0].output, plan.targets[0].uri.as_str()),
            ("windows", "console:")
        );
        assert_eq!(plan.checkpoint(), CHECKPOINT);
    }
}
