//! The pipelines under chaos: real servers, the real binary, and everything that can happen to
//! them. A job is killed, frozen, cut off or starved in the middle of what it does, is started
//! again, and in the end every sink must hold what one undisturbed run leaves, and what a plain
//! loop over the input says.
//!
//! | module | what it does to a job |
//! |---|---|
//! | [`kills`] | SIGKILL at random moments, with another number of workers at each start |
//! | [`points`] | SIGKILL at each fault point in turn |
//! | [`servers`] | broker, database or object store killed in the middle of a commit |
//! | [`zombies`] | a run that is frozen, succeeded, and thawed; two runs at once |
//! | [`surroundings`] | full disk, read-only state, another clock, other tables, more partitions |
//! | [`network`] | a network that is cut apart |
//! | [`processes`] | one of several processes killed, or frozen |
//! | [`stages`] | stages chained over topics |
//! | [`bed`], [`process`], [`outputs`], [`replicas`] | the job, its process, what its sinks hold |
//!
//! All is drawn from a seed: `HIGHWATER_CHAOS_SEED`, 1 when it is not set. `dev/chaos` runs the
//! long form, `dev/test` the short one (without the tests whose names contain `_long_`). A failure
//! names the seed and keeps its folder.
#![cfg(target_os = "linux")]

mod bed;
mod dice;
mod kills;
mod network;
mod outputs;
mod points;
mod process;
mod processes;
mod replicas;
mod servers;
mod stages;
mod surroundings;
mod zombies;

#[path = "../pipelines/support/mod.rs"]
#[allow(dead_code, reason = "the tests of the pipelines use the rest of it")]
mod support;
