//! What a place holds, as the rows that a pipeline joins with.
//!
//! A **whole** table is taken as it stands. A **log** is played, message by message, upon the rows
//! that the last load gave: a message with a `valid_from` replaces the version of that time, one
//! without replaces the row without a time (and counts from its own time in the log), and one
//! without a row deletes the key. So what compaction has removed since stays known, and a log that
//! is played a second time changes nothing. A key of which the log has no message at all is
//! deleted: compaction keeps the last message of each key, and in the end removes deletions.
//!
//! What is refused, because a mistake looks just like it: a table without the columns that the
//! pipeline needs; one that had rows and now has none; a whole table that had rows with
//! `valid_from` and has no such column any more. Then the rows known before stay in use.

use std::collections::{BTreeMap, BTreeSet};

use super::{At, Contents, Message, SharedPlace, Value, Whole};
use crate::join::{
    DimError, DimRecord, DimTable, DimValue, Dimensions, Load, Snapshot, TableSource, VALID_FROM,
};
use crate::time::EventTime;

/// The tables of a pipeline in a place.
pub struct PlaceTables<K, V> {
    place: SharedPlace,
    dimensions: Dimensions<K, V>,
}

impl<K, V> PlaceTables<K, V> {
    /// The tables of `dimensions` in `place`.
    pub fn new(place: SharedPlace, dimensions: Dimensions<K, V>) -> Self {
        Self { place, dimensions }
    }
}

impl<K: DimValue, V: DimValue> TableSource<K, V> for PlaceTables<K, V> {
    fn load(&self, known: &Snapshot<K, V>) -> Result<Load<K, V>, DimError> {
        let mut load = Load::default();
        let contents = self.place.read(self.dimensions.tables)?;
        for (table, contents) in self.dimensions.tables.iter().zip(contents) {
            let reader = TableReader {
                table,
                dimensions: &self.dimensions,
                known,
            };
            match contents {
                Contents::Whole(whole) => reader.whole(&whole, &mut load)?,
                Contents::Log(messages) => reader.log(messages, &mut load)?,
            }
            reader.refuse_empty(&self.place.name(), &load)?;
        }
        Ok(load)
    }

    fn name(&self) -> String {
        self.place.name()
    }
}

/// A row whose cells fit their columns.
pub struct CheckedRow {
    /// From when on it is valid.
    pub valid_from: Option<EventTime>,
    /// Its cells.
    pub record: DimRecord,
}

/// Checks the cells of a row of `table`; `get` gives that of a column.
///
/// # Errors
/// When one does not fit; with the column and what to do.
pub fn check_row<'v>(
    table: &DimTable,
    get: impl Fn(&str) -> Option<&'v Value>,
) -> Result<CheckedRow, String> {
    let mut cells = Vec::with_capacity(table.columns.len());
    for column in table.columns {
        let value = get(column.name).unwrap_or(&Value::Null);
        if let Some(text) = value.checked(column)? {
            cells.push((column.name.to_owned(), text));
        }
    }
    let time = get(VALID_FROM).map(|value| value.time(VALID_FROM));
    Ok(CheckedRow {
        valid_from: time.transpose()?.flatten(),
        record: DimRecord::new(cells),
    })
}

/// The rows of a whole table, checked; each with its place for messages.
///
/// # Errors
/// When a column is missing or a cell does not fit.
pub fn check_whole(table: &DimTable, whole: &Whole) -> Result<Vec<(String, CheckedRow)>, DimError> {
    let positions: BTreeMap<&str, usize> = whole
        .columns
        .iter()
        .enumerate()
        .map(|(at, name)| (name.as_str(), at))
        .collect();
    for column in table.columns {
        if !positions.contains_key(column.name) {
            return Err(DimError(format!(
                "{}: there is no column {}; {} needs {} (and may have {VALID_FROM}): add it, or \
                 rename the one that is meant",
                whole.name,
                column.name,
                table.name,
                names(table).join(", ")
            )));
        }
    }
    let check = |(at, cells): &(At, Vec<Value>)| {
        let get = |name: &str| cells.get(*positions.get(name)?);
        let place = place_of(table, &whole.name, *at, get(table.key()));
        match check_row(table, get) {
            Ok(row) => Ok((place, row)),
            Err(reason) => Err(DimError(format!("{place}: {reason}"))),
        }
    };
    whole.rows.iter().map(check).collect()
}

fn names(table: &DimTable) -> Vec<&'static str> {
    table.columns.iter().map(|column| column.name).collect()
}

fn place_of(table: &DimTable, name: &str, at: At, key: Option<&Value>) -> String {
    match (at, key) {
        (At::Line(line), _) => format!("{name}:{line}"),
        (At::Row(row), _) => format!("{name}, row {row}"),
        (At::Unordered, Some(Value::Int(key))) => format!("{name}, {} {key}", table.key()),
        (At::Unordered, Some(Value::Text(key))) => format!("{name}, {} {key:?}", table.key()),
        (At::Unordered, _) => name.to_owned(),
    }
}

/// Reads one table.
struct TableReader<'a, K, V> {
    table: &'a DimTable,
    dimensions: &'a Dimensions<K, V>,
    known: &'a Snapshot<K, V>,
}

