//! The operator that reads: asks [`Ingest`] for blocks, sends them at its capability, and follows
//! the borders.
//!
//! It holds one capability per output, at `(epoch, event)` where `event` is a lower bound of the
//! effect times of all records still to be read here, until the last border was decided.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{OutputBuilder, OutputBuilderSession};
use timely::scheduling::{Activator, SyncActivator};

use super::context::WorkerContext;
use super::keep::Keeper;
use super::{Block, Blocks, Flow};
use crate::decode::{DeadLetter, Decoded, Message, Rejection};
use crate::epoch::EpochEntry;
use crate::host;
use crate::runtime::RunError;
use crate::runtime::ingest::{Ingest, Ingested};
use crate::source::{Assignment, Inbox, Partition, Reader, feed};
use crate::time::{Epoch, EventTime, Offset, PartitionId, Time};

/// How soon to look whether the sinks have caught up: their commits wake nobody here.
const SOON: Duration = Duration::from_millis(3);
/// How many batches are taken per activation, so that other operators get their turn.
const BATCHES_PER_TURN: usize = 4;

type Out<'a, R> = OutputBuilderSession<'a, Time, CapacityContainerBuilder<Vec<Block<R>>>>;

impl<'s> Flow<'s> {
    /// The input, decoded. What cannot be decoded goes to the dead letters.
    pub fn source<R: Clone + 'static>(
        &mut self,
        decode: impl Fn(Message<'_>) -> Result<Decoded<R>, Rejection> + 'static,
    ) -> Blocks<'s, R> {
        let mut builder = OperatorBuilder::new("Source".to_owned(), self.scope);
        let address = builder.operator_info().address;
        let (output, records) = builder.new_output::<Vec<Block<R>>>();
        let (dead_output, dead) = builder.new_output::<Vec<Block<DeadLetter>>>();
        let mut output = OutputBuilder::from(output);
        let mut dead_output = OutputBuilder::from(dead_output);
        let context = Rc::clone(&self.context);
        let again = self.scope.activator_for(Rc::clone(&address));
        context
            .view
            .wake(self.scope.activator_for(Rc::clone(&address)));
        let waker = self.scope.worker().sync_activator_for(address.to_vec());
        builder.build(move |mut capabilities| {
            let dead_capability = capabilities.pop();
            let capability = capabilities.pop();
            let ingest = Ingest::new(
                context.index,
                context.run.options.ingest.clone(),
                Box::new(decode),
                &context.run.resume,
            )
            .with_format(context.run.source.format());
            let mut desk = SourceDesk {
                ingest,
                keeper: Keeper::register(&context, "source"),
                context,
                reader: None,
                waker: Arc::new(waker),
                again,
                alarm: None,
                is_started: false,
                capability: capability.zip(dead_capability),
                frontier: EventTime::MIN,
                is_ending: false,
                positions: VecDeque::new(),
            };
            move |_| {
                let (mut records, mut dead) = (output.activate(), dead_output.activate());
                desk.activate(&mut records, &mut dead);
            }
        });
        let context = &self.context;
        self.dead_letters
            .push(Blocks::new(dead, Rc::clone(context)));
        Blocks::new(records, Rc::clone(context))
    }
}

/// When the source wants to be activated again.
enum Next {
    AtOnce,
    Soon,
    WhenWoken,
}

/// The source of one worker: what it reads, with its capabilities.
struct SourceDesk<R> {
    ingest: Ingest<R>,
    context: Rc<WorkerContext>,
    /// So that a worker without state takes part in checkpoints as well.
    keeper: Option<Keeper>,
    reader: Option<Box<dyn Reader>>,
    /// Activates the source from the threads that read.
    waker: Arc<SyncActivator>,
    /// Activates the source from here ...
    again: Activator,
    /// ... at this time, when that was arranged.
    alarm: Option<Instant>,
    is_started: bool,
    capability: Option<(Capability<Time>, Capability<Time>)>,
    frontier: EventTime,
    /// The last border was decided; what is left is to tell the reader what is committed.
    is_ending: bool,
    /// Where the epochs end that are not committed everywhere yet.
    positions: VecDeque<(Epoch, Vec<(PartitionId, Offset)>)>,
}

