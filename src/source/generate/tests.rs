//! The log as a whole: what its options mean, and that it is the same log wherever it goes.

#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::source::murmur2::partition_for_key;
use crate::source::{Assignment, Inbox, Partition, Reader, Source, feed};
use crate::time::{Offset, Span};

/// `keys` entities in turn; a key that repeats or not, as the test wants.
struct Model {
    keys: u64,
    period: bool,
}

impl EventModel for Model {
    fn key(&self, index: u64, out: &mut Vec<u8>) {
        if self.keys > 0 {
            text::push_uint(index % self.keys, out);
        }
    }

    fn key_period(&self) -> Option<u64> {
        self.period.then_some(self.keys)
    }

    fn value(&self, index: u64, time: EventTime, rng: &mut EventRng, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"i":"#);
        text::push_uint(index, out);
        out.extend_from_slice(br#","t":"#);
        text::push_uint(time.0 as u64, out);
        out.extend_from_slice(br#","v":"#);
        text::push_uint(rng.below(1000), out);
        out.push(b'}');
    }
}

fn model(keys: u64, period: bool) -> Arc<dyn EventModel> {
    Arc::new(Model { keys, period })
}

fn dirty(events: u64) -> GeneratorOptions {
    GeneratorOptions {
        events: Some(events),
        disorder: Span::seconds(5),
        late_fraction: 0.02,
        duplicates: 0.05,
        garbage: 0.05,
        ..GeneratorOptions::default()
    }
}

fn log(keys: u64, options: GeneratorOptions) -> EventLog {
    EventLog::new(model(keys, true), options).unwrap()
}

fn write(log: &EventLog, target: &Target) -> Result<Progress, GenerateError> {
    write_files(log, target, &mut |_| ControlFlow::Continue(()))
}

/// The lines of the parts of a folder.
fn written(log: &EventLog) -> Vec<Vec<Vec<u8>>> {
    let folder = tempfile::tempdir().unwrap();
    let progress = write(log, &Target::Folder(folder.path().to_path_buf())).unwrap();
    let parts: Vec<_> = (0..log.options().partitions)
        .map(|p| lines(&fs::read(folder.path().join(format!("part-{p:05}.ndjson"))).unwrap()))
        .collect();
    assert_eq!(
        progress.records,
        parts.iter().map(|part| part.len() as u64).sum::<u64>()
    );
    parts
}

fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut lines: Vec<_> = bytes
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    assert_eq!(lines.pop(), Some(Vec::new()), "each line has its newline");
    lines
}

/// Assigns one partition and returns its inbox.
fn assign(reader: &mut dyn Reader, source: &dyn Source, id: usize, from: Option<u64>) -> Inbox {
    let partition: Partition = source.partitions().unwrap()[id].clone();
    let (feed, inbox) = feed(|| ());
    reader.assign(Assignment {
        partition,
        from: from.map(Offset),
        feed,
    });
    inbox
}

/// Takes records until the feed has ended, or `limit` of them: offset, key and value.
fn drain(inbox: &Inbox, limit: usize) -> Vec<(u64, Option<Vec<u8>>, Vec<u8>)> {
    let mut records = Vec::new();
    let begin = Instant::now();
    while records.len() < limit {
        let Some(batch) = inbox.pop() else {
            let (state, waiting) = inbox.state();
            if state.ended && !waiting {
                break;
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "nothing comes");
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        for record in &batch.records {
            let key = batch.key(record).map(<[u8]>::to_vec);
            records.push((record.offset.0, key, batch.value(record).unwrap().to_vec()));
        }
        assert_eq!(batch.next_offset.0, records.last().unwrap().0 + 1);
    }
    records
}

#[test]
fn no_event_is_late_for_a_wait_of_the_disorder() {
    let options = GeneratorOptions {
        disorder: Span::seconds(5),
        ..GeneratorOptions::default()
    };
    let log = log(7, options);
    let mut latest = EventTime::MIN;
    let mut jitters = HashSet::new();
    for index in 0..20_000 {
        let (base, time) = (log.schedule().base(index), log.time(index));
        assert!(time <= base && time > base.minus(Span::seconds(5)));
        assert!(time >= latest.minus(Span::seconds(5)));
        latest = latest.max(time);
        jitters.insert(base.0 - time.0);
    }
    assert!(
        jitters.len() > 4500,
        "the jitter fills its range: {}",
        jitters.len()
    );
}

#[test]
fn late_events_are_beyond_the_disorder() {
    let options = GeneratorOptions {
        disorder: Span::seconds(5),
        late_fraction: 0.1,
        ..GeneratorOptions::default()
    };
    let log = log(7, options);
    let jitter = |index| log.schedule().base(index).0 - log.time(index).0;
    let late: Vec<i64> = (0..20_000)
        .map(jitter)
        .filter(|jitter| *jitter >= 5000)
        .collect();
    assert!((1800..2200).contains(&late.len()), "{}", late.len());
    assert!(late.iter().all(|jitter| *jitter < 605_000));
    assert!(late.iter().any(|jitter| *jitter > 500_000));
}

#[test]
fn duplicates_and_garbage_have_their_shares() {
    let log = log(7, dirty(20_000));
    let (mut bytes, mut repeated, mut garbage) = (Vec::new(), 0, Vec::new());
    for index in 0..20_000 {
        let lines = log.append(index, &mut bytes);
        repeated += usize::from(lines.repeated);
        garbage.extend(lines.garbage);
        assert_eq!(lines.ranges().count() as u64, log.fate(index).lines());
    }
    assert!((850..1150).contains(&repeated), "{repeated}");
    assert!((850..1150).contains(&garbage.len()), "{}", garbage.len());
    assert!(!bytes.contains(&b'\n'));
    for (start, end) in garbage {
        let line = &bytes[start as usize..end as usize];
        assert!(!line.is_empty());
        let parsed = serde_json::from_slice::<serde_json::Value>(line);
        assert!(parsed.is_err() || parsed.is_ok_and(|value| value.get("t").is_none()));
    }
}

#[test]
fn the_values_do_not_depend_on_the_disorder() {
    let value = |options| {
        let mut bytes = Vec::new();
        log(7, options).append(11, &mut bytes);
        let event: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        event["v"].as_u64().unwrap()
    };
    let disordered = GeneratorOptions {
        disorder: Span(500),
        ..GeneratorOptions::default()
    };
    assert_eq!(value(GeneratorOptions::default()), value(disordered));
}

#[test]
fn a_partition_holds_the_events_of_its_keys() {
    for (partition, part) in (0..).zip(written(&log(
        10,
        GeneratorOptions {
            events: Some(1000),
            ..GeneratorOptions::default()
        },
    ))) {
        let mut last = None;
        for line in part {
            let event: serde_json::Value = serde_json::from_slice(&line).unwrap();
            let index = event["i"].as_u64().unwrap();
            let key = (index % 10).to_string();
            assert_eq!(partition_for_key(key.as_bytes(), 4), partition);
            assert!(last < Some(index), "in order");
            last = Some(index);
        }
    }
}

#[test]
fn keys_that_are_looked_up_and_keys_in_a_table_give_the_same_log() {
    let with_table = log(10, dirty(3000));
    let by_key = EventLog::new(model(10, false), dirty(3000)).unwrap();
    assert_eq!(written(&with_table), written(&by_key));
}

#[test]
fn events_without_a_key_go_round_the_partitions() {
    let options = GeneratorOptions {
        events: Some(10),
        ..GeneratorOptions::default()
    };
    let parts = written(&EventLog::new(model(0, false), options).unwrap());
    assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 2, 2]);
}

