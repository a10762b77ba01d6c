//! Compacted topics that hold tables: made, and filled in one transaction.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, Producer as _};
use rdkafka::types::RDKafkaErrorCode as Code;

use super::producer::{self, Producer};
use super::topic::{Topic, code};
use crate::sink::SinkError;

/// How long one call to a broker may take before it is made again.
const SLICE: Duration = Duration::from_millis(500);
/// How long all tables may take: as long as a transaction lives.
const LONGEST: Duration = Duration::from_secs(60);

/// What is written under a key of a topic; `None`: the key is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyedMessage {
    /// The topic.
    pub topic: String,
    /// The key.
    pub key: String,
    /// The payload.
    pub value: Option<Vec<u8>>,
}

/// Topics of one cluster, of whose messages brokers keep the last of each key. Without `Debug`:
/// properties may hold secrets.
pub struct CompactedTopics {
    topics: BTreeMap<String, Topic>,
    connect_timeout: Duration,
}

impl CompactedTopics {
    /// These topics; connects to nothing. `properties` are librdkafka's; `connect_timeout`: how
    /// long brokers may be out of reach.
    ///
    /// # Errors
    /// When a property or a name is not valid.
    pub fn new(
        brokers: &str,
        names: &[String],
        properties: &[(String, String)],
        connect_timeout: Duration,
    ) -> Result<Self, SinkError> {
        producer::check_properties(properties)?;
        let topic = |name: &String| {
            let topic = Topic::new(
                brokers.to_owned(),
                name.clone(),
                properties,
                connect_timeout,
            );
            topic.check_transactional_options()?;
            Ok((name.clone(), topic))
        };
        let topics: Result<_, SinkError> = names.iter().map(topic).collect();
        Ok(Self {
            topics: topics?,
            connect_timeout,
        })
    }

    /// Makes those that are missing, with one partition, `cleanup.policy=compact`, and no limit to
    /// the age of messages.
    ///
    /// # Errors
    /// When brokers do not answer or refuse.
    pub fn create(&self) -> Result<(), SinkError> {
        for topic in self.topics.values() {
            if topic.partitions()?.is_none() {
                topic.create_compacted(1)?;
            }
        }
        Ok(())
    }

    /// Writes all of these, or none, in their order: a reader of committed messages sees all of
    /// them at once. `writer` names who writes; two of the same name cannot write at once.
    ///
    /// # Errors
    /// When brokers do not take them.
    pub fn write(&self, writer: &str, messages: &[KeyedMessage]) -> Result<(), SinkError> {
        let Some(topic) = self.topics.values().next() else {
            return Ok(());
        };
        let producer = producer::create_transactional(topic, writer)?;
        let write = Write {
            topic,
            producer: &producer,
            deadline: Instant::now() + self.connect_timeout,
        };
        write.again(|producer| producer.init_transactions(SLICE))?;
        write.again(Producer::begin_transaction)?;
        let write = Write {
            deadline: Instant::now() + LONGEST,
            ..write
        };
        let written = write.all(messages);
        if written.is_err() {
            // Or readers would wait for it for a minute.
            let _ = producer.abort_transaction(SLICE);
        }
        written
    }
}

struct Write<'a> {
    topic: &'a Topic,
    producer: &'a Producer,
    deadline: Instant,
}

impl Write<'_> {
    fn all(&self, messages: &[KeyedMessage]) -> Result<(), SinkError> {
        for (row, message) in messages.iter().enumerate() {
            self.send(row, message)?;
        }
        let committed = self.again(|producer| producer.commit_transaction(SLICE));
        if let (Err(_), Some(failure)) = (&committed, self.producer.context().failure()) {
            let message = &messages[failure.row];
            return Err(self.topic.failed(format!(
                "the message with key {:?} ({} bytes) for {} was not taken: {}",
                message.key, failure.bytes, message.topic, failure.code
            )));
        }
        committed
    }

    /// Makes a call until it is done: one that has timed out goes on where it was.
    fn again(&self, call: impl Fn(&Producer) -> Result<(), KafkaError>) -> Result<(), SinkError> {
        loop {
            let Err(error) = call(self.producer) else {
                return Ok(());
            };
            let is_retriable = match &error {
                KafkaError::Transaction(error) => error.is_retriable(),
                // What was sent before is still under way.
                error => code(error) == Code::OperationTimedOut,
            };
            if !is_retriable || Instant::now() >= self.deadline {
                let complaint = self.producer.context().complaint();
                let reason = complaint.unwrap_or_else(|| error.to_string());
                return Err(self.topic.failed(format!(
                    "{reason}. Check the address, that the broker runs, and that this user may \
                     write with transactions"
                )));
            }
            self.producer.poll(Duration::from_millis(10));
        }
    }

    fn send(&self, row: usize, message: &KeyedMessage) -> Result<(), SinkError> {
        loop {
            let record = BaseRecord {
                topic: &message.topic,
                partition: None,
                payload: message.value.as_deref(),
                key: Some(message.key.as_bytes()),
                timestamp: None,
                headers: None,
                delivery_opaque: row,
            };
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((error, _))
                    if code(&error) == Code::QueueFull && Instant::now() < self.deadline =>
                {
                    self.producer.poll(Duration::from_millis(5));
                }
                Err((error, _)) => return Err(self.topic.failed(error.to_string())),
            }
        }
    }
}
