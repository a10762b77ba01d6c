//! What a `--to` URI means.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::console::ConsoleFactory;
#[cfg(feature = "parquet")]
use super::encode::columnar::Codec;
use super::files::{FilesFactory, Format, Place};
use super::ndjson::NdjsonFactory;
use super::null::NullFactory;
use super::{SinkError, SinkFactory};

/// Into how many shards an output is split when the URI does not say.
pub const DEFAULT_SHARDS: u32 = 8;
/// More shards than any job needs.
const MAX_SHARDS: u32 = 256;

/// All schemes, for suggestions.
const SCHEMES: [&str; 8] = [
    "console", "ndjson", "csv", "parquet", "delta", "kafka", "postgres", "null",
];
const FORMS: &str = "console:, ndjson:PATH, csv:DIR, parquet:DIR, delta:DIR, \
                     csv:s3://BUCKET/PREFIX, parquet:s3://BUCKET/PREFIX, delta:s3://BUCKET/PREFIX, kafka://HOST/TOPIC, \
                     postgres://USER@HOST/DB?table=T, null:";

/// What sinks need besides their URI.
#[derive(Clone)]
pub struct SinkOptions {
    /// Properties for librdkafka, as given with `--kafka`. Their values may be secrets.
    pub kafka: Vec<(String, String)>,
    /// How long the first connection to a server may take.
    pub connect_timeout: Duration,
    /// Whether standard output is a terminal that takes colours.
    pub color: bool,
}

impl Default for SinkOptions {
    fn default() -> Self {
        Self {
            kafka: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            color: false,
        }
    }
}

/// Without the values of properties.
impl fmt::Debug for SinkOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kafka,
            connect_timeout,
            color,
        } = self;
        let keys: Vec<&str> = kafka.iter().map(|(key, _)| key.as_str()).collect();
        f.debug_struct("SinkOptions")
            .field("kafka", &keys)
            .field("connect_timeout", connect_timeout)
            .field("color", color)
            .finish()
    }
}

/// What `uri` means. Connects to nothing and makes nothing.
///
/// # Errors
/// When it has no meaning, with the nearest that has one.
pub fn parse_sink(uri: &str, options: &SinkOptions) -> Result<Arc<dyn SinkFactory>, SinkError> {
    let Some((scheme, rest)) = uri.split_once(':') else {
        return Err(no_scheme(uri));
    };
    match scheme {
        "console" => bare(uri, rest).map(|()| {
            let console: Arc<dyn SinkFactory> = Arc::new(ConsoleFactory {
                color: options.color,
            });
            console
        }),
        "null" => bare(uri, rest).map(|()| {
            let null: Arc<dyn SinkFactory> = Arc::new(NullFactory);
            null
        }),
        "ndjson" => match rest {
            "" => Err(missing(
                uri,
                "a path, or - for standard output",
                "ndjson:out.ndjson",
            )),
            "-" => Ok(Arc::new(NdjsonFactory::stdout())),
            path => Ok(Arc::new(NdjsonFactory::file(path))),
        },
        "csv" => csv(uri, rest, options),
        "parquet" => parquet(uri, rest, options),
        "delta" => delta(uri, rest, options),
        "kafka" => kafka(uri, options),
        "postgres" | "postgresql" => postgres(uri, options),
        _ => Err(unknown_scheme(uri, scheme)),
    }
}

/// `uri` without the password that may stand in it. In doubt too much is masked: a password may
/// hold any character, also those that end a password elsewhere.
pub fn mask_secrets(uri: &str) -> String {
    let mut masked = uri.to_owned();
    if let Some(password) = password(uri) {
        masked.replace_range(password, "***");
    }
    let Some((before, query)) = masked.split_once('?') else {
        return masked;
    };
    let parameters: Vec<String> = query.split('&').map(mask_parameter).collect();
    format!("{before}?{}", parameters.join("&"))
}

/// Where the password of `USER:PASSWORD@` stands: from the first colon to the last `@`, or to the
/// end when a `?` in between leaves open whether the `@` belongs to a parameter.
fn password(uri: &str) -> Option<std::ops::Range<usize>> {
    let begin = match uri.find("://") {
        Some(at) => at + 3,
        // Somebody forgot the slashes.
        None if uri.contains("postgres") => uri.find(':')? + 1,
        None => return None,
    };
    let at = begin + uri[begin..].rfind('@')?;
    let colon = begin + uri[begin..at].find(':')?;
    let end = if uri[colon..at].contains('?') {
        uri.len()
    } else {
        at
    };
    Some(colon + 1..end)
}

