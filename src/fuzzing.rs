//! Parsers of this crate for `tests/fuzz`.

pub use crate::doors::fuzz_arguments as arguments;
pub use crate::doors::tool::fuzz_status as status;

/// Text of others on its way to a terminal.
pub fn printable(data: &[u8]) {
    crate::report::fuzz(&String::from_utf8_lossy(data));
}

/// A text, of ours or not, in Russian.
pub fn translation(data: &[u8]) {
    crate::words::fuzz(&String::from_utf8_lossy(data));
}
