//! Without a job: idempotent producers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use highwater::rows::{Completeness, Pane, Timing};
use highwater::sink::{SinkError, SinkFactory, Written};
use highwater::source::murmur2::partition_for_key;

use crate::fixture::*;

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_a_missing_topic_is_created_for_history_and_checked_without_a_trace() {
    let _broker = shared();
    let topic = new_topic("create");
    let factory = factory(&topic, &[]);
    let found = factory.check(&records()).unwrap();
    assert!(
        found.contains(&topic) && found.contains("would be created"),
        "{found}"
    );
    assert_eq!(partitions(&topic), None, "check changes nothing");

    factory.prepare(&records(), 3, None).unwrap();
    assert_eq!(partitions(&topic), Some(3));
    assert_eq!(setting(&topic, "retention.ms").as_deref(), Some("-1"));
    let found = factory.check(&records()).unwrap();
    assert!(found.ends_with(": 3 partitions"), "{found}");
    // A second run finds it.
    factory.prepare(&records(), 7, None).unwrap();
    assert_eq!(partitions(&topic), Some(3));
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_two_runs_may_create_a_topic_at_once() {
    let _broker = shared();
    let topic = new_topic("race");
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let factory = factory(&topic, &[]);
            std::thread::spawn(move || factory.prepare(&windows(), 2, None).unwrap())
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    assert_eq!(partitions(&topic), Some(2));
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_records_keep_their_partition_and_order() {
    let _broker = shared();
    let topic = new_topic("partitions");
    let mut rig = rig(&topic, &records(), 4);
    let mut bytes = 0;
    for number in 0..3_u64 {
        let mut batch = rows();
        for row in 0..400_u64 {
            // One key in all partitions: it must not decide.
            let item = Item::new("same", (number * 400 + row) as i64);
            batch.push_record(&item, origin((row % 4) as u32, number * 100 + row / 4));
        }
        let written = rig.sink.commit(&epoch(number, batch)).unwrap();
        assert_eq!(written.rows, 400);
        bytes += written.bytes;
    }
    assert_eq!(rig.sink.close().unwrap(), Written::default());

    let found = read(&topic);
    assert_eq!(found.len(), 1200);
    assert_eq!(
        found.iter().map(|read| read.text.len() as u64).sum::<u64>(),
        bytes
    );
    for partition in 0..4 {
        let of = found.iter().filter(|read| read.partition == partition);
        let numbers: Vec<_> = of.map(|read| number(&read.text)).collect();
        let expected: Vec<_> = (0..1200)
            .filter(|number| number % 4 == i64::from(partition))
            .collect();
        assert_eq!(numbers, expected, "partition {partition}");
    }
    assert_eq!(found[0].text, r#"{"key":"same","number":0,"padding":null}"#);
    assert_eq!(found[0].key.as_deref(), Some("same"));
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_keys_go_where_the_java_client_puts_them() {
    let _broker = shared();
    let topic = new_topic("murmur2");
    create_topic(&topic, 5, &[]);
    // Three partitions in the source, five in the topic: records go by key.
    let mut rig = rig(&topic, &records(), 3);
    let mut batch = rows();
    // From the Java client's tests, with its hash modulo five.
    let known = [
        ("21", (-973_932_308_i32 & 0x7fff_ffff) % 5),
        ("foobar", (-790_332_482_i32 & 0x7fff_ffff) % 5),
        (
            "a-little-bit-long-string",
            (-985_981_536_i32 & 0x7fff_ffff) % 5,
        ),
        (
            "a-little-bit-longer-string",
            (-1_486_304_829_i32 & 0x7fff_ffff) % 5,
        ),
        (
            "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
            (-58_897_971_i32 & 0x7fff_ffff) % 5,
        ),
        ("abc", (479_470_107_i32 & 0x7fff_ffff) % 5),
    ];
    for (offset, (key, _)) in known.iter().enumerate() {
        batch.push_record(&Item::new(key, offset as i64), origin(0, offset as u64));
    }
    for number in 0..200_i64 {
        batch.push_record(
            &Item::new(&format!("car-{number}"), number),
            origin(1, number as u64),
        );
    }
    // No key: the partition's number, modulo five, keeps them in order.
    for number in 0..50_i64 {
        batch.push_record(&Item::new("", number), origin(2, number as u64));
    }
    rig.sink.commit(&epoch(0, batch)).unwrap();

    let found = read(&topic);
    assert_eq!(found.len(), 256);
    for read in &found {
        let expected = match read.key.as_deref() {
            None => 2,
            Some(key) => known.iter().find(|(known, _)| *known == key).map_or_else(
                || partition_for_key(key.as_bytes(), 5) as i32,
                |(_, partition)| *partition,
            ),
        };
        assert_eq!(read.partition, expected, "{read:?}");
    }
    let keyless = found.iter().filter(|read| read.key.is_none());
    let numbers: Vec<_> = keyless.map(|read| number(&read.text)).collect();
    assert_eq!(numbers, (0..50).collect::<Vec<_>>());
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_partitions_that_the_source_gets_later_go_by_key() {
    let _broker = shared();
    let topic = new_topic("growth");
    let mut rig = rig(&topic, &records(), 2);
    let mut batch = rows();
    batch.push_record(&Item::new("abc", 1), origin(1, 0));
    batch.push_record(&Item::new("abc", 2), origin(2, 0));
    rig.sink.commit(&epoch(0, batch)).unwrap();
    let found = read(&topic);
    let partition_of = |n| {
        found
            .iter()
            .find(|read| number(&read.text) == n)
            .unwrap()
            .partition
    };
    assert_eq!(partition_of(1), 1);
    assert_eq!(partition_of(2), partition_for_key(b"abc", 2) as i32);
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_windows_go_by_key_with_pane_and_diff() {
    let _broker = shared();
    let topic = new_topic("windows");
    let mut rig = rig(&topic, &windows(), 3);
    let pane = Pane {
        timing: Timing::OnTime,
        index: 0,
        is_final: false,
        complete: Completeness::Proved,
    };
    let late = Pane {
        timing: Timing::Late,
        index: 1,
        is_final: true,
        ..pane
    };
    let mut batch = rows();
    batch.push_result(&Item::new("abc", 1), pane, 1);
    batch.push_result(&Item::new("abc", 1), late, -1);
    batch.push_result(&Item::new("abc", 2), late, 1);
    batch.push_result(&Item::new("", 3), pane, 1);
    rig.sink.commit(&epoch(0, batch)).unwrap();

    let found = read(&topic);
    let keyed: Vec<_> = found.iter().filter(|read| read.key.is_some()).collect();
    assert_eq!(keyed.len(), 3);
    assert!(
        keyed
            .iter()
            .all(|read| read.partition == partition_for_key(b"abc", 3) as i32)
    );
    assert_eq!(
        keyed[1].text,
        "{\"key\":\"abc\",\"number\":1,\"padding\":null,\"pane\":{\"timing\":\"late\",\"index\":1,\
         \"final\":true,\"complete\":\"proved\"},\"diff\":-1}"
    );
    assert!(keyed[2].text.ends_with("\"diff\":1}"));
    assert_eq!(found.iter().filter(|read| read.key.is_none()).count(), 1);
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_a_row_that_is_too_large_is_named() {
    let _broker = shared();
    let topic = new_topic("large");
    let mut batch = rows();
    for number in 0..20 {
        let padding = if number == 13 { 1_200_000 } else { 10 };
        let item = Item {
            padding,
            ..Item::new("k", number)
        };
        batch.push_record(&item, origin(0, 100 + number as u64));
    }
    let error = rig(&topic, &records(), 1)
        .sink
        .commit(&epoch(0, batch.clone()))
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("source partition 0, offset 113 (1200"),
        "{text}"
    );
    assert!(
        text.contains("max.message.bytes") && text.contains(&topic),
        "{text}"
    );

    // A topic that takes it gets it.
    let roomy = new_topic("roomy");
    create_topic(&roomy, 1, &[("max.message.bytes", "2000000")]);
    rig(&roomy, &records(), 1)
        .sink
        .commit(&epoch(0, batch))
        .unwrap();
    assert_eq!(read(&roomy).len(), 20);
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_a_small_queue_only_slows_down() {
    let _broker = shared();
    let topic = new_topic("queue");
    let properties = [
        ("queue.buffering.max.messages", "50"),
        ("compression.type", "zstd"),
    ];
    let mut rig = rig_with(&topic, &records(), 2, &properties);
    let mut batch = rows();
    for number in 0..5000 {
        batch.push_record(
            &Item::new("k", number),
            origin(number as u32 % 2, number as u64 / 2),
        );
    }
    rig.sink.commit(&epoch(0, batch)).unwrap();
    let mut numbers: Vec<_> = read(&topic).iter().map(|read| number(&read.text)).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..5000).collect::<Vec<_>>());
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_a_deleted_topic_fails_and_stays_deleted() {
    let _broker = shared();
    let topic = new_topic("deleted");
    let properties = [("topic.metadata.propagation.max.ms", "2000")];
    let mut rig = rig_with(&topic, &records(), 1, &properties);
    let batch = |number: u64| {
        let mut batch = rows();
        batch.push_record(&Item::new("k", number as i64), origin(0, number));
        epoch(number, batch)
    };
    rig.sink.commit(&batch(0)).unwrap();
    delete_topic(&topic);
    let begin = Instant::now();
    let error = rig.sink.commit(&batch(1)).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("does not exist any more") && text.contains(&topic),
        "{text}"
    );
    assert!(begin.elapsed() < PATIENCE);
    assert_eq!(partitions(&topic), None, "nothing brings it back");
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_a_missing_broker_is_an_error_within_the_time_out() {
    // The system gives a port that is free, and nobody takes it.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let timeout = Duration::from_secs(2);
    let factory = factory_at(&format!("kafka://{address}/rows"), &[], timeout);
    for attempt in [
        factory.check(&records()).map(|_| ()),
        factory.prepare(&records(), 1, None),
    ] {
        let error = attempt.unwrap_err();
        assert!(matches!(error, SinkError::Unreachable { .. }), "{error:?}");
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
    let begin = Instant::now();
    factory.check(&records()).unwrap_err();
    assert!(begin.elapsed() < timeout * 3, "{:?}", begin.elapsed());
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_a_broker_that_dies_in_the_middle_neither_doubles_nor_loses_nor_reorders() {
    let _broker = alone();
    let topic = new_topic("restart");
    let Rig { mut sink, context } = rig(&topic, &records(), 2);
    let statuses = Arc::clone(&context.status);
    let is_done = Arc::new(AtomicBool::new(false));
    let writer = {
        let is_done = Arc::clone(&is_done);
        std::thread::spawn(move || {
            let mut next = 0;
            // Goes on for as long as the broker is being killed and started.
            for number in 0.. {
                sink.commit(&stretch(number, next, next + 2000)).unwrap();
                next += 2000;
                if is_done.load(Ordering::Relaxed) {
                    break;
                }
            }
            sink.close().unwrap();
            next
        })
    };
    let mut was_told = false;
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(700));
        service("kill");
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(3) {
            let status = statuses.waits_for();
            was_told |= status.is_some_and(|text| text.contains(&topic));
            std::thread::sleep(Duration::from_millis(50));
        }
        service("start");
    }
    std::thread::sleep(Duration::from_secs(2));
    is_done.store(true, Ordering::Relaxed);
    let total = writer.join().unwrap();
    assert!(was_told, "people are told what it waits for");
    assert_eq!(statuses.waits_for(), None, "and that it no longer does");
    assert!(total > 10_000, "{total} rows are too few to tell anything");
    assert_each_once_in_order(&topic, total);
}

#[test]
#[ignore = "needs kafka: run dev/test"]
fn kafka_an_aborted_run_does_not_wait_for_the_broker() {
    let _broker = alone();
    let topic = new_topic("abort");
    let Rig { mut sink, context } = rig(&topic, &records(), 2);
    sink.commit(&stretch(0, 0, 100)).unwrap();
    service("kill");
    let abort = Arc::clone(&context.abort);
    let aborting = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(1));
        abort.store(true, Ordering::Relaxed);
        Instant::now()
    });
    let error = sink.commit(&stretch(1, 100, 200)).unwrap_err();
    assert!(matches!(error, SinkError::Aborted), "{error:?}");
    drop(sink);
    let took = aborting.join().unwrap().elapsed();
    service("start");
    assert!(took < Duration::from_secs(5), "{took:?}");
}
