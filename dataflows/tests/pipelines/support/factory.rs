//! The rules of the factory pipeline, written a second time.

use std::rc::Rc;

use serde_json::{Value, json};

use super::naive::{Key, Line, Naive, Shape, naive, real, string, time_ms, time_text};

/// A reading.
pub struct Reading {
    pub t: i64,
    /// As the message of `sensor_alerts`, with the fields of the pipeline's rows.
    pub json: Value,
}

impl Reading {
    fn number(&self, name: &str) -> Option<f64> {
        self.json[name].as_f64()
    }

    /// Why it is in quarantine.
    pub fn fault(&self) -> Option<&'static str> {
        let fits = |name, is: fn(f64) -> bool| self.number(name).is_none_or(is);
        if self.json["device_id"].is_null() {
            Some("missing_key")
        } else if fits("temperature_c", |t| -50.0 < t && t < 150.0)
            && fits("vibration_g", |v| v >= 0.0)
        {
            None
        } else {
            Some("out_of_range")
        }
    }

    pub fn is_alert(&self) -> bool {
        let over = |name, most: f64| self.number(name).is_some_and(|value| value > most);
        self.fault().is_none() && (over("temperature_c", 85.0) || over("vibration_g", 0.5))
    }
}

/// A line of `sensor_events`; `None` when it is no record.
pub fn reading(line: &[u8]) -> Option<Reading> {
    let event: Value = serde_json::from_slice(line).ok()?;
    event.as_object()?;
    let own = |name| string(&event, name);
    let t = time_ms(&own("ts").ok()?.or(own("event_ts").ok()?)?)?;
    let short = |name, most| {
        own(name)
            .ok()
            .filter(|text| text.as_ref().is_none_or(|text| text.len() <= most))
    };
    let device = short("device_id", 23)?.filter(|device| !device.is_empty());
    let json = json!({
        "device_id": device,
        "event_ts": time_text(t),
        "temperature_c": real(&event, "temperature_c").ok()?,
        "vibration_g": real(&event, "vibration_g").ok()?,
        "status": short("status", 15)?,
        "site": short("site", 15)?,
        "line": short("line", 15)?,
    });
    Some(Reading { t, json })
}

/// Windows per device.
pub type Devices = Naive<String, Rc<Reading>>;

/// All of the pipeline.
pub fn windows(partitions: &[Vec<Vec<u8>>], shape: Shape) -> Devices {
    let line = |bytes: &[u8]| match reading(bytes) {
        None => Line::Rejected,
        Some(reading) if reading.fault().is_some() => Line::Filtered(reading.t),
        Some(reading) => Line::Counted(reading.t, Rc::new(reading)),
    };
    naive(partitions, shape, line, |reading| {
        reading.json["device_id"]
            .as_str()
            .expect("it has no fault")
            .to_owned()
    })
}

/// The columns of a window's row.
pub fn columns(window: &Key<String>, readings: &[Rc<Reading>]) -> String {
    let (end, start, device) = window;
    let values = |name| {
        readings
            .iter()
            .filter_map(move |reading| reading.number(name))
    };
    let largest = values("vibration_g").max_by(f64::total_cmp);
    format!(
        "\"device_id\":{},\"n_events\":{},\"avg_temperature_c\":{},\"max_vibration_g\":{},\
         \"window_start\":\"{}\",\"window_end\":\"{}\"",
        json!(device),
        readings.len(),
        json!(mean(values("temperature_c"))),
        json!(largest),
        time_text(*start),
        time_text(*end),
    )
}

/// The mean, rounded once: the sum is exact, so it does not depend on the order.
pub fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    // In units of 2^-64, in which each value of a sensor is a whole number.
    let (mut sum, mut count) = (0_i128, 0_i128);
    for value in values {
        sum += (value * 2_f64.powi(64)) as i128;
        count += 1;
    }
    // 30 bits more, and the lowest says whether there is a remainder: enough to round it once.
    let wide = |sum: i128| ((sum << 30) / count) | i128::from((sum << 30) % count != 0);
    let rounded = |sum: i128| wide(sum) as f64 / 2_f64.powi(94);
    (count > 0).then(|| {
        if sum < 0 {
            -rounded(-sum)
        } else {
            rounded(sum)
        }
    })
}

#[test]
fn means_are_rounded_once() {
    // Rounding the sum first gives 80.15799999999999.
    assert_eq!(
        mean([89.904, 70.069, 84.594, 78.727, 77.496].into_iter()),
        Some(80.158)
    );
    assert_eq!(mean([-1.0, -2.0].into_iter()), Some(-1.5));
    assert_eq!(mean([1.0, 1.0, 2.0].into_iter()), Some(4.0 / 3.0));
    assert_eq!(mean([].into_iter()), None);
}
