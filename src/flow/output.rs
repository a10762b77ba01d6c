//! The operator at the end of each output: gathers an epoch's rows, waits until the epoch is
//! complete and recorded, and hands them to the sink's thread, shard by shard.
//!
//! It holds a capability for the first epoch that its sink has not committed, so that the frontier
//! behind all these operators is the commit coordinate: sources read only so far ahead of it, and a
//! sink that sleeps stops the sources, not the workers.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::core::Inspect;
use timely::dataflow::operators::core::probe::Probe;
use timely::dataflow::operators::generic::Operator;
use timely::progress::frontier::MutableAntichain;

use super::context::WorkerContext;
use super::tally::Tally;
use super::windows::{EpochWatch, KEY_SHARDS, Key, advance_to, starting};
use super::{Block, Blocks, Flow, Record, WindowRow, Windows};
use crate::decode::DeadLetter;
use crate::epoch::EpochEntry;
use crate::hash::shard_of;
use crate::ledger::Fate;
use crate::rows::{Column, ColumnType, Columns, Origin, RowWriter, Rows, Tabular};
use crate::rules::{self, Rule};
use crate::runtime::RunError;
use crate::runtime::control::Notice;
use crate::runtime::manifests::Committed;
use crate::runtime::metrics::sinks::SinkGauge;
use crate::sink::{
    EpochRows, Layout, OutputKind, OutputSpec, SinkContext, SinkError, SinkEvent, SinkFactory,
    SinkThread, Written, sink_id,
};
use crate::state::{Digest, EpochDigest};
use crate::time::{Epoch, EventTime, Offset, PartitionId, Shard, Time};
use crate::window::Change;
use crate::wire::{Exchange, FixedLayout, Wire};

