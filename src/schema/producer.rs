//! The side that writes: its schema is registered before the first message, and each message says
//! which one it is.

use super::avro::Writer;
use super::registry::{Registry, RegistryError};
use super::{AvroSchema, SchemaId, SchemaKind, frame};
use crate::source::Pack;

/// Frames events whose schema is registered.
pub struct Producer {
    id: SchemaId,
    /// `None`: events are JSON as they are.
    avro: Option<Writer>,
}

impl Producer {
    /// Registers `schema` under `subject`.
    ///
    /// # Errors
    /// When the registry refuses it (then the text says by which rule, what differs, and what to
    /// do), or cannot be asked.
    pub fn register(
        registry: &Registry,
        subject: &str,
        kind: SchemaKind,
        schema: &str,
    ) -> Result<Self, RegistryError> {
        let avro = match kind {
            SchemaKind::Avro => {
                let parsed = AvroSchema::parse(schema, &[]).map_err(RegistryError::Config)?;
                Some(Writer::new(parsed))
            }
            SchemaKind::Json => None,
        };
        let id = registry.register(subject, kind, schema);
        let id = id.map_err(|error| explained(error, registry, subject, kind, schema))?;
        Ok(Self { id, avro })
    }

    /// The id of the schema.
    pub const fn id(&self) -> SchemaId {
        self.id
    }
}

impl Pack for Producer {
    fn pack(&self, event: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        frame::push(self.id, out);
        if let Some(writer) = &self.avro {
            return writer.write(event, out);
        }
        out.extend_from_slice(event);
        Ok(())
    }
}

/// What to know and to do about a schema that was refused.
fn explained(
    error: RegistryError,
    registry: &Registry,
    subject: &str,
    kind: SchemaKind,
    schema: &str,
) -> RegistryError {
    let RegistryError::Refused {
        target,
        status,
        code,
        message,
    } = error
    else {
        return error;
    };
    let advice = match status {
        409 => incompatible(registry, subject, kind, schema, &message),
        422 => format!("{message}; it does not take this as a schema of the kind {kind}"),
        _ => message,
    };
    RegistryError::Refused {
        target,
        status,
        code,
        message: format!("subject {subject}: {advice}"),
    }
}

fn incompatible(
    registry: &Registry,
    subject: &str,
    kind: SchemaKind,
    schema: &str,
    message: &str,
) -> String {
    let rule = registry
        .rule(subject)
        .unwrap_or_else(|_| "unknown".to_owned());
    let newest = registry.version(subject, "latest").ok().flatten();
    let version = newest.map_or_else(String::new, |it| {
        format!(" (newest: version {})", it.version)
    });
    let found = registry.objections(subject, kind, schema).ok().flatten();
    let found = found.filter(|found| !found.is_empty());
    let differs = found.map_or_else(|| message.to_owned(), |found| found.join("; "));
    format!(
        "the schema of what is to be written is not compatible with those that are registered\
         {version}; nothing was written\n  rule: {rule} {meaning}\n  what differs: {differs}\n  \
         what to do: change the schema so that the rule holds (a new field needs a default, a field \
         in use keeps its name and type), write to another topic, or have whoever owns the subject \
         relax the rule: PUT {target}/config/{subject} {{\"compatibility\": \"NONE\"}}",
        meaning = meaning(&rule),
        target = registry.name(),
    )
}

/// What a rule asks for.
fn meaning(rule: &str) -> &'static str {
    match rule {
        "BACKWARD" => "(readers with the new schema must be able to read the newest version)",
        "BACKWARD_TRANSITIVE" => "(readers with the new schema must be able to read all versions)",
        "FORWARD" => "(readers with the newest version must be able to read the new schema)",
        "FORWARD_TRANSITIVE" => "(readers with any version must be able to read the new schema)",
        "FULL" => "(the new schema and the newest version must be able to read each other)",
        "FULL_TRANSITIVE" => "(the new schema and all versions must be able to read each other)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_a_json_schema_are_framed_as_they_are() {
        let producer = Producer {
            id: SchemaId(258),
            avro: None,
        };
        let mut message = Vec::new();
        producer
            .pack(b"{\"a\": 1.0}", &mut message)
            .expect("packed");
        assert_eq!(message, b"\0\0\0\x01\x02{\"a\": 1.0}");
    }
}
