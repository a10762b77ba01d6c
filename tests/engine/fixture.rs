//! A pipeline, a source and a sink for tests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use highwater::aggregate::{count, sum};
use highwater::decode::{Decoded, Message, Reason, Rejection};
use highwater::epoch::EpochEntry;
use highwater::flow::{Flow, FlowOptions, WindowRow};
use highwater::join::Policy;
use highwater::ledger::Fates;
use highwater::rows::{Cell, Column, ColumnType, RowWriter, Tabular};
use highwater::runtime::ingest::IngestOptions;
use highwater::runtime::state::StateOptions;
use highwater::runtime::{Pipeline, RunError, RunOptions, Summary, describe, run};
use highwater::sink::{
    EpochRows, Guarantee, JobContext, Layout, OutputSpec, Sink, SinkContext, SinkError,
    SinkFactory, Written,
};
use highwater::source::{Assignment, Partition, RawBatch, RawRecord, Reader, Source, SourceError};
use highwater::state::retention::History;
use highwater::state::{LogItem, LogObject, MemoryStorage, Put, Starter, Storage, StorageError};
use highwater::time::{EventTime, Offset, PartitionId, Shard, Span};
use highwater::window::{Late, WindowSpec};

/// A record of the test pipeline: `t key v` on the wire.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Item {
    pub time: EventTime,
    pub key: u8,
    pub value: f64,
}

highwater::fixed_layout!(Item { time, key, value });

pub fn decode(message: Message<'_>) -> Result<Decoded<Item>, Rejection> {
    let text = std::str::from_utf8(message.value)
        .map_err(|_| Rejection::new(Reason::Undecodable, "not UTF-8"))?;
    if text == "header" {
        return Ok(Decoded::Skip);
    }
    let mut parts = text.split(' ');
    let mut next = || {
        parts
            .next()
            .ok_or_else(|| Rejection::new(Reason::Undecodable, "short"))
    };
    let number = |_| Rejection::new(Reason::Undecodable, "not a number");
    let time = EventTime(next()?.parse().map_err(number)?);
    let key = next()?.parse().map_err(number)?;
    let value: f64 = next()?
        .parse()
        .map_err(|_| Rejection::new(Reason::Undecodable, "not a number"))?;
    Ok(Decoded::Record(time, Item { time, key, value }))
}

/// Filters out key 9, then sums per key and window.
pub struct Sums;

impl Pipeline for Sums {
    fn name(&self) -> &'static str {
        "sums"
    }

    fn main_output(&self) -> &'static str {
        "windows"
    }

    fn build(&self, flow: &mut Flow<'_>) {
        let items = flow.source(decode).filter("NotNine", |item| item.key != 9);
        flow.records_output("items", Layout::Flat, items.clone());
        let windows = items.window(
            |item| item.key,
            || (count(), sum(|item: &Item| Some(item.value))),
        );
        flow.windows_output("windows", Layout::Flat, &["key"], &windows, Row::of);
        flow.late_output(windows.late);
    }
}

pub struct Row(EventTime, EventTime, u8, u64, Option<f64>);

impl Row {
    pub fn of(row: WindowRow<'_, u8, (u64, Option<f64>)>) -> Self {
        Self(row.start, row.end, *row.key, row.value.0, row.value.1)
    }
}

impl Tabular for Row {
    fn columns() -> Vec<Column> {
        vec![
            Column::new("window_start", ColumnType::Timestamp),
            Column::new("window_end", ColumnType::Timestamp),
            Column::new("key", ColumnType::Int),
            Column::new("count", ColumnType::Int),
            Column::nullable("sum", ColumnType::Float),
        ]
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.timestamp(self.0);
        row.timestamp(self.1);
        row.int(i64::from(self.2));
        row.int(self.3 as i64);
        row.float(self.4);
    }
}

impl Tabular for Item {
    fn columns() -> Vec<Column> {
        vec![
            Column::new("time", ColumnType::Timestamp),
            Column::new("key", ColumnType::Int),
            Column::new("value", ColumnType::Float),
        ]
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.timestamp(self.time);
        row.int(i64::from(self.key));
        row.float(self.value);
    }
}

/// What the reader of a partition does, step by step.
#[derive(Clone, Debug)]
pub enum Step {
    /// Delivers these lines as one batch.
    Batch(Vec<String>),
    /// Passes so many offsets over, as a compacted topic does, and says so.
    Gap(u64),
    /// Passes so many offsets over and says nothing: a reader with a defect.
    Lose(u64),
    /// Stands at the end of the partition, as confirmed just now, until the gate opens.
    SilentUntil(Arc<Gate>),
    /// Is out of reach (nobody confirms anything) until the gate opens.
    UnreachableUntil(Arc<Gate>),
}

