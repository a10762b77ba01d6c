//! The pipelines end to end: the real binary, real files, and where a test says so real servers;
//! what comes out is compared with what a plain loop over the input says ([`support::naive`]) and
//! with what a database says (`tests/oracle`). No code of the engine takes part in the comparison.
//!
//! | module | what it shows |
//! |---|---|
//! | [`cars`] | windows, late records, ledger: the same for any number of workers, and right |
//! | [`dims`] | dimension tables that change, and cars that are in none |
//! | `dims_places` | the same tables in a folder, a bucket, a database and topics |
//! | `delta` | tables of Delta Lake, as others read them |
//! | [`factory`] | alerts, quarantine, quality and folders of Parquet |
//! | [`fleet`] | what is kept, sliding metrics, bad input, kills; tables and lake |
//! | `turnstile` | copies, counters, a lake of CSV |
//! | [`bad_input`] | input that is broken, outputs that cannot be written |
//! | `state` | jobs that are stopped, killed, started again, refused, replayed |
//! | [`memory`] | memory does not grow with the input |
//! | [`asleep`] | nor while a database sleeps |
//! | `http`, `prometheus` | what a run shows while it goes on is what its report says, and Prometheus reads it |
//! | `registry` | messages whose schema a registry has |
//! | [`kafka`], [`postgres`] | the same results through a broker and in a database, and when they restart |
//!
//! Tests that need a server or Python are ignored here; `dev/test` runs them.

#[cfg(target_os = "linux")]
mod asleep;
mod bad_input;
mod cars;
mod delta;
mod dims;
#[cfg(unix)]
mod dims_places;
mod factory;
mod fleet;
#[cfg(unix)]
mod http;
mod kafka;
mod memory;
mod postgres;
#[cfg(unix)]
mod prometheus;
#[cfg(unix)]
mod registry;
#[cfg(unix)]
mod state;
#[allow(dead_code, reason = "tests/chaos uses the rest of it")]
mod support;
#[cfg(unix)]
mod turnstile;
