//! Windows per key, as two operators with an exchange between them.
//!
//! 1. *Assign*, on the worker that read the record: decides its fate, folds it into a partial
//!    result of its pane and key, diverts what is late.
//! 2. *Window*, on the worker that owns the key's shard: merges partial results, and at the border
//!    of each epoch emits the changes that its watermark `W_k` brings.
//!
//! In: blocks at times `(k, w)`, where `w` is below the effect times that follow. Out: changes at
//! `(k, .)`, ordered by window end, start, key. The operator works on one epoch at a time: what
//! arrives for later ones is stashed, and counts only when the border before was dealt with. It
//! holds one capability, for the epoch at hand.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::rc::Rc;

use timely::ExchangeData;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{Operator, OutputBuilder};
use timely::progress::frontier::MutableAntichain;

use super::context::WorkerContext;
use super::keep::Keeper;
use super::{Block, Blocks, Record};
use crate::aggregate::Aggregate;
use crate::epoch::EpochEntry;
use crate::hash::shard_of;
use crate::ledger::{Fate, Fates};
use crate::rules::{self, Rule};
use crate::time::{Epoch, EventTime, Time};
use crate::window::{Assigner, Change, Late, Partial, WindowState};
use crate::wire::{Exchange, FixedLayout};

/// Keyed rows are split over so many shards, whatever the number of workers.
pub(super) const KEY_SHARDS: u32 = 256;

/// A row key of windows.
pub trait Key: Copy + Ord + Hash + FixedLayout + ExchangeData {}
impl<K: Copy + Ord + Hash + FixedLayout + ExchangeData> Key for K {}

/// One result of a window, as a pipeline turns it into a row.
#[derive(Clone, Copy, Debug)]
pub struct WindowRow<'a, K, V> {
    /// The window's start.
    pub start: EventTime,
    /// The window's end.
    pub end: EventTime,
    /// The key.
    pub key: &'a K,
    /// The aggregate's output.
    pub value: &'a V,
}

/// The changes of windows, and the records that were late for all of theirs.
pub struct Windows<'s, K: 'static, V: 'static, R: Clone + 'static> {
    pub(super) changes: StreamVec<'s, Time, Change<K, V>>,
    /// Records that were late for all their windows; empty unless the output `late` has a sink.
    pub late: Blocks<'s, R>,
}

impl<'s, R: Clone + 'static> Blocks<'s, R> {
    /// Groups the records by `key` and the run's windows, and aggregates them. The end of the main
    /// path, where each record gets its fate, unless it has one already.
    pub fn window<K: Key, A: Aggregate<R>>(
        self,
        key: impl Fn(&R) -> K + 'static,
        aggregate: impl Fn() -> A,
    ) -> Windows<'s, K, A::Output, R>
    where
        A::Output: FixedLayout,
    {
        let options = &self.context.run.options;
        let diverts = options.late == Late::Divert && self.context.run.has_sink("late");
        let late = if diverts { Late::Divert } else { Late::Drop };
        let assigner = Assigner::new(options.window, late, aggregate());
        let mut state = WindowState::new(options.window, aggregate());
        let keeper = Keeper::register(&self.context, "windows");
        if let Some(keeper) = &keeper {
            state = state.with_checkpoints();
            state.resume(self.context.run.resume.watermark);
            keeper.restore(|(place, key), entry| state.restore(place, key, entry));
        }
        if self.context.run.wants_finals() {
            state = state.with_finals();
        }
        let context = Rc::clone(&self.context);
        let (partials, late) = self.assign(key, assigner);
        let changes = close_windows(partials, state, keeper, context);
        Windows { changes, late }
    }

    fn assign<K: Key, A: Aggregate<R>>(
        self,
        key: impl Fn(&R) -> K + 'static,
        mut assigner: Assigner<R, K, A>,
    ) -> (StreamVec<'s, Time, Partial<K, A::State>>, Blocks<'s, R>) {
        let mut builder = OperatorBuilder::new("Assign".to_owned(), self.stream.scope());
        let mut input = builder.new_input(self.stream, Pipeline);
        let (output, partials) = builder.new_output::<Vec<Partial<K, A::State>>>();
        let (late_output, late) = builder.new_output::<Vec<Block<R>>>();
        let mut output: OutputBuilder<_, CapacityContainerBuilder<_>> = OutputBuilder::from(output);
        let mut late_output: OutputBuilder<_, CapacityContainerBuilder<_>> =
            OutputBuilder::from(late_output);
        let context = Rc::clone(&self.context);
        let gives_fates = !self.has_fates;
        if gives_fates {
            context.main_ends.update(|ends| ends + 1);
        }
        let mut epochs = EpochWatch::new(&context);
        builder.build(move |_| {
            move |frontiers| {
                let mut output = output.activate();
                let mut late_output = late_output.activate();
                input.for_each_time(|capability, containers| {
                    let epoch = capability.time().epoch;
                    let blocks = containers.flat_map(|blocks| blocks.drain(..));
                    for block in blocks {
                        if !gives_fates {
                            assign_settled(&mut assigner, &key, &block);
                            continue;
                        }
                        let late = assign_block(&context, &mut assigner, &key, epoch, block);
                        if !late.records.is_empty() {
                            late_output.session(&capability).give(late);
                        }
                    }
                    let mut partials = assigner.take();
                    if !partials.is_empty() {
                        output.session(&capability).give_container(&mut partials);
                    }
                });
                while gives_fates && let Some(epoch) = epochs.take_complete(&frontiers[0]) {
                    context.close_ledger(epoch);
                }
            }
        });
        (partials, Blocks::new(late, self.context))
    }
}

