//! The configuration of librdkafka clients, and what they say in trouble.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError;

use super::{Isolation, KafkaOptions};
use crate::source::SourceError;

/// Keeps the client's last complaint, for the message of an error that has none.
#[derive(Default)]
pub(super) struct Context {
    complaint: Mutex<Option<String>>,
}

impl Context {
    pub fn complaint(&self) -> Option<String> {
        self.complaint
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl ClientContext for Context {
    /// The client's events tell the kind of an error only; its log has the broker and the cause.
    fn log(&self, level: RDKafkaLogLevel, _: &str, line: &str) {
        use RDKafkaLogLevel::{Alert, Critical, Emerg, Error};
        if matches!(level, Emerg | Alert | Critical | Error) {
            // It begins with the name of a thread, in brackets.
            let text = line.split_once("]: ").map_or(line, |(_, text)| text);
            let mut complaint = self
                .complaint
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *complaint = Some(text.to_owned());
        }
    }
}

impl ConsumerContext for Context {}

/// Properties on which the meaning of this source rests, and what to use instead.
const OWNED: [(&str, &str); 10] = [
    ("bootstrap.servers", "name the brokers in the URI"),
    ("metadata.broker.list", "name the brokers in the URI"),
    ("group.id", "use --group"),
    (
        "enable.auto.commit",
        "offsets are committed when every sink has committed",
    ),
    (
        "enable.auto.offset.store",
        "offsets are committed when every sink has committed",
    ),
    (
        "enable.partition.eof",
        "the end of partitions decides when they are idle",
    ),
    ("auto.offset.reset", "use --start"),
    (
        "allow.auto.create.topics",
        "a misspelt topic must not come into being",
    ),
    (
        "isolation.level",
        "rows of transactions that were given up, and come again, are not read",
    ),
    (
        "group.protocol",
        "partitions are assigned by the engine, not by a group",
    ),
];

/// The property with which librdkafka itself looks for new partitions; here too.
const METADATA_REFRESH: &str = "topic.metadata.refresh.interval.ms";
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(5);

/// Checks the user's properties without connecting.
pub(super) fn check_properties(properties: &[(String, String)]) -> Result<(), SourceError> {
    for (key, value) in properties {
        if let Some((_, instead)) = OWNED.iter().find(|(owned, _)| owned == key) {
            let message = format!("--kafka {key}=...: set by highwater itself; {instead}");
            return Err(SourceError::Config(message));
        }
        if needs_tls(key, value) && !cfg!(feature = "kafka-tls") {
            return Err(SourceError::Config(format!(
                "--kafka {key}=...: this build cannot do TLS or SASL; build highwater with \
                 `--features kafka-tls`"
            )));
        }
    }
    Ok(())
}

fn needs_tls(key: &str, value: &str) -> bool {
    let plaintext = value.eq_ignore_ascii_case("plaintext");
    key.starts_with("ssl.")
        || key.starts_with("sasl.")
        || key == "enable.ssl.certificate.verification"
        || (key == "security.protocol" && !plaintext)
}

/// How often to look for new partitions.
pub(super) fn discovery_interval(options: &KafkaOptions) -> Duration {
    let given = options
        .properties
        .iter()
        .rev()
        .find(|(key, _)| key == METADATA_REFRESH);
    let ms = given
        .and_then(|(_, value)| value.parse().ok())
        .filter(|ms| *ms > 0);
    ms.map_or(DISCOVERY_INTERVAL, Duration::from_millis)
}

/// A client that reads by assignment.
pub(super) fn consumer(options: &KafkaOptions) -> Result<BaseConsumer<Context>, SourceError> {
    let mut config = ClientConfig::new();
    let isolation = match options.isolation {
        Isolation::ReadCommitted => "read_committed",
        Isolation::ReadUncommitted => "read_uncommitted",
    };
    // Without a group librdkafka does not assign; nothing is committed to this one.
    let group = options.group.as_deref().unwrap_or("highwater");
    let ours = [
        ("client.id", "highwater"),
        ("bootstrap.servers", &options.brokers),
        ("group.id", group),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("enable.partition.eof", "true"),
        ("auto.offset.reset", "error"),
        ("allow.auto.create.topics", "false"),
        ("isolation.level", isolation),
        // Fetching ahead goes on while the worker is busy, and stops by itself when the queue
        // of a partition is full; a second of waiting then (the default) would starve us.
        ("queued.min.messages", "100000"),
        ("queued.max.messages.kbytes", "16384"),
        ("fetch.queue.backoff.ms", "10"),
        // A broker that restarts is back within seconds.
        ("reconnect.backoff.max.ms", "1000"),
        ("fetch.error.backoff.ms", "100"),
    ];
    for (key, value) in ours {
        config.set(key, value);
    }
    for (key, value) in &options.properties {
        config.set(key, value);
    }
    config
        .create_with_context(Context::default())
        .map_err(config_error)
}

/// Values never stand in messages: they may be secrets.
fn config_error(error: KafkaError) -> SourceError {
    SourceError::Config(match error {
        KafkaError::ClientConfig(_, description, key, _)
            if description.contains("No such configuration property") =>
        {
            format!("--kafka {key}=...: librdkafka has no such property")
        }
        KafkaError::ClientConfig(_, _, key, _) => {
            format!("--kafka {key}=...: librdkafka refuses this value")
        }
        other => format!("the Kafka client cannot be made: {other}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: &str, value: &str) -> Option<String> {
        let checked = check_properties(&[(key.to_owned(), value.to_owned())]);
        checked.err().map(|error| error.to_string())
    }

    #[test]
    fn properties_that_are_ours_are_refused() {
        assert!(check("group.id", "x").expect("refused").contains("--group"));
        assert!(
            check("auto.offset.reset", "latest")
                .expect("refused")
                .contains("--start")
        );
        assert_eq!(check("fetch.wait.max.ms", "10"), None);
        assert_eq!(check("security.protocol", "PLAINTEXT"), None);
    }

    #[test]
    #[cfg(not(feature = "kafka-tls"))]
    fn tls_and_sasl_name_the_feature_and_no_secret() {
        for key in ["ssl.key.password", "sasl.password", "security.protocol"] {
            let message = check(key, "SASL_hunter2").expect("refused");
            assert!(
                message.contains("kafka-tls") && message.contains(key),
                "{message}"
            );
            assert!(!message.contains("hunter2"));
        }
    }

    #[test]
    fn what_librdkafka_refuses_is_named_without_its_value() {
        for (key, reason) in [
            ("no.such.key", "no such property"),
            ("fetch.wait.max.ms", "refuses"),
        ] {
            let mut options = KafkaOptions::new("127.0.0.1:1", "topic");
            options.properties = vec![(key.to_owned(), "hunter2".to_owned())];
            let message = consumer(&options).err().expect("refused").to_string();
            assert!(
                message.contains(key) && message.contains(reason),
                "{message}"
            );
            assert!(!message.contains("hunter2"));
        }
    }
}
