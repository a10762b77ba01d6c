//! Workers that exchange bytes, as those of several processes do, give what workers that hand over
//! vectors give.

use std::sync::Arc;

use highwater::aggregate::{count, max, mean};
use highwater::decode::{Decoded, Message, Rejection, Text};
use highwater::flow::{Flow, Tally, WindowRow};
use highwater::rows::{Column, ColumnType, RowWriter, Tabular};
use highwater::runtime::{Pipeline, RunError};
use highwater::sink::Layout;
use highwater::time::{EventTime, Span};
use highwater::window::WindowSpec;
use highwater::wire::FixedLayout;

use crate::fixture::{Item, Knobs, Outcome, Script, Sums, decode, try_run};

/// Disordered, some of them late, dead or filtered, in two partitions.
fn partitions() -> [Vec<String>; 2] {
    [1, 7].map(|step| {
        let lines = (0_i64..3000).map(|i| match i % 50 {
            0 => "garbage".to_owned(),
            1 => format!("{i} 9 1"),
            2 => format!("{} 3 0.5", i - 400),
            _ => format!("{} {} {}", i - i * step % 40, i % 8, i % 100),
        });
        lines.collect()
    })
}

fn outcome(pipeline: Arc<dyn Pipeline>, workers: usize, serializes: bool, keep: i64) -> Outcome {
    let window = WindowSpec::new(Span(60), Span(20), Span::ZERO, Span(keep)).unwrap();
    let knobs = Knobs {
        window,
        serializes,
        ..Knobs::tumbling(60, 50, workers)
    };
    let script = Script::batches(&partitions(), 37);
    try_run(pipeline, script, &knobs).expect("the run succeeds")
}

fn lines(outcome: &Outcome) -> [Vec<String>; 4] {
    let windows = outcome.windows.lines.lock().unwrap().clone();
    let (items, late) = (outcome.items.sorted(), outcome.late.sorted());
    [windows, items, late, outcome.dead.sorted()]
}

#[test]
fn bytes_between_workers_change_no_result() {
    let moved = lines(&outcome(Arc::new(Sums), 2, false, 0));
    assert!(moved.iter().all(|output| output.len() > 50));
    for workers in [1, 2, 3, 4] {
        let serialized = outcome(Arc::new(Sums), workers, true, 0);
        assert_eq!(lines(&serialized), moved, "{workers} workers");
    }
}

/// Windows by a text, and a tally in place of the items.
struct Texts;

impl Pipeline for Texts {
    fn name(&self) -> &'static str {
        "texts"
    }

    fn main_output(&self) -> &'static str {
        "windows"
    }

    fn build(&self, flow: &mut Flow<'_>) {
        let items = flow.source(decode);
        let tally = items
            .clone()
            .tally(|| (count(), max(|item: &Item| Some(item.value))));
        flow.tally_output("items", tally, Total::of);
        let value = |item: &Item| (item.key != 3).then_some(item.value);
        let key = |item: &Item| Text::<12>::new(&format!("key-{}", item.key)).expect("short");
        let windows = items.window(key, move || (count(), mean(value), max(value)));
        flow.windows_output("windows", Layout::Flat, &["key"], &windows, Row::of);
    }
}

struct Row(EventTime, Text<12>, (u64, Option<f64>, Option<f64>));

impl Row {
    fn of(row: WindowRow<'_, Text<12>, (u64, Option<f64>, Option<f64>)>) -> Self {
        Self(row.end, *row.key, *row.value)
    }
}

impl Tabular for Row {
    fn columns() -> Vec<Column> {
        vec![
            Column::new("window_end", ColumnType::Timestamp),
            Column::new("key", ColumnType::Text),
            Column::new("count", ColumnType::Int),
            Column::nullable("mean", ColumnType::Float),
            Column::nullable("max", ColumnType::Float),
        ]
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.timestamp(self.0);
        row.text(self.1.as_str());
        row.int(self.2.0 as i64);
        row.float(self.2.1);
        row.float(self.2.2);
    }
}

struct Total(u64);

impl Total {
    fn of(tally: &Tally<(u64, Option<f64>)>) -> Self {
        Self(tally.value.0)
    }
}

impl Tabular for Total {
    fn columns() -> Vec<Column> {
        vec![Column::new("count", ColumnType::Int)]
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.int(self.0 as i64);
    }
}

/// How many records all tallies together have counted: where checkpoints fall is not fixed.
fn tallied(outcome: &Outcome) -> u64 {
    let lines = outcome.items.lines.lock().unwrap();
    lines
        .iter()
        .map(|line| line.trim().parse::<u64>().unwrap())
        .sum()
}

#[test]
fn texts_nulls_and_tallies_travel_as_bytes() {
    let moved = outcome(Arc::new(Texts), 2, false, 0);
    assert!(
        moved
            .windows
            .sorted()
            .iter()
            .any(|line| line.contains("Null"))
    );
    for workers in [2, 4] {
        let serialized = outcome(Arc::new(Texts), workers, true, 0);
        assert_eq!(lines(&serialized)[0], lines(&moved)[0]);
        assert_eq!(tallied(&serialized), tallied(&moved));
    }
    assert_eq!(tallied(&moved), 2 * 3000 * 49 / 50);
}

/// An item that can be sent, but not be read again: as if the peer were another program.
#[derive(Clone)]
struct Foreign(Item);

impl FixedLayout for Foreign {
    type Raw = <Item as FixedLayout>::Raw;

    fn to_raw(&self) -> Self::Raw {
        self.0.to_raw()
    }

    fn from_raw(_: Self::Raw) -> Option<Self> {
        None
    }
}

impl Tabular for Foreign {
    fn columns() -> Vec<Column> {
        Item::columns()
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        self.0.write(row);
    }
}

struct Mismatch;

impl Pipeline for Mismatch {
    fn name(&self) -> &'static str {
        "mismatch"
    }

    fn main_output(&self) -> &'static str {
        "items"
    }

    fn build(&self, flow: &mut Flow<'_>) {
        let decode = |message: Message<'_>| -> Result<Decoded<Foreign>, Rejection> {
            Ok(match decode(message)? {
                Decoded::Record(time, item) => Decoded::Record(time, Foreign(item)),
                Decoded::Skip => Decoded::Skip,
            })
        };
        let items = flow.source(decode);
        flow.main_output("items", Layout::Flat, items);
    }
}

#[test]
fn a_message_that_cannot_be_read_ends_the_run_as_its_error() {
    let knobs = Knobs {
        serializes: true,
        ..Knobs::tumbling(60, 50, 2)
    };
    let script = Script::batches(&partitions(), 37);
    let Err(error) = try_run(Arc::new(Mismatch), script, &knobs) else {
        panic!("it was read");
    };
    let RunError::Worker(text) = &error else {
        panic!("{error}");
    };
    assert!(
        text.contains("Foreign") && text.contains("same build"),
        "{text}"
    );
}
