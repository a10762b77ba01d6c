//! How two processes make sure of each other before a connection is used.
//!
//! ```text
//! dialer                                   acceptor
//!   magic, hello D          ──────>
//!                           <──────        magic, hello A, proof("acceptor", D, A)
//!   proof("dialer", D, A)   ──────>
//!                           <──────        accepted
//! ```
//!
//! A hello holds a nonce, so that no proof can be used twice; a proof is an HMAC with the secret over
//! both hellos and the side that proves, so that none can be sent back. Only when the other's proof
//! holds does it count what its hello says: then a difference in versions or numbers is an error
//! that names both. Everything else closes this one connection.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use super::hosts::Shape;
use super::secret::{PROOF, Secret};

/// The first bytes of each side. What follows them has had this form in all versions.
const MAGIC: [u8; 8] = *b"hw-peer\n";
/// No hello is longer.
const LONGEST: usize = 1024;
/// The version of what processes say to each other after the handshake.
const PROTOCOL: u32 = 1;
const ACCEPTED: u8 = 6;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Purpose {
    /// For timely.
    Data,
    /// For messages.
    Control,
}

/// What one side says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version of the protocol.
    protocol: u32,
    /// The version of highwater.
    version: String,
    /// Which process it is, ...
    pub process: u32,
    /// ... of how many, ...
    processes: u32,
    /// ... with how many workers each.
    workers: u32,
    /// The process that it wants to reach. The acceptor says whom it has heard.
    pub to: u32,
    /// What the connection is for.
    pub purpose: Purpose,
    /// Drawn once per start of a process: connections with different ones do not belong together.
    pub session: Uuid,
    /// Drawn for this connection.
    nonce: Uuid,
}

impl Hello {
    /// Of process `shape.process`, to `to`.
    pub fn new(shape: Shape, to: usize, purpose: Purpose, session: Uuid) -> Self {
        Self {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process: shape.process as u32,
            processes: shape.processes as u32,
            workers: shape.workers as u32,
            to: to as u32,
            purpose,
            session,
            nonce: Uuid::new_v4(),
        }
    }

    /// Whether both were started for the same run, and mean each other.
    fn check(&self, theirs: &Self) -> Result<(), HandshakeError> {
        let differ = |what: &str, theirs: String, ours: String| {
            Err(HandshakeError::Mismatch(format!(
                "{what} {theirs}, here {ours}"
            )))
        };
        let process = theirs.process;
        if (&self.version, self.protocol) != (&theirs.version, theirs.protocol) {
            let text = |hello: &Self| format!("{} (protocol {})", hello.version, hello.protocol);
            let what = format!("process {process} runs highwater");
            return differ(&what, text(theirs), text(self));
        }
        let text = |hello: &Self| format!("-n {} -w {}", hello.processes, hello.workers);
        if text(self) != text(theirs) {
            return differ(&format!("process {process} has"), text(theirs), text(self));
        }
        if theirs.to != self.process || theirs.process != self.to || theirs.purpose != self.purpose
        {
            let what = format!(
                "it is process {process} and looks for process {}; this is process {}",
                theirs.to, self.process
            );
            return Err(HandshakeError::Stray(what));
        }
        Ok(())
    }
}

/// Why a connection is not used.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// It is something else.
    #[error("what is there does not speak highwater's protocol")]
    Foreign,
    /// It does not know the secret.
    #[error("it does not know this secret; give all processes the same one")]
    Secret,
    /// It went away before it was known.
    #[error("it went away before it proved that it knows the secret")]
    Unproven,
    /// It knows the secret, and was started otherwise: the text names both.
    #[error("{0}; start all processes with the same program and flags")]
    Mismatch(String),
    /// It knows the secret, and is not the one that was looked for.
    #[error("{0}; give all processes the same hostfile, and each its own -p")]
    Stray(String),
    /// It took too long.
    #[error("it says nothing")]
    Slow,
    /// It went away, or the network did.
    #[error("{0}")]
    Io(io::Error),
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Slow,
            io::ErrorKind::UnexpectedEof => {
                let text = "it closed the connection";
                Self::Io(io::Error::new(io::ErrorKind::UnexpectedEof, text))
            }
            _ => Self::Io(error),
        }
    }
}

/// A stream that must have said everything at a certain time.
struct Timed<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
}

impl<'a> Timed<'a> {
    fn new(stream: &'a TcpStream, timeout: Duration) -> Self {
        let deadline = Instant::now() + timeout;
        Self { stream, deadline }
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(left)
    }

    fn hello(&mut self) -> Result<Vec<u8>, HandshakeError> {
        let mut magic = [0; MAGIC.len()];
        self.read_exact(&mut magic)?;
        if magic != MAGIC {
            return Err(HandshakeError::Foreign);
        }
        let mut length = [0; 2];
        self.read_exact(&mut length)?;
        let length = usize::from(u16::from_be_bytes(length));
        if length > LONGEST {
            return Err(HandshakeError::Foreign);
        }
        let mut hello = vec![0; length];
        self.read_exact(&mut hello)?;
        Ok(hello)
    }

