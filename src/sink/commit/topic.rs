//! Topics: one transaction per epoch and shard, which holds the rows and the epoch's number.
//!
//! Each shard has one producer at a time, under a name that the shard has in every run of the job.
//! To initialise a producer fences all earlier ones of that name, and ends what they have left
//! open: it is committed whole, or never seen. So what a start reads *after* that, the shard's
//! last committed epoch, stays true until the next producer of that name is initialised.
//!
//! A producer may end at any time: fenced, or in a state from which it cannot go on. Whether its
//! last transaction was committed is then unknown here, and known there. The way out is always the
//! same, whatever has happened:
//!
//! 1. Ask the log which run is the newest. If it is not this one, this one has to end.
//! 2. Otherwise it was an older run that has started late, or a broker: initialise a new producer.
//! 3. Read the shard's committed epoch again. If it has reached the epoch at hand, this is done;
//!    else send the epoch again.
//!
//! A fenced older run commits nothing after that, but may have committed before: epochs that stand
//! in the log, as this run would have, since an epoch's rows are a function of the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::rules::{self, Rule};
use crate::sink::{EpochRows, JobContext, SinkError, Written};
use crate::time::{Epoch, Shard};

/// What brokers do for the shards of one sink. Each method is one step: between two of them, other
/// runs and the end of this one may come. Temporary trouble is waited out inside.
pub trait Transactions {
    /// Gives `shard` a new producer in place of the one that it has. Earlier ones, of whichever
    /// run, can do nothing any more; what they had begun is over when this returns.
    ///
    /// # Errors
    /// When brokers refuse it, or the run is aborted.
    fn init(&mut self, shard: Shard) -> Result<(), SinkError>;

    /// The epoch in the last committed transaction of `shard`, by whichever run.
    ///
    /// # Errors
    /// When brokers refuse it, when what is there cannot be understood, or when the run is aborted.
    fn committed(&mut self, shard: Shard) -> Result<Option<Epoch>, SinkError>;

    /// Begins a transaction and puts the rows and the epoch into it. Nothing can be seen yet.
    ///
    /// # Errors
    /// When a row or the epoch will never be taken, or the run is aborted.
    fn stage(&mut self, epoch: &EpochRows) -> Result<Answer<Written>, SinkError>;

    /// Commits what was staged for `shard`.
    ///
    /// # Errors
    /// When it will never be taken, or the run is aborted.
    fn commit(&mut self, shard: Shard) -> Result<Answer<()>, SinkError>;
}

/// What came of a step of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// It is done.
    Done(T),
    /// It may be done or not; to ask the same again is harmless.
    Lost,
    /// This producer takes nothing more. Its transaction may be committed or not.
    Ended,
}

/// Commits the epochs of some shards of a topic.
#[derive(Debug)]
pub struct TopicCommitter<T> {
    transactions: T,
    job: Arc<JobContext>,
    /// As in [`sink_id`](crate::sink::sink_id).
    sink: String,
    committed: BTreeMap<Shard, Option<Epoch>>,
}

impl<T: Transactions> TopicCommitter<T> {
    /// Takes `shards` over from earlier runs, and then looks how far these came.
    ///
    /// # Errors
    /// [`SinkError::Refused`] when the topic and the state of the job do not fit together; what
    /// `transactions` answers.
    pub fn open(
        transactions: T,
        job: Arc<JobContext>,
        sink: String,
        shards: &[Shard],
    ) -> Result<Self, SinkError> {
        let mut committer = Self {
            transactions,
            job,
            sink,
            committed: BTreeMap::new(),
        };
        if rules::on(Rule::InitBeforeRead) {
            committer.init(shards)?;
            committer.read(shards)?;
        } else {
            committer.read(shards)?;
            committer.init(shards)?;
        }
        Ok(committer)
    }

    fn init(&mut self, shards: &[Shard]) -> Result<(), SinkError> {
        let mut shards = shards.iter();
        shards.try_for_each(|shard| self.transactions.init(*shard))
    }

