//! Ctrl-C and SIGTERM: the first asks for a clean end, the second ends at once.
//!
//! Both signals are blocked in all threads and taken by one that waits for nothing else, so that
//! none of this happens inside a signal handler.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::terminal;

/// The signals of this process, from now on.
#[derive(Clone, Debug)]
pub struct Signals(Arc<AtomicI32>);

impl Signals {
    /// Takes the signals; `on_first` is called once, on a thread of its own. To be called before
    /// any other thread is started.
    pub fn take(on_first: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let set = block()?;
        let received = Arc::new(AtomicI32::new(0));
        let signals = Self(Arc::clone(&received));
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                received.store(wait_for(&set), Ordering::SeqCst);
                on_first();
                abort(wait_for(&set));
            })?;
        Ok(signals)
    }

    /// Whether one came.
    pub fn is_received(&self) -> bool {
        self.exit_code().is_some()
    }

    /// The exit code after the signal that came: 130 or 143.
    pub fn exit_code(&self) -> Option<u8> {
        match self.0.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(code(signal)),
        }
    }
}

fn code(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// Blocks SIGINT and SIGTERM in this thread and in all that it starts.
fn block() -> io::Result<libc::sigset_t> {
    // SAFETY: an all-zero set is a valid place for sigemptyset to write to; all pointers are to
    // locals that live through the calls.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        match libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) {
            0 => Ok(set),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

fn wait_for(set: &libc::sigset_t) -> i32 {
    let mut signal = 0;
    // SAFETY: both pointers are valid for the call. It fails only for a set that is no set.
    while unsafe { libc::sigwait(set, &raw mut signal) } != 0 {}
    signal
}

fn abort(signal: i32) -> ! {
    terminal::set_line("");
    // SAFETY: ends the process without running anything that might wait.
    unsafe { libc::_exit(i32::from(code(signal))) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn codes_tell_the_signals_apart() {
        assert_eq!([libc::SIGINT, libc::SIGTERM].map(super::code), [130, 143]);
    }
}
