//! Borders that are set because a worker asks for them, not because it is time.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use highwater::epoch::{Coordinator, CoordinatorOptions, Instruction, Report, Resume};
use highwater::time::{Epoch, EventTime, Span};

use crate::fixture::{Knobs, Script, run_script};

const NEVER: Duration = Duration::from_secs(24 * 3600);

#[test]
fn a_border_that_is_wanted_while_the_one_before_is_open_follows_at_once() {
    let options = CoordinatorOptions {
        workers: 2,
        epoch: NEVER,
        checkpoint: NEVER,
        grain: Span(1),
        close_on_idle: false,
        drain: true,
        ends: false,
    };
    let (now, wall) = (Instant::now(), EventTime(0));
    let mut coordinator = Coordinator::new(options, &Resume::fresh([], wall), now);
    let report = |worker, epoch| Report {
        worker,
        epoch: Epoch(epoch),
        partitions: Vec::new(),
    };
    let closes = |instructions: &[Instruction], due| matches!(instructions, [Instruction::Close { epoch, .. }] if *epoch == Epoch(due));
    coordinator.want_border(Epoch(0));
    assert!(closes(&coordinator.poll(now, wall), 0));
    coordinator.report(report(0, 0));
    // Worker 0 is in epoch 1 already and has read enough of it; worker 1 is still in epoch 0.
    coordinator.want_border(Epoch(1));
    assert!(coordinator.poll(now, wall).is_empty(), "one at a time");
    coordinator.report(report(1, 0));
    let decided = coordinator.poll(now, wall);
    assert!(matches!(decided[..], [Instruction::Mark(_)]), "{decided:?}");
    let next = coordinator.poll(now, wall);
    assert!(closes(&next, 1), "the wish is not forgotten: {next:?}");
    [report(0, 1), report(1, 1)]
        .into_iter()
        .for_each(|report| coordinator.report(report));
    coordinator.poll(now, wall);
    assert!(coordinator.poll(now, wall).is_empty(), "it counts once");
}

/// No border is set by time here, so the run ends only when no worker's wish is lost, whenever it
/// comes.
#[test]
fn a_run_whose_epochs_have_no_end_ends_with_its_input() {
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || {
        for round in 0..30 {
            let lines = |count: i64| (0..count).map(|t| format!("{t} 1 1")).collect();
            let partitions = [lines(1), lines(40 * round), lines(400), Vec::new()];
            let knobs = Knobs {
                epoch: NEVER,
                ..Knobs::tumbling(10, 0, 3)
            };
            run_script(Script::batches(&partitions, 7), &knobs);
        }
        done.send(()).unwrap();
    });
    ended
        .recv_timeout(Duration::from_secs(120))
        .expect("a wish for a border was lost");
}