impl<'s> Flow<'s> {
    /// Sends records to the output `name`, and hands them on: for a side branch, or on the way.
    /// Where the output goes nowhere they are counted in passing.
    pub fn records_output<R: Tabular + Clone + Wire>(
        &self,
        name: &'static str,
        layout: Layout,
        records: Blocks<'s, R>,
    ) -> Blocks<'s, R> {
        let write = |rows: &mut Rows, record: &Record<R>, partition| {
            rows.push_record(
                &record.value,
                Origin {
                    partition,
                    offset: record.offset,
                },
            );
        };
        self.records_with(name, layout, records, write, R::columns())
    }

    /// Sends records to the output `name` as the end of the main path: each counts as on time.
    ///
    /// # Panics
    /// When the records have their fates already.
    pub fn main_output<R: Tabular + Clone + Wire>(
        &self,
        name: &'static str,
        layout: Layout,
        records: Blocks<'s, R>,
    ) {
        records.assert_without_fates("main_output");
        let context = Rc::clone(&self.context);
        let counted = records.each_block("OnTime", move |time, block| {
            let count = block.records.len() as u64;
            let mut ledger = context.ledger.borrow_mut();
            ledger
                .entry(time.epoch, block.partition)
                .add(Fate::OnTime, count);
            context.run.metrics.assigned(count, 0);
            block
        });
        let context = Rc::clone(&self.context);
        context.main_ends.update(|ends| ends + 1);
        let mut epochs = EpochWatch::new(&context);
        let checked = counted.clone();
        checked
            .stream
            .sink(Pipeline, "Ledger", move |(input, frontier)| {
                input.for_each(|_, _| ());
                while let Some(epoch) = epochs.take_complete(frontier) {
                    context.close_ledger(epoch);
                }
            });
        self.records_output(name, layout, counted);
    }

    /// Sends records that were late for all their windows to the output `late`.
    pub fn late_output<R: Tabular + Clone + Wire>(&self, late: Blocks<'s, R>) {
        let topic = self.context.run.options.ingest.topic.clone();
        let write = move |rows: &mut Rows, record: &Record<R>, partition| {
            let late = LateRow {
                record,
                topic: &topic,
                partition,
            };
            rows.push_record(
                &late,
                Origin {
                    partition,
                    offset: record.offset,
                },
            );
        };
        let mut columns = R::columns();
        columns.extend(late_columns());
        self.records_with("late", Layout::Flat, late, write, columns);
    }

    pub(super) fn dead_letter_output(&self, letters: Blocks<'s, DeadLetter>) {
        let run = Arc::clone(&self.context.run);
        let letters = letters.each_block("ShowDeadLetters", move |_, block| {
            let letters = block.records.iter().map(|record| &record.value);
            run.metrics.dead_letters(letters);
            block
        });
        self.records_output("dead-letters", Layout::Flat, letters);
    }

    /// Sends one row per checkpoint to the output `name`.
    pub fn tally_output<V: FixedLayout, T: Tabular + 'static>(
        &self,
        name: &'static str,
        tallies: StreamVec<'s, Time, Tally<V>>,
        to_row: impl Fn(&Tally<V>) -> T + Clone + 'static,
    ) {
        let columns: Columns = T::columns().into();
        let spec = self.spec(name, columns, OutputKind::Log, Layout::Flat);
        if !self.context.run.has_sink(name) {
            return self.count(name, tallies, |_| 1);
        }
        let columns = Arc::clone(&spec.columns);
        let build = move |tallies: Vec<Tally<V>>, _: Target| {
            let mut rows = Rows::new(Arc::clone(&columns));
            tallies.iter().for_each(|tally| rows.push(&to_row(tally)));
            BTreeMap::from([(Shard(0), rows)])
        };
        self.commit_everywhere(&tallies, &spec, |_, _| 0, build);
    }

    /// Sends the changes of windows to the output `name`; `to_row` gives the pipeline's columns,
    /// of which `key` (with the window's bounds) is the natural key.
    pub fn windows_output<K, V, R, T>(
        &self,
        name: &'static str,
        layout: Layout,
        key: &[&'static str],
        windows: &Windows<'s, K, V, R>,
        to_row: impl Fn(WindowRow<'_, K, V>) -> T + Clone + 'static,
    ) where
        K: Key,
        V: FixedLayout,
        R: Clone + 'static,
        T: Tabular + 'static,
    {
        let columns: Columns = T::columns().into();
        let keep = self.context.run.options.window.keep();
        let kind = OutputKind::Windows {
            key: key.to_vec(),
            keep,
        };
        let spec = self.spec(name, columns, kind, layout);
        if !self.context.run.has_sink(name) {
            return self.count_windows(name, windows.changes.clone());
        }
        let columns = Arc::clone(&spec.columns);
        let run = Arc::clone(&self.context.run);
        let build = move |mut changes: Vec<Change<K, V>>, target: Target| {
            changes.retain(|change| target.takes(change));
            if rules::on(Rule::Consolidate) {
                changes.sort_by_key(|change| (change.end, change.start, change.key, change.diff));
            }
            run.metrics
                .windows(name, changes.iter().map(|change| change.end));
            let mut rows: BTreeMap<Shard, Rows> = BTreeMap::new();
            for change in &changes {
                let Change {
                    start,
                    end,
                    key,
                    value,
                    pane,
                    diff,
                } = change;
                let row = to_row(WindowRow {
                    start: *start,
                    end: *end,
                    key,
                    value,
                });
                let shard = Shard(shard_of(key, KEY_SHARDS).0 % target.shards);
                let rows = rows
                    .entry(shard)
                    .or_insert_with(|| Rows::new(Arc::clone(&columns)));
                // One that has become final stands as it is.
                rows.push_result(&row, *pane, if *diff == 0 { 1 } else { *diff });
            }
            rows
        };
        let route =
            |change: &Change<K, V>, shards: u32| shard_of(&change.key, KEY_SHARDS).0 % shards;
        self.commit_everywhere(&windows.changes, &spec, route, build);
    }

    fn records_with<R: Clone + Wire>(
        &self,
        name: &'static str,
        layout: Layout,
        records: Blocks<'s, R>,
        write: impl Fn(&mut Rows, &Record<R>, PartitionId) + Clone + 'static,
        columns: Vec<Column>,
    ) -> Blocks<'s, R> {
        let source = self.context.run.options.ingest.topic.clone();
        let kind = OutputKind::Records { source };
        let spec = self.spec(name, columns.into(), kind, layout);
        if !self.context.run.has_sink(name) {
            let run = Arc::clone(&self.context.run);
            return records.each_block("Count", move |_, block| {
                let rows = block.records.len() as u64;
                run.metrics.wrote(name, Written { rows, bytes: 0 });
                block
            });
        }
        let columns = Arc::clone(&spec.columns);
        let build = move |blocks: Vec<Block<R>>, target: Target| {
            let records = blocks.iter().flat_map(|block| {
                let partition = block.partition;
                block.records.iter().map(move |record| (partition, record))
            });
            let mut records: Vec<_> = records.collect();
            // By record, not by block: what comes from two operators may interleave.
            records.sort_by_key(|(partition, record)| (*partition, record.offset));
            let mut rows: BTreeMap<Shard, Rows> = BTreeMap::new();
            for (partition, record) in records {
                let shard = Shard(partition.0 % target.shards);
                let rows = rows
                    .entry(shard)
                    .or_insert_with(|| Rows::new(Arc::clone(&columns)));
                write(rows, record, partition);
            }
            rows
        };
        let route = |block: &Block<R>, shards: u32| block.partition.0 % shards;
        self.commit_everywhere(&records.stream, &spec, route, build);
        records
    }

    fn spec(
        &self,
        name: &'static str,
        columns: Columns,
        kind: OutputKind,
        layout: Layout,
    ) -> OutputSpec {
        let pipeline = self.context.run.pipeline;
        let spec = OutputSpec {
            pipeline,
            name,
            columns,
            kind,
            layout,
        };
        self.context.run.declare(&spec);
        spec
    }

    /// Hands the items of each epoch to all sinks of the output: `route` says to which shard an
    /// item belongs, `build` makes the rows of an epoch.
    fn commit_everywhere<T: Clone + Wire>(
        &self,
        stream: &StreamVec<'s, Time, T>,
        spec: &OutputSpec,
        route: impl Fn(&T, u32) -> u32 + Clone + 'static,
        build: impl Fn(Vec<T>, Target) -> BTreeMap<Shard, Rows> + Clone + 'static,
    ) {
        let Some(sinks) = self.context.run.sinks.get(spec.name) else {
            return;
        };
        let takes_all = sinks.iter().position(|sink| !sink.rolls_files());
        for (rank, factory) in sinks.iter().cloned().enumerate() {
            let (route, build) = (route.clone(), build.clone());
            let place = Place {
                rank,
                gives_digest: rank == takes_all.unwrap_or(0),
                factory,
            };
            self.commit(stream.clone(), spec.clone(), place, route, build);
        }
    }

    fn count_windows<K: Key, V: Clone + 'static>(
        &self,
        name: &'static str,
        changes: StreamVec<'s, Time, Change<K, V>>,
    ) {
        let run = Arc::clone(&self.context.run);
        let counted = changes.inspect_batch(move |_, changes| {
            let changes = changes.iter().filter(|change| change.diff != 0);
            run.metrics.windows(name, changes.map(|change| change.end));
        });
        self.count(name, counted, |change| u64::from(change.diff != 0));
    }

    /// An output that goes nowhere is counted all the same, where its rows are: no row is built,
    /// nothing is exchanged, and nobody waits for it.
    fn count<T: 'static>(
        &self,
        name: &'static str,
        stream: StreamVec<'s, Time, T>,
        rows: impl Fn(&T) -> u64 + 'static,
    ) {
        let run = Arc::clone(&self.context.run);
        // What makes these rows is part of what must be through before an epoch is done with.
        let stream = stream.probe_with(&self.context.committed);
        stream.sink(Pipeline, "Count", move |(input, _)| {
            let mut written = Written::default();
            input.for_each(|_, items| written.rows += items.iter().map(&rows).sum::<u64>());
            run.metrics.wrote(name, written);
        });
    }

    fn commit<T: Clone + Wire>(
        &self,
        stream: StreamVec<'s, Time, T>,
        spec: OutputSpec,
        place: Place,
        route: impl Fn(&T, u32) -> u32 + 'static,
        build: impl Fn(Vec<T>, Target) -> BTreeMap<Shard, Rows> + 'static,
    ) {
        let context = Rc::clone(&self.context);
        let shards = place.factory.shards();
        let is_windows = matches!(spec.kind, OutputKind::Windows { .. });
        let target = Target {
            shards,
            finals_only: is_windows
                && place.factory.rolls_files()
                && context.keep.is_some()
                && rules::on(Rule::FinalOnce),
        };
        let scope = stream.scope();
        let probe = context.committed.clone();
        let by_shard = Exchange::new(move |item: &T| u64::from(route(item, shards)));
        let name = format!("Commit {}", spec.name);
        stream
            .unary_frontier::<CapacityContainerBuilder<Vec<()>>, _, _, _>(
                by_shard,
                &name,
                move |capability, info| {
                    context
                        .view
                        .wake(scope.activator_for(Rc::clone(&info.address)));
                    let waker = scope.worker().sync_activator_for(info.address.to_vec());
                    let waker = Arc::new(waker);
                    let mut desk = CommitDesk::new(context, spec, place, capability);
                    let mut is_first = true;
                    let mut arrived: BTreeMap<Epoch, Vec<T>> = BTreeMap::new();
                    move |(input, frontier), _| {
                        if std::mem::take(&mut is_first) {
                            let waker = Arc::clone(&waker);
                            // A worker that is gone needs no waking.
                            desk.start(move || {
                                let _ = waker.activate();
                            });
                        }
                        input.for_each(|capability, items| {
                            arrived
                                .entry(capability.time().epoch)
                                .or_default()
                                .append(items);
                        });
                        while let Some(entry) = desk.next_complete(frontier) {
                            let items = arrived.remove(&entry.epoch).unwrap_or_default();
                            desk.enqueue(&entry, build(items, target));
                        }
                        desk.pump();
                    }
                },
            )
            .probe_with(&probe);
    }
}

