//! What calendars and clocks on the wall show, without saying where.

use serde::{Deserialize, Serialize};

use super::text::{civil_from_days, days_from_civil};
use crate::wire::FixedLayout;

const DAY_MS: i64 = 86_400_000;

/// A day of the (proleptic Gregorian) calendar: days since 1970-01-01.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Date(i32);

impl Date {
    /// The day with this year, month and day of the month, both counted from 1; `None` when there
    /// is no such day.
    pub fn new(year: i64, month: i64, day: i64) -> Option<Self> {
        let days = days_from_civil(year, month, day)?;
        i32::try_from(days).ok().map(Self)
    }

    /// Year, month and day of the month.
    pub fn year_month_day(self) -> (i64, i64, i64) {
        civil_from_days(i64::from(self.0))
    }

    /// What the clock shows when `of_day_ms` milliseconds of this day are over.
    pub fn at(self, of_day_ms: i64) -> LocalTime {
        LocalTime(i64::from(self.0) * DAY_MS + of_day_ms)
    }
}

impl FixedLayout for Date {
    type Raw = i32;

    #[inline(always)]
    fn to_raw(&self) -> i32 {
        self.0
    }

    #[inline(always)]
    fn from_raw(raw: i32) -> Option<Self> {
        Some(Self(raw))
    }
}

/// What a calendar with a clock shows: milliseconds since it showed 1970-01-01, 00:00. What instant
/// that is depends on the [time zone](super::Zone).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct LocalTime(pub i64);

impl LocalTime {
    /// The time of day in milliseconds.
    pub const fn of_day_ms(self) -> i64 {
        self.0.rem_euclid(DAY_MS)
    }

    /// Hour, minute and second.
    pub const fn hour_minute_second(self) -> (i64, i64, i64) {
        let seconds = self.of_day_ms() / 1000;
        (seconds / 3600, seconds / 60 % 60, seconds % 60)
    }

    /// The day.
    pub fn date(self) -> Date {
        Date(self.0.div_euclid(DAY_MS) as i32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_a_date_and_clocks_a_time_of_day() {
        let date = Date::new(2024, 2, 29).unwrap();
        assert_eq!(date.year_month_day(), (2024, 2, 29));
        let time = date.at(((13 * 60 + 7) * 60 + 9) * 1000 + 250);
        assert_eq!(time.hour_minute_second(), (13, 7, 9));
        assert_eq!(time.date(), date);
        assert_eq!(Date::new(2023, 2, 29), None);
    }

    #[test]
    fn before_1970_as_after_it() {
        let date = Date::new(1969, 12, 31).unwrap();
        assert_eq!(date.at(1000), LocalTime(1000 - DAY_MS));
        assert_eq!(LocalTime(-1).date(), date);
        assert_eq!(LocalTime(-1).hour_minute_second(), (23, 59, 59));
    }
}
