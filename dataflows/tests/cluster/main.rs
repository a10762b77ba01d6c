//! Several processes as one run, as people start them: by `-n` alone, and by hand with `-p`.
//!
//! Whatever happens to processes, what is in the files at the end is what one process alone makes.

#![cfg(target_os = "linux")]

mod by_hand;
mod flow;
mod killed;
mod same;
mod support;
mod tables;
