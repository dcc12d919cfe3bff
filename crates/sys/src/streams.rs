//! Standard streams of this process.

use std::os::fd::{AsFd, OwnedFd};

use nix::unistd::dup2_stdout;

use crate::Error;

/// Lets standard output lead where standard error does; returns what it was, close-on-exec.
///
/// Programs that are started later inherit the former only: what they print cannot mix with what goes to the latter.
///
/// # Errors
/// EBADF: one of the two is closed. EMFILE.
///
/// Source: dup(2).
pub fn divert_stdout() -> Result<OwnedFd, Error> {
    let former = std::io::stdout().as_fd().try_clone_to_owned().map_err(|error| Error::Call {
        call: "dup of standard output",
        source: nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(0)),
    })?;
    dup2_stdout(std::io::stderr()).map_err(Error::call("dup2"))?;
    Ok(former)
}
