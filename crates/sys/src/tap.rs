//! Tap and tun devices that outlive their maker: the namespace owns them, programs only attach.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;

use crate::Error;

/// Makes the device `name` in this network namespace, or attaches to it if nobody is.
///
/// Shape: this process attached to it; non-blocking, close-on-exec. It goes with the descriptor until [`persist`].
///
/// # Errors
/// [`Error::Path`] about /dev/net/tun: ENOENT, the module is not loaded; EACCES, its mode; EPERM, this process does not
/// own the network namespace; EBUSY, the name is taken.
///
/// Source: Documentation/networking/tuntap.rst.
pub fn create(name: &str, kind: Kind) -> Result<OwnedFd, Error> {
    open(name, kind).map(OwnedFd::from)
}

/// Leaves a device in its network namespace when nobody holds it.
///
/// Closing one that is not persistent blocks for tens of milliseconds and takes all addresses and routes with it.
///
/// # Errors
/// [`Error::Path`] about /dev/net/tun: it is no device of [`create`].
pub fn persist(device: BorrowedFd<'_>) -> Result<(), Error> {
    // SAFETY: TUNSETPERSIST takes a number, not a pointer.
    let answer = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETPERSIST, 1) };
    Errno::result(answer).map(drop).map_err(Error::path("TUNSETPERSIST", TUN))
}

/// Attaches to a tun device of this network namespace; one that is not there is made, and goes with the descriptor.
///
/// Shape: non-blocking, close-on-exec; each read and each write is one IP packet.
///
/// # Errors
/// As [`create`]; EBUSY: somebody else is attached.
pub fn attach(name: &str) -> Result<OwnedFd, Error> {
    open(name, Kind::Tun).map(OwnedFd::from)
}

/// What a device carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ethernet frames.
    Tap,
    /// IP packets.
    Tun,
}

const TUN: &str = "/dev/net/tun";

fn open(name: &str, kind: Kind) -> Result<File, Error> {
    let failed = || Error::path("open", TUN);
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(TUN)
        .map_err(|error| failed()(error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)))?;
    let mut request = request(name, kind)?;
    // SAFETY: TUNSETIFF copies one ifreq in and out of the pointed-to memory, which `request` is for the whole call.
    let answer =
        unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, std::ptr::from_mut(&mut request)) };
    Errno::result(answer).map_err(Error::path("TUNSETIFF", TUN))?;
    Ok(device)
}

fn request(name: &str, kind: Kind) -> Result<libc::ifreq, Error> {
    // SAFETY: ifreq is a C structure of numbers and arrays, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(Error::Answer { call: "TUNSETIFF", expected: "a name of at most 15 bytes" });
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = match kind {
        Kind::Tun => 0x0001 | WITHOUT_HEADER,
        Kind::Tap => 0x0002 | WITHOUT_HEADER,
    };
    Ok(request)
}

/// `IFF_NO_PI`, beside `IFF_TUN` and `IFF_TAP`, include/uapi/linux/if_tun.h.
const WITHOUT_HEADER: libc::c_short = 0x1000;
