//! Processes held by descriptor: a pid that was reused is never hit.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::Error;

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

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_process_held_by_descriptor_is_signalled() {
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let held = open(i32::try_from(child.id()).unwrap()).unwrap();
        signal(held.as_fd(), None).unwrap();
        signal(held.as_fd(), Some(Signal::SIGKILL)).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert_eq!(signal(held.as_fd(), None).unwrap_err().errno(), Some(Errno::ESRCH));
    }
}
