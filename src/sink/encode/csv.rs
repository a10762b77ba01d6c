//! Comma-separated values with a header line, as RFC 4180 has them, with `\n` as the line end.
//!
//! A null is an empty field. Cells look as in JSON, without quotes that are not needed; bytes that
//! are no text are `base64:` and their base 64 form.

use std::io::{self, Write};

use ::csv::{ByteRecord, Writer};

use super::Projection;
use crate::rows::{Cell, Rows};

/// Writes a header, then rows, to `W`.
pub struct CsvEncoder<W: Write> {
    projection: Projection,
    writer: Writer<W>,
    record: ByteRecord,
    field: Vec<u8>,
}

impl<W: Write> CsvEncoder<W> {
    /// An encoder that has written its header.
    ///
    /// # Errors
    /// When `target` refuses it.
    pub fn new(projection: Projection, target: W) -> io::Result<Self> {
        let mut writer = Writer::from_writer(target);
        writer
            .write_record(projection.all().map(|column| column.name))
            .map_err(io_error)?;
        Ok(Self {
            projection,
            writer,
            record: ByteRecord::new(),
            field: Vec::new(),
        })
    }

    /// Appends row `row`.
    ///
    /// # Errors
    /// When the target refuses it.
    pub fn row(&mut self, rows: &Rows, row: usize) -> io::Result<()> {
        self.record.clear();
        for &column in &self.projection.picked {
            self.field.clear();
            push_cell(rows.cell(column, row), &mut self.field);
            self.record.push_field(&self.field);
        }
        if let Some(topic) = &self.projection.source {
            self.record.push_field(topic.as_bytes());
            let origin = rows.origins.get(row);
            for number in [
                origin.map(|it| u64::from(it.partition.0)),
                origin.map(|it| it.offset.0),
            ] {
                let text = number.map(|number| number.to_string()).unwrap_or_default();
                self.record.push_field(text.as_bytes());
            }
        }
        self.writer
            .write_byte_record(&self.record)
            .map_err(io_error)
    }

    /// Hands all bytes on.
    ///
    /// # Errors
    /// When the target refuses them.
    pub fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }

    /// Hands all bytes on and gives the target back.
    ///
    /// # Errors
    /// When the target refuses them.
    pub fn finish(self) -> io::Result<W> {
        self.writer
            .into_inner()
            .map_err(::csv::IntoInnerError::into_error)
    }
}

fn push_cell(cell: Cell<'_>, out: &mut Vec<u8>) {
    match cell {
        Cell::Null => {}
        Cell::Int(value) => push_number(&value, out),
        Cell::Float(value) => push_number(&value, out),
        Cell::Text(value) => out.extend_from_slice(value.as_bytes()),
        Cell::Timestamp(value) => value.write_rfc3339(out),
        Cell::Bool(value) => out.extend_from_slice(if value { b"true" } else { b"false" }),
        Cell::Uuid(value) => super::push_uuid(value, out),
        Cell::Bytes(value) if std::str::from_utf8(value).is_ok() => out.extend_from_slice(value),
        Cell::Bytes(value) => {
            out.extend_from_slice(b"base64:");
            super::push_base64(value, out);
        }
    }
}

fn push_number<T: serde::Serialize>(value: &T, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("a Vec takes all bytes, and a number has a JSON form");
}

fn io_error(error: ::csv::Error) -> io::Error {
    match error.into_kind() {
        ::csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{Sample, rows};
    use super::*;
    use crate::rows::{Origin, Tabular};
    use crate::time::{Offset, PartitionId};

    fn projection(source: Option<&str>) -> Projection {
        let columns: crate::rows::Columns = Sample::columns().into();
        let picked = (0..columns.len()).collect();
        Projection {
            columns,
            picked,
            source: source.map(str::to_owned),
        }
    }

    #[test]
    fn a_header_and_quoted_cells() {
        let mut batch = rows::<Sample>();
        batch.push(&Sample::full());
        batch.push(&Sample {
            raw: Some(vec![0xff]),
            ..Sample::default()
        });
        let mut encoder = CsvEncoder::new(projection(None), Vec::new()).unwrap();
        encoder.row(&batch, 0).unwrap();
        encoder.row(&batch, 1).unwrap();
        let text = String::from_utf8(encoder.finish().unwrap()).unwrap();
        assert_eq!(
            text,
            "int,float,text,time,flag,id,raw\n\
             -7,120.0,\"a \"\"b\"\", c\n\",2024-01-01T00:00:00.123Z,true,\
             01020304-0506-0708-090a-0b0c0d0e0f10,plain\n\
             ,,,1970-01-01T00:00:00.000Z,,,base64:/w==\n"
        );
    }

    #[test]
    fn records_say_where_they_come_from() {
        let mut batch = rows::<Sample>();
        let origin = Origin {
            partition: PartitionId(2),
            offset: Offset(41),
        };
        batch.push_record(&Sample::default(), origin);
        let mut picked = projection(Some("topic"));
        picked.picked = vec![3];
        let mut encoder = CsvEncoder::new(picked, Vec::new()).unwrap();
        encoder.row(&batch, 0).unwrap();
        let text = String::from_utf8(encoder.finish().unwrap()).unwrap();
        assert_eq!(
            text,
            "time,source_topic,source_partition,source_offset\n\
             1970-01-01T00:00:00.000Z,topic,2,41\n"
        );
    }
}
