//! What the next run would go on from.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cli::summary::{FATES, table};
use crate::cli::value::grouped;
use crate::ledger::Fates;
use crate::sink::RunNumber;
use crate::state::history::{self, BaseName, ChunkName};
use crate::state::log::{LogItem, LogObject, numbers, peek};
use crate::state::{JobRecord, Manifest, PartitionState, StateError, Storage, Takeover};
use crate::time::{Epoch, EventTime, Offset, PartitionId};

/// Fates that always have a column; the others when there is such a record.
const ALWAYS: usize = 2;

/// A state as it is shown.
#[derive(Debug, Serialize)]
pub struct Shown {
    state: String,
    job: JobRecord,
    runs: Vec<RunShown>,
    checkpoint: Option<Manifest>,
    /// What was logged after the checkpoint and will be replayed.
    logged: Option<Logged>,
    /// From which epoch on everything is there for a replay.
    history: Option<HistoryShown>,
    /// How many objects there are of each kind.
    objects: BTreeMap<String, u64>,
    /// How many bytes the objects of the checkpoint have.
    checkpoint_bytes: u64,
}

#[derive(Debug, Serialize)]
struct RunShown {
    run: RunNumber,
    #[serde(flatten)]
    takeover: Takeover,
}

#[derive(Debug, Serialize)]
struct Logged {
    first: Epoch,
    last: Epoch,
    watermark: EventTime,
    /// Per partition where the last epoch ends, and its watermark there.
    partitions: BTreeMap<PartitionId, (Offset, EventTime)>,
}

#[derive(Debug, Serialize)]
struct HistoryShown {
    /// The epoch after which a replay can start; `None`: it starts with the job.
    after: Option<Epoch>,
    since: EventTime,
}

impl Shown {
    /// Reads what is shown; `None`: there is no job.
    ///
    /// # Errors
    /// When the storage fails, or the log is damaged or not whole.
    pub fn read(storage: &dyn Storage) -> Result<Option<Self>, StateError> {
        let Some(past) = peek(storage)? else {
            return Ok(None);
        };
        let mut objects = BTreeMap::new();
        for name in storage.list("")? {
            let kind = name.split('/').next().unwrap_or_default();
            *objects.entry(kind.to_owned()).or_default() += 1;
        }
        let logged = past.epochs.first().zip(past.epochs.last());
        let logged = logged.map(|(first, last)| Logged {
            first: first.epoch,
            last: last.epoch,
            watermark: last.watermark,
            partitions: last
                .partitions
                .iter()
                .map(|report| (report.partition, (report.to, report.watermark)))
                .collect(),
        });
        let chain = past.manifest.iter().flat_map(|manifest| &manifest.objects);
        Ok(Some(Self {
            state: storage.name(),
            runs: runs(storage)?,
            history: history_of(storage, &past.job)?,
            objects,
            checkpoint_bytes: chain.map(|object| object.bytes).sum(),
            logged,
            job: past.job,
            checkpoint: past.manifest,
        }))
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = self.facts();
        text.push_str(&format!("\n{}", table(&self.run_rows())));
        if let Some(manifest) = &self.checkpoint {
            let partitions = self.partition_rows(&manifest.partitions);
            text.push_str(&format!("\n{}", table(&partitions)));
            text.push_str(&format!("\n{}", table(&ledger_rows(manifest))));
            text.push_str(&format!("\n{}", table(&output_rows(manifest))));
            text.push_str(&format!("\n{}", table(&self.sink_rows(manifest))));
        }
        text
    }

    fn facts(&self) -> String {
        let job = &self.job;
        let config: Vec<_> = job
            .config
            .iter()
            .map(|(name, it)| format!("{name}={it}"))
            .collect();
        let checkpoint = self.checkpoint.as_ref().map_or_else(
            || "none yet".to_owned(),
            |manifest| {
                let drained = if manifest.is_drained { ", drained" } else { "" };
                format!(
                    "epoch {}, watermark {}{drained}; {} objects with {} bytes",
                    manifest.epoch,
                    time(manifest.watermark),
                    manifest.objects.len(),
                    grouped(self.checkpoint_bytes)
                )
            },
        );
        let logged = self.logged.as_ref().map_or_else(
            || "nothing after it".to_owned(),
            |logged| {
                let (first, last) = (logged.first, logged.last);
                format!(
                    "epochs {first} to {last}, watermark {}",
                    time(logged.watermark)
                )
            },
        );
        let history = match &self.history {
            None => "none".to_owned(),
            Some(HistoryShown { after: None, since }) => format!("from the beginning, {since}"),
            Some(HistoryShown {
                after: Some(epoch),
                since,
            }) => {
                format!("after epoch {epoch}, {since}")
            }
        };
        let objects: Vec<_> = self
            .objects
            .iter()
            .map(|(kind, count)| format!("{kind} {}", grouped(*count)))
            .collect();
        let facts = [
            ("state", self.state.clone()),
            ("job", format!("{}, made at {}", job.job, job.created_at)),
            (
                "pipeline",
                format!("{}, version {}", job.pipeline, job.version),
            ),
            ("options", config.join(" ")),
            ("checkpoint", checkpoint),
            ("log", logged),
            ("history", history),
            ("objects", objects.join(", ")),
        ];
        let line = |(name, fact): &(&str, String)| format!("{name:<12}{fact}\n");
        facts.iter().map(line).collect()
    }

