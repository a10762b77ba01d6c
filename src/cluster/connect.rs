//! The connections between all processes, before a run.
//!
//! Each process calls those with lower numbers and is called by those with higher ones, twice: for
//! data and for messages. Until all are there it waits, and says for whom; strangers, garbage and
//! slow callers cost one connection each. Afterwards nobody can call any more.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use uuid::Uuid;

use super::handshake::{self, Accepted, HandshakeError, Hello, Purpose};
use super::hosts::Shape;
use super::{ClusterError, ClusterOptions, Secret};
use crate::terminal;

/// How long a caller may take to say who it is.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long one attempt to call somebody may take.
const ATTEMPT: Duration = Duration::from_secs(2);
/// How long to wait between two attempts.
const BETWEEN: Duration = Duration::from_millis(200);
/// How often to look for callers.
const LOOK: Duration = Duration::from_millis(10);
/// So many callers at most are asked at once who they are.
const CALLERS: usize = 64;
/// So many refused callers at most are told about.
const SHOWN: usize = 10;
/// People hear for whom a process waits after this, ...
const FIRST_WORD: Duration = Duration::from_secs(2);
/// ... and this often.
const WORDS: Duration = Duration::from_secs(10);

/// All connections of a process: at the place of each other one, its own.
#[derive(Debug)]
pub struct Mesh {
    /// For timely.
    pub data: Vec<Option<TcpStream>>,
    /// For messages.
    pub control: Vec<Option<TcpStream>>,
}

/// Connects this process with all others.
///
/// # Errors
/// When they were started otherwise, or one does not come in time.
pub fn connect(options: &ClusterOptions) -> Result<Mesh, ClusterError> {
    let (events, heard) = unbounded();
    let office = Arc::new(Office {
        shape: options.shape,
        addresses: options.addresses.clone(),
        secret: options.secret.clone(),
        session: Uuid::new_v4(),
        gathered: Mutex::default(),
        events,
        is_over: AtomicBool::new(false),
        callers: AtomicUsize::new(0),
        refused: AtomicUsize::new(0),
    });
    let threads = start(&office, &options.listener)?;
    let outcome = office.wait(&heard, options.connect_timeout);
    office.is_over.store(true, Ordering::SeqCst);
    if outcome.is_ok() {
        // Each has nothing more to do, and nobody may call when this returns.
        threads.into_iter().for_each(|thread| drop(thread.join()));
    }
    outcome
}

fn start(
    office: &Arc<Office>,
    listener: &TcpListener,
) -> Result<Vec<thread::JoinHandle<()>>, ClusterError> {
    let failed = |error: io::Error| ClusterError::Peer(format!("cannot be called: {error}"));
    let listener = listener.try_clone().map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let answering = Arc::clone(office);
    let answer = thread::Builder::new().name("peer-accept".to_owned());
    let mut threads = vec![
        answer
            .spawn(move || answering.answer(&listener))
            .map_err(failed)?,
    ];
    for process in 0..office.shape.process {
        let calling = Arc::clone(office);
        let call = thread::Builder::new().name(format!("peer-dial-{process}"));
        let call = call.spawn(move || calling.call(process)).map_err(failed)?;
        threads.push(call);
    }
    Ok(threads)
}

/// What has happened to a connection.
enum Event {
    /// A process has all of its connections, or lacks one again.
    Changed,
    /// The processes do not fit together.
    Mismatch(String),
    /// This process was called wrongly, for this reason.
    Trouble(usize, String),
}

/// Everything that the threads share while connections are made.
struct Office {
    shape: Shape,
    addresses: Vec<String>,
    secret: Secret,
    session: Uuid,
    gathered: Mutex<Gathered>,
    events: Sender<Event>,
    is_over: AtomicBool,
    callers: AtomicUsize,
    refused: AtomicUsize,
}

/// The connections that are there.
#[derive(Debug, Default)]
struct Gathered(BTreeMap<usize, Pair>);

