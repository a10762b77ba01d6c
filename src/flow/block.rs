//! What travels between the source and the first keyed operator.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use crate::time::{EventTime, Offset, PartitionId};
use crate::wire::{Codec, FixedLayout, Input, Wire, WireError};

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

/// Partition and range of a block; the number of records follows.
type Range = (PartitionId, Offset, Offset);
/// Place and times of a record; the rest follows.
type Place = (Offset, EventTime, EventTime);

impl<R: Wire> Wire for Record<R> {
    const LEAST: usize = size_of::<<Place as FixedLayout>::Raw>() + R::LEAST;

    #[inline]
    fn size(&self) -> usize {
        size_of::<<Place as FixedLayout>::Raw>() + self.value.size()
    }

    #[inline]
    fn write<C: Codec, W: Write>(&self, writer: &mut W) -> io::Result<()> {
        let place = (self.offset, self.time, self.effect);
        place.write::<C, W>(writer)?;
        self.value.write::<C, W>(writer)
    }

    #[inline]
    fn read<C: Codec>(input: &mut Input<'_>) -> Result<Self, WireError> {
        let (offset, time, effect) = Place::read::<C>(input)?;
        Ok(Self {
            offset,
            time,
            effect,
            value: R::read::<C>(input)?,
        })
    }
}

impl<R: Wire> Wire for Block<R> {
    const LEAST: usize = size_of::<<Range as FixedLayout>::Raw>() + size_of::<u64>();

    fn size(&self) -> usize {
        let records: usize = self.records.iter().map(Wire::size).sum();
        Self::LEAST + records
    }

    fn write<C: Codec, W: Write>(&self, writer: &mut W) -> io::Result<()> {
        let range = (self.partition, self.from, self.to);
        range.write::<C, W>(writer)?;
        C::write(&(self.records.len() as u64), writer)?;
        let mut records = self.records.iter();
        records.try_for_each(|record| record.write::<C, W>(writer))
    }

    fn read<C: Codec>(input: &mut Input<'_>) -> Result<Self, WireError> {
        let (partition, from, to) = Range::read::<C>(input)?;
        let count = input.count::<C>(Record::<R>::LEAST)?;
        let mut records = Vec::with_capacity(count);
        for _ in 0..count {
            records.push(Record::read::<C>(input)?);
        }
        Ok(Self {
            partition,
            from,
            to,
            records,
        })
    }
}
