//! The Kafka source against a real broker.
//!
//! `HIGHWATER_TEST_KAFKA` names the broker. The test that kills it also needs
//! `HIGHWATER_SERVICES_DIR`, the folder of the `dev/services` that started it.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    clippy::large_stack_arrays,
    clippy::unused_self,
    reason = "a test fails by panicking, and tells its whole story in one place"
)]
#![cfg(feature = "kafka")]

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use highwater::source::kafka::{Isolation, KafkaOptions, KafkaSource};
use highwater::source::murmur2::partition_for_key;
use highwater::source::{
    Assignment, FeedState, Inbox, RawBatch, Reader, Source, SourceError, Start, Until, feed,
};
use highwater::time::{EventTime, Offset, PartitionId};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Message, Offset as KafkaOffset, TopicPartitionList};

const PATIENCE: Duration = Duration::from_secs(60);

/// Held for reading by tests that use the broker, for writing by the one that kills it.
static BROKER: RwLock<()> = RwLock::new(());

fn broker() -> RwLockReadGuard<'static, ()> {
    BROKER
        .read()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn address() -> String {
    std::env::var("HIGHWATER_TEST_KAFKA").expect("HIGHWATER_TEST_KAFKA is set: run dev/test")
}

fn config() -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", address())
        .set("log_level", "0");
    config
}

fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}

fn admin() -> AdminClient<DefaultClientContext> {
    config().create().expect("an admin client")
}

fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let run = std::time::UNIX_EPOCH
        .elapsed()
        .expect("after 1970")
        .as_millis();
    format!("{name}-{run}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A new topic of its own.
fn topic(name: &str, partitions: i32, settings: &[(&str, &str)]) -> String {
    let topic = unique(name);
    let mut new = NewTopic::new(&topic, partitions, TopicReplication::Fixed(1));
    new = new.set("retention.ms", "-1");
    for (key, value) in settings {
        new = new.set(key, value);
    }
    let made = block_on(admin().create_topics([&new], &AdminOptions::new())).expect("an answer");
    made[0].as_ref().expect("the topic is made");
    topic
}

fn producer(settings: &[(&str, &str)]) -> BaseProducer {
    let mut config = config();
    config
        .set("linger.ms", "5")
        .set("enable.idempotence", "true")
        .set("queue.buffering.max.messages", "1000000");
    for (key, value) in settings {
        config.set(*key, *value);
    }
    config.create().expect("a producer")
}

/// Sends the numbers of `range` to a partition.
fn send(producer: &BaseProducer, topic: &str, partition: i32, range: std::ops::Range<u32>) {
    send_padded(producer, topic, partition, range, 0);
}

/// As [`send`], with so many more bytes in each message.
fn send_padded(
    producer: &BaseProducer,
    topic: &str,
    partition: i32,
    range: std::ops::Range<u32>,
    padding: usize,
) {
    let padding = " ".repeat(padding);
    for number in range {
        let payload = format!("{partition}/{number}/{padding}");
        let mut record = BaseRecord::<str, _>::to(topic)
            .partition(partition)
            .payload(&payload);
        while let Err((_, back)) = producer.send(record) {
            producer.poll(Duration::from_millis(10));
            record = back;
        }
        producer.poll(Duration::ZERO);
    }
}

fn flush(producer: &BaseProducer) {
    producer.flush(PATIENCE).expect("everything is written");
}

/// A topic with `count` messages in each of its partitions.
fn filled(name: &str, partitions: i32, count: u32) -> String {
    let topic = topic(name, partitions, &[]);
    let producer = producer(&[]);
    for partition in 0..partitions {
        send(&producer, &topic, partition, 0..count);
    }
    flush(&producer);
    topic
}

fn options(topic: &str, until: Until) -> KafkaOptions {
    KafkaOptions {
        until,
        ..KafkaOptions::new(&address(), topic)
    }
}

/// What has been read of one partition.
struct Read {
    inbox: Inbox,
    values: Vec<Option<String>>,
    offsets: Vec<u64>,
    append_times: Vec<Option<EventTime>>,
    gaps: u64,
    next: Option<u64>,
}

impl Read {
    fn take(&mut self) -> bool {
        let mut any = false;
        while let Some(batch) = self.inbox.pop() {
            self.add(&batch);
            any = true;
        }
        any
    }

    fn add(&mut self, batch: &RawBatch) {
        for record in &batch.records {
            let value = batch.value(record);
            self.values
                .push(value.map(|value| String::from_utf8_lossy(value).into_owned()));
            assert!(
                self.offsets
                    .last()
                    .is_none_or(|last| *last < record.offset.0)
            );
            self.offsets.push(record.offset.0);
            self.append_times.push(record.append_time);
        }
        self.gaps += batch.gaps;
        self.next = Some(batch.next_offset.0);
        // The ledger's rule: every offset is a record or a gap.
        let start = self.inbox.state().0.start.expect("reading has begun").0;
        assert_eq!(
            start + self.offsets.len() as u64 + self.gaps,
            batch.next_offset.0
        );
    }

    fn numbers(&self) -> Vec<u32> {
        let number = |value: &Option<String>| {
            let value = value.as_ref().expect("a payload");
            value
                .split('/')
                .nth(1)
                .expect("a number")
                .parse()
                .expect("a number")
        };
        self.values.iter().map(number).collect()
    }
}

/// A reader and what came of it.
struct Reading {
    reader: Box<dyn Reader>,
    partitions: BTreeMap<u32, Read>,
}

impl Reading {
    fn new(source: &KafkaSource) -> Self {
        Self {
            reader: source.reader().expect("a reader"),
            partitions: BTreeMap::new(),
        }
    }

    /// Reads all partitions.
    fn of(source: &KafkaSource) -> Self {
        let mut reading = Self::new(source);
        reading.assign_new(source);
        reading
    }

    fn assign_new(&mut self, source: &KafkaSource) {
        for partition in source.partitions().expect("partitions") {
            if !self.partitions.contains_key(&partition.id.0) {
                self.assign(partition, None);
            }
        }
    }

    fn assign(&mut self, partition: highwater::source::Partition, from: Option<u64>) {
        let (feed, inbox) = feed(|| ());
        let id = partition.id.0;
        self.reader.assign(Assignment {
            partition,
            from: from.map(Offset),
            feed,
        });
        self.partitions.insert(
            id,
            Read {
                inbox,
                values: Vec::new(),
                offsets: Vec::new(),
                append_times: Vec::new(),
                gaps: 0,
                next: None,
            },
        );
    }

    /// Reads until `done` says so of every partition.
    fn until(&mut self, done: impl Fn(&Read, &FeedState) -> bool) {
        let start = Instant::now();
        loop {
            let mut all = true;
            for read in self.partitions.values_mut() {
                let (state, waiting) = read.inbox.state();
                read.take();
                all &= !waiting && done(read, &state);
            }
            if all {
                return;
            }
            if start.elapsed() > PATIENCE {
                let read = |read: &Read| (read.offsets.len(), read.next, read.inbox.state().0);
                let states: Vec<_> = self.partitions.values().map(read).collect();
                panic!("still waiting: {states:?}");
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn run_to_end(&mut self) {
        self.until(|_, state| {
            assert!(state.failed.is_none(), "{state:?}");
            state.ended
        });
    }

    fn failure(&mut self) -> String {
        self.until(|_, state| state.failed.is_some());
        let (state, _) = self.partitions[&0].inbox.state();
        state.failed.expect("it failed").to_string()
    }
}

fn source(options: KafkaOptions) -> KafkaSource {
    KafkaSource::new(options).expect("a source")
}

fn read_to_end(options: KafkaOptions) -> Reading {
    let mut reading = Reading::of(&source(options));
    reading.run_to_end();
    reading
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_every_partition_is_read_once_and_to_its_end() {
    let _broker = broker();
    for partitions in [1, 4, 12] {
        let topic = filled("all", partitions, 5000);
        let source = source(options(&topic, Until::End));
        assert_eq!(source.name(), topic);
        assert!(
            source
                .check()
                .expect("there")
                .contains(&format!("{partitions} partition"))
        );
        assert_eq!(
            source.partitions().expect("partitions")[0].name,
            format!("{topic}[0]")
        );
        let mut reading = Reading::of(&source);
        reading.run_to_end();
        assert_eq!(reading.partitions.len() as i32, partitions);
        for (id, read) in &reading.partitions {
            assert_eq!(read.numbers(), (0..5000).collect::<Vec<_>>());
            assert!(
                read.values[0]
                    .as_ref()
                    .is_some_and(|v| v.starts_with(&format!("{id}/")))
            );
            assert_eq!((read.gaps, read.next), (0, Some(5000)));
            assert!(read.append_times.iter().all(Option::is_none));
        }
    }
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_messages_that_come_after_the_start_are_left_out_until_the_end() {
    let _broker = broker();
    let topic = filled("later", 2, 100);
    let mut reading = Reading::of(&source(options(&topic, Until::End)));
    reading.until(|_, state| state.start.is_some());
    let producer = producer(&[]);
    send(&producer, &topic, 0, 100..200);
    flush(&producer);
    reading.run_to_end();
    for read in reading.partitions.values() {
        assert_eq!(read.numbers(), (0..100).collect::<Vec<_>>());
    }
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_empty_partitions_end_at_once_or_are_caught_up() {
    let _broker = broker();
    let topic = topic("empty", 3, &[]);
    let reading = read_to_end(options(&topic, Until::End));
    assert!(
        reading
            .partitions
            .values()
            .all(|read| read.offsets.is_empty())
    );
    let mut reading = Reading::of(&source(options(&topic, Until::Forever)));
    reading.until(|_, state| state.start == Some(Offset(0)) && state.caught_up.is_some());
}

/// 10 committed, 10 aborted, 10 committed: 30 records and 3 markers, the last one at the tail.
fn transactions(topic: &str) -> BaseProducer {
    let producer = producer(&[("transactional.id", topic)]);
    producer.init_transactions(PATIENCE).expect("initialised");
    for (round, commit) in [true, false, true].into_iter().enumerate() {
        producer.begin_transaction().expect("begun");
        let first = round as u32 * 10;
        send(&producer, topic, 0, first..first + 10);
        if commit {
            producer.commit_transaction(PATIENCE).expect("committed");
        } else {
            flush(&producer);
            producer.abort_transaction(PATIENCE).expect("aborted");
        }
    }
    producer
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_aborted_transactions_are_gaps_and_markers_at_the_tail_no_obstacle() {
    let _broker = broker();
    let topic = topic("aborted", 1, &[]);
    transactions(&topic);
    let committed: Vec<u32> = (0..10).chain(20..30).collect();
    let reading = read_to_end(options(&topic, Until::End));
    let read = &reading.partitions[&0];
    assert_eq!(read.numbers(), committed);
    assert_eq!((read.gaps, read.next), (13, Some(33)));

    let mut reading = Reading::of(&source(options(&topic, Until::Forever)));
    reading.until(|read, state| state.caught_up.is_some() && read.next == Some(33));
    assert_eq!(reading.partitions[&0].numbers(), committed);

    let isolation = Isolation::ReadUncommitted;
    let reading = read_to_end(KafkaOptions {
        isolation,
        ..options(&topic, Until::End)
    });
    let read = &reading.partitions[&0];
    assert_eq!(read.numbers(), (0..30).collect::<Vec<_>>());
    assert_eq!((read.gaps, read.next), (3, Some(33)));
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_an_open_transaction_is_the_end_for_now() {
    let _broker = broker();
    let topic = topic("open", 1, &[]);
    let producer = transactions(&topic);
    producer.begin_transaction().expect("begun");
    send(&producer, &topic, 0, 30..40);
    flush(&producer);
    let reading = read_to_end(options(&topic, Until::End));
    assert_eq!(reading.partitions[&0].next, Some(33));

    let mut reading = Reading::of(&source(options(&topic, Until::Forever)));
    reading.until(|read, state| state.caught_up.is_some() && read.next == Some(33));
    producer.commit_transaction(PATIENCE).expect("committed");
    reading.until(|read, state| state.caught_up.is_some() && read.next == Some(44));
    assert_eq!(
        reading.partitions[&0].numbers()[20..],
        (30..40).collect::<Vec<_>>()
    );
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_new_partitions_are_found_and_read() {
    let _broker = broker();
    let topic = filled("growing", 1, 10);
    let source = source(options(&topic, Until::Forever));
    assert!(source.discovery_interval().is_some());
    let mut reading = Reading::of(&source);
    reading.until(|read, _| read.offsets.len() == 10);
    let more = NewPartitions::new(&topic, 3);
    block_on(admin().create_partitions([&more], &AdminOptions::new())).expect("grown");
    let start = Instant::now();
    while reading.partitions.len() < 3 {
        reading.assign_new(&source);
        assert!(start.elapsed() < PATIENCE);
    }
    let producer = producer(&[]);
    send(&producer, &topic, 1, 0..10);
    send(&producer, &topic, 2, 0..10);
    flush(&producer);
    reading.until(|read, state| read.offsets.len() == 10 && state.caught_up.is_some());
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_a_missing_topic_is_named_with_its_likes_and_not_created() {
    let _broker = broker();
    let topic = topic("missing", 1, &[]);
    let wrong = topic.replace("missing", "mising");
    let missing = source(options(&wrong, Until::Forever));
    for _ in 0..2 {
        match missing.partitions() {
            Err(SourceError::Missing(text)) => {
                assert!(text.contains(&format!("Did you mean {topic}")), "{text}");
                assert!(text.contains("--create"), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
    let client: BaseConsumer = config().create().expect("a client");
    let all = client.fetch_metadata(None, PATIENCE).expect("metadata");
    assert!(all.topics().iter().all(|topic| topic.name() != wrong));
}

#[test]
fn a_broker_that_is_not_there_is_reported_within_the_time_out() {
    let connect_timeout = Duration::from_secs(2);
    let absent = KafkaOptions {
        connect_timeout,
        ..KafkaOptions::new("127.0.0.1:1", "topic")
    };
    let start = Instant::now();
    let error = source(absent).partitions().expect_err("nobody is there");
    assert!(start.elapsed() < connect_timeout * 2);
    let text = error.to_string();
    assert!(matches!(error, SourceError::Unreachable { .. }), "{text}");
    assert!(
        text.contains("127.0.0.1:1") && text.contains("refused"),
        "{text}"
    );
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_reading_starts_where_it_is_told() {
    let _broker = broker();
    let topic = topic("start", 1, &[]);
    let producer = producer(&[]);
    for number in 0..10_i64 {
        let record = BaseRecord::<str, _>::to(&topic)
            .partition(0)
            .timestamp(1000 * number + 1000);
        producer
            .send(record.payload(&format!("0/{number}")))
            .expect("queued");
    }
    flush(&producer);
    let first = |start, from: Option<u64>| {
        let source = source(KafkaOptions {
            start,
            ..options(&topic, Until::End)
        });
        let mut reading = Reading::new(&source);
        reading.assign(source.partitions().expect("partitions").remove(0), from);
        reading.run_to_end();
        reading.partitions[&0].numbers().first().copied()
    };
    assert_eq!(first(Start::Earliest, None), Some(0));
    assert_eq!(first(Start::Latest, None), None);
    assert_eq!(first(Start::At(EventTime(5500)), None), Some(5));
    assert_eq!(first(Start::At(EventTime(-5)), None), Some(0));
    assert_eq!(first(Start::At(EventTime(99_000)), None), None);
    assert_eq!(first(Start::Latest, Some(7)), Some(7));
    assert_eq!(first(Start::Earliest, Some(10)), None);
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_offsets_that_are_gone_are_refused() {
    let _broker = broker();
    let topic = filled("gone", 1, 100);
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, 0, KafkaOffset::Offset(50))
        .expect("an offset");
    block_on(admin().delete_records(&list, &AdminOptions::new())).expect("deleted");
    for until in [Until::End, Until::Forever] {
        for from in [10, 1000] {
            let source = source(options(&topic, until));
            let mut reading = Reading::new(&source);
            reading.assign(
                source.partitions().expect("partitions").remove(0),
                Some(from),
            );
            let text = reading.failure();
            assert!(
                text.contains(&format!("offset {from}")) && text.contains("--fresh"),
                "{text}"
            );
            assert!(
                text.contains(&format!("{topic}[0]")) && text.contains("50 to 100"),
                "{text}"
            );
        }
    }
    assert_eq!(
        read_to_end(options(&topic, Until::End)).partitions[&0].numbers()[0],
        50
    );
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_records_deleted_in_front_of_a_slow_reader_are_reported() {
    let _broker = broker();
    let topic = topic("overtaken", 1, &[]);
    let producer = producer(&[]);
    send_padded(&producer, &topic, 0, 0..1000, 100_000);
    flush(&producer);
    let mut reading = Reading::of(&source(options(&topic, Until::Forever)));
    // Nobody takes anything, so the reader comes to rest in the middle.
    thread::sleep(Duration::from_secs(2));
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, 0, KafkaOffset::Offset(1000))
        .expect("an offset");
    block_on(admin().delete_records(&list, &AdminOptions::new())).expect("deleted");
    let text = reading.failure();
    assert!(text.contains("does not exist any more"), "{text}");
    assert!(reading.partitions[&0].offsets.len() < 1000);
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_append_times_keys_and_messages_without_payload_are_kept() {
    let _broker = broker();
    let topic = topic("stamped", 1, &[("message.timestamp.type", "LogAppendTime")]);
    let producer = producer(&[]);
    let before = std::time::UNIX_EPOCH
        .elapsed()
        .expect("after 1970")
        .as_millis() as i64;
    producer
        .send(BaseRecord::<str, str>::to(&topic).partition(0).key("k"))
        .expect("queued");
    producer
        .send(BaseRecord::<str, str>::to(&topic).partition(0).payload(""))
        .expect("queued");
    flush(&producer);
    let source = source(options(&topic, Until::End));
    let mut reading = Reading::of(&source);
    let read = reading.partitions.get_mut(&0).expect("a partition");
    let start = Instant::now();
    let batch = loop {
        if let Some(batch) = read.inbox.pop() {
            break batch;
        }
        assert!(start.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(1));
    };
    assert_eq!(
        (batch.value(&batch.records[0]), batch.key(&batch.records[0])),
        (None, Some(&b"k"[..]))
    );
    assert!(
        batch.records[0]
            .append_time
            .is_some_and(|time| time.0 >= before - 1000)
    );
    read.add(&batch);
    reading.run_to_end();
    assert_eq!(reading.partitions[&0].values, [None, Some(String::new())]);
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_keys_lie_where_kafkas_partitioner_puts_them() {
    let _broker = broker();
    let topic = topic("keyed", 12, &[]);
    let producer = producer(&[("partitioner", "murmur2")]);
    let key = |number: u32| "k".repeat(number as usize % 9) + &number.to_string();
    for number in 0..2000 {
        let payload = key(number);
        producer
            .send(BaseRecord::to(&topic).key(&payload).payload(&payload))
            .expect("queued");
    }
    flush(&producer);
    let reading = read_to_end(options(&topic, Until::End));
    let mut count = 0;
    for (id, read) in &reading.partitions {
        for value in &read.values {
            let value = value.as_ref().expect("a payload");
            assert_eq!(partition_for_key(value.as_bytes(), 12), *id, "{value}");
            count += 1;
        }
    }
    assert_eq!(count, 2000);
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_committed_positions_are_those_of_the_group() {
    let _broker = broker();
    let topic = filled("group", 2, 10);
    let group = unique("lag");
    let source = source(KafkaOptions {
        group: Some(group.clone()),
        ..options(&topic, Until::End)
    });
    let mut reading = Reading::of(&source);
    reading.run_to_end();
    let positions = |offset| {
        [
            (PartitionId(0), Offset(offset)),
            (PartitionId(1), Offset(10)),
        ]
    };
    reading.reader.committed(&positions(3));
    reading.reader.committed(&positions(7));
    drop(reading);
    let client: BaseConsumer = config().set("group.id", group).create().expect("a client");
    let mut asked = TopicPartitionList::new();
    asked.add_partition_range(&topic, 0, 1);
    let committed = client.committed_offsets(asked, PATIENCE).expect("offsets");
    let offset = |partition| {
        committed
            .find_partition(&topic, partition)
            .expect("there")
            .offset()
    };
    assert_eq!(offset(0), KafkaOffset::Offset(7));
    assert_eq!(offset(1), KafkaOffset::Offset(10));
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_a_partition_nobody_takes_from_holds_up_no_other() {
    let _broker = broker();
    let topic = topic("skew", 2, &[]);
    let producer = producer(&[]);
    for partition in 0..2 {
        send_padded(&producer, &topic, partition, 0..3000, 10_000);
    }
    flush(&producer);
    let mut reading = Reading::of(&source(options(&topic, Until::End)));
    let held = reading.partitions.remove(&0).expect("a partition");
    reading.run_to_end();
    assert_eq!(reading.partitions[&1].offsets.len(), 3000);
    assert!(!held.inbox.state().0.ended);
    reading.partitions.insert(0, held);
    reading.run_to_end();
    assert_eq!(reading.partitions[&0].offsets.len(), 3000);
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_a_killed_broker_costs_and_repeats_nothing() {
    let _broker = BROKER
        .write()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    // More than the client and the feeds hold, so that much is still to be fetched at the kill.
    let (topic, count) = (topic("restart", 2, &[]), 15_000);
    let producer = producer(&[]);
    for partition in 0..2 {
        send_padded(&producer, &topic, partition, 0..count, 2500);
    }
    flush(&producer);
    let mut reading = Reading::of(&source(options(&topic, Until::Forever)));
    // Nobody takes anything, so the reader comes to rest in the middle.
    thread::sleep(Duration::from_secs(2));
    let _restart = Restart;
    services("kill");
    thread::sleep(Duration::from_secs(1));
    reading.until(|read, _| read.offsets.len() >= 1000);
    let unfinished = |read: &Read| read.offsets.len() < count as usize;
    assert!(reading.partitions.values().all(unfinished));
    services("start");
    reading.until(|read, state| {
        assert!(state.failed.is_none(), "{state:?}");
        read.offsets.len() == count as usize && state.caught_up.is_some()
    });

    services("kill");
    thread::sleep(Duration::from_millis(2500));
    let confirmed = |reading: &Reading| reading.partitions[&0].inbox.state().0.caught_up;
    let last = confirmed(&reading);
    thread::sleep(Duration::from_secs(6));
    assert_eq!(confirmed(&reading), last, "nobody is there to confirm");
    services("start");
    reading.until(|_, state| state.caught_up > last);
    for partition in 0..2 {
        send(&producer, &topic, partition, count..count + 10);
    }
    flush(&producer);
    reading.until(|read, state| {
        assert!(state.failed.is_none(), "{state:?}");
        read.offsets.len() == count as usize + 10
    });
    for read in reading.partitions.values() {
        assert_eq!(read.numbers(), (0..count + 10).collect::<Vec<_>>());
    }
}

/// Starts the broker again, also when the test fails: others need it.
struct Restart;

impl Drop for Restart {
    fn drop(&mut self) {
        if thread::panicking() {
            services("start");
        }
    }
}

fn services(what: &str) {
    let folder = std::env::var("HIGHWATER_SERVICES_DIR").expect("HIGHWATER_SERVICES_DIR is set");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/dev/services");
    let ran = Command::new(script)
        .args([what, "kafka", "--dir", &folder])
        .output();
    let ran = ran.expect("dev/services runs");
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_a_new_message_arrives_soon() {
    let _broker = broker();
    let topic = topic("latency", 1, &[]);
    let mut reading = Reading::of(&source(options(&topic, Until::Forever)));
    reading.until(|_, state| state.caught_up.is_some());
    let producer = producer(&[("linger.ms", "0")]);
    let mut waits = Vec::new();
    for number in 0..50 {
        thread::sleep(Duration::from_millis(20));
        let start = Instant::now();
        send(&producer, &topic, 0, number..number + 1);
        reading.until(|read, _| read.offsets.len() as u32 == number + 1);
        waits.push(start.elapsed());
    }
    waits.sort();
    println!("send to feed: median {:?}, p90 {:?}", waits[25], waits[45]);
}

/// Prints what a message costs this process: run with `--release` and `--nocapture`.
#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_client_cpu_per_message() {
    let _broker = broker();
    let count =
        std::env::var("HIGHWATER_TEST_MESSAGES").map_or(50_000, |n| n.parse().expect("a number"));
    for codec in ["none", "lz4"] {
        let topic = topic("cost", 4, &[]);
        let producer = producer(&[("compression.codec", codec), ("linger.ms", "50")]);
        for partition in 0..4 {
            send_padded(&producer, &topic, partition, 0..count / 4, 140);
        }
        flush(&producer);
        drop(producer);
        for _ in 0..2 {
            let source = source(options(&topic, Until::End));
            let (cpu, start) = (cpu_ns(), Instant::now());
            let read = drain(&source);
            let (cpu, wall) = (cpu_ns() - cpu, start.elapsed());
            assert_eq!(read, u64::from(count));
            println!(
                "{codec}: {} ns of CPU a message, {:.0} messages/s",
                cpu / read,
                read as f64 / wall.as_secs_f64()
            );
        }
    }
}

/// Reads all partitions to the end as a worker does, and counts.
fn drain(source: &KafkaSource) -> u64 {
    let mut reader = source.reader().expect("a reader");
    let worker = thread::current();
    let mut inboxes = Vec::new();
    for partition in source.partitions().expect("partitions") {
        let worker = worker.clone();
        let (feed, inbox) = feed(move || worker.unpark());
        reader.assign(Assignment {
            partition,
            from: None,
            feed,
        });
        inboxes.push(inbox);
    }
    let mut read = 0;
    while !inboxes.is_empty() {
        inboxes.retain(|inbox| {
            let ended = inbox.state().0.ended;
            while let Some(batch) = inbox.pop() {
                read += batch.records.len() as u64;
            }
            !ended
        });
        thread::park_timeout(Duration::from_millis(5));
    }
    read
}

fn cpu_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the callee writes a timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_a_plain_client_reads_the_same() {
    let _broker = broker();
    let topic = filled("same", 1, 3000);
    let mut group = config();
    let client: BaseConsumer = group.set("group.id", "plain").create().expect("a client");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, 0, KafkaOffset::Beginning)
        .expect("an offset");
    client.assign(&list).expect("assigned");
    let mut plain = Vec::new();
    while plain.len() < 3000 {
        let message = client.poll(PATIENCE).expect("a message").expect("no error");
        let payload = message.payload().expect("a payload");
        plain.push((
            message.offset() as u64,
            Some(String::from_utf8_lossy(payload).into_owned()),
        ));
    }
    let reading = read_to_end(options(&topic, Until::End));
    let read = &reading.partitions[&0];
    let ours: Vec<_> = read
        .offsets
        .iter()
        .copied()
        .zip(read.values.iter().cloned())
        .collect();
    assert_eq!(ours, plain);
}
