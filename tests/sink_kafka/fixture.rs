//! Topics, rows, and a reader of its own.

use std::future::Future;
use std::pin::pin;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use highwater::rows::{Column, ColumnType, Origin, RowWriter, Rows, Tabular};
use highwater::sink::kafka::KafkaFactory;
use highwater::sink::{EpochRows, Layout, OutputKind, OutputSpec, Sink, SinkContext, SinkFactory};
use highwater::time::{Epoch, EventTime, Offset, PartitionId, Shard, Span};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Tests run side by side; one that kills the broker runs alone.
static BROKER: RwLock<()> = RwLock::new(());

pub fn shared() -> RwLockReadGuard<'static, ()> {
    BROKER
        .read()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The broker, for a test that kills it.
pub struct Alone {
    _guard: RwLockWriteGuard<'static, ()>,
}

pub fn alone() -> Alone {
    let guard = BROKER.write();
    Alone {
        _guard: guard.unwrap_or_else(std::sync::PoisonError::into_inner),
    }
}

impl Drop for Alone {
    /// Other tests need the broker, also when this one has failed while it was gone.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = dev_services("start").status();
        }
    }
}

pub fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!(
            "{name} is not set: run dev/test, or dev/services up --only kafka and then \
             eval \"$(dev/services env)\""
        )
    })
}

pub fn brokers() -> String {
    variable("HIGHWATER_TEST_KAFKA")
}

/// `kill` or `start` the broker.
pub fn service(verb: &str) {
    let status = dev_services(verb).status();
    assert!(
        status.expect("dev/services runs").success(),
        "dev/services {verb} kafka"
    );
}

fn dev_services(verb: &str) -> Command {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/dev/services");
    let folder = variable("HIGHWATER_SERVICES_DIR");
    let mut command = Command::new(script);
    command.args([verb, "kafka", "--dir", &folder]);
    command
}

/// A name that no other test, and no earlier run, has.
pub fn new_topic(test: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    format!("sink-{test}-{}-{count}", now.as_nanos())
}

pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    let begin = Instant::now();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        assert!(begin.elapsed() < PATIENCE, "no answer");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn admin() -> AdminClient<DefaultClientContext> {
    ClientConfig::new()
        .set("bootstrap.servers", brokers())
        .create()
        .unwrap()
}

pub fn create_topic(topic: &str, partitions: i32, settings: &[(&str, &str)]) {
    let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    for (key, value) in settings {
        new = new.set(key, value);
    }
    let options = AdminOptions::new().operation_timeout(Some(CONNECT_TIMEOUT));
    for answer in block_on(admin().create_topics([&new], &options)).unwrap() {
        answer.unwrap();
    }
}

pub fn delete_topic(topic: &str) {
    let options = AdminOptions::new().operation_timeout(Some(CONNECT_TIMEOUT));
    for answer in block_on(admin().delete_topics(&[topic], &options)).unwrap() {
        answer.unwrap();
    }
}

pub fn setting(topic: &str, key: &str) -> Option<String> {
    let resource = ResourceSpecifier::Topic(topic);
    let admin = admin();
    let mut answers = block_on(admin.describe_configs([&resource], &AdminOptions::new())).unwrap();
    answers
        .remove(0)
        .unwrap()
        .get(key)
        .and_then(|entry| entry.value.clone())
}

/// The topics that are there now; asking for all brings none into being.
pub fn topics() -> Vec<(String, usize)> {
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers())
        .create()
        .unwrap();
    let metadata = client.fetch_metadata(None, CONNECT_TIMEOUT).unwrap();
    let topics = metadata.topics().iter();
    topics
        .map(|topic| (topic.name().to_owned(), topic.partitions().len()))
        .collect()
}

pub fn partitions(topic: &str) -> Option<usize> {
    topics()
        .into_iter()
        .find(|(name, _)| name == topic)
        .map(|(_, partitions)| partitions)
}

#[derive(Debug, PartialEq, Eq)]
pub struct Read {
    pub partition: i32,
    pub key: Option<String>,
    pub text: String,
}

/// All messages of a topic, each partition in its order.
pub fn read(topic: &str) -> Vec<Read> {
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers())
        .set("group.id", "test")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let mut assigned = TopicPartitionList::new();
    let mut left = 0;
    for partition in 0..partitions(topic).expect("the topic") as i32 {
        let (low, high) = client.fetch_watermarks(topic, partition, PATIENCE).unwrap();
        left += high - low;
        assigned
            .add_partition_offset(topic, partition, KafkaOffset::Beginning)
            .unwrap();
    }
    client.assign(&assigned).unwrap();
    let mut found = Vec::new();
    let begin = Instant::now();
    while found.len() < left as usize {
        assert!(
            begin.elapsed() < PATIENCE,
            "{} of {left} messages",
            found.len()
        );
        let Some(message) = client.poll(Duration::from_millis(100)) else {
            continue;
        };
        let Ok(message) = message else { continue };
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        found.push(Read {
            partition: message.partition(),
            key: message.key().map(text),
            text: text(message.payload().unwrap_or_default()),
        });
    }
    found.sort_by_key(|read| read.partition);
    found
}

