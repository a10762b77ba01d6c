//! From bytes to records of a fixed layout.
//!
//! A decoder runs on the worker that read the bytes, before any exchange, and allocates nothing
//! for a record that is good. What it cannot decode is rejected with a reason and becomes a dead
//! letter; it never stops a pipeline and never moves a watermark.

mod nan;

use std::borrow::Cow;
use std::fmt;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::rows::{Column, ColumnType, RowWriter, Tabular};
use crate::source::RawRecord;
use crate::time::{EventTime, Offset, PartitionId, Zone, parse_time};
use crate::wire::FixedLayout;

pub use self::nan::nan_as_null;

/// What a decoder is given.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The payload.
    pub value: &'a [u8],
    /// The message key, if the source has keys.
    pub key: Option<&'a [u8]>,
    /// The record's place and times.
    pub record: &'a RawRecord,
    /// Where clocks show the times that come without an offset.
    pub zone: &'a Zone,
}

impl Message<'_> {
    /// Reads the event time of the record; one without an offset is in the run's time zone.
    ///
    /// # Errors
    /// When there is none, or the text is no time.
    pub fn event_time(&self, text: Option<&str>, field: &str) -> Result<EventTime, Rejection> {
        event_time(text, field, self.zone)
    }
}

/// What a decoder makes of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decoded<R> {
    /// A record and its event time.
    Record(EventTime, R),
    /// No record by the input's own rules, such as a header line.
    Skip,
}

/// Why a record is a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// It is not what the input consists of.
    Undecodable,
    /// It has no event time, or one that is no time.
    NoTime,
    /// It has no key.
    NoKey,
    /// A text is longer than its field.
    TooLong,
    /// A number is outside of what the field can mean.
    OutOfRange,
    /// Its event time lies further ahead of the clock than `--max-ahead`.
    TooFarAhead,
    /// Its key is in no dimension, with `--unmatched dead-letter`.
    Unmatched,
    /// A message without a payload.
    NoValue,
}

impl Reason {
    /// The word used in outputs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Undecodable => "undecodable",
            Self::NoTime => "no_time",
            Self::NoKey => "no_key",
            Self::TooLong => "too_long",
            Self::OutOfRange => "out_of_range",
            Self::TooFarAhead => "too_far_ahead",
            Self::Unmatched => "unmatched",
            Self::NoValue => "no_value",
        }
    }
}

/// A reason with what exactly is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The kind.
    pub reason: Reason,
    /// For people.
    pub detail: String,
}

impl Rejection {
    /// A rejection.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

impl From<serde_json::Error> for Rejection {
    fn from(error: serde_json::Error) -> Self {
        Self::new(Reason::Undecodable, error.to_string())
    }
}

/// A record that could not be used, as it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The topic or file set.
    pub topic: String,
    /// The partition.
    pub partition: PartitionId,
    /// Its place.
    pub offset: Offset,
    /// Why.
    pub reason: Reason,
    /// Why exactly.
    pub detail: String,
    /// The bytes.
    pub value: Vec<u8>,
}

crate::serde_wire!(DeadLetter);

impl Tabular for DeadLetter {
    fn columns() -> Vec<Column> {
        vec![
            Column::new("topic", ColumnType::Text),
            Column::new("partition", ColumnType::Int),
            Column::new("offset", ColumnType::Int),
            Column::new("reason", ColumnType::Text),
            Column::new("detail", ColumnType::Text),
            Column::new("value", ColumnType::Bytes),
        ]
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.text(self.topic.as_str());
        row.int(i64::from(self.partition.0));
        row.int(self.offset.0 as i64);
        row.text(self.reason.as_str());
        row.text(self.detail.as_str());
        row.bytes(self.value.as_slice());
    }
}

/// A JSON string, borrowed from the message unless it holds escapes: for the fields of decoders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Str<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Str<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsStr;
        impl<'de> Visitor<'de> for AsStr {
            type Value = Str<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: serde::de::Error>(
                self,
                text: &'de str,
            ) -> Result<Str<'de>, E> {
                Ok(Str(Cow::Borrowed(text)))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Str<'de>, E> {
                Ok(Str(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(AsStr)
    }
}

/// A payload as text: checked once as a whole, which is cheaper than string by string.
///
/// # Errors
/// When it is not UTF-8.
pub fn utf8(value: &[u8]) -> Result<&str, Rejection> {
    std::str::from_utf8(value)
        .map_err(|error| Rejection::new(Reason::Undecodable, format!("not UTF-8: {error}")))
}

/// `value` with a zero of one sign: 0.0 and -0.0 are equal but have other bits, and which one a
/// maximum keeps would depend on their order.
pub fn plain_zero(value: f64) -> f64 {
    value + 0.0
}

/// The text of an optional field.
pub fn text<'a>(field: &'a Option<Str<'_>>) -> Option<&'a str> {
    field.as_ref().map(|field| &*field.0)
}

/// An optional text, inline; a missing one is empty.
///
/// # Errors
/// When it does not fit.
pub fn inline_text<const N: usize>(
    field: &Option<Str<'_>>,
    name: &str,
) -> Result<Text<N>, Rejection> {
    text(field).map_or(Ok(Text::EMPTY), |text| Text::field(text, name))
}

fn event_time(text: Option<&str>, field: &str, zone: &Zone) -> Result<EventTime, Rejection> {
    let text = text.ok_or_else(|| Rejection::new(Reason::NoTime, format!("{field} is missing")))?;
    parse_time(text.as_bytes(), zone)
        .map_err(|error| Rejection::new(Reason::NoTime, format!("{field}: {error}")))
}

/// Text of at most `N - 1` bytes, inline: a `Copy` value of fixed size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Text<const N: usize> {
    // Bytes, zeroes behind them, and the length in the last byte, so that the derived order is
    // that of the texts (none of them holds a zero).
    bytes: [u8; N],
}