/// What the rows of an epoch are made for.
#[derive(Clone, Copy)]
struct Target {
    shards: u32,
    /// Whether it takes windows only when nothing can follow.
    finals_only: bool,
}

impl Target {
    fn takes<K, V>(self, change: &Change<K, V>) -> bool {
        if self.finals_only {
            change.diff >= 0 && change.pane.is_final
        } else {
            change.diff != 0
        }
    }
}

/// A sink's place among those of its output.
struct Place {
    /// Which of them it is: rows are counted once, at the first.
    rank: usize,
    /// Whether its rows are those of which digests are recorded: the first that takes all changes,
    /// or the first where all take only final windows. So what is recorded does not depend on the
    /// order in which sinks were named.
    gives_digest: bool,
    factory: Arc<dyn SinkFactory>,
}

/// One worker's end of one sink.
struct CommitDesk {
    context: Rc<WorkerContext>,
    spec: OutputSpec,
    /// Which of the output's sinks this is: rows are counted once, at the first.
    rank: usize,
    gives_digest: bool,
    factory: Arc<dyn SinkFactory>,
    shards: Vec<Shard>,
    thread: Option<SinkThread>,
    events: (Sender<SinkEvent>, Receiver<SinkEvent>),
    capability: Option<Capability<Time>>,
    epochs: EpochWatch,
    /// Rows that the sink's queue had no room for.
    waiting: VecDeque<EpochRows>,
    /// How many shards of an epoch the sink has still to commit, and since when.
    uncommitted: BTreeMap<Epoch, (usize, Instant)>,
    /// What was queued since the last checkpoint, in the order of epochs.
    digests: Vec<EpochDigest>,
    /// Where the shards stand that have committed a checkpoint's epoch.
    checkpoints: BTreeMap<Epoch, BTreeMap<Shard, u64>>,
    last: Option<Epoch>,
    /// The reader of the output went away.
    is_closed: bool,
    /// What is shown of it.
    gauge: Arc<SinkGauge>,
}