impl<R: Clone + 'static> SourceDesk<R> {
    fn start(&mut self) {
        for position in self.context.run.resume.positions.clone() {
            if let Some(inbox) = self.open(&position.partition, position.offset) {
                self.ingest.add_partition(position, inbox);
            }
        }
    }

    /// Adds a partition that was found while running.
    fn add_found(&mut self, partition: &Partition) {
        let from = self.context.run.resume.found_at(partition.id);
        if let Some(inbox) = self.open(partition, from) {
            self.ingest.add_found(partition.clone(), from, inbox);
        }
    }

    /// Begins to read `partition`, if it belongs to this worker.
    fn open(&mut self, partition: &Partition, from: Option<Offset>) -> Option<Inbox> {
        if partition.id.0 as usize % self.context.peers != self.context.index {
            return None;
        }
        if self.reader.is_none() {
            match self.context.run.source.reader() {
                Ok(reader) => self.reader = Some(reader),
                Err(error) => {
                    self.context.run.failure.set(RunError::Source(error));
                    return None;
                }
            }
        }
        let waker = Arc::clone(&self.waker);
        // A worker that is gone needs no waking.
        let (feed, inbox) = feed(move || {
            let _ = waker.activate();
        });
        let inputs = &self.context.run.metrics.inputs;
        inputs.watch(partition.id, inbox.gauge());
        if let Some(reader) = &mut self.reader {
            reader.assign(Assignment {
                partition: partition.clone(),
                from,
                feed,
            });
        }
        Some(inbox)
    }

    /// One activation; sees to the next one.
    fn activate(&mut self, records: &mut Out<'_, R>, dead: &mut Out<'_, DeadLetter>) {
        if !std::mem::replace(&mut self.is_started, true) {
            self.start();
        }
        match self.turn(records, dead) {
            Next::AtOnce => self.again.activate(),
            Next::Soon => self.come_back_soon(),
            Next::WhenWoken => {}
        }
    }

    /// One alarm at a time, however often somebody else wakes the source.
    fn come_back_soon(&mut self) {
        let now = host::now();
        if self.alarm.is_none_or(|alarm| alarm <= now) {
            self.alarm = Some(now + SOON);
            host::activate_after(&self.again, SOON);
        }
    }

    /// Reads and follows the borders; when to come back.
    fn turn(&mut self, records: &mut Out<'_, R>, dead: &mut Out<'_, DeadLetter>) -> Next {
        if let Some(error) = self.ingest.failure() {
            self.context.run.failure.set(RunError::Source(error));
        }
        for turn in 0..=BATCHES_PER_TURN {
            self.follow_borders();
            if self.capability.is_none() {
                return Next::WhenWoken;
            }
            let may_read = self.context.may_read(self.ingest.epoch());
            if self.is_ending || !self.context.view.is_started() || !may_read {
                return Next::Soon;
            }
            if turn == BATCHES_PER_TURN {
                break;
            }
            let Some(ingested) = self.ingest.next_batch() else {
                self.ask_for_border();
                let waits = self.ingest.is_aligned() || !self.positions.is_empty();
                return if waits { Next::Soon } else { Next::WhenWoken };
            };
            self.send(ingested, records, dead);
        }
        self.ask_for_border();
        Next::AtOnce
    }

    fn ask_for_border(&mut self) {
        if self.ingest.wants_border() {
            self.context.view.want_border(self.ingest.epoch());
        }
    }

    fn send(
        &mut self,
        ingested: Ingested<R>,
        records: &mut Out<'_, R>,
        dead: &mut Out<'_, DeadLetter>,
    ) {
        let Some((capability, dead_capability)) = &self.capability else {
            return;
        };
        let Ingested {
            block,
            dead: letters,
            fates,
            bytes,
        } = ingested;
        let epoch = self.ingest.epoch();
        *self
            .context
            .ledger
            .borrow_mut()
            .entry(epoch, block.partition) += fates;
        self.context
            .run
            .metrics
            .read(fates.read, bytes, fates.rejected);
        if !letters.is_empty() {
            dead.session(dead_capability).give(block.with(letters));
        }
        let mut container = vec![block];
        records.session(capability).give_container(&mut container);
    }

    fn follow_borders(&mut self) {
        self.take_marks();
        while self.closes_recorded() {
            self.take_marks();
        }
        self.tell_committed();
        if self.is_ending && self.positions.is_empty() {
            self.capability = None;
            return;
        }
        if let Some(border) = self.context.view.border()
            && border.epoch == self.ingest.epoch()
            && self.ingest.may_close()
            && self.context.may_read(border.epoch)
        {
            let report = self.ingest.close(border.next_opened_at, border.stop);
            self.context.view.report(report);
        }
        self.advance();
    }

    /// Marks of borders that lie behind; that of a recorded epoch is known before it is read.
    fn take_marks(&mut self) {
        while self.ingest.next_mark() < self.ingest.epoch()
            && let Some(entry) = self.context.view.mark(self.ingest.next_mark())
        {
            self.ingest.take_mark(&entry);
            for partition in &entry.found {
                self.add_found(partition);
            }
            self.positions
                .push_back((entry.epoch, self.own_positions(&entry)));
            self.is_ending |= entry.ending.is_some();
            if let Some(keeper) = &self.keeper {
                // Nothing of its own: what is to be known of partitions stands in the manifest.
                keeper.keep(&entry, |_| ());
            }
        }
    }

    /// Whether the open epoch is a recorded one that was read again and is closed now.
    fn closes_recorded(&mut self) -> bool {
        let epoch = self.ingest.epoch();
        let Some(recorded) = self.context.view.recorded(epoch) else {
            return false;
        };
        if !self.context.may_read(epoch) {
            return false;
        }
        if !self.ingest.is_replaying() {
            self.ingest.replay(Rc::clone(&recorded.entry));
        }
        let closed = self.ingest.close_recorded(recorded.next_opened_at);
        closed.unwrap_or_else(|error| {
            self.context.run.failure.set(RunError::Source(error));
            false
        })
    }

    fn own_positions(&self, entry: &EpochEntry) -> Vec<(PartitionId, Offset)> {
        let (peers, index) = (self.context.peers, self.context.index);
        let rows = entry
            .partitions
            .iter()
            .filter(|row| row.partition.0 as usize % peers == index);
        rows.map(|row| (row.partition, row.to)).collect()
    }

    /// Tells the reader what is committed in every sink, for lag tools.
    fn tell_committed(&mut self) {
        while let Some((epoch, positions)) = self.positions.front()
            && self.context.is_committed(*epoch)
            // Where no sink waits for the ledger, this does.
            && self.context.view.is_released(*epoch)
        {
            if let Some(reader) = &mut self.reader {
                reader.committed(positions);
            }
            self.context.run.metrics.committed(*epoch);
            self.positions.pop_front();
        }
        let dealt_with = self
            .positions
            .front()
            .map_or(self.ingest.next_mark(), |first| first.0);
        self.context.view.forget_before(dealt_with);
    }

    fn advance(&mut self) {
        let Some((capability, dead_capability)) = &mut self.capability else {
            return;
        };
        self.frontier = self.frontier.max(self.ingest.frontier());
        let now = Time::new(self.ingest.epoch(), self.frontier);
        if *capability.time() != now {
            capability.downgrade(&now);
            dead_capability.downgrade(&now);
        }
    }
}
