//! `console:`: an aligned table on standard output, one line per row, as the rows come.
//!
//! The header stands once above the rows, and again when another output of the same run has
//! written in between. What is unusual about a window row stands at the end of its line.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::ndjson::write_stdout;
use super::{
    EpochRows, Guarantee, JobContext, OutputSpec, Sink, SinkContext, SinkError, SinkFactory,
    Written,
};
use crate::rows::{Cell, ColumnType, Columns, Completeness, Pane, Rows, Timing};
use crate::time::{EventTime, Shard};

/// A longer text is cut to this many characters.
const MAX_TEXT: usize = 60;
const BOLD: &str = "\u{1b}[1m";
const DIM: &str = "\u{1b}[2m";
const RED: &str = "\u{1b}[31m";
const PLAIN: &str = "\u{1b}[0m";

/// What `console:` means.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConsoleFactory {
    /// Whether the terminal takes colours.
    pub color: bool,
}

impl SinkFactory for ConsoleFactory {
    fn identity(&self) -> String {
        "console".to_owned()
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    fn shards(&self) -> u32 {
        1
    }

    fn check(&self, _output: &OutputSpec) -> Result<String, SinkError> {
        Ok("a table on standard output".to_owned())
    }

    fn prepare(
        &self,
        _output: &OutputSpec,
        _partitions: u32,
        _job: Option<&JobContext>,
    ) -> Result<(), SinkError> {
        Ok(())
    }

    fn open(
        &self,
        output: &OutputSpec,
        _shards: &[Shard],
        _context: &SinkContext,
    ) -> Result<Box<dyn Sink>, SinkError> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        Ok(Box::new(ConsoleSink {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            name: output.name,
            table: Table::new(&output.columns, self.color),
            buffer: Vec::new(),
        }))
    }
}

/// The sink that has written last, and so whose header stands above.
static LAST_WRITER: Mutex<Option<u64>> = Mutex::new(None);

struct ConsoleSink {
    id: u64,
    name: &'static str,
    table: Table,
    buffer: Vec<u8>,
}

impl Sink for ConsoleSink {
    fn commit(&mut self, epoch: &EpochRows) -> Result<Written, SinkError> {
        if epoch.rows.is_empty() {
            return Ok(Written::default());
        }
        self.buffer.clear();
        self.table.fit(&epoch.rows);
        // Held while writing, so that no other output comes between a header and its rows.
        let mut last = LAST_WRITER
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match *last {
            Some(id) if id == self.id => {}
            Some(_) => {
                self.buffer
                    .extend_from_slice(format!("\n{}:\n", self.name).as_bytes());
                self.table.header(&mut self.buffer);
            }
            None => self.table.header(&mut self.buffer),
        }
        *last = Some(self.id);
        self.table.rows(&epoch.rows, &mut self.buffer);
        write_stdout(&self.buffer)?;
        Ok(Written {
            rows: epoch.rows.len() as u64,
            bytes: self.buffer.len() as u64,
        })
    }

    fn close(&mut self) -> Result<Written, SinkError> {
        Ok(Written::default())
    }
}

/// Columns with widths that only grow.
struct Table {
    columns: Columns,
    widths: Vec<usize>,
    color: bool,
    cell: String,
}

impl Table {
    fn new(columns: &Columns, color: bool) -> Self {
        let widths = columns
            .iter()
            .map(|column| column.name.chars().count())
            .collect();
        Self {
            columns: columns.clone(),
            widths,
            color,
            cell: String::new(),
        }
    }

    fn fit(&mut self, rows: &Rows) {
        for column in 0..self.columns.len() {
            for row in 0..rows.len() {
                show(rows.cell(column, row), &mut self.cell);
                let width = self.cell.chars().count();
                self.widths[column] = self.widths[column].max(width);
            }
        }
    }

    fn header(&self, out: &mut Vec<u8>) {
        let mut line = String::new();
        for (at, column) in self.columns.iter().enumerate() {
            self.pad(at, column.name, &mut line);
        }
        self.painted(BOLD, line.trim_end(), out);
        out.push(b'\n');
    }

    fn rows(&mut self, rows: &Rows, out: &mut Vec<u8>) {
        let mut cell = std::mem::take(&mut self.cell);
        let mut line = String::new();
        for row in 0..rows.len() {
            line.clear();
            for column in 0..self.columns.len() {
                show(rows.cell(column, row), &mut cell);
                self.pad(column, &cell, &mut line);
            }
            let note = rows.panes.get(row).map(|(pane, diff)| note(*pane, *diff));
            let is_withdrawn = rows.panes.get(row).is_some_and(|(_, diff)| *diff < 0);
            let paint = if is_withdrawn { RED } else { "" };
            self.painted(paint, line.trim_end(), out);
            if let Some(note) = note.filter(|note| !note.is_empty()) {
                self.painted(DIM, &format!("  {note}"), out);
            }
            out.push(b'\n');
        }
        self.cell = cell;
    }

