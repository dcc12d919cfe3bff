//! The new mount calls that nix does not offer: a tree is taken out of one place and put into another.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

use crate::Error;

/// Takes a copy of the mount tree at `path`, attached nowhere until [`attach`].
///
/// # Errors
/// [`Error::Path`]: ENOENT; EPERM, this process is not root of its mount namespace's owner.
///
/// Source: open_tree(2).
pub fn take(path: &Path) -> Result<OwnedFd, Error> {
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::Nul { what: "a path" })?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE.unsigned_abs();
    // SAFETY: open_tree reads a NUL-terminated path, which `name` is and stays during the call.
    let answer = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, name.as_ptr(), flags) };
    let fd = Errno::result(answer).map_err(Error::path("open_tree", path))?;
    let fd = i32::try_from(fd).map_err(|_| Error::Answer { call: "open_tree", expected: "a descriptor" })?;
    // SAFETY: a successful open_tree returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a taken tree at the existing directory or file `target`.
///
/// # Errors
/// [`Error::Path`] names the target: ENOENT; ENOTDIR or EINVAL, it is of another kind.
///
/// Source: move_mount(2).
pub fn attach(tree: BorrowedFd<'_>, target: &Path) -> Result<(), Error> {
    let name = CString::new(target.as_os_str().as_bytes()).map_err(|_| Error::Nul { what: "a path" })?;
    // SAFETY: move_mount reads two NUL-terminated paths, the first empty with MOVE_MOUNT_F_EMPTY_PATH,
    // so that the borrowed descriptor itself is meant.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            name.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    Errno::result(answer).map(drop).map_err(Error::path("move_mount", target))
}

/// Makes a file system of `kind` that has no source, and mounts it nowhere: it is reached by the descriptor alone.
///
/// # Errors
/// [`Error::Call`]: ENODEV, the kernel has no such file system; EPERM, this process may not mount it.
///
/// Source: fsopen(2), fsconfig(2), fsmount(2).
pub fn unattached(kind: &CStr) -> Result<OwnedFd, Error> {
    // SAFETY: fsopen reads a NUL-terminated name, which `kind` is by its type.
    let answer = unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) };
    let context = descriptor("fsopen", answer)?;
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: the command to create takes no key and no value: both are null, as it demands; the descriptor is ours.
    let answer =
        unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, none, none, 0) };
    Errno::result(answer).map_err(Error::call("fsconfig"))?;
    // SAFETY: fsmount takes a descriptor, which is ours, and two numbers.
    let answer = unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0) };
    descriptor("fsmount", answer)
}

/// Source: linux/mount.h.
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

fn descriptor(call: &'static str, answer: libc::c_long) -> Result<OwnedFd, Error> {
    let fd = Errno::result(answer).map_err(Error::call(call))?;
    let fd = i32::try_from(fd).map_err(|_| Error::Answer { call, expected: "a descriptor" })?;
    // SAFETY: the callers hand on what fsopen or fsmount returned: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
