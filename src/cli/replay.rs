//! `highwater replay`: recorded epochs are run again, and what comes of them is compared with what
//! is recorded.
//!
//! The configuration is the job's own, from its state; what may change from run to run is given
//! here, or does not matter. Results stand on standard output, everything else on standard error.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Value, json};

use super::command::Pipelines;
use super::error::{CliError, DONE, Outcome};
use super::flags::{GENERATOR_ONLY, run_flags};
use super::input::{End, Input, Opened};
use super::job::{FIRST_EVENT, MAY_CHANGE};
use super::plan::Settings;
use super::progress::{ProgressThread, Style};
use super::registry::PipelineEntry;
use super::schema::{self, Kept};
use super::summary::table;
use super::value::grouped;
use crate::runtime::RunError;
use crate::runtime::metrics::Metrics;
use crate::runtime::replay::{ReplayOptions, replay};
use crate::state::replay::{Begun, Comparison, Difference, RowsDigest, begin};
use crate::state::{JobRecord, Storage, StorageOptions, open};
use crate::terminal;
use crate::time::Epoch;

/// A server that does not answer is asked again for so long.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);
/// As many differences are shown to people.
const SHOWN: usize = 20;

/// Runs `replay`.
pub fn command(pipelines: Pipelines<'_>, matches: &ArgMatches) -> Outcome {
    let epoch = |id| matches.get_one::<u64>(id).copied().map(Epoch);
    let (from, until) = (epoch("from-epoch"), epoch("to-epoch"));
    check_order(from, until)?;
    let uri = matches.get_one::<String>("uri").map_or("", String::as_str);
    let storage = StorageOptions {
        patience: Some(PATIENCE),
        ..StorageOptions::default()
    };
    let storage = open(uri, storage)?;
    let begun = begin(&*storage, from)?;
    let begun = begun.ok_or_else(|| super::state::nothing(&*storage))?;
    check_kept(&begun, &*storage, until)?;
    let Job { options, settings } = job(pipelines, matches, &begun, Arc::clone(&storage))?;
    let quiet = matches.get_flag("quiet");
    // Dead letters were shown when the job ran.
    options.metrics.be_quiet();
    if !quiet {
        announce(&begun, &*storage, matches);
    }
    let (first, job) = (first(&begun), begun.recording.job.clone());
    let metrics = Arc::clone(&options.metrics);
    let progress = ProgressThread::start(metrics, Style::new(quiet), settings.wait);
    let outcome = replay(&options, begun);
    progress.stop();
    let comparison = outcome.map_err(failed)?;
    let text = if matches.get_flag("json") {
        format!("{}\n", to_json(&*storage, &job, first, &comparison))
    } else {
        text(&*storage, first, &comparison)
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    if comparison.count == 0 {
        Ok(DONE)
    } else {
        Err(CliError::Difference)
    }
}

/// The epochs that were asked for must be in their order.
fn check_order(from: Option<Epoch>, until: Option<Epoch>) -> Result<(), CliError> {
    match (from, until) {
        (Some(from), Some(until)) if until < from => Err(CliError::Usage(format!(
            "--to-epoch {until} lies before --from-epoch {from}: nothing would be compared"
        ))),
        _ => Ok(()),
    }
}

/// What was asked for must not end before the first epoch that can be run.
fn check_kept(begun: &Begun, storage: &dyn Storage, until: Option<Epoch>) -> Result<(), CliError> {
    let (place, first) = (storage.name(), first(begun));
    match until {
        Some(until) if until < first => Err(CliError::Refused(format!(
            "{place}: epoch {until} is no longer kept: the first that can be run again is {first}"
        ))),
        _ => Ok(()),
    }
}

fn failed(error: RunError) -> CliError {
    match &error {
        RunError::Source(_) => CliError::Failed(format!(
            "{error}\nthe job's input is needed as it was read: name it with --from, or begin later \
             with --from-epoch K where its beginning is gone"
        )),
        _ => error.into(),
    }
}

/// The first epoch that is run.
fn first(begun: &Begun) -> Epoch {
    begun.after.as_ref().map_or(Epoch(0), |it| it.epoch.next())
}

/// A job as it is run again.
struct Job {
    options: ReplayOptions,
    settings: Settings,
}

fn job(
    pipelines: Pipelines<'_>,
    matches: &ArgMatches,
    begun: &Begun,
    storage: Arc<dyn Storage>,
) -> Result<Job, CliError> {
    let job = &begun.recording.job;
    let place = storage.name();
    let entry = pipelines.iter().find(|entry| entry.name() == job.pipeline);
    let Some(entry) = entry.copied() else {
        let name = &job.pipeline;
        let what = format!("{place}: the job there runs {name}, which this binary does not have");
        return Err(CliError::Refused(what));
    };
    if job.version != entry.version() {
        return Err(CliError::Refused(format!(
            "{place}: the rules of {} were version {} when the job began, and are version {} now: \
             replay with the version of highwater that ran it",
            job.pipeline,
            job.version,
            entry.version()
        )));
    }
    let flags = flags(entry, job, matches)?;
    let mut settings = Settings::new(entry, &flags)?;
    settings.end = End {
        ends: true,
        drain: settings.end.drain,
    };
    settings.tells_positions = false;
    let Opened { source, schemas } = settings.input(entry, &flags)?;
    if let Some(schemas) = schemas {
        let kept = Kept {
            storage: Arc::clone(&storage),
            is_read: true,
            is_written: false,
        };
        schema::begin(&schemas, Some(kept))?;
    }
    let mut flow = settings.flow(&source, &flags);
    // What it was called then: rows say so.
    recorded_source(job).clone_into(&mut flow.ingest.topic);
    let options = ReplayOptions {
        pipeline: settings.pipeline(entry, &flags)?,
        source,
        flow,
        workers: settings.workers,
        storage,
        until: matches.get_one::<u64>("to-epoch").copied().map(Epoch),
        metrics: Arc::new(Metrics::default()),
    };
    Ok(Job { options, settings })
}

fn recorded_source(job: &JobRecord) -> &str {
    job.config.get("from").map_or("", String::as_str)
}

/// The flags of `run` with which the job has begun, and those that are given here.
fn flags(
    entry: &dyn PipelineEntry,
    job: &JobRecord,
    matches: &ArgMatches,
) -> Result<ArgMatches, CliError> {
    let command = run_flags(Command::new("replay").no_binary_name(true), entry);
    let command = command.args_override_self(true);
    let from = from(job, matches)?;
    let input = Input::of(&from);
    let model = entry.model_args(Command::new("model"));
    let of_generator = |arg: &Arg| {
        let id = arg.get_id();
        let mut own = model.get_arguments();
        GENERATOR_ONLY.contains(&id.as_str()) || own.any(|it| it.get_id() == id)
    };
    let mut line = vec![format!("--from={from}")];
    for arg in command.get_arguments() {
        let Some(name) = arg.get_long() else { continue };
        if input != Input::Generate && of_generator(arg) {
            continue;
        }
        let key = match name {
            "start" => FIRST_EVENT.to_owned(),
            name => name.replace('-', "_"),
        };
        let value = job.config.get(&key);
        line.extend(
            value
                .filter(|_| counts(name, input))
                .and_then(|it| word(arg, name, it)),
        );
    }
    if input == Input::Generate {
        line.push("--speed=max".to_owned());
    }
    let workers = matches.get_one::<u32>("workers").copied().unwrap_or(1);
    line.push(format!("--workers={workers}"));
    let given = |id| matches.get_many::<String>(id).into_iter().flatten();
    line.extend(given("kafka").map(|property| format!("--kafka={property}")));
    for name in ["schema-registry", "schema-registry-auth"] {
        line.extend(given(name).map(|value| format!("--{name}={value}")));
    }
    let timeout = matches.get_one::<crate::time::Span>("connect-timeout");
    line.extend(timeout.map(|it| format!("--connect-timeout={it}")));
    command.try_get_matches_from(line).map_err(|error| {
        CliError::Failed(format!(
            "the configuration in the state is not one of this version of highwater: {error}"
        ))
    })
}

/// Whether the job's own value of this flag matters for what comes out.
fn counts(name: &str, input: Input) -> bool {
    match name {
        "from" => false,
        // The tables come from the state, but there must be some.
        "dims" => true,
        // With the generator, the time of the first event.
        "start" | "follow" => input == Input::Generate,
        _ => !MAY_CHANGE.contains(&&*name.replace('-', "_")),
    }
}

/// A flag with its value, as on the command line.
fn word(arg: &Arg, name: &str, value: &str) -> Option<String> {
    match arg.get_action() {
        ArgAction::SetTrue => (value == "true").then(|| format!("--{name}")),
        _ => Some(format!("--{name}={value}")),
    }
}

/// Where the job's input is.
fn from(job: &JobRecord, matches: &ArgMatches) -> Result<String, CliError> {
    if let Some(from) = matches.get_one::<String>("from") {
        return Ok(from.clone());
    }
    let recorded = recorded_source(job);
    if recorded.starts_with("file:") || recorded.starts_with("generate:") {
        return Ok(recorded.to_owned());
    }
    Err(CliError::Usage(format!(
        "the job reads the topic {recorded}; its address is not kept in the state: give --from \
         kafka://HOST:PORT/{recorded}, and --kafka KEY=VALUE for what the brokers ask for"
    )))
}

/// From where to where, and why not from earlier on.
fn announce(begun: &Begun, storage: &dyn Storage, matches: &ArgMatches) {
    let (recording, first) = (&begun.recording, first(begun));
    for reason in &begun.passed_over {
        terminal::message(format_args!("{reason}; beginning later"));
    }
    let after = begun.after.as_ref().map(|it| it.epoch);
    let at = recording.opened_at(after);
    let why = if after.is_none() {
        "the beginning of the job".to_owned()
    } else if let Some(asked) = matches.get_one::<u64>("from-epoch") {
        format!("the last start before epoch {asked}")
    } else {
        let history = recording.job.config.get("history");
        let history = history.map_or("7d", String::as_str);
        format!("the first that is kept (--history {history})")
    };
    terminal::message(format_args!(
        "{}: job {}, {}: from epoch {first} of {at}, {why}, to epoch {}",
        storage.name(),
        recording.job.job,
        recording.job.pipeline,
        last(begun, matches).unwrap_or_default()
    ));
    let unaccounted = recording.unaccounted();
    if unaccounted > 0 {
        terminal::message(format_args!(
            "{} epochs after the newest checkpoint are not compared: what came of them is recorded \
             with the next one",
            grouped(unaccounted as u64)
        ));
    }
}

/// The last epoch that is run.
fn last(begun: &Begun, matches: &ArgMatches) -> Option<Epoch> {
    let until = matches.get_one::<u64>("to-epoch").copied().map(Epoch);
    let after = begun.after.as_ref().map(|it| it.epoch);
    let slices = begun.recording.slices(after, until, u64::MAX);
    slices.last().map(|slice| slice.last)
}

fn text(storage: &dyn Storage, first: Epoch, comparison: &Comparison) -> String {
    let mut text = String::new();
    for difference in comparison.differences.iter().take(SHOWN) {
        text.push_str(&format!("difference: {}\n", describe(difference)));
    }
    let more = comparison.count.saturating_sub(SHOWN as u64);
    if more > 0 {
        text.push_str(&format!("and {} more\n", grouped(more)));
    }
    let titles = ["output", "epochs with rows", "rows", "differences"];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    rows.extend(comparison.outputs.iter().map(|(name, it)| {
        let numbers = [it.epochs, it.rows, it.differences].map(grouped);
        [name.clone()].into_iter().chain(numbers).collect()
    }));
    text.push_str(&table(&rows));
    let range =
        last_run(first, comparison).map_or_else(String::new, |last| format!(", {first} to {last}"));
    let result = match comparison.count {
        0 => "equal".to_owned(),
        1 => "1 difference".to_owned(),
        count => format!("{} differences", grouped(count)),
    };
    text.push_str(&format!(
        "{}: {result}; {} epochs{range}\n",
        storage.name(),
        grouped(comparison.epochs)
    ));
    if comparison.unrecorded > 0 {
        text.push_str(&format!(
            "{} more were run and not compared: it is not recorded any more what came of them\n",
            grouped(comparison.unrecorded)
        ));
    }
    text
}

/// The last epoch that was run; `None`: none was.
fn last_run(first: Epoch, comparison: &Comparison) -> Option<Epoch> {
    let next = comparison.next();
    (next > first).then(|| Epoch(next.0 - 1))
}

fn describe(difference: &Difference) -> String {
    let rows = |it: &RowsDigest| format!("{} rows, digest {}", grouped(it.rows), it.digest);
    match difference {
        Difference::Output {
            epoch,
            output,
            recorded,
            replayed,
        } => format!(
            "epoch {epoch}, output {output}: recorded {}; replayed {}",
            rows(recorded),
            rows(replayed)
        ),
        Difference::Ledger {
            epoch,
            partition,
            recorded,
            replayed,
        } => format!("{partition} up to epoch {epoch}: recorded {recorded}; replayed {replayed}"),
        Difference::Input { partition, how } => {
            format!("{partition}: the input is not what it was: {how}; the replay ends here")
        }
    }
}

fn to_json(storage: &dyn Storage, job: &JobRecord, first: Epoch, comparison: &Comparison) -> Value {
    let outputs: &BTreeMap<_, _> = &comparison.outputs;
    json!({
        "state": storage.name(),
        "job": job.job,
        "first_epoch": first,
        "last_epoch": last_run(first, comparison),
        "epochs": comparison.epochs,
        "unrecorded_epochs": comparison.unrecorded,
        "outputs": outputs,
        "difference_count": comparison.count,
        "differences": comparison.differences,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::replay::Recording;
    use crate::state::testing::sample;

    #[test]
    fn epochs_in_the_wrong_order_are_refused() {
        let check = |from: Option<u64>, until: Option<u64>| {
            check_order(from.map(Epoch), until.map(Epoch)).map_err(|error| error.to_string())
        };
        let text = check(Some(50), Some(10)).unwrap_err();
        assert!(
            text.contains("--to-epoch 10 lies before --from-epoch 50"),
            "{text}"
        );
        for (from, until) in [(Some(10), Some(10)), (Some(50), None), (None, Some(10))] {
            check(from, until).unwrap();
        }
    }

    #[test]
    fn an_end_that_is_no_longer_kept_is_refused() {
        let storage = sample();
        let begun = begin(&*storage, Some(Epoch(10))).unwrap().unwrap();
        assert_eq!(first(&begun), Epoch(10));
        let text = check_kept(&begun, &*storage, Some(Epoch(9))).unwrap_err();
        assert!(
            text.to_string().contains("epoch 9 is no longer kept"),
            "{text}"
        );
        check_kept(&begun, &*storage, Some(Epoch(10))).unwrap();
    }

    #[test]
    fn an_input_that_is_not_what_it_was_is_shown_with_what_was_found_before() {
        let storage = sample();
        let recording = Recording::read(&*storage).unwrap().unwrap();
        let mut comparison = Comparison::new(&recording, None);
        let input = Difference::Input {
            partition: "rides.csv".to_owned(),
            how: "it ends at 10".to_owned(),
        };
        comparison.differ(input.clone());
        let nothing_run = text(&*storage, Epoch(0), &comparison);
        assert!(
            nothing_run.contains("1 difference; 0 epochs\n"),
            "{nothing_run}"
        );

        let mut comparison = Comparison::new(&recording, None);
        let mut manifest = recording.manifest(Epoch(9)).unwrap().clone();
        manifest.digests.clear();
        comparison.take(&manifest);
        comparison.differ(input);
        let shown = text(&*storage, Epoch(0), &comparison);
        for part in [
            "difference: epoch 9, output windows",
            "difference: rides.csv: the input is not what it was: it ends at 10",
            "2 differences; 10 epochs, 0 to 9\n",
        ] {
            assert!(shown.contains(part), "{shown}");
        }
        let json = to_json(&*storage, &recording.job, Epoch(0), &comparison);
        assert_eq!(json["difference_count"], 2);
        assert_eq!(json["last_epoch"], 9);
        assert_eq!(json["differences"][1]["kind"], "input");
        assert_eq!(json["differences"][1]["partition"], "rides.csv");
    }
}
