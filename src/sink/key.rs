//! The natural key of a row, as bytes whose order is the order of the key's cells.

use crate::rows::{Cell, Rows};
use crate::sink::{OutputKind, OutputSpec};

/// The columns that name a window in every output of windows.
pub(super) const WINDOW_COLUMNS: [&str; 2] = ["window_start", "window_end"];

/// Which cells make the natural key of an output.
#[derive(Clone, Debug)]
pub(super) enum NaturalKey {
    /// These columns.
    Columns(Vec<usize>),
    /// The record's partition and offset.
    Origin,
    /// None: each row stands for itself.
    Absent,
}

impl NaturalKey {
    pub(super) fn of(output: &OutputSpec) -> Self {
        match &output.kind {
            OutputKind::Windows { key, .. } => {
                let is_key = |name| WINDOW_COLUMNS.contains(&name) || key.contains(&name);
                let columns = output.columns.iter().enumerate();
                Self::Columns(
                    columns
                        .filter(|(_, it)| is_key(it.name))
                        .map(|(at, _)| at)
                        .collect(),
                )
            }
            OutputKind::Records { .. } => Self::Origin,
            OutputKind::Log => Self::Absent,
        }
    }

    /// Replaces `out` with the key of row `row`; `false` when the row has none.
    pub(super) fn write(&self, rows: &Rows, row: usize, out: &mut Vec<u8>) -> bool {
        out.clear();
        match self {
            Self::Columns(columns) => {
                for &column in columns {
                    push_ordered(rows.cell(column, row), out);
                }
                true
            }
            Self::Origin => match rows.origins.get(row) {
                Some(origin) => {
                    out.extend_from_slice(&origin.partition.0.to_be_bytes());
                    out.extend_from_slice(&origin.offset.0.to_be_bytes());
                    true
                }
                None => false,
            },
            Self::Absent => false,
        }
    }
}

/// Bytes that compare as the cells do; null comes first.
fn push_ordered(cell: Cell<'_>, out: &mut Vec<u8>) {
    out.push(u8::from(cell != Cell::Null));
    match cell {
        Cell::Null => {}
        Cell::Int(value) => out.extend_from_slice(&(value ^ i64::MIN).to_be_bytes()),
        Cell::Timestamp(value) => out.extend_from_slice(&(value.0 ^ i64::MIN).to_be_bytes()),
        Cell::Float(value) => {
            let bits = value.to_bits();
            let sign = 1 << 63;
            let ordered = if bits & sign == 0 { bits | sign } else { !bits };
            out.extend_from_slice(&ordered.to_be_bytes());
        }
        Cell::Bool(value) => out.push(u8::from(value)),
        Cell::Uuid(value) => out.extend_from_slice(&value.to_be_bytes()),
        Cell::Text(value) => push_terminated(value.as_bytes(), out),
        Cell::Bytes(value) => push_terminated(value, out),
    }
}

/// A text and an end mark that no text contains and that sorts before all that go on.
fn push_terminated(bytes: &[u8], out: &mut Vec<u8>) {
    for &byte in bytes {
        out.push(byte);
        if byte == 0 {
            out.push(0xff);
        }
    }
    out.extend_from_slice(&[0, 0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(cell: Cell<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        push_ordered(cell, &mut out);
        out
    }

    #[test]
    fn bytes_sort_as_cells() {
        let sorted = [
            vec![
                Cell::Null,
                Cell::Int(i64::MIN),
                Cell::Int(-1),
                Cell::Int(0),
                Cell::Int(7),
            ],
            vec![
                Cell::Null,
                Cell::Float(-2.5),
                Cell::Float(-0.5),
                Cell::Float(0.0),
                Cell::Float(9.0),
            ],
            vec![
                Cell::Null,
                Cell::Text(""),
                Cell::Text("\0"),
                Cell::Text("a"),
                Cell::Text("a\0"),
                Cell::Text("ab"),
            ],
        ];
        for cells in sorted {
            for pair in cells.windows(2) {
                assert!(ordered(pair[0]) < ordered(pair[1]), "{pair:?}");
            }
        }
    }
}
