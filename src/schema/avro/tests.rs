//! The plans against the Avro library, which resolves values in a way of its own, and against the
//! specification where the two differ or the library has nothing to say.

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{AvroSchema, Plan, Writer};

fn schema(text: &str) -> AvroSchema {
    AvroSchema::parse(text, &[]).expect("a schema")
}

fn record(fields: &str) -> AvroSchema {
    schema(&format!(
        r#"{{"type":"record","name":"R","fields":[{fields}]}}"#
    ))
}

/// The bytes of a record with these fields.
fn encoded(writer: &AvroSchema, fields: Vec<(&str, Avro)>) -> Vec<u8> {
    let fields = fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    let writer = GenericDatumWriter::builder(&writer.root)
        .build()
        .expect("a writer");
    writer
        .write_value_to_vec(Avro::Record(fields.collect()))
        .expect("encoded")
}

fn json_text(plan: &Plan, message: &[u8]) -> Result<String, String> {
    let mut out = Vec::new();
    let read = plan.to_json(message, &mut out);
    read.map_err(|problem| problem.to_string())?;
    Ok(String::from_utf8(out).expect("UTF-8"))
}

/// What the library makes of the same bytes, as JSON.
fn by_library(writer: &AvroSchema, reader: &AvroSchema, mut message: &[u8]) -> Value {
    let read = GenericDatumReader::builder(&writer.root)
        .reader_schema(&reader.root)
        .build()
        .expect("a reader");
    as_json(read.read_value(&mut message).expect("resolved"))
}

fn as_json(value: Avro) -> Value {
    match value {
        Avro::Boolean(value) => value.into(),
        Avro::Int(value) => value.into(),
        Avro::Long(value) => value.into(),
        Avro::Float(value) => f64::from(value).into(),
        Avro::Double(value) => value.into(),
        Avro::String(text) | Avro::Enum(_, text) => text.into(),
        Avro::Union(_, value) => as_json(*value),
        Avro::Array(items) => items.into_iter().map(as_json).collect(),
        Avro::Map(entries) => entries
            .into_iter()
            .map(|(name, value)| (name, as_json(value)))
            .collect(),
        Avro::Record(fields) => fields
            .into_iter()
            .map(|(name, value)| (name, as_json(value)))
            .collect(),
        _ => Value::Null,
    }
}

const WRITER: &str = r#"
    {"name":"id","type":"string"},
    {"name":"old","type":"double"},
    {"name":"speed","type":["null","double"],"default":null},
    {"name":"count","type":"int"},
    {"name":"ratio","type":"float"},
    {"name":"color","type":{"type":"enum","name":"Color","symbols":["RED","GREEN","BLUE"]}},
    {"name":"tags","type":{"type":"array","items":"string"}},
    {"name":"sizes","type":{"type":"map","values":"long"}},
    {"name":"place","type":{"type":"record","name":"Place","fields":[
        {"name":"x","type":"long"},{"name":"y","type":["string","null"]}]}},
    {"name":"home","type":"Place"},
    {"name":"on","type":"boolean"}"#;

/// Other order, wider numbers, fields less and more.
const READER: &str = r#"
    {"name":"on","type":"boolean"},
    {"name":"id","type":["null","string"],"default":null},
    {"name":"speed","type":["null","double"],"default":null},
    {"name":"count","type":["null","double"],"default":null},
    {"name":"ratio","type":"double"},
    {"name":"color","type":{"type":"enum","name":"Color","symbols":["NONE","RED","BLUE","GREEN"],"default":"NONE"}},
    {"name":"tags","type":{"type":"array","items":"string"}},
    {"name":"sizes","type":{"type":"map","values":"double"}},
    {"name":"place","type":{"type":"record","name":"Place","fields":[{"name":"y","type":["null","string"]}]}},
    {"name":"home","type":"Place"},
    {"name":"added","type":["null","string"],"default":null},
    {"name":"unit","type":"string","default":"km/h"},
    {"name":"factor","type":"double","default":1}"#;

fn place() -> impl Strategy<Value = Avro> {
    (any::<i64>(), proptest::option::of(".*")).prop_map(|(x, y)| {
        let y = match y {
            Some(text) => Avro::Union(0, Avro::String(text).into()),
            None => Avro::Union(1, Avro::Null.into()),
        };
        Avro::Record(vec![("x".to_owned(), Avro::Long(x)), ("y".to_owned(), y)])
    })
}