impl CommitDesk {
    fn new(
        context: Rc<WorkerContext>,
        spec: OutputSpec,
        place: Place,
        capability: Capability<Time>,
    ) -> Self {
        let Place {
            rank,
            gives_digest,
            factory,
        } = place;
        let shards = (0..factory.shards())
            .filter(|shard| context.owns(*shard))
            .map(Shard)
            .collect();
        let epochs = EpochWatch::new(&context);
        let sinks = &context.run.metrics.sinks;
        let gauge = sinks.open(spec.name, factory.identity(), epochs.next());
        Self {
            gauge,
            capability: Some(starting(capability, &epochs)),
            context,
            spec,
            rank,
            gives_digest,
            factory,
            shards,
            thread: None,
            events: crossbeam_channel::unbounded(),
            epochs,
            waiting: VecDeque::new(),
            uncommitted: BTreeMap::new(),
            digests: Vec::new(),
            checkpoints: BTreeMap::new(),
            last: None,
            is_closed: false,
        }
    }

    fn start(&mut self, wake: impl Fn() + Send + Sync + 'static) {
        if self.shards.is_empty() {
            return;
        }
        let sender = self.events.0.clone();
        let on_event = Arc::new(move |event| {
            // The operator may be gone when the run has failed.
            let _ = sender.send(event);
            wake();
        });
        let context = SinkContext {
            status: Arc::clone(self.gauge.status()),
            ..self.context.run.sink_context.clone()
        };
        let thread = SinkThread::start(
            Arc::clone(&self.factory),
            self.spec.clone(),
            self.shards.clone(),
            context,
            on_event,
        );
        match thread {
            Ok(thread) => self.thread = Some(thread),
            Err(error) => self
                .context
                .run
                .failure
                .set(RunError::Thread(error.to_string())),
        }
    }

