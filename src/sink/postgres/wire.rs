//! Cells as the server reads them: binary values, and arrays of them as parameters.

use std::error::Error;

use ::postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use bytes::BytesMut;

use crate::rows::{Cell, ColumnType};
use crate::time::EventTime;

/// 2000-01-01T00:00:00Z, from which the server counts, in milliseconds since 1970.
const SERVER_EPOCH_MS: i64 = 946_684_800_000;
/// 4714-11-24 BC, the first instant of a `timestamptz`, in microseconds of the server.
const FIRST_TIMESTAMP_US: i64 = -211_813_488_000_000_000;
/// 294277-01-01, the first instant that is none any more.
const END_TIMESTAMP_US: i64 = 9_223_371_331_200_000_000;
/// Bytes before the first element: dimensions, null flag, type, length, lower bound.
const HEADER: usize = 20;

/// Appends the binary value of `cell`; `false`: it is null, and nothing was appended.
pub(super) fn put_value(cell: Cell<'_>, out: &mut Vec<u8>) -> bool {
    match cell {
        Cell::Null => return false,
        Cell::Int(value) => out.extend_from_slice(&value.to_be_bytes()),
        Cell::Float(value) => out.extend_from_slice(&value.to_be_bytes()),
        Cell::Text(value) => put_text(value, out),
        Cell::Timestamp(value) => out.extend_from_slice(&timestamp(value).to_be_bytes()),
        Cell::Bool(value) => out.push(u8::from(value)),
        Cell::Uuid(value) => out.extend_from_slice(&value.to_be_bytes()),
        Cell::Bytes(value) => out.extend_from_slice(value),
    }
    true
}

/// Appends `cell` so that cells which the server holds for equal have equal bytes.
pub(super) fn put_key(cell: Cell<'_>, out: &mut Vec<u8>) {
    // The server's 0 equals its -0.
    let cell = if cell == Cell::Float(0.0) {
        Cell::Float(0.0)
    } else {
        cell
    };
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let length = if put_value(cell, out) {
        (out.len() - start - 4) as u32
    } else {
        u32::MAX
    };
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// A text of the server cannot hold U+0000; U+FFFD stands in its place.
fn put_text(text: &str, out: &mut Vec<u8>) {
    let mut parts = text.split('\0');
    out.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        out.extend_from_slice("\u{fffd}".as_bytes());
        out.extend_from_slice(part.as_bytes());
    }
}

/// Microseconds since the server's epoch; what its calendar cannot hold is infinite.
fn timestamp(time: EventTime) -> i64 {
    let micros = time
        .0
        .checked_sub(SERVER_EPOCH_MS)
        .and_then(|ms| ms.checked_mul(1000));
    match micros {
        Some(micros) if (FIRST_TIMESTAMP_US..END_TIMESTAMP_US).contains(&micros) => micros,
        _ if time.0 < 0 => i64::MIN,
        _ => i64::MAX,
    }
}

/// One parameter: an array that grows cell by cell and is used again for the next chunk.
#[derive(Debug)]
pub(super) struct Array {
    bytes: Vec<u8>,
    element: u32,
    length: i32,
    has_nulls: bool,
}

impl Array {
    pub(super) fn new(kind: ColumnType) -> Self {
        let element = match kind {
            ColumnType::Int => Type::INT8,
            ColumnType::Float => Type::FLOAT8,
            ColumnType::Text => Type::TEXT,
            ColumnType::Timestamp => Type::TIMESTAMPTZ,
            ColumnType::Bool => Type::BOOL,
            ColumnType::Uuid => Type::UUID,
            ColumnType::Bytes => Type::BYTEA,
        };
        let bytes = vec![0; HEADER];
        Self {
            bytes,
            element: element.oid(),
            length: 0,
            has_nulls: false,
        }
    }

    pub(super) fn clear(&mut self) {
        self.bytes.truncate(HEADER);
        self.length = 0;
        self.has_nulls = false;
    }

    /// Appends one element and returns how many bytes it takes.
    pub(super) fn push(&mut self, cell: Cell<'_>) -> usize {
        let start = self.bytes.len();
        self.length += 1;
        self.bytes.extend_from_slice(&(-1_i32).to_be_bytes());
        if put_value(cell, &mut self.bytes) {
            let length = (self.bytes.len() - start - 4) as i32;
            self.bytes[start..start + 4].copy_from_slice(&length.to_be_bytes());
        } else {
            self.has_nulls = true;
        }
        self.bytes.len() - start
    }

    fn header(&self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        let dimensions = 1_u32;
        let fields = [
            dimensions,
            u32::from(self.has_nulls),
            self.element,
            self.length as u32,
            1,
        ];
        for (place, field) in header.chunks_exact_mut(4).zip(fields) {
            place.copy_from_slice(&field.to_be_bytes());
        }
        header
    }
}

impl ToSql for Array {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&self.header());
        out.extend_from_slice(&self.bytes[HEADER..]);
        Ok(IsNull::No)
    }

    /// The statements name the type of each parameter.
    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(cell: Cell<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        put_value(cell, &mut out);
        out
    }

    #[test]
    fn a_nul_becomes_the_replacement_character() {
        assert_eq!(value(Cell::Text("a\0b\0")), "a\u{fffd}b\u{fffd}".as_bytes());
        assert_eq!(value(Cell::Text("\0")), "\u{fffd}".as_bytes());
        assert_eq!(value(Cell::Bytes(b"a\0")), b"a\0");
    }

    #[test]
    fn timestamps_count_from_2000_and_end_in_infinity() {
        assert_eq!(timestamp(EventTime(SERVER_EPOCH_MS + 1)), 1000);
        assert_eq!(timestamp(EventTime(0)), -SERVER_EPOCH_MS * 1000);
        assert_eq!(timestamp(EventTime::MIN), i64::MIN);
        assert_eq!(timestamp(EventTime::MAX), i64::MAX);
        assert_eq!(
            timestamp(EventTime(END_TIMESTAMP_US / 1000 + SERVER_EPOCH_MS)),
            i64::MAX
        );
        assert_eq!(timestamp(EventTime(-i64::MAX / 1000)), i64::MIN);
    }

    #[test]
    fn keys_are_equal_where_the_server_says_so() {
        let key = |cells: &[Cell<'_>]| {
            let mut out = Vec::new();
            cells.iter().for_each(|cell| put_key(*cell, &mut out));
            out
        };
        assert_eq!(key(&[Cell::Float(0.0)]), key(&[Cell::Float(-0.0)]));
        assert_eq!(key(&[Cell::Text("\0")]), key(&[Cell::Text("\u{fffd}")]));
        assert_ne!(key(&[Cell::Null]), key(&[Cell::Text("")]));
        let (ab, a) = (
            [Cell::Text("ab"), Cell::Text("")],
            [Cell::Text("a"), Cell::Text("b")],
        );
        assert_ne!(key(&ab), key(&a));
    }

    #[test]
    fn an_array_has_a_header_and_elements() {
        let mut array = Array::new(ColumnType::Bool);
        array.push(Cell::Int(1));
        array.clear();
        assert_eq!(array.push(Cell::Bool(true)), 5);
        assert_eq!(array.push(Cell::Null), 4);
        let mut out = BytesMut::new();
        array.to_sql(&Type::BOOL_ARRAY, &mut out).unwrap();
        let header = [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 16, 0, 0, 0, 2, 0, 0, 0, 1];
        assert_eq!(out[..HEADER], header);
        assert_eq!(out[HEADER..], [0, 0, 0, 1, 1, 255, 255, 255, 255]);
    }
}
