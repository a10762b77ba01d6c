//! Standard output beside other outputs: when its reader goes away, the run goes on without it.
//!
//! Alone, a closed standard output ends the run: nobody waits for more. Beside a file it must not,
//! or `highwater run ... --to ndjson:- --to late=csv:late | head` would leave the file unfinished.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{
    EpochRows, Guarantee, JobContext, OutputSpec, Sink, SinkContext, SinkError, SinkFactory,
    Written,
};
use crate::time::{Epoch, Shard};

/// A target without which a run can go on.
pub struct Detachable {
    target: Arc<dyn SinkFactory>,
    is_gone: Arc<AtomicBool>,
    tell: Arc<dyn Fn() + Send + Sync>,
}

impl Detachable {
    /// `target`, whose rows are forgotten from the moment at which its reader is gone. `tell` is
    /// called once, then.
    pub fn new(target: Arc<dyn SinkFactory>, tell: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            target,
            is_gone: Arc::default(),
            tell: Arc::new(tell),
        }
    }
}

impl SinkFactory for Detachable {
    fn identity(&self) -> String {
        self.target.identity()
    }

    fn guarantee(&self) -> Guarantee {
        self.target.guarantee()
    }

    fn shards(&self) -> u32 {
        self.target.shards()
    }

    fn check(&self, output: &OutputSpec) -> Result<String, SinkError> {
        self.target.check(output)
    }

    fn prepare(
        &self,
        output: &OutputSpec,
        partitions: u32,
        job: Option<&JobContext>,
    ) -> Result<(), SinkError> {
        self.target.prepare(output, partitions, job)
    }

    fn prepare_follower(&self, output: &OutputSpec, partitions: u32) -> Result<(), SinkError> {
        self.target.prepare_follower(output, partitions)
    }

    fn open(
        &self,
        output: &OutputSpec,
        shards: &[Shard],
        context: &SinkContext,
    ) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(DetachableSink {
            sink: self.target.open(output, shards, context)?,
            is_gone: Arc::clone(&self.is_gone),
            tell: Arc::clone(&self.tell),
        }))
    }

    fn rolls_files(&self) -> bool {
        self.target.rolls_files()
    }
}

struct DetachableSink {
    sink: Box<dyn Sink>,
    is_gone: Arc<AtomicBool>,
    tell: Arc<dyn Fn() + Send + Sync>,
}

impl DetachableSink {
    fn unless_gone(
        &mut self,
        write: impl FnOnce(&mut Box<dyn Sink>) -> Result<Written, SinkError>,
    ) -> Result<Written, SinkError> {
        if self.is_gone.load(Ordering::SeqCst) {
            return Ok(Written::default());
        }
        match write(&mut self.sink) {
            Err(SinkError::Closed) => {
                if !self.is_gone.swap(true, Ordering::SeqCst) {
                    (self.tell)();
                }
                Ok(Written::default())
            }
            outcome => outcome,
        }
    }
}

impl Sink for DetachableSink {
    fn committed(&self, shard: Shard) -> Option<Epoch> {
        self.sink.committed(shard)
    }

    fn position(&self, shard: Shard) -> u64 {
        self.sink.position(shard)
    }

    fn commit(&mut self, epoch: &EpochRows) -> Result<Written, SinkError> {
        self.unless_gone(|sink| sink.commit(epoch))
    }

    fn close(&mut self) -> Result<Written, SinkError> {
        self.unless_gone(|sink| sink.close())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::super::encode::sample::{Sample, rows};
    use super::super::{Layout, OutputKind};
    use super::*;
    use crate::rows::Tabular;
    use crate::time::{Epoch, EventTime};

    /// Its reader takes one epoch and goes away.
    struct OneEpoch(u32);

    impl SinkFactory for OneEpoch {
        fn identity(&self) -> String {
            "one-epoch".to_owned()
        }
        fn guarantee(&self) -> Guarantee {
            Guarantee::AtLeastOnce
        }
        fn shards(&self) -> u32 {
            1
        }
        fn check(&self, _: &OutputSpec) -> Result<String, SinkError> {
            Ok(String::new())
        }
        fn prepare(&self, _: &OutputSpec, _: u32, _: Option<&JobContext>) -> Result<(), SinkError> {
            Ok(())
        }
        fn open(
            &self,
            _: &OutputSpec,
            _: &[Shard],
            _: &SinkContext,
        ) -> Result<Box<dyn Sink>, SinkError> {
            Ok(Box::new(Self(0)))
        }
    }

    impl Sink for OneEpoch {
        fn commit(&mut self, _: &EpochRows) -> Result<Written, SinkError> {
            self.0 += 1;
            match self.0 {
                1 => Ok(Written { rows: 7, bytes: 8 }),
                2 => Err(SinkError::Closed),
                _ => panic!("it is not asked any more"),
            }
        }
        fn close(&mut self) -> Result<Written, SinkError> {
            panic!("it is not asked any more")
        }
    }

    #[test]
    fn a_reader_that_is_gone_is_told_of_once_and_never_written_to_again() {
        let told = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&told);
        let tell = move || {
            count.fetch_add(1, Ordering::SeqCst);
        };
        let factory = Detachable::new(Arc::new(OneEpoch(0)), tell);
        let output = OutputSpec {
            pipeline: "test",
            name: "rows",
            columns: Sample::columns().into(),
            kind: OutputKind::Log,
            layout: Layout::Flat,
        };
        let mut sink = factory
            .open(&output, &[Shard(0)], &SinkContext::default())
            .unwrap();
        let epoch = EpochRows {
            shard: Shard(0),
            epoch: Epoch(0),
            watermark: EventTime::MIN,
            is_checkpoint: false,
            rows: rows::<Sample>(),
        };
        let rows: Vec<u64> = (0..3).map(|_| sink.commit(&epoch).unwrap().rows).collect();
        assert_eq!(rows, [7, 0, 0]);
        assert_eq!(sink.close().unwrap(), Written::default());
        assert_eq!(told.load(Ordering::SeqCst), 1);
    }
}
