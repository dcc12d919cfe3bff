//! Packets with descriptors over a pair of seqpacket sockets.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};

use crate::Error;

/// How many descriptors one packet carries at most.
pub const MAX_DESCRIPTORS: usize = 16;

/// Makes both ends, close-on-exec.
///
/// # Errors
/// [`Error::Call`]: EMFILE.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Error> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(Error::call("socketpair"))
}

/// Sends one packet with at most [`MAX_DESCRIPTORS`] descriptors; never blocks, never raises SIGPIPE.
///
/// # Errors
/// [`Error::Call`]: EAGAIN, the other end does not read; EPIPE, it is gone; EMSGSIZE, the packet is too long.
pub fn send(socket: BorrowedFd<'_>, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), Error> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(packet)], control, flags, None)
        .map(drop)
        .map_err(Error::call("sendmsg"))
}

/// Receives one packet into `buffer`; never blocks.
///
/// Shape: its length, 0 at the end of the stream, and its descriptors (close-on-exec), owned by the caller.
/// They are fewer than were sent when this process or the system had no room for more (EMFILE, ENFILE).
///
/// A sender is not trusted: whatever it sent is either returned or closed.
///
/// # Errors
/// [`Error::Call`]: EAGAIN, nothing is there. [`Error::Answer`]: the packet did not fit, or it brought more than
/// [`MAX_DESCRIPTORS`].
///
/// nix refuses to tell the descriptors of a cut control message, which the kernel has installed all the same.
///
/// Source: unix(7), "Ancillary messages": descriptors beyond the room are closed, MSG_CTRUNC is set.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), Error> {
    let mut control = Control([0; CONTROL_WORDS]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: msghdr is a C structure of pointers and numbers, for which all zeroes is a valid value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>();
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: recvmsg writes at most the lengths given to the buffers of `message`; both outlive the call.
    let answer = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let length = Errno::result(answer).map_err(Error::call("recvmsg"))?.unsigned_abs();
    let descriptors = descriptors_of(&message);
    if message.msg_flags & libc::MSG_TRUNC != 0 || descriptors.len() > MAX_DESCRIPTORS {
        return Err(Error::Answer { call: "recvmsg", expected: "a packet that fits" });
    }
    Ok((length, descriptors))
}

/// Room for the largest control message that the kernel passes, so that a hostile one is seen whole and closed.
///
/// Source: include/net/scm.h, `SCM_MAX_FD`: 253 descriptors of four bytes, behind a header of two words.
const CONTROL_WORDS: usize = 2 + 253_usize.div_ceil(2);

/// Memory of control messages, aligned as their headers are.
#[repr(C, align(8))]
struct Control([u64; CONTROL_WORDS]);

/// Takes over all descriptors that a received message brought.
fn descriptors_of(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut descriptors = Vec::new();
    // SAFETY: CMSG_FIRSTHDR reads the control pointer and length, which recvmsg has set to what it wrote.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !next.is_null() {
        // SAFETY: a pointer of CMSG_FIRSTHDR or CMSG_NXTHDR that is not null points to a whole, aligned header
        // within the control buffer, which the caller still holds.
        let header = unsafe { next.read() };
        if header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: CMSG_LEN only computes.
            let head = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = header.cmsg_len.saturating_sub(head) / size_of::<RawFd>();
            // SAFETY: CMSG_DATA only computes; the header is within the buffer.
            let data = unsafe { libc::CMSG_DATA(next) }.cast::<RawFd>();
            descriptors.extend((0..count).map(|index| own(data, index)));
        }
        // SAFETY: `next` came from CMSG_FIRSTHDR or CMSG_NXTHDR of this very message.
        next = unsafe { libc::CMSG_NXTHDR(message, next) };
    }
    descriptors
}

fn own(data: *const RawFd, index: usize) -> OwnedFd {
    // SAFETY: the kernel wrote `cmsg_len` bytes of numbers, of which `index` is one.
    let place = unsafe { data.add(index) };
    // SAFETY: as above; SCM_RIGHTS promises no alignment beyond the header's, which is that of a RawFd at least.
    let raw = unsafe { place.read_unaligned() };
    // SAFETY: SCM_RIGHTS installed this number as a new descriptor of this process during recvmsg; nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_packet_keeps_its_borders_and_brings_its_descriptors() {
        let (ours, theirs) = pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        send(ours.as_fd(), b"one", &[writer.as_fd()]).unwrap();
        send(ours.as_fd(), b"two", &[]).unwrap();
        drop(writer);
        let mut buffer = [0; 16];
        let (length, mut descriptors) = receive(theirs.as_fd(), &mut buffer).unwrap();
        assert_eq!((&buffer[..length], descriptors.len()), (&b"one"[..], 1));
        nix::unistd::write(descriptors.remove(0), b"through").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        assert_eq!(receive(theirs.as_fd(), &mut buffer).unwrap().0, 3);
        drop(ours);
        assert_eq!(receive(theirs.as_fd(), &mut buffer).unwrap().0, 0);
    }

    #[test]
    fn a_packet_that_does_not_fit_is_refused() {
        let (ours, theirs) = pair().unwrap();
        send(ours.as_fd(), b"longer than four", &[]).unwrap();
        let error = receive(theirs.as_fd(), &mut [0; 4]).unwrap_err();
        assert_eq!(error.to_string(), "recvmsg: unexpected answer, a packet that fits was expected");
    }

    /// Descriptors of this test's sockets and pipe: other tests of this process open and close their own meanwhile.
    fn links_to(pipe: &str) -> usize {
        let entries = std::fs::read_dir("/proc/self/fd").unwrap();
        entries
            .filter(|entry| {
                std::fs::read_link(entry.as_ref().unwrap().path()).is_ok_and(|link| link.as_os_str() == pipe)
            })
            .count()
    }

    #[test]
    fn descriptors_that_nobody_asked_for_are_closed() {
        let (ours, theirs) = pair().unwrap();
        let (reader, _writer) = std::io::pipe().unwrap();
        let link = std::fs::read_link(format!("/proc/self/fd/{}", reader.as_raw_fd())).unwrap();
        let link = link.to_str().unwrap();
        let before = links_to(link);
        for count in [MAX_DESCRIPTORS + 1, 253] {
            send(ours.as_fd(), b"x", &vec![reader.as_fd(); count]).unwrap();
            let error = receive(theirs.as_fd(), &mut [0; 4]).unwrap_err();
            assert_eq!(error.errno(), None, "{error}");
            assert_eq!(links_to(link), before, "{count} descriptors");
        }
    }
}
