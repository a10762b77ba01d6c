//! Tables as the bytes of CSV and Parquet files.

use std::io::{self, Write};

use super::{At, TableFormat, Value, Whole};
use crate::join::{DimError, DimTable};
use crate::rows::Rows;
use crate::sink::encode::Projection;
#[cfg(feature = "parquet")]
use crate::sink::encode::columnar::{Codec, ParquetEncoder, TimeUnit};
use crate::sink::encode::csv::CsvEncoder;

/// The file of a table: `cars.csv`.
pub(super) fn file_name(table: &DimTable, format: TableFormat) -> String {
    format!("{}.{}", table.name, format.extension())
}

/// The table in a file that messages call `name`.
pub(super) fn decode(name: &str, bytes: Vec<u8>, format: TableFormat) -> Result<Whole, DimError> {
    match format {
        TableFormat::Csv => decode_csv(name, &bytes),
        TableFormat::Parquet => decode_parquet(name, bytes),
    }
}

fn decode_csv(name: &str, bytes: &[u8]) -> Result<Whole, DimError> {
    let wrong = |error: csv::Error| DimError(format!("{name}: {error}"));
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(bytes);
    let columns = reader.headers().map_err(wrong)?.iter().map(str::to_owned);
    let mut table = Whole {
        name: name.to_owned(),
        columns: columns.collect(),
        rows: Vec::new(),
    };
    for row in reader.records() {
        let row = row.map_err(wrong)?;
        let line = row.position().map_or(0, |at| at.line() as usize);
        let cells = row.iter().map(|cell| Value::Text(cell.to_owned()));
        table.rows.push((At::Line(line), cells.collect()));
    }
    Ok(table)
}

#[cfg(feature = "parquet")]
fn decode_parquet(name: &str, bytes: Vec<u8>) -> Result<Whole, DimError> {
    use parquet::file::reader::{FileReader, SerializedFileReader};

    let wrong = |error: &dyn std::fmt::Display| DimError(format!("{name}: {error}"));
    let reader =
        SerializedFileReader::new(bytes::Bytes::from(bytes)).map_err(|error| wrong(&error))?;
    let schema = reader.metadata().file_metadata().schema();
    let columns = schema.get_fields().iter().map(|field| field.name());
    let mut table = Whole {
        name: name.to_owned(),
        columns: columns.map(str::to_owned).collect(),
        rows: Vec::new(),
    };
    let rows = reader.get_row_iter(None).map_err(|error| wrong(&error))?;
    for (index, row) in rows.enumerate() {
        let row = row.map_err(|error| wrong(&error))?;
        let cells = row.get_column_iter().map(|(_, field)| value(field));
        table.rows.push((At::Row(index + 1), cells.collect()));
    }
    Ok(table)
}

#[cfg(feature = "parquet")]
fn value(field: &parquet::record::Field) -> Value {
    use crate::time::EventTime;
    use parquet::record::Field;

    let other = |kind: &str| Value::Other(kind.to_owned(), field.to_string());
    match field {
        Field::Null => Value::Null,
        Field::Bool(is) => Value::Bool(*is),
        Field::Byte(number) => Value::Int((*number).into()),
        Field::Short(number) => Value::Int((*number).into()),
        Field::Int(number) => Value::Int((*number).into()),
        Field::Long(number) => Value::Int(*number),
        Field::UByte(number) => Value::Int((*number).into()),
        Field::UShort(number) => Value::Int((*number).into()),
        Field::UInt(number) => Value::Int((*number).into()),
        Field::ULong(number) => {
            i64::try_from(*number).map_or_else(|_| other("a number beyond 2^63"), Value::Int)
        }
        Field::Float(number) => Value::Float((*number).into()),
        Field::Double(number) => Value::Float(*number),
        Field::Str(text) => Value::Text(text.clone()),
        // Some writers do not say that their bytes are text.
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => other("bytes that are no text"),
        },
        Field::TimestampMillis(millis) => Value::Time(EventTime(*millis)),
        Field::TimestampMicros(micros) => Value::Time(EventTime(micros.div_euclid(1000))),
        Field::Decimal(_) => other("a decimal"),
        Field::Date(_) => other("a date"),
        _ => other("of a type that tables do not have"),
    }
}

#[cfg(not(feature = "parquet"))]
fn decode_parquet(name: &str, _: Vec<u8>) -> Result<Whole, DimError> {
    Err(DimError(format!("{name}: {WITHOUT_PARQUET}")))
}

#[cfg(not(feature = "parquet"))]
const WITHOUT_PARQUET: &str = "this highwater was built without the feature `parquet`";

/// `more` behind `table`: the files of one table in a folder of their own.
pub(super) fn append(table: Whole, more: Whole) -> Result<Whole, DimError> {
    if table.columns.is_empty() {
        return Ok(more);
    }
    if table.columns != more.columns {
        return Err(DimError(format!(
            "{}: its columns are not those of {}; write all files of a table with the same columns",
            more.name, table.name
        )));
    }
    let rows = table.rows.into_iter().chain(more.rows);
    Ok(Whole {
        rows: rows.collect(),
        ..more
    })
}

/// Rows as the bytes of a file.
pub(super) fn encode<W: Write + Send>(rows: &Rows, format: TableFormat, to: W) -> io::Result<W> {
    let columns = rows.columns().clone();
    let projection = Projection {
        picked: (0..columns.len()).collect(),
        columns,
        source: None,
    };
    match format {
        TableFormat::Csv => {
            let mut encoder = CsvEncoder::new(projection, to)?;
            (0..rows.len()).try_for_each(|row| encoder.row(rows, row))?;
            encoder.finish()
        }
        #[cfg(feature = "parquet")]
        TableFormat::Parquet => {
            let mut encoder =
                ParquetEncoder::new(projection, TimeUnit::Millisecond, Codec::default(), to)?;
            (0..rows.len()).try_for_each(|row| encoder.row(rows, row))?;
            encoder.finish()
        }
        #[cfg(not(feature = "parquet"))]
        TableFormat::Parquet => Err(io::Error::new(io::ErrorKind::Unsupported, WITHOUT_PARQUET)),
    }
}
