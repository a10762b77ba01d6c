//! A row as one JSON object on one line, compact, its columns in order.
//!
//! Times are RFC 3339 in UTC with milliseconds, UUIDs hyphenated and lower-case, floats the
//! shortest text that reads back as the same number, and always with a fraction or an exponent.
//! Bytes are a string when they are valid UTF-8, else `{"base64":"..."}`. A window row ends with
//! its pane and its diff.

use serde::Serialize;

use crate::rows::{Cell, Columns, Pane, Rows};

/// Writes rows of one output; whatever can be done once per output is done when it is made.
#[derive(Clone, Debug)]
pub struct JsonEncoder {
    /// What stands before each cell: `{"first":`, then `,"second":` and so on.
    labels: Vec<Vec<u8>>,
}

impl JsonEncoder {
    /// An encoder for rows with these columns.
    pub fn new(columns: &Columns) -> Self {
        let mut labels = Vec::with_capacity(columns.len());
        for (at, column) in columns.iter().enumerate() {
            let mut label = vec![if at == 0 { b'{' } else { b',' }];
            push(&mut label, column.name);
            label.push(b':');
            labels.push(label);
        }
        Self { labels }
    }

    /// Appends row `row` with, for a window row, its pane and diff; no line end.
    pub fn row(&self, rows: &Rows, row: usize, out: &mut Vec<u8>) {
        self.cells(rows, row, out);
        if let Some((pane, diff)) = rows.panes.get(row) {
            push_pane(*pane, *diff, self.labels.is_empty(), out);
        }
        out.push(b'}');
    }

    /// Appends the columns of row `row` as an object, without pane and diff; no line end.
    pub fn columns(&self, rows: &Rows, row: usize, out: &mut Vec<u8>) {
        self.cells(rows, row, out);
        out.push(b'}');
    }

    /// Appends all rows, one per line.
    pub fn lines(&self, rows: &Rows, out: &mut Vec<u8>) {
        for row in 0..rows.len() {
            self.row(rows, row, out);
            out.push(b'\n');
        }
    }

    fn cells(&self, rows: &Rows, row: usize, out: &mut Vec<u8>) {
        if self.labels.is_empty() {
            out.push(b'{');
        }
        for (column, label) in self.labels.iter().enumerate() {
            out.extend_from_slice(label);
            push_cell(rows.cell(column, row), out);
        }
    }
}

fn push_cell(cell: Cell<'_>, out: &mut Vec<u8>) {
    match cell {
        Cell::Null => out.extend_from_slice(b"null"),
        Cell::Int(value) => push(out, &value),
        Cell::Float(value) => push(out, &value),
        Cell::Text(value) => push(out, value),
        Cell::Timestamp(value) => quoted(out, |out| value.write_rfc3339(out)),
        Cell::Bool(value) => push(out, &value),
        Cell::Uuid(value) => quoted(out, |out| super::push_uuid(value, out)),
        Cell::Bytes(value) => push_bytes(value, out),
    }
}

fn push_bytes(value: &[u8], out: &mut Vec<u8>) {
    if let Ok(text) = std::str::from_utf8(value) {
        push(out, text);
        return;
    }
    out.extend_from_slice(b"{\"base64\":");
    quoted(out, |out| super::push_base64(value, out));
    out.push(b'}');
}

fn push_pane(pane: Pane, diff: i64, is_first: bool, out: &mut Vec<u8>) {
    if !is_first {
        out.push(b',');
    }
    out.extend_from_slice(b"\"pane\":{\"timing\":\"");
    out.extend_from_slice(pane.timing.as_str().as_bytes());
    out.extend_from_slice(b"\",\"index\":");
    push(out, &pane.index);
    out.extend_from_slice(b",\"final\":");
    push(out, &pane.is_final);
    out.extend_from_slice(b",\"complete\":\"");
    out.extend_from_slice(pane.complete.as_str().as_bytes());
    out.extend_from_slice(b"\"},\"diff\":");
    push(out, &diff);
}

fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

/// Appends a number, a truth value or a string. An infinite float becomes null.
fn push<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value)
        .expect("a Vec takes all bytes, and these types have a JSON form");
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::sample::{Count, PANE, Sample, rows};
    use super::*;
    use crate::rows::{Completeness, Timing};

    fn encode(rows: &Rows) -> String {
        let mut out = Vec::new();
        JsonEncoder::new(rows.columns()).lines(rows, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_type_has_its_form() {
        let mut batch = rows::<Sample>();
        batch.push(&Sample::full());
        let line = encode(&batch);
        assert_eq!(
            line,
            "{\"int\":-7,\"float\":120.0,\"text\":\"a \\\"b\\\", c\\n\",\
             \"time\":\"2024-01-01T00:00:00.123Z\",\"flag\":true,\
             \"id\":\"01020304-0506-0708-090a-0b0c0d0e0f10\",\"raw\":\"plain\"}\n"
        );
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["text"], json!("a \"b\", c\n"));
    }

    #[test]
    fn nulls_and_bytes_that_are_no_text() {
        let mut batch = rows::<Sample>();
        batch.push(&Sample {
            raw: Some(vec![0xff, 0, 1]),
            ..Sample::default()
        });
        let value: Value = serde_json::from_str(&encode(&batch)).unwrap();
        assert_eq!(value["int"], Value::Null);
        assert_eq!(value["id"], Value::Null);
        assert_eq!(value["raw"], json!({"base64": "/wAB"}));
    }

    #[test]
    fn floats_read_back_as_they_were() {
        let values = [0.1, 1e300, -0.0, 5e-324, 1.0 / 3.0, 9_007_199_254_740_993.0];
        for float in values {
            let mut batch = rows::<Sample>();
            batch.push(&Sample {
                float: Some(float),
                ..Sample::default()
            });
            let value: Value = serde_json::from_str(&encode(&batch)).unwrap();
            let read = value["float"].as_f64().unwrap();
            assert_eq!(read.to_bits(), float.to_bits());
        }
    }

    #[test]
    fn a_window_row_ends_with_its_pane() {
        let mut batch = rows::<Count>();
        let count = Count {
            start: 0,
            end: 900_000,
            key: Some("a"),
            count: 3,
        };
        batch.push_result(&count, PANE, 1);
        let late = Pane {
            timing: Timing::Late,
            index: 2,
            is_final: false,
            complete: Completeness::EndOfInput,
        };
        batch.push_result(&count, late, -1);
        let text = encode(&batch);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with(
            "\"count\":3,\"pane\":{\"timing\":\"on-time\",\"index\":0,\"final\":true,\
             \"complete\":\"proved\"},\"diff\":1}"
        ));
        let value: Value = serde_json::from_str(lines[1]).unwrap();
        assert_eq!(
            value["pane"],
            json!({"timing": "late", "index": 2, "final": false, "complete": "end-of-input"})
        );
        assert_eq!(value["diff"], json!(-1));
    }
}
