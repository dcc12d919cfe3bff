//! What the relays of an inner half have in common: the channel, the count of connections, and a desk for each of them.
//!
//! A relay is a thread, one for each processor: a request wakes client, relay and service in turn, and with one relay all
//! of them wait for each other in one line. Nothing else is shared between connections, and none changes its relay.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use u7s_sys::channel;

use super::Settings;
use super::sources::{Holder, Sources, Wish};
use crate::Error;
use crate::forward::message::{Count, Opening, Report};

/// The relay that also reads the channel.
pub(super) const FIRST: usize = 0;

/// Shared by all relays of an inner half.
#[derive(Debug)]
pub(super) struct Team {
    pub(super) channel: OwnedFd,
    pub(super) settings: Settings,
    /// The other end of the channel is there.
    open: AtomicBool,
    /// Connections that can be carried at a time, by all relays together.
    capacity: u32,
    /// Connections that the host half takes for open: received, their end not told.
    held: AtomicU32,
    /// The same by their clients' addresses.
    pub(super) sources: Sources,
    /// Connections that were closed because others waited.
    made_room: AtomicU64,
    desks: Vec<Desk>,
    /// Why a relay has stopped before its time.
    failure: Mutex<Option<Error>>,
    /// Error numbers that were warned of; each is said once.
    said: Mutex<BTreeSet<i32>>,
}

/// Where a relay is given its connections.
#[derive(Debug)]
pub(super) struct Desk {
    /// Connections of this relay, those that lie here too.
    load: AtomicU32,
    given: Mutex<Vec<(Opening, TcpStream)>>,
    wish: Mutex<Wish>,
    /// Readable when the relay shall look: at its desk, at `open`, the first one at `failure`, too.
    pub(super) bell: EventFd,
}

impl Team {
    /// # Errors
    /// [`Error::Inner`]: no event descriptor.
    pub(super) fn new(
        channel: OwnedFd,
        settings: Settings,
        capacity: u32,
        relays: usize,
    ) -> Result<Self, Error> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let desk = || {
            let bell = EventFd::from_flags(flags);
            let bell = bell.map_err(|source| Error::Inner { call: "eventfd", source })?;
            Ok(Desk { load: AtomicU32::new(0), given: Mutex::default(), wish: Mutex::default(), bell })
        };
        Ok(Self {
            channel,
            settings,
            open: AtomicBool::new(true),
            capacity,
            held: AtomicU32::new(0),
            sources: Sources::new(capacity),
            made_room: AtomicU64::new(0),
            desks: std::iter::repeat_with(desk).take(relays).collect::<Result<_, Error>>()?,
            failure: Mutex::default(),
            said: Mutex::default(),
        })
    }

    pub(super) fn desk(&self, relay: usize) -> &Desk {
        &self.desks[relay]
    }

    /// Gives a new connection to the relay that has the fewest; returns it when that is the first one, who asks, or when
    /// its address has too many.
    pub(super) fn deal(&self, opening: Opening, client: TcpStream) -> Dealt {
        let holder = Holder::from(&opening);
        self.held.fetch_add(1, Relaxed);
        let admission = self.sources.admit(holder);
        if admission.crowded {
            self.wish(0, Some(holder));
        }
        if !admission.admitted {
            return Dealt::Refused(holder, client);
        }
        let loads = self.desks.iter().map(|desk| desk.load.load(Relaxed));
        let (relay, _) = loads.enumerate().min_by_key(|(_, load)| *load).unwrap_or_default();
        let desk = self.desk(relay);
        desk.load.fetch_add(1, Relaxed);
        if relay == FIRST {
            return Dealt::Mine(opening, client);
        }
        let mut given = desk.given();
        given.push((opening, client));
        if given.len() == 1 {
            desk.ring();
        }
        Dealt::Given
    }

    /// A connection came without its descriptor: it is over before it began.
    pub(super) fn lost(&self) {
        self.held.fetch_add(1, Relaxed);
    }

    /// Clients wait: all relays together shall close so many idle connections.
    pub(super) fn make_room(&self, count: u16) {
        self.wish(usize::from(count).div_ceil(self.desks.len()), None);
    }

    fn wish(&self, room: usize, crowded: Option<Holder>) {
        for desk in &self.desks {
            let mut wish = lock(&desk.wish);
            wish.room = wish.room.max(room);
            wish.crowded.extend(crowded.map(|holder| holder.source));
            drop(wish);
            desk.ring();
        }
    }

    /// Counts what was closed for others; said in powers of ten.
    pub(super) fn made_room(&self, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        let before = self.made_room.fetch_add(count, Relaxed);
        let closed = before.saturating_add(count);
        if before.checked_ilog10() != closed.checked_ilog10() {
            tracing::warn!(closed, "port forwarder: idle connections were closed, since others waited");
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Relaxed)
    }

    /// The host half is gone: each relay ends with its last connection.
    pub(super) fn part(&self) {
        self.open.store(false, Relaxed);
        self.desks.iter().for_each(Desk::ring);
    }

    /// A relay cannot go on: the first one ends the process, and the supervisor starts another.
    pub(super) fn fail(&self, error: Error) {
        lock(&self.failure).get_or_insert(error);
        self.desk(FIRST).ring();
    }

    /// # Errors
    /// What a relay has failed with.
    pub(super) fn check(&self) -> Result<(), Error> {
        lock(&self.failure).take().map_or(Ok(()), Err)
    }

    /// The host half accepts nothing more soon, unless it hears of ends.
    pub(super) fn is_scarce(&self) -> bool {
        self.held.load(Relaxed) >= self.capacity - self.capacity / 4
    }

    /// Tells the host half of ends; whether it knows now.
    ///
    /// # Errors
    /// [`Error::Channel`].
    pub(super) fn tell_ended(&self, count: Count) -> Result<bool, Error> {
        let told = self.tell(Report::Ended(count))?;
        if told {
            self.held.fetch_sub(count.all(), Relaxed);
        }
        Ok(told)
    }

    /// Whether the host half has it, or needs it no more.
    ///
    /// # Errors
    /// [`Error::Channel`].
    pub(super) fn tell(&self, report: Report) -> Result<bool, Error> {
        if !self.is_open() {
            return Ok(true);
        }
        match channel::send(self.channel.as_fd(), &report.encode(), &[]) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(Errno::EAGAIN) => Ok(false),
            // The other end is gone; the door parts with it when all its packets are read.
            Err(error) if matches!(error.errno(), Some(Errno::EPIPE | Errno::ECONNRESET)) => Ok(true),
            Err(source) => Err(Error::Channel { source }),
        }
    }

    /// Warns of a cause once; a flood of clients must not become a flood of lines.
    pub(super) fn say(&self, cause: Errno) {
        if lock(&self.said).insert(cause as i32) {
            tracing::warn!(%cause, "port forwarder: no connection can be made inside (said once)");
        }
    }
}

