//! `highwater_epochs`, the table of epochs in the schema of the target: which job writes to the
//! target, which run of it, and the last epoch of each shard.
//!
//! | column | |
//! |---|---|
//! | `job` | the job |
//! | `sink` | the output and the target's name, `windows/postgres-cars_windows` |
//! | `shard` | the shard |
//! | `run` | the run that may commit |
//! | `epoch` | the last epoch that was committed; null: none yet |
//!
//! The rows of a job are made when a run of it prepares the target; whoever finds rows of another
//! job for the same target does not write. Rows that stood in the target before any job wrote to
//! it are nobody's: they stay, and are replaced where their natural keys come again.

use ::postgres::types::ToSql;
use ::postgres::{Client, GenericClient, Statement};

use super::changes::Changes;
use super::commit::Writer;
use super::session::{LOCK_TIMEOUT, Place, Session, Trouble};
use super::table::Table;
use super::target::TableName;
use crate::fault;
use crate::sink::commit::table::{Answer, EpochTable, ShardRow};
use crate::sink::{
    EpochRows, JobContext, OutputSpec, RunNumber, SinkContext, SinkError, Written, sink_id,
};
use crate::terminal;
use crate::time::{Epoch, Shard};

/// The table of epochs.
pub(super) const EPOCHS_TABLE: &str = "highwater_epochs";
/// Runs of any job that prepare targets in one database take turns ("hwepochs").
const TURNS: i64 = 0x6877_6570_6f63_6873;
/// What a commit must be able to rely on: that what was confirmed is on disk, and that a run that
/// sleeps in the middle of a transaction does not keep its successor waiting for long.
const PROMISES: &str = "SELECT set_config('synchronous_commit', 'on', false) \
       WHERE current_setting('synchronous_commit') = 'off'; \
     SELECT set_config('idle_in_transaction_session_timeout', '30s', false) \
       WHERE current_setting('idle_in_transaction_session_timeout') = '0'";

/// The rows of other jobs, whatever output of theirs it is.
const OTHERS: &str = "job <> $1::text::uuid AND substring(sink FROM position('/' IN sink)) = $2";

/// One sink's rows in the table of epochs.
#[derive(Clone, Debug)]
pub(super) struct Epochs {
    target: TableName,
    job: String,
    sink: String,
}

impl Epochs {
    pub(super) fn of(output: &OutputSpec, table: &Table, job: &JobContext) -> Self {
        Self {
            target: table.name.clone(),
            job: job.job.to_string(),
            sink: sink_id(output.name, &format!("postgres-{}", table.name.name)),
        }
    }

    /// What the names of all sinks of this target end with.
    fn suffix(&self) -> String {
        format!("/postgres-{}", self.target.name)
    }

    /// The table of epochs, in the schema in which the target is found.
    fn table(&self, client: &mut impl GenericClient) -> Result<TableName, Trouble> {
        let target = self.target.to_string();
        let found = client.query_opt(
            "SELECT nspname::text FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace \
             WHERE pg_class.oid = to_regclass($1)",
            &[&target],
        )?;
        let Some(found) = found else {
            return Err(Trouble::Wrong(format!("table {target} is gone")));
        };
        Ok(TableName {
            schema: Some(found.try_get(0)?),
            name: EPOCHS_TABLE.to_owned(),
        })
    }

    /// Refuses to make a target in which the job has already committed: it was there once.
    ///
    /// Asked before the target is made, so that an attempt that is repeated asks it too.
    pub(super) fn check_new(&self, client: &mut Client) -> Result<(), Trouble> {
        let table = self.target.beside(EPOCHS_TABLE);
        if !exists(client, &table)? {
            return Ok(());
        }
        let sql =
            format!("SELECT max(epoch) FROM {table} WHERE job = $1::text::uuid AND sink = $2");
        let last: Option<i64> = client
            .query_one(&sql, &[&self.job, &self.sink])?
            .try_get(0)?;
        let Some(last) = last else { return Ok(()) };
        Err(Trouble::Ends(SinkError::Refused(format!(
            "table {} is gone, and the job has committed up to epoch {last} to it; restore the \
             table, or start anew with --fresh --replace-output",
            self.target
        ))))
    }

