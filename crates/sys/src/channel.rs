//! Packets with descriptors over a pair of seqpacket sockets.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};

use crate::Error;

/// How many descriptors one packet carries at most.
pub const MAX_DESCRIPTORS: usize = 4;

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
///
/// # Errors
/// [`Error::Call`]: EAGAIN, nothing is there. [`Error::Answer`]: the packet or its descriptors did not fit.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), Error> {
    let mut control = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)
        .map_err(Error::call("recvmsg"))?;
    let mut descriptors = Vec::new();
    for item in message.cmsgs().map_err(Error::call("recvmsg"))? {
        if let ControlMessageOwned::ScmRights(raw) = item {
            descriptors.extend(raw.into_iter().map(own));
        }
    }
    if message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(Error::Answer { call: "recvmsg", expected: "a packet that fits" });
    }
    Ok((message.bytes, descriptors))
}

fn own(raw: RawFd) -> OwnedFd {
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
}