    /// Appends a cell and the gap before it: numbers to the right, all else to the left.
    fn pad(&self, column: usize, text: &str, line: &mut String) {
        let gap = self.widths[column].saturating_sub(text.chars().count());
        let is_number = matches!(
            self.columns[column].kind,
            ColumnType::Int | ColumnType::Float
        );
        let (before, after) = if is_number { (gap, 0) } else { (0, gap) };
        line.extend(std::iter::repeat_n(
            ' ',
            before + if column == 0 { 0 } else { 2 },
        ));
        line.push_str(text);
        line.extend(std::iter::repeat_n(' ', after));
    }

    fn painted(&self, paint: &str, text: &str, out: &mut Vec<u8>) {
        let is_painted = self.color && !paint.is_empty();
        out.extend_from_slice(if is_painted { paint.as_bytes() } else { b"" });
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(if is_painted { PLAIN.as_bytes() } else { b"" });
    }
}

/// Replaces `out` with a cell as people read it.
fn show(cell: Cell<'_>, out: &mut String) {
    out.clear();
    match cell {
        Cell::Null => out.push('-'),
        Cell::Int(value) => out.push_str(&value.to_string()),
        Cell::Float(value) => out.push_str(&show_float(value)),
        Cell::Text(value) => show_text(value, out),
        Cell::Timestamp(value) => out.push_str(&show_time(value)),
        Cell::Bool(value) => out.push_str(if value { "yes" } else { "no" }),
        Cell::Uuid(value) => {
            let id = uuid::Uuid::from_u128(value);
            out.push_str(
                id.hyphenated()
                    .encode_lower(&mut uuid::Uuid::encode_buffer()),
            );
        }
        Cell::Bytes(value) => show_text(&String::from_utf8_lossy(value), out),
    }
}

/// Two decimals, or four significant digits below 1; very large and very small in powers of ten.
fn show_float(value: f64) -> String {
    let size = value.abs();
    if size >= 1e12 || (size < 1e-4 && size > 0.0) {
        return format!("{value:.3e}");
    }
    if size >= 1.0 || size == 0.0 {
        return format!("{value:.2}");
    }
    let leading_zeros = (-size.log10()).floor().max(0.0) as usize;
    format!("{value:.*}", leading_zeros + 4)
}

/// Control characters are shown, not sent: data must not steer the terminal.
fn show_text(value: &str, out: &mut String) {
    for (count, character) in value.chars().enumerate() {
        if count == MAX_TEXT {
            out.push('…');
            return;
        }
        if character.is_control() {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
}

/// `2024-01-01 00:15:00`, with milliseconds where there are some.
fn show_time(value: EventTime) -> String {
    match value {
        EventTime::MIN => return "the beginning".to_owned(),
        EventTime::MAX => return "the end".to_owned(),
        _ => {}
    }
    let text = value.to_string().replace('T', " ");
    let text = text.trim_end_matches('Z');
    text.strip_suffix(".000").unwrap_or(text).to_owned()
}

/// What is unusual about a window row.
fn note(pane: Pane, diff: i64) -> String {
    let mut notes = Vec::new();
    match pane.timing {
        Timing::Early => notes.push("early".to_owned()),
        Timing::OnTime => {}
        Timing::Late => notes.push("late".to_owned()),
    }
    if diff < 0 {
        notes.push("withdrawn".to_owned());
    } else if pane.index > 0 {
        notes.push(format!("revision {}", pane.index));
    }
    if pane.complete != Completeness::Proved && pane.timing != Timing::Early {
        notes.push(pane.complete.as_str().to_owned());
    }
    notes.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::encode::sample::{Count, PANE, Sample, rows};
    use super::*;

    fn table(rows: &Rows) -> String {
        let mut table = Table::new(rows.columns(), false);
        let mut out = Vec::new();
        table.fit(rows);
        table.header(&mut out);
        table.rows(rows, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn windows_are_aligned_and_marked() {
        let mut batch = rows::<Count>();
        let count = |key, count| Count {
            start: 0,
            end: 900_000,
            key,
            count,
        };
        batch.push_result(&count(Some("long key"), 5), PANE, 1);
        batch.push_result(&count(None, 12_345), PANE, -1);
        let late = Pane {
            timing: Timing::Late,
            index: 1,
            complete: Completeness::Idle,
            ..PANE
        };
        batch.push_result(&count(None, 7), late, 1);
        assert_eq!(
            table(&batch),
            "window_start         window_end           key       count\n\
             1970-01-01 00:00:00  1970-01-01 00:15:00  long key      5\n\
             1970-01-01 00:00:00  1970-01-01 00:15:00  -         12345  withdrawn\n\
             1970-01-01 00:00:00  1970-01-01 00:15:00  -             7  late, revision 1, idle\n"
        );
    }

    #[test]
    fn data_does_not_steer_the_terminal() {
        let mut batch = rows::<Sample>();
        batch.push(&Sample {
            text: Some("\u{1b}[2Jx\u{9b}".to_owned()),
            ..Sample::default()
        });
        let text = table(&batch);
        assert!(
            !text.contains('\u{1b}') && !text.contains('\u{9b}'),
            "{text:?}"
        );
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0.00"),
            (119.987, "119.99"),
            (-1.5, "-1.50"),
            (0.123_456, "0.1235"),
            (0.001_234_56, "0.001235"),
            (1e15, "1.000e15"),
            (2e-9, "2.000e-9"),
        ] {
            assert_eq!(show_float(value), text);
        }
    }
}