    fn proof(&mut self) -> Result<[u8; PROOF], HandshakeError> {
        let mut proof = [0; PROOF];
        self.read_exact(&mut proof)?;
        Ok(proof)
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

fn framed(hello: &[u8]) -> Vec<u8> {
    let length = u16::try_from(hello.len()).unwrap_or(u16::MAX);
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(hello);
    bytes
}

fn encode(hello: &Hello) -> Vec<u8> {
    // Invariant: a hello is plain data; memory takes it.
    postcard::to_stdvec(hello).expect("a hello can be encoded")
}

fn parse(bytes: &[u8]) -> Result<Hello, HandshakeError> {
    postcard::from_bytes(bytes).map_err(|_| HandshakeError::Foreign)
}

/// Ready for use: no time-outs any more, and small messages go out at once.
fn ready(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    stream.set_nodelay(true)
}

/// The side that has opened the connection; what the other one said.
///
/// # Errors
/// When the other side is not the one that is looked for, within `timeout`.
pub fn dial(
    stream: &TcpStream,
    secret: &Secret,
    ours: &Hello,
    timeout: Duration,
) -> Result<Hello, HandshakeError> {
    let mut timed = Timed::new(stream, timeout);
    let sent = encode(ours);
    timed.write_all(&framed(&sent))?;
    let heard = timed.hello()?;
    let proof = timed.proof()?;
    if !secret.is_proof(&[b"acceptor", &sent, &heard], &proof) {
        return Err(HandshakeError::Secret);
    }
    timed.write_all(&secret.prove(&[b"dialer", &sent, &heard]))?;
    let theirs = parse(&heard)?;
    ours.check(&theirs)?;
    let mut answer = [0];
    timed.read_exact(&mut answer)?;
    if answer != [ACCEPTED] {
        return Err(HandshakeError::Foreign);
    }
    ready(stream)?;
    Ok(theirs)
}

/// A connection whose dialer is known, and waits for a word.
#[derive(Debug)]
pub struct Accepted {
    stream: TcpStream,
    /// What the dialer said.
    pub hello: Hello,
}

impl Accepted {
    /// Tells the dialer that the connection is used.
    ///
    /// # Errors
    /// When it is gone.
    pub fn confirm(self) -> io::Result<TcpStream> {
        (&self.stream).write_all(&[ACCEPTED])?;
        ready(&self.stream)?;
        Ok(self.stream)
    }
}

/// The side that was called: process `shape.process`, in this `session`.
///
/// # Errors
/// When the other side is no process of this run, or takes longer than `timeout`.
pub fn accept(
    stream: TcpStream,
    secret: &Secret,
    shape: Shape,
    session: Uuid,
    timeout: Duration,
) -> Result<Accepted, HandshakeError> {
    let mut timed = Timed::new(&stream, timeout);
    let heard = timed.hello()?;
    let hello = parse(&heard)?;
    let ours = Hello::new(shape, hello.process as usize, hello.purpose, session);
    let sent = encode(&ours);
    timed.write_all(&framed(&sent))?;
    timed.write_all(&secret.prove(&[b"acceptor", &heard, &sent]))?;
    // Whoever goes away now has ended, or does not believe what was proved here.
    let proof = timed.proof().map_err(|error| match error {
        HandshakeError::Io(_) => HandshakeError::Unproven,
        other => other,
    })?;
    if !secret.is_proof(&[b"dialer", &heard, &sent], &proof) {
        return Err(HandshakeError::Secret);
    }
    ours.check(&hello)?;
    Ok(Accepted { stream, hello })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    const SOON: Duration = Duration::from_millis(300);
    const LONG: Duration = Duration::from_secs(20);

    fn secret(text: &str) -> Secret {
        Secret::new(&text.repeat(16)).expect("long enough")
    }

    fn shape(process: usize) -> Shape {
        Shape {
            process,
            processes: 3,
            workers: 2,
        }
    }

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let dialer = TcpStream::connect(listener.local_addr().expect("its address"));
        let (acceptor, _) = listener.accept().expect("a connection");
        (dialer.expect("connected"), acceptor)
    }

    type Sides = (
        Result<Hello, HandshakeError>,
        Result<Accepted, HandshakeError>,
    );

    /// Process 1 calls process 0.
    fn meet(ours: Hello, secrets: [&str; 2], at: Shape) -> Sides {
        let (dialer, acceptor) = pair();
        let theirs = secret(secrets[1]);
        let other = thread::spawn(move || {
            let met = accept(acceptor, &theirs, at, Uuid::from_u128(9), LONG);
            met.map(|accepted| {
                let hello = accepted.hello.clone();
                let stream = accepted.confirm().expect("confirmed");
                Accepted { stream, hello }
            })
        });
        let dialed = dial(&dialer, &secret(secrets[0]), &ours, LONG);
        drop(dialer);
        (dialed, other.join().expect("no panic"))
    }

    fn hello() -> Hello {
        Hello::new(shape(1), 0, Purpose::Control, Uuid::from_u128(5))
    }

    #[test]
    fn two_processes_with_the_same_secret_know_each_other() {
        let (dialed, accepted) = meet(hello(), ["a", "a"], shape(0));
        let (dialed, accepted) = (dialed.expect("met"), accepted.expect("met"));
        assert_eq!((dialed.process, dialed.session), (0, Uuid::from_u128(9)));
        assert_eq!(accepted.hello.session, Uuid::from_u128(5));
        assert_eq!(accepted.hello.purpose, Purpose::Control);
        assert_eq!(accepted.stream.read_timeout().expect("known"), None);
    }

    #[test]
    fn another_secret_is_refused_on_both_sides() {
        let (dialed, accepted) = meet(hello(), ["a", "b"], shape(0));
        assert!(matches!(dialed, Err(HandshakeError::Secret)), "{dialed:?}");
        assert!(
            matches!(accepted, Err(HandshakeError::Unproven)),
            "{accepted:?}"
        );
    }

    #[test]
    fn a_dialer_without_the_secret_proves_nothing() {
        let (mut dialer, acceptor) = pair();
        let other =
            thread::spawn(move || accept(acceptor, &secret("a"), shape(0), Uuid::new_v4(), LONG));
        dialer.write_all(&framed(&encode(&hello()))).expect("sent");
        let mut timed = Timed::new(&dialer, LONG);
        timed.hello().expect("a hello");
        let theirs = timed.proof().expect("a proof");
        // What the other side has proved, sent back.
        dialer.write_all(&theirs).expect("sent");
        let accepted = other.join().expect("no panic");
        assert!(
            matches!(accepted, Err(HandshakeError::Secret)),
            "{accepted:?}"
        );
    }

    /// Everything that a dialer has said once, said again.
    #[test]
    fn a_recorded_dialer_is_refused() {
        let sent = encode(&hello());
        let record = |dialer: &mut TcpStream| {
            dialer.write_all(&framed(&sent)).expect("sent");
            let mut timed = Timed::new(dialer, LONG);
            let heard = timed.hello().expect("a hello");
            timed.proof().expect("a proof");
            secret("a").prove(&[b"dialer", &sent, &heard])
        };
        let accepting = |acceptor| {
            thread::spawn(move || accept(acceptor, &secret("a"), shape(0), Uuid::nil(), LONG))
        };
        let (mut dialer, acceptor) = pair();
        let first = accepting(acceptor);
        let proof = record(&mut dialer);
        dialer.write_all(&proof).expect("sent");
        assert!(first.join().expect("no panic").is_ok());
        let (mut dialer, acceptor) = pair();
        let again = accepting(acceptor);
        record(&mut dialer);
        dialer.write_all(&proof).expect("sent");
        let again = again.join().expect("no panic");
        assert!(matches!(again, Err(HandshakeError::Secret)), "{again:?}");
    }

    #[test]
    fn garbage_is_refused_and_silence_ends_in_time() {
        let (mut dialer, acceptor) = pair();
        dialer.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
        let met = accept(acceptor, &secret("a"), shape(0), Uuid::nil(), LONG);
        assert!(matches!(met, Err(HandshakeError::Foreign)), "{met:?}");
        let (dialer, acceptor) = pair();
        let met = accept(acceptor, &secret("a"), shape(0), Uuid::nil(), SOON);
        assert!(matches!(met, Err(HandshakeError::Slow)), "{met:?}");
        drop(dialer);
        let (dialer, acceptor) = pair();
        drop(dialer);
        let met = accept(acceptor, &secret("a"), shape(0), Uuid::nil(), LONG);
        assert!(matches!(met, Err(HandshakeError::Io(_))), "{met:?}");
    }

    /// Now and then a byte: each read is in time, and the whole is not.
    #[test]
    fn a_drip_ends_in_time() {
        let (mut dialer, acceptor) = pair();
        let drip = thread::spawn(move || {
            for byte in framed(&[0; LONGEST]) {
                if dialer.write_all(&[byte]).is_err() {
                    break;
                }
                thread::sleep(SOON / 10);
            }
        });
        let met = accept(acceptor, &secret("a"), shape(0), Uuid::nil(), SOON);
        assert!(matches!(met, Err(HandshakeError::Slow)), "{met:?}");
        drip.join().expect("no panic");
    }

    #[test]
    fn differences_are_named_on_both_sides() {
        let named = |ours: Hello, at: Shape, meant: &str| {
            let (dialed, accepted) = meet(ours, ["a", "a"], at);
            let dialed = dialed.expect_err("different").to_string();
            let accepted = accepted.expect_err("different").to_string();
            assert!(dialed.contains(meant), "{dialed}");
            accepted
        };
        let newer = Hello {
            version: "99.0.0".to_owned(),
            ..hello()
        };
        let text = named(newer, shape(0), "here 99.0.0");
        assert!(text.contains("process 1 runs highwater 99.0.0"), "{text}");
        let more = Shape {
            workers: 4,
            ..shape(0)
        };
        let text = named(hello(), more, "-n 3 -w 4, here -n 3 -w 2");
        assert!(text.contains("-n 3 -w 2, here -n 3 -w 4"), "{text}");
        let text = named(hello(), shape(2), "it is process 2");
        assert!(
            text.contains("looks for process 0; this is process 2"),
            "{text}"
        );
    }
}
