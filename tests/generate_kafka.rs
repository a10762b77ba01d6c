//! A generated log in a real topic. `dev/test` runs it; or: `dev/services up --only kafka`,
//! `eval "$(dev/services env)"`, `cargo test --test generate_kafka -- --ignored`.
//!
//! The topic is read back with the engine's own source and compared with the embedded generator:
//! partition by partition the same keys and values in the same order.
#![cfg(feature = "kafka")]

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater::sink::kafka::LogTopic;
use highwater::source::generate::{
    EventLog, EventModel, EventRng, GenerateError, GeneratorOptions, GeneratorSource, Progress,
    text,
};
use highwater::source::kafka::{KafkaOptions, KafkaSource};
use highwater::source::{Assignment, Inbox, Source, Until, feed};
use highwater::time::{EventTime, Span};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(60);

struct Model;

impl EventModel for Model {
    fn key(&self, index: u64, out: &mut Vec<u8>) {
        text::push_uint(index % 10, out);
    }

    fn value(&self, index: u64, time: EventTime, rng: &mut EventRng, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"i":"#);
        text::push_uint(index, out);
        out.extend_from_slice(br#","t":""#);
        time.write_rfc3339(out);
        out.extend_from_slice(br#"","v":"#);
        text::push_uint(rng.below(1000), out);
        out.push(b'}');
    }
}

fn log(partitions: u32) -> EventLog {
    let options = GeneratorOptions {
        events: Some(50_000),
        disorder: Span::seconds(5),
        duplicates: 0.01,
        garbage: 0.01,
        partitions,
        // Before any broker was: only a topic that keeps everything keeps these.
        start: EventTime(1_000_000_000_000),
        ..GeneratorOptions::default()
    };
    EventLog::new(Arc::new(Model), options).expect("valid")
}

fn brokers() -> String {
    std::env::var("HIGHWATER_TEST_KAFKA").expect("HIGHWATER_TEST_KAFKA: run dev/test")
}

fn new_topic(test: &str) -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("now");
    format!("generate-{test}-{}", now.as_nanos())
}

fn open(name: &str, partitions: u32) -> Result<LogTopic, GenerateError> {
    LogTopic::open(&brokers(), name, partitions, &[], CONNECT_TIMEOUT)
}

fn write(topic: &LogTopic, log: &EventLog) -> Progress {
    topic
        .write(log, None, &mut |_| ControlFlow::Continue(()))
        .expect("written")
}

type Records = Vec<(Option<Vec<u8>>, Vec<u8>)>;

/// Everything in a source, by partition.
fn read(source: &dyn Source) -> Vec<Records> {
    let mut reader = source.reader().expect("a reader");
    let assign = |partition| {
        let (feed, inbox) = feed(|| ());
        reader.assign(Assignment {
            partition,
            from: None,
            feed,
        });
        inbox
    };
    let partitions = source.partitions().expect("partitions");
    let inboxes: Vec<Inbox> = partitions.into_iter().map(assign).collect();
    inboxes.iter().map(drain).collect()
}

fn drain(inbox: &Inbox) -> Records {
    let begin = Instant::now();
    let mut records = Records::new();
    loop {
        let (state, waiting) = inbox.state();
        if let Some(batch) = inbox.pop() {
            for record in &batch.records {
                let value = batch.value(record).expect("a value").to_vec();
                records.push((batch.key(record).map(<[u8]>::to_vec), value));
            }
        } else if state.ended && !waiting {
            return records;
        } else {
            assert!(state.failed.is_none(), "{:?}", state.failed);
            assert!(begin.elapsed() < PATIENCE, "the source does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn read_topic(name: &str) -> Vec<Records> {
    let until = Until::End;
    let options = KafkaOptions {
        until,
        ..KafkaOptions::new(&brokers(), name)
    };
    read(&KafkaSource::new(options).expect("a source"))
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_holds_what_the_embedded_generator_makes() {
    let name = new_topic("same");
    let topic = open(&name, 4).expect("made");
    assert!(topic.is_new());
    let written = write(&topic, &log(4));
    let read_back = read_topic(&name);
    assert_eq!(
        written.records,
        read_back.iter().map(|p| p.len() as u64).sum::<u64>()
    );
    assert!(written.records > written.events);
    let source = GeneratorSource::new(log(4), None).expect("a source");
    assert!(
        read_back == read(&source),
        "the same keys and values in the same order"
    );
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_topics_that_are_there_keep_their_partitions() {
    let name = new_topic("there");
    assert_eq!(open(&name, 3).expect("made").partitions(), 3);
    let topic = open(&name, 4).expect("found");
    assert!(!topic.is_new());
    assert_eq!(topic.partitions(), 3);
    write(&topic, &log(4));
    let source = GeneratorSource::new(log(3), None).expect("a source");
    assert!(
        read_topic(&name) == read(&source),
        "the log in three partitions"
    );
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_writing_can_be_broken_off() {
    let name = new_topic("broken");
    let topic = open(&name, 1).expect("made");
    let written = topic
        .write(&log(1), None, &mut |_| ControlFlow::Break(()))
        .expect("written");
    assert!(written.events < 50_000);
    assert_eq!(read_topic(&name)[0].len() as u64, written.records);
}

#[test]
fn a_broker_that_is_not_there_is_named() {
    let opened = LogTopic::open("127.0.0.1:1", "t", 4, &[], Duration::from_millis(300));
    let error = opened.err().expect("refused").to_string();
    assert!(error.contains("127.0.0.1:1"), "{error}");
}

#[test]
fn properties_that_would_break_the_order_are_refused() {
    let properties = [("acks".to_owned(), "0".to_owned())];
    let opened = LogTopic::open("127.0.0.1:1", "t", 4, &properties, CONNECT_TIMEOUT);
    assert!(opened.err().expect("refused").to_string().contains("acks"));
}
