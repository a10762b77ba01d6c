//! Cars: samples are enriched from dimension tables, checked against rules, and the alerts are
//! counted per window.
//!
//! ```text
//! sensors-sample ──> enrich ──────────> detect ───────> count ──> windows
//!                      │  ^               │               │
//!                      │  models          └──> alerts     └──> late
//!                      │  colors
//!                      │  cars
//!                      └──> enriched
//! ```
//!
//! One dataflow does all of it; each stage also runs alone between its topics.

use std::sync::Arc;

use clap::ValueEnum;
use highwater::aggregate::{Aggregate, count, count_if, max};
use highwater::flow::{Blocks, Catalog, Enriched as Joined, Flow, Unmatched, WindowRow};
use highwater::join::{DimLoader, StoreLoader};
use highwater::rows::{Column, ColumnType, RowWriter, Tabular};
use highwater::runtime::Pipeline;
use highwater::sink::Layout;
use highwater::time::EventTime;

use self::dims::{CarsKey, CarsRow};
use self::event::{Enriched, Sample};

pub mod dims;
pub mod entry;
pub mod event;
pub mod model;
pub mod tables;

/// The part of the pipeline that a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// Samples to enriched samples.
    Enrich,
    /// Enriched samples to alerts.
    Detect,
    /// Alerts to windows.
    Count,
}

/// How the gear that fits a speed is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum GearRule {
    /// Speed / 30, rounded half up.
    #[default]
    Round,
    /// One gear per band of 30 km/h: 0 below 0, 1 below 30, ... 7 from 180 on.
    Bands,
}

/// The pipeline with its options.
pub struct Cars {
    /// Which part; `None`: all.
    pub stage: Option<Stage>,
    /// How the expected gear is found.
    pub gear_rule: GearRule,
    /// What becomes of samples of unknown cars.
    pub unmatched: Unmatched,
    /// The dimension tables.
    pub dims: Arc<StoreLoader<CarsKey, CarsRow>>,
}

impl Pipeline for Cars {
    fn name(&self) -> &'static str {
        "cars"
    }

    fn main_output(&self) -> &'static str {
        match self.stage {
            Some(Stage::Enrich) => "enriched",
            Some(Stage::Detect) => "alerts",
            Some(Stage::Count) | None => "windows",
        }
    }

    fn dimensions(&self) -> Option<Arc<dyn DimLoader>> {
        matches!(self.stage, None | Some(Stage::Enrich)).then(|| Arc::clone(&self.dims) as _)
    }

    fn build(&self, flow: &mut Flow<'_>) {
        match self.stage {
            None => {
                let samples = flow.source(event::decode_sample);
                let enriched = self.enrich(flow, samples);
                let enriched = flow.records_output("enriched", Layout::Flat, enriched);
                let alerts = enriched.filter("Detect", is_alert);
                let alerts = flow.records_output("alerts", Layout::Flat, alerts);
                count_alerts(flow, alerts);
            }
            Some(Stage::Enrich) => {
                let samples = flow.source(event::decode_sample);
                let enriched = self.enrich(flow, samples);
                flow.main_output("enriched", Layout::Flat, enriched);
            }
            Some(Stage::Detect) => {
                let alerts = flow
                    .source(event::decode_enriched)
                    .filter("Detect", is_alert);
                flow.main_output("alerts", Layout::Flat, alerts);
            }
            Some(Stage::Count) => {
                let alerts = flow.source(event::decode_enriched);
                count_alerts(flow, alerts);
            }
        }
    }
}

impl Cars {
    fn enrich<'s>(&self, flow: &mut Flow<'s>, samples: Blocks<'s, Sample>) -> Blocks<'s, Enriched> {
        let tables = flow.dimensions(self.dims.store());
        let gear_rule = self.gear_rule;
        let join = move |tables: &Catalog<'_, CarsKey, CarsRow>, sample: &Sample| {
            enrich(tables, sample, gear_rule)
        };
        samples.enrich(flow, tables, self.unmatched, join, event::to_json)
    }
}

/// Looks up car, model and colour as of the sample's time. What is missing stays null.
fn enrich(
    tables: &Catalog<'_, CarsKey, CarsRow>,
    sample: &Sample,
    gear_rule: GearRule,
) -> Joined<Enriched> {
    let mut value = Enriched::of(sample);
    value.expected_gear = sample.speed.map(|speed| expected_gear(speed, gear_rule));
    let mut is_matched = false;
    if let Some(CarsRow::Car {
        driver_id,
        model_id,
        color_id,
    }) = tables.get(&CarsKey::Car(sample.car_id))
    {
        value.driver_id = Some(*driver_id);
        let model = tables.get(&CarsKey::Model(*model_id));
        let color = tables.get(&CarsKey::Color(*color_id));
        is_matched = model.is_some() && color.is_some();
        if let Some(CarsRow::Model { brand, model }) = model {
            (value.brand_name, value.model_name) = (*brand, *model);
        }
        if let Some(CarsRow::Color { name }) = color {
            value.color_name = *name;
        }
    }
    Joined { value, is_matched }
}

