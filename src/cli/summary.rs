//! What is shown at the end of a run.

use super::plan::Plan;
use super::resources::Resources;
use super::value::grouped;
use crate::ledger::Fates;
use crate::runtime::Summary;

/// More partitions than this are shown as their total only.
const SHOWN_PARTITIONS: usize = 64;

/// A fate's name and its number.
pub type Fate = (&'static str, fn(&Fates) -> u64);

/// The fates in the order in which they are shown; the first ones always, the others when there
/// is one.
pub const FATES: [Fate; 11] = [
    ("read", |fates| fates.read),
    ("on time", |fates| fates.on_time),
    ("late kept", |fates| fates.late_kept),
    ("late diverted", |fates| fates.late_diverted),
    ("late dropped", |fates| fates.late_dropped),
    ("rejected", |fates| fates.rejected),
    ("skipped", |fates| fates.skipped),
    ("duplicate", |fates| fates.duplicate),
    ("filtered", |fates| fates.filtered),
    ("no window", |fates| fates.no_window),
    ("missed windows", |fates| fates.late_windows),
];
const ALWAYS: usize = 2;

/// The text for people.
pub fn text(summary: &Summary, plan: &Plan, resources: Resources) -> String {
    let unmatched = match summary.unmatched {
        0 => String::new(),
        records => format!("records without a dimension row: {}\n", grouped(records)),
    };
    let (inputs, outputs) = (table(&inputs(summary)), table(&outputs(summary, plan)));
    format!(
        "{inputs}\n{outputs}\n{unmatched}{}",
        costs(summary, resources)
    )
}

fn inputs(summary: &Summary) -> Vec<Vec<String>> {
    let total = summary.total();
    let is_shown = |at: usize, fate: &Fate| at < ALWAYS || (fate.1)(&total) > 0;
    let shown: Vec<_> = FATES
        .iter()
        .enumerate()
        .filter(|(at, fate)| is_shown(*at, fate))
        .collect();
    let row = |name: &str, fates: &Fates| {
        let cells = shown.iter().map(|(_, (_, count))| grouped(count(fates)));
        std::iter::once(name.to_owned())
            .chain(cells)
            .collect::<Vec<_>>()
    };
    let titles = shown.iter().map(|(_, (name, _))| (*name).to_owned());
    let mut rows = vec![std::iter::once("input".to_owned()).chain(titles).collect()];
    if summary.inputs.len() <= SHOWN_PARTITIONS {
        rows.extend(
            summary
                .inputs
                .iter()
                .map(|(partition, _, fates)| row(&partition.name, fates)),
        );
    }
    if summary.inputs.len() != 1 {
        rows.push(row(&format!("total of {}", summary.inputs.len()), &total));
    }
    rows
}

fn outputs(summary: &Summary, plan: &Plan) -> Vec<Vec<String>> {
    let titles = ["output", "rows", "windows", "bytes", "to"];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    for output in &plan.outputs {
        let count = summary
            .outputs
            .get(output.name)
            .copied()
            .unwrap_or_default();
        let targets = plan
            .targets
            .iter()
            .filter(|target| target.output == output.name);
        let targets: Vec<_> = targets.map(|target| target.uri.as_str()).collect();
        let to = if targets.is_empty() {
            "nowhere".to_owned()
        } else {
            targets.join(" ")
        };
        let is_windows = matches!(output.kind, crate::sink::OutputKind::Windows { .. });
        let windows = if is_windows {
            grouped(count.windows)
        } else {
            "-".to_owned()
        };
        let (written, bytes) = (grouped(count.written.rows), grouped(count.written.bytes));
        rows.push(vec![output.name.to_owned(), written, windows, bytes, to]);
    }
    rows
}

fn costs(summary: &Summary, resources: Resources) -> String {
    let (wall, cpu) = (summary.wall.as_secs_f64(), resources.cpu.as_secs_f64());
    let read = summary.total().read;
    let per_second = if cpu > 0.0 {
        (read as f64 / cpu) as u64
    } else {
        0
    };
    format!(
        "{wall:.1} s, {cpu:.1} s of CPU time, {} records per CPU-second, peak memory {} MiB",
        grouped(per_second),
        grouped(resources.peak_rss.div_ceil(1 << 20)),
    )
}

/// Aligned columns under the titles in the first row: the first one and those with words to the
/// left, numbers to the right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let is_number = |cell: &String| {
        cell.chars()
            .all(|c| c.is_ascii_digit() || "-,.".contains(c))
    };
    let has_words = |column: usize| !rows.iter().skip(1).all(|row| is_number(&row[column]));
    let is_left: Vec<_> = (0..columns).map(|it| it == 0 || has_words(it)).collect();
    let mut text = String::new();
    for row in rows {
        let pad = |(column, cell): (usize, &String)| {
            let width = widths[column];
            if is_left[column] {
                format!("{cell:<width$}  ")
            } else {
                format!("{cell:>width$}  ")
            }
        };
        let line: String = row.iter().enumerate().map(pad).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::metrics::Range;
    use crate::source::Partition;
    use crate::time::PartitionId;

    #[test]
    fn fates_stand_per_partition_and_in_total() {
        let partition = |id, name: &str| Partition {
            id: PartitionId(id),
            name: name.to_owned(),
        };
        let fates = |read, rejected| Fates {
            read,
            on_time: read - rejected,
            rejected,
            ..Fates::default()
        };
        let summary = Summary {
            inputs: vec![
                (partition(0, "a"), Range::default(), fates(1000, 1)),
                (partition(1, "long name"), Range::default(), fates(5, 0)),
            ],
            outputs: [].into(),
            unmatched: 0,
            wall: std::time::Duration::from_secs(1),
            elsewhere: crate::cluster::Usage::default(),
        };
        let expected = "\
input       read  on time  rejected
a          1,000      999         1
long name      5        5         0
total of 2 1,005    1,004         1
";
        let squeeze = |text: &str| {
            let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
            text.lines().map(words).collect::<Vec<_>>()
        };
        assert_eq!(squeeze(&table(&inputs(&summary))), squeeze(expected));
    }
}
