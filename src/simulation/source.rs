//! The input as a run reads it: batches of any size, any pause between them, the news that nothing
//! more is there just now, and the end once the input is complete.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::machine::{pause, spawn};
use super::pipeline::encode;
use super::run::Until;
use super::world::{World, world};
use crate::runtime::control::{Notice, Notices};
use crate::source::{Assignment, Partition, RawBatch, RawRecord, Reader, Source, SourceError};
use crate::time::Offset;

/// See the module.
pub(super) struct SimulatedSource {
    pub(super) until: Until,
    pub(super) notices: Notices,
}

impl Source for SimulatedSource {
    fn name(&self) -> String {
        "simulated".to_owned()
    }

    fn partitions(&self) -> Result<Vec<Partition>, SourceError> {
        pause();
        Ok(world(|world| world.partitions()))
    }

    fn reader(&self) -> Result<Box<dyn Reader>, SourceError> {
        let reader = SimulatedReader {
            assigned: Arc::default(),
            is_dropped: Arc::default(),
        };
        let (assigned, is_dropped) = (Arc::clone(&reader.assigned), Arc::clone(&reader.is_dropped));
        let (until, notices) = (self.until, self.notices.clone());
        spawn(None, move || {
            while !is_dropped.load(Ordering::Relaxed) {
                pause();
                let mut assigned = assigned.lock().expect("nobody panics here");
                if let Some(at) = world(|world| choose(world, assigned.len())) {
                    assigned[at].turn(until, &notices);
                }
            }
        });
        Ok(Box::new(reader))
    }

    fn check(&self) -> Result<String, SourceError> {
        Ok(String::new())
    }
}

fn choose(world: &mut World, count: usize) -> Option<usize> {
    (count > 0).then(|| world.chance.below(count))
}

/// Tells a run what partitions there are, over and over.
pub(super) fn discover(notices: &Notices) {
    let mut told = 0;
    loop {
        pause();
        let partitions = world(|world| world.partitions());
        if partitions.len() > told && world(|world| world.chance.is(0.2)) {
            told = partitions.len();
            notices.send(Notice::Found(partitions));
        }
    }
}

struct SimulatedReader {
    assigned: Arc<Mutex<Vec<Assigned>>>,
    is_dropped: Arc<AtomicBool>,
}

impl Reader for SimulatedReader {
    fn assign(&mut self, assignment: Assignment) {
        let next = assignment.from.unwrap_or_default().0 as usize;
        let partition = assignment.partition.id.0 as usize;
        assignment.feed.begin(Offset(next as u64));
        let mut assigned = self.assigned.lock().expect("nobody panics here");
        assigned.push(Assigned {
            assignment,
            next,
            there: world(|world| world.available[partition]),
            has_ended: false,
        });
    }
}

impl Drop for SimulatedReader {
    fn drop(&mut self) {
        self.is_dropped.store(true, Ordering::Relaxed);
    }
}

/// A partition that is being read.
struct Assigned {
    assignment: Assignment,
    next: usize,
    /// How many records were there when the run began to read it.
    there: usize,
    has_ended: bool,
}

impl Assigned {
    /// Delivers something, or says that nothing is there.
    fn turn(&mut self, until: Until, notices: &Notices) {
        let partition = self.assignment.partition.id.0 as usize;
        let feed = &self.assignment.feed;
        let (batch, next) = world(|world| {
            let available = match until {
                Until::End => self.there,
                Until::Forever | Until::Drained => world.available[partition],
            };
            if self.next >= available || world.chance.is(0.3) {
                return (None, available);
            }
            let most = available - self.next;
            let count = 1 + world.chance.below(most.min(4));
            (
                Some(batch(world, partition, self.next, count)),
                self.next + count,
            )
        });
        match batch {
            Some(batch) => {
                self.next = next;
                feed.push(batch);
            }
            None if self.next < next || self.has_ended => {}
            None if until == Until::End => {
                self.has_ended = true;
                feed.end();
            }
            None if until == Until::Drained && world(|world| world.is_complete()) => {
                // Whoever hears of the end has heard of all partitions before.
                notices.send(Notice::Found(world(|world| world.partitions())));
                self.has_ended = true;
                feed.end();
            }
            None if world(|world| world.chance.is(world.shape.idling)) => feed.caught_up(),
            None => {}
        }
    }
}

fn batch(world: &World, partition: usize, from: usize, count: usize) -> RawBatch {
    let mut batch = RawBatch::default();
    for offset in from..from + count {
        let start = batch.bytes.len() as u32;
        let item = &world.input[partition][offset];
        encode(partition as u32, offset as u64, item, &mut batch.bytes);
        batch.records.push(RawRecord {
            offset: Offset(offset as u64),
            value: Some((start, batch.bytes.len() as u32)),
            key: None,
            append_time: None,
        });
    }
    batch.next_offset = Offset((from + count) as u64);
    batch
}
