//! The port forwarder: TCP connections to the host's ports continue inside the node's namespaces.
//!
//! ```text
//!   host namespaces                              the node's namespaces
//!   client ──> listener ── Acceptor ══ seqpacket, SCM_RIGHTS ══> inner::run ──> NODE_IP:port
//!                             <══════════ credits ══════════════    splices client and server
//! ```
//! * [`bind`] takes the ports before anything else of the node exists: a taken port stops the start, with its owner.
//! * [`Acceptor`] lives in the supervisor. It accepts, and hands each connection over as a descriptor. It keeps none.
//! * [`inner::run`] is a process of its own inside. It dials the node's address *from the client's address* and moves
//!   bytes without copying them. When it dies, its connections die; the acceptor goes on with the next one.
//!
//! **Source addresses.** A socket bound to a foreign address (IP_TRANSPARENT) is not enough: the answers would leave by
//! tap0. All packets of such a connection carry [`MARK`], and a rule sends what is marked to [`TABLE`], which delivers
//! everything locally. [`SYSCTLS`] let the accepting side take the mark over. Connections from the host itself get the
//! gateway's address, since their own one is the node's, a martian inside.

mod acceptor;
pub mod inner;
mod listen;
mod local;
mod message;
mod owner;
mod ports;

pub use acceptor::Acceptor;
pub use listen::{Listeners, bind};
pub use owner::Owner;

/// Mark of the forwarder's packets inside, one bit; the rule's mask is the same bit.
///
/// Apart from kube-proxy's 0x4000 and 0x8000, Cilium's and Calico's upper and lower bytes.
pub const MARK: u32 = 0x2000;

/// Routing table inside that delivers marked packets locally: `local default dev lo`.
pub const TABLE: u32 = 117;

/// Sysctls that the inner half needs, keys below /proc/sys, written inside before it starts.
///
/// `tcp_fwmark_accept`: an accepted connection answers with the mark of its SYN.
/// `fwmark_reflect`: so do answers without a socket; without it the RST of a closed port would leave by tap0, and a
/// refused connection would hang instead.
///
/// Source: Documentation/networking/ip-sysctl.rst.
pub const SYSCTLS: [(&str, &str); 2] =
    [("net/ipv4/tcp_fwmark_accept", "1"), ("net/ipv4/fwmark_reflect", "1")];