/// The two connections with one process.
#[derive(Debug)]
struct Pair {
    session: Uuid,
    streams: BTreeMap<Purpose, TcpStream>,
}

impl Gathered {
    /// Adds one. A process that was started again has another session: its earlier connections
    /// are worth nothing any more.
    fn add(&mut self, process: usize, session: Uuid, purpose: Purpose, stream: TcpStream) {
        let pair = self.0.entry(process).or_insert_with(|| Pair {
            session,
            streams: BTreeMap::new(),
        });
        if pair.session != session {
            pair.session = session;
            pair.streams.clear();
        }
        pair.streams.insert(purpose, stream);
    }

    fn has(&self, process: usize) -> bool {
        let pair = self.0.get(&process);
        pair.is_some_and(|pair| pair.streams.len() == 2)
    }

    fn missing(&self, shape: Shape) -> Vec<usize> {
        shape.others().filter(|other| !self.has(*other)).collect()
    }

    fn into_mesh(mut self, shape: Shape) -> Mesh {
        let mut take = |process, purpose| self.0.get_mut(&process)?.streams.remove(&purpose);
        let mut all = |purpose| (0..shape.processes).map(|it| take(it, purpose)).collect();
        Mesh {
            data: all(Purpose::Data),
            control: all(Purpose::Control),
        }
    }
}

impl Office {
    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    fn tell(&self, event: Event) {
        // Nobody waits any more: then it does not matter.
        let _ = self.events.send(event);
    }

