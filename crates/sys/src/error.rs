//! Why a system call of this crate failed.

use std::path::PathBuf;

use nix::errno::Errno;

/// A failed operation, named by its system call, with the object that it was about.
///
/// `Display` leaves the cause to `source`, so that a chain prints it once.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A call that has no object with a name.
    #[error("{call}")]
    Call {
        /// System call, with its decisive argument: `setsockopt(SO_MARK)`.
        call: &'static str,
        /// Cause.
        #[source]
        source: Errno,
    },
    /// A call about a path.
    #[error("{call} {}", path.display())]
    Path {
        /// System call.
        call: &'static str,
        /// Its object.
        path: PathBuf,
        /// Cause.
        #[source]
        source: Errno,
    },
    /// A call about a process.
    #[error("{call} of process {pid}")]
    Process {
        /// System call.
        call: &'static str,
        /// Its object, as seen by the caller.
        pid: i32,
        /// Cause.
        #[source]
        source: Errno,
    },
    /// A text that shall become a C string holds a NUL byte.
    #[error("{what} holds a NUL byte")]
    Nul {
        /// What the text is: `an argument`, `a path`.
        what: &'static str,
    },
    /// The kernel answered with something else than its interface promises.
    #[error("{call}: unexpected answer, {expected} was expected")]
    Answer {
        /// System call or protocol.
        call: &'static str,
        /// What should have come.
        expected: &'static str,
    },
}

impl Error {
    /// The error number, if a system call gave one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Call { source, .. } | Self::Path { source, .. } | Self::Process { source, .. } => {
                Some(*source)
            }
            Self::Nul { .. } | Self::Answer { .. } => None,
        }
    }

    /// Makes [`Error::Call`] out of an error number: `.map_err(Error::call("listen"))`.
    pub fn call(call: &'static str) -> impl FnOnce(Errno) -> Self {
        move |source| Self::Call { call, source }
    }

    /// Makes [`Error::Path`] out of an error number.
    pub fn path(call: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(Errno) -> Self {
        move |source| Self::Path { call, path: path.into(), source }
    }

    /// Makes [`Error::Process`] out of an error number.
    pub fn process(call: &'static str, pid: i32) -> impl FnOnce(Errno) -> Self {
        move |source| Self::Process { call, pid, source }
    }

    /// The error of the call that just returned -1, from this thread's `errno`.
    #[must_use]
    pub fn last(call: &'static str) -> Self {
        Self::Call { call, source: Errno::last() }
    }
}
