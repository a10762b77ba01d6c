//! The schema of a table, and what its folders and data files say about themselves.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::statistics::Statistics;
use serde_json::{Map, Value, json};

use crate::rows::ColumnType;
use crate::sink::encode::Projection;
use crate::sink::files::names::{NULL_FOLDER, unescape};
use crate::sink::{Layout, OutputSpec, SinkError};
use crate::time::EventTime;

/// The columns that the folders of `output` stand for, with their types.
fn partition_fields(output: &OutputSpec) -> Vec<(&'static str, &'static str)> {
    match output.layout {
        Layout::Flat => Vec::new(),
        Layout::DateHour(_) => vec![("date", "date"), ("hour", "integer")],
        Layout::Value(name) => vec![(name, "string")],
    }
}

/// Their names.
pub(super) fn partition_columns(output: &OutputSpec) -> Vec<String> {
    let fields = partition_fields(output);
    fields.iter().map(|(name, _)| (*name).to_owned()).collect()
}

/// The schema of `output` as Delta writes it: the columns of its files, then those of its folders.
///
/// # Errors
/// When a column has the name of one that stands for folders.
pub(super) fn schema(output: &OutputSpec) -> Result<Value, SinkError> {
    let field = |name: &str, kind: &str, nullable: bool| json!({"name": name, "type": kind, "nullable": nullable, "metadata": {}});
    let projection = Projection::file(output);
    let columns = projection.all();
    let mut fields: Vec<Value> = columns
        .map(|column| field(column.name, kind(column.kind), column.nullable))
        .collect();
    for (name, kind) in partition_fields(output) {
        let is_there = |it: &Value| {
            it["name"]
                .as_str()
                .is_some_and(|it| it.eq_ignore_ascii_case(name))
        };
        if fields.iter().any(is_there) {
            return Err(SinkError::Config(format!(
                "output {} has a column {name} of its own, and a Delta table of it would have two; \
                 send it to parquet:",
                output.name
            )));
        }
        fields.push(field(name, kind, true));
    }
    Ok(json!({"type": "struct", "fields": fields}))
}

const fn kind(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::Int => "long",
        ColumnType::Float => "double",
        ColumnType::Text | ColumnType::Uuid => "string",
        ColumnType::Timestamp => "timestamp",
        ColumnType::Bool => "boolean",
        ColumnType::Bytes => "binary",
    }
}

/// The names of a schema's columns with their types, for people and for comparison.
pub(super) fn columns_of(schema: &Value) -> Vec<String> {
    let fields = schema["fields"].as_array().into_iter().flatten();
    fields
        .map(|field| {
            let kind = match &field["type"] {
                Value::String(kind) => kind.clone(),
                other => other.to_string(),
            };
            format!("{} {kind}", field["name"].as_str().unwrap_or_default())
        })
        .collect()
}

/// What the folders in the name of a data file say. `name` has them as `NAME=VALUE/`.
pub(super) fn partition_values(name: &str) -> BTreeMap<String, Option<String>> {
    let folders = name.split('/').filter_map(|part| part.split_once('='));
    folders
        .map(|(column, value)| {
            let value = match (column, value) {
                (_, NULL_FOLDER) => None,
                ("hour", digits) => Some(digits.trim_start_matches('0')).map(|it| {
                    if it.is_empty() {
                        "0".to_owned()
                    } else {
                        it.to_owned()
                    }
                }),
                (_, value) => Some(unescape(value)),
            };
            (column.to_owned(), value)
        })
        .collect()
}

/// The name of a data file as a URI, relative to the table.
pub(super) fn uri(name: &str) -> String {
    let mut uri = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/=".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri
}

/// As JSON: how many rows the data file at `path` has, and between which values its numbers and times lie,
/// with which readers pass over files that they need not read.
pub(super) fn stats(path: &Path) -> Result<String, ParquetError> {
    let reader = SerializedFileReader::new(File::open(path)?)?;
    let metadata = reader.metadata();
    let rows = metadata.file_metadata().num_rows();
    let (mut least, mut most, mut nulls) = (Map::new(), Map::new(), Map::new());
    let schema = metadata.file_metadata().schema_descr();
    for (at, column) in schema.columns().iter().enumerate() {
        let groups = metadata.row_groups().iter();
        let parts: Option<Vec<&Statistics>> =
            groups.map(|group| group.column(at).statistics()).collect();
        let Some(parts) = parts else { continue };
        let name = column.name().to_owned();
        let count: Option<u64> = parts.iter().map(|part| part.null_count_opt()).sum();
        if let Some(count) = count {
            nulls.insert(name.clone(), count.into());
        }
        let is_time = column.logical_type_ref().is_some();
        if let Some((low, high)) = bounds(&parts, is_time) {
            least.insert(name.clone(), low);
            most.insert(name, high);
        }
    }
    let stats =
        json!({"numRecords": rows, "minValues": least, "maxValues": most, "nullCount": nulls});
    Ok(stats.to_string())
}

/// The least and the greatest value; `None` where a part has none, or none that JSON can tell.
fn bounds(parts: &[&Statistics], is_time: bool) -> Option<(Value, Value)> {
    let (mut ints, mut floats) = (Vec::new(), Vec::new());
    for part in parts {
        match part {
            Statistics::Int64(it) => ints.extend([*it.min_opt()?, *it.max_opt()?]),
            Statistics::Double(it) => floats.extend([*it.min_opt()?, *it.max_opt()?]),
            _ => return None,
        }
    }
    if let (Some(low), Some(high)) = (ints.iter().min(), ints.iter().max()) {
        return Some(if is_time {
            // Rounded outwards: statistics have milliseconds.
            let time = |ms: i64| Value::from(EventTime(ms).to_string());
            (time(low.div_euclid(1000)), time(-(-high).div_euclid(1000)))
        } else {
            ((*low).into(), (*high).into())
        });
    }
    let low = floats.iter().copied().reduce(f64::min)?;
    let high = floats.iter().copied().reduce(f64::max)?;
    (low.is_finite() && high.is_finite()).then(|| (low.into(), high.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_values_and_names_are_uris() {
        let values = partition_values("date=2024-01-01/hour=00/alerts-e1-s000.parquet");
        assert_eq!(values["date"].as_deref(), Some("2024-01-01"));
        assert_eq!(values["hour"].as_deref(), Some("0"));
        let name = "reason=a%2Fb c/x.parquet";
        assert_eq!(partition_values(name)["reason"].as_deref(), Some("a/b c"));
        assert_eq!(uri(name), "reason=a%252Fb%20c/x.parquet");
        let null = partition_values("reason=__HIVE_DEFAULT_PARTITION__/x.parquet");
        assert_eq!(null["reason"], None);
        assert!(partition_values("x.parquet").is_empty());
        assert_eq!(partition_values("hour=05/x")["hour"].as_deref(), Some("5"));
    }
}
