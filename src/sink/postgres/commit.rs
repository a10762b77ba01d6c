//! One epoch of one shard as one transaction.

use std::collections::BTreeMap;

use ::postgres::types::ToSql;
use ::postgres::{Client, Statement, Transaction};

use super::changes::Changes;
use super::epochs::PostgresEpochs;
use super::session::{Place, Session, Trouble};
use super::table::{Table, TableColumn};
use super::wire::Array;
use crate::rows::Rows;
use crate::sink::commit::table::TableCommitter;
use crate::sink::{EpochRows, Sink, SinkContext, SinkError, Written};
use crate::time::{Epoch, Shard};

/// How many rows go with one statement, and how many bytes before that is enough.
const CHUNK_ROWS: usize = 10_000;
const CHUNK_BYTES: usize = 16 << 20;

/// Rows that are committed with their epoch, once.
pub(super) struct EpochSink(pub(super) TableCommitter<PostgresEpochs>);

impl Sink for EpochSink {
    fn commit(&mut self, epoch: &EpochRows) -> Result<Written, SinkError> {
        self.0.table().take_written();
        self.0.commit(epoch)?;
        Ok(self.0.table().take_written())
    }

    fn committed(&self, shard: Shard) -> Option<Epoch> {
        self.0.committed(shard)
    }

    fn close(&mut self) -> Result<Written, SinkError> {
        Ok(Written::default())
    }
}

/// A worker's connection to the table, when nothing is kept between runs.
pub(super) struct PostgresSink {
    session: Session<Statement>,
    writer: Writer,
}

impl PostgresSink {
    pub(super) fn new(table: Table, place: Place, context: SinkContext) -> Self {
        Self {
            session: Session::new(place, context),
            writer: Writer::new(table),
        }
    }
}

impl Sink for PostgresSink {
    /// The transaction is repeated as a whole when its answer was lost, which is harmless for
    /// upserts and deletes. It cannot overtake its own repetition: the server was told to commit
    /// only after it had locked all rows, and the repetition waits for those locks.
    fn commit(&mut self, epoch: &EpochRows) -> Result<Written, SinkError> {
        let rows = &epoch.rows;
        if rows.is_empty() {
            return Ok(Written::default());
        }
        let Self { session, writer } = self;
        let changes = Changes::of(&writer.table, rows);
        let upsert_sql = writer.table.upsert_sql();
        let prepare = |client: &mut Client| Ok(client.prepare(&upsert_sql)?);
        let mut doubt = None;
        session.run(prepare, |client, upsert| {
            if was_committed(client, &mut doubt)? {
                return Ok(writer.written);
            }
            let mut transaction = client.transaction()?;
            writer.write(&mut transaction, upsert, rows, &changes)?;
            if writer.table.key.is_empty() {
                doubt = Some(transaction_id(&mut transaction)?);
            }
            transaction.commit()?;
            Ok(writer.written)
        })
    }

    fn close(&mut self) -> Result<Written, SinkError> {
        Ok(Written::default())
    }
}

fn transaction_id(transaction: &mut Transaction<'_>) -> Result<String, Trouble> {
    let row = transaction.query_one("SELECT pg_current_xact_id()::text", &[])?;
    Ok(row.try_get(0)?)
}

/// Whether the transaction whose answer was lost is committed. Rows without a natural key would
/// be there twice if it were repeated.
fn was_committed(client: &mut Client, doubt: &mut Option<String>) -> Result<bool, Trouble> {
    let Some(id) = doubt else { return Ok(false) };
    let answer = client.query_one("SELECT pg_xact_status($1::text::xid8)", &[&*id]);
    let status: Option<String> = match answer {
        Ok(row) => row.try_get(0)?,
        // A server that took over without having heard of the transaction.
        Err(error) if error.code().is_some_and(|code| code.code() == "22023") => None,
        Err(error) => return Err(error.into()),
    };
    match status.as_deref() {
        Some("committed") => Ok(true),
        Some("in progress") => Err(Trouble::InDoubt),
        _ => {
            *doubt = None;
            Ok(false)
        }
    }
}

/// Fills arrays with the cells of chunks and sends them.
pub(super) struct Writer {
    pub(super) table: Table,
    upserts: Vec<Array>,
    deletes: Vec<Array>,
    pub(super) written: Written,
}

impl Writer {
    pub(super) fn new(table: Table) -> Self {
        let array = |column: &TableColumn| Array::new(column.kind);
        let upserts = table.columns.iter().map(array).collect();
        let deletes = table.key_columns().map(array).collect();
        Self {
            table,
            upserts,
            deletes,
            written: Written::default(),
        }
    }

