//! The rows of the dimension tables: seven models, seven colours, and the cars of the generator.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use clap::ValueEnum;
use highwater::join::{DimError, Snapshot, TableSource};
use highwater::rows::{Column, ColumnType, RowWriter, Rows, Tabular};
use highwater::sink::encode::Projection;
#[cfg(feature = "parquet")]
use highwater::sink::encode::columnar::{Codec, ParquetEncoder};
use highwater::sink::encode::csv::CsvEncoder;
use highwater::source::generate::EventRng;
use highwater::source::generate::rng::Stream;

use super::dims::{CarsKey, CarsRow, TABLES};
use super::event::Name;
use super::model::car_id;

/// `model_id`, `brand`, `model`.
pub const MODELS: [Model; 7] = [
    Model(1, "Mazda", "3"),
    Model(2, "Mazda", "6"),
    Model(3, "Toyota", "Corolla"),
    Model(4, "Hyundai", "i20"),
    Model(5, "Kia", "Sportage"),
    Model(6, "Kia", "Rio"),
    Model(7, "Kia", "Picanto"),
];

/// `color_id`, `color_name`.
pub const COLORS: [Color; 7] = [
    Color(1, "Black"),
    Color(2, "Red"),
    Color(3, "Gray"),
    Color(4, "White"),
    Color(5, "Green"),
    Color(6, "Blue"),
    Color(7, "Silver"),
];

/// A row of `models`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model(pub u32, pub &'static str, pub &'static str);

/// A row of `colors`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Color(pub u32, pub &'static str);

/// A row of `cars`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Car {
    /// As in the events.
    pub car_id: u64,
    /// Nine digits, unique.
    pub driver_id: u64,
    /// Into [`MODELS`].
    pub model_id: u32,
    /// Into [`COLORS`].
    pub color_id: u32,
}

/// How many driver ids of nine digits there are.
const DRIVERS: u64 = 900_000_000;

/// Car `index`: its id is the same for every seed, the rest is drawn.
pub fn car(index: u64, seed: u64) -> Car {
    // A bijection of the index (the factor has no divisor in common with 900,000,000), shifted by
    // the seed: no two cars have the same driver.
    let shift = EventRng::new(seed, u64::MAX, Stream::Dims).below(DRIVERS);
    let driver_id = 100_000_000 + (index % DRIVERS * 618_033_989 + shift) % DRIVERS;
    let mut rng = EventRng::new(seed, index, Stream::Dims);
    let mut one_of = |count: usize| 1 + rng.below(count as u64) as u32;
    let model_id = one_of(MODELS.len());
    // Colours go round, so that the first seven cars have all of them.
    let color_id = 1 + ((index + seed) % COLORS.len() as u64) as u32;
    Car {
        car_id: car_id(index),
        driver_id,
        model_id,
        color_id,
    }
}

/// The tables without files, for the embedded generator.
#[derive(Clone, Copy, Debug)]
pub struct GeneratedTables {
    /// How many cars: as many as the generator has.
    pub cars: u64,
    /// Of what is drawn.
    pub seed: u64,
}

impl TableSource<CarsKey, CarsRow> for GeneratedTables {
    fn load(&self) -> Result<Snapshot<CarsKey, CarsRow>, DimError> {
        let name = |text: &str| {
            Name::new(text).ok_or_else(|| DimError(format!("{text:?} is too long for a name")))
        };
        let mut snapshot = Snapshot::new();
        let mut insert = |key, row| snapshot.entry(key).or_default().insert((None, row));
        for Model(id, brand, model) in MODELS {
            let row = CarsRow::Model {
                brand: name(brand)?,
                model: name(model)?,
            };
            insert(CarsKey::Model(id), row);
        }
        for Color(id, color) in COLORS {
            insert(CarsKey::Color(id), CarsRow::Color { name: name(color)? });
        }
        for Car {
            car_id,
            driver_id,
            model_id,
            color_id,
        } in (0..self.cars).map(|index| car(index, self.seed))
        {
            insert(
                CarsKey::Car(car_id),
                CarsRow::Car {
                    driver_id,
                    model_id,
                    color_id,
                },
            );
        }
        Ok(snapshot)
    }

    fn name(&self) -> String {
        format!("the dimension tables of the generator ({} cars)", self.cars)
    }
}

/// The form of the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TableFormat {
    /// Comma-separated values with a header.
    #[default]
    Csv,
    /// Parquet.
    Parquet,
}

impl TableFormat {
    /// That of the files.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        }
    }
}

impl GeneratedTables {
    /// Writes `models`, `colors` and `cars` into the folder `dir`, each under a temporary name
    /// first, so that a pipeline that reads the folder again never sees half a table.
    ///
    /// # Errors
    /// When a file cannot be written, when this build cannot write the format, or when the folder
    /// holds a table in the other format: a reader could take that one.
    pub fn write(self, dir: &Path, format: TableFormat) -> Result<(), DimError> {
        fs::create_dir_all(dir).map_err(|error| DimError(format!("{}: {error}", dir.display())))?;
        refuse_other_format(dir, format)?;
        let cars = (0..self.cars).map(|index| car(index, self.seed));
        write_table(dir, "models", &rows_of(MODELS), format)?;
        write_table(dir, "colors", &rows_of(COLORS), format)?;
        write_table(dir, "cars", &rows_of(cars), format)
    }
}

