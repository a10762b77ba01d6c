//! `-n`, `-p` and the flags that go with them: what this process is among several.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::error::CliError;
use super::http;
use super::kafka::connect_timeout;
use super::plan::Plan;
use super::registry::PipelineEntry;
use super::resources::Resources;
use super::signal::{Answer, Signals};
use crate::cluster::build;
use crate::cluster::hosts::{self, Shape};
use crate::cluster::supervise::{Children, Inherited, SECRET, Supervision, supervise};
use crate::cluster::{Callbacks, Cluster, ClusterOptions, PEER_LOST, Secret, Usage};
use crate::runtime::RunError;
use crate::runtime::control::{Notice, Notices};
use crate::runtime::state::StateOptions;
use crate::terminal;
use crate::time::Span;

/// What may be otherwise in each process of a run.
pub const MAY_DIFFER: &[&str] = &[
    "bind",
    "config",
    "connect_timeout",
    "dims",
    "dims_refresh",
    "fresh",
    "heartbeat_timeout",
    "hostfile",
    "http",
    "process",
    "quiet",
    "replace_output",
    "report",
    "restarts",
    "schema_registry",
    "schema_registry_auth",
    "secret_file",
    "verbose",
];
/// Processes wait for each other so many times as long as for a server.
const PATIENCE: u32 = 6;
/// How much later than the heartbeat's deadline a process must have ended that has lost another.
const GRACE: Duration = Duration::from_secs(3);

/// What this process is.
pub enum Role {
    /// The only one.
    Alone,
    /// One of several.
    Member(Box<Member>),
    /// It starts the others.
    Supervisor,
}

/// One process of several.
pub struct Member {
    options: ClusterOptions,
    inherited: Option<Inherited>,
}

/// What the flags make of this process.
pub fn role(matches: &ArgMatches) -> Result<Role, CliError> {
    let processes = processes(matches);
    let hostfile = matches.get_one::<String>("hostfile");
    let is_given = matches.value_source("processes") != Some(ValueSource::DefaultValue);
    let process = matches.get_one::<u32>("process").map(|it| *it as usize);
    if !is_given && (process.is_some() || hostfile.is_some()) {
        return Err(CliError::usage(
            "-n N is missing: how many processes there are, with -p and --hostfile",
        ));
    }
    let Some(process) = process else {
        return match (processes, hostfile) {
            (1, _) => Ok(Role::Alone),
            (_, None) => Ok(Role::Supervisor),
            (_, Some(_)) => Err(CliError::usage(
                "-p I is missing: which line of the hostfile is this process, from 0",
            )),
        };
    };
    if process >= processes {
        return Err(CliError::Usage(format!(
            "-p {process}: with -n {processes} the processes are 0 to {}",
            processes - 1
        )));
    }
    if processes == 1 {
        return Ok(Role::Alone);
    }
    let shape = Shape {
        process,
        processes,
        workers: workers(matches),
    };
    Ok(Role::Member(Box::new(Member::new(matches, shape)?)))
}

fn processes(matches: &ArgMatches) -> usize {
    matches
        .get_one::<u32>("processes")
        .map_or(1, |it| *it as usize)
}

fn workers(matches: &ArgMatches) -> usize {
    let workers = matches.get_one::<u32>("workers");
    workers.map_or(1, |workers| *workers as usize)
}

/// How long a process may say nothing, or a worker make no step.
pub fn heartbeat_timeout(matches: &ArgMatches) -> Duration {
    let span = matches.get_one::<Span>("heartbeat-timeout");
    Duration::from_millis(span.map_or(10_000, |span| span.0.unsigned_abs()))
}

impl Member {
    fn new(matches: &ArgMatches, shape: Shape) -> Result<Self, CliError> {
        let inherited = Inherited::find().map_err(CliError::Usage)?;
        if inherited.is_some() {
            name_process();
        }
        let (addresses, listener) = match &inherited {
            Some(inherited) => (inherited.addresses.clone(), inherited.listener()?),
            None => by_hostfile(matches, shape)?,
        };
        if addresses.len() != shape.processes {
            let given = addresses.len();
            return Err(CliError::Failed(format!(
                "{given} addresses were handed down for {} processes",
                shape.processes
            )));
        }
        Ok(Self {
            options: ClusterOptions {
                shape,
                addresses,
                listener,
                secret: secret(matches)?,
                connect_timeout: connect_timeout(matches) * PATIENCE,
                heartbeat_timeout: heartbeat_timeout(matches),
            },
            inherited,
        })
    }

