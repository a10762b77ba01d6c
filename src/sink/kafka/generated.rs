//! A generated log as a topic: keyed by the entity, with the partitions of the embedded generator
//! and of its files when the topic has as many.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, Producer as _};
use rdkafka::types::RDKafkaErrorCode as Code;

use super::producer::{self, Failure, Producer};
use super::topic::{Topic, code};
use crate::sink::SinkError;
use crate::source::Pack;
use crate::source::generate::drive::{LogRecord, LogWriter, check_end, write_log};
use crate::source::generate::{EventLog, GenerateError, Progress};
use crate::time::EventTime;

/// How many messages are sent between two looks at what brokers reported.
const MESSAGES_PER_POLL: u64 = 256;
const SHORT_POLL: Duration = Duration::from_millis(5);
/// After how long without a report the brokers count as gone.
const SILENCE: Duration = Duration::from_secs(60);

/// A topic that is to hold a generated log.
pub struct LogTopic {
    topic: Topic,
    partitions: u32,
    is_new: bool,
}

impl LogTopic {
    /// The topic `name`, which is made with `partitions` partitions when it is missing, and keeps
    /// what it is given for ever: retention goes by the times of messages, and those of a log are
    /// the times of its events. `properties` are librdkafka's; `connect_timeout`: how long brokers
    /// may be out of reach.
    ///
    /// # Errors
    /// When a property is unknown or would break the order of the log, or when the topic can
    /// neither be found nor made.
    pub fn open(
        brokers: &str,
        name: &str,
        partitions: u32,
        properties: &[(String, String)],
        connect_timeout: Duration,
    ) -> Result<Self, GenerateError> {
        producer::check_properties(properties).map_err(generate_error)?;
        let topic = Topic::new(
            brokers.to_owned(),
            name.to_owned(),
            properties,
            connect_timeout,
        );
        topic.check_options().map_err(generate_error)?;
        let found = topic.partitions().map_err(generate_error)?;
        let is_new = found.is_none();
        let partitions = match found {
            Some(found) => found,
            None => topic.create(partitions).map_err(generate_error)?,
        };
        Ok(Self {
            topic,
            partitions,
            is_new,
        })
    }

    /// How many partitions it has, whatever was asked for.
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// Whether it was missing and has been made.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Writes `log` into the topic's partitions, a live log at the pace of the wall clock, and
    /// returns when all replicas in sync have acknowledged all of it. Events go through `pack`;
    /// garbage, and everything without it, is sent as it is. When `progress` breaks, that is what
    /// has been sent so far.
    ///
    /// # Errors
    /// When the log has no end (and is not live), when a broker refuses a message, or when brokers
    /// are silent for a minute.
    pub fn write(
        &self,
        log: &EventLog,
        pack: Option<&dyn Pack>,
        progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<Progress, GenerateError> {
        check_end(log)?;
        let log = log.with_partitions(self.partitions)?;
        let mut writer = TopicWriter {
            topic: &self.topic,
            producer: producer::create(&self.topic).map_err(generate_error)?,
            log: &log,
            pack,
            packed: Vec::new(),
            key: Vec::new(),
            sent: 0,
            seen: (0, Instant::now()),
            stamped: (u64::MAX, EventTime::MIN),
        };
        let written = write_log(&log, &mut writer, progress)?;
        writer.finish()?;
        Ok(written)
    }
}

fn generate_error(error: SinkError) -> GenerateError {
    match error {
        SinkError::Config(text) => GenerateError::Config(text),
        SinkError::Unreachable { target, reason } | SinkError::Write { target, reason } => {
            GenerateError::Broker { target, reason }
        }
        SinkError::Closed | SinkError::Aborted | SinkError::Fenced(_) | SinkError::Refused(_) => {
            GenerateError::Config(error.to_string())
        }
    }
}

struct TopicWriter<'a> {
    topic: &'a Topic,
    producer: Producer,
    log: &'a EventLog,
    pack: Option<&'a dyn Pack>,
    /// The event as the message of that format.
    packed: Vec<u8>,
    key: Vec<u8>,
    /// How many messages the producer was given.
    sent: u64,
    /// How many of them brokers had acknowledged, and when that number last grew.
    seen: (u64, Instant),
    /// The event of the last record, and its time.
    stamped: (u64, EventTime),
}

