//! What the command line says about Kafka: `--kafka`, `--group`, `--connect-timeout`.

use std::ops::ControlFlow;
use std::time::Duration;

use clap::ArgMatches;

use super::error::CliError;
use crate::source::generate::{EventLog, GenerateError, Progress};
use crate::source::uri::SourceOptions;
use crate::source::{Pack, Start};
use crate::time::Span;

/// The properties that `--kafka` gives, with values from files and the environment filled in.
/// Values are secrets: no message holds one.
pub fn properties(matches: &ArgMatches) -> Result<Vec<(String, String)>, CliError> {
    let given = matches.get_many::<String>("kafka").into_iter().flatten();
    given.map(|text| property(text)).collect()
}

fn property(text: &str) -> Result<(String, String), CliError> {
    let Some((key, value)) = text.split_once('=').filter(|(key, _)| !key.is_empty()) else {
        // Whoever forgets the key gives a secret: it is not repeated here.
        return Err(CliError::usage(
            "--kafka: write KEY=VALUE, KEY=@FILE or KEY=$NAME",
        ));
    };
    let value = if let Some(path) = value.strip_prefix('@') {
        let text = std::fs::read_to_string(path)
            .map_err(|error| CliError::Usage(format!("--kafka {key}=@{path}: {error}")))?;
        text.trim_end_matches(['\r', '\n']).to_owned()
    } else if let Some(name) = value.strip_prefix('$') {
        std::env::var(name)
            .map_err(|error| CliError::Usage(format!("--kafka {key}=${name}: {error}")))?
    } else {
        value.to_owned()
    };
    Ok((key.to_owned(), value))
}

/// What the flags say about an input that may be a topic, but for its end and its group.
pub fn source_options(matches: &ArgMatches) -> Result<SourceOptions, CliError> {
    let defaults = SourceOptions::default();
    Ok(SourceOptions {
        start: matches
            .get_one::<Start>("start")
            .copied()
            .unwrap_or(defaults.start),
        kafka: properties(matches)?,
        connect_timeout: connect_timeout(matches),
        ..defaults
    })
}

/// `--connect-timeout`
pub fn connect_timeout(matches: &ArgMatches) -> Duration {
    let span = matches
        .get_one::<Span>("connect-timeout")
        .copied()
        .unwrap_or(Span::seconds(10));
    Duration::from_millis(span.0.unsigned_abs())
}

/// Brokers and topic of `kafka://HOST:PORT[,HOST:PORT]/TOPIC`.
pub fn address(uri: &str) -> Result<(String, String), CliError> {
    let rest = uri
        .strip_prefix("kafka://")
        .and_then(|rest| rest.split_once('/'));
    let is_whole = |(brokers, topic): &(&str, &str)| {
        !brokers.is_empty() && !brokers.contains('@') && !topic.is_empty() && !topic.contains('/')
    };
    match rest.filter(is_whole) {
        Some((brokers, topic)) => Ok((brokers.to_owned(), topic.to_owned())),
        None => Err(CliError::usage(
            "write kafka://HOST:PORT[,HOST:PORT]/TOPIC, and credentials as --kafka KEY=VALUE",
        )),
    }
}

/// Writes a log into a topic, which is made when it is missing, through `pack`; `begin` is called when it is there.
#[cfg(feature = "kafka")]
pub fn write_topic(
    log: &EventLog,
    brokers: &str,
    topic: &str,
    pack: Option<&dyn Pack>,
    matches: &ArgMatches,
    begin: &dyn Fn(),
    progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<Result<Progress, GenerateError>, CliError> {
    use crate::sink::kafka::LogTopic;
    let (properties, timeout) = (properties(matches)?, connect_timeout(matches));
    let asked = log.options().partitions;
    let target = match LogTopic::open(brokers, topic, asked, &properties, timeout) {
        Ok(target) => target,
        Err(error) => return Ok(Err(error)),
    };
    if target.partitions() != asked {
        crate::terminal::message(format_args!(
            "{topic} is there already, with {} partitions: these are used, not {asked}",
            target.partitions()
        ));
    }
    begin();
    Ok(target.write(log, pack, progress))
}

/// Writes a log into a topic.
#[cfg(not(feature = "kafka"))]
pub fn write_topic(
    _log: &EventLog,
    _brokers: &str,
    _topic: &str,
    _pack: Option<&dyn Pack>,
    _matches: &ArgMatches,
    _begin: &dyn Fn(),
    _progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<Result<Progress, GenerateError>, CliError> {
    Err(CliError::usage(
        "--to kafka: this highwater was built without the feature `kafka`",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parts = address("kafka://a:1,b/t").expect("valid");
        assert_eq!(parts, ("a:1,b".to_owned(), "t".to_owned()));
        for wrong in [
            "kafka://h",
            "kafka:///t",
            "kafka:h/t",
            "kafka://u:secret@h/t",
        ] {
            let error = address(wrong).expect_err("wrong");
            assert!(
                error.code() == 2 && !error.to_string().contains("secret"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn values_come_from_the_line_a_file_or_the_environment() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("secret");
        std::fs::write(&file, "s3cret\n").expect("written");
        let read = |text: &str| property(text).expect("valid").1;
        assert_eq!(read("sasl.password=a=b"), "a=b");
        assert_eq!(
            read(&format!("sasl.password=@{}", file.display())),
            "s3cret"
        );
        assert_eq!(read("client.id=$CARGO_PKG_NAME"), env!("CARGO_PKG_NAME"));
        let error = |text: &str| format!("{:?}", property(text).expect_err("wrong"));
        assert!(!error("s3cret").contains("s3cret"));
        assert!(error("a=$NO_SUCH_VARIABLE_HERE").contains("NO_SUCH_VARIABLE_HERE"));
    }
}
