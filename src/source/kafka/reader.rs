//! The thread that takes messages out of the client's queues and puts them into feeds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, unbounded};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use super::KafkaOptions;
use super::ask::{Answer, Asking, Question};
use super::client::{Context, consumer};
use super::metadata::{is_unknown_topic, out_of_range};
use super::position::Position;
use super::queue::{BATCH, Message, MessageQueue, Messages, Taken, known_end};
use crate::source::{Assignment, RawBatch, RawRecord, Reader, SourceError};
use crate::time::{EventTime, Offset, PartitionId};

/// How long to sleep when no queue has anything; a message ends it at once.
const IDLE_WAIT: Duration = Duration::from_millis(50);
/// How long to sleep when a feed is full: nobody says when it has room again.
const FULL_WAIT: Duration = Duration::from_millis(2);
/// How often the client's own events are served.
const SERVE_INTERVAL: Duration = Duration::from_millis(50);
/// How often it is looked where partitions end, for whoever watches how far behind a run is.
const END_INTERVAL: Duration = Duration::from_millis(500);
/// How often a broker must confirm that the end of a partition is still the end.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(2);
/// How often in a row a broker must deny that a partition exists. One that has just started may.
const DENIALS: u32 = 5;
/// How long the last commit to the group may take when the reader is dropped.
const LAST_COMMIT: Duration = Duration::from_secs(2);
/// About how many bytes a batch has, when messages are large.
const BATCH_BYTES: usize = 1 << 20;
/// A batch's ranges are 32 bits wide; a message has at most 2^30 bytes.
const MOST_BYTES: usize = 1 << 30;

/// Reads partitions of a topic with one client.
pub(super) struct KafkaReader {
    commits: bool,
    /// `None` only while being dropped.
    questions: Option<Sender<Question>>,
    answers: Sender<Answer>,
    reader: Thread,
    /// Disconnected once the last commit is done.
    done: Receiver<()>,
}

impl KafkaReader {
    pub fn new(options: Arc<KafkaOptions>) -> Result<Self, SourceError> {
        let client = Arc::new(consumer(&options)?);
        let (questions, asked) = unbounded();
        let (answers, answered) = unbounded();
        let commits = options.group.is_some();
        let (own_client, own_options) = (Arc::clone(&client), Arc::clone(&options));
        let own_questions = questions.clone();
        let reader = spawn("read-kafka", move || {
            Reading::new(own_client, own_options, answered, own_questions).run();
        })?;
        let asking = Asking {
            client,
            options,
            answers: answers.clone(),
            reader: reader.clone(),
            waiting: Vec::new(),
            positions: BTreeMap::new(),
            next_commit: Instant::now(),
        };
        let (ends, done) = unbounded();
        spawn("ask-kafka", move || {
            asking.run(&asked);
            drop(ends);
        })?;
        Ok(Self {
            commits,
            questions: Some(questions),
            answers,
            reader,
            done,
        })
    }

    fn ask(&self, question: Question) {
        if let Some(questions) = &self.questions {
            // It fails only when the thread is gone, which happens only when this is dropped.
            let _ = questions.send(question);
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<Thread, SourceError> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(run);
    spawned
        .map(|handle| handle.thread().clone())
        .map_err(|error| SourceError::Read {
            partition: "kafka".to_owned(),
            reason: format!("no thread can be started: {error}"),
        })
}

impl Reader for KafkaReader {
    fn assign(&mut self, assignment: Assignment) {
        self.ask(Question::Bounds(assignment));
    }

    fn committed(&mut self, positions: &[(PartitionId, Offset)]) {
        if self.commits {
            self.ask(Question::Commit(positions.to_vec()));
        }
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        self.questions = None;
        let _ = self.answers.send(Answer::Stop);
        self.reader.unpark();
        if self.commits {
            let _ = self.done.recv_timeout(LAST_COMMIT);
        }
    }
}

/// What came of one look at a partition, from the dullest to the most promising.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// Nothing more is wanted of it.
    Done,
    /// Its queue is empty.
    Idle,
    /// Its feed is full.
    Full,
    /// Something was taken.
    Read,
}

/// The reading thread's state. Queues are dropped before the client.
struct Reading {
    partitions: Vec<KafkaPartition>,
    client: Arc<BaseConsumer<Context>>,
    options: Arc<KafkaOptions>,
    answers: Receiver<Answer>,
    questions: Sender<Question>,
    next_serve: Instant,
    next_end: Instant,
    next_confirm: Instant,
}

impl Reading {
    fn new(
        client: Arc<BaseConsumer<Context>>,
        options: Arc<KafkaOptions>,
        answers: Receiver<Answer>,
        questions: Sender<Question>,
    ) -> Self {
        let (partitions, now) = (Vec::new(), Instant::now());
        Self {
            partitions,
            client,
            options,
            answers,
            questions,
            next_serve: now,
            next_end: now,
            next_confirm: now,
        }
    }

