//! The producer: its configuration, and what brokers reported.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, ProducerContext};
use rdkafka::types::RDKafkaErrorCode as Code;

use super::topic::{Topic, code};
use crate::sink::SinkError;

/// Values on which the order and the uniqueness of rows rest: no other is taken.
const GUARDED: [(&str, &[&str], &str); 6] = [
    (
        "enable.idempotence",
        &["true", "1", "yes", "on"],
        "without it, a broker that restarts would double and reorder rows",
    ),
    (
        "acks",
        &["all", "-1"],
        "a row counts as written when all replicas in sync have it",
    ),
    (
        "request.required.acks",
        &["all", "-1"],
        "a row counts as written when all replicas in sync have it",
    ),
    (
        "queuing.strategy",
        &["fifo"],
        "rows of a partition keep their order",
    ),
    (
        "delivery.report.only.error",
        &["false", "0", "no", "off"],
        "an epoch is committed when each of its rows is acknowledged",
    ),
    (
        "transactional.id",
        &[],
        "it is made of the job, the output and the shard",
    ),
];

/// Checks the user's properties, as far as that is the producer's business.
pub(super) fn check_properties(properties: &[(String, String)]) -> Result<(), SinkError> {
    for (key, value) in properties {
        let guarded = GUARDED.iter().find(|(guarded, ..)| guarded == key);
        let Some((_, taken, reason)) = guarded else {
            continue;
        };
        if !taken.iter().any(|taken| taken.eq_ignore_ascii_case(value)) {
            return Err(SinkError::Config(format!(
                "--kafka {key}=...: not to be changed for an output: {reason}"
            )));
        }
    }
    Ok(())
}

const OURS: [(&str, &str); 13] = [
    ("client.id", "highwater"),
    ("enable.idempotence", "true"),
    ("acks", "all"),
    ("partitioner", "murmur2_random"),
    // A topic that is deleted while it is written to must not come back with other settings.
    ("allow.auto.create.topics", "false"),
    // A broker that is away is waited for, however long that takes.
    ("message.timeout.ms", "0"),
    // An epoch ends with a wait for its last row: lingering would be most of it.
    ("linger.ms", "1"),
    // Bounded by bytes, as rows may be of any size; there is one queue per worker and output.
    ("queue.buffering.max.messages", "500000"),
    ("queue.buffering.max.kbytes", "65536"),
    // How large a row may be is the topic's business. Below what a broker takes as one request
    // (100 MiB, else it hangs up without a word) and below the queue.
    ("message.max.bytes", "33554432"),
    // Raising the one above must not make batches larger than what topics take by default.
    ("batch.size", "1000000"),
    // A broker that restarts is back within seconds.
    ("reconnect.backoff.max.ms", "1000"),
    ("retry.backoff.max.ms", "500"),
];

pub(super) type Producer = BaseProducer<Reports>;

/// What is different in a producer with transactions.
const TRANSACTIONAL: [(&str, &str); 2] = [
    // A client that has asked a dying broker for a group's coordinator asks again when some
    // connection comes or goes, and not before. A connection that idles goes after this time.
    ("connections.max.idle.ms", "5000"),
    // A transaction that follows the one before at once is told to wait for a moment.
    ("retry.backoff.ms", "10"),
];
/// Of a transaction's messages none may be waited for longer than the transaction lives, and the
/// client sees to that by itself.
const NOT_TRANSACTIONAL: &str = "message.timeout.ms";

/// An idempotent producer. Does not wait for a broker.
pub(super) fn create(topic: &Topic) -> Result<Producer, SinkError> {
    build(topic, config(topic, OURS))
}

/// A producer with transactions under this name. Does not wait for a broker.
pub(super) fn create_transactional(topic: &Topic, name: &str) -> Result<Producer, SinkError> {
    let ours = OURS.into_iter().chain(TRANSACTIONAL);
    let mut config = config(topic, ours.filter(|(key, _)| *key != NOT_TRANSACTIONAL));
    config.set("transactional.id", name);
    build(topic, config)
}

fn config(
    topic: &Topic,
    ours: impl IntoIterator<Item = (&'static str, &'static str)>,
) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &topic.brokers);
    for (key, value) in ours {
        config.set(key, value);
    }
    config
}

