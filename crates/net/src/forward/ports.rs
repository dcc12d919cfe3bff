//! The ports of the host that are open now; they come and go while the acceptor runs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use ipnet::Ipv4Net;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use u7s_plan::node::Forward;
use u7s_sys::channel;

use super::Listeners;
use super::listen::{self, Socket};
use super::message::Order;
use super::shares::Credit;
use crate::Error;

/// What came of an accept.
#[derive(Debug)]
pub(super) struct Accepted {
    /// The open port.
    pub(super) forward: Forward,
    /// It is one of the node's own.
    pub(super) own: bool,
    /// The connection and its peer.
    pub(super) outcome: io::Result<(TcpStream, SocketAddr)>,
}

/// Open ports, and what the inner half has still to be told of them.
#[derive(Debug)]
pub(super) struct Ports {
    state: Mutex<State>,
    /// Somebody changed something: both who accepts and who tells have to look again.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    streams: Vec<Stream>,
    datagrams: BTreeMap<Forward, UdpSocket>,
    /// Low ports, bound for good.
    reserved: BTreeMap<Forward, OwnedFd>,
    /// Sockets for datagrams that the inner half was told to drop and has not dropped yet; without it they are closed.
    dropping: VecDeque<(Forward, UdpSocket)>,
    /// What the inner half has to be told, in this order.
    news: VecDeque<News>,
    /// What was open from the beginning: ports of the node itself.
    own: BTreeSet<Forward>,
    /// Where no client is.
    refused: Vec<Ipv4Net>,
}

/// A listener.
#[derive(Debug)]
struct Stream {
    forward: Forward,
    own: bool,
    listener: AsyncFd<TcpListener>,
}

#[derive(Debug)]
enum News {
    Refuse(Ipv4Net),
    Carry(Forward),
    Drop(Forward),
}

impl Ports {
    /// # Errors
    /// [`Error::Watch`].
    pub(super) fn new(listeners: Listeners) -> Result<Self, Error> {
        let own = listeners.open.iter().map(|(forward, _)| *forward).collect();
        let reserved = listeners.reserved.into_iter().collect();
        let mut state = State { reserved, own, ..State::default() };
        for (forward, socket) in listeners.open {
            state.insert(forward, socket)?;
        }
        Ok(Self { state: Mutex::new(state), changed: Notify::new() })
    }

    pub(super) fn forwards(&self) -> BTreeSet<Forward> {
        self.state().forwards().collect()
    }

    /// See [`Acceptor::set_forwards`](super::Acceptor::set_forwards).
    pub(super) fn set(&self, wanted: &BTreeSet<Forward>) -> BTreeMap<Forward, Error> {
        let mut state = self.state();
        let open: BTreeSet<Forward> = state.forwards().collect();
        for forward in open.difference(wanted) {
            state.close(forward);
        }
        let mut errors = BTreeMap::new();
        for forward in wanted.difference(&open) {
            if let Err(error) = state.open(forward) {
                errors.insert(*forward, error);
            }
        }
        drop(state);
        self.changed.notify_waiters();
        listen::name_owners(errors.values_mut());
        errors
    }

