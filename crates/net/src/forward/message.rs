//! What the halves of the forwarder say to each other: packets of fixed size on a seqpacket channel.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::Error;

/// Host to inside, with the accepted connection's descriptor: dial for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opening {
    /// Port that the client came to, the same inside.
    pub(super) port: u16,
    /// The client.
    pub(super) peer: SocketAddrV4,
    /// The client is the host itself: it comes from the gateway's address.
    pub(super) from_host: bool,
}

impl Opening {
    /// Length of the packet.
    pub(super) const BYTES: usize = 9;

    pub(super) fn encode(self) -> [u8; Self::BYTES] {
        let [port_high, port_low] = self.port.to_be_bytes();
        let [a, b, c, d] = self.peer.ip().octets();
        let [peer_high, peer_low] = self.peer.port().to_be_bytes();
        [port_high, port_low, a, b, c, d, peer_high, peer_low, u8::from(self.from_host)]
    }

    /// # Errors
    /// [`Error::Message`].
    pub(super) fn decode(packet: &[u8]) -> Result<Self, Error> {
        let &[port_high, port_low, a, b, c, d, peer_high, peer_low, from_host @ (0 | 1)] = packet else {
            return Err(Error::Message { bytes: packet.len() });
        };
        Ok(Self {
            port: u16::from_be_bytes([port_high, port_low]),
            peer: SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([peer_high, peer_low])),
            from_host: from_host == 1,
        })
    }
}

/// Inside to host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    /// First word: how many connections the inner half can carry at a time.
    Capacity(u32),
    /// That many connections have ended.
    Ended(u32),
}

impl Report {
    /// Length of the packet.
    pub(super) const BYTES: usize = 5;

    pub(super) fn encode(self) -> [u8; Self::BYTES] {
        let (kind, count) = match self {
            Self::Capacity(count) => (0, count),
            Self::Ended(count) => (1, count),
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
        for from_host in [false, true] {
            let opening = Opening { port: 6443, peer, from_host };
            assert_eq!(Opening::decode(&opening.encode()).unwrap(), opening);
        }
        for report in [Report::Capacity(524_000), Report::Ended(3)] {
            assert_eq!(Report::decode(&report.encode()).unwrap(), report);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for packet in [&[][..], &[2, 0, 0, 0, 0], &[0; 4], &[0; 6]] {
            assert!(Report::decode(packet).is_err(), "{packet:?}");
        }
        for packet in [&[0; 8][..], &[0; 10], &[0, 0, 0, 0, 0, 0, 0, 0, 2]] {
            assert!(Opening::decode(packet).is_err(), "{packet:?}");
        }
    }
}
