//! Points at which a test can end, freeze or delay the process: right before and right after
//! everything that another process can see. Compiled in with the feature `fault-points` only.
//!
//! ```text
//! HIGHWATER_FAULT=NAME[:N][:ACTION]    at the N-th time (the first) that NAME is passed:
//!     kill        end as by SIGKILL (what happens when no action is named)
//!     stop        freeze as by SIGSTOP, until somebody sends SIGCONT
//!     sleep:MS    go on so many milliseconds later
//! HIGHWATER_FAULT_CLOCK=MS:OFFSET_MS   so long after the start the wall clock jumps by OFFSET_MS
//! ```
//!
//! | point | is passed |
//! |---|---|
//! | `takeover` | around the put of a takeover |
//! | `log` | around the put of an object of the log with epochs |
//! | `checkpoint` | around the put of a worker's object of a checkpoint |
//! | `manifest` | around the put of an object of the log with a manifest |
//! | `postgres` | around the commit of a transaction; `postgres.begun`: behind its last statement |
//! | `kafka` | around the commit of a transaction; `kafka.begun`: when all of it was sent |
//! | `ndjson` | around the append of an epoch; `ndjson.sync` around the sync of a checkpoint |
//! | `delta` | around the put of an entry in a table's log |
//! | `csv`, `parquet` | around the moment at which a file appears under its name |
//!
//! `NAME` is a point with `.before` or `.after`.

/// The process passes the point `name`.
#[cfg(not(feature = "fault-points"))]
#[cfg_attr(
    not(any(feature = "kafka", feature = "postgres")),
    expect(dead_code, reason = "only transactions have such points")
)]
#[inline(always)]
pub const fn point(_name: &str) {}

/// The process passes a point around which something happens: `.before` or `.after`.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub const fn around(_what: &str, _when: &str) {}

/// How far the wall clock is off, in milliseconds.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub const fn clock_offset_ms() -> i64 {
    0
}

#[cfg(feature = "fault-points")]
pub use self::armed::{around, clock_offset_ms, point};

#[cfg(any(test, feature = "fault-points"))]
#[cfg_attr(
    not(feature = "fault-points"),
    allow(
        dead_code,
        reason = "what is understood is tested without the feature, too"
    )
)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    /// What happens at a point.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Action {
        Kill,
        Stop,
        Sleep(Duration),
    }

    /// What `HIGHWATER_FAULT` says.
    #[derive(Debug)]
    struct Fault {
        name: String,
        nth: u64,
        action: Action,
        passed: AtomicU64,
    }

    impl Fault {
        fn parse(text: &str) -> Option<Self> {
            let mut words = text.split(':').peekable();
            let name = words.next().filter(|name| !name.is_empty())?.to_owned();
            let nth = words.next_if(|word| word.parse::<u64>().is_ok());
            let nth = nth.map_or(Some(1), |nth| nth.parse().ok())?;
            let action = match (words.next(), words.next()) {
                (None | Some("kill"), None) => Action::Kill,
                (Some("stop"), None) => Action::Stop,
                (Some("sleep"), Some(ms)) => Action::Sleep(Duration::from_millis(ms.parse().ok()?)),
                _ => return None,
            };
            let passed = AtomicU64::new(0);
            (words.next().is_none() && nth > 0).then_some(Self {
                name,
                nth,
                action,
                passed,
            })
        }

        /// What is due now that `what` and `when` are passed.
        fn pass(&self, what: &str, when: &str) -> Option<Action> {
            let rest = self.name.strip_prefix(what)?;
            let is_here = rest == when || rest.strip_prefix('.') == Some(when);
            let is_due = is_here && self.passed.fetch_add(1, Ordering::SeqCst) + 1 == self.nth;
            is_due.then_some(self.action)
        }
    }

    /// The value of a variable, understood once.
    ///
    /// # Panics
    /// When it cannot be understood: a test that sets it wrongly must not pass.
    fn setting<T>(variable: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = std::env::var(variable).ok()?;
        let value = parse(&text);
        assert!(value.is_some(), "{variable}={text:?} cannot be understood");
        value
    }

    /// The process passes the point `name`.
    pub fn point(name: &str) {
        around(name, "");
    }

    /// The process passes a point around which something happens: `.before` or `.after`.
    ///
    /// # Panics
    /// When `HIGHWATER_FAULT` cannot be understood.
    pub fn around(what: &str, when: &str) {
        static FAULT: OnceLock<Option<Fault>> = OnceLock::new();
        let fault = FAULT.get_or_init(|| setting("HIGHWATER_FAULT", Fault::parse));
        let Some(action) = fault.as_ref().and_then(|fault| fault.pass(what, when)) else {
            return;
        };
        eprintln!("fault: {what}.{when}: {action:?}");
        match action {
            Action::Kill => raise(libc::SIGKILL),
            Action::Stop => raise(libc::SIGSTOP),
            Action::Sleep(time) => std::thread::sleep(time),
        }
    }

    fn raise(signal: libc::c_int) {
        // SAFETY: no memory is involved; a process may send itself any signal.
        unsafe { libc::kill(libc::getpid(), signal) };
        if signal == libc::SIGKILL {
            // It has been sent, and ends all threads.
            loop {
                std::thread::park();
            }
        }
    }

    /// How far the wall clock is off, in milliseconds.
    ///
    /// # Panics
    /// When `HIGHWATER_FAULT_CLOCK` cannot be understood.
    pub fn clock_offset_ms() -> i64 {
        static JUMP: OnceLock<Option<(Instant, i64)>> = OnceLock::new();
        let parse = |text: &str| {
            let (after, by) = text.split_once(':')?;
            let after = Duration::from_millis(after.parse().ok()?);
            Some((Instant::now() + after, by.parse().ok()?))
        };
        let jump = JUMP.get_or_init(|| setting("HIGHWATER_FAULT_CLOCK", parse));
        jump.map_or(0, |(at, by)| if Instant::now() < at { 0 } else { by })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn parsed(text: &str) -> Option<(String, u64, Action)> {
            Fault::parse(text).map(|it| (it.name, it.nth, it.action))
        }

        #[test]
        fn faults_are_understood() {
            let of = |name: &str, nth, action| Some((name.to_owned(), nth, action));
            let slow = Action::Sleep(Duration::from_millis(70));
            assert_eq!(parsed("log.before"), of("log.before", 1, Action::Kill));
            assert_eq!(parsed("log.after:3"), of("log.after", 3, Action::Kill));
            assert_eq!(parsed("csv.before:stop"), of("csv.before", 1, Action::Stop));
            assert_eq!(parsed("a.after:2:sleep:70"), of("a.after", 2, slow));
            for wrong in ["", ":1", "a:0", "a:stop:1", "a:sleep", "a:kill:x", "a:b"] {
                assert_eq!(parsed(wrong), None, "{wrong}");
            }
        }

        #[test]
        fn a_fault_comes_once_at_its_time_and_place() {
            let fault = Fault::parse("log.before:2").unwrap();
            assert_eq!(fault.pass("log", "after"), None);
            assert_eq!(fault.pass("lo", "before"), None);
            assert_eq!(fault.pass("log", "before"), None);
            assert_eq!(fault.pass("log", "before"), Some(Action::Kill));
            assert_eq!(fault.pass("log", "before"), None);
            let whole = Fault::parse("kafka.begun").unwrap();
            assert_eq!(whole.pass("kafka.begun", ""), Some(Action::Kill));
        }
    }
}