fn build(topic: &Topic, mut config: ClientConfig) -> Result<Producer, SinkError> {
    for (key, value) in &topic.properties {
        config.set(key, value);
    }
    config
        .create_with_context(Reports::default())
        .map_err(|error| config_error(&error))
}

/// Values never stand in messages: they may be secrets.
pub(super) fn config_error(error: &KafkaError) -> SinkError {
    SinkError::Config(match error {
        KafkaError::ClientConfig(_, _, key, _) => {
            format!("--kafka {key}=...: librdkafka refuses this value")
        }
        KafkaError::ClientCreation(text) => {
            format!("--kafka: librdkafka refuses these properties: {text}")
        }
        other => format!("the Kafka client cannot be made: {other}"),
    })
}

/// A message that no broker will take.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// Its row in the epoch.
    pub row: usize,
    pub code: Code,
    pub bytes: usize,
}

/// What came back from brokers.
#[derive(Default)]
pub(super) struct Reports {
    delivered: AtomicU64,
    failure: Mutex<Option<Failure>>,
    /// Why no message at all will be taken.
    refusal: Mutex<Option<(Code, String)>>,
    /// What the client complained of last, for those who wait.
    complaint: Mutex<Option<String>>,
}

impl Reports {
    /// How many messages brokers have acknowledged so far.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    pub fn failure(&self) -> Option<Failure> {
        get(&self.failure)
    }

    pub fn refusal(&self) -> Option<(Code, String)> {
        get(&self.refusal)
    }

    pub fn complaint(&self) -> Option<String> {
        get(&self.complaint)
    }

    /// A batch is refused as a whole for its largest message; that one is the one to name.
    fn failed(&self, failure: Failure) {
        let mut known = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        let is_worse = |known: &Failure| failure.code == known.code && failure.bytes > known.bytes;
        if known.as_ref().is_none_or(is_worse) {
            *known = Some(failure);
        }
    }
}

fn get<T: Clone>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn set<T>(slot: &Mutex<Option<T>>, value: T) {
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
}

impl ClientContext for Reports {
    /// The events below tell the kind of an error only; the log has the broker and the cause.
    fn log(&self, level: RDKafkaLogLevel, _: &str, line: &str) {
        use RDKafkaLogLevel::{Alert, Critical, Emerg, Error};
        if matches!(level, Emerg | Alert | Critical | Error) {
            // It begins with the name of a thread, in brackets.
            let text = line.split_once("]: ").map_or(line, |(_, text)| text);
            set(&self.complaint, text.to_owned());
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = code(&error);
        if matches!(
            code,
            Code::Fatal
                | Code::Authentication
                | Code::SaslAuthenticationFailed
                | Code::UnsupportedSASLMechanism
                | Code::ClusterAuthorizationFailed
        ) {
            set(&self.refusal, (code, reason.to_owned()));
        }
    }
}

impl ProducerContext for Reports {
    /// The message's row.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, row: usize) {
        match result {
            Ok(_) => {
                self.delivered.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, message)) => {
                let bytes = message.payload_len();
                self.failed(Failure {
                    row,
                    code: code(error),
                    bytes,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guarded_properties_take_the_value_that_they_have_anyway() {
        let check = |key: &str, value: &str| {
            let properties = [(key.to_owned(), value.to_owned())];
            check_properties(&properties).map_err(|error| error.to_string())
        };
        assert_eq!(check("enable.idempotence", "TRUE"), Ok(()));
        assert_eq!(check("request.required.acks", "all"), Ok(()));
        for (key, value) in [
            ("enable.idempotence", "false"),
            ("acks", "0"),
            ("queuing.strategy", "lifo"),
            ("delivery.report.only.error", "true"),
            ("transactional.id", "me"),
        ] {
            assert!(check(key, value).unwrap_err().contains(key));
        }
    }

    #[test]
    fn the_largest_message_of_a_refused_batch_is_named() {
        let reports = Reports::default();
        let code = Code::MessageSizeTooLarge;
        for (row, bytes) in [(0, 10), (1, 900), (2, 20)] {
            reports.failed(Failure { row, code, bytes });
        }
        reports.failed(Failure {
            row: 3,
            code: Code::PurgeQueue,
            bytes: 9999,
        });
        assert_eq!(reports.failure().unwrap().row, 1);
    }
}
