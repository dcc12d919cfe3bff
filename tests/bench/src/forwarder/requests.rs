//! Small requests: each client sends one, waits for the answer, and sends the next.

use std::io::{self, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::server::{ECHO, STALL};
use super::target::Target;

/// Length of a request and of its answer, bytes.
pub(super) const BYTES: usize = 64;

/// How long an answer to a datagram may take before it counts as lost.
const LOST: Duration = Duration::from_millis(200);

/// Times of requests, sorted.
#[derive(Debug)]
pub(super) struct Times {
    sorted: Vec<Duration>,
    /// From the first request to the last answer.
    pub(super) whole: Duration,
    /// Requests without an answer.
    pub(super) lost: u64,
}

impl Times {
    fn new(mut times: Vec<Duration>, whole: Duration, lost: u64) -> io::Result<Self> {
        if times.is_empty() {
            return Err(io::Error::other("no request was answered"));
        }
        times.sort_unstable();
        Ok(Self { sorted: times, whole, lost })
    }

    /// The time that `part` of 1000 requests stay below or reach.
    pub(super) fn permille(&self, part: usize) -> Duration {
        let index = (self.sorted.len() * part / 1000).min(self.sorted.len() - 1);
        self.sorted[index]
    }

    /// Requests that were answered.
    pub(super) fn answered(&self) -> u64 {
        self.sorted.len() as u64
    }

    /// Requests per second.
    pub(super) fn rate(&self) -> f64 {
        self.sorted.len() as f64 / self.whole.as_secs_f64()
    }
}

/// Requests over `count` connections for `time`; must be called in the client's network namespace.
pub(super) fn streams(target: &Target, count: usize, time: Duration) -> io::Result<Times> {
    let streams = connected(target, count)?;
    if let [stream] = &streams[..] { alone(stream, time) } else { many(streams, time) }
}

/// Connections that carried a request each, so that everybody is through.
pub(super) fn connected(target: &Target, count: usize) -> io::Result<Vec<TcpStream>> {
    let until = Instant::now() + STALL;
    let mut streams = Vec::with_capacity(count);
    while streams.len() < count {
        if Instant::now() > until {
            return Err(io::Error::other(format!("{} of {count} connections in {STALL:?}", streams.len())));
        }
        let stream = target.connect(ECHO)?;
        exchange(&stream)?;
        streams.push(stream);
    }
    Ok(streams)
}

/// One request, one answer.
pub(super) fn exchange(mut stream: &TcpStream) -> io::Result<()> {
    let mut answer = [0; BYTES];
    stream.write_all(&[1; BYTES])?;
    stream.read_exact(&mut answer)
}

fn alone(stream: &TcpStream, time: Duration) -> io::Result<Times> {
    let (start, mut times) = (Instant::now(), Vec::new());
    let mut sent = start;
    while sent - start < time {
        exchange(stream)?;
        let now = Instant::now();
        times.push(now - sent);
        sent = now;
    }
    Times::new(times, sent - start, 0)
}

struct Client {
    stream: TcpStream,
    sent: Instant,
    /// Bytes of the answer that are here.
    here: usize,
}

fn many(streams: Vec<TcpStream>, time: Duration) -> io::Result<Times> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let (start, mut times) = (Instant::now(), Vec::new());
    let mut clients = Vec::with_capacity(streams.len());
    for (token, stream) in (0..).zip(streams) {
        stream.set_nonblocking(true)?;
        epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        let mut client = Client { stream, sent: start, here: 0 };
        client.ask()?;
        clients.push(client);
    }
    let mut open = clients.len();
    let mut events = [EpollEvent::empty(); 256];
    while open > 0 {
        let limit = EpollTimeout::try_from(STALL).unwrap_or(EpollTimeout::MAX);
        let count = epoll.wait(&mut events, limit)?;
        if count == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        for event in &events[..count] {
            let index = usize::try_from(event.data()).unwrap_or(usize::MAX);
            let Some(client) = clients.get_mut(index) else { continue };
            let Some(took) = client.take()? else { continue };
            times.push(took);
            if start.elapsed() < time { client.ask()? } else { open -= 1 }
        }
    }
    Times::new(times, start.elapsed(), 0)
}

impl Client {
    fn ask(&mut self) -> io::Result<()> {
        (self.sent, self.here) = (Instant::now(), 0);
        self.stream.write_all(&[1; BYTES])
    }

    /// How long the answer took, once it is whole.
    fn take(&mut self) -> io::Result<Option<Duration>> {
        match self.stream.read(&mut [0; BYTES]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.here += count;
                Ok((self.here >= BYTES).then(|| self.sent.elapsed()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Datagrams of `count` clients for `time`, each with one on its way; must be called in the client's network namespace.
pub(super) fn datagrams(target: &Target, count: usize, time: Duration) -> io::Result<Times> {
    let sockets: Vec<UdpSocket> = (0..count).map(|_| target.datagrams(ECHO)).collect::<io::Result<_>>()?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for (token, socket) in (0..).zip(&sockets) {
        socket.set_nonblocking(true)?;
        epoll.add(socket.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, token))?;
    }
    let (start, mut times, mut lost) = (Instant::now(), Vec::new(), 0);
    let mut sent: Vec<Option<Instant>> = vec![None; count];
    let mut events = [EpollEvent::empty(); 256];
    let mut swept = start;
    while start.elapsed() < time {
        if sent.iter().any(Option::is_none) || swept.elapsed() > LOST {
            for (socket, sent) in sockets.iter().zip(&mut sent) {
                if sent.is_none_or(|at| at.elapsed() > LOST) {
                    lost += u64::from(sent.is_some());
                    *sent = Some(Instant::now());
                    socket.send(&[1; BYTES])?;
                }
            }
            swept = Instant::now();
        }
        let ready = epoll.wait(&mut events, 50_u16)?;
        for event in &events[..ready] {
            let index = usize::try_from(event.data()).unwrap_or(usize::MAX);
            let (Some(socket), Some(at)) = (sockets.get(index), sent.get_mut(index)) else { continue };
            while socket.recv(&mut [0; BYTES]).is_ok() {
                if let Some(at) = at.take() {
                    times.push(at.elapsed());
                }
            }
        }
    }
    Times::new(times, start.elapsed(), lost)
}
