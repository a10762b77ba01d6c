//! What people see while a run or a generator goes on: on a terminal one line that is updated in
//! place, else a plain line now and then.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::resources::terminal_width;
use super::value::{grouped, rough, short, shorter};
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
                terminal::set_line(&text.chars().take(self.width()).collect::<String>());
            }
            Self::Log => terminal::message(format_args!("{text}")),
        }
    }

    /// How many characters a text may have.
    fn width(self) -> usize {
        match self {
            // The last column stays free: some terminals go to the next line there.
            Self::Line => terminal_width().unwrap_or(80).saturating_sub(1),
            Self::Quiet | Self::Log => usize::MAX,
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
    /// Shows what `metrics` counts, of a run whose watermarks stay `wait` behind.
    pub fn start(metrics: Arc<Metrics>, style: Style, wait: Span) -> Self {
        let (stop, stopped) = bounded::<()>(0);
        let show = move || {
            let mut rate = Rate::default();
            rate.at(Instant::now(), 0);
            while stopped.recv_timeout(style.interval()) == Err(RecvTimeoutError::Timeout) {
                let progress = metrics.progress();
                let per_second = rate.at(Instant::now(), progress.read);
                let state = State {
                    progress,
                    per_second: per_second.round() as u64,
                    wait,
                };
                style.show(&state.text(style.width()));
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

/// From this width on there is room for words.
const WIDE: usize = 140;

/// One state of a run.
struct State {
    progress: Progress,
    per_second: u64,
    /// `--wait`
    wait: Span,
}

impl State {
    /// In at most `width` characters, if that is 77 or more.
    fn text(&self, width: usize) -> String {
        if width >= WIDE {
            return self.long();
        }
        let (text, letters) = (self.compact(), self.dead_letters());
        if text.len() + letters.len() <= width {
            text + &letters
        } else {
            text
        }
    }

    fn long(&self) -> String {
        let Progress {
            read,
            open_windows,
            late,
            ..
        } = self.progress;
        format!(
            "{} records  {}/s  watermark {}  open windows {}  late {}{}",
            grouped(read),
            grouped(self.per_second),
            self.watermark(),
            grouped(open_windows as u64),
            grouped(late),
            self.dead_letters(),
        )
    }

    /// `12.3 M rec  1.2 M/s  watermark 01-01 12:34:56 -23h59m  open 1.2 k  late 1.2 k`
    fn compact(&self) -> String {
        let time = self.time();
        // Without the year.
        let time = time.get(5..).unwrap_or(&time);
        let behind = self.behind();
        let behind = behind.map_or_else(String::new, |span| format!(" -{}", rough(span)));
        format!(
            "{} rec  {}/s  watermark {time}{behind}  open {}  late {}",
            short(self.progress.read),
            shorter(self.per_second),
            shorter(self.progress.open_windows as u64),
            shorter(self.progress.late),
        )
    }

    fn dead_letters(&self) -> String {
        match self.progress.rejected {
            0 => String::new(),
            rejected => format!("  dead letters {}", grouped(rejected)),
        }
    }

    /// The watermark to the second, or `-`.
    fn time(&self) -> String {
        if self.progress.watermark == EventTime::MIN {
            return "-".to_owned();
        }
        let text = self.progress.watermark.to_string();
        text.split('.').next().unwrap_or_default().replace('T', " ")
    }

    /// How far the watermark is behind the newest event time seen. While all partitions are idle
    /// it may be ahead of that.
    fn behind(&self) -> Option<Span> {
        let Progress {
            watermark, newest, ..
        } = self.progress;
        if watermark == EventTime::MIN || newest == EventTime::MIN {
            return None;
        }
        let newest = newest.plus(self.wait);
        let behind = Span(newest.0.saturating_sub(watermark.0));
        (behind > Span::ZERO).then_some(behind)
    }

    /// The watermark in words: how far behind it is, and which partition holds it there when that
    /// is not just the wait.
    fn watermark(&self) -> String {
        let time = self.time();
        let Some(behind) = self.behind() else {
            return time;
        };
        let behind = rough(behind);
        let newest = self.progress.newest;
        match self.progress.holding {
            Some((partition, held)) if held < newest && held > EventTime::MIN => {
                let others = rough(Span(newest.0.saturating_sub(held.0)));
                format!(
                    "{time} ({behind} behind the newest event, held by partition {partition}, \
                     which is {others} behind)"
                )
            }
            _ => format!("{time} ({behind} behind the newest event)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::PartitionId;

    fn state(progress: Progress) -> State {
        State {
            progress,
            per_second: 7,
            wait: Span::seconds(10),
        }
    }

    fn begun() -> Progress {
        Progress {
            read: 12_345,
            watermark: EventTime(1_704_067_200_500),
            holding: Some((PartitionId(3), EventTime(1_704_067_200_500))),
            newest: EventTime(1_704_067_200_500),
            ..Progress::default()
        }
    }

    #[test]
    fn before_the_first_record_there_is_no_watermark() {
        let state = state(Progress {
            watermark: EventTime::MIN,
            newest: EventTime::MIN,
            ..Progress::default()
        });
        let long = "0 records  7/s  watermark -  open windows 0  late 0";
        assert_eq!(state.text(usize::MAX), long);
        assert_eq!(state.text(79), "0 rec  7/s  watermark -  open 0  late 0");
    }

    #[test]
    fn behind_is_the_lag_to_the_newest_event() {
        let mut progress = begun();
        let text = |progress| state(progress).text(usize::MAX);
        let alone = text(progress);
        let expected = "watermark 2024-01-01 00:00:00 (10.0s behind the newest event)  open";
        assert!(alone.contains(expected), "{alone}");
        progress.newest = EventTime(1_704_067_202_000);
        progress.rejected = 2;
        let held = text(progress);
        let expected = "(11.5s behind the newest event, held by partition 3, which is 1.5s behind)";
        assert!(held.contains(expected), "{held}");
        assert!(held.ends_with("dead letters 2"), "{held}");
    }

    #[test]
    fn everything_fits_into_80_columns() {
        let progress = Progress {
            open_windows: 4,
            late: 5,
            rejected: 2,
            ..begun()
        };
        assert_eq!(
            state(progress).text(79),
            "12.3 k rec  7/s  watermark 01-01 00:00:00 -10.0s  open 4  late 5  dead letters 2"
                .replace("  dead letters 2", "")
        );
        let most = Progress {
            read: 99_999_999_999,
            newest: EventTime(1_704_067_200_500 + 9_999 * 86_400_000),
            open_windows: 9_999_999,
            late: 99_999_999,
            ..progress
        };
        let state = State {
            per_second: 9_999_999,
            ..state(most)
        };
        let text = state.text(79);
        assert!(text.len() <= 79 && text.ends_with("late 99 M"), "{text}");
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
