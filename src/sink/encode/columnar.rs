//! Rows as Arrow record batches, and as Parquet.
//!
//! Times are UTC, in milliseconds unless a table wants microseconds, UUIDs hyphenated text (what most readers expect of a column they
//! join on), bytes are binary. Rows are cut into batches of a fixed length, so that pages and row
//! groups, and with them the bytes of a file, do not depend on how the rows arrived.

use std::io::{self, Write};
use std::sync::Arc;

use arrow_array::builder::{BinaryBuilder, StringBuilder};
use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, TimestampMillisecondArray,
};
pub use arrow_schema::TimeUnit;
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use super::Projection;
use crate::rows::{Cell, Cells, ColumnType, Rows, Values};

/// Rows per record batch of a file.
const BATCH_ROWS: usize = 8192;
/// Rows per row group: a multiple of [`BATCH_ROWS`].
const GROUP_ROWS: usize = 16 * BATCH_ROWS;
/// A row group is written out early when its encoded part grows beyond this.
const GROUP_BYTES: usize = 16 << 20;

/// How the pages of a file are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    /// Zstandard at its level 3: the smaller files.
    #[default]
    Zstd,
    /// Snappy: read by every tool.
    Snappy,
}

/// The Arrow schema of the columns that `projection` writes, with times in `unit`.
pub fn schema(projection: &Projection, unit: TimeUnit) -> SchemaRef {
    let fields: Vec<Field> = projection
        .all()
        .map(|column| Field::new(column.name, data_type(column.kind, unit), column.nullable))
        .collect();
    Arc::new(Schema::new(fields))
}

fn data_type(kind: ColumnType, unit: TimeUnit) -> DataType {
    match kind {
        ColumnType::Int => DataType::Int64,
        ColumnType::Float => DataType::Float64,
        ColumnType::Text | ColumnType::Uuid => DataType::Utf8,
        ColumnType::Timestamp => DataType::Timestamp(unit, Some("UTC".into())),
        ColumnType::Bool => DataType::Boolean,
        ColumnType::Bytes => DataType::Binary,
    }
}

/// All rows as one record batch.
///
/// # Errors
/// When a column that is declared without nulls holds one.
pub fn record_batch(
    projection: &Projection,
    schema: &SchemaRef,
    rows: &Rows,
) -> Result<RecordBatch, ArrowError> {
    let mut arrays: Vec<ArrayRef> = projection
        .picked
        .iter()
        .zip(schema.fields())
        .map(|(&column, field)| array(rows, column, field.data_type()))
        .collect();
    if let Some(topic) = &projection.source {
        let origins = || rows.origins.iter();
        arrays.push(Arc::new(StringArray::from_iter_values(
            origins().map(|_| topic),
        )));
        let partitions = origins().map(|origin| i64::from(origin.partition.0));
        arrays.push(Arc::new(Int64Array::from_iter_values(partitions)));
        let offsets = origins().map(|origin| origin.offset.0 as i64);
        arrays.push(Arc::new(Int64Array::from_iter_values(offsets)));
    }
    RecordBatch::try_new(schema.clone(), arrays)
}

fn array(rows: &Rows, column: usize, kind: &DataType) -> ArrayRef {
    let Cells { values, valid } = rows.cells(column);
    let present = |at: usize| valid[at];
    match values {
        Values::Int(values) => {
            let cells = values
                .iter()
                .enumerate()
                .map(|(at, value)| present(at).then_some(*value));
            Arc::new(cells.collect::<Int64Array>())
        }
        Values::Float(values) => {
            let cells = values
                .iter()
                .enumerate()
                .map(|(at, value)| present(at).then_some(*value));
            Arc::new(cells.collect::<Float64Array>())
        }
        Values::Bool(values) => {
            let cells = values
                .iter()
                .enumerate()
                .map(|(at, value)| present(at).then_some(*value));
            Arc::new(cells.collect::<BooleanArray>())
        }
        Values::Timestamp(values) => {
            let cells = values
                .iter()
                .enumerate()
                .map(|(at, value)| present(at).then_some(value.0));
            if matches!(kind, DataType::Timestamp(TimeUnit::Microsecond, _)) {
                let cells = cells.map(|ms| ms?.checked_mul(1000));
                let cells = cells.collect::<TimestampMicrosecondArray>();
                return Arc::new(cells.with_timezone("UTC"));
            }
            Arc::new(
                cells
                    .collect::<TimestampMillisecondArray>()
                    .with_timezone("UTC"),
            )
        }
        Values::Text(_) | Values::Uuid(_) => text_array(rows, column),
        Values::Bytes(_) => bytes_array(rows, column),
    }
}

