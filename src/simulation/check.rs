//! Compares everything that was ever visible with what the oracle says.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Read;

use super::files::FilesWorld;
use super::oracle::{Count, Oracle, read_log};
use super::rows::{ItemRow, Row, WindowKey, WindowRow};
use super::table::TableWorld;
use super::topic::TopicWorld;
use super::world::{Kind, World};
use crate::state::Manifest;
use crate::time::parse_rfc3339;

/// Checks an execution whose input is complete and drained.
///
/// # Errors
/// What is wrong.
pub(super) fn check(world: &World) -> Result<(), String> {
    let (epochs, manifests) = read_log(world)?;
    let oracle = Oracle::of(world, &epochs)?;
    for (partition, items) in world.input.iter().enumerate() {
        let of_it = oracle
            .items
            .iter()
            .filter(|(_, it)| it.partition == partition as i64);
        let read: Vec<i64> = of_it.map(|(_, item)| item.offset).collect();
        let all: Vec<i64> = (0..items.len() as i64).collect();
        same(
            &format!("partition {partition} as it was read"),
            &read,
            &all,
        )?;
    }
    check_ledger(world, &oracle, manifests.last())?;
    for (sink, kind) in world.shape.sinks.iter().enumerate() {
        let outcome = match kind {
            Kind::Table => check_table(&world.tables[&sink], &oracle),
            Kind::Topic => {
                let want = oracle
                    .changes
                    .iter()
                    .map(|(k, row)| (*k, Row::Window(*row)));
                check_topic(&world.topics[&sink], want.collect())
            }
            Kind::RowTopic => {
                let want = oracle.items.iter().map(|(k, row)| (*k, Row::Item(*row)));
                check_topic(&world.topics[&sink], want.collect())
            }
            Kind::WindowFiles => check_window_files(&world.files[&sink], &oracle),
            Kind::RowFiles => check_row_files(&world.files[&sink], &oracle),
            Kind::Lines => check_lines(&world.lines[&sink], &oracle),
        };
        outcome.map_err(|what| format!("{kind:?}: {what}"))?;
    }
    Ok(())
}

fn same<T: PartialEq + Debug>(what: &str, got: &[T], want: &[T]) -> Result<(), String> {
    if got == want {
        return Ok(());
    }
    let extra: Vec<_> = got.iter().filter(|it| !want.contains(it)).take(3).collect();
    let missing: Vec<_> = want.iter().filter(|it| !got.contains(it)).take(3).collect();
    let (got, want) = (got.len(), want.len());
    Err(format!(
        "{what}: {got}, not {want}; too much {extra:?}, missing {missing:?}"
    ))
}

fn check_ledger(world: &World, oracle: &Oracle, manifest: Option<&Manifest>) -> Result<(), String> {
    let manifest = manifest.ok_or("there is no manifest")?;
    if !manifest.is_drained {
        return Err("the last manifest is not that of a drained job".to_owned());
    }
    for state in &manifest.partitions {
        let partition = state.partition.id.0 as usize;
        let fates = state.fates;
        let got = Count {
            on_time: fates.on_time,
            late_kept: fates.late_kept,
            late_dropped: fates.late_dropped,
        };
        let want = oracle.fates.get(&partition).copied().unwrap_or_default();
        let read = world.input[partition].len() as u64;
        if got != want || fates.read != read || !fates.is_balanced() {
            return Err(format!(
                "ledger of partition {partition}: {fates}, not {want:?} of {read}"
            ));
        }
    }
    let partitions = manifest.partitions.len();
    if partitions != world.input.len() {
        return Err(format!("the last manifest knows {partitions} partitions"));
    }
    Ok(())
}

fn check_table(table: &TableWorld, oracle: &Oracle) -> Result<(), String> {
    let rows = |map: &BTreeMap<WindowKey, (i64, i64)>| {
        map.iter()
            .map(|(key, value)| (*key, *value))
            .collect::<Vec<_>>()
    };
    same("rows", &rows(&table.rows), &rows(&oracle.windows))?;
    let mut latest: BTreeMap<WindowKey, u64> = BTreeMap::new();
    for (epoch, row) in &table.history {
        if !oracle.changes.contains(&(epoch.0, *row)) {
            return Err(format!("a reader saw {row:?} in epoch {epoch}"));
        }
        let before = latest.insert(row.key(), epoch.0);
        if before > Some(epoch.0) {
            return Err(format!("a reader saw {row:?} go back to epoch {epoch}"));
        }
    }
    Ok(())
}

/// Where a reader can rely on the order: per key, or per source partition.
fn group(row: &Row) -> i64 {
    match row {
        Row::Window(row) => row.key,
        Row::Item(row) => row.partition,
    }
}

