//! The event loop of the inner half.

use std::collections::{BTreeSet, VecDeque};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use u7s_sys::channel;

use super::Settings;
use super::connection::{Connection, Side, abort};
use super::datagrams::Carrier;
use super::dial::dial;
use super::flow::Progress;
use super::pool::Pool;
use super::slots::{Key, Slots};
use crate::Error;
use crate::forward::message::{Opening, Order, Report};

/// Events taken at a time, and new connections between two rounds of events.
const BATCH: usize = 256;

/// How long to wait before something is tried again that the kernel refused for lack of room.
const RETRY: Duration = Duration::from_millis(100);

/// How long the host half may wait to hear of connections that have ended; many are told at once.
const TOLD: Duration = Duration::from_millis(20);

/// That many ends are told without waiting.
const MANY: u32 = 64;

/// The epoll token of the channel; no connection has it, since lives have 31 bits and there are no 2^32 - 1 slots.
const CHANNEL: u64 = u64::MAX;

/// All state of the inner half.
#[derive(Debug)]
pub(super) struct Relay {
    epoll: Epoll,
    channel: OwnedFd,
    /// The other end of the channel is there.
    open: bool,
    settings: Settings,
    pool: Pool,
    connections: Slots<Connection>,
    /// Connections with more to move than one turn allows.
    runnable: VecDeque<Key>,
    /// Connections that are being dialled, and when they are given up, in that order.
    dialling: VecDeque<(Instant, Key)>,
    /// Connections for which the kernel had no descriptor or memory.
    waiting: VecDeque<(Opening, TcpStream)>,
    /// Connections that can be carried at a time.
    capacity: u32,
    /// Ends that the host half has not been told yet.
    ended: u32,
    /// When the first of them will be told.
    told_at: Option<Instant>,
    /// Who carries datagrams, if that is possible.
    carrier: Option<Arc<Carrier>>,
    /// Dropped sockets that the host half has not been told yet.
    dropped: u32,
    /// Error numbers that were warned of; each is said once.
    said: BTreeSet<i32>,
}

