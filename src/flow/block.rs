//! What travels between the source and the first keyed operator.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use crate::time::{EventTime, Offset, PartitionId};
use crate::wire::{Codec, Input, Wire, WireError};

/// A record with its place and times.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record<R> {
    /// Its offset in the block's partition.
    pub offset: Offset,
    /// Its event time `t`.
    pub time: EventTime,
    /// When it takes effect, `tau = max(t, w)`.
    pub effect: EventTime,
    /// The rest.
    pub value: R,
}

/// A range of offsets of one partition, decoded. Stateless operators map blocks to blocks and keep
/// the range, even when no record is left in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block<R> {
    /// The partition.
    pub partition: PartitionId,
    /// The first offset of the range.
    pub from: Offset,
    /// The position after the range.
    pub to: Offset,
    /// The records that are left, in offset order.
    pub records: Vec<Record<R>>,
}

impl<R> Block<R> {
    /// The same range with other records.
    pub fn with<S>(&self, records: Vec<Record<S>>) -> Block<S> {
        Block {
            partition: self.partition,
            from: self.from,
            to: self.to,
            records,
        }
    }
}

/// Partition and range of a block; the number of records follows, then their places, then their
/// values.
type Range = (PartitionId, Offset, Offset);
/// Place and times of a record.
type Place = (Offset, EventTime, EventTime);

impl<R: Wire> Wire for Block<R> {
    const LEAST: usize = Range::LEAST + u64::LEAST;

    fn size(&self) -> usize {
        let record = |record: &Record<R>| Place::LEAST + record.value.size();
        Self::LEAST + self.records.iter().map(record).sum::<usize>()
    }

    fn write<C: Codec, W: Write>(&self, writer: &mut W) -> io::Result<()> {
        let range = (self.partition, self.from, self.to);
        range.write::<C, W>(writer)?;
        C::write(&(self.records.len() as u64), writer)?;
        let place = |record: &Record<R>| (record.offset, record.time, record.effect);
        let places: Vec<Place> = self.records.iter().map(place).collect();
        Place::write_many::<C, W>(places.iter(), writer)?;
        let values = self.records.iter().map(|record| &record.value);
        R::write_many::<C, W>(values, writer)
    }

    fn read<C: Codec>(input: &mut Input<'_>) -> Result<Self, WireError> {
        let (partition, from, to) = Range::read::<C>(input)?;
        let count = input.count::<C>(Place::LEAST + R::LEAST)?;
        let places = Place::read_many::<C>(count, input)?;
        let values = R::read_many::<C>(count, input)?;
        let records = places.into_iter().zip(values).map(|(place, value)| {
            let (offset, time, effect) = place;
            Record {
                offset,
                time,
                effect,
                value,
            }
        });
        Ok(Self {
            partition,
            from,
            to,
            records: records.collect(),
        })
    }
}