fn mask_parameter(parameter: &str) -> String {
    match parameter.split_once('=') {
        Some((name, _)) if is_secret(&name.to_ascii_lowercase()) => format!("{name}=***"),
        _ => parameter.to_owned(),
    }
}

fn is_secret(name: &str) -> bool {
    ["pass", "secret", "token"]
        .iter()
        .any(|it| name.contains(it))
}

fn wrong(uri: &str, what: impl fmt::Display) -> SinkError {
    SinkError::Config(format!("--to {}: {what}", mask_secrets(uri)))
}

fn missing(uri: &str, what: &str, example: &str) -> SinkError {
    wrong(uri, format!("lacks {what}; an example: {example}"))
}

fn bare(uri: &str, rest: &str) -> Result<(), SinkError> {
    if rest.is_empty() {
        Ok(())
    } else {
        Err(wrong(uri, "nothing may follow the colon"))
    }
}

fn no_scheme(uri: &str) -> SinkError {
    let guess = match uri.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "ndjson" | "jsonl" | "json" => Some(format!("ndjson:{uri}")),
        _ if uri == "-" => Some("ndjson:-".to_owned()),
        _ => nearest(uri, &SCHEMES).map(|scheme| format!("{scheme}:")),
    };
    match guess {
        Some(guess) => wrong(uri, format!("says no kind of sink; did you mean {guess}?")),
        None => wrong(uri, format!("says no kind of sink; there are {FORMS}")),
    }
}

fn unknown_scheme(uri: &str, scheme: &str) -> SinkError {
    if scheme == "s3" {
        let advice = format!("files have a format: parquet:{uri} or csv:{uri}");
        return wrong(uri, advice);
    }
    match nearest(scheme, &SCHEMES) {
        Some(near) => wrong(
            uri,
            format!("there is no sink {scheme}:; did you mean {near}:?"),
        ),
        None => wrong(
            uri,
            format!("there is no sink {scheme}:; there are {FORMS}"),
        ),
    }
}

fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    let distance = |candidate: &&&str| strsim::damerau_levenshtein(&word, candidate);
    known
        .iter()
        .min_by_key(distance)
        .filter(|it| distance(it) <= 2.max(it.len() / 3))
        .copied()
}

/// The parameters behind the last `?`, and what stands before it.
fn parameters<'a>(
    uri: &str,
    rest: &'a str,
    known: &[&str],
) -> Result<(&'a str, Vec<(&'a str, &'a str)>), SinkError> {
    let Some((before, query)) = rest.rsplit_once('?') else {
        return Ok((rest, Vec::new()));
    };
    let mut found: Vec<(&str, &str)> = Vec::new();
    for parameter in query.split('&').filter(|it| !it.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if !known.contains(&name) {
            let guess = nearest(name, known).unwrap_or(known[0]);
            let what = format!("there is no parameter {name}; did you mean {guess}=?");
            return Err(wrong(uri, what));
        }
        if found.iter().any(|(earlier, _)| *earlier == name) {
            return Err(wrong(uri, format!("{name}= is given twice")));
        }
        found.push((name, value));
    }
    Ok((before, found))
}

fn shards(uri: &str, parameters: &[(&str, &str)]) -> Result<u32, SinkError> {
    let Some((_, value)) = parameters.iter().find(|(name, _)| *name == "shards") else {
        return Ok(DEFAULT_SHARDS);
    };
    match value.parse() {
        Ok(shards @ 1..=MAX_SHARDS) => Ok(shards),
        _ => Err(wrong(
            uri,
            format!("shards= takes a number from 1 to {MAX_SHARDS}"),
        )),
    }
}

