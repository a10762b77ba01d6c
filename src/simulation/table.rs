//! A database: rows by natural key, and a table of epochs beside them.

use std::collections::BTreeMap;

use super::machine::pause;
use super::rows::{WindowKey, WindowRow, window_rows};
use super::world::{World, world};
use crate::rules::{self, Rule};
use crate::sink::commit::table::{Answer, EpochTable, ShardRow, TableCommitter};
use crate::sink::{
    EpochRows, JobContext, RunNumber, Sink, SinkContext, SinkError, Written, sink_id,
};
use crate::time::{Epoch, Shard};

/// What the database holds.
#[derive(Default)]
pub(super) struct TableWorld {
    pub(super) rows: BTreeMap<WindowKey, (i64, i64)>,
    shards: BTreeMap<Shard, ShardRow>,
    /// Everything that was ever committed, in order.
    pub(super) history: Vec<(Epoch, WindowRow)>,
}

/// No answer.
pub(super) struct NoAnswer;

/// The database as a run sees it.
struct Connection {
    sink: usize,
}

impl Connection {
    /// One transaction, unless its request is lost; its answer may be lost as well.
    fn transact<T>(
        &self,
        transaction: impl FnOnce(&mut World, &mut TableWorld) -> T,
    ) -> Result<T, NoAnswer> {
        pause();
        let (request_lost, answer_lost) = world(World::losses);
        if request_lost {
            return Err(NoAnswer);
        }
        let answer = world(|world| {
            let mut table = world.tables.remove(&self.sink).expect("it is a table");
            let answer = transaction(world, &mut table);
            world.tables.insert(self.sink, table);
            answer
        });
        if answer_lost {
            return Err(NoAnswer);
        }
        Ok(answer)
    }
}

impl EpochTable for Connection {
    type Trouble = NoAnswer;

    fn take_over(&mut self, shard: Shard, run: RunNumber) -> Result<Option<ShardRow>, NoAnswer> {
        self.transact(|world, table| {
            let row = table
                .shards
                .entry(shard)
                .or_insert(ShardRow { run, epoch: None });
            if row.run < run || !rules::on(Rule::GuardedTakeover) {
                row.run = run;
                world.note(|| format!("run {run}: table shard {shard} taken over"));
            }
            Some(*row)
        })
    }

    fn commit(&mut self, run: RunNumber, rows: &EpochRows) -> Result<Answer, NoAnswer> {
        let (shard, epoch, sink) = (rows.shard, rows.epoch, self.sink);
        let answer = self.transact(|world, table| {
            let row = table.shards[&shard];
            let may_commit = row.run == run && row.epoch < Some(epoch);
            if !may_commit && rules::on(Rule::GuardedCommit) {
                return Answer::Guarded(Some(row));
            }
            for change in window_rows(&rows.rows) {
                if change.diff < 0 {
                    table.rows.remove(&change.key());
                } else {
                    table.rows.insert(change.key(), (change.count, change.sum));
                    table.history.push((epoch, change));
                }
            }
            world.note(|| {
                let rows = window_rows(&rows.rows);
                format!("run {run}: table shard {shard} commits epoch {epoch} {rows:?}")
            });
            if rules::on(Rule::EpochInTxn) {
                table.shards.insert(
                    shard,
                    ShardRow {
                        run: row.run,
                        epoch: Some(epoch),
                    },
                );
            }
            Answer::Done
        });
        if matches!(answer, Ok(Answer::Done)) && !rules::on(Rule::EpochInTxn) {
            pause();
            world(|world| {
                let table = world.tables.get_mut(&sink).expect("it is a table");
                table
                    .shards
                    .entry(shard)
                    .and_modify(|row| row.epoch = Some(epoch));
            });
        }
        answer
    }

    fn recover(&mut self, _: NoAnswer) -> Result<(), SinkError> {
        pause();
        Ok(())
    }

    fn settled(&mut self) {}
}

/// Opens a sink on the table with this number.
pub(super) fn open(
    sink: usize,
    output: &str,
    identity: &str,
    shards: &[Shard],
    context: &SinkContext,
) -> Result<Box<dyn Sink>, SinkError> {
    let job: &JobContext = context.exactly_once().expect("a run with a state");
    let id = sink_id(output, identity);
    let committer = TableCommitter::open(Connection { sink }, job, &id, shards)?;
    Ok(Box::new(TableSink(committer)))
}

struct TableSink(TableCommitter<Connection>);

impl Sink for TableSink {
    fn commit(&mut self, epoch: &EpochRows) -> Result<Written, SinkError> {
        self.0.commit(epoch)?;
        Ok(Written::default())
    }

    fn committed(&self, shard: Shard) -> Option<Epoch> {
        self.0.committed(shard)
    }

    fn close(&mut self) -> Result<Written, SinkError> {
        Ok(Written::default())
    }
}
