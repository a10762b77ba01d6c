//! A slow sink of one process is no memory of another.

use std::process::Command;
use std::time::Duration;

use super::support::{Running, child, memory, wait_for};

/// The generator makes some 100 MB a second, half of it in each process, and nobody takes the results.
#[test]
fn memory_stays_small_while_nobody_takes_the_results() {
    let dir = tempfile::tempdir().expect("a folder");
    let pipe = dir.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo").success());
    // Somebody has it open and reads nothing.
    let reader = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&pipe);
    let run = Running::start(
        dir.path(),
        "run cars --speed max --events 1_000_000_000 --to enriched=ndjson:{dir}/pipe -n 2",
    );
    let ids: Vec<_> = (0..2)
        .map(|index| wait_for("the process", || child(run.id(), index)))
        .collect();
    // Until both have stopped growing: three looks in a row that find the same.
    let (mut before, mut same) = ([0, 0], 0);
    let settled = wait_for("the processes settle", || {
        std::thread::sleep(Duration::from_secs(1));
        let now = [memory(ids[0])?, memory(ids[1])?];
        let is_same =
            |(now, before): (&u64, &u64)| *now > 15 << 20 && now.abs_diff(*before) < 1 << 20;
        same = if now.iter().zip(&before).all(is_same) {
            same + 1
        } else {
            0
        };
        before = now;
        (same == 3).then_some(now)
    });
    for bytes in settled {
        assert!(bytes < 300 << 20, "{settled:?}");
    }
    drop(reader);
}