fn place(uri: &str, path: &str) -> Result<Place, SinkError> {
    let Some(rest) = path.strip_prefix("s3://") else {
        if path.is_empty() {
            return Err(missing(
                uri,
                "a folder",
                "parquet:out or parquet:s3://bucket/prefix",
            ));
        }
        if let Some((scheme, _)) = path.split_once("://") {
            return Err(wrong(
                uri,
                format!("{scheme}:// is no object store known here; s3:// is"),
            ));
        }
        return Ok(Place::Folder(PathBuf::from(path)));
    };
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err(missing(uri, "a bucket", "parquet:s3://bucket/prefix"));
    }
    #[cfg(feature = "s3")]
    return Ok(Place::Bucket {
        bucket: bucket.to_owned(),
        prefix: prefix.trim_matches('/').to_owned(),
    });
    #[cfg(not(feature = "s3"))]
    {
        let _ = prefix;
        Err(without(uri, "s3"))
    }
}

/// This build cannot do it.
#[cfg_attr(
    all(feature = "s3", feature = "parquet"),
    expect(dead_code, reason = "no feature is missing")
)]
fn without(uri: &str, feature: &str) -> SinkError {
    wrong(
        uri,
        format!("this build lacks the Cargo feature `{feature}`; build with --features {feature}"),
    )
}

fn csv(uri: &str, rest: &str, options: &SinkOptions) -> Result<Arc<dyn SinkFactory>, SinkError> {
    let (path, given) = parameters(uri, rest, &["shards"])?;
    let (place, shards) = (place(uri, path)?, shards(uri, &given)?);
    Ok(Arc::new(FilesFactory::new(
        place,
        Format::Csv,
        shards,
        options.connect_timeout,
    )))
}

#[cfg(feature = "parquet")]
fn parquet(
    uri: &str,
    rest: &str,
    options: &SinkOptions,
) -> Result<Arc<dyn SinkFactory>, SinkError> {
    let (path, given) = parameters(uri, rest, &["shards", "compression"])?;
    let codec = codec(uri, &given)?.unwrap_or_default();
    let (place, shards) = (place(uri, path)?, shards(uri, &given)?);
    let format = Format::Parquet(codec);
    Ok(Arc::new(FilesFactory::new(
        place,
        format,
        shards,
        options.connect_timeout,
    )))
}

/// A table has one shard. Snappy: what writers of such tables use, and every reader knows.
#[cfg(feature = "parquet")]
fn delta(uri: &str, rest: &str, options: &SinkOptions) -> Result<Arc<dyn SinkFactory>, SinkError> {
    let (path, given) = parameters(uri, rest, &["compression"])?;
    let codec = codec(uri, &given)?.unwrap_or(Codec::Snappy);
    let (place, wait) = (place(uri, path)?, options.connect_timeout);
    Ok(Arc::new(super::delta::DeltaFactory::new(
        place, codec, wait,
    )))
}

#[cfg(feature = "parquet")]
fn codec(uri: &str, given: &[(&str, &str)]) -> Result<Option<Codec>, SinkError> {
    match given.iter().find(|(name, _)| *name == "compression") {
        None => Ok(None),
        Some((_, "zstd")) => Ok(Some(Codec::Zstd)),
        Some((_, "snappy")) => Ok(Some(Codec::Snappy)),
        Some((_, other)) => {
            let what = format!("there is no compression {other:?}; there are zstd and snappy");
            Err(wrong(uri, what))
        }
    }
}

#[cfg(not(feature = "parquet"))]
fn delta(uri: &str, _: &str, _: &SinkOptions) -> Result<Arc<dyn SinkFactory>, SinkError> {
    Err(without(uri, "parquet"))
}

#[cfg(not(feature = "parquet"))]
fn parquet(uri: &str, _: &str, _: &SinkOptions) -> Result<Arc<dyn SinkFactory>, SinkError> {
    Err(without(uri, "parquet"))
}

#[cfg(feature = "kafka")]
fn kafka(uri: &str, options: &SinkOptions) -> Result<Arc<dyn SinkFactory>, SinkError> {
    let factory = super::kafka::KafkaFactory::new(uri, &options.kafka, options.connect_timeout)?;
    Ok(Arc::new(factory))
}

#[cfg(not(feature = "kafka"))]
fn kafka(uri: &str, _: &SinkOptions) -> Result<Arc<dyn SinkFactory>, SinkError> {
    Err(without(uri, "kafka"))
}

#[cfg(feature = "postgres")]
fn postgres(uri: &str, options: &SinkOptions) -> Result<Arc<dyn SinkFactory>, SinkError> {
    Ok(Arc::new(super::postgres::PostgresFactory::new(
        uri,
        options.connect_timeout,
    )?))
}