    /// Ends with the next change.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// See [`Acceptor::refuse`](super::Acceptor::refuse).
    pub(super) fn refuse(&self, networks: &[Ipv4Net]) {
        let mut state = self.state();
        for network in networks {
            if !state.refused.contains(network) {
                state.refused.push(*network);
                state.news.push_back(News::Refuse(*network));
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Whether no client is at this address, unless it is the host's own.
    pub(super) fn refuses(&self, address: Ipv4Addr) -> bool {
        self.state().refused.iter().any(|network| network.contains(&address))
    }

    /// The next connection of any listener for which there is room, beginning with the one at `first`.
    pub(super) fn poll_accept(
        &self,
        first: &mut usize,
        credit: Credit,
        context: &mut Context<'_>,
    ) -> Poll<Accepted> {
        let state = self.state();
        let count = state.streams.len();
        for index in (0..count).map(|offset| (*first + offset) % count) {
            if credit.of(state.streams[index].own) == 0 {
                continue;
            }
            if let Poll::Ready(accepted) = poll_accept(&state.streams[index], context) {
                *first = (index + 1) % count;
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    }

    /// Whether clients wait at a port that has no room.
    pub(super) fn has_waiting(&self, credit: Credit) -> bool {
        let state = self.state();
        let full = state.streams.iter().filter(|stream| credit.of(stream.own) == 0);
        let mut polled: Vec<PollFd<'_>> =
            full.map(|stream| PollFd::new(stream.listener.get_ref().as_fd(), PollFlags::POLLIN)).collect();
        // What cannot be asked now is asked again.
        !polled.is_empty() && poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// A new inner half knows nothing; what the former one has not dropped is gone with it.
    pub(super) fn tell_again(&self) {
        let mut state = self.state();
        state.dropping.clear();
        let refused = state.refused.iter().copied().map(News::Refuse);
        state.news = refused.chain(state.datagrams.keys().copied().map(News::Carry)).collect();
        drop(state);
        self.changed.notify_waiters();
    }

    pub(super) fn has_news(&self) -> bool {
        !self.state().news.is_empty()
    }

    /// Tells the oldest news; it stays where it is when it cannot be told.
    pub(super) fn tell_one(&self, channel: BorrowedFd<'_>) -> Result<(), u7s_sys::Error> {
        let mut state = self.state();
        match state.news.front() {
            Some(News::Refuse(network)) => {
                channel::send(channel, &Order::Refuse(*network).encode(), &[])?;
            }
            Some(News::Carry(forward)) => {
                if let Some(socket) = state.datagrams.get(forward) {
                    channel::send(channel, &Order::Carry(address(forward)).encode(), &[socket.as_fd()])?;
                }
            }
            Some(News::Drop(forward)) => {
                channel::send(channel, &Order::Drop(address(forward)).encode(), &[])?;
            }
            None => {}
        }
        state.news.pop_front();
        Ok(())
    }

    /// The inner half has dropped the socket that it was told first to drop.
    pub(super) fn dropped(&self) {
        self.state().dropping.pop_front();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forwards(&self) -> impl Iterator<Item = Forward> {
        self.streams.iter().map(|stream| stream.forward).chain(self.datagrams.keys().copied())
    }

    fn open(&mut self, forward: &Forward) -> Result<(), Error> {
        // The inner half still holds the port: it can only be had by the same socket.
        if let Some(index) = self.dropping.iter().position(|(other, _)| other == forward) {
            let copied = self.dropping[index].1.try_clone();
            let socket = copied.map_err(|source| Error::Watch { what: "a socket", source })?;
            return self.insert(*forward, Socket::Datagrams(socket));
        }
        let socket = match self.reserved.get(forward) {
            Some(socket) => {
                let failed = |source| Error::Listen { forward: *forward, source };
                let copy = socket.try_clone().map_err(|error| failed(errno(&error)))?;
                listen::unlock(forward, copy).map_err(failed)?
            }
            None => listen::open(forward)?,
        };
        self.insert(*forward, socket)
    }

    fn insert(&mut self, forward: Forward, socket: Socket) -> Result<(), Error> {
        match socket {
            Socket::Stream(listener) => {
                let listener =
                    watch(listener).map_err(|source| Error::Watch { what: "a listener", source })?;
                self.streams.push(Stream { forward, own: self.own.contains(&forward), listener });
            }
            Socket::Datagrams(socket) => {
                self.datagrams.insert(forward, socket);
                self.news.push_back(News::Carry(forward));
            }
        }
        Ok(())
    }

    fn close(&mut self, forward: &Forward) {
        if let Some(index) = self.streams.iter().position(|stream| stream.forward == *forward) {
            let Stream { listener, .. } = self.streams.remove(index);
            if self.reserved.contains_key(forward) {
                listen::lock(listener.get_ref());
            }
        }
        if let Some(socket) = self.datagrams.remove(forward) {
            let untold = |news: &News| matches!(news, News::Carry(other) if other == forward);
            if let Some(index) = self.news.iter().position(untold) {
                self.news.remove(index);
            } else {
                self.news.push_back(News::Drop(*forward));
                self.dropping.push_back((*forward, socket));
            }
        }
    }
}

fn address(forward: &Forward) -> SocketAddrV4 {
    SocketAddrV4::new(forward.address, forward.port)
}

fn poll_accept(stream: &Stream, context: &mut Context<'_>) -> Poll<Accepted> {
    let Stream { forward, own, listener } = stream;
    let accepted = |outcome| Poll::Ready(Accepted { forward: *forward, own: *own, outcome });
    loop {
        let mut ready = match listener.poll_read_ready(context) {
            Poll::Ready(Ok(ready)) => ready,
            Poll::Ready(Err(error)) => return accepted(Err(error)),
            Poll::Pending => return Poll::Pending,
        };
        if let Ok(outcome) = ready.try_io(|socket| socket.get_ref().accept()) {
            return accepted(outcome);
        }
    }
}

/// `AsyncFd::register` is unsafe since its argument might change its descriptor; an owned one cannot.
#[expect(deprecated, reason = "the safe constructor is sound for descriptors that std owns")]
pub(super) fn watch<T: AsRawFd + Into<OwnedFd>>(owned: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::new(owned)
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}