/// Where a new connection went.
#[derive(Debug)]
pub(super) enum Dealt {
    /// To who asks.
    Mine(Opening, TcpStream),
    /// To another relay.
    Given,
    /// Nowhere: it is to be reset, and to be told as ended.
    Refused(Holder, TcpStream),
}

impl Desk {
    /// What this relay shall close.
    pub(super) fn take_wish(&self) -> Wish {
        std::mem::take(&mut *lock(&self.wish))
    }

    /// What lies on the desk, which is empty afterwards.
    pub(super) fn collect(&self) -> Vec<(Opening, TcpStream)> {
        // First the bell: who puts something here afterwards rings again.
        let _ = self.bell.read();
        std::mem::take(&mut *self.given())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.given().is_empty()
    }

    /// A connection of this relay has ended.
    pub(super) fn ended(&self) {
        self.load.fetch_sub(1, Relaxed);
    }

    fn given(&self) -> MutexGuard<'_, Vec<(Opening, TcpStream)>> {
        lock(&self.given)
    }

    fn ring(&self) {
        // It fails only at 2^64 - 1 unread rings.
        let _ = self.bell.write(1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::time::Duration;

    use super::*;

    fn team(capacity: u32, relays: usize) -> (Team, OwnedFd) {
        let (ours, theirs) = channel::pair().unwrap();
        let (node_ip, gateway) = (Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST);
        let second = Duration::from_secs(1);
        let settings = Settings { node_ip, gateway, dial_deadline: second, idle: second };
        (Team::new(ours, settings, capacity, relays).unwrap(), theirs)
    }

    #[test]
    fn connections_are_dealt_evenly_and_a_single_one_stays_with_the_first() {
        let (team, _theirs) = team(100, 3);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let opening = Opening { port: 1, peer: "127.0.0.1:2".parse().unwrap(), from_host: true, own: false };
        let client = || TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        for _ in 0..3 {
            assert!(matches!(team.deal(opening, client()), Dealt::Mine(..)));
            team.desk(FIRST).ended();
        }
        let mine = (0..9).filter(|_| matches!(team.deal(opening, client()), Dealt::Mine(..))).count();
        let others = [1, 2].map(|relay| team.desk(relay).collect().len());
        assert_eq!((mine, others), (3, [3, 3]));
        assert!(team.desk(1).is_empty());
        // Twelve are held, as long as nobody has told the host half of ends.
        assert!(!team.is_scarce());
        for _ in 0..63 {
            team.lost();
        }
        assert!(team.is_scarce());
        assert!(team.tell_ended(Count { own: 5, other: 70 }).unwrap());
        assert!(!team.is_scarce());
    }

    #[test]
    fn what_a_relay_fails_with_reaches_the_first_one() {
        let (team, _theirs) = team(4, 2);
        team.check().unwrap();
        team.fail(Error::Inner { call: "epoll_wait", source: Errno::EBADF });
        assert_eq!(team.desk(FIRST).bell.read(), Ok(1));
        assert!(matches!(team.check(), Err(Error::Inner { call: "epoll_wait", .. })));
    }
}
