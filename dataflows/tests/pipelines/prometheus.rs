//! A real Prometheus reads what a run shows: every query of the board returns data, and every alert
//! can be evaluated.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::cars::generated;
use crate::support::http::{free_ports, get};
use crate::support::place::{Running, finish};
use crate::support::services::{given, kafka, postgres, root, unique};

/// Asks Prometheus; the field `data` of its answer.
#[track_caller]
fn ask(path: &str) -> Value {
    let answer = get(&given("HIGHWATER_TEST_PROMETHEUS"), path).expect("Prometheus answers");
    let answer: Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(answer["status"], "success", "{path}: {answer}");
    answer["data"].clone()
}

/// The values of what `query` finds now; those that are no numbers left out.
#[track_caller]
fn values(query: &str) -> Vec<f64> {
    let mut encoded = String::new();
    for byte in query.bytes() {
        write!(encoded, "%{byte:02X}").expect("memory");
    }
    let data = ask(&format!("/api/v1/query?query={encoded}"));
    let found = data["result"].as_array().expect("a vector").iter();
    let value = |series: &Value| series["value"][1].as_str()?.parse::<f64>().ok();
    found
        .filter_map(value)
        .filter(|it| it.is_finite())
        .collect()
}

/// The queries of all panels, with their panel's title.
fn board() -> Vec<(String, String)> {
    let path = root().join("deploy/grafana/dashboards/highwater.json");
    let board = fs::read_to_string(path).expect("the board");
    let board: Value = serde_json::from_str(&board).expect("JSON");
    let panels = board["panels"].as_array().expect("panels").iter();
    let queries = panels.flat_map(|panel| {
        let title = panel["title"].as_str().expect("a title").to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        let query = |target: &Value| target["expr"].as_str().expect("a query").to_owned();
        let queries: Vec<_> = targets.iter().map(query).collect();
        assert!(
            panel["type"] == "row" || !queries.is_empty(),
            "{title} is empty"
        );
        queries.into_iter().map(move |query| (title.clone(), query))
    });
    queries.collect()
}

/// Has Prometheus scrape `address` until this is dropped.
struct Target(std::path::PathBuf);

impl Target {
    fn new(address: &str) -> Self {
        let folder = given("HIGHWATER_TEST_PROMETHEUS_TARGETS");
        let path = std::path::Path::new(&folder).join(format!("{}.json", unique("run")));
        fs::write(&path, format!("[{{\"targets\": [\"{address}\"]}}]")).expect("written");
        Self(path)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn assert_panels(run: &mut Running, address: &str) {
    let queries = board();
    assert!(queries.len() > 30, "{} queries", queries.len());
    for (title, query) in queries {
        let query = query
            .replace("$__rate_interval", "10s")
            .replace("$instance", address)
            .replace("$job", "highwater");
        assert!(!query.contains('$'), "{title}: {query}");
        run.until(&format!("panel {title} has data: {query}"), || {
            (!values(&query).is_empty()).then_some(())
        });
    }
}

fn assert_alerts(run: &mut Running) {
    let rules = run.until("all alerts were evaluated", || {
        let groups = ask("/api/v1/rules?type=alert");
        let groups = groups["groups"].as_array().expect("groups").clone();
        let rules = groups.iter().filter_map(|group| group["rules"].as_array());
        let rules: Vec<Value> = rules.flatten().cloned().collect();
        let are_known = rules.iter().all(|rule| rule["health"] != "unknown");
        (!rules.is_empty() && are_known).then_some(rules)
    });
    assert!(rules.len() >= 9, "{rules:?}");
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
}

/// Events at the pace of the clock, some of them late and some broken, through a broker into a
/// database; a crash in between, so that there is something to recover from.
#[test]
#[ignore = "needs kafka, postgres and prometheus: run dev/test"]
fn prometheus_and_kafka_and_postgres_every_panel_has_data_and_every_alert_is_evaluated() {
    let (broker, database) = (kafka(), postgres());
    let place = generated("--events 10");
    let topic = broker.uri(&unique("prometheus"));
    let live = format!(
        "generate cars --quiet --live --rate 400 --disorder 500ms --late-fraction 0.05 --garbage 0.05 \
         --to {topic}"
    );
    place.ok(&format!("{live} --events 200"));
    let mut producer = place.start(&live);
    let address = format!("127.0.0.1:{}", free_ports(1));
    let _target = Target::new(&address);
    let table = unique("prometheus").replace('-', "_");
    let line = format!(
        "run cars --quiet --from {topic} --dims dir:dims --state state --window 1s --wait 1s -w 2 \
         --epoch 50ms --checkpoint 1s --http {address} \
         --to windows={}?table={table} --to alerts=null:",
        database.uri("")
    );
    let mut run = place.start(&line);
    let committed = format!("highwater_committed_epoch{{instance=\"{address}\"}} > 30");
    run.until("it commits", || {
        (!values(&committed).is_empty()).then_some(())
    });
    let checkpoint = format!("highwater_checkpoint_timestamp_seconds{{instance=\"{address}\"}}");
    run.until("a checkpoint", || {
        (!values(&checkpoint).is_empty()).then_some(())
    });
    run.kill();
    let mut run = place.start(&line);
    assert_panels(&mut run, &address);
    assert_alerts(&mut run);
    // What Prometheus has is what stands in the database, as of some moment before now.
    let rows = format!("highwater_sink_rows_total{{instance=\"{address}\",output=\"windows\"}}");
    let shown = values(&rows).iter().sum::<f64>();
    let stored = database.query(&format!("SELECT count(*) FROM {table}"));
    let stored: f64 = stored[0].parse().expect("a number");
    assert!(0.0 < shown && shown <= stored, "{shown} of {stored}");
    let text = get(&address, "/metrics").expect("an answer").body;
    assert!(producer.is_alive());
    producer.kill();
    let done = run.interrupt();
    assert_eq!(done.code, 130, "{}", done.stderr);
    assert_well_formed(&text);
}

/// As Prometheus's own linter sees it.
#[track_caller]
fn assert_well_formed(text: &str) {
    let mut linter = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    let mut input = linter.stdin.take().expect("piped");
    input.write_all(text.as_bytes()).expect("it reads");
    drop(input);
    let said = linter.wait_with_output().expect("it ends");
    assert!(
        said.status.success(),
        "{}{}",
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr)
    );
}

#[test]
#[ignore = "needs prometheus: run dev/test"]
fn prometheus_rules_pass_their_own_tests() {
    let mut command = Command::new("promtool");
    let tests = root().join("deploy/prometheus/rules_test.yml");
    command.args(["test", "rules"]).arg(tests);
    let done = finish(command);
    assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
}
