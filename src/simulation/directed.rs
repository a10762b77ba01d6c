//! Rules that chance rarely hits, each in a scenario of its own: with the rule nothing happens,
//! without it what it prevents.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use uuid::Uuid;

use super::lines::{self, LinesWorld};
use super::machine::{self, Task};
use super::rules;
use super::storage::SimulatedStorage;
use super::table::{self, TableWorld};
use super::topic::{self, TopicWorld};
use super::world::{World, set_world, world};
use crate::rows::{Column, ColumnType, Completeness, Pane, RowWriter, Rows, Tabular, Timing};
use crate::rules::Rule;
use crate::sink::commit::sample;
use crate::sink::{EpochRows, JobId, Layout, OutputKind, OutputSpec, RunNumber, Sink, SinkContext};
use crate::source::Partition;
use crate::state::log::object_name;
use crate::state::{JobRecord, LogItem, LogWriter, Manifest, Starter, Storage, claim};
use crate::time::{Epoch, EventTime, Shard};

const SHARD: Shard = Shard(0);

/// Begins a scenario in a world without losses.
fn begin(off: &[Rule]) {
    machine::reset();
    rules::switch_off(off);
    let mut empty = World::new(0, false);
    (empty.shape.loss, empty.shape.outage) = (0.0, 0.0);
    empty.tables = BTreeMap::from([(0, TableWorld::default())]);
    empty.topics = BTreeMap::from([(0, TopicWorld::default())]);
    empty.lines = BTreeMap::from([(0, LinesWorld::default())]);
    set_world(Some(empty));
}

fn end() {
    set_world(None);
    rules::switch_off(&[]);
}

/// A thread that is moved on by hand.
struct Thread<T> {
    task: Task,
    result: Rc<RefCell<Option<T>>>,
}

impl<T: 'static> Thread<T> {
    fn new(body: impl FnOnce() -> T + 'static) -> Self {
        let result: Rc<RefCell<Option<T>>> = Rc::default();
        let inner = Rc::clone(&result);
        let task = Task::new(0, 0, move || *inner.borrow_mut() = Some(body()));
        Self { task, result }
    }

    /// Lets it go on until it has come to its next pause so many times.
    fn go_on(&mut self, pauses: usize) {
        (0..pauses).for_each(|_| assert!(self.task.resume(), "it has ended already"));
    }

    fn finish(mut self) -> T {
        while self.task.resume() {}
        let panics = machine::take_panics();
        assert!(panics.is_empty(), "{panics:?}");
        self.result.take().expect("it has ended")
    }
}

fn alone<T: 'static>(body: impl FnOnce() -> T + 'static) -> T {
    Thread::new(body).finish()
}

/// A window of which something is known.
struct Window(i64);

impl Tabular for Window {
    fn columns() -> Vec<Column> {
        vec![
            Column::new("window_start", ColumnType::Timestamp),
            Column::new("window_end", ColumnType::Timestamp),
            Column::new("key", ColumnType::Int),
            Column::new("count", ColumnType::Int),
            Column::new("sum", ColumnType::Int),
        ]
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.timestamp(EventTime(0));
        row.timestamp(EventTime(60));
        row.int(1);
        row.int(self.0);
        row.int(self.0);
    }
}

/// The window has `count` in `epoch`.
fn window(epoch: u64, count: i64) -> EpochRows {
    let mut rows = Rows::new(Window::columns().into());
    let pane = Pane {
        timing: Timing::OnTime,
        index: 0,
        is_final: false,
        complete: Completeness::Proved,
    };
    rows.push_result(&Window(count), pane, 1);
    EpochRows {
        shard: SHARD,
        epoch: Epoch(epoch),
        watermark: EventTime(60),
        is_checkpoint: false,
        rows,
    }
}

fn context(run: u64, newest: &Arc<sample::Log>) -> SinkContext {
    let mut job = sample::job(run, None, Some(100));
    job.log = Arc::<sample::Log>::clone(newest);
    SinkContext {
        job: Some(Arc::new(job)),
        ..SinkContext::default()
    }
}

