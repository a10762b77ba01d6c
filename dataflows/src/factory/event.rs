//! The messages of the factory pipeline: what a sensor has measured.

use highwater::decode::{
    Decoded, Message, Rejection, Str, Text, inline_text, plain_zero, text, utf8,
};
use highwater::rows::{Column, ColumnType, RowWriter, Tabular};
use highwater::time::EventTime;
use serde::{Deserialize, Serialize};

/// A device: `MTR-` and digits.
pub type DeviceId = Text<24>;
/// Status, site or line.
pub type Label = Text<16>;

/// What a device has measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Which device; empty when the message names none.
    pub device_id: DeviceId,
    /// When it was measured.
    pub event_ts: EventTime,
    /// In degrees Celsius.
    pub temperature_c: Option<f64>,
    /// In multiples of the acceleration of gravity.
    pub vibration_g: Option<f64>,
    /// OK, HOT, VIB or `HOT_VIB`.
    pub status: Label,
    /// The factory.
    pub site: Label,
    /// The line in it.
    pub line: Label,
}

highwater::fixed_layout!(Reading {
    device_id,
    event_ts,
    temperature_c,
    vibration_g,
    status,
    site,
    line,
});

#[derive(Deserialize)]
struct ReadingJson<'a> {
    #[serde(borrow, default)]
    device_id: Option<Str<'a>>,
    #[serde(borrow, default)]
    ts: Option<Str<'a>>,
    #[serde(borrow, default)]
    event_ts: Option<Str<'a>>,
    #[serde(default)]
    temperature_c: Option<f64>,
    #[serde(default)]
    vibration_g: Option<f64>,
    #[serde(borrow, default)]
    status: Option<Str<'a>>,
    #[serde(borrow, default)]
    site: Option<Str<'a>>,
    #[serde(borrow, default)]
    line: Option<Str<'a>>,
}

/// Reads `sensor_events`; the time stands in `ts` or `event_ts`. A message without a device is a
/// reading all the same: it goes to quarantine.
///
/// # Errors
/// When the message is no JSON of this kind, or lacks its time.
pub fn decode(message: Message<'_>) -> Result<Decoded<Reading>, Rejection> {
    let json: ReadingJson<'_> = serde_json::from_str(utf8(message.value)?)?;
    let event_ts = message.event_time(text(&json.ts).or(text(&json.event_ts)), "ts")?;
    let reading = Reading {
        device_id: inline_text(&json.device_id, "device_id")?,
        event_ts,
        temperature_c: json.temperature_c.map(plain_zero),
        vibration_g: json.vibration_g.map(plain_zero),
        status: inline_text(&json.status, "status")?,
        site: inline_text(&json.site, "site")?,
        line: inline_text(&json.line, "line")?,
    };
    Ok(Decoded::Record(event_ts, reading))
}

/// Why a reading is in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It names no device.
    MissingKey,
    /// A value that no such sensor can measure.
    OutOfRange,
}

impl Fault {
    /// The word used in outputs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MissingKey => "missing_key",
            Self::OutOfRange => "out_of_range",
        }
    }
}

impl Reading {
    /// What is wrong with it, if anything. Nulls are not.
    pub fn fault(&self) -> Option<Fault> {
        let temperature_fits = self.temperature_c.is_none_or(|t| t > -50.0 && t < 150.0);
        let vibration_fits = self.vibration_g.is_none_or(|v| v >= 0.0);
        if self.device_id.is_empty() {
            Some(Fault::MissingKey)
        } else if temperature_fits && vibration_fits {
            None
        } else {
            Some(Fault::OutOfRange)
        }
    }

    /// Too hot or too much vibration. A null never alerts.
    pub fn is_alert(&self) -> bool {
        self.temperature_c.is_some_and(|t| t > 85.0) || self.vibration_g.is_some_and(|v| v > 0.5)
    }
}

impl Tabular for Reading {
    fn columns() -> Vec<Column> {
        vec![
            Column::nullable("device_id", ColumnType::Text),
            Column::new("event_ts", ColumnType::Timestamp),
            Column::nullable("temperature_c", ColumnType::Float),
            Column::nullable("vibration_g", ColumnType::Float),
            Column::nullable("status", ColumnType::Text),
            Column::nullable("site", ColumnType::Text),
            Column::nullable("line", ColumnType::Text),
        ]
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.text(self.device_id.or_null());
        row.timestamp(self.event_ts);
        row.float(self.temperature_c);
        row.float(self.vibration_g);
        row.text(self.status.or_null());
        row.text(self.site.or_null());
        row.text(self.line.or_null());
    }

    fn message_key(&self, key: &mut Vec<u8>) {
        key.extend_from_slice(self.device_id.as_str().as_bytes());
    }
}

/// A reading in quarantine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quarantined(pub Reading);

highwater::fixed_layout!(Quarantined { 0 });

impl Tabular for Quarantined {
    fn columns() -> Vec<Column> {
        let mut columns = vec![Column::new("reason", ColumnType::Text)];
        columns.extend(Reading::columns());
        columns
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.text(self.0.fault().map_or("", Fault::as_str));
        self.0.write(row);
    }

    fn message_key(&self, key: &mut Vec<u8>) {
        self.0.message_key(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(temperature_c: Option<f64>, vibration_g: Option<f64>) -> Reading {
        let device_id = Text::new("MTR-00001").expect("short");
        Reading {
            device_id,
            temperature_c,
            vibration_g,
            ..Reading::default()
        }
    }

    #[test]
    fn the_limits_of_what_is_valid() {
        let fault = |t, v| reading(t, v).fault();
        assert_eq!(fault(None, None), None);
        assert_eq!(fault(Some(149.99), Some(0.0)), None);
        assert_eq!(
            fault(Some(150.0), None),
            Some(Fault::OutOfRange),
            "150 itself is invalid"
        );
        assert_eq!(fault(Some(-50.0), None), Some(Fault::OutOfRange));
        assert_eq!(fault(None, Some(-0.01)), Some(Fault::OutOfRange));
        assert_eq!(Reading::default().fault(), Some(Fault::MissingKey));
    }

    #[test]
    fn alerts_are_strict() {
        assert!(!reading(Some(85.0), Some(0.5)).is_alert());
        assert!(reading(Some(85.01), None).is_alert() && reading(None, Some(0.51)).is_alert());
        assert!(!reading(None, None).is_alert());
    }
}
