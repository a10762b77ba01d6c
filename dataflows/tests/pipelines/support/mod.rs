//! What the tests share.
//!
//! | module | what it holds |
//! |---|---|
//! | [`place`] | a folder in which commands are run, and what they leave |
//! | [`naive`] | windows and ledger by a plain loop |
//! | [`cars`], [`factory`], [`fleet`], [`turnstile`] | the rules of the pipelines, written a second time |
//! | [`http`] | what a run shows over HTTP |
//! | [`services`] | the servers that `dev/test` starts |

pub mod cars;
pub mod factory;
pub mod fleet;
pub mod http;
pub mod naive;
pub mod place;
pub mod services;
pub mod turnstile;