/// A row: a key and a number, with as much text as is asked for.
pub struct Item {
    pub key: String,
    pub number: i64,
    pub padding: usize,
}

impl Item {
    pub fn new(key: &str, number: i64) -> Self {
        Self {
            key: key.to_owned(),
            number,
            padding: 0,
        }
    }
}

impl Tabular for Item {
    fn columns() -> Vec<Column> {
        vec![
            Column::new("key", ColumnType::Text),
            Column::new("number", ColumnType::Int),
            Column::nullable("padding", ColumnType::Text),
        ]
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.text(self.key.as_str());
        row.int(self.number);
        let padding = (self.padding > 0).then(|| "x".repeat(self.padding));
        row.text(padding.as_deref());
    }

    fn message_key(&self, key: &mut Vec<u8>) {
        key.extend_from_slice(self.key.as_bytes());
    }
}

pub fn records() -> OutputSpec {
    let kind = OutputKind::Records {
        source: "in".to_owned(),
    };
    output(kind)
}

pub fn windows() -> OutputSpec {
    output(OutputKind::Windows {
        key: vec!["key"],
        keep: Span(0),
    })
}

pub fn output(kind: OutputKind) -> OutputSpec {
    OutputSpec {
        pipeline: "test",
        name: "rows",
        columns: Item::columns().into(),
        kind,
        layout: Layout::Flat,
    }
}

pub fn rows() -> Rows {
    Rows::new(Item::columns().into())
}

pub fn origin(partition: u32, offset: u64) -> Origin {
    Origin {
        partition: PartitionId(partition),
        offset: Offset(offset),
    }
}

pub fn epoch(number: u64, rows: Rows) -> EpochRows {
    EpochRows {
        shard: Shard(0),
        epoch: Epoch(number),
        watermark: EventTime::MIN,
        is_checkpoint: true,
        rows,
    }
}

pub fn factory_at(address: &str, properties: &[(&str, &str)], timeout: Duration) -> KafkaFactory {
    let properties: Vec<_> = properties
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    KafkaFactory::new(address, &properties, timeout).unwrap()
}

pub fn factory(topic: &str, properties: &[(&str, &str)]) -> KafkaFactory {
    factory_at(
        &format!("kafka://{}/{topic}", brokers()),
        properties,
        CONNECT_TIMEOUT,
    )
}

pub struct Rig {
    pub sink: Box<dyn Sink>,
    pub context: SinkContext,
}

/// A sink on a topic for a source of so many partitions.
pub fn rig_with(
    topic: &str,
    spec: &OutputSpec,
    partitions: u32,
    properties: &[(&str, &str)],
) -> Rig {
    let factory = factory(topic, properties);
    factory.prepare(spec, partitions, None).unwrap();
    let context = SinkContext::default();
    let sink = factory.open(spec, &[Shard(0)], &context).unwrap();
    Rig { sink, context }
}

pub fn rig(topic: &str, spec: &OutputSpec, partitions: u32) -> Rig {
    rig_with(topic, spec, partitions, &[])
}

pub fn number(text: &str) -> i64 {
    let value: serde_json::Value = serde_json::from_str(text).unwrap();
    value["number"].as_i64().unwrap()
}

/// Rows `from..to` over two partitions, as one epoch.
pub fn stretch(number: u64, from: i64, to: i64) -> EpochRows {
    let mut batch = rows();
    for number in from..to {
        let item = Item {
            padding: 100,
            ..Item::new("k", number)
        };
        batch.push_record(&item, origin(number as u32 % 2, number as u64 / 2));
    }
    epoch(number, batch)
}

pub fn assert_each_once_in_order(topic: &str, total: i64) {
    let found = read(topic);
    for partition in 0..2 {
        let of = found.iter().filter(|read| read.partition == partition);
        let numbers: Vec<_> = of.map(|read| number(&read.text)).collect();
        let expected: Vec<_> = (0..total)
            .filter(|number| number % 2 == i64::from(partition))
            .collect();
        assert!(
            numbers == expected,
            "partition {partition}: {} rows, not {}",
            numbers.len(),
            expected.len()
        );
    }
}
