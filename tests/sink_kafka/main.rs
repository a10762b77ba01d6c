//! Writing to a real broker, one that is killed in the middle included. `dev/test` runs it; or:
//! `dev/services up --only kafka`, `eval "$(dev/services env)"`, `cargo test --test sink_kafka --
//! --ignored`.
//!
//! What was written is read back with a client of its own, message by message: partition, key,
//! offset and text are compared with what the rows say.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    clippy::large_stack_arrays,
    clippy::unused_self,
    clippy::wildcard_imports,
    clippy::decimal_bitwise_operands,
    reason = "a test fails by panicking, and tells its whole story in one place"
)]
#![cfg(feature = "kafka")]

mod fixture;
mod plain;
mod transactions;