fn event() -> impl Strategy<Value = Vec<(&'static str, Avro)>> {
    let finite = any::<f64>().prop_filter("finite", |value| value.is_finite());
    let small = any::<f32>().prop_filter("finite", |value| value.is_finite());
    let numbers = (
        finite.clone(),
        proptest::option::of(finite),
        any::<i32>(),
        small,
    );
    let lists = (
        proptest::collection::vec(".*", 0..4),
        proptest::collection::hash_map("[a-z\"\\\\é]*", any::<i64>(), 0..4),
    );
    (
        ".*",
        numbers,
        0..3_u32,
        lists,
        (place(), place()),
        any::<bool>(),
    )
        .prop_map(
            |(id, (old, speed, count, ratio), color, (tags, sizes), (place, home), on)| {
                let speed = match speed {
                    Some(speed) => Avro::Union(1, Avro::Double(speed).into()),
                    None => Avro::Union(0, Avro::Null.into()),
                };
                let symbol = ["RED", "GREEN", "BLUE"][color as usize].to_owned();
                let sizes = sizes
                    .into_iter()
                    .map(|(name, size)| (name, Avro::Long(size)));
                vec![
                    ("id", Avro::String(id)),
                    ("old", Avro::Double(old)),
                    ("speed", speed),
                    ("count", Avro::Int(count)),
                    ("ratio", Avro::Float(ratio)),
                    ("color", Avro::Enum(color, symbol)),
                    (
                        "tags",
                        Avro::Array(tags.into_iter().map(Avro::String).collect()),
                    ),
                    ("sizes", Avro::Map(sizes.collect())),
                    ("place", place),
                    ("home", home),
                    ("on", Avro::Boolean(on)),
                ]
            },
        )
}

proptest! {
    #[test]
    fn a_plan_reads_what_the_library_reads(event in event()) {
        let (writer, reader) = (record(WRITER), record(READER));
        let message = encoded(&writer, event);
        let plan = Plan::new(&writer, Some(&reader)).expect("a plan");
        let ours: Value = serde_json::from_str(&json_text(&plan, &message).expect("read")).expect("JSON");
        prop_assert_eq!(ours, by_library(&writer, &reader, &message));
    }

    #[test]
    fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (writer, reader) = (record(WRITER), record(READER));
        for reader in [None, Some(&reader)] {
            let plan = Plan::new(&writer, reader).expect("a plan");
            if let Ok(text) = json_text(&plan, &bytes) {
                let is_whole = text.starts_with('{') && text.ends_with('}');
                prop_assert!(is_whole);
            }
        }
    }

    #[test]
    fn a_message_that_is_cut_off_or_goes_on_does_not_fit(event in event(), cut in any::<prop::sample::Index>()) {
        let writer = record(WRITER);
        let plan = Plan::new(&writer, None).expect("a plan");
        let mut message = encoded(&writer, event);
        prop_assert!(json_text(&plan, &message[..cut.index(message.len())]).is_err());
        message.push(0);
        prop_assert!(json_text(&plan, &message).expect_err("too long").contains("left over"));
    }

    /// From JSON to a message and back: texts, nulls, and every bit of every float.
    #[test]
    fn an_event_comes_back_as_it_was(
        bits in any::<u64>(), number in any::<i64>(), text in proptest::option::of(".*"),
    ) {
        let fields = r#"{"name":"f","type":["null","double"],"default":null},
            {"name":"n","type":"long"},{"name":"t","type":["null","string"],"default":null}"#;
        let float = f64::from_bits(bits);
        let event = json!({"f": float, "n": number, "t": text}).to_string();
        let mut message = Vec::new();
        Writer::new(record(fields)).write(event.as_bytes(), &mut message).expect("written");
        let plan = Plan::new(&record(fields), Some(&record(fields))).expect("a plan");
        let back: Value = serde_json::from_str(&json_text(&plan, &message).expect("read")).expect("JSON");
        prop_assert_eq!(&back, &serde_json::from_str::<Value>(&event).expect("JSON"));
        if float.is_finite() {
            prop_assert_eq!(back["f"].as_f64().map(f64::to_bits), Some(bits));
        }
    }
}

