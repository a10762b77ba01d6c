//! What a run counts while it goes on: read by the progress line, the summary and whoever asks over
//! HTTP, never by the dataflow.
//!
//! | module | what it holds |
//! |---|---|
//! | [`inputs`] | each partition: fates, watermark, how far it is read |
//! | [`borders`] | epochs, commits and checkpoints in time |
//! | [`sinks`] | what each sink has committed, and whether it waits |
//! | [`workers`] | what the workers of this process do |
//! | [`phase`] | what the run is busy with |
//! | [`durations`] | how long something took, each time |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::borders::Borders;
use self::durations::Durations;
use self::inputs::Inputs;
use self::phase::{Phase, Progressing};
use self::sinks::Sinks;
use self::workers::Workers;
use super::recovery::Recovery;
use crate::cluster::share::OutputShare;
use crate::cluster::{Share, Usage};
use crate::decode::DeadLetter;
use crate::epoch::{EpochEntry, Resume, Standing};
use crate::host;
use crate::sink::Written;
use crate::source::Partition;
use crate::terminal;
use crate::time::{Epoch, EventTime, Offset, PartitionId};

pub mod borders;
pub mod durations;
pub mod inputs;
pub mod phase;
pub mod sinks;
pub mod workers;

/// So many windows are remembered, not to count them twice.
const RECENT_WINDOWS: usize = 65_536;
/// How many dead letters are shown to people as they come.
const SHOWN_DEAD_LETTERS: u64 = 5;

/// What was read of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The first position.
    pub from: Offset,
    /// The position after the last record.
    pub to: Offset,
    /// Offsets in between that were never delivered.
    pub gaps: u64,
}

/// What was written to an output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputCount {
    /// Rows and bytes over all its sinks.
    pub written: Written,
    /// Windows that had a result.
    pub windows: u64,
}

#[derive(Debug)]
struct Tables {
    ranges: BTreeMap<PartitionId, Range>,
    /// Partitions that were not there at the start.
    found: Vec<Partition>,
    outputs: BTreeMap<&'static str, OutputCount>,
    recent_windows: BTreeMap<&'static str, BTreeSet<EventTime>>,
    /// Those of them that were not shared yet; `None` where nobody else shows them.
    unshared_windows: Option<BTreeMap<&'static str, Vec<EventTime>>>,
    /// What other processes have done.
    elsewhere: BTreeMap<usize, Share>,
    open_windows: BTreeMap<usize, usize>,
    holding: Option<(PartitionId, EventTime)>,
    newest: EventTime,
    latency: Durations,
    dead_letters: BTreeMap<&'static str, u64>,
}

/// Counters of a run, shared by its threads.
#[derive(Debug)]
pub struct Metrics {
    read: AtomicU64,
    bytes: AtomicU64,
    rejected: AtomicU64,
    on_time: AtomicU64,
    late: AtomicU64,
    epochs: AtomicU64,
    checkpoints: AtomicU64,
    watermark: AtomicI64,
    shown: AtomicU64,
    quiet: AtomicUsize,
    unmatched: AtomicU64,
    /// What became of each partition.
    pub inputs: Inputs,
    /// Epochs, commits and checkpoints in time.
    pub borders: Borders,
    /// What each sink has committed.
    pub sinks: Sinks,
    /// What the workers of this process do.
    pub workers: Workers,
    /// How far they are.
    pub progressing: Progressing,
    /// How long it takes to catch up with the run before.
    pub recovery: Recovery,
    tables: Mutex<Tables>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::since(Instant::now())
    }
}

impl Metrics {
    /// Of a command that has started at `started`.
    pub fn since(started: Instant) -> Self {
        let tables = Tables {
            ranges: BTreeMap::new(),
            found: Vec::new(),
            outputs: BTreeMap::new(),
            recent_windows: BTreeMap::new(),
            unshared_windows: None,
            elsewhere: BTreeMap::new(),
            open_windows: BTreeMap::new(),
            holding: None,
            newest: EventTime::MIN,
            latency: Durations::default(),
            dead_letters: BTreeMap::new(),
        };
        Self {
            read: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            on_time: AtomicU64::new(0),
            late: AtomicU64::new(0),
            epochs: AtomicU64::new(0),
            checkpoints: AtomicU64::new(0),
            watermark: AtomicI64::new(EventTime::MIN.0),
            shown: AtomicU64::new(0),
            quiet: AtomicUsize::new(0),
            unmatched: AtomicU64::new(0),
            inputs: Inputs::default(),
            borders: Borders::default(),
            sinks: Sinks::default(),
            workers: Workers::default(),
            progressing: Progressing::default(),
            recovery: Recovery::new(started),
            tables: Mutex::new(tables),
        }
    }
}

