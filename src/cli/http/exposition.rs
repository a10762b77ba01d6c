//! Which metrics there are. docs/metrics.md lists them for people.
//!
//! Each process speaks for itself: its workers, its sinks, the partitions that it reads. What is
//! known of the run as a whole is said by the process that leads alone, so that sums over all
//! processes are right. Labels are names of the job's own parts, never keys or values of records.

use super::text::{Family, Text};
use crate::cli::plan::Plan;
use crate::cli::processes::Member;
use crate::cli::resources::Resources;
use crate::epoch::Standing;
use crate::ledger::Fates;
use crate::runtime::control::wall_clock;
use crate::runtime::metrics::Metrics;
use crate::runtime::metrics::borders::BorderStatus;
use crate::runtime::metrics::inputs::PartitionStatus;
use crate::runtime::metrics::phase::Phase;
use crate::source::OffsetUnit;
use crate::time::{EventTime, PartitionId};

/// What does not change while a process runs.
pub struct About {
    pipeline: &'static str,
    /// The job's name.
    name: String,
    process: usize,
    leads: bool,
    /// Workers of this process.
    workers: usize,
    /// What the source's offsets count.
    unit: OffsetUnit,
    outputs: Vec<&'static str>,
    started_at: EventTime,
}

impl About {
    /// Of this process, which has just started.
    pub fn new(plan: &Plan, member: Option<&Member>) -> Self {
        Self {
            pipeline: plan.pipeline.name(),
            name: plan.settings.name.clone(),
            process: member.map_or(0, Member::process),
            leads: member.is_none_or(Member::leads),
            workers: plan.settings.workers,
            unit: plan.source.offset_unit(),
            outputs: plan.outputs.iter().map(|output| output.name).collect(),
            started_at: wall_clock(),
        }
    }

    #[cfg(test)]
    pub fn of_test() -> Self {
        Self {
            pipeline: "dummy",
            name: "test".to_owned(),
            process: 0,
            leads: true,
            workers: 2,
            unit: OffsetUnit::Records,
            outputs: vec!["windows", "late"],
            started_at: EventTime(1_500),
        }
    }
}

/// All metrics, as they stand now.
pub fn all(about: &About, metrics: &Metrics) -> String {
    let mut text = Text::default();
    process(&mut text, about, metrics);
    reading(&mut text, about, metrics);
    sinks(&mut text, metrics);
    if about.leads {
        let partitions: Vec<_> = metrics.inputs.partitions().into_iter().collect();
        let now = wall_clock();
        records(&mut text, &partitions);
        event_time(&mut text, &partitions, now);
        border_watermark(&mut text, metrics, &partitions, now);
        borders(&mut text, metrics);
        outputs(&mut text, about, metrics);
        recovery(&mut text, metrics);
    }
    text.into_string()
}

type Partitions = [(PartitionId, PartitionStatus)];

/// Seconds since 1970; `None` where a time only says that there is none yet, or no more.
fn seconds(time: EventTime) -> Option<f64> {
    let is_time = time > EventTime::MIN && time < EventTime::MAX;
    is_time.then(|| time.0 as f64 / 1000.0)
}

/// How far `time` is behind `reference`, in seconds.
fn behind(time: EventTime, reference: EventTime) -> Option<f64> {
    let (time, reference) = (seconds(time)?, seconds(reference)?);
    // So that 0.1 does not become 0.09999990463256836.
    Some(((reference - time) * 1000.0).round() / 1000.0)
}

fn process(text: &mut Text, about: &About, metrics: &Metrics) {
    let version = env!("CARGO_PKG_VERSION");
    text.gauge(
        "highwater_build_info",
        "The version of the program; always 1.",
    )
    .set(&[("version", &version)], 1);
    text.gauge("highwater_run_info", "What runs; always 1.")
        .set(
            &[
                ("pipeline", &about.pipeline),
                ("name", &about.name),
                ("process", &about.process),
            ],
            1,
        );
    let is_ready = metrics.phase() == Phase::Reading;
    text.gauge(
        "highwater_ready",
        "Whether the run reads its input, as /readyz says.",
    )
    .set(&[], u8::from(is_ready));
    text.gauge("highwater_workers", "Worker threads of this process.")
        .set(&[], about.workers);
    let workers = metrics.workers.statuses();
    let mut steps = text.counter(
        "highwater_worker_steps_total",
        "Steps of a worker; one without work makes about twenty a second.",
    );
    for worker in &workers {
        steps.set(&[("worker", &worker.worker)], worker.steps);
    }
    let mut entries = text.gauge(
        "highwater_window_entries",
        "Entries in the windows of a worker: one per pane or revisable window, and key.",
    );
    for worker in &workers {
        entries.set(&[("worker", &worker.worker)], worker.entries);
    }
    used(text, about);
}