fn in_table(run: u64) -> Box<dyn Sink> {
    let context = context(run, &Arc::new(sample::Log::new(run)));
    let open = move || table::open(0, "windows", "table", &[SHARD], &context);
    alone(open).expect("it can be taken over")
}

fn commit(mut sink: Box<dyn Sink>, rows: EpochRows) -> (Box<dyn Sink>, bool) {
    alone(move || {
        let is_done = sink.commit(&rows).is_ok();
        (sink, is_done)
    })
}

/// An older run commits an epoch after a newer one has revised its window.
fn commits_late(off: &[Rule]) -> (bool, i64) {
    begin(off);
    let (old, new) = (in_table(1), in_table(2));
    let (new, _) = commit(new, window(1, 10));
    let (_new, _) = commit(new, window(2, 20));
    let (_old, is_done) = commit(old, window(1, 10));
    let count = world(|world| world.tables[&0].rows[&(60, 0, 1)].0);
    end();
    (is_done, count)
}

#[test]
fn a_commit_to_a_table_is_guarded() {
    assert_eq!(commits_late(&[]), (false, 20));
    assert_eq!(commits_late(&[Rule::GuardedCommit]), (true, 10));
}

/// An older run starts late, between the start and a commit of the newest one, and commits first.
fn fenced_by_an_older_run(off: &[Rule]) -> usize {
    begin(off);
    let log = Arc::new(sample::Log::new(2));
    let open = |run| {
        let context = context(run, &log);
        let open = move || topic::open(0, "windows", "topic", &[SHARD], &context);
        alone(open).expect("it can be taken over")
    };
    let newest = open(2);
    let (_old, _) = commit(open(1), window(5, 10));
    let (_newest, is_done) = commit(newest, window(5, 10));
    assert!(is_done, "it is the newest");
    let visible = world(|world| world.topics[&0].visible.len());
    end();
    visible
}

#[test]
fn a_fenced_producer_reads_again_what_is_committed() {
    assert_eq!(fenced_by_an_older_run(&[]), 1);
    assert_eq!(fenced_by_an_older_run(&[Rule::Reread]), 2);
}

fn starter(nonce: u128) -> Starter {
    Starter {
        nonce: Uuid::from_u128(nonce),
        at: EventTime(0),
        by: "test".to_owned(),
        goes_on: false,
    }
}

fn job() -> JobRecord {
    JobRecord {
        job: JobId(Uuid::from_u128(7)),
        pipeline: "sums".to_owned(),
        version: "1".to_owned(),
        config: BTreeMap::new(),
        partitions: Vec::<Partition>::new(),
        dims: None,
        shards: BTreeMap::new(),
        opened_at: EventTime(0),
        created_at: EventTime(0),
    }
}

fn manifest() -> LogItem {
    LogItem::Manifest(Box::new(Manifest {
        epoch: Epoch(0),
        watermark: EventTime(0),
        opened_at: EventTime(0),
        partitions: Vec::new(),
        objects: Vec::new(),
        sinks: BTreeMap::new(),
        outputs: BTreeMap::new(),
        digests: Vec::new(),
        dims: 0,
        dims_next: None,
        is_drained: false,
    }))
}

fn storage() -> Arc<dyn Storage> {
    Arc::new(SimulatedStorage)
}

fn first_writer() -> LogWriter {
    alone(|| {
        let claim = claim(storage(), &starter(1)).expect("it can be claimed");
        claim.begin(job()).expect("it is new")
    })
}

/// Whether a manifest of an older run comes into the log once a newer one has claimed it.
fn manifest_after_a_takeover(off: &[Rule]) -> bool {
    begin(off);
    let mut old = first_writer();
    let newer = alone(|| claim(storage(), &starter(2)).map(|claim| claim.run()));
    assert_eq!(newer.expect("it can be claimed"), RunNumber(2));
    let is_logged = alone(move || old.append(&[manifest()]).is_ok());
    end();
    is_logged
}

#[test]
fn a_manifest_is_fenced() {
    assert!(!manifest_after_a_takeover(&[]));
    assert!(manifest_after_a_takeover(&[Rule::Takeover]));
}

