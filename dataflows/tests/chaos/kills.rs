//! SIGKILL at random moments of a job's life: while it starts, replays, commits, or writes a
//! checkpoint. Each start has another number of workers.

use std::time::Duration;

use crate::bed::{Bed, Pipeline, Victims};
use crate::dice::number;
use crate::outputs::{Output, Sink};

/// All kinds of sinks, for windows and for records.
const FACTORY: &[Output] = &[
    Output::new("windows", Sink::Postgres),
    Output::new("windows", Sink::CsvFolder),
    Output::new("windows", Sink::ParquetBucket),
    Output::new("windows", Sink::Ndjson),
    Output::new("windows", Sink::Kafka),
    Output::new("alerts", Sink::Kafka),
    Output::new("alerts", Sink::ParquetFolder),
    Output::new("alerts", Sink::Ndjson),
    Output::new("alerts", Sink::Postgres),
    Output::new("late", Sink::CsvBucket),
    Output::new("late", Sink::Ndjson),
    Output::new("dead-letters", Sink::Postgres),
    Output::new("quarantine", Sink::ParquetFolder),
    Output::new("quarantine", Sink::ParquetBucket),
    Output::new("quality", Sink::Postgres),
    Output::new("quality", Sink::Ndjson),
];

/// The tables and the lake of the fleet, and what else its outputs may go to.
const FLEET: &[Output] = &[
    Output::new("kept", Sink::Postgres),
    Output::new("kept", Sink::ParquetFolder),
    Output::new("kept", Sink::ParquetBucket),
    Output::new("kept", Sink::Kafka),
    Output::new("windows", Sink::Postgres),
    Output::new("windows", Sink::ParquetBucket),
    Output::new("windows", Sink::Ndjson),
    Output::new("windows", Sink::CsvFolder),
    Output::new("late", Sink::CsvBucket),
    Output::new("dead-letters", Sink::Postgres),
];

#[test]
#[ignore = "needs kafka, postgres and s3: run dev/test"]
fn kafka_postgres_s3_killed_at_random_moments() {
    let scenario = "killed_at_random_moments";
    kill(Bed::new(
        scenario,
        Pipeline::Factory,
        Victims::Nobody,
        FACTORY,
    ));
}

#[test]
#[ignore = "needs kafka, postgres and s3: run dev/test"]
fn kafka_postgres_s3_fleet_killed_at_random_moments() {
    let scenario = "fleet_killed_at_random_moments";
    kill(Bed::new(scenario, Pipeline::Fleet, Victims::Nobody, FLEET));
}

fn kill(mut bed: Bed) {
    let kills = number("HIGHWATER_CHAOS_KILLS").unwrap_or(5);
    while u64::from(bed.kills) < kills {
        let mut run = bed.start_any_processes();
        if bed.dice.within(0..3) == 0 {
            // Before it has done anything, or just then.
            std::thread::sleep(Duration::from_millis(bed.dice.within(0..1200)));
            bed.kill(run);
            continue;
        }
        let events = bed.dice.within(500..4000);
        bed.feed(events);
        bed.until_it_works(&mut run);
        std::thread::sleep(Duration::from_millis(bed.dice.within(0..700)));
        bed.kill(run);
    }
    bed.feed(2000);
    bed.drain();
    bed.compare();
}
