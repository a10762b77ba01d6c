//! The schemas that a run has met, by id: what the messages of its topic are read with.
//!
//! A worker never waits for the registry. A batch that holds an id that nobody has asked for yet
//! stays in its partition; a thread of its own asks the registry, for as long as it takes, and wakes
//! the worker. So it is the same whether the registry is there at once or after an hour, and the
//! number of requests is that of the ids, not of the messages.
//!
//! An id never changes its meaning, so that what is known stays known, and a job with a state keeps
//! it there: started again, it needs no registry for what it has read before. That an id is *not*
//! known is believed for the batch that has waited for this answer and for no other: whoever writes
//! a message has registered its schema before, so an id that is unknown after the message was there
//! belongs to no message of a producer; but one that is unknown now may be given out later.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::avro::Plan;
use super::frame::{self, SchemaId};
use super::registry::{Registered, Registry, RegistryError};
use super::{AvroSchema, SchemaKind};
use crate::decode::{Reason, Rejection};
use crate::host;
use crate::source::{Format, RawBatch, Unpack, Waker};
use crate::terminal;

/// How soon a registry that does not answer is asked again, at first and at most.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The largest id that a registry can give.
const LARGEST_ID: u32 = i32::MAX as u32;
/// After so many attempts people are told again.
const ATTEMPTS_PER_MESSAGE: u32 = 12;

/// Where schemas are kept from run to run.
pub trait Memory: Send + Sync {
    /// Keeps a schema; one that is there already is as good.
    ///
    /// # Errors
    /// When that is not possible, with the reason.
    fn keep(&self, id: SchemaId, schema: &Registered) -> Result<(), String>;

    /// What was kept.
    ///
    /// # Errors
    /// When that cannot be found out, with the reason.
    fn kept(&self) -> Result<Vec<(SchemaId, Registered)>, String>;
}

/// How messages are to be read.
pub struct SchemasOptions {
    /// The registry; `None`: only what was kept.
    pub registry: Option<Arc<Registry>>,
    /// The language of schemas.
    pub kind: SchemaKind,
    /// The reader's schema; `None`: as they were written.
    pub reader: Option<AvroSchema>,
    /// The subject of the topic.
    pub subject: String,
}

/// See the module.
pub struct Schemas {
    shared: Arc<Shared>,
    questions: Sender<Question>,
    subject: String,
}

struct Shared {
    registry: Option<Arc<Registry>>,
    kind: SchemaKind,
    reader: Option<AvroSchema>,
    known: Mutex<HashMap<SchemaId, Known>>,
    memory: Mutex<Option<Arc<dyn Memory>>>,
    is_closed: AtomicBool,
    requests: AtomicU64,
}

/// What is known of an id.
#[derive(Clone)]
enum Known {
    /// Its messages can be read.
    Readable(Arc<Way>),
    /// None of them can, and why.
    Unreadable(Arc<str>),
}

/// From the payload behind a frame to the JSON of the pipeline.
enum Way {
    Avro(Plan),
    AsIs,
}

struct Question {
    id: SchemaId,
    answer: Answer,
    wake: Arc<Waker>,
}

/// Set once; `None`: there is no such schema.
type Answer = Arc<OnceLock<Option<Known>>>;

