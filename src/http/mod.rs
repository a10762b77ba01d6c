//! A small HTTP server for programs that watch a run: GET and HEAD of a few fixed routes.
//!
//! | module | what it holds |
//! |---|---|
//! | `route` | which path is answered how, without a word of HTTP's own |
//! | `server` | the thread that listens, and what it endures |

pub use self::route::{Answer, Route, Routes};
pub use self::server::Server;

mod route;
mod server;
