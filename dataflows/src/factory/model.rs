//! The devices of the factory and their readings, `sensor_events`.
//!
//! Temperature ~ N(75, 4) degrees, of a hot device uniform from 86 to 100; vibration
//! ~ max(0.01, N(0.12, 0.05)) g, of a vibrating one uniform from 0.55 to 1.2. By default about
//! 10.3 % of the readings alert: 1 - 0.95^2 (1 - P(N(75, 4) > 85)), where the last is 0.62 %.
//!
//! On demand some readings are invalid: of these a third each has 150 degrees, a vibration below
//! zero, or no device.

use clap::ValueEnum;
use highwater::source::generate::text::{push_fixed, push_padded};
use highwater::source::generate::{EventModel, EventRng, GenerateError};
use highwater::time::EventTime;

/// More devices than any factory has; their ids fit the pipeline's.
const MAX_DEVICES: u64 = 1_000_000_000;

/// What keys the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum KeyBy {
    /// The device, so that each stays in one partition.
    DeviceId,
    /// Nothing: readings go round the partitions.
    None,
}

/// The devices: each sends one reading in turn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FactoryModel {
    devices: u64,
    p_hot: f64,
    p_vib: f64,
    p_invalid: f64,
    key_by: KeyBy,
}

impl FactoryModel {
    /// `devices` devices that are hot with probability `p_hot` and vibrate with `p_vib`; all
    /// readings are valid.
    ///
    /// # Errors
    /// When one is out of range, naming it as on the command line.
    pub fn new(devices: u64, p_hot: f64, p_vib: f64, key_by: KeyBy) -> Result<Self, GenerateError> {
        if !(1..=MAX_DEVICES).contains(&devices) {
            let text = format!("--devices {devices}: must be from 1 to {MAX_DEVICES}");
            return Err(GenerateError::Config(text));
        }
        check_probability("--p-hot", p_hot)?;
        check_probability("--p-vib", p_vib)?;
        Ok(Self {
            devices,
            p_hot,
            p_vib,
            p_invalid: 0.0,
            key_by,
        })
    }

    /// The same, with readings that are invalid with probability `p_invalid`.
    ///
    /// # Errors
    /// When that is none.
    pub fn with_invalid(self, p_invalid: f64) -> Result<Self, GenerateError> {
        check_probability("--p-invalid", p_invalid)?;
        Ok(Self { p_invalid, ..self })
    }

    /// Two readings per device and second.
    pub fn default_rate(&self) -> f64 {
        self.devices as f64 * 2.0
    }

    /// The device of reading `index`, counted from 0.
    fn device(&self, index: u64) -> u64 {
        index % self.devices
    }
}

fn check_probability(flag: &str, p: f64) -> Result<(), GenerateError> {
    if (0.0..=1.0).contains(&p) {
        return Ok(());
    }
    Err(GenerateError::Config(format!(
        "{flag} {p}: must be from 0 to 1"
    )))
}

/// What makes a reading invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    TooHot,
    NegativeVibration,
    NoDevice,
}

impl Flaw {
    /// Drawn behind everything else, so that the values do not depend on how many are invalid.
    fn draw(p_invalid: f64, rng: &mut EventRng) -> Option<Self> {
        const FLAWS: [Flaw; 3] = [Flaw::TooHot, Flaw::NegativeVibration, Flaw::NoDevice];
        let is_invalid = rng.bernoulli(p_invalid);
        let flaw = FLAWS[rng.below(3) as usize];
        is_invalid.then_some(flaw)
    }
}

/// `MTR-` and at least five digits, from `MTR-00001` on.
fn push_device(device: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"MTR-");
    push_padded(device + 1, 5, out);
}

/// In hundredths of a degree.
fn temperature(hot: bool, rng: &mut EventRng) -> i64 {
    if hot {
        rng.between(8600, 10_000)
    } else {
        rng.normal(7500.0, 400.0).round() as i64
    }
}

/// In thousandths of g.
fn vibration(vibrating: bool, rng: &mut EventRng) -> i64 {
    if vibrating {
        rng.between(550, 1200)
    } else {
        (rng.normal(120.0, 50.0).round() as i64).max(10)
    }
}

/// A device stays where it is: devices alternate between the sites, and pairs of them between the
/// lines.
fn place(device: u64) -> (&'static [u8], &'static [u8]) {
    const SITES: [&[u8]; 2] = [b"fab1", b"fab2"];
    const LINES: [&[u8]; 3] = [b"L01", b"L02", b"L03"];
    (
        SITES[(device % 2) as usize],
        LINES[(device / 2 % 3) as usize],
    )
}

impl EventModel for FactoryModel {
    fn key(&self, index: u64, out: &mut Vec<u8>) {
        if self.key_by == KeyBy::DeviceId {
            push_device(self.device(index), out);
        }
    }

    fn key_period(&self) -> Option<u64> {
        (self.key_by == KeyBy::DeviceId).then_some(self.devices)
    }

