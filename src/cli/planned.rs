//! What is planned and not in this version. People who have read of it are told so, instead of
//! "unexpected argument"; no help text lists it. Whoever builds one of these strikes its row here.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::error::CliError;

const NOT_ASKED: &str = "--http shows a run to programs: /metrics, /healthz, /readyz";
const PIPELINES: &str = "the pipelines are cars, factory, fleet and turnstile";

/// Flags, commands and pipelines, and what there is instead.
const PLANNED: &[(&str, &str)] = &[
    ("status", NOT_ASKED),
    ("top", NOT_ASKED),
    ("why", NOT_ASKED),
    ("graph", "the graph of a pipeline cannot be drawn yet"),
    (
        "lab",
        "only the windowing rules of its own, no others to compare with",
    ),
    (
        "bench",
        "a run shows its records per CPU-second at the end; --report has latencies",
    ),
    ("nexmark", PIPELINES),
];

/// What to say of `word`, a flag with its dashes or a command, if it is planned.
pub fn hint(word: &str) -> Option<String> {
    let word = word.split_once('=').map_or(word, |(flag, _)| flag);
    let (_, instead) = PLANNED.iter().find(|(planned, _)| *planned == word)?;
    Some(format!("{word}: not in this version: {instead}"))
}

/// What the parser says, unless it stumbled over something that is planned.
pub fn explain(error: clap::Error) -> CliError {
    let kind = match error.kind() {
        ErrorKind::UnknownArgument => ContextKind::InvalidArg,
        ErrorKind::InvalidSubcommand => ContextKind::InvalidSubcommand,
        _ => return error.into(),
    };
    match error.get(kind) {
        Some(ContextValue::String(word)) => hint(word).map_or(error.into(), CliError::Usage),
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_planned_is_told_and_what_is_there_is_not() {
        assert!(
            hint("status")
                .expect("planned")
                .starts_with("status: not in this version")
        );
        assert_eq!(hint("--window"), None);
        assert_eq!(hint("--http=:8080"), None);
    }
}
