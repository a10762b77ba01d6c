use super::*;
use crate::sink::RunNumber;
use crate::state::checkpoint::{load, object_ref};
use crate::state::log::tests::{entry, job, starter};
use crate::state::log::{Takeover, claim, numbers};
use crate::state::manifest::tests::manifest;
use crate::state::{CheckpointHeader, LogWriter, MemoryStorage, Past, Snapshot};

fn object(items: Vec<LogItem>) -> LogObject {
    LogObject {
        run: RunNumber(1),
        nonce: uuid::Uuid::nil(),
        job_at: Some(10),
        items,
    }
}

#[test]
fn a_log_object_goes_when_a_manifest_is_above_all_of_it() {
    let named = Named {
        epoch: Epoch(40),
        number: 60,
        job_at: 10,
    };
    let takeover = LogItem::Takeover(Takeover {
        at: EventTime(0),
        by: String::new(),
    });
    let epoch = |epoch| LogItem::Epoch(entry(epoch));
    let older = || LogItem::Manifest(Box::new(manifest(30)));
    for (number, items, expected) in [
        (50, vec![epoch(38), epoch(39)], LogFate::Past),
        (50, vec![epoch(39), epoch(40)], LogFate::Later),
        (50, vec![epoch(41)], LogFate::Later),
        (59, vec![older()], LogFate::Past),
        (59, vec![older(), epoch(41)], LogFate::Later),
        (60, vec![epoch(3)], LogFate::Later),
        (61, vec![epoch(3)], LogFate::Later),
        (50, vec![takeover.clone()], LogFate::Forever),
        (5, vec![takeover], LogFate::Forever),
        (10, vec![LogItem::Job(job(1))], LogFate::Forever),
        (9, vec![LogItem::Job(job(2))], LogFate::Foreign),
        (9, vec![epoch(400)], LogFate::Foreign),
    ] {
        assert_eq!(
            log_fate(number, &object(items.clone()), &named),
            expected,
            "{number} {items:?}"
        );
    }
}

#[test]
fn bases_are_at_most_two_and_the_older_one_covers_the_history() {
    let at = |minutes: &[i64]| -> Vec<EventTime> {
        minutes.iter().map(|it| EventTime(it * 60_000)).collect()
    };
    let hour = History::For(Span::minutes(60));
    let change = |pin, drop| BaseChange { pin, drop };
    for (bases, now, history, expected) in [
        (&[][..], 0, hour, change(true, 0)),
        (&[0], 59, hour, change(false, 0)),
        (&[0], 60, hour, change(true, 0)),
        (&[0, 60], 119, hour, change(false, 0)),
        (&[0, 60], 120, hour, change(true, 1)),
        (&[60, 120], 1000, hour, change(true, 1)),
        (&[0, 1, 2], 1000, hour, change(true, 2)),
        (&[], 0, History::All, change(true, 0)),
        (&[0], 1000, History::All, change(false, 0)),
        (&[0, 60], 60, History::None, change(false, 2)),
        (&[], 60, History::None, change(false, 0)),
    ] {
        let now = at(&[now])[0];
        assert_eq!(
            next_bases(&at(bases), now, history),
            expected,
            "{bases:?} {history}"
        );
    }
    // However it goes on, there is always a base of the wanted age once the job is that old.
    let mut bases = at(&[0]);
    for minute in 1..1000 {
        let now = at(&[minute])[0];
        let change = next_bases(&bases, now, hour);
        if change.pin {
            bases.push(now);
        }
        bases.drain(..change.drop);
        assert!(bases.len() <= 2);
        assert!(minute < 60 || now.0 - bases[0].0 >= 3_600_000);
        assert!(now.0 - bases[0].0 <= 2 * 3_600_000);
    }
}

#[test]
fn only_what_no_chain_names_is_needless() {
    let chain = |names: &[&str]| -> Vec<ObjectRef> {
        names.iter().map(|name| object_ref(name, b"")).collect()
    };
    let (current, base) = (chain(&["c", "d"]), chain(&["a"]));
    assert_eq!(needless(["a", "b", "c", "b"], &[&current, &base]), ["b"]);
    assert!(needless(["c"], &[&current]).is_empty());
}

#[test]
fn history_is_all_none_or_a_time() {
    assert_eq!(History::parse("all"), Ok(History::All));
    assert_eq!(History::parse("none"), Ok(History::None));
    assert_eq!(History::parse("90m"), Ok(History::For(Span::minutes(90))));
    for wrong in ["", "7", "soon", "0s"] {
        assert!(History::parse(wrong).is_err(), "{wrong}");
    }
}

