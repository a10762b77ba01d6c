//! Brokers: per shard the newest producer, the committed epoch, and what readers of committed
//! transactions see.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::machine::pause;
use super::rows::{Row, rows_of};
use super::world::{World, world};
use crate::rules::{self, Rule};
use crate::sink::commit::topic::{Answer, TopicCommitter, Transactions};
use crate::sink::{EpochRows, Sink, SinkContext, SinkError, Written, sink_id};
use crate::time::{Epoch, Shard};

/// What brokers know of one sink's topic.
#[derive(Default)]
pub(super) struct TopicWorld {
    generation: BTreeMap<Shard, u64>,
    committed: BTreeMap<Shard, Epoch>,
    /// What readers see, in order.
    pub(super) visible: Vec<(Epoch, Shard, Row)>,
}

/// The producers of one run.
struct Producers {
    sink: usize,
    generation: BTreeMap<Shard, u64>,
    staged: BTreeMap<Shard, Staged>,
}

/// A transaction that was begun.
struct Staged {
    epoch: Epoch,
    rows: Vec<Row>,
    /// Brokers do nothing when they are asked again to commit the same transaction.
    is_committed: bool,
}

impl Producers {
    fn brokers<T>(&self, step: impl FnOnce(&mut World, &mut TopicWorld) -> T) -> T {
        world(|world| {
            let mut topic = world.topics.remove(&self.sink).expect("it is a topic");
            let answer = step(world, &mut topic);
            world.topics.insert(self.sink, topic);
            answer
        })
    }

    fn is_newest(&self, shard: Shard) -> bool {
        let newest = self.brokers(|_, topic| topic.generation.get(&shard).copied());
        newest == self.generation.get(&shard).copied()
    }
}

impl Transactions for Producers {
    fn init(&mut self, shard: Shard) -> Result<(), SinkError> {
        pause();
        let generation = self.brokers(|_, topic| {
            let generation = topic.generation.entry(shard).or_default();
            if rules::on(Rule::InitFences) || *generation == 0 {
                *generation += 1;
            }
            *generation
        });
        self.generation.insert(shard, generation);
        self.staged.remove(&shard);
        Ok(())
    }

    fn committed(&mut self, shard: Shard) -> Result<Option<Epoch>, SinkError> {
        pause();
        Ok(self.brokers(|_, topic| topic.committed.get(&shard).copied()))
    }

    fn stage(&mut self, epoch: &EpochRows) -> Result<Answer<Written>, SinkError> {
        pause();
        let (request_lost, answer_lost) = world(World::losses);
        if request_lost || answer_lost {
            return Ok(Answer::Lost);
        }
        if !self.is_newest(epoch.shard) {
            return Ok(Answer::Ended);
        }
        let staged = Staged {
            epoch: epoch.epoch,
            rows: rows_of(&epoch.rows),
            is_committed: false,
        };
        self.staged.insert(epoch.shard, staged);
        Ok(Answer::Done(Written::default()))
    }

    fn commit(&mut self, shard: Shard) -> Result<Answer<()>, SinkError> {
        pause();
        let (request_lost, answer_lost) = world(World::losses);
        if request_lost {
            return Ok(Answer::Lost);
        }
        if !self.is_newest(shard) {
            return Ok(Answer::Ended);
        }
        let mut staged = self.staged.remove(&shard).expect("it was staged");
        let epoch = staged.epoch;
        if !std::mem::replace(&mut staged.is_committed, true) {
            let sink = self.sink;
            self.brokers(|world, topic| {
                world
                    .note(|| format!("topic {sink} shard {shard} epoch {epoch} {:?}", staged.rows));
                let rows = staged.rows.iter().copied();
                topic.visible.extend(rows.map(|row| (epoch, shard, row)));
            });
        }
        if !rules::on(Rule::EpochInTxn) {
            pause();
        }
        self.brokers(|_, topic| topic.committed.insert(shard, epoch));
        self.staged.insert(shard, staged);
        Ok(if answer_lost {
            Answer::Lost
        } else {
            Answer::Done(())
        })
    }
}

/// Opens a sink on the topic with this number.
pub(super) fn open(
    sink: usize,
    output: &str,
    identity: &str,
    shards: &[Shard],
    context: &SinkContext,
) -> Result<Box<dyn Sink>, SinkError> {
    let job = Arc::clone(context.exactly_once().expect("a run with a state"));
    let producers = Producers {
        sink,
        generation: BTreeMap::new(),
        staged: BTreeMap::new(),
    };
    let committer = TopicCommitter::open(producers, job, sink_id(output, identity), shards)?;
    Ok(Box::new(TopicSink(committer)))
}

struct TopicSink(TopicCommitter<Producers>);

impl Sink for TopicSink {
    fn commit(&mut self, epoch: &EpochRows) -> Result<Written, SinkError> {
        self.0.commit(epoch)
    }

    fn committed(&self, shard: Shard) -> Option<Epoch> {
        self.0.committed(shard)
    }

    fn close(&mut self) -> Result<Written, SinkError> {
        Ok(Written::default())
    }
}
