//! The inner half: dials inside the node's namespaces and moves bytes between both sockets.
//!
//! A thread for connections on each processor (the [`team`]), an epoll set each, edge-triggered, no runtime; one more thread for [`datagrams`]. The process is a
//! fork of pid 1 without exec, so the less that is built in it the better; one connection costs two descriptors, two registrations and some 80 bytes, no task, no
//! buffer, and a wake-up costs exactly the splices that it needs. An async runtime would add a task and two wakers per
//! connection and hide the order in which directions are served.
//!
//! What is short goes from socket to socket by a buffer, the rest by a pipe (see [`flow`]).
//! A direction takes a pipe out of the [`pool`] when its source is readable and gives it back when it is drained. A slow
//! reader keeps its pipe, at most 64 KiB, and its source is not read meanwhile: TCP's own window does the rest. When slow
//! readers hold all pipes, other directions copy through one shared buffer instead of waiting (see [`flow`]), so they
//! can slow nobody else down.

mod connection;
mod datagrams;
mod dial;
mod door;
mod flow;
mod pool;
mod relay;
mod slots;
mod sources;
mod team;

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};

use u7s_plan::node::Network;

use crate::Error;
use crate::forward::message::Report;
use datagrams::Carrier;
#[cfg(feature = "fuzzing")]
pub use datagrams::fuzz as fuzz_packets;
use door::Door;
use pool::Pool;
use relay::Relay;
use team::{FIRST, Team};

/// Descriptors for everything but connections and pipes: standard streams, epoll, channel, what pid 1 left open.
const RESERVE: u64 = 32;

/// More relays than that gain nothing: what passes here is the API's and other services' traffic towards one node.
const MOST_RELAYS: usize = 4;

/// How long the node's own services may take to answer a SYN: a full backlog, or a node that is starved.
const DIAL_DEADLINE: Duration = Duration::from_secs(30);

/// A connection that moved nothing for so long may be closed when others wait.
const IDLE: Duration = Duration::from_secs(10);

/// A relay works for some microseconds and sleeps again. Where other programs keep all processors busy, it and the connection's
/// other peers wait for a processor at each of its wake-ups; with the shortest slice there is, it waits for nobody's to end.
const SLICE: Duration = Duration::from_micros(100);

/// What the inner half must know of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The node's address: connections are dialled to it.
    pub node_ip: Ipv4Addr,
    /// Source address of connections that come from the host itself.
    pub gateway: Ipv4Addr,
    /// How long a connection inside may take to be established before the client is reset.
    pub dial_deadline: Duration,
    /// How long a connection must have moved nothing to be closed when others wait.
    pub idle: Duration,
}

impl From<&Network> for Settings {
    fn from(network: &Network) -> Self {
        Self { node_ip: network.node_ip, gateway: network.gateway, dial_deadline: DIAL_DEADLINE, idle: IDLE }
    }
}

