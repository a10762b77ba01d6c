//! Processes that are started one by one, as on several hosts.

use std::io::Write;
use std::net::TcpStream;

use super::support::{Job, Running, hostfile};

/// The flags of process `index` of two.
fn hand(index: usize) -> String {
    format!("-n 2 -p {index} --hostfile {{dir}}/hosts")
}

fn start(job: &Job, index: usize, more: &str) -> Running {
    job.start(&format!("{} {more}", hand(index)))
}

/// Strangers before all processes are there, and while they run.
#[test]
fn strangers_change_nothing() {
    let job = Job::new();
    let addresses = hostfile(job.dir(), 2);
    let first = start(&job, 0, "");
    first.waits_to_say("waiting for process 1");
    let silent = TcpStream::connect(&addresses[0]).expect("it listens");
    let mut garbage = TcpStream::connect(&addresses[0]).expect("it listens");
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    first.waits_to_say("does not speak highwater's protocol");
    // Somebody with another secret, as process 1.
    let line = Job::line(&format!("{} --connect-timeout 200ms", hand(1)));
    let (code, text) = Running::start_with(job.dir(), &line, "not the secret at all").end();
    assert_eq!(code, 70, "{text}");
    assert!(text.contains("does not know this secret"), "{text}");
    first.waits_to_say("connection refused: ");
    let second = start(&job, 1, "");
    job.waits_for_alerts(job.all_alerts() / 10);
    let refused = addresses.iter().all(|it| TcpStream::connect(it).is_err());
    assert!(refused, "nobody can call any more");
    for process in [first, second] {
        let (code, text) = process.end();
        assert_eq!(code, 0, "{text}");
    }
    drop((silent, garbage));
    job.is_as_if_undisturbed();
}

#[test]
fn other_flags_are_refused_by_name() {
    let job = Job::new();
    hostfile(job.dir(), 2);
    let first = start(&job, 0, "--window 10m");
    let second = start(&job, 1, "--window 20m");
    let (code, text) = first.end();
    assert_eq!(code, 2, "{text}");
    assert!(
        text.contains("window: 10m in process 0, 20m in process 1"),
        "{text}"
    );
    let (code, text) = second.end();
    assert_eq!(code, 70, "{text}");
    assert!(text.contains("process 0"), "{text}");
    let first = start(&job, 0, "-w 2");
    let second = start(&job, 1, "");
    for process in [first, second] {
        let (code, text) = process.end();
        assert_eq!(code, 2, "{text}");
        assert!(
            text.contains("-n 2 -w 1") && text.contains("-n 2 -w 2"),
            "{text}"
        );
    }
    assert!(!job.path("state").exists(), "nothing was begun");
}

/// Two hosts, whose folders have the same name and are not the same.
#[test]
fn an_output_folder_of_one_host_alone_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    hostfile(dir.path(), 2);
    let processes = [0, 1].map(|index| {
        let host = dir.path().join(format!("host-{index}"));
        std::fs::create_dir(&host).expect("a folder");
        let line = format!(
            "run cars --events 1000 --speed max --state {{dir}}/state --to csv:out {}",
            hand(index)
        );
        Running::start_in(&host, dir.path(), &line)
    });
    let [leader, other] = processes.map(Running::end);
    assert_eq!(other.0, 4, "{}", other.1);
    assert!(other.1.contains("output windows"), "{}", other.1);
    assert!(
        other.1.contains("one place for all processes"),
        "{}",
        other.1
    );
    assert_eq!(leader.0, 70, "{}", leader.1);
    assert!(leader.1.contains("exit code 4"), "{}", leader.1);
}

/// A process that is stopped for longer than the deadline is named; when it goes on, it finds that
/// the others are gone, and the next run is not disturbed by it.
#[test]
fn a_stopped_process_is_found_and_can_do_nothing_later() {
    for victim in [1, 0] {
        let job = Job::new();
        hostfile(job.dir(), 2);
        let deadline = "--heartbeat-timeout 3s";
        let mut processes = vec![start(&job, 0, deadline), start(&job, 1, deadline)];
        job.waits_for_alerts(job.all_alerts() / 8);
        let stopped = processes.remove(victim);
        stopped.signal("STOP");
        let (code, text) = processes.remove(0).end();
        assert_eq!(code, 70, "{text}");
        assert!(text.contains(&format!("process {victim} (")), "{text}");
        assert!(text.contains("said nothing for 3 s"), "{text}");
        // The stopped one still has its address, and its lock on the files.
        hostfile(job.dir(), 2);
        let again = [start(&job, 0, ""), start(&job, 1, "")];
        if victim == 1 {
            job.waits_for_alerts(job.alerts_now() + job.all_alerts() / 8);
        } else {
            again[0].waits_to_say("run 2");
        }
        stopped.signal("CONT");
        let (code, text) = stopped.end();
        assert!([70, 4].contains(&code), "{code}: {text}");
        for process in again {
            let (code, text) = process.end();
            assert_eq!(code, 0, "{text}");
        }
        job.is_as_if_undisturbed();
    }
}

/// A second start on the same state ends the first.
#[test]
fn a_second_run_fences_the_first() {
    let job = Job::new();
    hostfile(job.dir(), 2);
    let older = [start(&job, 0, ""), start(&job, 1, "")];
    job.waits_for_alerts(job.all_alerts() / 8);
    let newer = job.start("-n 2");
    let [leader, other] = older.map(Running::end);
    assert_eq!(leader.0, 4, "{}", leader.1);
    assert_eq!(other.0, 70, "{}", other.1);
    assert!(other.1.contains("exit code 4"), "{}", other.1);
    let (code, text) = newer.end();
    assert_eq!(code, 0, "{text}");
    job.is_as_if_undisturbed();
}

#[test]
fn a_process_that_does_not_come_is_named() {
    let job = Job::new();
    let addresses = hostfile(job.dir(), 2);
    let (code, text) = start(&job, 0, "--connect-timeout 100ms").end();
    assert_eq!(code, 70, "{text}");
    let meant = format!("process 1 ({}", addresses[1]);
    assert!(text.contains(&meant), "{text}");
}
