//! The rows of the dimension tables: seven models, seven colours, and the cars of the generator.

use highwater::join::{DimError, DimTable, Load, Snapshot, TableSource};
use highwater::rows::{Column, RowWriter, Rows, Tabular};
use highwater::source::generate::EventRng;
use highwater::source::generate::rng::Stream;
use highwater::tables::TableRows;

use super::dims::{self, CarsKey, CarsRow};
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
    fn load(&self, _: &Snapshot<CarsKey, CarsRow>) -> Result<Load<CarsKey, CarsRow>, DimError> {
        let name = |text: &str| {
            Name::new(text).ok_or_else(|| DimError(format!("{text:?} is too long for a name")))
        };
        let mut load = Load::default();
        let mut insert = |key, row| load.rows.entry(key).or_default().insert((None, row));
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
        Ok(load)
    }

    fn name(&self) -> String {
        format!("the dimension tables of the generator ({} cars)", self.cars)
    }
}

impl GeneratedTables {
    /// The rows of `models`, `colors` and `cars`.
    pub fn rows(self) -> Vec<TableRows> {
        let cars = (0..self.cars).map(|index| car(index, self.seed));
        vec![
            rows_of(dims::MODELS, MODELS),
            rows_of(dims::COLORS, COLORS),
            rows_of(dims::CARS, cars),
        ]
    }
}

fn rows_of<R: Tabular>(table: DimTable, items: impl IntoIterator<Item = R>) -> TableRows {
    let mut rows = Rows::new(R::columns().into());
    for item in items {
        rows.push(&item);
    }
    TableRows { table, rows }
}

impl Tabular for Model {
    fn columns() -> Vec<Column> {
        dims::MODELS.columns.to_vec()
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.int(i64::from(self.0));
        row.text(self.1);
        row.text(self.2);
    }
}

impl Tabular for Color {
    fn columns() -> Vec<Column> {
        dims::COLORS.columns.to_vec()
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.int(i64::from(self.0));
        row.text(self.1);
    }
}

impl Tabular for Car {
    fn columns() -> Vec<Column> {
        dims::CARS.columns.to_vec()
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

    use highwater::tables::{
        PlaceOptions, PlaceTables, TableFormat, WriteOptions, copy::rows_in, parse_place,
    };

    use super::super::dims::TABLES;
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
            let place = |name: &str| {
                let uri = format!("dir:{}", dir.path().join(name).display());
                parse_place(&uri, &PlaceOptions::default()).expect("a place")
            };
            let options = WriteOptions {
                format,
                replace: false,
            };
            let (made, copied) = (place("made"), place("copied"));
            made.write(&TWENTY.rows(), &options).expect("written");
            let rows = rows_in(&*made, TABLES.tables).expect("read");
            copied.write(&rows, &options).expect("written");
            for place in [made, copied] {
                let tables = PlaceTables::new(place, TABLES);
                let loaded = tables.load(&Snapshot::new()).expect("loads");
                assert_eq!(loaded, TWENTY.load(&Snapshot::new()).expect("loads"));
                assert_eq!(loaded.rows.len(), 34);
            }
        }
    }

    #[test]
    fn a_table_in_the_other_format_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let uri = dir.path().display().to_string();
        let place = parse_place(&uri, &PlaceOptions::default()).expect("a place");
        let write = |format| {
            let options = WriteOptions {
                format,
                replace: false,
            };
            place.write(&TWENTY.rows(), &options)
        };
        write(TableFormat::Csv).expect("written");
        let error = write(TableFormat::Parquet).expect_err("refused").0;
        assert!(error.contains("models.csv"), "{error}");
    }
}
