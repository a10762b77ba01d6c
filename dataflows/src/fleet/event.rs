//! The messages of the fleet pipeline: what a vehicle reports.

use clap::ValueEnum;
use highwater::aggregate::Fixed;
use highwater::decode::{
    Decoded, Message, Reason, Rejection, Str, Text, inline_text, nan_as_null, plain_zero, text,
    utf8,
};
use highwater::rows::{Column, ColumnType, RowWriter, Tabular};
use highwater::time::EventTime;
use serde::{Deserialize, Serialize};

/// A vehicle: its plate.
pub type VehicleId = Text<24>;
/// Kind of event, weather, road or traffic.
pub type Label = Text<24>;

/// What becomes of a coordinate that arrives as the bare token `NaN`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Nan {
    /// It is missing.
    #[default]
    Null,
    /// The message is no JSON: a dead letter.
    Reject,
}

/// The fields of which `NaN` is accepted.
const COORDINATES: &[&str] = &["latitude", "longitude"];

/// What a vehicle reports. Missing texts are empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Telemetry {
    /// Which vehicle.
    pub vehicle_id: VehicleId,
    /// When it was measured.
    pub timestamp: EventTime,
    /// In degrees.
    pub latitude: Option<f64>,
    /// In degrees.
    pub longitude: Option<f64>,
    /// In km/h.
    pub speed: Option<f64>,
    /// What the event is about: the gravest of what follows, or `normal`.
    pub event_type: Label,
    /// It brakes hard.
    pub braking_event: Option<bool>,
    /// It has hit something.
    pub collision_alert: Option<bool>,
    /// It changes the lane.
    pub lane_change_event: Option<bool>,
    /// It accelerates hard.
    pub harsh_acceleration_event: Option<bool>,
    /// A sensor is broken.
    pub sensor_fault_event: Option<bool>,
    /// The message was on its way for long.
    pub network_delay_event: Option<bool>,
    /// It does not know where it is.
    pub gps_loss_event: Option<bool>,
    /// sunny, rainy, foggy, snowy or cloudy.
    pub weather: Label,
    /// highway, city or rural.
    pub road_type: Label,
    /// low, medium or high.
    pub traffic_density: Label,
    /// 0 to 23.
    pub hour_of_day: Option<i32>,
    /// In percent; sensors that are off show more than 100.
    pub sensor_battery: Option<f64>,
    /// 1 to 5.
    pub sensor_signal_strength: Option<i32>,
    /// Whether the event is a risk.
    pub risk_label: Option<bool>,
}

highwater::fixed_layout!(Telemetry {
    vehicle_id,
    timestamp,
    latitude,
    longitude,
    speed,
    event_type,
    braking_event,
    collision_alert,
    lane_change_event,
    harsh_acceleration_event,
    sensor_fault_event,
    network_delay_event,
    gps_loss_event,
    weather,
    road_type,
    traffic_density,
    hour_of_day,
    sensor_battery,
    sensor_signal_strength,
    risk_label,
});

#[derive(Deserialize)]
struct TelemetryJson<'a> {
    #[serde(borrow, default)]
    vehicle_id: Option<Str<'a>>,
    #[serde(borrow, default)]
    timestamp: Option<Str<'a>>,
    #[serde(default)]
    latitude: Option<f64>,
    #[serde(default)]
    longitude: Option<f64>,
    #[serde(default)]
    speed: Option<f64>,
    #[serde(borrow, default)]
    event_type: Option<Str<'a>>,
    #[serde(default)]
    braking_event: Option<bool>,
    #[serde(default)]
    collision_alert: Option<bool>,
    #[serde(default)]
    lane_change_event: Option<bool>,
    #[serde(default)]
    harsh_acceleration_event: Option<bool>,
    #[serde(default)]
    sensor_fault_event: Option<bool>,
    #[serde(default)]
    network_delay_event: Option<bool>,
    #[serde(default)]
    gps_loss_event: Option<bool>,
    #[serde(borrow, default)]
    weather: Option<Str<'a>>,
    #[serde(borrow, default)]
    road_type: Option<Str<'a>>,
    #[serde(borrow, default)]
    traffic_density: Option<Str<'a>>,
    #[serde(default)]
    hour_of_day: Option<i32>,
    #[serde(default)]
    sensor_battery: Option<f64>,
    #[serde(default)]
    sensor_signal_strength: Option<i32>,
    #[serde(default)]
    risk_label: Option<bool>,
}

