//! What people see while a run or a generator goes on: on a terminal one line that is updated in
//! place, else a plain line now and then.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::resources::terminal_width;
use super::value::{grouped, rough};
use crate::runtime::metrics::{Metrics, Progress};
use crate::terminal;
use crate::time::{EventTime, Span};

/// How often the line on a terminal is updated.
const LINE_EVERY: Duration = Duration::from_millis(200);
/// How often a plain line is written.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// Rates are averages over this.
const RATE_OVER: Duration = Duration::from_secs(3);

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Not at all.
    Quiet,
    /// As one line that is updated in place.
    Line,
    /// As a line in a log, now and then.
    Log,
}

impl Style {
    /// What suits standard error.
    pub fn new(quiet: bool) -> Self {
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        match (quiet, std::io::stderr().is_terminal() && !is_dumb) {
            (true, _) => Self::Quiet,
            (false, true) => Self::Line,
            (false, false) => Self::Log,
        }
    }

    /// How often there is something to show.
    pub const fn interval(self) -> Duration {
        match self {
            Self::Quiet => Duration::MAX,
            Self::Line => LINE_EVERY,
            Self::Log => LOG_EVERY,
        }
    }

    /// Shows one state.
    pub fn show(self, text: &str) {
        match self {
            Self::Quiet => {}
            Self::Line => {
                let width = terminal_width().unwrap_or(80);
                terminal::set_line(
                    &text
                        .chars()
                        .take(width.saturating_sub(1))
                        .collect::<String>(),
                );
            }
            Self::Log => terminal::message(format_args!("{text}")),
        }
    }

    /// Nothing more is shown in place.
    pub fn end(self) {
        if self == Self::Line {
            terminal::set_line("");
        }
    }
}

/// Records per second over the last few seconds.
#[derive(Debug, Default)]
pub struct Rate(VecDeque<(Instant, u64)>);

impl Rate {
    /// There were `records` at `now`.
    pub fn at(&mut self, now: Instant, records: u64) -> f64 {
        self.0.push_back((now, records));
        let is_old = |at: &Instant| now.duration_since(*at) > RATE_OVER;
        while self.0.len() > 2 && self.0.get(1).is_some_and(|(at, _)| is_old(at)) {
            self.0.pop_front();
        }
        let Some((since, before)) = self.0.front() else {
            return 0.0;
        };
        let seconds = now.duration_since(*since).as_secs_f64();
        if seconds > 0.0 {
            records.saturating_sub(*before) as f64 / seconds
        } else {
            0.0
        }
    }
}

/// The thread that shows the progress of a run.
pub struct ProgressThread {
    style: Style,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ProgressThread {
    /// Shows what `metrics` counts.
    pub fn start(metrics: Arc<Metrics>, style: Style) -> Self {
        let (stop, stopped) = bounded::<()>(0);
        let show = move || {
            let mut rate = Rate::default();
            rate.at(Instant::now(), 0);
            while stopped.recv_timeout(style.interval()) == Err(RecvTimeoutError::Timeout) {
                let progress = metrics.progress();
                let per_second = rate.at(Instant::now(), progress.read);
                style.show(&line(&progress, per_second));
            }
        };
        let thread = (style != Style::Quiet).then(|| std::thread::spawn(show));
        Self {
            style,
            stop: Some(stop),
            thread,
        }
    }

    /// Shows no more.
    pub fn stop(mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it was shown.
            let _ = thread.join();
        }
        self.style.end();
    }
}

/// One state of a run.
fn line(progress: &Progress, per_second: f64) -> String {
    let dead_letters = match progress.rejected {
        0 => String::new(),
        rejected => format!("  dead letters {}", grouped(rejected)),
    };
    format!(
        "{} records  {}/s  open windows {}  late {}{dead_letters}  watermark {}",
        grouped(progress.read),
        grouped(per_second.round() as u64),
        grouped(progress.open_windows as u64),
        grouped(progress.late),
        watermark(progress),
    )
}

/// The watermark, and how far behind the newest partition the one is that holds it back.
fn watermark(progress: &Progress) -> String {
    if progress.watermark == EventTime::MIN {
        return "-".to_owned();
    }
    let text = progress.watermark.to_string();
    let text = text.split('.').next().unwrap_or_default().replace('T', " ");
    match progress.holding {
        Some((partition, held)) if progress.newest > held && held > EventTime::MIN => {
            let behind = Span(progress.newest.0.saturating_sub(held.0));
            format!("{text} ({} behind, partition {partition})", rough(behind))
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::PartitionId;

    #[test]
    fn a_line_names_the_partition_that_holds_the_watermark_back() {
        let mut progress = Progress {
            read: 12_345,
            watermark: EventTime::MIN,
            ..Progress::default()
        };
        assert_eq!(
            line(&progress, 7.4),
            "12,345 records  7/s  open windows 0  late 0  watermark -"
        );
        progress.watermark = EventTime(1_704_067_200_500);
        progress.holding = Some((PartitionId(3), EventTime(1_704_067_200_500)));
        progress.newest = EventTime(1_704_067_202_000);
        progress.rejected = 2;
        let line = line(&progress, 0.0);
        assert!(
            line.contains("2024-01-01 00:00:00 (1.5s behind, partition 3)"),
            "{line}"
        );
        assert!(line.contains("dead letters 2"), "{line}");
    }

    #[test]
    fn rates_forget() {
        let mut rate = Rate::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut rounded = |at, records| rate.at(at, records).round() as u64;
        assert_eq!([rounded(start, 0), rounded(at(2), 200)], [0, 100]);
        rounded(at(100), 200);
        assert_eq!(rounded(at(104), 200), 0);
    }
}
