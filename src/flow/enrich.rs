//! Enrichment: each record meets the dimension rows of its own event time.
//!
//! For a record of epoch `k` with event time `t` and a key: the row that is valid at `t` among the
//! versions that were logged up to epoch `k - 2` (a refresh recorded at border `k` takes effect in
//! epoch `k + 2`, which no worker opens before it has the mark of border `k`: so nobody waits).
//!
//! The rows are a differential collection of `(key, version)`, replicated to each worker and
//! arranged there; the operator follows the arrangement's batches into an [`AsOfIndex`]. The
//! dimension input has no path to the output, so its clock never bounds the watermark.
//!
//! Values in, values out, offset order kept. State: the versions. Cost: one hash look-up per key.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use differential_dataflow::AsCollection;
use differential_dataflow::operators::arrange::arrangement::arrange_core;
use differential_dataflow::trace::TraceReader;
use differential_dataflow::trace::cursor::{Cursor, Navigable};
use differential_dataflow::trace::implementations::{
    ContainerChunker, ValBatcher, ValBuilder, ValSpine,
};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::operator::source;
use timely::dataflow::operators::generic::{OutputBuilder, OutputBuilderSession};
use timely::progress::frontier::MutableAntichain;

use super::context::WorkerContext;
use super::{Block, Blocks, Flow, Record};
use crate::decode::{DeadLetter, Reason};
use crate::join::{AsOfIndex, DimStore, DimValue, Policy, Version};
use crate::ledger::Fate;
use crate::time::{Epoch, EventTime, Time};

type Spine<K, V> = ValSpine<K, Version<V>, Time, i64>;
type Update<K, V> = ((K, Version<V>), Time, i64);

/// The arranged dimension tables of a pipeline.
pub struct DimStream<'s, K: DimValue, V: DimValue> {
    batches: StreamVec<'s, Time, <Spine<K, V> as TraceReader>::Batch>,
}

/// What the join's rule sees: the rows as of a record's time.
pub struct Catalog<'a, K, V> {
    index: &'a AsOfIndex<K, V>,
    time: EventTime,
}

impl<K: DimValue, V: DimValue> Catalog<'_, K, V> {
    /// The row of `key`.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.index.get(key, self.time)
    }
}

/// What a join made of a record.
pub struct Enriched<S> {
    /// The record, with nulls where a row was missing.
    pub value: S,
    /// Whether all rows were there.
    pub is_matched: bool,
}

/// What happens to records whose row is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unmatched {
    /// They go on with nulls.
    #[default]
    Keep,
    /// They are left out.
    Drop,
    /// They become dead letters.
    DeadLetter,
}

impl<'s> Flow<'s> {
    /// The dimension tables whose loads are in `store`; those in effect at the start must be there.
    pub fn dimensions<K: DimValue, V: DimValue>(
        &self,
        store: Arc<DimStore<K, V>>,
    ) -> DimStream<'s, K, V> {
        let context = Rc::clone(&self.context);
        let scope = self.scope;
        let updates = source(scope, "Dimensions", move |capability, info| {
            context
                .view
                .wake(scope.activator_for(Rc::clone(&info.address)));
            let (first, dims) = (context.run.resume.epoch, context.run.resume.dims);
            let dims_next = context.run.resume.dims_next;
            let mut desk = DimDesk {
                store,
                context,
                loaded: None,
                next: first,
                capability: Some(capability),
            };
            let mut is_first = true;
            move |output: &mut OutputBuilderSession<
                '_,
                _,
                CapacityContainerBuilder<Vec<Update<K, V>>>,
            >| {
                if std::mem::take(&mut is_first) {
                    desk.load_up_to(dims, first, output);
                    if let Some(number) = dims_next {
                        desk.load_up_to(number, first.next(), output);
                    }
                    desk.advance(first.next().next());
                }
                desk.follow_borders(output);
            }
        });
        let arranged = arrange_core::<
            _,
            _,
            ContainerChunker<Vec<Update<K, V>>>,
            ValBatcher<K, Version<V>, Time, i64>,
            ValBuilder<K, Version<V>, Time, i64>,
            Spine<K, V>,
        >(updates.as_collection().inner, Pipeline, "ArrangeDimensions");
        DimStream {
            batches: arranged.stream,
        }
    }
}

