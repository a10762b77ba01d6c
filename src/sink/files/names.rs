//! Names: of published and staged files, and of the folders that a layout puts them into.

use crate::rows::{Cell, Rows};
use crate::sink::encode::date_and_time;
use crate::sink::{Layout, OutputSpec, RunNumber, SinkError};
use crate::time::{Epoch, EventTime, Shard};

/// The folder value that readers of partitioned folders take for null.
pub(in crate::sink) const NULL_FOLDER: &str = "__HIVE_DEFAULT_PARTITION__";
pub(super) const HOUR_MS: i64 = 3_600_000;

/// Names of published and staged files.
#[derive(Clone, Debug)]
pub(super) struct Naming {
    pub(super) output: &'static str,
    pub(super) run_label: String,
    pub(super) extension: &'static str,
    /// What the format is called in URIs: two formats may have one extension.
    pub(super) kind: &'static str,
    /// The job's tag and the run, when there is a job: the names of all its runs are the same.
    pub(super) job: Option<(String, RunNumber)>,
}

impl Naming {
    /// `windows-20240101T000000Z-20240101T001500Z-s003.parquet`, with a job
    /// `windows-j01234567-...`
    pub(super) fn window(&self, start: EventTime, end: EventTime, shard: Shard) -> String {
        let tag = self.job.as_ref().map_or("", |(tag, _)| tag);
        let (start, end) = (compact(start), compact(end));
        self.name(tag, &format!("{start}-{end}"), shard)
    }

    /// `alerts-LABEL-e000000012-s003.parquet`, without the label where there is none; with a job
    /// its tag is the label.
    pub(super) fn records(&self, epoch: Epoch, shard: Shard) -> String {
        let label = self.job.as_ref().map_or(&self.run_label, |(tag, _)| tag);
        self.name(label, &format!("e{:09}", epoch.0), shard)
    }

    fn name(&self, label: &str, what: &str, shard: Shard) -> String {
        let dash = if label.is_empty() { "" } else { "-" };
        let (output, extension) = (self.output, self.extension);
        format!("{output}{dash}{label}-{what}-s{:03}.{extension}", shard.0)
    }

    /// What the names of a shard's staged files begin with. Two runs of a job may be at work: each
    /// stages under names of its own.
    pub(super) fn staged(&self, shard: Shard) -> String {
        let run = self.job.as_ref();
        let run = run.map_or_else(String::new, |(_, run)| format!("{run}-"));
        format!("{}{run}", self.staged_by_all(shard))
    }

    fn staged_by_all(&self, shard: Shard) -> String {
        let (output, kind, shard) = (self.output, self.kind, shard.0);
        match &self.job {
            Some((tag, _)) => format!("{tag}-{output}-{kind}-s{shard:03}-r"),
            None => format!("{output}-{kind}-s{shard:03}-"),
        }
    }

    /// Whether a staged file of this name may be removed before this run begins, and at its end:
    /// it was staged for `shard` by this run or an earlier one.
    pub(super) fn is_leftover(&self, name: &str, shard: Shard) -> bool {
        let Some(rest) = name.strip_prefix(&self.staged_by_all(shard)) else {
            return false;
        };
        let Some((_, run)) = &self.job else {
            return name.ends_with(".tmp");
        };
        let number = rest.split_once('-').and_then(|(run, _)| run.parse().ok());
        name.ends_with(".tmp") && number.is_some_and(|number: u64| number <= run.0)
    }

    /// Where it stands which job writes this output in this format to a folder. Readers that list
    /// data files pass over names that begin so.
    pub(super) fn marker(&self) -> String {
        format!("_highwater-{}.{}.json", self.output, self.extension)
    }

