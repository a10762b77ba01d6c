use std::fs::OpenOptions;
use std::io::Write;
use std::time::Instant;

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

use super::*;
use crate::source::{Assignment, FeedState, Inbox, feed};
use crate::time::Offset;

const PATIENCE: Duration = Duration::from_secs(20);

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, content).expect("a file");
    }
    folder
}

fn source(folder: &TempDir, pattern: &str, until: Until) -> FileSource {
    let pattern = folder.path().join(pattern);
    FileSource::new(pattern.to_str().expect("UTF-8"), until).expect("a source")
}

fn names(source: &FileSource) -> Vec<(u32, String)> {
    let partitions = source.partitions().expect("partitions");
    partitions
        .into_iter()
        .map(|partition| (partition.id.0, partition.name))
        .collect()
}

fn gz(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).expect("compressed");
    encoder.finish().expect("compressed")
}

/// A reader of the first partition, and what came of it.
struct Reading {
    _reader: Box<dyn Reader>,
    inbox: Inbox,
    lines: Vec<(u64, String)>,
    next: Option<Offset>,
}

impl Reading {
    fn of(source: &FileSource, from: Option<u64>) -> Self {
        let partition = source.partitions().expect("partitions").remove(0);
        let (feed, inbox) = feed(|| ());
        let mut reader = source.reader().expect("a reader");
        reader.assign(Assignment {
            partition,
            from: from.map(Offset),
            feed,
        });
        Self {
            _reader: reader,
            inbox,
            lines: Vec::new(),
            next: None,
        }
    }