    /// Has the run be one of those that the supervising process starts, and go on with the one that
    /// an earlier start has begun: then it is no new job any more.
    pub fn go_on(&self, state: &mut StateOptions) {
        if let Some(inherited) = &self.inherited {
            state.starter.nonce = inherited.nonce;
            state.starter.goes_on = inherited.goes_on;
            state.is_fresh &= !inherited.goes_on;
        }
    }

    /// Whether another process has started this one, and tells it when to stop.
    pub const fn is_supervised(&self) -> bool {
        self.inherited.is_some()
    }

    /// Whether this process leads.
    pub const fn leads(&self) -> bool {
        self.options.shape.leads()
    }

    /// Which process this is.
    pub const fn process(&self) -> usize {
        self.options.shape.process
    }

    /// Finds the other processes; `notices` is how a stop elsewhere reaches the run here.
    pub fn join(self, notices: &Notices) -> Result<Arc<Cluster>, CliError> {
        let status = self.inherited.as_ref().map(Inherited::status);
        let status = Mutex::new(status.transpose()?.flatten());
        let notices = notices.clone();
        let callbacks = Callbacks {
            stop: Box::new(move || notices.send(Notice::Stop)),
            begun: Box::new(move || {
                let mut status = status.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(mut status) = status.take() {
                    // Without a supervising process, this one is about to end as well.
                    let _ = status.write_all(&[1]);
                }
            }),
            usage: || {
                let Resources { cpu, peak_rss } = Resources::now();
                Usage { cpu, peak_rss }
            },
        };
        let cluster = Cluster::join(self.options, callbacks);
        cluster.map_err(|error| RunError::from(error).into())
    }
}

/// Whoever looks for the program by its name finds this process, which was started as
/// `/proc/self/exe`.
fn name_process() {
    let program = std::env::args_os().next().unwrap_or_default();
    if let Some(name) = Path::new(&program).file_name() {
        // Only a name for people: without it all else goes on.
        let _ = std::fs::write("/proc/self/comm", name.as_encoded_bytes());
    }
}

/// The addresses of the hostfile, and the place where this process listens.
fn by_hostfile(matches: &ArgMatches, shape: Shape) -> Result<(Vec<String>, TcpListener), CliError> {
    let Some(path) = matches.get_one::<String>("hostfile") else {
        return Err(CliError::usage(
            "-p needs --hostfile FILE: a line HOST:PORT for each process; without -p, -n N starts \
             and supervises N processes on this machine",
        ));
    };
    let wrong = |error: String| CliError::Usage(format!("--hostfile {path}: {error}"));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let addresses = hosts::parse(&text, shape.processes).map_err(wrong)?;
    let bind = matches.get_one::<String>("bind");
    if let Some(bind) = bind {
        let checked = hosts::check_address(bind);
        checked.map_err(|error| CliError::Usage(format!("--bind {bind}: {error}")))?;
    }
    let own = bind.unwrap_or(&addresses[shape.process]);
    let listener = TcpListener::bind(own).map_err(|error| {
        CliError::Failed(format!(
            "process {} cannot listen at {own}: {error}; --bind names another address of this host",
            shape.process
        ))
    })?;
    Ok((addresses, listener))
}

fn secret(matches: &ArgMatches) -> Result<Secret, CliError> {
    if let Some(path) = matches.get_one::<String>("secret-file") {
        let secret = Secret::from_file(Path::new(path));
        return secret.map_err(|error| CliError::Usage(format!("--secret-file {path}: {error}")));
    }
    let Ok(text) = std::env::var(SECRET) else {
        return Err(CliError::Usage(format!(
            "-p needs a secret that all processes know: --secret-file FILE, or {SECRET} in the \
             environment; `openssl rand -hex 32` draws one"
        )));
    };
    Secret::new(&text).map_err(|error| CliError::Usage(format!("{SECRET}: {error}")))
}

