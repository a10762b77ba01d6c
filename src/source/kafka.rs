//! Kafka topics.
//!
//! Partitions are assigned, never subscribed to: which worker reads what is the engine's business,
//! and so is the position. Each reader has one client, one thread that takes messages out of the
//! queues of its partitions, and one that asks brokers for what takes time (where a partition
//! begins and ends, whether a broker still answers). A partition whose feed is full is left alone;
//! the client stops fetching for it by itself.
//!
//! The end of a partition is what the client's own event says, never arithmetic on offsets:
//! transaction markers and compaction leave gaps that are never delivered. Gaps are counted.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::BaseConsumer;

use self::client::Context;
use self::reader::KafkaReader;
pub use self::table::{TopicMessage, read_topic};
use super::{Partition, Reader, Source, SourceError, Start, Until};

mod ask;
mod client;
mod metadata;
mod position;
mod queue;
mod reader;
mod table;

/// Which records of transactions are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Those of committed transactions, up to the first one that is still open.
    #[default]
    ReadCommitted,
    /// All.
    ReadUncommitted,
}

/// What to read, and how.
#[derive(Clone)]
pub struct KafkaOptions {
    /// Addresses of some brokers: `HOST:PORT[,HOST:PORT]`.
    pub brokers: String,
    /// The topic.
    pub topic: String,
    /// Properties of librdkafka. May hold secrets, so there is no `Debug` here.
    pub properties: Vec<(String, String)>,
    /// The consumer group to which committed positions are reported, for lag tools.
    pub group: Option<String>,
    /// Where to begin in a partition without a recorded position.
    pub start: Start,
    /// When the input counts as ended.
    pub until: Until,
    /// How long brokers may be out of reach at the start.
    pub connect_timeout: Duration,
    /// Which records of transactions are read.
    pub isolation: Isolation,
}

impl KafkaOptions {
    /// All of a topic, and then what comes: the defaults.
    pub fn new(brokers: &str, topic: &str) -> Self {
        Self {
            brokers: brokers.to_owned(),
            topic: topic.to_owned(),
            properties: Vec::new(),
            group: None,
            start: Start::Earliest,
            until: Until::Forever,
            connect_timeout: Duration::from_secs(10),
            isolation: Isolation::default(),
        }
    }

    /// What messages call a partition.
    fn partition_name(&self, partition: i32) -> String {
        format!("{}[{partition}]", self.topic)
    }
}

/// A topic.
pub struct KafkaSource {
    options: Arc<KafkaOptions>,
    client: BaseConsumer<Context>,
}

impl KafkaSource {
    /// A source of the topic's messages. Does not wait for a broker.
    ///
    /// # Errors
    /// When the topic's name or a property is not valid, or needs a feature that is off.
    pub fn new(options: KafkaOptions) -> Result<Self, SourceError> {
        check_topic(&options.topic)?;
        client::check_properties(&options.properties)?;
        let client = client::consumer(&options)?;
        Ok(Self {
            options: Arc::new(options),
            client,
        })
    }
}

impl Source for KafkaSource {
    fn name(&self) -> String {
        self.options.topic.clone()
    }

    fn partitions(&self) -> Result<Vec<Partition>, SourceError> {
        metadata::partitions(&self.client, &self.options)
    }

    fn discovery_interval(&self) -> Option<Duration> {
        let interval = client::discovery_interval(&self.options);
        (self.options.until == Until::Forever).then_some(interval)
    }

    fn reader(&self) -> Result<Box<dyn Reader>, SourceError> {
        Ok(Box::new(KafkaReader::new(Arc::clone(&self.options))?))
    }

    fn check(&self) -> Result<String, SourceError> {
        let partitions = self.partitions()?.len();
        let KafkaOptions { brokers, topic, .. } = &*self.options;
        let plural = if partitions == 1 {
            "partition"
        } else {
            "partitions"
        };
        Ok(format!("kafka://{brokers}/{topic}: {partitions} {plural}"))
    }
}

fn check_topic(topic: &str) -> Result<(), SourceError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if topic.is_empty() || topic.len() > 249 || !topic.chars().all(legal) {
        return Err(SourceError::Config(format!(
            "`{topic}` cannot be the name of a topic: 1 to 249 letters, digits, `.`, `_` and `-`"
        )));
    }
    Ok(())
}
