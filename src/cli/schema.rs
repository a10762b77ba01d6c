//! `--value-format` and `--schema-registry`: messages whose schema a registry has.

use std::sync::Arc;

use clap::ArgMatches;

use super::error::CliError;
use crate::state::Storage;

/// What the values of messages are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ValueFormat {
    /// JSON, without a frame.
    #[default]
    Json,
    /// Avro, framed.
    Avro,
    /// JSON with a JSON Schema, framed.
    JsonSchema,
}

impl ValueFormat {
    /// The word on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Avro => "avro",
            Self::JsonSchema => "json-schema",
        }
    }

    /// What `--value-format` says.
    pub fn of(matches: &ArgMatches) -> Self {
        matches.get_one("value-format").copied().unwrap_or_default()
    }
}

/// What schemas a run or a generator needs, when it needs any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Not JSON.
    pub format: ValueFormat,
    /// The topic.
    pub topic: String,
}

impl Wanted {
    /// What the flags ask for, with messages in `place`, which the flag `flag` names.
    pub fn new(matches: &ArgMatches, flag: &str, place: &str) -> Result<Option<Self>, CliError> {
        let format = ValueFormat::of(matches);
        let has_registry = matches.contains_id("schema-registry");
        if format == ValueFormat::Json {
            if !has_registry {
                return Ok(None);
            }
            return Err(CliError::usage(
                "--schema-registry only means something with --value-format avro or json-schema",
            ));
        }
        let word = format.as_str();
        if !place.starts_with("kafka:") {
            return Err(CliError::Usage(format!(
                "--value-format {word} only means something with {flag} kafka://HOST:PORT/TOPIC: \
                 files and the embedded generator are JSON"
            )));
        }
        let (_, topic) = super::kafka::address(place)?;
        Ok(Some(Self { format, topic }))
    }
}

/// Schemas beside the state of a job.
#[cfg_attr(
    not(feature = "schema-registry"),
    expect(dead_code, reason = "without a registry nothing is kept")
)]
pub struct Kept {
    /// The state.
    pub storage: Arc<dyn Storage>,
    /// Whether what lies there is this job's.
    pub is_read: bool,
    /// Whether more may be kept.
    pub is_written: bool,
}

/// The pipeline's schema in the language of `format`.
#[cfg(any(feature = "schema-registry", test))]
pub fn text(
    format: ValueFormat,
    entry: &dyn super::registry::PipelineEntry,
    matches: &ArgMatches,
) -> Result<&'static str, CliError> {
    let word = format.as_str();
    let schemas = entry.schemas(matches);
    let schemas =
        schemas.map_err(|reason| CliError::Usage(format!("--value-format {word}: {reason}")))?;
    Ok(match format {
        ValueFormat::JsonSchema => schemas.json_schema,
        ValueFormat::Avro | ValueFormat::Json => schemas.avro,
    })
}

#[cfg(feature = "schema-registry")]
pub use self::with::*;
#[cfg(not(feature = "schema-registry"))]
pub use self::without::*;

#[cfg(feature = "schema-registry")]
mod with {
    use std::sync::Arc;

    use clap::ArgMatches;

    use super::{Kept, ValueFormat, Wanted, text};
    use crate::cli::error::CliError;
    use crate::cli::kafka::connect_timeout;
    use crate::cli::registry::PipelineEntry;
    use crate::schema::schemas::Memory;
    use crate::schema::{
        AvroSchema, Framed, Producer, Registered, Registry, RegistryError, RegistryOptions,
        SchemaId, SchemaKind, Schemas, SchemasOptions, subject_of,
    };
    use crate::source::{Pack, SharedSource};
    use crate::state::schemas as kept;

    /// Where user and password stand when no flag says so.
    const AUTH: &str = "HIGHWATER_SCHEMA_REGISTRY_AUTH";

    /// The schemas of a run.
    pub type SharedSchemas = Arc<Schemas>;

    impl ValueFormat {
        const fn kind(self) -> SchemaKind {
            match self {
                Self::JsonSchema => SchemaKind::Json,
                Self::Avro | Self::Json => SchemaKind::Avro,
            }
        }
    }

    /// The registry that the flags name; `None`: none is named.
    pub fn named(matches: &ArgMatches) -> Result<Option<Arc<Registry>>, CliError> {
        let Some(url) = matches.get_one::<String>("schema-registry") else {
            return Ok(None);
        };
        let options = RegistryOptions {
            url: url.clone(),
            auth: auth(matches)?,
            timeout: connect_timeout(matches),
        };
        let registry = Registry::new(&options).map_err(failure)?;
        Ok(Some(Arc::new(registry)))
    }

    fn registry(matches: &ArgMatches, format: ValueFormat) -> Result<Arc<Registry>, CliError> {
        named(matches)?.ok_or_else(|| {
            CliError::Usage(format!(
                "--value-format {} needs --schema-registry http://HOST:PORT/PATH",
                format.as_str()
            ))
        })
    }

