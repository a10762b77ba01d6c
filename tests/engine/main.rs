//! The engine as a whole, on small made inputs: a pipeline of keyed sums, sources and sinks that
//! the test holds in its hands, and a naive batch oracle that shares nothing with the engine but
//! the definitions.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod borders;
mod dead_letters;
mod fixture;
mod idle;
mod ledger;
mod oracle;
mod outputs;
mod windows;
mod wire;
