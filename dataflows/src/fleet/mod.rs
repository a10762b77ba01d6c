//! Fleet: vehicles report what they do; those that drive fast are kept, record by record, and
//! summarized per vehicle over the last five minutes, every minute.
//!
//! ```text
//! fleet-data ──> keep (speed > 50) ──┬──> kept (table fleet_stream_processed; fleet/date=/hour=)
//!                                    └──> per vehicle, 5 min every 1 min ──> windows
//!                                                                      └───> late
//! ```
//!
//! The windows count what is kept, so that each can be checked against the table of records.

use highwater::aggregate::{Aggregate, count, count_if, max, mean};
use highwater::flow::{Flow, WindowRow};
use highwater::rows::{Column, ColumnType, RowWriter, Tabular};
use highwater::runtime::Pipeline;
use highwater::sink::Layout;
use highwater::time::EventTime;

use self::event::{Nan, Telemetry, VehicleId};

pub mod entry;
pub mod event;
pub mod model;

/// The pipeline with its options.
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    /// Only events above so many km/h are kept.
    pub min_speed: f64,
    /// What becomes of coordinates that are `NaN`.
    pub nan: Nan,
}

impl Pipeline for Fleet {
    fn name(&self) -> &'static str {
        "fleet"
    }

    fn main_output(&self) -> &'static str {
        "windows"
    }

    fn build(&self, flow: &mut Flow<'_>) {
        let Self { min_speed, nan } = *self;
        let telemetry = flow.source(move |message| event::decode(message, nan));
        let kept = telemetry.filter("Keep", move |it| it.is_faster_than(min_speed));
        let kept = flow.records_output("kept", Layout::DateHour("timestamp"), kept);

        let windows = kept.window(|it| it.vehicle_id, metrics);
        flow.windows_output(
            "windows",
            Layout::DateHour("window_start"),
            &["vehicle_id"],
            &windows,
            VehicleMetrics::of,
        );
        flow.late_output(windows.late);
    }
}

/// Events; mean and largest speed; braking, harsh acceleration, collisions, sensor faults.
type Metrics = (u64, Option<f64>, Option<f64>, u64, u64, u64, u64);

fn metrics() -> impl Aggregate<Telemetry, Output = Metrics> {
    let is = |flag: fn(&Telemetry) -> Option<bool>| {
        count_if(move |it: &Telemetry| flag(it) == Some(true))
    };
    (
        count(),
        mean(|it: &Telemetry| it.speed),
        max(|it: &Telemetry| it.speed),
        is(|it| it.braking_event),
        is(|it| it.harsh_acceleration_event),
        is(|it| it.collision_alert),
        is(|it| it.sensor_fault_event),
    )
}

/// One row of the output `windows`.
struct VehicleMetrics {
    vehicle_id: VehicleId,
    start: EventTime,
    end: EventTime,
    metrics: Metrics,
}

impl VehicleMetrics {
    fn of(row: WindowRow<'_, VehicleId, Metrics>) -> Self {
        Self {
            vehicle_id: *row.key,
            start: row.start,
            end: row.end,
            metrics: *row.value,
        }
    }
}

impl Tabular for VehicleMetrics {
    fn columns() -> Vec<Column> {
        vec![
            Column::new("vehicle_id", ColumnType::Text),
            Column::new("window_start", ColumnType::Timestamp),
            Column::new("window_end", ColumnType::Timestamp),
            Column::new("event_count", ColumnType::Int),
            Column::nullable("avg_speed", ColumnType::Float),
            Column::nullable("max_speed", ColumnType::Float),
            Column::new("braking_count", ColumnType::Int),
            Column::new("harsh_acceleration_count", ColumnType::Int),
            Column::new("collision_count", ColumnType::Int),
            Column::new("sensor_fault_count", ColumnType::Int),
        ]
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        let (events, mean, largest, braking, harsh, collisions, faults) = self.metrics;
        row.text(self.vehicle_id.as_str());
        row.timestamp(self.start);
        row.timestamp(self.end);
        row.int(events as i64);
        row.float(mean);
        row.float(largest);
        [braking, harsh, collisions, faults]
            .into_iter()
            .for_each(|count| row.int(count as i64));
    }

    fn message_key(&self, key: &mut Vec<u8>) {
        key.extend_from_slice(self.vehicle_id.as_str().as_bytes());
    }
}