    fn run_rows(&self) -> Vec<Vec<String>> {
        let mut rows = vec![row(["run", "began", "by"])];
        rows.extend(self.runs.iter().map(|it| {
            vec![
                it.run.to_string(),
                it.takeover.at.to_string(),
                it.takeover.by.clone(),
            ]
        }));
        rows
    }

    fn partition_rows(&self, partitions: &[PartitionState]) -> Vec<Vec<String>> {
        let titles = [
            "partition",
            "number",
            "offset",
            "newest event",
            "floor",
            "standing",
            "gaps",
            "logged offset",
            "logged watermark",
        ];
        let mut rows = vec![row(titles)];
        for state in partitions {
            let logged = self.logged.as_ref();
            let logged = logged.and_then(|it| it.partitions.get(&state.partition.id));
            let dash = || "-".to_owned();
            rows.push(vec![
                state.partition.name.clone(),
                state.partition.id.to_string(),
                state.offset.map_or_else(dash, |offset| grouped(offset.0)),
                time(state.max_event),
                time(state.floor),
                format!("{:?}", state.standing).to_lowercase(),
                grouped(state.gaps),
                logged.map_or_else(dash, |(offset, _)| grouped(offset.0)),
                logged.map_or_else(dash, |(_, watermark)| time(*watermark)),
            ]);
        }
        rows
    }

    fn sink_rows(&self, manifest: &Manifest) -> Vec<Vec<String>> {
        let mut rows = vec![row(["sink", "shards", "positions"])];
        for (name, mark) in &manifest.sinks {
            let shards = self.job.shards.get(name);
            let positions: Vec<_> = mark.positions.values().map(|it| grouped(*it)).collect();
            rows.push(vec![
                name.clone(),
                shards.map_or_else(|| "-".to_owned(), ToString::to_string),
                positions.join(" "),
            ]);
        }
        rows
    }
}

fn row<'t>(cells: impl IntoIterator<Item = &'t str>) -> Vec<String> {
    cells.into_iter().map(str::to_owned).collect()
}

/// A time, or the end that it is.
fn time(time: EventTime) -> String {
    match time {
        EventTime::MIN => "none".to_owned(),
        EventTime::MAX => "end".to_owned(),
        time => time.to_string(),
    }
}

fn ledger_rows(manifest: &Manifest) -> Vec<Vec<String>> {
    let mut total = Fates::default();
    manifest.partitions.iter().for_each(|it| total += it.fates);
    let shown: Vec<_> = FATES
        .iter()
        .enumerate()
        .filter(|(at, (_, count))| *at < ALWAYS || count(&total) > 0)
        .map(|(_, fate)| fate)
        .collect();
    let line = |name: &str, fates: &Fates| {
        let counts = shown.iter().map(|(_, count)| grouped(count(fates)));
        [name.to_owned()].into_iter().chain(counts).collect()
    };
    let titles = shown.iter().map(|(name, _)| *name);
    let mut rows = vec![row(["ledger"].into_iter().chain(titles))];
    rows.extend(
        manifest
            .partitions
            .iter()
            .map(|it| line(&it.partition.name, &it.fates)),
    );
    if manifest.partitions.len() != 1 {
        rows.push(line(
            &format!("total of {}", manifest.partitions.len()),
            &total,
        ));
    }
    rows
}

fn output_rows(manifest: &Manifest) -> Vec<Vec<String>> {
    let mut rows = vec![row(["output", "rows", "windows", "bytes"])];
    rows.extend(manifest.outputs.iter().map(|(name, total)| {
        let (windows, bytes) = (grouped(total.windows), grouped(total.bytes));
        vec![name.clone(), grouped(total.rows), windows, bytes]
    }));
    rows
}

/// The runs that the log remembers.
fn runs(storage: &dyn Storage) -> Result<Vec<RunShown>, StateError> {
    let mut runs = Vec::new();
    for number in numbers(storage)? {
        let object = LogObject::read(storage, number)?;
        runs.extend(object.into_iter().flat_map(|object| {
            let run = object.run;
            object.items.into_iter().filter_map(move |item| match item {
                LogItem::Takeover(takeover) => Some(RunShown { run, takeover }),
                _ => None,
            })
        }));
    }
    Ok(runs)
}

fn history_of(storage: &dyn Storage, job: &JobRecord) -> Result<Option<HistoryShown>, StateError> {
    let chunks: Vec<ChunkName> = history::chunks(storage, job.job)?;
    let bases: Vec<BaseName> = history::bases(storage, job.job)?;
    let beginning = HistoryShown {
        after: None,
        since: job.opened_at,
    };
    if chunks.first().is_some_and(|chunk| chunk.first == Epoch(0)) {
        return Ok(Some(beginning));
    }
    Ok(bases.first().map(|base| HistoryShown {
        after: Some(base.epoch),
        since: base.at,
    }))
}