impl<const N: usize> Text<N> {
    /// The longest text that fits, in bytes.
    pub const CAPACITY: usize = N - 1;

    /// The empty text.
    pub const EMPTY: Self = Self { bytes: [0; N] };

    /// `text`, if it fits and holds no zero byte.
    pub fn new(text: &str) -> Option<Self> {
        if text.len() > Self::CAPACITY || text.as_bytes().contains(&0) {
            return None;
        }
        let mut bytes = [0; N];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        bytes[N - 1] = text.len() as u8;
        Some(Self { bytes })
    }

    /// `text`, or why it cannot be taken in `field`.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn field(text: &str, field: &str) -> Result<Self, Rejection> {
        Self::new(text).ok_or_else(|| {
            let most = Self::CAPACITY;
            let detail = format!("{field} is longer than {most} bytes or holds a zero byte");
            Rejection::new(Reason::TooLong, detail)
        })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        let length = usize::from(self.bytes[N - 1]);
        // Invariant: only `new` makes a value, from a whole `&str`.
        std::str::from_utf8(&self.bytes[..length]).unwrap_or("")
    }

    /// Whether there is no text.
    pub const fn is_empty(&self) -> bool {
        self.bytes[N - 1] == 0
    }

    /// The text, or `None` when it is empty.
    pub fn or_null(&self) -> Option<&str> {
        (!self.is_empty()).then(|| self.as_str())
    }
}

impl<const N: usize> FixedLayout for Text<N> {
    type Raw = [u8; N];

    #[inline(always)]
    fn to_raw(&self) -> [u8; N] {
        self.bytes
    }

    #[inline(always)]
    fn from_raw(bytes: [u8; N]) -> Option<Self> {
        let text = bytes.get(..usize::from(*bytes.last()?))?;
        let is_same = |text| Self::new(text).filter(|text| text.bytes == bytes);
        std::str::from_utf8(text).ok().and_then(is_same)
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl<const N: usize> Serialize for Text<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de, const N: usize> Deserialize<'de> for Text<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsText<const N: usize>;
        impl<const N: usize> Visitor<'_> for AsText<N> {
            type Value = Text<N>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a text of at most {} bytes", Text::<N>::CAPACITY)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Text::new(text).ok_or_else(|| E::invalid_length(text.len(), &self))
            }
        }
        deserializer.deserialize_str(AsText)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inline_text_orders_like_text() {
        let texts = ["", "A", "AB", "B", "é"];
        let inline: Vec<Text<8>> = texts.iter().filter_map(|text| Text::new(text)).collect();
        assert!(inline.is_sorted());
        assert!(
            inline
                .iter()
                .zip(texts)
                .all(|(inline, text)| inline.as_str() == text)
        );
        assert_eq!(Text::<8>::new("12345678"), None);
        assert_eq!(Text::<8>::new("a\0b"), None);
    }

    #[test]
    fn only_bytes_of_a_text_become_one() {
        let from = |bytes: &[u8; 8]| Text::<8>::from_raw(*bytes).map(|text| text.to_string());
        assert_eq!(from(b"\0\0\0\0\0\0\0\0").as_deref(), Some(""));
        assert_eq!(from(b"seven77\x07").as_deref(), Some("seven77"));
        assert_eq!(
            from("né\0\0\0\0\x03".as_bytes().try_into().unwrap()).as_deref(),
            Some("né")
        );
        assert_eq!(from(b"seven77\x08"), None, "longer than it can be");
        assert_eq!(from(b"seven77\xff"), None, "longer than the field");
        assert_eq!(from(b"abc\0\0\0\0\x02"), None, "bytes behind the end");
        assert_eq!(from(b"abc\0\0\0\0\x04"), None, "a zero in it");
        assert_eq!(from(b"\xffbc\0\0\0\0\x03"), None, "not UTF-8");
    }

    #[test]
    fn a_missing_time_and_a_wrong_one_are_told_apart() {
        assert_eq!(
            event_time(None, "ts", &Zone::UTC).unwrap_err().detail,
            "ts is missing"
        );
        assert!(
            event_time(Some("soon"), "ts", &Zone::UTC)
                .unwrap_err()
                .detail
                .contains("soon")
        );
    }
}
