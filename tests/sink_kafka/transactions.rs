//! In a job: what readers of committed transactions see after crashes, of runs that are two at
//! once, and of brokers that die.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use highwater::sink::kafka::KafkaFactory;
use highwater::sink::{
    EpochRows, JobContext, JobId, NewestRun, OutputSpec, RunNumber, Sink, SinkContext, SinkError,
    SinkEvent, SinkFactory, SinkMark, SinkThread, Written, sink_id,
};
use highwater::source::kafka::{KafkaOptions, KafkaSource};
use highwater::source::{Assignment, Source, Until, feed};
use highwater::time::{Epoch, Shard};
use rdkafka::admin::AdminOptions;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use uuid::Uuid;

use crate::fixture::*;

const SHARDS: u32 = 2;
const ROWS: i64 = 20;

/// A job on a topic of its own, with as many partitions as shards, and its log.
struct Job {
    topic: String,
    spec: OutputSpec,
    id: JobId,
    newest: Arc<Newest>,
    shards: u32,
}

#[derive(Default)]
struct Newest(AtomicU64);

impl NewestRun for Newest {
    fn newest_run(&self) -> Result<RunNumber, SinkError> {
        Ok(RunNumber(self.0.load(Ordering::SeqCst)))
    }
}

struct Run {
    sink: Box<dyn Sink>,
    context: SinkContext,
}

impl Job {
    fn new(test: &str) -> Self {
        Self {
            topic: new_topic(test),
            spec: records(),
            id: JobId(Uuid::new_v4()),
            newest: Arc::default(),
            shards: SHARDS,
        }
    }

    /// A run claims its number before it opens sinks.
    fn claim(&self) -> JobContext {
        let run = self.newest.0.fetch_add(1, Ordering::SeqCst) + 1;
        JobContext {
            job: self.id,
            run: RunNumber(run),
            checkpoint: None,
            logged: Some(Epoch(1_000_000)),
            sinks: BTreeMap::new(),
            replace_output: false,
            log: Arc::<Newest>::clone(&self.newest),
        }
    }

    fn factory(&self, job: &JobContext) -> KafkaFactory {
        let factory = factory(&self.topic, &[]);
        factory.prepare(&self.spec, self.shards, Some(job)).unwrap();
        factory
    }

    fn try_open(&self, job: JobContext) -> Result<Run, SinkError> {
        let factory = self.factory(&job);
        let context = SinkContext {
            job: Some(Arc::new(job)),
            ..SinkContext::default()
        };
        let shards: Vec<_> = (0..self.shards).map(Shard).collect();
        let sink = factory.open(&self.spec, &shards, &context)?;
        Ok(Run { sink, context })
    }

    fn open(&self) -> Run {
        self.try_open(self.claim()).unwrap()
    }

    /// The name of a shard's producer and group.
    fn name(&self, shard: u32) -> String {
        format!("highwater-{}-rows.kafka-{}-{shard}", self.id, self.topic)
    }

    fn rows(&self, shard: u32, number: u64) -> EpochRows {
        let mut batch = rows();
        for row in 0..ROWS {
            let item = Item::new("same", number as i64 * ROWS + row);
            batch.push_record(&item, origin(shard, number * ROWS as u64 + row as u64));
        }
        EpochRows {
            shard: Shard(shard),
            is_checkpoint: false,
            ..epoch(number, batch)
        }
    }

    /// What readers see of the epochs below `epochs`: each row once, in its partition, in order.
    fn assert_each_once(&self, epochs: u64) {
        let found = read_with(&self.topic, "read_committed");
        for shard in 0..self.shards {
            let of = found.iter().filter(|read| read.partition == shard as i32);
            let numbers: Vec<_> = of.map(|read| number(&read.text)).collect();
            let expected: Vec<_> = (0..epochs as i64 * ROWS).collect();
            assert!(
                numbers == expected,
                "shard {shard}: {} rows, not {}",
                numbers.len(),
                expected.len()
            );
        }
    }

