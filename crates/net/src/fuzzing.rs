//! Parsers of this crate for `tests/fuzz`.

use crate::echo;
use crate::forward::inner::fuzz_packets;
use crate::forward::{fuzz_messages, fuzz_tables};

/// Packets that come from inside: of the tun device, and of the driver's gateway.
pub fn datagram(data: &[u8]) {
    fuzz_packets(data);
    assert!(!echo::is_answer(data, 7) || data.len() >= echo::BYTES);
}

/// What the halves of the forwarder say to each other.
pub fn forwarder(data: &[u8]) {
    fuzz_messages(data);
}

/// Tables of sockets.
pub fn proc(data: &[u8]) {
    fuzz_tables(data);
}
