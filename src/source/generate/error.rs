//! Why a log cannot be generated.

use std::path::PathBuf;

use thiserror::Error;

/// Why a log cannot be generated.
#[derive(Debug, Error)]
pub enum GenerateError {
    /// An option or the target is wrong: the text says what to do.
    #[error("{0}")]
    Config(String),
    /// A file cannot be written.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// Standard output cannot be written.
    #[error("standard output: {0}")]
    Output(std::io::Error),
    /// The broker cannot be reached or refuses.
    #[error("{target}: {reason}")]
    Broker {
        /// Topic and address.
        target: String,
        /// What the client said.
        reason: String,
    },
}

impl GenerateError {
    /// For `map_err`: an error of the file at `path`.
    pub(super) fn file(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |reason| Self::File { path, reason }
    }
}
