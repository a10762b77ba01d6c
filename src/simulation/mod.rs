//! The exactly-once code under a seeded scheduler: the engine as it runs in production, with
//! simulated storage, databases, brokers, files and clocks, and coroutines in place of threads.
//!
//! An execution is a function of its seed: in which order threads take their steps, what is lost,
//! when a run is killed or left behind, with how many workers the next one starts. Each step of
//! the outside world is one pause of a coroutine, so that anything can come between any two. After
//! it everything that was ever visible is compared with an oracle that knows only the input and
//! the logged decisions.
//!
//! | module | what it holds |
//! |---|---|
//! | `machine` | coroutines and the clock, behind [`crate::host`] |
//! | `chance`, `world` | what is random; everything outside the runs |
//! | `storage`, `source`, `sinks` | the interfaces of the engine to that world |
//! | `table`, `topic`, `lines`, `files` | a database, brokers, a file of lines, files that appear whole |
//! | `pipeline`, `rows` | what is run, and what comes out |
//! | `run`, `execution` | one run; runs that follow and disturb each other |
//! | `oracle`, `check` | what must have come out, and whether it has |
//! | `tests`, `directed` | executions in numbers; rules that chance rarely hits |
//! | `rules` | rules of the protocol that are switched off |

mod chance;
mod check;
mod directed;
mod execution;
mod files;
mod lines;
pub(crate) mod machine;
mod oracle;
mod pipeline;
mod rows;
pub(crate) mod rules;
mod run;
mod sinks;
mod source;
mod storage;
mod table;
mod tests;
mod topic;
mod trace;
mod world;
