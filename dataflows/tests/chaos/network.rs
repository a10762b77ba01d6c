//! A network that is cut apart. The job runs in a network namespace of its own, which reaches the
//! servers over one virtual cable:
//!
//! ```text
//! namespace: job -- 127.0.0.1:PORT, relay -- cable -- host's end:PORT, relay -- 127.0.0.1:PORT, server
//! ```
//!
//! While the cable is cut nobody gets an answer, and nobody is told that there is none.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::bed::{Bed, Pipeline, Victims, left_out};
use crate::dice::is_long;
use crate::outputs::{Output, Sink, Site};

/// A namespace with a cable.
struct Cable {
    namespace: String,
    link: String,
    /// The addresses of its ends.
    host: String,
    inside: String,
}

fn ip(line: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(line.split_whitespace()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

impl Cable {
    /// To these servers of this host; `None`, with a message, where this user may not do that.
    fn lay(scenario: &str, ports: &[u16]) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = (std::process::id() * 4 + NEXT.fetch_add(1, Ordering::SeqCst)) % 60_000;
        let cable = Self {
            namespace: format!("highwater-{number}"),
            link: format!("hw{number}"),
            host: format!("10.213.{}.{}", number / 250, number % 250),
            inside: format!("10.214.{}.{}", number / 250, number % 250),
        };
        let (namespace, link) = (&cable.namespace, &cable.link);
        let (host, inside) = (&cable.host, &cable.inside);
        let made = [
            format!("netns add {namespace}"),
            format!("link add {link} type veth peer name cable netns {namespace}"),
            format!("addr add {host} peer {inside} dev {link}"),
            format!("link set {link} up"),
            format!("-n {namespace} addr add {inside} peer {host} dev cable"),
            format!("-n {namespace} link set cable up"),
            format!("-n {namespace} link set lo up"),
        ];
        if !made.iter().all(|line| ip(line)) {
            left_out(
                scenario,
                "no network namespace can be made here; that needs root and iproute2",
            );
            return None;
        }
        for port in ports {
            relay(None, (host, *port), ("127.0.0.1", *port));
            relay(Some(namespace), ("127.0.0.1", *port), (host, *port));
        }
        Some(cable)
    }

    fn cut(&self) {
        assert!(ip(&format!("link set {} down", self.link)));
    }

    fn mend(&self) {
        assert!(ip(&format!("link set {} up", self.link)));
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        ip(&format!("link del {}", self.link));
        ip(&format!("netns del {}", self.namespace));
    }
}

/// Takes this thread, and no other, into a namespace.
fn enter(namespace: &str) {
    let file = File::open(format!("/run/netns/{namespace}")).expect("a namespace");
    // SAFETY: the descriptor is open until the call returns.
    let entered = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(entered, 0, "{}", std::io::Error::last_os_error());
}

/// Hands every connection at `from` on to `to`, both as `namespace` sees them.
fn relay(namespace: Option<&str>, from: (&str, u16), to: (&str, u16)) {
    let namespace = namespace.map(str::to_owned);
    let (from, to) = ((from.0.to_owned(), from.1), (to.0.to_owned(), to.1));
    let (ready, is_ready) = mpsc::channel();
    thread::spawn(move || {
        if let Some(namespace) = &namespace {
            enter(namespace);
        }
        let listener = TcpListener::bind((from.0.as_str(), from.1)).expect("a port");
        ready.send(()).expect("somebody waits");
        for near in listener.incoming().flatten() {
            // Threads inherit the namespace.
            let to = to.clone();
            thread::spawn(move || {
                let Ok(far) = TcpStream::connect((to.0.as_str(), to.1)) else {
                    return;
                };
                let (Ok(near2), Ok(far2)) = (near.try_clone(), far.try_clone()) else {
                    return;
                };
                thread::spawn(move || copy(near2, far2));
                copy(far, near);
            });
        }
    });
    is_ready.recv().expect("it listens");
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// The ports of all servers.
fn servers(bed: &Bed) -> [u16; 3] {
    let Site {
        kafka, postgres, ..
    } = &bed.site;
    [kafka.clone(), postgres.clone(), bed.object_store()].map(|address| port(&address))
}

fn port(address: &str) -> u16 {
    let last = address.rsplit(':').next().unwrap_or_default();
    let digits: String = last.chars().take_while(char::is_ascii_digit).collect();
    digits
        .parse()
        .unwrap_or_else(|_| panic!("no port in {address}"))
}

const OUTPUTS: &[Output] = &[
    Output::new("windows", Sink::Postgres),
    Output::new("windows", Sink::Kafka),
    Output::new("alerts", Sink::Kafka),
    Output::new("alerts", Sink::ParquetBucket),
    Output::new("alerts", Sink::Postgres),
];

fn cut_off(scenario: &'static str, away: Duration, has_heir: bool) {
    let mut bed = Bed::new(scenario, Pipeline::Factory, Victims::Nobody, OUTPUTS);
    bed.state = bed.bucket_state();
    // Shorter than the cable is cut.
    "--kafka transaction.timeout.ms=3000 --kafka socket.timeout.ms=3000".clone_into(&mut bed.flags);
    let ports = servers(&bed);
    let Some(cable) = Cable::lay(scenario, &ports) else {
        return;
    };
    for _ in 0..if is_long() { 3 } else { 1 } {
        bed.namespace = Some(cable.namespace.clone());
        let mut run = bed.start_any();
        bed.until_it_works(&mut run);
        // In the middle of the next commits.
        bed.feed(1500);
        cable.cut();
        bed.cuts += 1;
        let mut heir = None;
        if has_heir {
            bed.namespace = None;
            let mut next = bed.start_any();
            bed.until_it_works(&mut next);
            heir = Some(next);
        } else {
            thread::sleep(away);
        }
        assert!(run.is_alive(), "{}", run.said());
        cable.mend();
        bed.feed(500);
        if let Some(mut heir) = heir {
            run.ends_with(4);
            bed.until_it_works(&mut heir);
            bed.kill(heir);
        } else {
            bed.until_it_works(&mut run);
            bed.kill(run);
        }
    }
    bed.namespace = None;
    bed.drain();
    bed.compare();
}

/// The servers are not there for longer than a transaction may take.
#[test]
#[ignore = "needs kafka, postgres and s3: run dev/test"]
fn kafka_long_network_cut_for_longer_than_the_time_outs() {
    cut_off(
        "long_network_cut_for_longer_than_the_time_outs",
        Duration::from_secs(12),
        false,
    );
}

/// Another run takes the job over while this one is cut off.
#[test]
#[ignore = "needs kafka, postgres and s3: run dev/test"]
fn kafka_network_cut_and_taken_over() {
    cut_off("network_cut_and_taken_over", Duration::ZERO, true);
}

/// Two processes of a run are cut apart: each loses the other, and one of them all servers. Both
/// end within their deadline, and the next pair goes on.
#[test]
#[ignore = "needs kafka, postgres and s3: run dev/test"]
fn kafka_network_cut_between_processes() {
    let scenario = "network_cut_between_processes";
    let mut bed = Bed::new(scenario, Pipeline::Factory, Victims::Nobody, OUTPUTS);
    bed.state = bed.bucket_state();
    let ports = servers(&bed);
    let Some(cable) = Cable::lay(scenario, &ports) else {
        return;
    };
    for round in 0..if is_long() { 4 } else { 1 } {
        // Whichever is cut off.
        let inner = bed.dice.within(0..2) as usize;
        let mut addresses = vec![format!("{}:{}", cable.host, 7700 + round); 2];
        addresses[inner] = format!("{}:{}", cable.inside, 7700 + round);
        bed.place.write("hosts", addresses.join("\n"));
        let mut pair = Vec::new();
        for index in 0..2 {
            bed.namespace = (index == inner).then(|| cable.namespace.clone());
            let flags = format!("-n 2 -p {index} --hostfile hosts --heartbeat-timeout 2s");
            pair.push(bed.start(1, &flags, &[]));
        }
        bed.until_it_works(&mut pair[0]);
        bed.feed(1000);
        cable.cut();
        bed.cuts += 1;
        for (index, process) in pair.into_iter().enumerate() {
            let said = process.ends_with(70);
            assert!(said.contains(&format!("process {} (", 1 - index)), "{said}");
        }
        cable.mend();
    }
    bed.namespace = None;
    bed.drain();
    bed.compare();
}