/// A reading of the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Records that left the source.
    pub read: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Dead letters.
    pub rejected: u64,
    /// Records on time.
    pub on_time: u64,
    /// Records late for all their windows.
    pub late: u64,
    /// Epochs decided.
    pub epochs: u64,
    /// Checkpoints among them.
    pub checkpoints: u64,
    /// The border watermark; [`EventTime::MIN`] before there is one.
    pub watermark: EventTime,
    /// Windows with records that have not fired, on the worker that has most of them.
    pub open_windows: usize,
    /// The partition that holds the watermark back, and its own watermark.
    pub holding: Option<(PartitionId, EventTime)>,
    /// The watermark of the partition that is furthest ahead, by its own records: `--wait` before
    /// the newest event time seen. [`EventTime::MIN`] before there is one.
    pub newest: EventTime,
}

impl Metrics {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        // Counters are valid between any two statements.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is shown while the run goes on.
    pub fn be_quiet(&self) {
        self.quiet.store(1, Relaxed);
    }

    /// Whether people want to see errors only.
    pub fn is_quiet(&self) -> bool {
        self.quiet.load(Relaxed) != 0
    }

    /// So many workers are about to go on at `resume` in this process.
    pub fn begin(&self, workers: usize, resume: &Resume) {
        self.inputs.begin(&resume.positions);
        if resume.watermark > EventTime::MIN {
            self.watermark.store(resume.watermark.0, Relaxed);
        }
        self.progressing.begin(workers);
    }

    /// The source read `records` records of `bytes` bytes, of which `rejected` are dead letters.
    pub fn read(&self, records: u64, bytes: u64, rejected: u64) {
        self.read.fetch_add(records, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        self.rejected.fetch_add(rejected, Relaxed);
    }

    /// Records got their fate.
    pub fn assigned(&self, on_time: u64, late: u64) {
        self.on_time.fetch_add(on_time, Relaxed);
        self.late.fetch_add(late, Relaxed);
    }

    /// `worker` has so many open windows.
    pub fn open_windows(&self, worker: usize, windows: usize) {
        self.tables().open_windows.insert(worker, windows);
    }

    /// Windows that end at `ends` had a result in `output`, in this order.
    pub fn windows(&self, output: &'static str, ends: impl Iterator<Item = EventTime>) {
        let mut tables = self.tables();
        let mut last = None;
        for end in ends.filter(|end| last.replace(*end) != Some(*end)) {
            let recent = tables.recent_windows.entry(output).or_default();
            let is_new = recent.insert(end);
            // Results come in order of window ends, except for revisions and between workers.
            while recent.len() > RECENT_WINDOWS {
                recent.pop_first();
            }
            tables.outputs.entry(output).or_default().windows += u64::from(is_new);
            if is_new && let Some(unshared) = &mut tables.unshared_windows {
                unshared.entry(output).or_default().push(end);
            }
        }
    }

    /// A sink made rows visible.
    pub fn wrote(&self, output: &'static str, written: Written) {
        self.tables().outputs.entry(output).or_default().written += written;
    }

    /// Every sink has committed `epoch`.
    pub fn committed(&self, epoch: Epoch) {
        self.recovery.committed(epoch);
        self.borders.committed(epoch, host::wall_clock());
    }

    /// A sink committed an epoch so long after its border was decided.
    pub fn committed_after(&self, elapsed: Duration) {
        self.tables().latency.record(elapsed);
    }

    /// How long after its border each epoch was committed, by the sinks of this process.
    pub fn latency(&self) -> Durations {
        self.tables().latency.clone()
    }

    /// Records whose dimension row was missing.
    pub fn unmatched(&self, records: u64) {
        self.unmatched.fetch_add(records, Relaxed);
    }

    /// How many of them there were, in all processes.
    pub fn all_unmatched(&self) -> u64 {
        self.unmatched.load(Relaxed) + self.unmatched_elsewhere()
    }

    /// Dead letters of a block.
    pub fn dead_letters<'l>(&self, letters: impl Iterator<Item = &'l DeadLetter>) {
        let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
        for letter in letters {
            *counts.entry(letter.reason.as_str()).or_default() += 1;
            self.show_dead_letter(letter);
        }
        let mut tables = self.tables();
        for (reason, count) in counts {
            *tables.dead_letters.entry(reason).or_default() += count;
        }
    }

