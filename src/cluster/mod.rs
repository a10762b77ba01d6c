//! Several processes that are one run.
//!
//! Process `p` of `n`, with `w` workers each, has the workers `p * w` to `p * w + w - 1`. Between each
//! two processes there are two connections: one on which timely exchanges data, and one on which the
//! processes themselves talk (see [`message`]). Process 0 leads: it alone opens the state, decides
//! where the run goes on, writes the log, and shows what became of the run.
//!
//! | module | what it holds |
//! |---|---|
//! | [`build`] | which program a process runs |
//! | [`hosts`] | who the processes are and where they listen |
//! | [`secret`] | what all of them know and nobody else |
//! | [`handshake`] | how two of them make sure of each other |
//! | [`connect`] | the connections between all of them, before a run |
//! | [`message`], [`plan`], [`share`] | what they say to each other |
//! | [`heartbeat`] | when a process that says nothing counts as gone |
//! | [`link`] | the connections on which they talk, while they are one run |
//! | [`supervise`] | a process that starts the others, and starts them again |
//!
//! Connections are authenticated when they are made. What is said on them later is neither
//! encrypted nor signed: they belong into a private network.

use std::net::TcpListener;
use std::time::Duration;

use thiserror::Error;

pub use self::connect::Mesh;
pub use self::hosts::Shape;
pub use self::link::{Callbacks, Cluster, Counters};
pub use self::plan::{JobPart, Part, Plan, Work};
pub use self::secret::Secret;
pub use self::share::{Share, Usage};

pub mod build;
pub mod connect;
pub mod handshake;
pub mod heartbeat;
pub mod hosts;
pub mod link;
pub mod message;
pub mod plan;
pub mod secret;
pub mod share;
pub mod supervise;

/// The exit code of a process that has lost another one.
pub const PEER_LOST: u8 = 70;

/// What a process must know to find the others.
pub struct ClusterOptions {
    /// Which process of how many this is.
    pub shape: Shape,
    /// Where each process listens.
    pub addresses: Vec<String>,
    /// Where this one does.
    pub listener: TcpListener,
    /// What all processes know.
    pub secret: Secret,
    /// How long to wait for the others at the start.
    pub connect_timeout: Duration,
    /// How long a process may say nothing, or a worker make no step.
    pub heartbeat_timeout: Duration,
}

/// Why there is no run with the other processes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ClusterError {
    /// The processes were not started for the same run: the text names the differences.
    #[error("{0}")]
    Mismatch(String),
    /// Another process did not come, or has ended.
    #[error("{0}")]
    Peer(String),
}
