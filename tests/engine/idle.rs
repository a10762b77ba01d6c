//! Partitions that are silent, empty, out of reach, or found late.

use std::sync::Arc;
use std::time::Duration;

use highwater::epoch::{Ending, Standing};

use crate::fixture::{Gate, Knobs, Script, Step, run_script};

fn lines(times: std::ops::Range<i64>) -> Vec<String> {
    times.map(|time| format!("{time} 1 1")).collect()
}

/// The watermark of a partition that is idle is that of the others, from the border on; what it
/// brings afterwards takes effect at its floor, as logged.
#[test]
fn an_idle_partition_holds_nobody_back_and_gets_a_floor() {
    let gate = Arc::new(Gate::default());
    let script = Script {
        partitions: vec![
            vec![
                Step::Batch(lines(0..100)),
                Step::UnreachableUntil(Arc::clone(&gate)),
                Step::Batch(lines(100..110)),
            ],
            vec![
                Step::Batch(lines(0..5)),
                Step::SilentUntil(Arc::clone(&gate)),
                Step::Batch(lines(5..10)),
            ],
        ],
        found_at: None,
    };
    // The silent partition speaks again once windows came out without it.
    let on_windows = move |rows: &[String]| {
        if rows.len() >= 9 {
            gate.open();
        }
    };
    let knobs = Knobs {
        idle_after: Duration::from_millis(10),
        on_windows: Some(Arc::new(on_windows)),
        ..Knobs::tumbling(10, 0, 2)
    };
    let outcome = run_script(script, &knobs);
    let idle = outcome.log.iter().filter(|entry| {
        entry
            .partitions
            .iter()
            .any(|row| row.partition.0 == 1 && row.standing == Standing::Idle)
    });
    let idle: Vec<_> = idle.collect();
    assert!(!idle.is_empty(), "partition 1 was idle");
    assert!(
        idle.iter()
            .all(|entry| entry.ending != Some(Ending::Drained))
    );
    let windows = outcome.windows.lines.lock().unwrap().clone();
    let by_idle = windows.iter().filter(|line| line.contains(" idle "));
    assert_eq!(by_idle.count(), 9, "{windows:#?}");
    let late = outcome.late.sorted();
    assert_eq!(
        late.len(),
        5,
        "the last lines of partition 1 came behind its floor"
    );
    assert_eq!(outcome.fates()[&1].late_diverted, 5);
}

#[test]
fn a_partition_out_of_reach_is_never_idle() {
    let gate = Arc::new(Gate::default());
    let script = Script {
        partitions: vec![
            vec![
                Step::Batch(lines(0..100)),
                Step::SilentUntil(Arc::clone(&gate)),
            ],
            vec![
                Step::Batch(lines(0..5)),
                Step::UnreachableUntil(Arc::clone(&gate)),
                Step::Batch(lines(5..10)),
            ],
        ],
        found_at: None,
    };
    let knobs = Knobs {
        idle_after: Duration::ZERO,
        ..Knobs::tumbling(10, 0, 2)
    };
    let opener = Arc::clone(&gate);
    let opening = std::thread::spawn(move || {
        std::thread::park_timeout(Duration::from_millis(300));
        opener.open();
    });
    let outcome = run_script(script, &knobs);
    opening.join().unwrap();
    assert!(
        outcome.late.sorted().is_empty(),
        "nothing is late: {:?}",
        outcome.late.sorted()
    );
    assert_eq!(outcome.fates()[&1].on_time, 10);
}

#[test]
fn a_partition_that_is_found_later_begins_at_the_watermark() {
    let (gate, rest) = (Arc::new(Gate::default()), Arc::new(Gate::default()));
    let script = Script {
        partitions: vec![
            vec![
                Step::Batch(lines(0..100)),
                Step::SilentUntil(Arc::clone(&rest)),
            ],
            vec![Step::Batch(lines(0..20)), Step::Batch(lines(200..220))],
        ],
        found_at: Some(Arc::clone(&gate)),
    };
    let knobs = Knobs {
        idle_after: Duration::from_secs(3600),
        ..Knobs::tumbling(10, 0, 2)
    };
    let opening = std::thread::spawn(move || {
        std::thread::park_timeout(Duration::from_millis(200));
        gate.open();
        std::thread::park_timeout(Duration::from_millis(400));
        rest.open();
    });
    let outcome = run_script(script, &knobs);
    opening.join().unwrap();
    let found = outcome
        .log
        .iter()
        .position(|entry| !entry.found.is_empty())
        .expect("it is found");
    assert!(found > 0);
    let fates = outcome.fates();
    assert_eq!(fates[&1].read, 40, "all of it is read");
    assert_eq!(
        fates[&1].late_diverted, 20,
        "its beginning lies behind its floor"
    );
    assert_eq!(fates[&1].on_time, 20);
    for entry in &outcome.log[..found] {
        assert_eq!(entry.partitions.len(), 1);
    }
}

