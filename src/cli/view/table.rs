//! Rows as a table: columns are as wide as the widest cell so far, and rows come in batches, so
//! that one can follow them.

use std::io::{self, Write};

use super::row::printable;

/// So many rows are gathered before widths are decided.
const BATCH: usize = 100;
/// A longer cell is cut to this many characters.
const MAX_CELL: usize = 60;

type Cells = Vec<(String, String)>;

/// A table in the making.
#[derive(Debug, Default)]
pub struct Table {
    columns: Vec<Column>,
    /// How many of the columns stand in the header that was written last.
    shown: usize,
    waiting: Vec<Cells>,
}

#[derive(Debug)]
struct Column {
    name: String,
    width: usize,
    is_number: bool,
}

impl Table {
    /// Adds a row.
    pub fn push(&mut self, cells: Cells, out: &mut dyn Write) -> io::Result<()> {
        self.waiting.push(cells);
        if self.waiting.len() >= BATCH {
            self.flush(out)
        } else {
            Ok(())
        }
    }

    /// Writes the rows that wait.
    pub fn flush(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let mut rows = std::mem::take(&mut self.waiting);
        for (name, text) in rows.iter_mut().flatten() {
            *text = shortened(text);
            self.fit(name, text);
        }
        if self.shown < self.columns.len() {
            if self.shown > 0 {
                writeln!(out)?;
            }
            self.shown = self.columns.len();
            self.line(|column| &column.name, out)?;
        }
        for row in &rows {
            let cell = |name: &str| {
                row.iter()
                    .find(|cell| cell.0 == name)
                    .map_or("", |cell| &cell.1)
            };
            self.line(|column| cell(&column.name), out)?;
        }
        Ok(())
    }

    fn fit(&mut self, name: &str, text: &str) {
        let column = self.columns.iter_mut().find(|column| column.name == name);
        let width = text.chars().count();
        let is_number = text == "-" || text.parse::<f64>().is_ok();
        match column {
            Some(column) => {
                column.width = column.width.max(width);
                column.is_number &= is_number;
            }
            None => self.columns.push(Column {
                name: name.to_owned(),
                width: width.max(name.chars().count()),
                is_number,
            }),
        }
    }

    fn line<'c>(
        &'c self,
        cell: impl Fn(&'c Column) -> &'c str,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let mut line = String::new();
        for column in &self.columns {
            let (text, width) = (cell(column), column.width);
            let padded = if column.is_number {
                format!("{text:>width$}")
            } else {
                format!("{text:<width$}")
            };
            line.push_str(&padded);
            line.push_str("  ");
        }
        writeln!(out, "{}", line.trim_end())
    }
}

fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_CELL).flat_map(printable).collect();
    if text.chars().nth(MAX_CELL).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(row: &[(&str, &str)]) -> Cells {
        row.iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect()
    }

    #[test]
    fn columns_are_aligned_and_new_ones_get_a_new_header() {
        let mut table = Table::default();
        let mut out = Vec::new();
        table
            .push(cells(&[("name", "x"), ("n", "1")]), &mut out)
            .expect("written");
        table
            .push(cells(&[("name", "longer\n"), ("n", "200")]), &mut out)
            .expect("written");
        table.flush(&mut out).expect("written");
        table
            .push(cells(&[("n", "3"), ("more", "!")]), &mut out)
            .expect("written");
        table.flush(&mut out).expect("written");
        let expected = "\
name        n
x           1
longer\\n  200

name        n  more
            3  !
";
        assert_eq!(String::from_utf8(out).expect("text"), expected);
    }

    #[test]
    fn long_cells_are_cut() {
        assert_eq!(shortened(&"x".repeat(61)).chars().count(), 61);
        assert!(
            shortened(&"x".repeat(61)).ends_with('…') && !shortened(&"x".repeat(60)).ends_with('…')
        );
    }
}
