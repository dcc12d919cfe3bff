//! Processes held by descriptor: a pid that was reused is never hit, and no wait for one is without end.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::Error;

/// How long a killed child may take to end before it is left behind.
///
/// One that waits in the kernel for a file system whose server never answers does not end at all.
pub const KILLED: Duration = Duration::from_secs(2);

/// Opens a process by pid; the caller makes sure that the pid still means the same process (its own unreaped child).
///
/// # Errors
/// [`Error::Process`]: ESRCH, no such process.
pub fn open(pid: i32) -> Result<OwnedFd, Error> {
    // SAFETY: pidfd_open takes two numbers; an unknown pid is an error, not undefined.
    let answer = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = Errno::result(answer).map_err(Error::process("pidfd_open", pid))?;
    let fd = i32::try_from(fd).map_err(|_| Error::Answer { call: "pidfd_open", expected: "a descriptor" })?;
    // SAFETY: a successful pidfd_open returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal, or with `None` only checks that the process is there.
///
/// # Errors
/// [`Error::Call`]: ESRCH, it has ended and was reaped; EPERM, it is not ours.
pub fn signal(process: BorrowedFd<'_>, signal: Option<Signal>) -> Result<(), Error> {
    let number = signal.map_or(0, |signal| signal as libc::c_int);
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo makes the kernel fill it as kill(2) does; the descriptor is borrowed for the call.
    let answer =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), number, no_info, 0) };
    Errno::result(answer).map(drop).map_err(Error::call("pidfd_send_signal"))
}

/// A child of this process that was not reaped yet.
///
/// Dropping it neither kills nor reaps: what is left behind is reaped by init once this process has ended.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Child {
    /// Takes hold of an unreaped child.
    ///
    /// # Errors
    /// [`Error::Process`]: EMFILE, no descriptor is left. The child was killed then.
    pub fn of(pid: Pid) -> Result<Self, Error> {
        match open(pid.as_raw()) {
            Ok(pidfd) => Ok(Self { pid, pidfd }),
            Err(error) => {
                // Unreaped, so its number is still its own.
                let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
                Err(error)
            }
        }
    }

    /// As the caller sees it.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits until it has ended, and reaps it; `None`: at `until` it runs still.
    ///
    /// # Errors
    /// [`Error::Process`]: ECHILD, somebody else has reaped it.
    pub fn wait(&self, until: Instant) -> Result<Option<WaitStatus>, Error> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(0) => return Ok(None),
                Ok(_) => break,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::Call { call: "poll of a child", source: errno }),
            }
        }
        let reaped = waitpid(self.pid, Some(WaitPidFlag::WNOHANG));
        let status = reaped.map_err(Error::process("waitpid", self.pid.as_raw()))?;
        Ok((status != WaitStatus::StillAlive).then_some(status))
    }

    /// Kills it and reaps it; `None`: not even that has ended it within [`KILLED`], and it is left behind.
    #[must_use]
    pub fn kill(self) -> Option<WaitStatus> {
        let _ = signal(self.pidfd.as_fd(), Some(Signal::SIGKILL));
        self.wait(Instant::now() + KILLED).ok().flatten()
    }

    /// Its descriptor alone.
    #[must_use]
    pub fn into_pidfd(self) -> OwnedFd {
        self.pidfd
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn pid(child: &std::process::Child) -> Pid {
        Pid::from_raw(i32::try_from(child.id()).unwrap())
    }

    #[test]
    fn a_process_held_by_descriptor_is_signalled() {
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let held = open(i32::try_from(child.id()).unwrap()).unwrap();
        signal(held.as_fd(), None).unwrap();
        signal(held.as_fd(), Some(Signal::SIGKILL)).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert_eq!(signal(held.as_fd(), None).unwrap_err().errno(), Some(Errno::ESRCH));
    }

    #[test]
    #[expect(clippy::zombie_processes, reason = "reaped by what is tested")]
    fn a_child_that_runs_on_is_waited_for_until_the_deadline_and_killed() {
        let child = std::process::Command::new("/bin/sleep").arg("600").spawn().unwrap();
        let held = Child::of(pid(&child)).unwrap();
        assert_eq!(held.wait(Instant::now() + Duration::from_millis(20)).unwrap(), None);
        assert!(matches!(held.kill(), Some(WaitStatus::Signaled(_, Signal::SIGKILL, _))));
    }

    #[test]
    #[expect(clippy::zombie_processes, reason = "reaped by what is tested")]
    fn a_child_that_ends_is_reaped_with_its_status() {
        let child = std::process::Command::new("/bin/sh").args(["-c", "exit 7"]).spawn().unwrap();
        let held = Child::of(pid(&child)).unwrap();
        let ended = held.wait(Instant::now() + Duration::from_secs(60)).unwrap();
        assert!(matches!(ended, Some(WaitStatus::Exited(_, 7))), "{ended:?}");
    }
}