/// Folds records that have their fates: all are on time for the first of their windows.
fn assign_settled<R: Clone, K: Key, A: Aggregate<R>>(
    assigner: &mut Assigner<R, K, A>,
    key: &impl Fn(&R) -> K,
    block: &Block<R>,
) {
    let mut fates = Fates::default();
    for record in &block.records {
        let key = key(&record.value);
        assigner.add(record.time, record.effect, key, &record.value, &mut fates);
    }
    debug_assert_eq!(fates.on_time, fates.decided(), "records that were admitted");
}

/// Gives each record of `block` its fate; returns those that are diverted.
fn assign_block<R: Clone, K: Key, A: Aggregate<R>>(
    context: &WorkerContext,
    assigner: &mut Assigner<R, K, A>,
    key: &impl Fn(&R) -> K,
    epoch: Epoch,
    block: Block<R>,
) -> Block<R> {
    let mut ledger = context.ledger.borrow_mut();
    let fates = ledger.entry(epoch, block.partition);
    let mut late: Vec<Record<R>> = Vec::new();
    let before = (fates.late_dropped + fates.late_diverted, fates.on_time);
    for record in &block.records {
        let key = key(&record.value);
        let fate = assigner.add(record.time, record.effect, key, &record.value, fates);
        if fate == Fate::LateDiverted {
            late.push(record.clone());
        }
    }
    let late_records = fates.late_dropped + fates.late_diverted - before.0;
    context
        .run
        .metrics
        .assigned(fates.on_time - before.1, late_records);
    block.with(late)
}

/// Which epochs a frontier has passed since it was asked last.
pub(super) struct EpochWatch {
    next: Epoch,
}

impl EpochWatch {
    /// From the first epoch of this run on.
    pub(super) fn new(context: &WorkerContext) -> Self {
        Self {
            next: context.run.resume.epoch,
        }
    }

    /// The first epoch that is not complete.
    pub(super) const fn next(&self) -> Epoch {
        self.next
    }

    /// Whether the next epoch is complete at `frontier`.
    pub(super) fn is_complete(&self, frontier: &MutableAntichain<Time>) -> bool {
        frontier
            .frontier()
            .iter()
            .all(|time| time.epoch > self.next)
    }

    /// Goes on to the next epoch.
    pub(super) const fn advance(&mut self) {
        self.next = self.next.next();
    }