    /// A run that has died in the middle of an epoch: its rows have arrived, and nothing more.
    fn die_in_the_middle(&self, shard: u32, number: u64) {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", brokers())
            .set("transactional.id", self.name(shard))
            .create()
            .unwrap();
        producer.init_transactions(PATIENCE).unwrap();
        producer.begin_transaction().unwrap();
        for row in 0..ROWS {
            let text = format!("{{\"number\":{}}}", number as i64 * ROWS + row);
            let record = BaseRecord::<str, str>::to(&self.topic)
                .partition(shard as i32)
                .payload(&text);
            producer.send(record).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
    }
}

impl Run {
    /// As the sink's thread does it.
    fn try_commit(&mut self, rows: &EpochRows) -> Result<Written, SinkError> {
        if self.sink.committed(rows.shard) >= Some(rows.epoch) {
            return Ok(Written::default());
        }
        self.sink.commit(rows)
    }

    fn commit(&mut self, job: &Job, numbers: std::ops::Range<u64>) -> u64 {
        let mut written = Written::default();
        for number in numbers {
            for shard in 0..job.shards {
                written += self.try_commit(&job.rows(shard, number)).unwrap();
            }
        }
        written.rows
    }
}

/// All messages of a topic as readers with this isolation see them, each partition in its order.
fn read_with(topic: &str, isolation: &str) -> Vec<Read> {
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers())
        .set("group.id", "test")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", isolation)
        .create()
        .unwrap();
    let mut assigned = TopicPartitionList::new();
    let mut open = partitions(topic).expect("the topic");
    for partition in 0..open as i32 {
        assigned
            .add_partition_offset(topic, partition, KafkaOffset::Beginning)
            .unwrap();
    }
    client.assign(&assigned).unwrap();
    let mut found = Vec::new();
    let begin = Instant::now();
    while open > 0 {
        assert!(begin.elapsed() < PATIENCE, "{} messages", found.len());
        match client.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => found.push(Read {
                partition: message.partition(),
                key: None,
                text: String::from_utf8(message.payload().unwrap_or_default().to_vec()).unwrap(),
            }),
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            _ => {}
        }
    }
    found.sort_by_key(|read| read.partition);
    found
}

fn fenced(outcome: Result<Written, SinkError>) {
    match outcome {
        Err(SinkError::Fenced(text)) => assert!(text.contains("run 2"), "{text}"),
        other => panic!("{other:?}"),
    }
}

