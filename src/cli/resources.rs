//! What the process has used.

use std::time::Duration;

/// What the process has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// CPU time, user and system, of all threads.
    pub cpu: Duration,
    /// The most memory that was resident at once, in bytes.
    pub peak_rss: u64,
}

impl Resources {
    /// As the system counts them now.
    pub fn now() -> Self {
        // SAFETY: all-zero is a valid rusage, and the pointer is valid for the call.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
            usage
        };
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
    // SAFETY: all-zero is a valid winsize, and the pointer is valid for the call.
    let (result, size) = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        let result = libc::ioctl(libc::STDERR_FILENO, libc::TIOCGWINSZ, &raw mut size);
        (result, size)
    };
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