/// The partition that is found late belongs to a worker that had none, and most have none at all.
#[test]
fn more_workers_than_partitions_and_one_is_found_late() {
    let (gate, rest) = (Arc::new(Gate::default()), Arc::new(Gate::default()));
    let script = Script {
        partitions: vec![
            vec![
                Step::Batch(lines(0..100)),
                Step::SilentUntil(Arc::clone(&rest)),
                Step::Batch(lines(100..200)),
            ],
            vec![Step::Batch(lines(150..250))],
        ],
        found_at: Some(Arc::clone(&gate)),
    };
    // It is found once windows came out without it, and the first one goes on once it is read.
    let rows_without = Arc::clone(&gate);
    let on_windows = move |rows: &[String]| {
        if rows.len() >= 9 {
            rows_without.open();
        }
    };
    let on_items = move |rows: &[String]| {
        if rows.iter().any(|row| row.contains("@1:")) {
            rest.open();
        }
    };
    let knobs = Knobs {
        on_windows: Some(Arc::new(on_windows)),
        on_items: Some(Arc::new(on_items)),
        ..Knobs::tumbling(10, 0, 8)
    };
    let outcome = run_script(script, &knobs);
    let fates = outcome.fates();
    assert_eq!((fates[&0].on_time, fates[&1].on_time), (200, 100));
    let windows = outcome.windows.sorted();
    let counts = windows.iter().map(|row| {
        let cells: Vec<&str> = row.split(' ').collect();
        let number = |cell: usize| cells[cell].parse::<i64>().unwrap();
        (number(0), number(3))
    });
    let mut counts: Vec<_> = counts.collect();
    counts.sort_unstable();
    let expected = (0..25).map(|window| {
        let is_shared = (15..20).contains(&window);
        (window * 10, if is_shared { 20 } else { 10 })
    });
    assert_eq!(counts, expected.collect::<Vec<_>>());
    let names = outcome.summary.inputs.iter();
    let names: Vec<_> = names.map(|(partition, ..)| &partition.name).collect();
    assert_eq!(names, ["p0", "p1"], "it has its own name");
}

#[test]
fn all_idle_and_the_clock_closes_what_is_open() {
    let gate = Arc::new(Gate::default());
    let script = Script {
        partitions: vec![vec![
            Step::Batch(lines(0..5)),
            Step::SilentUntil(Arc::clone(&gate)),
        ]],
        found_at: None,
    };
    let idle_after = Duration::from_millis(10);
    let knobs = Knobs {
        idle_after,
        close_on_idle: true,
        ..Knobs::tumbling(100, 0, 2)
    };
    let opening = std::thread::spawn(move || {
        std::thread::park_timeout(Duration::from_millis(600));
        gate.open();
    });
    let outcome = run_script(script, &knobs);
    opening.join().unwrap();
    let windows = outcome.windows.lines.lock().unwrap().clone();
    assert_eq!(windows.len(), 1);
    assert!(windows[0].contains(" wall-clock "), "{windows:?}");
}

#[test]
fn a_stop_leaves_windows_open_and_a_drain_closes_them() {
    let script = || Script::batches(&[lines(0..15)], 4);
    let drained = run_script(script(), &Knobs::tumbling(10, 0, 1));
    assert_eq!(drained.windows.sorted().len(), 2);
    assert!(
        drained
            .windows
            .sorted()
            .iter()
            .any(|line| line.contains("end-of-input"))
    );
    let stopped = run_script(
        script(),
        &Knobs {
            drain: false,
            ..Knobs::tumbling(10, 0, 1)
        },
    );
    assert!(
        stopped.windows.sorted().len() <= 1,
        "{:?}",
        stopped.windows.sorted()
    );
    assert_eq!(
        stopped.fates()[&0].on_time,
        15,
        "every record has its fate all the same"
    );
}

#[test]
fn far_in_the_future_is_a_dead_letter_and_moves_nothing() {
    let mut input = lines(0..20);
    input.insert(5, "253402300799000 1 1".to_owned());
    let knobs = Knobs {
        max_ahead: highwater::time::Span::minutes(5),
        ..Knobs::tumbling(10, 0, 2)
    };
    let outcome = run_script(Script::batches(&[input], 3), &knobs);
    assert_eq!(outcome.dead.sorted().len(), 1);
    assert!(outcome.dead.sorted()[0].contains("too_far_ahead"));
    assert_eq!(outcome.fates()[&0].on_time, 20);
}