impl Schemas {
    /// Knows nothing yet.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn new(options: SchemasOptions) -> std::io::Result<Arc<Self>> {
        let SchemasOptions {
            registry,
            kind,
            reader,
            subject,
        } = options;
        let shared = Arc::new(Shared {
            registry,
            kind,
            reader,
            known: Mutex::default(),
            memory: Mutex::default(),
            is_closed: AtomicBool::new(false),
            requests: AtomicU64::new(0),
        });
        let (questions, asked) = unbounded();
        let answering = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("schemas".to_owned());
        thread.spawn(move || answering.serve(&asked))?;
        Ok(Arc::new(Self {
            shared,
            questions,
            subject,
        }))
    }

    /// Before the first message: what an earlier run has kept in `memory`, then all versions of
    /// the subject. Waits for the registry no longer than its time-out.
    ///
    /// # Errors
    /// When nothing was kept and the registry cannot be reached, or when it has another schema
    /// under an id than was kept.
    pub fn begin(&self, memory: Option<Arc<dyn Memory>>) -> Result<(), RegistryError> {
        let config = |reason: String| RegistryError::Config(reason);
        let mut kept = HashMap::new();
        if let Some(memory) = &memory {
            for (id, schema) in memory.kept().map_err(config)? {
                self.shared.learn(id, &schema);
                kept.insert(id, schema);
            }
        }
        *lock(&self.shared.memory) = memory;
        match self.load(&kept) {
            Err(error @ RegistryError::Away { .. }) if !kept.is_empty() => {
                let schemas = kept.len();
                terminal::message(format_args!(
                    "{error}; going on with the {schemas} schemas that the state has"
                ));
                Ok(())
            }
            Err(RegistryError::Away { target, reason }) => Err(RegistryError::Away {
                target,
                reason: format!(
                    "{reason}; a first start needs it: start it, or correct --schema-registry \
                     (later starts with --state go on without it)"
                ),
            }),
            other => other,
        }
    }

    /// Learns all versions of the subject.
    fn load(&self, kept: &HashMap<SchemaId, Registered>) -> Result<(), RegistryError> {
        let Some(registry) = &self.shared.registry else {
            return Ok(());
        };
        let mut versions = Vec::new();
        for version in registry.versions(&self.subject)? {
            versions.extend(registry.version(&self.subject, &version.to_string())?);
        }
        if versions.is_empty() {
            terminal::message(format_args!(
                "{} has no subject {} yet: schemas are asked for as their messages come",
                registry.name(),
                self.subject
            ));
        }
        for version in versions {
            match kept.get(&version.id) {
                Some(kept) if !is_same(&kept.schema, &version.schema.schema) => {
                    return Err(RegistryError::Config(format!(
                        "schema registry {}: it has another schema under id {} than the one that \
                         this job has read with: name the registry of the messages, or begin a new \
                         job with --fresh",
                        registry.name(),
                        version.id
                    )));
                }
                Some(_) => {}
                None => {
                    self.shared.keep(version.id, &version.schema);
                    self.shared.learn(version.id, &version.schema);
                }
            }
        }
        Ok(())
    }

    /// How many requests were made for single ids.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// The ids that are known, and why none of their messages can be read where that is so.
    pub fn known(&self) -> Vec<(SchemaId, Option<String>)> {
        let known = lock(&self.shared.known);
        let mut known: Vec<_> = known
            .iter()
            .map(|(id, known)| match known {
                Known::Readable(_) => (*id, None),
                Known::Unreadable(reason) => (*id, Some(reason.to_string())),
            })
            .collect();
        known.sort();
        known
    }
}

impl Drop for Schemas {
    fn drop(&mut self) {
        self.shared.is_closed.store(true, Ordering::Relaxed);
    }
}

impl Format for Schemas {
    fn unpacker(&self, wake: Waker) -> Box<dyn Unpack> {
        Box::new(Unframe {
            shared: Arc::clone(&self.shared),
            questions: self.questions.clone(),
            wake: Arc::new(wake),
            known: HashMap::new(),
            asked: Vec::new(),
            last: None,
            json: Vec::new(),
        })
    }
}

impl Shared {
    /// Answers what is asked, one after the other.
    fn serve(&self, asked: &Receiver<Question>) {
        for question in asked {
            let known = lock(&self.known).get(&question.id).cloned();
            let answer = match known {
                Some(known) => Some(known),
                None => match host::catch(|| self.ask(question.id)) {
                    Ok(Ok(answer)) => answer,
                    Ok(Err(Closed)) => return,
                    // A defect in what reads schemas must not leave messages waiting for ever.
                    Err(_) => Some(Known::Unreadable("it cannot be understood".into())),
                },
            };
            // Each question has its own answer.
            let _ = question.answer.set(answer);
            (question.wake)();
        }
    }

