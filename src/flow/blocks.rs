//! A stream of blocks and the stateless steps on it.

use std::rc::Rc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::core::Concatenate;
use timely::dataflow::operators::generic::Operator;

use super::context::WorkerContext;
use super::{Block, Record};
use crate::ledger::Fate;
use crate::time::Time;

/// Blocks of records of one type. `Clone` branches the stream.
pub struct Blocks<'s, R: Clone + 'static> {
    pub(super) stream: StreamVec<'s, Time, Block<R>>,
    pub(super) context: Rc<WorkerContext>,
    /// Whether each record has its fate, so that the ledger takes no more notice.
    pub(super) has_fates: bool,
}

impl<R: Clone + 'static> Clone for Blocks<'_, R> {
    fn clone(&self) -> Self {
        Self {
            stream: self.stream.clone(),
            context: Rc::clone(&self.context),
            has_fates: self.has_fates,
        }
    }
}

impl<'s, R: Clone + 'static> Blocks<'s, R> {
    /// Records without fates.
    pub(super) const fn new(
        stream: StreamVec<'s, Time, Block<R>>,
        context: Rc<WorkerContext>,
    ) -> Self {
        Self {
            stream,
            context,
            has_fates: false,
        }
    }

    /// # Panics
    /// When the records have their fates already: `step` would give them others.
    pub(super) fn assert_without_fates(&self, step: &str) {
        assert!(!self.has_fates, "{step}: of records that have no fate yet");
    }

    /// Keeps the records that satisfy `keep`; the others count as filtered in the ledger, unless
    /// they have their fates already. For the pipeline's main path; see [`Blocks::select`] for a side branch.
    #[must_use]
    pub fn filter(self, name: &str, keep: impl Fn(&R) -> bool + 'static) -> Self {
        self.retain(name, keep, Some(Fate::Filtered))
    }

    /// Keeps the records that satisfy `keep`, in a branch beside the main path: the ledger takes
    /// no notice.
    #[must_use]
    pub fn select(self, name: &str, keep: impl Fn(&R) -> bool + 'static) -> Self {
        self.retain(name, keep, None)
    }

    fn retain(self, name: &str, keep: impl Fn(&R) -> bool + 'static, fate: Option<Fate>) -> Self {
        let context = Rc::clone(&self.context);
        let fate = fate.filter(|_| !self.has_fates);
        self.each_block(name, move |time, mut block| {
            let before = block.records.len();
            block.records.retain(|record| keep(&record.value));
            let left_out = (before - block.records.len()) as u64;
            if let Some(fate) = fate
                && left_out > 0
            {
                context
                    .ledger
                    .borrow_mut()
                    .entry(time.epoch, block.partition)
                    .add(fate, left_out);
            }
            block
        })
    }

    /// Turns each record into another.
    #[must_use]
    pub fn map<S: Clone + 'static>(
        self,
        name: &str,
        to: impl Fn(&R) -> S + 'static,
    ) -> Blocks<'s, S> {
        self.each_block(name, move |_, block| {
            let map = |record: &Record<R>| Record {
                offset: record.offset,
                time: record.time,
                effect: record.effect,
                value: to(&record.value),
            };
            block.with(block.records.iter().map(map).collect())
        })
    }

    /// Turns each block into another of the same range.
    pub(super) fn each_block<S: Clone + 'static>(
        self,
        name: &str,
        mut to: impl FnMut(Time, Block<R>) -> Block<S> + 'static,
    ) -> Blocks<'s, S> {
        let (context, has_fates) = (self.context, self.has_fates);
        let stream = self
            .stream
            .unary::<CapacityContainerBuilder<Vec<Block<S>>>, _, _, _>(
                Pipeline,
                name,
                move |_, _| {
                    move |input, output| {
                        input.for_each(|capability, blocks| {
                            let time = *capability.time();
                            let mut mapped =
                                blocks.drain(..).map(|block| to(time, block)).collect();
                            output.session(&capability).give_container(&mut mapped);
                        });
                    }
                },
            );
        Blocks {
            stream,
            context,
            has_fates,
        }
    }

    /// All of `parts` in one stream; `None` when there is none.
    pub(super) fn concatenate(parts: Vec<Self>) -> Option<Self> {
        let context = Rc::clone(&parts.first()?.context);
        let streams: Vec<_> = parts.into_iter().map(|part| part.stream).collect();
        let scope = streams.first()?.scope();
        Some(Self::new(scope.concatenate(streams), context))
    }
}
