//! Who the processes are and where they listen.

use std::ops::Range;

/// Which process of how many this is, and how many workers each has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The index of this process.
    pub process: usize,
    /// How many there are.
    pub processes: usize,
    /// How many workers each has.
    pub workers: usize,
}

impl Shape {
    /// How many workers there are in all processes.
    pub const fn peers(self) -> usize {
        self.processes * self.workers
    }

    /// Whether this is the process that leads.
    pub const fn leads(self) -> bool {
        self.process == 0
    }

    /// The other processes.
    pub fn others(self) -> impl Iterator<Item = usize> {
        (0..self.processes).filter(move |process| *process != self.process)
    }

    /// The workers of this process.
    pub const fn own_workers(self) -> Range<usize> {
        let first = self.process * self.workers;
        first..first + self.workers
    }
}

/// The addresses in a hostfile: `HOST:PORT`, one a line, that of process 0 first. Blank lines, and
/// what follows a `#`, count for nothing.
///
/// # Errors
/// When a line is no address, one is there twice, or there are fewer than `processes`: with the
/// number of the line.
pub fn parse(text: &str, processes: usize) -> Result<Vec<String>, String> {
    let mut addresses: Vec<String> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        check_address(line).map_err(|error| format!("line {number}: {line:?}: {error}"))?;
        if addresses.iter().any(|address| address == line) {
            return Err(format!(
                "line {number}: {line} is there twice; each process listens at its own address"
            ));
        }
        addresses.push(line.to_owned());
    }
    if addresses.len() < processes {
        return Err(format!(
            "it names {} of {processes} processes; it needs a line HOST:PORT for each",
            addresses.len()
        ));
    }
    addresses.truncate(processes);
    Ok(addresses)
}

/// Whether `text` is `HOST:PORT`.
///
/// # Errors
/// When it is not.
pub fn check_address(text: &str) -> Result<(), String> {
    let wrong = || "an address is HOST:PORT, such as 10.0.0.7:2101 or [::1]:2101".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    let is_host = !host.is_empty() && !host.contains(char::is_whitespace);
    let has_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    if is_host && has_port && (is_bracketed || !host.contains(':')) {
        Ok(())
    } else {
        Err(wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_process() {
        let text = "# ours\n10.0.0.1:2101\n\n  host-b:2102   # the second\n[::1]:2103\n";
        let all = ["10.0.0.1:2101", "host-b:2102", "[::1]:2103"];
        assert_eq!(parse(text, 3).expect("valid"), all);
        assert_eq!(parse(text, 2).expect("valid"), all[..2]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, meant) in [
            ("a:1\nb\n", "line 2: \"b\""),
            ("a:1\na:1\n", "line 2: a:1 is there twice"),
            ("a:1\n", "1 of 2"),
            ("a:0\nb:1\n", "line 1"),
            ("a:70000\nb:1\n", "line 1"),
            ("::1:5\nb:1\n", "line 1"),
        ] {
            let error = parse(text, 2).expect_err("wrong");
            assert!(error.contains(meant), "{text:?}: {error}");
        }
    }

    #[test]
    fn workers_are_numbered_by_process() {
        let shape = Shape {
            process: 1,
            processes: 3,
            workers: 2,
        };
        assert_eq!((shape.peers(), shape.own_workers()), (6, 2..4));
        assert_eq!(shape.others().collect::<Vec<_>>(), [0, 2]);
    }
}
