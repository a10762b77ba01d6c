//! Time zones: which instant it is when clocks somewhere show a time, and what they show at an
//! instant.
//!
//! The rules of all zones are part of the binary (of the IANA database that the crate `jiff`
//! bundles), so that a result does not depend on the machine. Where clocks are set forward, a
//! time that they skip is read as if they had not been set yet: half past two means the instant at
//! which they show half past three. Where they are set back, a time that they show twice means the
//! first one. That is what RFC 5545 says, and Temporal calls "compatible".

use std::fmt;

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};

use super::{EventTime, LocalTime, ParseTimeError};

/// A time zone.
#[derive(Clone, PartialEq, Eq)]
pub struct Zone {
    name: String,
    /// `None`: UTC, whose clocks need no rules.
    rules: Option<TimeZone>,
}

impl Zone {
    /// Universal time.
    pub const UTC: Self = Self {
        name: String::new(),
        rules: None,
    };

    /// The zone of this name in the IANA database, such as `America/New_York`, or `UTC`.
    ///
    /// # Errors
    /// When there is none.
    pub fn named(name: &str) -> Result<Self, ParseTimeError> {
        if name.eq_ignore_ascii_case("utc") || name == "Z" {
            return Ok(Self::UTC);
        }
        let rules = TimeZoneDatabase::bundled().get(name).map_err(|_| {
            ParseTimeError(format!(
                "no time zone: {name:?} (write for example America/New_York, Europe/Berlin or UTC)"
            ))
        })?;
        Ok(Self {
            name: rules.iana_name().unwrap_or(name).to_owned(),
            rules: Some(rules),
        })
    }

    /// Its name.
    pub const fn name(&self) -> &str {
        if self.rules.is_none() {
            "UTC"
        } else {
            self.name.as_str()
        }
    }

    /// The instant at which clocks show `time`; see the module for those that they skip or show
    /// twice. Beyond the years that the rules cover clocks show universal time.
    pub fn instant(&self, time: LocalTime) -> EventTime {
        let in_utc = EventTime(time.0);
        let Some(rules) = &self.rules else {
            return in_utc;
        };
        let Ok(shown) = Timestamp::from_millisecond(time.0) else {
            return in_utc;
        };
        let shown = TimeZone::UTC.to_datetime(shown);
        let instant = rules.to_ambiguous_timestamp(shown).compatible();
        instant.map_or(in_utc, |instant| EventTime(instant.as_millisecond()))
    }

    /// What clocks show at `instant`.
    pub fn local(&self, instant: EventTime) -> LocalTime {
        let in_utc = LocalTime(instant.0);
        let Some(rules) = &self.rules else {
            return in_utc;
        };
        let Ok(timestamp) = Timestamp::from_millisecond(instant.0) else {
            return in_utc;
        };
        let offset_ms = i64::from(rules.to_offset(timestamp).seconds()) * 1000;
        LocalTime(instant.0 + offset_ms)
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self::UTC
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{parse_rfc3339, parse_time};
    use super::*;

    fn new_york() -> Zone {
        Zone::named("America/New_York").unwrap()
    }

    /// The instant of a naive text, as text.
    fn instant(zone: &Zone, naive: &str) -> String {
        parse_time(naive.as_bytes(), zone).unwrap().to_string()
    }

    #[test]
    fn summer_and_winter_have_different_offsets() {
        let zone = new_york();
        assert_eq!(
            instant(&zone, "2024-01-06 03:00:00"),
            "2024-01-06T08:00:00.000Z"
        );
        assert_eq!(
            instant(&zone, "2024-07-06 03:00:00"),
            "2024-07-06T07:00:00.000Z"
        );
        // In the south it is the other way round, and half hours exist.
        let adelaide = Zone::named("Australia/Adelaide").unwrap();
        assert_eq!(
            instant(&adelaide, "2024-01-06T10:30:00"),
            "2024-01-06T00:00:00.000Z"
        );
    }

    #[test]
    fn a_time_that_is_skipped_is_read_as_before_the_change() {
        // On 2024-03-10 clocks went from 01:59:59 to 03:00:00.
        let zone = new_york();
        let shown = |text| instant(&zone, text);
        assert_eq!(shown("2024-03-10 01:59:59"), "2024-03-10T06:59:59.000Z");
        assert_eq!(shown("2024-03-10 02:30:00"), "2024-03-10T07:30:00.000Z");
        assert_eq!(shown("2024-03-10 03:30:00"), "2024-03-10T07:30:00.000Z");
        let skipped = parse_time(b"2024-03-10 02:30:00", &zone).unwrap();
        assert_eq!(zone.local(skipped).hour_minute_second(), (3, 30, 0));
    }

    #[test]
    fn a_time_that_comes_twice_is_the_first() {
        // On 2023-11-05 clocks went from 01:59:59 back to 01:00:00.
        let zone = new_york();
        let shown = |text| instant(&zone, text);
        assert_eq!(shown("2023-11-05 00:59:59"), "2023-11-05T04:59:59.000Z");
        assert_eq!(shown("2023-11-05 01:30:00"), "2023-11-05T05:30:00.000Z");
        assert_eq!(shown("2023-11-05 02:00:00"), "2023-11-05T07:00:00.000Z");
        let second = parse_rfc3339(b"2023-11-05T06:30:00Z").unwrap();
        assert_eq!(zone.local(second).hour_minute_second(), (1, 30, 0));
    }

    #[test]
    fn a_text_with_an_offset_needs_no_zone() {
        for text in ["2024-01-06T08:00:00Z", "2024-01-06T09:00:00+01:00"] {
            assert_eq!(instant(&new_york(), text), "2024-01-06T08:00:00.000Z");
        }
    }

    #[test]
    fn names_are_those_of_the_database() {
        assert_eq!(new_york().name(), "America/New_York");
        assert_eq!(Zone::named("utc").unwrap(), Zone::UTC);
        assert_eq!(Zone::UTC.name(), "UTC");
        for wrong in ["New York", "Mars/Olympus", "", "+05:00"] {
            let error = Zone::named(wrong).unwrap_err().to_string();
            assert!(error.contains("America/New_York"), "{wrong}: {error}");
        }
    }

    proptest! {
        /// What clocks show means that instant again, or the first of two.
        #[test]
        fn what_is_shown_is_read_back(millis in -62_135_596_800_000_i64..253_402_300_799_999) {
            let zone = new_york();
            let read = zone.instant(zone.local(EventTime(millis)));
            prop_assert!(read.0 == millis || read.0 == millis - 3_600_000, "{}", millis - read.0);
            prop_assert_eq!(Zone::UTC.instant(Zone::UTC.local(EventTime(millis))), EventTime(millis));
        }
    }
}
