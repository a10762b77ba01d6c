//! Rows and their epoch in one transaction, guarded by the number of the run.
//!
//! Per shard the table of epochs holds one row `(run, epoch)`: the run that may commit, and the
//! last epoch that was committed.
//!
//! * A start takes the row over only where `run < mine`; a higher run there: fenced.
//! * A commit of epoch `k` writes the rows and sets `epoch = k`, all in one transaction, only where
//!   `run = mine and epoch < k`. Otherwise it writes nothing and reads the row: `run = mine and
//!   epoch >= k` means that an earlier attempt was committed and its answer lost, which is success;
//!   a higher run means fenced.
//! * After a failed attempt each shard's row is read again before anything is written to it: a
//!   server that has lost what it had confirmed (a standby that took over too early) is refused,
//!   not written to as if nothing were missing.
//! * An epoch without rows is committed only at a checkpoint.

use std::collections::BTreeMap;

use super::super::{EpochRows, JobContext, RunNumber, SinkError};
use crate::rules::{self, Rule};
use crate::time::{Epoch, Shard};

/// A shard's row in the table of epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardRow {
    /// The run that may commit.
    pub run: RunNumber,
    /// The last epoch that was committed; `None`: none yet.
    pub epoch: Option<Epoch>,
}

/// What became of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Rows and epoch are committed.
    Done,
    /// The guard failed, nothing was written, and this is the row as it stands; `None`: it is gone.
    Guarded(Option<ShardRow>),
}

/// A database with a table of epochs beside the rows, for one sink of one job.
pub trait EpochTable {
    /// Why an attempt failed. Whether the transaction was committed all the same is not known.
    type Trouble;

    /// One transaction: sets the shard's run to `run` where it is lower, and returns the row as it
    /// stands afterwards; `None`: there is none.
    ///
    /// # Errors
    /// When there was no answer, or a bad one.
    fn take_over(
        &mut self,
        shard: Shard,
        run: RunNumber,
    ) -> Result<Option<ShardRow>, Self::Trouble>;

    /// One transaction: where the shard's run is `run` and its epoch lower than that of `rows`,
    /// writes the rows and sets the epoch.
    ///
    /// # Errors
    /// When there was no answer, or a bad one.
    fn commit(&mut self, run: RunNumber, rows: &EpochRows) -> Result<Answer, Self::Trouble>;

    /// Waits until another attempt makes sense.
    ///
    /// # Errors
    /// When none does, or the run was aborted.
    fn recover(&mut self, trouble: Self::Trouble) -> Result<(), SinkError>;

    /// What was asked for is done: troubles on the way no longer count.
    fn settled(&mut self);
}

/// Commits the epochs of some shards to a table.
#[derive(Debug)]
pub struct TableCommitter<T> {
    table: T,
    run: RunNumber,
    /// How the sink is called in messages.
    sink: String,
    shards: BTreeMap<Shard, Known>,
}

/// What is known of a shard.
#[derive(Clone, Copy, Debug)]
struct Known {
    committed: Option<Epoch>,
    /// Whether no attempt has failed since its row was read.
    is_fresh: bool,
}

impl<T: EpochTable> TableCommitter<T> {
    /// Takes `shards` of `sink` over for the run of `job`.
    ///
    /// # Errors
    /// [`SinkError::Fenced`] when a newer run has one of them; [`SinkError::Refused`] when one does
    /// not fit the state of the job.
    pub fn open(
        table: T,
        job: &JobContext,
        sink: &str,
        shards: &[Shard],
    ) -> Result<Self, SinkError> {
        let mut committer = Self {
            table,
            run: job.run,
            sink: sink.to_owned(),
            shards: BTreeMap::new(),
        };
        for &shard in shards {
            let mut committed = committer.take_over(shard)?;
            job.check_committed(sink, shard, committed)?;
            if !rules::on(Rule::SkipCommitted) {
                committed = job.checkpoint;
            }
            let known = Known {
                committed,
                is_fresh: true,
            };
            committer.shards.insert(shard, known);
        }
        Ok(committer)
    }

