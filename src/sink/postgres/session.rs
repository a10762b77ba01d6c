//! A connection that comes back: connects, notices what broke, waits, and repeats.

use std::thread;
use std::time::{Duration, Instant};

use ::postgres::{Client, Config, NoTls};
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use super::failure::{Verdict, chain, explain, verdict};
use super::target::TableName;
use crate::sink::{SinkContext, SinkError};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often a wait looks whether the run was aborted.
const TICK: Duration = Duration::from_millis(50);
/// How long a reconnection may take: a server that recovers after a crash answers, if only to say
/// so.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How often something is repeated that is likely to fail again.
const FEW_TIMES: u32 = 5;
/// A transaction that waits longer for someone's lock starts again, so that people are told.
pub(crate) const LOCK_TIMEOUT: &str = "SELECT set_config('lock_timeout', '10s', false) \
     WHERE current_setting('lock_timeout') = '0'";

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The driver or the server says so.
    Driver(::postgres::Error),
    /// No answer within this time.
    Silent(Duration),
    /// Whether the last transaction was committed is not known yet.
    InDoubt,
    /// The run was aborted.
    Aborted,
    /// The target was found wrong; the text says what to do.
    Wrong(String),
    /// The run must end, for this reason.
    Ends(SinkError),
}

impl From<::postgres::Error> for Trouble {
    fn from(error: ::postgres::Error) -> Self {
        Self::Driver(error)
    }
}

impl Trouble {
    fn verdict(&self) -> Verdict {
        match self {
            Self::Driver(error) => verdict(error),
            Self::Silent(_) | Self::InDoubt => Verdict::Retry,
            Self::Aborted | Self::Wrong(_) | Self::Ends(_) => Verdict::Fail,
        }
    }

    pub(super) fn reason(&self) -> String {
        match self {
            Self::Driver(error) => chain(error),
            Self::Silent(time) => format!("no answer within {} s", time.as_secs_f64()),
            Self::InDoubt => "the server is still busy with the last transaction".to_owned(),
            Self::Aborted => "aborted".to_owned(),
            Self::Wrong(reason) => reason.clone(),
            Self::Ends(error) => error.to_string(),
        }
    }
}

/// Where a session connects, and what its messages show.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) config: Config,
    /// Host and database, without credentials.
    pub(super) name: String,
    pub(super) table: TableName,
}

impl Place {
    fn target(&self) -> String {
        format!("postgres {}", self.name)
    }

