//! The port forwarder: connections and datagrams to the host's ports continue inside the node's namespaces.
//!
//! ```text
//!   host namespaces                              the node's namespaces
//!   client ──> listener ── Acceptor ══ seqpacket, SCM_RIGHTS ══> inner::run ──> NODE_IP:port
//!                             <══════════ credits ══════════════    splices client and server
//! ```
//! * [`bind`] takes the ports before anything else of the node exists: a taken port stops the start, with its owner.
//! * [`Acceptor`] lives in the supervisor. It accepts, and hands connections over as descriptors, those that come together in one packet. It keeps none.
//! * [`inner::run`] is a process of its own inside. It dials the node's address *from the client's address* and moves
//!   bytes without copying them. When it dies, its connections die; the acceptor goes on with the next one.
//!
//! Sockets for datagrams are handed over as they are, to another thread of the same process that carries whole packets. Ports come and
//! go while all this runs ([`Acceptor::set_forwards`]).
//!
//! **Room.** A descriptor limit bounds the connections: some room is kept for the node's own ports, no address has more than its part ([`shares`]), and when
//! clients wait all the same, those who have the most lose what was silent the longest. Clients whose address belongs inside are turned away
//! ([`Acceptor::refuse`]).
//!
//! **Source addresses.** A socket bound to a foreign address (IP_TRANSPARENT) is not enough: the answers would leave by
//! tap0. All packets of such a connection carry [`STREAM_MARK`], and a rule sends what is marked to [`STREAM_TABLE`],
//! which delivers everything locally. [`SYSCTLS`] let the accepting side take the mark over. How the mark comes to the
//! answers of a pod behind DNAT, and to those of datagrams, is told in `u7s_plan::forwarding`. Clients on the host
//! itself get the gateway's address, since their own one is the node's, a martian inside.

mod acceptor;
pub mod inner;
mod listen;
mod local;
mod message;
mod owner;
mod ports;
mod shares;

pub use acceptor::Acceptor;
pub use listen::{Listeners, bind};
pub use owner::{Listening, Owner, listening};
pub use u7s_plan::forwarding::{DATAGRAM_MARK, DATAGRAM_TABLE, MARKS, STREAM_MARK, STREAM_TABLE, TUN, VXLAN};
#[cfg(feature = "fuzzing")]
pub use {message::fuzz as fuzz_messages, owner::fuzz as fuzz_tables};

/// Sysctls that the inner half needs, keys below /proc/sys, written inside before it starts.
///
/// `tcp_fwmark_accept`: an accepted connection answers with the mark of its SYN.
/// `fwmark_reflect`: so do answers without a socket; without it the RST of a closed port would leave by tap0, and a
/// refused connection would hang instead.
/// `tcp_tw_reuse`: a port inside is used again one second after its connection has ended, not after a minute. All that clients behind one address,
/// or on the host, have is 28 000 ports, and a search among used up ones costs milliseconds.
///
/// Source: Documentation/networking/ip-sysctl.rst.
pub const SYSCTLS: [(&str, &str); 3] =
    [("net/ipv4/tcp_fwmark_accept", "1"), ("net/ipv4/fwmark_reflect", "1"), ("net/ipv4/tcp_tw_reuse", "1")];
