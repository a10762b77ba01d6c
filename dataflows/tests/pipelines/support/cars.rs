//! The rules of the cars pipeline, written a second time.

use std::collections::HashMap;
use std::rc::Rc;

use serde_json::{Value, json};

use super::naive::{Key, Line, Naive, Shape, naive, real, string, time_ms, time_text, whole};
use super::place::Place;

/// A row of cars.csv: from when on it holds, driver, model and colour.
type Version = (i64, u64, String, String);

/// The tables, as they lie in a folder.
pub struct Tables {
    models: HashMap<String, (String, String)>,
    colors: HashMap<String, String>,
    cars: HashMap<u64, Vec<Version>>,
}

fn csv(text: &str) -> impl Iterator<Item = HashMap<&str, &str>> {
    let mut lines = text.lines();
    let names: Vec<_> = lines.next().expect("a header").split(',').collect();
    lines.map(move |line| names.iter().copied().zip(line.split(',')).collect())
}

impl Tables {
    pub fn read(place: &Place, folder: &str) -> Self {
        let table = |name: &str| place.read(&format!("{folder}/{name}.csv"));
        let mut cars: HashMap<u64, Vec<Version>> = HashMap::new();
        for row in csv(&table("cars")) {
            let from = row.get("valid_from").filter(|text| !text.is_empty());
            let from = from.map_or(i64::MIN, |text| time_ms(text).expect("a time"));
            let version = (
                from,
                row["driver_id"].parse().expect("a number"),
                row["model_id"].into(),
                row["color_id"].into(),
            );
            cars.entry(row["car_id"].parse().expect("a number"))
                .or_default()
                .push(version);
        }
        let models = table("models");
        let colors = table("colors");
        let model = |row: HashMap<&str, &str>| {
            (
                row["model_id"].into(),
                (row["brand"].into(), row["model"].into()),
            )
        };
        Self {
            models: csv(&models).map(model).collect(),
            colors: csv(&colors)
                .map(|row| (row["color_id"].into(), row["color_name"].into()))
                .collect(),
            cars,
        }
    }

    fn car(&self, car_id: u64, t: i64) -> Option<&Version> {
        let versions = self.cars.get(&car_id)?.iter();
        versions
            .filter(|version| version.0 <= t)
            .max_by_key(|version| version.0)
    }
}

/// An enriched event.
pub struct Event {
    pub t: i64,
    /// As the message of `samples-enriched`.
    pub json: Value,
}

impl Event {
    pub fn is_known(&self) -> bool {
        !self.json["driver_id"].is_null()
    }

    pub fn is_alert(&self) -> bool {
        let is = |name: &str, most: f64| self.json[name].as_f64().is_some_and(|value| value > most);
        let (gear, expected) = (&self.json["gear"], &self.json["expected_gear"]);
        is("speed", 120.0)
            || is("rpm", 6000.0)
            || !gear.is_null() && !expected.is_null() && gear != expected
    }

    fn color(&self) -> &str {
        self.json["color_name"].as_str().unwrap_or_default()
    }
}

/// A line of `sensors-sample`, enriched; `None` when it is no record.
pub fn enriched(tables: &Tables, line: &[u8]) -> Option<Event> {
    let event: Value = serde_json::from_slice(line).ok()?;
    event.as_object()?;
    let t = time_ms(event["event_time"].as_str()?)?;
    let car_id = match &event["car_id"] {
        Value::String(digits) => digits.parse().ok()?,
        id => id.as_u64()?,
    };
    let speed = real(&event, "speed").ok()?;
    let known = tables.car(car_id, t);
    let (brand, model) = known.map(|car| &tables.models[&car.2]).cloned().unzip();
    let json = json!({
        "event_id": string(&event, "event_id").ok()?,
        "event_time": time_text(t),
        "car_id": car_id,
        "driver_id": known.map(|car| car.1),
        "brand_name": brand,
        "model_name": model,
        "color_name": known.map(|car| &tables.colors[&car.3]),
        "speed": speed,
        "rpm": whole(&event, "rpm").ok()?,
        "gear": whole(&event, "gear").ok()?,
        "expected_gear": speed.map(|speed| (speed / 30.0 + 0.5).floor() as i64),
    });
    Some(Event { t, json })
}

/// What becomes of cars that are in no table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unmatched {
    Keep,
    Drop,
    DeadLetter,
}

/// Windows of alerts.
pub type Alerts = Naive<(), Rc<Event>>;

/// All of the pipeline. Judged as one dataflow: a record's lateness comes from all records before.
pub fn windows(
    tables: &Tables,
    partitions: &[Vec<Vec<u8>>],
    shape: Shape,
    unmatched: Unmatched,
) -> Alerts {
    let line = |bytes: &[u8]| match enriched(tables, bytes) {
        None => Line::Rejected,
        Some(event) if !event.is_known() && unmatched == Unmatched::Drop => Line::Filtered(event.t),
        Some(event) if !event.is_known() && unmatched == Unmatched::DeadLetter => {
            Line::DeadLetter(event.t)
        }
        Some(event) if event.is_alert() => Line::Counted(event.t, Rc::new(event)),
        Some(event) => Line::Filtered(event.t),
    };
    naive(partitions, shape, line, |_| ())
}

/// The columns of a window's row.
pub fn columns(window: &Key<()>, alerts: &[Rc<Event>]) -> String {
    let (end, start, ()) = window;
    let color = |name: &str| alerts.iter().filter(|alert| alert.color() == name).count();
    let largest = |name: &str| {
        let values = alerts
            .iter()
            .map(|alert| &alert.json[name])
            .filter(|value| !value.is_null());
        let largest = values.max_by(|a, b| a.as_f64().partial_cmp(&b.as_f64()).expect("numbers"));
        largest.unwrap_or(&Value::Null)
    };
    format!(
        "\"window_start\":\"{}\",\"window_end\":\"{}\",\"num_of_rows\":{},\"num_of_black\":{},\
         \"num_of_white\":{},\"num_of_silver\":{},\"maximum_speed\":{},\"maximum_gear\":{},\"maximum_rpm\":{}",
        time_text(*start),
        time_text(*end),
        alerts.len(),
        color("Black"),
        color("White"),
        color("Silver"),
        largest("speed"),
        largest("gear"),
        largest("rpm"),
    )
}

/// A folder `in` with generated events and a folder `dims` with the tables.
pub fn generated(flags: &str) -> Place {
    let place = Place::new();
    place.ok(&format!("generate cars {flags} --to file:in/"));
    place.ok("dims cars --to dims");
    place
}
