//! Transactions with real brokers: a producer per shard, and a consumer group of the same name that
//! nobody ever joins, whose committed offset is the shard's committed epoch.
//!
//! The client's calls are made in short slices, so that an aborted run need not wait for a broker:
//! a call that has timed out goes on where it was when it is made again.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::error::KafkaError;
use rdkafka::producer::Producer as _;
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use super::Routing;
use super::outbox::{Halt, Outbox, SILENCE, is_final};
use super::producer;
use super::topic::{Topic, code};
use crate::fault;
use crate::sink::commit::topic::{Answer, Transactions};
use crate::sink::{EpochRows, JobContext, OutputSpec, RunNumber, SinkContext, SinkError, Written};
use crate::time::{Epoch, Shard};

/// How long a call waits before it is made again.
const SLICE: Duration = Duration::from_millis(200);
/// Before a producer that has ended gets a successor: brokers may need a moment.
const PAUSE: Duration = Duration::from_millis(100);
/// The partition whose committed offset tells the epoch: each topic has it.
const PARTITION: i32 = 0;
/// How often in a row a broker must deny that the topic exists. One that has just started may.
const DENIALS: u32 = 5;

pub(super) struct KafkaTransactions {
    setting: Setting,
    lanes: BTreeMap<Shard, Lane>,
}

/// What the shards have in common.
struct Setting {
    topic: Topic,
    routing: Routing,
    output: OutputSpec,
    context: SinkContext,
    run: RunNumber,
    /// What names of producers begin with.
    prefix: String,
}

impl KafkaTransactions {
    /// `sink`: as in [`sink_id`](crate::sink::sink_id).
    pub fn new(
        topic: &Topic,
        routing: Routing,
        output: &OutputSpec,
        context: &SinkContext,
        job: &JobContext,
        sink: &str,
    ) -> Self {
        let setting = Setting {
            topic: topic.clone(),
            routing,
            output: output.clone(),
            context: context.clone(),
            run: job.run,
            // Tools put names of groups into paths.
            prefix: format!("highwater-{}-{}", job.job, sink.replace('/', ".")),
        };
        Self {
            setting,
            lanes: BTreeMap::new(),
        }
    }

    fn lane(&mut self, shard: Shard) -> (&mut Lane, &Setting) {
        let setting = &self.setting;
        let lane = self.lanes.entry(shard).or_insert_with(|| Lane {
            name: format!("{}-{}", setting.prefix, shard.0),
            ..Lane::default()
        });
        (lane, setting)
    }
}

impl Transactions for KafkaTransactions {
    fn init(&mut self, shard: Shard) -> Result<(), SinkError> {
        let (lane, setting) = self.lane(shard);
        lane.init(setting)
    }

    fn committed(&mut self, shard: Shard) -> Result<Option<Epoch>, SinkError> {
        let (lane, setting) = self.lane(shard);
        lane.committed(setting)
    }

    fn stage(&mut self, epoch: &EpochRows) -> Result<Answer<Written>, SinkError> {
        let (lane, setting) = self.lane(epoch.shard);
        let staged = lane.stage(setting, epoch);
        lane.answer(setting, staged)
    }

    fn commit(&mut self, shard: Shard) -> Result<Answer<()>, SinkError> {
        let (lane, setting) = self.lane(shard);
        let committed = lane.commit(setting);
        lane.answer(setting, committed)
    }
}

impl Setting {
    fn outbox(&self, name: &str) -> Result<Outbox, SinkError> {
        let producer = producer::create_transactional(&self.topic, name)?;
        let Self {
            topic,
            routing,
            output,
            context,
            ..
        } = self;
        Ok(Outbox::new(topic, producer, *routing, output, context))
    }

    /// A client that asks for committed offsets, and only for those of transactions that are over.
    fn reader(&self, name: &str) -> Result<BaseConsumer, SinkError> {
        let mut config = ClientConfig::new();
        config
            .set("client.id", "highwater")
            .set("bootstrap.servers", &self.topic.brokers);
        for (key, value) in &self.topic.properties {
            config.set(key, value);
        }
        config
            .set("group.id", name)
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .create()
            .map_err(|error| producer::config_error(&error))
    }

