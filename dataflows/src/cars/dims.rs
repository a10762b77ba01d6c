//! The dimension tables of the cars pipeline: models, colours, cars.

use highwater::join::{DimRecord, Dimensions};
use serde::{Deserialize, Serialize};

use super::event::Name;

/// The key of a row: the table, and the id in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CarsKey {
    /// In `cars`.
    Car(u64),
    /// In `models`.
    Model(u32),
    /// In `colors`.
    Color(u32),
}

/// A row of one of the tables.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CarsRow {
    /// Of `cars`.
    Car {
        /// Who drives it.
        driver_id: u64,
        /// Into `models`.
        model_id: u32,
        /// Into `colors`.
        color_id: u32,
    },
    /// Of `models`.
    Model {
        /// Who makes it.
        brand: Name,
        /// What they call it.
        model: Name,
    },
    /// Of `colors`.
    Color {
        /// Its name.
        name: Name,
    },
}

/// The tables and how their rows are read.
pub const TABLES: Dimensions<CarsKey, CarsRow> = Dimensions {
    tables: &["models", "colors", "cars"],
    parse,
};

fn parse(table: &str, record: &DimRecord) -> Result<(CarsKey, CarsRow), String> {
    Ok(match table {
        "models" => (
            CarsKey::Model(record.number("model_id")?),
            CarsRow::Model {
                brand: record.text("brand")?,
                model: record.text("model")?,
            },
        ),
        "colors" => (
            CarsKey::Color(record.number("color_id")?),
            CarsRow::Color {
                name: record.text("color_name")?,
            },
        ),
        _ => (
            CarsKey::Car(record.number("car_id")?),
            CarsRow::Car {
                driver_id: record.number("driver_id")?,
                model_id: record.number("model_id")?,
                color_id: record.number("color_id")?,
            },
        ),
    })
}
