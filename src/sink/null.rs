//! `null:`: rows are counted and forgotten.

use super::{
    EpochRows, Guarantee, JobContext, OutputSpec, Sink, SinkContext, SinkError, SinkFactory,
    Written,
};
use crate::time::Shard;

/// What `null:` means.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullFactory;

impl SinkFactory for NullFactory {
    fn identity(&self) -> String {
        "null".to_owned()
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn shards(&self) -> u32 {
        super::uri::DEFAULT_SHARDS
    }

    fn check(&self, _output: &OutputSpec) -> Result<String, SinkError> {
        Ok("rows are counted and forgotten".to_owned())
    }

    fn prepare(
        &self,
        _output: &OutputSpec,
        _partitions: u32,
        _job: Option<&JobContext>,
    ) -> Result<(), SinkError> {
        Ok(())
    }

    fn open(
        &self,
        _output: &OutputSpec,
        _shards: &[Shard],
        _context: &SinkContext,
    ) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(NullSink))
    }
}

/// Forgets everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullSink;

impl Sink for NullSink {
    fn commit(&mut self, epoch: &EpochRows) -> Result<Written, SinkError> {
        Ok(Written {
            rows: epoch.rows.len() as u64,
            bytes: 0,
        })
    }

    fn close(&mut self) -> Result<Written, SinkError> {
        Ok(Written::default())
    }
}
