//! Facts about user namespaces that only the kernel can tell: who owns one, and which one it was made in.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use crate::Error;

/// The uid that made a user namespace, in terms of the caller's own user namespace.
///
/// `namespace` is an open `/proc/PID/ns/user`.
///
/// # Errors
/// EINVAL: the descriptor is a namespace of another kind. ENOTTY: it is no namespace at all.
///
/// Source: ioctl_nsfs(2).
pub fn owner(namespace: impl AsFd) -> Result<u32, Error> {
    let mut uid: libc::uid_t = 0;
    // SAFETY: NS_GET_OWNER_UID stores one uid_t through its argument, which points to a live, writable uid_t.
    let result = unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), libc::NS_GET_OWNER_UID, &raw mut uid) };
    if result == -1 {
        return Err(Error::last("ioctl(NS_GET_OWNER_UID)"));
    }
    Ok(uid)
}

/// The user namespace in which a user namespace was made.
///
/// # Errors
/// EPERM: the parent is the initial namespace's, or is outside the caller's own.
///
/// Source: ioctl_nsfs(2).
pub fn parent(namespace: impl AsFd) -> Result<OwnedFd, Error> {
    // SAFETY: NS_GET_PARENT takes no argument; it reads no memory of ours.
    let result = unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), libc::NS_GET_PARENT) };
    if result == -1 {
        return Err(Error::last("ioctl(NS_GET_PARENT)"));
    }
    // SAFETY: a result other than -1 is a new descriptor (opened close-on-exec) that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_namespace_of_another_kind_has_no_owner() {
        let net = File::open("/proc/self/ns/net").unwrap();
        assert_eq!(owner(&net).unwrap_err().errno(), Some(nix::errno::Errno::EINVAL));
    }

    #[test]
    fn a_file_that_is_no_namespace_is_refused() {
        let file = File::open("/proc/self/status").unwrap();
        assert!(owner(&file).unwrap_err().errno().is_some());
        assert!(parent(&file).unwrap_err().errno().is_some());
    }

    #[test]
    fn the_own_user_namespace_has_an_owner() {
        let user = File::open("/proc/self/ns/user").unwrap();
        owner(&user).unwrap();
    }
}