fn refuse_other_format(dir: &Path, format: TableFormat) -> Result<(), DimError> {
    let other = match format {
        TableFormat::Csv => TableFormat::Parquet,
        TableFormat::Parquet => TableFormat::Csv,
    };
    for table in TABLES.tables {
        let path = dir.join(format!("{table}.{}", other.extension()));
        if path.exists() {
            return Err(DimError(format!(
                "{} is there and might be read instead: remove it or choose another folder",
                path.display()
            )));
        }
    }
    Ok(())
}

fn rows_of<R: Tabular>(items: impl IntoIterator<Item = R>) -> Rows {
    let mut rows = Rows::new(R::columns().into());
    for item in items {
        rows.push(&item);
    }
    rows
}

fn write_table(dir: &Path, table: &str, rows: &Rows, format: TableFormat) -> Result<(), DimError> {
    let path = dir.join(format!("{table}.{}", format.extension()));
    let temporary = dir.join(format!(".{table}.{}.tmp", format.extension()));
    let written = File::create(&temporary)
        .and_then(|file| encode(rows, format, BufWriter::new(file)))
        .and_then(|()| fs::rename(&temporary, &path));
    written.map_err(|error| DimError(format!("{}: {error}", path.display())))
}

fn encode(rows: &Rows, format: TableFormat, file: BufWriter<File>) -> io::Result<()> {
    let columns = rows.columns().clone();
    let projection = Projection {
        picked: (0..columns.len()).collect(),
        columns,
        source: None,
    };
    let mut file = match format {
        TableFormat::Csv => {
            let mut encoder = CsvEncoder::new(projection, file)?;
            (0..rows.len()).try_for_each(|row| encoder.row(rows, row))?;
            encoder.finish()?
        }
        #[cfg(feature = "parquet")]
        TableFormat::Parquet => {
            let mut encoder = ParquetEncoder::new(projection, Codec::default(), file)?;
            (0..rows.len()).try_for_each(|row| encoder.row(rows, row))?;
            encoder.finish()?
        }
        #[cfg(not(feature = "parquet"))]
        TableFormat::Parquet => {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this highwater was built without the feature `parquet`",
            ));
        }
    };
    file.flush()
}

impl Tabular for Model {
    fn columns() -> Vec<Column> {
        vec![
            Column::new("model_id", ColumnType::Int),
            Column::new("brand", ColumnType::Text),
            Column::new("model", ColumnType::Text),
        ]
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.int(i64::from(self.0));
        row.text(self.1);
        row.text(self.2);
    }
}

impl Tabular for Color {
    fn columns() -> Vec<Column> {
        vec![
            Column::new("color_id", ColumnType::Int),
            Column::new("color_name", ColumnType::Text),
        ]
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.int(i64::from(self.0));
        row.text(self.1);
    }
}

impl Tabular for Car {
    fn columns() -> Vec<Column> {
        ["car_id", "driver_id", "model_id", "color_id"]
            .map(|name| Column::new(name, ColumnType::Int))
            .into()
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.int(self.car_id as i64);
        row.int(self.driver_id as i64);
        row.int(i64::from(self.model_id));
        row.int(i64::from(self.color_id));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use highwater::join::DirTables;

    use super::*;

    const TWENTY: GeneratedTables = GeneratedTables { cars: 20, seed: 1 };

    #[test]
    fn drivers_are_unique_and_have_nine_digits() {
        let drivers: HashSet<u64> = (0..50_000).map(|index| car(index, 1).driver_id).collect();
        assert_eq!(drivers.len(), 50_000);
        assert!(
            drivers
                .iter()
                .all(|id| (100_000_000..1_000_000_000).contains(id))
        );
        assert_ne!(car(0, 1).driver_id, car(0, 2).driver_id);
        assert_eq!(car(0, 1).car_id, car(0, 2).car_id);
    }

    #[test]
    fn every_model_and_color_occurs() {
        let cars = || (0..1000).map(|index| car(index, 1));
        assert_eq!(
            cars().map(|car| car.model_id).collect::<HashSet<_>>().len(),
            7
        );
        assert_eq!(
            cars().map(|car| car.color_id).collect::<HashSet<_>>().len(),
            7
        );
    }

    #[test]
    fn written_tables_are_those_of_the_generator() {
        for format in [TableFormat::Csv, TableFormat::Parquet] {
            if format == TableFormat::Parquet && !cfg!(feature = "parquet") {
                continue;
            }
            let dir = tempfile::tempdir().expect("a folder");
            TWENTY.write(dir.path(), format).expect("written");
            let loaded = DirTables::new(dir.path(), TABLES).load().expect("loads");
            let generated = TWENTY.load().expect("loads");
            assert_eq!(loaded, generated);
            assert_eq!(loaded.len(), 34);
        }
    }

    #[test]
    fn a_table_in_the_other_format_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        TWENTY.write(dir.path(), TableFormat::Csv).expect("written");
        let error = TWENTY
            .write(dir.path(), TableFormat::Parquet)
            .expect_err("refused")
            .0;
        assert!(error.contains("models.csv"), "{error}");
    }
}
