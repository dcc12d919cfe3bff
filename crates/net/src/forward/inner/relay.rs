//! The event loop of a relay.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::connection::{Connection, Side};
use super::dial::dial;
use super::door::Door;
use super::flow::Progress;
use super::pool::Pool;
use super::slots::{Key, Slots};
use super::sources::{Holder, Idle};
use super::team::{Desk, FIRST, Team};
use crate::Error;
use crate::forward::listen::abort;
use crate::forward::message::{Count, Opening};

/// Events taken at a time.
const BATCH: usize = 256;

/// How long to wait before something is tried again that the kernel refused for lack of room.
const RETRY: Duration = Duration::from_millis(100);

/// How long the host half may wait to hear of connections that have ended; many are told at once.
const TOLD: Duration = Duration::from_millis(20);

/// That many ends are told without waiting.
const MANY: u32 = 64;

/// The epoll token of the channel; no connection has it, since lives have 31 bits and there are no 2^32 - 1 slots.
const CHANNEL: u64 = u64::MAX;

/// The epoll token of the bell; no connection has it for the same reason.
const BELL: u64 = u64::MAX - 1;

/// A thread of the inner half and its connections.
#[derive(Debug)]
pub(super) struct Relay {
    team: Arc<Team>,
    /// Which one of the team this is.
    number: usize,
    epoll: Epoll,
    pool: Pool,
    connections: Slots<Connection>,
    /// Connections with more to move than one turn allows.
    runnable: VecDeque<Key>,
    /// Connections that are being dialled, and when they are given up, in that order.
    dialling: VecDeque<(Instant, Key)>,
    /// Connections for which the kernel had no descriptor or memory.
    waiting: VecDeque<(Opening, TcpStream)>,
    /// Ends that the host half has not been told yet.
    ended: Count,
    /// When the first of them will be told.
    told_at: Option<Instant>,
    began: Instant,
    /// Milliseconds since then, as of the last wake-up: one question to the clock for all events of it.
    now: u64,
}

