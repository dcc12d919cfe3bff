//! Makes the node's namespaces: one clone, two maps, then no capability is left.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, waitid};

use crate::inside::{self, Blueprint};
use crate::message::{self, Command, Event, Exit, Order};
use crate::{Error, cgroup, idmap, output};

/// How long pid 1 may take to make tap0.
const TAP: Duration = Duration::from_secs(10);

/// How long a killed pid 1 may take until the kernel has ended everything inside.
const DEATH: Duration = Duration::from_secs(10);

/// The node's pid 1 as its parent holds it; dropped, it is killed and waited for.
#[derive(Debug)]
pub(crate) struct Namespace {
    /// Host pid of pid 1.
    pub(crate) pid: i32,
    /// The same, held.
    pub(crate) pidfd: OwnedFd,
}

/// Clones pid 1 into all namespaces and writes its id maps.
///
/// The cgroup namespace is pid 1's own first act, since one made here would be rooted at the supervisor's cgroup.
/// Pid 1 writes into a pipe: the supervisor's standard error leads to the host's journal, where whoever took pid 1 over
/// could speak in the unit's name and with any priority.
/// Should: be called with a single thread.
/// Shape: pid 1, the supervisor's end of its channel, and the read end of the pipe.
///
/// # Errors
/// [`Error::System`]: clone3 was refused. What [`idmap::write`] says.
pub(crate) fn create(
    way: idmap::Way,
    cgroup: &cgroup::Node,
    blueprint: Blueprint<'_>,
) -> Result<(Namespace, OwnedFd, OwnedFd), Error> {
    let flags = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    let (ours, theirs) = u7s_sys::channel::pair().map_err(Error::system("make the channel to pid 1"))?;
    let (reader, writer) = output::pipe()?;
    let life = move || inside::live(theirs, &writer, blueprint);
    let (pid, pidfd) = u7s_sys::clone::clone_into(flags, cgroup.directory.as_fd(), life)
        .map_err(Error::system("make the namespaces"))?;
    let namespace = Namespace { pid, pidfd };
    idmap::write(way, pid, blueprint.spec)?;
    // Pid 1's part, done here: it is busy, and waits for the maps in any case.
    let init = cgroup.path.join(inside::pods::INIT);
    std::fs::create_dir(&init).map_err(Error::write(init))?;
    message::send(ours.as_fd(), &Order { id: 0, command: Command::Mapped }, &[])?;
    Ok((namespace, ours, reader))
}

/// Gives up every capability and the means to gain one, for this process and what it starts from now on.
///
/// Must not come before the clone: pods would inherit `no_new_privs`, and setuid programs in images would be dead.
///
/// # Errors
/// [`Error::System`], [`Error::Io`].
pub(crate) fn drop_privileges() -> Result<(), Error> {
    u7s_sys::capability::drop_all().map_err(Error::system("drop all capabilities"))?;
    nix::sys::prctl::set_no_new_privs()
        .map_err(|errno| Error::Io { what: "set no_new_privs", source: errno.into() })
}

/// Waits until tap0 is there, so that the driver can attach; returns its descriptor where pid 1 hands it over.
///
/// # Errors
/// [`Error::Inside`] with pid 1's own words; [`Error::Deadline`].
pub(crate) fn wait_for_tap(channel: &OwnedFd) -> Result<Option<OwnedFd>, Error> {
    let deadline = Instant::now() + crate::patience::of(TAP);
    loop {
        match message::receive::<Event>(channel.as_fd()) {
            Ok(Some((Event::Tap, mut descriptors))) => return Ok(descriptors.pop()),
            Ok(Some((Event::Failed { reason }, _))) => return Err(Error::Inside { reason }),
            Ok(Some(_)) => {}
            Ok(None) => return Err(Error::Inside { reason: "pid 1 ended without a word".to_owned() }),
            Err(error) if message::would_block(&error) => {
                if !readable_before(channel, deadline) {
                    return Err(Error::Deadline {
                        what: "tap0 inside",
                        seconds: crate::patience::of(TAP).as_secs(),
                    });
                }
            }
            Err(error) => return Err(error),
        }
    }
}

fn readable_before(descriptor: &impl AsFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(count) => return count > 0,
            Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

impl Namespace {
    /// How pid 1 ended, once it has; reaps it.
    pub(crate) fn exit(&self) -> Option<Exit> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        waitid(Id::PIDFd(self.pidfd.as_fd()), flags).ok().and_then(Exit::of).map(|(_, exit)| exit)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = u7s_sys::pidfd::signal(self.pidfd.as_fd(), Some(Signal::SIGKILL));
        readable_before(&self.pidfd, Instant::now() + DEATH);
        let _ = self.exit();
    }
}