#[test]
fn floats_that_are_no_numbers_are_left_to_the_decoder() {
    let writer = record(
        r#"{"name":"a","type":"double"},{"name":"b","type":"float"},{"name":"c","type":"double"}"#,
    );
    let fields = vec![
        ("a", Avro::Double(f64::NAN)),
        ("b", Avro::Float(f32::INFINITY)),
        ("c", Avro::Double(f64::NEG_INFINITY)),
    ];
    let plan = Plan::new(&writer, None).expect("a plan");
    let text = json_text(&plan, &encoded(&writer, fields)).expect("read");
    assert_eq!(text, r#"{"a":NaN,"b":Infinity,"c":-Infinity}"#);
    let minus = encoded(
        &record(r#"{"name":"a","type":"double"}"#),
        vec![("a", Avro::Double(-0.0))],
    );
    let plan = Plan::new(&record(r#"{"name":"a","type":"double"}"#), None).expect("a plan");
    assert_eq!(json_text(&plan, &minus).as_deref(), Ok(r#"{"a":-0.0}"#));
}

#[test]
fn schemas_that_cannot_be_read_say_which_field() {
    let refused = |writer: &str, reader: &str| {
        let reader = record(reader);
        let reason = reader.objection_to(&record(writer)).expect("refused");
        assert!(Plan::new(&record(writer), Some(&reader)).is_err());
        reason
    };
    let long = r#"{"name":"a","type":"long"}"#;
    assert_eq!(
        refused(r#"{"name":"a","type":"string"}"#, long),
        "field a: string cannot be read as long"
    );
    let missing = refused(r#"{"name":"b","type":"long"}"#, long);
    assert!(missing.contains("field a is missing") && missing.contains("no default"));
    let narrower = refused(long, r#"{"name":"a","type":["null","int"]}"#);
    assert!(
        narrower.contains("field a: long cannot be read as"),
        "{narrower}"
    );
    let other = schema(r#"{"type":"record","name":"x.Other","fields":[]}"#);
    let reason = record(long).objection_to(&other).expect("refused");
    assert_eq!(reason, "it is a x.Other, and not a R");
    assert_eq!(
        record(long).objection_to(&record(r#"{"name":"a","type":"int"}"#)),
        None
    );
}

#[test]
fn a_branch_that_the_reader_cannot_have_is_refused_only_when_it_comes() {
    let writer = record(r#"{"name":"a","type":["long","string"]}"#);
    let reader = record(r#"{"name":"a","type":"long"}"#);
    let plan = Plan::new(&writer, Some(&reader)).expect("some of it can be read");
    let long = vec![("a", Avro::Union(0, Avro::Long(5).into()))];
    assert_eq!(
        json_text(&plan, &encoded(&writer, long)).as_deref(),
        Ok(r#"{"a":5}"#)
    );
    let text = vec![("a", Avro::Union(1, Avro::String("x".to_owned()).into()))];
    let problem = json_text(&plan, &encoded(&writer, text)).expect_err("no long");
    assert_eq!(problem, "a: string cannot be read as long");
}

#[test]
fn lengths_are_checked_before_anything_is_made() {
    let list = record(r#"{"name":"a","type":{"type":"array","items":"null"}}"#);
    let plan = Plan::new(&list, None).expect("a plan");
    // 2^62 nulls in ten bytes, as one block and as one with its size.
    for count in [i64::MAX / 2, i64::MIN] {
        let mut message = Vec::new();
        push_long(count, &mut message);
        if count < 0 {
            push_long(0, &mut message);
        }
        let problem = json_text(&plan, &message).expect_err("too many");
        assert!(problem.contains("a: an array of"), "{problem}");
    }
    // As many as bytes are left, in block after block.
    let mut message = Vec::new();
    for left in (1..100).rev() {
        push_long(left, &mut message);
    }
    message.push(0);
    let problem = json_text(&plan, &message).expect_err("too many");
    assert!(problem.contains("a: an array of"), "{problem}");
    let text = record(r#"{"name":"a","type":"string"}"#);
    let plan = Plan::new(&text, None).expect("a plan");
    let mut message = Vec::new();
    push_long(1 << 40, &mut message);
    let problem = json_text(&plan, &message).expect_err("too long");
    assert!(problem.contains("ends within a string") || problem.contains("bytes are needed"));
    message.clear();
    push_long(-1, &mut message);
    assert!(
        json_text(&plan, &message)
            .expect_err("negative")
            .contains("-1")
    );
    let eleven = [0xff; 11];
    assert!(
        json_text(&plan, &eleven)
            .expect_err("no number")
            .contains("64 bits")
    );
}

fn push_long(value: i64, out: &mut Vec<u8>) {
    let mut bits = ((value << 1) ^ (value >> 63)) as u64;
    while bits >= 0x80 {
        out.push(bits as u8 | 0x80);
        bits >>= 7;
    }
    out.push(bits as u8);
}

#[test]
fn a_schema_in_circles_is_refused() {
    let circle = record(r#"{"name":"next","type":["null","R"],"default":null}"#);
    let plan = Plan::new(&circle, None).expect("an end can be read");
    assert_eq!(json_text(&plan, &[0]).as_deref(), Ok(r#"{"next":null}"#));
    let reason = json_text(&plan, &[2, 0]).expect_err("a circle");
    assert!(reason.contains("next: R refers to itself"), "{reason}");
    for list in ["array\",\"items", "map\",\"values"] {
        let field = format!(r#"{{"name":"more","type":{{"type":"{list}":"R"}}}}"#);
        let plan = Plan::new(&record(&field), None).expect("an empty list can be read");
        json_text(&plan, &[0]).expect("it is empty");
        let reason = json_text(&plan, &[2, 0, 0]).expect_err("a circle");
        assert!(reason.contains("refers to itself"), "{reason}");
    }
}

/// Each type refers to the one before it ten times: a text of a few lines that stands for ten
/// thousand million places.
#[test]
fn a_schema_that_grows_without_bound_is_refused() {
    let mut others = vec![r#"{"type":"record","name":"T0","fields":[]}"#.to_owned()];
    for level in 1..10 {
        let before = level - 1;
        let fields = (0..10).map(|at| format!(r#"{{"name":"f{at}","type":"T{before}"}}"#));
        let fields = fields.collect::<Vec<_>>().join(",");
        others.push(format!(
            r#"{{"type":"record","name":"T{level}","fields":[{fields}]}}"#
        ));
    }
    let root = others.pop().expect("the last");
    let schema = AvroSchema::parse(&root, &others).expect("a schema");
    let reason = Plan::new(&schema, None).expect_err("too large");
    assert!(reason.contains("10000 places"), "{reason}");
}

#[test]
fn a_field_may_have_had_another_name() {
    let writer = record(r#"{"name":"id","type":"long"},{"name":"x","type":"long"}"#);
    let reader = record(
        r#"{"name":"key","aliases":["id"],"type":"long"},{"name":"y","type":"long","default":7}"#,
    );
    let plan = Plan::new(&writer, Some(&reader)).expect("a plan");
    assert_eq!(
        json_text(&plan, &[2, 4]).as_deref(),
        Ok(r#"{"key":1,"y":7}"#)
    );
}

#[test]
fn a_schema_may_refer_to_others() {
    let place = r#"{"type":"record","name":"Place","fields":[{"name":"x","type":"long"}]}"#;
    let text = r#"{"type":"record","name":"R","fields":[{"name":"at","type":"Place"}]}"#;
    let writer = AvroSchema::parse(text, &[place.to_owned()]).expect("a schema");
    let plan = Plan::new(&writer, None).expect("a plan");
    assert_eq!(json_text(&plan, &[84]).as_deref(), Ok(r#"{"at":{"x":42}}"#));
}

#[test]
fn an_event_that_does_not_fit_says_where() {
    let fields =
        r#"{"name":"a","type":"long"},{"name":"b","type":["null","string"],"default":null}"#;
    let write = |event: &str| {
        let mut message = Vec::new();
        Writer::new(record(fields))
            .write(event.as_bytes(), &mut message)
            .map(|()| message)
    };
    assert_eq!(
        write(r#"{"a":1}"#),
        Ok(vec![2, 0]),
        "what is not there has its default"
    );
    assert!(
        write(r#"{"a":1.5}"#)
            .expect_err("no long")
            .starts_with("a: 1.5")
    );
    assert!(write("{}").expect_err("no a").starts_with("a: null"));
    assert!(
        write(r#"{"a":1,"c":2}"#)
            .expect_err("c would be lost")
            .starts_with("c:")
    );
    assert!(write("x").is_err());
}
