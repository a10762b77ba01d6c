//! `kafka://HOST:PORT[,HOST:PORT]/TOPIC`: a topic of JSON messages.
//!
//! One message per row: the output's own columns (a window row also has its pane and diff), under
//! the key that the pipeline gives the row.
//!
//! Which partition a row goes to:
//!
//! | rows | topic | partition |
//! |---|---|---|
//! | per record | as many partitions as the source | that of the record |
//! | per record, with a key | another number | murmur2 of the key, as Kafka's own clients do |
//! | per record, no key | another number | the record's, modulo: each partition stays in order |
//! | windows, with a key | any | murmur2 of the key |
//! | no key | any | any |
//!
//! # Exactly once
//!
//! In a job with a state each shard of the output has a producer of its own, and each epoch of a
//! shard is one transaction: its rows, and its number as the committed offset of a consumer group
//! (partition 0 of the topic, since brokers take no offset of a partition that does not exist;
//! offset = epoch + 1, metadata `epoch E run R`). Producer and group have the same name, a function
//! of job, output, topic and shard: `highwater-JOB-OUTPUT.kafka-TOPIC-SHARD`. How that survives
//! crashes, late runs and lost answers is told in [`commit::topic`](super::commit::topic).
//!
//! | what | |
//! |---|---|
//! | needed of brokers | Kafka 2.5 or newer; `offsets.retention.minutes` (seven days) longer than the longest rest of a job |
//! | needed of rights | WRITE on the topic; WRITE and DESCRIBE on transactional ids, READ on groups, that begin with `highwater-` |
//! | asked of readers | `isolation.level=read_committed` (the default of Kafka's own tools is not): others also see rows of transactions that were given up |
//! | readers wait | for an epoch's commit; after a crash until the next run starts, at most `transaction.timeout.ms` (60 s) |
//! | not noticed | what others write into the topic, or an earlier job of `--fresh` has left there |
//!
//! Measured with a broker on the same two cores: a transaction takes 6 to 9 ms, an epoch of eight
//! shards 24 ms (67 ms one after the other, 19 ms without transactions), since each shard has a
//! thread of its own; eight producers take 7 MB, and 0.4 s to start.
//!
//! # At least once
//!
//! Without a state each sink has one idempotent producer, so that a broker which dies and comes
//! back neither doubles nor loses nor reorders what was sent; an epoch is committed when all of its
//! messages are acknowledged by all replicas in sync. A run that is started again sends its input's
//! rows again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use self::address::Address;
pub use self::compacted::{CompactedTopics, KeyedMessage};
pub use self::generated::LogTopic;
use self::outbox::Outbox;
use self::sink::KafkaSink;
use self::topic::Topic;
use self::transactions::KafkaTransactions;
use super::commit::topic::TopicCommitter;
use super::{
    EpochRows, Guarantee, JobContext, OutputKind, OutputSpec, Sink, SinkContext, SinkError,
    SinkFactory, Written, sink_id,
};
use crate::time::{Epoch, Shard};

mod address;
mod compacted;
mod generated;
mod outbox;
mod producer;
mod sink;
mod topic;
mod transactions;

/// What `kafka:` means.
pub struct KafkaFactory {
    topic: Topic,
    shards: u32,
    /// How each output that was prepared finds its partitions.
    routings: Mutex<BTreeMap<&'static str, Routing>>,
}

/// How a row finds its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Routing {
    /// The number of the record's own partition, below this one.
    Origin(u32),
    /// By key; without one by the record's own partition, modulo this number.
    Key(u32),
    /// By key; without one anywhere.
    Any,
}

impl KafkaFactory {
    /// Messages in the topic that `uri` names. `properties` are librdkafka's; `connect_timeout`:
    /// how long brokers may be out of reach at the start. Does not connect.
    ///
    /// # Errors
    /// When the URI is not understood, or a property is unknown, needs a feature that this build
    /// lacks, or would break the order or the uniqueness of rows.
    pub fn new(
        uri: &str,
        properties: &[(String, String)],
        connect_timeout: Duration,
    ) -> Result<Self, SinkError> {
        let Address {
            brokers,
            topic,
            shards,
        } = address::parse(uri)?;
        producer::check_properties(properties)?;
        let topic = Topic::new(brokers, topic, properties, connect_timeout);
        topic.check_options()?;
        Ok(Self {
            topic,
            shards,
            routings: Mutex::default(),
        })
    }

