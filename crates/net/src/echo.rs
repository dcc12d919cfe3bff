//! Asks a driver whether it still carries packets: an ICMP echo to the gateway, which the driver itself answers.
//!
//! No host beyond it is involved, so an answer says nothing about the uplink, and silence is the driver's alone.
//!
//! Source: RFC 792, "Echo or Echo Reply Message"; libslirp's src/ip_icmp.c, `icmp_reflect`.

/// Length of a question, bytes.
pub const BYTES: usize = 16;

/// The type of a question.
const ECHO: u8 = 8;
/// The type of an answer.
const REPLY: u8 = 0;

/// A question that [`is_answer`] knows again by `token`.
#[must_use]
pub fn question(token: u64) -> [u8; BYTES] {
    let mut packet = [0; BYTES];
    packet[0] = ECHO;
    packet[8..].copy_from_slice(&token.to_be_bytes());
    let [high, low] = checksum(&packet).to_be_bytes();
    [packet[2], packet[3]] = [high, low];
    packet
}

/// Whether a packet of a raw socket, which begins with its IPv4 header, answers the question of `token`.
#[must_use]
pub fn is_answer(packet: &[u8], token: u64) -> bool {
    let header = packet.first().map_or(0, |first| usize::from(first & 0xf) * 4);
    let Some(message) = packet.get(header..) else { return false };
    message.first() == Some(&REPLY) && message.get(8..BYTES) == Some(&token.to_be_bytes()[..])
}

/// Source: RFC 1071.
fn checksum(packet: &[u8; BYTES]) -> u16 {
    let words = packet.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_known_again_in_its_answer_alone() {
        let asked = question(0x0102_0304_0506_0708);
        assert_eq!(checksum(&asked), 0, "the sum over a right checksum");
        let mut answer = vec![0x45; 20];
        answer.extend(asked);
        assert!(!is_answer(&answer, 0x0102_0304_0506_0708), "that is the question");
        answer[20] = 0;
        assert!(is_answer(&answer, 0x0102_0304_0506_0708));
        assert!(!is_answer(&answer, 7));
        for length in 0..answer.len() {
            assert!(!is_answer(&answer[..length], 0x0102_0304_0506_0708), "{length}");
        }
        assert!(!is_answer(&[0xff; 30], 7));
    }
}
