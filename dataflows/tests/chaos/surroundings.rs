//! What is around a job changes or fails: its disk, its clock, its tables, its topic.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::bed::{Bed, Pipeline, Victims, left_out};
use crate::dice::is_long;
use crate::outputs::{Output, Sink};
use crate::support::services::add_partitions;

const FILES: &[Output] = &[
    Output::new("windows", Sink::ParquetFolder),
    Output::new("windows", Sink::Ndjson),
    Output::new("alerts", Sink::CsvFolder),
    Output::new("alerts", Sink::Kafka),
];

/// A small file system in memory, for as long as this is there.
struct Disk(PathBuf);

impl Disk {
    /// In this folder of the scenario; `None`, with a message, where this user may not mount anything.
    fn mount(bed: &Bed, name: &str) -> Option<Self> {
        let path = bed.place.path(name);
        std::fs::create_dir_all(&path).expect("a folder");
        let disk = Self(path);
        if disk.call("mount", &["-t", "tmpfs", "-o", "size=16m", "tmpfs"]) {
            return Some(disk);
        }
        left_out(
            bed.scenario,
            "no file system can be mounted here; that needs root",
        );
        None
    }

    fn call(&self, program: &str, arguments: &[&str]) -> bool {
        let mut command = Command::new(program);
        command.args(arguments).arg(&self.0).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// Again and again, while somebody has a file open there.
    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        for _ in 0..1000 {
            if self.call("mount", &["-o", &options]) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("{options} of {} fails", self.0.display());
    }

    fn ballast(&self) -> PathBuf {
        self.0.join(".ballast")
    }

    /// Leaves no room.
    fn fill(&self) {
        let zeros = std::fs::File::open("/dev/zero").expect("zeros");
        let mut file = std::fs::File::create(self.ballast()).expect("room for one more file");
        let copied = std::io::copy(
            &mut std::io::BufReader::with_capacity(4096, zeros),
            &mut file,
        );
        assert!(copied.is_err(), "it has no end");
    }

    fn empty(&self) {
        std::fs::remove_file(self.ballast()).expect("removed");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.call("umount", &["-l"]);
    }
}

/// The disk of the state, and that of the files, is full: the run ends with a message, and the
/// next one goes on once there is room.
#[test]
#[ignore = "needs kafka, postgres and s3: run dev/test"]
fn kafka_a_disk_is_full() {
    let mut bed = Bed::new("a_disk_is_full", Pipeline::Factory, Victims::Nobody, FILES);
    let Some(state) = Disk::mount(&bed, "state-disk") else {
        return;
    };
    let Some(files) = Disk::mount(&bed, "kept") else {
        return;
    };
    bed.state = "state-disk/state".to_owned();
    for disk in [&state, &files] {
        let mut run = bed.start_any();
        bed.until_it_works(&mut run);
        disk.fill();
        bed.feed(4000);
        let said = run.ends_with(1);
        assert!(said.to_lowercase().contains("no space"), "{said}");
        // Nor does a start help as long as it is full.
        bed.start_any().ends_with(1);
        disk.empty();
    }
    bed.drain();
    bed.compare();
}

#[test]
#[ignore = "needs kafka, postgres and s3: run dev/test"]
fn kafka_a_state_is_read_only() {
    let mut bed = Bed::new(
        "a_state_is_read_only",
        Pipeline::Factory,
        Victims::Nobody,
        FILES,
    );
    let Some(disk) = Disk::mount(&bed, "state-disk") else {
        return;
    };
    bed.state = "state-disk/state".to_owned();
    let mut run = bed.start_any();
    bed.until_it_works(&mut run);
    disk.remount("ro");
    bed.feed(1000);
    let said = run.ends_with(1);
    assert!(said.to_lowercase().contains("read-only"), "{said}");
    let said = bed.start_any().ends_with(1);
    assert!(said.to_lowercase().contains("read-only"), "{said}");
    disk.remount("rw");
    bed.drain();
    bed.compare();
}

/// The clock goes back an hour while a run works, and the next run begins an hour earlier than the
/// one before has ended.
#[test]
#[ignore = "needs kafka, postgres and s3: run dev/test"]
fn kafka_a_clock_goes_back() {
    let mut bed = Bed::new(
        "a_clock_goes_back",
        Pipeline::Factory,
        Victims::Nobody,
        FILES,
    );
    // What is too old to be kept is told by the clock.
    bed.flags = "--history 1s".to_owned();
    let jumps = ["1500:-3600000", "0:-3600000", "0:-7200000", "800:3600000"];
    for jump in bed.dice.some(2, &jumps) {
        let mut run = bed.start(2, "", &[("HIGHWATER_FAULT_CLOCK", jump)]);
        bed.feed(1000);
        bed.until_it_works(&mut run);
        std::thread::sleep(Duration::from_millis(700));
        bed.feed(1000);
        bed.until_it_works(&mut run);
        bed.kill(run);
    }
    bed.drain();
    bed.compare();
}

/// A row that counts from some event time on comes into a table while nobody runs.
#[test]
#[ignore = "needs kafka, postgres and s3: run dev/test"]
fn kafka_dims_change_while_nobody_runs() {
    let outputs = [
        Output::new("windows", Sink::Ndjson),
        Output::new("windows", Sink::ParquetFolder),
        Output::new("enriched", Sink::ParquetFolder),
        Output::new("alerts", Sink::Kafka),
    ];
    let mut bed = Bed::new(
        "dims_change_while_nobody_runs",
        Pipeline::Cars,
        Victims::Nobody,
        &outputs,
    );
    bed.flags = "--dims-refresh 100ms".to_owned();
    bed.version_cars();
    let mut run = bed.start_any();
    bed.until_it_works(&mut run);
    bed.kill(run);
    for _ in 0..if is_long() { 5 } else { 2 } {
        bed.change_cars();
        let mut run = bed.start_any();
        // The tables are read at the start, and count two epochs later.
        for _ in 0..5 {
            bed.until_it_works(&mut run);
        }
        bed.feed(1500);
        bed.until_it_works(&mut run);
        bed.kill(run);
        let mut run = bed.start_any();
        bed.until_it_works(&mut run);
        bed.kill(run);
    }
    bed.drain();
    bed.compare();
}

/// The topic gets more partitions while nobody runs.
#[test]
#[ignore = "needs kafka, postgres and s3: run dev/test"]
fn kafka_partitions_are_added_while_nobody_runs() {
    // One partition each: an output topic has as many as the source had.
    let outputs = &FILES[..3];
    let mut bed = Bed::clean(
        "partitions_are_added_while_nobody_runs",
        Pipeline::Factory,
        outputs,
    );
    // Nothing is late, whichever partition is read first: see `naive`.
    bed.shape.wait = 600_000;
    for partitions in [5, 7] {
        let mut run = bed.start_any();
        bed.feed(1500);
        bed.until_it_works(&mut run);
        bed.kill(run);
        add_partitions(&bed.site.kafka, &bed.site.name, partitions);
        bed.widen(partitions as usize);
        bed.feed(1500);
        let mut run = bed.start_any();
        bed.until_it_works(&mut run);
        bed.kill(run);
    }
    bed.drain();
    bed.compare();
}
