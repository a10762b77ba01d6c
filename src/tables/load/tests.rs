use std::sync::{Arc, Mutex};

use super::super::{TablePlace, TableRows, WriteOptions};
use super::*;
use crate::join::refresh::{between, first};
use crate::rows::{Column, ColumnType};

const DRIVERS: DimTable = DimTable {
    name: "drivers",
    columns: &[
        Column::new("id", ColumnType::Int),
        Column::new("name", ColumnType::Text),
    ],
};

const DIMENSIONS: Dimensions<u32, String> = Dimensions {
    tables: &[DRIVERS],
    table_of: |_| DRIVERS.name,
    key: |_, record| record.number("id"),
    row: |_, record| Ok(record.get("name").unwrap_or("?").to_owned()),
};

/// Holds what the test says.
#[derive(Default)]
struct Held(Mutex<Option<Contents>>);

impl TablePlace for Held {
    fn name(&self) -> String {
        "a test".to_owned()
    }

    fn read(&self, _: &[DimTable]) -> Result<Vec<Contents>, DimError> {
        let contents = self.0.lock().expect("whole").clone();
        Ok(contents.into_iter().collect())
    }

    fn write(&self, _: &[TableRows], _: &WriteOptions) -> Result<String, DimError> {
        Err(DimError("not asked for".to_owned()))
    }
}

type Known = Snapshot<u32, String>;

fn load(contents: Contents, known: &Known) -> Result<Load<u32, String>, DimError> {
    let place = Held(Mutex::new(Some(contents)));
    PlaceTables::new(Arc::new(place), DIMENSIONS).load(known)
}

fn csv(text: &str) -> Contents {
    let bytes = text.as_bytes().to_vec();
    let format = super::super::TableFormat::Csv;
    let whole =
        super::super::files::decode(&DRIVERS, "drivers.csv", bytes, format).expect("a table");
    Contents::Whole(whole)
}

fn csv_error(text: &str, known: &Known) -> String {
    load(csv(text), known).expect_err("refused").0
}

/// A message: its offset and time, its key, and a name with its `valid_from`.
type Sent<'a> = (i64, &'a str, Option<(&'a str, &'a str)>);

fn log(sent: &[Sent<'_>]) -> Contents {
    let message = |(at, key, row): &Sent<'_>| {
        let cells = row.map(|(name, from)| {
            let cell = |column: &str, text: &str| (column.to_owned(), Value::Text(text.to_owned()));
            vec![cell("name", name), cell(VALID_FROM, from)]
        });
        Message {
            at: format!("drivers[0] offset {at}"),
            key: (*key).to_owned(),
            time: Some(EventTime(*at)),
            row: Ok(cells),
        }
    };
    Contents::Log(sent.iter().map(message).collect())
}

const JAN: &str = "2024-01-01T00:00:00Z";
const FEB: &str = "2024-02-01T00:00:00Z";

/// The rows of a load, each with whether it has a time.
fn shown(load: &Load<u32, String>) -> Vec<(u32, bool, &str)> {
    let rows = load
        .rows
        .iter()
        .flat_map(|(key, rows)| rows.iter().map(move |row| (key, row)));
    rows.map(|(key, (from, name))| (*key, from.is_some(), name.as_str()))
        .collect()
}

