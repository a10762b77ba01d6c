//! Which place a `--dims` URI means.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::SharedPlace;
use super::folder::FolderPlace;
use crate::sink::mask_secrets;

const FORMS: &str = "dir:PATH, s3://BUCKET/PREFIX, postgres://USER@HOST/DB or \
                     kafka://HOST:PORT/TOPIC-PREFIX";
const SCHEMES: [&str; 4] = ["dir", "s3", "postgres", "kafka"];

/// What places need besides their URI.
#[derive(Clone)]
pub struct PlaceOptions {
    /// Properties for librdkafka, as given with `--kafka`. Their values may be secrets.
    pub kafka: Vec<(String, String)>,
    /// How long a server may take to answer at first.
    pub connect_timeout: Duration,
}

impl Default for PlaceOptions {
    fn default() -> Self {
        Self {
            kafka: Vec::new(),
            connect_timeout: Duration::from_secs(10),
        }
    }
}

/// Without the values of properties.
impl fmt::Debug for PlaceOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&str> = self.kafka.iter().map(|(key, _)| key.as_str()).collect();
        f.debug_struct("PlaceOptions")
            .field("kafka", &keys)
            .field("connect_timeout", &self.connect_timeout)
            .finish()
    }
}

/// What `uri` means; a path alone is a folder. Connects to nothing.
///
/// # Errors
/// When it has no meaning; the text says what to write, and holds no password.
pub fn parse_place(uri: &str, options: &PlaceOptions) -> Result<SharedPlace, String> {
    let wrong = |what: String| format!("{}: {what}", mask_secrets(uri));
    let Some((scheme, rest)) = uri.split_once(':') else {
        return match uri {
            "" => Err(format!("where? write {FORMS}")),
            path => Ok(Arc::new(FolderPlace::new(path))),
        };
    };
    match scheme {
        "dir" | "file" => match rest {
            "" => Err(wrong("which folder? write dir:PATH".to_owned())),
            path => Ok(Arc::new(FolderPlace::new(path))),
        },
        "s3" => s3(rest, options).map_err(wrong),
        "postgres" | "postgresql" => postgres(uri, options),
        "kafka" => kafka(rest, options).map_err(wrong),
        other => {
            let likeness = |known: &&str| strsim::damerau_levenshtein(other, known);
            let near = SCHEMES.into_iter().min_by_key(|known| likeness(known));
            let near = near.filter(|known| likeness(known) <= 2);
            let hint = near.map_or_else(
                || format!("there are {FORMS}"),
                |near| format!("did you mean {near}:?"),
            );
            Err(wrong(format!(
                "no place for tables is called {other}:; {hint}"
            )))
        }
    }
}

#[cfg(feature = "s3")]
fn s3(rest: &str, options: &PlaceOptions) -> Result<SharedPlace, String> {
    let address = rest.strip_prefix("//").and_then(crate::s3::parse);
    let Some((bucket, prefix)) = address else {
        return Err("which bucket? write s3://BUCKET/PREFIX".to_owned());
    };
    let place = super::s3::BucketPlace::new(bucket, prefix, options);
    Ok(Arc::new(place.map_err(|error| error.0)?))
}

#[cfg(feature = "postgres")]
fn postgres(uri: &str, options: &PlaceOptions) -> Result<SharedPlace, String> {
    Ok(Arc::new(super::postgres::DatabasePlace::new(uri, options)?))
}

#[cfg(feature = "kafka")]
fn kafka(rest: &str, options: &PlaceOptions) -> Result<SharedPlace, String> {
    let address = rest.strip_prefix("//").and_then(|it| it.split_once('/'));
    let Some((brokers, prefix)) = address.filter(|(brokers, _)| !brokers.is_empty()) else {
        return Err("write kafka://HOST:PORT[,HOST:PORT]/TOPIC-PREFIX".to_owned());
    };
    if brokers.contains('@') {
        return Err(
            "credentials do not belong into the URI; give them with --kafka sasl.username=... and \
             --kafka sasl.password=..."
                .to_owned(),
        );
    }
    let place = super::kafka::TopicsPlace::new(brokers, prefix, options)?;
    Ok(Arc::new(place))
}

#[cfg(not(feature = "s3"))]
fn s3(_: &str, _: &PlaceOptions) -> Result<SharedPlace, String> {
    Err(without("s3"))
}

#[cfg(not(feature = "postgres"))]
fn postgres(_: &str, _: &PlaceOptions) -> Result<SharedPlace, String> {
    Err(without("postgres"))
}

#[cfg(not(feature = "kafka"))]
fn kafka(_: &str, _: &PlaceOptions) -> Result<SharedPlace, String> {
    Err(without("kafka"))
}

#[cfg(any(not(feature = "s3"), not(feature = "postgres"), not(feature = "kafka")))]
fn without(feature: &str) -> String {
    format!("this build lacks the Cargo feature `{feature}`; build with --features {feature}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(uri: &str) -> String {
        let place = parse_place(uri, &PlaceOptions::default());
        place
            .unwrap_or_else(|error| panic!("{uri}: {error}"))
            .name()
    }

    fn error(uri: &str) -> String {
        let place = parse_place(uri, &PlaceOptions::default());
        place.err().unwrap_or_else(|| panic!("{uri} is accepted"))
    }

    #[test]
    fn a_path_is_a_folder() {
        for (uri, expected) in [("dir:x/y", "dir:x/y"), ("x", "dir:x"), ("file:x", "dir:x")] {
            assert_eq!(name(uri), expected);
        }
    }

    #[test]
    #[cfg(all(feature = "kafka", feature = "postgres"))]
    fn servers_are_not_connected_to_yet_and_passwords_not_shown() {
        assert_eq!(name("kafka://h:9/dims"), "kafka://h:9/dims-*");
        assert_eq!(name("kafka://h:9/dims."), "kafka://h:9/dims.*");
        let shown = name("postgres://me:hush@h/db?schema=ref&prefix=dim_&connect_timeout=3");
        assert_eq!(shown, "postgres h/db, tables ref.dim_*");
        assert_eq!(name("postgres://me:hush@h:7/db"), "postgres h:7/db");
        for uri in [
            "postgres://me:hush@h",
            "postgres://me:hush@h/d?schema=",
            "postgre://me:hush@h/d",
            "kafka://me:hush@h/p",
        ] {
            assert!(!error(uri).contains("hush"), "{uri}: {}", error(uri));
        }
    }

    #[test]
    fn mistakes_are_explained() {
        for (uri, part) in [
            ("", "dir:PATH"),
            ("dir:", "which folder"),
            ("postgre://h/d", "did you mean postgres:?"),
            ("gopher://h/d", "there are dir:PATH"),
            #[cfg(feature = "s3")]
            ("s3://", "which bucket"),
            #[cfg(feature = "kafka")]
            ("kafka://h", "TOPIC-PREFIX"),
            #[cfg(feature = "kafka")]
            ("kafka://h/a b", "name of a topic"),
            #[cfg(feature = "postgres")]
            ("postgres://h/d?prefix=x&table=t", "table=t"),
        ] {
            let text = error(uri);
            assert!(text.contains(part), "{uri}: {text}");
        }
    }
}