/// Opens when the test says so.
#[derive(Debug, Default)]
pub struct Gate(std::sync::atomic::AtomicBool);

impl Gate {
    pub fn open(&self) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }

    pub fn is_open(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}

/// Partitions whose readers follow a script; the last may be found only once a gate opens.
pub struct Script {
    pub partitions: Vec<Vec<Step>>,
    pub found_at: Option<Arc<Gate>>,
}

impl Script {
    pub fn batches(partitions: &[Vec<String>], size: usize) -> Self {
        let steps = |lines: &Vec<String>| {
            lines
                .chunks(size.max(1))
                .map(|chunk| Step::Batch(chunk.to_vec()))
                .collect()
        };
        Self {
            partitions: partitions.iter().map(steps).collect(),
            found_at: None,
        }
    }
}

impl Source for Script {
    fn name(&self) -> String {
        "script".to_owned()
    }

    fn partitions(&self) -> Result<Vec<Partition>, SourceError> {
        let hidden = self.found_at.as_ref().is_some_and(|gate| !gate.is_open());
        let count = self.partitions.len() - usize::from(hidden);
        let partition = |id: usize| Partition {
            id: PartitionId(id as u32),
            name: format!("p{id}"),
        };
        Ok((0..count).map(partition).collect())
    }

    fn discovery_interval(&self) -> Option<Duration> {
        self.found_at.as_ref().map(|_| Duration::from_millis(5))
    }

    fn reader(&self) -> Result<Box<dyn Reader>, SourceError> {
        Ok(Box::new(ScriptReader(self.partitions.clone())))
    }

    fn check(&self) -> Result<String, SourceError> {
        Ok("script".to_owned())
    }
}

struct ScriptReader(Vec<Vec<Step>>);

impl Reader for ScriptReader {
    fn assign(&mut self, assignment: Assignment) {
        let steps = self.0[assignment.partition.id.0 as usize].clone();
        std::thread::spawn(move || follow(&assignment, steps));
    }
}

fn follow(assignment: &Assignment, steps: Vec<Step>) {
    let mut offset = 0;
    assignment.feed.begin(Offset(offset));
    for step in steps {
        match step {
            Step::Batch(lines) => {
                while !assignment.feed.wait_for_room(Duration::from_secs(1)) {
                    if assignment.feed.is_closed() {
                        return;
                    }
                }
                let mut batch = RawBatch::default();
                for line in lines {
                    let start = batch.bytes.len() as u32;
                    batch.bytes.extend_from_slice(line.as_bytes());
                    batch.records.push(RawRecord {
                        offset: Offset(offset),
                        value: Some((start, batch.bytes.len() as u32)),
                        key: None,
                        append_time: None,
                    });
                    offset += 1;
                }
                batch.next_offset = Offset(offset);
                assignment.feed.push(batch);
            }
            Step::Gap(gaps) => {
                offset += gaps;
                assignment.feed.push(RawBatch {
                    next_offset: Offset(offset),
                    gaps,
                    ..RawBatch::default()
                });
            }
            Step::Lose(lost) => offset += lost,
            Step::SilentUntil(gate) => {
                while !gate.is_open() && !assignment.feed.is_closed() {
                    assignment.feed.caught_up();
                    std::thread::park_timeout(Duration::from_millis(1));
                }
            }
            Step::UnreachableUntil(gate) => {
                while !gate.is_open() && !assignment.feed.is_closed() {
                    std::thread::park_timeout(Duration::from_millis(1));
                }
            }
        }
    }
    assignment.feed.end();
}

/// Keeps what is committed to it, one line of text per row.
#[derive(Clone, Default)]
pub struct Collected {
    pub lines: Arc<Mutex<Vec<String>>>,
    pub shards: u32,
    /// Called after each commit.
    pub after: Option<Arc<dyn Fn(&[String]) + Send + Sync>>,
}

impl Collected {
    pub fn new(shards: u32) -> Self {
        Self {
            shards,
            ..Self::default()
        }
    }

    pub fn sorted(&self) -> Vec<String> {
        let mut lines = self.lines.lock().unwrap().clone();
        lines.sort();
        lines
    }
}

