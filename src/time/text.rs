//! Times and durations as text: RFC 3339 and `1h30m`.

use thiserror::Error;

use super::{EventTime, LocalTime, Span, Zone};

/// Why a text is not a time or a duration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct ParseTimeError(pub(crate) String);

/// Reads RFC 3339: a date, `T`, `t` or a space, a time with 0 to 9 fraction digits, and `Z` or a
/// numeric offset. Without an offset the time is UTC. Fractions below a millisecond are cut
/// towards the past.
///
/// # Errors
/// When `text` has another form, or names a day or a second that does not exist.
pub fn parse_rfc3339(text: &[u8]) -> Result<EventTime, ParseTimeError> {
    parse_time(text, &Zone::UTC)
}

/// As [`parse_rfc3339`], but a time without an offset is one that clocks in `zone` show.
///
/// # Errors
/// As [`parse_rfc3339`].
pub fn parse_time(text: &[u8], zone: &Zone) -> Result<EventTime, ParseTimeError> {
    parse(text, zone).ok_or_else(|| {
        let shown = String::from_utf8_lossy(&text[..text.len().min(40)]);
        ParseTimeError(format!("not an RFC 3339 time: {shown:?}"))
    })
}

fn parse(text: &[u8], zone: &Zone) -> Option<EventTime> {
    if text.len() < 19 || !text.is_ascii() {
        return None;
    }
    let separators = text[4] == b'-'
        && text[7] == b'-'
        && matches!(text[10], b'T' | b't' | b' ')
        && text[13] == b':'
        && text[16] == b':';
    if !separators {
        return None;
    }
    let year = digits(&text[0..4])?;
    let (month, day) = (digits(&text[5..7])?, digits(&text[8..10])?);
    let (hour, minute) = (digits(&text[11..13])?, digits(&text[14..16])?);
    let second = digits(&text[17..19])?;
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // A leap second counts as the last second of its minute, as in POSIX time.
    let second = second.min(59);
    let days = days_from_civil(year, month, day)?;
    let (millis, rest) = fraction(&text[19..])?;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    let shown = seconds * 1000 + millis;
    if rest.is_empty() {
        return Some(zone.instant(LocalTime(shown)));
    }
    Some(EventTime(shown - offset_seconds(rest)? * 1000))
}

fn digits(text: &[u8]) -> Option<i64> {
    let mut value = 0;
    for byte in text {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value * 10 + i64::from(byte - b'0');
    }
    Some(value)
}

/// The milliseconds of an optional `.ddd…` and what follows it.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some(after) = text.strip_prefix(b".") else {
        return Some((0, text));
    };
    let length = after.iter().take_while(|b| b.is_ascii_digit()).count();
    if length == 0 || length > 9 {
        return None;
    }
    let (fraction, rest) = after.split_at(length);
    let digits = fraction.iter().chain(b"000").take(3);
    let millis = digits.fold(0, |millis, digit| millis * 10 + i64::from(digit - b'0'));
    Some((millis, rest))
}