    fn run(mut self) {
        loop {
            loop {
                match self.answers.try_recv() {
                    Ok(Answer::Bounds(assignment, position)) => self.add(assignment, position),
                    Ok(Answer::End(partition, end)) => self.confirm(partition, end),
                    Err(TryRecvError::Empty) => break,
                    Ok(Answer::Stop) | Err(TryRecvError::Disconnected) => return,
                }
            }
            match self.round() {
                Step::Read => {}
                Step::Full => thread::park_timeout(FULL_WAIT),
                Step::Idle | Step::Done => thread::park_timeout(IDLE_WAIT),
            }
            self.serve();
            self.show_ends();
            self.ask_for_ends();
        }
    }

    fn add(&mut self, assignment: Assignment, position: Position) {
        assignment.feed.begin(position.next());
        if position.has_ended() {
            assignment.feed.ends_at(position.next());
            assignment.feed.end();
            return;
        }
        match self.open(assignment.partition.id.0 as i32, position) {
            Ok(queue) => self
                .partitions
                .push(KafkaPartition::new(assignment, position, queue)),
            Err(error) => {
                let partition = assignment.partition.name;
                let reason = format!("the client does not take the partition: {error}");
                assignment
                    .feed
                    .fail(SourceError::Read { partition, reason });
            }
        }
    }

    fn open(&self, partition: i32, position: Position) -> KafkaResult<MessageQueue> {
        let client = Arc::clone(&self.client);
        // Before the assignment, or the first messages would come through the shared queue.
        let queue = MessageQueue::new(client, &self.options.topic, partition, thread::current());
        let queue = queue.ok_or(rdkafka::error::KafkaError::Global(RDKafkaErrorCode::Fail))?;
        let mut list = TopicPartitionList::new();
        let offset = KafkaOffset::Offset(position.next().0 as i64);
        list.add_partition_offset(&self.options.topic, partition, offset)?;
        self.client.incremental_assign(&list)?;
        Ok(queue)
    }

    /// Looks at every partition once.
    fn round(&mut self) -> Step {
        let mut best = Step::Done;
        let mut done = TopicPartitionList::new();
        self.partitions.retain_mut(|partition| {
            let step = partition.step();
            best = best.max(step);
            if step == Step::Done {
                done.add_partition(&self.options.topic, partition.id());
            }
            step != Step::Done
        });
        if done.count() > 0 {
            // What is fetched for these still goes nowhere.
            let _ = self.client.incremental_unassign(&done);
        }
        best
    }

    /// Serves the client's events: errors, of which the context keeps the last.
    fn serve(&mut self) {
        if Instant::now() < self.next_serve {
            return;
        }
        self.next_serve = Instant::now() + SERVE_INTERVAL;
        while let Some(event) = self.client.poll(Duration::ZERO) {
            debug_assert!(
                event.is_err(),
                "messages come through the queues of partitions"
            );
        }
    }

    /// Shows where the partitions end, by what the client has heard with its last fetches.
    fn show_ends(&mut self) {
        if Instant::now() < self.next_end {
            return;
        }
        self.next_end = Instant::now() + END_INTERVAL;
        for partition in &self.partitions {
            let end = known_end(&self.client, &self.options.topic, partition.id());
            if let Some(end) = end {
                partition.assignment.feed.ends_at(Offset(end));
            }
        }
    }

    /// Lets a broker confirm where the partitions end at whose ends we stand: a client that has
    /// lost its broker hears of no new messages either.
    fn ask_for_ends(&mut self) {
        if Instant::now() < self.next_confirm {
            return;
        }
        self.next_confirm = Instant::now() + CONFIRM_INTERVAL;
        for partition in &mut self.partitions {
            if !partition.asked && (partition.at_end || partition.denials > 0) {
                let question = Question::End(partition.id());
                partition.asked = self.questions.send(question).is_ok();
            }
        }
    }

    fn confirm(&mut self, id: i32, end: Result<u64, RDKafkaErrorCode>) {
        if let Some(partition) = self
            .partitions
            .iter_mut()
            .find(|partition| partition.id() == id)
        {
            partition.confirm(end);
        }
    }
}

/// A partition on its way into a feed.
struct KafkaPartition {
    assignment: Assignment,
    position: Position,
    queue: MessageQueue,
    /// How many messages make a batch, going by the size of the last ones.
    wanted: usize,
    /// The client said so, and no record came after that.
    at_end: bool,
    /// A broker is being asked for its end.
    asked: bool,
    /// How often in a row a broker (or the client) said that it does not exist.
    denials: u32,
    failed: bool,
}

impl KafkaPartition {
    fn new(assignment: Assignment, position: Position, queue: MessageQueue) -> Self {
        Self {
            assignment,
            position,
            queue,
            wanted: 256,
            at_end: false,
            asked: false,
            denials: 0,
            failed: false,
        }
    }

    fn id(&self) -> i32 {
        self.assignment.partition.id.0 as i32
    }

