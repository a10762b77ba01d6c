//! The pipelines of highwater, one folder each, and their registry.

pub mod cars;
pub mod factory;
pub mod fleet;
pub mod registry;
pub mod turnstile;
