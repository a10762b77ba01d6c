//! What a run shows over HTTP.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// Asks `HOST:PORT` for `path`; `None`: nobody listens there, or it was cut off.
pub fn get(address: &str, path: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .ok()?;
    // Of version 1.0, so that the answer comes in one piece and ends with the connection.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some(Answer {
        status: head.split(' ').nth(1)?.parse().ok()?,
        body: body.to_owned(),
    })
}

/// So many ports that follow each other and that nobody listens on now; the first of them.
pub fn free_ports(count: u16) -> u16 {
    // Below the range from which the system takes ports for connections; tests beside this one get
    // others.
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let start = 10_000 + (std::process::id() % 600) as u16 * 16;
    loop {
        let first = start + GIVEN.fetch_add(count, Ordering::Relaxed);
        assert!(first < 32_000, "no free ports");
        if (first..first + count).all(is_free) {
            return first;
        }
    }
}

/// The series of a text of metrics, by name and labels.
#[derive(Debug, Default)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// What is at `address` now; `None`: nobody answers.
    pub fn of(address: &str) -> Option<Self> {
        let answer = get(address, "/metrics")?;
        assert_eq!(answer.status, 200, "{answer:?}");
        Some(Self::parse(&answer.body))
    }

    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a series");
            (name.to_owned(), value.parse().expect("a number"))
        });
        Self(series.collect())
    }

    /// The value of one series.
    #[track_caller]
    pub fn value(&self, series: &str) -> f64 {
        self.find(series)
            .unwrap_or_else(|| panic!("{series} is not among {:#?}", self.0))
    }

    /// The value of one series, if it is there.
    pub fn find(&self, series: &str) -> Option<f64> {
        self.0.get(series).copied()
    }

    /// The sum over all series of a family.
    pub fn sum(&self, family: &str) -> f64 {
        let own = |name: &String| name.split('{').next() == Some(family);
        let own = self.0.iter().filter(|(name, _)| own(name));
        own.map(|(_, value)| value).sum()
    }
}
