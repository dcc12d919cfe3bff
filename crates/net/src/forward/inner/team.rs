//! What the relays of an inner half have in common: the channel, the count of connections, and a desk for each of them.
//!
//! A relay is a thread, one for each processor: a request wakes client, relay and service in turn, and with one relay all
//! of them wait for each other in one line. Nothing else is shared between connections, and none changes its relay.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use u7s_sys::channel;

use super::Settings;
use crate::Error;
use crate::forward::message::{Opening, Report};

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
            Ok(Desk { load: AtomicU32::new(0), given: Mutex::default(), bell })
        };
        Ok(Self {
            channel,
            settings,
            open: AtomicBool::new(true),
            capacity,
            held: AtomicU32::new(0),
            desks: std::iter::repeat_with(desk).take(relays).collect::<Result<_, Error>>()?,
            failure: Mutex::default(),
            said: Mutex::default(),
        })
    }

    pub(super) fn desk(&self, relay: usize) -> &Desk {
        &self.desks[relay]
    }

    /// Gives a new connection to the relay that has the fewest; returns it when that is the first one, who asks.
    pub(super) fn deal(&self, opening: Opening, client: TcpStream) -> Option<(Opening, TcpStream)> {
        self.held.fetch_add(1, Relaxed);
        let loads = self.desks.iter().map(|desk| desk.load.load(Relaxed));
        let (relay, _) = loads.enumerate().min_by_key(|(_, load)| *load).unwrap_or_default();
        let desk = self.desk(relay);
        desk.load.fetch_add(1, Relaxed);
        if relay == FIRST {
            return Some((opening, client));
        }
        let mut given = desk.given();
        given.push((opening, client));
        if given.len() == 1 {
            desk.ring();
        }
        None
    }

    /// A connection came without its descriptor: it is over before it began.
    pub(super) fn lost(&self) {
        self.held.fetch_add(1, Relaxed);
        self.desk(FIRST).load.fetch_add(1, Relaxed);
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
    pub(super) fn tell_ended(&self, count: u32) -> Result<bool, Error> {
        let told = self.tell(Report::Ended(count))?;
        if told {
            self.held.fetch_sub(count, Relaxed);
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

impl Desk {
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
        let settings = Settings { node_ip, gateway, dial_deadline: Duration::from_secs(1) };
        (Team::new(ours, settings, capacity, relays).unwrap(), theirs)
    }

    #[test]
    fn connections_are_dealt_evenly_and_a_single_one_stays_with_the_first() {
        let (team, _theirs) = team(100, 3);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let opening = Opening { port: 1, peer: "127.0.0.1:2".parse().unwrap(), from_host: true };
        let client = || TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        for _ in 0..3 {
            assert!(team.deal(opening, client()).is_some());
            team.desk(FIRST).ended();
        }
        let mine = (0..9).filter_map(|_| team.deal(opening, client())).count();
        let others = [1, 2].map(|relay| team.desk(relay).collect().len());
        assert_eq!((mine, others), (3, [3, 3]));
        assert!(team.desk(1).is_empty());
        // Twelve are held, as long as nobody has told the host half of ends.
        assert!(!team.is_scarce());
        for _ in 0..63 {
            team.lost();
        }
        assert!(team.is_scarce());
        assert!(team.tell_ended(75).unwrap());
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
