//! Parsers of this crate for `tests/fuzz`.

/// Acknowledgements of rtnetlink.
pub fn acknowledgement(data: &[u8]) {
    crate::netlink::fuzz(data);
}
