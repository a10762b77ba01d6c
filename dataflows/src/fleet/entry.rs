//! The fleet pipeline on the command line.

use std::sync::Arc;

use clap::{ArgMatches, Args, Command, FromArgMatches};
use highwater::cli::registry::{Common, PipelineEntry, WindowDefaults, count, duration};
use highwater::runtime::Pipeline;
use highwater::source::generate::EventModel;
use highwater::time::Span;

use super::Fleet;
use super::event::Nan;
use super::model::FleetModel;

/// What the registry lists.
pub struct FleetEntry;

// The pipeline's own flags.
#[derive(Args, Debug)]
struct RunArgs {
    /// Keep only what is faster, in km/h
    #[arg(long, default_value_t = 50.0, value_name = "SPEED", value_parser = speed, allow_negative_numbers = true)]
    min_speed: f64,
    /// What becomes of coordinates that arrive as NaN
    #[arg(long, value_enum, default_value = "null")]
    nan: Nan,
}

// The flags of the event model.
#[derive(Args, Debug)]
struct ModelArgs {
    /// How many vehicles send events, in turn
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = count)]
    vehicles: u64,
    /// Stamp each event anywhere in so much time before its turn, as far back as 30d
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = duration)]
    backfill: Span,
}

fn speed(text: &str) -> Result<f64, String> {
    let speed = text.parse().ok().filter(|speed: &f64| speed.is_finite());
    speed.ok_or_else(|| "not a speed in km/h, such as 50 or 62.5".to_owned())
}

impl PipelineEntry for FleetEntry {
    fn name(&self) -> &'static str {
        "fleet"
    }

    fn about(&self) -> &'static str {
        "Vehicle telemetry: fast events kept in a table, sliding metrics per vehicle"
    }

    fn defaults(&self) -> WindowDefaults {
        WindowDefaults {
            size: Span::minutes(5),
            slide: Some(Span::minutes(1)),
            wait: Span::minutes(1),
        }
    }

    fn run_args(&self, command: Command) -> Command {
        RunArgs::augment_args(command)
    }

    fn model_args(&self, command: Command) -> Command {
        ModelArgs::augment_args(command)
    }

    fn pipeline(&self, matches: &ArgMatches, common: &Common) -> Result<Arc<dyn Pipeline>, String> {
        if common.dims.is_some() {
            return Err("fleet has no dimension tables: leave --dims out".to_owned());
        }
        let RunArgs { min_speed, nan } =
            RunArgs::from_arg_matches(matches).map_err(|error| error.to_string())?;
        Ok(Arc::new(Fleet { min_speed, nan }))
    }

    fn model(&self, matches: &ArgMatches) -> Result<(Arc<dyn EventModel>, f64), String> {
        let args = ModelArgs::from_arg_matches(matches).map_err(|error| error.to_string())?;
        let model = FleetModel::new(args.vehicles, args.backfill);
        let model = model.map_err(|error| error.to_string())?;
        let rate = model.default_rate();
        Ok((Arc::new(model), rate))
    }
}
