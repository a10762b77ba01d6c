//! Windows against the oracle, for any shape, disorder, number of partitions and of workers.

use std::collections::BTreeMap;

use proptest::prelude::*;

use highwater::time::Span;
use highwater::window::WindowSpec;

use crate::fixture::{Knobs, Outcome, Script, run_script};
use crate::oracle::{Shape, windows};

fn line(time: i64, key: u8, eighths: i32) -> String {
    format!("{time} {key} {}", f64::from(eighths) / 8.0)
}

/// Disordered lines with garbage, headers and filtered keys among them.
fn partition() -> impl Strategy<Value = Vec<String>> {
    let item = (0_i64..40, -60_i64..60, 0_u8..4, -1000_i32..1000, 0_u8..40);
    proptest::collection::vec(item, 0..120).prop_map(|items| {
        let mut base = -200;
        let lines = items.into_iter().map(|(step, jitter, key, value, kind)| {
            base += step / 2;
            match kind {
                0 => "garbage".to_owned(),
                1 => "header".to_owned(),
                2 => line(base + jitter, 9, value),
                _ => line(base + jitter, key, value),
            }
        });
        lines.collect()
    })
}

/// The last revision of each window and key, from the changes in their order.
fn last_revisions(outcome: &Outcome) -> BTreeMap<(i64, i64, u8), (u64, f64)> {
    let mut last: BTreeMap<(i64, i64, u8), (u64, f64)> = BTreeMap::new();
    for line in outcome.windows.lines.lock().unwrap().iter() {
        let cells: Vec<&str> = line.split(' ').collect();
        let key = (
            cells[1].parse().unwrap(),
            cells[0].parse().unwrap(),
            cells[2].parse().unwrap(),
        );
        let sum = f64::from_bits(u64::from_str_radix(cells[4], 16).unwrap());
        let value = (cells[3].parse().unwrap(), sum);
        if line.ends_with("-1") {
            assert_eq!(
                last.remove(&key),
                Some(value),
                "withdrawn as it was emitted: {line}"
            );
        } else {
            assert_eq!(last.insert(key, value), None, "emitted twice: {line}");
        }
    }
    last
}

fn check(partitions: &[Vec<String>], knobs: &Knobs, shape: &Shape, batch: usize) -> Outcome {
    let outcome = run_script(Script::batches(partitions, batch), knobs);
    let (expected, counts) = windows(partitions, shape);
    assert_eq!(last_revisions(&outcome), expected);
    for (id, fates) in outcome.fates() {
        let counts = counts[id as usize];
        assert_eq!(fates.read, counts.read);
        assert_eq!(fates.rejected, counts.rejected);
        assert_eq!(fates.skipped, counts.skipped);
        assert_eq!(fates.filtered, counts.filtered);
        assert_eq!(fates.no_window, counts.no_window);
        assert_eq!(fates.on_time, counts.on_time);
        assert_eq!(fates.late_kept, counts.kept);
        assert_eq!(fates.late_diverted, counts.late);
        assert_eq!(fates.late_windows, counts.late_windows);
    }
    let late: u64 = counts.iter().map(|counts| counts.late).sum();
    assert_eq!(outcome.late.sorted().len() as u64, late);
    let rejected: u64 = counts.iter().map(|counts| counts.rejected).sum();
    assert_eq!(outcome.dead.sorted().len() as u64, rejected);
    outcome
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_number_of_workers_gives_what_the_oracle_gives(
        partitions in proptest::collection::vec(partition(), 1..5),
        size in 1_i64..40, slide in 1_i64..40, offset in -10_i64..10,
        wait in 0_i64..60, keep in prop_oneof![Just(0), 0_i64..80],
        batch in 1_usize..50,
    ) {
        let shape = Shape { size, slide, offset, wait, keep };
        let mut results = Vec::new();
        for workers in [1, 2, 4] {
            let window = WindowSpec::new(Span(size), Span(slide), Span(offset), Span(keep)).unwrap();
            let knobs = Knobs { window, ..Knobs::tumbling(size, wait, workers) };
            let outcome = check(&partitions, &knobs, &shape, batch);
            let mut items = BTreeMap::new();
            for line in outcome.items.lines.lock().unwrap().iter() {
                let (row, origin) = line.split_once('@').unwrap();
                let (partition, _) = origin.split_once(':').unwrap();
                items.entry(partition.to_owned()).or_insert_with(Vec::new).push(row.to_owned());
            }
            results.push((outcome.windows.lines.lock().unwrap().clone(), outcome.late.sorted(), items));
        }
        if keep == 0 {
            prop_assert_eq!(&results[0].0, &results[1].0, "the same bytes in the same order");
            prop_assert_eq!(&results[0].0, &results[2].0);
        }
        prop_assert_eq!(&results[0].1, &results[2].1, "the same late records");
        prop_assert_eq!(&results[0].2, &results[1].2, "the same records in order per partition");
        prop_assert_eq!(&results[0].2, &results[2].2);
    }
}

