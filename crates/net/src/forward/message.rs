//! What the halves of the forwarder say to each other: packets of fixed size on a seqpacket channel.

use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;

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
    /// Take no datagrams of clients in this network; said before the first [`Order::Carry`].
    Refuse(Ipv4Net),
    /// Clients wait and there is no room: close as many idle connections, if there are any.
    MakeRoom(u16),
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
    /// The port is one of the node's own, for which room is kept.
    pub(super) own: bool,
}

impl Order {
    /// Length of one order.
    pub(super) const BYTES: usize = 10;

    /// Most orders of a packet: each may bring a descriptor.
    pub(super) const MOST: usize = u7s_sys::channel::MAX_DESCRIPTORS;

    pub(super) fn encode(self) -> [u8; Self::BYTES] {
        let (kind, address, port, own) = match self {
            Self::Connect(Opening { port, peer, from_host, own }) => (u8::from(from_host), peer, port, own),
            Self::Carry(bound) => (2, bound, 0, false),
            Self::Drop(bound) => (3, bound, 0, false),
            Self::Refuse(net) => (4, SocketAddrV4::new(net.network(), net.prefix_len().into()), 0, false),
            Self::MakeRoom(count) => (5, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, count), 0, false),
        };
        let [a, b, c, d] = address.ip().octets();
        let [high, low] = address.port().to_be_bytes();
        let [port_high, port_low] = port.to_be_bytes();
        [kind, a, b, c, d, high, low, port_high, port_low, own.into()]
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
        let &[kind, a, b, c, d, high, low, port_high, port_low, own @ (0 | 1)] = packet else {
            return Err(malformed);
        };
        let address = SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low]));
        let port = u16::from_be_bytes([port_high, port_low]);
        match kind {
            0 | 1 => Ok(Self::Connect(Opening { port, peer: address, from_host: kind == 1, own: own == 1 })),
            2 => Ok(Self::Carry(address)),
            3 => Ok(Self::Drop(address)),
            4 => {
                let prefix =
                    u8::try_from(address.port()).map_err(|_| Error::Message { bytes: packet.len() })?;
                Ipv4Net::new(*address.ip(), prefix).map(Self::Refuse).map_err(|_| malformed)
            }
            5 => Ok(Self::MakeRoom(address.port())),
            _ => Err(malformed),
        }
    }
}

/// Inside to host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    /// First word: how many connections the inner half can carry at a time.
    Capacity(u32),
    /// So many connections have ended.
    Ended(Count),
    /// The oldest [`Order::Drop`] that was not answered yet is done.
    Dropped,
    /// So many datagrams came from where no client is.
    Refused(u32),
}

/// Connections by what they came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// To the node's own ports.
    pub(super) own: u32,
    /// To all others.
    pub(super) other: u32,
}

impl Count {
    pub(super) fn all(self) -> u32 {
        self.own.saturating_add(self.other)
    }

    /// The number of one kind.
    pub(super) fn of(&mut self, own: bool) -> &mut u32 {
        if own { &mut self.own } else { &mut self.other }
    }
}

impl Report {
    /// Length of the packet.
    pub(super) const BYTES: usize = 9;

    pub(super) fn encode(self) -> [u8; Self::BYTES] {
        let (kind, first, second) = match self {
            Self::Capacity(count) => (0, count, 0),
            Self::Ended(Count { own, other }) => (1, own, other),
            Self::Dropped => (2, 0, 0),
            Self::Refused(count) => (3, count, 0),
        };
        let mut packet = [kind; Self::BYTES];
        packet[1..5].copy_from_slice(&first.to_be_bytes());
        packet[5..].copy_from_slice(&second.to_be_bytes());
        packet
    }

    /// # Errors
    /// [`Error::Message`].
    pub(super) fn decode(packet: &[u8]) -> Result<Self, Error> {
        let malformed = Error::Message { bytes: packet.len() };
        let &[kind, a, b, c, d, e, f, g, h] = packet else { return Err(malformed) };
        match (kind, u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])) {
            (0, count, 0) => Ok(Self::Capacity(count)),
            (1, own, other) => Ok(Self::Ended(Count { own, other })),
            (2, 0, 0) => Ok(Self::Dropped),
            (3, count, 0) => Ok(Self::Refused(count)),
            _ => Err(malformed),
        }
    }
}

/// Packets of either half, which the other does not trust: what is understood is what was sent.
#[cfg(feature = "fuzzing")]
pub fn fuzz(data: &[u8]) {
    if let Ok(orders) = Order::decode_all(data) {
        assert_eq!(orders.len() * Order::BYTES, data.len());
        let again: Vec<u8> = orders.iter().flat_map(|order| order.encode()).collect();
        // An order to carry or drop has no use for the port.
        assert!(Order::decode_all(&again).is_ok_and(|again| again == orders));
    }
    if let Ok(report) = Report::decode(data) {
        assert_eq!(report.encode(), data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_channel() {
        let peer = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 7), 40001);
        let connect = |from_host, own| Order::Connect(Opening { port: 6443, peer, from_host, own });
        let orders = [
            connect(false, false),
            connect(true, false),
            connect(false, true),
            Order::Carry(peer),
            Order::Drop(peer),
            Order::Refuse("10.244.0.0/16".parse().unwrap()),
            Order::MakeRoom(64),
        ];
        for order in orders {
            assert_eq!(Order::decode_all(&order.encode()).unwrap(), [order]);
        }
        assert_eq!(Order::decode_all(&orders.map(Order::encode).concat()).unwrap(), orders);
        let ended = Report::Ended(Count { own: 3, other: 70_000 });
        for report in [Report::Capacity(524_000), ended, Report::Dropped, Report::Refused(9)] {
            assert_eq!(Report::decode(&report.encode()).unwrap(), report);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for packet in [
            &[][..],
            &[4, 0, 0, 0, 0, 0, 0, 0, 0],
            &[2, 0, 0, 0, 1, 0, 0, 0, 0],
            &[0, 0, 0, 0, 1, 0, 0, 0, 1],
            &[0; 5],
            &[0; 8],
            &[0; 10],
        ] {
            assert!(Report::decode(packet).is_err(), "{packet:?}");
        }
        for packet in [
            &[][..],
            &[0; 9],
            &[0; 11],
            &[0; 29],
            &[6, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
            &[4, 10, 0, 0, 0, 0, 33, 0, 0, 0],
            &[4, 10, 0, 0, 0, 1, 8, 0, 0, 0],
        ] {
            assert!(Order::decode_all(packet).is_err(), "{packet:?}");
        }
    }
}