impl TelemetryJson<'_> {
    fn telemetry(&self, message: &Message<'_>) -> Result<Telemetry, Rejection> {
        Ok(Telemetry {
            timestamp: message.event_time(text(&self.timestamp), "timestamp")?,
            vehicle_id: known(inline_text(&self.vehicle_id, "vehicle_id")?)?,
            latitude: self.latitude.map(plain_zero),
            longitude: self.longitude.map(plain_zero),
            speed: speed(self.speed)?,
            event_type: inline_text(&self.event_type, "event_type")?,
            braking_event: self.braking_event,
            collision_alert: self.collision_alert,
            lane_change_event: self.lane_change_event,
            harsh_acceleration_event: self.harsh_acceleration_event,
            sensor_fault_event: self.sensor_fault_event,
            network_delay_event: self.network_delay_event,
            gps_loss_event: self.gps_loss_event,
            weather: inline_text(&self.weather, "weather")?,
            road_type: inline_text(&self.road_type, "road_type")?,
            traffic_density: inline_text(&self.traffic_density, "traffic_density")?,
            hour_of_day: self.hour_of_day,
            sensor_battery: self.sensor_battery.map(plain_zero),
            sensor_signal_strength: self.sensor_signal_strength,
            risk_label: self.risk_label,
        })
    }
}

/// It needs a vehicle.
fn known(vehicle: VehicleId) -> Result<VehicleId, Rejection> {
    if vehicle.is_empty() {
        return Err(Rejection::new(Reason::NoKey, "vehicle_id is missing"));
    }
    Ok(vehicle)
}

/// Speeds are summed, so they have a limit.
fn speed(value: Option<f64>) -> Result<Option<f64>, Rejection> {
    match value {
        Some(speed) if !Fixed::fits(speed) => Err(Rejection::new(
            Reason::OutOfRange,
            format!("speed {speed} is beyond {}", Fixed::LIMIT),
        )),
        value => Ok(value.map(plain_zero)),
    }
}

/// Reads `fleet-data`.
///
/// # Errors
/// When the message is no JSON of this kind (but for what `nan` allows), or lacks its time or
/// vehicle.
pub fn decode(message: Message<'_>, nan: Nan) -> Result<Decoded<Telemetry>, Rejection> {
    let json = utf8(message.value)?;
    let telemetry = match serde_json::from_str::<TelemetryJson<'_>>(json) {
        Ok(fields) => fields.telemetry(&message)?,
        Err(error) => match nan_as_null(json, COORDINATES) {
            Some(mended) if nan == Nan::Null => {
                serde_json::from_str::<TelemetryJson<'_>>(&mended)?.telemetry(&message)?
            }
            _ => return Err(error.into()),
        },
    };
    Ok(Decoded::Record(telemetry.timestamp, telemetry))
}

impl Telemetry {
    /// Whether it is faster than so many km/h; what has no speed is not.
    pub fn is_faster_than(&self, speed: f64) -> bool {
        self.speed.is_some_and(|own| own > speed)
    }
}

