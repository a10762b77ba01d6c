//! What people see: messages on standard error, and the one line there that is updated in place.
//!
//! The line is a property of the terminal, so it is one per process. Whoever writes to standard
//! output or standard error takes it away first ([`pause`], [`message`]) and it comes back after.
//! A standard error that cannot be written never disturbs a run.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// To the first column, and erase what stands there.
const ERASE: &[u8] = b"\r\x1b[2K";

static LINE: Mutex<String> = Mutex::new(String::new());

/// An error and what is not already said of its causes.
#[cfg(any(feature = "s3", feature = "schema-registry"))]
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// The line is away while this lives. Nobody else writes a message meanwhile.
#[must_use = "the line comes back when this is dropped"]
pub struct Pause(MutexGuard<'static, String>);

impl Drop for Pause {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            put(self.0.as_bytes());
        }
    }
}

/// Takes the line away until the result is dropped.
pub fn pause() -> Pause {
    let line = LINE.lock().unwrap_or_else(PoisonError::into_inner);
    if !line.is_empty() {
        put(ERASE);
    }
    Pause(line)
}

/// Shows `text` as the line that is updated in place; empty: no line any more. Only for a
/// standard error that is a terminal.
pub fn set_line(text: &str) {
    let mut pause = pause();
    text.clone_into(&mut pause.0);
}

/// Takes the line away for good, unless somebody is just writing: never waits for anybody.
pub fn give_up_line() {
    if let Ok(mut line) = LINE.try_lock()
        && !line.is_empty()
    {
        line.clear();
        put(ERASE);
    }
}

/// Writes one message to standard error.
pub fn message(text: fmt::Arguments<'_>) {
    if crate::host::overhears(text) {
        return;
    }
    let _pause = pause();
    put(format!("{text}\n").as_bytes());
}

fn put(bytes: &[u8]) {
    let mut stderr = io::stderr().lock();
    // Nobody reads it: then there is nobody to be told.
    let _ = stderr.write_all(bytes).and_then(|()| stderr.flush());
}
