//! What can go wrong while the kit is made.

use std::io;
use std::path::PathBuf;

/// A failure of the kit; the text is for the person who runs the tests.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("{doing} {path}: {source}", path = path.display())]
    File {
        /// The operation, as a participle: "reading".
        doing: &'static str,
        /// The file it was about.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A program could not be started.
    #[error("starting {program}: {source}")]
    Start {
        /// Its name.
        program: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A program ended badly; its last lines follow the log's name.
    #[error("{what} failed ({status}); log: {log}\n{tail}", log = log.display())]
    Command {
        /// The step.
        what: String,
        /// How it ended.
        status: String,
        /// The file with all its output.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// A program did not end in time and was killed.
    #[error("{what} did not end within {seconds} s; log: {log}", log = log.display())]
    Deadline {
        /// The step.
        what: String,
        /// The limit.
        seconds: u64,
        /// The file with its output so far.
        log: PathBuf,
    },
    /// Something that the machine must have is not there.
    #[error("{what} is missing: {remedy}")]
    Missing {
        /// The ability or package.
        what: String,
        /// A command or a variable that helps.
        remedy: String,
    },
    /// A program gave an answer that we do not understand.
    #[error("{program} gave an unexpected answer: {answer}")]
    Answer {
        /// Its name and arguments.
        program: String,
        /// What it said.
        answer: String,
    },
}

impl Error {
    /// For `map_err` on file operations.
    pub(crate) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { doing, path, source }
    }
}
