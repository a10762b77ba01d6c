//! Names: of published and staged files, and of the folders that a layout puts them into.

use crate::rows::{Cell, Rows};
use crate::sink::encode::date_and_time;
use crate::sink::{Layout, OutputSpec, SinkError};
use crate::time::{Epoch, EventTime, Shard};

/// The folder value that readers of partitioned folders take for null.
const NULL_FOLDER: &str = "__HIVE_DEFAULT_PARTITION__";
pub(super) const HOUR_MS: i64 = 3_600_000;

/// Names of published and staged files.
#[derive(Clone, Debug)]
pub(super) struct Naming {
    pub(super) output: &'static str,
    pub(super) run_label: String,
    pub(super) extension: &'static str,
}

impl Naming {
    /// `windows-20240101T000000Z-20240101T001500Z-s003.parquet`
    pub(super) fn window(&self, start: EventTime, end: EventTime, shard: Shard) -> String {
        let (start, end) = (compact(start), compact(end));
        format!(
            "{}-{start}-{end}-s{:03}.{}",
            self.output, shard.0, self.extension
        )
    }

    /// `alerts-LABEL-e000000012-s003.parquet`, without the label where there is none.
    pub(super) fn records(&self, epoch: Epoch, shard: Shard) -> String {
        let dash = if self.run_label.is_empty() { "" } else { "-" };
        format!(
            "{}{dash}{}-e{:09}-s{:03}.{}",
            self.output, self.run_label, epoch.0, shard.0, self.extension
        )
    }

    /// What the names of a shard's staged files begin with.
    pub(super) fn staged(&self, shard: Shard) -> String {
        format!("{}-s{:03}-", self.output, shard.0)
    }
}

/// `20240101T000000Z`, with milliseconds only where there are some.
fn compact(time: EventTime) -> String {
    let (date, time) = date_and_time(time);
    let time = time.strip_suffix(".000").unwrap_or(&time);
    format!("{}T{}Z", date.replace('-', ""), time.replace(':', ""))
}

/// In which folder a row belongs; the order decides in which order files are published.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FolderKey {
    Flat,
    Null,
    /// Hours since 1970.
    Hour(i64),
    Value(String),
}

/// How a row's folder is found.
#[derive(Clone, Copy, Debug)]
pub(super) enum FolderRule {
    Flat,
    DateHour { column: usize },
    Value { column: usize, name: &'static str },
}

impl FolderRule {
    pub(super) fn of(output: &OutputSpec) -> Result<Self, SinkError> {
        Ok(match output.layout {
            Layout::Flat => Self::Flat,
            Layout::DateHour(name) => Self::DateHour {
                column: position(output, name)?,
            },
            Layout::Value(name) => Self::Value {
                column: position(output, name)?,
                name,
            },
        })
    }

    pub(super) fn key(self, rows: &Rows, row: usize) -> FolderKey {
        match self {
            Self::Flat => FolderKey::Flat,
            Self::DateHour { column } => match rows.cell(column, row) {
                Cell::Timestamp(time) => FolderKey::Hour(time.0.div_euclid(HOUR_MS)),
                _ => FolderKey::Null,
            },
            Self::Value { column, .. } => match rows.cell(column, row) {
                Cell::Text(text) => FolderKey::Value(text.to_owned()),
                _ => FolderKey::Null,
            },
        }
    }

    /// The folder with a slash at its end, or nothing.
    pub(super) fn path(self, key: &FolderKey) -> String {
        match (self, key) {
            (Self::DateHour { .. }, FolderKey::Hour(hours)) => {
                let (date, time) = date_and_time(EventTime(hours.saturating_mul(HOUR_MS)));
                format!("date={date}/hour={}/", &time[..2])
            }
            (Self::DateHour { .. }, _) => format!("date={NULL_FOLDER}/hour={NULL_FOLDER}/"),
            (Self::Value { name, .. }, FolderKey::Value(value)) if !value.is_empty() => {
                format!("{name}={}/", escape(value))
            }
            (Self::Value { name, .. }, _) => format!("{name}={NULL_FOLDER}/"),
            (Self::Flat, _) => String::new(),
        }
    }
}

pub(super) fn position(output: &OutputSpec, name: &str) -> Result<usize, SinkError> {
    output
        .columns
        .iter()
        .position(|column| column.name == name)
        .ok_or_else(|| {
            SinkError::Config(format!(
                "output {} has no column {name}, which its files are named by; \
             send it to another kind of sink",
                output.name
            ))
        })
}

/// Replaces what has a meaning in paths or in partitioned folders by `%` and two digits.
fn escape(value: &str) -> String {
    let mut out = String::new();
    for character in value.chars() {
        let is_special = "/\\:%\"'*?=#{}[]^".contains(character) || character.is_control();
        if is_special || (out.is_empty() && character == '.') {
            let mut buffer = [0; 4];
            for byte in character.encode_utf8(&mut buffer).bytes() {
                out.extend(format!("%{byte:02X}").chars());
            }
        } else {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_folders() {
        let rule = FolderRule::Value {
            column: 0,
            name: "reason",
        };
        let path = |value: &str| rule.path(&FolderKey::Value(value.to_owned()));
        assert_eq!(path("out_of_range"), "reason=out_of_range/");
        assert_eq!(path("a/b=c"), "reason=a%2Fb%3Dc/");
        assert_eq!(path("../x"), "reason=%2E.%2Fx/");
        assert_eq!(path(""), format!("reason={NULL_FOLDER}/"));
    }

    #[test]
    fn names_show_milliseconds_only_where_there_are_some() {
        assert_eq!(compact(EventTime(1_704_067_200_000)), "20240101T000000Z");
        assert_eq!(
            compact(EventTime(1_704_067_200_250)),
            "20240101T000000.250Z"
        );
    }
}
