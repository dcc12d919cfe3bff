//! The host half: accepts connections and hands them to the inner half, within its credit.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use ipnet::Ipv4Net;
use nix::errno::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch as observed;
use tokio::time::Instant;
use u7s_plan::control::Connections;
use u7s_plan::node::Forward;
use u7s_sys::channel;

use super::Listeners;
use super::listen::abort;
use super::local::HostAddresses;
use super::message::{Count, Opening, Order, Report};
use super::ports::{Accepted, Ports, watch};
use super::shares::{Credit, reserve};
use crate::Error;

/// For so long it is not said again that the forwarder is full.
const FULL_AGAIN: Duration = Duration::from_secs(10);

/// While clients wait and there is no room, the inner half is asked for some again after this, if connections have ended
/// since it was asked.
const ROOM_AGAIN: Duration = Duration::from_millis(100);

/// The same if none has ended: it may be about to end some.
const ROOM_UNHEARD: Duration = Duration::from_secs(1);

/// How many idle connections it is asked to close at a time.
const ROOM: u16 = 64;

/// Accepts on all listeners and passes each connection, and each socket for datagrams, to the attached inner half.
///
/// Without an inner half, or without its credit, nothing is accepted: clients wait in the kernel's queue.
/// It holds at most one packet of accepted connections, which outlive the death of an inner half.
#[derive(Debug)]
pub struct Acceptor {
    ports: Ports,
    links: observed::Sender<Option<Arc<Link>>>,
    account: Mutex<Account>,
    /// Connections and datagrams that were refused for their source address.
    refused: AtomicU64,
}

impl Acceptor {
    /// Takes bound sockets; must be called inside the runtime that will [`run`](Self::run) it.
    ///
    /// # Errors
    /// [`Error::Watch`]: epoll refused a listener (`fs.epoll.max_user_watches`).
    pub fn new(listeners: Listeners) -> Result<Self, Error> {
        let ports = Ports::new(listeners)?;
        Ok(Self {
            ports,
            links: observed::Sender::new(None),
            account: Mutex::default(),
            refused: AtomicU64::new(0),
        })
    }

    /// From now on takes nothing from clients in these networks, unless they are the host itself.
    ///
    /// Networks of the inside: inside, such a client would be a pod, a service or the node, whoever sent the packet.
    pub fn refuse(&self, networks: &[Ipv4Net]) {
        self.ports.refuse(networks);
    }

    /// The forwards that are open, sorted.
    #[must_use]
    pub fn forwards(&self) -> BTreeSet<Forward> {
        self.ports.forwards()
    }

    /// Makes `wanted` the forwards that are open; returns why some of them are not.
    ///
    /// What is open already is not touched. What is no longer wanted is closed at once: who waits to be accepted is
    /// reset, connections that were accepted go on. Must be called inside the runtime.
    ///
    /// # Errors
    /// Of each port alone, as [`bind`](super::bind): the others are opened all the same. Asking again tries again.
    pub fn set_forwards(&self, wanted: &BTreeSet<Forward>) -> BTreeMap<Forward, Error> {
        self.ports.set(wanted)
    }

    /// Goes on with a new inner half, which holds the other end of `channel` (`u7s_sys::channel::pair`).
    ///
    /// Connections of a former inner half are forgotten; they live on only as long as that process does.
    ///
    /// # Errors
    /// [`Error::Watch`]: epoll refused the channel.
    pub fn attach(&self, channel: OwnedFd) -> Result<(), Error> {
        let socket = watch(channel).map_err(watching)?;
        *self.account() = Account::default();
        self.ports.tell_again();
        self.links.send_replace(Some(Arc::new(Link { socket })));
        Ok(())
    }

    /// Connections that are open now, and the limit that the inner half announced (0 while there is none).
    #[must_use]
    pub fn connections(&self) -> Connections {
        let account = self.account();
        let open = account.open.all().into();
        Connections { open, limit: account.capacity.into(), refused: self.refused.load(Relaxed) }
    }

    /// Serves for ever. Dropping the future loses at most the connections that wait for an inner half.
    pub async fn run(&self) -> Infallible {
        let mut links = self.links.subscribe();
        let mut desk = Desk::default();
        loop {
            let link = links.borrow_and_update().clone();
            if let Some(link) = link {
                tokio::select! {
                    biased;
                    _ = links.changed() => continue,
                    ended = self.serve(&link, &mut desk) => self.mourn(&link, &ended),
                }
            }
            // `changed` fails only without a sender, and the sender is `self`.
            let _ = links.changed().await;
        }
    }

