//! Jobs of several processes, of which one is killed, or frozen for longer than the others wait.

use std::net::TcpListener;
use std::time::Duration;

use crate::bed::{Bed, Pipeline, Victims};
use crate::dice::{is_long, number};
use crate::outputs::{Output, Sink};
use crate::process::Process;

/// Without NDJSON, whose lock a frozen process keeps.
const OUTPUTS: &[Output] = &[
    Output::new("windows", Sink::Postgres),
    Output::new("windows", Sink::CsvFolder),
    Output::new("windows", Sink::Kafka),
    Output::new("alerts", Sink::Kafka),
    Output::new("alerts", Sink::ParquetBucket),
    Output::new("late", Sink::ParquetFolder),
];

/// One of three is killed; all go on together, from their last checkpoint.
#[test]
#[ignore = "needs kafka, postgres and s3: run dev/test"]
fn kafka_postgres_s3_one_of_three_processes_killed() {
    let outputs = [OUTPUTS, &[Output::new("late", Sink::Ndjson)]].concat();
    let kills = number("HIGHWATER_CHAOS_KILLS").map_or(1, |kills| (kills / 5).max(1));
    let scenario = "one_of_three_processes_killed";
    let mut bed = Bed::new(scenario, Pipeline::Factory, Victims::Nobody, &outputs);
    while u64::from(bed.kills) < kills {
        let mut run = bed.start(1, "-n 3", &[]);
        bed.until_it_works(&mut run);
        // After some more it would wait for longer and longer before it starts them again.
        for _ in 0..3 {
            kill_one(&mut bed, &mut run);
        }
        run.signal("INT");
        run.ends_with(130);
    }
    bed.drain();
    bed.compare();
}

/// One of the three is killed, and then all go on.
fn kill_one(bed: &mut Bed, run: &mut Process) {
    let index = bed.dice.within(0..3);
    bed.feed(1000);
    let pause = bed.dice.within(0..500);
    std::thread::sleep(Duration::from_millis(pause));
    let mut victim = None;
    run.until("all three are there", |run| {
        victim = run.child(index);
        victim.is_some()
    });
    let victim = victim.expect("it is there");
    Process::signal_one(victim, "KILL");
    bed.kills += 1;
    run.until("it starts again", |run| {
        run.child(index).is_some_and(|child| child != victim)
    });
    bed.feed(500);
    bed.until_it_works(run);
}

/// One of two is frozen for longer than the deadline. The other one ends, both are started again,
/// and then the frozen one wakes up, in the middle of whatever it did: nothing of that may be seen.
#[test]
#[ignore = "needs kafka, postgres and s3: run dev/test"]
fn kafka_postgres_s3_a_frozen_process_commits_nothing() {
    let scenario = "a_frozen_process_commits_nothing";
    let mut bed = Bed::new(scenario, Pipeline::Factory, Victims::Nobody, OUTPUTS);
    let rounds = if is_long() { 8 } else { 1 };
    let first = bed.dice.within(0..2) as usize;
    for round in first..first + rounds {
        let mut pair = start_pair(&mut bed);
        bed.until_it_works(&mut pair[0]);
        bed.feed(1000);
        std::thread::sleep(Duration::from_millis(bed.dice.within(0..300)));
        let zombie = pair.remove(round % 2);
        zombie.signal("STOP");
        let said = pair.remove(0).ends_with(70);
        assert!(said.contains(&format!("process {} (", round % 2)), "{said}");
        let mut heirs = start_pair(&mut bed);
        bed.until_it_works(&mut heirs[0]);
        bed.feed(500);
        zombie.signal("CONT");
        let mut zombie = zombie;
        let end = zombie.end();
        assert!(
            end == Some(70) || end == Some(4),
            "{end:?}\n{}",
            zombie.said()
        );
        bed.until_it_works(&mut heirs[0]);
        for heir in heirs {
            bed.kill(heir);
        }
    }
    bed.drain();
    bed.compare();
}

/// Two processes that nobody supervises.
fn start_pair(bed: &mut Bed) -> Vec<Process> {
    let ports = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").expect("a port"));
    let address = |port: &TcpListener| port.local_addr().expect("bound").to_string();
    let hosts = ports.iter().map(address).collect::<Vec<_>>().join("\n");
    bed.hostfiles += 1;
    let file = format!("hosts-{}", bed.hostfiles);
    bed.place.write(&file, hosts);
    drop(ports);
    let start = |index| {
        let flags = format!("-n 2 -p {index} --hostfile {file} --heartbeat-timeout 2s");
        bed.start(1, &flags, &[])
    };
    [0, 1].map(start).into()
}
