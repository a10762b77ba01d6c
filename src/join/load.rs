//! Dimension tables from files: `NAME.csv` or `NAME.parquet` in a folder.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::refresh::Snapshot;
use super::{DimError, DimValue, Dimensions};
use crate::decode::Text;
use crate::time::{EventTime, parse_rfc3339};

/// One row of a dimension file: text by column name.
#[derive(Clone, Debug, Default)]
pub struct DimRecord(HashMap<String, String>);

impl DimRecord {
    /// A row of these cells.
    pub fn new(cells: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(cells.into_iter().collect())
    }

    /// The text in `column`; `None` when it is empty or there is no such column.
    pub fn get(&self, column: &str) -> Option<&str> {
        self.0
            .get(column)
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    }

    /// The text in `column`, inline.
    ///
    /// # Errors
    /// When it is missing or too long.
    pub fn text<const N: usize>(&self, column: &str) -> Result<Text<N>, String> {
        let text = self
            .get(column)
            .ok_or_else(|| format!("{column} is missing"))?;
        Text::new(text)
            .ok_or_else(|| format!("{column} is longer than {} bytes", Text::<N>::CAPACITY))
    }

    /// The whole number in `column`.
    ///
    /// # Errors
    /// When it is missing or none.
    pub fn number<I: std::str::FromStr>(&self, column: &str) -> Result<I, String> {
        let text = self
            .get(column)
            .ok_or_else(|| format!("{column} is missing"))?;
        text.parse()
            .map_err(|_| format!("{column}: {text:?} is not a number in range"))
    }

    fn valid_from(&self) -> Result<Option<EventTime>, String> {
        let parse =
            |text: &str| parse_rfc3339(text.as_bytes()).map_err(|e| format!("valid_from: {e}"));
        self.get("valid_from").map(parse).transpose()
    }
}

/// Where the tables of a pipeline come from; may be read again and again.
pub trait TableSource<K, V>: Send + Sync {
    /// Reads all tables.
    ///
    /// # Errors
    /// When one is missing or has a row that is wrong, with file and line.
    fn load(&self) -> Result<Snapshot<K, V>, DimError>;

    /// What people call it.
    fn name(&self) -> String;
}

/// A folder with one file per table.
pub struct DirTables<K, V> {
    dir: PathBuf,
    dimensions: Dimensions<K, V>,
}

impl<K, V> DirTables<K, V> {
    /// The tables of `dimensions` in `dir`.
    pub fn new(dir: impl Into<PathBuf>, dimensions: Dimensions<K, V>) -> Self {
        Self {
            dir: dir.into(),
            dimensions,
        }
    }
}

impl<K: DimValue, V: DimValue> TableSource<K, V> for DirTables<K, V> {
    fn load(&self) -> Result<Snapshot<K, V>, DimError> {
        let mut snapshot = Snapshot::new();
        for table in self.dimensions.tables {
            let (path, records) = read_table(&self.dir, table)?;
            for (line, record) in records {
                let wrong =
                    |reason: String| DimError(format!("{}:{line}: {reason}", path.display()));
                let (key, row) = (self.dimensions.parse)(table, &record).map_err(wrong)?;
                let valid_from = record.valid_from().map_err(wrong)?;
                let rows = snapshot.entry(key).or_default();
                if rows
                    .iter()
                    .any(|(from, other)| *from == valid_from && *other != row)
                {
                    return Err(wrong(
                        "a second row for the same key and valid_from".to_owned(),
                    ));
                }
                rows.insert((valid_from, row));
            }
        }
        Ok(snapshot)
    }

    fn name(&self) -> String {
        format!("dir:{}", self.dir.display())
    }
}

type Records = Vec<(usize, DimRecord)>;

fn read_table(dir: &Path, table: &str) -> Result<(PathBuf, Records), DimError> {
    let csv = dir.join(format!("{table}.csv"));
    if csv.is_file() {
        let records = read_csv(&csv)?;
        return Ok((csv, records));
    }
    let parquet = dir.join(format!("{table}.parquet"));
    if parquet.exists() {
        let records = read_parquet(&parquet)?;
        return Ok((parquet, records));
    }
    Err(DimError(format!(
        "{}: neither {table}.csv nor {table}.parquet is there; `highwater dims` makes the tables",
        dir.display()
    )))
}

