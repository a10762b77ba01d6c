//! The result is a function of the input, not of how many processes compute it.

use std::path::Path;

use serde_json::Value;

use super::support::{done, report, sorted};

/// What a report says of inputs and outputs, but for bytes and names.
fn counts(report: &Value) -> (Value, Value) {
    (report["inputs"].clone(), report["outputs"].clone())
}

/// `line` by one process and by others: the same results and the same counts.
#[track_caller]
fn same(dir: &Path, line: &str, shapes: &[&str]) {
    let run = |name: &str, shape: &str| {
        let to = format!("--to ndjson:{{dir}}/{name}-w --to alerts=ndjson:{{dir}}/{name}-a");
        done(
            dir,
            &format!("{line} {to} --report {{dir}}/{name}-r {shape}"),
        );
        let file = |what| dir.join(format!("{name}-{what}"));
        (sorted(&file("w")), sorted(&file("a")), report(&file("r")))
    };
    let alone = run("alone", "");
    assert!(!alone.0.is_empty() && !alone.1.is_empty());
    for shape in shapes {
        let several = run("several", shape);
        assert_eq!(several.0, alone.0, "{line}: {shape}: windows");
        assert!(several.1 == alone.1, "{line}: {shape}: alerts");
        assert_eq!(counts(&several.2), counts(&alone.2), "{line}: {shape}");
        let processes = several.2["processes"].as_u64();
        assert!(shape.starts_with(&format!("-n {}", processes.expect("a number"))));
    }
}

#[test]
fn cars_from_files() {
    let dir = tempfile::tempdir().expect("a folder");
    done(
        dir.path(),
        "generate cars --events 60_000 --disorder 30s --late-fraction 0.01 --garbage 0.001 \
         --partitions 5 --to file:{dir}/in/",
    );
    done(dir.path(), "dims cars --to {dir}/dims");
    same(
        dir.path(),
        "run cars --from file:{dir}/in/*.ndjson --dims dir:{dir}/dims --wait 20s",
        &["-n 2 -w 1", "-n 3 -w 2"],
    );
}

#[test]
fn factory_from_files() {
    let dir = tempfile::tempdir().expect("a folder");
    done(
        dir.path(),
        "generate factory --events 60_000 --disorder 5s --garbage 0.001 --to file:{dir}/in/",
    );
    same(
        dir.path(),
        "run factory --from file:{dir}/in/*.ndjson",
        &["-n 2 -w 2", "-n 3 -w 1"],
    );
}

/// More workers than partitions: some read nothing.
#[test]
fn both_from_the_generator() {
    let dir = tempfile::tempdir().expect("a folder");
    let line = "--speed max --events 60_000 --partitions 2";
    same(
        dir.path(),
        &format!("run cars {line}"),
        &["-n 2 -w 1", "-n 3 -w 1"],
    );
    same(dir.path(), &format!("run factory {line}"), &["-n 2 -w 2"]);
}
