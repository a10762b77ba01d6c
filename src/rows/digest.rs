//! An order-free digest of rows: the sum of the hashes of their cells, by which two runs over the
//! same log can be compared without either's rows.

use twox_hash::XxHash3_128;

use super::{Cell, Rows};

impl Rows {
    /// The sum (modulo 2^128) of the XXH3 hashes of the rows, each with its pane and diff.
    pub fn digest(&self) -> u128 {
        let mut bytes = Vec::new();
        let hashes = (0..self.len()).map(|row| {
            bytes.clear();
            self.encode(row, &mut bytes);
            XxHash3_128::oneshot(&bytes)
        });
        hashes.fold(0, u128::wrapping_add)
    }

    fn encode(&self, row: usize, into: &mut Vec<u8>) {
        for column in 0..self.columns().len() {
            encode_cell(self.cell(column, row), into);
        }
        if let Some((pane, diff)) = self.panes.get(row) {
            into.extend_from_slice(pane.timing.as_str().as_bytes());
            into.extend_from_slice(&pane.index.to_le_bytes());
            into.push(u8::from(pane.is_final));
            into.extend_from_slice(pane.complete.as_str().as_bytes());
            into.extend_from_slice(&diff.to_le_bytes());
        }
    }
}

/// One byte for the type, then the value; with its length where that varies.
fn encode_cell(cell: Cell<'_>, into: &mut Vec<u8>) {
    match cell {
        Cell::Null => into.push(0),
        Cell::Int(value) => fixed(into, 1, &value.to_le_bytes()),
        Cell::Float(value) => fixed(into, 2, &value.to_bits().to_le_bytes()),
        Cell::Text(value) => varying(into, 3, value.as_bytes()),
        Cell::Timestamp(value) => fixed(into, 4, &value.0.to_le_bytes()),
        Cell::Bool(value) => fixed(into, 5, &[u8::from(value)]),
        Cell::Uuid(value) => fixed(into, 6, &value.to_le_bytes()),
        Cell::Bytes(value) => varying(into, 7, value),
    }
}

fn fixed(into: &mut Vec<u8>, kind: u8, value: &[u8]) {
    into.push(kind);
    into.extend_from_slice(value);
}

fn varying(into: &mut Vec<u8>, kind: u8, value: &[u8]) {
    into.push(kind);
    into.extend_from_slice(&(value.len() as u64).to_le_bytes());
    into.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::super::{Column, ColumnType, RowWriter, Tabular};
    use super::*;

    struct Pair(&'static str, Option<i64>);

    impl Tabular for Pair {
        fn columns() -> Vec<Column> {
            vec![
                Column::new("text", ColumnType::Text),
                Column::new("number", ColumnType::Int),
            ]
        }

        fn write(&self, row: &mut RowWriter<'_>) {
            row.text(self.0);
            row.int(self.1);
        }
    }

    fn digest(pairs: &[Pair]) -> u128 {
        let mut rows = Rows::new(Pair::columns().into());
        pairs.iter().for_each(|pair| rows.push(pair));
        rows.digest()
    }

    #[test]
    fn order_is_nothing_and_everything_else_is_something() {
        let rows = digest(&[Pair("a", Some(1)), Pair("b", None)]);
        assert_eq!(rows, digest(&[Pair("b", None), Pair("a", Some(1))]));
        let others = [
            digest(&[Pair("a", Some(1))]),
            digest(&[Pair("a", Some(1)), Pair("b", Some(0))]),
            digest(&[Pair("a", None), Pair("b", Some(1))]),
            digest(&[Pair("a", Some(1)), Pair("b", None), Pair("b", None)]),
            digest(&[Pair("", Some(1)), Pair("ab", None)]),
        ];
        assert!(others.iter().all(|other| *other != rows));
        assert_eq!(digest(&[]), 0);
    }
}
