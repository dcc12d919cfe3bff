//! Short connections: connect, a byte each way, close.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::server::{ECHO, STALL};
use super::target::Target;

/// What came of short connections.
#[derive(Debug, Clone, Copy)]
pub(super) struct Connects {
    pub(super) done: u64,
    pub(super) failed: u64,
    pub(super) time: Duration,
}

impl Connects {
    /// Connections per second.
    pub(super) fn rate(&self) -> f64 {
        self.done as f64 / self.time.as_secs_f64()
    }
}

/// Keeps `count` of them on their way for `time`; must be called in the client's network namespace.
pub(super) fn run(target: &Target, count: usize, time: Duration) -> io::Result<Connects> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut clients: Vec<Option<Client>> = Vec::new();
    let start = Instant::now();
    for token in 0..count {
        clients.push(Some(Client::begin(target, &epoll, token as u64)?));
    }
    let mut result = Connects { done: 0, failed: 0, time };
    let mut events = [EpollEvent::empty(); 256];
    while clients.iter().any(Option::is_some) {
        let limit = EpollTimeout::try_from(STALL).unwrap_or(EpollTimeout::MAX);
        let ready = epoll.wait(&mut events, limit)?;
        if ready == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        for event in &events[..ready] {
            let token = event.data();
            let slot = usize::try_from(token).ok().and_then(|index| clients.get_mut(index));
            let Some(slot) = slot else { continue };
            let Some(client) = slot else { continue };
            match client.go_on(event.events(), &epoll, token) {
                Ok(false) => continue,
                Ok(true) => result.done += 1,
                Err(_) => result.failed += 1,
            }
            // The former one is closed before the next one begins.
            *slot = None;
            if start.elapsed() < time {
                *slot = Some(Client::begin(target, &epoll, token)?);
            }
        }
    }
    result.time = start.elapsed();
    Ok(result)
}

struct Client {
    stream: TcpStream,
    sent: bool,
}

impl Client {
    fn begin(target: &Target, epoll: &Epoll, token: u64) -> io::Result<Self> {
        let stream = target.begin(ECHO)?;
        epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLOUT, token))?;
        Ok(Self { stream, sent: false })
    }

    /// Whether its answer came.
    fn go_on(&mut self, events: EpollFlags, epoll: &Epoll, token: u64) -> io::Result<bool> {
        if !self.sent {
            if events.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP)
                && let Some(error) = self.stream.take_error()?
            {
                return Err(error);
            }
            self.stream.write_all(b"?")?;
            self.sent = true;
            epoll.modify(&self.stream, &mut EpollEvent::new(EpollFlags::EPOLLIN, token))?;
            return Ok(false);
        }
        match self.stream.read(&mut [0]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}