    /// The offset that stands for `epoch`.
    fn mark(&self, epoch: Epoch) -> Result<TopicPartitionList, SinkError> {
        let failed = |error: KafkaError| self.topic.failed(error.to_string());
        let mut list = TopicPartitionList::new();
        let offset = KafkaOffset::Offset(epoch.0 as i64 + 1);
        list.add_partition_offset(&self.topic.name, PARTITION, offset)
            .map_err(failed)?;
        if let Some(mut partition) = list.find_partition(&self.topic.name, PARTITION) {
            partition.set_metadata(metadata(epoch, self.run));
        }
        Ok(list)
    }
}

fn metadata(epoch: Epoch, run: RunNumber) -> String {
    format!("epoch {epoch} run {run}")
}

/// The epoch that an offset and its metadata stand for; `None`: not written by this sink.
fn marked_epoch(offset: i64, metadata: &str) -> Option<Epoch> {
    let (epoch, _run) = metadata.strip_prefix("epoch ")?.split_once(" run ")?;
    let epoch: u64 = epoch.parse().ok()?;
    (epoch as i64 + 1 == offset).then_some(Epoch(epoch))
}

/// One shard's way to the brokers.
#[derive(Default)]
struct Lane {
    /// Of the producer, and of the group.
    name: String,
    outbox: Option<Outbox>,
    group: Option<ConsumerGroupMetadata>,
    /// Made for `group`, and used once more right after that.
    reader: Option<BaseConsumer>,
    patience: Patience,
    denials: u32,
}

/// Why a step of a transaction is not done.
enum Trouble {
    /// The same call will get on with it.
    Wait,
    /// The producer has ended, for this reason.
    Ended(String),
    /// It will never be done.
    Final(SinkError),
}

impl From<SinkError> for Trouble {
    fn from(error: SinkError) -> Self {
        Self::Final(error)
    }
}

impl Lane {
    fn init(&mut self, setting: &Setting) -> Result<(), SinkError> {
        self.make_reader(setting)?;
        self.patience.begin();
        if let Some(outbox) = self.outbox.take() {
            // What it has told people is now for us to take back.
            self.patience.is_told |= outbox.has_told();
            thread::sleep(PAUSE);
        }
        loop {
            if self.outbox.is_none() {
                self.outbox = Some(setting.outbox(&self.name)?);
            }
            match self.try_init() {
                Ok(()) => break,
                Err(Trouble::Wait) => {}
                Err(Trouble::Ended(reason)) => {
                    self.patience.trouble = Some(reason);
                    self.outbox = None;
                    thread::sleep(PAUSE);
                }
                Err(Trouble::Final(error)) => return Err(error),
            }
            self.wait(setting)?;
        }
        self.patience.end(&setting.context);
        Ok(())
    }

    fn try_init(&mut self) -> Result<(), Trouble> {
        let done = self.outbox()?.producer.init_transactions(SLICE);
        done.map_err(|error| self.trouble(&error))
    }

    fn make_reader(&mut self, setting: &Setting) -> Result<(), SinkError> {
        if self.reader.is_none() {
            let reader = setting.reader(&self.name)?;
            self.group = reader.group_metadata();
            self.reader = Some(reader);
        }
        Ok(())
    }

    fn committed(&mut self, setting: &Setting) -> Result<Option<Epoch>, SinkError> {
        self.make_reader(setting)?;
        self.patience.begin();
        let reader = self.reader.take();
        let mut asked = TopicPartitionList::new();
        asked.add_partition(&setting.topic.name, PARTITION);
        while let Some(reader) = &reader {
            let answer = reader.committed_offsets(asked.clone(), SLICE);
            let answer = answer.and_then(|list| self.found(setting, &list.elements()));
            match answer {
                Ok(found) => {
                    self.patience.end(&setting.context);
                    return found;
                }
                Err(error) if is_final(code(&error)) => {
                    let outbox = self.outbox.as_ref();
                    let refused = outbox.map(|it| it.refused(code(&error), &error.to_string()));
                    return Err(refused.unwrap_or_else(|| setting.topic.failed(error.to_string())));
                }
                // Also while a transaction is on its way to its end.
                Err(error) => self.patience.trouble = Some(error.to_string()),
            }
            self.wait(setting)?;
        }
        Ok(None)
    }