/// A run is about to put its takeover when the one before it writes on and deletes what stood
/// there; whether the older run can still write afterwards.
fn claim_in_a_deleted_place(off: &[Rule]) -> bool {
    begin(off);
    let mut old = first_writer();
    let mut newer = Thread::new(|| claim(storage(), &starter(2)).expect("it can be claimed"));
    // The list, the object at the top; then the put is due.
    newer.go_on(3);
    let mut old = alone(move || {
        for _ in 0..3 {
            old.append(&[manifest()]).expect("it is the newest");
        }
        for number in [2, 3] {
            let name = object_name(number);
            storage().delete(&name).expect("it can be deleted");
        }
        old
    });
    let newer = newer.finish();
    assert_eq!(newer.run(), RunNumber(2 + u64::from(off.is_empty())));
    let goes_on = alone(move || old.append(&[manifest()]).is_ok());
    end();
    goes_on
}

#[test]
fn a_claim_looks_a_second_time() {
    assert!(!claim_in_a_deleted_place(&[]));
    assert!(claim_in_a_deleted_place(&[Rule::ClaimRelist]));
}

/// Two runs start at once; their numbers.
fn starts_at_once(off: &[Rule]) -> (RunNumber, RunNumber) {
    begin(off);
    drop(first_writer());
    let start = |nonce| {
        Thread::new(move || {
            let claim = claim(storage(), &starter(nonce));
            claim.expect("it can be claimed").run()
        })
    };
    let mut one = start(2);
    // The list, the object at the top; then the put is due.
    one.go_on(3);
    let other = start(3).finish();
    let one = one.finish();
    end();
    (one, other)
}

#[test]
fn a_takeover_is_known_by_its_nonce() {
    assert_eq!(starts_at_once(&[]), (RunNumber(3), RunNumber(2)));
    assert_eq!(starts_at_once(&[Rule::Nonce]), (RunNumber(2), RunNumber(2)));
}

/// An older run commits while the newest one starts.
fn commits_while_another_starts(off: &[Rule]) -> usize {
    begin(off);
    let log = Arc::new(sample::Log::new(2));
    let open = |run| {
        let context = context(run, &log);
        move || topic::open(0, "windows", "topic", &[SHARD], &context)
    };
    let old = alone(open(1)).expect("it can be taken over");
    let mut newest = Thread::new(open(2));
    newest.go_on(2);
    let (_old, _) = commit(old, window(5, 10));
    let newest = newest.finish().expect("it can be taken over");
    let (_newest, is_done) = commit(newest, window(5, 10));
    assert!(is_done, "it is the newest");
    let visible = world(|world| world.topics[&0].visible.len());
    end();
    visible
}

#[test]
fn producers_are_initialised_before_epochs_are_read() {
    assert_eq!(commits_while_another_starts(&[]), 1);
    assert_eq!(commits_while_another_starts(&[Rule::InitBeforeRead]), 2);
}

/// A run gets the lock of a file of lines after a newer one has written there and ended; whether
/// it may go on, and how long the file is then.
fn locks_behind_a_newer_run(off: &[Rule]) -> (bool, usize) {
    begin(off);
    let log = Arc::new(sample::Log::new(2));
    let open = |run| {
        let context = context(run, &log);
        let output = OutputSpec {
            pipeline: "sums",
            name: "windows",
            columns: Window::columns().into(),
            kind: OutputKind::Log,
            layout: Layout::Flat,
        };
        alone(move || lines::open(0, &output, "lines", &context))
    };
    let newest = open(2).expect("it can be taken over");
    drop(commit(newest, window(1, 10)));
    let is_open = open(1).is_ok();
    let length = world(|world| world.lines[&0].bytes.len());
    end();
    (is_open, length)
}

#[test]
fn a_run_with_the_lock_asks_whether_it_is_the_newest() {
    let (is_open, length) = locks_behind_a_newer_run(&[]);
    assert!(!is_open && length > 0, "{length}");
    assert_eq!(locks_behind_a_newer_run(&[Rule::LinesRecheck]), (true, 0));
}
