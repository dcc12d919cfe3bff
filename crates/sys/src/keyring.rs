//! The session keyring of a process: what it finds there is what its parents put there.
//!
//! Source: session-keyring(7), keyctl(2), add_key(2).

use std::ffi::CStr;

use nix::errno::Errno;

use crate::Error;

/// Source: include/uapi/linux/keyctl.h.
const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
const KEYCTL_SEARCH: libc::c_int = 10;
const SESSION: libc::c_int = -3;

/// A key that holds bytes.
const KIND: &CStr = c"user";

/// Leaves the session keyring for a new one without keys and without a name. Async-signal-safe.
///
/// Keyrings of thread and process do not pass a fork, those of the user change with the uid.
///
/// # Errors
/// ENOSYS: the kernel has no keys. EDQUOT: the user has as many as he may have.
pub fn join_empty() -> Result<(), Errno> {
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: this operation takes a pointer to a name or null, and writes to no memory.
    let joined = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, anonymous) };
    Errno::result(joined).map(drop)
}

/// Puts a key into the session keyring; for those who prove that nobody else finds it.
///
/// # Errors
/// [`Error::Call`]: ENOSYS, EDQUOT.
pub fn add(name: &CStr, payload: &[u8]) -> Result<(), Error> {
    let (data, length) = (payload.as_ptr(), payload.len());
    // SAFETY: add_key reads two strings that end with NUL, and `length` bytes of the payload.
    let added =
        unsafe { libc::syscall(libc::SYS_add_key, KIND.as_ptr(), name.as_ptr(), data, length, SESSION) };
    Errno::result(added).map(drop).map_err(Error::call("add_key"))
}

/// Whether a key of this name is found from the session keyring.
#[must_use]
pub fn finds(name: &CStr) -> bool {
    // SAFETY: KEYCTL_SEARCH reads two strings that end with NUL; 0 means that the key is linked nowhere.
    let found =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SEARCH, SESSION, KIND.as_ptr(), name.as_ptr(), 0) };
    found > 0
}
