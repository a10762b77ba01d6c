//! What is generated, and when each event is due.

use serde::{Deserialize, Serialize};

use super::GenerateError;
use crate::time::{EventTime, Span};

/// What is generated. [`GeneratorOptions::default`] is an endless, ordered, clean log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GeneratorOptions {
    /// How many events; `None`: as many as `duration` says.
    pub events: Option<u64>,
    /// How much event time; `None`: as much as `events` need. Without both the log has no end.
    pub duration: Option<Span>,
    /// Events per second of event time, rounded to a millionth.
    pub rate: f64,
    /// Events are stamped with their base time minus a jitter in `[0, disorder)`: no record is
    /// late for a wait of `disorder`.
    pub disorder: Span,
    /// With this probability the jitter lies in `[disorder, disorder + max(10 disorder, 10 min))`
    /// instead: such records are late for a wait of `disorder`, most of them by much.
    pub late_fraction: f64,
    /// With this probability an event is written twice, one directly after the other.
    pub duplicates: f64,
    /// With this probability an event is followed by a line that no pipeline can decode.
    pub garbage: f64,
    /// How many partitions.
    pub partitions: u32,
    /// Same seed, same bytes.
    pub seed: u64,
    /// The base time of event 0. For a live log: the wall clock when the job began. A restart that
    /// gives the same start continues the same log and catches up on what it missed.
    pub start: EventTime,
    /// Events are due when the wall clock shows their base time, whatever the speed.
    pub live: bool,
}

impl Default for GeneratorOptions {
    fn default() -> Self {
        Self {
            events: None,
            duration: None,
            rate: 20.0,
            disorder: Span::ZERO,
            late_fraction: 0.0,
            duplicates: 0.0,
            garbage: 0.0,
            partitions: 4,
            seed: 1,
            // 2024-01-01T00:00:00Z
            start: EventTime(1_704_067_200_000),
            live: false,
        }
    }
}

/// More partitions than files of a folder can be numbered with five digits.
const MAX_PARTITIONS: u32 = 100_000;
/// Slower than one event in eleven days, or faster than `Schedule` can count.
const RATES: std::ops::RangeInclusive<f64> = 1e-6..=1e12;

impl GeneratorOptions {
    /// Checks every option.
    ///
    /// # Errors
    /// When one is out of range, naming the option as on the command line.
    pub fn validate(&self) -> Result<(), GenerateError> {
        let refuse = |text: String| Err(GenerateError::Config(text));
        if !RATES.contains(&self.rate) {
            return refuse(format!(
                "--rate {}: must be from 0.000001 to 1e12 events/s",
                self.rate
            ));
        }
        for (name, value) in [
            ("late-fraction", self.late_fraction),
            ("duplicates", self.duplicates),
            ("garbage", self.garbage),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return refuse(format!("--{name} {value}: a probability, from 0 to 1"));
            }
        }
        if self.disorder < Span::ZERO || self.disorder > Span(i64::MAX / 16) {
            return refuse(format!(
                "--disorder {}: must not be negative or endless",
                self.disorder
            ));
        }
        if self.duration.is_some_and(|duration| duration < Span::ZERO) {
            return refuse("--duration must not be negative".to_owned());
        }
        if !(1..=MAX_PARTITIONS).contains(&self.partitions) {
            return refuse(format!(
                "--partitions {}: must be from 1 to 100000",
                self.partitions
            ));
        }
        Ok(())
    }
}

/// When each event is due: event `i` at `start + i / rate`, in exact integer arithmetic, so that
/// there is no drift and event `i` does not depend on the events before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    start: EventTime,
    /// Events per 10^6 seconds.
    rate: u64,
    count: Option<u64>,
}

impl Schedule {
    /// The schedule of these (valid) options.
    pub fn new(options: &GeneratorOptions) -> Self {
        let rate = (options.rate * 1e6).round() as u64;
        let of_duration = options.duration.map(|duration| {
            // The events whose offset is below the duration: i * 10^9 / rate < duration.
            let millis = duration.0.unsigned_abs();
            let count = (u128::from(millis) * u128::from(rate)).div_ceil(1_000_000_000);
            u64::try_from(count).unwrap_or(u64::MAX)
        });
        let count = match (options.events, of_duration) {
            (Some(events), Some(of_duration)) => Some(events.min(of_duration)),
            (events, of_duration) => events.or(of_duration),
        };
        Self {
            start: options.start,
            rate: rate.max(1),
            count,
        }
    }

    /// How many events there are; `None`: the log has no end.
    pub fn count(&self) -> Option<u64> {
        self.count
    }

    /// Whether there is an event `index`.
    pub fn has(&self, index: u64) -> bool {
        self.count.is_none_or(|count| index < count)
    }

    /// The base time of event `index`: when it is due, and the latest time it can be stamped with.
    #[inline]
    pub fn base(&self, index: u64) -> EventTime {
        // 10^9 because the rate is per 10^6 s and the result in ms. The first form is the same
        // number, and cheaper.
        let millis = match index.checked_mul(1_000_000_000) {
            Some(scaled) => scaled / self.rate,
            None => (u128::from(index) * 1_000_000_000 / u128::from(self.rate))
                .try_into()
                .unwrap_or(u64::MAX),
        };
        self.start
            .plus(Span(i64::try_from(millis).unwrap_or(i64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(rate: f64, duration: Option<Span>) -> Schedule {
        Schedule::new(&GeneratorOptions {
            rate,
            duration,
            start: EventTime(0),
            ..GeneratorOptions::default()
        })
    }

    #[test]
    fn times_do_not_drift() {
        let thirds = schedule(3.0, None);
        assert_eq!([0, 1, 2, 3].map(|i| thirds.base(i).0), [0, 333, 666, 1000]);
        assert_eq!(thirds.base(3_000_000_000_000).0, 1_000_000_000_000_000);
        // Around the border between the two forms of the division.
        for index in [18_446_744_073, 18_446_744_074] {
            assert_eq!(schedule(1000.0, None).base(index).0, index as i64);
        }
        assert_eq!(schedule(0.1, None).base(7).0, 70_000);
        assert_eq!(schedule(1e-6, None).base(u64::MAX), EventTime::MAX);
    }

    #[test]
    fn a_duration_holds_the_events_due_before_its_end() {
        assert_eq!(schedule(20.0, Some(Span::seconds(60))).count(), Some(1200));
        let thirds = schedule(3.0, Some(Span(667)));
        assert_eq!(thirds.count(), Some(3));
        assert!(thirds.base(2).0 < 667 && thirds.base(3).0 >= 667);
        assert_eq!(schedule(20.0, Some(Span::ZERO)).count(), Some(0));
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let fine = GeneratorOptions::default();
        assert!(fine.validate().is_ok());
        for wrong in [
            GeneratorOptions {
                rate: 0.0,
                ..fine.clone()
            },
            GeneratorOptions {
                rate: f64::NAN,
                ..fine.clone()
            },
            GeneratorOptions {
                garbage: 1.5,
                ..fine.clone()
            },
            GeneratorOptions {
                duplicates: f64::NAN,
                ..fine.clone()
            },
            GeneratorOptions {
                disorder: Span(-1),
                ..fine.clone()
            },
            GeneratorOptions {
                duration: Some(Span(-1)),
                ..fine.clone()
            },
            GeneratorOptions {
                partitions: 0,
                ..fine.clone()
            },
        ] {
            assert!(wrong.validate().is_err(), "{wrong:?}");
        }
    }
}
