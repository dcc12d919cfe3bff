//! Capability sets of the calling thread.

use caps::{CapSet, Capability};
use nix::errno::Errno;

use crate::Error;

/// Whether this thread may set up id maps by itself: CAP_SETUID and CAP_SETGID are effective.
#[must_use]
pub fn can_map_ids() -> bool {
    [Capability::CAP_SETUID, Capability::CAP_SETGID]
        .into_iter()
        .all(|capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false))
}

/// Keeps CAP_NET_ADMIN of the calling thread's user namespace and gives up everything else.
///
/// # Errors
/// [`Error::Call`]: the kernel refused; CAP_NET_ADMIN was not there.
pub fn keep_net_admin() -> Result<(), Error> {
    for capability in caps::all() {
        let _ = caps::drop(None, CapSet::Bounding, capability);
    }
    let failed = |_| Error::Call { call: "capset", source: Errno::last() };
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        caps::clear(None, set).map_err(failed)?;
    }
    let kept = [Capability::CAP_NET_ADMIN].into_iter().collect();
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept).map_err(failed)?;
    }
    Ok(())
}

/// Empties the ambient, effective, inheritable and permitted sets, and the bounding set as far as that is allowed.
///
/// The bounding set needs CAP_SETPCAP, which an ordinary service lacks: with empty sets and `no_new_privs` no exec can
/// gain anything from it, so that is no failure.
///
/// # Errors
/// [`Error::Call`]: the kernel refused, which it never does for a smaller set.
pub fn drop_all() -> Result<(), Error> {
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).unwrap_or(false) {
        for capability in caps::all() {
            let _ = caps::drop(None, CapSet::Bounding, capability);
        }
    }
    caps::clear(None, CapSet::Ambient).map_err(|_| Error::last("prctl(PR_CAP_AMBIENT)"))?;
    set_none()
}

/// Empties the effective, permitted and inheritable sets by one call.
///
/// Source: capset(2): version 3 has two elements for 64 capabilities.
fn set_none() -> Result<(), Error> {
    let header: [u32; 2] = [0x2008_0522, 0];
    let none = [0_u32; 6];
    // SAFETY: capset reads a header of two 32-bit numbers, `_LINUX_CAPABILITY_VERSION_3` and the calling thread, and for
    // that version two structures of three such numbers each.
    let answer = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    Errno::result(answer).map(drop).map_err(Error::call("capset"))
}
