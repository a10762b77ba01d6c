//! Runs against brokers in memory: what readers of committed transactions see, step by step.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use uuid::Uuid;

use super::*;
use crate::sink::encode::sample::{Sample, rows};
use crate::sink::{JobId, NewestRun, RunNumber, SinkMark};
use crate::time::EventTime;

const SINK: &str = "rows/kafka-topic";
const SHARD: Shard = Shard(0);

/// What brokers and the log know.
#[derive(Default)]
struct World {
    /// The newest producer of each shard.
    generation: BTreeMap<Shard, u64>,
    committed: BTreeMap<Shard, Epoch>,
    /// What readers see.
    visible: Vec<(Shard, Epoch)>,
    newest: u64,
    /// What was asked, in order.
    steps: Vec<&'static str>,
    mishaps: VecDeque<(&'static str, Mishap)>,
}

/// What goes wrong when a step is asked for.
enum Mishap {
    /// The request does not arrive.
    Request,
    /// It is done, and the answer does not arrive.
    Answer,
    /// It is done, and the answer is that the producer has ended.
    Ended,
    /// Something else happens before.
    Before(Box<dyn FnOnce(&Broker) + Send>),
}

#[derive(Clone, Default)]
struct Broker(Arc<Mutex<World>>);

impl Broker {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    /// The next `step` goes wrong.
    fn mishap(&self, step: &'static str, mishap: Mishap) {
        self.world().mishaps.push_back((step, mishap));
    }

    fn before(&self, step: &'static str, event: impl FnOnce(&Broker) + Send + 'static) {
        self.mishap(step, Mishap::Before(Box::new(event)));
    }

    fn step(&self, step: &'static str) -> Option<Mishap> {
        let mishap = {
            let mut world = self.world();
            world.steps.push(step);
            let is_due = world.mishaps.front().is_some_and(|(due, _)| *due == step);
            is_due.then(|| world.mishaps.pop_front()).flatten()
        };
        match mishap {
            Some((_, Mishap::Before(event))) => {
                event(self);
                None
            }
            other => other.map(|(_, mishap)| mishap),
        }
    }

    fn context(&self, run: u64) -> JobContext {
        let newest = self.world().newest.max(run);
        self.world().newest = newest;
        JobContext {
            job: JobId(Uuid::from_u128(7)),
            run: RunNumber(run),
            checkpoint: None,
            logged: Some(Epoch(100)),
            sinks: BTreeMap::new(),
            replace_output: false,
            log: Arc::new(self.clone()),
        }
    }

    fn try_open(&self, job: JobContext) -> Result<TopicCommitter<Client>, SinkError> {
        let client = Client {
            broker: self.clone(),
            generation: BTreeMap::new(),
            staged: BTreeMap::new(),
        };
        let shards = [SHARD, Shard(1)];
        TopicCommitter::open(client, Arc::new(job), SINK.to_owned(), &shards)
    }

    fn open(&self, run: u64) -> TopicCommitter<Client> {
        self.try_open(self.context(run)).unwrap()
    }

    fn visible(&self) -> Vec<u64> {
        let world = self.world();
        let of_shard = world.visible.iter().filter(|(shard, _)| *shard == SHARD);
        of_shard.map(|(_, epoch)| epoch.0).collect()
    }
}

impl NewestRun for Broker {
    fn newest_run(&self) -> Result<RunNumber, SinkError> {
        Ok(RunNumber(self.world().newest))
    }
}

/// One run's producers.
struct Client {
    broker: Broker,
    generation: BTreeMap<Shard, u64>,
    staged: BTreeMap<Shard, (Epoch, bool)>,
}

impl Transactions for Client {
    fn init(&mut self, shard: Shard) -> Result<(), SinkError> {
        self.broker.step("init");
        let mut world = self.broker.world();
        let generation = world.generation.entry(shard).or_default();
        *generation += 1;
        self.generation.insert(shard, *generation);
        self.staged.remove(&shard);
        Ok(())
    }

    fn committed(&mut self, shard: Shard) -> Result<Option<Epoch>, SinkError> {
        self.broker.step("committed");
        Ok(self.broker.world().committed.get(&shard).copied())
    }

    fn stage(&mut self, epoch: &EpochRows) -> Result<Answer<Written>, SinkError> {
        let mishap = self.broker.step("stage");
        let has_rows = !epoch.rows.is_empty();
        self.staged.insert(epoch.shard, (epoch.epoch, has_rows));
        let rows = epoch.rows.len() as u64;
        Ok(match mishap {
            None => Answer::Done(Written { rows, bytes: rows }),
            Some(_) => Answer::Ended,
        })
    }

