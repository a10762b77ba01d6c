//! When an event that is due at a time of the log is due at the wall clock.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{EventLog, GenerateError};
use crate::time::{EventTime, Span};

/// The pace of a log; shared by everything that delivers it, so that its partitions keep step.
pub(super) enum Pace {
    /// As fast as possible.
    Free,
    /// `speed` times as fast as the wall clock, from the first event that was asked for.
    Times {
        speed: f64,
        begin: OnceLock<(Instant, EventTime)>,
    },
    /// At the wall clock.
    Live,
}

impl Pace {
    /// The pace of `log`; `speed` is event time against wall clock, `None` as fast as possible.
    pub(super) fn new(log: &EventLog, speed: Option<f64>) -> Result<Self, GenerateError> {
        if log.options().live {
            return Ok(Self::Live);
        }
        match speed {
            None => Ok(Self::Free),
            Some(speed) if speed > 0.0 && speed.is_finite() => Ok(Self::Times {
                speed,
                begin: OnceLock::new(),
            }),
            Some(speed) => Err(GenerateError::Config(format!(
                "--speed {speed}: event time against wall clock, a number above 0, or max"
            ))),
        }
    }

    /// The latest base time that is due now, when the next event in line has base time `next`.
    pub(super) fn horizon(&self, next: EventTime) -> EventTime {
        match self {
            Self::Free => EventTime::MAX,
            Self::Live => wall_clock(),
            Self::Times { speed, begin } => {
                let (instant, time) = *begin.get_or_init(|| (Instant::now(), next));
                time.plus(Span(
                    (instant.elapsed().as_secs_f64() * 1000.0 * speed) as i64,
                ))
            }
        }
    }

    /// How long it takes until the horizon has moved on from `horizon` to `base`.
    pub(super) fn until(&self, base: EventTime, horizon: EventTime) -> Duration {
        let millis = base.0.saturating_sub(horizon.0).max(0) as f64;
        let speed = if let Self::Times { speed, .. } = self {
            *speed
        } else {
            1.0
        };
        Duration::try_from_secs_f64(millis / 1000.0 / speed).unwrap_or(Duration::MAX)
    }
}

fn wall_clock() -> EventTime {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    EventTime(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
