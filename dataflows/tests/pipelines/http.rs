//! What a run shows over HTTP while it goes on.

use std::net::TcpListener;

use serde_json::Value;

use crate::support::cars::generated;
use crate::support::http::{Metrics, free_ports, get};
use crate::support::place::{Place, Running};

/// Some records of most fates.
const DIRTY: &str =
    "--events 20_000 --disorder 20s --seed 7 --late-fraction 0.02 --duplicates 0.01 --garbage 0.01";
const FATES: [&str; 9] = [
    "on_time",
    "late_kept",
    "late_diverted",
    "late_dropped",
    "rejected",
    "skipped",
    "duplicate",
    "filtered",
    "no_window",
];

/// Waits until all `lines` lines are read and what was read is committed; then nothing changes any
/// more but epochs. The metrics of the process that leads, as of then.
fn settled(run: &mut Running, addresses: &[String], lines: f64) -> Vec<Metrics> {
    let look = || {
        addresses
            .iter()
            .map(|it| Metrics::of(it))
            .collect::<Option<Vec<_>>>()
    };
    let read = "highwater_partition_read_records_total";
    let epoch = run.until("everything is read", || {
        let metrics = look()?;
        (metrics[0].sum(read) == lines).then(|| metrics[0].value("highwater_epoch"))
    });
    run.until("everything is committed", || {
        let metrics = look()?;
        let committed = metrics[0].find("highwater_committed_epoch")?;
        // Two more borders, so that each process has said what it did.
        (committed >= epoch + 2.0).then_some(metrics)
    })
}

fn lines(place: &Place) -> f64 {
    place.partitions("in").iter().map(Vec::len).sum::<usize>() as f64
}

fn assert_inputs(metrics: &[Metrics], report: &Value) {
    let (leads, partition) = (&metrics[0], "partition");
    for input in report["inputs"].as_array().expect("inputs") {
        let id = &input[partition];
        let of = |family: &str| format!("highwater_partition_{family}{{partition=\"{id}\"}}");
        let number = |name: &str| input[name].as_f64().expect("a number");
        assert_eq!(leads.value(&of("read_records_total")), number("read"));
        assert_eq!(
            leads.value(&of("late_windows_total")),
            number("late_windows")
        );
        assert_eq!(leads.value(&of("gaps_total")), number("gaps"));
        for fate in FATES {
            let series =
                format!("highwater_partition_records_total{{partition=\"{id}\",fate=\"{fate}\"}}");
            assert_eq!(leads.value(&series), number(fate), "{series}");
        }
        // In the process that reads it.
        let reader = metrics.iter().find(|it| it.find(&of("position")).is_some());
        let reader = reader.expect("somebody reads it");
        assert_eq!(reader.value(&of("position")), number("to_offset"));
        assert_eq!(reader.value(&of("end_position")), number("to_offset"));
        assert_eq!(reader.value(&of("lag_bytes")), 0.0);
    }
}

fn assert_outputs(metrics: &[Metrics], report: &Value) {
    for (name, output) in report["outputs"].as_object().expect("outputs") {
        for what in ["rows", "bytes", "windows"] {
            let series = format!("highwater_output_{what}_total{{output=\"{name}\"}}");
            let expected = output[what].as_f64().expect("a number");
            assert_eq!(metrics[0].value(&series), expected, "{series}");
        }
    }
    let sinks = |family: &str| metrics.iter().map(|it| it.sum(family)).sum::<f64>();
    let to = |name: &str, what: &str| report["outputs"][name][what].as_f64().expect("a number");
    let (rows, bytes) = ("highwater_sink_rows_total", "highwater_sink_bytes_total");
    assert_eq!(sinks(rows), to("windows", "rows") + to("late", "rows"));
    assert_eq!(sinks(bytes), to("windows", "bytes") + to("late", "bytes"));
}

