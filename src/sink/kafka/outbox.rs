//! A producer with rows on their way to brokers: encodes, routes, sends, and waits for
//! acknowledgements.

use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, Producer as _};
use rdkafka::types::RDKafkaErrorCode as Code;

use super::Routing;
use super::producer::{Failure, Producer, Reports};
use super::topic::{Topic, code};
use crate::rows::Rows;
use crate::sink::encode::json::JsonEncoder;
use crate::sink::{OutputSpec, SinkContext, SinkError};

/// How many rows are sent between two looks at what brokers reported.
const ROWS_PER_POLL: usize = 256;
/// After how long without a report people are told.
pub(super) const SILENCE: Duration = Duration::from_secs(1);
const SHORTEST_PAUSE: Duration = Duration::from_micros(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// How many of the client's events are taken at a look: most are one report for a whole batch.
const EVENTS_PER_LOOK: usize = 16;

pub(super) struct Outbox {
    target: Target,
    pub producer: Producer,
    routing: Routing,
    encoder: JsonEncoder,
    context: SinkContext,
    message: Vec<u8>,
    /// How many messages the producer was given.
    sent: u64,
    wait: Wait,
    has_warned: bool,
}

/// The topic's name, and how messages call it.
struct Target {
    topic: String,
    uri: String,
    output: &'static str,
}

/// Since when brokers are silent.
struct Wait {
    delivered: u64,
    since: Instant,
    is_told: bool,
}

/// Why nothing more is sent of an epoch.
#[derive(Debug)]
pub(super) enum Halt {
    /// The run was aborted.
    Aborted,
    /// A message was not taken.
    Failure(Failure),
    /// No message at all will be taken.
    Refusal(Code, String),
}

impl Halt {
    /// Whether another producer would fare better: this one was fenced, or it has ended in a way
    /// that has nothing to do with what was sent.
    pub fn is_the_producer(&self) -> bool {
        match self {
            Self::Aborted => false,
            Self::Failure(Failure { code, .. }) | Self::Refusal(code, _) => !is_final(*code),
        }
    }
}

/// Whether brokers will say the same to each producer.
pub(super) fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::MessageSizeTooLarge
            | Code::InvalidMessageSize
            | Code::InvalidMessage
            | Code::QueueFull
            | Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::UnknownPartition
            | Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::UnsupportedSASLMechanism
            | Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::InvalidTransactionTimeout
            | Code::UnsupportedFeature
            | Code::UnsupportedVersion
    )
}

impl Outbox {
    pub fn new(
        topic: &Topic,
        producer: Producer,
        routing: Routing,
        output: &OutputSpec,
        context: &SinkContext,
    ) -> Self {
        let target = Target {
            topic: topic.name.clone(),
            uri: topic.to_string(),
            output: output.name,
        };
        Self {
            target,
            producer,
            routing,
            encoder: JsonEncoder::new(&output.columns),
            context: context.clone(),
            message: Vec::new(),
            sent: 0,
            wait: Wait {
                delivered: 0,
                since: Instant::now(),
                is_told: false,
            },
            has_warned: false,
        }
    }

    /// Encodes and sends all rows; returns how many bytes that were.
    pub fn send_all(&mut self, rows: &Rows) -> Result<u64, Halt> {
        self.wait.since = Instant::now();
        let mut bytes = 0;
        let mut message = std::mem::take(&mut self.message);
        for row in 0..rows.len() {
            message.clear();
            self.encoder.row(rows, row, &mut message);
            self.send(rows, row, &message)?;
            bytes += message.len() as u64;
            if row % ROWS_PER_POLL == ROWS_PER_POLL - 1 {
                self.look()?;
            }
        }
        self.message = message;
        Ok(bytes)
    }

    /// Waits until everything is acknowledged.
    pub fn wait_for_all(&mut self) -> Result<(), Halt> {
        while self.outstanding() > 0 {
            let pause = (self.wait.since.elapsed() / 8).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
            std::thread::sleep(pause);
            self.look()?;
        }
        // An idle client has something to say as well, and nobody else takes it.
        self.look()
    }

