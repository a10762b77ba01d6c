//! The topic: whether it is there, and how it comes into being.

use std::fmt;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;

use super::producer;
use crate::sink::SinkError;
use crate::source::kafka::{KafkaOptions, KafkaSource};
use crate::source::{Source, SourceError};

const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// A topic, and how to reach it. Without `Debug`: properties may hold secrets.
#[derive(Clone)]
pub(super) struct Topic {
    pub brokers: String,
    pub name: String,
    pub properties: Vec<(String, String)>,
    connect_timeout: Duration,
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kafka://{}/{}", self.brokers, self.name)
    }
}

impl Topic {
    pub fn new(
        brokers: String,
        name: String,
        properties: &[(String, String)],
        connect_timeout: Duration,
    ) -> Self {
        Self {
            brokers,
            name,
            properties: properties.to_vec(),
            connect_timeout,
        }
    }

    /// Whether clients can be made with these properties; nothing is connected.
    pub fn check_options(&self) -> Result<(), SinkError> {
        let nowhere = self.nowhere();
        nowhere.as_source()?;
        producer::create(&nowhere).map(|_| ())
    }

    /// The same for producers with transactions.
    pub fn check_transactional_options(&self) -> Result<(), SinkError> {
        producer::create_transactional(&self.nowhere(), "check").map(|_| ())
    }

    /// Without an address, clients have nobody to connect to.
    fn nowhere(&self) -> Self {
        Self {
            brokers: String::new(),
            ..self.clone()
        }
    }

    /// The topic as an input: what reading and writing have in common is in one place. A consumer
    /// can ask for a topic without bringing it into being; a producer cannot.
    fn as_source(&self) -> Result<KafkaSource, SinkError> {
        let options = KafkaOptions {
            properties: self.properties.clone(),
            connect_timeout: self.connect_timeout,
            ..KafkaOptions::new(&self.brokers, &self.name)
        };
        KafkaSource::new(options).map_err(|error| self.sink_error(error))
    }

    /// How many partitions the topic has; `None`: there is no such topic.
    pub fn partitions(&self) -> Result<Option<u32>, SinkError> {
        match self.as_source()?.partitions() {
            Ok(partitions) => Ok(Some(partitions.len() as u32)),
            Err(SourceError::Missing(_)) => Ok(None),
            Err(error) => Err(self.sink_error(error)),
        }
    }

    fn sink_error(&self, error: SourceError) -> SinkError {
        match error {
            SourceError::Config(text) | SourceError::Missing(text) => SinkError::Config(text),
            SourceError::Changed { how, .. } => SinkError::Config(how),
            SourceError::Unreachable { target, reason } => {
                SinkError::Unreachable { target, reason }
            }
            SourceError::Read { reason, .. } | SourceError::Gone { reason, .. } => {
                SinkError::Write {
                    target: self.to_string(),
                    reason,
                }
            }
        }
    }

    /// Makes the topic, waits until brokers know it, and returns how many partitions it has:
    /// another one when somebody else was faster.
    pub fn create(&self, partitions: u32) -> Result<u32, SinkError> {
        self.create_with(partitions, &[])
    }

    /// The same for a topic of which brokers keep the last message of each key.
    pub fn create_compacted(&self, partitions: u32) -> Result<u32, SinkError> {
        self.create_with(partitions, &[("cleanup.policy", "compact")])
    }

    fn create_with(
        &self,
        partitions: u32,
        settings: &'static [(&str, &str)],
    ) -> Result<u32, SinkError> {
        let deadline = Instant::now() + self.connect_timeout;
        let answer = block_on(self.ask_to_create(partitions, settings)?, deadline);
        match answer {
            Some(None | Some(Code::TopicAlreadyExists)) => {}
            Some(Some(code)) => return Err(self.not_created(code, partitions)),
            None => return Err(self.unreachable("the broker does not answer")),
        }
        loop {
            if let Some(partitions) = self.partitions()? {
                return Ok(partitions);
            }
            if Instant::now() >= deadline {
                return Err(self.unreachable("the topic was created, but no broker knows it yet"));
            }
            std::thread::sleep(RETRY_PAUSE);
        }
    }

    /// The future tells what the broker had against it.
    fn ask_to_create(
        &self,
        partitions: u32,
        settings: &'static [(&str, &str)],
    ) -> Result<impl Future<Output = Option<Code>>, SinkError> {
        let mut config = ClientConfig::new();
        config
            .set("client.id", "highwater")
            .set("bootstrap.servers", &self.brokers);
        for (key, value) in &self.properties {
            config.set(key, value);
        }
        let client: AdminClient<DefaultClientContext> = config
            .create()
            .map_err(|error| producer::config_error(&error))?;
        let (name, timeout) = (self.name.clone(), self.connect_timeout);
        Ok(async move {
            // Results carry the times of events, and retention goes by these: with the default of
            // seven days, the broker would delete history as fast as it is written.
            let topic = NewTopic::new(&name, partitions.cast_signed(), TopicReplication::Fixed(-1))
                .set("retention.ms", "-1");
            let topic = settings
                .iter()
                .fold(topic, |topic, (key, value)| topic.set(key, value));
            let options = AdminOptions::new()
                .request_timeout(Some(timeout))
                .operation_timeout(Some(timeout));
            match client.create_topics([&topic], &options).await {
                Ok(answers) => answers
                    .into_iter()
                    .find_map(|answer| answer.err().map(|it| it.1)),
                Err(error) => Some(error.rdkafka_error_code().unwrap_or(Code::Fail)),
            }
        })
    }

    fn not_created(&self, code: Code, partitions: u32) -> SinkError {
        if matches!(
            code,
            Code::OperationTimedOut | Code::RequestTimedOut | Code::BrokerTransportFailure
        ) {
            return self.unreachable(&code.to_string());
        }
        let what = match code {
            Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
                "creating it is not allowed".to_owned()
            }
            other => format!("the broker refuses to create it: {other}"),
        };
        let Self { brokers, name, .. } = self;
        self.failed(format!(
            "{what}. Create it by hand: kafka-topics.sh --bootstrap-server {brokers} --create \
             --topic {name} --partitions {partitions} --config retention.ms=-1"
        ))
    }

    fn unreachable(&self, reason: &str) -> SinkError {
        let waited = self.connect_timeout;
        SinkError::Unreachable {
            target: self.to_string(),
            reason: format!("{reason} (waited {waited:?}). Check that the broker runs"),
        }
    }

    /// Writing failed for this reason.
    pub fn failed(&self, reason: String) -> SinkError {
        SinkError::Write {
            target: self.to_string(),
            reason,
        }
    }
}

/// What librdkafka says of a failure, as a code.
pub(super) fn code(error: &KafkaError) -> Code {
    error.rdkafka_error_code().unwrap_or(Code::Fail)
}

/// The output of `future`, or `None` after `deadline`. One short future at the start of a run is
/// no reason for an executor.
fn block_on<F: Future>(future: F, deadline: Instant) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(RETRY_PAUSE);
    }
}
