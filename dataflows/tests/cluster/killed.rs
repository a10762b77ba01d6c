//! Supervised processes that are killed, and a job that goes on with other numbers of them.

use super::support::{Job, child, signal_to, wait_for};

#[test]
fn a_killed_process_is_started_again_with_all_others() {
    let job = Job::new();
    let run = job.start("-n 3 --fresh");
    for victim in [1, 0, 2] {
        let process = wait_for("the process", || child(run.id(), victim));
        // In the middle of it, and behind where it was killed before.
        job.waits_for_alerts(job.alerts_now() + job.all_alerts() / 10);
        signal_to(process, "KILL");
        run.waits_to_say(&format!("process {victim} was killed by signal 9"));
    }
    let (code, text) = run.end();
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("restart 1 of 10"), "{text}");
    job.is_as_if_undisturbed();
}

/// One that hangs is found by the others, and killed when it does not end with them.
#[test]
fn a_stopped_process_is_killed_and_started_again_with_all_others() {
    let job = Job::new();
    let run = job.start("-n 2 --heartbeat-timeout 3s");
    job.waits_for_alerts(job.all_alerts() / 10);
    signal_to(child(run.id(), 1).expect("running"), "STOP");
    let (code, text) = run.end();
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("said nothing for 3 s"), "{text}");
    assert!(text.contains("process 1 was killed by signal 9"), "{text}");
    job.is_as_if_undisturbed();
}

/// Whoever supervises a run that a newer one has fenced leaves it at that.
#[test]
fn a_fenced_run_is_not_started_again() {
    let job = Job::new();
    let older = job.start("-n 2");
    job.waits_for_alerts(job.all_alerts() / 8);
    let newer = job.start("-n 2");
    let (code, text) = older.end();
    assert_eq!(code, 4, "{text}");
    assert!(!text.contains("start again"), "{text}");
    let (code, text) = newer.end();
    assert_eq!(code, 0, "{text}");
    job.is_as_if_undisturbed();
}

/// What is wrong before anything has begun is wrong the next time as well.
#[test]
fn a_run_that_cannot_begin_is_not_started_again() {
    let job = Job::new();
    let line = "run factory --from file:{dir}/nothing.ndjson --state {dir}/none --to null: -n 2";
    let run = super::support::Running::start(job.dir(), line);
    let (code, text) = run.end();
    assert!(code != 0 && code != 70, "{code}: {text}");
    assert!(text.contains("nothing.ndjson"), "{text}");
    assert!(!text.contains("start again"), "{text}");
}

#[test]
fn without_a_state_nothing_is_started_again() {
    let job = Job::new();
    let line = "run cars --speed 60 --to ndjson:{dir}/x -n 2";
    let run = super::support::Running::start(job.dir(), line);
    let process = wait_for("the process", || child(run.id(), 1));
    wait_for("a result", || job.path("x").exists().then_some(()));
    signal_to(process, "KILL");
    let (code, text) = run.end();
    assert_eq!(code, 70, "{text}");
    assert!(text.contains("process 1 (127.0.0.1:"), "{text}");
    assert!(text.contains("nothing to go on from"), "{text}");
}

/// From one process to two and to three, with other workers, each killed as a whole.
#[test]
fn a_job_goes_on_with_other_numbers_of_processes() {
    let job = Job::new();
    for shape in ["-w 2", "-n 2", "-n 3 -w 2"] {
        let run = job.start(shape);
        job.waits_for_alerts(job.alerts_now() + job.all_alerts() / 8);
        let processes = [child(run.id(), 0), child(run.id(), 1), child(run.id(), 2)];
        run.signal("KILL");
        let (code, text) = run.end();
        assert_eq!(code, 128 + 9, "{text}");
        // Nobody outlives the supervising process.
        for process in processes.into_iter().flatten() {
            let state = format!("/proc/{process}/stat");
            wait_for("its end", || {
                let state = std::fs::read_to_string(&state).unwrap_or_default();
                (state.is_empty() || state.contains(") Z ")).then_some(())
            });
        }
    }
    let (code, text) = job.start("-n 2 -w 2").end();
    assert_eq!(code, 0, "{text}");
    job.is_as_if_undisturbed();
}

#[test]
fn a_stop_ends_all_in_good_order() {
    let job = Job::new();
    for (signal, expected) in [("INT", 130), ("TERM", 143)] {
        let run = job.start("-n 2");
        job.waits_for_alerts(job.alerts_now() + job.all_alerts() / 10);
        if signal == "TERM" {
            // As a service manager does, which asks all processes at once.
            (0..2).for_each(|it| signal_to(child(run.id(), it).expect("running"), signal));
        }
        run.signal(signal);
        let (code, text) = run.end();
        assert_eq!(code, expected, "{text}");
        assert!(text.contains("of CPU time"), "{text}");
        assert!(!text.contains("lost"), "{text}");
    }
    // One process alone is asked to stop: all do.
    let run = job.start("-n 3");
    job.waits_for_alerts(job.alerts_now() + job.all_alerts() / 10);
    signal_to(child(run.id(), 2).expect("running"), "TERM");
    let (code, text) = run.end();
    assert_eq!(code, 143, "{text}");
    let (code, text) = job.start("-n 2").end();
    assert_eq!(code, 0, "{text}");
    job.is_as_if_undisturbed();
}
