//! The values of flags: durations, counts, times, speeds.

use std::ops::RangeInclusive;

use crate::source::Start;
use crate::time::{EventTime, Span, Zone, parse_duration, parse_rfc3339};

/// Event time against wall clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// As fast as possible.
    Max,
    /// So many times the wall clock.
    Times(f64),
}

impl Speed {
    /// As the generator wants it: `None` as fast as possible.
    pub const fn factor(self) -> Option<f64> {
        match self {
            Self::Max => None,
            Self::Times(factor) => Some(factor),
        }
    }
}

/// A duration: `15m`, `1h30m`, `250ms`.
///
/// # Errors
/// When it is none; the text says how one is written.
pub fn duration(text: &str) -> Result<Span, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

/// A duration longer than 0.
pub fn positive_duration(text: &str) -> Result<Span, String> {
    let span = duration(text)?;
    if span > Span::ZERO {
        Ok(span)
    } else {
        Err("must be longer than 0".to_owned())
    }
}

/// `--time-zone`
pub fn zone(text: &str) -> Result<Zone, String> {
    Zone::named(text).map_err(|error| error.to_string())
}

/// A whole number, with underscores where one likes: for each flag that counts something.
///
/// # Errors
/// When it is no such number; the text says what to write instead.
pub fn count(text: &str) -> Result<u64, String> {
    let digits: String = text.chars().filter(|digit| *digit != '_').collect();
    let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    is_number
        .then(|| digits.parse().ok())
        .flatten()
        .ok_or_else(|| "a whole number such as 1000 or 1_000_000".to_owned())
}

/// A [`count`] within `range`.
pub fn count_in<N: TryFrom<u64> + 'static>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<N, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = count(text)?;
        let inside = range.contains(&number).then(|| N::try_from(number).ok());
        inside
            .flatten()
            .ok_or_else(|| format!("a whole number from {} to {}", range.start(), range.end()))
    }
}

/// A number above 0, with underscores where one likes.
pub fn rate(text: &str) -> Result<f64, String> {
    let number = text.replace('_', "").parse::<f64>().ok();
    number
        .filter(|number| number.is_finite() && *number > 0.0)
        .ok_or_else(|| "a number above 0".to_owned())
}

/// A probability.
pub fn probability(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok();
    number
        .filter(|number| (0.0..=1.0).contains(number))
        .ok_or_else(|| "a probability, from 0 to 1".to_owned())
}

/// `--speed`: a number above 0, or `max`.
pub fn speed(text: &str) -> Result<Speed, String> {
    if text == "max" {
        return Ok(Speed::Max);
    }
    let factor = rate(text.strip_suffix('x').unwrap_or(text));
    factor
        .map(Speed::Times)
        .map_err(|error| format!("{error}, or max"))
}

/// A time in RFC 3339.
pub fn time(text: &str) -> Result<EventTime, String> {
    parse_rfc3339(text.as_bytes()).map_err(|error| error.to_string())
}

/// `--start` of a run: `earliest`, `latest` or a time.
pub fn start(text: &str) -> Result<Start, String> {
    match text {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        text => time(text)
            .map(Start::At)
            .map_err(|error| format!("{error}, or earliest, or latest")),
    }
}

/// `--semantics`, of which only one is there.
pub fn semantics(text: &str) -> Result<String, String> {
    only(
        text,
        "native",
        "the profiles of other engines come in a later version",
    )
}

fn only(text: &str, there: &str, why: &str) -> Result<String, String> {
    if text == there {
        Ok(text.to_owned())
    } else {
        Err(format!("only {there} in this version: {why}"))
    }
}

/// `1234567` as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `12345678` as `12.3 M`: never more than it is, in at most six characters.
pub fn short(number: u64) -> String {
    scaled(number, 100)
}

/// `12345678` as `12 M`, in at most five characters.
pub fn shorter(number: u64) -> String {
    scaled(number, 10)
}

/// With one decimal when the number before it is below `decimal_below`.
fn scaled(number: u64, decimal_below: u64) -> String {
    const UNITS: [(u64, &str); 4] = [
        (1_000_000_000_000, "T"),
        (1_000_000_000, "G"),
        (1_000_000, "M"),
        (1_000, "k"),
    ];
    match UNITS.iter().find(|(unit, _)| number >= *unit) {
        Some((unit, name)) if number / unit < decimal_below => {
            format!("{}.{} {name}", number / unit, number % unit / (unit / 10))
        }
        Some((unit, name)) => format!("{} {name}", number / unit),
        None => number.to_string(),
    }
}

/// A span as people read it: at most two units, tenths below a minute.
pub fn rough(span: Span) -> String {
    match span.0.unsigned_abs() {
        millis @ 0..60_000 => format!("{:.1}s", millis as f64 / 1000.0),
        millis @ 60_000..3_600_000 => format!("{}m{:02}s", millis / 60_000, millis / 1000 % 60),
        millis @ 3_600_000..86_400_000 => {
            format!("{}h{:02}m", millis / 3_600_000, millis / 60_000 % 60)
        }
        millis => format!("{}d{:02}h", millis / 86_400_000, millis / 3_600_000 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_may_have_underscores() {
        assert_eq!(count("1_000_000"), Ok(1_000_000));
        assert!(
            count("").is_err()
                && count("_").is_err()
                && count("-1").is_err()
                && count("1e6").is_err()
        );
        let workers = count_in::<u32>(1..=1024);
        assert_eq!(workers("1_024"), Ok(1024));
        assert!(workers("1_025").is_err() && workers("0").is_err() && workers("x").is_err());
        assert_eq!(rate("1_000.5"), Ok(1000.5));
        assert_eq!(speed("1_800"), Ok(Speed::Times(1800.0)));
    }

    #[test]
    fn durations_are_those_of_the_engine() {
        assert_eq!(duration("15m"), Ok(Span::minutes(15)));
        assert_eq!(duration("0"), Ok(Span::ZERO));
        assert!(duration("15").is_err() && positive_duration("0s").is_err());
    }

    #[test]
    fn speeds_and_starts() {
        assert_eq!(speed("max"), Ok(Speed::Max));
        assert_eq!(speed("1800"), Ok(Speed::Times(1800.0)));
        assert!(speed("0").is_err() && speed("nan").is_err() && speed("fast").is_err());
        assert_eq!(start("latest"), Ok(Start::Latest));
        assert_eq!(
            start("1970-01-01T00:00:01Z"),
            Ok(Start::At(EventTime(1000)))
        );
        assert!(start("yesterday").is_err());
    }

    #[test]
    fn what_is_not_there_yet_is_refused_with_the_reason() {
        assert!(semantics("native").is_ok());
        assert!(
            semantics("flink")
                .expect_err("not there")
                .contains("native")
        );
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(grouped),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(
            [999, 1_000, 12_345_678, 123_456_789, 999_999].map(short),
            ["999", "1.0 k", "12.3 M", "123 M", "999 k"]
        );
        assert_eq!(
            [0, 1_299_999, 12_345_678].map(shorter),
            ["0", "1.2 M", "12 M"]
        );
        assert_eq!(rough(Span(1500)), "1.5s");
        assert_eq!(rough(Span::minutes(61)), "1h01m");
    }
}