#[test]
fn the_source_delivers_what_the_files_hold() {
    for period in [true, false] {
        let new = || EventLog::new(model(10, period), dirty(5000)).unwrap();
        let source = GeneratorSource::new(new(), None).unwrap();
        let mut reader = source.reader().unwrap();
        let inboxes: Vec<Inbox> = (0..4)
            .map(|p| assign(&mut *reader, &source, p, None))
            .collect();
        for (inbox, part) in inboxes.iter().zip(written(&new())) {
            let records = drain(inbox, usize::MAX);
            let offsets: Vec<u64> = records.iter().map(|record| record.0).collect();
            assert_eq!(offsets, (0..part.len() as u64).collect::<Vec<_>>());
            let values: Vec<Vec<u8>> = records.into_iter().map(|record| record.2).collect();
            assert!(values == part, "the same records in the same order");
        }
    }
}

#[test]
fn reading_resumes_at_any_record() {
    let clean = GeneratorOptions {
        events: Some(2000),
        ..GeneratorOptions::default()
    };
    for (options, period) in [(dirty(2000), true), (dirty(2000), false), (clean, true)] {
        let log = EventLog::new(model(10, period), options).unwrap();
        let part = written(&log).swap_remove(1);
        let source = GeneratorSource::new(log, None).unwrap();
        let mut reader = source.reader().unwrap();
        for from in [0, 1, 2, 17, 333, part.len() - 1, part.len(), part.len() + 5] {
            let inbox = assign(&mut *reader, &source, 1, Some(from as u64));
            let records = drain(&inbox, usize::MAX);
            assert_eq!(inbox.state().0.start, Some(Offset(from as u64)));
            assert!(
                records.iter().map(|r| &r.2).eq(part.iter().skip(from)),
                "from {from}"
            );
            assert!(records.first().is_none_or(|record| record.0 == from as u64));
        }
    }
}