/// A run of a job with a checkpoint every ten epochs of 250 ms.
pub(in crate::state) struct Run {
    storage: Arc<MemoryStorage>,
    past: Option<Past>,
    writer: LogWriter,
    retention: Retention,
    chain: Vec<ObjectRef>,
    next: u64,
}

impl Run {
    pub(in crate::state) fn start(storage: &Arc<MemoryStorage>, history: History) -> Self {
        let storage = Arc::clone(storage);
        let nonce = numbers(&*storage).unwrap().len() as u128 + 1000;
        let claim = claim(Arc::clone(&storage) as Arc<dyn Storage>, &starter(nonce)).unwrap();
        let past = claim.past().unwrap();
        let mut writer = match past {
            None => claim.begin(job(7)).unwrap(),
            Some(_) => claim.go_on().unwrap(),
        };
        let retention = writer.retention(history, &job(7), past.as_ref());
        let manifest = past.as_ref().and_then(|past| past.manifest.as_ref());
        Self {
            chain: manifest.map_or_else(Vec::new, |manifest| manifest.objects.clone()),
            next: past
                .as_ref()
                .and_then(Past::last_epoch)
                .map_or(0, |it| it.0 + 1),
            storage,
            past,
            writer,
            retention,
        }
    }

    /// Ten epochs and a manifest; a full checkpoint every third time.
    pub(in crate::state) fn ten_epochs(&mut self) {
        for epoch in self.next..self.next + 10 {
            self.writer.append(&[LogItem::Epoch(entry(epoch))]).unwrap();
        }
        self.next += 10;
        let epoch = self.next - 1;
        let header = CheckpointHeader {
            job: job(7).job,
            epoch: Epoch(epoch),
            run: self.writer.run(),
            worker: 0,
            is_full: epoch % 30 == 9,
            operators: Vec::new(),
        };
        let (name, bytes) = (header.object_name(), Snapshot::default().encode(&header));
        self.storage.put(&name, &bytes).unwrap();
        if header.is_full {
            self.chain.clear();
        }
        self.chain.push(object_ref(&name, &bytes));
        let mut manifest = manifest(epoch);
        manifest.objects.clone_from(&self.chain);
        let item = LogItem::Manifest(Box::new(manifest.clone()));
        let number = self.writer.append(&[item]).unwrap();
        self.retention.named(manifest, number);
    }

    pub(in crate::state) fn clean_up(&mut self) {
        while self.retention.step().unwrap() {}
    }
}

/// The epochs that a replay from the oldest base finds, and where it starts.
fn replayable(storage: &MemoryStorage, last: u64) -> (Option<u64>, usize) {
    let id = job(7).job;
    let mut objects = Objects::new();
    for number in numbers(storage).unwrap() {
        objects.insert(number, LogObject::read(storage, number).unwrap().unwrap());
    }
    history::add_after(storage, id, None, &mut objects).unwrap();
    let items = objects.values().flat_map(|object| &object.items);
    let epochs: BTreeSet<u64> = items
        .filter_map(|item| match item {
            LogItem::Epoch(entry) => Some(entry.epoch.0),
            _ => None,
        })
        .collect();
    let bases = history::bases(storage, id).unwrap();
    let after = bases.first().filter(|_| !epochs.contains(&0));
    if let Some(base) = after {
        let manifest = history::read_base(storage, &base.object_name()).unwrap();
        load(storage, &manifest.unwrap()).unwrap();
    }
    let after = after.map(|base| base.epoch.0);
    let first = after.map_or(0, |epoch| epoch + 1);
    for epoch in first..=last {
        assert!(epochs.contains(&epoch), "epoch {epoch} of {first}..={last}");
    }
    (after, epochs.len())
}

#[test]
fn without_history_only_what_a_restart_needs_stays() {
    let storage = Arc::new(MemoryStorage::default());
    let mut run = Run::start(&storage, History::None);
    for _ in 0..5 {
        run.ten_epochs();
        run.clean_up();
    }
    // Takeover and job, the last epoch, its manifest.
    assert_eq!(numbers(&*storage).unwrap(), [0, 1, 55, 56]);
    let mut left = storage.list("").unwrap();
    left.retain(|name| !name.starts_with("log/"));
    let chain: Vec<_> = run.chain.iter().map(|object| object.name.clone()).collect();
    assert_eq!((left, chain.len()), (chain, 2));
    let next = Run::start(&storage, History::None);
    assert_eq!((next.next, next.past.unwrap().epochs.len()), (50, 0));
}