    pub fn reports(&self) -> &Reports {
        self.producer.context()
    }

    /// Whether people were told that it waits.
    pub fn has_told(&self) -> bool {
        self.wait.is_told
    }

    /// How many messages brokers have not acknowledged.
    pub fn outstanding(&self) -> u64 {
        self.sent - self.reports().delivered()
    }

    fn send(&mut self, rows: &Rows, row: usize, message: &[u8]) -> Result<(), Halt> {
        let key = Some(rows.message_key(row)).filter(|key| !key.is_empty());
        let origin = rows.origins.get(row).map(|origin| origin.partition.0);
        let partition = self.routing.partition(origin, key.is_some());
        self.warn_of_growth(origin);
        loop {
            let record = BaseRecord {
                topic: &self.target.topic,
                partition,
                payload: Some(message),
                key,
                timestamp: None,
                headers: None,
                delivery_opaque: row,
            };
            match self.producer.send(record) {
                Ok(()) => {
                    self.sent += 1;
                    return Ok(());
                }
                Err((error, _)) => self.not_queued(row, message.len(), &error)?,
            }
        }
    }

    /// Waits while the queue is full; anything else is final.
    fn not_queued(&mut self, row: usize, bytes: usize, error: &KafkaError) -> Result<(), Halt> {
        let code = code(error);
        if code == Code::QueueFull && self.outstanding() > 0 {
            std::thread::sleep(SHORTEST_PAUSE);
            return self.look();
        }
        Err(Halt::Failure(Failure { row, code, bytes }))
    }

    /// Partitions that the source got after the topic was made have no counterpart.
    fn warn_of_growth(&mut self, origin: Option<u32>) {
        if let (Routing::Origin(partitions), Some(origin)) = (self.routing, origin)
            && origin >= partitions
            && !self.has_warned
        {
            self.has_warned = true;
            eprintln!(
                "warning: output {}: the source has a partition {origin}, {} has {partitions} \
                 partitions: its rows go to partitions by their key",
                self.target.output, self.target.uri
            );
        }
    }

    /// Takes the reports that are there, and looks at what they say.
    pub fn look(&mut self) -> Result<(), Halt> {
        self.take_reports();
        if let Some(failure) = self.reports().failure() {
            return Err(Halt::Failure(failure));
        }
        if let Some((code, reason)) = self.reports().refusal() {
            return Err(Halt::Refusal(code, reason));
        }
        if self.context.is_aborted() {
            return Err(Halt::Aborted);
        }
        self.look_at_progress();
        Ok(())
    }

    /// Without a time-out: with one, the client's poll uses all of it whatever arrives, and burns
    /// the last millisecond.
    fn take_reports(&self) {
        for _ in 0..EVENTS_PER_LOOK {
            self.producer.poll(Duration::ZERO);
        }
    }

    fn look_at_progress(&mut self) {
        let delivered = self.reports().delivered();
        if delivered > self.wait.delivered || delivered == self.sent {
            self.wait.delivered = delivered;
            self.wait.since = Instant::now();
            if std::mem::take(&mut self.wait.is_told) {
                self.context.set_status(None);
            }
        } else if !self.wait.is_told && self.wait.since.elapsed() > SILENCE {
            self.wait.is_told = true;
            self.context.set_status(Some(self.waiting_for()));
        }
    }

    fn waiting_for(&self) -> String {
        let complaint = self.reports().complaint();
        let complaint = complaint.map_or_else(String::new, |complaint| format!(" ({complaint})"));
        let (uri, rows) = (&self.target.uri, self.outstanding());
        format!("{uri}: waiting for brokers to take {rows} rows{complaint}")
    }

