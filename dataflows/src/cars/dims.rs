//! The dimension tables of the cars pipeline: models, colours, cars.

use highwater::join::{DimRecord, DimTable, Dimensions};
use highwater::rows::{Column, ColumnType};
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

/// The models.
pub const MODELS: DimTable = DimTable {
    name: "models",
    columns: &[
        Column::new("model_id", ColumnType::Int),
        Column::new("brand", ColumnType::Text),
        Column::new("model", ColumnType::Text),
    ],
};

/// The colours.
pub const COLORS: DimTable = DimTable {
    name: "colors",
    columns: &[
        Column::new("color_id", ColumnType::Int),
        Column::new("color_name", ColumnType::Text),
    ],
};

/// The cars.
pub const CARS: DimTable = DimTable {
    name: "cars",
    columns: &[
        Column::new("car_id", ColumnType::Int),
        Column::new("driver_id", ColumnType::Int),
        Column::new("model_id", ColumnType::Int),
        Column::new("color_id", ColumnType::Int),
    ],
};

/// The tables and how their rows are read.
pub const TABLES: Dimensions<CarsKey, CarsRow> = Dimensions {
    tables: &[MODELS, COLORS, CARS],
    table_of,
    key,
    row,
};

fn table_of(key: &CarsKey) -> &'static str {
    match key {
        CarsKey::Model(_) => MODELS.name,
        CarsKey::Color(_) => COLORS.name,
        CarsKey::Car(_) => CARS.name,
    }
}

fn key(table: &str, record: &DimRecord) -> Result<CarsKey, String> {
    Ok(match table {
        "models" => CarsKey::Model(record.number("model_id")?),
        "colors" => CarsKey::Color(record.number("color_id")?),
        _ => CarsKey::Car(record.number("car_id")?),
    })
}

fn row(table: &str, record: &DimRecord) -> Result<CarsRow, String> {
    Ok(match table {
        "models" => CarsRow::Model {
            brand: record.text("brand")?,
            model: record.text("model")?,
        },
        "colors" => CarsRow::Color {
            name: record.text("color_name")?,
        },
        _ => CarsRow::Car {
            driver_id: record.number("driver_id")?,
            model_id: record.number("model_id")?,
            color_id: record.number("color_id")?,
        },
    })
}