impl<K: DimValue, V: DimValue> TableReader<'_, K, V> {
    fn key(&self, record: &DimRecord) -> Result<K, String> {
        (self.dimensions.key)(self.table.name, record)
    }

    fn row(&self, record: &DimRecord) -> Result<V, String> {
        (self.dimensions.row)(self.table.name, record)
    }

    fn is_mine(&self, key: &K) -> bool {
        (self.dimensions.table_of)(key) == self.table.name
    }

    fn whole(&self, whole: &Whole, load: &mut Load<K, V>) -> Result<(), DimError> {
        self.refuse_lost_times(whole)?;
        for (place, row) in check_whole(self.table, whole)? {
            let wrong = |reason: String| DimError(format!("{place}: {reason}"));
            let key = self.key(&row.record).map_err(wrong)?;
            let value = self.row(&row.record).map_err(wrong)?;
            let rows = load.rows.entry(key).or_default();
            let is_same_time =
                |(from, other): &(Option<EventTime>, V)| *from == row.valid_from && *other != value;
            if rows.iter().any(is_same_time) {
                return Err(wrong(
                    "a second row for the same key and valid_from".to_owned(),
                ));
            }
            rows.insert((row.valid_from, value));
        }
        Ok(())
    }

    fn refuse_lost_times(&self, whole: &Whole) -> Result<(), DimError> {
        let is_dated = |(key, rows): (&K, &BTreeSet<(Option<EventTime>, V)>)| {
            self.is_mine(key) && rows.iter().any(|(from, _)| from.is_some())
        };
        let has_times = whole.columns.iter().any(|name| name == VALID_FROM);
        if !has_times && self.known.iter().any(is_dated) {
            return Err(DimError(format!(
                "{}: the column {VALID_FROM} is gone, and with it the history of rows that had \
                 one: put it back (to do without, start anew with --fresh)",
                whole.name
            )));
        }
        Ok(())
    }

    fn refuse_empty(&self, place: &str, load: &Load<K, V>) -> Result<(), DimError> {
        let has_rows = |rows: &Snapshot<K, V>| rows.keys().any(|key| self.is_mine(key));
        if has_rows(self.known) && !has_rows(&load.rows) {
            return Err(DimError(format!(
                "{place}: table {} has no rows any more, as one that is just being written: put \
                 them back, or leave at least one",
                self.table.name
            )));
        }
        Ok(())
    }

    fn log(&self, messages: Vec<Message>, load: &mut Load<K, V>) -> Result<(), DimError> {
        let mut fold = Fold::new();
        for message in messages {
            if let Err(reason) = self.message(&message, &mut fold) {
                let wrong = DimError(format!("{}: {reason}", message.at));
                fold.wrong.insert(message.key, wrong);
            } else {
                fold.wrong.remove(&message.key);
            }
        }
        if let Some((_, wrong)) = fold.wrong.pop_first() {
            return Err(wrong);
        }
        let rows = fold.rows.into_iter().filter(|(_, rows)| !rows.is_empty());
        load.rows
            .extend(rows.map(|(key, rows)| (key, rows.into_iter().collect())));
        load.times.extend(fold.times);
        Ok(())
    }

    fn message(&self, message: &Message, fold: &mut Fold<K, V>) -> Result<(), String> {
        let name = self.table.key();
        let of_key = DimRecord::new([(name.to_owned(), message.key.clone())]);
        let key = self.key(&of_key);
        let key = key.map_err(|reason| format!("the key of the message: {reason}"))?;
        let Some(mut cells) = message.row.clone()? else {
            fold.rows.insert(key.clone(), BTreeMap::new());
            fold.changed(key, message.time);
            return Ok(());
        };
        if !cells.iter().any(|(column, _)| column == name) {
            cells.push((name.to_owned(), Value::Text(message.key.clone())));
        }
        let get = |name: &str| {
            let cell = cells.iter().find(|(column, _)| column == name);
            cell.map(|(_, value)| value)
        };
        let row = check_row(self.table, get)?;
        if self.key(&row.record)? != key {
            let other = row.record.get(name).unwrap_or_default();
            return Err(format!(
                "the key of the message is {:?}, and {name} in its value is {other:?}: send each \
                 row under its own {name}",
                message.key
            ));
        }
        let value = self.row(&row.record)?;
        let known = || {
            let rows = self.known.get(&key).into_iter().flatten();
            rows.cloned().collect()
        };
        let rows = fold.rows.entry(key.clone()).or_insert_with(known);
        rows.insert(row.valid_from, value);
        if row.valid_from.is_none() {
            fold.changed(key, message.time);
        }
        Ok(())
    }
}

/// A log as far as it has been played.
struct Fold<K, V> {
    rows: BTreeMap<K, BTreeMap<Option<EventTime>, V>>,
    /// When the row without a time last changed.
    times: BTreeMap<K, EventTime>,
    /// Messages that make no sense, by key: a later one of the same key mends it.
    wrong: BTreeMap<String, DimError>,
}

impl<K: Ord, V> Fold<K, V> {
    fn new() -> Self {
        Self {
            rows: BTreeMap::new(),
            times: BTreeMap::new(),
            wrong: BTreeMap::new(),
        }
    }

    /// A change counts at no time before one that came earlier in the log.
    fn changed(&mut self, key: K, time: Option<EventTime>) {
        if let Some(time) = time {
            let last = self.times.entry(key).or_insert(time);
            *last = (*last).max(time);
        }
    }
}

#[cfg(test)]
mod tests;
