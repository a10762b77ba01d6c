//! The messages of the cars pipeline: samples, and enriched samples, which alerts are as well.

use highwater::decode::{
    Decoded, Message, Reason, Rejection, Str, Text, inline_text, plain_zero, text, utf8,
};
use highwater::rows::{Column, ColumnType, RowWriter, Rows, Tabular};
use highwater::sink::encode::json::JsonEncoder;
use highwater::time::EventTime;
use serde::{Deserialize, Serialize};

/// The name of a brand, model or colour.
pub type Name = Text<24>;

/// What a car has sent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// A UUID.
    pub event_id: Option<u128>,
    /// When it was measured.
    pub event_time: EventTime,
    /// Which car.
    pub car_id: u64,
    /// In km/h.
    pub speed: Option<f64>,
    /// Revolutions per minute.
    pub rpm: Option<i32>,
    /// 1 to 7.
    pub gear: Option<i32>,
}

/// A sample with what the dimension tables know of its car. Missing texts are empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Enriched {
    /// See [`Sample::event_id`].
    pub event_id: Option<u128>,
    /// See [`Sample::event_time`].
    pub event_time: EventTime,
    /// See [`Sample::car_id`].
    pub car_id: u64,
    /// Who drives it.
    pub driver_id: Option<u64>,
    /// Brand.
    pub brand_name: Name,
    /// Model.
    pub model_name: Name,
    /// Colour.
    pub color_name: Name,
    /// See [`Sample::speed`].
    pub speed: Option<f64>,
    /// See [`Sample::rpm`].
    pub rpm: Option<i32>,
    /// See [`Sample::gear`].
    pub gear: Option<i32>,
    /// The gear that fits the speed.
    pub expected_gear: Option<i32>,
}

highwater::fixed_layout!(Enriched {
    event_id,
    event_time,
    car_id,
    driver_id,
    brand_name,
    model_name,
    color_name,
    speed,
    rpm,
    gear,
    expected_gear,
});

impl Enriched {
    /// `sample` without anything from the tables.
    pub fn of(sample: &Sample) -> Self {
        Self {
            event_id: sample.event_id,
            event_time: sample.event_time,
            car_id: sample.car_id,
            speed: sample.speed,
            rpm: sample.rpm,
            gear: sample.gear,
            ..Self::default()
        }
    }
}

/// A sample as it stands in the JSON, enriched or not.
///
/// Names are compared in this order: those of a sample come first, so that decoding one costs
/// nothing for what it does not have.
#[derive(Deserialize)]
struct Json<'a> {
    #[serde(borrow, default)]
    event_id: Option<Str<'a>>,
    #[serde(borrow, default)]
    event_time: Option<Str<'a>>,
    #[serde(default)]
    car_id: Option<CarId>,
    #[serde(default)]
    speed: Option<f64>,
    #[serde(default)]
    rpm: Option<i32>,
    #[serde(default)]
    gear: Option<i32>,
    #[serde(default)]
    driver_id: Option<u64>,
    #[serde(borrow, default)]
    brand_name: Option<Str<'a>>,
    #[serde(borrow, default)]
    model_name: Option<Str<'a>>,
    #[serde(borrow, default)]
    color_name: Option<Str<'a>>,
    #[serde(default)]
    expected_gear: Option<i32>,
}

impl Json<'_> {
    fn sample(&self, message: &Message<'_>) -> Result<Sample, Rejection> {
        Ok(Sample {
            event_time: message.event_time(text(&self.event_time), "event_time")?,
            event_id: uuid(text(&self.event_id))?,
            car_id: car_id(self.car_id)?,
            speed: self.speed.map(plain_zero),
            rpm: self.rpm,
            gear: self.gear,
        })
    }
}

/// A car's id: a number, or its digits as a text.
#[derive(Clone, Copy)]
struct CarId(u64);

impl<'de> Deserialize<'de> for CarId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Digits;
        impl serde::de::Visitor<'_> for Digits {
            type Value = CarId;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a car id")
            }

            fn visit_u64<E: serde::de::Error>(self, id: u64) -> Result<CarId, E> {
                Ok(CarId(id))
            }

            fn visit_str<E: serde::de::Error>(self, id: &str) -> Result<CarId, E> {
                id.parse().map(CarId).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Digits)
    }
}

