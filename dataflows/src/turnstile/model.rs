//! The readings of turnstiles as a producer sends them, `mta-turnstile`: CSV lines in JSON strings,
//! keyed by their ids, entries and exits uniform from 5 to 10.

use highwater::source::generate::rng::Stream;
use highwater::source::generate::text::{push_padded, push_uint, push_uuid};
use highwater::source::generate::{EventModel, EventRng, GenerateError};
use highwater::time::{EventTime, Zone};

/// More turnstiles than any subway has; their names fit the pipeline's.
const MAX_TURNSTILES: u64 = 1_000_000;

/// The turnstiles: each sends one reading in turn.
#[derive(Clone, Debug, PartialEq)]
pub struct TurnstileModel {
    turnstiles: u64,
    zone: Zone,
    seed: u64,
}

impl TurnstileModel {
    /// `turnstiles` turnstiles whose clocks are in `zone`; the ids of their readings depend on
    /// `seed`.
    ///
    /// # Errors
    /// When there are none or too many, naming the flag.
    pub fn new(turnstiles: u64, zone: Zone, seed: u64) -> Result<Self, GenerateError> {
        if !(1..=MAX_TURNSTILES).contains(&turnstiles) {
            let text = format!("--turnstiles {turnstiles}: must be from 1 to {MAX_TURNSTILES}");
            return Err(GenerateError::Config(text));
        }
        Ok(Self {
            turnstiles,
            zone,
            seed,
        })
    }

    /// One reading each 10 seconds.
    pub const fn default_rate() -> f64 {
        0.1
    }

    fn id(&self, index: u64) -> u128 {
        EventRng::new(self.seed, index, Stream::Dims).uuid()
    }
}

/// `A001,R001,02-00-00,Test-Station1,456NQR,BMT,` of the first.
fn push_turnstile(turnstile: u64, out: &mut Vec<u8>) {
    out.push(b'A');
    push_padded(turnstile + 1, 3, out);
    out.extend_from_slice(b",R");
    push_padded(turnstile + 1, 3, out);
    out.extend_from_slice(b",02-00-");
    push_padded(turnstile % 100, 2, out);
    out.extend_from_slice(b",Test-Station");
    push_uint(turnstile + 1, out);
    out.extend_from_slice(b",456NQR,BMT,");
}

/// Numbers of two digits with something between.
fn push_pairs(numbers: [i64; 3], separator: u8, out: &mut Vec<u8>) {
    for (at, number) in numbers.into_iter().enumerate() {
        if at > 0 {
            out.push(separator);
        }
        push_padded(number.unsigned_abs(), 2, out);
    }
}

impl EventModel for TurnstileModel {
    fn key(&self, index: u64, out: &mut Vec<u8>) {
        push_uuid(self.id(index), out);
    }

    fn value(&self, index: u64, time: EventTime, rng: &mut EventRng, out: &mut Vec<u8>) {
        let shown = self.zone.local(time);
        let (year, month, day) = shown.date().year_month_day();
        let (hour, minute, second) = shown.hour_minute_second();
        out.push(b'"');
        push_turnstile(index % self.turnstiles, out);
        push_pairs([month, day, year.rem_euclid(100)], b'-', out);
        out.push(b',');
        push_pairs([hour, minute, second], b':', out);
        out.extend_from_slice(b",REGULAR,");
        push_uint(rng.between(5, 10).unsigned_abs(), out);
        out.push(b',');
        push_uint(rng.between(5, 10).unsigned_abs(), out);
        out.push(b',');
        push_uuid(self.id(index), out);
        out.push(b',');
        push_padded(year.unsigned_abs(), 4, out);
        out.push(b'-');
        push_padded(month.unsigned_abs(), 2, out);
        out.push(b'-');
        push_padded(day.unsigned_abs(), 2, out);
        out.push(b' ');
        push_pairs([hour, minute, second], b':', out);
        out.push(b'"');
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use highwater::source::generate::{EventLog, GeneratorOptions};

    use super::*;

    fn log(turnstiles: u64, zone: Zone) -> EventLog {
        let model = TurnstileModel::new(turnstiles, zone, 1).expect("valid");
        let options = GeneratorOptions {
            rate: TurnstileModel::default_rate(),
            ..GeneratorOptions::default()
        };
        EventLog::new(Arc::new(model), options).expect("valid")
    }

    fn line(log: &EventLog, index: u64) -> String {
        let mut bytes = Vec::new();
        log.append(index, &mut bytes);
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn the_bytes_of_a_seed_never_change() {
        let log = log(1, Zone::UTC);
        let text: Vec<String> = (0..1000).map(|index| line(&log, index)).collect();
        assert_eq!(text[0], GOLDEN_FIRST);
        assert_eq!(fnv1a(text.join("\n").as_bytes()), GOLDEN_HASH);
    }

    const GOLDEN_FIRST: &str = r#""A001,R001,02-00-00,Test-Station1,456NQR,BMT,01-01-24,00:00:00,REGULAR,9,10,c67fc0bc-3a54-418c-960b-baeaf41857be,2024-01-01 00:00:00""#;
    const GOLDEN_HASH: u64 = 0x6087_89f8_4eb5_3712;

    fn fnv1a(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    #[test]
    fn the_key_is_the_id_and_one_comes_each_ten_seconds() {
        let log = log(2, Zone::UTC);
        for index in 0..10 {
            let line = line(&log, index);
            let fields: Vec<_> = line.trim_matches('"').split(',').collect();
            let mut key = Vec::new();
            log.key(index, &mut key);
            assert_eq!(fields[11].as_bytes(), key);
            assert_eq!(
                fields[12],
                format!("2024-01-01 00:{:02}:{:02}", index / 6, index % 6 * 10)
            );
            assert_eq!(fields[0], ["A001", "A002"][index as usize % 2]);
            for counter in &fields[9..11] {
                assert!(
                    (5..=10).contains(&counter.parse().expect("a number")),
                    "{line}"
                );
            }
        }
    }

    #[test]
    fn times_are_those_of_the_zone() {
        let log = log(1, Zone::named("America/New_York").expect("a zone"));
        let line = line(&log, 0);
        assert!(line.contains(",12-31-23,19:00:00,"), "{line}");
        assert!(line.ends_with(",2023-12-31 19:00:00\""), "{line}");
    }

    #[test]
    fn options_out_of_range_are_refused() {
        assert!(TurnstileModel::new(0, Zone::UTC, 1).is_err());
        assert!(TurnstileModel::new(1_000_001, Zone::UTC, 1).is_err());
    }
}
