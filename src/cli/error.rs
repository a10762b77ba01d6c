//! Why a command ends without success, and with which exit code.

use std::fmt;
use std::process::ExitCode;

use clap::error::ErrorKind;

use crate::cluster::PEER_LOST;
use crate::runtime::RunError;
use crate::terminal;

/// Done, also when standard output was closed.
pub const DONE: u8 = 0;
/// Something failed.
pub const FAILED: u8 = 1;
/// The command line or the configuration makes no sense.
pub const USAGE: u8 = 2;
/// A comparison or a check found a difference.
pub const DIFFERENCE: u8 = 3;

/// The state was refused, or a newer run has taken it over.
pub const REFUSED: u8 = 4;

/// Why a command ends without success.
#[derive(Debug)]
pub enum CliError {
    /// The command line or the configuration makes no sense.
    Usage(String),
    /// Something failed.
    Failed(String),
    /// The state was refused, or a newer run has taken it over.
    Refused(String),
    /// Another process did not come, or was lost.
    Peer(String),
    /// A check found something, which has been shown already.
    Difference,
    /// Standard output was closed by its reader, which is fine.
    Closed,
    /// What the parser says: an error, or the text of `--help` and `--version`.
    Parser(Box<clap::Error>),
}

/// What a command returns: its exit code.
pub type Outcome = Result<u8, CliError>;

impl CliError {
    /// For `map_err`: a usage error with this text.
    pub fn usage(text: impl ToString) -> Self {
        Self::Usage(text.to_string())
    }

    /// For `map_err`: a failure with this text.
    pub fn failed(text: impl ToString) -> Self {
        Self::Failed(text.to_string())
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => USAGE,
            Self::Failed(_) => FAILED,
            Self::Refused(_) => REFUSED,
            Self::Peer(_) => PEER_LOST,
            Self::Difference => DIFFERENCE,
            Self::Closed => DONE,
            Self::Parser(error) => match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => DONE,
                _ => USAGE,
            },
        }
    }

    /// Tells people, once.
    pub fn show(&self) {
        match self {
            Self::Usage(text) | Self::Failed(text) | Self::Refused(text) | Self::Peer(text) => {
                terminal::message(format_args!("error: {text}"));
            }
            Self::Difference | Self::Closed => {}
            Self::Parser(error) => {
                let _pause = terminal::pause();
                // A help text that nobody reads is no failure.
                let _ = error.print();
            }
        }
    }
}

/// The text alone.
impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Failed(text) | Self::Refused(text) | Self::Peer(text) => {
                f.write_str(text)
            }
            Self::Difference => f.write_str("a difference was found"),
            Self::Closed => f.write_str("standard output was closed"),
            Self::Parser(error) => error.fmt(f),
        }
    }
}

impl From<clap::Error> for CliError {
    fn from(error: clap::Error) -> Self {
        Self::Parser(Box::new(error))
    }
}

impl From<std::io::Error> for CliError {
    /// For writing to standard output.
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::Closed;
        }
        Self::Failed(format!("standard output: {error}"))
    }
}

impl From<RunError> for CliError {
    fn from(error: RunError) -> Self {
        match error {
            error if error.is_closed_output() => Self::Closed,
            RunError::Usage(text) => Self::Usage(text),
            RunError::Peer(text) => Self::Peer(text),
            error if error.is_refusal() => Self::Refused(error.to_string()),
            error => Self::Failed(error.to_string()),
        }
    }
}

/// Shows an error, if there is one; the exit code of the process.
pub fn conclude(outcome: Outcome) -> ExitCode {
    ExitCode::from(outcome.unwrap_or_else(|error| {
        error.show();
        error.code()
    }))
}

/// What looks most like `word` among `known`, if anything does.
pub fn similar<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let close = known
        .into_iter()
        .map(|other| (strsim::jaro_winkler(word, other), other));
    close
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|best| best.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::SinkError;

    #[test]
    fn exit_codes_are_those_of_the_contract() {
        assert_eq!(CliError::usage("x").code(), 2);
        assert_eq!(CliError::failed("x").code(), 1);
        assert_eq!(CliError::Difference.code(), 3);
        let closed = RunError::Sink {
            output: "windows",
            error: SinkError::Closed,
        };
        assert_eq!(CliError::from(closed).code(), 0);
        assert_eq!(CliError::from(RunError::Usage("x".to_owned())).code(), 2);
        assert_eq!(CliError::from(RunError::Thread("x".to_owned())).code(), 1);
        let pipe = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(CliError::from(pipe).code(), 0);
    }

    #[test]
    fn a_similar_word_is_found_and_no_other() {
        assert_eq!(
            similar("windwo", ["slide", "window", "wait"]),
            Some("window")
        );
        assert_eq!(similar("xyz", ["slide", "window", "wait"]), None);
    }
}