    /// `USER:PASSWORD` from a file or the environment: never from the command line, which others
    /// can see.
    fn auth(matches: &ArgMatches) -> Result<Option<String>, CliError> {
        let Some(place) = matches.get_one::<String>("schema-registry-auth") else {
            return Ok(std::env::var(AUTH).ok());
        };
        if let Some(path) = place.strip_prefix('@') {
            let text = std::fs::read_to_string(path).map_err(|error| {
                CliError::Usage(format!("--schema-registry-auth @{path}: {error}"))
            })?;
            Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
        } else if let Some(name) = place.strip_prefix('$') {
            let text = std::env::var(name).map_err(|error| {
                CliError::Usage(format!("--schema-registry-auth ${name}: {error}"))
            })?;
            Ok(Some(text))
        } else {
            Err(CliError::usage(
                "--schema-registry-auth: write @FILE or $NAME, where USER:PASSWORD stands",
            ))
        }
    }

    fn failure(error: RegistryError) -> CliError {
        match error {
            RegistryError::Config(text) => CliError::Usage(text),
            error => CliError::failed(error),
        }
    }

    /// `source` with the schemas that its messages are read with. With `is_offline` a registry may
    /// be missing: then all schemas come from the state.
    pub fn framed(
        source: SharedSource,
        wanted: &Wanted,
        entry: &dyn PipelineEntry,
        matches: &ArgMatches,
        is_offline: bool,
    ) -> Result<(SharedSource, SharedSchemas), CliError> {
        let registry = if is_offline {
            named(matches)?
        } else {
            Some(registry(matches, wanted.format)?)
        };
        let reader = reader(wanted.format, entry, matches)?;
        let schemas = schemas(registry, wanted, reader)?;
        let source = Framed::new(source, Arc::clone(&schemas));
        Ok((Arc::new(source), schemas))
    }

    fn reader(
        format: ValueFormat,
        entry: &dyn PipelineEntry,
        matches: &ArgMatches,
    ) -> Result<Option<AvroSchema>, CliError> {
        let text = text(format, entry, matches)?;
        match format.kind() {
            SchemaKind::Json => Ok(None),
            SchemaKind::Avro => AvroSchema::parse(text, &[]).map(Some).map_err(|error| {
                CliError::Failed(format!("the schema of {}: {error}", entry.name()))
            }),
        }
    }

    fn schemas(
        registry: Option<Arc<Registry>>,
        wanted: &Wanted,
        reader: Option<AvroSchema>,
    ) -> Result<SharedSchemas, CliError> {
        let options = SchemasOptions {
            registry,
            kind: wanted.format.kind(),
            reader,
            subject: subject_of(&wanted.topic),
        };
        Schemas::new(options)
            .map_err(|error| CliError::Failed(format!("no thread could be started: {error}")))
    }

    /// Learns what is known before the first message: from the state, if there is one, and from
    /// the registry.
    pub fn begin(schemas: &SharedSchemas, kept: Option<Kept>) -> Result<(), CliError> {
        let memory = kept.map(|kept| Arc::new(kept) as Arc<dyn Memory>);
        schemas.begin(memory).map_err(failure)
    }

    impl Memory for Kept {
        fn keep(&self, id: SchemaId, schema: &Registered) -> Result<(), String> {
            if !self.is_written {
                return Ok(());
            }
            let bytes = serde_json::to_vec(schema).map_err(|error| error.to_string())?;
            kept::store(&*self.storage, id.0, &bytes).map_err(|error| error.to_string())
        }

        fn kept(&self) -> Result<Vec<(SchemaId, Registered)>, String> {
            if !self.is_read {
                return Ok(Vec::new());
            }
            let kept = kept::load(&*self.storage).map_err(|error| error.to_string())?;
            let parse = |(id, bytes): (u32, Vec<u8>)| {
                let schema = serde_json::from_slice(&bytes);
                let schema =
                    schema.map_err(|error| format!("schema id {id} in the state: {error}"))?;
                Ok((SchemaId(id), schema))
            };
            kept.into_iter().map(parse).collect()
        }
    }

    /// Registers the pipeline's schema for what is written to a topic; how events are framed then.
    pub fn producer(
        wanted: &Wanted,
        entry: &dyn PipelineEntry,
        matches: &ArgMatches,
    ) -> Result<Box<dyn Pack>, CliError> {
        let registry = registry(matches, wanted.format)?;
        let text = text(wanted.format, entry, matches)?;
        let subject = subject_of(&wanted.topic);
        let producer = Producer::register(&registry, &subject, wanted.format.kind(), text);
        let producer = producer.map_err(failure)?;
        if !matches.get_flag("quiet") {
            let (name, id) = (registry.name(), producer.id());
            crate::terminal::message(format_args!("{subject} has schema id {id} in {name}"));
        }
        Ok(Box::new(producer))
    }

