//! What can go wrong around a machine; the text is for the person who reads a failed test.

use std::io;
use std::path::PathBuf;

/// A failure of a machine, or of a command that it ran.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A command failed, or something did not happen in time.
    #[error(transparent)]
    Harness(#[from] u7s_harness::Error),
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
    /// QEMU ended while it was needed.
    #[error("the machine {name} ended ({status}); console: {console}\n{tail}", console = console.display())]
    Ended {
        /// Its name.
        name: String,
        /// How QEMU ended.
        status: String,
        /// The file with all that it said on its serial line.
        console: PathBuf,
        /// The last lines of it, and QEMU's own words.
        tail: String,
    },
    /// A machine was used in a state in which that is not possible.
    #[error("the machine {name}: {what}")]
    State {
        /// Its name.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
    /// An answer that is not understood.
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
