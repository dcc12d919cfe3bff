//! Why a program could not be run as the node's user, on the host or inside.

use std::io;
use std::path::PathBuf;

use u7s_sys::enter::Failure;

use crate::control;

/// Errors of [`super`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The supervisor did not say where the node is.
    #[error(transparent)]
    Control(#[from] control::Error),
    /// The process that was named as the node's pid 1 is something else.
    #[error("process {pid} is not the node's pid 1: {reason}")]
    NotOurs {
        /// Host pid.
        pid: i32,
        /// What is wrong with it.
        reason: String,
    },
    /// A fact about a process could not be read: it went away, or the caller has no right to look.
    #[error("cannot look at process {pid}")]
    Look {
        /// Host pid.
        pid: i32,
        /// Cause.
        source: io::Error,
    },
    /// The node's cgroup cannot be joined.
    #[error("cannot open the cgroup {}", path.display())]
    Cgroup {
        /// `cgroup.procs` of it.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A program has no name, or a text holds a NUL byte.
    #[error("{what} cannot be passed to a program")]
    Argument {
        /// What.
        what: &'static str,
    },
    /// The program could not be started.
    #[error("cannot run {program}")]
    Start {
        /// Its name as given.
        program: String,
        /// Cause, with the stage.
        source: Failure,
    },
    /// A call that no program is at fault for.
    #[error("cannot prepare an entry")]
    Sys(#[from] u7s_sys::Error),
    /// Waiting for the program, or moving its data, failed.
    #[error("cannot watch {program}")]
    Watch {
        /// Its name as given.
        program: String,
        /// Cause.
        source: io::Error,
    },
    /// It did not end when it was killed: it waits in the kernel for a file that does not answer.
    #[error("{program} (process {pid}) cannot be killed and is left behind")]
    LeftBehind {
        /// Its name as given, or what it did.
        program: String,
        /// Host pid.
        pid: i32,
    },
    /// A signal asked this process to end while the program was on its way or ran.
    #[error("{program} was ended by signal {signal}, which reached this command")]
    Interrupted {
        /// Its name as given.
        program: String,
        /// The signal's number.
        signal: i32,
        /// Where the program stood, if it was not executed yet.
        source: Option<Failure>,
    },
    /// It ran longer than it may and was killed with its group.
    #[error("{program} did not end within {seconds} s and was killed")]
    Deadline {
        /// Its name as given.
        program: String,
        /// Seconds.
        seconds: u64,
    },
    /// A file named on the command line cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// As given.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A file named on the command line is larger than any file of its kind.
    #[error("{} is larger than {limit} bytes", path.display())]
    TooLarge {
        /// As given.
        path: PathBuf,
        /// Bytes.
        limit: u64,
    },
    /// A FIFO named on the command line has no writer.
    #[error("{} is a pipe that nobody wrote to within {seconds} s", path.display())]
    Silent {
        /// As given.
        path: PathBuf,
        /// Seconds.
        seconds: u64,
    },
    /// A FIFO named on the command line has a writer that does not come to an end.
    #[error("{} is a pipe that was not read to its end within {seconds} s", path.display())]
    Slow {
        /// As given.
        path: PathBuf,
        /// Seconds.
        seconds: u64,
    },
    /// A file named on the command line lies behind a link that somebody else than root may change.
    #[error("{} leads through a link that others than root may change", path.display())]
    Link {
        /// As given.
        path: PathBuf,
    },
    /// Root's rights are not lent to a document that somebody else may have written.
    #[error(
        "{} is named in a document that others than root may write, so uid {uid} must be able to read it: {reason}",
        path.display()
    )]
    Foreign {
        /// As named there.
        path: PathBuf,
        /// Host uid of the node's user.
        uid: u32,
        /// Why he cannot.
        reason: String,
    },
    /// What the program wrote for the caller cannot be put where he named it.
    #[error("cannot write {}", path.display())]
    Deliver {
        /// Absolute.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A child that dropped to a user said nothing useful.
    #[error("the child that works as uid {uid} failed: {reason}")]
    Child {
        /// Host uid.
        uid: u32,
        /// How it ended.
        reason: String,
    },
}