/// The gear that fits a speed in km/h.
pub fn expected_gear(speed: f64, rule: GearRule) -> i32 {
    match rule {
        GearRule::Round => (speed / 30.0 + 0.5).floor() as i32,
        GearRule::Bands if speed < 0.0 => 0,
        GearRule::Bands => 1 + (speed / 30.0).floor().min(6.0) as i32,
    }
}

/// Too fast, too many revolutions, or the wrong gear. A null never alerts.
pub fn is_alert(sample: &Enriched) -> bool {
    let wrong_gear = sample
        .gear
        .zip(sample.expected_gear)
        .is_some_and(|(is, fits)| is != fits);
    sample.speed.is_some_and(|speed| speed > 120.0)
        || sample.rpm.is_some_and(|rpm| rpm > 6000)
        || wrong_gear
}

fn count_alerts<'s>(flow: &Flow<'s>, alerts: Blocks<'s, Enriched>) {
    let windows = alerts.window(|_| (), counts);
    flow.windows_output("windows", Layout::Flat, &[], &windows, AlertCounts::of);
    flow.late_output(windows.late);
}

/// Rows; black, white and silver ones; largest speed, gear and rpm.
type Counts = (u64, u64, u64, u64, Option<f64>, Option<i32>, Option<i32>);

fn counts() -> impl Aggregate<Enriched, Output = Counts> {
    let color = |name: &'static str| count_if(move |s: &Enriched| s.color_name.as_str() == name);
    (
        count(),
        color("Black"),
        color("White"),
        color("Silver"),
        max(|s: &Enriched| s.speed),
        max(|s: &Enriched| s.gear),
        max(|s: &Enriched| s.rpm),
    )
}

/// One row of the output `windows`.
struct AlertCounts {
    start: EventTime,
    end: EventTime,
    counts: Counts,
}

impl AlertCounts {
    fn of(row: WindowRow<'_, (), Counts>) -> Self {
        Self {
            start: row.start,
            end: row.end,
            counts: *row.value,
        }
    }
}

impl Tabular for AlertCounts {
    fn columns() -> Vec<Column> {
        vec![
            Column::new("window_start", ColumnType::Timestamp),
            Column::new("window_end", ColumnType::Timestamp),
            Column::new("num_of_rows", ColumnType::Int),
            Column::new("num_of_black", ColumnType::Int),
            Column::new("num_of_white", ColumnType::Int),
            Column::new("num_of_silver", ColumnType::Int),
            Column::nullable("maximum_speed", ColumnType::Float),
            Column::nullable("maximum_gear", ColumnType::Int),
            Column::nullable("maximum_rpm", ColumnType::Int),
        ]
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        let (rows, black, white, silver, speed, gear, rpm) = self.counts;
        row.timestamp(self.start);
        row.timestamp(self.end);
        [rows, black, white, silver]
            .into_iter()
            .for_each(|count| row.int(count as i64));
        row.float(speed);
        row.int(gear.map(i64::from));
        row.int(rpm.map(i64::from));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expected_gear_is_rounded_half_up() {
        let round = |speed| expected_gear(speed, GearRule::Round);
        assert_eq!(
            [0.0, 14.99, 15.0, 44.99, 45.0, 200.0].map(round),
            [0, 0, 1, 1, 2, 7]
        );
    }

    #[test]
    fn bands_are_of_thirty() {
        let bands = |speed| expected_gear(speed, GearRule::Bands);
        let speeds = [-0.1, 0.0, 29.99, 30.0, 179.99, 180.0, 1000.0];
        assert_eq!(speeds.map(bands), [0, 1, 1, 2, 6, 7, 7]);
    }

    #[test]
    fn a_null_never_alerts() {
        let quiet = Enriched {
            speed: Some(60.0),
            gear: Some(2),
            expected_gear: Some(2),
            rpm: Some(6000),
            ..Enriched::default()
        };
        assert!(!is_alert(&quiet));
        assert!(!is_alert(&Enriched::default()));
        assert!(is_alert(&Enriched {
            rpm: Some(6001),
            ..quiet
        }));
        assert!(is_alert(&Enriched {
            speed: Some(120.01),
            ..quiet
        }));
        assert!(is_alert(&Enriched {
            gear: Some(3),
            ..quiet
        }));
        assert!(!is_alert(&Enriched {
            gear: None,
            ..quiet
        }));
    }
}