    fn until(&mut self, done: impl Fn(&Self, &FeedState) -> bool) -> FeedState {
        let start = Instant::now();
        loop {
            let (state, waiting) = self.inbox.state();
            while let Some(batch) = self.inbox.pop() {
                for record in &batch.records {
                    let line = batch.value(record).expect("a value").to_vec();
                    let line = String::from_utf8(line).expect("UTF-8");
                    self.lines.push((record.offset.0, line));
                }
                self.next = Some(batch.next_offset);
            }
            if !waiting && done(self, &state) {
                return state;
            }
            assert!(start.elapsed() < PATIENCE, "still waiting: {state:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn run_to_end(&mut self) -> Option<String> {
        let state = self.until(|_, state| state.ended || state.failed.is_some());
        state.failed.map(|error| error.to_string())
    }

    fn texts(&self) -> Vec<&str> {
        self.lines.iter().map(|(_, line)| line.as_str()).collect()
    }
}

fn read_all(source: &FileSource, from: Option<u64>) -> Vec<(u64, String)> {
    let mut reading = Reading::of(source, from);
    assert_eq!(reading.run_to_end(), None);
    reading.lines
}

fn text(lines: usize) -> String {
    (0..lines).fold(String::new(), |text, i| {
        text + &format!("{i} {}\n", "y".repeat(i % 97))
    })
}

#[test]
fn files_of_a_glob_are_numbered_by_path_and_later_ones_after_them() {
    let folder = folder(&[
        ("b.nd", b""),
        ("a/x.nd", b""),
        ("c.txt", b""),
        (".hidden.nd", b""),
    ]);
    let source = source(&folder, "**/*.nd", Until::Forever);
    assert_eq!(
        names(&source),
        [(0, "a/x.nd".to_owned()), (1, "b.nd".to_owned())]
    );
    fs::write(folder.path().join("a/a.nd"), "").expect("a file");
    fs::write(folder.path().join("a/b.nd"), "").expect("a file");
    let ids: Vec<_> = names(&source);
    assert_eq!(
        ids[2..],
        [(2, "a/a.nd".to_owned()), (3, "a/b.nd".to_owned())]
    );
    fs::remove_file(folder.path().join("a/x.nd")).expect("removed");
    assert_eq!(names(&source), ids[1..]);
}

#[test]
fn recorded_numbers_are_kept() {
    let folder = folder(&[("b.nd", b""), ("a.nd", b"")]);
    let source = source(&folder, "*.nd", Until::End);
    let known = |id, name: &str| Partition {
        id: PartitionId(id),
        name: name.to_owned(),
    };
    source.remember(&[known(0, "b.nd"), known(7, "gone.nd")]);
    assert_eq!(
        names(&source),
        [(0, "b.nd".to_owned()), (8, "a.nd".to_owned())]
    );
}

#[test]
fn a_single_file_is_named_without_its_folder() {
    let folder = folder(&[("in/x[1].nd", b"1\n")]);
    let source = source(&folder, "in/x[1].nd", Until::End);
    assert_eq!(names(&source), [(0, "x[1].nd".to_owned())]);
    assert_eq!(read_all(&source, None), [(0, "1".to_owned())]);
}

#[test]
fn what_is_not_there_is_said_with_what_to_do() {
    let folder = folder(&[("in/x.nd", b"1\n")]);
    let message = |pattern: &str| {
        let source = source(&folder, pattern, Until::End);
        assert!(source.check().is_err());
        match source.partitions() {
            Err(SourceError::Missing(text)) => text,
            other => panic!("{other:?}"),
        }
    };
    assert!(message("in").contains("/in/*.ndjson"));
    assert!(message("no.nd").contains("there is no such file"));
    assert!(message("in/*.csv").contains("quote it"));
    assert!(message("out/*.csv").contains("/out does not exist"));
    assert!(FileSource::new("", Until::End).is_err());
    assert!(FileSource::new("a[", Until::End).is_err());
}

#[test]
fn compressed_files_are_their_text() {
    let plain = text(20_000);
    let (one, two) = plain.split_at(plain.len() / 3);
    let members = [gz(one.as_bytes()), gz(two.as_bytes())].concat();
    let frame = |text: &str| zstd::encode_all(text.as_bytes(), 1).expect("compressed");
    let folder = folder(&[
        ("x", plain.as_bytes()),
        ("x.gz", &members),
        ("x.zst", &[frame(one), frame(two)].concat()),
        ("empty", b""),
        ("empty.gz", b""),
        ("empty.zst", b""),
    ]);
    let expected = read_all(&source(&folder, "x", Until::End), None);
    assert_eq!(expected.len(), 20_000);
    let middle = expected[9_000].0;
    for name in ["x", "x.gz", "x.zst"] {
        let source = source(&folder, name, Until::End);
        assert_eq!(read_all(&source, None), expected, "{name}");
        assert_eq!(read_all(&source, Some(middle)), expected[9_000..], "{name}");
        assert_eq!(read_all(&source, Some(plain.len() as u64)), [], "{name}");
        let mut beyond = Reading::of(&source, Some(plain.len() as u64 + 2));
        assert!(
            beyond.run_to_end().expect("a failure").contains("shorter"),
            "{name}"
        );
        let mut inside = Reading::of(&source, Some(middle + 1));
        assert!(
            inside
                .run_to_end()
                .expect("a failure")
                .contains("inside a line"),
            "{name}"
        );
    }
    for name in ["empty", "empty.gz", "empty.zst"] {
        assert_eq!(
            read_all(&source(&folder, name, Until::End), None),
            [],
            "{name}"
        );
    }
}

#[test]
fn a_damaged_compressed_file_fails_by_name_after_its_whole_lines() {
    let compressed = gz(text(20_000).as_bytes());
    let cut = &compressed[..compressed.len() / 2];
    let folder = folder(&[
        ("cut.gz", cut),
        ("bad.gz", b"no gzip at all\n"),
        ("bad.zst", b"no"),
    ]);
    let mut reading = Reading::of(&source(&folder, "cut.gz", Until::End), None);
    let message = reading.run_to_end().expect("a failure");
    assert!(
        message.contains("cut.gz, at byte ") && message.contains("truncated"),
        "{message}"
    );
    assert!(reading.lines.len() > 1000);
    for name in ["bad.gz", "bad.zst"] {
        let message = Reading::of(&source(&folder, name, Until::End), None).run_to_end();
        assert!(message.expect("a failure").contains(name));
    }
}

#[test]
fn an_unfinished_last_line_counts_at_the_end_only() {
    let folder = folder(&[("x", b"1\n\n22")]);
    let mut reading = Reading::of(&source(&folder, "x", Until::End), None);
    assert_eq!(reading.run_to_end(), None);
    assert_eq!(reading.lines, [(0, "1".to_owned()), (3, "22".to_owned())]);
    assert_eq!(reading.next, Some(Offset(5)));

    let append = |text: &str| {
        let path = folder.path().join("x");
        let mut file = OpenOptions::new()
            .append(true)
            .open(path)
            .expect("the file");
        file.write_all(text.as_bytes()).expect("appended");
    };
    let mut reading = Reading::of(&source(&folder, "x", Until::Forever), None);
    reading.until(|_, state| state.caught_up.is_some());
    assert_eq!(reading.texts(), ["1"]);
    append("33\n4");
    reading.until(|reading, _| reading.lines.len() > 1);
    append("4\n");
    reading.until(|reading, state| reading.lines.len() > 2 && state.caught_up.is_some());
    assert_eq!(
        reading.lines[1..],
        [(3, "2233".to_owned()), (8, "44".to_owned())]
    );

    let mut resumed = Reading::of(&source(&folder, "x", Until::End), Some(5));
    assert!(
        resumed
            .run_to_end()
            .expect("a failure")
            .contains("Start anew with --fresh")
    );
}

#[test]
fn being_at_the_end_is_confirmed_again_and_again() {
    let folder = folder(&[("x", b"1\n")]);
    let mut reading = Reading::of(&source(&folder, "x", Until::Forever), None);
    let first = reading
        .until(|_, state| state.caught_up.is_some())
        .caught_up;
    reading.until(|_, state| state.caught_up > first);
}

#[test]
fn a_followed_file_that_shrinks_or_is_replaced_fails() {
    for replace in [false, true] {
        let folder = folder(&[("x", b"1\n2\n"), ("y", b"1\n2\n3\n")]);
        let mut reading = Reading::of(&source(&folder, "x", Until::Forever), None);
        reading.until(|_, state| state.caught_up.is_some());
        let path = folder.path().join("x");
        if replace {
            fs::rename(folder.path().join("y"), path).expect("renamed");
        } else {
            fs::write(path, "1\n").expect("written");
        }
        let message = reading.run_to_end().expect("a failure");
        assert!(
            message.contains(if replace { "another file" } else { "shorter" }),
            "{message}"
        );
    }
}

#[test]
fn a_followed_gzip_file_grows_by_members() {
    let folder = folder(&[("x.gz", &gz(b"1\n2\n"))]);
    let mut reading = Reading::of(&source(&folder, "x.gz", Until::Forever), None);
    reading.until(|_, state| state.caught_up.is_some());
    let path = folder.path().join("x.gz");
    let mut file = OpenOptions::new()
        .append(true)
        .open(path)
        .expect("the file");
    file.write_all(&gz(b"3\n")).expect("appended");
    reading.until(|reading, _| reading.lines.len() > 2);
    assert_eq!(reading.lines[2], (4, "3".to_owned()));
}

#[test]
fn a_slow_worker_bounds_what_is_read() {
    let plain = text(400_000);
    let folder = folder(&[("x", plain.as_bytes())]);
    let mut reading = Reading::of(&source(&folder, "x", Until::End), None);
    std::thread::sleep(Duration::from_millis(300));
    assert!(
        !reading.inbox.state().0.ended,
        "a full feed stops the reader"
    );
    assert_eq!(reading.run_to_end(), None);
    assert_eq!(reading.lines.len(), 400_000);
}

/// Not a test of anything but speed: `cargo test --release -- --ignored --nocapture reads_fast`.
#[test]
#[ignore = "prints a rate"]
fn reads_fast() {
    let line = format!("{}\n", "x".repeat(99));
    let folder = folder(&[("x", line.repeat(10_000_000).as_bytes())]);
    let source = source(&folder, "x", Until::End);
    for _ in 0..5 {
        let (start, reading) = (Instant::now(), Reading::of(&source, None));
        let (mut bytes, mut records) = (0, 0);
        while !reading.inbox.state().0.ended || reading.inbox.has_batch() {
            while let Some(batch) = reading.inbox.pop() {
                bytes += batch.bytes.len();
                records += batch.records.len();
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{records} records, {:.2} GB/s",
            bytes as f64 / seconds / 1e9
        );
    }
}
