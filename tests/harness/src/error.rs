//! What can go wrong around a node; the text is for the person who reads a failed test.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::Output;

/// A failure of the harness, or of a command that it ran.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kit could not be made.
    #[error("the kit: {0}")]
    Kit(#[from] u7s_kit::Error),
    /// A file operation failed.
    #[error("{doing} {path}: {source}", path = path.display())]
    File {
        /// The operation, as a participle.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A program could not be started.
    #[error("starting {program}: {source}")]
    Start {
        /// The command line.
        program: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A command ended with a status that its caller did not want.
    #[error("{command}: {output}")]
    Command {
        /// The command line.
        command: String,
        /// Its status and all that it printed.
        output: Box<Output>,
    },
    /// Something did not happen in time; what was started for it has been killed.
    #[error("waited {} s for {what}; last seen: {last}", waited.as_secs_f32())]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
        /// The last state seen.
        last: String,
    },
    /// The machine has no cgroup2 mount.
    #[error("no cgroup2 file system is mounted: mount one, or boot with cgroup v2")]
    NoCgroup2,
    /// A node's first process ended before it was systemd.
    #[error("node {node} did not start: {console}")]
    Boot {
        /// Its name.
        node: String,
        /// The last lines of its console.
        console: String,
    },
    /// A node was used before it was booted, or changed in a way that must come before.
    #[error("node {node}: {what}")]
    State {
        /// Its name.
        node: String,
        /// What is wrong.
        what: &'static str,
    },
    /// An answer that the harness does not understand.
    #[error("{what}: unexpected {text:?}")]
    Answer {
        /// Whose.
        what: &'static str,
        /// The text.
        text: String,
    },
}

impl Error {
    /// For `map_err` on file operations.
    pub(crate) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { doing, path, source }
    }
}