fn used(text: &mut Text, about: &About) {
    let used = Resources::now();
    text.counter(
        "process_cpu_seconds_total",
        "CPU time of all threads, user and system.",
    )
    .set(&[], used.cpu.as_secs_f64());
    text.gauge("process_resident_memory_bytes", "Resident memory.")
        .set_known(&[], Resources::resident());
    text.gauge(
        "highwater_peak_resident_memory_bytes",
        "The most memory that was resident.",
    )
    .set(&[], used.peak_rss);
    text.gauge(
        "process_start_time_seconds",
        "When the process has started, since 1970.",
    )
    .set_known(&[], seconds(about.started_at));
}

/// How far this process has read its partitions.
fn reading(text: &mut Text, about: &About, metrics: &Metrics) {
    let standpoints = metrics.inputs.standpoints();
    let mut positions = text.gauge(
        "highwater_partition_position",
        "The offset after the last record that was taken; of a file: bytes.",
    );
    for (partition, at) in &standpoints {
        positions.set_known(&[("partition", partition)], at.position.map(|it| it.0));
    }
    let mut ends = text.gauge(
        "highwater_partition_end_position",
        "The offset after the last record that there is, as far as the reader knows.",
    );
    for (partition, at) in &standpoints {
        ends.set_known(&[("partition", partition)], at.end.map(|it| it.0));
    }
    let mut lags = match about.unit {
        OffsetUnit::Records => text.gauge(
            "highwater_partition_lag_records",
            "How many records the position is behind the end.",
        ),
        OffsetUnit::Bytes => text.gauge(
            "highwater_partition_lag_bytes",
            "How many bytes of the file the position is behind the end.",
        ),
    };
    for (partition, at) in &standpoints {
        lags.set_known(&[("partition", partition)], at.lag());
    }
    let mut letters = text.counter(
        "highwater_dead_letters_total",
        "Records that could not be used, by the reason.",
    );
    for (reason, count) in metrics.dead_letter_counts() {
        letters.set(&[("reason", &reason)], count);
    }
}

fn sinks(text: &mut Text, metrics: &Metrics) {
    let reports = metrics.sinks.reports();
    let each = |mut family: Family<'_>, value: &dyn Fn(usize) -> Option<u64>| {
        for (at, report) in reports.iter().enumerate() {
            let labels: super::text::Labels<'_> =
                &[("output", &report.output), ("sink", &report.sink)];
            family.set_known(labels, value(at));
        }
    };
    let name = "highwater_sink_rows_total";
    each(
        text.counter(name, "Rows made visible in a target."),
        &|at| Some(reports[at].written.rows),
    );
    let name = "highwater_sink_bytes_total";
    let help = "Encoded bytes made visible in a target, before the transport's compression.";
    each(text.counter(name, help), &|at| {
        Some(reports[at].written.bytes)
    });
    let name = "highwater_sink_committed_epoch";
    let help = "The last epoch that a target has from all workers of this process.";
    each(text.gauge(name, help), &|at| {
        reports[at].committed.map(|it| it.0)
    });
    let name = "highwater_sink_waiting";
    let help = "Whether a target makes the run wait (it is out of reach, or still another run's).";
    each(text.gauge(name, help), &|at| {
        Some(u64::from(reports[at].waits_for.is_some()))
    });
    let name = "highwater_sink_waits_total";
    let help = "How often a target has begun to make the run wait.";
    each(text.counter(name, help), &|at| Some(reports[at].waits));
    text.histogram(
        "highwater_commit_latency_seconds",
        "From when an epoch is ready until a target has it.",
        &metrics.latency(),
    );
}

/// The fates, by the names that `--report` has for them.
const FATES: [(&str, fn(&Fates) -> u64); 9] = [
    ("on_time", |fates| fates.on_time),
    ("late_kept", |fates| fates.late_kept),
    ("late_diverted", |fates| fates.late_diverted),
    ("late_dropped", |fates| fates.late_dropped),
    ("rejected", |fates| fates.rejected),
    ("skipped", |fates| fates.skipped),
    ("duplicate", |fates| fates.duplicate),
    ("filtered", |fates| fates.filtered),
    ("no_window", |fates| fates.no_window),
];

