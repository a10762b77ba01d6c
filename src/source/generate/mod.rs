//! The generator: a log of events that is a pure function of a model, options and a seed.
//!
//! | module | what it holds |
//! |---|---|
//! | [`rng`] | the random numbers of one event |
//! | [`text`] | numbers as text, without float formatting |
//! | `options` | [`GeneratorOptions`] and the [`Schedule`] of the events |
//! | `log` | [`EventLog`]: event by event, when it is stamped and which lines it becomes |
//! | `route` | which partition an event belongs to, and the walk over those of one partition |
//! | `embedded` | [`GeneratorSource`]: the log as a source inside the process |
//! | `files` | [`write_files`]: the log as files |
//! | `drive` | the log on its way out, event by event; [`crate::sink::kafka`] writes topics with it |
//!
//! The same log comes out of each: partition `p` of the source, of the folder and of the topic
//! hold the same records in the same order.

use crate::time::EventTime;

pub use self::embedded::GeneratorSource;
pub use self::error::GenerateError;
pub use self::files::{Target, write_files};
pub use self::log::{EventLog, Lines};
pub use self::options::{GeneratorOptions, Schedule};
pub use self::progress::Progress;
pub use self::rng::EventRng;

pub(crate) mod drive;
mod embedded;
mod error;
mod files;
mod log;
mod options;
mod pace;
mod progress;
pub mod rng;
mod route;
pub mod text;

#[cfg(test)]
mod tests;

/// The events of a pipeline: event `index` is a pure function of the model, the seed and `index`.
pub trait EventModel: Send + Sync {
    /// Appends the message key of event `index`: the entity that it is about. Nothing: no key, and
    /// the events go round the partitions. Cheap, and without random draws, because each partition
    /// asks it of the events that are not its own.
    fn key(&self, index: u64, out: &mut Vec<u8>);

    /// The number of events after which the keys repeat: `key(i) == key(i + n)` for every `i`,
    /// none of them empty. `None` when there is no such number; then a partition looks at the key
    /// of every event.
    fn key_period(&self) -> Option<u64> {
        None
    }

    /// Appends event `index`, stamped with `time`, as one line without its newline.
    fn value(&self, index: u64, time: EventTime, rng: &mut EventRng, out: &mut Vec<u8>);
}
