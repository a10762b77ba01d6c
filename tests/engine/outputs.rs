//! What comes out, apart from the windows' own rules: nowhere, or the same bytes in any order.

use std::sync::Arc;

use highwater::aggregate::{max, min};
use highwater::flow::{Flow, WindowRow};
use highwater::rows::{Column, ColumnType, RowWriter, Tabular};
use highwater::runtime::Pipeline;
use highwater::sink::Layout;
use highwater::time::EventTime;

use crate::fixture::{Item, Knobs, Script, decode, run_script, try_run};

#[test]
fn a_run_without_any_sink_counts_and_ends() {
    let lines: Vec<String> = (0..100)
        .map(|i| match i % 10 {
            0 => "garbage".to_owned(),
            key => format!("{i} {key} 1"),
        })
        .collect();
    for workers in [1, 3] {
        let knobs = Knobs {
            sinks: false,
            ..Knobs::tumbling(10, 0, workers)
        };
        let script = Script::batches(&[lines.clone(), lines.clone()], 7);
        let outcome = run_script(script, &knobs);
        for fates in outcome.fates().values() {
            assert_eq!((fates.read, fates.rejected), (100, 10));
            assert_eq!((fates.filtered, fates.on_time), (10, 80));
        }
        let outputs = &outcome.summary.outputs;
        assert_eq!(outputs["items"].written.rows, 160);
        assert_eq!(outputs["dead-letters"].written.rows, 20);
        // Ten windows of eight keys; the partitions share them.
        assert_eq!(outputs["windows"].written.rows, 80);
        assert_eq!(outputs["windows"].windows, 10);
        assert!(outcome.log.last().is_some_and(|last| last.ending.is_some()));
    }
}

/// The smallest and the largest value per key and window.
struct Extremes;

struct ExtremesRow(EventTime, EventTime, u8, (Option<f64>, Option<f64>));

impl ExtremesRow {
    fn of(row: WindowRow<'_, u8, (Option<f64>, Option<f64>)>) -> Self {
        Self(row.start, row.end, *row.key, *row.value)
    }
}

impl Tabular for ExtremesRow {
    fn columns() -> Vec<Column> {
        vec![
            Column::new("window_start", ColumnType::Timestamp),
            Column::new("window_end", ColumnType::Timestamp),
            Column::new("key", ColumnType::Int),
            Column::nullable("min", ColumnType::Float),
            Column::nullable("max", ColumnType::Float),
        ]
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.timestamp(self.0);
        row.timestamp(self.1);
        row.int(i64::from(self.2));
        row.float(self.3.0);
        row.float(self.3.1);
    }
}

impl Pipeline for Extremes {
    fn name(&self) -> &'static str {
        "extremes"
    }

    fn main_output(&self) -> &'static str {
        "windows"
    }

    fn build(&self, flow: &mut Flow<'_>) {
        let value = |item: &Item| Some(item.value);
        let windows = flow
            .source(decode)
            .window(|item| item.key, move || (min(value), max(value)));
        flow.windows_output("windows", Layout::Flat, &["key"], &windows, ExtremesRow::of);
    }
}

/// 0.0 and -0.0 are equal, but their bits are not: which one is met first must not show.
#[test]
fn extremes_of_both_zeros_have_the_same_bits_in_any_order() {
    let values = ["0.0", "-0.0", "-0.0", "0.0", "0.0"];
    let partition = |turn: usize| -> Vec<String> {
        let line = |i: usize| format!("{} 1 {}", i / 3, values[(i * (turn + 1) + turn) % 5]);
        (0..60).map(line).collect()
    };
    let mut runs = Vec::new();
    for workers in [1, 2, 4] {
        for first in 0..3 {
            let partitions = [first, first + 1, first + 2].map(|turn| partition(turn % 3));
            for count in [1, 3] {
                let script = Script::batches(&partitions[..count], 4);
                let knobs = Knobs::tumbling(10, 20, workers);
                let outcome = try_run(Arc::new(Extremes), script, &knobs).expect("it succeeds");
                let rows = outcome.windows.sorted().into_iter();
                // Without the pane: what closes the last windows is not what this is about.
                let bits = rows.map(|row| row.split(' ').take(5).collect::<Vec<_>>().join(" "));
                runs.push(bits.collect::<Vec<_>>());
            }
        }
    }
    assert_eq!(runs[0].len(), 2);
    assert!(
        runs[0]
            .iter()
            .all(|row| row.ends_with(" 1 0000000000000000 0000000000000000"))
    );
    assert!(runs.iter().all(|run| *run == runs[0]), "{runs:#?}");
}
