//! One worker's part of an output in a topic, without transactions.

use super::outbox::{Halt, Outbox};
use crate::sink::{EpochRows, Sink, SinkError, Written};

pub(super) struct KafkaSink {
    pub outbox: Outbox,
}

impl KafkaSink {
    fn send(&mut self, epoch: &EpochRows) -> Result<Written, Halt> {
        let bytes = self.outbox.send_all(&epoch.rows)?;
        self.outbox.wait_for_all()?;
        Ok(Written {
            rows: epoch.rows.len() as u64,
            bytes,
        })
    }
}

impl Sink for KafkaSink {
    fn commit(&mut self, epoch: &EpochRows) -> Result<Written, SinkError> {
        let sent = self.send(epoch);
        sent.map_err(|halt| self.outbox.explain(&epoch.rows, halt))
    }

    /// Every epoch was acknowledged when it was committed: nothing is left to flush.
    fn close(&mut self) -> Result<Written, SinkError> {
        debug_assert_eq!(self.outbox.outstanding(), 0);
        Ok(Written::default())
    }
}