    /// The last epoch that `shard` has committed.
    pub fn committed(&self, shard: Shard) -> Option<Epoch> {
        self.shards.get(&shard).and_then(|known| known.committed)
    }

    /// The world outside.
    pub fn table(&mut self) -> &mut T {
        &mut self.table
    }

    /// Commits the epoch, once, however often that takes; epochs of a shard come in order.
    ///
    /// # Errors
    /// [`SinkError::Fenced`] when a newer run has taken the shard over, [`SinkError::Refused`] when
    /// its row is not as this run left it, and what [`EpochTable::recover`] says.
    pub fn commit(&mut self, rows: &EpochRows) -> Result<(), SinkError> {
        let may_skip = !rows.is_checkpoint || !rules::on(Rule::EmptyAtCheckpoint);
        if rows.rows.is_empty() && may_skip {
            return Ok(());
        }
        let (shard, epoch) = (rows.shard, rows.epoch);
        while self.committed(shard) < Some(epoch) {
            if !self.is_fresh(shard) {
                let committed = self.take_over(shard)?;
                self.look(shard, epoch, committed)?;
                continue;
            }
            match self.table.commit(self.run, rows) {
                Ok(Answer::Done) => self.know(shard, Some(epoch)),
                Ok(Answer::Guarded(row)) => {
                    let committed = self.own(shard, row)?;
                    if committed < Some(epoch) || !rules::on(Rule::RetryIsSuccess) {
                        return Err(self.strange(shard, "takes no commit", epoch, committed));
                    }
                    self.know(shard, committed);
                }
                Err(trouble) => self.recover(trouble)?,
            }
        }
        self.table.settled();
        Ok(())
    }

    /// The shard's last committed epoch, once its row has this run's number.
    fn take_over(&mut self, shard: Shard) -> Result<Option<Epoch>, SinkError> {
        loop {
            match self.table.take_over(shard, self.run) {
                Ok(row) => return self.own(shard, row),
                Err(trouble) => self.recover(trouble)?,
            }
        }
    }

    /// The epoch of a row that must have this run's number.
    fn own(&self, shard: Shard, row: Option<ShardRow>) -> Result<Option<Epoch>, SinkError> {
        let (sink, run) = (&self.sink, self.run);
        match row {
            Some(row) if row.run == run => Ok(row.epoch),
            Some(row) => Err(SinkError::Fenced(format!(
                "{sink}, shard {shard}: run {} of the job has taken it over from run {run}",
                row.run
            ))),
            None => Err(SinkError::Refused(format!(
                "{sink}, shard {shard}: its row in the table of epochs is gone: another job has \
                 replaced this output, or somebody has removed the row; nothing more is written"
            ))),
        }
    }

    /// What was read after a failure, against what this run knows.
    fn look(
        &mut self,
        shard: Shard,
        epoch: Epoch,
        committed: Option<Epoch>,
    ) -> Result<(), SinkError> {
        if committed < self.committed(shard) {
            let what = "the server has lost commits that it had confirmed";
            return Err(self.strange(shard, what, epoch, committed));
        }
        let is_news = rules::on(Rule::RetryIsSuccess);
        let known = if is_news {
            committed
        } else {
            self.committed(shard)
        };
        self.know(shard, known);
        Ok(())
    }

    fn know(&mut self, shard: Shard, committed: Option<Epoch>) {
        let known = Known {
            committed,
            is_fresh: true,
        };
        self.shards.insert(shard, known);
    }

    fn is_fresh(&self, shard: Shard) -> bool {
        self.shards.get(&shard).is_some_and(|known| known.is_fresh)
    }

    fn recover(&mut self, trouble: T::Trouble) -> Result<(), SinkError> {
        self.shards
            .values_mut()
            .for_each(|known| known.is_fresh = false);
        self.table.recover(trouble)
    }