#[test]
fn all_history_is_kept_in_chunks_from_the_beginning_on() {
    let storage = Arc::new(MemoryStorage::default());
    for _ in 0..3 {
        let mut run = Run::start(&storage, History::All);
        run.ten_epochs();
        run.clean_up();
    }
    assert_eq!(replayable(&storage, 29), (None, 30));
    assert!(numbers(&*storage).unwrap().len() < 8, "the log is short");
}

#[test]
fn a_time_of_history_is_kept_and_not_much_more() {
    let storage = Arc::new(MemoryStorage::default());
    // Twenty epochs are 5 s; one run does 100.
    let history = History::For(Span::seconds(5));
    for round in 0..6 {
        let mut run = Run::start(&storage, history);
        for _ in 0..10 {
            run.ten_epochs();
            run.clean_up();
            let (after, _) = replayable(&storage, run.next - 1);
            let first = after.map_or(0, |epoch| epoch + 1);
            let kept = run.next - first;
            assert!(
                kept >= run.next.min(20) && kept <= 60,
                "{round}: {kept} of {}",
                run.next
            );
        }
    }
    let objects = storage.list(CHECKPOINT).unwrap().len();
    assert!(
        objects <= 9,
        "{objects} objects of two bases and the newest manifest"
    );
}

#[test]
fn a_run_may_end_at_any_step_and_the_next_one_cleans_up() {
    for history in [History::None, History::All, History::For(Span::seconds(5))] {
        for steps in 0..60 {
            let storage = Arc::new(MemoryStorage::default());
            let mut first = Run::start(&storage, history);
            first.ten_epochs();
            first.ten_epochs();
            first.ten_epochs();
            first.ten_epochs();
            for _ in 0..steps {
                first.retention.step().unwrap();
            }
            let mut second = Run::start(&storage, history);
            assert_eq!(second.next, 40, "{steps}");
            let past = second.past.clone().unwrap();
            load(&*storage, past.manifest.as_ref().unwrap()).unwrap();
            if history != History::None {
                replayable(&storage, 39);
            }
            second.ten_epochs();
            second.clean_up();
            if history == History::All {
                assert_eq!(replayable(&storage, 49).1, 50, "{steps}");
            }
            if history == History::None {
                assert_eq!(
                    storage.list("").unwrap().len(),
                    5 + second.chain.len(),
                    "{steps}"
                );
            }
        }
    }
}

#[test]
fn what_an_earlier_job_and_an_unfinished_checkpoint_have_left_goes() {
    let storage = Arc::new(MemoryStorage::default());
    let mut run = Run::start(&storage, History::All);
    run.ten_epochs();
    run.ten_epochs();
    run.clean_up();
    let orphan = "checkpoint/00000000000000000025-1-3";
    storage.put(orphan, b"never named").unwrap();
    let dynamic = Arc::clone(&storage) as Arc<dyn Storage>;
    let mut other = job(8);
    other.opened_at = EventTime(1_700_000_000_000);
    let mut writer = claim(dynamic, &starter(5))
        .unwrap()
        .begin(other.clone())
        .unwrap();
    let mut retention = writer.retention(History::All, &other, None);
    writer.append(&[LogItem::Epoch(entry(0))]).unwrap();
    assert!(storage.get(orphan).unwrap().is_some());
    let number = writer
        .append(&[LogItem::Manifest(Box::new(manifest(0)))])
        .unwrap();
    retention.named(manifest(0), number);
    while retention.step().unwrap() {}
    let left = storage.list("").unwrap();
    assert_eq!(
        left.len(),
        5,
        "two takeovers, a job, an epoch, a manifest: {left:?}"
    );
    assert!(left.iter().all(|name| name.starts_with("log/")), "{left:?}");
}

