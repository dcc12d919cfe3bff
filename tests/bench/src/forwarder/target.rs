//! Where a client connects to, and from which of its addresses.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};

/// An address that serves the ports of [`server`](super::server).
///
/// Clients take `sources` addresses in turn, from `first` on: a closed connection keeps its port for a minute, and one address has 28 000.
#[derive(Debug)]
pub(super) struct Target {
    address: Ipv4Addr,
    first: Ipv4Addr,
    sources: u32,
    turn: AtomicU32,
}

impl Target {
    pub(super) fn new(address: Ipv4Addr, first: Ipv4Addr, sources: u32) -> Self {
        Self { address, first, sources, turn: AtomicU32::new(0) }
    }

    pub(super) fn of(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, port)
    }

    fn source(&self) -> SockaddrIn {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.sources;
        SocketAddrV4::new(Ipv4Addr::from_bits(self.first.to_bits() + turn), 0).into()
    }

    /// Begins a connection; its end is told by epoll.
    pub(super) fn begin(&self, port: u16) -> io::Result<TcpStream> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
        bind(socket.as_raw_fd(), &self.source())?;
        match connect(socket.as_raw_fd(), &SockaddrIn::from(self.of(port))) {
            Ok(()) | Err(Errno::EINPROGRESS) => Ok(TcpStream::from(socket)),
            Err(error) => Err(error.into()),
        }
    }

    /// A connection that is there when this returns, and blocks.
    pub(super) fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let stream = self.begin(port)?;
        let mut ends =
            [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&stream), nix::poll::PollFlags::POLLOUT)];
        let limit = u16::try_from(super::server::STALL.as_millis()).unwrap_or(u16::MAX);
        if nix::poll::poll(&mut ends, limit)? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(super::server::STALL))?;
        stream.set_write_timeout(Some(super::server::STALL))?;
        Ok(stream)
    }

    /// A socket for datagrams that is connected to the target.
    pub(super) fn datagrams(&self, port: u16) -> io::Result<UdpSocket> {
        let source = self.source();
        let socket = UdpSocket::bind(SocketAddrV4::new(source.ip(), 0))?;
        socket.connect(SocketAddr::from(self.of(port)))?;
        Ok(socket)
    }
}
