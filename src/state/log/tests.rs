//! The log by its rules, one by one, and then all of it: the code that runs in production, with
//! runs that start, write, checkpoint, delete and go on after they were fenced, meddling with each
//! other at every single step of the storage.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

use proptest::prelude::*;
use rand_core::{RngCore, SeedableRng};
use rand_xoshiro::SplitMix64;

use super::*;
use crate::sink::NewestRun;
use crate::state::checkpoint::{load, object_ref};
use crate::state::manifest::tests::manifest;
use crate::state::retention::{History, Retention};
use crate::state::{CheckpointHeader, MemoryStorage, Put, Snapshot, StorageError};
use crate::time::Epoch;

pub(in crate::state) fn starter(nonce: u128) -> Starter {
    Starter {
        nonce: Uuid::from_u128(nonce),
        at: EventTime(1_700_000_000_000),
        by: "test".to_owned(),
        goes_on: false,
    }
}

pub(crate) fn job(id: u128) -> JobRecord {
    JobRecord {
        job: JobId(Uuid::from_u128(id)),
        pipeline: "cars".to_owned(),
        version: "1".to_owned(),
        config: BTreeMap::from([("window".to_owned(), "15m".to_owned())]),
        partitions: Vec::new(),
        dims: None,
        shards: BTreeMap::new(),
        opened_at: EventTime(1_700_000_000_000),
        created_at: EventTime(1_700_000_000_000),
    }
}

pub(crate) fn entry(epoch: u64) -> EpochEntry {
    EpochEntry {
        epoch: Epoch(epoch),
        opened_at: EventTime(1_700_000_000_000 + 250 * epoch as i64),
        partitions: Vec::new(),
        found: Vec::new(),
        watermark: EventTime(1000 * epoch as i64),
        proved: EventTime(1000 * epoch as i64),
        proved_but_ended: EventTime::MIN,
        before_clock: EventTime::MIN,
        is_checkpoint: false,
        is_full: false,
        ending: None,
        dims: None,
    }
}

fn epoch(epoch: u64) -> LogItem {
    LogItem::Epoch(entry(epoch))
}

fn named(epoch: u64) -> LogItem {
    LogItem::Manifest(Box::new(manifest(epoch)))
}

fn memory() -> Arc<MemoryStorage> {
    Arc::default()
}

fn claimed(storage: &Arc<MemoryStorage>, nonce: u128) -> Claim {
    claim(Arc::clone(storage) as Arc<dyn Storage>, &starter(nonce)).unwrap()
}

fn epochs(past: &Past) -> Vec<u64> {
    past.epochs.iter().map(|entry| entry.epoch.0).collect()
}

/// Does something before the next put.
struct Meanwhile {
    inner: Arc<MemoryStorage>,
    act: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Meanwhile {
    fn new(inner: &Arc<MemoryStorage>, act: impl FnOnce() + Send + 'static) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::clone(inner),
            act: Mutex::new(Some(Box::new(act))),
        })
    }
}

impl Storage for Meanwhile {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, StorageError> {
        let act = self.act.lock().unwrap().take();
        act.into_iter().for_each(|act| act());
        self.inner.put(name, bytes)
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
        self.inner.get(name)
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.inner.list(prefix)
    }

    fn delete(&self, name: &str) -> Result<(), StorageError> {
        self.inner.delete(name)
    }
}

#[test]
fn runs_follow_each_other_and_read_what_was_written() {
    let storage = memory();
    let first = claimed(&storage, 1);
    assert_eq!(first.run(), RunNumber(1));
    assert_eq!(first.past().unwrap(), None);
    let mut writer = first.begin(job(7)).unwrap();
    writer.append(&[epoch(0)]).unwrap();
    assert_eq!(writer.append(&[epoch(1), epoch(2)]).unwrap(), 3);

    let second = claimed(&storage, 2);
    assert_eq!(second.run(), RunNumber(2));
    let past = second.past().unwrap().unwrap();
    assert_eq!((past.job.clone(), past.manifest.clone()), (job(7), None));
    assert_eq!(epochs(&past), [0, 1, 2]);
    assert_eq!(past.last_epoch(), Some(Epoch(2)));
    let mut second = second.go_on().unwrap();
    let fenced = writer.append(&[epoch(3)]).unwrap_err();
    assert!(matches!(fenced, LogWriteError::Fenced { run } if run == RunNumber(2)));
    assert!(writer.append(&[epoch(3)]).is_err(), "it stays fenced");
    second.append(&[epoch(3)]).unwrap();
    let past = claimed(&storage, 3).past().unwrap().unwrap();
    assert_eq!(epochs(&past), [0, 1, 2, 3]);
}

