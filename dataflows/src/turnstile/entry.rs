//! The turnstile pipeline on the command line.

use std::sync::Arc;

use clap::{ArgMatches, Args, Command, FromArgMatches};
use highwater::cli::registry::{Common, PipelineEntry, WindowDefaults, count};
use highwater::runtime::Pipeline;
use highwater::source::generate::EventModel;
use highwater::time::{Span, Zone};

use super::model::TurnstileModel;
use super::{Counters, Turnstile};

/// What the registry lists.
pub struct TurnstileEntry;

// The flags of the pipeline.
#[derive(Args, Debug)]
struct RunArgs {
    /// What ENTRIES and EXITS count: since the reading before, or since the counter was reset
    #[arg(long, value_enum, default_value = "delta")]
    counters: Counters,
}

// The flags of the event model.
#[derive(Args, Debug)]
struct ModelArgs {
    /// How many turnstiles
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = count)]
    turnstiles: u64,
}

impl PipelineEntry for TurnstileEntry {
    fn name(&self) -> &'static str {
        "turnstile"
    }

    fn about(&self) -> &'static str {
        "Subway turnstiles: duplicates removed, entries and exits summed into a lake of CSV"
    }

    fn defaults(&self) -> WindowDefaults {
        WindowDefaults {
            size: Span::minutes(5),
            slide: None,
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
            return Err("turnstile has no dimension tables: leave --dims out".to_owned());
        }
        let span = |id| matches.get_one::<Span>(id).copied();
        if span("keep").is_some_and(|keep| keep > Span::ZERO) {
            return Err(
                "--keep: turnstile takes nothing in after a window has ended, because duplicates are \
                 known until then; use a longer --wait"
                    .to_owned(),
            );
        }
        let size = span("window").unwrap_or(self.defaults().size);
        if span("slide").is_some_and(|slide| slide < size) {
            return Err(
                "--slide: turnstile's windows do not overlap, because a reading that is late for its \
                 first window could not be told from its copies any more; let --slide be as long as --window"
                    .to_owned(),
            );
        }
        let args = RunArgs::from_arg_matches(matches).map_err(|error| error.to_string())?;
        Ok(Arc::new(Turnstile {
            counters: args.counters,
            zone: common.zone.clone(),
        }))
    }

    fn model(&self, matches: &ArgMatches) -> Result<(Arc<dyn EventModel>, f64), String> {
        let args = ModelArgs::from_arg_matches(matches).map_err(|error| error.to_string())?;
        let zone = matches.get_one::<Zone>("time-zone").cloned();
        let seed = matches.get_one("seed").copied().unwrap_or(1);
        let model = TurnstileModel::new(args.turnstiles, zone.unwrap_or_default(), seed);
        let model = model.map_err(|error| error.to_string())?;
        Ok((Arc::new(model), TurnstileModel::default_rate()))
    }
}