    /// Waits until all connections are there.
    fn wait(&self, heard: &Receiver<Event>, timeout: Duration) -> Result<Mesh, ClusterError> {
        let deadline = Instant::now() + timeout;
        let mut word = Instant::now() + FIRST_WORD;
        let mut troubles = BTreeMap::new();
        loop {
            let mut gathered = self.gathered();
            let missing = gathered.missing(self.shape);
            if missing.is_empty() {
                return Ok(std::mem::take(&mut *gathered).into_mesh(self.shape));
            }
            drop(gathered);
            let now = Instant::now();
            if now >= deadline {
                return Err(ClusterError::Peer(format!(
                    "after {} s there is still no connection with {} (--connect-timeout)",
                    timeout.as_secs_f64(),
                    self.names(&missing, &troubles)
                )));
            }
            if now >= word {
                word = now + WORDS;
                let names = self.names(&missing, &troubles);
                terminal::message(format_args!("waiting for {names}"));
            }
            match heard.recv_timeout(word.min(deadline).saturating_duration_since(now)) {
                Ok(Event::Mismatch(text)) => return Err(ClusterError::Mismatch(text)),
                Ok(Event::Trouble(process, text)) => {
                    troubles.insert(process, text);
                }
                Ok(Event::Changed) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let text = "nobody waits for calls any more; this is a defect of highwater";
                    return Err(ClusterError::Peer(text.to_owned()));
                }
            }
        }
    }

    fn names(&self, missing: &[usize], troubles: &BTreeMap<usize, String>) -> String {
        let name = |process: &usize| {
            let trouble = troubles.get(process);
            let trouble = trouble.map_or_else(String::new, |text| format!(": {text}"));
            format!("process {process} ({}{trouble})", self.addresses[*process])
        };
        missing.iter().map(name).collect::<Vec<_>>().join(", ")
    }

    /// Calls a process until both connections are there.
    fn call(&self, process: usize) {
        while !self.is_over() {
            match self.call_once(process) {
                Ok((session, control, data)) => {
                    let mut gathered = self.gathered();
                    gathered.add(process, session, Purpose::Control, control);
                    gathered.add(process, session, Purpose::Data, data);
                    drop(gathered);
                    return self.tell(Event::Changed);
                }
                Err(HandshakeError::Mismatch(text)) => return self.tell(mismatch(text)),
                Err(error) => self.tell(Event::Trouble(process, error.to_string())),
            }
            thread::sleep(BETWEEN);
        }
    }

    fn call_once(&self, process: usize) -> Result<(Uuid, TcpStream, TcpStream), HandshakeError> {
        let (control, data) = (Purpose::Control, Purpose::Data);
        let (one, control) = self.dial(process, control)?;
        let (other, data) = self.dial(process, data)?;
        if one == other {
            return Ok((one, control, data));
        }
        let text = "it was started again just now";
        Err(HandshakeError::Io(io::Error::other(text)))
    }

    fn dial(&self, process: usize, purpose: Purpose) -> Result<(Uuid, TcpStream), HandshakeError> {
        let stream = reach(&self.addresses[process])?;
        let hello = Hello::new(self.shape, process, purpose, self.session);
        let theirs = handshake::dial(&stream, &self.secret, &hello, HANDSHAKE)?;
        Ok((theirs.session, stream))
    }

    /// Answers callers until the office is closed.
    fn answer(self: &Arc<Self>, listener: &TcpListener) {
        while !self.is_over() {
            let Ok((stream, caller)) = listener.accept() else {
                // Nobody is there, or one who is gone already.
                thread::sleep(LOOK);
                continue;
            };
            if self.callers.fetch_add(1, Ordering::SeqCst) >= CALLERS {
                self.refuse(caller, "too many callers at once");
                self.callers.fetch_sub(1, Ordering::SeqCst);
                continue;
            }
            let office = Arc::clone(self);
            let asking = thread::Builder::new().name("peer-caller".to_owned());
            let asked = asking.spawn(move || {
                office.ask(stream, caller);
                office.callers.fetch_sub(1, Ordering::SeqCst);
            });
            if asked.is_err() {
                self.callers.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    /// Finds out who calls.
    fn ask(&self, stream: TcpStream, caller: SocketAddr) {
        let Self { secret, shape, .. } = self;
        let met = stream
            .set_nonblocking(false)
            .map_err(HandshakeError::from)
            .and_then(|()| handshake::accept(stream, secret, *shape, self.session, HANDSHAKE))
            .and_then(|accepted| self.take(accepted));
        match met {
            Ok(()) => self.tell(Event::Changed),
            Err(HandshakeError::Mismatch(text)) => self.tell(mismatch(text)),
            Err(error) => self.refuse(caller, &error.to_string()),
        }
    }

    fn take(&self, accepted: Accepted) -> Result<(), HandshakeError> {
        let Hello {
            process,
            purpose,
            session,
            ..
        } = accepted.hello;
        let process = process as usize;
        if process <= self.shape.process || process >= self.shape.processes {
            let text = format!("process {process} has no reason to call");
            return Err(HandshakeError::Stray(text));
        }
        // Under the lock, so that nobody who was told that the connection is used is left out.
        let mut gathered = self.gathered();
        if self.is_over() {
            let text = "the processes of this run are all there";
            return Err(HandshakeError::Io(io::Error::other(text)));
        }
        let stream = accepted.confirm()?;
        gathered.add(process, session, purpose, stream);
        Ok(())
    }

    fn refuse(&self, caller: SocketAddr, why: &str) {
        let refused = self.refused.fetch_add(1, Ordering::SeqCst);
        if refused < SHOWN {
            terminal::message(format_args!("{caller}: connection refused: {why}"));
        } else if refused == SHOWN {
            terminal::message(format_args!("more connections are refused without a word"));
        }
    }
}

fn mismatch(text: String) -> Event {
    let advice = "start all processes with the same program and flags";
    Event::Mismatch(format!("{text}; {advice}"))
}

/// A connection with this address, or the last reason why there is none.
fn reach(address: &str) -> Result<TcpStream, HandshakeError> {
    let targets: BTreeSet<SocketAddr> = address.to_socket_addrs()?.collect();
    let mut last = io::Error::other("the name has no address");
    for target in targets {
        match TcpStream::connect_timeout(&target, ATTEMPT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Processes that look for each other on this machine, each with its own secret.
    fn options(processes: usize, secret: impl Fn(usize) -> Secret) -> Vec<ClusterOptions> {
        let listeners: Vec<_> = (0..processes)
            .map(|_| TcpListener::bind("127.0.0.1:0").expect("a port"))
            .collect();
        let address = |listener: &TcpListener| {
            let address = listener.local_addr().expect("an address");
            address.to_string()
        };
        let addresses: Vec<_> = listeners.iter().map(address).collect();
        let option = |(process, listener)| ClusterOptions {
            shape: Shape {
                process,
                processes,
                workers: 1,
            },
            addresses: addresses.clone(),
            listener,
            secret: secret(process),
            connect_timeout: Duration::from_secs(20),
            heartbeat_timeout: Duration::from_secs(10),
        };
        listeners.into_iter().enumerate().map(option).collect()
    }

    fn connect_all(all: Vec<ClusterOptions>) -> Vec<Result<Mesh, ClusterError>> {
        let start = |options| thread::spawn(move || connect(&options));
        let threads: Vec<_> = all.into_iter().map(start).collect();
        let join = |thread: thread::JoinHandle<_>| thread.join().expect("no panic");
        threads.into_iter().map(join).collect()
    }

    #[test]
    fn all_find_each_other_among_strangers() {
        let secret = Secret::draw();
        let all = options(3, |_| secret.clone());
        let strangers: Vec<_> = all[0]
            .addresses
            .iter()
            .map(|address| {
                let mut stranger = TcpStream::connect(address).expect("connected");
                stranger.write_all(b"hello?\n\n").expect("sent");
                (stranger, TcpStream::connect(address).expect("connected"))
            })
            .collect();
        let meshes = connect_all(all);
        for (process, mesh) in meshes.into_iter().enumerate() {
            let mesh = mesh.expect("connected");
            let is_other = |stream: &Option<TcpStream>| stream.is_some();
            let expected: Vec<_> = (0..3).map(|it| it != process).collect();
            assert_eq!(mesh.data.iter().map(is_other).collect::<Vec<_>>(), expected);
            assert_eq!(
                mesh.control.iter().map(is_other).collect::<Vec<_>>(),
                expected
            );
        }
        drop(strangers);
    }

    #[test]
    fn whoever_does_not_come_is_named_with_the_reason() {
        let mut all = options(2, |process| match process {
            0 => Secret::new("the secret of process 0").expect("long enough"),
            _ => Secret::draw(),
        });
        for options in &mut all {
            options.connect_timeout = Duration::from_millis(800);
        }
        let address = all[0].addresses[0].clone();
        let errors = connect_all(all)
            .into_iter()
            .map(|it| it.expect_err("refused"));
        let texts: Vec<_> = errors.map(|error| error.to_string()).collect();
        assert!(texts[0].contains("process 1"), "{texts:?}");
        assert!(
            texts[1].contains(&format!("process 0 ({address}")),
            "{texts:?}"
        );
        assert!(texts[1].contains("does not know this secret"), "{texts:?}");
    }

    #[test]
    fn other_numbers_of_workers_are_an_error_at_once() {
        let secret = Secret::draw();
        let mut all = options(2, |_| secret.clone());
        all[1].shape.workers = 3;
        for outcome in connect_all(all) {
            let error = outcome.expect_err("different");
            assert!(matches!(error, ClusterError::Mismatch(_)), "{error:?}");
            assert!(error.to_string().contains("-w 3"), "{error}");
        }
    }

    #[test]
    fn a_process_that_was_started_again_begins_with_nothing() {
        let (listener, mut gathered) = (TcpListener::bind("127.0.0.1:0"), Gathered::default());
        let address = listener.as_ref().expect("a port").local_addr();
        let address = address.expect("its address");
        let stream = || TcpStream::connect(address).expect("connected");
        let (old, new) = (Uuid::from_u128(1), Uuid::from_u128(2));
        gathered.add(1, old, Purpose::Control, stream());
        gathered.add(1, new, Purpose::Data, stream());
        assert!(!gathered.has(1));
        gathered.add(1, new, Purpose::Control, stream());
        assert!(gathered.has(1));
    }
}