    fn routing(&self, output: &OutputSpec) -> Routing {
        let routings = self.routings.lock().unwrap_or_else(PoisonError::into_inner);
        routings.get(output.name).copied().unwrap_or(Routing::Any)
    }
}

impl SinkFactory for KafkaFactory {
    fn identity(&self) -> String {
        // As it is, since two names that differ must not become one: they have the same producers.
        format!("kafka-{}", self.topic.name)
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn shards(&self) -> u32 {
        self.shards
    }

    fn check(&self, _output: &OutputSpec) -> Result<String, SinkError> {
        let found = self.topic.partitions()?;
        let what = match found {
            Some(1) => "1 partition".to_owned(),
            Some(partitions) => format!("{partitions} partitions"),
            None => "would be created, with as many partitions as the source".to_owned(),
        };
        Ok(format!("{}: {what}", self.topic))
    }

    fn prepare(
        &self,
        output: &OutputSpec,
        partitions: u32,
        job: Option<&JobContext>,
    ) -> Result<(), SinkError> {
        if job.is_some() {
            self.topic.check_transactional_options()?;
        }
        let source = partitions.max(1);
        let found = match self.topic.partitions()? {
            Some(found) => found,
            None => self.topic.create(source)?,
        };
        let routing = Routing::of(output, source, found);
        if let Routing::Key(_) = routing {
            eprintln!(
                "warning: output {}: {} has {found} partitions, the source has {source}: rows go to \
                 partitions by their key, and the order of a source partition is not kept. To keep \
                 it, write to a topic with {source} partitions",
                output.name, self.topic
            );
        }
        let mut routings = self.routings.lock().unwrap_or_else(PoisonError::into_inner);
        routings.insert(output.name, routing);
        Ok(())
    }

    fn open(
        &self,
        output: &OutputSpec,
        shards: &[Shard],
        context: &SinkContext,
    ) -> Result<Box<dyn Sink>, SinkError> {
        let routing = self.routing(output);
        let Some(job) = context.exactly_once() else {
            let producer = producer::create(&self.topic)?;
            let outbox = Outbox::new(&self.topic, producer, routing, output, context);
            return Ok(Box::new(KafkaSink { outbox }));
        };
        let sink = sink_id(output.name, &self.identity());
        let transactions =
            KafkaTransactions::new(&self.topic, routing, output, context, job, &sink);
        let committer = TopicCommitter::open(transactions, Arc::clone(job), sink, shards)?;
        Ok(Box::new(TransactionalSink { committer }))
    }

    /// A transaction is mostly waiting for brokers, one answer after the other.
    fn commits_shards_apart(&self, context: &SinkContext) -> bool {
        context.exactly_once().is_some()
    }
}

/// Some shards of an output in a topic, with transactions.
struct TransactionalSink {
    committer: TopicCommitter<KafkaTransactions>,
}

impl Sink for TransactionalSink {
    fn commit(&mut self, epoch: &EpochRows) -> Result<Written, SinkError> {
        self.committer.commit(epoch)
    }

    fn committed(&self, shard: Shard) -> Option<Epoch> {
        self.committer.committed(shard)
    }

    /// Every epoch was committed when its turn came.
    fn close(&mut self) -> Result<Written, SinkError> {
        Ok(Written::default())
    }
}

impl Routing {
    /// `source`, `topic`: how many partitions each has.
    fn of(output: &OutputSpec, source: u32, topic: u32) -> Self {
        match output.kind {
            OutputKind::Records { .. } if source == topic => Self::Origin(topic),
            OutputKind::Records { .. } => Self::Key(topic),
            OutputKind::Windows { .. } | OutputKind::Log => Self::Any,
        }
    }

