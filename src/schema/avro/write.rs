//! An event as JSON into a message.

use apache_avro::Schema;
use apache_avro::schema::RecordSchema;
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use serde_json::{Map, Value};

use super::AvroSchema;

/// Writes messages of one schema.
pub struct Writer(AvroSchema);

impl Writer {
    /// A writer.
    pub const fn new(schema: AvroSchema) -> Self {
        Self(schema)
    }

    /// Appends an event, a JSON object, as a message.
    ///
    /// # Errors
    /// When it does not fit the schema; the text says which field.
    pub fn write(&self, event: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        let event: Value = serde_json::from_slice(event).map_err(|error| error.to_string())?;
        let value = avro(&event, &self.0.root)?;
        let writer = GenericDatumWriter::builder(&self.0.root).build();
        let written = writer.and_then(|writer| writer.write_value_ref(out, &value));
        written.map(drop).map_err(|error| error.to_string())
    }
}

/// A JSON value as one of `schema`.
fn avro(value: &Value, schema: &Schema) -> Result<Avro, String> {
    let wrong = || format!("{value} does not fit the type {schema} of the schema");
    Ok(match schema {
        Schema::Null if value.is_null() => Avro::Null,
        Schema::Boolean => Avro::Boolean(value.as_bool().ok_or_else(wrong)?),
        Schema::Int => {
            let number = value.as_i64().and_then(|it| i32::try_from(it).ok());
            Avro::Int(number.ok_or_else(wrong)?)
        }
        Schema::Long => Avro::Long(value.as_i64().ok_or_else(wrong)?),
        Schema::Double => Avro::Double(value.as_f64().ok_or_else(wrong)?),
        Schema::String => Avro::String(value.as_str().ok_or_else(wrong)?.to_owned()),
        Schema::Union(union) => {
            let mut branches = union.variants().iter().enumerate();
            let fits = |(index, branch)| avro(value, branch).ok().map(|it| (index as u32, it));
            let (index, value) = branches.find_map(fits).ok_or_else(wrong)?;
            Avro::Union(index, value.into())
        }
        Schema::Record(schema) => record(value.as_object().ok_or_else(wrong)?, schema)?,
        _ => return Err(wrong()),
    })
}

/// What is not there is the field's default, or null; what the schema does not have would be lost.
fn record(event: &Map<String, Value>, schema: &RecordSchema) -> Result<Avro, String> {
    let is_known = |name: &String| schema.fields.iter().any(|field| field.name == *name);
    if let Some(name) = event.keys().find(|name| !is_known(name)) {
        return Err(format!("{name}: the schema has no such field"));
    }
    let mut fields = Vec::with_capacity(schema.fields.len());
    for field in &schema.fields {
        let value = event.get(&field.name).or(field.default.as_ref());
        let value = avro(value.unwrap_or(&Value::Null), &field.schema);
        let value = value.map_err(|reason| format!("{}: {reason}", field.name))?;
        fields.push((field.name.clone(), value));
    }
    Ok(Avro::Record(fields))
}
