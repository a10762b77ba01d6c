//! The stages of `cars`, each a job of its own between its topics, all at the same time, and killed
//! in turn: exactly once from end to end.

use serde_json::Value;

use crate::bed::{Bed, KEPT, Pipeline, WHOLE};
use crate::dice::number;
use crate::outputs::{Output, Sink};
use crate::process::Process;

const STAGES: [&str; 3] = ["enrich", "detect", "count"];

/// The line of a stage in the chain `tag`.
fn line(bed: &Bed, tag: &str, stage: usize, workers: u64) -> String {
    let topic = |name: &str| format!("kafka://{}/{}-{tag}-{name}", bed.site.kafka, bed.site.name);
    let topics = [bed.topic(), topic("enriched"), topic("alerts")];
    let (from, name) = (&topics[stage], STAGES[stage]);
    let to = topics.get(stage + 1).map_or_else(
        || format!("ndjson:{tag}/windows.ndjson"),
        |topic| format!("{topic}?shards=2"),
    );
    let dims = if stage == 0 { "--dims dir:dims" } else { "" };
    let shape = bed.shape.flags();
    format!(
        "run cars --name {name} --stage {name} --from {from} {dims} {shape} --idle-after 10h -w {workers} \
         --to {to} --state state-{tag}-{name} --epoch 40ms --checkpoint 300ms"
    )
}

fn start(bed: &mut Bed, stage: usize) -> Process {
    let workers = bed.dice.within(1..4);
    let line = line(bed, KEPT, stage, workers);
    bed.start_line(&line, &[])
}

fn has_epochs(bed: &Bed, stage: usize) -> bool {
    let state = format!("state-{KEPT}-{}", STAGES[stage]);
    let shown = bed.place.run(&format!("state show {state} --json"));
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap_or_default();
    shown["logged"]["last"].is_u64() || shown["checkpoint"]["epoch"].is_u64()
}

#[test]
#[ignore = "needs kafka, postgres and s3: run dev/test"]
fn kafka_stages_are_killed_in_turn() {
    let kills = number("HIGHWATER_CHAOS_KILLS").map_or(3, |kills| (kills / 4).max(1));
    let mut bed = Bed::clean("stages_are_killed_in_turn", Pipeline::Cars, &[]);
    // Each stage begins when its topic has records in all partitions: see README.
    let mut runs: Vec<Process> = Vec::new();
    for stage in 0..STAGES.len() {
        if stage > 0 {
            let name = ["", "enriched", "alerts"][stage];
            let output = Output::new(name, Sink::Kafka);
            runs[stage - 1].until("records in all partitions", |_| {
                let rows = output.contents(&bed.place, &bed.site, KEPT);
                let of = |row: &String| {
                    serde_json::from_str::<Value>(row).expect("JSON")["partition"].to_string()
                };
                rows.iter()
                    .map(of)
                    .collect::<std::collections::BTreeSet<_>>()
                    .len()
                    == bed.width()
            });
        }
        let mut run = start(&mut bed, stage);
        run.until("it works", |_| has_epochs(&bed, stage));
        runs.push(run);
    }
    while u64::from(bed.kills) < kills {
        let stage = bed.dice.within(0..3) as usize;
        let events = bed.dice.within(300..1500);
        bed.feed(events);
        let pause = bed.dice.within(0..600);
        std::thread::sleep(std::time::Duration::from_millis(pause));
        bed.kill(runs.remove(stage));
        let run = start(&mut bed, stage);
        runs.insert(stage, run);
    }
    for run in &mut runs {
        assert!(run.is_alive(), "{}", run.said());
    }
    drop(runs);
    for tag in [KEPT, WHOLE] {
        for stage in 0..STAGES.len() {
            let line = line(&bed, tag, stage, 2);
            bed.start_line(&format!("{line} --drain"), &[]).ends_with(0);
        }
    }
    bed.compare_chains();
}
