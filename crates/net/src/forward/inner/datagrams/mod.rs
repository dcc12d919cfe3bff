//! Datagrams: whole packets go in and out by a tun device, sockets of the host are their other side.
//!
//! ```text
//!   client ──> host socket ──(payload)──> thread ──(packet from the client to NODE_IP:port)──> u7s0 ──> service or pod
//!          <──              <──                  <──(packet from NODE_IP:port to the client)──
//! ```
//! What comes in by the device is, to the node's kernel, what comes in by a network card of a rootful node: kube-proxy, hostPort and
//! vxlan work on it, and conntrack knows the flow. So nothing has to be kept here for one, and a datagram of a flow that was never
//! seen costs as much as any other. The exceptions are [`flows`]. The nft table `u7s` sends answers back to the device.
//!
//! A packet from inside whose source is no port of ours but whose *target* is one is sent from there: vxlan speaks from
//! any port to the one port that both sides have.
//!
//! One thread, so nothing is ever reordered. It serves each socket for at most [`BATCH`] datagrams at a time. Runs of
//! equal length between the same two ends cross the border to the host's kernel in one call, both ways (UDP GRO and GSO).

mod flows;
mod packet;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use nix::errno::Errno;
use nix::libc;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt, sockopt,
};
use nix::sys::uio::writev;

use super::Settings;
use super::team::Team;
use crate::Error;
use crate::forward::message::Report;
use flows::{Flow, Flows};
#[cfg(feature = "fuzzing")]
pub use packet::fuzz;
use packet::{Datagram, parse};

/// Datagrams of one socket, or packets of the device, that are served before the next.
const BATCH: usize = 64;

/// The longest packet, bytes; also the longest run that one call takes.
const LONGEST: usize = 65_535;

/// The kernel takes no longer run in one call.
///
/// Source: net/ipv4/udp.c, `UDP_MAX_SEGMENTS` was 64 at first.
const RUN: usize = 64;

/// The epoll token of the device; sockets count from 1.
const TUN: u64 = 0;

/// Index of `lo` in every network namespace.
///
/// Source: include/net/flow.h, `LOOPBACK_IFINDEX`.
const LOOPBACK: i32 = 1;

/// How long to wait before epoll is asked again that has failed.
const RETRY: Duration = Duration::from_millis(100);

/// How often the host half is told of refused datagrams.
const REFUSED_AGAIN: Duration = Duration::from_secs(1);

/// Carries datagrams between sockets of the host and the node's network; shared by its thread and who gives it sockets.
#[derive(Debug)]
pub(super) struct Carrier {
    epoll: Epoll,
    tun: OwnedFd,
    node_ip: Ipv4Addr,
    gateway: Ipv4Addr,
    sockets: Mutex<Sockets>,
    team: Arc<Team>,
}

/// Sockets of the host by number and by what they are bound to.
#[derive(Debug, Default)]
struct Sockets {
    last: u64,
    by_number: BTreeMap<u64, (SocketAddrV4, OwnedFd)>,
    numbers: BTreeMap<SocketAddrV4, u64>,
    /// Where no client is, unless it is the host itself.
    refused: Vec<Ipv4Net>,
}

impl Carrier {
    /// Attaches to the device and starts the thread, which goes on until the process ends.
    ///
    /// # Errors
    /// [`Error::Tun`]: the device is missing or may not be used. [`Error::Inner`]: no epoll set, no thread.
    pub(super) fn start(team: Arc<Team>) -> Result<Arc<Self>, Error> {
        let tun = u7s_sys::tap::attach(u7s_plan::forwarding::TUN).map_err(|source| Error::Tun { source })?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed("epoll_create1"))?;
        epoll.add(&tun, EpollEvent::new(EpollFlags::EPOLLIN, TUN)).map_err(failed("epoll_ctl"))?;
        let Settings { node_ip, gateway, .. } = team.settings;
        let carrier = Arc::new(Self { epoll, tun, node_ip, gateway, sockets: Mutex::default(), team });
        let served = Arc::clone(&carrier);
        let thread = std::thread::Builder::new().name("u7s-datagrams".into());
        let spawned = thread.spawn(move || Desk::new().serve(&served));
        let errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(0));
        spawned.map_err(|error| failed("clone")(errno(error)))?;
        Ok(carrier)
    }

    /// Begins to carry what comes to `socket`, which is bound to `bound`.
    ///
    /// # Errors
    /// The kernel watches no more descriptors.
    pub(super) fn carry(&self, bound: SocketAddrV4, socket: OwnedFd) -> Result<(), Errno> {
        // A kernel without it hands over each datagram alone.
        let _ = setsockopt(&socket, sockopt::UdpGroSegment, &true);
        self.release(bound);
        let mut sockets = self.sockets();
        sockets.last += 1;
        let number = sockets.last;
        self.epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
        sockets.numbers.insert(bound, number);
        sockets.by_number.insert(number, (bound, socket));
        Ok(())
    }

    /// Closes the socket that is bound to `bound`, if there is one; when this returns, it is closed.
    pub(super) fn release(&self, bound: SocketAddrV4) {
        let mut sockets = self.sockets();
        if let Some((_, socket)) =
            sockets.numbers.remove(&bound).and_then(|number| sockets.by_number.remove(&number))
        {
            // The host half has a copy, so closing it here would not take it out of the set.
            let _ = self.epoll.delete(&socket);
        }
    }

    /// Takes no datagrams of clients in this network any more.
    pub(super) fn refuse(&self, network: Ipv4Net) {
        self.sockets().refused.push(network);
    }

    /// Closes all sockets.
    pub(super) fn release_all(&self) {
        let all: Vec<SocketAddrV4> = self.sockets().numbers.keys().copied().collect();
        all.into_iter().for_each(|bound| self.release(bound));
    }

    fn sockets(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an address may be sent to that no flow vouches for: never the host itself.
    fn is_elsewhere(&self, target: Ipv4Addr) -> bool {
        let special = target.is_loopback()
            || target.is_multicast()
            || target.is_broadcast()
            || target.octets()[0] == 0
            || target == self.gateway;
        !special && target != self.node_ip
    }
}