    /// The dead letters of this process, by their reasons.
    pub fn dead_letter_counts(&self) -> BTreeMap<&'static str, u64> {
        self.tables().dead_letters.clone()
    }

    /// What the run is busy with.
    pub fn phase(&self) -> Phase {
        let recovered = self.recovery.recovered();
        let replaying = recovered.filter(|it| it.epochs > 0 && it.last_epoch.is_none());
        self.progressing.phase(replaying.map(|it| it.epochs))
    }

    /// An epoch was decided.
    pub fn decided(&self, entry: &EpochEntry) {
        self.epochs.fetch_add(1, Relaxed);
        self.checkpoints
            .fetch_add(u64::from(entry.is_checkpoint), Relaxed);
        if entry.watermark != EventTime::MAX {
            self.watermark.store(entry.watermark.0, Relaxed);
        }
        if entry.ending.is_some() {
            self.progressing.end();
        }
        self.inputs.decided(entry);
        let mut tables = self.tables();
        tables.found.extend_from_slice(&entry.found);
        for row in &entry.partitions {
            let range = tables.ranges.entry(row.partition);
            let range = range.or_insert(Range {
                from: row.from,
                to: row.to,
                gaps: 0,
            });
            if range.from == range.to {
                range.from = row.from;
            }
            range.to = row.to;
            range.gaps += row.gaps;
        }
        let active = entry
            .partitions
            .iter()
            .filter(|row| row.standing == Standing::Active);
        let slowest = active.min_by_key(|row| row.watermark);
        tables.holding = slowest.map(|row| (row.partition, row.watermark));
        let newest = entry.partitions.iter().map(|row| row.own_watermark);
        tables.newest = newest
            .filter(|time| *time < EventTime::MAX)
            .max()
            .unwrap_or(EventTime::MIN);
    }

    /// Shows the first few dead letters on standard error.
    fn show_dead_letter(&self, letter: &DeadLetter) {
        if self.is_quiet() || self.shown.fetch_add(1, Relaxed) >= SHOWN_DEAD_LETTERS {
            return;
        }
        let DeadLetter {
            topic,
            partition,
            offset,
            reason,
            detail,
            value,
        } = letter;
        let start = &value[..value.len().min(80)];
        terminal::message(format_args!(
            "dead letter: {topic}[{partition}] offset {offset}: {}: {detail}: {}",
            reason.as_str(),
            start.escape_ascii()
        ));
    }

    /// From now on [`Metrics::share`] tells what is counted here.
    pub fn will_share(&self) {
        self.tables().unshared_windows = Some(BTreeMap::new());
    }

    /// What was counted here, for the process that shows it; windows only once.
    pub fn share(&self, unmatched: u64, usage: Usage) -> Share {
        let mut tables = self.tables();
        let mut windows = tables.unshared_windows.as_mut().map(std::mem::take);
        let mut new_windows = |name: &str| windows.as_mut()?.remove(name);
        let outputs = tables.outputs.iter().map(|(name, count)| OutputShare {
            name: (*name).to_owned(),
            rows: count.written.rows,
            bytes: count.written.bytes,
            new_windows: new_windows(name).unwrap_or_default(),
        });
        let outputs = outputs.collect();
        Share {
            read: self.read.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            rejected: self.rejected.load(Relaxed),
            on_time: self.on_time.load(Relaxed),
            late: self.late.load(Relaxed),
            unmatched,
            open_windows: tables.open_windows.values().copied().max().unwrap_or(0),
            outputs,
            latencies: tables.latency.recorded().collect(),
            usage,
        }
    }

    /// Another process has counted this. `names`: the outputs that there are.
    pub fn absorb(&self, process: usize, mut share: Share, names: &[&'static str]) {
        for output in &mut share.outputs {
            let ends = std::mem::take(&mut output.new_windows);
            if let Some(name) = names.iter().find(|name| **name == output.name) {
                self.windows(name, ends.into_iter());
                // So that it is among those that are shown.
                self.tables().outputs.entry(name).or_default();
            }
        }
        self.tables().elsewhere.insert(process, share);
    }

    /// Records of other processes whose dimension row was missing.
    pub fn unmatched_elsewhere(&self) -> u64 {
        let tables = self.tables();
        tables.elsewhere.values().map(|share| share.unmatched).sum()
    }

    /// What all other processes together have used.
    pub fn usage_elsewhere(&self) -> Usage {
        let tables = self.tables();
        let usages = tables.elsewhere.values().map(|share| share.usage);
        usages.fold(Usage::default(), |sum, usage| Usage {
            cpu: sum.cpu + usage.cpu,
            peak_rss: sum.peak_rss + usage.peak_rss,
        })
    }

    /// The counters now, of all processes.
    pub fn progress(&self) -> Progress {
        let tables = self.tables();
        let elsewhere =
            |count: fn(&Share) -> u64| tables.elsewhere.values().map(count).sum::<u64>();
        let open_here = tables.open_windows.values().copied();
        let open_elsewhere = tables.elsewhere.values().map(|share| share.open_windows);
        Progress {
            read: self.read.load(Relaxed) + elsewhere(|share| share.read),
            bytes: self.bytes.load(Relaxed) + elsewhere(|share| share.bytes),
            rejected: self.rejected.load(Relaxed) + elsewhere(|share| share.rejected),
            on_time: self.on_time.load(Relaxed) + elsewhere(|share| share.on_time),
            late: self.late.load(Relaxed) + elsewhere(|share| share.late),
            epochs: self.epochs.load(Relaxed),
            checkpoints: self.checkpoints.load(Relaxed),
            watermark: EventTime(self.watermark.load(Relaxed)),
            open_windows: open_here.chain(open_elsewhere).max().unwrap_or(0),
            holding: tables.holding,
            newest: tables.newest,
        }
    }

    /// What was read of each partition.
    pub fn ranges(&self) -> BTreeMap<PartitionId, Range> {
        self.tables().ranges.clone()
    }

    /// The partitions that were found while the run went on.
    pub fn found(&self) -> Vec<Partition> {
        self.tables().found.clone()
    }

    /// What was written to each output, by all processes.
    pub fn outputs(&self) -> BTreeMap<&'static str, OutputCount> {
        let tables = self.tables();
        let mut outputs = tables.outputs.clone();
        for share in tables.elsewhere.values().flat_map(|share| &share.outputs) {
            if let Some(count) = outputs.get_mut(share.name.as_str()) {
                count.written += Written {
                    rows: share.rows,
                    bytes: share.bytes,
                };
            }
        }
        outputs
    }

    /// Milliseconds from an epoch's border to its commit, at 50, 90, 99 and 100 percent.
    pub fn latency_ms(&self) -> [f64; 4] {
        let tables = self.tables();
        let mut all = tables.latency.clone();
        for (micros, times) in tables.elsewhere.values().flat_map(|it| &it.latencies) {
            all.record_micros(*micros, *times);
        }
        [50.0, 90.0, 99.0, 100.0].map(|percent| all.percentile_ms(percent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_counts_as_if_it_had_happened_here() {
        let (here, there) = (Metrics::default(), Metrics::default());
        there.will_share();
        let at = |times: &[i64]| {
            times
                .iter()
                .map(|time| EventTime(*time))
                .collect::<Vec<_>>()
        };
        let rows = |rows| Written {
            rows,
            bytes: 10 * rows,
        };
        here.windows("windows", at(&[1, 2]).into_iter());
        there.windows("windows", at(&[2, 3]).into_iter());
        here.wrote("windows", rows(2));
        there.wrote("windows", rows(3));
        there.wrote("late", rows(1));
        there.read(7, 70, 1);
        there.committed_after(Duration::from_millis(40));
        let usage = Usage {
            cpu: Duration::from_secs(1),
            peak_rss: 5,
        };
        let names = ["windows", "late"];
        here.absorb(1, there.share(4, usage), &names);
        there.windows("windows", at(&[4]).into_iter());
        // Said again with more: the counters are those from the start on.
        here.absorb(1, there.share(4, usage), &names);
        let outputs = here.outputs();
        assert_eq!(outputs["windows"].windows, 4);
        assert_eq!(outputs["windows"].written, rows(5));
        assert_eq!(outputs["late"].written, rows(1));
        let progress = here.progress();
        assert_eq!(
            (progress.read, progress.bytes, progress.rejected),
            (7, 70, 1)
        );
        assert_eq!(
            (here.unmatched_elsewhere(), here.usage_elsewhere()),
            (4, usage)
        );
        assert!(
            (39.0..41.0).contains(&here.latency_ms()[3]),
            "{:?}",
            here.latency_ms()
        );
    }
}
