//! Dropping to a user, for good and proved.
//!
//! The ids are changed by raw system calls: glibc's wrappers would try to tell threads that do not exist in a forked
//! child.

use nix::errno::Errno;

use super::{Stage, attributes};

/// A host user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// Host uid.
    pub uid: u32,
    /// Host gid, the only group that is left.
    pub gid: u32,
}

/// Drops this process to a user and proves that there is no way back: no id, group or capability is left.
///
/// Root takes nothing else along either: session keyring, priorities and marks of its login are reset before, see
/// `attributes`.
///
/// Must only be called in a freshly forked child, or where the whole process shall lose its rights.
///
/// # Errors
/// The stage that failed. The process must end then: it may have dropped only a part.
pub fn drop_for_good(ids: Ids) -> Result<(), (Stage, Errno)> {
    if nix::unistd::geteuid().is_root() {
        attributes::reset().map_err(|errno| (Stage::Attributes, errno))?;
    }
    let none: *const libc::gid_t = std::ptr::null();
    // SAFETY: setgroups reads `size` ids from its pointer, and the size is 0.
    check(unsafe { libc::syscall(libc::SYS_setgroups, 0_usize, none) })
        .map_err(|errno| (Stage::Drop, errno))?;
    set_ids(ids).map_err(|errno| (Stage::Drop, errno))?;
    verify(ids).map_err(|errno| (Stage::Verify, errno))
}

pub(super) fn set_ids(ids: Ids) -> Result<(), Errno> {
    // SAFETY: setresgid takes three numbers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, ids.gid, ids.gid, ids.gid) })?;
    // SAFETY: setresuid takes three numbers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, ids.uid, ids.uid, ids.uid) })
}

/// Every id is the user's, no group and no capability is left, and the way back is shut.
fn verify(ids: Ids) -> Result<(), Errno> {
    let (users, groups) = (nix::unistd::getresuid()?, nix::unistd::getresgid()?);
    let users = [users.real, users.effective, users.saved].map(nix::unistd::Uid::as_raw);
    let groups = [groups.real, groups.effective, groups.saved].map(nix::unistd::Gid::as_raw);
    let lost =
        users == [ids.uid; 3] && groups == [ids.gid; 3] && supplementary_groups() == 0 && no_capability()?;
    // A drop to root would be none.
    if !lost || ids.uid == 0 || set_ids(Ids { uid: 0, gid: ids.gid }).is_ok() {
        return Err(Errno::EPERM);
    }
    Ok(())
}

fn supplementary_groups() -> libc::c_long {
    let none: *mut libc::gid_t = std::ptr::null_mut();
    // SAFETY: with size 0 getgroups stores nothing and returns the number.
    unsafe { libc::syscall(libc::SYS_getgroups, 0, none) }
}

/// Effective, permitted and inheritable sets are empty (then the ambient set is, too).
fn no_capability() -> Result<bool, Errno> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    /// `_LINUX_CAPABILITY_VERSION_3`, capget(2): two words of each set.
    const VERSION: u32 = 0x2008_0522;
    let mut header = Header { version: VERSION, pid: 0 };
    let mut sets = [[u32::MAX; 3]; 2];
    // SAFETY: version 3 makes capget store two structures of three 32-bit words, which is what `sets` is; the header
    // is two 32-bit words that it may write to.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) })?;
    Ok(sets == [[0; 3]; 2])
}

pub(super) fn check(result: libc::c_long) -> Result<(), Errno> {
    Errno::result(result).map(drop)
}