#[test]
fn a_full_partition_does_not_hold_up_another() {
    let source = GeneratorSource::new(log(10, GeneratorOptions::default()), None).unwrap();
    let mut reader = source.reader().unwrap();
    let full = assign(&mut *reader, &source, 0, None);
    let read = assign(&mut *reader, &source, 1, None);
    // More than ten times what a feed holds.
    assert!(drain(&read, 1_000_000).len() >= 1_000_000);
    assert!(full.has_batch());
}

#[test]
fn a_partition_without_keys_ends_at_once() {
    let source = GeneratorSource::new(log(1, GeneratorOptions::default()), None).unwrap();
    let mut reader = source.reader().unwrap();
    let own = partition_for_key(b"0", 4) as usize;
    let empty = assign(&mut *reader, &source, (own + 1) % 4, None);
    assert!(drain(&empty, 1).is_empty());
    let inbox = assign(&mut *reader, &source, own, None);
    assert!(!drain(&inbox, 1).is_empty());
}

#[test]
fn a_paced_source_keeps_to_its_speed_and_stops_promptly() {
    // 1000 events a second of event time, 10 times as fast: 10 a millisecond.
    let options = GeneratorOptions {
        rate: 1000.0,
        ..GeneratorOptions::default()
    };
    let source = GeneratorSource::new(log(10, options), Some(10.0)).unwrap();
    let begin = Instant::now();
    let mut reader = source.reader().unwrap();
    let inboxes: Vec<Inbox> = (0..4)
        .map(|p| assign(&mut *reader, &source, p, Some(50)))
        .collect();
    let taken: usize = inboxes.iter().map(|inbox| drain(inbox, 20).len()).sum();
    drop(reader);
    // Partitions differ in where their record 50 lies; the first one asked sets the pace.
    let most = begin.elapsed().as_millis() as usize * 10 + 500;
    let left = |inbox: &Inbox| {
        std::iter::from_fn(|| inbox.pop())
            .map(|batch| batch.records.len())
            .sum::<usize>()
    };
    let total = taken + inboxes.iter().map(left).sum::<usize>();
    assert!(total <= most, "{total} of at most {most}");
    assert!(inboxes.iter().all(|inbox| !inbox.state().0.ended));
}