#[test]
fn rows_with_and_without_a_time() {
    let text = "id,name,valid_from\n1,Ada,\n1,Ben,2024-01-01T10:00:00Z\n";
    let loaded = load(csv(text), &Known::new()).expect("loads");
    assert_eq!(shown(&loaded), [(1, false, "Ada"), (1, true, "Ben")]);
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    for (text, parts) in [
        ("id,name\n1,Ada\nx,Ben\n", ["drivers.csv:3: id", "\"x\""]),
        ("id,name\n1,Ada\n1,Ben\n", ["drivers.csv:3", "second row"]),
        ("id,name\n1,\n", ["drivers.csv:2: name", "missing"]),
        ("id,label\n1,Ada\n", ["no column name", "needs id, name"]),
        (
            "id,name,valid_from\n1,Ada,today\n",
            ["drivers.csv:2: valid_from", "write 2024"],
        ),
    ] {
        let error = csv_error(text, &Known::new());
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}

#[test]
fn a_table_that_has_lost_its_rows_or_its_times_is_refused() {
    let dated = format!("id,name,valid_from\n1,Ada,{JAN}\n");
    let known = load(csv(&dated), &Known::new()).expect("loads").rows;
    let error = csv_error("id,name,valid_from\n", &known);
    assert!(error.contains("drivers has no rows any more"), "{error}");
    let error = csv_error("id,name\n1,Ada\n", &known);
    assert!(error.contains("column valid_from is gone"), "{error}");
    // Neither is lost where it never was.
    assert!(load(csv("id,name\n"), &Known::new()).is_ok());
    let undated = load(csv("id,name\n1,Ada\n"), &Known::new());
    assert!(load(csv("id,name\n2,Bob\n"), &undated.expect("loads").rows).is_ok());
}

#[test]
fn of_a_log_the_last_message_of_a_key_and_time_counts() {
    let sent = [
        (1, "1", Some(("Ada", ""))),
        (2, "1", Some(("Ben", JAN))),
        (3, "1", Some(("Bea", JAN))),
        (4, "1", Some(("Ann", ""))),
        (5, "2", Some(("Cat", ""))),
        (6, "2", None),
    ];
    let loaded = load(log(&sent), &Known::new()).expect("loads");
    assert_eq!(shown(&loaded), [(1, false, "Ann"), (1, true, "Bea")]);
}

#[test]
fn what_compaction_removes_stays_known_and_what_a_message_deletes_does_not() {
    let before = [
        (1, "1", Some(("Ada", JAN))),
        (2, "1", Some(("Ben", FEB))),
        (3, "2", Some(("Cat", ""))),
        (4, "3", Some(("Dan", JAN))),
        (5, "4", Some(("Eve", ""))),
    ];
    let known = load(log(&before), &Known::new()).expect("loads").rows;
    // Compaction has kept the last message of each key; then two keys were deleted, one of which
    // compaction has forgotten.
    let after = [
        (2, "1", Some(("Ben", FEB))),
        (4, "3", Some(("Dan", JAN))),
        (5, "4", Some(("Eve", ""))),
        (7, "3", None),
        (8, "4", None),
    ];
    let loaded = load(log(&after), &known).expect("loads");
    assert_eq!(shown(&loaded), [(1, true, "Ada"), (1, true, "Ben")]);
    let changes = between(&known, &loaded, EventTime(99));
    let changes: Vec<_> = changes
        .into_iter()
        .map(|it| (it.key, it.version.0.0, it.version.1.is_some(), it.diff))
        .collect();
    let jan = crate::time::parse_rfc3339(JAN.as_bytes())
        .expect("a time")
        .0;
    let expected = [
        // Found at the load.
        (2, 99, false, 1),
        // Its row had a time of its own: it is withdrawn.
        (3, jan, true, -1),
        // From the time of the message on.
        (4, 8, false, 1),
    ];
    assert_eq!(changes, expected);
    // Played again, it changes nothing.
    let again = load(log(&after), &loaded.rows).expect("loads");
    assert_eq!(again.rows, loaded.rows);
}

#[test]
fn later_changes_of_a_log_count_from_the_time_of_their_message() {
    let known = load(log(&[(1, "1", Some(("Ada", "")))]), &Known::new()).expect("loads");
    assert_eq!(first(&known.rows)[0].version.0, EventTime::MIN);
    let sent = [
        (1, "1", Some(("Ada", ""))),
        (40, "1", Some(("Ann", ""))),
        (30, "1", Some(("Amy", ""))),
    ];
    let loaded = load(log(&sent), &known.rows).expect("loads");
    let changes = between(&known.rows, &loaded, EventTime(99));
    let changes: Vec<_> = changes.into_iter().map(|it| it.version).collect();
    let amy = Some("Amy".to_owned());
    assert_eq!(
        changes,
        [(EventTime(40), amy)],
        "never before an earlier one"
    );
}

#[test]
fn a_message_that_makes_no_sense_is_mended_by_a_later_one_of_its_key() {
    let mut sent = vec![(1, "1", Some(("Ada", "today")))];
    let error = |sent: &[Sent<'_>]| load(log(sent), &Known::new()).err().map(|it| it.0);
    let told = error(&sent).expect("refused");
    assert!(
        told.starts_with("drivers[0] offset 1: valid_from"),
        "{told}"
    );
    sent.push((2, "2", Some(("Bob", ""))));
    assert!(error(&sent).is_some(), "another key mends nothing");
    sent.push((3, "1", Some(("Ada", ""))));
    assert_eq!(error(&sent), None);
    let told = error(&[(4, "x", None)]).expect("refused");
    assert!(
        told.contains("offset 4") && told.contains("key of the message"),
        "{told}"
    );
}

#[test]
fn a_row_is_sent_under_its_own_key() {
    let cells = vec![
        ("id".to_owned(), Value::Int(2)),
        ("name".to_owned(), Value::Text("Bob".to_owned())),
    ];
    let message = Message {
        at: "drivers[0] offset 7".to_owned(),
        key: "1".to_owned(),
        time: None,
        row: Ok(Some(cells)),
    };
    let error = load(Contents::Log(vec![message]), &Known::new()).expect_err("refused");
    assert!(
        error.0.contains("offset 7") && error.0.contains("\"2\""),
        "{error}"
    );
}