    fn step(&mut self) -> Step {
        let feed = &self.assignment.feed;
        if self.failed || feed.is_closed() {
            return Step::Done;
        }
        if !feed.has_room() {
            return Step::Full;
        }
        let messages = self.queue.take(self.wanted);
        if messages.len() == 0 {
            return Step::Idle;
        }
        let average = messages.bytes() / messages.len() + 1;
        self.wanted = (BATCH_BYTES / average).clamp(1, BATCH);
        let mut intake = Intake {
            position: &mut self.position,
            at_end: &mut self.at_end,
            denials: &mut self.denials,
            assignment: &self.assignment,
            batch: RawBatch::default(),
        };
        let outcome = intake.take_in(&messages);
        intake.hand_over();
        drop(messages);
        match outcome {
            Err(error) => feed.fail(error),
            Ok(()) if self.position.has_ended() => feed.end(),
            Ok(()) => {
                if self.at_end {
                    feed.caught_up();
                }
                return Step::Read;
            }
        }
        Step::Done
    }

    fn confirm(&mut self, end: Result<u64, RDKafkaErrorCode>) {
        self.asked = false;
        match end {
            Ok(end) => {
                self.denials = 0;
                // Beyond our position there is something that the client will soon deliver, or
                // report as a new end.
                if self.at_end && end <= self.position.next().0 {
                    self.assignment.feed.caught_up();
                }
            }
            Err(error) if is_unknown_topic(error) => {
                self.denials += 1;
                if self.denials >= DENIALS {
                    self.failed = true;
                    let name = &self.assignment.partition.name;
                    let reason = format!("{name}: it was deleted while it was read");
                    self.assignment.feed.fail(SourceError::Missing(reason));
                }
            }
            // Out of reach: not confirmed, and not refuted.
            Err(_) => {}
        }
    }
}

/// Turns messages into batches.
struct Intake<'p> {
    position: &'p mut Position,
    at_end: &'p mut bool,
    denials: &'p mut u32,
    assignment: &'p Assignment,
    batch: RawBatch,
}

impl Intake<'_> {
    fn take_in(&mut self, messages: &Messages<'_>) -> Result<(), SourceError> {
        self.batch.next_offset = self.position.next();
        self.batch.records.reserve_exact(messages.len());
        self.batch.bytes.reserve_exact(messages.bytes());
        for taken in messages.iter() {
            match taken {
                Taken::Message(message) => self.add(&message)?,
                Taken::End(offset) => {
                    self.batch.gaps += self.position.end_of_partition(offset);
                    *self.at_end = true;
                }
                Taken::Error(error, text) => self.trouble(error, &text)?,
            }
            if self.position.has_ended() {
                break;
            }
        }
        Ok(())
    }

    fn add(&mut self, message: &Message<'_>) -> Result<(), SourceError> {
        let (gap, wanted) = self.position.message(message.offset).map_err(|_| {
            let next = self.position.next();
            self.error(format!(
                "offset {} was delivered where {next} or a later one was due: the topic was \
                 changed under the reader. Start anew with --fresh",
                message.offset
            ))
        })?;
        *self.at_end = false;
        *self.denials = 0;
        self.batch.gaps += gap;
        if wanted {
            if self.batch.bytes.len() > MOST_BYTES {
                self.batch.next_offset = Offset(message.offset as u64);
                let full = std::mem::take(&mut self.batch);
                self.assignment.feed.push(full);
            }
            let value = message.payload.map(|payload| self.append(payload));
            let key = message.key.map(|key| self.append(key));
            self.batch.records.push(RawRecord {
                offset: Offset(message.offset as u64),
                value,
                key,
                append_time: message.append_time.map(EventTime),
            });
        }
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> (u32, u32) {
        let start = self.batch.bytes.len();
        self.batch.bytes.extend_from_slice(bytes);
        (start as u32, self.batch.bytes.len() as u32)
    }

    /// An error on a partition's queue. Brokers that come and go do not show here.
    fn trouble(&mut self, error: RDKafkaErrorCode, text: &str) -> Result<(), SourceError> {
        use RDKafkaErrorCode as Code;
        match error {
            error if is_unknown_topic(error) => {
                // A broker that has just started may say so; another one is asked.
                *self.denials = (*self.denials).max(1);
                Ok(())
            }
            Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::NotLeaderForPartition
            | Code::LeaderNotAvailable => Ok(()),
            Code::AutoOffsetReset | Code::OffsetOutOfRange => Err(SourceError::Gone {
                partition: self.assignment.partition.name.clone(),
                reason: out_of_range(self.position.next(), None),
            }),
            Code::TopicAuthorizationFailed => {
                Err(self.error(format!("reading is not allowed ({text}): grant READ")))
            }
            error => Err(self.error(format!("{error}: {text}"))),
        }
    }

    fn error(&self, reason: String) -> SourceError {
        let name = &self.assignment.partition.name;
        let partition = format!("{name}, offset {}", self.position.next());
        SourceError::Read { partition, reason }
    }

    fn hand_over(self) {
        let moved = self.batch.next_offset != self.position.next();
        if moved || !self.batch.records.is_empty() {
            let next_offset = self.position.next();
            self.assignment.feed.push(RawBatch {
                next_offset,
                ..self.batch
            });
        }
    }
}
