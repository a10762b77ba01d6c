//! A compacted topic per table: `PREFIX-NAME` (or `PREFIXNAME`, when the prefix ends in `-`, `.` or
//! `_`).
//!
//! The key of a message is the key of the row as text, the payload the row as a JSON object, in
//! which the key's own column may be missing; a message without a payload deletes the key. All that
//! is there is read at each load, and of transactions only those that were committed. How that
//! becomes rows is told in [`load`](super::load).

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use super::{Contents, Message, PlaceOptions, TablePlace, TableRows, Value, WriteOptions, listed};
use crate::join::{DimError, DimTable, VALID_FROM};
use crate::rows::{Cell, Rows};
use crate::sink::SinkError;
use crate::sink::kafka::{CompactedTopics, KeyedMessage};
use crate::source::SourceError;
use crate::source::kafka::{KafkaOptions, KafkaSource, TopicMessage, read_topic};
use crate::time::EventTime;

/// Topics that begin with a prefix.
pub(super) struct TopicsPlace {
    brokers: String,
    /// With what stands between it and the name of a table.
    prefix: String,
    options: PlaceOptions,
}

impl TopicsPlace {
    /// Connects to nothing yet.
    pub(super) fn new(brokers: &str, prefix: &str, options: &PlaceOptions) -> Result<Self, String> {
        let separator = if prefix.is_empty() || prefix.ends_with(['-', '.', '_']) {
            ""
        } else {
            "-"
        };
        let place = Self {
            brokers: brokers.to_owned(),
            prefix: format!("{prefix}{separator}"),
            options: options.clone(),
        };
        // Properties and the name are checked at once.
        let nowhere = KafkaOptions {
            brokers: String::new(),
            ..place.topic_options(&place.topic("x"))
        };
        KafkaSource::new(nowhere).map_err(|error| error.to_string())?;
        Ok(place)
    }

    fn topic(&self, table: &str) -> String {
        format!("{}{table}", self.prefix)
    }

    fn topic_options(&self, topic: &str) -> KafkaOptions {
        KafkaOptions {
            properties: self.options.kafka.clone(),
            connect_timeout: self.options.connect_timeout,
            ..KafkaOptions::new(&self.brokers, topic)
        }
    }

    fn uri(&self, topic: &str) -> String {
        format!("kafka://{}/{topic}", self.brokers)
    }

    /// The messages of a table's topic; `None`: there is no such topic.
    fn messages(&self, table: &DimTable) -> Result<Option<Vec<TopicMessage>>, DimError> {
        match read_topic(&self.topic_options(&self.topic(table.name))) {
            Ok(messages) => Ok(Some(messages)),
            Err(SourceError::Missing(_)) => Ok(None),
            Err(error) => Err(DimError(error.to_string())),
        }
    }

    fn read_table(&self, table: &DimTable) -> Result<Vec<Message>, DimError> {
        let topic = self.topic(table.name);
        let messages = self.messages(table)?.ok_or_else(|| {
            DimError(format!(
                "{}: there is no such topic; `highwater dims PIPELINE --to kafka://{}/{}` makes \
                 the topics of all tables, or correct the prefix",
                self.uri(&topic),
                self.brokers,
                self.prefix
            ))
        })?;
        Ok(messages
            .into_iter()
            .map(|message| table_message(&topic, message))
            .collect())
    }
}

fn table_message(topic: &str, message: TopicMessage) -> Message {
    Message {
        at: format!(
            "{topic}[{}] offset {}",
            message.partition.0, message.offset.0
        ),
        key: key_of(&message),
        time: message.time,
        row: message.value.as_deref().map(cells).transpose(),
    }
}

fn key_of(message: &TopicMessage) -> String {
    String::from_utf8_lossy(message.key.as_deref().unwrap_or_default()).into_owned()
}

fn cells(payload: &[u8]) -> Result<Vec<(String, Value)>, String> {
    let object: Map<String, Json> = serde_json::from_slice(payload)
        .map_err(|error| format!("the payload is no JSON object: {error}"))?;
    Ok(object
        .into_iter()
        .map(|(name, json)| (name, value(json)))
        .collect())
}

