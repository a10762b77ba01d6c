//! What the engine's inner loops cost: watermark, windows, as-of look-ups, and what travels between
//! processes. In elements a second.

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{
    BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main,
};
use highwater::aggregate::{Aggregate, count, count_if, max, mean};
use highwater::epoch::EpochEntry;
use highwater::join::{AsOfIndex, Policy};
use highwater::ledger::Fates;
use highwater::time::{Epoch, EventTime, Span, parse_rfc3339};
use highwater::watermark::PartitionWatermark;
use highwater::window::{Assigner, Late, Partial, Slot, WindowSpec, WindowState};
use highwater::wire::{Batch, Bytemuck};
use timely::bytes::arc::BytesMut;
use timely::dataflow::channels::ContainerBytes;

const RECORDS: u64 = 1 << 18;

#[derive(Clone, Copy)]
struct Sample {
    key: u64,
    value: f64,
}

/// Record `i`: ordered times, keys in a fixed shuffle.
fn sample(i: u64, keys: u64) -> (EventTime, Sample) {
    let key = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys;
    (
        EventTime(i as i64),
        Sample {
            key,
            value: (i % 200) as f64,
        },
    )
}

fn entry(watermark: EventTime) -> EpochEntry {
    EpochEntry {
        epoch: Epoch(0),
        opened_at: EventTime(0),
        partitions: Vec::new(),
        found: Vec::new(),
        watermark,
        proved: watermark,
        proved_but_ended: watermark,
        before_clock: watermark,
        is_checkpoint: false,
        is_full: false,
        ending: None,
        dims: None,
    }
}

fn watermark(c: &mut Criterion) {
    let mut group = c.benchmark_group("watermark");
    group.throughput(Throughput::Elements(RECORDS));
    group.bench_function("observe", |b| {
        b.iter(|| {
            let mut watermark = PartitionWatermark::new(Span::seconds(10));
            (0..RECORDS).fold(0, |sum, i| {
                sum ^ watermark.observe(EventTime((i ^ 5) as i64)).0
            })
        });
    });
    group.finish();
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(1));
    group.bench_function("rfc3339", |b| {
        b.iter(|| parse_rfc3339(black_box(b"2024-01-01T12:34:56.789Z")));
    });
    group.finish();
}

fn windows(c: &mut Criterion) {
    let mut group = c.benchmark_group("windows");
    group.throughput(Throughput::Elements(RECORDS));
    for keys in [1, 100, 10_000, 1_000_000] {
        for (shape, slide) in [("tumbling", 16_384), ("hopping", 4096)] {
            group.bench_function(format!("{shape} {keys} keys"), |b| {
                b.iter_batched(|| (), |()| window_run(keys, slide), BatchSize::PerIteration);
            });
        }
    }
    group.finish();
}

type Summary = (u64, u64, Option<f64>, Option<f64>);

fn aggregate() -> impl Aggregate<Sample, Output = Summary> {
    (
        count(),
        count_if(|s: &Sample| s.value > 120.0),
        mean(|s: &Sample| Some(s.value)),
        max(|s: &Sample| Some(s.value)),
    )
}

fn window_run(keys: u64, slide: i64) -> usize {
    let spec = WindowSpec::new(Span(16_384), Span(slide), Span::ZERO, Span::ZERO).expect("valid");
    let mut assigner = Assigner::new(spec, Late::Drop, aggregate());
    let mut state = WindowState::new(spec, aggregate());
    let (mut fates, mut rows) = (Fates::default(), 0);
    for i in 0..RECORDS {
        let (time, sample) = sample(i, keys);
        assigner.add(time, time, sample.key, &sample, &mut fates);
        if i % 4096 == 4095 {
            assigner
                .take()
                .iter()
                .for_each(|partial| state.absorb(partial));
        }
        if i % 65_536 == 65_535 {
            rows += state.close(&entry(time)).len();
        }
    }
    rows
}

fn join(c: &mut Criterion) {
    let mut group = c.benchmark_group("join");
    group.throughput(Throughput::Elements(RECORDS));
    for keys in [20, 100_000, 1_000_000] {
        let mut index = AsOfIndex::new(Policy::AsOf);
        for key in 0..keys {
            index.update(key, (EventTime::MIN, Some(key * 3)), 1);
        }
        group.bench_function(format!("as-of {keys} rows"), |b| {
            b.iter(|| {
                (0..RECORDS).fold(0, |sum, i| {
                    let (time, sample) = sample(i, keys);
                    sum ^ index.get(&sample.key, time).copied().unwrap_or(0)
                })
            });
        });
    }
    group.finish();
}

/// Partial results on their way to another process, in batches of timely's default size and larger
/// ones: one element is one partial result.
fn codec(c: &mut Criterion) {
    for size in [170, 1024, 8192] {
        let partials = partials(&aggregate(), size);
        let mut group = c.benchmark_group("codec");
        group.throughput(Throughput::Elements(size));
        travel(&mut group, "bincode", partials.clone());
        let batch = Batch::<_, Bytemuck>::from(partials.clone());
        travel(&mut group, "bytemuck", batch);
        #[cfg(feature = "abomonation")]
        {
            let batch = Batch::<_, highwater::wire::Abomonation>::from(partials.clone());
            travel(&mut group, "abomonation", batch);
        }
        group.finish();
    }
}

fn partials<A: Aggregate<Sample>>(aggregate: &A, size: u64) -> Vec<Partial<u64, A::State>> {
    let partial = |i| {
        let (time, sample) = sample(i, size);
        let mut state = aggregate.empty();
        aggregate.add(&mut state, &sample);
        Partial {
            slot: Slot::Pane(time),
            key: sample.key,
            state,
        }
    };
    (0..size).map(partial).collect()
}

/// Encodes as timely does, into a place of the right length; decodes and reads a part of each item.
fn travel<B: ContainerBytes + Keys>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    batch: B,
) {
    let size = batch.keys().count();
    let mut place = vec![0; batch.length_in_bytes()];
    group.bench_function(format!("{name} encode {size}"), |b| {
        b.iter(|| {
            assert_eq!(black_box(&batch).length_in_bytes(), place.len());
            batch.into_bytes(&mut &mut place[..]);
        });
    });
    let bytes = BytesMut::from(place).freeze();
    group.bench_function(format!("{name} decode {size}"), |b| {
        b.iter(|| B::from_bytes(bytes.clone()).keys().sum::<u64>());
    });
}

/// Something to be read of each item.
trait Keys {
    fn keys(&self) -> impl Iterator<Item = u64>;
}

impl<S> Keys for Vec<Partial<u64, S>> {
    fn keys(&self) -> impl Iterator<Item = u64> {
        self.iter().map(|partial| partial.key)
    }
}

impl<S, C> Keys for Batch<Partial<u64, S>, C> {
    fn keys(&self) -> impl Iterator<Item = u64> {
        self.items.keys()
    }
}

criterion_group!(benches, watermark, windows, join, codec);
criterion_main!(benches);
