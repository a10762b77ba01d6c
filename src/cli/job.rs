//! `--state` and the flags that go with it: what a job is, and what of it may change.

use std::collections::BTreeMap;

use clap::ArgMatches;
use serde_json::Value;
use uuid::Uuid;

use super::error::CliError;
use super::input::Input;
use super::plan::Plan;
use super::registry::PipelineEntry;
use super::report;
use crate::runtime::control::wall_clock;
use crate::runtime::state::StateOptions;
use crate::state::retention::History;
use crate::state::{Starter, StateError, StorageOptions, open};

/// What does not change the results, only how they come about or where they are seen. Outputs are
/// compared by what they are called within the job, not by their addresses.
pub const MAY_CHANGE: &[&str] = &[
    "bind",
    "checkpoint",
    "close_on_idle",
    "config",
    "connect_timeout",
    "delivery",
    "dims",
    "dims_refresh",
    "dims_wait",
    "drain",
    "epoch",
    "follow",
    "fresh",
    "group",
    "heartbeat_timeout",
    "history",
    "hostfile",
    "http",
    "idle_after",
    "kafka",
    "name",
    "process",
    "processes",
    "quiet",
    "replace_output",
    "report",
    "restarts",
    "schema_registry",
    "schema_registry_auth",
    "secret_file",
    "speed",
    "start",
    "state",
    "to",
    "until_end",
    "verbose",
    "workers",
];

/// What the configuration calls `--start` of the embedded generator.
pub const FIRST_EVENT: &str = "first_event";

/// The state that the flags ask for, if they do.
pub fn state_options(
    plan: &Plan,
    entry: &dyn PipelineEntry,
    matches: &ArgMatches,
) -> Result<Option<StateOptions>, CliError> {
    let Some(uri) = matches.get_one::<String>("state") else {
        return Ok(None);
    };
    if plan.settings.input == Input::Stdin {
        return Err(CliError::usage(
            "--state: standard input cannot be read again; write it to a file or a topic first",
        ));
    }
    if matches.get_flag("live") {
        return Err(CliError::usage(
            "--state: --live makes other events at each start; generate them into a file or a topic",
        ));
    }
    let timeout = matches.get_one::<crate::time::Span>("connect-timeout");
    let storage = StorageOptions {
        connect_timeout: timeout.map_or(StorageOptions::default().connect_timeout, |span| {
            std::time::Duration::from_millis(span.0.unsigned_abs())
        }),
        ..StorageOptions::default()
    };
    let storage = open(uri, storage).map_err(|error| match error {
        StateError::Config(text) => CliError::Usage(format!("--state {text}")),
        error => CliError::Failed(error.to_string()),
    })?;
    Ok(Some(StateOptions {
        storage,
        is_fresh: matches.get_flag("fresh"),
        replace_output: matches.get_flag("replace-output"),
        config: configuration(plan, entry, matches),
        may_change: MAY_CHANGE,
        version: entry.version().to_owned(),
        history: matches.get_one("history").copied().unwrap_or(History::All),
        starter: Starter {
            nonce: Uuid::new_v4(),
            at: wall_clock(),
            by: who(),
            goes_on: false,
        },
    }))
}

/// Every flag that is in force, as text; the input without its address.
pub fn configuration(
    plan: &Plan,
    entry: &dyn PipelineEntry,
    matches: &ArgMatches,
) -> BTreeMap<String, String> {
    let Value::Object(options) = report::options(plan, entry, matches) else {
        return BTreeMap::new();
    };
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let mut config: BTreeMap<String, String> = options
        .into_iter()
        .map(|(name, value)| (name, text(value)))
        .collect();
    config.insert("from".to_owned(), plan.source.name());
    // The default, whether it was given or not.
    config.retain(|name, value| name != "value_format" || value != "json");
    // Of a topic it says only where an unread partition begins; here it makes other events.
    if plan.settings.input == Input::Generate
        && let Some(start) = config.remove("start")
    {
        config.insert(FIRST_EVENT.to_owned(), start);
    }
    config
}

/// Host and process.
fn who() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), std::process::id())
}
