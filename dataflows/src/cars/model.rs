//! The cars and their events, `sensors-sample`.
//!
//! About 94.37 % of the events alert: not to alert takes speed <= 120, rpm <= 6000 and, of seven
//! gears, the one that is expected of a speed from 15 to 120 km/h (below 15 none is):
//! 1 - (10,501 / 20,001) (6,001 / 8,001) / 7.

use highwater::source::generate::text::{push_fixed, push_uint, push_uuid};
use highwater::source::generate::{EventModel, EventRng, GenerateError};
use highwater::time::EventTime;

/// How many car ids of seven digits there are.
pub const MAX_CARS: u64 = 9_000_000;

/// The cars: each sends one event in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CarsModel {
    cars: u64,
}

impl CarsModel {
    /// `cars` cars.
    ///
    /// # Errors
    /// When there are none, or more than there are ids.
    pub fn new(cars: u64) -> Result<Self, GenerateError> {
        if (1..=MAX_CARS).contains(&cars) {
            Ok(Self { cars })
        } else {
            Err(GenerateError::Config(format!(
                "--cars {cars}: must be from 1 to {MAX_CARS}"
            )))
        }
    }

    /// One event per car and second.
    pub fn default_rate(&self) -> f64 {
        self.cars as f64
    }
}

/// The id of car `index`: seven digits, a bijection of 0..9,000,000 (the factor has no divisor in
/// common with 9,000,000), the same for every seed, so that events and dimensions always match.
pub fn car_id(index: u64) -> u64 {
    1_000_000 + (index % MAX_CARS * 7_368_787 + 234_567) % MAX_CARS
}

impl EventModel for CarsModel {
    fn key(&self, index: u64, out: &mut Vec<u8>) {
        push_uint(car_id(index % self.cars), out);
    }

    fn key_period(&self) -> Option<u64> {
        Some(self.cars)
    }

    fn value(&self, index: u64, time: EventTime, rng: &mut EventRng, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"event_id":""#);
        push_uuid(rng.uuid(), out);
        out.extend_from_slice(br#"","event_time":""#);
        time.write_rfc3339(out);
        out.extend_from_slice(br#"","car_id":"#);
        push_uint(car_id(index % self.cars), out);
        out.extend_from_slice(br#","speed":"#);
        push_fixed(rng.between(0, 20_000), 2, out);
        out.extend_from_slice(br#","rpm":"#);
        push_uint(rng.below(8001), out);
        out.extend_from_slice(br#","gear":"#);
        push_uint(1 + rng.below(7), out);
        out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use highwater::source::generate::{EventLog, GeneratorOptions};

    use super::*;

    fn log(seed: u64) -> EventLog {
        let options = GeneratorOptions {
            seed,
            ..GeneratorOptions::default()
        };
        EventLog::new(Arc::new(CarsModel::new(20).expect("valid")), options).expect("valid")
    }

    fn line(log: &EventLog, index: u64) -> String {
        let mut bytes = Vec::new();
        log.append(index, &mut bytes);
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn the_bytes_of_a_seed_never_change() {
        let text: Vec<String> = (0..1000).map(|index| line(&log(1), index)).collect();
        assert_eq!(text[0], GOLDEN_FIRST);
        assert_eq!(fnv1a(text.join("\n").as_bytes()), GOLDEN_HASH);
    }

    const GOLDEN_FIRST: &str = r#"{"event_id":"b18a02f4-6d8d-46c3-b8c5-b62c83f707e8","event_time":"2024-01-01T00:00:00.000Z","car_id":1234567,"speed":85.31,"rpm":6450,"gear":3}"#;
    const GOLDEN_HASH: u64 = 0x4c33_5cb1_1fa4_fc5c;

    fn fnv1a(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    #[test]
    fn car_ids_are_unique_and_have_seven_digits() {
        let ids: HashSet<u64> = (0..100_000).map(car_id).collect();
        assert_eq!(ids.len(), 100_000);
        assert!(ids.iter().all(|id| (1_000_000..10_000_000).contains(id)));
        assert_eq!(car_id(0), 1_234_567);
    }

    #[test]
    fn every_car_sends_in_turn_and_is_the_key() {
        let (log, mut key) = (log(1), Vec::new());
        log.key(43, &mut key);
        assert_eq!(key, car_id(3).to_string().as_bytes());
        let event: serde_json::Value = serde_json::from_str(&line(&log, 43)).expect("JSON");
        assert_eq!(event["car_id"], car_id(3));
        assert_eq!(event["event_time"], "2024-01-01T00:00:02.150Z");
    }

    #[test]
    fn the_share_of_alerts_is_the_analytic_one() {
        let log = log(5);
        let alerts = (0..40_000_u32).filter(|index| {
            let event: serde_json::Value =
                serde_json::from_str(&line(&log, u64::from(*index))).expect("JSON");
            let speed = event["speed"].as_f64().expect("a number");
            let rpm = event["rpm"].as_i64().expect("an integer");
            let gear = event["gear"].as_i64().expect("an integer");
            assert!((0.0..=200.0).contains(&speed) && (0..=8000).contains(&rpm));
            assert!((1..=7).contains(&gear));
            speed > 120.0 || rpm > 6000 || gear != (speed / 30.0 + 0.5).floor() as i64
        });
        let share = alerts.count() as f64 / 40_000.0;
        assert!((share - 0.9437).abs() < 0.005, "{share}");
    }
}
