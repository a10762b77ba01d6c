//! Avro: schemas, and the way from a message to the JSON that a pipeline's decoder knows and back.
//!
//! A message holds values without names: it is read with the schema that wrote it. What the
//! pipeline wants is its own schema, the reader's. The two are resolved into one another once per
//! schema id, by the rules of the specification ("Schema Resolution"): fields go by their names and
//! aliases, those that the reader does not know are passed over, those that the writer did not know
//! get the reader's defaults, numbers are widened. What is left is a [`Plan`]: which value to
//! expect at each place, and what to write for it.
//!
//! A plan reads untrusted bytes: lengths are checked against what is there before anything is
//! reserved, and nothing but the output is allocated.

mod plan;
mod resolve;
#[cfg(test)]
mod tests;
mod write;

use apache_avro::Schema;
use apache_avro::schema_compatibility::SchemaCompatibility;

pub use self::plan::{Plan, Problem};
pub use self::write::Writer;

/// A schema, and those that it refers to.
#[derive(Clone, Debug)]
pub struct AvroSchema {
    root: Schema,
    others: Vec<Schema>,
}

impl AvroSchema {
    /// Reads a schema that refers to `others`, or to none.
    ///
    /// # Errors
    /// When the text is no schema.
    pub fn parse(text: &str, others: &[String]) -> Result<Self, String> {
        let parsed = if others.is_empty() {
            Schema::parse_str(text).map(|root| (root, Vec::new()))
        } else {
            Schema::parse_str_with_list(text, others)
        };
        let (root, others) = parsed.map_err(|error| format!("not an Avro schema: {error}"))?;
        Ok(Self { root, others })
    }

    /// Why what was written with `writer` cannot be read with this one; `None`: it can.
    pub fn objection_to(&self, writer: &Self) -> Option<String> {
        if let Err(reason) = Plan::new(writer, Some(self)) {
            return Some(reason);
        }
        if !self.others.is_empty() || !writer.others.is_empty() {
            return None;
        }
        let read = SchemaCompatibility::can_read(&writer.root, &self.root);
        read.err().map(|error| error.to_string())
    }
}