impl Relay {
    /// # Errors
    /// [`Error::Inner`]: no epoll set.
    pub(super) fn new(
        channel: OwnedFd,
        settings: Settings,
        pool: Pool,
        carrier: Option<Arc<Carrier>>,
    ) -> Result<Self, Error> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed("epoll_create1"))?;
        epoll.add(&channel, EpollEvent::new(EpollFlags::EPOLLIN, CHANNEL)).map_err(failed("epoll_ctl"))?;
        Ok(Self {
            epoll,
            channel,
            open: true,
            settings,
            pool,
            connections: Slots::default(),
            runnable: VecDeque::new(),
            dialling: VecDeque::new(),
            waiting: VecDeque::new(),
            capacity: 0,
            ended: 0,
            told_at: None,
            carrier,
            dropped: 0,
            said: BTreeSet::new(),
        })
    }

    /// Announces the capacity, then serves until the channel is closed and the last connection has ended.
    ///
    /// # Errors
    /// [`Error::Inner`]: epoll fails. [`Error::Channel`], [`Error::Message`]: the host half cannot be understood.
    pub(super) fn run(mut self, capacity: u32) -> Result<(), Error> {
        channel::send(self.channel.as_fd(), &Report::Capacity(capacity).encode(), &[])
            .map_err(|source| Error::Channel { source })?;
        self.capacity = capacity;
        let mut events = [EpollEvent::empty(); BATCH];
        while self.open || !self.connections.is_empty() || !self.waiting.is_empty() {
            let count = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(source) => return Err(Error::Inner { call: "epoll_wait", source }),
            };
            for event in &events[..count] {
                match event.data() {
                    CHANNEL => self.welcome()?,
                    token => self.on_event(token, event.events()),
                }
            }
            self.take_turns();
            self.retry();
            self.expire();
            self.report()?;
        }
        Ok(())
    }

    fn timeout(&self) -> EpollTimeout {
        if !self.runnable.is_empty() {
            return EpollTimeout::ZERO;
        }
        let retry = (!self.waiting.is_empty() || self.dropped > 0).then_some(RETRY);
        let deadlines = self.dialling.front().map(|(until, _)| *until).into_iter().chain(self.told_at);
        let deadline = deadlines.min().map(|until| until.saturating_duration_since(Instant::now()));
        // One millisecond more: the kernel rounds down, and a deadline that is not yet over would spin.
        let wait = retry.into_iter().chain(deadline).min().map(|wait| wait + Duration::from_millis(1));
        wait.map_or(EpollTimeout::NONE, |wait| EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::MAX))
    }

    /// Takes new connections from the channel.
    fn welcome(&mut self) -> Result<(), Error> {
        let mut packet = [0; Order::BYTES * Order::MOST];
        for _ in 0..BATCH {
            let (bytes, descriptors) = match channel::receive(self.channel.as_fd(), &mut packet) {
                Ok((0, _)) => return self.part(),
                Ok(received) => received,
                Err(error) => match error.errno() {
                    // ECONNRESET comes once, when the other end did not read our last word; its packets are still there.
                    Some(Errno::EAGAIN | Errno::ECONNRESET) => return Ok(()),
                    _ => return Err(Error::Channel { source: error }),
                },
            };
            let mut descriptors = descriptors.into_iter();
            for order in Order::decode_all(&packet[..bytes])? {
                self.obey(order, &mut descriptors);
            }
            if bytes < packet.len() {
                // The host half had no more; if it has by now, epoll says so.
                return Ok(());
            }
        }
        Ok(())
    }

    fn obey(&mut self, order: Order, descriptors: &mut impl Iterator<Item = OwnedFd>) {
        let descriptor = if matches!(order, Order::Drop(_)) { None } else { descriptors.next() };
        match (order, descriptor) {
            (Order::Connect(opening), Some(client)) => self.begin(opening, TcpStream::from(client)),
            // It was closed on its way, because there was no room for it: these clients are lost, not all of them.
            (Order::Connect(_), None) => {
                self.say(Errno::ENFILE);
                self.ended += 1;
            }
            (Order::Carry(bound), Some(socket)) => {
                let carried = self.carrier.as_ref().map(|carrier| carrier.carry(bound, socket));
                if let Some(Err(error)) = carried {
                    self.say(error);
                }
            }
            (Order::Carry(_), None) => self.say(Errno::ENFILE),
            (Order::Drop(bound), _) => {
                self.carrier.iter().for_each(|carrier| carrier.release(bound));
                self.dropped += 1;
            }
        }
    }

    /// The host half is gone: what is open goes on, nothing new comes.
    fn part(&mut self) -> Result<(), Error> {
        self.open = false;
        self.carrier.iter().for_each(|carrier| carrier.release_all());
        self.epoll.delete(&self.channel).map_err(failed("epoll_ctl"))
    }

    fn begin(&mut self, opening: Opening, client: TcpStream) {
        match dial(&opening, &self.settings) {
            Ok(server) => self.enter(client, server),
            Err(error @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)) => {
                self.say(error);
                self.waiting.push_back((opening, client));
            }
            Err(error) => {
                self.say(error);
                abort(&client);
                self.ended += 1;
            }
        }
    }

    fn enter(&mut self, client: TcpStream, server: TcpStream) {
        let key = self.connections.vacant();
        let connection = Connection::new(client, server);
        if let Err(error) = self.watch(key, &connection) {
            self.say(error);
            connection.reset(&mut self.pool);
            self.ended += 1;
            return;
        }
        self.connections.insert(connection);
        self.dialling.push_back((Instant::now() + self.settings.dial_deadline, key));
    }

    fn watch(&self, key: Key, connection: &Connection) -> Result<(), Errno> {
        let client = connection.socket(Side::Client);
        client.set_nonblocking(true).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
        let events =
            EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        self.epoll.add(client, EpollEvent::new(events, token(key, Side::Client)))?;
        let server = connection.socket(Side::Server);
        self.epoll.add(server, EpollEvent::new(events, token(key, Side::Server)))
    }

    fn on_event(&mut self, token: u64, events: EpollFlags) {
        let (key, side) = untoken(token);
        let Some(connection) = self.connections.find(key) else { return };
        match connection.note(side, events) {
            Ok(()) => self.pump(key),
            Err(error) => self.reset(key, error),
        }
    }

    fn pump(&mut self, key: Key) {
        let Some(connection) = self.connections.find(key) else { return };
        match connection.pump(&mut self.pool) {
            Ok(Progress::Waits) => {}
            Ok(Progress::Runs) => {
                if !std::mem::replace(&mut connection.queued, true) {
                    self.runnable.push_back(key);
                }
            }
            Ok(Progress::Ended) => {
                if let Some(connection) = self.connections.remove(key) {
                    connection.close(&mut self.pool);
                    self.ended += 1;
                }
            }
            Err(error) => self.reset(key, error),
        }
    }

    fn reset(&mut self, key: Key, cause: Errno) {
        if let Some(connection) = self.connections.remove(key) {
            tracing::debug!(%cause, dialling = connection.is_dialling(), "a forwarded connection is reset");
            connection.reset(&mut self.pool);
            self.ended += 1;
        }
    }

    /// One more turn for each connection that has more to move.
    fn take_turns(&mut self) {
        for _ in 0..self.runnable.len() {
            let Some(key) = self.runnable.pop_front() else { return };
            if let Some(connection) = self.connections.find(key) {
                connection.queued = false;
                self.pump(key);
            }
        }
    }

    /// Dials again for those that had to wait.
    fn retry(&mut self) {
        for _ in 0..self.waiting.len() {
            let Some((opening, client)) = self.waiting.pop_front() else { return };
            let before = self.waiting.len();
            self.begin(opening, client);
            if self.waiting.len() > before {
                // Still no room: the others keep their order and wait too.
                self.waiting.rotate_right(1);
                return;
            }
        }
    }

    /// Gives up what was dialled for too long.
    fn expire(&mut self) {
        while let Some((until, key)) = self.dialling.front().copied() {
            let dialling = self.connections.find(key).is_some_and(|connection| connection.is_dialling());
            if dialling && until > Instant::now() {
                return;
            }
            self.dialling.pop_front();
            if dialling {
                self.reset(key, Errno::ETIMEDOUT);
            }
        }
    }

    /// Tells the host half how many connections have ended, and what was dropped; what cannot be told now is told later.
    fn report(&mut self) -> Result<(), Error> {
        if self.ended > 0 && self.is_time_to_tell() {
            self.told_at = Some(Instant::now() + RETRY);
            if self.tell(Report::Ended(self.ended))? {
                (self.ended, self.told_at) = (0, None);
            }
        }
        while self.dropped > 0 && self.tell(Report::Dropped)? {
            self.dropped -= 1;
        }
        Ok(())
    }

    /// A message for each end would wake the host half as often; it needs to know soon only when it runs out of credit.
    fn is_time_to_tell(&mut self) -> bool {
        let told_at = *self.told_at.get_or_insert_with(|| Instant::now() + TOLD);
        let open = u32::try_from(self.connections.len() + self.waiting.len()).unwrap_or(u32::MAX);
        let scarce = open.saturating_add(self.ended) >= self.capacity - self.capacity / 4;
        scarce || self.ended >= MANY || told_at <= Instant::now()
    }

    /// Whether the host half has it, or needs it no more.
    fn tell(&self, report: Report) -> Result<bool, Error> {
        if !self.open {
            return Ok(true);
        }
        match channel::send(self.channel.as_fd(), &report.encode(), &[]) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(Errno::EAGAIN) => Ok(false),
            // The other end is gone; `welcome` parts with it when all its packets are read.
            Err(error) if matches!(error.errno(), Some(Errno::EPIPE | Errno::ECONNRESET)) => Ok(true),
            Err(source) => Err(Error::Channel { source }),
        }
    }

    /// Warns of a cause once; a flood of clients must not become a flood of lines.
    fn say(&mut self, cause: Errno) {
        if self.said.insert(cause as i32) {
            tracing::warn!(%cause, "port forwarder: no connection can be made inside (said once)");
        }
    }
}

/// 31 bits of life, 32 of index, one of side.
fn token(key: Key, side: Side) -> u64 {
    u64::from(key.life) << 33 | u64::from(key.index) << 1 | u64::from(side == Side::Server)
}

fn untoken(token: u64) -> (Key, Side) {
    let life = u32::try_from(token >> 33).unwrap_or(u32::MAX);
    let index = u32::try_from(token >> 1 & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    (Key { index, life }, if token & 1 == 1 { Side::Server } else { Side::Client })
}

fn failed(call: &'static str) -> impl FnOnce(Errno) -> Error {
    move |source| Error::Inner { call, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_keeps_place_life_and_side() {
        for index in [0, 1, u32::MAX - 1] {
            for life in [0, 7, u32::MAX >> 1] {
                for side in [Side::Client, Side::Server] {
                    let key = Key { index, life };
                    assert_eq!(untoken(token(key, side)), (key, side));
                    assert_ne!(token(key, side), CHANNEL);
                }
            }
        }
    }
}
