//! Ctrl-C and SIGTERM: the first asks for a clean end, the second ends at once.
//!
//! Both signals are blocked in all threads and taken by one that waits for nothing else, so that
//! none of this happens inside a signal handler, and so that the second is heard whatever the
//! first has started: even a message may wait, for a terminal that somebody has stopped.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use crate::terminal;

/// What the first signal is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The command ends by itself, in good order.
    Finish,
    /// There is nothing to bring in order yet: the process ends at once. Whoever waits for a
    /// server that does not answer hears nothing.
    Leave,
}

/// The signals of this process, from now on.
#[derive(Clone, Debug)]
pub struct Signals(Arc<AtomicI32>);

impl Signals {
    /// Takes the signals; `on_first` is called once, on a thread of its own. To be called before
    /// any other thread is started.
    pub fn take(on_first: impl FnOnce() -> Answer + Send + 'static) -> io::Result<Self> {
        Self::take_with(Duration::ZERO, on_first)
    }

    /// The same, in a process that is supervised: what comes within `together` of the first is no
    /// second one. Whoever asks all processes at once, as service managers do, reaches this one
    /// twice, itself and through the one that supervises it.
    pub fn take_with(
        together: Duration,
        on_first: impl FnOnce() -> Answer + Send + 'static,
    ) -> io::Result<Self> {
        let set = block()?;
        let received = Arc::new(AtomicI32::new(0));
        let signals = Self(Arc::clone(&received));
        let (tell, told) = bounded(1);
        start("stopping", move || {
            if let Ok(signal) = told.recv()
                && on_first() == Answer::Leave
            {
                leave(signal);
            }
        })?;
        start("signals", move || {
            let first = wait_for(&set);
            let came = Instant::now();
            received.store(first, Ordering::SeqCst);
            // That thread waits for this, and there is room for it.
            let _ = tell.send(first);
            let mut last = wait_for(&set);
            while came.elapsed() < together {
                last = wait_for(&set);
            }
            leave(last);
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

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(work).map(drop)
}

fn code(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// Blocks SIGINT and SIGTERM in this thread and in all that it starts.
fn block() -> io::Result<libc::sigset_t> {
    // SAFETY: a sigset_t is a plain C struct of integers, for which all zeroes are a valid value.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a local that outlives the calls, and nobody else has a pointer to it. It is
    // made empty before anything is added to it, and both signals are valid numbers, so that none
    // of the three calls can fail.
    unsafe {
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
    }
    // SAFETY: `set` was initialised above and is only read; the old mask may be a null pointer, by
    // which it is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(set),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn wait_for(set: &libc::sigset_t) -> i32 {
    let mut signal = 0;
    // SAFETY: `set` was initialised by `block`, whose result is the only set there is, and is only
    // read; `signal` is a local that outlives the call. Its signals are blocked in every thread, as
    // sigwait demands. It fails only for a set that is none.
    while unsafe { libc::sigwait(set, &raw mut signal) } != 0 {}
    signal
}

/// Ends the process, without waiting for anything.
fn leave(signal: i32) -> ! {
    terminal::give_up_line();
    // SAFETY: takes no pointer and does not return. Nothing that this process holds needs to be
    // dropped: locks are freed by the system, and a file that is only half written has no name yet
    // or is cut when it is opened again.
    unsafe { libc::_exit(i32::from(code(signal))) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn codes_tell_the_signals_apart() {
        assert_eq!([libc::SIGINT, libc::SIGTERM].map(super::code), [130, 143]);
    }
}
