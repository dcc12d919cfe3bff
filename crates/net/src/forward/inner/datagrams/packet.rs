//! UDP over IPv4, as the tun device carries it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;

/// Length of both headers that [`headers`] makes, bytes.
pub(super) const HEADERS: usize = IP + UDP;

/// An IPv4 header without options.
const IP: usize = 20;
const UDP: usize = 8;

/// IANA's number of UDP.
const PROTOCOL: u8 = 17;

/// What the network stack itself begins with: `net.ipv4.ip_default_ttl`.
const TTL: u8 = 64;

/// One datagram within a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Datagram {
    pub(super) source: SocketAddrV4,
    pub(super) target: SocketAddrV4,
    /// Where the payload lies in the packet.
    pub(super) payload: Range<usize>,
}

/// Headers of a datagram; `None` where the payload is longer than any.
///
/// It may be fragmented on its way to a pod, hence `id`. There is no UDP checksum: the host's kernel has checked the one that
/// the client sent, and all the way from here is memory.
///
/// Source: RFC 791, RFC 768 (a checksum of zero means none).
pub(super) fn headers(
    source: SocketAddrV4,
    target: SocketAddrV4,
    payload: usize,
    id: u16,
) -> Option<[u8; HEADERS]> {
    let total = u16::try_from(payload + HEADERS).ok()?;
    let length = total - 20;
    let mut bytes = [0; HEADERS];
    bytes[0] = 0x45;
    bytes[2..4].copy_from_slice(&total.to_be_bytes());
    bytes[4..6].copy_from_slice(&id.to_be_bytes());
    bytes[8] = TTL;
    bytes[9] = PROTOCOL;
    bytes[12..16].copy_from_slice(&source.ip().octets());
    bytes[16..20].copy_from_slice(&target.ip().octets());
    let sum = checksum(&bytes[..IP]);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes[20..22].copy_from_slice(&source.port().to_be_bytes());
    bytes[22..24].copy_from_slice(&target.port().to_be_bytes());
    bytes[24..26].copy_from_slice(&length.to_be_bytes());
    Some(bytes)
}

/// The datagram in a packet of the kernel; `None` for anything else, such as fragments and ICMP.
pub(super) fn parse(packet: &[u8]) -> Option<Datagram> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let fragment = word(packet, 6)? & 0x3fff;
    let plain = packet[0] >> 4 == 4 && header >= IP && fragment == 0 && *packet.get(9)? == PROTOCOL;
    if !plain {
        return None;
    }
    let end = usize::from(word(packet, 2)?);
    let length = usize::from(word(packet, header + 4)?);
    if length < UDP || header + length > end || end > packet.len() {
        return None;
    }
    let address = |at: usize| {
        let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(octets))
    };
    Some(Datagram {
        source: SocketAddrV4::new(address(12)?, word(packet, header)?),
        target: SocketAddrV4::new(address(16)?, word(packet, header + 2)?),
        payload: header + UDP..header + length,
    })
}

fn word(packet: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?))
}

/// Source: RFC 1071.
fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header.chunks_exact(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// A packet of the tun device: what is read of it lies within it, and its like is made and read again.
#[cfg(feature = "fuzzing")]
pub fn fuzz(data: &[u8]) {
    let Some(datagram) = parse(data) else { return };
    let payload = data.get(datagram.payload.clone());
    assert!(payload.is_some_and(|payload| payload.len() + HEADERS <= usize::from(u16::MAX)));
    let payload = payload.unwrap_or_default();
    let made = headers(datagram.source, datagram.target, payload.len(), 7).unwrap_or([0; HEADERS]);
    let again = parse(&[&made, payload].concat());
    assert!(again.is_some_and(|again| (again.source, again.target) == (datagram.source, datagram.target)));
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 20), 40001);
    const TARGET: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 10), 53);

    fn packet(payload: &[u8]) -> Vec<u8> {
        [&headers(SOURCE, TARGET, payload.len(), 7).unwrap()[..], payload].concat()
    }

    #[test]
    fn what_is_made_is_read_again() {
        let packet = packet(b"question");
        let datagram = parse(&packet).unwrap();
        assert_eq!((datagram.source, datagram.target), (SOURCE, TARGET));
        assert_eq!(&packet[datagram.payload], b"question");
        // A header with its checksum sums up to nothing.
        assert_eq!(checksum(&packet[..IP]), 0);
        assert!(parse(&self::packet(b"")).unwrap().payload.is_empty());
    }

    #[test]
    fn payloads_have_a_limit() {
        assert!(headers(SOURCE, TARGET, 65_507, 0).is_some());
        assert!(headers(SOURCE, TARGET, 65_508, 0).is_none());
    }

    #[test]
    fn everything_else_is_no_datagram() {
        let good = packet(b"question");
        let with = |at: usize, byte: u8| {
            let mut bad = good.clone();
            bad[at] = byte;
            bad
        };
        let cases = [
            Vec::new(),
            good[..27].to_vec(),
            good[..good.len() - 1].to_vec(),
            with(0, 0x65),
            with(0, 0x44),
            with(0, 0x4f),
            with(6, 0x20),
            with(7, 1),
            with(9, 6),
            with(25, 200),
            with(25, 7),
        ];
        for (index, bad) in cases.iter().enumerate() {
            assert_eq!(parse(bad), None, "case {index}");
        }
        // Padding behind the packet's own length does not matter.
        assert!(parse(&[&good[..], &[0; 9]].concat()).is_some());
    }
}
