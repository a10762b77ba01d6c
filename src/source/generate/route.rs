//! Which partition an event belongs to, and the walk over the events of one partition.

use super::{EventModel, Schedule};
use crate::source::murmur2::partition_for_key;

/// The longest cycle of keys whose partitions are kept in a table.
const MAX_TABLE: u64 = 1 << 20;

/// Which partition an event belongs to.
pub(super) struct Router {
    partitions: u32,
    /// For keys that repeat: the partition of each event of the first cycle. One entry when there
    /// is one partition. Empty: ask the key.
    table: Vec<u32>,
}

impl Router {
    pub(super) fn new(model: &dyn EventModel, partitions: u32) -> Self {
        let period = if partitions == 1 {
            1
        } else {
            model.key_period().unwrap_or(0)
        };
        let mut router = Self {
            partitions,
            table: Vec::new(),
        };
        if period <= MAX_TABLE {
            let mut key = Vec::new();
            router.table = (0..period)
                .map(|i| router.by_key(model, i, &mut key))
                .collect();
        }
        router
    }

    pub(super) fn partition(&self, model: &dyn EventModel, index: u64, key: &mut Vec<u8>) -> u32 {
        match self.table.len() as u64 {
            0 => self.by_key(model, index, key),
            1 => self.table[0],
            period => self.table[(index % period) as usize],
        }
    }

    fn by_key(&self, model: &dyn EventModel, index: u64, key: &mut Vec<u8>) -> u32 {
        if self.partitions == 1 {
            return 0;
        }
        key.clear();
        model.key(index, key);
        if key.is_empty() {
            (index % u64::from(self.partitions)) as u32
        } else {
            partition_for_key(key, self.partitions)
        }
    }
}

/// Where a [`Walk`] stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At this event of the partition.
    At(u64),
    /// Before this event: it has not yet been seen whether the partition has one.
    Searching(u64),
    /// Behind the last event of the partition.
    End,
}

/// The events of one partition, in order.
pub(super) struct Walk {
    partition: u32,
    /// For keys that repeat: the partition's own events of the first cycle, and the cycle's
    /// length. Then a step costs an addition.
    own: Vec<u64>,
    period: u64,
    /// The place in `own`.
    at: usize,
    /// The event where the walk stands: with a table the first of its cycle.
    index: u64,
    key: Vec<u8>,
}

/// How many events of other partitions one call of [`Walk::place`] passes at most.
const SEARCH_LIMIT: u64 = 1 << 16;

impl Walk {
    pub(super) fn new(router: &Router, partition: u32) -> Self {
        let own = (0..)
            .zip(&router.table)
            .filter(|(_, p)| **p == partition)
            .map(|(i, _)| i);
        Self {
            partition,
            own: own.collect(),
            period: router.table.len() as u64,
            at: 0,
            index: 0,
            key: Vec::new(),
        }
    }

    /// Where the walk stands, after searching for a while when that is not known.
    pub(super) fn place(
        &mut self,
        router: &Router,
        model: &dyn EventModel,
        schedule: &Schedule,
    ) -> Place {
        if self.period > 0 {
            return match self
                .own
                .get(self.at)
                .and_then(|own| self.index.checked_add(*own))
            {
                Some(index) if schedule.has(index) => Place::At(index),
                _ => Place::End,
            };
        }
        for _ in 0..SEARCH_LIMIT {
            if !schedule.has(self.index) || self.index == u64::MAX {
                return Place::End;
            }
            if router.partition(model, self.index, &mut self.key) == self.partition {
                return Place::At(self.index);
            }
            self.index += 1;
        }
        Place::Searching(self.index)
    }

    /// Passes the event at which the walk stands.
    pub(super) fn step(&mut self) {
        if self.period == 0 {
            self.index += 1;
            return;
        }
        self.at += 1;
        if self.at == self.own.len() {
            self.at = 0;
            self.index = self.index.saturating_add(self.period);
        }
    }

    /// Passes `events` events at once, when that costs nothing; else says `false`.
    pub(super) fn leap(&mut self, events: u64) -> bool {
        let own = self.own.len() as u64;
        if own == 0 {
            return false;
        }
        let total = u128::from(events) + self.at as u128;
        let index = u128::from(self.index) + total / u128::from(own) * u128::from(self.period);
        self.index = u64::try_from(index).unwrap_or(u64::MAX);
        self.at = (total % u128::from(own)) as usize;
        true
    }
}