/// Serves the connections that arrive on `channel` until its other end is closed and the last connection has ended.
///
/// Runs in a process of its own inside the namespaces, single-threaded until now, with CAP_NET_ADMIN over the network namespace.
///
/// **Should** hold before: [`SYSCTLS`](super::SYSCTLS) are written, the device [`TUN`](super::TUN) is there, rules and
/// tables for both marks are in place, only descriptors of use are open (`u7s_sys::fork::close_all_but`).
/// It raises the soft limit of open files to the hard one and blocks SIGPIPE, which splice raises.
/// Where datagrams cannot be carried connections are all the same: the API server matters more.
///
/// # Errors
/// [`Error::Descriptors`]: RLIMIT_NOFILE leaves no room. [`Error::Inner`], [`Error::Channel`]: the kernel refused
/// what everything else hangs on; the caller starts a new inner half.
pub fn run(channel: OwnedFd, settings: &Settings) -> Result<(), Error> {
    let mut pipes = SigSet::empty();
    pipes.add(Signal::SIGPIPE);
    pipes.thread_block().map_err(|source| Error::Inner { call: "sigprocmask", source })?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let room = Room::of(raise_limit()?, processors.min(MOST_RELAYS))?;
    tracing::info!(
        connections = room.connections,
        pipes = room.pipes,
        relays = room.relays,
        "port forwarder: limits"
    );
    if let Err(error) = u7s_sys::sched::request_slice(SLICE) {
        tracing::debug!(error = &error as &dyn std::error::Error, "port forwarder: no shorter slice");
    }
    let team = Arc::new(Team::new(channel, *settings, room.connections, room.relays)?);
    let carrier = Carrier::start(Arc::clone(&team)).inspect_err(|error| {
        let error = error as &dyn std::error::Error;
        tracing::error!(error, "port forwarder: no datagram can be carried");
    });
    let pool = || Pool::new(room.pipes / room.relays);
    let first = Relay::new(Arc::clone(&team), FIRST, pool())?;
    let others = (FIRST + 1..room.relays).map(|number| {
        let relay = Relay::new(Arc::clone(&team), number, pool())?;
        start(Arc::clone(&team), relay)
    });
    let others: Vec<JoinHandle<()>> = others.collect::<Result<_, Error>>()?;
    team.tell(Report::Capacity(room.connections))?;
    first.run(Some(Door::new(Arc::clone(&team), carrier.ok())))?;
    // The host half is gone; connections of the other relays go on as long as they like.
    others.into_iter().for_each(|relay| drop(relay.join()));
    team.check()
}

/// Starts another relay; what it fails with is told to the first one.
fn start(team: Arc<Team>, relay: Relay) -> Result<JoinHandle<()>, Error> {
    let serve = move || {
        if let Err(error) = relay.run(None) {
            team.fail(error);
        }
    };
    let spawned = std::thread::Builder::new().name("u7s-relay".into()).spawn(serve);
    spawned.map_err(|error| Error::Inner {
        call: "clone",
        source: Errno::from_raw(error.raw_os_error().unwrap_or(0)),
    })
}

fn raise_limit() -> Result<u64, Error> {
    let failed = |call| move |source| Error::Inner { call, source };
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed("getrlimit"))?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(failed("setrlimit"))?;
    Ok(hard)
}

/// How a number of descriptors is shared out.
#[derive(Debug, PartialEq, Eq)]
struct Room {
    connections: u32,
    /// Of all relays together.
    pipes: usize,
    relays: usize,
}

impl Room {
    /// Two descriptors a connection, two a pipe, two a relay; the kernel's soft limit of pipe pages per user
    /// (`fs.pipe-user-pages-soft`, 16 384, shared with all the node's pods) bounds the pipes to a quarter of it.
    /// Each relay has four pipes at least, so a small limit means few relays.
    fn of(limit: u64, processors: usize) -> Result<Self, Error> {
        let pipes = usize::try_from(limit / 16).unwrap_or(usize::MAX).clamp(4, 256);
        let relays = processors.clamp(1, pipes / 4);
        let taken = RESERVE + 2 * (pipes + relays - 1) as u64;
        let left = limit.saturating_sub(taken) / 2;
        if left == 0 {
            return Err(Error::Descriptors { limit });
        }
        Ok(Self { connections: u32::try_from(left).unwrap_or(u32::MAX), pipes, relays })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_shared_out_without_exceeding_the_limit() {
        let cases =
            [(1_048_576, 4, 524_013, 256, 4), (1024, 2, 431, 64, 2), (64, 8, 12, 4, 1), (42, 1, 1, 4, 1)];
        for (limit, processors, connections, pipes, relays) in cases {
            let room = Room::of(limit, processors).unwrap();
            assert_eq!(room, Room { connections, pipes, relays }, "{limit}");
            let taken = u64::from(connections) * 2 + 2 * pipes as u64 + 2 * (relays - 1) as u64;
            assert!(taken + RESERVE <= limit, "{limit}");
        }
        assert!(matches!(Room::of(41, 2), Err(Error::Descriptors { limit: 41 })));
    }
}