    /// The next epoch that is complete here and released.
    fn next_complete(&mut self, frontier: &MutableAntichain<Time>) -> Option<Rc<EpochEntry>> {
        let next = self.epochs.next();
        if self.last.is_some()
            || self.context.run.failure.is_set()
            || !self.epochs.is_complete(frontier)
            || !self.may_show(next)
        {
            return None;
        }
        let entry = self.context.view.mark(next)?;
        self.epochs.advance();
        self.last = entry.ending.map(|_| entry.epoch);
        Some(entry)
    }

    /// Whether the effects of `epoch` may be seen, once it is complete. Where rows may come again
    /// they do not wait for the state; but a file that was published is never replaced, so it must
    /// not hold what another run might read in other epochs.
    fn may_show(&self, epoch: Epoch) -> bool {
        let run = &self.context.run;
        let repeats = run.has_state && run.sink_context.is_at_least_once;
        (repeats && !self.factory.rolls_files()) || self.context.view.is_released(epoch)
    }

    /// Queues an epoch's rows; at a checkpoint every shard commits, else those with rows.
    fn enqueue(&mut self, entry: &EpochEntry, mut rows: BTreeMap<Shard, Rows>) {
        rows.values()
            .for_each(|rows| self.digest(entry.epoch, rows));
        if entry.is_checkpoint && self.context.keep.is_some() && !self.shards.is_empty() {
            self.checkpoints.insert(entry.epoch, BTreeMap::new());
        }
        if self.is_closed {
            self.note_all();
        }
        for shard in &self.shards {
            let rows = rows.remove(shard);
            if self.is_closed {
                continue;
            }
            if rows.is_none() && !entry.is_checkpoint && !self.is_held_until_final() {
                continue;
            }
            self.waiting.push_back(EpochRows {
                shard: *shard,
                epoch: entry.epoch,
                watermark: entry.watermark,
                is_checkpoint: entry.is_checkpoint,
                rows: rows.unwrap_or_else(|| Rows::new(Arc::clone(&self.spec.columns))),
            });
            self.uncommitted
                .entry(entry.epoch)
                .or_insert_with(|| (0, Instant::now()))
                .0 += 1;
        }
    }

    /// Whether the sink has something to do in an epoch without rows: windows become final.
    fn is_held_until_final(&self) -> bool {
        let is_windows = matches!(self.spec.kind, OutputKind::Windows { .. });
        is_windows && self.factory.rolls_files() && self.context.keep.is_none()
    }

    /// What a replay of these rows is compared with.
    fn digest(&mut self, epoch: Epoch, rows: &Rows) {
        if self.gives_digest && self.context.keep.is_some() && !rows.is_empty() {
            self.digests.push(EpochDigest {
                epoch,
                output: self.spec.name.to_owned(),
                rows: rows.len() as u64,
                digest: Digest(rows.digest()),
            });
        }
    }