    /// What the group's offset says; `Err`: nothing yet.
    fn found(
        &self,
        setting: &Setting,
        offsets: &[TopicPartitionListElem<'_>],
    ) -> Result<Result<Option<Epoch>, SinkError>, KafkaError> {
        let Some(partition) = offsets.first() else {
            return Ok(Ok(None));
        };
        partition.error()?;
        let KafkaOffset::Offset(offset) = partition.offset() else {
            return Ok(Ok(None));
        };
        Ok(match marked_epoch(offset, partition.metadata()) {
            Some(epoch) => Ok(Some(epoch)),
            None => Err(SinkError::Refused(format!(
                "{}: the committed offset of group {} is {offset} with the note `{}`, which \
                 highwater has not written: somebody has reset it, and with it what is known of \
                 committed epochs. Start anew with --fresh",
                setting.topic,
                self.name,
                partition.metadata()
            ))),
        })
    }

    fn stage(&mut self, setting: &Setting, epoch: &EpochRows) -> Result<Written, Trouble> {
        self.patience.begin();
        fault::around("kafka", "before");
        let begun = self.outbox()?.producer.begin_transaction();
        begun.map_err(|error| self.trouble(&error))?;
        let sent = self.outbox()?.send_all(&epoch.rows);
        let bytes = sent.map_err(|halt| self.halted(epoch, halt))?;
        // Their acknowledgements come in meanwhile.
        let staged = self.stage_mark(setting, epoch.epoch);
        staged.map_err(|trouble| self.cause(epoch, trouble))?;
        let acknowledged = self.outbox()?.wait_for_all();
        acknowledged.map_err(|halt| self.halted(epoch, halt))?;
        fault::point("kafka.begun");
        Ok(Written {
            rows: epoch.rows.len() as u64,
            bytes,
        })
    }

    fn stage_mark(&mut self, setting: &Setting, epoch: Epoch) -> Result<(), Trouble> {
        let mark = setting.mark(epoch)?;
        loop {
            let (Some(outbox), Some(group)) = (&self.outbox, &self.group) else {
                return Err(never_begun());
            };
            let sent = outbox
                .producer
                .send_offsets_to_transaction(&mark, group, SLICE);
            match sent.map_err(|error| self.trouble(&error)) {
                Ok(()) => {
                    self.denials = 0;
                    return Ok(());
                }
                Err(Trouble::Wait) => self.wait(setting)?,
                Err(other) => return Err(other),
            }
        }
    }

    fn commit(&mut self, setting: &Setting) -> Result<(), Trouble> {
        let done = self.outbox()?.producer.commit_transaction(SLICE);
        done.map_err(|error| self.trouble(&error))?;
        fault::around("kafka", "after");
        self.patience.end(&setting.context);
        Ok(())
    }

    fn outbox(&mut self) -> Result<&mut Outbox, Trouble> {
        self.outbox.as_mut().ok_or_else(never_begun)
    }

    fn answer<T>(
        &mut self,
        setting: &Setting,
        outcome: Result<T, Trouble>,
    ) -> Result<Answer<T>, SinkError> {
        let answer = match outcome {
            Ok(done) => return Ok(Answer::Done(done)),
            Err(Trouble::Final(error)) => return Err(error),
            Err(Trouble::Wait) => Answer::Lost,
            Err(Trouble::Ended(reason)) => {
                self.patience.trouble = Some(reason);
                Answer::Ended
            }
        };
        self.wait(setting)?;
        Ok(answer)
    }

    /// To be called between two slices of waiting: takes what the client has to say, and tells
    /// people when it is long.
    fn wait(&mut self, setting: &Setting) -> Result<(), SinkError> {
        if setting.context.is_aborted() {
            return Err(SinkError::Aborted);
        }
        let Some(outbox) = &mut self.outbox else {
            return Ok(());
        };
        if let Err(Halt::Refusal(code, reason)) = outbox.look()
            && is_final(code)
        {
            return Err(outbox.refused(code, &reason));
        }
        let complaint = outbox.reports().complaint();
        let (topic, name) = (&setting.topic, &self.name);
        self.patience.wait(&setting.context, |trouble| {
            let reason = trouble.or(complaint);
            let reason = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
            format!("{topic}: waiting for brokers to get on with transactions of {name}{reason}")
        });
        Ok(())
    }

    /// What a failed call means.
    fn trouble(&mut self, error: &KafkaError) -> Trouble {
        let code = code(error);
        if code == Code::UnknownTopicOrPartition {
            self.denials += 1;
        }
        let is_denied = code == Code::UnknownTopicOrPartition && self.denials < DENIALS;
        if is_final(code) && !is_denied {
            return match &self.outbox {
                Some(outbox) => Trouble::Final(outbox.refused(code, &error.to_string())),
                None => Trouble::Ended(error.to_string()),
            };
        }
        let may_go_on = match error {
            KafkaError::Transaction(error) => {
                error.is_retriable() && !error.is_fatal() && !error.txn_requires_abort()
            }
            _ => code == Code::OperationTimedOut,
        };
        if may_go_on {
            Trouble::Wait
        } else {
            Trouble::Ended(error.to_string())
        }
    }

    /// A transaction may have ended because of a row that no broker will ever take.
    fn cause(&mut self, epoch: &EpochRows, trouble: Trouble) -> Trouble {
        match (&trouble, &mut self.outbox) {
            (Trouble::Ended(_), Some(outbox)) => match outbox.look() {
                Err(halt) if !halt.is_the_producer() => {
                    Trouble::Final(outbox.explain(&epoch.rows, halt))
                }
                _ => trouble,
            },
            _ => trouble,
        }
    }

    /// What it means that rows were not taken.
    fn halted(&mut self, epoch: &EpochRows, halt: Halt) -> Trouble {
        let Some(outbox) = &self.outbox else {
            return never_begun();
        };
        if !halt.is_the_producer() {
            return Trouble::Final(outbox.explain(&epoch.rows, halt));
        }
        // The rows were given up for some other reason, which is what an inept call is told.
        match outbox.producer.begin_transaction() {
            Ok(()) => Trouble::Ended(outbox.explain(&epoch.rows, halt).to_string()),
            Err(error) => match self.trouble(&error) {
                Trouble::Wait => Trouble::Ended(error.to_string()),
                other => other,
            },
        }
    }
}

/// A shard is initialised before anything is sent for it, so this is not seen.
fn never_begun() -> Trouble {
    Trouble::Ended("the shard has no producer".to_owned())
}

/// Since when a shard waits, and why.
#[derive(Default)]
struct Patience {
    since: Option<Instant>,
    trouble: Option<String>,
    is_told: bool,
}

impl Patience {
    fn begin(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    fn wait(&mut self, context: &SinkContext, text: impl FnOnce(Option<String>) -> String) {
        if self.since.is_some_and(|since| since.elapsed() > SILENCE) {
            self.is_told = true;
            context.set_status(Some(text(self.trouble.clone())));
        }
    }

    fn end(&mut self, context: &SinkContext) {
        self.since = None;
        self.trouble = None;
        if std::mem::take(&mut self.is_told) {
            context.set_status(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written_and_nothing_else_is() {
        for epoch in [0, 7, u64::from(u32::MAX)] {
            let text = metadata(Epoch(epoch), RunNumber(3));
            assert_eq!(
                marked_epoch(epoch as i64 + 1, &text),
                Some(Epoch(epoch)),
                "{text}"
            );
            assert_eq!(marked_epoch(epoch as i64, &text), None);
        }
        for text in ["", "epoch 7", "epoch x run 1", "7"] {
            assert_eq!(marked_epoch(8, text), None, "{text}");
        }
    }
}