    fn value(&self, index: u64, time: EventTime, rng: &mut EventRng, out: &mut Vec<u8>) {
        let device = self.device(index);
        let (hot, vibrating) = (rng.bernoulli(self.p_hot), rng.bernoulli(self.p_vib));
        let status: &[u8] = match (hot, vibrating) {
            (false, false) => b"OK",
            (true, false) => b"HOT",
            (false, true) => b"VIB",
            (true, true) => b"HOT_VIB",
        };
        let (site, line) = place(device);
        let mut temperature = temperature(hot, rng);
        let mut vibration = vibration(vibrating, rng);
        let flaw = Flaw::draw(self.p_invalid, rng);
        match flaw {
            Some(Flaw::TooHot) => temperature = 15_000,
            Some(Flaw::NegativeVibration) => vibration = -vibration,
            Some(Flaw::NoDevice) | None => {}
        }
        out.extend_from_slice(br#"{"device_id":""#);
        if flaw != Some(Flaw::NoDevice) {
            push_device(device, out);
        }
        out.extend_from_slice(br#"","ts":""#);
        time.write_rfc3339(out);
        out.extend_from_slice(br#"","temperature_c":"#);
        push_fixed(temperature, 2, out);
        out.extend_from_slice(br#","vibration_g":"#);
        push_fixed(vibration, 3, out);
        for (name, text) in [
            (&br#","status":""#[..], status),
            (br#"","site":""#, site),
            (br#"","line":""#, line),
        ] {
            out.extend_from_slice(name);
            out.extend_from_slice(text);
        }
        out.extend_from_slice(br#""}"#);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use highwater::source::generate::{EventLog, GeneratorOptions};

    use super::*;

    fn log(devices: u64, key_by: KeyBy) -> EventLog {
        let model = FactoryModel::new(devices, 0.05, 0.05, key_by).expect("valid");
        let options = GeneratorOptions {
            rate: 50.0,
            ..GeneratorOptions::default()
        };
        EventLog::new(Arc::new(model), options).expect("valid")
    }

    fn line(log: &EventLog, index: u64) -> String {
        let mut bytes = Vec::new();
        log.append(index, &mut bytes);
        String::from_utf8(bytes).expect("UTF-8")
    }

    fn json(log: &EventLog, index: u64) -> serde_json::Value {
        serde_json::from_str(&line(log, index)).expect("JSON")
    }

    #[test]
    fn the_bytes_of_a_seed_never_change() {
        let log = log(25, KeyBy::DeviceId);
        let text: Vec<String> = (0..1000).map(|index| line(&log, index)).collect();
        assert_eq!(text[0], GOLDEN_FIRST);
        assert_eq!(fnv1a(text.join("\n").as_bytes()), GOLDEN_HASH);
    }

    const GOLDEN_FIRST: &str = r#"{"device_id":"MTR-00001","ts":"2024-01-01T00:00:00.000Z","temperature_c":76.46,"vibration_g":0.147,"status":"OK","site":"fab1","line":"L01"}"#;
    const GOLDEN_HASH: u64 = 0x130f_e619_a1b7_138e;

    fn fnv1a(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    #[test]
    fn devices_are_the_keys_and_have_at_least_five_digits() {
        let log = log(200_000, KeyBy::DeviceId);
        let key = |index| {
            let mut key = Vec::new();
            log.key(index, &mut key);
            String::from_utf8(key).expect("UTF-8")
        };
        assert_eq!(
            [key(0), key(99_999), key(200_000)],
            ["MTR-00001", "MTR-100000", "MTR-00001"]
        );
        assert_eq!(json(&log, 99_999)["device_id"], "MTR-100000");
    }

    #[test]
    fn without_a_key_readings_go_round() {
        let log = log(25, KeyBy::None);
        let mut scratch = Vec::new();
        let partitions: Vec<u32> = (0..6).map(|i| log.partition(i, &mut scratch)).collect();
        assert_eq!(partitions, [0, 1, 2, 3, 0, 1]);
    }

    #[test]
    fn values_lie_where_their_status_says_and_a_tenth_alerts() {
        let log = log(25, KeyBy::DeviceId);
        let mut alerts = 0;
        for index in 0..40_000 {
            let reading = json(&log, index);
            let t = reading["temperature_c"].as_f64().expect("a number");
            let v = reading["vibration_g"].as_f64().expect("a number");
            let status = reading["status"].as_str().expect("a text");
            assert_eq!(status.contains("VIB"), v >= 0.55, "{reading}");
            assert!(
                !status.contains("HOT") || (86.0..=100.0).contains(&t),
                "{reading}"
            );
            assert!(
                (0.01..=1.2).contains(&v) && (30.0..120.0).contains(&t),
                "{reading}"
            );
            alerts += u32::from(t > 85.0 || v > 0.5);
        }
        let share = f64::from(alerts) / 40_000.0;
        assert!((share - 0.1031).abs() < 0.006, "{share}");
    }

    #[test]
    fn invalid_readings_have_their_share_and_change_no_other() {
        let clean = log(25, KeyBy::DeviceId);
        let model = FactoryModel::new(25, 0.05, 0.05, KeyBy::DeviceId).expect("valid");
        let model = model.with_invalid(0.06).expect("valid");
        let dirty = EventLog::new(Arc::new(model), clean.options().clone()).expect("valid");
        let mut flaws = [0; 3];
        for index in 0..30_000 {
            let event = json(&dirty, index);
            let is_flawed = [
                event["temperature_c"] == 150.0,
                event["vibration_g"].as_f64() < Some(0.0),
                event["device_id"] == "",
            ];
            match is_flawed.iter().position(|it| *it) {
                Some(flaw) => flaws[flaw] += 1,
                None => assert_eq!(event, json(&clean, index)),
            }
        }
        // 2 % each, within five standard deviations.
        assert!(
            flaws.iter().all(|count| (480..720).contains(count)),
            "{flaws:?}"
        );
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let valid = FactoryModel::new(1, 0.0, 1.0, KeyBy::None).expect("valid");
        assert!(valid.with_invalid(1.5).is_err());
        assert!(FactoryModel::new(0, 0.0, 0.0, KeyBy::None).is_err());
        assert!(FactoryModel::new(1, 1.5, 0.0, KeyBy::None).is_err());
        assert!(FactoryModel::new(1, 0.0, f64::NAN, KeyBy::None).is_err());
    }
}