impl Tabular for Telemetry {
    fn columns() -> Vec<Column> {
        let text = |name| Column::nullable(name, ColumnType::Text);
        let float = |name| Column::nullable(name, ColumnType::Float);
        let flag = |name| Column::nullable(name, ColumnType::Bool);
        let small = |name| Column::nullable(name, ColumnType::Int).narrow();
        vec![
            Column::new("vehicle_id", ColumnType::Text),
            Column::new("timestamp", ColumnType::Timestamp),
            float("latitude"),
            float("longitude"),
            float("speed"),
            text("event_type"),
            flag("braking_event"),
            flag("collision_alert"),
            flag("lane_change_event"),
            flag("harsh_acceleration_event"),
            flag("sensor_fault_event"),
            flag("network_delay_event"),
            flag("gps_loss_event"),
            text("weather"),
            text("road_type"),
            text("traffic_density"),
            small("hour_of_day"),
            float("sensor_battery"),
            small("sensor_signal_strength"),
            flag("risk_label"),
        ]
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.text(self.vehicle_id.as_str());
        row.timestamp(self.timestamp);
        row.float(self.latitude);
        row.float(self.longitude);
        row.float(self.speed);
        row.text(self.event_type.or_null());
        row.boolean(self.braking_event);
        row.boolean(self.collision_alert);
        row.boolean(self.lane_change_event);
        row.boolean(self.harsh_acceleration_event);
        row.boolean(self.sensor_fault_event);
        row.boolean(self.network_delay_event);
        row.boolean(self.gps_loss_event);
        row.text(self.weather.or_null());
        row.text(self.road_type.or_null());
        row.text(self.traffic_density.or_null());
        row.int(self.hour_of_day.map(i64::from));
        row.float(self.sensor_battery);
        row.int(self.sensor_signal_strength.map(i64::from));
        row.boolean(self.risk_label);
    }

    fn message_key(&self, key: &mut Vec<u8>) {
        key.extend_from_slice(self.vehicle_id.as_str().as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use highwater::source::RawRecord;
    use highwater::time::{Offset, Zone};

    use super::*;

    fn read(json: &str, nan: Nan) -> Result<Telemetry, Rejection> {
        let record = RawRecord {
            offset: Offset(0),
            value: None,
            key: None,
            append_time: None,
        };
        let message = Message {
            value: json.as_bytes(),
            key: None,
            record: &record,
            zone: &Zone::UTC,
        };
        decode(message, nan).map(|decoded| match decoded {
            Decoded::Record(time, telemetry) => {
                assert_eq!(time, telemetry.timestamp);
                telemetry
            }
            Decoded::Skip => panic!("nothing is skipped here"),
        })
    }

    const NAN: &str =
        r#"{"vehicle_id":"NaN","timestamp":"2024-01-01T00:00:00Z","latitude":NaN,"longitude":2}"#;

    #[test]
    fn a_coordinate_that_is_nan_is_missing_or_makes_a_dead_letter() {
        let telemetry = read(NAN, Nan::Null).expect("a record");
        assert_eq!((telemetry.latitude, telemetry.longitude), (None, Some(2.0)));
        assert_eq!(telemetry.vehicle_id.as_str(), "NaN");
        let rejection = read(NAN, Nan::Reject).expect_err("no JSON");
        assert_eq!(rejection.reason, Reason::Undecodable);
    }

    #[test]
    fn no_other_field_may_be_nan() {
        let speed = NAN.replace("\"longitude\":2", "\"speed\":NaN");
        let reason = read(&speed, Nan::Null).expect_err("no JSON").reason;
        assert_eq!(reason, Reason::Undecodable);
    }

    #[test]
    fn speeds_beyond_what_can_be_summed_are_out_of_range() {
        let with = |speed: &str| NAN.replace("\"longitude\":2", &format!("\"speed\":{speed}"));
        assert!(read(&with("1073741824"), Nan::Null).is_ok());
        let rejection = read(&with("-1e10"), Nan::Null).expect_err("too much");
        assert_eq!(rejection.reason, Reason::OutOfRange);
    }

    #[test]
    fn faster_is_strict_and_a_missing_speed_is_not() {
        let at = |speed| Telemetry {
            speed,
            ..Telemetry::default()
        };
        assert!(at(Some(50.01)).is_faster_than(50.0));
        assert!(!at(Some(50.0)).is_faster_than(50.0));
        assert!(!at(None).is_faster_than(-1.0));
    }
}
