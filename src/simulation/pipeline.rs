//! The pipeline that is run: counts and sums per key and window, and every record as it is.

use super::world::Item;
use crate::aggregate::{count, sum};
use crate::decode::{Decoded, Message, Reason, Rejection};
use crate::flow::{Flow, WindowRow};
use crate::rows::{Column, ColumnType, RowWriter, Tabular};
use crate::runtime::Pipeline;
use crate::sink::Layout;
use crate::time::EventTime;

/// The output with a row per record.
pub(super) const ITEMS: &str = "items";
/// The output with the results of windows.
pub(super) const WINDOWS: &str = "windows";

/// See the module.
pub(super) struct Sums;

impl Pipeline for Sums {
    fn name(&self) -> &'static str {
        "sums"
    }

    fn main_output(&self) -> &'static str {
        WINDOWS
    }

    fn build(&self, flow: &mut Flow<'_>) {
        let records = flow.source(decode);
        let records = flow.records_output(ITEMS, Layout::Flat, records);
        let aggregate = || (count(), sum(|record: &Decodable| Some(record.value as f64)));
        let windows = records.window(|record| record.key, aggregate);
        flow.windows_output(WINDOWS, Layout::Flat, &["key"], &windows, Result::of);
    }
}

/// A record with where it came from.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
struct Decodable {
    partition: u32,
    offset: u64,
    time: i64,
    key: u8,
    value: i64,
}

crate::fixed_layout!(Decodable {
    partition,
    offset,
    time,
    key,
    value,
});

/// A record as the bytes of a message.
pub(super) fn encode(partition: u32, offset: u64, item: &Item, into: &mut Vec<u8>) {
    let record = Decodable {
        partition,
        offset,
        time: item.time,
        key: item.key,
        value: item.value,
    };
    *into = postcard::to_extend(&record, std::mem::take(into)).expect("memory takes all of it");
}

fn decode(message: Message<'_>) -> std::result::Result<Decoded<Decodable>, Rejection> {
    let record: Decodable = postcard::from_bytes(message.value)
        .map_err(|_| Rejection::new(Reason::Undecodable, "no record"))?;
    Ok(Decoded::Record(EventTime(record.time), record))
}

impl Tabular for Decodable {
    fn columns() -> Vec<Column> {
        ["partition", "offset", "time", "value"]
            .map(|name| Column::new(name, ColumnType::Int))
            .into()
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.int(i64::from(self.partition));
        row.int(self.offset as i64);
        row.int(self.time);
        row.int(self.value);
    }
}

/// A window's result.
struct Result {
    start: EventTime,
    end: EventTime,
    key: u8,
    count: u64,
    sum: f64,
}

impl Result {
    fn of(row: WindowRow<'_, u8, (u64, Option<f64>)>) -> Self {
        Self {
            start: row.start,
            end: row.end,
            key: *row.key,
            count: row.value.0,
            sum: row.value.1.unwrap_or_default(),
        }
    }
}

impl Tabular for Result {
    fn columns() -> Vec<Column> {
        vec![
            Column::new("window_start", ColumnType::Timestamp),
            Column::new("window_end", ColumnType::Timestamp),
            Column::new("key", ColumnType::Int),
            Column::new("count", ColumnType::Int),
            Column::new("sum", ColumnType::Int),
        ]
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.timestamp(self.start);
        row.timestamp(self.end);
        row.int(i64::from(self.key));
        row.int(self.count as i64);
        row.int(self.sum as i64);
    }
}