/// What became of the records of each partition.
fn records(text: &mut Text, partitions: &Partitions) {
    let mut names = text.gauge(
        "highwater_partition_info",
        "What a partition is called; always 1.",
    );
    for (id, status) in partitions {
        names.set(&[("partition", id), ("name", &status.name)], 1);
    }
    let mut read = text.counter(
        "highwater_partition_read_records_total",
        "Records read, once all of their epoch have their fate.",
    );
    for (id, status) in partitions {
        read.set(&[("partition", id)], status.fates.read);
    }
    let mut fates = text.counter(
        "highwater_partition_records_total",
        "Records by their fate; the sum over all fates is what was read.",
    );
    for (id, status) in partitions {
        for (fate, count) in FATES {
            fates.set(&[("partition", id), ("fate", &fate)], count(&status.fates));
        }
    }
    let mut missed = text.counter(
        "highwater_partition_late_windows_total",
        "Pairs of a record and a window that it came too late for.",
    );
    for (id, status) in partitions {
        missed.set(&[("partition", id)], status.fates.late_windows);
    }
    let mut gaps = text.counter(
        "highwater_partition_gaps_total",
        "Offsets that were never delivered (transaction markers, compaction).",
    );
    for (id, status) in partitions {
        gaps.set(&[("partition", id)], status.gaps);
    }
}

/// The watermark of each partition, at the last border.
fn event_time(text: &mut Text, partitions: &Partitions, now: EventTime) {
    let rows: Vec<_> = partitions
        .iter()
        .filter_map(|(id, status)| Some((id, status.report.as_ref()?)))
        .collect();
    let mut standings = text.gauge(
        "highwater_partition_standing",
        "Whether a partition has a say in the watermark (active), is idle, or has ended: one is 1.",
    );
    let words = [
        ("active", Standing::Active),
        ("idle", Standing::Idle),
        ("ended", Standing::Ended),
    ];
    for (id, row) in &rows {
        for (word, standing) in words {
            let is_so = u8::from(row.standing == standing);
            standings.set(&[("partition", *id), ("standing", &word)], is_so);
        }
    }
    let mut watermarks = text.gauge(
        "highwater_partition_watermark_seconds",
        "The watermark of a partition, in event time since 1970.",
    );
    for (id, row) in &rows {
        watermarks.set_known(&[("partition", *id)], seconds(row.watermark));
    }
    let mut newest = text.gauge(
        "highwater_partition_newest_event_seconds",
        "The largest event time of a partition, since 1970.",
    );
    for (id, row) in &rows {
        newest.set_known(&[("partition", *id)], seconds(row.max_event));
    }
    let mut by_clock = text.gauge(
        "highwater_partition_watermark_clock_delay_seconds",
        "How far a partition's watermark is behind the wall clock.",
    );
    for (id, row) in &rows {
        by_clock.set_known(&[("partition", *id)], behind(row.watermark, now));
    }
    let mut by_events = text.gauge(
        "highwater_partition_watermark_event_delay_seconds",
        "How far a partition's watermark is behind its own newest event; negative while it is idle \
         and others go on.",
    );
    for (id, row) in &rows {
        by_events.set_known(&[("partition", *id)], behind(row.watermark, row.max_event));
    }
}

/// The watermark of the run.
fn border_watermark(text: &mut Text, metrics: &Metrics, partitions: &Partitions, now: EventTime) {
    let watermark = metrics.progress().watermark;
    let reports = partitions
        .iter()
        .filter_map(|(_, status)| status.report.as_ref());
    let newest = reports
        .map(|row| row.max_event)
        .max()
        .unwrap_or(EventTime::MIN);
    text.gauge(
        "highwater_watermark_seconds",
        "The watermark of the run, in event time since 1970: windows that end by then are closed.",
    )
    .set_known(&[], seconds(watermark));
    text.gauge(
        "highwater_newest_event_seconds",
        "The largest event time that was read, since 1970.",
    )
    .set_known(&[], seconds(newest));
    text.gauge(
        "highwater_watermark_clock_delay_seconds",
        "How far the watermark is behind the wall clock.",
    )
    .set_known(&[], behind(watermark, now));
    text.gauge(
        "highwater_watermark_event_delay_seconds",
        "How far the watermark is behind the newest event.",
    )
    .set_known(&[], behind(watermark, newest));
}