impl Sockets {
    /// The socket that speaks for a port of the node.
    fn of(&self, node_ip: Ipv4Addr, port: u16) -> Option<SocketAddrV4> {
        [node_ip, Ipv4Addr::UNSPECIFIED]
            .map(|address| SocketAddrV4::new(address, port))
            .into_iter()
            .find(|bound| self.numbers.contains_key(bound))
    }

    fn refuses(&self, received: &Received) -> bool {
        !received.from_host && self.refused.iter().any(|network| network.contains(received.client.ip()))
    }

    fn socket(&self, bound: &SocketAddrV4) -> Option<&OwnedFd> {
        Some(&self.by_number.get(self.numbers.get(bound)?)?.1)
    }
}

/// What the thread works with.
struct Desk {
    flows: Flows,
    /// One long datagram, or packets one behind the other.
    buffer: Vec<u8>,
    control: Vec<u8>,
    outgoing: Vec<Outgoing>,
    /// Identification of the next packet.
    id: u16,
    /// Datagrams that were refused and not told yet.
    refused: u32,
    refused_told_at: Option<Instant>,
    /// Error numbers that were warned of; each is said once.
    said: BTreeSet<i32>,
}

/// A datagram that came to a socket of the host, or a run of them.
#[derive(Debug)]
struct Received {
    bytes: usize,
    /// Length of each but the last.
    each: usize,
    client: SocketAddrV4,
    /// Address of the host that it was sent to.
    local: Ipv4Addr,
    from_host: bool,
}

/// A datagram on its way out: where its payload lies in the buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outgoing {
    way: Way,
    payload: Range<usize>,
}

/// How a datagram leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    bound: SocketAddrV4,
    local: Ipv4Addr,
    target: SocketAddrV4,
}

impl Desk {
    fn new() -> Self {
        Self {
            flows: Flows::new(Instant::now()),
            buffer: vec![0; 4 * (LONGEST + 1)],
            control: nix::cmsg_space!(libc::in_pktinfo, i32),
            outgoing: Vec::new(),
            id: 0,
            refused: 0,
            refused_told_at: None,
            said: BTreeSet::new(),
        }
    }

