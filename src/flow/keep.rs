//! What the operators of a worker keep at a checkpoint: each adds its entries when it has closed
//! the checkpoint's epoch, and when all have, the worker's object is complete.
//!
//! Entries go by the 256 buckets of their keys, so that any number of workers can take them over:
//! a worker reads those of its own buckets back, older objects first.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::context::WorkerContext;
use super::windows::KEY_SHARDS;
use crate::epoch::EpochEntry;
use crate::runtime::RunError;
use crate::state::{Checkpoint, Snapshot};
use crate::time::Epoch;

/// A worker's part of a checkpoint, complete.
pub struct Part {
    /// The checkpoint's epoch.
    pub epoch: Epoch,
    /// Whether it holds everything, or what has changed since the one before.
    pub is_full: bool,
    /// The names of the operators, by their numbers.
    pub operators: Vec<String>,
    /// The entries.
    pub snapshot: Snapshot,
}

/// The objects of the checkpoint from which a run goes on, older ones first, until the last worker
/// has read its part of them.
pub struct Restored(Mutex<Shares>);

struct Shares {
    checkpoints: Arc<Vec<Checkpoint>>,
    /// How many workers of this process have not taken them yet.
    left: usize,
}

impl Restored {
    /// For so many workers of this process.
    pub fn new(checkpoints: Vec<Checkpoint>, workers: usize) -> Self {
        Self(Mutex::new(Shares {
            checkpoints: Arc::new(checkpoints),
            left: workers,
        }))
    }

    /// What one worker reads; the last one takes them along.
    pub fn take(&self) -> Arc<Vec<Checkpoint>> {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shares.left = shares.left.saturating_sub(1);
        if shares.left == 0 {
            std::mem::take(&mut shares.checkpoints)
        } else {
            Arc::clone(&shares.checkpoints)
        }
    }
}

/// Gathers the parts of one worker.
pub struct Keep {
    /// The operators that add something to each checkpoint, in the order of the graph.
    operators: RefCell<Vec<String>>,
    open: RefCell<BTreeMap<Epoch, Open>>,
    restored: RefCell<Arc<Vec<Checkpoint>>>,
    send: Box<dyn Fn(Part)>,
}

#[derive(Default)]
struct Open {
    snapshot: Snapshot,
    added: usize,
}

/// One operator's way to keep something.
pub struct Keeper {
    context: Rc<WorkerContext>,
    operator: u16,
    name: String,
}

impl Keep {
    /// On a worker that goes on with `restored` (older objects first); `send` takes the parts when
    /// they are complete.
    pub fn new(restored: Arc<Vec<Checkpoint>>, send: impl Fn(Part) + 'static) -> Self {
        Self {
            operators: RefCell::default(),
            open: RefCell::default(),
            restored: restored.into(),
            send: Box::new(send),
        }
    }

    /// All operators have been built, and have read what is theirs.
    pub fn is_restored(&self) {
        self.restored.take();
    }

    fn add(&self, entry: &EpochEntry, add: impl FnOnce(&mut Snapshot)) {
        let mut parts = self.open.borrow_mut();
        let open = parts.entry(entry.epoch).or_default();
        add(&mut open.snapshot);
        open.added += 1;
        let operators = self.operators.borrow();
        if open.added == operators.len()
            && let Some(Open { snapshot, .. }) = parts.remove(&entry.epoch)
        {
            (self.send)(Part {
                epoch: entry.epoch,
                is_full: entry.is_full,
                operators: operators.clone(),
                snapshot,
            });
        }
    }
}

impl Keeper {
    /// The way of the operator called `name` to keep something; `None` where nothing is kept. Each
    /// keeper must be asked at each checkpoint.
    pub(super) fn register(context: &Rc<WorkerContext>, name: &str) -> Option<Self> {
        let keep = context.keep.as_ref()?;
        let mut operators = keep.operators.borrow_mut();
        let operator = u16::try_from(operators.len()).ok()?;
        let same = operators.iter().filter(|other| other.starts_with(name));
        let name = format!("{name}-{}", same.count());
        operators.push(name.clone());
        Some(Self {
            context: Rc::clone(context),
            operator,
            name,
        })
    }

    /// Adds the operator's part to the checkpoint of `entry`, if it is one.
    pub(super) fn keep(&self, entry: &EpochEntry, add: impl FnOnce(&mut Entries<'_>)) {
        if !entry.is_checkpoint {
            return;
        }
        let Some(keep) = &self.context.keep else {
            return;
        };
        keep.add(entry, |snapshot| {
            add(&mut Entries {
                snapshot,
                operator: self.operator,
                key: Vec::new(),
                value: Vec::new(),
            });
        });
    }

    /// Gives `put` the entries of this operator that belong to this worker, older ones first.
    pub(super) fn restore<K: DeserializeOwned, V: DeserializeOwned>(
        &self,
        mut put: impl FnMut(K, V),
    ) {
        let Some(keep) = &self.context.keep else {
            return;
        };
        for checkpoint in keep.restored.borrow().iter() {
            let names = &checkpoint.header().operators;
            let Some(number) = names.iter().position(|name| *name == self.name) else {
                continue;
            };
            if let Err(what) = self.restore_from(checkpoint, number as u16, &mut put) {
                let what = format!("{}: {what}", checkpoint.header().object_name());
                self.context.run.failure.set(RunError::Checkpoint(what));
                return;
            }
        }
    }

    fn restore_from<K: DeserializeOwned, V: DeserializeOwned>(
        &self,
        checkpoint: &Checkpoint,
        number: u16,
        put: &mut impl FnMut(K, V),
    ) -> Result<(), postcard::Error> {
        let own = (0..KEY_SHARDS).filter(|bucket| self.context.owns(*bucket));
        for (operator, key, value) in own.flat_map(|bucket| checkpoint.entries(bucket as u8)) {
            if operator == number
                && let Some(value) = value
            {
                put(postcard::from_bytes(key)?, postcard::from_bytes(value)?);
            }
        }
        Ok(())
    }
}

/// Takes the entries of one operator.
pub(super) struct Entries<'a> {
    snapshot: &'a mut Snapshot,
    operator: u16,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Entries<'_> {
    /// Keeps `value` under `key`, which belongs to `bucket`.
    pub(super) fn put(&mut self, bucket: u8, key: &impl Serialize, value: &impl Serialize) {
        self.key = encoded(std::mem::take(&mut self.key), key);
        self.value = encoded(std::mem::take(&mut self.value), value);
        self.snapshot
            .put(bucket, self.operator, &self.key, &self.value);
    }
}

fn encoded(mut into: Vec<u8>, value: &impl Serialize) -> Vec<u8> {
    into.clear();
    // Invariant: keys and states are plain data of known length; memory takes all of it.
    postcard::to_extend(value, into).expect("a state can be encoded")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_restored_goes_with_the_last_worker() {
        let restored = Restored::new(Vec::new(), 3);
        let mut taken: Vec<_> = (0..3).map(|_| restored.take()).collect();
        let first = Arc::downgrade(&taken[0]);
        assert!(taken.iter().all(|it| Arc::ptr_eq(it, &taken[0])));
        taken.clear();
        assert_eq!(first.strong_count(), 0);
    }
}
