//! The vehicles of the fleet and what they report, `fleet-data`.
//!
//! | what | odds |
//! |---|---|
//! | braking | 0.07; in rush hours (7 to 9 and 16 to 18) 0.15; both times 1.5 in bad weather |
//! | collision | 0.005; twice that in bad weather |
//! | lane change, harsh acceleration | 0.1, 0.03 |
//! | sensor fault, network delay, GPS loss | 0.002, 0.001, 0.001 |
//! | latitude missing, longitude missing | 0.005 each; written as the bare token `NaN` |
//! | speed | uniform from 0 to 130 km/h; with 0.002 from 150 to 250 |
//! | battery | uniform from 20 to 100 %; with 0.002 from 100 to 150 |
//!
//! Weather, road and traffic are uniform; rain, fog and snow are bad weather. The kind of the event
//! is the first that holds of collision, sensor fault, GPS loss, network delay, harsh acceleration,
//! braking and lane change. An event is a risk when it is a collision, when it brakes and
//! accelerates hard, and above 100 km/h in bad weather.

use highwater::source::generate::text::{push_fixed, push_padded, push_uint};
use highwater::source::generate::{EventModel, EventRng, GenerateError};
use highwater::time::{EventTime, Span};

/// How many plates of three letters and four digits there are.
const MAX_VEHICLES: u64 = 26 * 26 * 26 * 10_000;
/// A hundred years.
const MAX_BACKFILL: Span = Span::minutes(100 * 366 * 24 * 60);
const HOUR_MS: i64 = 3_600_000;

const WEATHERS: [&str; 5] = ["sunny", "rainy", "foggy", "snowy", "cloudy"];
const ROADS: [&str; 3] = ["highway", "city", "rural"];
const TRAFFIC: [&str; 3] = ["low", "medium", "high"];

/// The vehicles: each sends one event in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FleetModel {
    vehicles: u64,
    backfill: Span,
}

impl FleetModel {
    /// `vehicles` vehicles whose events are stamped up to `backfill` before their turn, uniformly.
    ///
    /// # Errors
    /// When there are none or more than there are plates, or when time runs forwards.
    pub fn new(vehicles: u64, backfill: Span) -> Result<Self, GenerateError> {
        if !(1..=MAX_VEHICLES).contains(&vehicles) {
            return Err(GenerateError::Config(format!(
                "--vehicles {vehicles}: must be from 1 to {MAX_VEHICLES}"
            )));
        }
        if !(Span::ZERO..=MAX_BACKFILL).contains(&backfill) {
            return Err(GenerateError::Config(format!(
                "--backfill {backfill}: must be from 0s to 100 years, such as 30d"
            )));
        }
        Ok(Self { vehicles, backfill })
    }

    /// One event per vehicle every five seconds.
    pub fn default_rate(&self) -> f64 {
        self.vehicles as f64 / 5.0
    }

    fn push_plate(&self, index: u64, out: &mut Vec<u8>) {
        // A bijection: the factor has no divisor in common with the number of plates.
        let plate = (index % self.vehicles * 104_729_113 + 7_654_321) % MAX_VEHICLES;
        let (mut letters, digits) = (plate / 10_000, plate % 10_000);
        let mut text = [0; 3];
        for letter in text.iter_mut().rev() {
            *letter = b'A' + (letters % 26) as u8;
            letters /= 26;
        }
        out.extend_from_slice(&text);
        out.push(b'-');
        push_padded(digits, 4, out);
    }
}

/// The hour of the day, in UTC.
fn hour_of_day(time: EventTime) -> i64 {
    time.0.div_euclid(HOUR_MS).rem_euclid(24)
}

/// What happens to a vehicle, drawn one by one: each draw is always made.
struct Happening {
    braking: bool,
    collision: bool,
    lane_change: bool,
    harsh_acceleration: bool,
    sensor_fault: bool,
    network_delay: bool,
    gps_loss: bool,
}