#[test]
fn epochs_after_the_manifest_are_replayed_wherever_they_stand() {
    let storage = memory();
    let mut writer = claimed(&storage, 1).begin(job(7)).unwrap();
    for item in [
        epoch(0),
        epoch(1),
        named(0),
        epoch(2),
        epoch(3),
        named(1),
        epoch(4),
    ] {
        writer.append(&[item]).unwrap();
    }
    let past = claimed(&storage, 2).past().unwrap().unwrap();
    assert_eq!(past.checkpoint(), Some(Epoch(1)));
    assert_eq!(epochs(&past), [2, 3, 4]);
    writer = claimed(&storage, 3).go_on().unwrap();
    writer.append(&[named(4)]).unwrap();
    let past = claimed(&storage, 4).past().unwrap().unwrap();
    assert_eq!((past.last_epoch(), epochs(&past)), (Some(Epoch(4)), vec![]));
}

#[test]
fn a_new_job_knows_nothing_of_the_one_before() {
    let storage = memory();
    let mut writer = claimed(&storage, 1).begin(job(7)).unwrap();
    writer.append(&[epoch(0), named(0)]).unwrap();
    claimed(&storage, 2).begin(job(8)).unwrap();
    let third = claimed(&storage, 3);
    assert_eq!(third.run(), RunNumber(3));
    let past = third.past().unwrap().unwrap();
    assert_eq!(
        (past.job, past.manifest, past.epochs),
        (job(8), None, vec![])
    );
    assert!(claimed(&memory(), 1).go_on().is_err(), "there is no job");
}

#[test]
fn of_two_starts_at_once_each_gets_a_run_of_its_own() {
    let storage = memory();
    let mut writer = claimed(&storage, 1).begin(job(7)).unwrap();
    let inner = Arc::clone(&storage);
    let between = Meanwhile::new(&storage, move || {
        let mut other = claimed(&inner, 2).go_on().unwrap();
        other.append(&[epoch(0)]).unwrap();
    });
    let claim = claim(between, &starter(3)).unwrap();
    assert_eq!(claim.run(), RunNumber(3));
    assert_eq!(epochs(&claim.past().unwrap().unwrap()), [0]);
    assert!(writer.append(&[epoch(0)]).is_err());
}

#[test]
fn a_claim_in_a_deleted_place_is_repeated_at_the_top() {
    let storage = memory();
    let writer = claimed(&storage, 1).begin(job(7)).unwrap();
    let (inner, writer) = (Arc::clone(&storage), Arc::new(Mutex::new(writer)));
    let kept = Arc::clone(&writer);
    let between = Meanwhile::new(&storage, move || {
        let mut writer = writer.lock().unwrap();
        for item in [epoch(0), epoch(1), epoch(2), named(1)] {
            writer.append(&[item]).unwrap();
        }
        inner.delete(&object_name(2)).unwrap();
        inner.delete(&object_name(3)).unwrap();
    });
    let claim = claim(between, &starter(2)).unwrap();
    // Run number 2 stands in the deleted place 2.
    assert_eq!((claim.run(), claim.number), (RunNumber(3), 6));
    let past = claim.past().unwrap().unwrap();
    assert_eq!(
        (past.checkpoint(), epochs(&past)),
        (Some(Epoch(1)), vec![2])
    );
    let fenced = kept.lock().unwrap().append(&[epoch(3)]).unwrap_err();
    assert!(matches!(fenced, LogWriteError::Fenced { run } if run == RunNumber(3)));
}

#[test]
fn the_own_nonce_means_that_an_answer_was_lost_and_no_other_does() {
    let storage = memory();
    let mut writer = claimed(&storage, 1).begin(job(7)).unwrap();
    let object = |nonce: u128| LogObject {
        run: RunNumber(1),
        nonce: Uuid::from_u128(nonce),
        job_at: Some(1),
        items: vec![epoch(0)],
    };
    storage.put(&object_name(2), &object(1).encode()).unwrap();
    writer.append(&[epoch(0)]).unwrap();
    storage.put(&object_name(3), &object(9).encode()).unwrap();
    let fenced = writer.append(&[epoch(0)]).unwrap_err();
    assert!(matches!(fenced, LogWriteError::Fenced { .. }), "{fenced}");
}

