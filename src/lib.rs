//! An event-time stream processing engine on timely and differential dataflow.
//!
//! The way from the top to the bottom, each layer importing only those below it:
//!
//! | layer | what it holds |
//! |---|---|
//! | [`cluster`] | several processes that are one run |
//! | [`schema`] | messages whose schema a registry has |
//! | [`source`], [`sink`] | where records come from and where results go, on threads of their own |
//! | [`tables`] | where dimension tables are |
//! | [`state`] | the epoch log, checkpoints and manifests: what a run goes on from |
//! | [`rows`] | typed rows between the two |
//! | [`time`] | times, epochs, partitions, offsets, shards |

pub mod aggregate;
pub mod cli;
pub mod cluster;
pub mod decode;
pub mod epoch;
mod fault;
pub mod flow;
pub mod hash;
mod host;
#[cfg(feature = "http")]
mod http;
pub mod join;
pub mod ledger;
pub mod rows;
mod rules;
pub mod runtime;
#[cfg(feature = "s3")]
mod s3;
#[cfg(feature = "schema-registry")]
pub mod schema;
#[cfg(test)]
mod simulation;
pub mod sink;
pub mod source;
pub mod state;
pub mod tables;
pub mod terminal;
pub mod time;
pub mod watermark;
pub mod window;
pub mod wire;