impl Happening {
    fn draw(is_rush_hour: bool, is_bad_weather: bool, rng: &mut EventRng) -> Self {
        let braking = if is_rush_hour { 0.15 } else { 0.07 };
        let (more_braking, more_collisions) = if is_bad_weather {
            (1.5, 2.0)
        } else {
            (1.0, 1.0)
        };
        Self {
            braking: rng.bernoulli(braking * more_braking),
            collision: rng.bernoulli(0.005 * more_collisions),
            lane_change: rng.bernoulli(0.1),
            harsh_acceleration: rng.bernoulli(0.03),
            sensor_fault: rng.bernoulli(0.002),
            network_delay: rng.bernoulli(0.001),
            gps_loss: rng.bernoulli(0.001),
        }
    }

    /// The first that holds.
    fn kind(&self) -> &'static str {
        let kinds = [
            (self.collision, "collision"),
            (self.sensor_fault, "sensor_fault"),
            (self.gps_loss, "gps_loss"),
            (self.network_delay, "network_delay"),
            (self.harsh_acceleration, "harsh_acceleration"),
            (self.braking, "braking"),
            (self.lane_change, "lane_change"),
        ];
        let first = kinds.into_iter().find(|(holds, _)| *holds);
        first.map_or("normal", |(_, kind)| kind)
    }

    /// As the fields of the message.
    fn flags(&self) -> [(&'static str, bool); 7] {
        [
            ("braking_event", self.braking),
            ("collision_alert", self.collision),
            ("lane_change_event", self.lane_change),
            ("harsh_acceleration_event", self.harsh_acceleration),
            ("sensor_fault_event", self.sensor_fault),
            ("network_delay_event", self.network_delay),
            ("gps_loss_event", self.gps_loss),
        ]
    }
}

/// In hundredths, from a range that is left with the odds of an outlier.
fn with_outliers(usual: (i64, i64), outliers: (i64, i64), rng: &mut EventRng) -> i64 {
    let is_outlier = rng.bernoulli(0.002);
    let (low, high) = if is_outlier { outliers } else { usual };
    rng.between(low, high)
}

/// In millionths of a degree; `None`: missing.
fn coordinate(low: i64, high: i64, rng: &mut EventRng) -> Option<i64> {
    let is_missing = rng.bernoulli(0.005);
    let value = rng.between(low, high);
    (!is_missing).then_some(value)
}

