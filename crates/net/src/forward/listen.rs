//! Sockets of the host: bound before the namespace exists and before a runtime runs, or later, on demand.

use std::net::{SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc::linger;
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrIn, bind as bind_socket, listen,
    setsockopt, shutdown, socket, sockopt,
};
use u7s_plan::node::{Forward, Protocol};

use super::owner::{self, Owner};
use crate::Error;

/// Connections that may wait in the kernel while the acceptor does not accept; `net.core.somaxconn` caps it.
const BACKLOG: i32 = 4096;

/// Datagrams that may wait in the kernel, bytes; `net.core.rmem_max` caps it.
const DATAGRAMS: usize = 8 << 20;

/// Bound sockets, each with the forward that it serves, and those that are only kept from others.
///
/// Shape: non-blocking, close-on-exec sockets in the order of the forwards.
#[derive(Debug, Default)]
pub struct Listeners {
    pub(super) open: Vec<(Forward, Socket)>,
    pub(super) reserved: Vec<(Forward, OwnedFd)>,
}

/// A socket of the host that clients reach.
#[derive(Debug)]
pub(super) enum Socket {
    Stream(TcpListener),
    Datagrams(UdpSocket),
}

/// Binds every forward's port; all of them, or none.
///
/// Clients may connect at once: the kernel keeps them until the [`Acceptor`](super::Acceptor) runs.
///
/// # Errors
/// [`Error::PortTaken`] names the owner as far as this process may see it; [`Error::LowPort`]; [`Error::Listen`] is any
/// other cause.
pub fn bind(forwards: &[Forward]) -> Result<Listeners, Error> {
    let open = forwards.iter().map(|forward| Ok((*forward, open(forward).map_err(named)?)));
    Ok(Listeners { open: open.collect::<Result<_, Error>>()?, reserved: Vec::new() })
}

impl Listeners {
    /// Keeps low ports for later, with the rights that this process has now and will have no more.
    ///
    /// They are bound and do not listen: a client is refused, and nobody without privilege gets the port. Datagrams to a
    /// reserved UDP port are lost instead of refused.
    ///
    /// # Errors
    /// As [`bind`], for each port that cannot be had; the others are kept all the same.
    pub fn reserve(&mut self, forwards: &[Forward]) -> Vec<Error> {
        let mut errors = Vec::new();
        for forward in forwards {
            let known = self.open.iter().map(|(open, _)| open).chain(self.reserved.iter().map(|(it, _)| it));
            if known.into_iter().any(|other| other == forward) {
                continue;
            }
            match bound(forward) {
                Ok(socket) => self.reserved.push((*forward, socket)),
                Err(errno) => errors.push(explain(forward, errno)),
            }
        }
        name_owners(errors.iter_mut());
        errors
    }
}

/// Binds one forward's port and opens it to clients.
///
/// # Errors
/// As [`bind`], but an owner is not named: that takes a look at all processes, and one does for all ports
/// ([`name_owners`]).
pub(super) fn open(forward: &Forward) -> Result<Socket, Error> {
    bound(forward).and_then(|socket| unlock(forward, socket)).map_err(|errno| explain(forward, errno))
}

/// Opens a socket that is bound already.
pub(super) fn unlock(forward: &Forward, socket: OwnedFd) -> Result<Socket, Errno> {
    match forward.protocol {
        Protocol::Tcp => {
            listen(&socket, Backlog::new(BACKLOG)?)?;
            Ok(Socket::Stream(socket.into()))
        }
        Protocol::Udp => Ok(Socket::Datagrams(socket.into())),
    }
}

/// Closes a listener whose port stays bound: who waits is reset, who comes is refused.
///
/// Source: net/ipv4/af_inet.c, `inet_shutdown` of a listening socket; a bound port stays with it (SOCK_BINDPORT_LOCK).
pub(super) fn lock(listener: &TcpListener) {
    let _ = shutdown(listener.as_raw_fd(), Shutdown::Both);
}

fn bound(forward: &Forward) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let kind = match forward.protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::Datagram,
    };
    let socket = socket(AddressFamily::Inet, kind, flags, None)?;
    match forward.protocol {
        // Connections of a former run in TIME_WAIT do not keep the port.
        Protocol::Tcp => {
            setsockopt(&socket, sockopt::ReuseAddr, &true)?;
            tune(&socket)?;
        }
        Protocol::Udp => {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
            setsockopt(&socket, sockopt::RcvBuf, &DATAGRAMS)?;
            setsockopt(&socket, sockopt::SndBuf, &DATAGRAMS)?;
        }
    }
    bind_socket(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(forward.address, forward.port)))?;
    Ok(socket)
}

