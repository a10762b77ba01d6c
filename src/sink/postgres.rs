//! `postgres://USER[:PASSWORD]@HOST[:PORT]/DATABASE?table=TABLE[&shards=N]`: rows in a table.
//!
//! The table holds the present state: the row of a natural key is inserted, replaced by its
//! later revisions, and deleted when it is withdrawn. One epoch of one shard is one transaction.
//!
//! **With a state** a row of `highwater_epochs`, a table beside the target, is part of the same
//! transaction, so that each epoch is committed once, whatever breaks (see `sink::commit::table`).
//! A target that another job has written to is refused, or emptied where that is allowed. Rows
//! that no job has written stay where they are: results may go into a table that is in use, and
//! replace what stands there under the same natural key.
//!
//! **Without one** a transaction whose answer was lost is repeated, which changes nothing for rows
//! with a natural key. Rows without one (a log) are looked up by the number of the transaction
//! before they are repeated, which a server that lost its last commits (a standby that took over)
//! cannot answer: there, and after a restart of the run, rows of a log can be there twice.
//!
//! `table` may be `SCHEMA.TABLE`, and is taken as it is written, capitals included; without it
//! the name is that of the pipeline and the output, `cars_windows`. `shards` is how many parts
//! are written side by side. All other parameters are the driver's. Connections are not encrypted.
//!
//! | module | what it holds |
//! |---|---|
//! | `target` | what the URI says |
//! | `table` | the table that an output needs, and its SQL |
//! | `inspect` | what stands on the server already |
//! | `changes` | what an epoch changes: one upsert or delete per natural key |
//! | `wire` | cells as the server reads them |
//! | `server` | what others need of a server |
//! | `session` | a connection that comes back |
//! | `failure` | what may pass, and what to do about the rest |
//! | `commit` | one epoch as one transaction |
//! | `epochs` | the table of epochs |

use std::time::Duration;

use ::postgres::Client;

use self::commit::{EpochSink, PostgresSink};
use self::epochs::{Epochs, PostgresEpochs};
use self::inspect::{Found, Server};
use self::session::{Place, Trouble};
use self::table::Table;
use self::target::{TableName, Target};
use super::commit::table::TableCommitter;
use super::job::identity;
use super::{
    Guarantee, JobContext, OutputSpec, Sink, SinkContext, SinkError, SinkFactory, sink_id,
};
use crate::time::Shard;

mod changes;
mod commit;
mod epochs;
mod failure;
mod inspect;
pub(crate) mod server;
mod session;
mod table;
mod target;
mod wire;

/// A peer that has vanished without a word is noticed after about this long.
const PEER_TIMEOUT: Duration = Duration::from_secs(30);

/// What a `postgres://` URI means.
#[derive(Clone, Debug)]
pub struct PostgresFactory {
    target: Target,
    connect_timeout: Duration,
}

impl PostgresFactory {
    /// Reads `uri`. `connect_timeout`: how long `check` and `prepare` try to reach the server.
    ///
    /// # Errors
    /// When the URI is wrong; the text never holds its password.
    pub fn new(uri: &str, connect_timeout: Duration) -> Result<Self, SinkError> {
        let mut target = Target::parse(uri)?;
        tune(&mut target.config, connect_timeout);
        Ok(Self {
            target,
            connect_timeout,
        })
    }

    fn table(&self, output: &OutputSpec) -> Table {
        let name = self.target.table.clone();
        Table::of(output, name.unwrap_or_else(|| TableName::of(output)))
    }

    fn place(&self, table: &Table) -> Place {
        Place {
            config: self.target.config.clone(),
            name: self.target.place.clone(),
            table: table.name.clone(),
        }
    }
}