    fn commit(&mut self, shard: Shard) -> Result<Answer<()>, SinkError> {
        let mishap = self.broker.step("commit");
        if matches!(mishap, Some(Mishap::Request)) {
            return Ok(Answer::Lost);
        }
        let mut world = self.broker.world();
        if world.generation.get(&shard) != self.generation.get(&shard) {
            return Ok(Answer::Ended);
        }
        // To commit again what is committed changes nothing.
        if let Some((epoch, has_rows)) = self.staged.remove(&shard) {
            world.committed.insert(shard, epoch);
            if has_rows {
                world.visible.push((shard, epoch));
            }
        }
        Ok(match mishap {
            None => Answer::Done(()),
            Some(Mishap::Ended) => Answer::Ended,
            Some(_) => Answer::Lost,
        })
    }
}

fn epoch(number: u64) -> EpochRows {
    let mut rows = rows::<Sample>();
    let origin = crate::rows::Origin {
        partition: crate::time::PartitionId(0),
        offset: crate::time::Offset(number),
    };
    rows.push_record(&Sample::full(), origin);
    EpochRows {
        shard: SHARD,
        epoch: Epoch(number),
        watermark: EventTime::MIN,
        is_checkpoint: false,
        rows,
    }
}

fn empty(number: u64, is_checkpoint: bool) -> EpochRows {
    EpochRows {
        is_checkpoint,
        rows: rows::<Sample>(),
        ..epoch(number)
    }
}

fn commit(run: &mut TopicCommitter<Client>, numbers: std::ops::Range<u64>) {
    for number in numbers {
        run.commit(&epoch(number)).unwrap();
    }
}

#[test]
fn producers_of_all_shards_come_before_the_first_look_at_epochs() {
    let broker = Broker::default();
    broker.open(1);
    assert_eq!(
        broker.world().steps,
        ["init", "init", "committed", "committed"]
    );
}

#[test]
fn a_restart_skips_what_is_committed() {
    let broker = Broker::default();
    commit(&mut broker.open(1), 0..3);
    let mut second = broker.open(2);
    assert_eq!(second.committed(SHARD), Some(Epoch(2)));
    assert_eq!(second.committed(Shard(1)), None);
    commit(&mut second, 0..5);
    assert_eq!(broker.visible(), [0, 1, 2, 3, 4]);
}

#[test]
fn a_commit_between_the_look_at_one_run_and_its_fence_is_seen() {
    let broker = Broker::default();
    let mut first = broker.open(1);
    // Fences come first, so the older run's last commit is either seen or impossible.
    broker.before("init", move |_| commit(&mut first, 0..2));
    let mut second = broker.open(2);
    commit(&mut second, 0..3);
    assert_eq!(broker.visible(), [0, 1, 2]);
}

#[test]
fn a_zombie_is_fenced_and_nothing_of_it_is_seen() {
    let broker = Broker::default();
    let mut first = broker.open(1);
    commit(&mut first, 0..1);
    let mut second = broker.open(2);
    let error = first.commit(&epoch(1)).unwrap_err();
    assert!(matches!(error, SinkError::Fenced(_)), "{error:?}");
    assert!(error.to_string().contains("run 2"), "{error}");
    commit(&mut second, 1..2);
    assert_eq!(broker.visible(), [0, 1]);
}

#[test]
fn a_zombie_that_is_fenced_between_the_rows_and_the_commit_is_not_seen() {
    let broker = Broker::default();
    let mut first = broker.open(1);
    broker.before("commit", |broker| commit(&mut broker.open(2), 0..2));
    let error = first.commit(&epoch(0)).unwrap_err();
    assert!(matches!(error, SinkError::Fenced(_)), "{error:?}");
    assert_eq!(broker.visible(), [0, 1]);
}

#[test]
fn the_newest_run_goes_on_when_an_older_one_has_started_late() {
    let broker = Broker::default();
    let late = broker.context(1);
    let mut newest = broker.open(2);
    commit(&mut newest, 0..2);
    // The late one finds two epochs, replays one more, and is left with a fenced producer.
    let mut late = broker.try_open(late).unwrap();
    commit(&mut late, 0..3);
    newest.commit(&epoch(2)).unwrap();
    newest.commit(&epoch(3)).unwrap();
    let error = late.commit(&epoch(3)).unwrap_err();
    assert!(matches!(error, SinkError::Fenced(_)), "{error:?}");
    assert_eq!(broker.visible(), [0, 1, 2, 3]);
}

#[test]
fn lost_requests_and_answers_are_asked_again() {
    let broker = Broker::default();
    let mut run = broker.open(1);
    broker.mishap("commit", Mishap::Request);
    broker.mishap("commit", Mishap::Answer);
    broker.mishap("commit", Mishap::Request);
    let written = run.commit(&epoch(0)).unwrap();
    assert_eq!((written.rows, written.bytes), (1, 1));
    commit(&mut run, 1..2);
    assert_eq!(broker.visible(), [0, 1]);
}

#[test]
fn a_producer_that_ends_with_its_commit_done_does_not_send_the_epoch_again() {
    let broker = Broker::default();
    let mut run = broker.open(1);
    broker.mishap("commit", Mishap::Ended);
    assert_eq!(run.commit(&epoch(0)).unwrap().rows, 1);
    commit(&mut run, 1..2);
    assert_eq!(broker.visible(), [0, 1]);
}

#[test]
fn a_producer_that_ends_before_its_commit_sends_the_epoch_again() {
    let broker = Broker::default();
    let mut run = broker.open(1);
    broker.mishap("stage", Mishap::Ended);
    broker.mishap("commit", Mishap::Request);
    broker.before("commit", |broker| {
        // As a broker does that has waited too long for the end of the transaction.
        *broker.world().generation.get_mut(&SHARD).unwrap() += 1;
    });
    assert_eq!(run.commit(&epoch(0)).unwrap().rows, 1);
    assert_eq!(broker.visible(), [0]);
    let world = broker.world();
    let inits = world.steps.iter().filter(|step| **step == "init");
    assert_eq!(inits.count(), 2 + 2);
}

#[test]
fn an_epoch_without_rows_is_committed_only_at_a_checkpoint() {
    let broker = Broker::default();
    let mut run = broker.open(1);
    run.commit(&empty(0, false)).unwrap();
    assert_eq!(run.committed(SHARD), None);
    run.commit(&empty(1, true)).unwrap();
    assert_eq!(run.committed(SHARD), Some(Epoch(1)));
    assert_eq!(broker.open(2).committed(SHARD), Some(Epoch(1)));
    assert!(broker.visible().is_empty());
}

fn with_checkpoint(broker: &Broker, checkpoint: u64, logged: u64) -> JobContext {
    JobContext {
        checkpoint: Some(Epoch(checkpoint)),
        logged: Some(Epoch(logged)),
        sinks: BTreeMap::from([(SINK.to_owned(), SinkMark::default())]),
        ..broker.context(2)
    }
}

fn refused(opened: Result<TopicCommitter<Client>, SinkError>) -> String {
    match opened {
        Err(SinkError::Refused(text)) => text,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("taken"),
    }
}

#[test]
fn epochs_that_brokers_have_forgotten_are_refused() {
    let broker = Broker::default();
    let job = with_checkpoint(&broker, 5, 9);
    let text = refused(broker.try_open(job.clone()));
    assert!(text.contains("offsets.retention.minutes"), "{text}");
    assert!(text.contains("epoch 5"), "{text}");

    // A sink that the checkpoint does not know begins after it.
    let sinks = BTreeMap::new();
    assert!(broker.try_open(JobContext { sinks, ..job }).is_ok());
}

#[test]
fn a_topic_behind_or_ahead_of_the_state_is_refused() {
    let broker = Broker::default();
    for shard in [SHARD, Shard(1)] {
        broker.world().committed.insert(shard, Epoch(4));
    }
    let text = refused(broker.try_open(with_checkpoint(&broker, 5, 9)));
    assert!(text.contains('4') && text.contains('5'), "{text}");
    let text = refused(broker.try_open(with_checkpoint(&broker, 2, 3)));
    assert!(text.contains('4') && text.contains('3'), "{text}");
    assert!(broker.try_open(with_checkpoint(&broker, 4, 4)).is_ok());
}

#[test]
fn epochs_that_are_lost_while_the_run_goes_on_are_refused() {
    let broker = Broker::default();
    let mut run = broker.open(1);
    commit(&mut run, 0..3);
    broker.world().committed.remove(&SHARD);
    broker.mishap("stage", Mishap::Ended);
    let error = run.commit(&epoch(3)).unwrap_err();
    assert!(matches!(error, SinkError::Refused(_)), "{error:?}");
    assert!(error.to_string().contains("none"), "{error}");
}
