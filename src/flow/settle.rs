//! Operators that hold records until they are settled, so that what they make of them is a function
//! of the log; see [`window::settle`](crate::window::settle).
//!
//! 1. *Admit*, on the worker that read the record: records that are late for the first of their
//!    windows, or in none, get their fate; the others go to the worker that owns their key.
//! 2. *Deduplicate*, there: decides the fates of the others with the epoch in which they were read,
//!    and is the end of the main path. What is settled at a border goes on in that border's epoch,
//!    in blocks, and has its fate already.
//! 3. *Lag*: exchanges settled records by another key, and takes them in the order of their times.
//!
//! In: blocks at times `(k, w)`. Out: blocks at `(k, .)` of records that are settled in epoch `k`,
//! in the order of their places; whatever their effect times, so that the event coordinate of the
//! output says nothing. One capability is held, for the epoch at hand.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{Operator, OutputBuilder};

use super::context::WorkerContext;
use super::keep::Keeper;
use super::windows::{EpochWatch, KEY_SHARDS, Key, advance_to, starting};
use super::{Block, Blocks, Record};
use crate::epoch::EpochEntry;
use crate::hash::shard_of;
use crate::ledger::Fate;
use crate::time::{Epoch, EventTime, Span, Time};
use crate::window::{Admission, Deduplicator, Lag, Late, Placed, Settle, Successive};
use crate::wire::{Exchange, FixedLayout};

/// A record that is held: it travels, and is part of checkpoints.
pub trait Holdable: FixedLayout + Serialize + DeserializeOwned {}
impl<R: FixedLayout + Serialize + DeserializeOwned> Holdable for R {}

/// Records without their copies, and those that were late.
pub struct Deduplicated<'s, R: Clone + 'static> {
    /// Each record once, in the epoch in which the first of its windows ends. They have their
    /// fates: what is left out from here on is in no ledger.
    pub records: Blocks<'s, R>,
    /// Records that were late for the first of their windows; empty unless the output `late` has a
    /// sink.
    pub late: Blocks<'s, R>,
}

impl<'s, R: Holdable> Blocks<'s, R> {
    /// Keeps one of the records that have the same key and event time; the others are duplicates
    /// in the ledger. Records without a key are all kept. The end of the main path: each record
    /// gets its fate here, by the run's windows.
    ///
    /// # Panics
    /// When the records have their fates already.
    pub fn deduplicate<K: Key>(
        self,
        key: impl Fn(&R) -> Option<K> + 'static,
    ) -> Deduplicated<'s, R> {
        self.assert_without_fates("deduplicate");
        let context = Rc::clone(&self.context);
        context.main_ends.update(|ends| ends + 1);
        let keeper = Keeper::register(&context, "deduplicate");
        let state = Deduplicator::new(context.run.options.window, keeper.is_some());
        let (admitted, late) = self.admit();
        let desk = Desk::new("Deduplicate", state, keeper, &context);
        let records = settle(admitted, desk, key, true);
        Deduplicated { records, late }
    }

    /// Gives each record the one before it with the same key, by event time, if that is at most
    /// `reach` older.
    ///
    /// # Panics
    /// When the records do not have their fates: they must come from [`Blocks::deduplicate`].
    pub fn lag<K: Key>(
        self,
        key: impl Fn(&R) -> K + 'static,
        reach: Span,
    ) -> Blocks<'s, Successive<R>> {
        assert!(self.has_fates, "lag: of records that are deduplicated");
        let context = Rc::clone(&self.context);
        let keeper = Keeper::register(&context, "lag");
        let state = Lag::new(context.run.options.window, reach, keeper.is_some());
        let desk = Desk::new("Lag", state, keeper, &context);
        settle(self.placed(), desk, move |record| Some(key(record)), false)
    }

    /// Splits off what is late or in no window.
    fn admit(self) -> (StreamVec<'s, Time, Placed<R>>, Blocks<'s, R>) {
        let options = &self.context.run.options;
        let diverts = options.late == Late::Divert && self.context.run.has_sink("late");
        let late = if diverts { Late::Divert } else { Late::Drop };
        let admission = Admission::new(options.window, late);
        let mut builder = OperatorBuilder::new("Admit".to_owned(), self.stream.scope());
        let mut input = builder.new_input(self.stream, Pipeline);
        let (output, admitted) = builder.new_output::<Vec<Placed<R>>>();
        let (late_output, late) = builder.new_output::<Vec<Block<R>>>();
        let mut output: OutputBuilder<_, CapacityContainerBuilder<_>> = OutputBuilder::from(output);
        let mut late_output: OutputBuilder<_, CapacityContainerBuilder<_>> =
            OutputBuilder::from(late_output);
        let context = Rc::clone(&self.context);
        builder.build(move |_| {
            move |_| {
                let mut output = output.activate();
                let mut late_output = late_output.activate();
                input.for_each_time(|capability, containers| {
                    let epoch = capability.time().epoch;
                    let mut admitted = Vec::new();
                    for block in containers.flat_map(|blocks| blocks.drain(..)) {
                        let late = admit_block(&context, &admission, epoch, block, &mut admitted);
                        if !late.records.is_empty() {
                            late_output.session(&capability).give(late);
                        }
                    }
                    if !admitted.is_empty() {
                        output.session(&capability).give_container(&mut admitted);
                    }
                });
            }
        });
        let late = Blocks::new(late, self.context);
        (admitted, late)
    }

    /// The records, each for itself.
    fn placed(self) -> StreamVec<'s, Time, Placed<R>> {
        self.stream
            .unary::<CapacityContainerBuilder<Vec<Placed<R>>>, _, _, _>(
                Pipeline,
                "Place",
                |_, _| {
                    |input, output| {
                        input.for_each(|capability, blocks| {
                            let mut records = Vec::new();
                            blocks
                                .drain(..)
                                .for_each(|block| place(block, &mut records));
                            output.session(&capability).give_container(&mut records);
                        });
                    }
                },
            )
    }
}

