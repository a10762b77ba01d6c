//! Checkpoints of a table's log: one Parquet file that stands for all entries up to a version, so
//! that readers need not read them one by one.

use std::io::Cursor;
use std::sync::Arc;

use arrow_json::ReaderBuilder;
use arrow_json::writer::{LineDelimited, WriterBuilder};
use arrow_schema::{ArrowError, DataType, Field, Fields, Schema, SchemaRef};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use super::actions::{Action, parse, render};

/// How many rows are encoded or decoded at once.
const BATCH_ROWS: usize = 4096;

/// The actions as a checkpoint, and how many they are. Only a batch of them is in memory as text.
///
/// # Errors
/// When Arrow does not take them, which is a defect.
pub(super) fn encode(
    actions: impl IntoIterator<Item = Action>,
) -> Result<(Vec<u8>, u64), ArrowError> {
    let schema = schema();
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_created_by("highwater".to_owned())
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), Some(properties))?;
    let (mut actions, mut count) = (actions.into_iter(), 0);
    loop {
        let some: Vec<_> = actions.by_ref().take(BATCH_ROWS).collect();
        if some.is_empty() {
            return Ok((writer.into_inner()?, count));
        }
        count += some.len() as u64;
        let reader = ReaderBuilder::new(Arc::clone(&schema))
            .with_batch_size(BATCH_ROWS)
            .build(Cursor::new(render(&some)))?;
        for batch in reader {
            writer.write(&batch?)?;
        }
    }
}

/// The actions of a checkpoint, whoever has written it.
///
/// # Errors
/// When it is none.
pub(super) fn decode(checkpoint: Vec<u8>) -> Result<Vec<Action>, ArrowError> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(checkpoint))?.build()?;
    let mut actions = Vec::new();
    for batch in reader {
        // A folder's value that is null is not one that is missing.
        let builder = WriterBuilder::new().with_explicit_nulls(true);
        let mut writer = builder.build::<_, LineDelimited>(Vec::new());
        writer.write(&batch?)?;
        writer.finish()?;
        let lines = writer.into_inner();
        let parsed = parse(&lines).map_err(|error| ArrowError::JsonError(error.to_string()))?;
        actions.extend(parsed);
    }
    Ok(actions)
}

fn schema() -> SchemaRef {
    let structure = |fields: Vec<Field>| DataType::Struct(Fields::from(fields));
    let protocol = structure(vec![int32("minReaderVersion"), int32("minWriterVersion")]);
    let format = structure(vec![text("provider"), map("options")]);
    let meta_data = structure(vec![
        text("id"),
        text("name"),
        text("description"),
        Field::new("format", format, true),
        text("schemaString"),
        texts("partitionColumns"),
        map("configuration"),
        int64("createdTime"),
    ]);
    let txn = structure(vec![text("appId"), int64("version"), int64("lastUpdated")]);
    let add = structure(vec![
        text("path"),
        map("partitionValues"),
        int64("size"),
        int64("modificationTime"),
        flag("dataChange"),
        text("stats"),
        map("tags"),
    ]);
    let remove = structure(vec![
        text("path"),
        int64("deletionTimestamp"),
        flag("dataChange"),
    ]);
    Arc::new(Schema::new(vec![
        Field::new("protocol", protocol, true),
        Field::new("metaData", meta_data, true),
        Field::new("txn", txn, true),
        Field::new("add", add, true),
        Field::new("remove", remove, true),
    ]))
}

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}

fn int32(name: &str) -> Field {
    Field::new(name, DataType::Int32, true)
}

fn int64(name: &str) -> Field {
    Field::new(name, DataType::Int64, true)
}

fn flag(name: &str) -> Field {
    Field::new(name, DataType::Boolean, true)
}

fn texts(name: &str) -> Field {
    let element = Field::new("element", DataType::Utf8, true);
    Field::new(name, DataType::List(Arc::new(element)), true)
}

fn map(name: &str) -> Field {
    let entries = vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", DataType::Utf8, true),
    ];
    let entry = Field::new("key_value", DataType::Struct(Fields::from(entries)), false);
    Field::new(name, DataType::Map(Arc::new(entry), false), true)
}

#[cfg(test)]
mod tests {
    use super::super::actions::{Add, Format, MetaData, Protocol, Remove, Txn};
    use super::*;

    #[test]
    fn a_checkpoint_is_read_as_it_was_written() {
        let meta_data = MetaData {
            id: "1".to_owned(),
            name: Some("alerts".to_owned()),
            description: Some("what is odd".to_owned()),
            format: Format::default(),
            schema_string: "{\"type\":\"struct\"}".to_owned(),
            partition_columns: vec!["date".to_owned(), "hour".to_owned()],
            configuration: [("highwater.job".to_owned(), Some("x".to_owned()))].into(),
            created_time: Some(7),
        };
        let mut actions: Vec<Action> = vec![
            Protocol {
                min_reader_version: 1,
                min_writer_version: 2,
            }
            .into(),
            meta_data.into(),
            Txn {
                app_id: "a".to_owned(),
                version: 3,
                last_updated: Some(1),
            }
            .into(),
            Remove {
                path: "old.parquet".to_owned(),
                deletion_timestamp: Some(5),
                data_change: true,
            }
            .into(),
        ];
        for number in 0..BATCH_ROWS as i64 + 10 {
            let add = Add {
                path: format!("{number}.parquet"),
                partition_values: [
                    ("date".to_owned(), Some("2024-01-01".to_owned())),
                    ("hour".to_owned(), None),
                ]
                .into(),
                size: number,
                modification_time: 8,
                data_change: false,
                stats: (number % 2 == 0).then(|| "{\"numRecords\":1}".to_owned()),
                tags: (number % 3 == 0).then(|| [("a".to_owned(), None)].into()),
            };
            actions.push(add.into());
        }
        let (bytes, count) = encode(actions.clone()).unwrap();
        assert_eq!(count, actions.len() as u64);
        assert_eq!(decode(bytes).unwrap(), actions);
        assert!(decode(b"PAR1 or not".to_vec()).is_err());
    }
}
