//! What a pipeline tells the command line about itself.

use std::sync::Arc;

use clap::{ArgMatches, Command};

use crate::flow::Unmatched;
use crate::join::{DimTable, Policy};
use crate::runtime::Pipeline;
use crate::source::generate::EventModel;
use crate::tables::{SharedPlace, TableRows};
use crate::time::{Span, Zone};

pub use super::value::{count, duration};

/// A pipeline, as the registry of the binary knows it.
pub trait PipelineEntry: Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// One line for `--help`.
    fn about(&self) -> &'static str;

    /// The version of its own rules: a state of another version is refused.
    fn version(&self) -> &'static str {
        "1"
    }

    /// Its windows when no flag says otherwise.
    fn defaults(&self) -> WindowDefaults;

    /// Adds the pipeline's own flags to those of `run` and `check`.
    fn run_args(&self, command: Command) -> Command;

    /// Adds the flags of its event model to those of `generate` (and of `run`, for the embedded
    /// generator).
    fn model_args(&self, command: Command) -> Command;

    /// The pipeline with its options.
    ///
    /// # Errors
    /// When they make no sense; the text says what to write instead.
    fn pipeline(&self, matches: &ArgMatches, common: &Common) -> Result<Arc<dyn Pipeline>, String>;

    /// The model of its events, and how many events a second it makes by default.
    ///
    /// # Errors
    /// When its options make no sense.
    fn model(&self, matches: &ArgMatches) -> Result<(Arc<dyn EventModel>, f64), String>;

    /// The schemas of the messages that it reads with these flags, which are those of its
    /// generator.
    ///
    /// # Errors
    /// When there are none.
    fn schemas(&self, _matches: &ArgMatches) -> Result<MessageSchemas, String> {
        Err(format!(
            "the messages of {} have no schema, they are JSON",
            self.name()
        ))
    }

    /// Its dimension tables, if it has any.
    fn tables(&self) -> &'static [DimTable] {
        &[]
    }

    /// The command that makes them, with the flags of what is made: `highwater dims`.
    fn dims_command(&self) -> Option<Command> {
        None
    }

    /// The rows of all tables, for that command.
    ///
    /// # Errors
    /// When the flags make no sense.
    fn make_dims(&self, _matches: &ArgMatches) -> Result<Vec<TableRows>, String> {
        Err(format!("{} has no dimension tables", self.name()))
    }
}

/// The schemas of messages, for a schema registry. What a message holds is what the pipeline's
/// decoder reads as JSON, whatever the format.
#[derive(Clone, Copy, Debug)]
pub struct MessageSchemas {
    /// An Avro record.
    pub avro: &'static str,
    /// A JSON Schema.
    pub json_schema: &'static str,
}

/// The windows of a pipeline when no flag says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowDefaults {
    /// `--window`
    pub size: Span,
    /// `--slide`; `None`: tumbling.
    pub slide: Option<Span>,
    /// `--wait`
    pub wait: Span,
}

/// Flags that all pipelines share and that a pipeline needs to build its graph.
#[derive(Clone, Debug, Default)]
pub struct Common {
    /// `--dims`: where the tables are; `None`: not given.
    pub dims: Option<SharedPlace>,
    /// `--dims-policy`
    pub policy: Policy,
    /// `--unmatched`
    pub unmatched: Unmatched,
    /// Whether the input is the embedded generator, so that its dimension tables are made in memory.
    pub is_generated: bool,
    /// `--time-zone`: where clocks show the times that come without an offset.
    pub zone: Zone,
}