fn value(json: Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(is) => Value::Bool(is),
        Json::String(text) => Value::Text(text),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => Value::Int(number),
            (None, Some(float)) if number.is_f64() => Value::Float(float),
            _ => Value::Other("a number beyond 2^63".to_owned(), number.to_string()),
        },
        Json::Array(_) => Value::Other("an array".to_owned(), json.to_string()),
        Json::Object(_) => Value::Other("an object".to_owned(), json.to_string()),
    }
}

/// The payloads that a key has, by the time from which they are valid.
type Versions = BTreeMap<Option<EventTime>, Vec<u8>>;

/// What the messages of a topic say, by key; what cannot be read is as if it had no time.
fn versions(messages: &[TopicMessage]) -> BTreeMap<String, Versions> {
    let mut keys: BTreeMap<String, Versions> = BTreeMap::new();
    for message in messages {
        let versions = keys.entry(key_of(message)).or_default();
        let Some(payload) = &message.value else {
            versions.clear();
            continue;
        };
        let cells = cells(payload).unwrap_or_default();
        let time = cells.iter().find(|(name, _)| name == VALID_FROM);
        let time = time.and_then(|(_, value)| value.time(VALID_FROM).ok()?);
        versions.insert(time, payload.clone());
    }
    keys.retain(|_, versions| !versions.is_empty());
    keys
}

/// The rows of a table to be made, by key.
fn wanted(rows: &Rows) -> BTreeMap<String, Versions> {
    let mut keys: BTreeMap<String, Versions> = BTreeMap::new();
    for row in 0..rows.len() {
        let (mut object, mut valid_from) = (Map::new(), None);
        for (at, column) in rows.columns().iter().enumerate() {
            let json = match rows.cell(at, row) {
                Cell::Int(number) => number.into(),
                Cell::Float(number) => number.into(),
                Cell::Text(text) => text.into(),
                Cell::Bool(is) => is.into(),
                Cell::Timestamp(time) => {
                    valid_from = valid_from.or((column.name == VALID_FROM).then_some(time));
                    time.to_string().into()
                }
                Cell::Null | Cell::Uuid(_) | Cell::Bytes(_) => continue,
            };
            object.insert(column.name.to_owned(), json);
        }
        let key = match rows.cell(0, row) {
            Cell::Int(number) => number.to_string(),
            Cell::Text(text) => text.to_owned(),
            _ => continue,
        };
        let payload = Json::Object(object).to_string().into_bytes();
        keys.entry(key).or_default().insert(valid_from, payload);
    }
    keys
}

/// What makes a topic that says `there` say `wanted`.
fn changes(
    topic: &str,
    there: &BTreeMap<String, Versions>,
    wanted: BTreeMap<String, Versions>,
) -> Vec<KeyedMessage> {
    let message = |key: &String, value| KeyedMessage {
        topic: topic.to_owned(),
        key: key.clone(),
        value,
    };
    let gone = there.keys().filter(|key| !wanted.contains_key(*key));
    let mut messages: Vec<_> = gone.map(|key| message(key, None)).collect();
    let none = Versions::new();
    for (key, versions) in wanted {
        let mut known = there.get(&key).unwrap_or(&none);
        if known.keys().any(|time| !versions.contains_key(time)) {
            // Only all versions of a key can be deleted.
            messages.push(message(&key, None));
            known = &none;
        }
        // Those behind the first that differs as well: of a key compaction keeps the last message,
        // which must be the newest version.
        let new = versions
            .iter()
            .skip_while(|(time, payload)| known.get(time) == Some(payload));
        messages.extend(new.map(|(_, payload)| message(&key, Some(payload.clone()))));
    }
    messages
}

impl TablePlace for TopicsPlace {
    fn name(&self) -> String {
        self.uri(&format!("{}*", self.prefix))
    }

    fn read(&self, tables: &[DimTable]) -> Result<Vec<Contents>, DimError> {
        let read = |table| self.read_table(table).map(Contents::Log);
        tables.iter().map(read).collect()
    }