#[test]
fn a_damaged_checkpoint_is_replaced_by_an_older_one_when_everything_is_there() {
    let storage = Arc::new(MemoryStorage::default());
    let mut run = Run::start(&storage, History::All);
    run.ten_epochs();
    run.ten_epochs();
    run.clean_up();
    let past = Run::start(&storage, History::All).past.unwrap();
    // The chain of the manifest before is a part of this one's.
    let newest = past.manifest.as_ref().unwrap().objects[1].name.clone();
    storage.objects().get_mut(&newest).unwrap().truncate(9);
    assert!(load(&*storage, past.manifest.as_ref().unwrap()).is_err());
    let previous = past.previous(&*storage).unwrap().unwrap();
    assert_eq!(
        (previous.checkpoint(), previous.epochs.len()),
        (Some(Epoch(9)), 10)
    );
    assert_eq!(previous.last_epoch(), past.last_epoch());
    // Without that there is the beginning, as long as there is all history.
    let first = previous.manifest.as_ref().unwrap().objects[0].name.clone();
    storage.delete(&first).unwrap();
    let beginning = past.previous(&*storage).unwrap().unwrap();
    assert_eq!(
        (beginning.manifest.clone(), beginning.epochs.len()),
        (None, 20)
    );
    assert_eq!(beginning.previous(&*storage).unwrap(), None);
    for name in storage.list(HISTORY).unwrap() {
        storage.delete(&name).unwrap();
    }
    assert_eq!(past.previous(&*storage).unwrap(), None);
}

#[test]
fn a_checkpoint_that_is_made_again_finds_its_epochs_in_the_history() {
    let storage = Arc::new(MemoryStorage::default());
    let mut run = Run::start(&storage, History::All);
    for _ in 0..4 {
        run.ten_epochs();
    }
    run.clean_up();
    // As by a run that went on from the checkpoint of epoch 19 and was killed after that of 29.
    let mut again = Run::start(&storage, History::All);
    let item = LogItem::Manifest(Box::new(manifest(29)));
    let number = again.writer.append(&[item]).unwrap();
    again.retention.named(manifest(29), number);
    again.clean_up();
    let past = Run::start(&storage, History::All).past.unwrap();
    assert_eq!(
        (past.checkpoint(), past.epochs.len()),
        (Some(Epoch(29)), 10)
    );
    assert_eq!(past.last_epoch(), Some(Epoch(39)));
}

/// All manifests that a replay finds, by their epochs.
fn manifests_of(storage: &MemoryStorage) -> Vec<u64> {
    let mut objects = Objects::new();
    for number in numbers(storage).unwrap() {
        objects.insert(number, LogObject::read(storage, number).unwrap().unwrap());
    }
    history::add_after(storage, job(7).job, None, &mut objects).unwrap();
    let items = objects.into_values().flat_map(|object| object.items);
    let epochs = items.filter_map(|item| match item {
        LogItem::Manifest(manifest) => Some(manifest.epoch.0),
        _ => None,
    });
    epochs.collect()
}

#[test]
fn a_manifest_that_stands_alone_is_not_lost_with_a_chunk_of_the_same_name() {
    let named = |epoch| LogItem::Manifest(Box::new(manifest(epoch)));
    let epoch = |epoch| LogItem::Epoch(entry(epoch));
    for is_copied in [false, true] {
        let storage = Arc::new(MemoryStorage::default());
        let mut run = Run::start(&storage, History::All);
        let first = run.writer.append(&[epoch(0), epoch(1)]).unwrap();
        if is_copied {
            // As by a run that was killed before it deleted what it had copied.
            let object = LogObject::read(&*storage, first).unwrap().unwrap();
            let copied = Objects::from([(first, object)]);
            let name = ChunkName::of(job(7).job, &copied).unwrap().object_name();
            storage.put(&name, &history::encode_chunk(&copied)).unwrap();
        }
        run.writer.append(&[named(0)]).unwrap();
        run.writer.append(&[epoch(2)]).unwrap();
        // Two of them come before anything is deleted.
        for last in [1, 2] {
            let number = run.writer.append(&[named(last)]).unwrap();
            run.retention.named(manifest(last), number);
        }
        run.clean_up();
        assert_eq!(manifests_of(&storage), [0, 1, 2], "{is_copied}");
        assert_eq!(replayable(&storage, 2), (None, 3));
    }
}

#[test]
fn nothing_is_copied_twice_when_manifests_come_fast() {
    let storage = Arc::new(MemoryStorage::default());
    let mut run = Run::start(&storage, History::All);
    for _ in 0..4 {
        run.ten_epochs();
    }
    run.clean_up();
    let chunks = history::chunks(&*storage, job(7).job).unwrap();
    assert!(
        chunks.windows(2).all(|two| two[0].last < two[1].first),
        "{chunks:?}"
    );
    assert_eq!(replayable(&storage, 39), (None, 40));
}
