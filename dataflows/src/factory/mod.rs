//! Factory: readings of sensors are checked, hot and vibrating devices raise alerts, and each
//! device is summarized per minute.
//!
//! ```text
//! sensor_events ──┬──> invalid ──> quarantine (by reason)
//!                 ├──> tally ────> quality (per checkpoint)
//!                 └──> valid ──┬──> alerts
//!                              └──> per device and minute ──> windows (curated/date=/hour=)
//!                                                         └──> late
//! ```

use highwater::aggregate::{Aggregate, count, count_if, max, mean};
use highwater::flow::{Flow, Tally, WindowRow};
use highwater::rows::{Column, ColumnType, RowWriter, Tabular};
use highwater::runtime::Pipeline;
use highwater::sink::Layout;
use highwater::time::EventTime;

use self::event::{DeviceId, Fault, Quarantined, Reading};

pub mod entry;
pub mod event;
pub mod model;

/// The pipeline; it has no options of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Factory;

impl Pipeline for Factory {
    fn name(&self) -> &'static str {
        "factory"
    }

    fn main_output(&self) -> &'static str {
        "windows"
    }

    fn build(&self, flow: &mut Flow<'_>) {
        let readings = flow.source(event::decode);

        let invalid = readings
            .clone()
            .select("Invalid", |r: &Reading| r.fault().is_some());
        let quarantine = invalid.map("Quarantine", |reading| Quarantined(*reading));
        flow.records_output("quarantine", Layout::Value("reason"), quarantine);
        flow.tally_output("quality", readings.clone().tally(faults), Quality::of);

        let valid = readings.filter("Valid", |reading| reading.fault().is_none());
        let alerts = valid.clone().select("Alert", Reading::is_alert);
        flow.records_output("alerts", Layout::Flat, alerts);

        let windows = valid.window(|reading| reading.device_id, summary);
        let curated = Layout::DateHour("window_start");
        flow.windows_output(
            "windows",
            curated,
            &["device_id"],
            &windows,
            DeviceMinute::of,
        );
        flow.late_output(windows.late);
    }
}

/// Events, mean temperature, largest vibration.
type Summary = (u64, Option<f64>, Option<f64>);

fn summary() -> impl Aggregate<Reading, Output = Summary> {
    (
        count(),
        mean(|r: &Reading| r.temperature_c),
        max(|r: &Reading| r.vibration_g),
    )
}

/// Rows, out of range, without a device.
type Faults = (u64, u64, u64);

fn faults() -> impl Aggregate<Reading, Output = Faults> {
    (
        count(),
        count_if(|r: &Reading| r.fault() == Some(Fault::OutOfRange)),
        count_if(|r: &Reading| r.fault() == Some(Fault::MissingKey)),
    )
}

/// One row of the output `windows`.
struct DeviceMinute {
    device_id: DeviceId,
    summary: Summary,
    start: EventTime,
    end: EventTime,
}

impl DeviceMinute {
    fn of(row: WindowRow<'_, DeviceId, Summary>) -> Self {
        Self {
            device_id: *row.key,
            summary: *row.value,
            start: row.start,
            end: row.end,
        }
    }
}

impl Tabular for DeviceMinute {
    fn columns() -> Vec<Column> {
        vec![
            Column::new("device_id", ColumnType::Text),
            Column::new("n_events", ColumnType::Int),
            Column::nullable("avg_temperature_c", ColumnType::Float),
            Column::nullable("max_vibration_g", ColumnType::Float),
            Column::new("window_start", ColumnType::Timestamp),
            Column::new("window_end", ColumnType::Timestamp),
        ]
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        let (events, temperature, vibration) = self.summary;
        row.text(self.device_id.as_str());
        row.int(events as i64);
        row.float(temperature);
        row.float(vibration);
        row.timestamp(self.start);
        row.timestamp(self.end);
    }

    fn message_key(&self, key: &mut Vec<u8>) {
        key.extend_from_slice(self.device_id.as_str().as_bytes());
    }
}

/// One row of the output `quality`.
struct Quality {
    epoch: u64,
    watermark: EventTime,
    faults: Faults,
}

impl Quality {
    fn of(tally: &Tally<Faults>) -> Self {
        Self {
            epoch: tally.epoch.0,
            watermark: tally.watermark,
            faults: tally.value,
        }
    }
}

impl Tabular for Quality {
    fn columns() -> Vec<Column> {
        vec![
            Column::new("checkpoint_epoch", ColumnType::Int),
            Column::nullable("watermark", ColumnType::Timestamp),
            Column::new("rows", ColumnType::Int),
            Column::new("out_of_range", ColumnType::Int),
            Column::new("missing_key", ColumnType::Int),
        ]
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        let (rows, out_of_range, missing_key) = self.faults;
        row.int(self.epoch as i64);
        row.timestamp(self.watermark.is_finite().then_some(self.watermark));
        row.int(rows as i64);
        row.int(out_of_range as i64);
        row.int(missing_key as i64);
    }
}
