//! What the tests share.
//!
//! | module | what it holds |
//! |---|---|
//! | [`place`] | a folder in which commands are run, and what they leave |
//! | [`naive`] | windows and ledger by a plain loop |
//! | [`cars`], [`factory`], [`turnstile`] | the rules of the pipelines, written a second time |
//! | [`services`] | the servers that `dev/test` starts |

pub mod cars;
pub mod factory;
pub mod naive;
pub mod place;
pub mod services;
pub mod turnstile;
