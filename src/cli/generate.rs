//! `highwater generate`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use clap::ArgMatches;

use super::error::{CliError, DONE, Outcome};
use super::input;
use super::progress::{Rate, Style};
use super::registry::PipelineEntry;
use super::schema::{self, Wanted};
use super::signal::{Answer, Signals};
use super::value::grouped;
use crate::sink::mask_secrets;
use crate::source::generate::{EventLog, GenerateError, Progress, Target, write_files};
use crate::terminal;
use crate::time::EventTime;

/// Where the events go.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Destination {
    Files(Target),
    Kafka { brokers: String, topic: String },
}

impl Destination {
    fn parse(uri: &str) -> Result<Self, CliError> {
        if uri == "-" {
            return Ok(Self::Files(Target::Stdout));
        }
        if uri.starts_with("kafka:") {
            let (brokers, topic) = super::kafka::address(uri)?;
            return Ok(Self::Kafka { brokers, topic });
        }
        let path = uri
            .strip_prefix("file:")
            .filter(|path| !path.is_empty())
            .ok_or_else(|| {
                let meant = if uri.contains(':') {
                    String::new()
                } else {
                    format!("; for a file write file:{uri}")
                };
                CliError::Usage(format!(
                    "--to {uri}: write file:PATH, file:DIR/, kafka://HOST:PORT/TOPIC or -{meant}"
                ))
            })?;
        let path = path.strip_prefix("//").unwrap_or(path);
        let is_folder = path.ends_with('/') || Path::new(path).is_dir();
        let path = PathBuf::from(path);
        Ok(Self::Files(if is_folder {
            Target::Folder(path)
        } else {
            Target::File(path)
        }))
    }
}

/// Generates events.
pub fn command(entry: &dyn PipelineEntry, matches: &ArgMatches) -> Outcome {
    let quiet = matches.get_flag("quiet");
    let uri = matches.get_one::<String>("to").map_or("-", String::as_str);
    let destination = Destination::parse(uri)?;
    let log = log(entry, matches)?;
    let wanted = Wanted::new(matches, "--to", uri)?;
    let is_writing = Arc::new(AtomicBool::new(false));
    let signals = catch(Arc::clone(&is_writing), quiet)?;
    let begin = || is_writing.store(true, Ordering::SeqCst);
    // On standard output with standard error on the same terminal, a line would be in the way.
    let is_silent = quiet || destination == Destination::Files(Target::Stdout);
    let mut meter = Meter::new(&log, Style::new(is_silent));
    let mut report = |progress: &Progress| {
        meter.show(progress);
        if signals.is_received() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    // Refused before anything is made.
    let pack = wanted.map(|wanted| schema::producer(&wanted, entry, matches));
    let pack = pack.transpose()?;
    let written = match &destination {
        Destination::Files(target) => {
            begin();
            write_files(&log, target, &mut report)
        }
        Destination::Kafka { brokers, topic } => {
            let pack = pack.as_deref();
            super::kafka::write_topic(&log, brokers, topic, pack, matches, &begin, &mut report)?
        }
    };
    meter.end();
    let written = written.map_err(failure)?;
    if !is_silent {
        terminal::message(format_args!("{}", done(&written, uri)));
    }
    Ok(signals.exit_code().unwrap_or(DONE))
}

/// A signal ends the log where it is; as long as nothing is written it ends the process.
fn catch(is_writing: Arc<AtomicBool>, quiet: bool) -> Result<Signals, CliError> {
    let stop = move || {
        if is_writing.load(Ordering::SeqCst) {
            return Answer::Finish;
        }
        if !quiet {
            terminal::message(format_args!("stopped before anything was written"));
        }
        Answer::Leave
    };
    Signals::take(stop).map_err(|error| CliError::Failed(format!("signals: {error}")))
}

fn log(entry: &dyn PipelineEntry, matches: &ArgMatches) -> Result<EventLog, CliError> {
    let mut options = input::generator_options(entry, matches)?;
    if let Some(start) = matches.get_one::<EventTime>("start") {
        options.start = *start;
    }
    if options.events.is_none() && options.duration.is_none() && !options.live {
        return Err(CliError::usage(
            "how much? Give --events N or --duration D (or --live, until Ctrl-C)",
        ));
    }
    let (model, _) = entry.model(matches).map_err(CliError::Usage)?;
    EventLog::new(model, options).map_err(failure)
}

fn failure(error: GenerateError) -> CliError {
    match error {
        GenerateError::Config(text) => CliError::Usage(text),
        GenerateError::Output(reason) => reason.into(),
        error => CliError::failed(error),
    }
}

fn done(written: &Progress, uri: &str) -> String {
    format!(
        "{} events, {} records, {} bytes into {}",
        grouped(written.events),
        grouped(written.records),
        grouped(written.bytes),
        mask_secrets(uri)
    )
}

/// Shows how far a generator is.
struct Meter {
    style: Style,
    count: Option<u64>,
    rate: Rate,
    shown: Instant,
}

impl Meter {
    fn new(log: &EventLog, style: Style) -> Self {
        let mut rate = Rate::default();
        rate.at(Instant::now(), 0);
        Self {
            style,
            count: log.schedule().count(),
            rate,
            shown: Instant::now(),
        }
    }

    fn show(&mut self, progress: &Progress) {
        if self.shown.elapsed() < self.style.interval() {
            return;
        }
        self.shown = Instant::now();
        let per_second = self.rate.at(self.shown, progress.events);
        let share = self
            .count
            .filter(|count| *count > 0)
            .map(|count| format!(" ({:.0} %)", progress.events as f64 / count as f64 * 100.0));
        let share = share.unwrap_or_default();
        let (events, rate) = (grouped(progress.events), grouped(per_second.round() as u64));
        self.style.show(&format!(
            "{events} events{share}  {rate}/s  {}",
            progress.time
        ));
    }

    fn end(&self) {
        self.style.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_at_the_end_means_a_folder() {
        let of = |uri| Destination::parse(uri).expect("valid");
        assert_eq!(
            of("file:x.ndjson"),
            Destination::Files(Target::File("x.ndjson".into()))
        );
        assert_eq!(
            of("file:x/"),
            Destination::Files(Target::Folder("x/".into()))
        );
        assert_eq!(of("-"), Destination::Files(Target::Stdout));
        for wrong in ["x.ndjson", "file:", "s3://b/p", "kafka://h"] {
            assert_eq!(
                Destination::parse(wrong).expect_err("wrong").code(),
                2,
                "{wrong}"
            );
        }
    }
}