    /// Asks the registry until it answers.
    fn ask(&self, id: SchemaId) -> Result<Option<Known>, Closed> {
        // Registries count in signed numbers: they would not even read a larger one.
        let Some(registry) = self.registry.as_ref().filter(|_| id.0 <= LARGEST_ID) else {
            return Ok(None);
        };
        let mut pause = PAUSE;
        for attempt in 0_u32.. {
            if self.is_closed.load(Ordering::Relaxed) {
                return Err(Closed);
            }
            self.requests.fetch_add(1, Ordering::Relaxed);
            let error = match registry.schema(id) {
                Ok(found) => {
                    if attempt > 0 {
                        let name = registry.name();
                        terminal::message(format_args!("schema registry {name}: it answers again"));
                    }
                    return Ok(found.map(|schema| {
                        self.keep(id, &schema);
                        self.learn(id, &schema)
                    }));
                }
                Err(error) => error,
            };
            if attempt % ATTEMPTS_PER_MESSAGE == 0 {
                terminal::message(format_args!(
                    "{error}; the messages with schema id {id} wait, and those behind them"
                ));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Err(Closed)
    }

    fn learn(&self, id: SchemaId, schema: &Registered) -> Known {
        let known = match self.way(schema) {
            Ok(way) => Known::Readable(Arc::new(way)),
            Err(reason) => Known::Unreadable(reason.into()),
        };
        lock(&self.known).insert(id, known.clone());
        known
    }

    fn way(&self, schema: &Registered) -> Result<Way, String> {
        let wanted = self.kind.registry_name();
        if schema.kind != wanted {
            return Err(format!(
                "it is of the kind {}, and not {wanted}",
                schema.kind
            ));
        }
        match self.kind {
            SchemaKind::Json => Ok(Way::AsIs),
            SchemaKind::Avro => {
                let writer = AvroSchema::parse(&schema.schema, &schema.others)?;
                Plan::new(&writer, self.reader.as_ref()).map(Way::Avro)
            }
        }
    }

    /// A schema that cannot be kept is asked for again by the next run: that is no reason to stop.
    fn keep(&self, id: SchemaId, schema: &Registered) {
        let memory = lock(&self.memory).clone();
        if let Some(Err(reason)) = memory.map(|memory| memory.keep(id, schema)) {
            terminal::message(format_args!(
                "schema id {id} could not be kept in the state: {reason}"
            ));
        }
    }
}

/// Nobody waits for answers any more.
struct Closed;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain data that is valid between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether two texts are the same schema but for white space and the order of keys.
fn is_same(one: &str, other: &str) -> bool {
    let parse = |text| serde_json::from_str::<serde_json::Value>(text).ok();
    one == other || parse(one).is_some_and(|one| parse(other) == Some(one))
}

/// What the messages of one partition go through.
struct Unframe {
    shared: Arc<Shared>,
    questions: Sender<Question>,
    wake: Arc<Waker>,
    known: HashMap<SchemaId, Known>,
    /// What the batch at hand waits for.
    asked: Vec<(SchemaId, Answer)>,
    /// The newest look-up: messages with one schema come in a row.
    last: Option<(SchemaId, Known)>,
    json: Vec<u8>,
}

impl Unframe {
    /// Asks for what is not known of a batch.
    fn ask(&mut self, batch: &RawBatch) {
        let mut seen = None;
        for payload in batch
            .records
            .iter()
            .filter_map(|record| batch.value(record))
        {
            let Ok((id, _)) = frame::split(payload) else {
                continue;
            };
            if seen.replace(id) == Some(id) || self.known.contains_key(&id) {
                continue;
            }
            if self.asked.iter().any(|(asked, _)| *asked == id) {
                continue;
            }
            if let Some(known) = lock(&self.shared.known).get(&id) {
                self.known.insert(id, known.clone());
                continue;
            }
            let answer = Answer::default();
            self.asked.push((id, Arc::clone(&answer)));
            let wake = Arc::clone(&self.wake);
            // Invariant: the thread that answers lives as long as the schemas.
            let _ = self.questions.send(Question { id, answer, wake });
        }
    }

    fn known(&mut self, id: SchemaId) -> Option<&Known> {
        if self.last.as_ref().is_none_or(|(last, _)| *last != id) {
            self.last = self.known.get(&id).map(|known| (id, known.clone()));
        }
        self.last.as_ref().map(|(_, known)| known)
    }
}

impl Unpack for Unframe {
    fn prepare(&mut self, batch: &RawBatch) -> bool {
        if self.asked.is_empty() {
            self.ask(batch);
            return self.asked.is_empty();
        }
        if !self.asked.iter().all(|(_, answer)| answer.get().is_some()) {
            return false;
        }
        for (id, answer) in self.asked.drain(..) {
            if let Some(known) = answer.get().cloned().flatten() {
                self.known.insert(id, known);
            }
        }
        true
    }

    fn unpack<'a>(&'a mut self, payload: &'a [u8]) -> Result<&'a [u8], Rejection> {
        let (id, payload) = frame::split(payload)?;
        let wrong =
            |what: &str| Rejection::new(Reason::Undecodable, format!("schema id {id}: {what}"));
        let way = match self.known(id) {
            Some(Known::Readable(way)) => Arc::clone(way),
            Some(Known::Unreadable(reason)) => return Err(wrong(reason)),
            None => return Err(wrong("the registry has no such schema")),
        };
        let Way::Avro(plan) = &*way else {
            return Ok(payload);
        };
        self.json.clear();
        let read = plan.to_json(payload, &mut self.json);
        read.map_err(|problem| wrong(&problem.to_string()))?;
        Ok(&self.json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::RawRecord;
    use crate::time::Offset;

    const SCHEMA: &str = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"long"}]}"#;

    fn schemas(kind: SchemaKind) -> Arc<Schemas> {
        let options = SchemasOptions {
            registry: None,
            kind,
            reader: None,
            subject: "t-value".to_owned(),
        };
        Schemas::new(options).expect("a thread")
    }

    fn registered(kind: &str, schema: &str) -> Registered {
        Registered {
            kind: kind.to_owned(),
            schema: schema.to_owned(),
            others: Vec::new(),
        }
    }

    fn batch(payloads: &[&[u8]]) -> RawBatch {
        let mut batch = RawBatch::default();
        for (offset, payload) in payloads.iter().enumerate() {
            let start = batch.bytes.len() as u32;
            batch.bytes.extend_from_slice(payload);
            batch.records.push(RawRecord {
                offset: Offset(offset as u64),
                value: Some((start, batch.bytes.len() as u32)),
                key: None,
                append_time: None,
            });
        }
        batch
    }

    /// Asks, and waits until the worker is woken.
    fn prepared(schemas: &Schemas, batch: &RawBatch) -> (Box<dyn Unpack>, bool) {
        let (woken, wakes) = unbounded();
        let mut unpack = schemas.unpacker(Box::new(move || {
            let _ = woken.send(());
        }));
        let at_once = unpack.prepare(batch);
        let mut is_ready = at_once;
        while !is_ready {
            wakes
                .recv_timeout(Duration::from_secs(20))
                .expect("an answer");
            is_ready = unpack.prepare(batch);
        }
        (unpack, at_once)
    }

    #[test]
    fn a_message_is_read_with_the_schema_that_its_frame_names() {
        let schemas = schemas(SchemaKind::Avro);
        schemas
            .shared
            .learn(SchemaId(7), &registered("AVRO", SCHEMA));
        schemas.shared.learn(SchemaId(8), &registered("JSON", "{}"));
        let messages: [&[u8]; 4] = [
            b"\0\0\0\0\x07\x54",
            b"\0\0\0\0\x08{}",
            b"{}",
            b"\0\0\0\0\x07",
        ];
        let (mut unpack, at_once) = prepared(&schemas, &batch(&messages));
        assert!(at_once, "all ids are known");
        assert_eq!(unpack.unpack(messages[0]), Ok(&br#"{"a":42}"#[..]));
        let mut detail = |message| unpack.unpack(message).expect_err("rejected").detail;
        assert_eq!(
            detail(messages[1]),
            "schema id 8: it is of the kind JSON, and not AVRO"
        );
        assert!(detail(messages[2]).contains("no schema frame"));
        assert!(detail(messages[3]).starts_with("schema id 7: a: the message ends"));
    }

    #[test]
    fn what_is_unknown_is_so_for_the_batch_that_has_waited_only() {
        let schemas = schemas(SchemaKind::Json);
        let message: &[u8] = b"\0\0\0\0\x09{}";
        let (mut unpack, at_once) = prepared(&schemas, &batch(&[message, message]));
        assert!(!at_once, "somebody has to be asked");
        let rejection = unpack.unpack(message).expect_err("unknown");
        assert_eq!(
            rejection.detail,
            "schema id 9: the registry has no such schema"
        );
        schemas.shared.learn(SchemaId(9), &registered("JSON", "{}"));
        assert!(unpack.prepare(&batch(&[message])), "it is known meanwhile");
        assert_eq!(unpack.unpack(message), Ok(&b"{}"[..]));
    }

    #[test]
    fn texts_are_compared_as_json() {
        assert!(is_same(r#"{"a":1,"b":2}"#, "{ \"b\": 2,\n\"a\": 1}"));
        assert!(!is_same(r#"{"a":1}"#, r#"{"a":2}"#) && !is_same("x", "y") && is_same("x", "x"));
    }
}