/// Puts the records of `block` that are admitted into `admitted`; returns those that are diverted.
fn admit_block<R: Clone>(
    context: &WorkerContext,
    admission: &Admission,
    epoch: Epoch,
    mut block: Block<R>,
    admitted: &mut Vec<Placed<R>>,
) -> Block<R> {
    let mut ledger = context.ledger.borrow_mut();
    let fates = ledger.entry(epoch, block.partition);
    let (mut late, mut refused) = (Vec::new(), 0);
    block.records.retain(|record| {
        let fate = admission.refuse(record.time, record.effect, fates);
        if fate == Some(Fate::LateDiverted) {
            late.push(record.clone());
        }
        refused += u64::from(fate.is_some_and(|fate| fate != Fate::NoWindow));
        fate.is_none()
    });
    context.run.metrics.assigned(0, refused);
    let late = block.with(late);
    place(block, admitted);
    late
}

fn place<R>(block: Block<R>, records: &mut Vec<Placed<R>>) {
    let partition = block.partition;
    records.extend(block.records.into_iter().map(|record| Placed {
        partition,
        offset: record.offset,
        time: record.time,
        effect: record.effect,
        value: record.value,
    }));
}

/// The state of one worker, with its way into checkpoints.
struct Desk<S> {
    name: &'static str,
    state: S,
    keeper: Option<Keeper>,
    context: Rc<WorkerContext>,
}

impl<S> Desk<S> {
    /// Goes on from the run's checkpoint.
    fn new<R>(
        name: &'static str,
        mut state: S,
        keeper: Option<Keeper>,
        context: &Rc<WorkerContext>,
    ) -> Self
    where
        S: Settle<R>,
    {
        if let Some(keeper) = &keeper {
            state.resume(context.run.resume.watermark);
            keeper.restore(|(key, place), entry| state.restore(key, place, entry));
        }
        let context = Rc::clone(context);
        Self {
            name,
            state,
            keeper,
            context,
        }
    }

    /// The records of an epoch are all here: what is settled at its border.
    fn close<R>(
        &mut self,
        entry: &EpochEntry,
        mut records: Vec<Placed<R>>,
        key: impl Fn(&R) -> Option<S::Key>,
        gives_fates: bool,
    ) -> Vec<Block<S::Output>>
    where
        S: Settle<R, Key: Key>,
    {
        records.sort_by_key(Placed::place);
        let mut on_time = 0;
        for record in records {
            let partition = record.partition;
            let fate = self.state.absorb(key(&record.value), record);
            if gives_fates {
                let mut ledger = self.context.ledger.borrow_mut();
                ledger.entry(entry.epoch, partition).add(fate, 1);
                on_time += u64::from(fate == Fate::OnTime);
            }
        }
        self.context.run.metrics.assigned(on_time, 0);
        let settled = self.state.settle(entry.watermark);
        if let Some(keeper) = &self.keeper {
            let state = &mut self.state;
            keeper.keep(entry, |entries| {
                state.checkpoint(entry.is_full, &mut |key, place, value| {
                    let bucket = shard_of(&key, KEY_SHARDS).0 as u8;
                    entries.put(bucket, &(key, place), &value);
                });
            });
        }
        blocks(settled)
    }
}

