//! The log, event by event: when an event is stamped, and which lines it becomes.

use std::sync::Arc;

use super::rng::Stream;
use super::route::Router;
use super::{EventModel, EventRng, GenerateError, GeneratorOptions, Schedule};
use crate::time::{EventTime, Span};

/// Late jitter reaches at least this far beyond the disorder.
const LATE_REACH: Span = Span::minutes(10);

/// A log of events: model, options and what follows from them.
pub struct EventLog {
    model: Arc<dyn EventModel>,
    options: GeneratorOptions,
    schedule: Schedule,
    router: Router,
}

/// The lines of one event: ranges in the buffer that [`EventLog::append`] wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lines {
    /// The event.
    pub value: (u32, u32),
    /// Whether it is written a second time, directly after the first.
    pub repeated: bool,
    /// The garbage after that.
    pub garbage: Option<(u32, u32)>,
}

impl Lines {
    /// The ranges, in the order of the log.
    pub fn ranges(self) -> impl Iterator<Item = (u32, u32)> {
        [
            Some(self.value),
            self.repeated.then_some(self.value),
            self.garbage,
        ]
        .into_iter()
        .flatten()
    }
}

/// What is drawn about an event apart from its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fate {
    jitter: Span,
    repeated: bool,
    garbage: bool,
}

impl Fate {
    /// How many lines the event becomes.
    pub(super) fn lines(self) -> u64 {
        1 + u64::from(self.repeated) + u64::from(self.garbage)
    }
}

impl EventLog {
    /// The log of `model` with these options.
    ///
    /// # Errors
    /// When an option is out of range.
    pub fn new(
        model: Arc<dyn EventModel>,
        options: GeneratorOptions,
    ) -> Result<Self, GenerateError> {
        options.validate()?;
        let schedule = Schedule::new(&options);
        let router = Router::new(&*model, options.partitions);
        Ok(Self {
            model,
            options,
            schedule,
            router,
        })
    }

    /// The same log in another number of partitions.
    ///
    /// # Errors
    /// When that number is out of range.
    pub fn with_partitions(&self, partitions: u32) -> Result<Self, GenerateError> {
        let options = GeneratorOptions {
            partitions,
            ..self.options.clone()
        };
        Self::new(Arc::clone(&self.model), options)
    }

    /// The options.
    pub fn options(&self) -> &GeneratorOptions {
        &self.options
    }

    /// When each event is due.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Appends the message key of event `index`.
    pub fn key(&self, index: u64, out: &mut Vec<u8>) {
        self.model.key(index, out);
    }

    /// The partition of event `index`: by Kafka's default hash of its key, or round and round
    /// when it has none. `scratch` is overwritten.
    pub fn partition(&self, index: u64, scratch: &mut Vec<u8>) -> u32 {
        self.router.partition(&*self.model, index, scratch)
    }

    pub(super) fn router(&self) -> &Router {
        &self.router
    }

    pub(super) fn model(&self) -> &dyn EventModel {
        &*self.model
    }

    /// Whether every event is exactly one line.
    pub(super) fn is_one_line_per_event(&self) -> bool {
        self.options.duplicates == 0.0 && self.options.garbage == 0.0
    }

    /// Draws what happens to event `index`. One draw for each option, always, so that a change of
    /// one option leaves what follows from the others as it was.
    pub(super) fn fate(&self, index: u64) -> Fate {
        let options = &self.options;
        if self.is_one_line_per_event()
            && options.disorder == Span::ZERO
            && options.late_fraction == 0.0
        {
            return Fate {
                jitter: Span::ZERO,
                repeated: false,
                garbage: false,
            };
        }
        let mut rng = EventRng::new(options.seed, index, Stream::Log);
        let late = rng.bernoulli(options.late_fraction);
        let disorder = options.disorder.0 as u64;
        let jitter = if late {
            let reach = disorder.saturating_mul(10).max(LATE_REACH.0 as u64);
            disorder + rng.below(reach)
        } else {
            rng.below(disorder)
        };
        Fate {
            jitter: Span(jitter as i64),
            repeated: rng.bernoulli(options.duplicates),
            garbage: rng.bernoulli(options.garbage),
        }
    }

    /// The time that event `index` is stamped with.
    pub fn time(&self, index: u64) -> EventTime {
        self.schedule.base(index).minus(self.fate(index).jitter)
    }

    /// Appends the lines of event `index`, without newlines and each only once, to `bytes`.
    pub fn append(&self, index: u64, bytes: &mut Vec<u8>) -> Lines {
        let fate = self.fate(index);
        let time = self.schedule.base(index).minus(fate.jitter);
        let start = bytes.len();
        let mut rng = EventRng::new(self.options.seed, index, Stream::Values);
        self.model.value(index, time, &mut rng, bytes);
        let end = bytes.len();
        let garbage = fate.garbage.then(|| {
            let mut rng = EventRng::new(self.options.seed, index, Stream::Garbage);
            push_garbage(&mut rng, start..end, bytes);
            (end as u32, bytes.len() as u32)
        });
        Lines {
            value: (start as u32, end as u32),
            repeated: fate.repeated,
            garbage,
        }
    }
}

/// Appends one line that no pipeline can decode; `value` is the event before it. Each kind is
/// rejected whatever the schema: none is a whole JSON document with a time.
fn push_garbage(rng: &mut EventRng, value: std::ops::Range<usize>, bytes: &mut Vec<u8>) {
    match rng.below(6) {
        // The event, cut off.
        0 => {
            let length = 1 + rng.below((value.len() as u64).saturating_sub(1)) as usize;
            bytes.extend_from_within(value.start..value.end.min(value.start + length));
        }
        // The event with a byte that never occurs in UTF-8.
        1 => {
            let at = bytes.len() + rng.below(value.len() as u64) as usize;
            bytes.extend_from_within(value);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = 0xff;
            }
        }
        2 => bytes.extend_from_slice(b"{}"),
        3 => bytes.extend_from_slice(br#"{"value":NaN}"#),
        // Neither a time nor a key.
        4 => bytes.extend_from_slice(br#"{"note":"no time here","value":1}"#),
        _ => bytes.extend_from_slice(b"-- this is not JSON --"),
    }
}