/// Feeds the loads into the dataflow, each at the epoch in which it takes effect.
struct DimDesk<K, V> {
    store: Arc<DimStore<K, V>>,
    context: Rc<WorkerContext>,
    loaded: Option<u64>,
    /// The next border whose mark is due.
    next: Epoch,
    capability: Option<Capability<Time>>,
}

impl<K: DimValue, V: DimValue> DimDesk<K, V> {
    fn load_up_to(
        &mut self,
        number: u64,
        epoch: Epoch,
        output: &mut OutputBuilderSession<'_, Time, CapacityContainerBuilder<Vec<Update<K, V>>>>,
    ) {
        let Some(capability) = &self.capability else {
            return;
        };
        let time = Time::new(epoch, EventTime::MIN);
        let mut session = output.session(capability);
        for changes in self.store.up_to(self.loaded, number) {
            for change in changes.iter() {
                let data = (change.key.clone(), change.version.clone());
                session.give((data, time, change.diff));
            }
        }
        self.loaded = Some(number);
    }

    fn advance(&mut self, epoch: Epoch) {
        if let Some(capability) = &mut self.capability {
            capability.downgrade(&Time::new(epoch, EventTime::MIN));
        }
    }

    fn follow_borders(
        &mut self,
        output: &mut OutputBuilderSession<'_, Time, CapacityContainerBuilder<Vec<Update<K, V>>>>,
    ) {
        while self.capability.is_some()
            && let Some(entry) = self.context.view.mark(self.next)
        {
            let effective = self.next.next().next();
            if let Some(number) = entry.dims
                && self.context.run.options.dims_policy != Policy::Static
            {
                self.load_up_to(number, effective, output);
            }
            self.advance(effective.next());
            self.next = self.next.next();
            if entry.ending.is_some() {
                self.capability = None;
            }
        }
    }
}

impl<'s, R: Clone + 'static> Blocks<'s, R> {
    /// Joins each record with the dimension rows of its own time. Records whose row is missing are
    /// counted, and `unmatched` says what becomes of them; the second result are the dead letters
    /// among them, with `show` as their bytes.
    ///
    /// # Panics
    /// When the records have their fates already.
    pub fn enrich<K: DimValue, V: DimValue, S: Clone + 'static>(
        self,
        flow: &mut Flow<'s>,
        dimensions: DimStream<'s, K, V>,
        unmatched: Unmatched,
        join: impl Fn(&Catalog<'_, K, V>, &R) -> Enriched<S> + 'static,
        show: impl Fn(&S) -> Vec<u8> + 'static,
    ) -> Blocks<'s, S> {
        self.assert_without_fates("enrich");
        let mut builder = OperatorBuilder::new("Enrich".to_owned(), self.stream.scope());
        let mut input = builder.new_input(self.stream, Pipeline);
        let (output, enriched) = builder.new_output::<Vec<Block<S>>>();
        let (dead_output, dead) = builder.new_output::<Vec<Block<DeadLetter>>>();
        let mut batches = builder.new_input_connection(dimensions.batches, Pipeline, []);
        let mut output: OutputBuilder<_, CapacityContainerBuilder<_>> = OutputBuilder::from(output);
        let mut dead_output: OutputBuilder<_, CapacityContainerBuilder<_>> =
            OutputBuilder::from(dead_output);
        let context = Rc::clone(&self.context);
        let index = AsOfIndex::new(context.run.options.dims_policy);
        let pending = BTreeMap::new();
        let mut join = Join {
            index,
            pending,
            join,
            show,
            unmatched,
            context: Rc::clone(&context),
        };
        let mut stash: VecDeque<(Capability<Time>, Capability<Time>, Vec<Block<R>>)> =
            VecDeque::new();
        builder.build(move |_| {
            move |frontiers| {
                batches.for_each(|_, arrived| {
                    arrived
                        .drain(..)
                        .for_each(|batch| queue_updates(&batch, &mut join.pending));
                });
                input.for_each(|capability, blocks| {
                    let kept = (
                        capability.retain(0),
                        capability.retain(1),
                        std::mem::take(blocks),
                    );
                    stash.push_back(kept);
                });
                let (mut output, mut dead_output) = (output.activate(), dead_output.activate());
                while let Some((capability, _, _)) = stash.front()
                    && is_loaded(capability.time().epoch, &frontiers[1])
                    && let Some((capability, dead_capability, blocks)) = stash.pop_front()
                {
                    let epoch = capability.time().epoch;
                    join.apply_up_to(epoch);
                    let mut session = output.session(&capability);
                    for block in blocks {
                        let (block, letters) = join.block(epoch, &block);
                        if !letters.records.is_empty() {
                            dead_output.session(&dead_capability).give(letters);
                        }
                        session.give(block);
                    }
                }
            }
        });
        flow.dead_letters
            .push(Blocks::new(dead, Rc::clone(&context)));
        Blocks::new(enriched, context)
    }
}