fn offset_seconds(text: &[u8]) -> Option<i64> {
    match text {
        b"Z" | b"z" => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] | [sign @ (b'+' | b'-'), h1, h2, m1, m2] => {
            let (hours, minutes) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = (hours * 60 + minutes) * 60;
            Some(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar (Hinnant, "chrono-Compatible Low-Level
/// Date Algorithms"); `None` when there is no such day.
pub(super) fn days_from_civil(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if day < 1 || day > length {
        return None;
    }
    let shifted = year - i64::from(month <= 2);
    let era = shifted.div_euclid(400);
    let year_of_era = shifted - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// Year, month and day of a number of days since 1970-01-01; the inverse of [`days_from_civil`].
pub(crate) fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted - era * 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Appends RFC 3339 in UTC with milliseconds.
pub(super) fn write_rfc3339(time: EventTime, out: &mut Vec<u8>) {
    let days = time.0.div_euclid(86_400_000);
    let of_day = time.0.rem_euclid(86_400_000);
    let (year, month, day) = civil_from_days(days);
    if (0..=9999).contains(&year) {
        push_digits(year, 4, out);
    } else {
        out.extend_from_slice(format!("{year:+07}").as_bytes());
    }
    for (separator, value) in [
        (b'-', month),
        (b'-', day),
        (b'T', of_day / 3_600_000),
        (b':', of_day / 60_000 % 60),
        (b':', of_day / 1000 % 60),
    ] {
        out.push(separator);
        push_digits(value, 2, out);
    }
    out.push(b'.');
    push_digits(of_day % 1000, 3, out);
    out.push(b'Z');
}

fn push_digits(value: i64, width: u32, out: &mut Vec<u8>) {
    for place in (0..width).rev() {
        out.push(b'0' + (value / 10_i64.pow(place) % 10) as u8);
    }
}

/// Units of a duration, largest first, with their milliseconds.
const UNITS: [(&str, i64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// Reads a duration such as `15m`, `1h30m`, `250ms`, `0s`; a bare `0` is no time at all.
///
/// # Errors
/// When `text` is not a sequence of whole numbers with a unit (`d`, `h`, `m`, `s`, `ms`).
pub fn parse_duration(text: &str) -> Result<Span, ParseTimeError> {
    let wrong = || {
        ParseTimeError(format!(
            "not a duration: {text:?} (write for example 15m, 1h30m, 250ms)"
        ))
    };
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Span::ZERO);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total: i64 = 0;
    while !rest.is_empty() {
        let number = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let value: i64 = rest[..number].parse().map_err(|_| wrong())?;
        let unit = &rest[number..];
        let unit = &unit[..unit.len() - unit.trim_start_matches(char::is_alphabetic).len()];
        let factor = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(wrong)?
            .1;
        total = value
            .checked_mul(factor)
            .and_then(|span| total.checked_add(span))
            .ok_or_else(wrong)?;
        rest = &rest[number + unit.len()..];
    }
    Ok(Span(total))
}

pub(super) fn format_duration(span: Span) -> String {
    if span.0 == 0 {
        return "0s".to_owned();
    }
    let mut text = if span.0 < 0 {
        "-".to_owned()
    } else {
        String::new()
    };
    let mut rest = span.0.unsigned_abs();
    for (unit, millis) in UNITS {
        let count = rest / millis.unsigned_abs();
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
            rest %= millis.unsigned_abs();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(text: &str) -> Option<i64> {
        parse(text.as_bytes(), &Zone::UTC).map(|time| time.0)
    }

    #[test]
    fn times_in_the_forms_of_the_wire() {
        assert_eq!(ms("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(
            ms("2024-02-29T12:30:45.123456789+02:00"),
            Some(1_709_202_645_123)
        );
        assert_eq!(ms("2024-02-29 10:30:45"), ms("2024-02-29T10:30:45.0Z"));
        assert_eq!(ms("1969-12-31T23:59:59.999Z"), Some(-1));
        assert_eq!(ms("1969-12-31T23:59:59.9999Z"), Some(-1));
        assert_eq!(ms("9999-12-31T23:59:59Z"), Some(253_402_300_799_000));
        assert_eq!(ms("2024-01-01T00:00:00-0530"), Some(1_704_087_000_000));
    }

    #[test]
    fn what_is_no_time() {
        for text in [
            "",
            "2024-02-30T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00.1234567890Z",
            "2024-01-01T00:00:00X",
            "2024-01-01T00:00:00+99:00",
            "20240101T000000Z",
            "yesterday, about noon",
        ] {
            assert_eq!(ms(text), None, "{text}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("1h30m"), Ok(Span::minutes(90)));
        assert_eq!(parse_duration("250ms"), Ok(Span(250)));
        assert_eq!(parse_duration("0s"), Ok(Span::ZERO));
        for text in [
            "",
            "15",
            "m",
            "1.5h",
            "-3s",
            "10 parsecs",
            "99999999999999999d",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert_eq!(Span::minutes(90).to_string(), "1h30m");
        assert_eq!(Span(1500).to_string(), "1s500ms");
    }

    proptest! {
        #[test]
        fn written_times_are_read_back(millis in -62_135_596_800_000_i64..253_402_300_799_999) {
            let mut text = Vec::new();
            write_rfc3339(EventTime(millis), &mut text);
            prop_assert_eq!(parse(&text, &Zone::UTC), Some(EventTime(millis)));
        }

        #[test]
        fn written_durations_are_read_back(millis in 0_i64..10_000_000_000) {
            prop_assert_eq!(parse_duration(&Span(millis).to_string()), Ok(Span(millis)));
        }

        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = parse(&bytes, &Zone::UTC);
        }
    }
}