#[test]
fn what_is_shown_is_what_the_report_says() {
    let place = generated(DIRTY);
    let address = format!("127.0.0.1:{}", free_ports(1));
    let mut run = place.start(&format!(
        "run cars --quiet --from file:in/*.ndjson --follow --dims dir:dims --keep 1m -w 2 \
         --state state --epoch 20ms --checkpoint 100ms --http {address} --report report.json \
         --to windows=ndjson:out.ndjson --to late=ndjson:late.ndjson"
    ));
    settled(&mut run, std::slice::from_ref(&address), lines(&place));
    let metrics = run.until("a checkpoint is recorded", || {
        let metrics = Metrics::of(&address)?;
        let recorded = metrics.value("highwater_checkpoint_duration_seconds_count");
        (recorded > 0.0).then(|| vec![metrics])
    });
    let shown = &metrics[0];
    assert_eq!(shown.value("highwater_ready"), 1.0);
    assert_eq!(get(&address, "/readyz").expect("an answer").status, 200);
    assert_eq!(get(&address, "/healthz").expect("an answer").body, "ok\n");
    let other = get(&address, "/else").expect("an answer");
    assert!(
        other.status == 404 && other.body.contains("/metrics"),
        "{other:?}"
    );
    let done = run.interrupt();
    assert_eq!(done.code, 130, "{}", done.stderr);
    let report = place.report("report.json");
    assert_inputs(&metrics, &report);
    assert_outputs(&metrics, &report);
    let fates = "highwater_partition_records_total";
    assert_eq!(shown.sum(fates), lines(&place), "each has one fate");
    for fate in ["rejected", "late_diverted", "late_kept"] {
        let parts =
            (0..4).map(|id| shown.value(&format!("{fates}{{partition=\"{id}\",fate=\"{fate}\"}}")));
        assert!(
            parts.sum::<f64>() > 0.0,
            "{fate}: there is something to compare"
        );
    }
    let rejected = shown.sum("highwater_dead_letters_total");
    let inputs = report["inputs"].as_array().expect("inputs");
    let expected: f64 = inputs.iter().filter_map(|it| it["rejected"].as_f64()).sum();
    assert_eq!(rejected, expected);
    assert!(shown.value("highwater_state_bytes") > 0.0);
    assert!(shown.value("highwater_checkpoint_duration_seconds_count") > 0.0);
    assert!(shown.value("highwater_commit_latency_seconds_count") > 0.0);
    assert!(shown.sum("highwater_window_entries") > 0.0);
    assert!(shown.value("highwater_worker_steps_total{worker=\"1\"}") > 0.0);
    assert_eq!(
        shown.value("highwater_sink_waiting{output=\"late\",sink=\"ndjson-late.ndjson\"}"),
        0.0
    );

    // The address may change, and a run that goes on says what it had to catch up with.
    let address = format!("127.0.0.1:{}", free_ports(1));
    let mut run = place.start(&format!(
        "run cars --quiet --from file:in/*.ndjson --follow --dims dir:dims --keep 1m -w 1 \
         --state state --epoch 20ms --http {address} \
         --to windows=ndjson:out.ndjson --to late=ndjson:late.ndjson"
    ));
    let loaded = run.until("it is ready", || {
        let is_ready = get(&address, "/readyz")?.status == 200;
        Metrics::of(&address).filter(|_| is_ready)
    });
    assert!(loaded.value("highwater_recovery_seconds{until=\"loaded\"}") > 0.0);
    assert!(loaded.value("highwater_state_bytes") > 0.0);
    run.interrupt();
}

#[test]
fn each_process_shows_itself_and_the_first_one_the_run() {
    let place = generated(DIRTY);
    let first = free_ports(2);
    let addresses = [first, first + 1].map(|port| format!("127.0.0.1:{port}"));
    let mut run = place.start(&format!(
        "run cars --quiet --from file:in/*.ndjson --follow --dims dir:dims -n 2 -w 2 \
         --epoch 50ms --http :{first} --report report.json \
         --to windows=ndjson:out.ndjson --to late=null:"
    ));
    settled(&mut run, &addresses, lines(&place));
    let rows = "highwater_output_rows_total{output=\"windows\"}";
    // What the other process counts is told with its heartbeats.
    let told = run.until("process 1 has said what it wrote", || {
        let (leads, own) = (Metrics::of(&addresses[0])?, Metrics::of(&addresses[1])?);
        let sinks = [&leads, &own].map(|it| it.sum("highwater_sink_rows_total"));
        let outputs = ["windows", "late"].map(|output| {
            leads.value(&format!(
                "highwater_output_rows_total{{output=\"{output}\"}}"
            ))
        });
        let is_told = outputs.iter().sum::<f64>() == sinks.iter().sum::<f64>();
        is_told.then_some([leads, own])
    });
    assert!(told[0].value(rows) > 0.0);
    assert_eq!(
        told[1].find(rows),
        None,
        "it is the first one that speaks for the run"
    );
    for (process, metrics) in told.iter().enumerate() {
        let info =
            format!("highwater_run_info{{pipeline=\"cars\",name=\"cars\",process=\"{process}\"}}");
        assert_eq!(metrics.value(&info), 1.0);
        let worker = format!("highwater_worker_steps_total{{worker=\"{}\"}}", 2 * process);
        assert!(metrics.value(&worker) > 0.0);
    }
    let done = run.interrupt();
    assert_eq!(done.code, 130, "{}", done.stderr);
    let report = place.report("report.json");
    assert_inputs(&told, &report);
    assert_outputs(&told, &report);
}

#[test]
fn a_run_that_still_looks_for_its_input_lives_and_is_not_ready() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let broker = silent.local_addr().expect("an address");
    let address = format!("127.0.0.1:{}", free_ports(1));
    let place = Place::new();
    place.ok("dims cars --to dims");
    let mut run = place.start(&format!(
        "run cars --from kafka://{broker}/topic --dims dir:dims --connect-timeout 60s \
         --http {address} --to null:"
    ));
    let ready = run.until("it answers", || get(&address, "/readyz"));
    assert_eq!(ready.status, 503, "{ready:?}");
    assert!(ready.body.contains("opening"), "{ready:?}");
    assert_eq!(get(&address, "/healthz").expect("an answer").status, 200);
    let metrics = Metrics::of(&address).expect("an answer");
    assert_eq!(metrics.value("highwater_ready"), 0.0);
    let done = run.interrupt();
    assert!(
        done.stderr.contains(&format!("http://{address}: /metrics")),
        "{}",
        done.stderr
    );
}

#[test]
fn an_address_that_cannot_be_had_is_an_error() {
    let place = Place::new();
    let error = place
        .run("run cars --events 1000 --http nowhere")
        .failed_with(2);
    assert!(error.contains("host:port"), "{error}");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address");
    let error = place
        .run(&format!("run cars --events 1000 --http {taken}"))
        .failed_with(1);
    assert!(error.contains(&format!("--http {taken}")), "{error}");
    assert!(error.contains(":0 takes any port"), "{error}");
    let error = place
        .run("run cars -n 3 --events 1000 --http :65534")
        .failed_with(2);
    assert!(error.contains("process 2"), "{error}");
}