/// Whether every change that takes effect up to `epoch` has arrived.
fn is_loaded(epoch: Epoch, dimensions: &MutableAntichain<Time>) -> bool {
    dimensions.frontier().iter().all(|time| time.epoch > epoch)
}

/// Changes of the dimension tables by the epoch in which they take effect.
type Pending<K, V> = BTreeMap<Epoch, Vec<(K, Version<V>, i64)>>;

/// Takes the changes out of a batch of the arrangement.
fn queue_updates<K: DimValue, V: DimValue>(
    batch: &<Spine<K, V> as TraceReader>::Batch,
    pending: &mut Pending<K, V>,
) {
    let mut cursor = batch.cursor();
    while let Some(key) = cursor.get_key(batch) {
        while let Some(version) = cursor.get_val(batch) {
            cursor.map_times(batch, |time, diff| {
                let change = (key.clone(), version.clone(), *diff);
                pending.entry(time.epoch).or_default().push(change);
            });
            cursor.step_val(batch);
        }
        cursor.step_key(batch);
    }
}

struct Join<K, V, J, D> {
    index: AsOfIndex<K, V>,
    pending: Pending<K, V>,
    join: J,
    show: D,
    unmatched: Unmatched,
    context: Rc<WorkerContext>,
}

impl<K: DimValue, V: DimValue, J, D> Join<K, V, J, D> {
    /// Changes that take effect later stay out of the index until their epoch has come.
    fn apply_up_to(&mut self, epoch: Epoch) {
        while let Some(first) = self.pending.first_entry()
            && *first.key() <= epoch
        {
            for (key, version, diff) in first.remove() {
                self.index.update(key, version, diff);
            }
        }
    }

    fn block<R, S>(&self, epoch: Epoch, block: &Block<R>) -> (Block<S>, Block<DeadLetter>)
    where
        J: Fn(&Catalog<'_, K, V>, &R) -> Enriched<S>,
        D: Fn(&S) -> Vec<u8>,
    {
        let mut records = Vec::with_capacity(block.records.len());
        let (mut letters, mut unmatched) = (Vec::new(), 0);
        for record in &block.records {
            let catalog = Catalog {
                index: &self.index,
                time: record.time,
            };
            let Enriched { value, is_matched } = (self.join)(&catalog, &record.value);
            unmatched += u64::from(!is_matched);
            let Record {
                offset,
                time,
                effect,
                ..
            } = *record;
            if is_matched || self.unmatched == Unmatched::Keep {
                records.push(Record {
                    offset,
                    time,
                    effect,
                    value,
                });
            } else if self.unmatched == Unmatched::DeadLetter {
                let letter = self.letter(block, record, &value);
                letters.push(Record {
                    offset,
                    time,
                    effect,
                    value: letter,
                });
            }
        }
        if unmatched > 0 {
            self.count(epoch, block, unmatched);
        }
        (block.with(records), block.with(letters))
    }

    fn count<R>(&self, epoch: Epoch, block: &Block<R>, unmatched: u64) {
        self.context.run.count_unmatched(unmatched);
        let fate = match self.unmatched {
            Unmatched::Keep => return,
            Unmatched::Drop => Fate::Filtered,
            Unmatched::DeadLetter => Fate::Rejected,
        };
        self.context
            .ledger
            .borrow_mut()
            .entry(epoch, block.partition)
            .add(fate, unmatched);
    }

    fn letter<R, S>(&self, block: &Block<R>, record: &Record<R>, value: &S) -> DeadLetter
    where
        D: Fn(&S) -> Vec<u8>,
    {
        DeadLetter {
            topic: self.context.run.options.ingest.topic.clone(),
            partition: block.partition,
            offset: record.offset,
            reason: Reason::Unmatched,
            detail: "its key is in no dimension table at its time".to_owned(),
            value: (self.show)(value),
        }
    }
}
