//! `highwater run`.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::ArgMatches;

use super::error::{CliError, DONE, Outcome};
use super::plan::Plan;
use super::processes::{self, Member, Role};
use super::progress::{ProgressThread, Style};
use super::registry::PipelineEntry;
use super::resources::Resources;
use super::schema::{self, Kept};
use super::signal::{Answer, Signals};
use super::{http, job, report, summary};
use crate::cluster::Cluster;
use crate::runtime::control::{Notice, Notices};
use crate::runtime::metrics::Metrics;
use crate::runtime::state::StateOptions;
use crate::runtime::{RunError, RunOptions, Summary, run};
use crate::sink::{Guarantee, SinkFactory};
use crate::terminal;

/// Signals that reach a supervised process within this are one.
const TOGETHER: Duration = Duration::from_secs(2);

/// Runs the pipeline: here, as one process of several, or by starting these.
pub fn command(entry: &dyn PipelineEntry, matches: &ArgMatches) -> Outcome {
    match processes::role(matches)? {
        Role::Alone => run_here(entry, matches, None),
        Role::Member(member) => run_here(entry, matches, Some(*member)),
        Role::Supervisor => processes::supervise_all(entry, matches),
    }
}

fn run_here(entry: &dyn PipelineEntry, matches: &ArgMatches, member: Option<Member>) -> Outcome {
    let started = Instant::now();
    let quiet = matches.get_flag("quiet");
    let leads = member.as_ref().is_none_or(Member::leads);
    let notices = Notices::default();
    let is_supervised = member.as_ref().is_some_and(Member::is_supervised);
    let together = if is_supervised {
        TOGETHER
    } else {
        Duration::ZERO
    };
    let signals = catch(notices.clone(), quiet || !leads, together)?;
    let plan = Plan::new(entry, matches)?;
    let metrics = Arc::new(Metrics::since(started));
    if quiet {
        metrics.be_quiet();
    } else if leads {
        announce(&plan, matches);
    }
    let _server = http::start(matches, member.as_ref(), &plan, &metrics)?;
    let mut state = job::state_options(&plan, entry, matches)?;
    if let (Some(state), Some(member)) = (&mut state, &member) {
        member.go_on(state);
    }
    if let Some(schemas) = &plan.schemas {
        let kept = state.as_ref().map(|state| Kept {
            storage: Arc::clone(&state.storage),
            // What lies there is another job's.
            is_read: !state.is_fresh,
            is_written: true,
        });
        schema::begin(schemas, kept)?;
    }
    let cluster = member.map(|member| member.join(&notices)).transpose()?;
    let mut options = options(&plan, state, notices, Arc::clone(&metrics));
    options.cluster.clone_from(&cluster);
    let style = Style::new(quiet || !leads);
    let progress = ProgressThread::start(Arc::clone(&metrics), style, plan.settings.wait);
    let outcome = match &cluster {
        Some(cluster) => run_together(cluster, options, &plan, entry, matches),
        None => run(options).map_err(CliError::from),
    };
    progress.stop();
    let result = outcome?;
    if leads {
        conclude(&result, &plan, &metrics, entry, matches)?;
    }
    Ok(signals.exit_code().unwrap_or(DONE))
}

/// Runs one process of several; the others hear why when it fails.
fn run_together(
    cluster: &Cluster,
    options: RunOptions,
    plan: &Plan,
    entry: &dyn PipelineEntry,
    matches: &ArgMatches,
) -> Result<Summary, CliError> {
    let outcome = processes::compared(entry, job::configuration(plan, entry, matches))
        .and_then(|compared| {
            let same = cluster.compare(&compared, processes::MAY_DIFFER);
            same.map_err(|error| RunError::from(error).into())
        })
        .and_then(|()| run(options).map_err(CliError::from));
    if let Err(error) = &outcome {
        cluster.fail(error.code(), &error.to_string());
    }
    outcome
}

fn catch(notices: Notices, quiet: bool, together: Duration) -> Result<Signals, CliError> {
    let stop = move || {
        let is_running = notices.are_heard();
        notices.send(Notice::Stop);
        if !quiet && is_running {
            terminal::message(format_args!("stopping… (once more to stop at once)"));
        } else if !quiet {
            terminal::message(format_args!("stopped before anything was read"));
        }
        if is_running {
            Answer::Finish
        } else {
            Answer::Leave
        }
    };
    let signals = Signals::take_with(together, stop);
    signals.map_err(|error| CliError::Failed(format!("signals: {error}")))
}