/// Reads `sensors-sample`.
///
/// # Errors
/// When the message is no JSON of this kind, or lacks its time or car.
pub fn decode_sample(message: Message<'_>) -> Result<Decoded<Sample>, Rejection> {
    let json: Json<'_> = serde_json::from_str(utf8(message.value)?)?;
    let sample = json.sample(&message)?;
    Ok(Decoded::Record(sample.event_time, sample))
}

/// Reads `samples-enriched` and `alert-data`.
///
/// # Errors
/// As [`decode_sample`], and when a name is longer than 23 bytes.
pub fn decode_enriched(message: Message<'_>) -> Result<Decoded<Enriched>, Rejection> {
    let json: Json<'_> = serde_json::from_str(utf8(message.value)?)?;
    let sample = json.sample(&message)?;
    let driver_id = json.driver_id.map(|id| identity(id, "driver_id"));
    let enriched = Enriched {
        driver_id: driver_id.transpose()?,
        brand_name: inline_text(&json.brand_name, "brand_name")?,
        model_name: inline_text(&json.model_name, "model_name")?,
        color_name: inline_text(&json.color_name, "color_name")?,
        expected_gear: json.expected_gear,
        ..Enriched::of(&sample)
    };
    Ok(Decoded::Record(sample.event_time, enriched))
}

fn uuid(text: Option<&str>) -> Result<Option<u128>, Rejection> {
    let parse = |text: &str| {
        let id = uuid::Uuid::try_parse(text).map(|id| id.as_u128());
        id.map_err(|_| Rejection::new(Reason::Undecodable, "event_id is not a UUID"))
    };
    text.map(parse).transpose()
}

fn car_id(id: Option<CarId>) -> Result<u64, Rejection> {
    let id = id.ok_or_else(|| Rejection::new(Reason::NoKey, "car_id is missing"))?;
    identity(id.0, "car_id")
}

/// Ids are written as signed 64-bit integers.
fn identity(id: u64, field: &str) -> Result<u64, Rejection> {
    if i64::try_from(id).is_ok() {
        return Ok(id);
    }
    Err(Rejection::new(
        Reason::OutOfRange,
        format!("{field} {id} is above 2^63 - 1"),
    ))
}

/// An enriched sample as the JSON of its message.
pub fn to_json(sample: &Enriched) -> Vec<u8> {
    let mut rows = Rows::new(Enriched::columns().into());
    rows.push(sample);
    let mut bytes = Vec::new();
    JsonEncoder::new(rows.columns()).columns(&rows, 0, &mut bytes);
    bytes
}

impl Tabular for Enriched {
    fn columns() -> Vec<Column> {
        vec![
            Column::nullable("event_id", ColumnType::Uuid),
            Column::new("event_time", ColumnType::Timestamp),
            Column::new("car_id", ColumnType::Int),
            Column::nullable("driver_id", ColumnType::Int),
            Column::nullable("brand_name", ColumnType::Text),
            Column::nullable("model_name", ColumnType::Text),
            Column::nullable("color_name", ColumnType::Text),
            Column::nullable("speed", ColumnType::Float),
            Column::nullable("rpm", ColumnType::Int),
            Column::nullable("gear", ColumnType::Int),
            Column::nullable("expected_gear", ColumnType::Int),
        ]
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.uuid(self.event_id);
        row.timestamp(self.event_time);
        row.int(self.car_id as i64);
        row.int(self.driver_id.map(|id| id as i64));
        row.text(self.brand_name.or_null());
        row.text(self.model_name.or_null());
        row.text(self.color_name.or_null());
        row.float(self.speed);
        row.int(self.rpm.map(i64::from));
        row.int(self.gear.map(i64::from));
        row.int(self.expected_gear.map(i64::from));
    }

    fn message_key(&self, key: &mut Vec<u8>) {
        key.extend_from_slice(self.car_id.to_string().as_bytes());
    }
}