impl TopicWriter<'_> {
    fn is_packed(&self, record: &LogRecord<'_>) -> bool {
        self.pack.is_some() && !record.is_garbage
    }

    /// Makes the event a message of the format, if there is one.
    fn pack(&mut self, record: &LogRecord<'_>) -> Result<(), GenerateError> {
        let Some(pack) = self.pack.filter(|_| !record.is_garbage) else {
            return Ok(());
        };
        self.packed.clear();
        let packed = pack.pack(record.value, &mut self.packed);
        packed.map_err(|reason| GenerateError::Config(format!("event {}: {reason}", record.index)))
    }

    fn send(&self, record: &LogRecord<'_>) -> Result<(), KafkaError> {
        let message = BaseRecord {
            topic: &self.topic.name,
            partition: i32::try_from(record.partition).ok(),
            payload: Some(if self.is_packed(record) {
                self.packed.as_slice()
            } else {
                record.value
            }),
            key: Some(self.key.as_slice()).filter(|key| !key.is_empty()),
            // The protocol has no times before 1970.
            timestamp: Some(self.stamped.1.0.max(0)),
            headers: None,
            delivery_opaque: record.index as usize,
        };
        self.producer.send(message).map_err(|(error, _)| error)
    }

    fn outstanding(&self) -> u64 {
        self.sent - self.producer.context().delivered()
    }

    /// Takes reports for as long as `timeout`, and looks at what they say.
    fn serve(&mut self, timeout: Duration) -> Result<(), GenerateError> {
        self.producer.poll(timeout);
        let reports = self.producer.context();
        if let Some(failure) = reports.failure() {
            return Err(self.failed(&failure));
        }
        if let Some((code, reason)) = reports.refusal() {
            return Err(self.broker(format!(
                "the broker refuses what is written: {code}: {reason}"
            )));
        }
        let delivered = reports.delivered();
        if delivered > self.seen.0 || delivered == self.sent {
            self.seen = (delivered, Instant::now());
        } else if self.seen.1.elapsed() > SILENCE {
            let complaint = reports
                .complaint()
                .unwrap_or_else(|| "no answer".to_owned());
            return Err(self.broker(format!(
                "brokers have taken {delivered} of {} records, and none for {SILENCE:?}: {complaint}",
                self.sent
            )));
        }
        Ok(())
    }

    fn failed(&self, failure: &Failure) -> GenerateError {
        let Failure { row, code, bytes } = failure;
        let hint = match code {
            Code::MessageSizeTooLarge => ": raise `max.message.bytes` of the topic",
            Code::TopicAuthorizationFailed => ": grant WRITE on the topic to this user",
            _ => "",
        };
        self.broker(format!(
            "event {row} ({bytes} bytes) was not taken: {code}{hint}"
        ))
    }

    fn broker(&self, reason: String) -> GenerateError {
        GenerateError::Broker {
            target: self.topic.to_string(),
            reason,
        }
    }

    /// Waits until everything is acknowledged.
    fn finish(&mut self) -> Result<(), GenerateError> {
        while self.outstanding() > 0 {
            self.serve(SHORT_POLL)?;
        }
        Ok(())
    }
}

impl LogWriter for TopicWriter<'_> {
    fn write(&mut self, record: &LogRecord<'_>) -> Result<(), GenerateError> {
        if self.stamped.0 != record.index {
            self.stamped = (record.index, self.log.time(record.index));
            self.key.clear();
            self.log.key(record.index, &mut self.key);
        }
        self.pack(record)?;
        while let Err(error) = self.send(record) {
            let code = code(&error);
            if code != Code::QueueFull || self.outstanding() == 0 {
                let (row, bytes) = (record.index as usize, record.value.len());
                return Err(self.failed(&Failure { row, code, bytes }));
            }
            self.serve(SHORT_POLL)?;
        }
        self.sent += 1;
        if self.sent.is_multiple_of(MESSAGES_PER_POLL) {
            self.serve(Duration::ZERO)?;
        }
        Ok(())
    }

    /// The client sends by itself; what it has to report is taken here.
    fn flush(&mut self) -> Result<(), GenerateError> {
        self.serve(Duration::ZERO)
    }
}
