//! The rules of the fleet pipeline, written a second time.

use std::rc::Rc;

use serde_json::{Value, json};

use super::factory::mean;
use super::naive::{Key, Line, Naive, Shape, naive, real, string, time_ms, time_text, whole};
use super::place::Place;

/// The texts of a message, apart from its vehicle.
const TEXTS: [&str; 4] = ["event_type", "weather", "road_type", "traffic_density"];
const NUMBERS: [&str; 4] = ["latitude", "longitude", "speed", "sensor_battery"];
const FLAGS: [&str; 8] = [
    "braking_event",
    "collision_alert",
    "lane_change_event",
    "harsh_acceleration_event",
    "sensor_fault_event",
    "network_delay_event",
    "gps_loss_event",
    "risk_label",
];
const INTEGERS: [&str; 2] = ["hour_of_day", "sensor_signal_strength"];

/// What a vehicle has reported.
pub struct Event {
    pub t: i64,
    /// As the message, with all its fields, `null` for `NaN`.
    pub json: Value,
}

impl Event {
    pub fn is_kept(&self) -> bool {
        self.json["speed"]
            .as_f64()
            .is_some_and(|speed| speed > 50.0)
    }

    fn holds(&self, flag: &str) -> bool {
        self.json[flag] == true
    }
}

/// A line of `fleet-data`; `None` when it is no record. Of `NaN` it knows the generator's form only.
pub fn event(line: &[u8]) -> Option<Event> {
    let text = std::str::from_utf8(line).ok()?;
    let text = text.replace("\"latitude\":NaN,", "\"latitude\":null,");
    let text = text.replace("\"longitude\":NaN,", "\"longitude\":null,");
    let event: Value = serde_json::from_str(&text).ok()?;
    event.as_object()?;
    let t = time_ms(&string(&event, "timestamp").ok()??)?;
    let short = |name| {
        let text = string(&event, name).ok()?;
        (text.as_ref().is_none_or(|text| text.len() <= 23)).then_some(text)
    };
    let vehicle = short("vehicle_id")?.filter(|vehicle| !vehicle.is_empty())?;
    let mut json = json!({ "vehicle_id": vehicle, "timestamp": time_text(t) });
    for name in TEXTS {
        json[name] = short(name)?.into();
    }
    for name in NUMBERS {
        json[name] = real(&event, name).ok()?.into();
    }
    for name in INTEGERS {
        json[name] = whole(&event, name).ok()?.into();
    }
    for name in FLAGS {
        json[name] = match &event[name] {
            Value::Null => Value::Null,
            flag => flag.as_bool()?.into(),
        };
    }
    Some(Event { t, json })
}

/// Windows per vehicle.
pub type Vehicles = Naive<String, Rc<Event>>;

/// All of the pipeline.
pub fn windows(partitions: &[Vec<Vec<u8>>], shape: Shape) -> Vehicles {
    let line = |bytes: &[u8]| match event(bytes) {
        None => Line::Rejected,
        Some(event) if !event.is_kept() => Line::Filtered(event.t),
        Some(event) => Line::Counted(event.t, Rc::new(event)),
    };
    naive(partitions, shape, line, |event| {
        event.json["vehicle_id"]
            .as_str()
            .expect("it has a vehicle")
            .to_owned()
    })
}

/// The records that are kept.
pub fn kept(partitions: &[Vec<Vec<u8>>]) -> Vec<Value> {
    let events = partitions.iter().flatten().filter_map(|line| event(line));
    events
        .filter(Event::is_kept)
        .map(|event| event.json)
        .collect()
}

/// The columns of a window's row.
pub fn columns(window: &Key<String>, events: &[Rc<Event>]) -> String {
    let (end, start, vehicle) = window;
    let speeds = || {
        events
            .iter()
            .filter_map(|event| event.json["speed"].as_f64())
    };
    let count = |flag| events.iter().filter(|event| event.holds(flag)).count();
    format!(
        "\"vehicle_id\":{},\"window_start\":\"{}\",\"window_end\":\"{}\",\"event_count\":{},\
         \"avg_speed\":{},\"max_speed\":{},\"braking_count\":{},\"harsh_acceleration_count\":{},\
         \"collision_count\":{},\"sensor_fault_count\":{}",
        json!(vehicle),
        time_text(*start),
        time_text(*end),
        events.len(),
        json!(mean(speeds())),
        json!(speeds().max_by(f64::total_cmp)),
        count("braking_event"),
        count("harsh_acceleration_event"),
        count("collision_alert"),
        count("sensor_fault_event"),
    )
}

/// A row of `PostgreSQL` (`row_to_json`), file or topic as the message was: without the columns of
/// its place, and with its times written in one way.
pub fn as_message(mut row: Value) -> Value {
    let fields = row.as_object_mut().expect("an object");
    fields.retain(|name, _| {
        !name.starts_with("source_") && !["date", "hour", "partition", "key"].contains(&&**name)
    });
    for name in ["timestamp", "window_start", "window_end"] {
        if let Some(time) = fields.get_mut(name) {
            let ms = time.as_str().and_then(time_ms).expect("a time");
            *time = time_text(ms).into();
        }
    }
    for name in NUMBERS.iter().chain(&["avg_speed", "max_speed"]) {
        // PostgreSQL writes 100.0 as 100.
        if let Some(number) = fields.get_mut(*name) {
            *number = number.as_f64().into();
        }
    }
    row
}

/// A folder `in` with generated events.
pub fn generated(flags: &str) -> Place {
    let place = Place::new();
    place.ok(&format!("generate fleet {flags} --to file:in/"));
    place
}