    /// At a checkpoint the coordinator must know where each shard stands.
    fn note(&mut self, epoch: Epoch, shard: Shard, position: u64) {
        let Some(positions) = self.checkpoints.get_mut(&epoch) else {
            return;
        };
        positions.insert(shard, position);
        if positions.len() < self.shards.len() {
            return;
        }
        let positions = self.checkpoints.remove(&epoch).unwrap_or_default();
        let up_to = self.digests.partition_point(|it| it.epoch <= epoch);
        self.context.view.committed(Committed {
            epoch,
            sink: sink_id(self.spec.name, &self.factory.identity()),
            positions,
            digests: self.digests.drain(..up_to).collect(),
        });
    }

    /// Nobody takes the rows any more: they count as committed.
    fn note_all(&mut self) {
        for epoch in self.checkpoints.keys().copied().collect::<Vec<_>>() {
            for shard in self.shards.clone() {
                self.note(epoch, shard, 0);
            }
        }
    }

    /// Moves rows to the sink's thread, takes in what it has done, and follows with the capability.
    fn pump(&mut self) {
        while let Ok(event) = self.events.1.try_recv() {
            self.hear(event);
        }
        if let Some(thread) = &self.thread {
            while let Some(rows) = self.waiting.pop_front() {
                if let Err(rows) = thread.send(rows) {
                    self.waiting.push_front(rows);
                    break;
                }
            }
        }
        let committed = self
            .uncommitted
            .first_key_value()
            .map_or(self.epochs.next(), |first| *first.0);
        self.gauge.committed_before(committed);
        if let Some(capability) = &mut self.capability {
            advance_to(capability, committed, EventTime::MIN);
        }
        if self.last.is_some() && self.uncommitted.is_empty() {
            match &mut self.thread {
                Some(thread) => thread.close(),
                None => self.capability = None,
            }
        }
    }

    fn wrote(&self, written: Written) {
        self.gauge.wrote(written);
        let rows = if self.rank == 0 { written.rows } else { 0 };
        self.context
            .run
            .metrics
            .wrote(self.spec.name, Written { rows, ..written });
    }

    fn hear(&mut self, event: SinkEvent) {
        match event {
            SinkEvent::Committed {
                epoch,
                shard,
                written,
                position,
            } => {
                self.wrote(written);
                self.note(epoch, shard, position);
                if let Some((left, since)) = self.uncommitted.get_mut(&epoch) {
                    *left -= 1;
                    if *left == 0 {
                        self.context.run.metrics.committed_after(since.elapsed());
                        self.uncommitted.remove(&epoch);
                    }
                }
            }
            SinkEvent::Closed(written) => {
                self.wrote(written);
                self.thread = None;
                self.capability = None;
            }
            // Nobody reads these rows any more: the run ends at the next border, its other outputs
            // whole.
            SinkEvent::Failed(SinkError::Closed) => {
                self.thread = None;
                self.is_closed = true;
                self.waiting.clear();
                self.uncommitted.clear();
                self.note_all();
                self.context.run.notices.send(Notice::Stop);
            }
            SinkEvent::Failed(error) => self.context.run.failure.set(RunError::Sink {
                output: self.spec.name,
                error,
            }),
        }
    }
}

/// A late record with where it came from and what it was late for.
struct LateRow<'a, R> {
    record: &'a Record<R>,
    topic: &'a str,
    partition: PartitionId,
}

fn late_columns() -> [Column; 4] {
    [
        Column::new("topic", ColumnType::Text),
        Column::new("partition", ColumnType::Int),
        Column::new("offset", ColumnType::Int),
        Column::new("effective_at", ColumnType::Timestamp),
    ]
}

impl<R: Tabular> Tabular for LateRow<'_, R> {
    fn columns() -> Vec<Column> {
        R::columns()
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        self.record.value.write(row);
        row.text(self.topic);
        row.int(i64::from(self.partition.0));
        row.int(offset_cell(self.record.offset));
        row.timestamp(self.record.effect);
    }

    fn message_key(&self, key: &mut Vec<u8>) {
        self.record.value.message_key(key);
    }
}

const fn offset_cell(offset: Offset) -> i64 {
    offset.0 as i64
}