#[test]
fn a_claim_whose_answer_was_lost_has_succeeded() {
    let storage = memory();
    let inner = Arc::clone(&storage);
    let takeover = LogObject {
        run: RunNumber(1),
        nonce: starter(1).nonce,
        job_at: None,
        items: vec![LogItem::Takeover(Takeover {
            at: starter(1).at,
            by: starter(1).by,
        })],
    };
    let between = Meanwhile::new(&storage, move || {
        inner.put(&object_name(0), &takeover.encode()).unwrap();
    });
    let claim = claim(between, &starter(1)).unwrap();
    assert_eq!((claim.run(), claim.number), (RunNumber(1), 0));
}

#[test]
fn a_log_that_is_not_whole_is_refused_by_name() {
    let log = |items: &[LogItem]| {
        let storage = memory();
        let mut writer = claimed(&storage, 1).begin(job(7)).unwrap();
        for item in items {
            writer.append(std::slice::from_ref(item)).unwrap();
        }
        storage
    };
    let refused = |storage: &Arc<MemoryStorage>, expected: &str, name: &str| {
        let error = claimed(storage, 2).past().unwrap_err();
        assert!(error.is_refusal());
        let error = error.to_string();
        assert!(error.contains(expected) && error.contains(name), "{error}");
    };
    let hole = log(&[epoch(0), epoch(1), epoch(2)]);
    hole.delete(&object_name(3)).unwrap();
    refused(
        &hole,
        "epoch 2 stands where epoch 1 should",
        &object_name(4),
    );
    let twice = log(&[epoch(0), epoch(1), epoch(1)]);
    refused(&twice, "epoch 1 is there twice", &object_name(4));
    let after_manifest = log(&[epoch(0), named(0), epoch(2)]);
    refused(
        &after_manifest,
        "epoch 2 stands where epoch 1",
        &object_name(4),
    );
    let torn = log(&[epoch(0), epoch(1)]);
    torn.objects()
        .get_mut(&object_name(2))
        .unwrap()
        .truncate(40);
    refused(&torn, "cut off", &object_name(2));
    let jobless = log(&[epoch(0)]);
    jobless.delete(&object_name(1)).unwrap();
    refused(&jobless, "record of the job", &object_name(1));
}

#[test]
fn the_log_says_which_run_is_the_newest() {
    let storage = memory();
    let mut writer = claimed(&storage, 1).begin(job(7)).unwrap();
    let view = writer.view();
    assert_eq!(view.newest_run().unwrap(), RunNumber(1));
    writer.append(&[epoch(0)]).unwrap();
    assert_eq!(view.newest_run().unwrap(), RunNumber(1));
    let second = claimed(&storage, 2);
    let _third = claimed(&storage, 3);
    assert_eq!(view.newest_run().unwrap(), RunNumber(3));
    assert_eq!(
        second.go_on().unwrap().view().newest_run().unwrap(),
        RunNumber(3)
    );
}

#[test]
fn names_have_twenty_digits() {
    assert_eq!(object_name(42), "log/00000000000000000042");
    assert_eq!(object_number("log/00000000000000000042"), Some(42));
    for wrong in [
        "log/42",
        "log/0000000000000000004x",
        "x/00000000000000000042",
    ] {
        assert_eq!(object_number(wrong), None, "{wrong}");
    }
}

#[test]
fn people_can_read_it() {
    let storage = memory();
    let mut writer = claimed(&storage, 1).begin(job(7)).unwrap();
    writer.append(&[epoch(0), named(0)]).unwrap();
    let bytes = storage.get(&object_name(2)).unwrap().unwrap();
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains("\"epoch\":{\"epoch\":0"), "{text}");
    assert!(text.contains("\"manifest\":{\"epoch\":0"), "{text}");
}

/// A run with what it does besides: it may have ended without knowing it.
struct Actor {
    writer: LogWriter,
    job: JobRecord,
    next: u64,
    manifest: Option<u64>,
    chain: Vec<crate::state::ObjectRef>,
    retention: Retention,
}