    /// Serves one inner half until it is gone.
    async fn serve(&self, link: &Link, desk: &mut Desk) -> Error {
        loop {
            let credit = self.credit();
            let room = credit.of(true);
            let may_accept = desk.pending.is_empty() && desk.paused_until.is_none() && room > 0;
            let handed = &desk.pending[..desk.pending.len().min(room)];
            let failed = tokio::select! {
                biased;
                report = link.receive() => {
                    report.and_then(|report| { desk.asked.hear(report); self.book(report) })
                }
                told = self.tell(link) => told,
                sent = link.send(handed), if !handed.is_empty() => {
                    let count = handed.len();
                    sent.map(|()| self.spend(desk.pending.drain(..count)))
                }
                asked = self.ask_for_room(link, credit, &mut desk.asked), if credit.is_short() => asked,
                () = sleep_until(desk.paused_until), if desk.paused_until.is_some() => {
                    desk.paused_until = None;
                    Ok(())
                }
                accepted = self.accept(&mut desk.first, credit), if may_accept => {
                    accepted.into_iter().for_each(|accepted| self.take(desk, accepted));
                    Ok(())
                }
            };
            if let Err(error) = failed {
                return error;
            }
        }
    }

    /// The next connections of any listeners that have credit, a packet at most; the one after the last that had one is
    /// asked first.
    async fn accept(&self, first: &mut usize, credit: Credit) -> Vec<Accepted> {
        let mut changed = pin!(self.ports.changed());
        poll_fn(|context| {
            // Listeners that came meanwhile have to be asked, too, so that they wake this task.
            while changed.as_mut().poll(context).is_ready() {
                changed.set(self.ports.changed());
            }
            let mut taken = Vec::new();
            let mut left = credit;
            while taken.len() < Order::MOST
                && let Poll::Ready(accepted) = self.ports.poll_accept(first, left, context)
            {
                let last = accepted.outcome.is_err();
                left.spend(accepted.own);
                taken.push(accepted);
                if last {
                    break;
                }
            }
            if taken.is_empty() { Poll::Pending } else { Poll::Ready(taken) }
        })
        .await
    }

    fn take(&self, desk: &mut Desk, accepted: Accepted) {
        let Accepted { forward, own, outcome } = accepted;
        let port = forward.port;
        match outcome {
            Ok((client, SocketAddr::V4(peer))) => {
                if std::mem::take(&mut desk.pause) > Duration::ZERO {
                    tracing::info!("connections are accepted again");
                }
                let from_host = match local_address(&forward, &client) {
                    Some(local) => desk.host.contain(*peer.ip(), local),
                    None => false,
                };
                if !from_host && self.ports.refuses(*peer.ip()) {
                    abort(&client);
                    self.count_refused(1, Some(*peer.ip()));
                    return;
                }
                desk.pending.push((client, Opening { port, peer, from_host, own }));
            }
            // An IPv4 listener has no other peers.
            Ok((_, SocketAddr::V6(_))) => {}
            Err(error) if concerns_one_client(&error) => {
                tracing::debug!(
                    port,
                    error = &error as &dyn std::error::Error,
                    "a client went before it was accepted"
                );
            }
            Err(error) => desk.pause(port, &error),
        }
    }

    /// Tells the inner half of one socket for datagrams that was opened or closed.
    async fn tell(&self, link: &Link) -> Result<(), Error> {
        let mut changed = pin!(self.ports.changed());
        while !self.ports.has_news() {
            changed.as_mut().await;
            changed.set(self.ports.changed());
        }
        link.send_by(|channel| self.ports.tell_one(channel)).await
    }

    /// Asks the inner half to close idle connections for the clients that wait; never ends while none do.
    async fn ask_for_room(&self, link: &Link, credit: Credit, asked: &mut Asked) -> Result<(), Error> {
        loop {
            sleep_until(asked.again()).await;
            *asked = Asked { at: Some(Instant::now()), answered: true };
            if self.ports.has_waiting(credit) {
                asked.answered = false;
                let order = Order::MakeRoom(ROOM).encode();
                return link.send_by(|channel| channel::send(channel, &order, &[])).await;
            }
        }
    }

    /// How many connections the inner half has room for.
    fn credit(&self) -> Credit {
        let account = self.account();
        Credit::left(account.capacity, account.open)
    }

