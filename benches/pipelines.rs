//! What the pipelines cost, on input of the project's own generator.
//!
//! | group | what it measures |
//! |---|---|
//! | `decode` | one message after the other from JSON to a record, in memory, on one thread |
//! | `run` | the command `highwater run PIPELINE -w 1`, from its start to its exit: a file of JSON lines read, decoded, joined and windowed, and the windows written |

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput, measurement::WallTime};
use criterion::{criterion_group, criterion_main};
use highwater::decode::{Decoded, Message, Rejection};
use highwater::source::RawRecord;
use highwater::source::generate::{EventLog, EventModel, GeneratorOptions};
use highwater::time::{Offset, Span, Zone};
use highwater_dataflows::cars::event::{Enriched, Name, decode_enriched, decode_sample, to_json};
use highwater_dataflows::cars::model::CarsModel;
use highwater_dataflows::cars::tables::{COLORS, MODELS, car};
use highwater_dataflows::cars::{GearRule, expected_gear};
use highwater_dataflows::factory::event::decode as decode_reading;
use highwater_dataflows::factory::model::{FactoryModel, KeyBy};
use tempfile::TempDir;

/// How many different messages are decoded: some megabytes.
const MESSAGES: u64 = 20_000;
const CARS: u64 = 20;
/// How many records a run reads; few when it is only tried out, by `cargo test --benches`.
const RECORDS: u64 = 500_000;
const FEW_RECORDS: u64 = 5_000;

type Decode<R> = fn(Message<'_>) -> Result<Decoded<R>, Rejection>;

/// Messages, back to back.
#[derive(Default)]
struct Messages {
    bytes: Vec<u8>,
    records: Vec<RawRecord>,
}

impl Messages {
    fn push(&mut self, value: &[u8]) {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(value);
        self.records.push(RawRecord {
            offset: Offset(self.records.len() as u64),
            value: Some((start, self.bytes.len() as u32)),
            key: None,
            append_time: None,
        });
    }

    /// The first messages of a model.
    fn generated(model: impl EventModel + 'static) -> Self {
        let options = GeneratorOptions {
            disorder: Span::seconds(10),
            ..GeneratorOptions::default()
        };
        let log = EventLog::new(Arc::new(model), options).expect("valid options");
        let mut messages = Self::default();
        let mut line = Vec::new();
        for index in 0..MESSAGES {
            line.clear();
            log.append(index, &mut line);
            messages.push(&line);
        }
        messages
    }

    fn iter(&self) -> impl Iterator<Item = Message<'_>> {
        static UTC: Zone = Zone::UTC;
        self.records.iter().map(|record| {
            let (start, end) = record.value.unwrap_or_default();
            Message {
                value: &self.bytes[start as usize..end as usize],
                key: None,
                record,
                zone: &UTC,
            }
        })
    }

    fn throughput(&self) -> Throughput {
        Throughput::ElementsAndBytes {
            elements: self.records.len() as u64,
            bytes: self.bytes.len() as u64,
        }
    }
}

/// Samples as the pipeline enriches them. Message `index` is of car `index`, in turn.
fn enriched(samples: &Messages) -> Messages {
    let name = |text| Name::new(text).expect("short");
    let mut messages = Messages::default();
    for (message, index) in samples.iter().zip(0..) {
        let Ok(Decoded::Record(_, sample)) = decode_sample(message) else {
            unreachable!("the generator makes samples");
        };
        let car = car(index % CARS, 1);
        assert_eq!(car.car_id, sample.car_id);
        let model = MODELS[car.model_id as usize - 1];
        messages.push(&to_json(&Enriched {
            driver_id: Some(car.driver_id),
            brand_name: name(model.1),
            model_name: name(model.2),
            color_name: name(COLORS[car.color_id as usize - 1].1),
            expected_gear: sample.speed.map(|v| expected_gear(v, GearRule::Round)),
            ..Enriched::of(&sample)
        }));
    }
    messages
}

fn decode_all<R>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    messages: &Messages,
    decode: Decode<R>,
) {
    group.throughput(messages.throughput());
    group.bench_function(name, |b| {
        b.iter(|| {
            let decoded = messages.iter().map(|message| black_box(decode(message)));
            let records = decoded.filter(|decoded| matches!(decoded, Ok(Decoded::Record(..))));
            assert_eq!(records.count(), messages.records.len());
        });
    });
}

fn decode(c: &mut Criterion) {
    let cars = CarsModel::new(CARS).expect("valid");
    let factory = FactoryModel::new(25, 0.05, 0.05, KeyBy::DeviceId).expect("valid");
    let samples = Messages::generated(cars);
    let mut group = c.benchmark_group("decode");
    decode_all(&mut group, "cars samples", &samples, decode_sample);
    let enriched = enriched(&samples);
    decode_all(&mut group, "cars enriched", &enriched, decode_enriched);
    let readings = Messages::generated(factory);
    decode_all(&mut group, "factory readings", &readings, decode_reading);
    group.finish();
}

/// The command with the words of `line`, in `folder`, which has to succeed.
fn highwater(folder: &Path, line: &str) {
    let status = Command::new(env!("CARGO_BIN_EXE_highwater"))
        .args(line.split_whitespace())
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    assert!(status.is_ok_and(|status| status.success()), "{line}");
}

fn run_all(c: &mut Criterion) {
    let is_measured = std::env::args().any(|argument| argument == "--bench");
    let records = if is_measured { RECORDS } else { FEW_RECORDS };
    let folder = TempDir::new().expect("a folder");
    let generated = [
        ("cars", "cars --disorder 10s"),
        ("devices-25", "factory --disorder 10s"),
        // Five readings of each device, in two minutes.
        ("devices-100k", "factory --devices 100000 --rate 5000"),
    ];
    for (name, flags) in generated {
        let line = format!("generate {flags} --quiet --events {records} --to file:{name}.ndjson");
        highwater(folder.path(), &line);
    }
    highwater(folder.path(), "dims cars --to dims");
    let mut group = c.benchmark_group("run");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for (name, input, flags) in [
        (
            "cars to null",
            "cars",
            "cars --dims dir:dims --to windows=null:",
        ),
        (
            "cars to ndjson",
            "cars",
            "cars --dims dir:dims --to windows=ndjson:windows.ndjson",
        ),
        (
            "factory 25 devices to null",
            "devices-25",
            "factory --to windows=null:",
        ),
        (
            "factory 100,000 devices to null",
            "devices-100k",
            "factory --to windows=null:",
        ),
    ] {
        let input = format!("{input}.ndjson");
        let bytes = fs::metadata(folder.path().join(&input))
            .expect("generated")
            .len();
        let line = format!("run {flags} --quiet --from file:{input} -w 1");
        group.throughput(Throughput::ElementsAndBytes {
            elements: records,
            bytes,
        });
        group.bench_function(name, |b| b.iter(|| highwater(folder.path(), &line)));
    }
    group.finish();
}

criterion_group!(benches, decode, run_all);
criterion_main!(benches);