#[cfg(not(feature = "postgres"))]
fn postgres(uri: &str, _: &SinkOptions) -> Result<Arc<dyn SinkFactory>, SinkError> {
    Err(without(uri, "postgres"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(uri: &str) -> String {
        match parse_sink(uri, &SinkOptions::default()) {
            Ok(_) => panic!("{uri} is accepted"),
            Err(error) => error.to_string(),
        }
    }

    fn shards_of(uri: &str) -> u32 {
        match parse_sink(uri, &SinkOptions::default()) {
            Ok(factory) => factory.shards(),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn each_scheme_has_its_shards() {
        for uri in ["console:", "ndjson:-", "ndjson:out/a.ndjson"] {
            assert_eq!(shards_of(uri), 1, "{uri}");
        }
        for uri in ["csv:out", "null:"] {
            assert_eq!(shards_of(uri), DEFAULT_SHARDS, "{uri}");
        }
        assert_eq!(shards_of("csv:out?shards=3"), 3);
    }

    #[cfg(feature = "s3")]
    #[test]
    fn servers_are_not_connected_to_yet() {
        for uri in [
            "parquet:out?compression=snappy",
            "parquet:s3://bucket/a/b/",
            "csv:s3://bucket",
        ] {
            assert_eq!(shards_of(uri), DEFAULT_SHARDS, "{uri}");
        }
    }

    #[test]
    fn mistakes_are_explained() {
        for (uri, part) in [
            ("consle:", "did you mean console:?"),
            ("console", "did you mean console:?"),
            ("out.ndjson", "did you mean ndjson:out.ndjson?"),
            ("s3://bucket/x", "parquet:s3://bucket/x"),
            ("xyzzy:a", "there are console:"),
            ("console:x", "nothing may follow"),
            ("csv:out?shard=3", "did you mean shards=?"),
            ("csv:out?shards=0", "1 to 256"),
            ("csv:out?shards=1&shards=2", "twice"),
            ("csv:gs://bucket/x", "s3:// is"),
            #[cfg(feature = "parquet")]
            ("parquet:out?compression=lz4", "zstd and snappy"),
            ("ndjson:", "- for standard output"),
        ] {
            let text = error(uri);
            assert!(text.contains(part), "{uri}: {text}");
        }
    }

    #[test]
    fn secrets_are_masked() {
        for (uri, masked) in [
            (
                "postgres://me:s3cr@t@host/db?table=t",
                "postgres://me:***@host/db?table=t",
            ),
            ("postgres://me@host:5432/db", "postgres://me@host:5432/db"),
            (
                "postgres://host/db?user=me&password=x&a=b",
                "postgres://host/db?user=me&password=***&a=b",
            ),
            ("kafka://host:9092/t", "kafka://host:9092/t"),
            (
                "windows=postgres://me:pa/ss@host:5432/db?table=t",
                "windows=postgres://me:***@host:5432/db?table=t",
            ),
            ("postgres://me:pa?ss@host/db?table=t", "postgres://me:***"),
            (
                "postgres://me:my?pass=x@host/db?table=t",
                "postgres://me:***",
            ),
            (
                "postgres://me@host/db?sslPassword=a@b&table=t",
                "postgres://me@host/db?sslPassword=***&table=t",
            ),
            ("postgres:me:hush@host/db", "postgres:me:***@host/db"),
            ("ndjson:a:b@c.ndjson", "ndjson:a:b@c.ndjson"),
            ("parquet:s3://bucket/a@b", "parquet:s3://bucket/a@b"),
        ] {
            assert_eq!(mask_secrets(uri), masked);
        }
        for uri in [
            "postgre://me:hush@host/db",
            "postgres://me:a/hush@host/db?tabel=t",
        ] {
            assert!(!error(uri).contains("hush"), "{uri}");
        }
        assert!(!error("kafka://me:hush@host/topic").contains("hush"));
    }
    #[test]
    fn options_show_no_values_of_properties() {
        let options = SinkOptions {
            kafka: vec![("sasl.password".to_owned(), "hush".to_owned())],
            ..SinkOptions::default()
        };
        let text = format!("{options:?}");
        assert!(
            text.contains("sasl.password") && !text.contains("hush"),
            "{text}"
        );
    }
}
