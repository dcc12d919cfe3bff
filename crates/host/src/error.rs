//! What may go wrong on the host, by operation and with the objects it happened to.

use std::io;
use std::path::PathBuf;

/// Errors of this crate. The texts are sentences for users; the cause is in `source`, never in the text.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// Something else than a regular file lies where a file is expected.
    #[error("{path} is not a regular file")]
    NotRegular {
        /// Which.
        path: PathBuf,
    },
    /// Something of somebody else, or no plain file, lies where the lock is expected.
    #[error("{path} is no lock of this program, but something of uid {uid}")]
    NotOurs {
        /// The lock's place.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// Something else than a directory lies where a directory is expected.
    #[error("{path} is not a directory")]
    NotDirectory {
        /// Which.
        path: PathBuf,
    },
    /// Something else than a character device lies where a device is expected.
    #[error("{path} is not a character device")]
    NotDevice {
        /// Which.
        path: PathBuf,
    },
    /// A path leads through a symbolic link, which root does not follow here.
    #[error("{path} is, or is reached through, a symbolic link, which is not followed here")]
    Link {
        /// Which.
        path: PathBuf,
    },
    /// A path is relative or has no last component.
    #[error("{path} is not an absolute path of a file")]
    Path {
        /// Which.
        path: PathBuf,
    },
    /// A file is larger than what is read of its kind.
    #[error("{path} is larger than {limit} bytes")]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// Bytes.
        limit: u64,
    },
    /// A directory holds more files than are read.
    #[error("{path} holds more than {limit} files")]
    TooManyFiles {
        /// The directory.
        path: PathBuf,
        /// Files.
        limit: usize,
    },
    /// A file is not UTF-8.
    #[error("{path} is not UTF-8 text")]
    NotText {
        /// Which.
        path: PathBuf,
    },
    /// A file, directory, device mode or sysctl could not be written.
    #[error("cannot write {path}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A file or directory could not be removed.
    #[error("cannot remove {path}")]
    Remove {
        /// Which.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A sysctl key is not a relative path below /proc/sys.
    #[error("{key} is not a sysctl")]
    SysctlKey {
        /// Which.
        key: String,
    },
    /// A user does not exist.
    #[error("there is no user {name}")]
    NoUser {
        /// Which.
        name: String,
    },
    /// The user database did not answer.
    #[error("cannot look up user {name}")]
    Users {
        /// Which.
        name: String,
        /// Cause.
        source: io::Error,
    },
    /// A program was not found in root's search path, or only where others than root may write.
    #[error("{program} was not found in {searched}{reason}")]
    NoProgram {
        /// Which.
        program: String,
        /// The search path.
        searched: &'static str,
        /// Empty, or why what was found is not used.
        reason: String,
    },
    /// A program could not be started.
    #[error("cannot start {program}")]
    Start {
        /// Absolute path.
        program: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A program ended with a failure.
    #[error("{program} failed, {status}{said}")]
    Failed {
        /// Absolute path.
        program: PathBuf,
        /// `exit status: 1`, …
        status: String,
        /// Empty, or `: ` and the end of what it wrote to standard error.
        said: String,
    },
    /// Something did not happen in time.
    #[error("{what} took longer than {seconds} s")]
    Deadline {
        /// What was waited for; for a program its path.
        what: String,
        /// The deadline, seconds.
        seconds: u64,
    },
    /// A child that dropped to the node's user did not do its work.
    #[error("as uid {uid}: {reason}")]
    AsUser {
        /// Host uid.
        uid: u32,
        /// The child's own words.
        reason: String,
    },
    /// A step of a plan was not done.
    #[error("[{}] {step}", .phase.as_str())]
    Step {
        /// Its phase.
        phase: u7s_plan::step::Phase,
        /// The step as the dry run shows it.
        step: String,
        /// Cause.
        source: Box<Error>,
    },
    /// Another init or reset runs.
    #[error("another init or reset is running{}", .pid.map_or_else(String::new, |pid| format!(", pid {pid}")))]
    Busy {
        /// Its pid, if it had written it already.
        pid: Option<i32>,
    },
    /// systemd cannot be reached.
    #[error("systemd does not answer on the system bus (dbus.service)")]
    NoSystemd {
        /// Cause.
        source: Box<zbus::Error>,
    },
    /// systemd refused a call.
    #[error("systemd: cannot {operation}")]
    Systemd {
        /// `start u7s.service`, …
        operation: String,
        /// Cause.
        source: Box<zbus::Error>,
    },
    /// The runtime for D-Bus could not be made.
    #[error("cannot make an event loop")]
    Runtime {
        /// Cause.
        source: io::Error,
    },
    /// A unit did not become active.
    #[error("{unit} did not start: result {result}{status}; see: journalctl -xeu {unit}")]
    UnitFailed {
        /// Which.
        unit: String,
        /// systemd's `Result`: `exit-code`, `timeout`, …
        result: String,
        /// Empty, or the last text that the unit gave as its status.
        status: String,
    },
    /// The node's specification is not what this program writes.
    #[error("{path} is not the specification of a node")]
    Node {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: Box<serde_json::Error>,
    },
    /// The host's nft table of the node was not loaded, or not removed.
    #[error("nft cannot {operation} the table inet u7s: {reason}")]
    Firewall {
        /// `load`, `remove`.
        operation: &'static str,
        /// nft's own words, or what is missing in the table.
        reason: String,
    },
    /// The state kept for reset is not what this program writes.
    #[error("{path} does not hold the former values that reset needs")]
    Undo {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: Box<serde_json::Error>,
    },
    /// The state kept for reset comes from another version.
    #[error("{path} has version {found}, this program reads version {known}")]
    UndoVersion {
        /// The file.
        path: PathBuf,
        /// Version in it.
        found: u32,
        /// Version that we know.
        known: u32,
    },
    /// No range of subordinate ids is free.
    #[error("no {count} subordinate ids in a row are free")]
    NoSubids {
        /// How many were wanted.
        count: u32,
    },
    /// A tool said it had given subordinate ids, and they are not there.
    #[error("{user} still has no {count} subordinate ids in /etc/subuid and /etc/subgid")]
    SubidsMissing {
        /// Login name.
        user: String,
        /// How many were wanted.
        count: u32,
    },
    /// A kubeconfig made by kubeadm cannot be published.
    #[error("{path} cannot be used: {reason}")]
    Kubeconfig {
        /// admin.conf.
        path: PathBuf,
        /// Why, from the parser.
        reason: String,
    },
    /// An image source has no names, or is no OCI layout nor archive.
    #[error("{path} is no OCI layout or image archive: {reason}")]
    Images {
        /// Layout or archive.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The kernel did not answer a question about the network.
    #[error("cannot read {what} of the kernel")]
    Netlink {
        /// `routes`, …
        what: &'static str,
        /// Cause.
        source: io::Error,
    },
    /// A program inside ended with a failure; what it said went to the caller's own output.
    #[error("{program} failed inside, {status}")]
    Inside {
        /// As given in the plan.
        program: String,
        /// How it ended.
        status: crate::enter::Status,
    },
    /// The cluster of an earlier init is whole and does not answer: nothing is made anew over it.
    #[error(
        "the cluster of an earlier init is here, but its API server was not ready within {seconds} s; see: \
         u7s status; u7s logs kubelet; to begin anew: kubeadm reset"
    )]
    ClusterDown {
        /// How long it was waited for.
        seconds: u64,
    },
    /// Something could not be unmounted.
    #[error("cannot unmount {path}")]
    Unmount {
        /// Where it is mounted.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// Processes of the node live though they were killed.
    #[error("processes of {what} still live: {processes}")]
    Alive {
        /// The unit, or the user.
        what: String,
        /// Pid, name, uid and state of each, at most five.
        processes: String,
    },
    /// Something that others than root made, or may change, could not be removed.
    #[error("{path} is left, of others than root: {reason}")]
    LeftBehind {
        /// It.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// A directory of root's still holds what others than root made: it was put aside.
    #[error("{path} holds what is not root's, so it is {aside} now, closed to everybody but root")]
    Aside {
        /// Where it was.
        path: PathBuf,
        /// Where it is.
        aside: PathBuf,
    },
    /// Several things went wrong in one step that goes on after errors.
    #[error("{}", .errors.iter().map(whole).collect::<Vec<_>>().join("; "))]
    Several {
        /// All of them, in order.
        errors: Vec<Error>,
    },
    /// A program failed, and secrets that it left behind could not be removed.
    #[error("secrets are left behind ({}); and before that", .left.iter().map(whole).collect::<Vec<_>>().join("; "))]
    Left {
        /// Why they were not removed, each naming its file.
        left: Vec<Error>,
        /// How the program ended.
        source: Box<Error>,
    },
    /// A former file in the book of former values cannot be read.
    #[error("the former content of {path} is damaged")]
    Damaged {
        /// The file that was to be put back.
        path: PathBuf,
    },
    /// A program or a piece of work could not be run as the node's user.
    #[error(transparent)]
    Enter(#[from] crate::enter::Error),
    /// The supervisor gave no answer, or refused.
    #[error(transparent)]
    Control(#[from] crate::control::Error),
}

impl Error {
    /// The signal that asked this process to end, if that is why something was not done.
    #[must_use]
    pub fn interrupted(&self) -> Option<i32> {
        match self {
            Self::Enter(crate::enter::Error::Interrupted { signal, .. }) => Some(*signal),
            Self::Step { source, .. } | Self::Left { source, .. } => source.interrupted(),
            _ => None,
        }
    }
}

/// An error with its causes in one sentence, where a chain cannot be kept.
pub(crate) fn whole(error: &Error) -> String {
    chain(error)
}

/// As [`whole`], of any error.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Turns the errno of an `openat2` without links into the sentence that fits.
pub(crate) fn opening(path: &std::path::Path, errno: nix::errno::Errno) -> Error {
    let path = path.to_owned();
    match errno {
        nix::errno::Errno::ELOOP => Error::Link { path },
        nix::errno::Errno::ENOTDIR => Error::NotDirectory { path },
        other => Error::Read { path, source: other.into() },
    }
}