/// What must be the same in all processes: the configuration, and what computes.
pub fn compared(
    entry: &dyn PipelineEntry,
    mut config: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, CliError> {
    let build = build::identity().map_err(|error| {
        CliError::Failed(format!(
            "the program of this process, which must be that of all others, cannot be read: {error}"
        ))
    })?;
    let pipeline = format!("{}, rules of version {}", entry.name(), entry.version());
    config.insert("the pipeline".to_owned(), pipeline);
    config.insert("the build of the program".to_owned(), build);
    Ok(config)
}

/// Starts `-n` processes on this machine, and starts them again when one ends otherwise than well
/// and there is a state to go on from.
pub fn supervise_all(entry: &dyn PipelineEntry, matches: &ArgMatches) -> Result<u8, CliError> {
    let (children, quiet) = (Children::default(), matches.get_flag("quiet"));
    let stopped = children.clone();
    let signals = Signals::take(move || {
        stopped.stop();
        if !quiet {
            terminal::message(format_args!(
                "stopping all processes… (once more to stop at once)"
            ));
        }
        Answer::Finish
    });
    let signals = signals.map_err(|error| CliError::Failed(format!("signals: {error}")))?;
    // What is wrong with the flags is said once.
    drop(Plan::new(entry, matches)?);
    http::check_all(matches, processes(matches))?;
    let supervision = Supervision {
        program: build::program().map_err(cannot_start)?,
        arguments: std::env::args_os().skip(1).collect(),
        processes: processes(matches),
        has_state: matches.contains_id("state"),
        restarts: matches.get_one::<u32>("restarts").copied().unwrap_or(0),
        grace: heartbeat_timeout(matches) + GRACE,
    };
    let code = supervise(&supervision, &children).map_err(cannot_start)?;
    Ok(after_signal(signals.exit_code(), code))
}

/// The exit code of the whole, where the processes have ended with `code`: a stop that was asked
/// for is what people hear of, unless something has failed.
fn after_signal(signal: Option<u8>, code: u8) -> u8 {
    match signal {
        Some(signal) if [0, 130, 143, PEER_LOST].contains(&code) => signal,
        _ => code,
    }
}

fn cannot_start(error: std::io::Error) -> CliError {
    CliError::Failed(format!("the processes cannot be started: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::parse;

    fn error(flags: &[&str]) -> String {
        let role = role(&parse(flags));
        let error = role.err().expect("refused");
        assert_eq!(error.code(), 2, "{error:?}");
        error.to_string()
    }

    #[test]
    fn one_process_is_alone_and_several_are_supervised() {
        assert!(matches!(role(&parse(&[])), Ok(Role::Alone)));
        assert!(matches!(
            role(&parse(&["-n", "1", "-p", "0"])),
            Ok(Role::Alone)
        ));
        assert!(matches!(role(&parse(&["-n", "2"])), Ok(Role::Supervisor)));
    }

    #[test]
    fn a_stop_hides_no_failure() {
        let after = |code| after_signal(Some(143), code);
        assert_eq!([0, 130, 143, 70].map(after), [143; 4]);
        assert_eq!([1, 4].map(after), [1, 4]);
        assert_eq!(after_signal(None, 70), 70);
    }

    #[test]
    fn what_computes_is_compared() {
        use crate::cli::testing::Dummy;
        let compared = compared(&Dummy, BTreeMap::new()).expect("readable");
        assert_eq!(
            compared["the pipeline"],
            format!("{}, rules of version 1", Dummy.name())
        );
        let build = build::identity().expect("readable");
        assert_eq!(compared["the build of the program"], build);
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(error(&["-p", "0"]).contains("-n N"));
        assert!(error(&["-n", "2", "-p", "2"]).contains("0 to 1"));
        assert!(error(&["-n", "2", "-p", "1"]).contains("--hostfile"));
        assert!(error(&["-n", "2", "--hostfile", "x"]).contains("-p I"));
        let missing = error(&["-n", "2", "-p", "1", "--hostfile", "no-such-file"]);
        assert!(missing.contains("no-such-file"), "{missing}");
    }
}
