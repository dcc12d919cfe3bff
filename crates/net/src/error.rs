//! Why the node's network failed.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use u7s_plan::node::{Forward, Protocol};

use crate::forward::Owner;

/// A failed operation of this crate, with its objects; `Display` leaves the cause to `source`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port that shall be forwarded belongs to somebody else.
    #[error("{} port {} of {} is taken by {owner}", upper(forward), forward.port, forward.address)]
    PortTaken {
        /// What was to be bound.
        forward: Forward,
        /// Who has it.
        owner: Owner,
    },
    /// A port is reserved for the privileged, and was not bound beforehand.
    #[error("port {} is below {first}, the host's ip_unprivileged_port_start", forward.port)]
    LowPort {
        /// What was to be bound.
        forward: Forward,
        /// The first port that anybody may bind.
        first: u16,
    },
    /// A port cannot be bound: EADDRNOTAVAIL, not an address of this host.
    #[error("open {} port {} of {}", upper(forward), forward.port, forward.address)]
    Listen {
        /// What was to be bound.
        forward: Forward,
        /// Cause.
        #[source]
        source: Errno,
    },
    /// A descriptor cannot be watched.
    #[error("watch {what}")]
    Watch {
        /// What the descriptor is.
        what: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The channel between the halves of the forwarder failed.
    #[error("channel of the port forwarder")]
    Channel {
        /// Cause.
        #[source]
        source: u7s_sys::Error,
    },
    /// The other half of the forwarder is gone.
    #[error("the other half of the port forwarder has ended")]
    HalfGone,
    /// The other half of the forwarder sent something that is no message.
    #[error("a packet of {bytes} bytes on the channel of the port forwarder is no message")]
    Message {
        /// Length of the packet.
        bytes: usize,
    },
    /// The limit of open files leaves no room for a single connection.
    #[error("a limit of {limit} open files is too low for the port forwarder")]
    Descriptors {
        /// RLIMIT_NOFILE.
        limit: u64,
    },
    /// The device that datagrams go by inside is not to be had.
    #[error("the device of forwarded datagrams")]
    Tun {
        /// Cause.
        #[source]
        source: u7s_sys::Error,
    },
    /// A system call of the inner half failed that nothing can replace.
    #[error("port forwarder: {call}")]
    Inner {
        /// System call.
        call: &'static str,
        /// Cause.
        #[source]
        source: Errno,
    },
    /// A driver's program is missing or may not be executed.
    #[error("network driver {}", path.display())]
    Program {
        /// The program.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The specification asks for an MTU that the driver cannot carry.
    #[error("slirp4netns carries an MTU of {least} to {most} bytes, not {mtu}")]
    Mtu {
        /// What was asked for.
        mtu: u32,
        /// Smallest.
        least: u32,
        /// Largest.
        most: u32,
    },
    /// The gateway or name server is not where the driver puts it.
    #[error("slirp4netns puts its {role} at {expected}, the specification at {found}")]
    Fixed {
        /// `gateway` or `name server`.
        role: &'static str,
        /// Where the driver has it.
        expected: Ipv4Addr,
        /// What the specification says.
        found: Ipv4Addr,
    },
    /// A system call about a driver's process failed.
    #[error("network driver: {call}")]
    Process {
        /// System call.
        call: &'static str,
        /// Cause.
        #[source]
        source: Errno,
    },
    /// A driver's process cannot be started, held or signalled.
    #[error("network driver")]
    Hold {
        /// Cause.
        #[source]
        source: u7s_sys::Error,
    },
    /// A driver does not end even when it is killed.
    #[error("network driver {pid} has not ended {} s after SIGKILL", after.as_secs())]
    Unkillable {
        /// Its pid.
        pid: i32,
        /// How long was waited.
        after: Duration,
    },
}

fn upper(forward: &Forward) -> &'static str {
    match forward.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    }
}