fn text_array(rows: &Rows, column: usize) -> ArrayRef {
    let mut builder = StringBuilder::new();
    let mut buffer = uuid::Uuid::encode_buffer();
    for row in 0..rows.len() {
        match rows.cell(column, row) {
            Cell::Text(text) => builder.append_value(text),
            Cell::Uuid(id) => {
                let id = uuid::Uuid::from_u128(id);
                builder.append_value(id.hyphenated().encode_lower(&mut buffer));
            }
            _ => builder.append_null(),
        }
    }
    Arc::new(builder.finish())
}

fn bytes_array(rows: &Rows, column: usize) -> ArrayRef {
    let mut builder = BinaryBuilder::new();
    for row in 0..rows.len() {
        match rows.cell(column, row) {
            Cell::Bytes(bytes) => builder.append_value(bytes),
            _ => builder.append_null(),
        }
    }
    Arc::new(builder.finish())
}

/// Writes rows to `W` as one Parquet file. Holds one row group at most.
pub struct ParquetEncoder<W: Write + Send> {
    projection: Projection,
    schema: SchemaRef,
    writer: ArrowWriter<W>,
    waiting: Rows,
    /// About how many bytes `waiting` holds.
    waiting_bytes: usize,
}

impl<W: Write + Send> ParquetEncoder<W> {
    /// An encoder of one file.
    ///
    /// # Errors
    /// When `target` refuses the first bytes.
    pub fn new(
        projection: Projection,
        unit: TimeUnit,
        codec: Codec,
        target: W,
    ) -> io::Result<Self> {
        let compression = match codec {
            Codec::Zstd => Compression::ZSTD(ZstdLevel::try_new(3).map_err(io_error)?),
            Codec::Snappy => Compression::SNAPPY,
        };
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .set_created_by("highwater".to_owned())
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .build();
        let schema = schema(&projection, unit);
        let writer =
            ArrowWriter::try_new(target, schema.clone(), Some(properties)).map_err(io_error)?;
        let waiting = Rows::new(projection.columns.clone());
        Ok(Self {
            projection,
            schema,
            writer,
            waiting,
            waiting_bytes: 0,
        })
    }

    /// Appends row `row`.
    ///
    /// # Errors
    /// When the target refuses the bytes of a full row group.
    pub fn row(&mut self, rows: &Rows, row: usize) -> io::Result<()> {
        self.waiting.push_row_of(rows, row);
        self.waiting_bytes += row_bytes(rows, row);
        if self.waiting.len() < BATCH_ROWS {
            return Ok(());
        }
        self.encode_waiting()?;
        if self.writer.in_progress_size() > GROUP_BYTES {
            self.writer.flush().map_err(io_error)?;
        }
        Ok(())
    }

    /// About how many bytes of memory are in use for rows that are not written yet.
    pub fn buffered(&self) -> usize {
        self.waiting_bytes + self.writer.memory_size()
    }

    /// Writes a row group of all rows so far.
    ///
    /// # Errors
    /// When the target refuses it.
    pub fn flush(&mut self) -> io::Result<()> {
        self.encode_waiting()?;
        self.writer.flush().map_err(io_error)
    }

    /// Writes the rest and the footer, and gives the target back.
    ///
    /// # Errors
    /// When the target refuses them.
    pub fn finish(mut self) -> io::Result<W> {
        self.encode_waiting()?;
        self.writer.into_inner().map_err(io_error)
    }

    fn encode_waiting(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let batch = record_batch(&self.projection, &self.schema, &self.waiting)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        self.waiting = Rows::new(self.projection.columns.clone());
        self.waiting_bytes = 0;
        self.writer.write(&batch).map_err(io_error)
    }
}

/// About how much memory a row takes in [`Rows`].
fn row_bytes(rows: &Rows, row: usize) -> usize {
    let cells = (0..rows.columns().len()).map(|column| match rows.cell(column, row) {
        Cell::Text(text) => text.len() + 9,
        Cell::Bytes(bytes) => bytes.len() + 9,
        Cell::Uuid(_) => 17,
        _ => 9,
    });
    cells.sum::<usize>() + rows.message_key(row).len() + 24
}

