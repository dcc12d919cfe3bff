//! Why the node could not be built or kept.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use nix::errno::Errno;
use u7s_plan::node::Extent;
use u7s_plan::subid;

use crate::spec::Problem;

/// What failed, with the object that it was about; `Display` leaves the cause to `source`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The specification could not be read.
    #[error("read {}", path.display())]
    ReadSpec {
        /// The specification.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The specification is no JSON of the expected shape.
    #[error("understand {}", path.display())]
    ParseSpec {
        /// The specification.
        path: PathBuf,
        /// Cause, with line and column.
        #[source]
        source: serde_json::Error,
    },
    /// The specification demands something impossible.
    #[error("check {}", path.display())]
    CheckSpec {
        /// The specification.
        path: PathBuf,
        /// Cause.
        #[source]
        source: Problem,
    },
    /// A file of the host that the supervisor needs.
    #[error("read {}", path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A file or directory of the node's tree, or of a cgroup, could not be written.
    #[error("write {}", path.display())]
    WriteFile {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// /etc/subuid or /etc/subgid does not give the node its ids.
    #[error("check {path}")]
    Subids {
        /// The file.
        path: &'static str,
        /// Cause.
        #[source]
        source: subid::Error,
    },
    /// The specification maps ids that the user does not have.
    #[error("map {} ids from {}: {path} does not give them to {user}", extent.count, extent.outside)]
    ForeignIds {
        /// The file that would have to.
        path: &'static str,
        /// Login name.
        user: String,
        /// The refused line of the map.
        extent: Extent,
    },
    /// newuidmap or newgidmap is needed and is not there.
    #[error("map ids: CAP_SETUID and CAP_SETGID are missing, and the specification names no {program}")]
    NoMapHelper {
        /// Which.
        program: &'static str,
    },
    /// newuidmap and newgidmap are without effect.
    #[error("map ids: CAP_SETUID and CAP_SETGID are missing, and no_new_privs keeps {} from working", program.display())]
    MapHelperPowerless {
        /// The helper.
        program: PathBuf,
    },
    /// newuidmap or newgidmap could not be started.
    #[error("start {}", program.display())]
    StartMapHelper {
        /// The helper.
        program: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// newuidmap or newgidmap said no, or nothing.
    #[error("{} failed: {outcome}", program.display())]
    MapHelper {
        /// The helper.
        program: PathBuf,
        /// Exit status and what it printed, or the deadline.
        outcome: String,
    },
    /// This process is in no cgroup2.
    #[error("find the own cgroup: there is no cgroup2 mount that shows it")]
    NoCgroup,
    /// Controllers that the node must have are not delegated.
    #[error("enable cgroup controllers: {} not delegated to {}", missing.join(", "), unit.display())]
    Controllers {
        /// Their names.
        missing: Vec<String>,
        /// The unit's cgroup.
        unit: PathBuf,
    },
    /// A system call.
    #[error("{what}")]
    System {
        /// What it was for.
        what: &'static str,
        /// Cause.
        #[source]
        source: u7s_sys::Error,
    },
    /// An operation on a descriptor, a socket or the runtime.
    #[error("{what}")]
    Io {
        /// What it was for.
        what: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The node's pid 1 could not build the namespaces.
    #[error("build the namespaces: {reason}")]
    Inside {
        /// Its own words.
        reason: String,
    },
    /// A mount inside.
    #[error("mount {what} on {}", target.display())]
    Mount {
        /// File system, or source of a bind.
        what: String,
        /// Where.
        target: PathBuf,
        /// Cause.
        #[source]
        source: Errno,
    },
    /// A place inside that something shall be mounted on, or a source outside the user's tree, is not there.
    #[error("bind {} on {}: {} does not exist on the host", source_path.display(), target.display(), missing.display())]
    BindPlace {
        /// Source of the bind.
        source_path: PathBuf,
        /// Its target.
        target: PathBuf,
        /// Which of both is missing.
        missing: PathBuf,
    },
    /// Something did not happen in time.
    #[error("waited {seconds} s for {what}")]
    Deadline {
        /// What was waited for.
        what: &'static str,
        /// How long, seconds.
        seconds: u64,
    },
    /// The node's pid 1 has ended by itself.
    #[error("the node's pid 1 ended: {how}")]
    InitEnded {
        /// As systemd words it: `signal, status=9/KILL`.
        how: String,
    },
    /// The node's pid 1 was asked to end.
    #[error("the node's pid 1 was told to end by a signal")]
    InitTerminated,
    /// Pid 1 and supervisor do not understand each other.
    #[error("understand the node's pid 1")]
    Message {
        /// Cause.
        #[source]
        source: serde_json::Error,
    },
    /// The network driver or the forwarder.
    #[error("{what}")]
    Network {
        /// What it was for.
        what: &'static str,
        /// Cause.
        #[source]
        source: u7s_net::Error,
    },
    /// What is left of the node's cgroup after all means.
    #[error("remove the node's cgroup {}", path.display())]
    RemoveCgroup {
        /// The cgroup.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A port of the node inside that nothing can be connected to.
    #[error("connect to {address} inside")]
    Connect {
        /// The address.
        address: SocketAddr,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Makes [`Error::System`]: `.map_err(Error::system("make tap0"))`.
    pub(crate) fn system(what: &'static str) -> impl FnOnce(u7s_sys::Error) -> Self {
        move |source| Self::System { what, source }
    }

    /// Makes [`Error::Io`].
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }

    /// Makes [`Error::WriteFile`].
    pub(crate) fn write(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::WriteFile { path: path.into(), source }
    }

    /// Makes [`Error::ReadFile`].
    pub(crate) fn read(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::ReadFile { path: path.into(), source }
    }
}

/// An error with its causes on one line: `a: b: c`.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
