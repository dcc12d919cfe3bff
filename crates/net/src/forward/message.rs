//! What the halves of the forwarder say to each other: packets of fixed size on a seqpacket channel.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::Error;

/// Host to inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Dial for an accepted connection; its descriptor comes with the packet.
    Connect(Opening),
    /// Carry the datagrams of a socket that is bound to this address; its descriptor comes with the packet.
    Carry(SocketAddrV4),
    /// Close the socket that is bound to this address, and say so.
    Drop(SocketAddrV4),
}

/// An accepted connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opening {
    /// Port that the client came to, the same inside.
    pub(super) port: u16,
    /// The client.
    pub(super) peer: SocketAddrV4,
    /// The client is the host itself: it comes from the gateway's address.
    pub(super) from_host: bool,
}

impl Order {
    /// Length of one order.
    pub(super) const BYTES: usize = 10;

    /// Most orders of a packet: each may bring a descriptor.
    pub(super) const MOST: usize = u7s_sys::channel::MAX_DESCRIPTORS;

    pub(super) fn encode(self) -> [u8; Self::BYTES] {
        let (kind, address, port) = match self {
            Self::Connect(Opening { port, peer, from_host }) => (u8::from(from_host), peer, port),
            Self::Carry(bound) => (2, bound, 0),
            Self::Drop(bound) => (3, bound, 0),
        };
        let [a, b, c, d] = address.ip().octets();
        let [high, low] = address.port().to_be_bytes();
        let [port_high, port_low] = port.to_be_bytes();
        [kind, a, b, c, d, high, low, port_high, port_low, 0]
    }

    /// The orders of a packet; their descriptors come in the same order.
    ///
    /// # Errors
    /// [`Error::Message`].
    pub(super) fn decode_all(packet: &[u8]) -> Result<Vec<Self>, Error> {
        if packet.is_empty() {
            return Err(Error::Message { bytes: 0 });
        }
        packet.chunks(Self::BYTES).map(Self::decode).collect()
    }

    /// # Errors
    /// [`Error::Message`].
    fn decode(packet: &[u8]) -> Result<Self, Error> {
        let malformed = Error::Message { bytes: packet.len() };
        let &[kind, a, b, c, d, high, low, port_high, port_low, 0] = packet else { return Err(malformed) };
        let address = SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low]));
        let port = u16::from_be_bytes([port_high, port_low]);
        match kind {
            0 | 1 => Ok(Self::Connect(Opening { port, peer: address, from_host: kind == 1 })),
            2 => Ok(Self::Carry(address)),
            3 => Ok(Self::Drop(address)),
            _ => Err(malformed),
        }
    }
}

/// Inside to host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    /// First word: how many connections the inner half can carry at a time.
    Capacity(u32),
    /// That many connections have ended.
    Ended(u32),
    /// The oldest [`Order::Drop`] that was not answered yet is done.
    Dropped,
}

impl Report {
    /// Length of the packet.
    pub(super) const BYTES: usize = 5;

    pub(super) fn encode(self) -> [u8; Self::BYTES] {
        let (kind, count) = match self {
            Self::Capacity(count) => (0, count),
            Self::Ended(count) => (1, count),
            Self::Dropped => (2, 0),
        };
        let [a, b, c, d] = count.to_be_bytes();
        [kind, a, b, c, d]
    }

    /// # Errors
    /// [`Error::Message`].
    pub(super) fn decode(packet: &[u8]) -> Result<Self, Error> {
        match *packet {
            [0, a, b, c, d] => Ok(Self::Capacity(u32::from_be_bytes([a, b, c, d]))),
            [1, a, b, c, d] => Ok(Self::Ended(u32::from_be_bytes([a, b, c, d]))),
            [2, 0, 0, 0, 0] => Ok(Self::Dropped),
            _ => Err(Error::Message { bytes: packet.len() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_channel() {
        let peer = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 7), 40001);
        let connect = |from_host| Order::Connect(Opening { port: 6443, peer, from_host });
        let orders = [connect(false), connect(true), Order::Carry(peer), Order::Drop(peer)];
        for order in orders {
            assert_eq!(Order::decode_all(&order.encode()).unwrap(), [order]);
        }
        assert_eq!(Order::decode_all(&orders.map(Order::encode).concat()).unwrap(), orders);
        for report in [Report::Capacity(524_000), Report::Ended(3), Report::Dropped] {
            assert_eq!(Report::decode(&report.encode()).unwrap(), report);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for packet in [&[][..], &[3, 0, 0, 0, 0], &[2, 0, 0, 0, 1], &[0; 4], &[0; 6]] {
            assert!(Report::decode(packet).is_err(), "{packet:?}");
        }
        for packet in [
            &[][..],
            &[0; 9],
            &[0; 11],
            &[0; 29],
            &[4, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        ] {
            assert!(Order::decode_all(packet).is_err(), "{packet:?}");
        }
    }
}