    fn spend(&self, handed: impl Iterator<Item = (TcpStream, Opening)>) {
        let mut account = self.account();
        for (_, opening) in handed {
            let open = account.open.of(opening.own);
            *open = open.saturating_add(1);
        }
        let lately = account.full_at.is_some_and(|at| at.elapsed() < FULL_AGAIN);
        let short = Credit::left(account.capacity, account.open).is_short();
        if short && !account.said_full && !lately {
            account.said_full = true;
            account.full_at = Some(Instant::now());
            let (limit, kept) = (account.capacity, reserve(account.capacity));
            tracing::warn!(limit, kept, "the port forwarder is full, new connections wait");
        }
    }

    /// Refused ones are counted, and said in powers of ten: a flood of them must not become a flood of lines.
    fn count_refused(&self, count: u32, peer: Option<Ipv4Addr>) {
        let before = self.refused.fetch_add(count.into(), Relaxed);
        let refused = before.saturating_add(count.into());
        if before.checked_ilog10() != refused.checked_ilog10() {
            let peer = peer.map(tracing::field::display);
            tracing::warn!(refused, peer, "clients with addresses of the inside were refused");
        }
    }

    /// # Errors
    /// [`Error::Message`]: the capacity is told twice, which only a hostile inner half does.
    fn book(&self, report: Report) -> Result<(), Error> {
        let mut account = self.account();
        match report {
            Report::Capacity(_) if account.capacity > 0 => {
                return Err(Error::Message { bytes: Report::BYTES });
            }
            Report::Capacity(capacity) => {
                account.capacity = capacity;
                tracing::info!(limit = capacity, "port forwarder is ready, connections at most");
            }
            Report::Ended(Count { own, other }) => {
                let open = account.open;
                account.open =
                    Count { own: open.own.saturating_sub(own), other: open.other.saturating_sub(other) };
            }
            Report::Dropped => self.ports.dropped(),
            Report::Refused(count) => self.count_refused(count, None),
        }
        // A quarter must be free before it is said: at the limit connections come and go all the time, many at once.
        let open = account.open.all();
        if account.said_full && account.capacity.saturating_sub(open) >= (account.capacity / 4).max(1) {
            account.said_full = false;
            tracing::info!(open, "the port forwarder accepts connections again");
        }
        Ok(())
    }