/// Settings that keep a run from waiting for a server that is gone, where the URI has none.
fn tune(config: &mut ::postgres::Config, connect_timeout: Duration) {
    if config.get_application_name().is_none() {
        config.application_name("highwater");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(connect_timeout);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(PEER_TIMEOUT);
    }
    config.keepalives_idle(config.get_keepalives_idle().min(PEER_TIMEOUT));
    if config.get_keepalives_interval().is_none() {
        config.keepalives_interval(Duration::from_secs(5));
    }
}

impl SinkFactory for PostgresFactory {
    fn identity(&self) -> String {
        let table = self.target.table.as_ref().map(ToString::to_string);
        identity("postgres", &table.unwrap_or_default())
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn shards(&self) -> u32 {
        self.target.shards.unwrap_or(super::uri::DEFAULT_SHARDS)
    }

    fn check(&self, output: &OutputSpec) -> Result<String, SinkError> {
        let table = self.table(output);
        self.place(&table).once(self.connect_timeout, |client| {
            let (version, is_there) = examine(client, &table)?;
            let state = if is_there {
                "exists and fits"
            } else {
                "will be made"
            };
            let (place, name) = (&self.target.place, &table.name);
            Ok(format!(
                "PostgreSQL {version} at {place}; table {name} {state}"
            ))
        })
    }

    fn prepare(
        &self,
        output: &OutputSpec,
        _partitions: u32,
        job: Option<&JobContext>,
    ) -> Result<(), SinkError> {
        let table = self.table(output);
        self.place(&table).once(self.connect_timeout, |client| {
            let Some(job) = job else {
                return make(client, &table);
            };
            let epochs = Epochs::of(output, &table, job);
            if !examine(client, &table)?.1 {
                epochs.check_new(client)?;
                make(client, &table)?;
            }
            epochs.claim(client, job, self.shards())
        })
    }

    fn check_free(&self, output: &OutputSpec, job: &JobContext) -> Result<(), SinkError> {
        let table = self.table(output);
        self.place(&table).once(self.connect_timeout, |client| {
            Epochs::of(output, &table, job).check_free(client)
        })
    }

    /// With a job, takes its shards over; without one it does not connect yet: the first commit
    /// does, as patiently as after any lost connection.
    fn open(
        &self,
        output: &OutputSpec,
        shards: &[Shard],
        context: &SinkContext,
    ) -> Result<Box<dyn Sink>, SinkError> {
        let table = self.table(output);
        let place = self.place(&table);
        let Some(job) = context.exactly_once() else {
            return Ok(Box::new(PostgresSink::new(table, place, context.clone())));
        };
        let epochs = Epochs::of(output, &table, job);
        let table = PostgresEpochs::new(table, place, context.clone(), epochs);
        let sink = sink_id(output.name, &self.identity());
        let committer = TableCommitter::open(table, job, &sink, shards)?;
        Ok(Box::new(EpochSink(committer)))
    }
}

/// The server's version, and whether the table is there; what is wrong is explained.
fn examine(client: &mut Client, table: &Table) -> Result<(String, bool), Trouble> {
    let server = Server::look(client)?;
    if let Some(problem) = server.problem() {
        return Err(Trouble::Wrong(problem));
    }
    match inspect::look(client, table)? {
        Found::Nothing => Ok((server.version, false)),
        Found::Fitting => Ok((server.version, true)),
        Found::Unfit(problems) => Err(Trouble::Wrong(format!(
            "table {} does not fit (mend it, or choose another with table=NAME):\n  {}",
            table.name,
            problems.join("\n  ")
        ))),
    }
}

fn make(client: &mut Client, table: &Table) -> Result<(), Trouble> {
    let (_, is_there) = examine(client, table)?;
    if is_there {
        return Ok(());
    }
    match client.batch_execute(&table.create_sql()) {
        Ok(()) => Ok(()),
        // Another process was faster: "duplicate table", or the same from a catalog's index.
        Err(error)
            if error
                .code()
                .is_some_and(|code| matches!(code.code(), "42P07" | "23505")) =>
        {
            examine(client, table).map(drop)
        }
        Err(error) => Err(error.into()),
    }
}
