//! A slow sink of one process is no memory of another, nor is a partition that is far behind.

use std::fs::OpenOptions;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use highwater::epoch::{EpochEntry, PartitionReport};
use highwater::state::replay::Recording;
use highwater::state::{StorageOptions, open};

use super::support::{Running, child, done, memory, wait_for};

/// For how long a process may make no step in the test of a sink that waits, in seconds.
const HEARTBEAT_S: u64 = 2;

/// The generator makes some 100 MB a second, half of it in each process, and nobody takes the results.
/// Four epochs are read ahead, of 50 ms each and more on a busy machine; what is read in two
/// seconds would be too much. A sink that waits for longer than a process may be silent is no reason
/// to end anything.
#[test]
fn memory_stays_small_while_nobody_takes_the_results() {
    let dir = tempfile::tempdir().expect("a folder");
    let pipe = dir.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo").success());
    // Somebody has it open, also for writing, so that it can be opened before there is a run.
    let reader = OpenOptions::new().read(true).write(true).open(&pipe);
    let reader = reader.expect("the pipe is open");
    let run = Running::start(
        dir.path(),
        &format!(
            "run cars --speed max --events 1_000_000_000 --to enriched=ndjson:{{dir}}/pipe -n 2 \
             --epoch 50ms --heartbeat-timeout {HEARTBEAT_S}s"
        ),
    );
    let first = first_byte(reader.try_clone().expect("a pipe"));
    wait_for("a record", || first.try_recv().ok());
    // From here on, it reads nothing.
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
    std::thread::sleep(Duration::from_secs(2 * HEARTBEAT_S));
    let now = [child(run.id(), 0), child(run.id(), 1)];
    assert_eq!(now.to_vec(), ids.into_iter().map(Some).collect::<Vec<_>>());
    assert_eq!(run.said().find("lost"), None, "{}", run.said());
    drop(reader);
}

/// Tells when there is a byte in the pipe, and takes it.
fn first_byte(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<u8> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut byte = [0];
        pipe.read_exact(&mut byte).expect("a byte");
        // Nobody waits any more: then the test has failed.
        let _ = sender.send(byte[0]);
    });
    receiver
}

/// What the log says of two partitions that different processes read.
struct Border {
    dense: PartitionReport,
    sparse: PartitionReport,
}

/// Records of one partition are a millisecond apart, of the other one a second: read equally fast,
/// the second would soon be hours ahead of the first, and all windows in between open.
#[test]
fn a_partition_waits_for_one_of_another_process() {
    const ALIGNMENT_MS: i64 = 16 * 60_000 + 2 * 1000;
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(dir.path().join("in")).expect("a folder");
    for (name, rate) in [("0-dense", 1000), ("1-sparse", 1)] {
        let generate = "generate cars --events 300_000 --partitions 1";
        done(
            dir.path(),
            &format!("{generate} --rate {rate} --to file:{{dir}}/in/{name}.ndjson"),
        );
    }
    done(dir.path(), "dims cars --to {dir}/dims");
    done(
        dir.path(),
        "run cars --from file:{dir}/in/*.ndjson --dims dir:{dir}/dims --window 1m --wait 1s --drain \
         --epoch 10ms --state {dir}/state --to null: -n 2",
    );
    let borders = borders(dir.path());
    let behind = |border: &Border| {
        let ahead = border
            .sparse
            .watermark
            .0
            .saturating_sub(border.dense.watermark.0);
        border.dense.has_backlog && ahead > ALIGNMENT_MS
    };
    let mut waits = 0;
    for three in borders.windows(3) {
        // Each mark counts from the next but one epoch on, at the latest.
        if behind(&three[0]) && behind(&three[1]) {
            assert_eq!(
                three[2].sparse.read, 0,
                "it reads on: {:?}",
                three[2].sparse
            );
            waits += 1;
        }
    }
    assert!(
        waits > 0,
        "it never had to wait, in {} epochs",
        borders.len()
    );
}

fn borders(dir: &Path) -> Vec<Border> {
    let place = dir.join("state").display().to_string();
    let storage = open(&place, StorageOptions::default()).expect("a state");
    let recording = Recording::read(&*storage).expect("whole").expect("a job");
    let last = recording.last().expect("a checkpoint");
    let border = |entry: EpochEntry| {
        let mut rows = entry.partitions.into_iter();
        Some(Border {
            dense: rows.next()?,
            sparse: rows.next()?,
        })
    };
    let epochs = recording.epochs(None, last).into_iter();
    epochs.filter_map(border).collect()
}
