//! Dials inside from the client's own address.

use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};

use super::Settings;
use crate::forward::STREAM_MARK;
use crate::forward::listen::tune;
use crate::forward::message::Opening;

/// Begins a connection to the node's address; its end is told by epoll.
///
/// The kernel chooses the port. Where a client, or all clients behind one translated address, have used up the 28 000
/// local ports towards this one (each is kept for a minute after its end), the client's own source port is taken: the
/// host's side of the connection makes it unique. It is not the first choice, since whoever connects could then keep
/// services inside that lack SO_REUSEADDR from ports of his choice.
///
/// # Errors
/// EMFILE, ENFILE, ENOBUFS, ENOMEM: try again later. EPERM: no CAP_NET_ADMIN over this network namespace.
/// EADDRNOTAVAIL, EADDRINUSE: neither a free port nor the client's own can be had.
///
/// Source: ip(7), IP_TRANSPARENT and IP_BIND_ADDRESS_NO_PORT; socket(7), SO_MARK.
pub(super) fn dial(opening: &Opening, settings: &Settings) -> Result<TcpStream, Errno> {
    match dial_from(opening, settings, 0) {
        Err(Errno::EADDRNOTAVAIL) => dial_from(opening, settings, opening.peer.port()),
        answer => answer,
    }
}

fn dial_from(opening: &Opening, settings: &Settings, port: u16) -> Result<TcpStream, Errno> {
    let source = if opening.from_host { settings.gateway } else { *opening.peer.ip() };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    setsockopt(&socket, sockopt::IpTransparent, &true)?;
    setsockopt(&socket, sockopt::Mark, &STREAM_MARK)?;
    if port == 0 {
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    } else {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source, port)))?;
    let node = SockaddrIn::from(SocketAddrV4::new(settings.node_ip, opening.port));
    match connect(socket.as_raw_fd(), &node) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    let stream = TcpStream::from(socket);
    tune(&stream)?;
    Ok(stream)
}