    /// The partition of a row that comes from partition `origin` and has a key or not; `None`: the
    /// producer's partitioner decides.
    fn partition(self, origin: Option<u32>, has_key: bool) -> Option<i32> {
        let partition = match (self, origin?) {
            (Self::Origin(partitions), origin) if origin < partitions => origin,
            // The source has got partitions that the topic has not.
            (Self::Origin(partitions) | Self::Key(partitions), origin) if !has_key => {
                origin % partitions
            }
            _ => return None,
        };
        i32::try_from(partition).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(kind: OutputKind) -> OutputSpec {
        OutputSpec {
            pipeline: "test",
            name: "rows",
            columns: Vec::new().into(),
            kind,
            layout: super::super::Layout::Flat,
        }
    }

    #[test]
    fn records_keep_their_partition_where_the_topic_has_as_many() {
        let records = output(OutputKind::Records {
            source: "in".to_owned(),
        });
        let kept = Routing::of(&records, 4, 4);
        assert_eq!(kept.partition(Some(3), true), Some(3));
        assert_eq!(kept.partition(Some(3), false), Some(3));
        // A partition that came into being later.
        assert_eq!(kept.partition(Some(4), true), None);
        assert_eq!(kept.partition(Some(5), false), Some(1));

        let by_key = Routing::of(&records, 4, 3);
        assert_eq!(by_key.partition(Some(0), true), None);
        assert_eq!(by_key.partition(Some(3), false), Some(0));
    }

    #[test]
    fn windows_go_by_key() {
        for kind in [
            OutputKind::Log,
            OutputKind::Windows {
                key: Vec::new(),
                keep: crate::time::Span(0),
            },
        ] {
            let routing = Routing::of(&output(kind), 4, 4);
            assert_eq!(routing.partition(None, true), None);
            assert_eq!(routing.partition(None, false), None);
        }
    }

    fn refused(uri: &str, properties: &[(&str, &str)]) -> String {
        let properties: Vec<_> = properties
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        match KafkaFactory::new(uri, &properties, Duration::from_secs(1)) {
            Err(SinkError::Config(text)) => text,
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("{uri} {properties:?} was taken"),
        }
    }

    #[test]
    fn what_cannot_work_is_refused_before_anything_is_connected() {
        assert!(refused("kafka://h:1/a b", &[]).contains("name of a topic"));
        let uri = "kafka://127.0.0.1:1/rows";
        assert!(refused(uri, &[("no.such.key", "hunter2")]).contains("no such property"));
        assert!(refused(uri, &[("linger.ms", "hunter2")]).contains("--kafka linger.ms"));
        assert!(refused(uri, &[("acks", "1")]).contains("replicas"));
        assert!(refused(uri, &[("bootstrap.servers", "h")]).contains("URI"));
        for key in ["no.such.key", "linger.ms", "acks", "transactional.id"] {
            assert!(
                !refused(uri, &[(key, "hunter2")]).contains("hunter2"),
                "{key}"
            );
        }
    }

    #[test]
    fn what_only_the_producer_refuses_is_refused_as_early() {
        let message = refused("kafka://127.0.0.1:1/rows", &[("max.in.flight", "6")]);
        assert!(message.contains("max.in.flight"), "{message}");
    }

    #[test]
    #[cfg(not(feature = "kafka-tls"))]
    fn tls_and_sasl_name_the_feature_and_no_secret() {
        for key in ["ssl.key.password", "sasl.password"] {
            let message = refused("kafka://127.0.0.1:1/rows", &[(key, "hunter2")]);
            assert!(
                message.contains("kafka-tls") && message.contains(key),
                "{message}"
            );
            assert!(!message.contains("hunter2"));
        }
    }

    #[test]
    fn other_properties_are_taken() {
        let properties = [
            ("linger.ms", "50"),
            ("acks", "-1"),
            ("compression.type", "zstd"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let uri = "kafka://127.0.0.1:1/rows?shards=3";
        let factory = KafkaFactory::new(uri, &properties, Duration::from_secs(1)).unwrap();
        assert_eq!(factory.shards(), 3);
    }
}