/// Sets what all sockets of connections have in common; what is accepted has it from its listener.
///
/// No Nagle: bytes are passed on as they come. Keepalive with Go's figures (15 s, 15 s, 9 probes), since the API server
/// and the kubelet see only us, and their own probes tell nothing of the client any more.
///
/// Source: tcp(7), "Socket options"; net/ipv4/tcp_minisocks.c, `tcp_create_openreq_child`.
pub(super) fn tune(socket: &impl AsFd) -> Result<(), Errno> {
    setsockopt(socket, sockopt::TcpNoDelay, &true)?;
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    setsockopt(socket, sockopt::TcpKeepIdle, &15)?;
    setsockopt(socket, sockopt::TcpKeepInterval, &15)?;
    setsockopt(socket, sockopt::TcpKeepCount, &9)
}

/// Makes the coming close of a socket send RST.
///
/// On failure the peer sees FIN in its place, which is the best that is left.
pub(super) fn abort(socket: &TcpStream) {
    let _ = setsockopt(socket, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 });
}

/// Puts the owners into the errors that tell of a taken port.
pub(super) fn name_owners<'a>(errors: impl Iterator<Item = &'a mut Error>) {
    let (forwards, owners): (Vec<Forward>, Vec<&mut Owner>) = errors
        .filter_map(|error| match error {
            Error::PortTaken { forward, owner } => Some((*forward, owner)),
            _ => None,
        })
        .unzip();
    if !forwards.is_empty() {
        owners.into_iter().zip(owner::of(&forwards)).for_each(|(named, owner)| *named = owner);
    }
}

fn named(mut error: Error) -> Error {
    name_owners(std::iter::once(&mut error));
    error
}

fn explain(forward: &Forward, errno: Errno) -> Error {
    let forward = *forward;
    match errno {
        Errno::EADDRINUSE => Error::PortTaken { forward, owner: Owner::default() },
        Errno::EACCES if forward.port < first_port() => Error::LowPort { forward, first: first_port() },
        source => Error::Listen { forward, source },
    }
}

/// The first port that anybody may bind; 1024 where the kernel does not say.
///
/// Source: Documentation/networking/ip-sysctl.rst.
fn first_port() -> u16 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn forward(port: u16) -> Forward {
        Forward { protocol: Protocol::Tcp, address: Ipv4Addr::LOCALHOST, port }
    }

    fn taken_by_this_test(kind: &str, port: u16) -> String {
        let name = std::fs::read_to_string("/proc/self/comm").unwrap();
        let (pid, uid) = (std::process::id(), nix::unistd::geteuid());
        format!("{kind} port {port} of 127.0.0.1 is taken by pid {pid} ({}) of uid {uid}", name.trim_end())
    }

    #[test]
    fn a_taken_port_names_address_port_and_owner() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = bind(&[forward(port)]).unwrap_err();
        assert_eq!(error.to_string(), taken_by_this_test("TCP", port));
    }

    #[test]
    fn a_taken_udp_port_names_its_owner_and_is_free_for_tcp() {
        let taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = bind(&[Forward { protocol: Protocol::Udp, ..forward(port) }]).unwrap_err();
        assert_eq!(error.to_string(), taken_by_this_test("UDP", port));
        bind(&[forward(port)]).unwrap();
    }

    #[test]
    fn a_foreign_address_is_no_taken_port() {
        let address = Ipv4Addr::new(192, 0, 2, 1);
        let error = bind(&[Forward { address, ..forward(6443) }]).unwrap_err();
        assert!(matches!(error, Error::Listen { source: Errno::EADDRNOTAVAIL, .. }), "{error:?}");
    }

    #[test]
    fn one_taken_port_gives_back_the_others() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        bind(&[forward(free), forward(taken.local_addr().unwrap().port())]).unwrap_err();
        // A program that another test is just starting holds a copy of the listener until its exec.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while let Err(error) = TcpListener::bind((Ipv4Addr::LOCALHOST, free)) {
            assert!(std::time::Instant::now() < until, "{error}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn clients_may_connect_before_anybody_accepts() {
        let listeners = bind(&[forward(0)]).unwrap();
        let Socket::Stream(listener) = &listeners.open[0].1 else { panic!("no listener") };
        TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    }

    #[test]
    fn a_reserved_port_refuses_until_it_is_opened_and_again_when_it_is_closed() {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut listeners = Listeners::default();
        assert!(listeners.reserve(&[forward(free), forward(free)]).is_empty());
        let (forward, reserved) = &listeners.reserved[0];
        let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, free));
        for _ in 0..3 {
            connect().unwrap_err();
            let Socket::Stream(open) = unlock(forward, reserved.try_clone().unwrap()).unwrap() else {
                panic!()
            };
            connect().unwrap();
            lock(&open);
        }
        connect().unwrap_err();
    }
}