impl SinkFactory for Collected {
    fn identity(&self) -> String {
        "collected".to_owned()
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn shards(&self) -> u32 {
        self.shards
    }

    fn check(&self, _: &OutputSpec) -> Result<String, SinkError> {
        Ok(String::new())
    }

    fn prepare(&self, _: &OutputSpec, _: u32, _job: Option<&JobContext>) -> Result<(), SinkError> {
        Ok(())
    }

    fn open(
        &self,
        _: &OutputSpec,
        _: &[Shard],
        _: &SinkContext,
    ) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(self.clone()))
    }
}

impl Sink for Collected {
    fn commit(&mut self, epoch: &EpochRows) -> Result<Written, SinkError> {
        let mut lines = self.lines.lock().unwrap();
        for row in 0..epoch.rows.len() {
            let mut line = String::new();
            for column in 0..epoch.rows.columns().len() {
                match epoch.rows.cell(column, row) {
                    Cell::Timestamp(time) => line.push_str(&time.0.to_string()),
                    Cell::Int(value) => line.push_str(&value.to_string()),
                    Cell::Float(value) => line.push_str(&format!("{:016x}", value.to_bits())),
                    Cell::Text(text) => line.push_str(text),
                    other => line.push_str(&format!("{other:?}")),
                }
                line.push(' ');
            }
            if let Some((pane, diff)) = epoch.rows.panes.get(row) {
                line.push_str(&format!(
                    "{} {} {} {} {diff:+}",
                    pane.timing.as_str(),
                    pane.index,
                    if pane.is_final { "final" } else { "open" },
                    pane.complete.as_str()
                ));
            }
            if let Some(origin) = epoch.rows.origins.get(row) {
                line.push_str(&format!("@{}:{}", origin.partition, origin.offset));
            }
            lines.push(line);
        }
        if let Some(after) = &self.after {
            after(&lines);
        }
        Ok(Written {
            rows: epoch.rows.len() as u64,
            bytes: 0,
        })
    }

    fn close(&mut self) -> Result<Written, SinkError> {
        Ok(Written::default())
    }
}

/// A state in memory that remembers every epoch that was ever logged.
#[derive(Clone, Default)]
pub struct KeptLog(pub Arc<Mutex<Vec<EpochEntry>>>, Arc<MemoryStorage>);

impl Storage for KeptLog {
    fn name(&self) -> String {
        self.1.name()
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, StorageError> {
        let put = self.1.put(name, bytes)?;
        if put == Put::Written && name.starts_with("log/") {
            let object = LogObject::parse(bytes).expect("a log object");
            let epochs = object.items.into_iter().filter_map(|item| match item {
                LogItem::Epoch(entry) => Some(entry),
                _ => None,
            });
            self.0.lock().unwrap().extend(epochs);
        }
        Ok(put)
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
        self.1.get(name)
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.1.list(prefix)
    }

    fn delete(&self, name: &str) -> Result<(), StorageError> {
        self.1.delete(name)
    }
}

/// A run that begins a job, or goes on with the one in `log`.
fn state(log: &KeptLog) -> StateOptions {
    let now = highwater::runtime::control::wall_clock();
    StateOptions {
        storage: Arc::new(log.clone()),
        is_fresh: false,
        replace_output: false,
        config: BTreeMap::new(),
        may_change: &[],
        version: "1".to_owned(),
        history: History::None,
        starter: Starter {
            nonce: uuid::Uuid::new_v4(),
            at: now,
            by: "test".to_owned(),
            goes_on: false,
        },
    }
}

/// The knobs of a test run.
#[derive(Clone)]
pub struct Knobs {
    pub window: WindowSpec,
    pub wait: Span,
    pub workers: usize,
    /// Whether they exchange bytes.
    pub serializes: bool,
    pub epoch: Duration,
    pub idle_after: Duration,
    pub close_on_idle: bool,
    pub drain: bool,
    pub max_ahead: Span,
    /// Whether the outputs go anywhere.
    pub sinks: bool,
    /// Called with all window rows after each commit.
    pub on_windows: Option<Arc<dyn Fn(&[String]) + Send + Sync>>,
    /// Called with all items after each commit.
    pub on_items: Option<Arc<dyn Fn(&[String]) + Send + Sync>>,
}

impl Knobs {
    pub fn tumbling(size: i64, wait: i64, workers: usize) -> Self {
        Self {
            window: WindowSpec::tumbling(Span(size)).unwrap(),
            wait: Span(wait),
            workers,
            serializes: false,
            epoch: Duration::from_millis(2),
            idle_after: Duration::from_secs(3600),
            close_on_idle: false,
            drain: true,
            max_ahead: Span(i64::MAX / 4),
            sinks: true,
            on_windows: None,
            on_items: None,
        }
    }
}

/// What came out of a run.
pub struct Outcome {
    pub windows: Collected,
    pub items: Collected,
    pub late: Collected,
    pub dead: Collected,
    pub log: Vec<EpochEntry>,
    pub summary: Summary,
}

impl Outcome {
    pub fn fates(&self) -> BTreeMap<u32, Fates> {
        self.summary
            .inputs
            .iter()
            .map(|(p, _, fates)| (p.id.0, *fates))
            .collect()
    }
}

/// What is left of a run of [`Sums`] that has succeeded.
pub fn run_script(script: Script, knobs: &Knobs) -> Outcome {
    try_run(Arc::new(Sums), script, knobs).expect("the run succeeds")
}

pub fn try_run(
    pipeline: Arc<dyn Pipeline>,
    script: Script,
    knobs: &Knobs,
) -> Result<Outcome, RunError> {
    let collectors = Collectors::new(knobs);
    let summary = run_into(pipeline, script, knobs, &collectors)?;
    let log = collectors.log.0.lock().unwrap().clone();
    let Collectors {
        windows,
        items,
        late,
        dead,
        ..
    } = collectors;
    Ok(Outcome {
        windows,
        items,
        late,
        dead,
        log,
        summary,
    })
}

/// Where the outputs of a run go, also of one that fails.
pub struct Collectors {
    pub windows: Collected,
    pub items: Collected,
    pub late: Collected,
    pub dead: Collected,
    pub log: KeptLog,
}

impl Collectors {
    pub fn new(knobs: &Knobs) -> Self {
        Self {
            windows: Collected {
                after: knobs.on_windows.clone(),
                ..Collected::new(1)
            },
            items: Collected {
                after: knobs.on_items.clone(),
                ..Collected::new(3)
            },
            late: Collected::new(2),
            dead: Collected::new(2),
            log: KeptLog::default(),
        }
    }

