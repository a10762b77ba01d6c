//! Messages whose schema a registry has.
//!
//! * [`frame`]: the five bytes in front of each message.
//! * [`registry`]: the client of the registry.
//! * [`avro`]: a message of one schema as the JSON of another, and back.
//! * [`schemas`]: the schemas that a run has met; what its readers go through.
//! * [`framed`]: a source whose messages are framed.
//! * [`producer`]: registers a schema, and frames what is generated.

use std::fmt;

pub use self::avro::AvroSchema;
pub use self::frame::SchemaId;
pub use self::framed::Framed;
pub use self::producer::Producer;
pub use self::registry::{Registered, Registry, RegistryError, RegistryOptions};
pub use self::schemas::{Schemas, SchemasOptions};

pub mod avro;
pub mod frame;
pub mod framed;
pub mod producer;
pub mod registry;
pub mod schemas;

/// The language of a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaKind {
    /// Avro: messages are binary.
    Avro,
    /// JSON Schema: messages are JSON.
    Json,
}

impl SchemaKind {
    /// What registries call it.
    pub const fn registry_name(self) -> &'static str {
        match self {
            Self::Avro => "AVRO",
            Self::Json => "JSON",
        }
    }
}

impl fmt::Display for SchemaKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Avro => "Avro",
            Self::Json => "JSON Schema",
        })
    }
}

/// The subject of the values of a topic (`TopicNameStrategy`).
pub fn subject_of(topic: &str) -> String {
    format!("{topic}-value")
}