    /// Lets go of an inner half that is gone, or that talks nonsense and shall go when its connections have ended.
    fn mourn(&self, link: &Arc<Link>, error: &Error) {
        self.links.send_if_modified(|attached| {
            attached.take_if(|attached| Arc::ptr_eq(attached, link));
            false
        });
        let lost = std::mem::take(&mut *self.account()).open.all();
        tracing::warn!(
            error = error as &dyn std::error::Error,
            lost,
            "the inner half of the port forwarder is gone"
        );
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Credit of the attached inner half.
#[derive(Debug, Default)]
struct Account {
    capacity: u32,
    open: Count,
    /// That it is full was said, that it is not any more was not.
    said_full: bool,
    /// When it was said last.
    full_at: Option<Instant>,
}

/// What survives a change of the inner half.
#[derive(Debug, Default)]
struct Desk {
    /// Accepted and not yet handed over; at most a packet.
    pending: Vec<(TcpStream, Opening)>,
    /// Set while accepting pauses for lack of descriptors or memory.
    paused_until: Option<Instant>,
    /// How long the last pause was; zero when the last accept succeeded.
    pause: Duration,
    asked: Asked,
    /// The listener that is asked first.
    first: usize,
    host: HostAddresses,
}

/// When the inner half was asked for room.
#[derive(Debug, Default)]
struct Asked {
    /// When clients were looked for last.
    at: Option<Instant>,
    /// None waited then, or connections have ended since.
    answered: bool,
}

impl Asked {
    fn again(&self) -> Option<Instant> {
        let pause = if self.answered { ROOM_AGAIN } else { ROOM_UNHEARD };
        self.at.map(|at| at + pause)
    }

    fn hear(&mut self, report: Report) {
        self.answered |= matches!(report, Report::Ended(_));
    }
}

impl Desk {
    /// No descriptor or memory is left, here or in the whole system: waiting is all that helps.
    fn pause(&mut self, port: u16, error: &io::Error) {
        const FIRST: Duration = Duration::from_millis(50);
        const LONGEST: Duration = Duration::from_secs(2);
        if self.pause.is_zero() {
            let error = error as &dyn std::error::Error;
            tracing::warn!(port, error, "accepting connections pauses, new ones wait");
        }
        self.pause = (self.pause * 2).clamp(FIRST, LONGEST);
        self.paused_until = Some(Instant::now() + self.pause);
    }
}

/// The address that the client came to; the listener's own tells it without asking the kernel.
fn local_address(forward: &Forward, client: &TcpStream) -> Option<Ipv4Addr> {
    if !forward.address.is_unspecified() {
        return Some(forward.address);
    }
    match client.local_addr().ok()?.ip() {
        IpAddr::V4(local) => Some(local),
        IpAddr::V6(_) => None,
    }
}

/// Errors of accept(2) that are over with this client; the rest would come again at once.
///
/// Source: accept(2), "Error handling".
fn concerns_one_client(error: &io::Error) -> bool {
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
    matches!(
        errno,
        Errno::ECONNABORTED
            | Errno::EINTR
            | Errno::EPERM
            | Errno::EPROTO
            | Errno::ENETDOWN
            | Errno::ENOPROTOOPT
            | Errno::EHOSTDOWN
            | Errno::ENONET
            | Errno::EHOSTUNREACH
            | Errno::EOPNOTSUPP
            | Errno::ENETUNREACH
    )
}

async fn sleep_until(until: Option<Instant>) {
    if let Some(until) = until {
        tokio::time::sleep_until(until).await;
    }
}

/// Our end of the channel to an inner half.
#[derive(Debug)]
struct Link {
    socket: AsyncFd<OwnedFd>,
}

impl Link {
    /// # Errors
    /// The inner half is gone, or talks nonsense, which is taken for the same.
    async fn receive(&self) -> Result<Report, Error> {
        let mut packet = [0; Report::BYTES];
        loop {
            let mut ready = self.socket.readable().await.map_err(watching)?;
            match channel::receive(self.socket.get_ref().as_fd(), &mut packet) {
                Ok((0, _)) => return Err(Error::HalfGone),
                Ok((bytes, _)) => return Report::decode(&packet[..bytes]),
                Err(error) if error.errno() == Some(Errno::EAGAIN) => ready.clear_ready(),
                Err(source) => return Err(Error::Channel { source }),
            }
        }
    }

    /// Hands connections over in one packet.
    ///
    /// # Errors
    /// The inner half is gone: the connections are still the caller's.
    async fn send(&self, pending: &[(TcpStream, Opening)]) -> Result<(), Error> {
        let orders: Vec<u8> =
            pending.iter().flat_map(|(_, opening)| Order::Connect(*opening).encode()).collect();
        let clients: Vec<BorrowedFd<'_>> = pending.iter().map(|(client, _)| client.as_fd()).collect();
        self.send_by(|channel| channel::send(channel, &orders, &clients)).await
    }

    /// Calls `send` until it has sent a packet; nothing is sent when the future is dropped before.
    ///
    /// # Errors
    /// The inner half is gone.
    async fn send_by(
        &self,
        mut send: impl FnMut(BorrowedFd<'_>) -> Result<(), u7s_sys::Error>,
    ) -> Result<(), Error> {
        /// How long descriptors on their way may need to arrive.
        const CROWDED: Duration = Duration::from_millis(10);
        loop {
            let mut ready = self.socket.writable().await.map_err(watching)?;
            match send(self.socket.get_ref().as_fd()) {
                Ok(()) => return Ok(()),
                Err(error) if error.errno() == Some(Errno::EAGAIN) => ready.clear_ready(),
                Err(error) if error.errno() == Some(Errno::ETOOMANYREFS) => {
                    tokio::time::sleep(CROWDED).await;
                }
                Err(source) => return Err(Error::Channel { source }),
            }
        }
    }
}

fn watching(source: io::Error) -> Error {
    Error::Watch { what: "the channel of the port forwarder", source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inner_half_that_talks_without_end_is_let_go() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let acceptor = Acceptor::new(Listeners::default()).unwrap();
            let (ours, theirs) = channel::pair().unwrap();
            acceptor.attach(ours).unwrap();
            for _ in 0..2 {
                channel::send(theirs.as_fd(), &Report::Capacity(9).encode(), &[]).unwrap();
            }
            let link = acceptor.links.borrow().clone().unwrap();
            let error = acceptor.serve(&link, &mut Desk::default()).await;
            assert!(matches!(error, Error::Message { .. }), "{error}");
        });
    }
}