    fn serve(mut self, carrier: &Carrier) {
        let mut events = [EpollEvent::empty(); BATCH];
        loop {
            let count = match carrier.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(errno) => {
                    self.say(errno, "epoll_wait");
                    std::thread::sleep(RETRY);
                    0
                }
            };
            for event in &events[..count] {
                match event.data() {
                    TUN => self.carry_out(carrier),
                    number => self.carry_in(carrier, number),
                }
            }
        }
    }

    /// From a socket of the host to the device.
    fn carry_in(&mut self, carrier: &Carrier, number: u64) {
        let sockets = carrier.sockets();
        let Some((bound, socket)) = sockets.by_number.get(&number) else { return };
        let mut served = 0;
        while served < BATCH {
            match self.receive(socket.as_fd()) {
                Ok(Some(received)) if sockets.refuses(&received) => {
                    served += 1;
                    self.refuse(carrier, &received);
                }
                Ok(Some(received)) => served += self.deliver(carrier, *bound, &received),
                Ok(None) => served += 1,
                Err(Errno::EAGAIN) => return,
                // An error of an earlier datagram, such as ECONNREFUSED, which reading has taken away.
                Err(errno) => {
                    served += 1;
                    self.say(errno, "recvmsg");
                }
            }
        }
    }

    /// `None`: it has no sender, or was cut.
    fn receive(&mut self, socket: BorrowedFd<'_>) -> Result<Option<Received>, Errno> {
        let mut parts = [IoSliceMut::new(&mut self.buffer)];
        let message = recvmsg::<SockaddrIn>(
            socket.as_raw_fd(),
            &mut parts,
            Some(&mut self.control),
            MsgFlags::MSG_DONTWAIT,
        )?;
        let Some(client) = message.address else { return Ok(None) };
        let bytes = message.bytes;
        let (mut each, mut local, mut index) = (bytes.max(1), Ipv4Addr::UNSPECIFIED, 0);
        for control in message.cmsgs()? {
            match control {
                ControlMessageOwned::Ipv4PacketInfo(info) => {
                    local = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr));
                    index = info.ipi_ifindex;
                }
                ControlMessageOwned::UdpGroSegments(size) => each = usize::try_from(size).unwrap_or(0).max(1),
                _ => {}
            }
        }
        let client = SocketAddrV4::new(client.ip(), client.port());
        // What comes by another device with a source of loopback is nobody's, and is refused with its network.
        let from_host = index == LOOPBACK || *client.ip() == local;
        Ok(Some(Received { bytes, each, client, local, from_host }))
    }

    /// Counts what is lost; the host half is told at once, and of more within a second with the next.
    fn refuse(&mut self, carrier: &Carrier, received: &Received) {
        let datagrams = received.bytes.div_ceil(received.each).max(1);
        self.refused = self.refused.saturating_add(u32::try_from(datagrams).unwrap_or(u32::MAX));
        if self.refused_told_at.is_none_or(|at| at.elapsed() >= REFUSED_AGAIN)
            && carrier.team.tell(Report::Refused(self.refused)).unwrap_or(false)
        {
            self.refused = 0;
            self.refused_told_at = Some(Instant::now());
        }
    }

    /// Writes what was received as packets; returns how many there were.
    fn deliver(&mut self, carrier: &Carrier, bound: SocketAddrV4, received: &Received) -> usize {
        let Received { bytes, each, client, local, from_host } = *received;
        let source = if from_host || local != carrier.node_ip {
            let flow = Flow { client, local: SocketAddrV4::new(local, bound.port()), bound };
            let stand_in = if from_host { carrier.gateway } else { *client.ip() };
            self.flows.enter(flow, stand_in, Instant::now())
        } else {
            Some(client)
        };
        let Some(source) = source else { return 1 };
        let target = SocketAddrV4::new(carrier.node_ip, bound.port());
        let mut count = 0;
        // An empty datagram is one, too.
        for start in (0..bytes.max(1)).step_by(each) {
            let end = (start + each).min(bytes);
            self.id = self.id.wrapping_add(1);
            count += 1;
            let Some(headers) = packet::headers(source, target, end - start, self.id) else { continue };
            let parts = [IoSlice::new(&headers), IoSlice::new(&self.buffer[start..end])];
            if let Err(errno) = writev(&carrier.tun, &parts) {
                self.say(errno, "write a packet");
            }
        }
        count
    }

    /// From the device to sockets of the host.
    fn carry_out(&mut self, carrier: &Carrier) {
        let sockets = carrier.sockets();
        self.outgoing.clear();
        let mut place = 0;
        while self.outgoing.len() < BATCH && self.buffer.len() - place > LONGEST {
            let length = match nix::unistd::read(&carrier.tun, &mut self.buffer[place..]) {
                Ok(length) => length,
                Err(Errno::EAGAIN) => break,
                Err(errno) => {
                    self.say(errno, "read a packet");
                    break;
                }
            };
            let Some(datagram) = parse(&self.buffer[place..place + length]) else { continue };
            if let Some(way) = self.way(carrier, &sockets, &datagram) {
                let payload = place + datagram.payload.start..place + datagram.payload.end;
                self.outgoing.push(Outgoing { way, payload });
                place += length;
            }
        }
        self.send_all(&sockets);
    }

    /// How a datagram of the node leaves; `None`: it does not.
    fn way(&mut self, carrier: &Carrier, sockets: &Sockets, datagram: &Datagram) -> Option<Way> {
        let (source, target) = (datagram.source, datagram.target);
        if *source.ip() != carrier.node_ip {
            return None;
        }
        if let Some(flow) = self.flows.answered(target, source.port(), Instant::now()) {
            return Some(Way { bound: flow.bound, local: *flow.local.ip(), target: flow.client });
        }
        if !carrier.is_elsewhere(*target.ip()) {
            return None;
        }
        let bound = sockets
            .of(carrier.node_ip, source.port())
            .or_else(|| sockets.of(carrier.node_ip, target.port()))?;
        Some(Way { bound, local: carrier.node_ip, target })
    }

    fn send_all(&mut self, sockets: &Sockets) {
        let outgoing = std::mem::take(&mut self.outgoing);
        let mut rest = &outgoing[..];
        while !rest.is_empty() {
            let (run, others) = rest.split_at(run_length(rest));
            rest = others;
            let Some(socket) = sockets.socket(&run[0].way.bound) else { continue };
            match self.send(socket.as_fd(), run) {
                Ok(()) => {}
                // A route whose MTU is smaller than the segments, or a device without checksums: one by one it is.
                Err(Errno::EINVAL | Errno::EMSGSIZE | Errno::EIO) if run.len() > 1 => {
                    for one in run {
                        if let Err(errno) = self.send(socket.as_fd(), std::slice::from_ref(one)) {
                            self.say(errno, "sendmsg");
                        }
                    }
                }
                Err(errno) => self.say(errno, "sendmsg"),
            }
        }
        self.outgoing = outgoing;
    }

    /// Sends datagrams of one way: all have the first one's length, but for the last.
    fn send(&self, socket: BorrowedFd<'_>, run: &[Outgoing]) -> Result<(), Errno> {
        let way = run[0].way;
        let parts: Vec<IoSlice<'_>> =
            run.iter().map(|datagram| IoSlice::new(&self.buffer[datagram.payload.clone()])).collect();
        let mut info = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr { s_addr: u32::from(way.local).to_be() },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        if !way.bound.ip().is_unspecified() {
            info.ipi_spec_dst.s_addr = u32::from(*way.bound.ip()).to_be();
        }
        let segment = u16::try_from(run[0].payload.len()).unwrap_or(u16::MAX);
        let both = [ControlMessage::Ipv4PacketInfo(&info), ControlMessage::UdpGsoSegments(&segment)];
        let control = if run.len() > 1 { &both[..] } else { &both[..1] };
        let target = SockaddrIn::from(way.target);
        sendmsg(socket.as_raw_fd(), &parts, control, MsgFlags::MSG_DONTWAIT, Some(&target)).map(drop)
    }

    /// Warns of a cause once: datagrams may be lost, and a flood of them must not become a flood of lines.
    fn say(&mut self, cause: Errno, call: &str) {
        // The queue is full: so it is with every network card.
        if cause != Errno::EAGAIN && self.said.insert(cause as i32) {
            tracing::warn!(%cause, call, "port forwarder: a datagram is lost (said once)");
        }
    }
}