    fn read(&mut self, shards: &[Shard]) -> Result<(), SinkError> {
        for shard in shards {
            let mut committed = self.transactions.committed(*shard)?;
            self.check(*shard, committed)?;
            if !rules::on(Rule::SkipCommitted) {
                committed = self.job.checkpoint;
            }
            self.committed.insert(*shard, committed);
        }
        Ok(())
    }

    /// The last committed epoch of `shard`, as far as it is known here.
    pub fn committed(&self, shard: Shard) -> Option<Epoch> {
        self.committed.get(&shard).copied().flatten()
    }

    /// Commits an epoch; one without rows only at a checkpoint. What is returned has become
    /// visible since this run has begun: with its own transaction, or that of an older run that
    /// came between.
    ///
    /// # Errors
    /// [`SinkError::Fenced`] when a newer run of the job has begun, [`SinkError::Refused`] when
    /// brokers have lost a committed epoch; what `transactions` and the log answer.
    pub fn commit(&mut self, epoch: &EpochRows) -> Result<Written, SinkError> {
        let mut written = Written::default();
        let may_skip = !epoch.is_checkpoint || !rules::on(Rule::EmptyAtCheckpoint);
        if epoch.rows.is_empty() && may_skip {
            return Ok(written);
        }
        while self.committed(epoch.shard) < Some(epoch.epoch) {
            if self.attempt(epoch, &mut written)? {
                self.committed.insert(epoch.shard, Some(epoch.epoch));
            } else {
                self.renew(epoch.shard)?;
            }
        }
        Ok(written)
    }

    /// Whether the epoch is committed for certain; else the producer has ended.
    fn attempt(&mut self, epoch: &EpochRows, written: &mut Written) -> Result<bool, SinkError> {
        match self.transactions.stage(epoch)? {
            Answer::Done(staged) => *written = staged,
            // The next producer ends what this one has begun.
            Answer::Lost | Answer::Ended => return Ok(false),
        }
        loop {
            match self.transactions.commit(epoch.shard)? {
                Answer::Done(()) => return Ok(true),
                Answer::Lost => {}
                Answer::Ended => return Ok(false),
            }
        }
    }

    fn renew(&mut self, shard: Shard) -> Result<(), SinkError> {
        let newest = self.job.log.newest_run()?;
        if newest > self.job.run || !rules::on(Rule::Reinit) {
            return Err(SinkError::Fenced(format!(
                "{}, shard {}: run {newest} of this job has taken over; this is run {}",
                self.sink, shard.0, self.job.run
            )));
        }
        self.transactions.init(shard)?;
        let known = self.committed(shard);
        let mut found = self.transactions.committed(shard)?;
        if !rules::on(Rule::Reread) {
            found = known;
        }
        if found < known {
            return Err(self.lost(shard, known, found));
        }
        self.committed.insert(shard, found);
        Ok(())
    }

    fn check(&self, shard: Shard, committed: Option<Epoch>) -> Result<(), SinkError> {
        let Self { sink, job, .. } = self;
        if let (None, Some(checkpoint), Some(_)) = (committed, job.checkpoint, job.mark(sink)) {
            return Err(SinkError::Refused(format!(
                "{sink}, shard {}: the state knows of commits up to epoch {checkpoint}, but the \
                 topic's brokers do not know the last committed epoch any more. It is kept as an \
                 offset of a consumer group, which they drop when the topic was deleted, or when \
                 the job was stopped for longer than their setting offsets.retention.minutes \
                 (default 10080: seven days). Start anew with --fresh, and raise that setting for \
                 jobs that rest longer",
                shard.0
            )));
        }
        job.check_committed(sink, shard, committed)
    }

    fn lost(&self, shard: Shard, known: Option<Epoch>, found: Option<Epoch>) -> SinkError {
        let number = |epoch: Option<Epoch>| {
            epoch.map_or_else(|| "none".to_owned(), |epoch| epoch.to_string())
        };
        SinkError::Refused(format!(
            "{}, shard {}: epoch {} was committed in this run, and now the last committed one is \
             {}: the topic or its consumer group was deleted, or brokers have lost what they had \
             acknowledged. Start anew with --fresh",
            self.sink,
            shard.0,
            number(known),
            number(found)
        ))
    }
}

#[cfg(test)]
mod tests;