    /// Whether this is the name of a published file of this output and format, of any job or none.
    /// Strict, since such files are removed where that is asked for.
    pub(super) fn is_published(&self, name: &str) -> bool {
        let extension = format!(".{}", self.extension);
        let rest = name
            .strip_prefix(self.output)
            .and_then(|rest| rest.strip_prefix('-'))
            .and_then(|rest| rest.strip_suffix(&extension));
        let Some((rest, shard)) = rest.and_then(|rest| rest.rsplit_once("-s")) else {
            return false;
        };
        let mut parts: Vec<&str> = rest.split('-').collect();
        if parts.len() > 1 && is_tag(parts[0]) {
            parts.remove(0);
        }
        is_number(shard)
            && match parts.as_slice() {
                [start, end] if is_time(start) => is_time(end),
                [label @ .., epoch] => {
                    epoch.strip_prefix('e').is_some_and(is_number)
                        && label.iter().copied().all(is_number)
                }
                [] => false,
            }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_tag(text: &str) -> bool {
    let digits = text.strip_prefix('j').unwrap_or_default();
    digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether this looks like what [`compact`] makes.
fn is_time(text: &str) -> bool {
    let parts = text.strip_suffix('Z').and_then(|text| text.split_once('T'));
    parts.is_some_and(|(date, time)| is_number(date) && is_number(&time.replace('.', "")))
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

/// Undoes [`escape`].
#[cfg(feature = "parquet")]
pub(in crate::sink) fn unescape(value: &str) -> String {
    let bytes = value.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let digits = value.get(at + 1..at + 3);
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (bytes[at], byte) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (other, _) => {
                out.push(other);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naming(run: Option<u64>) -> Naming {
        Naming {
            output: "late",
            run_label: "17-4".to_owned(),
            extension: "csv.gz",
            kind: "csv",
            job: run.map(|run| ("j0123abcd".to_owned(), RunNumber(run))),
        }
    }

    #[test]
    fn all_runs_of_a_job_give_the_same_names() {
        let (start, end) = (EventTime(0), EventTime(60_000));
        let window = |run| naming(run).window(start, end, Shard(3));
        let records = |run| naming(run).records(Epoch(12), Shard(3));
        let bounds = "19700101T000000Z-19700101T000100Z-s003.csv.gz";
        assert_eq!(window(None), format!("late-{bounds}"));
        assert_eq!(window(Some(7)), format!("late-j0123abcd-{bounds}"));
        assert_eq!(records(None), "late-17-4-e000000012-s003.csv.gz");
        assert_eq!(records(Some(7)), "late-j0123abcd-e000000012-s003.csv.gz");
        for run in [None, Some(7)] {
            assert_eq!(records(run), naming(run).records(Epoch(12), Shard(3)));
            assert!(naming(None).is_published(&window(run)));
            assert!(naming(None).is_published(&records(run)));
        }
        assert_eq!(window(Some(7)), window(Some(8)));
        assert_eq!(records(Some(7)), records(Some(8)));
    }

    #[test]
    fn only_published_files_of_the_same_output_are_its_own() {
        for name in [
            "late-e000000012-s003.csv",
            "late-e000000012-s003.parquet",
            "late-rows-e000000012-s003.csv.gz",
            "late-rows-j0123abcd-e000000012-s003.csv.gz",
            "lately-e000000012-s003.csv.gz",
            "late-report-19700101T000000Z-s003.csv.gz",
            "late-s003.csv.gz",
            "late--s003.csv.gz",
            "late-e12-s.csv.gz",
            "_highwater-late.csv.gz.json",
            "my-late-e000000012-s003.csv.gz",
        ] {
            assert!(!naming(None).is_published(name), "{name}");
        }
        assert!(naming(None).is_published("late-e000000012-s003.csv.gz"));
        let millis = "late-19700101T000000.250Z-19700101T000100Z-s003.csv.gz";
        assert!(naming(None).is_published(millis));
    }

    #[test]
    fn a_run_stages_under_its_own_names_and_removes_those_of_earlier_ones() {
        let staged = |run| format!("{}1.tmp", naming(run).staged(Shard(3)));
        let is_leftover = |run, name: &str| naming(run).is_leftover(name, Shard(3));
        assert_ne!(staged(Some(1)), staged(Some(2)));
        assert!(is_leftover(Some(2), &staged(Some(1))));
        assert!(is_leftover(Some(2), &staged(Some(2))));
        assert!(!is_leftover(Some(2), &staged(Some(10))));
        assert!(!naming(Some(2)).is_leftover(&staged(Some(1)), Shard(4)));
        assert!(!is_leftover(Some(2), &staged(None)));
        assert!(!is_leftover(None, &staged(Some(1))));
        assert!(is_leftover(None, &staged(None)));
    }

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