/// The operating system's error when there is one beneath, so that its kind is kept.
fn io_error(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(other) => io::Error::other(other),
        },
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::Array;
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Float64Type, Int64Type, TimestampMillisecondType};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::super::sample::{Sample, rows};
    use super::*;
    use crate::rows::{Origin, Tabular};
    use crate::time::{Offset, PartitionId};

    fn projection() -> Projection {
        let columns: crate::rows::Columns = Sample::columns().into();
        let picked = (0..columns.len()).collect();
        Projection {
            columns,
            picked,
            source: Some("topic".to_owned()),
        }
    }

    fn batch(from: u64, to: u64) -> Rows {
        let mut batch = rows::<Sample>();
        for offset in from..to {
            let sample = if offset % 3 == 0 {
                Sample::default()
            } else {
                Sample::full()
            };
            let sample = Sample {
                time: offset as i64,
                ..sample
            };
            batch.push_record(
                &sample,
                Origin {
                    partition: PartitionId(1),
                    offset: Offset(offset),
                },
            );
        }
        batch
    }

    fn encode(batches: &[Rows]) -> Vec<u8> {
        let mut encoder =
            ParquetEncoder::new(projection(), TimeUnit::Millisecond, Codec::Zstd, Vec::new())
                .unwrap();
        for rows in batches {
            for row in 0..rows.len() {
                encoder.row(rows, row).unwrap();
            }
        }
        encoder.finish().unwrap()
    }

    #[test]
    fn reads_back_what_was_written() {
        let bytes = bytes::Bytes::from(encode(&[batch(0, 20_000)]));
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
            .unwrap()
            .build()
            .unwrap();
        let mut count = 0;
        for batch in reader {
            let batch = batch.unwrap();
            let column = |name: &str| batch.column_by_name(name).unwrap();
            for row in 0..batch.num_rows() {
                let is_null = count % 3 == 0;
                assert_eq!(column("int").is_null(row), is_null);
                let time = column("time").as_primitive::<TimestampMillisecondType>();
                assert_eq!(time.value(row), count);
                assert_eq!(
                    column("source_topic").as_string::<i32>().value(row),
                    "topic"
                );
                let offset = column("source_offset").as_primitive::<Int64Type>();
                assert_eq!(offset.value(row), count);
                if !is_null {
                    let float = column("float").as_primitive::<Float64Type>().value(row);
                    assert!((float - 120.0).abs() < f64::EPSILON);
                    let id = column("id").as_string::<i32>().value(row);
                    assert_eq!(id, "01020304-0506-0708-090a-0b0c0d0e0f10");
                    assert_eq!(column("raw").as_binary::<i32>().value(row), b"plain");
                }
                count += 1;
            }
        }
        assert_eq!(count, 20_000);
    }

    #[test]
    fn bytes_do_not_depend_on_batches() {
        let whole = encode(&[batch(0, 20_000)]);
        let pieces = encode(&[
            batch(0, 7),
            batch(7, 9000),
            batch(9000, 9001),
            batch(9001, 20_000),
        ]);
        assert!(whole == pieces);
        assert!(whole != encode(&[batch(0, 19_999)]));
    }

    #[test]
    fn a_null_where_none_may_be_is_an_error() {
        let columns: crate::rows::Columns =
            vec![crate::rows::Column::new("int", ColumnType::Int)].into();
        let projection = Projection {
            columns: columns.clone(),
            picked: vec![0],
            source: None,
        };
        let mut rows = Rows::new(columns);
        struct Missing;
        impl Tabular for Missing {
            fn columns() -> Vec<crate::rows::Column> {
                Vec::new()
            }
            fn write(&self, row: &mut crate::rows::RowWriter<'_>) {
                row.int(None);
            }
        }
        rows.push(&Missing);
        let mut encoder =
            ParquetEncoder::new(projection, TimeUnit::Millisecond, Codec::Snappy, Vec::new())
                .unwrap();
        encoder.row(&rows, 0).unwrap();
        assert!(encoder.finish().unwrap_err().to_string().contains("int"));
    }
}