    /// The schemas to look at a topic with: those that its messages were written with.
    pub fn viewer(wanted: &Wanted, matches: &ArgMatches) -> Result<SharedSchemas, CliError> {
        let registry = registry(matches, wanted.format)?;
        let schemas = schemas(Some(registry), wanted, None)?;
        schemas.begin(None).map_err(failure)?;
        Ok(schemas)
    }

    /// Asks the registry for the newest schema of the topic, and whether the pipeline can read it.
    pub fn check(
        wanted: &Wanted,
        entry: &dyn PipelineEntry,
        matches: &ArgMatches,
    ) -> Result<String, CliError> {
        let registry = registry(matches, wanted.format)?;
        let reader = reader(wanted.format, entry, matches)?;
        let (name, subject) = (registry.name(), subject_of(&wanted.topic));
        let Some(newest) = registry.version(&subject, "latest").map_err(failure)? else {
            return Ok(format!("{name}: there is no subject {subject} yet"));
        };
        let (version, id, found) = (newest.version, newest.id, newest.schema);
        let unreadable = |reason: String| {
            CliError::Failed(format!(
                "{name}: {subject}, version {version} (id {id}) cannot be read by {}: {reason}; its \
                 messages would be dead letters",
                entry.name()
            ))
        };
        let wanted = wanted.format.kind().registry_name();
        if found.kind != wanted {
            return Err(unreadable(format!(
                "it is of the kind {}, and not {wanted}",
                found.kind
            )));
        }
        if let Some(reader) = reader {
            let writer = AvroSchema::parse(&found.schema, &found.others).map_err(unreadable)?;
            if let Some(reason) = reader.objection_to(&writer) {
                return Err(unreadable(reason));
            }
        }
        Ok(format!(
            "{name}: {subject}, version {version} (id {id}) can be read"
        ))
    }
}

#[cfg(not(feature = "schema-registry"))]
mod without {
    use clap::ArgMatches;

    use super::{Kept, Wanted};
    use crate::cli::error::CliError;
    use crate::cli::registry::PipelineEntry;
    use crate::source::{Pack, SharedFormat, SharedSource};

    /// The schemas of a run: there are none.
    pub type SharedSchemas = SharedFormat;

    fn missing<T>() -> Result<T, CliError> {
        Err(CliError::usage(
            "--value-format: this highwater was built without the feature `schema-registry`",
        ))
    }

    /// Not in this build.
    pub fn framed(
        _: SharedSource,
        _: &Wanted,
        _: &dyn PipelineEntry,
        _: &ArgMatches,
        _: bool,
    ) -> Result<(SharedSource, SharedSchemas), CliError> {
        missing()
    }

    /// Not in this build.
    pub fn begin(_: &SharedSchemas, _: Option<Kept>) -> Result<(), CliError> {
        missing()
    }

    /// Not in this build.
    pub fn producer(
        _: &Wanted,
        _: &dyn PipelineEntry,
        _: &ArgMatches,
    ) -> Result<Box<dyn Pack>, CliError> {
        missing()
    }

    /// Not in this build.
    pub fn viewer(_: &Wanted, _: &ArgMatches) -> Result<SharedSchemas, CliError> {
        missing()
    }

    /// Not in this build.
    pub fn check(_: &Wanted, _: &dyn PipelineEntry, _: &ArgMatches) -> Result<String, CliError> {
        missing()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::parse;

    fn wanted(place: &str, flags: &[&str]) -> Result<Option<Wanted>, String> {
        let wanted = Wanted::new(&parse(flags), "--from", place);
        wanted.map_err(|error| error.to_string())
    }

    #[test]
    fn formats_with_schemas_need_a_topic() {
        assert_eq!(wanted("generate:", &[]), Ok(None));
        assert_eq!(wanted("kafka://h/t", &["--value-format", "json"]), Ok(None));
        let topic = wanted("kafka://h/t", &["--value-format", "avro"]).expect("valid");
        let expected = Wanted {
            format: ValueFormat::Avro,
            topic: "t".to_owned(),
        };
        assert_eq!(topic, Some(expected));
        let error = wanted("file:x", &["--value-format", "json-schema"]).expect_err("no topic");
        assert!(error.contains("kafka://"), "{error}");
        let error = wanted("kafka://h/t", &["--schema-registry", "http://r"]).expect_err("JSON");
        assert!(error.contains("--value-format"), "{error}");
    }

    #[test]
    fn a_pipeline_without_schemas_says_so() {
        let error = text(ValueFormat::Avro, &crate::cli::testing::Dummy, &parse(&[]));
        let error = error.expect_err("no schema").to_string();
        assert!(
            error.contains("dummy") && error.contains("--value-format avro"),
            "{error}"
        );
    }
}
