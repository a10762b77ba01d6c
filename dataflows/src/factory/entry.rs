//! The factory pipeline on the command line.

use std::sync::Arc;

use clap::{ArgMatches, Args, Command, FromArgMatches};
use highwater::cli::registry::{Common, MessageSchemas, PipelineEntry, WindowDefaults, count};
use highwater::runtime::Pipeline;
use highwater::source::generate::EventModel;
use highwater::time::Span;

use super::Factory;
use super::model::{FactoryModel, KeyBy};

/// What the registry lists.
pub struct FactoryEntry;

// The flags of the event model.
#[derive(Args, Debug)]
struct ModelArgs {
    /// How many devices
    #[arg(long, default_value_t = 25, value_name = "N", value_parser = count)]
    devices: u64,
    /// How often a device is hot
    #[arg(long, default_value_t = 0.05, value_name = "PROBABILITY")]
    p_hot: f64,
    /// How often a device vibrates
    #[arg(long, default_value_t = 0.05, value_name = "PROBABILITY")]
    p_vib: f64,
    /// How often a reading is invalid: out of range, or of no device
    #[arg(long, default_value_t = 0.0, value_name = "PROBABILITY")]
    p_invalid: f64,
    /// What keys the messages
    #[arg(long, value_enum, default_value = "device_id")]
    key_by: KeyBy,
}

impl PipelineEntry for FactoryEntry {
    fn name(&self) -> &'static str {
        "factory"
    }

    fn about(&self) -> &'static str {
        "Factory sensors: validity and quarantine, alerts, per-device windows"
    }

    fn defaults(&self) -> WindowDefaults {
        WindowDefaults {
            size: Span::minutes(1),
            slide: None,
            wait: Span::minutes(2),
        }
    }

    fn run_args(&self, command: Command) -> Command {
        command
    }

    fn model_args(&self, command: Command) -> Command {
        ModelArgs::augment_args(command)
    }

    fn pipeline(&self, _: &ArgMatches, common: &Common) -> Result<Arc<dyn Pipeline>, String> {
        if common.dims.is_some() {
            return Err("factory has no dimension tables: leave --dims out".to_owned());
        }
        Ok(Arc::new(Factory))
    }

    fn schemas(&self, _: &ArgMatches) -> Result<MessageSchemas, String> {
        Ok(MessageSchemas {
            avro: include_str!("schema.avsc"),
            json_schema: include_str!("schema.json"),
        })
    }

    fn model(&self, matches: &ArgMatches) -> Result<(Arc<dyn EventModel>, f64), String> {
        let args = ModelArgs::from_arg_matches(matches).map_err(|error| error.to_string())?;
        let model = FactoryModel::new(args.devices, args.p_hot, args.p_vib, args.key_by)
            .and_then(|model| model.with_invalid(args.p_invalid));
        let model = model.map_err(|error| error.to_string())?;
        let rate = model.default_rate();
        Ok((Arc::new(model), rate))
    }
}