fn options(
    plan: &Plan,
    state: Option<StateOptions>,
    notices: Notices,
    metrics: Arc<Metrics>,
) -> RunOptions {
    let settings = &plan.settings;
    let sink = |target: &super::target::Target| {
        (
            target.output.to_owned(),
            Arc::clone(&target.factory) as Arc<dyn SinkFactory>,
        )
    };
    RunOptions {
        pipeline: Arc::clone(&plan.pipeline),
        source: Arc::clone(&plan.source),
        sinks: plan.targets.iter().map(sink).collect(),
        flow: plan.flow.clone(),
        workers: settings.workers,
        serializes: false,
        epoch: settings.epoch,
        checkpoint: plan.checkpoint(),
        close_on_idle: settings.close_on_idle,
        ends: settings.end.ends,
        drain: settings.end.drain,
        dims_refresh: settings.dims_refresh,
        run_label: run_label(),
        state,
        is_at_least_once: settings.is_at_least_once,
        metrics,
        notices,
        cluster: None,
    }
}

/// Unique per run.
fn run_label() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!("{}-{}", since.as_millis(), std::process::id())
}

/// What is about to happen.
fn announce(plan: &Plan, matches: &ArgMatches) {
    let settings = &plan.settings;
    let window = &settings.window;
    let outputs = plan
        .targets
        .iter()
        .map(|target| format!("{} → {}", target.output, target.uri));
    let outputs = outputs.collect::<Vec<_>>().join(", ");
    terminal::message(format_args!(
        "{}: {} → {outputs}",
        plan.pipeline.name(),
        plan.source.name()
    ));
    let slide = if window.slide() == window.size() {
        String::new()
    } else {
        format!(" every {}", window.slide())
    };
    terminal::message(format_args!(
        "windows of {}{slide}, wait {}, keep {}, idle after {}{}; {} {}",
        window.size(),
        settings.wait,
        window.keep(),
        settings.idle_after,
        if settings.close_on_idle {
            " (then by the wall clock)"
        } else {
            ""
        },
        settings.workers,
        match (settings.workers, settings.processes) {
            (1, 1) => "worker".to_owned(),
            (_, 1) => "workers".to_owned(),
            (1, processes) => format!("worker in each of {processes} processes"),
            (_, processes) => format!("workers in each of {processes} processes"),
        },
    ));
    terminal::message(format_args!("{}", delivery(plan, matches)));
    if matches.get_flag("verbose") {
        announce_more(plan);
    }
}

fn delivery(plan: &Plan, matches: &ArgMatches) -> String {
    let Some(state) = matches.get_one::<String>("state") else {
        return "delivery: at-least-once, no state is kept".to_owned();
    };
    if plan.settings.is_at_least_once {
        return format!("delivery: at-least-once, state in {state}");
    }
    let weaker = plan
        .targets
        .iter()
        .filter(|target| target.factory.guarantee() == Guarantee::AtLeastOnce);
    let weaker: Vec<_> = weaker.map(|target| target.uri.as_str()).collect();
    if weaker.is_empty() {
        format!("delivery: exactly-once, state in {state}")
    } else {
        let weaker = weaker.join(", ");
        format!("delivery: exactly-once, but for {weaker}; state in {state}")
    }
}

fn announce_more(plan: &Plan) {
    let settings = &plan.settings;
    if let Ok(about) = plan.source.check() {
        terminal::message(format_args!("input: {about}"));
    }
    let end = match (settings.end.ends, settings.end.drain) {
        (false, _) => "never",
        (true, false) => "at the end of the input, windows stay open",
        (true, true) => "at the end of the input, all windows are closed",
    };
    terminal::message(format_args!(
        "ends: {end}; epoch {} ms, checkpoint {} s",
        settings.epoch.as_millis(),
        plan.checkpoint().as_secs_f64()
    ));
    for output in &plan.outputs {
        let columns: Vec<_> = output.columns.iter().map(|column| column.name).collect();
        terminal::message(format_args!(
            "output {}: {}",
            output.name,
            columns.join(", ")
        ));
    }
}

/// What is left of the run, for people and machines.
fn conclude(
    result: &Summary,
    plan: &Plan,
    metrics: &Metrics,
    entry: &dyn PipelineEntry,
    matches: &ArgMatches,
) -> Result<(), CliError> {
    let resources = Resources::now().with(result.elsewhere);
    if !matches.get_flag("quiet") {
        terminal::message(format_args!("\n{}", summary::text(result, plan, resources)));
        if matches.get_flag("verbose") {
            let [p50, p90, p99, max] = metrics.latency_ms();
            terminal::message(format_args!(
                "from an epoch's border to its commit: p50 {p50:.1} ms, p90 {p90:.1} ms, \
                 p99 {p99:.1} ms, max {max:.1} ms"
            ));
        }
    }
    let Some(path) = matches.get_one::<String>("report") else {
        return Ok(());
    };
    let options = report::options(plan, entry, matches);
    report::write(
        Path::new(path),
        &report::of_run(result, plan, metrics, resources, options),
    )
}