    /// Makes the table of epochs and this job's rows in it, for a target that is there.
    pub(super) fn claim(
        &self,
        client: &mut Client,
        job: &JobContext,
        shards: u32,
    ) -> Result<(), Trouble> {
        client.execute(LOCK_TIMEOUT, &[])?;
        client.batch_execute(PROMISES)?;
        let mut transaction = client.transaction()?;
        transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&TURNS])?;
        let table = self.table(&mut transaction)?;
        if !exists(&mut transaction, &table)? {
            transaction.batch_execute(&create_sql(&table))?;
        }
        self.clear(&mut transaction, &table, job)?;
        let sql = format!(
            "INSERT INTO {table} (job, sink, shard, run) \
             SELECT $1::text::uuid, $2, shard, $3 FROM generate_series(0, $4::integer - 1) AS shard \
             ON CONFLICT DO NOTHING"
        );
        let (run, shards) = (job.run.0 as i64, shards as i32);
        transaction.execute(&sql, &[&self.job, &self.sink, &run, &shards])?;
        Ok(transaction.commit()?)
    }

    /// Refuses a target that holds the output of another job.
    pub(super) fn check_free(&self, client: &mut Client) -> Result<(), Trouble> {
        let table = self.target.beside(EPOCHS_TABLE);
        if !exists(client, &table)? {
            return Ok(());
        }
        let found = self.others(client, &table)?;
        found.map_or(Ok(()), |found| Err(self.held(&table, &found)))
    }

    /// The other jobs that have written to the target.
    fn others(
        &self,
        client: &mut impl GenericClient,
        table: &TableName,
    ) -> Result<Option<String>, Trouble> {
        let sql = format!(
            "SELECT string_agg(DISTINCT replace(job::text, '-', ''), ', ') FROM {table} WHERE {OTHERS}"
        );
        let found = client.query_one(&sql, &[&self.job, &self.suffix()])?;
        Ok(found.try_get(0)?)
    }

    fn held(&self, table: &TableName, found: &str) -> Trouble {
        let target = &self.target;
        Trouble::Ends(SinkError::Refused(format!(
            "table {target} holds the output of another job ({found}, by {table}); choose \
             another with table=NAME, or let it be emptied with --fresh --replace-output"
        )))
    }

    /// Removes what other jobs have left in the target, if that is allowed.
    fn clear(
        &self,
        transaction: &mut impl GenericClient,
        table: &TableName,
        job: &JobContext,
    ) -> Result<(), Trouble> {
        let mine: (&String, &String) = (&self.job, &self.suffix());
        let Some(found) = self.others(transaction, table)? else {
            return Ok(());
        };
        let target = &self.target;
        if !job.replace_output {
            return Err(self.held(table, &found));
        }
        // First the rows of epochs: whoever commits has locked one, and is waited for or too late.
        let sql = format!("DELETE FROM {table} WHERE {OTHERS}");
        transaction.execute(&sql, &[mine.0, mine.1])?;
        let rows = transaction.execute(&format!("DELETE FROM {target}"), &[])?;
        terminal::message(format_args!(
            "table {target}: {rows} rows removed, the output of another job ({found})"
        ));
        Ok(())
    }

    fn statements(&self, client: &mut Client, target: &Table) -> Result<Statements, Trouble> {
        client.batch_execute(PROMISES)?;
        let table = self.table(client)?;
        let mine = "WHERE job = $1::text::uuid AND sink = $2 AND shard = $3";
        Ok(Statements {
            upsert: client.prepare(&target.upsert_sql())?,
            row: client.prepare(&format!("SELECT run, epoch FROM {table} {mine}"))?,
            take_over: client
                .prepare(&format!("UPDATE {table} SET run = $4 {mine} AND run < $4"))?,
            advance: client.prepare(&format!(
                "UPDATE {table} SET epoch = $5 {mine} AND run = $4 \
                 AND (epoch IS NULL OR epoch < $5)"
            ))?,
        })
    }

    fn row(
        &self,
        client: &mut impl GenericClient,
        statements: &Statements,
        shard: Shard,
    ) -> Result<Option<ShardRow>, Trouble> {
        let shard = shard.0 as i32;
        let row = client.query_opt(&statements.row, &[&self.job, &self.sink, &shard])?;
        let Some(row) = row else { return Ok(None) };
        let (run, epoch): (i64, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
        Ok(Some(ShardRow {
            run: RunNumber(run as u64),
            epoch: epoch.map(|epoch| Epoch(epoch as u64)),
        }))
    }
}