/// How many datagrams from the front one call may send: of one way and one length, but for a shorter last one.
fn run_length(outgoing: &[Outgoing]) -> usize {
    let Some(first) = outgoing.first() else { return 0 };
    let (each, mut bytes, mut count) = (first.payload.len(), 0, 0);
    for datagram in outgoing.iter().take(RUN) {
        let length = datagram.payload.len();
        // 60 bytes of headers: the longest.
        if datagram.way != first.way || length > each || bytes + length > LONGEST - 60 - 8 {
            break;
        }
        (bytes, count) = (bytes + length, count + 1);
        if length < each || each == 0 {
            break;
        }
    }
    count.max(1)
}

fn failed(call: &'static str) -> impl FnOnce(Errno) -> Error {
    move |source| Error::Inner { call, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outgoing(lengths: &[usize]) -> Vec<Outgoing> {
        let way = Way {
            bound: "192.0.2.10:8472".parse().unwrap(),
            local: Ipv4Addr::new(192, 0, 2, 10),
            target: "192.0.2.20:8472".parse().unwrap(),
        };
        lengths.iter().map(|length| Outgoing { way, payload: 0..*length }).collect()
    }

    #[test]
    fn a_run_ends_with_the_first_shorter_one_and_before_a_longer_one() {
        let cases: [(&[usize], usize); 7] = [
            (&[100], 1),
            (&[100, 100, 100], 3),
            (&[100, 100, 50, 100], 3),
            (&[100, 101], 1),
            (&[0, 0], 1),
            (&[65_507, 1], 1),
            (&[1450; 80], 45),
        ];
        for (lengths, expected) in cases {
            assert_eq!(run_length(&outgoing(lengths)), expected, "{lengths:?}");
        }
        assert_eq!(run_length(&outgoing(&[1; 80])), RUN);
    }

    #[test]
    fn a_run_has_one_way() {
        let mut two = outgoing(&[9, 9]);
        two[1].way.target.set_port(9);
        assert_eq!(run_length(&two), 1);
    }
}