fn check_topic(topic: &TopicWorld, want: Vec<(u64, Row)>) -> Result<(), String> {
    let groups = |rows: &mut dyn Iterator<Item = (u64, Row)>| {
        let mut groups: BTreeMap<i64, Vec<(u64, Row)>> = BTreeMap::new();
        rows.for_each(|row| groups.entry(group(&row.1)).or_default().push(row));
        groups
    };
    let visible = topic.visible.iter().map(|(epoch, _, row)| (epoch.0, *row));
    let got = groups(&mut visible.into_iter());
    let want = groups(&mut want.into_iter());
    for name in got.keys().chain(want.keys()) {
        let (got, want) = (got.get(name), want.get(name));
        let [got, want] = [got, want].map(|rows| rows.map_or(&[][..], Vec::as_slice));
        same(&format!("key or partition {name}"), got, want)?;
    }
    Ok(())
}

/// The rows of a file by the names of its columns.
fn csv(bytes: &[u8], columns: &[&str]) -> Result<Vec<Vec<i64>>, String> {
    let mut text = String::new();
    flate2::read::GzDecoder::new(bytes)
        .read_to_string(&mut text)
        .map_err(|error| error.to_string())?;
    let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header = lines.next().ok_or("a file without a header")?;
    let places: Option<Vec<usize>> = columns
        .iter()
        .map(|name| header.iter().position(|column| column == name))
        .collect();
    let places = places.ok_or_else(|| format!("the columns are {header:?}"))?;
    let number = |text: &str| match text.parse() {
        Ok(number) => Ok(number),
        Err(_) => parse_rfc3339(text.as_bytes())
            .map(|time| time.0)
            .map_err(|_| text.to_owned()),
    };
    lines
        .map(|line| places.iter().map(|place| number(line[*place])).collect())
        .collect()
}

/// The published files, all of which must be as they were from the beginning.
fn published(files: &FilesWorld) -> Result<BTreeMap<&str, &[u8]>, String> {
    for (name, bytes) in &files.history {
        if files.files.get(name) != Some(bytes) {
            return Err(format!("a reader saw {name} with other contents"));
        }
    }
    let files = files
        .files
        .iter()
        .filter(|(name, _)| !name.starts_with('_'));
    Ok(files
        .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
        .collect())
}

fn check_window_files(files: &FilesWorld, oracle: &Oracle) -> Result<(), String> {
    let columns = ["window_end", "window_start", "key", "count", "sum"];
    let mut got = Vec::new();
    for bytes in published(files)?.values() {
        let rows = csv(bytes, &columns)?.into_iter();
        got.extend(rows.map(|row| WindowRow {
            end: row[0],
            start: row[1],
            key: row[2],
            diff: 1,
            count: row[3],
            sum: row[4],
        }));
    }
    got.sort_unstable();
    let mut want: Vec<WindowRow> = oracle.finals.iter().map(|(_, row)| *row).collect();
    want.sort_unstable();
    same("rows", &got, &want)
}

fn check_row_files(files: &FilesWorld, oracle: &Oracle) -> Result<(), String> {
    let columns = ["partition", "offset", "time", "value"];
    let mut got = Vec::new();
    // In the order of their names, which is that of the epochs.
    for bytes in published(files)?.values() {
        let rows = csv(bytes, &columns)?.into_iter();
        got.extend(rows.map(|row| ItemRow {
            partition: row[0],
            offset: row[1],
            time: row[2],
            value: row[3],
        }));
    }
    // A stable sort: the order within each partition stays.
    got.sort_by_key(|row| row.partition);
    let mut want: Vec<ItemRow> = oracle.items.iter().map(|(_, row)| *row).collect();
    want.sort_by_key(|row| row.partition);
    same("rows", &got, &want)
}

fn check_lines(lines: &super::lines::LinesWorld, oracle: &Oracle) -> Result<(), String> {
    let text = std::str::from_utf8(&lines.bytes).map_err(|error| error.to_string())?;
    let rows: Result<Vec<WindowRow>, String> = text.lines().map(line).collect();
    let want: Vec<WindowRow> = oracle.changes.iter().map(|(_, row)| *row).collect();
    same("lines", &rows?, &want)?;
    for (at, bytes) in &lines.history {
        if lines.bytes.get(*at..*at + bytes.len()) != Some(bytes.as_slice()) {
            let text = String::from_utf8_lossy(bytes);
            return Err(format!("a reader saw {text:?} at byte {at}"));
        }
    }
    Ok(())
}

fn line(text: &str) -> Result<WindowRow, String> {
    let wrong = || format!("a line that is none: {text:?}");
    let value: serde_json::Value = serde_json::from_str(text).map_err(|_| wrong())?;
    let time = |name: &str| {
        let text = value[name].as_str().ok_or_else(wrong)?;
        parse_rfc3339(text.as_bytes())
            .map(|time| time.0)
            .map_err(|_| wrong())
    };
    let number = |name: &str| value[name].as_i64().ok_or_else(wrong);
    Ok(WindowRow {
        end: time("window_end")?,
        start: time("window_start")?,
        key: number("key")?,
        diff: number("diff")?,
        count: number("count")?,
        sum: number("sum")?,
    })
}
