//! What the process has used.

use std::time::Duration;

use crate::cluster::Usage;

/// What the process has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// CPU time, user and system, of all threads.
    pub cpu: Duration,
    /// The most memory that was resident at once, in bytes.
    pub peak_rss: u64,
}

impl Resources {
    /// Together with what other processes have used.
    pub fn with(self, elsewhere: Usage) -> Self {
        Self {
            cpu: self.cpu + elsewhere.cpu,
            peak_rss: self.peak_rss + elsewhere.peak_rss,
        }
    }

    /// The memory that is resident now, in bytes; `None` where the system does not say.
    #[cfg_attr(
        not(feature = "http"),
        expect(dead_code, reason = "only /metrics shows it")
    )]
    pub fn resident() -> Option<u64> {
        let text = std::fs::read_to_string("/proc/self/statm").ok()?;
        let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
        // SAFETY: it takes no pointer and only reads a constant of the system.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        u64::try_from(page).ok().map(|page| pages * page)
    }

    /// As the system counts them now.
    pub fn now() -> Self {
        // SAFETY: a rusage is a plain C struct of integers, for which all zeroes are a valid value.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: `usage` is a local that outlives the call, and nobody else has a pointer to it.
        // When the call fails, the zeroes stay.
        unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
        let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
        Self {
            cpu: duration(usage.ru_utime) + duration(usage.ru_stime),
            peak_rss: u64::try_from(usage.ru_maxrss).unwrap_or(0) * unit,
        }
    }
}

fn duration(time: libc::timeval) -> Duration {
    let micros = i128::from(time.tv_sec) * 1_000_000 + i128::from(time.tv_usec);
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// How many columns the terminal on standard error has, if it says.
pub fn terminal_width() -> Option<usize> {
    // SAFETY: a winsize is a plain C struct of integers, for which all zeroes are a valid value.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: this request writes one winsize, to a local that outlives the call and to which
    // nobody else has a pointer; a descriptor that is closed or no terminal is an error result.
    let result = unsafe { libc::ioctl(libc::STDERR_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0).then_some(usize::from(size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_used_something() {
        let now = Resources::now();
        assert!(now.peak_rss > 100_000, "{now:?}");
    }
}