    /// The next epoch, if it is complete at `frontier`. Behind an empty frontier there are endlessly
    /// many: none is given, because the source goes beyond each epoch before it ends.
    pub(super) fn take_complete(&mut self, frontier: &MutableAntichain<Time>) -> Option<Epoch> {
        if frontier.is_empty() || !self.is_complete(frontier) {
            return None;
        }
        let complete = self.next;
        self.advance();
        Some(complete)
    }
}

fn close_windows<R: 'static, K: Key, A: Aggregate<R>>(
    partials: StreamVec<'_, Time, Partial<K, A::State>>,
    mut state: WindowState<R, K, A>,
    keeper: Option<Keeper>,
    context: Rc<WorkerContext>,
) -> StreamVec<'_, Time, Change<K, A::Output>>
where
    A::Output: FixedLayout,
{
    let by_shard = Exchange::new(|partial: &Partial<K, A::State>| {
        u64::from(shard_of(&partial.key, KEY_SHARDS).0)
    });
    let scope = partials.scope();
    partials.unary_frontier::<CapacityContainerBuilder<Vec<Change<K, A::Output>>>, _, _, _>(
        by_shard,
        "Window",
        move |capability, info| {
            context
                .view
                .wake(scope.activator_for(Rc::clone(&info.address)));
            let mut epochs = EpochWatch::new(&context);
            let mut capability = Some(starting(capability, &epochs));
            let mut stash: BTreeMap<Epoch, Vec<Vec<Partial<K, A::State>>>> = BTreeMap::new();
            let gauge = context.run.metrics.workers.gauge(context.index);
            move |(input, frontier), output| {
                input.for_each(|capability, partials| {
                    let epoch = capability.time().epoch;
                    if epoch == epochs.next() {
                        partials.iter().for_each(|partial| state.absorb(partial));
                    } else {
                        stash
                            .entry(epoch)
                            .or_default()
                            .push(std::mem::take(partials));
                    }
                });
                while let Some(held) = &mut capability
                    && epochs.is_complete(frontier)
                    && let Some(entry) = context.view.mark(epochs.next())
                {
                    let mut changes = state.close(&deciding(&entry, frontier));
                    if let Some(keeper) = &keeper {
                        keeper.keep(&entry, |entries| {
                            state.checkpoint(entry.is_full, |place, key, value| {
                                let bucket = shard_of(&key, KEY_SHARDS).0 as u8;
                                entries.put(bucket, &(place, key), &value);
                            });
                        });
                    }
                    if !changes.is_empty() {
                        output.session(held).give_container(&mut changes);
                    }
                    epochs.advance();
                    gauge.entries(state.entries());
                    context
                        .run
                        .metrics
                        .open_windows(context.index, state.open_windows());
                    if entry.ending.is_some() {
                        capability = None;
                        break;
                    }
                    for partials in stash.remove(&epochs.next()).into_iter().flatten() {
                        partials.iter().for_each(|partial| state.absorb(partial));
                    }
                    advance_to(held, epochs.next(), entry.watermark);
                }
            }
        },
    )
}

/// What decides the epoch of a pane: the logged watermark of the border, never the frontier that
/// this worker happens to see.
fn deciding<'e>(
    entry: &'e EpochEntry,
    frontier: &MutableAntichain<Time>,
) -> std::borrow::Cow<'e, EpochEntry> {
    if rules::on(Rule::WDecidesEpoch) {
        return std::borrow::Cow::Borrowed(entry);
    }
    let mut entry = entry.clone();
    let local = frontier.frontier().iter().map(|time| time.event).min();
    entry.watermark = entry.watermark.max(local.unwrap_or(entry.watermark));
    std::borrow::Cow::Owned(entry)
}

/// A capability for the first epoch that is watched.
pub(super) fn starting(mut capability: Capability<Time>, epochs: &EpochWatch) -> Capability<Time> {
    advance_to(&mut capability, epochs.next(), EventTime::MIN);
    capability
}

/// Moves `capability` on to `epoch`, and to `event` where that is not a step back.
pub(super) fn advance_to(capability: &mut Capability<Time>, epoch: Epoch, event: EventTime) {
    let event = event.max(capability.time().event);
    capability.downgrade(&Time::new(epoch, event));
}