/// Records as blocks, one per partition, in the order of their places.
fn blocks<R>(mut records: Vec<Placed<R>>) -> Vec<Block<R>> {
    records.sort_by_key(Placed::place);
    let mut blocks: Vec<Block<R>> = Vec::new();
    for record in records {
        let (partition, offset) = record.place();
        let is_same = |last: &&mut Block<R>| last.partition == partition;
        let record = Record {
            offset,
            time: record.time,
            effect: record.effect,
            value: record.value,
        };
        if let Some(last) = blocks.last_mut().filter(is_same) {
            last.to = offset;
            last.records.push(record);
        } else {
            blocks.push(Block {
                partition,
                from: offset,
                to: offset,
                records: vec![record],
            });
        }
    }
    blocks
}

/// Wires a state: its records come to the worker that owns their key, those without one to that of
/// their partition.
fn settle<R: Holdable, S: Settle<R, Key: Key>>(
    records: StreamVec<'_, Time, Placed<R>>,
    mut desk: Desk<S>,
    key: impl Fn(&R) -> Option<S::Key> + 'static,
    gives_fates: bool,
) -> Blocks<'_, S::Output> {
    let key = Rc::new(key);
    let route = Rc::clone(&key);
    let by_shard = Exchange::new(move |record: &Placed<R>| {
        let shard = route(&record.value).map(|key| shard_of(&key, KEY_SHARDS).0);
        u64::from(shard.unwrap_or(record.partition.0))
    });
    let scope = records.scope();
    let context = Rc::clone(&desk.context);
    let name = desk.name;
    let stream = records
        .unary_frontier::<CapacityContainerBuilder<Vec<Block<S::Output>>>, _, _, _>(
            by_shard,
            name,
            move |capability, info| {
                desk.context
                    .view
                    .wake(scope.activator_for(Rc::clone(&info.address)));
                let mut epochs = EpochWatch::new(&desk.context);
                let mut capability = Some(starting(capability, &epochs));
                let mut arrived: BTreeMap<Epoch, Vec<Placed<R>>> = BTreeMap::new();
                move |(input, frontier), output| {
                    input.for_each(|capability, records| {
                        let epoch = capability.time().epoch;
                        arrived.entry(epoch).or_default().append(records);
                    });
                    while let Some(held) = &mut capability
                        && epochs.is_complete(frontier)
                        && let Some(entry) = desk.context.view.mark(epochs.next())
                    {
                        let records = arrived.remove(&entry.epoch).unwrap_or_default();
                        let mut settled = desk.close(&entry, records, &*key, gives_fates);
                        if gives_fates {
                            desk.context.close_ledger(entry.epoch);
                        }
                        if !settled.is_empty() {
                            output.session(held).give_container(&mut settled);
                        }
                        epochs.advance();
                        if entry.ending.is_some() {
                            capability = None;
                            break;
                        }
                        advance_to(held, epochs.next(), EventTime::MIN);
                    }
                }
            },
        );
    Blocks {
        has_fates: true,
        ..Blocks::new(stream, context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{Offset, PartitionId};

    #[test]
    fn settled_records_are_blocks_in_the_order_of_their_places() {
        let record = |(partition, offset): (u32, u64)| Placed {
            partition: PartitionId(partition),
            offset: Offset(offset),
            time: EventTime(7),
            effect: EventTime(8),
            value: offset,
        };
        let places = [(1, 4), (0, 9), (1, 2), (0, 3), (1, 3)];
        let blocks = blocks(places.map(record).to_vec());
        let shown = blocks.iter().map(|block| {
            let offsets = block.records.iter().map(|record| record.offset.0);
            (
                block.partition.0,
                block.from.0,
                block.to.0,
                offsets.collect::<Vec<_>>(),
            )
        });
        assert_eq!(
            shown.collect::<Vec<_>>(),
            [(0, 3, 9, vec![3, 9]), (1, 2, 4, vec![2, 3, 4])]
        );
    }
}
