//! Tables that change while several processes run: process 0 reads them again, all use them.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use serde_json::Value;

use super::support::{Running, done, wait_for};

/// A sample of a car that is in the tables, as the generator writes it.
fn sample(dir: &Path) -> Value {
    let text = fs::read_to_string(dir.join("one/part-00000.ndjson")).expect("generated");
    serde_json::from_str(text.lines().next().expect("a line")).expect("JSON")
}

/// Adds one more record to a partition.
fn append(dir: &Path, partition: usize, sample: &mut Value, number: usize) {
    sample["event_id"] = format!("00000000-0000-0000-{partition:04}-{number:012}").into();
    let file = dir.join(format!("in/{partition}.ndjson"));
    let mut file = OpenOptions::new().append(true).create(true).open(file);
    let line = format!("{sample}\n");
    file.as_mut()
        .expect("a file")
        .write_all(line.as_bytes())
        .expect("written");
}

/// Whether a record of `partition` has come out with this colour.
fn has(dir: &Path, partition: usize, color: &str) -> bool {
    let text = fs::read_to_string(dir.join("enriched")).unwrap_or_default();
    let id = format!("\"00000000-0000-0000-{partition:04}-");
    text.lines()
        .any(|line| line.contains(&id) && line.contains(color))
}

#[test]
fn a_change_is_seen_in_all_processes() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    done(
        dir,
        "generate cars --events 1 --partitions 1 --to file:{dir}/one/",
    );
    done(dir, "dims cars --to {dir}/dims");
    fs::create_dir(dir.join("in")).expect("a folder");
    let mut sample = sample(dir);
    (0..2).for_each(|partition| append(dir, partition, &mut sample, 0));
    let run = Running::start(
        dir,
        "run cars --from file:{dir}/in/*.ndjson --follow --dims dir:{dir}/dims \
         --dims-refresh 100ms --dims-policy latest --epoch 50ms --to enriched=ndjson:{dir}/enriched \
         --state {dir}/state -n 2",
    );
    wait_for("the first records", || {
        let all = (0..2).all(|partition| has(dir, partition, "color_name"));
        all.then_some(())
    });
    let colors = fs::read_to_string(dir.join("dims/colors.csv")).expect("a table");
    let (title, rows) = colors.split_once('\n').expect("a title");
    let rows = rows.lines().map(|row| format!("{row} anew\n"));
    fs::write(
        dir.join("dims/colors.csv"),
        format!("{title}\n{}", rows.collect::<String>()),
    )
    .expect("written");
    let mut number = 0;
    wait_for("the change in both partitions", || {
        number += 1;
        (0..2).for_each(|partition| append(dir, partition, &mut sample, number));
        std::thread::sleep(std::time::Duration::from_millis(50));
        let all = (0..2).all(|partition| has(dir, partition, " anew\""));
        all.then_some(())
    });
    run.signal("TERM");
    let (code, text) = run.end();
    assert_eq!(code, 143, "{text}");
}
