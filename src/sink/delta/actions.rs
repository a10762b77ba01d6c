//! The actions of a Delta table's log, as far as we write them and must understand them.
//!
//! An entry of the log is a file of JSON lines with one action each, a checkpoint is a Parquet file
//! with one row each. The names are those of the protocol:
//! <https://github.com/delta-io/delta/blob/master/PROTOCOL.md>.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One line: exactly one of these is there, or none that we know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Action {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) commit_info: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) protocol: Option<Protocol>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) meta_data: Option<MetaData>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) txn: Option<Txn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) add: Option<Add>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) remove: Option<Remove>,
}

/// What a reader or writer must be able to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Protocol {
    pub(super) min_reader_version: i32,
    pub(super) min_writer_version: i32,
}

/// What the table is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MetaData {
    pub(super) id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<String>,
    pub(super) format: Format,
    /// JSON.
    pub(super) schema_string: String,
    pub(super) partition_columns: Vec<String>,
    pub(super) configuration: BTreeMap<String, Option<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) created_time: Option<i64>,
}

/// What its data files are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Format {
    pub(super) provider: String,
    #[serde(default)]
    pub(super) options: BTreeMap<String, Option<String>>,
}

impl Default for Format {
    fn default() -> Self {
        Self {
            provider: "parquet".to_owned(),
            options: BTreeMap::new(),
        }
    }
}

/// How far an application has got with this table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Txn {
    pub(super) app_id: String,
    pub(super) version: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_updated: Option<i64>,
}

/// A data file belongs to the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Add {
    /// Relative to the table, as a URI: what is special in URIs is written as `%` and two digits.
    pub(super) path: String,
    pub(super) partition_values: BTreeMap<String, Option<String>>,
    /// In bytes.
    pub(super) size: i64,
    /// In milliseconds since 1970.
    pub(super) modification_time: i64,
    pub(super) data_change: bool,
    /// JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) stats: Option<String>,
    /// What other writers note of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tags: Option<BTreeMap<String, Option<String>>>,
}

/// A data file no longer belongs to the table. Its bytes stay, for readers of older versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Remove {
    pub(super) path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) deletion_timestamp: Option<i64>,
    pub(super) data_change: bool,
}

impl From<Protocol> for Action {
    fn from(protocol: Protocol) -> Self {
        Self {
            protocol: Some(protocol),
            ..Self::default()
        }
    }
}

impl From<MetaData> for Action {
    fn from(meta_data: MetaData) -> Self {
        Self {
            meta_data: Some(meta_data),
            ..Self::default()
        }
    }
}

impl From<Txn> for Action {
    fn from(txn: Txn) -> Self {
        Self {
            txn: Some(txn),
            ..Self::default()
        }
    }
}

impl From<Add> for Action {
    fn from(add: Add) -> Self {
        Self {
            add: Some(add),
            ..Self::default()
        }
    }
}

impl From<Remove> for Action {
    fn from(remove: Remove) -> Self {
        Self {
            remove: Some(remove),
            ..Self::default()
        }
    }
}

impl Action {
    /// Who has done what, for people who look at the table's history.
    pub(super) fn info(operation: &str, now_ms: i64, parameters: Value) -> Self {
        let info = serde_json::json!({
            "timestamp": now_ms,
            "operation": operation,
            "operationParameters": parameters,
            "engineInfo": concat!("highwater/", env!("CARGO_PKG_VERSION")),
        });
        Self {
            commit_info: Some(info),
            ..Self::default()
        }
    }
}

/// An entry of the log.
///
/// # Errors
/// When a line is not JSON, or an action that we know lacks something.
pub(super) fn parse(entry: &[u8]) -> Result<Vec<Action>, serde_json::Error> {
    let lines = entry.split(|byte| *byte == b'\n');
    lines
        .filter(|line| !line.trim_ascii().is_empty())
        .map(serde_json::from_slice)
        .collect()
}

/// The actions as an entry of the log.
pub(super) fn render(actions: &[Action]) -> Vec<u8> {
    let mut entry = Vec::new();
    for action in actions {
        // Invariant: maps have texts as keys.
        serde_json::to_writer(&mut entry, action).expect("actions are JSON");
        entry.push(b'\n');
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_as_it_was_written_and_unknown_actions_are_passed_over() {
        let add = Add {
            path: "reason=a%252Fb/x.parquet".to_owned(),
            partition_values: [("reason".to_owned(), None)].into(),
            size: 5,
            modification_time: 6,
            data_change: true,
            stats: None,
            tags: None,
        };
        let txn = Txn {
            app_id: "a".to_owned(),
            version: 7,
            last_updated: None,
        };
        let actions: Vec<Action> = vec![add.into(), txn.into()];
        let mut entry = render(&actions);
        assert_eq!(parse(&entry).unwrap(), actions);
        entry.extend_from_slice(b"{\"domainMetadata\":{\"domain\":\"d\"}}\n\n");
        assert_eq!(parse(&entry).unwrap()[2], Action::default());
        assert!(parse(b"{\"add\":{\"path\":1}}").is_err());
        let text = String::from_utf8(entry).unwrap();
        let first = r#"{"add":{"path":"reason=a%252Fb/x.parquet","partitionValues":{"reason":null},"size":5,"modificationTime":6,"dataChange":true}}"#;
        assert_eq!(text.lines().next().unwrap(), first);
    }
}
