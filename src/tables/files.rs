//! Tables as the bytes of CSV and Parquet files.

use std::io::{self, Write};

#[cfg(feature = "parquet")]
use parquet::record::Field;

use super::{At, TableFormat, Value, Whole};
#[cfg(feature = "parquet")]
use crate::join::VALID_FROM;
use crate::join::{DimError, DimTable};
use crate::rows::Rows;
use crate::sink::encode::Projection;
#[cfg(feature = "parquet")]
use crate::sink::encode::columnar::{Codec, ParquetEncoder, TimeUnit};
use crate::sink::encode::csv::CsvEncoder;
#[cfg(feature = "parquet")]
use crate::time::EventTime;

/// The file of a table: `cars.csv`.
pub(super) fn file_name(table: &DimTable, format: TableFormat) -> String {
    format!("{}.{}", table.name, format.extension())
}

/// The rows of `table` in a file that messages call `name`; of Parquet files only the columns that
/// the table has, whatever others hold.
pub(super) fn decode(
    table: &DimTable,
    name: &str,
    bytes: Vec<u8>,
    format: TableFormat,
) -> Result<Whole, DimError> {
    match format {
        TableFormat::Csv => decode_csv(name, &bytes),
        TableFormat::Parquet => decode_parquet(table, name, bytes),
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
fn decode_parquet(wanted: &DimTable, name: &str, bytes: Vec<u8>) -> Result<Whole, DimError> {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::schema::types::Type;

    let wrong = |error: &dyn std::fmt::Display| DimError(format!("{name}: {error}"));
    let reader =
        SerializedFileReader::new(bytes::Bytes::from(bytes)).map_err(|error| wrong(&error))?;
    let schema = reader.metadata().file_metadata().schema();
    let is_wanted =
        |name: &str| name == VALID_FROM || wanted.columns.iter().any(|column| column.name == name);
    let fields = schema.get_fields().iter();
    let fields: Vec<_> = fields.filter(|it| is_wanted(it.name())).cloned().collect();
    let nanoseconds: Vec<_> = fields
        .iter()
        .map(|field| is_in_nanoseconds(field))
        .collect();
    let mut table = Whole {
        name: name.to_owned(),
        columns: fields.iter().map(|it| it.name().to_owned()).collect(),
        rows: Vec::new(),
    };
    if fields.is_empty() {
        // That the columns are missing is said by whoever needs them, with the names that are there.
        let names = schema.get_fields().iter().map(|it| it.name().to_owned());
        table.columns = names.collect();
        return Ok(table);
    }
    let wanted = Type::group_type_builder(schema.name()).with_fields(fields);
    let wanted = wanted.build().map_err(|error| wrong(&error))?;
    let rows = reader.get_row_iter(Some(wanted));
    for (index, row) in rows.map_err(|error| wrong(&error))?.enumerate() {
        let row = row.map_err(|error| wrong(&error))?;
        let cells = row.get_column_iter().zip(&nanoseconds);
        let cells = cells.map(|((_, field), in_nanoseconds)| match field {
            Field::Long(nanos) if *in_nanoseconds => {
                Value::Time(EventTime(nanos.div_euclid(1_000_000)))
            }
            field => value(field),
        });
        table.rows.push((At::Row(index + 1), cells.collect()));
    }
    Ok(table)
}

/// Whether a column holds times in nanoseconds: the reader of rows takes them for whole numbers.
#[cfg(feature = "parquet")]
fn is_in_nanoseconds(field: &parquet::schema::types::Type) -> bool {
    use parquet::basic::{LogicalType, TimeUnit};

    let kind = field.get_basic_info().logical_type_ref();
    matches!(kind, Some(LogicalType::Timestamp(it)) if it.unit == TimeUnit::NANOS)
}

#[cfg(feature = "parquet")]
fn value(field: &Field) -> Value {
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
fn decode_parquet(_: &DimTable, name: &str, _: Vec<u8>) -> Result<Whole, DimError> {
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

#[cfg(all(test, feature = "parquet"))]
mod tests {
    use std::sync::Arc;

    use parquet::column::writer::ColumnWriter;
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::*;
    use crate::rows::{Column, ColumnType};

    const CARS: DimTable = DimTable {
        name: "cars",
        columns: &[Column::new("car_id", ColumnType::Int)],
    };

    /// A file of one row; each of its columns holds a whole number, or bytes of it.
    fn file(schema: &str, cells: &[i64]) -> Vec<u8> {
        let schema = Arc::new(parse_message_type(schema).expect("a schema"));
        let properties = Arc::new(WriterProperties::default());
        let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties).expect("begins");
        let mut group = writer.next_row_group().expect("begins");
        for cell in cells {
            let mut column = group.next_column().expect("begins").expect("a column");
            match column.untyped() {
                ColumnWriter::Int64ColumnWriter(it) => it.write_batch(&[*cell], None, None),
                ColumnWriter::Int32ColumnWriter(it) => it.write_batch(&[*cell as i32], None, None),
                ColumnWriter::FixedLenByteArrayColumnWriter(it) => {
                    it.write_batch(&[vec![*cell as u8; 12].into()], None, None)
                }
                _ => panic!("a column of another type"),
            }
            .expect("written");
            column.close().expect("closed");
        }
        group.close().expect("closed");
        writer.into_inner().expect("closed")
    }

    fn decoded(schema: &str, cells: &[i64]) -> Whole {
        let bytes = file(schema, cells);
        decode(&CARS, "cars.parquet", bytes, TableFormat::Parquet).expect("a table")
    }

    #[test]
    fn columns_that_nobody_asks_for_are_not_looked_at() {
        // An interval ends the reader of rows.
        let schema = "message m { required fixed_len_byte_array(12) every (INTERVAL); \
                      required int64 car_id; required int32 more; }";
        let whole = decoded(schema, &[1, 7, 5]);
        assert_eq!(whole.columns, ["car_id"]);
        assert_eq!(whole.rows, [(At::Row(1), vec![Value::Int(7)])]);
    }

    #[test]
    fn times_in_nanoseconds_are_cut_to_milliseconds() {
        let schema = "message m { required int64 car_id; \
                      required int64 valid_from (TIMESTAMP(NANOS,true)); }";
        let whole = decoded(schema, &[7, -1]);
        let time = Value::Time(EventTime(-1));
        assert_eq!(whole.rows[0].1, [Value::Int(7), time]);
    }

    #[test]
    fn a_file_without_any_column_of_the_table_says_what_it_has() {
        let whole = decoded("message m { required int64 car; }", &[7]);
        assert_eq!(
            (whole.columns, whole.rows.len()),
            (vec!["car".to_owned()], 0)
        );
    }
}