    pub(super) fn write(
        &mut self,
        transaction: &mut Transaction<'_>,
        upsert: &Statement,
        rows: &Rows,
        changes: &Changes,
    ) -> Result<(), Trouble> {
        self.written = Written::default();
        self.delete(transaction, rows, &changes.deletes)?;
        let Self {
            table,
            upserts,
            written,
            ..
        } = self;
        let mut left = changes.upserts.as_slice();
        while !left.is_empty() {
            left = fill(upserts, table.columns.iter(), table, rows, left, written);
            transaction.execute(upsert, &parameters(upserts))?;
        }
        Ok(())
    }

    fn delete(
        &mut self,
        transaction: &mut Transaction<'_>,
        rows: &Rows,
        picked: &[usize],
    ) -> Result<(), Trouble> {
        let Self {
            table,
            deletes,
            written,
            ..
        } = self;
        let mut by_nulls: BTreeMap<Vec<bool>, Vec<usize>> = BTreeMap::new();
        for &row in picked {
            by_nulls
                .entry(table.key_nulls(rows, row))
                .or_default()
                .push(row);
        }
        for (nulls, picked) in by_nulls {
            let delete = transaction.prepare(&table.delete_sql(&nulls))?;
            let mut left = picked.as_slice();
            while !left.is_empty() {
                left = fill(deletes, table.key_columns(), table, rows, left, written);
                transaction.execute(&delete, &parameters(deletes))?;
            }
        }
        Ok(())
    }
}

fn parameters(arrays: &[Array]) -> Vec<&(dyn ToSql + Sync)> {
    arrays
        .iter()
        .map(|array| array as &(dyn ToSql + Sync))
        .collect()
}

/// Puts the first of `picked` into `arrays`, as many as make a chunk, and returns the others.
fn fill<'a, 't>(
    arrays: &mut [Array],
    columns: impl Iterator<Item = &'t TableColumn> + Clone,
    table: &Table,
    rows: &Rows,
    picked: &'a [usize],
    written: &mut Written,
) -> &'a [usize] {
    arrays.iter_mut().for_each(Array::clear);
    let (mut bytes, mut count) = (0, 0);
    while count < picked.len().min(CHUNK_ROWS) && bytes < CHUNK_BYTES {
        for (array, column) in arrays.iter_mut().zip(columns.clone()) {
            bytes += array.push(table.cell(column, rows, picked[count]));
        }
        count += 1;
    }
    written.rows += count as u64;
    written.bytes += bytes as u64;
    &picked[count..]
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::table;
    use super::*;
    use crate::rows::{Column, ColumnType, RowWriter, Tabular};
    use crate::sink::OutputKind;

    struct Payload(Vec<u8>);

    impl Tabular for Payload {
        fn columns() -> Vec<Column> {
            vec![Column::new("payload", ColumnType::Bytes)]
        }

        fn write(&self, row: &mut RowWriter<'_>) {
            row.bytes(self.0.as_slice());
        }
    }

    fn chunks(sizes: &[usize]) -> Vec<usize> {
        let mut rows = Rows::new(Payload::columns().into());
        sizes
            .iter()
            .for_each(|size| rows.push(&Payload(vec![7; *size])));
        let mut writer = Writer::new(table(OutputKind::Log, &Payload::columns()));
        let Writer {
            table,
            upserts,
            written,
            ..
        } = &mut writer;
        let picked: Vec<usize> = (0..sizes.len()).collect();
        let (mut left, mut chunks) = (picked.as_slice(), Vec::new());
        while !left.is_empty() {
            let after = fill(upserts, table.columns.iter(), table, &rows, left, written);
            chunks.push(left.len() - after.len());
            left = after;
        }
        assert_eq!(written.rows, sizes.len() as u64);
        assert_eq!(
            written.bytes,
            sizes.iter().map(|size| *size as u64 + 4).sum::<u64>()
        );
        chunks
    }

    #[test]
    fn chunks_are_bounded_in_rows_and_bytes() {
        assert_eq!(
            chunks(&vec![1; CHUNK_ROWS * 2 + 1]),
            [CHUNK_ROWS, CHUNK_ROWS, 1]
        );
        assert_eq!(chunks(&[10 << 20, 10 << 20, 10 << 20]), [2, 1]);
        assert_eq!(chunks(&[20 << 20, 1]), [1, 1]);
    }
}
