//! Listeners of the host, bound before the namespace exists and before a runtime runs.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind as bind_socket, listen, setsockopt, socket,
    sockopt,
};
use u7s_plan::node::Forward;

use super::owner;
use crate::Error;

/// Connections that may wait in the kernel while the acceptor does not accept; `net.core.somaxconn` caps it.
const BACKLOG: i32 = 4096;

/// Bound listeners, each with the forward that it serves.
///
/// Shape: non-blocking, close-on-exec TCP sockets in the order of the forwards.
#[derive(Debug)]
pub struct Listeners(pub(super) Vec<(Forward, TcpListener)>);

/// Binds every forward's port; all of them, or none.
///
/// Clients may connect at once: the kernel keeps them until the [`Acceptor`](super::Acceptor) runs.
///
/// # Errors
/// [`Error::PortTaken`] names the owner as far as this process may see it; [`Error::Listen`] is any other cause.
pub fn bind(forwards: &[Forward]) -> Result<Listeners, Error> {
    let bound = forwards.iter().map(|forward| Ok((*forward, listener(forward.address, forward.port)?)));
    Ok(Listeners(bound.collect::<Result<_, Error>>()?))
}

fn listener(address: Ipv4Addr, port: u16) -> Result<TcpListener, Error> {
    open(address, port).map_err(|source| match source {
        Errno::EADDRINUSE => Error::PortTaken { address, port, owner: owner::of(address, port) },
        source => Error::Listen { address, port, source },
    })
}

fn open(address: Ipv4Addr, port: u16) -> Result<TcpListener, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    // Connections of a former run in TIME_WAIT do not keep the port.
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    bind_socket(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(address, port)))?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use u7s_plan::node::Protocol;

    use super::*;

    fn forward(port: u16) -> Forward {
        Forward { protocol: Protocol::Tcp, address: Ipv4Addr::LOCALHOST, port }
    }

    #[test]
    fn a_taken_port_names_address_port_and_owner() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = bind(&[forward(port)]).unwrap_err();
        let name = std::fs::read_to_string("/proc/self/comm").unwrap();
        let uid = nix::unistd::geteuid();
        assert_eq!(
            error.to_string(),
            format!(
                "TCP port {port} of 127.0.0.1 is taken by pid {} ({}) of uid {uid}",
                std::process::id(),
                name.trim_end()
            )
        );
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
        let address = listeners.0[0].1.local_addr().unwrap();
        std::net::TcpStream::connect(address).unwrap();
    }
}