fn read_csv(path: &Path) -> Result<Records, DimError> {
    let wrong = |error: csv::Error| DimError(format!("{}: {error}", path.display()));
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_path(path)
        .map_err(wrong)?;
    let names = reader.headers().map_err(wrong)?.clone();
    let mut records = Vec::new();
    for row in reader.records() {
        let row = row.map_err(wrong)?;
        let line = row
            .position()
            .map_or(0, |position| position.line() as usize);
        let cells = names
            .iter()
            .zip(&row)
            .map(|(name, cell)| (name.to_owned(), cell.to_owned()));
        records.push((line, DimRecord::new(cells)));
    }
    Ok(records)
}

/// A Parquet file, or a folder of them as batch engines write it.
#[cfg(feature = "parquet")]
fn read_parquet(path: &Path) -> Result<Records, DimError> {
    let wrong = |error: std::io::Error| DimError(format!("{}: {error}", path.display()));
    if path.is_file() {
        return read_parquet_file(path);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(wrong)? {
        let file = entry.map_err(wrong)?.path();
        if file
            .extension()
            .is_some_and(|extension| extension == "parquet")
        {
            files.push(file);
        }
    }
    files.sort();
    let mut records = Vec::new();
    for file in files {
        records.extend(read_parquet_file(&file)?);
    }
    Ok(records)
}

#[cfg(feature = "parquet")]
fn read_parquet_file(path: &Path) -> Result<Records, DimError> {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::Field;

    let wrong = |error: &dyn std::fmt::Display| DimError(format!("{}: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(|error| wrong(&error))?;
    let reader = SerializedFileReader::new(file).map_err(|error| wrong(&error))?;
    let mut records = Vec::new();
    for (index, row) in reader
        .get_row_iter(None)
        .map_err(|error| wrong(&error))?
        .enumerate()
    {
        let row = row.map_err(|error| wrong(&error))?;
        let cells = row.get_column_iter().map(|(name, field)| {
            let text = match field {
                Field::Null => String::new(),
                Field::Str(text) => text.clone(),
                Field::TimestampMillis(millis) => EventTime(*millis).to_string(),
                Field::TimestampMicros(micros) => EventTime(micros.div_euclid(1000)).to_string(),
                Field::Bytes(bytes) => String::from_utf8_lossy(bytes.data()).into_owned(),
                other => other.to_string(),
            };
            (name.clone(), text)
        });
        records.push((index + 1, DimRecord::new(cells)));
    }
    Ok(records)
}

#[cfg(not(feature = "parquet"))]
fn read_parquet(path: &Path) -> Result<Records, DimError> {
    let path = path.display();
    Err(DimError(format!(
        "{path}: this highwater was built without the feature `parquet`"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRIVERS: Dimensions<u32, String> = Dimensions {
        tables: &["drivers"],
        parse: |_, record| {
            Ok((
                record.number("id")?,
                record.get("name").unwrap_or("?").to_owned(),
            ))
        },
    };

    fn load(csv: &str) -> Result<Snapshot<u32, String>, DimError> {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("drivers.csv"), csv).expect("written");
        DirTables::new(dir.path(), DRIVERS).load()
    }

    #[test]
    fn rows_with_and_without_a_time() {
        let rows = load("id,name,valid_from\n1,Ada,\n1,Ben,2024-01-01T10:00:00Z\n").expect("loads");
        let times: Vec<_> = rows[&1]
            .iter()
            .map(|(from, name)| (from.is_some(), name.as_str()))
            .collect();
        assert_eq!(times, [(false, "Ada"), (true, "Ben")]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let error = load("id,name\n1,Ada\nx,Ben\n").expect_err("not a number").0;
        assert!(
            error.contains("drivers.csv:3:") && error.contains("\"x\""),
            "{error}"
        );
        let error = load("id,name\n1,Ada\n1,Ben\n").expect_err("twice").0;
        assert!(error.contains("second row"), "{error}");
    }

    #[test]
    fn a_missing_table_says_what_to_do() {
        let dir = tempfile::tempdir().expect("a folder");
        let error = DirTables::new(dir.path(), DRIVERS)
            .load()
            .expect_err("missing")
            .0;
        assert!(
            error.contains("drivers.csv") && error.contains("highwater dims"),
            "{error}"
        );
    }
}
