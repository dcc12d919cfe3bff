//! Descriptors that the runtime watches.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Registers a descriptor that nobody else can close.
///
/// # Errors
/// The runtime takes no more: `fs.epoll.max_user_watches`.
#[expect(
    deprecated,
    reason = "its unsafe successor demands what an OwnedFd has: the same open descriptor until dropped"
)]
pub(crate) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(descriptor)
}