fn refused(outcome: Result<Run, SinkError>) -> String {
    match outcome {
        Err(SinkError::Refused(text)) => text,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("taken"),
    }
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_a_replay_after_a_crash_is_seen_once() {
    let _broker = shared();
    let job = Job::new("replay");
    let mut first = job.open();
    assert_eq!(first.sink.committed(Shard(0)), None);
    first.commit(&job, 0..3);
    // One shard is an epoch ahead, the other one dies in the middle of it.
    first.try_commit(&job.rows(0, 3)).unwrap();
    drop(first);
    job.die_in_the_middle(1, 3);

    let mut second = job.open();
    assert_eq!(second.sink.committed(Shard(0)), Some(Epoch(3)));
    assert_eq!(second.sink.committed(Shard(1)), Some(Epoch(2)));
    assert_eq!(second.commit(&job, 1..5), 3 * ROWS as u64);
    assert_eq!(second.sink.close().unwrap(), Written::default());
    job.assert_each_once(5);
    let all = read_with(&job.topic, "read_uncommitted");
    assert_eq!(all.len() as i64, (2 * 5 + 1) * ROWS, "what died is there");
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_the_older_of_two_runs_is_fenced_and_does_nothing_visible() {
    let _broker = shared();
    let job = Job::new("two");
    let mut older = job.open();
    older.commit(&job, 0..2);
    let mut newer = job.open();
    fenced(older.try_commit(&job.rows(0, 2)));
    newer.commit(&job, 0..3);
    fenced(older.try_commit(&job.rows(1, 3)));
    newer.commit(&job, 3..4);
    job.assert_each_once(4);
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_an_older_run_that_starts_late_does_not_stop_the_newest() {
    let _broker = shared();
    let job = Job::new("late");
    let late = job.claim();
    let mut newest = job.open();
    newest.commit(&job, 0..2);
    let mut late = job.try_open(late).unwrap();
    // It is not wrong what it does: the epoch stands in the log.
    late.try_commit(&job.rows(0, 2)).unwrap();
    newest.commit(&job, 2..4);
    fenced(late.try_commit(&job.rows(0, 4)));
    fenced(late.try_commit(&job.rows(1, 3)));
    newest.commit(&job, 4..6);
    job.assert_each_once(6);
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_an_epoch_without_rows_is_committed_at_a_checkpoint_only() {
    let _broker = shared();
    let job = Job::new("empty");
    let mut run = job.open();
    run.try_commit(&EpochRows {
        is_checkpoint: false,
        ..epoch(0, rows())
    })
    .unwrap();
    assert_eq!(job.open().sink.committed(Shard(0)), None);
    let mut run = job.open();
    run.try_commit(&epoch(1, rows())).unwrap();
    let third = job.open();
    assert_eq!(third.sink.committed(Shard(0)), Some(Epoch(1)));
    assert_eq!(third.sink.committed(Shard(1)), None);
    job.assert_each_once(0);
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_epochs_that_brokers_have_forgotten_are_refused() {
    let _broker = shared();
    let job = Job::new("expired");
    let mut run = job.open();
    run.commit(&job, 0..3);
    drop(run);
    let sink = sink_id(job.spec.name, &factory(&job.topic, &[]).identity());
    let again = |job: &Job| JobContext {
        checkpoint: Some(Epoch(2)),
        sinks: BTreeMap::from([(sink.clone(), SinkMark::default())]),
        ..job.claim()
    };
    let mut run = job.try_open(again(&job)).unwrap();
    run.commit(&job, 3..4);
    drop(run);

    let name = job.name(1);
    let gone = block_on(admin().delete_groups(&[name.as_str()], &AdminOptions::new())).unwrap();
    gone.into_iter().for_each(|group| {
        group.unwrap();
    });
    let text = refused(job.try_open(again(&job)));
    assert!(
        text.contains("offsets.retention.minutes") && text.contains("shard 1"),
        "{text}"
    );
    job.assert_each_once(4);
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_offsets_that_somebody_has_reset_are_refused() {
    let _broker = shared();
    let job = Job::new("reset");
    job.open().commit(&job, 0..1);
    let group: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers())
        .set("group.id", job.name(0))
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&job.topic, 0, KafkaOffset::Offset(0))
        .unwrap();
    group
        .commit(&list, rdkafka::consumer::CommitMode::Sync)
        .unwrap();
    let text = refused(job.try_open(job.claim()));
    assert!(
        text.contains("reset") && text.contains(&job.name(0)),
        "{text}"
    );
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_a_row_that_is_too_large_for_a_transaction_is_named() {
    let _broker = shared();
    let job = Job::new("large-row");
    let mut run = job.open();
    let mut batch = rows();
    for number in 0..20 {
        let padding = if number == 13 { 1_200_000 } else { 10 };
        let item = Item {
            padding,
            ..Item::new("k", number)
        };
        batch.push_record(&item, origin(0, 100 + number as u64));
    }
    let error = run.try_commit(&epoch(0, batch)).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("source partition 0, offset 113 (1200") && text.contains("max.message.bytes"),
        "{text}"
    );
    drop(run);
    let mut again = job.open();
    again.commit(&job, 0..1);
    job.assert_each_once(1);
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_our_own_source_reads_committed_rows_and_counts_the_rest_as_gaps() {
    let _broker = shared();
    let job = Job::new("chain");
    let mut run = job.open();
    run.commit(&job, 0..2);
    drop(run);
    job.die_in_the_middle(0, 2);
    let mut run = job.open();
    run.commit(&job, 2..5);

    let options = KafkaOptions {
        until: Until::End,
        ..KafkaOptions::new(&brokers(), &job.topic)
    };
    let source = KafkaSource::new(options).unwrap();
    let mut reader = source.reader().unwrap();
    for partition in source.partitions().unwrap() {
        let is_first = partition.id.0 == 0;
        let (feed, inbox) = feed(|| ());
        reader.assign(Assignment {
            partition,
            from: None,
            feed,
        });
        let (mut numbers, mut gaps) = (Vec::new(), 0);
        let begin = Instant::now();
        loop {
            let (state, is_waiting) = inbox.state();
            while let Some(batch) = inbox.pop() {
                gaps += batch.gaps;
                let values = batch.records.iter().filter_map(|it| batch.value(it));
                numbers.extend(values.map(|it| number(std::str::from_utf8(it).unwrap())));
            }
            if state.ended && !is_waiting {
                break;
            }
            assert!(begin.elapsed() < PATIENCE, "{state:?}, {}", numbers.len());
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(numbers, (0..5 * ROWS).collect::<Vec<_>>());
        // A marker per transaction; and one that was given up, with its rows.
        let given_up = if is_first { ROWS as u64 + 1 } else { 0 };
        assert_eq!(gaps, 5 + given_up);
    }
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_a_broker_that_dies_among_transactions_neither_doubles_nor_loses() {
    let _broker = alone();
    let job = Job {
        shards: 8,
        ..Job::new("dies")
    };
    let context = SinkContext {
        job: Some(Arc::new(job.claim())),
        ..SinkContext::default()
    };
    let factory = Arc::new(job.factory(context.job.as_ref().unwrap()));
    let (tell, events) = mpsc::channel();
    let mut thread = SinkThread::start(
        factory,
        job.spec.clone(),
        (0..8).map(Shard).collect(),
        context.clone(),
        Arc::new(move |event| {
            let _ = tell.send(event);
        }),
    )
    .unwrap();
    let killing = std::thread::spawn(|| {
        for _ in 0..2 {
            std::thread::sleep(Duration::from_secs(2));
            service("kill");
            std::thread::sleep(Duration::from_secs(2));
            service("start");
        }
        std::thread::sleep(Duration::from_secs(2));
    });
    let (mut epochs, mut was_told) = (0, false);
    while !killing.is_finished() {
        for shard in 0..8 {
            let mut rows = job.rows(shard, epochs);
            while let Err(back) = thread.send(rows) {
                rows = back;
                let status = context.status.waits_for();
                was_told |= status.is_some_and(|text| text.contains(&job.topic));
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        epochs += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    killing.join().unwrap();
    thread.close();
    let mut written = Written::default();
    let patience = Instant::now();
    loop {
        assert!(patience.elapsed() < PATIENCE, "it does not close");
        match events.recv_timeout(PATIENCE).unwrap() {
            SinkEvent::Committed { written: more, .. } => written += more,
            SinkEvent::Closed(_) => break,
            SinkEvent::Failed(error) => panic!("{error}"),
        }
    }
    assert!(was_told, "people are told what it waits for");
    assert_eq!(context.status.waits_for(), None, "and when it is over");
    assert_eq!(written.rows, 8 * epochs * ROWS as u64);
    assert!(epochs > 20, "{epochs} epochs are too few to tell anything");
    job.assert_each_once(epochs);
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_an_aborted_run_does_not_wait_for_a_transaction() {
    let _broker = alone();
    let job = Job::new("abort-transaction");
    let mut run = job.open();
    run.commit(&job, 0..1);
    service("kill");
    let context = run.context.clone();
    let aborting = std::thread::spawn(move || {
        let begin = Instant::now();
        let mut told = None;
        while told.is_none() && begin.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(50));
            told = context.status.waits_for();
        }
        context.abort.store(true, Ordering::Relaxed);
        (told, Instant::now())
    });
    let error = run.try_commit(&job.rows(0, 1)).unwrap_err();
    drop(run);
    let (told, aborted) = aborting.join().unwrap();
    let took = aborted.elapsed();
    service("start");
    assert!(matches!(error, SinkError::Aborted), "{error:?}");
    assert!(
        told.as_ref().is_some_and(|text| text.contains(&job.topic)),
        "{told:?}"
    );
    assert!(took < Duration::from_secs(5), "{took:?}");
    let mut second = job.open();
    second.commit(&job, 0..3);
    job.assert_each_once(3);
}
