//! What every network driver can do, and the process that serves a link.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use u7s_plan::node::{Driver as Kind, NodeSpec};
use u7s_sys::pidfd;

use crate::Error;
use crate::slirp4netns::Slirp4netns;

/// A program or device that carries the packets of `tap0`.
pub trait Driver {
    /// Checks program and settings; nothing is touched.
    ///
    /// # Errors
    /// [`Error::Program`], [`Error::Mtu`], [`Error::Fixed`].
    fn validate(&self) -> Result<(), Error>;

    /// Serves the persistent `tap0` of a process' network namespace, again and again: each call starts a new process.
    ///
    /// # Errors
    /// [`Error::Hold`]: it cannot be started. [`Error::Process`]: no descriptor is left.
    fn attach(&self, node: Node<'_>) -> Result<Link, Error>;
}

/// Where a driver serves.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    /// A process in the namespaces that the caller holds against reuse of its pid (an unreaped child). Its id maps must
    /// have been written.
    pub pid: i32,
    /// The same.
    pub pidfd: BorrowedFd<'a>,
    /// `tap0`, for a driver that takes it by descriptor. Without one the driver enters the namespaces and opens it, and
    /// no descriptor of it may be open.
    pub tap: Option<BorrowedFd<'a>>,
}

/// The driver that the node's specification asks for, if any.
#[must_use]
pub fn of(spec: &NodeSpec) -> Option<Box<dyn Driver + Send + Sync>> {
    match spec.network.driver {
        Kind::Slirp4netns => Some(Box::new(Slirp4netns {
            program: spec.programs.slirp4netns.clone(),
            network: spec.network.clone(),
        })),
        Kind::None => None,
    }
}

/// A running driver.
///
/// Shape: the process is a child of the caller, who watches `pidfd` (readable: it has ended), reads `output` to the end
/// and finally calls [`detach`](Self::detach), which reaps it.
#[derive(Debug)]
pub struct Link {
    /// Its pid, for messages.
    pub pid: i32,
    /// The process.
    pub pidfd: OwnedFd,
    /// One byte comes when it says that it is ready; end of file without one: it gave up.
    pub ready: OwnedFd,
    /// It ends by itself when this end is closed: the death of the supervisor is enough.
    pub exit: OwnedFd,
    /// What it writes to standard output and error, for the journal; non-blocking.
    pub output: OwnedFd,
}

/// Whether a driver still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It runs.
    Running,
    /// It has ended this way and is not reaped yet.
    Ended(WaitStatus),
}

impl Link {
    /// Whether the process still runs; never blocks, does not reap.
    ///
    /// # Errors
    /// [`Error::Process`]: somebody else reaped it.
    pub fn health(&self) -> Result<Health, Error> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        Ok(match self.wait(flags)? {
            WaitStatus::StillAlive => Health::Running,
            ended => Health::Ended(ended),
        })
    }

    /// Ends the process if it still runs, and reaps it.
    ///
    /// Asks by closing the exit descriptor, kills after `grace`.
    ///
    /// # Errors
    /// [`Error::Unkillable`]: it hangs in the kernel. [`Error::Process`], [`Error::Hold`]: it is not our child any more.
    pub fn detach(self, grace: Duration) -> Result<WaitStatus, Error> {
        /// How long a killed process may take to end.
        const KILLED: Duration = Duration::from_secs(5);
        let Self { pid, pidfd, exit, .. } = self;
        drop(exit);
        if !ends_within(&pidfd, grace)? {
            pidfd::signal(pidfd.as_fd(), Some(Signal::SIGKILL)).map_err(|source| Error::Hold { source })?;
            if !ends_within(&pidfd, KILLED)? {
                return Err(Error::Unkillable { pid, after: KILLED });
            }
        }
        reap(&pidfd, WaitPidFlag::WEXITED)
    }

    fn wait(&self, flags: WaitPidFlag) -> Result<WaitStatus, Error> {
        reap(&self.pidfd, flags)
    }
}

fn reap(process: &OwnedFd, flags: WaitPidFlag) -> Result<WaitStatus, Error> {
    waitid(Id::PIDFd(process.as_fd()), flags).map_err(|source| Error::Process { call: "waitid", source })
}

/// Whether a process ends within `time`.
pub(crate) fn ends_within(process: &OwnedFd, time: Duration) -> Result<bool, Error> {
    let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    let mut watched = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    match poll(&mut watched, timeout) {
        Ok(count) => Ok(count > 0),
        // A signal shortens the grace; what follows is a kill at worst.
        Err(Errno::EINTR) => Ok(false),
        Err(source) => Err(Error::Process { call: "poll", source }),
    }
}