fn exists(client: &mut impl GenericClient, table: &TableName) -> Result<bool, Trouble> {
    let name = table.to_string();
    let row = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&name])?;
    Ok(row.try_get(0)?)
}

fn create_sql(table: &TableName) -> String {
    // Each commit changes a row: with room left on its page, no index has to follow.
    format!(
        "CREATE TABLE {table} (\n  job uuid NOT NULL,\n  sink text NOT NULL,\n  \
         shard integer NOT NULL,\n  run bigint NOT NULL,\n  epoch bigint,\n  \
         PRIMARY KEY (job, sink, shard)\n) WITH (fillfactor = 50)"
    )
}

/// What is prepared on each connection.
pub(super) struct Statements {
    upsert: Statement,
    row: Statement,
    take_over: Statement,
    advance: Statement,
}

/// A worker's connection to the target and its table of epochs.
pub(super) struct PostgresEpochs {
    session: Session<Statements>,
    writer: Writer,
    epochs: Epochs,
}

impl PostgresEpochs {
    pub(super) fn new(table: Table, place: Place, context: SinkContext, epochs: Epochs) -> Self {
        Self {
            session: Session::new(place, context),
            writer: Writer::new(table),
            epochs,
        }
    }

    /// What was written since the last call.
    pub(super) fn take_written(&mut self) -> Written {
        std::mem::take(&mut self.writer.written)
    }
}

impl EpochTable for PostgresEpochs {
    type Trouble = Trouble;

    fn take_over(&mut self, shard: Shard, run: RunNumber) -> Result<Option<ShardRow>, Trouble> {
        let Self {
            session,
            writer,
            epochs,
        } = self;
        let (number, run) = (shard.0 as i32, run.0 as i64);
        let prepare = |client: &mut Client| epochs.statements(client, &writer.table);
        session.attempt(prepare, |client, statements| {
            let mut transaction = client.transaction()?;
            let key: [&(dyn ToSql + Sync); 4] = [&epochs.job, &epochs.sink, &number, &run];
            transaction.execute(&statements.take_over, &key)?;
            let row = epochs.row(&mut transaction, statements, shard)?;
            transaction.commit()?;
            Ok(row)
        })
    }

    /// The row of the shard is locked before anything else is: an attempt whose answer was lost is
    /// waited for by its repetition, and by the next run.
    fn commit(&mut self, run: RunNumber, rows: &EpochRows) -> Result<Answer, Trouble> {
        let Self {
            session,
            writer,
            epochs,
        } = self;
        let changes = Changes::of(&writer.table, &rows.rows);
        let target = writer.table.clone();
        let (shard, run, epoch) = (rows.shard.0 as i32, run.0 as i64, rows.epoch.0 as i64);
        let prepare = |client: &mut Client| epochs.statements(client, &target);
        session.attempt(prepare, |client, statements| {
            let mut transaction = client.transaction()?;
            let key: [&(dyn ToSql + Sync); 5] = [&epochs.job, &epochs.sink, &shard, &run, &epoch];
            if transaction.execute(&statements.advance, &key)? == 0 {
                let row = epochs.row(&mut transaction, statements, rows.shard)?;
                transaction.rollback()?;
                return Ok(Answer::Guarded(row));
            }
            fault::around("postgres", "before");
            writer.write(&mut transaction, &statements.upsert, &rows.rows, &changes)?;
            fault::point("postgres.begun");
            transaction.commit()?;
            fault::around("postgres", "after");
            Ok(Answer::Done)
        })
    }

    fn recover(&mut self, trouble: Trouble) -> Result<(), SinkError> {
        self.session.recover(trouble)
    }

    fn settled(&mut self) {
        self.session.settled();
    }
}