    /// Does `work` on a connection of its own; what may pass is repeated until `timeout`.
    pub(super) fn once<T>(
        &self,
        timeout: Duration,
        mut work: impl FnMut(&mut Client) -> Result<T, Trouble>,
    ) -> Result<T, SinkError> {
        let end = Instant::now() + timeout;
        let mut pause = FIRST_PAUSE;
        loop {
            let left = end.saturating_duration_since(Instant::now()).max(TICK);
            let connected = connect(&self.config, left, &|| false);
            let trouble = match connected.and_then(|mut client| work(&mut client)) {
                Ok(value) => return Ok(value),
                Err(Trouble::Silent(_)) => Trouble::Silent(timeout),
                Err(trouble) => trouble,
            };
            if trouble.verdict() == Verdict::Fail {
                return Err(self.failed(trouble));
            }
            if Instant::now() + pause >= end {
                let reason = trouble.reason();
                return Err(SinkError::Unreachable {
                    target: self.target(),
                    reason,
                });
            }
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn failed(&self, trouble: Trouble) -> SinkError {
        match trouble {
            Trouble::Aborted => SinkError::Aborted,
            Trouble::Ends(error) => error,
            Trouble::Wrong(reason) => SinkError::Config(format!("{}: {reason}", self.target())),
            Trouble::Driver(error) => {
                let database = self.config.get_dbname().unwrap_or_default();
                let reason = explain(&error, &self.table, database);
                let target = format!("{}, table {}", self.target(), self.table);
                SinkError::Write { target, reason }
            }
            Trouble::Silent(_) | Trouble::InDoubt => SinkError::Unreachable {
                target: self.target(),
                reason: trouble.reason(),
            },
        }
    }
}

/// A connection with what was made on it.
pub(super) struct Session<P> {
    place: Place,
    context: SinkContext,
    connected: Option<(Client, P)>,
    /// How many attempts have failed since something was done.
    failures: u32,
}

impl<P> Session<P> {
    pub(super) fn new(place: Place, context: SinkContext) -> Self {
        Self {
            place,
            context,
            connected: None,
            failures: 0,
        }
    }

    /// Does `work`, which is one whole transaction, for as long as only things go wrong that pass.
    /// On each new connection `prepare` comes first.
    pub(super) fn run<T>(
        &mut self,
        prepare: impl Fn(&mut Client) -> Result<P, Trouble>,
        mut work: impl FnMut(&mut Client, &P) -> Result<T, Trouble>,
    ) -> Result<T, SinkError> {
        loop {
            match self.attempt(&prepare, &mut work) {
                Ok(value) => {
                    self.settled();
                    return Ok(value);
                }
                Err(trouble) => self.recover(trouble)?,
            }
        }
    }

    /// Does `work` once, on a connection for which `prepare` was done.
    pub(super) fn attempt<T>(
        &mut self,
        prepare: impl Fn(&mut Client) -> Result<P, Trouble>,
        work: impl FnOnce(&mut Client, &P) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        if self.context.is_aborted() {
            return Err(Trouble::Aborted);
        }
        let (client, prepared) = match &mut self.connected {
            Some(connected) => connected,
            none => {
                let is_aborted = || self.context.is_aborted();
                let mut client = connect(&self.place.config, RECONNECT_TIMEOUT, &is_aborted)?;
                client.execute(LOCK_TIMEOUT, &[])?;
                let prepared = prepare(&mut client)?;
                none.insert((client, prepared))
            }
        };
        work(client, prepared)
    }

    /// Waits until another attempt makes sense, on a new connection.
    pub(super) fn recover(&mut self, trouble: Trouble) -> Result<(), SinkError> {
        // What this connection still does is left to the server: a new one is clean.
        self.connected = None;
        self.failures += 1;
        let is_over = match trouble.verdict() {
            Verdict::Retry => false,
            Verdict::RetryAFewTimes => self.failures >= FEW_TIMES,
            Verdict::Fail => true,
        };
        if is_over {
            return Err(self.place.failed(trouble));
        }
        let status = format!("{}: {}; retrying", self.place.target(), trouble.reason());
        self.context.set_status(Some(status));
        let doublings = (self.failures - 1).min(16);
        let pause = (FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE);
        self.context.pause(pause)
    }

    /// What was asked for is done: failures on the way no longer count.
    pub(super) fn settled(&mut self) {
        if std::mem::take(&mut self.failures) > 0 {
            self.context.set_status(None);
        }
    }
}

/// Connects on a thread of its own: the driver's time-out ends when the socket is open, and a
/// server that hangs opens sockets and says nothing.
pub(super) fn connect(
    config: &Config,
    timeout: Duration,
    is_aborted: &dyn Fn() -> bool,
) -> Result<Client, Trouble> {
    let (sender, receiver) = bounded(1);
    let config = config.clone();
    let start = thread::Builder::new()
        .name("postgres-connect".to_owned())
        .spawn(move || {
            // Nobody listens when the wait is over; the connection is closed then.
            let _ = sender.send(config.connect(NoTls));
        });
    if let Err(error) = start {
        return Err(Trouble::Wrong(format!("no thread to connect on: {error}")));
    }
    wait_for(&receiver, timeout, is_aborted)
}

fn wait_for(
    receiver: &Receiver<Result<Client, ::postgres::Error>>,
    timeout: Duration,
    is_aborted: &dyn Fn() -> bool,
) -> Result<Client, Trouble> {
    let end = Instant::now() + timeout;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match receiver.recv_timeout(left.min(TICK)) {
            Ok(connected) => return connected.map_err(Trouble::Driver),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Trouble::Wrong("defect: the driver panicked".to_owned()));
            }
            Err(RecvTimeoutError::Timeout) if is_aborted() => return Err(Trouble::Aborted),
            Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                return Err(Trouble::Silent(timeout));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}
