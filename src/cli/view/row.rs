//! A row of a view: names and values, in the order in which they came.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use crate::time::{EventTime, Span, parse_rfc3339};

/// What the time of an event is called, in the pipelines.
const TIME_FIELDS: [&str; 5] = ["event_time", "event_ts", "ts", "timestamp", "TIMESTAMP"];
/// What a row of late records has besides the record.
const LATE_FIELDS: [&str; 4] = ["effective_at", "topic", "partition", "offset"];

/// Names and values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row(pub Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Row;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Row(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

impl Row {
    /// A payload: the fields of a JSON object, or else one field `value`.
    pub fn of_payload(payload: &[u8]) -> Self {
        serde_json::from_slice(payload).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(payload).into_owned();
            Self(vec![("value".to_owned(), Value::String(text))])
        })
    }

    /// The value called `name`.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0
            .iter()
            .find(|(field, _)| field == name)
            .map(|(_, value)| value)
    }

    fn text(&self, name: &str) -> String {
        self.get(name).map(text_of).unwrap_or_default()
    }

    fn time(&self, name: &str) -> Option<EventTime> {
        parse_rfc3339(self.get(name)?.as_str()?.as_bytes()).ok()
    }

    /// As one line of JSON, in order.
    pub fn json(&self) -> String {
        let field =
            |(name, value): &(String, Value)| format!("{}:{value}", Value::from(name.as_str()));
        format!(
            "{{{}}}",
            self.0.iter().map(field).collect::<Vec<_>>().join(",")
        )
    }

    /// Names and texts; the fields of an object within the row get names such as `pane.index`.
    pub fn flat(self) -> Vec<(String, String)> {
        let mut cells = Vec::with_capacity(self.0.len());
        for (name, value) in self.0 {
            match value {
                Value::Object(fields) => cells.extend(
                    fields
                        .iter()
                        .map(|(inner, value)| (format!("{name}.{inner}"), text_of(value))),
                ),
                value => cells.push((name, text_of(&value))),
            }
        }
        cells
    }

    /// A late record: how late it was and where it was read come first.
    pub fn late(mut self) -> Self {
        let event = TIME_FIELDS.iter().find_map(|name| self.time(name));
        let late_by = event
            .zip(self.time("effective_at"))
            .map(|(event, effect)| Span(effect.0.saturating_sub(event.0)).to_string());
        let mut fields = vec![(
            "late_by".to_owned(),
            late_by.map_or(Value::Null, Value::from),
        )];
        for name in LATE_FIELDS {
            if let Some(at) = self.0.iter().position(|(field, _)| field == name) {
                fields.push(self.0.remove(at));
            }
        }
        fields.append(&mut self.0);
        Self(fields)
    }

    /// A dead letter, its payload decoded to text.
    pub fn dead_letter(mut self) -> Self {
        for (name, value) in &mut self.0 {
            let encoded = value.get("base64").and_then(Value::as_str);
            if let Some(bytes) = encoded.filter(|_| name == "value").and_then(from_base64) {
                *value = String::from_utf8_lossy(&bytes).into_owned().into();
            }
        }
        self
    }

    /// A dead letter in two lines.
    pub fn letter_text(&self) -> String {
        let field = |name| self.text(name);
        let payload: String = self.text("value").chars().flat_map(printable).collect();
        format!(
            "{}[{}] offset {}: {}: {}\n    {payload}",
            field("topic"),
            field("partition"),
            field("offset"),
            field("reason"),
            field("detail"),
        )
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

/// Control characters are shown, not sent: data must not steer the terminal.
pub fn printable(character: char) -> impl Iterator<Item = char> {
    let escaped = character.is_control().then(|| character.escape_default());
    let plain = (!character.is_control()).then_some(character);
    escaped.into_iter().flatten().chain(plain)
}

/// Bytes in base 64 with padding; `None` for anything else.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut word, mut bits) = (0u32, 0);
    for digit in text.trim_end_matches('=').bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        word = word << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((word >> bits) as u8);
            word &= (1 << bits) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_order() {
        let text = r#"{"b":1.0,"a":null,"pane":{"index":0,"final":true}}"#;
        let row = Row::of_payload(text.as_bytes());
        assert_eq!(
            row.json(),
            r#"{"b":1.0,"a":null,"pane":{"final":true,"index":0}}"#
        );
        let flat = row.flat();
        let names: Vec<_> = flat
            .iter()
            .map(|(name, text)| format!("{name}={text}"))
            .collect();
        assert_eq!(names, ["b=1.0", "a=-", "pane.final=true", "pane.index=0"]);
        assert_eq!(Row::of_payload(b"[1]").json(), r#"{"value":"[1]"}"#);
    }

    #[test]
    fn lateness_comes_first() {
        let text = r#"{"id":1,"event_time":"2024-01-01T00:00:00Z","offset":7,"effective_at":"2024-01-01T00:01:30.000Z"}"#;
        let late = Row::of_payload(text.as_bytes()).late();
        let names: Vec<_> = late.0.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            ["late_by", "effective_at", "offset", "id", "event_time"]
        );
        assert_eq!(late.0[0].1, "1m30s");
    }

    #[test]
    fn payloads_of_dead_letters_are_decoded() {
        let text = r#"{"topic":"t","partition":1,"offset":2,"reason":"undecodable","detail":"x","value":{"base64":"/2EKYg=="}}"#;
        let row = Row::of_payload(text.as_bytes()).dead_letter();
        assert_eq!(
            row.letter_text(),
            "t[1] offset 2: undecodable: x\n    \u{fffd}a\\nb"
        );
        assert_eq!(from_base64("YWI="), Some(b"ab".to_vec()));
        assert_eq!(from_base64("Y W"), None);
    }
}
