//! A folder with a file per table: `NAME.csv` or `NAME.parquet`, or a folder `NAME.parquet` of
//! Parquet files as batch engines write it.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::files::{append, decode, encode, file_name};
use super::{Contents, TableFormat, TablePlace, TableRows, Whole, WriteOptions, listed};
use crate::join::{DimError, DimTable};

/// A folder.
pub(super) struct FolderPlace {
    dir: PathBuf,
}

impl FolderPlace {
    pub(super) fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    fn read_table(&self, table: &DimTable) -> Result<Whole, DimError> {
        let csv = self.dir.join(file_name(table, TableFormat::Csv));
        if csv.is_file() {
            return read_file(table, &csv, TableFormat::Csv);
        }
        let parquet = self.dir.join(file_name(table, TableFormat::Parquet));
        if parquet.is_dir() {
            return read_folder(table, &parquet);
        }
        if parquet.exists() {
            return read_file(table, &parquet, TableFormat::Parquet);
        }
        Err(DimError(format!(
            "{}: neither {name}.csv nor {name}.parquet is there; `highwater dims` makes the tables",
            self.dir.display(),
            name = table.name
        )))
    }
}

fn wrong(path: &Path, error: &dyn std::fmt::Display) -> DimError {
    DimError(format!("{}: {error}", path.display()))
}

fn read_file(table: &DimTable, path: &Path, format: TableFormat) -> Result<Whole, DimError> {
    let bytes = fs::read(path).map_err(|error| wrong(path, &error))?;
    decode(table, &path.display().to_string(), bytes, format)
}

fn read_folder(table: &DimTable, path: &Path) -> Result<Whole, DimError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(|error| wrong(path, &error))? {
        let file = entry.map_err(|error| wrong(path, &error))?.path();
        if file.extension().is_some_and(|it| it == "parquet") {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(wrong(path, &"there is no Parquet file in this folder"));
    }
    let read = |whole, file: &PathBuf| append(whole, read_file(table, file, TableFormat::Parquet)?);
    files.iter().try_fold(Whole::default(), read)
}

impl TablePlace for FolderPlace {
    fn name(&self) -> String {
        format!("dir:{}", self.dir.display())
    }

    fn read(&self, tables: &[DimTable]) -> Result<Vec<Contents>, DimError> {
        let read = |table| self.read_table(table).map(Contents::Whole);
        tables.iter().map(read).collect()
    }

    /// Each file is written under a temporary name first, so that a pipeline that reads the folder
    /// again never sees half a table.
    fn write(&self, tables: &[TableRows], options: &WriteOptions) -> Result<String, DimError> {
        let format = options.format;
        fs::create_dir_all(&self.dir).map_err(|error| wrong(&self.dir, &error))?;
        for it in tables {
            let other = self.dir.join(file_name(&it.table, format.other()));
            if other.exists() {
                let what = "is there and might be read instead: remove it or choose another folder";
                return Err(DimError(format!("{} {what}", other.display())));
            }
        }
        for it in tables {
            let name = file_name(&it.table, format);
            let (path, temporary) = (self.dir.join(&name), self.dir.join(format!(".{name}.tmp")));
            let written = File::create(&temporary)
                .and_then(|file| encode(&it.rows, format, BufWriter::new(file)))
                .and_then(|mut file| file.flush())
                .and_then(|()| fs::rename(&temporary, &path));
            written.map_err(|error| wrong(&path, &error))?;
        }
        let made = listed(tables, |table| file_name(table, format));
        Ok(format!("{}: {made}", self.dir.display()))
    }
}
