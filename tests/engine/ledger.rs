//! A run that cannot account for an offset or a record commits nothing of that epoch, in no sink
//! of any worker.

use std::sync::Arc;

use highwater::aggregate::{count, sum};
use highwater::flow::Flow;
use highwater::ledger::LedgerError;
use highwater::runtime::{Pipeline, RunError};
use highwater::sink::Layout;
use highwater::time::Offset;

use crate::fixture::{
    Collectors, Gate, Item, Knobs, Row, Script, Step, Sums, decode, run_into, run_script,
};

fn lines(count: usize) -> Vec<String> {
    (0..count).map(|time| format!("{time} 1 1")).collect()
}

/// A run on `steps` beside two partitions with nothing amiss, of which half is read only once
/// `gate` is open, in a pipeline that is to fail.
fn fail(
    pipeline: Arc<dyn Pipeline>,
    steps: Vec<Step>,
    gate: &Arc<Gate>,
) -> (LedgerError, Collectors) {
    let well = || {
        let batches = || {
            lines(5000)
                .chunks(10)
                .map(<[String]>::to_vec)
                .collect::<Vec<_>>()
        };
        let steps = batches().into_iter().map(Step::Batch);
        let gate = Step::SilentUntil(Arc::clone(gate));
        let more = batches().into_iter().map(Step::Batch);
        steps.chain([gate]).chain(more).collect()
    };
    let script = Script {
        partitions: vec![well(), steps, well()],
        found_at: None,
    };
    // Some epochs are good.
    let opener = Arc::clone(gate);
    let on_items = move |rows: &[String]| {
        if rows.len() > 5000 {
            opener.open();
        }
    };
    let knobs = Knobs {
        on_items: Some(Arc::new(on_items)),
        ..Knobs::tumbling(10, 0, 3)
    };
    let collectors = Collectors::new(&knobs);
    match run_into(pipeline, script, &knobs, &collectors) {
        Err(RunError::Ledger(error)) => (error, collectors),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the run succeeded"),
    }
}

/// No item that was committed lies at or behind `ends`, per partition.
fn assert_committed_before(ends: impl Fn(usize) -> Offset, collectors: &Collectors) {
    let lines = collectors.items.lines.lock().unwrap();
    assert!(!lines.is_empty(), "good epochs were committed");
    for line in lines.iter() {
        let (_, origin) = line.rsplit_once('@').unwrap();
        let (partition, offset) = origin.split_once(':').unwrap();
        let end = ends(partition.parse().unwrap());
        assert!(
            offset.parse::<u64>().unwrap() < end.0,
            "{line} was committed"
        );
    }
}

#[test]
fn an_epoch_with_a_lost_offset_is_not_recorded() {
    let gate = Arc::new(Gate::default());
    let lost = vec![
        Step::Batch(lines(30)),
        Step::SilentUntil(Arc::clone(&gate)),
        Step::Lose(1),
        Step::Batch(lines(30)),
    ];
    let (error, collectors) = fail(Arc::new(Sums), lost, &gate);
    let LedgerError::Offsets {
        partition, epoch, ..
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!(partition.0, 1);
    let log = collectors.log.0.lock().unwrap();
    assert!(log.iter().all(|entry| entry.epoch < epoch), "{error}");
    let last = log.last().expect("good epochs were recorded");
    assert_committed_before(|partition| last.partitions[partition].to, &collectors);
}

#[test]
fn offsets_that_were_never_delivered_are_accounted_for() {
    let script = Script {
        partitions: vec![vec![
            Step::Gap(3),
            Step::Batch(lines(30)),
            Step::Gap(2),
            Step::Batch(lines(30)),
            Step::Gap(1),
        ]],
        found_at: None,
    };
    let outcome = run_script(script, &Knobs::tumbling(10, 60, 2));
    let (_, range, fates) = &outcome.summary.inputs[0];
    assert_eq!((range.from.0, range.to.0, range.gaps), (0, 66, 6));
    assert_eq!(fates.read, 60);
}

/// Loses the records with key 7 on the main path, without a fate.
struct Lossy;

impl Pipeline for Lossy {
    fn name(&self) -> &'static str {
        "lossy"
    }

    fn main_output(&self) -> &'static str {
        "windows"
    }

    fn build(&self, flow: &mut Flow<'_>) {
        let items = flow.source(decode);
        let items = flow.records_output("items", Layout::Flat, items);
        let windows = items.select("Lose", |item: &Item| item.key != 7).window(
            |item| item.key,
            || (count(), sum(|item: &Item| Some(item.value))),
        );
        flow.windows_output("windows", Layout::Flat, &["key"], &windows, Row::of);
    }
}

#[test]
fn an_epoch_with_a_record_without_a_fate_is_not_committed() {
    let gate = Arc::new(Gate::default());
    let steps = vec![
        Step::Batch(lines(30)),
        Step::SilentUntil(Arc::clone(&gate)),
        Step::Batch(vec!["40 7 1".to_owned()]),
        Step::Batch(lines(30)),
    ];
    let (error, collectors) = fail(Arc::new(Lossy), steps, &gate);
    let LedgerError::Fates {
        partition,
        epoch,
        read,
        fates,
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!(partition.0, 1);
    assert_eq!((read, fates.decided()), (fates.read, fates.read - 1));
    let log = collectors.log.0.lock().unwrap();
    let off = log.iter().find(|entry| entry.epoch == epoch);
    let off = off.expect("its border was in order");
    assert_committed_before(|partition| off.partitions[partition].from, &collectors);
}