/// Storage in which others act before each step, and in which answers get lost.
struct World {
    inner: MemoryStorage,
    rng: Mutex<SplitMix64>,
    actors: Mutex<Vec<Actor>>,
    /// By job and epoch the run whose put has succeeded.
    truth: Mutex<BTreeMap<(JobId, u64), RunNumber>>,
    depth: Mutex<u32>,
    starts: Mutex<u128>,
    this: Weak<World>,
}

impl World {
    fn new(seed: u64) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            inner: MemoryStorage::default(),
            rng: Mutex::new(SplitMix64::seed_from_u64(seed)),
            actors: Mutex::default(),
            truth: Mutex::default(),
            depth: Mutex::new(0),
            starts: Mutex::new(0),
            this: Weak::clone(this),
        })
    }

    fn draw(&self, below: u64) -> u64 {
        self.rng.lock().unwrap().next_u64() % below
    }

    /// Now and then somebody else acts, in the middle of whose steps others may act in turn.
    fn meddle(&self) {
        if *self.depth.lock().unwrap() < 3 && self.draw(4) == 0 {
            self.act();
        }
    }

    fn act(&self) {
        *self.depth.lock().unwrap() += 1;
        let count = self.actors.lock().unwrap().len() as u64;
        if count == 0 || self.draw(12) == 0 {
            self.start();
        } else {
            let at = self.draw(count) as usize;
            let mut actor = self.actors.lock().unwrap().swap_remove(at);
            let is_alive = match self.draw(10) {
                0 => self.checkpoint(&mut actor),
                1..=5 => self.append(&mut actor),
                _ => {
                    actor.retention.step().unwrap();
                    true
                }
            };
            // One that was fenced deletes on for a while.
            if is_alive || self.draw(6) > 0 {
                self.actors.lock().unwrap().push(actor);
            }
        }
        *self.depth.lock().unwrap() -= 1;
    }

    fn start(&self) {
        let nonce = {
            let mut starts = self.starts.lock().unwrap();
            *starts += 1;
            *starts
        };
        let storage: Arc<dyn Storage> = self.this.upgrade().unwrap();
        let claim = claim(Arc::clone(&storage), &starter(nonce)).unwrap();
        let run = claim.run();
        let past = claim.past();
        // A run that was overtaken while it read may find anything: it could not go on anyway.
        let is_newest = highest(&self.inner).unwrap().unwrap().1.run == run;
        let past = match past {
            Err(error) if is_newest => panic!("{error}"),
            Err(_) => return,
            Ok(past) => past.filter(|_| self.draw(20) > 0),
        };
        let (mut writer, record) = match &past {
            Some(past) => (claim.go_on().unwrap(), past.job.clone()),
            None => match claim.begin(job(nonce)) {
                Ok(writer) => (writer, job(nonce)),
                Err(error) => return assert!(matches!(error, LogWriteError::Fenced { .. })),
            },
        };
        if let Some(past) = &past
            && is_newest
        {
            self.judge(past);
        }
        let history = [
            History::None,
            History::All,
            History::For(crate::time::Span(4000)),
        ];
        let history = history[self.draw(3) as usize];
        let retention = writer.retention(history, &record, past.as_ref());
        let manifest = past.as_ref().and_then(|past| past.manifest.as_ref());
        let actor = Actor {
            next: past
                .as_ref()
                .and_then(Past::last_epoch)
                .map_or(0, |epoch| epoch.0 + 1),
            manifest: manifest.map(|manifest| manifest.epoch.0),
            chain: manifest.map_or_else(Vec::new, |manifest| manifest.objects.clone()),
            writer,
            job: record,
            retention,
        };
        self.actors.lock().unwrap().push(actor);
    }

    /// What a run goes on from is what was written, all of it.
    fn judge(&self, past: &Past) {
        let truth = self.truth.lock().unwrap();
        let known = |epoch: &u64| truth.contains_key(&(past.job.job, *epoch));
        let after = past.checkpoint().map_or(0, |epoch| epoch.0 + 1);
        let written: Vec<u64> = (after..u64::MAX).take_while(known).collect();
        let read = epochs(past);
        assert!(read.starts_with(&written), "{read:?} of {written:?}");
        for entry in &past.epochs {
            let run = truth.get(&(past.job.job, entry.epoch.0));
            // One that is not known yet was put, and its writer has not heard of it.
            assert!(run.is_none_or(|run| run.0 as i64 == entry.watermark.0));
        }
        if let Some(manifest) = &past.manifest {
            load(&self.inner, manifest).unwrap();
        }
    }

    fn append(&self, actor: &mut Actor) -> bool {
        let run = actor.writer.run();
        let mut entry = entry(actor.next);
        entry.watermark = EventTime(run.0 as i64);
        match actor.writer.append(&[LogItem::Epoch(entry)]) {
            Ok(_) => {
                let key = (actor.job.job, actor.next);
                let before = self.truth.lock().unwrap().insert(key, run);
                assert_eq!(before, None, "epoch {} was written twice", actor.next);
                actor.next += 1;
                true
            }
            Err(_) => false,
        }
    }

    fn checkpoint(&self, actor: &mut Actor) -> bool {
        let Some(last) = actor.next.checked_sub(1) else {
            return true;
        };
        // Epochs may have been logged after that of the manifest.
        let epoch = last - self.draw(3).min(last);
        if actor.manifest >= Some(epoch) {
            return true;
        }
        let is_full = actor.chain.is_empty() || self.draw(3) == 0;
        let header = CheckpointHeader {
            job: actor.job.job,
            epoch: Epoch(epoch),
            run: actor.writer.run(),
            worker: 0,
            is_full,
            operators: Vec::new(),
        };
        let (name, bytes) = (header.object_name(), Snapshot::default().encode(&header));
        self.put(&name, &bytes).unwrap();
        if is_full {
            actor.chain.clear();
        }
        actor.chain.push(object_ref(&name, &bytes));
        let mut manifest = manifest(epoch);
        manifest.objects.clone_from(&actor.chain);
        match actor
            .writer
            .append(&[LogItem::Manifest(Box::new(manifest.clone()))])
        {
            Ok(number) => {
                actor.manifest = Some(epoch);
                actor.retention.named(manifest, number);
                true
            }
            Err(_) => false,
        }
    }
}

