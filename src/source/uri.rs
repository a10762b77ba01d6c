//! Which source a URI names.

use std::sync::Arc;
use std::time::Duration;

use super::file::FileSource;
use super::{SharedSource, SourceError, Start, Until};

/// What the command line says about an input besides its URI.
#[derive(Clone)]
pub struct SourceOptions {
    /// When the input counts as ended.
    pub until: Until,
    /// Where to begin in a Kafka partition without a recorded position. Files begin at the
    /// beginning.
    pub start: Start,
    /// The consumer group to which committed positions are reported, for lag tools.
    pub group: Option<String>,
    /// Properties of librdkafka. May hold secrets, so there is no `Debug` here.
    pub kafka: Vec<(String, String)>,
    /// How long brokers may be out of reach at the start.
    pub connect_timeout: Duration,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self {
            until: Until::Forever,
            start: Start::Earliest,
            group: None,
            kafka: Vec::new(),
            connect_timeout: Duration::from_secs(10),
        }
    }
}

/// The forms of URIs, for messages.
const FORMS: [(&str, &str); 3] = [
    (
        "file",
        "file:PATH, file:DIR/*.ndjson, or file:- for standard input",
    ),
    ("kafka", "kafka://HOST:PORT[,HOST:PORT]/TOPIC"),
    ("generate", "generate:"),
];

/// The source that `uri` names: `file:PATH`, `-` or `kafka://HOST:PORT/TOPIC`. (`generate:` is
/// made by those who know the pipeline.)
///
/// # Errors
/// When the URI is not understood, with what was probably meant; when it needs a feature that
/// this build lacks.
pub fn parse_source(uri: &str, options: &SourceOptions) -> Result<SharedSource, SourceError> {
    if uri == "-" {
        return Ok(Arc::new(FileSource::new("-", options.until)?));
    }
    let Some((scheme, rest)) = uri.split_once(':') else {
        return Err(no_scheme(uri));
    };
    match scheme {
        "file" => Ok(Arc::new(FileSource::new(file_path(rest), options.until)?)),
        "kafka" => kafka(rest, options),
        _ => Err(unknown_scheme(uri, scheme)),
    }
}

/// `file:///absolute` is written as well.
fn file_path(rest: &str) -> &str {
    rest.strip_prefix("//")
        .filter(|path| path.starts_with('/'))
        .unwrap_or(rest)
}

fn no_scheme(uri: &str) -> SourceError {
    SourceError::Config(match FORMS.iter().find(|(scheme, _)| *scheme == uri) {
        Some((_, form)) => format!("`{uri}` is not an input: write {form}"),
        None => format!("`{uri}` is not an input: for a file write file:{uri}"),
    })
}

fn unknown_scheme(uri: &str, scheme: &str) -> SourceError {
    let likeness = |form: &&(&str, &str)| strsim::damerau_levenshtein(form.0, scheme);
    let near = FORMS
        .iter()
        .min_by_key(likeness)
        .filter(|near| likeness(near) <= 2);
    let hint = near.map_or_else(
        || {
            let forms: Vec<&str> = FORMS.iter().map(|(_, form)| *form).collect();
            format!("inputs are {}", forms.join("; "))
        },
        |(_, form)| format!("did you mean {form}?"),
    );
    // Only the scheme: the rest of a URI that is not understood may hold a password.
    let scheme = if uri.starts_with("://") { "" } else { scheme };
    SourceError::Config(format!("`{scheme}:` is no kind of input: {hint}"))
}

/// The brokers and the topic of what follows `kafka:`.
#[cfg_attr(not(feature = "kafka"), allow(dead_code))]
fn kafka_address(rest: &str) -> Result<(&str, &str), SourceError> {
    let form = FORMS[1].1;
    let config = |what: &str| Err(SourceError::Config(format!("{what}: write {form}")));
    let Some(address) = rest.strip_prefix("//") else {
        return config("a Kafka input has two slashes after `kafka:`");
    };
    if address.contains('@') {
        return config(
            "credentials do not belong into the URI; give them with --kafka sasl.username=... and \
             --kafka sasl.password=...",
        );
    }
    match address.split_once('/') {
        Some((brokers, topic)) if !brokers.is_empty() && !topic.is_empty() => Ok((brokers, topic)),
        _ => config("a Kafka input names brokers and a topic"),
    }
}

#[cfg(feature = "kafka")]
fn kafka(rest: &str, options: &SourceOptions) -> Result<SharedSource, SourceError> {
    use super::kafka::{KafkaOptions, KafkaSource};
    let (brokers, topic) = kafka_address(rest)?;
    Ok(Arc::new(KafkaSource::new(KafkaOptions {
        properties: options.kafka.clone(),
        group: options.group.clone(),
        start: options.start,
        until: options.until,
        connect_timeout: options.connect_timeout,
        ..KafkaOptions::new(brokers, topic)
    })?))
}

#[cfg(not(feature = "kafka"))]
fn kafka(_: &str, _: &SourceOptions) -> Result<SharedSource, SourceError> {
    Err(SourceError::Config(
        "this build cannot read Kafka; build highwater with `--features kafka`".to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(uri: &str) -> String {
        parse_source(uri, &SourceOptions::default())
            .expect("a source")
            .name()
    }

    fn message(uri: &str) -> String {
        match parse_source(uri, &SourceOptions::default()) {
            Err(SourceError::Config(text)) => text,
            Err(other) => panic!("{other:?}"),
            Ok(source) => panic!("{uri} is {}", source.name()),
        }
    }

    #[test]
    fn uris_name_sources() {
        assert_eq!(name("file:data/*.ndjson"), "file:data/*.ndjson");
        assert_eq!(name("file:///tmp/x.ndjson"), "file:/tmp/x.ndjson");
        assert_eq!(name("file:-"), "file:-");
        assert_eq!(name("-"), "file:-");
        #[cfg(feature = "kafka")]
        assert_eq!(name("kafka://127.0.0.1:1,[::1]:2/cars"), "cars");
    }

    #[test]
    fn what_is_not_understood_is_answered_with_what_was_meant() {
        assert!(message("data/x.ndjson").contains("file:data/x.ndjson"));
        assert!(message("kafka").contains("kafka://HOST"));
        assert!(message("flie:x").contains("did you mean file:PATH"));
        assert!(message("kakfa://h/t").contains("did you mean kafka://"));
        assert!(message("s3://bucket/x").contains("inputs are file:PATH"));
        assert!(message("file:").contains("file:events.ndjson"));
    }

    #[test]
    #[cfg(feature = "kafka")]
    fn kafka_needs_brokers_and_a_topic_and_no_password() {
        for uri in ["kafka:h/t", "kafka://h:1", "kafka://h:1/", "kafka:///t"] {
            assert!(message(uri).contains("kafka://HOST:PORT"), "{uri}");
        }
        assert!(!message("kafka://u:hunter2@h/t").contains("hunter2"));
        assert!(message("kafka://h/a/b").contains("cannot be the name of a topic"));
    }
}
