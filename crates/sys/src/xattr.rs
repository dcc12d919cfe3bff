//! Extended attributes, which nix does not offer.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use crate::Error;

/// Takes an attribute away from an open file or directory; `false` if it has none of this name, or the file system none at all.
///
/// # Errors
/// [`Error::Call`]: EPERM, the file is another user's, or immutable; EBADF, it was opened with `O_PATH`.
///
/// Source: removexattr(2), xattr(7).
pub fn remove(file: BorrowedFd<'_>, name: &CStr) -> Result<bool, Error> {
    // SAFETY: fremovexattr reads a NUL-terminated name, which `name` is by its type; the descriptor is borrowed for the call.
    let answer = unsafe { libc::fremovexattr(file.as_raw_fd(), name.as_ptr()) };
    match Errno::result(answer) {
        Ok(_) => Ok(true),
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(false),
        Err(errno) => Err(Error::call("fremovexattr")(errno)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn an_attribute_that_is_not_there_is_no_error() {
        let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        assert!(!remove(file.as_fd(), c"user.u7s-none").unwrap());
    }
}
