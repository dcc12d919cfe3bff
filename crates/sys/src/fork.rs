//! What a fresh copy of a process closes.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use crate::Error;

/// Closes every descriptor of this process but standard input, output, error and `kept`.
///
/// Must only be called where no owner of another descriptor will ever be dropped: in a fresh copy of a process.
///
/// # Errors
/// [`Error::Call`]: close_range is missing (Linux < 5.9).
pub fn close_all_but(kept: &[BorrowedFd<'_>]) -> Result<(), Error> {
    let mut kept: Vec<u32> = kept.iter().map(|fd| fd.as_raw_fd().unsigned_abs()).collect();
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept.into_iter().filter(|fd| *fd >= 3) {
        if fd > first {
            close_range(first, fd - 1, 0)?;
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX, 0)
}

/// Makes the next exec of this process close every descriptor but standard input, output and error.
///
/// # Errors
/// [`Error::Call`]: Linux < 5.11.
///
/// Source: close_range(2), `CLOSE_RANGE_CLOEXEC`.
pub fn close_all_on_exec() -> Result<(), Error> {
    close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

/// Closes the descriptors from `first` to `last`, or does with them what `flags` say.
pub(crate) fn close_range(first: u32, last: u32, flags: libc::c_uint) -> Result<(), Error> {
    // SAFETY: close_range takes plain numbers; what it closes has no owner left, as `close_all_but` demands,
    // and with CLOSE_RANGE_CLOEXEC it closes nothing before exec.
    let answer = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    Errno::result(answer).map(drop).map_err(Error::call("close_range"))
}
