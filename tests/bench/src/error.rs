//! What can go wrong while something is measured.

use std::io;
use std::path::PathBuf;

/// A failure of the benchmarks; the text is for the person who runs them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A node, or a command in it, failed.
    #[error(transparent)]
    Node(#[from] u7s_harness::Error),
    /// Something to compare with could not be built.
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
    /// A program could not be started, or its end not be waited for.
    #[error("{program}: {source}")]
    Program {
        /// Its name.
        program: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A call to the kernel failed.
    #[error("{call}: {source}")]
    Call {
        /// What was called.
        call: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Kept results, or a program's answer, are not what they should be.
    #[error("{what}: {source}")]
    Json {
        /// Whose text.
        what: String,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// An answer that makes no sense.
    #[error("{what}: unexpected {text:?}")]
    Answer {
        /// Whose.
        what: String,
        /// The text.
        text: String,
    },
    /// Something did not happen in time.
    #[error("waited {seconds} s for {what}")]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
    },
}

impl Error {
    /// For `map_err` on file operations.
    pub fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { doing, path, source }
    }

    /// For `map_err` on programs.
    pub fn program(name: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let program = name.into();
        move |source| Self::Program { program, source }
    }

    /// For `map_err` on calls to the kernel.
    pub fn call(call: &'static str) -> impl FnOnce(nix::errno::Errno) -> Self {
        move |errno| Self::Call { call, source: errno.into() }
    }

    /// For `map_err` on JSON.
    pub fn json(what: impl Into<String>) -> impl FnOnce(serde_json::Error) -> Self {
        let what = what.into();
        move |source| Self::Json { what, source }
    }
}
