//! Rows in the formats that other programs read.
//!
//! | module | format |
//! |---|---|
//! | [`json`] | one JSON object per line |
//! | [`csv`] | comma-separated values with a header |
//! | [`columnar`] | Arrow record batches and Parquet files |
//!
//! Equal rows give equal bytes, however they were batched on their way.

use crate::rows::{Column, ColumnType, Columns};
use crate::sink::{Layout, OutputKind, OutputSpec};
use crate::time::EventTime;

#[cfg(feature = "parquet")]
pub mod columnar;
pub mod csv;
pub mod json;

/// The columns that per-record outputs get in sinks that are tables; together they are the
/// natural key.
pub const SOURCE_COLUMNS: [Column; 3] = [
    Column::new("source_topic", ColumnType::Text),
    Column::new("source_partition", ColumnType::Int),
    Column::new("source_offset", ColumnType::Int),
];

/// Which columns a table or file holds: some of the output's own, then perhaps those of the
/// source.
#[derive(Clone, Debug)]
pub struct Projection {
    /// The output's columns.
    pub columns: Columns,
    /// The positions of those that are written, in order.
    pub picked: Vec<usize>,
    /// What `source_topic` shows; `None`: no source columns.
    pub source: Option<String>,
}

impl Projection {
    /// All columns of `output`, with those of the source when its rows are records.
    pub fn table(output: &OutputSpec) -> Self {
        let source = match &output.kind {
            OutputKind::Records { source } => Some(source.clone()),
            OutputKind::Windows { .. } | OutputKind::Log => None,
        };
        let picked = (0..output.columns.len()).collect();
        Self {
            columns: output.columns.clone(),
            picked,
            source,
        }
    }

    /// As [`Projection::table`], without columns that are not for files, and without the one whose
    /// value stands in the folder's name.
    pub fn file(output: &OutputSpec) -> Self {
        let mut projection = Self::table(output);
        projection.picked.retain(|&at| output.columns[at].in_files);
        if let Layout::Value(name) = output.layout {
            projection
                .picked
                .retain(|&at| output.columns[at].name != name);
        }
        projection
    }

    /// The written columns, in order, without those of the source.
    pub fn own(&self) -> impl Iterator<Item = &Column> {
        self.picked.iter().map(|&at| &self.columns[at])
    }

    /// All written columns, in order.
    pub fn all(&self) -> impl Iterator<Item = &Column> {
        let source: &[Column] = if self.source.is_some() {
            &SOURCE_COLUMNS
        } else {
            &[]
        };
        self.own().chain(source)
    }
}

/// The date (`2024-01-01`) and the time (`00:15:00.000`) of an instant, in UTC.
pub(crate) fn date_and_time(time: EventTime) -> (String, String) {
    let text = time.to_string();
    let (date, rest) = text.split_once('T').unwrap_or((&text, ""));
    (date.to_owned(), rest.trim_end_matches('Z').to_owned())
}

/// Appends `value` in hyphenated lower-case form.
pub(crate) fn push_uuid(value: u128, out: &mut Vec<u8>) {
    let mut buffer = uuid::Uuid::encode_buffer();
    let text = uuid::Uuid::from_u128(value)
        .hyphenated()
        .encode_lower(&mut buffer);
    out.extend_from_slice(text.as_bytes());
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Appends `bytes` in base 64 with padding (RFC 4648, section 4).
pub(crate) fn push_base64(bytes: &[u8], out: &mut Vec<u8>) {
    for group in bytes.chunks(3) {
        let mut word = 0u32;
        for place in 0..3 {
            word = word << 8 | u32::from(group.get(place).copied().unwrap_or(0));
        }
        for place in 0..4 {
            let digit = BASE64[(word >> (18 - 6 * place)) as usize & 63];
            out.push(if place <= group.len() { digit } else { b'=' });
        }
    }
}

#[cfg(test)]
pub(crate) mod sample {
    //! Rows for the tests of encoders and sinks.

    use crate::rows::{Column, ColumnType, Completeness, Pane, RowWriter, Rows, Tabular, Timing};
    use crate::time::EventTime;

    /// One row with a column of each type.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct Sample {
        pub int: Option<i64>,
        pub float: Option<f64>,
        pub text: Option<String>,
        pub time: i64,
        pub flag: Option<bool>,
        pub id: Option<u128>,
        pub raw: Option<Vec<u8>>,
    }

    impl Tabular for Sample {
        fn columns() -> Vec<Column> {
            vec![
                Column::nullable("int", ColumnType::Int),
                Column::nullable("float", ColumnType::Float),
                Column::nullable("text", ColumnType::Text),
                Column::new("time", ColumnType::Timestamp),
                Column::nullable("flag", ColumnType::Bool),
                Column::nullable("id", ColumnType::Uuid),
                Column::nullable("raw", ColumnType::Bytes),
            ]
        }

        fn write(&self, row: &mut RowWriter<'_>) {
            row.int(self.int);
            row.float(self.float);
            row.text(self.text.as_deref());
            row.timestamp(EventTime(self.time));
            row.boolean(self.flag);
            row.uuid(self.id);
            row.bytes(self.raw.as_deref());
        }

        fn message_key(&self, key: &mut Vec<u8>) {
            key.extend_from_slice(self.text.as_deref().unwrap_or("").as_bytes());
        }
    }

    impl Sample {
        pub(crate) fn full() -> Self {
            Self {
                int: Some(-7),
                float: Some(120.0),
                text: Some("a \"b\", c\n".to_owned()),
                time: 1_704_067_200_123,
                flag: Some(true),
                id: Some(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
                raw: Some(b"plain".to_vec()),
            }
        }
    }

    /// A window's count per key, with a key that may be null.
    #[derive(Clone, Debug)]
    pub(crate) struct Count {
        pub start: i64,
        pub end: i64,
        pub key: Option<&'static str>,
        pub count: i64,
    }

    impl Tabular for Count {
        fn columns() -> Vec<Column> {
            vec![
                Column::new("window_start", ColumnType::Timestamp),
                Column::new("window_end", ColumnType::Timestamp),
                Column::nullable("key", ColumnType::Text),
                Column::new("count", ColumnType::Int),
            ]
        }

        fn write(&self, row: &mut RowWriter<'_>) {
            row.timestamp(EventTime(self.start));
            row.timestamp(EventTime(self.end));
            row.text(self.key);
            row.int(self.count);
        }
    }

    pub(crate) const PANE: Pane = Pane {
        timing: Timing::OnTime,
        index: 0,
        is_final: true,
        complete: Completeness::Proved,
    };

    pub(crate) fn rows<R: Tabular>() -> Rows {
        Rows::new(R::columns().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_leave_out_what_is_not_for_them() {
        let bound = Column::new("window_start", ColumnType::Timestamp).not_in_files();
        let output = OutputSpec {
            pipeline: "test",
            name: "windows",
            columns: vec![bound, Column::new("count", ColumnType::Int)].into(),
            kind: OutputKind::Log,
            layout: Layout::Flat,
        };
        assert_eq!(Projection::file(&output).picked, [1]);
        assert_eq!(Projection::table(&output).picked, [0, 1]);
    }

    #[test]
    fn base64_pads() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            let mut out = Vec::new();
            push_base64(plain.as_bytes(), &mut out);
            assert_eq!(out, coded.as_bytes());
        }
        let mut out = Vec::new();
        push_base64(&[0xff, 0xfb, 0xf0], &mut out);
        assert_eq!(out, b"//vw");
    }
}