    fn strange(
        &self,
        shard: Shard,
        what: &str,
        epoch: Epoch,
        committed: Option<Epoch>,
    ) -> SinkError {
        let number = |epoch: Option<Epoch>| {
            epoch.map_or_else(|| "none".to_owned(), |epoch| epoch.to_string())
        };
        SinkError::Refused(format!(
            "{}, shard {shard}: {what}: its last epoch is {}, this run has committed {} and \
             comes with {epoch}; start again, and the log is replayed as far as it reaches",
            self.sink,
            number(committed),
            number(self.committed(shard))
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::rc::Rc;

    use super::super::super::encode::sample::{Sample, rows};
    use super::super::super::{SinkMark, sink_id};
    use super::*;
    use crate::time::EventTime;

    const SHARD: Shard = Shard(2);

    /// What happens to an attempt, beside what the guard says.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Fate {
        /// The request never arrives.
        NeverArrives,
        /// The answer is lost.
        AnswerLost,
        /// It arrives after a server without the last commit has taken over.
        CommitsLost(Option<Epoch>),
    }

    /// A database that several runs share.
    #[derive(Debug, Default)]
    struct World {
        row: Option<ShardRow>,
        /// Epochs whose rows are visible, in the order of their commits.
        visible: Vec<u64>,
        fates: VecDeque<Fate>,
        recoveries: u32,
        settled: u32,
    }

    #[derive(Clone, Debug, Default)]
    struct Fake(Rc<RefCell<World>>);

    impl Fake {
        fn with_row(run: u64, epoch: Option<u64>) -> Self {
            let fake = Self::default();
            fake.0.borrow_mut().row = Some(row(run, epoch));
            fake
        }

        fn fate(&self, fates: &[Fate]) {
            self.0.borrow_mut().fates.extend(fates);
        }

        fn row(&self) -> Option<ShardRow> {
            self.0.borrow().row
        }

        fn step<R>(&self, step: impl FnOnce(&mut World) -> R) -> Result<R, ()> {
            let world = &mut *self.0.borrow_mut();
            match world.fates.pop_front() {
                Some(Fate::NeverArrives) => return Err(()),
                Some(Fate::AnswerLost) => {
                    step(world);
                    return Err(());
                }
                Some(Fate::CommitsLost(epoch)) => {
                    world.row = world.row.map(|row| ShardRow { epoch, ..row });
                    return Err(());
                }
                None => {}
            }
            Ok(step(world))
        }
    }

    impl EpochTable for Fake {
        type Trouble = ();

        fn take_over(&mut self, shard: Shard, run: RunNumber) -> Result<Option<ShardRow>, ()> {
            assert_eq!(shard, SHARD);
            self.step(|world| {
                if let Some(row) = world.row.as_mut().filter(|row| row.run < run) {
                    row.run = run;
                }
                world.row
            })
        }

        fn commit(&mut self, run: RunNumber, rows: &EpochRows) -> Result<Answer, ()> {
            self.step(|world| match &mut world.row {
                Some(row) if row.run == run && row.epoch < Some(rows.epoch) => {
                    row.epoch = Some(rows.epoch);
                    world.visible.push(rows.epoch.0);
                    Answer::Done
                }
                row => Answer::Guarded(*row),
            })
        }

        fn recover(&mut self, (): ()) -> Result<(), SinkError> {
            let world = &mut *self.0.borrow_mut();
            world.recoveries += 1;
            if world.recoveries > 10 {
                return Err(SinkError::Aborted);
            }
            Ok(())
        }

        fn settled(&mut self) {
            self.0.borrow_mut().settled += 1;
        }
    }

    fn row(run: u64, epoch: Option<u64>) -> ShardRow {
        let (run, epoch) = (RunNumber(run), epoch.map(Epoch));
        ShardRow { run, epoch }
    }

    fn sink() -> String {
        sink_id("windows", "postgres-t")
    }

    fn job(run: u64, checkpoint: Option<u64>, logged: Option<u64>) -> JobContext {
        let mut job = super::super::sample::job(run, checkpoint, logged);
        if checkpoint.is_some() {
            job.sinks.insert(sink(), SinkMark::default());
        }
        job
    }

    fn open(table: &Fake, job: &JobContext) -> Result<TableCommitter<Fake>, SinkError> {
        TableCommitter::open(table.clone(), job, &sink(), &[SHARD])
    }

    fn epoch(number: u64) -> EpochRows {
        let mut batch = rows::<Sample>();
        batch.push(&Sample::full());
        EpochRows {
            shard: SHARD,
            epoch: Epoch(number),
            watermark: EventTime::MIN,
            is_checkpoint: false,
            rows: batch,
        }
    }

    fn empty(number: u64, is_checkpoint: bool) -> EpochRows {
        EpochRows {
            is_checkpoint,
            rows: rows::<Sample>(),
            ..epoch(number)
        }
    }

    #[test]
    fn a_start_takes_over_from_lower_runs_only() {
        let table = Fake::with_row(3, Some(8));
        let taken = open(&table, &job(4, Some(5), Some(9))).unwrap();
        assert_eq!(taken.committed(SHARD), Some(Epoch(8)));
        assert_eq!(table.row(), Some(row(4, Some(8))));
        let error = open(&table, &job(3, Some(5), Some(9))).unwrap_err();
        assert!(matches!(error, SinkError::Fenced(_)), "{error:?}");
        assert!(error.to_string().contains("run 4"), "{error}");
        assert_eq!(table.row(), Some(row(4, Some(8))));
    }

    #[test]
    fn a_takeover_whose_answer_was_lost_is_one() {
        let table = Fake::with_row(1, None);
        table.fate(&[Fate::AnswerLost, Fate::NeverArrives]);
        let taken = open(&table, &job(2, None, None)).unwrap();
        assert_eq!(taken.committed(SHARD), None);
        assert_eq!(table.row(), Some(row(2, None)));
    }

    #[test]
    fn epochs_are_committed_in_order_and_once() {
        let table = Fake::with_row(1, None);
        let mut sink = open(&table, &job(1, None, None)).unwrap();
        for number in [0, 3, 3, 4] {
            sink.commit(&epoch(number)).unwrap();
        }
        assert_eq!(table.0.borrow().visible, [0, 3, 4]);
        assert_eq!(sink.committed(SHARD), Some(Epoch(4)));
    }

    #[test]
    fn an_epoch_without_rows_is_committed_at_a_checkpoint_only() {
        let table = Fake::with_row(1, None);
        let mut sink = open(&table, &job(1, None, None)).unwrap();
        sink.commit(&empty(1, false)).unwrap();
        assert_eq!(table.row(), Some(row(1, None)));
        sink.commit(&empty(2, true)).unwrap();
        assert_eq!(table.row(), Some(row(1, Some(2))));
    }

    #[test]
    fn a_request_or_an_answer_that_is_lost_changes_nothing() {
        for fate in [Fate::NeverArrives, Fate::AnswerLost] {
            let table = Fake::with_row(1, None);
            let mut sink = open(&table, &job(1, None, None)).unwrap();
            sink.commit(&epoch(0)).unwrap();
            table.fate(&[fate, Fate::NeverArrives]);
            sink.commit(&epoch(1)).unwrap();
            sink.commit(&epoch(2)).unwrap();
            assert_eq!(table.0.borrow().visible, [0, 1, 2], "{fate:?}");
            assert_eq!(table.0.borrow().settled, 3);
        }
    }

    /// The guard itself, not the look before: the first attempt arrives after the look.
    #[test]
    fn an_attempt_that_was_committed_late_is_success() {
        let table = Fake::with_row(1, None);
        let mut sink = open(&table, &job(1, None, None)).unwrap();
        table.0.borrow_mut().row = Some(row(1, Some(5)));
        sink.commit(&epoch(5)).unwrap();
        assert_eq!(sink.committed(SHARD), Some(Epoch(5)));
        assert!(table.0.borrow().visible.is_empty());
    }

    #[test]
    fn a_zombie_writes_nothing() {
        let table = Fake::with_row(1, None);
        let mut zombie = open(&table, &job(1, None, None)).unwrap();
        zombie.commit(&epoch(0)).unwrap();
        let mut newer = open(&table, &job(2, None, Some(0))).unwrap();
        for fates in [&[][..], &[Fate::NeverArrives], &[Fate::AnswerLost]] {
            table.fate(fates);
            let error = zombie.commit(&epoch(1)).unwrap_err();
            assert!(matches!(error, SinkError::Fenced(_)), "{error:?}");
        }
        assert_eq!(table.row(), Some(row(2, Some(0))));
        newer.commit(&epoch(1)).unwrap();
        // Also where the newer run has the epoch already, which is not the zombie's success.
        assert!(matches!(
            zombie.commit(&epoch(1)),
            Err(SinkError::Fenced(_))
        ));
        assert_eq!(table.0.borrow().visible, [0, 1]);
    }

    #[test]
    fn a_shard_ahead_of_the_log_or_behind_the_checkpoint_is_refused() {
        let ahead = open(&Fake::with_row(1, Some(10)), &job(2, Some(5), Some(9))).unwrap_err();
        let behind = open(&Fake::with_row(1, Some(4)), &job(2, Some(5), Some(9))).unwrap_err();
        for (error, numbers) in [(ahead, ["10", "9"]), (behind, ["4", "5"])] {
            assert!(matches!(error, SinkError::Refused(_)), "{error:?}");
            let text = error.to_string();
            assert!(numbers.iter().all(|it| text.contains(it)), "{text}");
        }
        // Also where no manifest knows it, as after runs without this sink.
        let mut forgotten = job(2, Some(5), Some(9));
        forgotten.sinks.clear();
        assert!(open(&Fake::with_row(1, Some(4)), &forgotten).is_err());
        open(&Fake::with_row(1, None), &forgotten).unwrap();
        open(&Fake::with_row(1, Some(9)), &job(2, Some(5), Some(9))).unwrap();
        open(&Fake::with_row(1, Some(5)), &job(2, Some(5), Some(9))).unwrap();
    }

    #[test]
    fn a_row_that_is_gone_ends_the_run() {
        let error = open(&Fake::default(), &job(1, None, None)).unwrap_err();
        assert!(matches!(error, SinkError::Refused(_)), "{error:?}");
        let table = Fake::with_row(1, None);
        let mut sink = open(&table, &job(1, None, None)).unwrap();
        table.0.borrow_mut().row = None;
        let error = sink.commit(&epoch(0)).unwrap_err();
        assert!(matches!(error, SinkError::Refused(_)), "{error:?}");
        assert!(error.to_string().contains("another job"), "{error}");
    }

    #[test]
    fn a_server_that_has_lost_commits_is_refused() {
        let table = Fake::with_row(1, None);
        let mut sink = open(&table, &job(1, None, None)).unwrap();
        sink.commit(&epoch(3)).unwrap();
        table.fate(&[Fate::CommitsLost(Some(Epoch(2)))]);
        let error = sink.commit(&epoch(4)).unwrap_err();
        assert!(matches!(error, SinkError::Refused(_)), "{error:?}");
        assert!(error.to_string().contains("lost commits"), "{error}");
        assert_eq!(table.0.borrow().visible, [3]);
    }

    #[test]
    fn what_cannot_pass_ends_the_attempts() {
        let table = Fake::with_row(1, None);
        let mut sink = open(&table, &job(1, None, None)).unwrap();
        table.fate(&[Fate::NeverArrives; 20]);
        assert!(matches!(sink.commit(&epoch(0)), Err(SinkError::Aborted)));
    }
}
