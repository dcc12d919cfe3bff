//! What clients reach: one server, the same for every peer.
//!
//! | port | serves |
//! |---|---|
//! | [`ECHO`] TCP, UDP | what comes goes back |
//! | [`SINK`] | reads to the end, then answers how many bytes there were (8, big endian) |
//! | [`SOURCE`] | zeroes until the client leaves |

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;

use super::net::Net;

/// Answers with what it got, over TCP and UDP.
pub(super) const ECHO: u16 = 8001;
/// Takes everything.
pub(super) const SINK: u16 = 8002;
/// Gives without end.
pub(super) const SOURCE: u16 = 8003;

/// Bytes of one read or write of a stream.
pub(super) const BLOCK: usize = 128 * 1024;

/// How long a stream may stand still.
pub(super) const STALL: Duration = Duration::from_secs(5);

/// A server inside; it ends when this value goes.
#[derive(Debug)]
pub(super) struct Server {
    stop: Arc<EventFd>,
    /// Where the last connection to [`ECHO`] came from.
    last_peer: Arc<Mutex<Option<SocketAddr>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves in that network namespace, on all of its addresses.
    pub(super) fn start(net: &Net) -> io::Result<Self> {
        let sockets = net.run(Sockets::bind)?;
        let stop = Arc::new(EventFd::new()?);
        let last_peer = Arc::default();
        let desk = Desk::new(sockets, Arc::clone(&stop), Arc::clone(&last_peer))?;
        let net = net.clone();
        let thread = std::thread::Builder::new().name("server".into()).spawn(move || {
            if net.enter().is_ok() {
                // It ends with its epoll set alone; clients then see that nobody answers.
                let _ = desk.serve();
            }
        })?;
        Ok(Self { stop, last_peer, thread: Some(thread) })
    }

    /// The address that the last connection came from, as a service inside sees it.
    pub(super) fn last_peer(&self) -> Option<SocketAddr> {
        *self.last_peer.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Sockets {
    echo: TcpListener,
    sink: TcpListener,
    source: TcpListener,
    datagrams: UdpSocket,
}

impl Sockets {
    fn bind() -> io::Result<Self> {
        let listen = |port| -> io::Result<TcpListener> {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
            // std's own backlog is 128.
            nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(4096)?)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let datagrams = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, ECHO))?;
        datagrams.set_nonblocking(true)?;
        Ok(Self { echo: listen(ECHO)?, sink: listen(SINK)?, source: listen(SOURCE)?, datagrams })
    }
}

/// Tokens of the epoll set; connections count from [`FIRST`].
const STOP: u64 = 0;
const ECHOES: u64 = 1;
const SINKS: u64 = 2;
const SOURCES: u64 = 3;
const DATAGRAMS: u64 = 4;
const FIRST: u64 = 5;

struct Desk {
    epoll: Epoll,
    sockets: Sockets,
    connections: HashMap<u64, TcpStream>,
    next: u64,
    buffer: Vec<u8>,
    stop: Arc<EventFd>,
    last_peer: Arc<Mutex<Option<SocketAddr>>>,
}

impl Desk {
    fn new(
        sockets: Sockets,
        stop: Arc<EventFd>,
        last_peer: Arc<Mutex<Option<SocketAddr>>>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let watched = [
            (stop.as_fd(), STOP),
            (sockets.echo.as_fd(), ECHOES),
            (sockets.sink.as_fd(), SINKS),
            (sockets.source.as_fd(), SOURCES),
            (sockets.datagrams.as_fd(), DATAGRAMS),
        ];
        for (descriptor, token) in watched {
            epoll.add(descriptor, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        }
        let buffer = vec![0; BLOCK];
        Ok(Self { epoll, sockets, connections: HashMap::new(), next: FIRST, buffer, stop, last_peer })
    }

    fn serve(mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 256];
        loop {
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => 0,
                answer => answer?,
            };
            for event in &events[..count] {
                match event.data() {
                    STOP => return self.stop.read().map(drop).map_err(Into::into),
                    ECHOES => self.accept()?,
                    SINKS => hire(&self.sockets.sink, swallow),
                    SOURCES => hire(&self.sockets.source, pour),
                    DATAGRAMS => self.reflect(),
                    token => self.answer(token),
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        while let Ok((stream, peer)) = self.sockets.echo.accept() {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            *self.last_peer.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(peer);
            self.epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, self.next))?;
            self.connections.insert(self.next, stream);
            self.next += 1;
        }
        Ok(())
    }

    /// Echoes are small: what does not fit the socket's buffer at once is an error of the client's.
    fn answer(&mut self, token: u64) {
        let Some(stream) = self.connections.get_mut(&token) else { return };
        let over = match stream.read(&mut self.buffer) {
            Ok(0) => true,
            Ok(count) => stream.write_all(&self.buffer[..count]).is_err(),
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        };
        if over {
            self.connections.remove(&token);
        }
    }

    fn reflect(&mut self) {
        if let Ok((count, peer)) = self.sockets.datagrams.recv_from(&mut self.buffer) {
            let _ = self.sockets.datagrams.send_to(&self.buffer[..count], peer);
        }
    }
}

/// A thread for each waiting connection: streams block.
fn hire(listener: &TcpListener, work: fn(TcpStream) -> io::Result<()>) {
    while let Ok((stream, _)) = listener.accept() {
        std::thread::spawn(move || {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(STALL))?;
            stream.set_write_timeout(Some(STALL))?;
            work(stream)
        });
    }
}

fn swallow(mut stream: TcpStream) -> io::Result<()> {
    let mut block = vec![0; BLOCK];
    let mut total = 0_u64;
    loop {
        match stream.read(&mut block)? {
            0 => return stream.write_all(&total.to_be_bytes()),
            count => total += count as u64,
        }
    }
}

fn pour(mut stream: TcpStream) -> io::Result<()> {
    let block = vec![0; BLOCK];
    loop {
        stream.write_all(&block)?;
    }
}
