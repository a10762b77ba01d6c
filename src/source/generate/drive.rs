//! A log on its way out of the process: event by event, at its pace.

use std::ops::ControlFlow;
use std::time::Duration;

use super::pace::Pace;
use super::{EventLog, GenerateError, Progress};

/// How often (in events) progress is reported and an interruption noticed.
const REPORT_EVERY: u64 = 1 << 14;
/// The same, while a live log waits for its next event.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);

/// One record of a log.
pub(crate) struct LogRecord<'a> {
    /// The event.
    #[cfg_attr(
        not(feature = "kafka"),
        expect(dead_code, reason = "topics are keyed by it")
    )]
    pub index: u64,
    /// Its partition.
    pub partition: u32,
    /// The event, its duplicate, or the garbage after it.
    pub value: &'a [u8],
    /// Whether it is garbage.
    #[cfg_attr(
        not(feature = "kafka"),
        expect(dead_code, reason = "only messages have a format of their own")
    )]
    pub is_garbage: bool,
}

/// Where the records of a log go.
pub(crate) trait LogWriter {
    /// Takes one record; those of a partition come in order.
    fn write(&mut self, record: &LogRecord<'_>) -> Result<(), GenerateError>;

    /// Hands on what has been taken: a live log waits for its next event.
    fn flush(&mut self) -> Result<(), GenerateError>;
}

/// Refuses a log that would be written for ever.
pub(crate) fn check_end(log: &EventLog) -> Result<(), GenerateError> {
    if log.schedule().count().is_none() && !log.options().live {
        return Err(GenerateError::Config(
            "a log without end: give --events or --duration (or --live)".to_owned(),
        ));
    }
    Ok(())
}

/// Writes every event of `log`, a live log at the pace of the wall clock. `progress` is called now
/// and then, and once at the end; when it breaks, the rest is left out.
pub(crate) fn write_log(
    log: &EventLog,
    writer: &mut dyn LogWriter,
    progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<Progress, GenerateError> {
    check_end(log)?;
    let pace = Pace::new(log, None)?;
    let (mut bytes, mut key) = (Vec::new(), Vec::new());
    let mut done = Progress::default();
    for index in 0..log.schedule().count().unwrap_or(u64::MAX) {
        let time = log.schedule().base(index);
        if log.options().live {
            let due = Progress { time, ..done };
            if wait_for(&pace, due, writer, progress)?.is_break() {
                break;
            }
        }
        bytes.clear();
        let lines = log.append(index, &mut bytes);
        let partition = log.partition(index, &mut key);
        for (start, end) in lines.ranges() {
            let value = &bytes[start as usize..end as usize];
            writer.write(&LogRecord {
                index,
                partition,
                value,
                is_garbage: lines.garbage == Some((start, end)),
            })?;
            done.records += 1;
            done.bytes += value.len() as u64 + 1;
        }
        done = Progress {
            events: done.events + 1,
            time,
            ..done
        };
        if done.events.is_multiple_of(REPORT_EVERY) && progress(&done).is_break() {
            break;
        }
    }
    // There is nothing left to break off.
    let _ = progress(&done);
    Ok(done)
}

/// Waits until the event at `next.time` is due, with everything before it flushed.
fn wait_for(
    pace: &Pace,
    next: Progress,
    writer: &mut dyn LogWriter,
    progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, GenerateError> {
    let mut horizon = pace.horizon(next.time);
    if horizon < next.time {
        writer.flush()?;
    }
    while horizon < next.time {
        if progress(&next).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        std::thread::sleep(pace.until(next.time, horizon).min(LONGEST_SLEEP));
        horizon = pace.horizon(next.time);
    }
    Ok(ControlFlow::Continue(()))
}