/// Epochs, commits and checkpoints.
fn borders(text: &mut Text, metrics: &Metrics) {
    let progress = metrics.progress();
    let BorderStatus {
        decided,
        committed,
        lengths,
        checkpoints,
        checkpoint_at,
        state,
    } = metrics.borders.status();
    text.counter(
        "highwater_epochs_total",
        "Epochs decided or read again by this run.",
    )
    .set(&[], progress.epochs);
    text.gauge("highwater_epoch", "The last epoch that was decided.")
        .set_known(&[], decided.map(|it| it.0));
    text.gauge(
        "highwater_committed_epoch",
        "The last epoch that all targets have.",
    )
    .set_known(&[], committed.map(|(epoch, _)| epoch.0));
    text.gauge(
        "highwater_commit_timestamp_seconds",
        "When the last epoch was committed everywhere, since 1970.",
    )
    .set_known(&[], committed.and_then(|(_, at)| seconds(at)));
    text.histogram(
        "highwater_epoch_duration_seconds",
        "From border to border.",
        &lengths,
    );
    text.counter(
        "highwater_checkpoints_total",
        "Epochs among them that are checkpoints.",
    )
    .set(&[], progress.checkpoints);
    text.histogram(
        "highwater_checkpoint_duration_seconds",
        "From the border of a checkpoint until it is recorded for good.",
        &checkpoints,
    );
    text.gauge(
        "highwater_checkpoint_timestamp_seconds",
        "When the newest checkpoint was recorded, since 1970.",
    )
    .set_known(&[], checkpoint_at.and_then(seconds));
    text.gauge(
        "highwater_state_bytes",
        "What a restart would load: the newest full checkpoint and the changes since.",
    )
    .set_known(&[], state.map(|it| it.bytes));
    text.gauge("highwater_state_objects", "In how many objects that lies.")
        .set_known(&[], state.map(|it| it.objects));
    text.gauge(
        "highwater_open_windows",
        "Windows with records that have not fired, on the worker that has most of them.",
    )
    .set(&[], progress.open_windows);
}

fn outputs(text: &mut Text, about: &About, metrics: &Metrics) {
    let counts = metrics.outputs();
    let counts: Vec<_> = about
        .outputs
        .iter()
        .map(|name| (*name, counts.get(name).copied().unwrap_or_default()))
        .collect();
    let mut rows = text.counter(
        "highwater_output_rows_total",
        "Rows of an output, in all processes, also where it goes nowhere.",
    );
    for (name, count) in &counts {
        rows.set(&[("output", name)], count.written.rows);
    }
    let mut bytes = text.counter(
        "highwater_output_bytes_total",
        "Encoded bytes of an output in all its targets.",
    );
    for (name, count) in &counts {
        bytes.set(&[("output", name)], count.written.bytes);
    }
    let mut windows = text.counter(
        "highwater_output_windows_total",
        "Windows of an output that had a result.",
    );
    for (name, count) in &counts {
        windows.set(&[("output", name)], count.windows);
    }
    text.counter(
        "highwater_unmatched_records_total",
        "Records whose dimension row was missing.",
    )
    .set(&[], metrics.all_unmatched());
}

/// How long it took to catch up with the run before; nothing where there was none.
fn recovery(text: &mut Text, metrics: &Metrics) {
    let Some(recovered) = metrics.recovery.recovered() else {
        return;
    };
    let mut took = text.gauge(
        "highwater_recovery_seconds",
        "From the start of the process until the state was loaded, and the first and the last \
         recorded epoch were committed again.",
    );
    took.set(&[("until", &"loaded")], recovered.loaded.as_secs_f64());
    let later = [
        ("first_epoch", recovered.first_epoch),
        ("last_epoch", recovered.last_epoch),
    ];
    for (until, time) in later {
        took.set_known(&[("until", &until)], time.map(|it| it.as_secs_f64()));
    }
    text.gauge(
        "highwater_recovery_epochs",
        "Recorded epochs that this run has read again.",
    )
    .set(&[], recovered.epochs);
    text.gauge("highwater_recovery_records", "The records of these epochs.")
        .set(&[], recovered.records);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_are_none_are_left_out() {
        assert_eq!(seconds(EventTime(1_500)), Some(1.5));
        assert_eq!(seconds(EventTime::MIN), None);
        assert_eq!(behind(EventTime(900), EventTime(1_000)), Some(0.1));
        assert_eq!(behind(EventTime::MIN, EventTime(1_000)), None);
        assert_eq!(behind(EventTime(0), EventTime::MAX), None);
    }

    #[test]
    fn only_the_process_that_leads_speaks_for_the_run() {
        let metrics = Metrics::default();
        let leads = all(&About::of_test(), &metrics);
        let follows = About {
            leads: false,
            ..About::of_test()
        };
        let follows = all(&follows, &metrics);
        for family in ["highwater_epochs_total", "highwater_output_rows_total"] {
            assert!(
                leads.contains(family) && !follows.contains(family),
                "{family}"
            );
        }
        for family in ["highwater_sink_rows_total", "process_cpu_seconds_total"] {
            assert!(follows.contains(family), "{family}");
        }
        assert!(leads.contains("\nhighwater_output_rows_total{output=\"late\"} 0\n"));
        assert!(leads.contains("\nprocess_start_time_seconds 1.5\n"));
    }
}
