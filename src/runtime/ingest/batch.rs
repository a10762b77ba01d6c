//! One batch of one partition, decoded record by record.

use super::{DecodeFn, IngestOptions};
use crate::decode::{DeadLetter, Decoded, Message, Reason, Rejection};
use crate::flow::{Block, Record};
use crate::ledger::{Fate, Fates};
use crate::source::{RawBatch, RawRecord, Unpack};
use crate::time::{EventTime, PartitionId};
use crate::watermark::PartitionWatermark;

/// One batch, decoded.
pub struct Ingested<R> {
    /// The records.
    pub block: Block<R>,
    /// What could not be used.
    pub dead: Vec<Record<DeadLetter>>,
    /// How many records were read, rejected and skipped.
    pub fates: Fates,
    /// How many bytes they had.
    pub bytes: u64,
}

/// Decoding one batch of one partition.
pub(super) struct BatchWork<'a, R> {
    pub(super) options: &'a IngestOptions,
    pub(super) opened_at: EventTime,
    pub(super) decode: &'a DecodeFn<R>,
    pub(super) unpack: Option<&'a mut (dyn Unpack + 'static)>,
    pub(super) watermark: &'a mut PartitionWatermark,
    pub(super) partition: PartitionId,
    pub(super) records: Vec<Record<R>>,
    pub(super) dead: Vec<Record<DeadLetter>>,
    pub(super) fates: Fates,
}

impl<R> BatchWork<'_, R> {
    pub(super) fn record(&mut self, batch: &RawBatch, record: &RawRecord) {
        match self.decoded(batch, record) {
            Ok(Decoded::Record(time, value)) => {
                let effect = self.watermark.observe(time);
                self.records.push(Record {
                    offset: record.offset,
                    time,
                    effect,
                    value,
                });
            }
            Ok(Decoded::Skip) => self.fates.add(Fate::Skipped, 1),
            Err(rejection) => self.reject(batch, record, rejection),
        }
    }

    fn decoded(&mut self, batch: &RawBatch, record: &RawRecord) -> Result<Decoded<R>, Rejection> {
        let value = batch
            .value(record)
            .ok_or_else(|| Rejection::new(Reason::NoValue, "the message has no payload"))?;
        if batch.truncated.contains(&record.offset) {
            let detail = "the record is longer than the longest that is read whole";
            return Err(Rejection::new(Reason::Undecodable, detail));
        }
        let value = match &mut self.unpack {
            Some(unpack) => unpack.unpack(value)?,
            None => value,
        };
        let decoded = (self.decode)(Message {
            value,
            key: batch.key(record),
            record,
            zone: &self.options.zone,
        })?;
        if let Decoded::Record(time, _) = &decoded {
            let reference = record.append_time.unwrap_or(self.opened_at);
            let limit = reference.plus(self.options.max_ahead);
            if *time > limit {
                let detail = format!("{time} is more than {} ahead", self.options.max_ahead);
                return Err(Rejection::new(Reason::TooFarAhead, detail));
            }
        }
        Ok(decoded)
    }

    fn reject(&mut self, batch: &RawBatch, record: &RawRecord, rejection: Rejection) {
        self.fates.add(Fate::Rejected, 1);
        let letter = DeadLetter {
            topic: self.options.topic.clone(),
            partition: self.partition,
            offset: record.offset,
            reason: rejection.reason,
            detail: rejection.detail,
            value: batch.value(record).unwrap_or_default().to_vec(),
        };
        let effect = self.watermark.current();
        self.dead.push(Record {
            offset: record.offset,
            time: effect,
            effect,
            value: letter,
        });
    }
}
