//! The cars pipeline on the command line.

use std::sync::Arc;

use clap::{ArgMatches, Args, Command, FromArgMatches};
use highwater::cli::registry::{Common, MessageSchemas, PipelineEntry, WindowDefaults, count};
use highwater::join::{DimTable, StoreLoader, TableSource};
use highwater::runtime::Pipeline;
use highwater::source::generate::EventModel;
use highwater::tables::{PlaceTables, TableRows};
use highwater::time::Span;

use super::dims::{CarsKey, CarsRow, TABLES};
use super::model::CarsModel;
use super::tables::GeneratedTables;
use super::{Cars, GearRule, Stage};

/// What the registry lists.
pub struct CarsEntry;

// The pipeline's own flags.
#[derive(Args, Debug)]
struct RunArgs {
    /// Do one stage only, between its topics; all of it without this flag
    #[arg(long, value_enum)]
    stage: Option<Stage>,
    /// How the gear that fits a speed is found
    #[arg(long, value_enum, default_value = "round")]
    gear_rule: GearRule,
}

// The flags of the event model.
#[derive(Args, Debug)]
struct ModelArgs {
    /// How many cars send events, in turn
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = count)]
    cars: u64,
}

// The flags of `dims cars`.
#[derive(Args, Debug)]
struct DimsArgs {
    /// How many cars
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = count)]
    cars: u64,
    /// Same seed, same tables
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = count)]
    seed: u64,
}

impl PipelineEntry for CarsEntry {
    fn name(&self) -> &'static str {
        "cars"
    }

    fn about(&self) -> &'static str {
        "Car sensors: enriched from dimension tables, checked against rules, alerts counted"
    }

    fn defaults(&self) -> WindowDefaults {
        WindowDefaults {
            size: Span::minutes(15),
            slide: None,
            wait: Span::seconds(10),
        }
    }

    fn run_args(&self, command: Command) -> Command {
        RunArgs::augment_args(command)
    }

    fn model_args(&self, command: Command) -> Command {
        ModelArgs::augment_args(command)
    }

    fn pipeline(&self, matches: &ArgMatches, common: &Common) -> Result<Arc<dyn Pipeline>, String> {
        let args = RunArgs::from_arg_matches(matches).map_err(|error| error.to_string())?;
        let model = ModelArgs::from_arg_matches(matches).map_err(|error| error.to_string())?;
        Ok(Arc::new(Cars {
            stage: args.stage,
            gear_rule: args.gear_rule,
            unmatched: common.unmatched,
            dims: Arc::new(StoreLoader::new(tables(args.stage, model.cars, common)?)),
        }))
    }

    fn schemas(&self, matches: &ArgMatches) -> Result<MessageSchemas, String> {
        // The generator has no stages: it makes samples.
        let stage = matches.try_get_one::<Stage>("stage").ok().flatten();
        match stage {
            Some(Stage::Detect | Stage::Count) => Err(
                "this stage reads what highwater has written, and that is JSON: leave it out"
                    .to_owned(),
            ),
            Some(Stage::Enrich) | None => Ok(MessageSchemas {
                avro: include_str!("schema.avsc"),
                json_schema: include_str!("schema.json"),
            }),
        }
    }

    fn model(&self, matches: &ArgMatches) -> Result<(Arc<dyn EventModel>, f64), String> {
        let args = ModelArgs::from_arg_matches(matches).map_err(|error| error.to_string())?;
        let model = CarsModel::new(args.cars).map_err(|error| error.to_string())?;
        let rate = model.default_rate();
        Ok((Arc::new(model), rate))
    }

    fn tables(&self) -> &'static [DimTable] {
        TABLES.tables
    }

    fn dims_command(&self) -> Option<Command> {
        let command = Command::new("cars").about("Makes the tables models, colors and cars");
        Some(DimsArgs::augment_args(command))
    }

    fn make_dims(&self, matches: &ArgMatches) -> Result<Vec<TableRows>, String> {
        let args = DimsArgs::from_arg_matches(matches).map_err(|error| error.to_string())?;
        CarsModel::new(args.cars).map_err(|error| error.to_string())?;
        let DimsArgs { cars, seed } = args;
        Ok(GeneratedTables { cars, seed }.rows())
    }
}

/// The tables of a place, or with the embedded generator those that it would make itself.
fn tables(
    stage: Option<Stage>,
    cars: u64,
    common: &Common,
) -> Result<Box<dyn TableSource<CarsKey, CarsRow>>, String> {
    let needs_tables = matches!(stage, None | Some(Stage::Enrich));
    match &common.dims {
        Some(place) => Ok(Box::new(PlaceTables::new(Arc::clone(place), TABLES))),
        None if common.is_generated || !needs_tables => {
            Ok(Box::new(GeneratedTables { cars, seed: 1 }))
        }
        None => Err(
            "cars needs its dimension tables: give --dims dir:FOLDER (or s3://, postgres://, \
             kafka://); `highwater dims cars --to dir:FOLDER` makes them"
                .to_owned(),
        ),
    }
}