    /// What to tell people.
    pub fn explain(&self, rows: &Rows, halt: Halt) -> SinkError {
        match halt {
            Halt::Aborted => SinkError::Aborted,
            Halt::Failure(failure) => self.failed(rows, &failure),
            Halt::Refusal(code, reason) => self.refused(code, &reason),
        }
    }

    fn failed(&self, rows: &Rows, failure: &Failure) -> SinkError {
        let reason = match failure.code {
            Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::InvalidMessage => {
                too_large(rows, failure)
            }
            Code::QueueFull => format!(
                "{} does not fit into the producer's queue: raise --kafka \
                 queue.buffering.max.kbytes=...",
                describe(rows, failure)
            ),
            Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
                "the topic or this partition of it does not exist any more: somebody has deleted or \
                 replaced it. Start the run again; it makes a missing topic"
                    .to_owned()
            }
            Code::MessageTimedOut => format!(
                "{} was not acknowledged within message.timeout.ms; without --kafka \
                 message.timeout.ms=... brokers are waited for",
                describe(rows, failure)
            ),
            code => return self.refused(code, &format!("{code}; {}", describe(rows, failure))),
        };
        SinkError::Write {
            target: self.target.uri.clone(),
            reason,
        }
    }

    /// Nothing more is taken from this producer.
    pub fn refused(&self, code: Code, reason: &str) -> SinkError {
        SinkError::Write {
            target: self.target.uri.clone(),
            reason: refusal(code, reason)
                .or_else(|| self.end())
                .unwrap_or_else(|| format!("the broker refuses what is written: {reason}")),
        }
    }

    fn end(&self) -> Option<String> {
        let (_, text) = self.producer.client().fatal_error()?;
        Some(format!(
            "the producer cannot go on without losing or doubling rows: {text}. Start the run \
             again: with a state it goes on from its last checkpoint"
        ))
    }
}

/// What to do about it, where that is known.
fn refusal(code: Code, reason: &str) -> Option<String> {
    Some(match code {
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            format!("writing is not allowed ({reason}): grant WRITE on the topic to this user")
        }
        Code::TransactionalIdAuthorizationFailed | Code::GroupAuthorizationFailed => format!(
            "to write exactly once is not allowed ({reason}): grant WRITE and DESCRIBE on \
             transactional ids, and READ on groups, that begin with `highwater-` to this user; or \
             run with --delivery at-least-once"
        ),
        Code::Authentication | Code::SaslAuthenticationFailed => format!(
            "the broker does not accept the credentials ({reason}): check --kafka \
             sasl.username=... and sasl.password=..."
        ),
        Code::InvalidTransactionTimeout => format!(
            "{reason}: --kafka transaction.timeout.ms=... is above what the brokers' setting \
             transaction.max.timeout.ms allows"
        ),
        Code::UnsupportedFeature | Code::UnsupportedVersion => format!(
            "{reason}: to write exactly once needs brokers of Kafka 2.5 or newer; others are \
             written to with --delivery at-least-once"
        ),
        _ => return None,
    })
}

/// Which row it was, for people who look for it.
fn describe(rows: &Rows, failure: &Failure) -> String {
    let Failure { row, bytes, .. } = failure;
    let place = match rows.origins.get(*row) {
        Some(origin) => {
            format!(
                "source partition {}, offset {}",
                origin.partition.0, origin.offset.0
            )
        }
        None if *row < rows.len() && !rows.message_key(*row).is_empty() => {
            format!("key `{}`", String::from_utf8_lossy(rows.message_key(*row)))
        }
        None => format!("number {row} of its epoch"),
    };
    format!("the row of {place} ({bytes} bytes)")
}

fn too_large(rows: &Rows, failure: &Failure) -> String {
    format!(
        "{} is larger than what the topic takes: raise `max.message.bytes` of the topic. (If it is \
         small, the batch around it was too large: set --kafka batch.size=... below that limit. \
         The producer's own limit is --kafka message.max.bytes=...)",
        describe(rows, failure)
    )
}