impl Relay {
    /// # Errors
    /// [`Error::Inner`]: no epoll set.
    pub(super) fn new(team: Arc<Team>, number: usize, pool: Pool) -> Result<Self, Error> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed("epoll_create1"))?;
        let readable = |token| EpollEvent::new(EpollFlags::EPOLLIN, token);
        epoll.add(&team.desk(number).bell, readable(BELL)).map_err(failed("epoll_ctl"))?;
        if number == FIRST {
            epoll.add(&team.channel, readable(CHANNEL)).map_err(failed("epoll_ctl"))?;
        }
        Ok(Self {
            team,
            number,
            epoll,
            pool,
            connections: Slots::default(),
            runnable: VecDeque::new(),
            dialling: VecDeque::new(),
            waiting: VecDeque::new(),
            ended: Count::default(),
            told_at: None,
            began: Instant::now(),
            now: 0,
        })
    }

    /// Serves until the channel is closed and the last connection has ended; the first relay has the `door`.
    ///
    /// # Errors
    /// [`Error::Inner`]: epoll fails. [`Error::Channel`], [`Error::Message`]: the host half cannot be understood.
    pub(super) fn run(mut self, mut door: Option<Door>) -> Result<(), Error> {
        let mut events = [EpollEvent::empty(); BATCH];
        while !self.is_done() {
            let owes = door.as_ref().is_some_and(Door::owes);
            let count = match self.epoll.wait(&mut events, self.timeout(owes)) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(source) => return Err(Error::Inner { call: "epoll_wait", source }),
            };
            self.now = milliseconds(self.began.elapsed());
            for event in &events[..count] {
                match (event.data(), &mut door) {
                    (CHANNEL, Some(door)) => door.welcome(&mut self)?,
                    (CHANNEL, None) => {}
                    (BELL, _) => self.answer()?,
                    (token, _) => self.on_event(token, event.events()),
                }
            }
            self.take_turns();
            self.retry();
            self.expire();
            self.report()?;
            door.as_mut().map_or(Ok(()), Door::report)?;
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        let idle = self.connections.is_empty() && self.waiting.is_empty();
        idle && !self.team.is_open() && self.desk().is_empty()
    }

    fn desk(&self) -> &Desk {
        self.team.desk(self.number)
    }

    fn timeout(&self, owes: bool) -> EpollTimeout {
        if !self.runnable.is_empty() {
            return EpollTimeout::ZERO;
        }
        let retry = (!self.waiting.is_empty() || owes).then_some(RETRY);
        let deadlines = self.dialling.front().map(|(until, _)| *until).into_iter().chain(self.told_at);
        let deadline = deadlines.min().map(|until| until.saturating_duration_since(Instant::now()));
        // One millisecond more: the kernel rounds down, and a deadline that is not yet over would spin.
        let wait = retry.into_iter().chain(deadline).min().map(|wait| wait + Duration::from_millis(1));
        wait.map_or(EpollTimeout::NONE, |wait| EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::MAX))
    }

    /// Somebody has rung: takes what was given.
    fn answer(&mut self) -> Result<(), Error> {
        for (opening, client) in self.desk().collect() {
            self.begin(opening, client);
        }
        self.make_room();
        if self.number == FIRST { self.team.check() } else { Ok(()) }
    }

    /// Nothing comes by the channel any more.
    ///
    /// # Errors
    /// [`Error::Inner`].
    pub(super) fn leave_channel(&self) -> Result<(), Error> {
        self.epoll.delete(&self.team.channel).map_err(failed("epoll_ctl"))
    }

    /// Dials for a connection.
    pub(super) fn begin(&mut self, opening: Opening, client: TcpStream) {
        match dial(&opening, &self.team.settings) {
            Ok(server) => self.enter((&opening).into(), client, server),
            Err(error @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)) => {
                self.team.say(error);
                self.waiting.push_back((opening, client));
            }
            Err(error) => {
                self.team.say(error);
                abort(&client);
                self.end((&opening).into());
            }
        }
    }

    fn enter(&mut self, holder: Holder, client: TcpStream, server: TcpStream) {
        let key = self.connections.vacant();
        let connection = Connection::new(holder, client, server);
        if let Err(error) = self.watch(key, &connection) {
            self.team.say(error);
            connection.reset(&mut self.pool);
            self.end(holder);
            return;
        }
        self.connections.insert(connection);
        self.dialling.push_back((Instant::now() + self.team.settings.dial_deadline, key));
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
        connection.moved_at = self.now;
        match connection.pump(&mut self.pool) {
            Ok(Progress::Waits) => {}
            Ok(Progress::Runs) => {
                if !std::mem::replace(&mut connection.queued, true) {
                    self.runnable.push_back(key);
                }
            }
            Ok(Progress::Ended) => {
                if let Some(connection) = self.connections.remove(key) {
                    let holder = connection.holder;
                    connection.close(&mut self.pool);
                    self.end(holder);
                }
            }
            Err(error) => self.reset(key, error),
        }
    }

    fn reset(&mut self, key: Key, cause: Errno) {
        if let Some(connection) = self.connections.remove(key) {
            tracing::debug!(%cause, dialling = connection.is_dialling(), "a forwarded connection is reset");
            let holder = connection.holder;
            connection.reset(&mut self.pool);
            self.end(holder);
        }
    }

    /// Closes idle connections, as far as others were said to wait.
    fn make_room(&mut self) {
        let wish = self.desk().take_wish();
        if wish.is_empty() {
            return;
        }
        let silent_since = self.now.saturating_sub(milliseconds(self.team.settings.idle));
        let idle = |(key, connection): (Key, &Connection)| {
            let idle = !connection.is_dialling() && connection.moved_at < silent_since;
            idle.then_some(Idle { key, holder: connection.holder, moved_at: connection.moved_at })
        };
        let idle = self.connections.iter().filter_map(idle).collect();
        let chosen = self.team.sources.chosen(idle, &wish);
        for key in &chosen {
            self.reset(*key, Errno::ENOSPC);
        }
        self.team.made_room(chosen.len());
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

    /// A connection of this relay is no more.
    fn end(&mut self, holder: Holder) {
        self.desk().ended();
        self.team.sources.leave(holder);
        self.never_was(holder);
    }

    /// A connection is over that no relay had.
    pub(super) fn never_was(&mut self, holder: Holder) {
        *self.ended.of(holder.own) += 1;
    }

    /// Tells the host half how many connections have ended; what cannot be told now is told later.
    fn report(&mut self) -> Result<(), Error> {
        if self.ended.all() > 0 && self.is_time_to_tell() {
            self.told_at = Some(Instant::now() + RETRY);
            if self.team.tell_ended(self.ended)? {
                (self.ended, self.told_at) = (Count::default(), None);
            }
        }
        Ok(())
    }

    /// A message for each end would wake the host half as often; it needs to know soon only when it runs out of credit.
    fn is_time_to_tell(&mut self) -> bool {
        let told_at = *self.told_at.get_or_insert_with(|| Instant::now() + TOLD);
        self.team.is_scarce() || self.ended.all() >= MANY || told_at <= Instant::now()
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

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
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
                    assert!(![CHANNEL, BELL].contains(&token(key, side)));
                }
            }
        }
    }
}
