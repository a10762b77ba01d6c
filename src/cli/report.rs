//! `--report FILE.json`: the summary for machines.

use std::path::Path;
use std::time::Duration;

use clap::{ArgMatches, Command};
use serde_json::{Map, Value, json};

use super::error::CliError;
use super::flags::run_flags;
use super::plan::Plan;
use super::registry::PipelineEntry;
use super::resources::Resources;
use super::value::count;
use crate::runtime::Summary;
use crate::runtime::metrics::Metrics;
use crate::runtime::recovery::Recovered;
use crate::sink::mask_secrets;

/// Writes the report; it appears whole or not at all.
pub fn write(path: &Path, report: &Value) -> Result<(), CliError> {
    let failed = |error| CliError::Failed(format!("--report {}: {error}", path.display()));
    let mut text = serde_json::to_string_pretty(report).map_err(CliError::failed)?;
    text.push('\n');
    if path.exists() && !path.is_file() {
        // A pipe or /dev/stdout.
        return std::fs::write(path, text).map_err(failed);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    std::fs::write(&temporary, text)
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(failed)
}

/// The report of a run.
pub fn of_run(
    summary: &Summary,
    plan: &Plan,
    metrics: &Metrics,
    resources: Resources,
    options: Value,
) -> Value {
    let progress = metrics.progress();
    let [p50, p90, p99, max] = metrics.latency_ms();
    json!({
        "highwater": env!("CARGO_PKG_VERSION"),
        "pipeline": plan.pipeline.name(),
        "options": options,
        "workers": plan.settings.workers,
        "processes": plan.settings.processes,
        "inputs": inputs(summary),
        "outputs": outputs(summary, plan),
        "unmatched": summary.unmatched,
        "wall_s": summary.wall.as_secs_f64(),
        "cpu_s": resources.cpu.as_secs_f64(),
        "peak_rss_bytes": resources.peak_rss,
        "epochs": progress.epochs,
        "checkpoints": progress.checkpoints,
        "latency_ms": {"p50": p50, "p90": p90, "p99": p99, "max": max},
        "recovery": metrics.recovery.recovered().map(|recovered| recovery(&recovered)),
    })
}

/// In seconds since the start of the command.
fn recovery(recovered: &Recovered) -> Value {
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    json!({
        "epochs": recovered.epochs,
        "records": recovered.records,
        "loaded_s": recovered.loaded.as_secs_f64(),
        "first_epoch_s": seconds(recovered.first_epoch),
        "last_epoch_s": seconds(recovered.last_epoch),
    })
}

fn inputs(summary: &Summary) -> Vec<Value> {
    let input =
        |(partition, range, fates): &(crate::source::Partition, _, crate::ledger::Fates)| {
            let range: &crate::runtime::metrics::Range = range;
            json!({
                "partition": partition.id.0,
                "name": partition.name,
                "from_offset": range.from.0,
                "to_offset": range.to.0,
                "gaps": range.gaps,
                "read": fates.read,
                "on_time": fates.on_time,
                "late_kept": fates.late_kept,
                "late_diverted": fates.late_diverted,
                "late_dropped": fates.late_dropped,
                "late_windows": fates.late_windows,
                "rejected": fates.rejected,
                "skipped": fates.skipped,
                "duplicate": fates.duplicate,
                "filtered": fates.filtered,
                "no_window": fates.no_window,
            })
        };
    summary.inputs.iter().map(input).collect()
}

fn outputs(summary: &Summary, plan: &Plan) -> Map<String, Value> {
    let output = |name: &'static str| {
        let count = summary.outputs.get(name).copied().unwrap_or_default();
        let (rows, bytes) = (count.written.rows, count.written.bytes);
        (
            name.to_owned(),
            json!({"rows": rows, "windows": count.windows, "bytes": bytes}),
        )
    };
    plan.outputs.iter().map(|spec| output(spec.name)).collect()
}

/// The flags that are in force, without secrets, under their names with `_` for `-`: those given,
/// the defaults of the others, and what the pipeline has by default.
pub fn options(plan: &Plan, entry: &dyn PipelineEntry, matches: &ArgMatches) -> Value {
    let mut options = Map::new();
    let command = run_flags(Command::new("run"), entry);
    for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
        let (id, Some(name)) = (arg.get_id().as_str(), arg.get_long()) else {
            continue;
        };
        let Ok(Some(values)) = matches.try_get_raw(id) else {
            continue;
        };
        let values: Vec<_> = values
            .map(|value| shown(id, &value.to_string_lossy()))
            .collect();
        options.insert(name.replace('-', "_"), one_or_many(values));
    }
    let settings = &plan.settings;
    let spans = [
        ("window", settings.window.size()),
        ("slide", settings.window.slide()),
        ("keep", settings.window.keep()),
        ("wait", settings.wait),
        (
            "checkpoint",
            crate::time::Span(plan.checkpoint().as_millis() as i64),
        ),
    ];
    options.extend(spans.map(|(name, span)| (name.to_owned(), span.to_string().into())));
    let to = plan
        .targets
        .iter()
        .map(|target| format!("{}={}", target.output, target.uri));
    options.insert("to".to_owned(), to.collect::<Vec<_>>().into());
    options.insert("name".to_owned(), settings.name.clone().into());
    options.into()
}

fn shown(id: &str, value: &str) -> String {
    match id {
        // Only which property, never its value.
        "kafka" => value.split('=').next().unwrap_or_default().to_owned(),
        _ => mask_secrets(value),
    }
}

fn one_or_many(mut values: Vec<String>) -> Value {
    match values.len() {
        1 => typed(values.remove(0)),
        _ => values.into(),
    }
}

/// Numbers and truth values as such.
fn typed(text: String) -> Value {
    match text.as_str() {
        "true" => true.into(),
        "false" => false.into(),
        _ => count(&text).map_or_else(|_| text.clone().into(), Value::from),
    }
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;
    use crate::cli::testing::{Dummy, parse};

    #[test]
    fn options_hold_defaults_and_no_secrets() {
        let matches = parse(&[
            "-w",
            "2",
            "--kafka",
            "sasl.password=s3cret",
            "--dummies",
            "7",
            "--events",
            "1_000",
            "--drain",
        ]);
        let plan = Plan::new(&Dummy, &matches).expect("valid");
        let options = options(&plan, &Dummy, &matches);
        assert_eq!(options["workers"], 2);
        assert_eq!(options["window"], "10m");
        assert_eq!(options["epoch"], "250ms");
        assert_eq!(options["dummies"], 7);
        assert_eq!(options["kafka"], "sasl.password");
        assert_eq!(options["events"], 1000);
        assert_eq!(options["connect_timeout"], "10s");
        assert_eq!(options["to"][0], "windows=console:");
        assert!(!options.to_string().contains("s3cret"));
        let command = run_flags(Command::new("run"), &Dummy);
        let flags: Vec<_> = command.get_arguments().filter_map(Arg::get_long).collect();
        for key in options.as_object().expect("a table").keys() {
            assert!(flags.contains(&&*key.replace('_', "-")), "{key}");
        }
    }

    #[test]
    fn a_report_appears_whole() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("report.json");
        write(&path, &json!({"a": 1})).expect("written");
        let names: Vec<_> = std::fs::read_dir(dir.path()).expect("there").collect();
        assert_eq!(names.len(), 1);
        let missing = dir.path().join("no").join("report.json");
        assert_eq!(
            write(&missing, &json!({})).expect_err("no folder").code(),
            1
        );
    }
}