impl Storage for World {
    fn name(&self) -> String {
        "world".to_owned()
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, StorageError> {
        self.meddle();
        let put = self.inner.put(name, bytes)?;
        if put == Put::Written && self.draw(5) == 0 {
            // The answer was lost, and the request is repeated later.
            self.meddle();
            return self.inner.put(name, bytes);
        }
        Ok(put)
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
        self.meddle();
        self.inner.get(name)
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.meddle();
        self.inner.list(prefix)
    }

    fn delete(&self, name: &str) -> Result<(), StorageError> {
        self.meddle();
        self.inner.delete(name)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// One epoch is written by one run, and every start reads all that was written before it.
    #[test]
    fn however_runs_meddle_with_each_other_the_log_is_one(seed in any::<u64>()) {
        let world = World::new(seed);
        for _ in 0..150 {
            world.act();
        }
        // Then all is quiet, and one more run goes on.
        *world.depth.lock().unwrap() = u32::MAX;
        let claim = claim(world.clone() as Arc<dyn Storage>, &starter(u128::MAX)).unwrap();
        if let Some(past) = claim.past().unwrap() {
            world.judge(&past);
        }
    }
}

/// A supervised run comes back after somebody else has taken over.
#[test]
fn a_run_that_was_superseded_does_not_come_back() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    let start = |start, goes_on| Starter {
        nonce: nonce_of_series(Uuid::from_u128(7 << 32), start),
        goes_on,
        ..starter(0)
    };
    let try_claim = |starter: &Starter| claim(Arc::clone(&storage), starter).map(|it| it.run().0);
    let refused = |result: Result<u64, StateError>| {
        let error = result.expect_err("refused");
        assert!(error.is_refusal(), "{error:?}");
        error.to_string()
    };
    assert!(refused(try_claim(&start(0, true))).contains("gone"));
    assert_eq!(try_claim(&start(1, false)).expect("claimed"), 1);
    // Also one that has claimed and did not get further.
    assert_eq!(try_claim(&start(2, true)).expect("claimed"), 2);
    assert_eq!(try_claim(&start(4, true)).expect("claimed"), 3);
    assert_eq!(try_claim(&starter(8 << 32)).expect("claimed"), 4);
    assert!(refused(try_claim(&start(5, true))).contains("run 4 of somebody else"));
    assert_eq!(try_claim(&starter(9 << 32)).expect("claimed"), 5);
}
