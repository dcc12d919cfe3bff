//! A tap device that outlives its maker: the namespace owns it, programs only attach to it.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

use crate::Error;

/// Makes the tap device `name` in this network namespace and leaves it there without a holder.
///
/// Closing a tap that is not persistent blocks for tens of milliseconds and takes all addresses and routes with it.
///
/// # Errors
/// [`Error::Path`] about /dev/net/tun: ENOENT, the module is not loaded; EACCES, its mode; EPERM, this process does not
/// own the network namespace; EBUSY, the name is taken.
///
/// Source: Documentation/networking/tuntap.rst.
pub fn create_persistent(name: &str) -> Result<(), Error> {
    let failed = || Error::path("open", TUN);
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open(TUN)
        .map_err(|error| failed()(error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)))?;
    let mut request = tap_request(name)?;
    // SAFETY: TUNSETIFF copies one ifreq in and out of the pointed-to memory, which `request` is for the whole call.
    let answer =
        unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, std::ptr::from_mut(&mut request)) };
    Errno::result(answer).map_err(Error::path("TUNSETIFF", TUN))?;
    // SAFETY: TUNSETPERSIST takes a number, not a pointer.
    let answer = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETPERSIST, 1) };
    Errno::result(answer).map_err(Error::path("TUNSETPERSIST", TUN))?;
    Ok(())
}

const TUN: &str = "/dev/net/tun";

fn tap_request(name: &str) -> Result<libc::ifreq, Error> {
    // SAFETY: ifreq is a C structure of numbers and arrays, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(Error::Answer { call: "TUNSETIFF", expected: "a name of at most 15 bytes" });
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = TAP_WITHOUT_HEADER;
    Ok(request)
}

/// `IFF_TAP | IFF_NO_PI`, include/uapi/linux/if_tun.h.
const TAP_WITHOUT_HEADER: libc::c_short = 0x0002 | 0x1000;
