//! The doors of u7s: what each program does with its arguments, and the one place that prints.
//!
//! A door turns argv into a typed request, asks the crates, and hands an [`error::Error`] or an [`End`] to [`report`].
#![forbid(unsafe_code)]

pub mod doors;
pub mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod report;
pub mod words;

pub use error::Error;

/// How a program of ours ends when nothing went wrong with *us*.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With this exit status, our own or that of the program that was run.
    Code(u8),
    /// By the signal that ended the program that was run.
    Signal(i32),
}

impl End {
    /// Exit status 0.
    pub const OK: Self = Self::Code(0);
}

impl From<u7s_host::enter::Status> for End {
    fn from(status: u7s_host::enter::Status) -> Self {
        match status {
            u7s_host::enter::Status::Exited(code) => Self::Code(u8::try_from(code).unwrap_or(u8::MAX)),
            u7s_host::enter::Status::Signaled(signal) => Self::Signal(signal),
        }
    }
}
