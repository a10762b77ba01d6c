//! Summaries per checkpoint: an aggregate over all records since the last one, as one row.

use std::collections::BTreeMap;
use std::rc::Rc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;

use super::Blocks;
use super::windows::{EpochWatch, advance_to, starting};
use crate::aggregate::Aggregate;
use crate::time::{Epoch, EventTime, Time};
use crate::wire::{Exchange, FixedLayout, Raw3};

/// What an aggregate found between two checkpoints.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Tally<V> {
    /// The checkpoint's epoch.
    pub epoch: Epoch,
    /// The border watermark at the checkpoint.
    pub watermark: EventTime,
    /// The aggregate over the records of all partitions since the checkpoint before.
    pub value: V,
}

impl<V: FixedLayout> FixedLayout for Tally<V> {
    type Raw = <(Epoch, EventTime, V) as FixedLayout>::Raw;

    fn to_raw(&self) -> Self::Raw {
        let (epoch, watermark) = (self.epoch.to_raw(), self.watermark.to_raw());
        Raw3(epoch, watermark, self.value.to_raw())
    }

    fn from_raw(raw: Self::Raw) -> Option<Self> {
        let (epoch, watermark, value) = FixedLayout::from_raw(raw)?;
        Some(Self {
            epoch,
            watermark,
            value,
        })
    }
}

impl<'s, R: Clone + 'static> Blocks<'s, R> {
    /// Aggregates all records, whatever their time, and emits one result per checkpoint.
    pub fn tally<A: Aggregate<R>>(
        self,
        aggregate: impl Fn() -> A,
    ) -> StreamVec<'s, Time, Tally<A::Output>>
    where
        A::Output: FixedLayout,
    {
        let context = Rc::clone(&self.context);
        let local = aggregate();
        let parts = self
            .stream
            .unary::<CapacityContainerBuilder<Vec<A::State>>, _, _, _>(
                Pipeline,
                "TallyPart",
                move |_, _| {
                    move |input, output| {
                        input.for_each(|capability, blocks| {
                            let mut part = local.empty();
                            for record in blocks.drain(..).flat_map(|block| block.records) {
                                local.add(&mut part, &record.value);
                            }
                            output.session(&capability).give(part);
                        });
                    }
                },
            );
        let scope = parts.scope();
        let whole = aggregate();
        parts.unary_frontier::<CapacityContainerBuilder<Vec<Tally<A::Output>>>, _, _, _>(
            Exchange::new(|_: &A::State| 0),
            "Tally",
            move |capability, info| {
                context
                    .view
                    .wake(scope.activator_for(Rc::clone(&info.address)));
                let mut epochs = EpochWatch::new(&context);
                let mut capability = Some(starting(capability, &epochs));
                let mut pending: BTreeMap<Epoch, A::State> = BTreeMap::new();
                let mut total = whole.empty();
                move |(input, frontier), output| {
                    input.for_each(|capability, parts| {
                        let epoch = capability.time().epoch;
                        let sum = pending.entry(epoch).or_insert_with(|| whole.empty());
                        parts.drain(..).for_each(|part| whole.merge(sum, &part));
                    });
                    while let Some(held) = &mut capability
                        && epochs.is_complete(frontier)
                        && let Some(entry) = context.view.mark(epochs.next())
                    {
                        if let Some(part) = pending.remove(&epochs.next()) {
                            whole.merge(&mut total, &part);
                        }
                        if entry.is_checkpoint && context.index == 0 {
                            let value = whole.finish(&total);
                            let (epoch, watermark) = (entry.epoch, entry.watermark);
                            output.session(held).give(Tally {
                                epoch,
                                watermark,
                                value,
                            });
                            total = whole.empty();
                        }
                        epochs.advance();
                        if entry.ending.is_some() {
                            capability = None;
                            break;
                        }
                        advance_to(held, epochs.next(), entry.watermark);
                    }
                }
            },
        )
    }
}