    fn sinks(&self) -> Vec<(String, Arc<dyn SinkFactory>)> {
        let outputs = [
            ("windows", &self.windows),
            ("items", &self.items),
            ("late", &self.late),
            ("dead-letters", &self.dead),
        ];
        let sink = |(name, collected): (&str, &Collected)| {
            let factory: Arc<dyn SinkFactory> = Arc::new(collected.clone());
            (name.to_owned(), factory)
        };
        outputs.map(sink).into()
    }
}

pub fn run_into(
    pipeline: Arc<dyn Pipeline>,
    script: Script,
    knobs: &Knobs,
    collectors: &Collectors,
) -> Result<Summary, RunError> {
    let discovers = script.found_at.is_some();
    let ingest = IngestOptions {
        topic: "script".to_owned(),
        wait: knobs.wait,
        grain: Span(1),
        idle_after: knobs.idle_after,
        max_ahead: knobs.max_ahead,
        zone: highwater::time::Zone::UTC,
        dims_wait: Span::ZERO,
        alignment: IngestOptions::alignment_for(knobs.window.size(), knobs.wait),
        discovers,
        started_at: highwater::runtime::control::wall_clock(),
    };
    let flow = FlowOptions {
        window: knobs.window,
        late: Late::Divert,
        dims_policy: Policy::AsOf,
        ingest,
    };
    let source: Arc<dyn Source> = Arc::new(script);
    let mut sinks = if knobs.sinks {
        collectors.sinks()
    } else {
        Vec::new()
    };
    let outputs = describe(&pipeline, &flow, &source);
    sinks.retain(|(name, _)| outputs.iter().any(|output| output.name == name));
    let metrics: Arc<highwater::runtime::metrics::Metrics> = Arc::default();
    metrics.be_quiet();
    run(RunOptions {
        pipeline,
        source,
        sinks,
        flow,
        workers: knobs.workers,
        serializes: knobs.serializes,
        epoch: knobs.epoch,
        checkpoint: Duration::from_millis(20),
        close_on_idle: knobs.close_on_idle,
        ends: true,
        drain: knobs.drain,
        dims_refresh: None,
        run_label: "test".to_owned(),
        state: Some(state(&collectors.log)),
        is_at_least_once: false,
        metrics,
        notices: highwater::runtime::control::Notices::default(),
        cluster: None,
    })
}
