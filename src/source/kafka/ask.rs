//! Questions to brokers that take time, on a thread of their own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::Thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use super::KafkaOptions;
use super::client::Context;
use super::metadata::{
    BoundsError, bounds, code, is_unknown_topic, refresh, unreachable, watermarks,
};
use super::position::Position;
use crate::source::{Assignment, SourceError};
use crate::time::{Offset, PartitionId};

/// How often positions are committed to the group.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// How long a broker may take to come back at least: restarts take that long.
const LEAST_PATIENCE: Duration = Duration::from_secs(30);

/// What the thread is asked.
pub(super) enum Question {
    /// Where to read a partition from, and to.
    Bounds(Assignment),
    /// Whether a broker still answers for a partition.
    End(i32),
    /// Commit these positions to the group.
    Commit(Vec<(PartitionId, Offset)>),
}

/// What it tells the reading thread.
pub(super) enum Answer {
    /// A partition can be read.
    Bounds(Assignment, Position),
    /// The next offset to be written to a partition, or what the broker said instead.
    End(i32, Result<u64, RDKafkaErrorCode>),
    /// Stop reading.
    Stop,
}

/// The thread's state.
pub(super) struct Asking {
    pub client: Arc<BaseConsumer<Context>>,
    pub options: Arc<KafkaOptions>,
    pub answers: Sender<Answer>,
    pub reader: Thread,
    /// Assignments whose bounds are not known yet, and until when to ask.
    pub waiting: Vec<(Assignment, Instant)>,
    pub positions: BTreeMap<u32, u64>,
    pub next_commit: Instant,
}

impl Asking {
    /// Answers until nobody can ask any more.
    pub fn run(mut self, questions: &Receiver<Question>) {
        loop {
            match self.next(questions) {
                Ok(Question::Bounds(assignment)) => {
                    let patience = self.options.connect_timeout.max(LEAST_PATIENCE);
                    self.waiting.push((assignment, Instant::now() + patience));
                }
                Ok(Question::End(partition)) => self.ask_end(partition),
                Ok(Question::Commit(positions)) => {
                    let positions = positions.into_iter().map(|(id, offset)| (id.0, offset.0));
                    self.positions.extend(positions);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.commit(),
            }
            self.ask_bounds();
            if Instant::now() >= self.next_commit {
                self.commit();
            }
        }
    }

    fn next(&self, questions: &Receiver<Question>) -> Result<Question, RecvTimeoutError> {
        if self.waiting.is_empty() && self.positions.is_empty() {
            return questions.recv().map_err(|_| RecvTimeoutError::Disconnected);
        }
        questions.recv_timeout(RETRY_PAUSE)
    }

    fn tell(&self, answer: Answer) {
        // The reading thread may be gone, and with it the interest.
        if self.answers.send(answer).is_ok() {
            self.reader.unpark();
        }
    }

    fn ask_bounds(&mut self) {
        for (assignment, deadline) in std::mem::take(&mut self.waiting) {
            if assignment.feed.is_closed() {
                continue;
            }
            let partition = assignment.partition.id.0 as i32;
            match bounds(&self.client, &self.options, partition, assignment.from) {
                Ok(position) => self.tell(Answer::Bounds(assignment, position)),
                Err(BoundsError::Final(error)) => assignment.feed.fail(error),
                Err(BoundsError::Retry(error)) if Instant::now() < deadline => {
                    if is_unknown_topic(error) {
                        // It came into being after this client last looked.
                        refresh(&self.client, &self.options);
                    }
                    self.waiting.push((assignment, deadline));
                }
                Err(BoundsError::Retry(error)) => {
                    assignment.feed.fail(self.no_bounds(partition, error));
                }
            }
        }
    }

    fn no_bounds(&self, partition: i32, error: RDKafkaErrorCode) -> SourceError {
        let partition = self.options.partition_name(partition);
        if is_unknown_topic(error) {
            return SourceError::Missing(format!("{partition}: there is no such partition"));
        }
        unreachable(
            &self.client,
            &self.options,
            &format!("{partition}: {error}"),
        )
    }

    fn ask_end(&self, partition: i32) {
        let end = watermarks(&self.client, &self.options, partition);
        let end = end.map(|(_, high)| high).map_err(|error| code(&error));
        self.tell(Answer::End(partition, end));
    }

    /// Tells the group how far everything is processed. Lag tools read that; the engine does not,
    /// so a failure has no consequence.
    fn commit(&mut self) {
        self.next_commit = Instant::now() + COMMIT_INTERVAL;
        let mut list = TopicPartitionList::new();
        for (partition, offset) in std::mem::take(&mut self.positions) {
            let offset = KafkaOffset::Offset(offset as i64);
            let _ = list.add_partition_offset(&self.options.topic, partition as i32, offset);
        }
        if list.count() > 0 {
            let _ = self.client.commit(&list, CommitMode::Sync);
        }
    }
}