fn one_of<const N: usize>(texts: [&'static str; N], rng: &mut EventRng) -> &'static str {
    texts[rng.below(N as u64) as usize]
}

/// A message as it grows.
struct Fields<'a>(&'a mut Vec<u8>);

impl Fields<'_> {
    fn name(&mut self, name: &str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    fn text(&mut self, name: &str, text: &str) {
        self.name(name);
        self.0.push(b'"');
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(b'"');
    }

    fn flag(&mut self, name: &str, flag: bool) {
        self.name(name);
        let text: &[u8] = if flag { b"true" } else { b"false" };
        self.0.extend_from_slice(text);
    }

    fn fixed(&mut self, name: &str, scaled: i64, decimals: u32) {
        self.name(name);
        push_fixed(scaled, decimals, self.0);
    }

    fn coordinate(&mut self, name: &str, millionths: Option<i64>) {
        self.name(name);
        match millionths {
            Some(value) => push_fixed(value, 6, self.0),
            None => self.0.extend_from_slice(b"NaN"),
        }
    }

    fn integer(&mut self, name: &str, value: u64) {
        self.name(name);
        push_uint(value, self.0);
    }
}

impl EventModel for FleetModel {
    fn key(&self, index: u64, out: &mut Vec<u8>) {
        self.push_plate(index, out);
    }

    fn key_period(&self) -> Option<u64> {
        Some(self.vehicles)
    }

    fn value(&self, index: u64, time: EventTime, rng: &mut EventRng, out: &mut Vec<u8>) {
        let time = time.minus(Span(rng.below(self.backfill.0.unsigned_abs()) as i64));
        let hour = hour_of_day(time);
        let weather = one_of(WEATHERS, rng);
        let is_bad_weather = matches!(weather, "rainy" | "foggy" | "snowy");
        let is_rush_hour = matches!(hour, 7..=9 | 16..=18);
        let happening = Happening::draw(is_rush_hour, is_bad_weather, rng);
        let latitude = coordinate(40_477_400, 40_917_600, rng);
        let longitude = coordinate(-74_259_100, -73_700_400, rng);
        let speed = with_outliers((0, 13_000), (15_000, 25_000), rng);
        let battery = with_outliers((2000, 10_000), (10_000, 15_000), rng);
        let is_risk = happening.collision
            || happening.braking && happening.harsh_acceleration
            || is_bad_weather && speed > 10_000;

        out.extend_from_slice(br#"{"vehicle_id":""#);
        self.push_plate(index, out);
        out.extend_from_slice(br#"","timestamp":""#);
        time.write_rfc3339(out);
        out.push(b'"');
        let mut fields = Fields(out);
        fields.coordinate("latitude", latitude);
        fields.coordinate("longitude", longitude);
        fields.fixed("speed", speed, 2);
        fields.text("event_type", happening.kind());
        for (name, flag) in happening.flags() {
            fields.flag(name, flag);
        }
        fields.text("weather", weather);
        fields.text("road_type", one_of(ROADS, rng));
        fields.text("traffic_density", one_of(TRAFFIC, rng));
        fields.integer("hour_of_day", hour as u64);
        fields.fixed("sensor_battery", battery, 2);
        fields.integer("sensor_signal_strength", 1 + rng.below(5));
        fields.flag("risk_label", is_risk);
        out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};
    use std::sync::{Arc, LazyLock};

    use highwater::source::generate::{EventLog, GeneratorOptions};
    use serde_json::Value;

    use super::*;

    const DAY_MS: i64 = 24 * HOUR_MS;

    fn log(rate: f64, backfill: Span) -> EventLog {
        let model = FleetModel::new(50, backfill).expect("valid");
        let options = GeneratorOptions {
            rate,
            ..GeneratorOptions::default()
        };
        EventLog::new(Arc::new(model), options).expect("valid")
    }

    fn line(log: &EventLog, index: u64) -> String {
        let mut bytes = Vec::new();
        log.append(index, &mut bytes);
        String::from_utf8(bytes).expect("UTF-8")
    }

    /// The event with `null` for `NaN`, and how many of them there were.
    fn json(log: &EventLog, index: u64) -> (Value, usize) {
        let line = line(log, index);
        let event = serde_json::from_str(&line.replace(":NaN,", ":null,")).expect("JSON");
        (event, line.matches("NaN").count())
    }

    #[test]
    fn the_bytes_of_a_seed_never_change() {
        let log = log(10.0, Span::ZERO);
        let text: Vec<String> = (0..1000).map(|index| line(&log, index)).collect();
        assert_eq!(text[0], GOLDEN_FIRST);
        assert_eq!(fnv1a(text.join("\n").as_bytes()), GOLDEN_HASH);
    }

    const GOLDEN_FIRST: &str = r#"{"vehicle_id":"BDL-4321","timestamp":"2024-01-01T00:00:00.000Z","latitude":40.645957,"longitude":-73.975975,"speed":116.94,"event_type":"normal","braking_event":false,"collision_alert":false,"lane_change_event":false,"harsh_acceleration_event":false,"sensor_fault_event":false,"network_delay_event":false,"gps_loss_event":false,"weather":"cloudy","road_type":"highway","traffic_density":"high","hour_of_day":0,"sensor_battery":20.20,"sensor_signal_strength":5,"risk_label":false}"#;
    const GOLDEN_HASH: u64 = 0xb462_b61a_c003_5a6b;

    fn fnv1a(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    #[test]
    fn plates_are_unique_and_have_one_form() {
        let model = FleetModel::new(100_000, Span::ZERO).expect("valid");
        let plate = |index| {
            let mut out = Vec::new();
            model.key(index, &mut out);
            String::from_utf8(out).expect("UTF-8")
        };
        let plates: HashSet<String> = (0..100_000).map(plate).collect();
        assert_eq!(plates.len(), 100_000);
        let is_plate = |text: &String| {
            let (letters, digits) = text.split_once('-').expect("a hyphen");
            letters.len() == 3
                && letters.bytes().all(|b| b.is_ascii_uppercase())
                && digits.len() == 4
                && digits.bytes().all(|b| b.is_ascii_digit())
        };
        assert!(plates.iter().all(is_plate));
        assert_eq!(plate(100_003), plate(3));
    }

    /// `hits` of `all` with the odds `p`, within five standard deviations.
    #[track_caller]
    fn assert_odds(what: &str, hits: usize, all: usize, p: f64) {
        let (hits, all) = (hits as f64, all as f64);
        let deviation = (all * p * (1.0 - p)).sqrt();
        let most = 5.0 * deviation;
        assert!(
            (hits - all * p).abs() < most,
            "{what}: {hits} of {all}, not {} ± {most}",
            all * p
        );
    }

    /// 200,000 events over a bit more than a day.
    fn sample() -> &'static [(Value, usize)] {
        static SAMPLE: LazyLock<Vec<(Value, usize)>> = LazyLock::new(|| {
            let log = log(2.0, Span::ZERO);
            (0..200_000).map(|index| json(&log, index)).collect()
        });
        &SAMPLE
    }

    fn is_bad(event: &Value) -> bool {
        ["rainy", "foggy", "snowy"].contains(&event["weather"].as_str().expect("a text"))
    }

    #[test]
    fn each_field_has_its_odds() {
        let sample = sample();
        let all = sample.len();
        let events = || sample.iter().map(|(event, _)| event);
        let of = |test: &dyn Fn(&Value) -> bool| events().filter(|event| test(event)).count();
        for (flag, p) in [
            ("lane_change_event", 0.1),
            ("harsh_acceleration_event", 0.03),
            ("sensor_fault_event", 0.002),
            ("network_delay_event", 0.001),
            ("gps_loss_event", 0.001),
        ] {
            assert_odds(flag, of(&|event| event[flag] == true), all, p);
        }
        for field in ["latitude", "longitude"] {
            assert_odds(field, of(&|event| event[field].is_null()), all, 0.005);
        }
        let missing = of(&|it| it["latitude"].is_null()) + of(&|it| it["longitude"].is_null());
        assert_eq!(sample.iter().map(|(_, nans)| nans).sum::<usize>(), missing);
        let number = |event: &Value, name: &str| event[name].as_f64().expect("a number");
        assert_odds("fast", of(&|it| number(it, "speed") > 130.0), all, 0.002);
        assert_odds(
            "full",
            of(&|it| number(it, "sensor_battery") > 100.0),
            all,
            0.002 * 5000.0 / 5001.0,
        );
        // Of 13,001 usual speeds 8,000 are above 50 km/h, and all others are.
        let kept = 0.998 * 8000.0 / 13_001.0 + 0.002;
        assert_odds("kept", of(&|it| number(it, "speed") > 50.0), all, kept);
        for (field, texts) in [
            ("weather", &WEATHERS[..]),
            ("road_type", &ROADS),
            ("traffic_density", &TRAFFIC),
        ] {
            for text in texts {
                let p = 1.0 / texts.len() as f64;
                assert_odds(text, of(&|event| event[field] == *text), all, p);
            }
        }
        for signal in 1..=5 {
            let hits = of(&|event| event["sensor_signal_strength"] == signal);
            assert_odds("signal", hits, all, 0.2);
        }
    }

    #[test]
    fn rush_hours_and_bad_weather_have_their_odds() {
        // Events, braking ones and collisions by rush hour and weather.
        let mut counts: BTreeMap<(bool, bool), [usize; 3]> = BTreeMap::new();
        for (event, _) in sample() {
            let hour = event["hour_of_day"].as_i64().expect("an integer");
            let time = event["timestamp"].as_str().expect("a text");
            assert_eq!(format!("{hour:02}"), time[11..13]);
            let is_rush = [7, 8, 9, 16, 17, 18].contains(&hour);
            let count = counts.entry((is_rush, is_bad(event))).or_default();
            count[0] += 1;
            count[1] += usize::from(event["braking_event"] == true);
            count[2] += usize::from(event["collision_alert"] == true);
        }
        assert_eq!(counts.len(), 4);
        for ((is_rush, is_bad), [all, braking, collisions]) in counts {
            let p = if is_rush { 0.15 } else { 0.07 } * if is_bad { 1.5 } else { 1.0 };
            assert_odds("braking", braking, all, p);
            let p = if is_bad { 0.01 } else { 0.005 };
            assert_odds("collisions", collisions, all, p);
        }
    }

    #[test]
    fn every_value_is_within_its_range_and_the_kind_is_the_first_that_holds() {
        const KINDS: [(&str, &str); 7] = [
            ("collision_alert", "collision"),
            ("sensor_fault_event", "sensor_fault"),
            ("gps_loss_event", "gps_loss"),
            ("network_delay_event", "network_delay"),
            ("harsh_acceleration_event", "harsh_acceleration"),
            ("braking_event", "braking"),
            ("lane_change_event", "lane_change"),
        ];
        let mut seen = HashSet::new();
        for (event, _) in sample() {
            assert_eq!(event.as_object().expect("an object").len(), 20);
            let within = |name: &str, low: f64, high: f64| {
                let value = event[name].as_f64();
                value.is_none_or(|value| (low..=high).contains(&value))
            };
            assert!(within("latitude", 40.4774, 40.9176), "{event}");
            assert!(within("longitude", -74.2591, -73.7004), "{event}");
            assert!(
                within("speed", 0.0, 130.0) || within("speed", 150.0, 250.0),
                "{event}"
            );
            assert!(within("sensor_battery", 20.0, 150.0), "{event}");
            let first = KINDS.iter().find(|(flag, _)| event[flag] == true);
            let kind = first.map_or("normal", |(_, kind)| kind);
            assert_eq!(event["event_type"], kind, "{event}");
            let holds = |flag: &str| event[flag] == true;
            let is_risk = holds("collision_alert")
                || holds("braking_event") && holds("harsh_acceleration_event")
                || is_bad(event) && event["speed"].as_f64() > Some(100.0);
            assert_eq!(event["risk_label"], is_risk, "{event}");
            seen.insert(kind);
        }
        assert_eq!(seen.len(), 8);
    }

    #[test]
    fn of_two_things_at_once_the_graver_one_is_the_kind() {
        let mut happening = Happening {
            braking: true,
            collision: true,
            lane_change: true,
            harsh_acceleration: true,
            sensor_fault: true,
            network_delay: true,
            gps_loss: true,
        };
        assert_eq!(happening.kind(), "collision");
        happening.collision = false;
        assert_eq!(happening.kind(), "sensor_fault");
        happening.sensor_fault = false;
        assert_eq!(happening.kind(), "gps_loss");
        happening.gps_loss = false;
        assert_eq!(happening.kind(), "network_delay");
        happening.network_delay = false;
        assert_eq!(happening.kind(), "harsh_acceleration");
        happening.harsh_acceleration = false;
        assert_eq!(happening.kind(), "braking");
        happening.braking = false;
        assert_eq!(happening.kind(), "lane_change");
        happening.lane_change = false;
        assert_eq!(happening.kind(), "normal");
    }

    #[test]
    fn a_backfill_fills_its_days_alike_and_changes_nothing_else() {
        let (plain, log) = (
            log(10.0, Span::ZERO),
            log(10.0, Span::minutes(30 * 24 * 60)),
        );
        let mut days = [0; 30];
        for index in 0..30_000 {
            let event = json(&log, index).0;
            let time = event["timestamp"].as_str().expect("a text");
            let time = highwater::time::parse_rfc3339(time.as_bytes()).expect("a time");
            let before = log.time(index).0 - time.0;
            days[(before / DAY_MS) as usize] += 1;
            assert_eq!(event["hour_of_day"], hour_of_day(time));
            let same = json(&plain, index).0;
            for field in ["vehicle_id", "speed", "weather", "sensor_battery"] {
                assert_eq!(event[field], same[field], "event {index}");
            }
        }
        for count in days {
            assert_odds("a day", count, 30_000, 1.0 / 30.0);
        }
        assert_eq!(line(&log, 7), line(&log, 7));
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let new = |vehicles, backfill| FleetModel::new(vehicles, backfill);
        assert!(new(1, MAX_BACKFILL).is_ok());
        assert!(new(0, Span::ZERO).is_err());
        assert!(new(MAX_VEHICLES + 1, Span::ZERO).is_err());
        assert!(new(1, Span(-1)).is_err());
        assert!(new(1, Span(MAX_BACKFILL.0 + 1)).is_err());
    }
}