    /// All tables in one transaction: nobody ever sees a part of the rows for good. Who reads the
    /// topics one after the other meanwhile sees the rest the next time.
    fn write(&self, tables: &[TableRows], options: &WriteOptions) -> Result<String, DimError> {
        let failed = |error: SinkError| DimError(error.to_string());
        let mut messages = Vec::new();
        for it in tables {
            let topic = self.topic(it.table.name);
            let there = versions(&self.messages(&it.table)?.unwrap_or_default());
            let changes = changes(&topic, &there, wanted(&it.rows));
            if !there.is_empty() && !changes.is_empty() && !options.replace {
                return Err(DimError(format!(
                    "{}: there are other rows already; add --replace to change and delete them, \
                     or choose another prefix",
                    self.uri(&topic)
                )));
            }
            messages.extend(changes);
        }
        let names: Vec<_> = tables.iter().map(|it| self.topic(it.table.name)).collect();
        let PlaceOptions {
            kafka,
            connect_timeout,
        } = &self.options;
        let topics = CompactedTopics::new(&self.brokers, &names, kafka, *connect_timeout);
        let topics = topics.map_err(failed)?;
        topics.create().map_err(failed)?;
        let writer = format!("highwater-tables-{}", self.prefix);
        topics.write(&writer, &messages).map_err(failed)?;
        let made = listed(tables, |table| self.topic(table.name));
        Ok(format!("kafka://{}: {made}", self.brokers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(offset: u64, key: &str, value: Option<&str>) -> TopicMessage {
        TopicMessage {
            partition: crate::time::PartitionId(0),
            offset: crate::time::Offset(offset),
            time: Some(EventTime(5)),
            key: Some(key.as_bytes().to_vec()),
            value: value.map(|it| it.as_bytes().to_vec()),
        }
    }

    const OLD: &str = r#"{"id":1,"valid_from":"2024-01-01T00:00:00Z"}"#;
    const NEW: &str = r#"{"id":1,"valid_from":"2024-02-01T00:00:00Z"}"#;

    #[test]
    fn json_has_types() {
        let cells = cells(br#"{"a":1,"b":"x","c":1.5,"d":null,"e":[1],"f":18446744073709551615}"#);
        let kinds: Vec<_> = cells
            .expect("an object")
            .into_iter()
            .map(|it| it.1)
            .collect();
        assert_eq!(
            kinds[..4],
            [
                Value::Int(1),
                Value::Text("x".to_owned()),
                Value::Float(1.5),
                Value::Null
            ]
        );
        assert!(kinds[4..].iter().all(|it| matches!(it, Value::Other(..))));
        let error = table_message("t", message(7, "1", Some("no")))
            .row
            .expect_err("no JSON");
        assert!(error.contains("no JSON object"), "{error}");
    }

    #[test]
    fn only_what_differs_is_written_and_what_is_gone_deleted() {
        let there = versions(&[
            message(0, "1", Some(OLD)),
            message(1, "1", Some(NEW)),
            message(2, "2", Some(r#"{"id":2}"#)),
            message(3, "3", Some(r#"{"id":3}"#)),
            message(4, "3", None),
        ]);
        assert_eq!(there.keys().collect::<Vec<_>>(), ["1", "2"]);
        assert!(changes("t", &there, there.clone()).is_empty());
        let mut wanted = there.clone();
        wanted.remove("2");
        let deletion = KeyedMessage {
            topic: "t".to_owned(),
            key: "2".to_owned(),
            value: None,
        };
        assert_eq!(changes("t", &there, wanted), [deletion]);
        // What compaction has removed comes again, and the newest version after it.
        let compacted = versions(&[
            message(1, "1", Some(NEW)),
            message(2, "2", Some(r#"{"id":2}"#)),
        ]);
        let values: Vec<_> = changes("t", &compacted, there.clone())
            .into_iter()
            .map(|it| it.value)
            .collect();
        assert_eq!(values, [OLD, NEW].map(|it| Some(it.as_bytes().to_vec())));
        // Of the two versions one goes: the key is deleted, and the other written again.
        let mut wanted = there.clone();
        wanted.get_mut("1").expect("there").pop_first();
        let values: Vec<_> = changes("t", &there, wanted)
            .into_iter()
            .map(|it| it.value)
            .collect();
        assert_eq!(values, [None, Some(NEW.as_bytes().to_vec())]);
    }
}