#[test]
fn a_live_log_follows_the_wall_clock_and_is_caught_up_between_events() {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let start = EventTime(now.as_millis() as i64);
    let options = GeneratorOptions {
        rate: 4.0,
        start,
        live: true,
        ..GeneratorOptions::default()
    };
    let source = GeneratorSource::new(log(1, options), None).unwrap();
    let mut reader = source.reader().unwrap();
    let inbox = assign(
        &mut *reader,
        &source,
        partition_for_key(b"0", 4) as usize,
        None,
    );
    let records = drain(&inbox, 2);
    let event: serde_json::Value = serde_json::from_slice(&records[1].2).unwrap();
    assert_eq!(event["t"].as_i64().unwrap(), start.0 + 250);
    while inbox.state().0.caught_up.is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_closed_feed_is_let_go() {
    let source = GeneratorSource::new(log(10, GeneratorOptions::default()), None).unwrap();
    let mut reader = source.reader().unwrap();
    let partition = source.partitions().unwrap()[0].clone();
    let (feed, inbox) = feed(|| ());
    reader.assign(Assignment {
        partition,
        from: None,
        feed,
    });
    drain(&inbox, 1);
    drop(inbox);
    let other = assign(&mut *reader, &source, 1, None);
    assert!(!drain(&other, 1).is_empty());
}

#[test]
fn one_file_holds_all_events_and_compression_does_not_change_them() {
    let log = log(10, dirty(2000));
    let folder = tempfile::tempdir().unwrap();
    let read = |name: &str| {
        let path = folder.path().join(name);
        write(&log, &Target::File(path.clone())).unwrap();
        fs::read(path).unwrap()
    };
    let plain = read("all.ndjson");
    let mut of_gzip = Vec::new();
    let bytes = read("all.ndjson.gz");
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut of_gzip)
        .unwrap();
    assert!(plain == of_gzip);
    assert!(plain == zstd::decode_all(&read("all.ndjson.zst")[..]).unwrap());
    let mut all: Vec<_> = written(&log).concat();
    let mut one = lines(&plain);
    all.sort();
    one.sort();
    assert!(all == one);
    assert!(
        names(folder.path())
            .iter()
            .all(|name| !name.starts_with('.'))
    );
}

fn names(folder: &Path) -> Vec<String> {
    let entry = |entry: Result<fs::DirEntry, _>| entry.unwrap().file_name().into_string().unwrap();
    fs::read_dir(folder).unwrap().map(entry).collect()
}

#[test]
fn parts_of_a_wider_log_are_refused_and_the_same_parts_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::Folder(folder.path().to_path_buf());
    write(&log(10, dirty(10)), &target).unwrap();
    write(&log(10, dirty(20)), &target).unwrap();
    let narrow = GeneratorOptions {
        partitions: 2,
        ..dirty(10)
    };
    let error = write(&log(10, narrow), &target).unwrap_err().to_string();
    assert!(
        error.contains("part-0000") && error.contains("choose another folder"),
        "{error}"
    );
    assert_eq!(names(folder.path()).len(), 4);
}

#[test]
fn a_log_without_end_is_refused_and_an_interrupted_one_completed() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::File(folder.path().join("x.ndjson"));
    let endless = log(10, GeneratorOptions::default());
    assert!(
        write(&endless, &target)
            .unwrap_err()
            .to_string()
            .contains("--events")
    );
    let long = log(10, dirty(1_000_000));
    let done = write_files(&long, &target, &mut |_| ControlFlow::Break(())).unwrap();
    assert!(done.events < 1_000_000);
    let text = fs::read(folder.path().join("x.ndjson")).unwrap();
    assert_eq!(lines(&text).len() as u64, done.records);
    assert_eq!(text.len() as u64, done.bytes);
}
