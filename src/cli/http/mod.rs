//! `--http`: what a run shows to programs that watch it.
//!
//! | module | what it holds |
//! |---|---|
//! | `serving` | what is answered where |
//! | `liveness` | whether the workers make steps |
//! | `exposition` | which metrics there are |
//! | `text` | how Prometheus reads them |
//!
//! Whoever adds a route adds a row in `serving`.

use std::fmt;
use std::io;
use std::net::TcpListener;

use clap::ArgMatches;

use super::error::CliError;
use super::processes::Member;

#[cfg(feature = "http")]
pub use self::serving::start;

#[cfg(feature = "http")]
mod exposition;
#[cfg(feature = "http")]
mod liveness;
#[cfg(feature = "http")]
mod serving;
#[cfg(feature = "http")]
mod text;

/// Where `--http` listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAddress {
    host: String,
    port: u16,
}

impl HttpAddress {
    /// `HOST:PORT`, or `:PORT` for this host alone: what a run shows is not for everybody.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wanted = "HOST:PORT, or :PORT for 127.0.0.1 (0.0.0.0:PORT: all addresses of this host)";
        let (host, port) = text.rsplit_once(':').ok_or(wanted)?;
        let port = port.parse().map_err(|_| wanted)?;
        let bare = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        if bare.is_none() && host.contains([':', '/']) {
            return Err(wanted.to_owned());
        }
        let host = match bare.unwrap_or(host) {
            "" => "127.0.0.1",
            host => host,
        };
        let host = host.to_owned();
        Ok(Self { host, port })
    }

    /// That of process `process` among those that one command has started: their ports follow each
    /// other.
    fn of_process(&self, process: usize) -> Result<Self, CliError> {
        if self.port == 0 {
            return Ok(self.clone());
        }
        let port = usize::from(self.port) + process;
        let port = u16::try_from(port).map_err(|_| {
            CliError::Usage(format!(
                "--http {self}: process {process} would listen at port {port}, and there is none"
            ))
        })?;
        Ok(Self {
            port,
            ..self.clone()
        })
    }
}

impl fmt::Display for HttpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Whether there is an address for each of `processes` processes that are about to be started.
///
/// # Errors
/// When there is not.
pub fn check_all(matches: &ArgMatches, processes: usize) -> Result<(), CliError> {
    let given = matches.get_one::<HttpAddress>("http");
    given.map_or(Ok(()), |given| given.of_process(processes - 1).map(drop))
}

/// The address at which this process listens, if it is to.
fn wanted(matches: &ArgMatches, member: Option<&Member>) -> Result<Option<HttpAddress>, CliError> {
    let Some(given) = matches.get_one::<HttpAddress>("http") else {
        return Ok(None);
    };
    // Processes that are started one by one say each where it listens.
    let supervised = member.filter(|member| member.is_supervised());
    given
        .of_process(supervised.map_or(0, Member::process))
        .map(Some)
}

/// Refuses the flag.
///
/// # Errors
/// When it is given.
#[cfg(not(feature = "http"))]
pub fn start(
    matches: &ArgMatches,
    member: Option<&Member>,
    _plan: &super::plan::Plan,
    _metrics: &std::sync::Arc<crate::runtime::metrics::Metrics>,
) -> Result<Option<()>, CliError> {
    wanted(matches, member)?.map_or(Ok(None), |_| Err(no_feature()))
}

fn no_feature() -> CliError {
    CliError::usage("--http: this highwater was built without the feature `http`")
}

fn unavailable(address: &HttpAddress, error: &io::Error) -> CliError {
    CliError::Failed(format!(
        "--http {address}: cannot listen there: {error}; :0 takes any port that is free"
    ))
}

/// Whether a run could listen there now, in words; `None`: it is not to.
pub fn check(matches: &ArgMatches) -> Option<Result<((), String), CliError>> {
    let address = matches.get_one::<HttpAddress>("http")?;
    if cfg!(not(feature = "http")) {
        return Some(Err(no_feature()));
    }
    let bound = TcpListener::bind((address.host.as_str(), address.port));
    let free = bound.map(|_| ((), format!("{address}: free")));
    Some(free.map_err(|error| unavailable(address, &error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<String> {
        HttpAddress::parse(text).ok().map(|it| it.to_string())
    }

    #[test]
    fn without_a_host_it_is_this_one_alone() {
        assert_eq!(parsed(":9464").as_deref(), Some("127.0.0.1:9464"));
        assert_eq!(parsed("0.0.0.0:80").as_deref(), Some("0.0.0.0:80"));
        assert_eq!(parsed("[::1]:80").as_deref(), Some("[::1]:80"));
        assert_eq!(parsed("localhost:0").as_deref(), Some("localhost:0"));
        for wrong in [
            "",
            "9464",
            "host",
            ":",
            ":x",
            ":65536",
            "::1:80",
            "http://a:1",
        ] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn processes_that_are_started_together_listen_at_ports_that_follow_each_other() {
        let address = HttpAddress::parse(":65534").expect("valid");
        let of = |process| address.of_process(process).map(|it| it.port).ok();
        assert_eq!([of(0), of(1), of(2)], [Some(65534), Some(65535), None]);
        let any = HttpAddress::parse(":0").expect("valid");
        assert_eq!(any.of_process(3).expect("any").port, 0);
    }
}