#[test]
fn the_order_of_keep_0_is_by_end_start_and_key() {
    let lines: Vec<String> = (0..500)
        .map(|i| line(i * 7 % 400, (i % 5) as u8, 1))
        .collect();
    let knobs = Knobs::tumbling(50, 400, 3);
    let outcome = check(
        &[lines.clone(), lines],
        &knobs,
        &Shape {
            size: 50,
            slide: 50,
            offset: 0,
            wait: 400,
            keep: 0,
        },
        17,
    );
    let rows: Vec<(i64, i64, u8)> = outcome
        .windows
        .lines
        .lock()
        .unwrap()
        .iter()
        .map(|line| {
            let cells: Vec<&str> = line.split(' ').collect();
            (
                cells[1].parse().unwrap(),
                cells[0].parse().unwrap(),
                cells[2].parse().unwrap(),
            )
        })
        .collect();
    assert_eq!(rows.len(), 40);
    assert!(rows.is_sorted());
}

#[test]
fn more_workers_than_partitions_and_an_empty_partition() {
    let lines: Vec<String> = (0..100).map(|i| line(i, 1, 8)).collect();
    let shape = Shape {
        size: 10,
        slide: 10,
        offset: 0,
        wait: 0,
        keep: 0,
    };
    check(&[lines, Vec::new()], &Knobs::tumbling(10, 0, 8), &shape, 9);
}

#[test]
fn no_partition_at_all_and_nothing_but_garbage() {
    let shape = Shape {
        size: 10,
        slide: 10,
        offset: 0,
        wait: 0,
        keep: 0,
    };
    let garbage = vec!["garbage".to_owned(); 50];
    let outcome = check(&[garbage], &Knobs::tumbling(10, 0, 2), &shape, 7);
    assert!(outcome.windows.sorted().is_empty());
}

#[test]
fn every_epoch_is_logged_in_order_with_adjoining_ranges() {
    let lines: Vec<String> = (0..5000).map(|i| line(i, 1, 8)).collect();
    let knobs = Knobs::tumbling(10, 5, 2);
    let outcome = run_script(Script::batches(&[lines.clone(), lines], 3), &knobs);
    let mut position = [0, 0];
    for (number, entry) in outcome.log.iter().enumerate() {
        assert_eq!(entry.epoch.0, number as u64);
        for row in &entry.partitions {
            assert_eq!(row.from.0, position[row.partition.0 as usize]);
            position[row.partition.0 as usize] = row.to.0;
        }
    }
    assert_eq!(position, [5000, 5000]);
    assert!(outcome.log.is_sorted_by_key(|entry| entry.watermark));
    assert!(
        outcome
            .log
            .last()
            .is_some_and(|last| last.is_checkpoint && last.ending.is_some())
    );
}
