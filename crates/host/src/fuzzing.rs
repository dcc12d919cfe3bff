//! Parsers of this crate for `tests/fuzz`.

use crate::apply::{fuzz_changes, fuzz_images, fuzz_lines, fuzz_members};
use crate::enter::{fuzz_name, fuzz_process, fuzz_variable};
use crate::probe::{fuzz_dump, fuzz_listing, fuzz_node, fuzz_texts};

pub use crate::undo::fuzz as undo;

/// What decides on the way into the node: the process that is entered, variables that go along, files that come back.
pub fn entered(data: &[u8]) {
    fuzz_process(data);
    fuzz_variable(data);
    fuzz_name(data);
}

/// OCI layouts and archives.
pub fn images(data: &[u8]) {
    fuzz_images(data);
}

/// Answers of kubectl, etcdctl and nft.
pub fn kubectl(data: &[u8]) {
    fuzz_node(data);
    fuzz_members(data);
    fuzz_listing(data);
}

/// Dumps of links, addresses and routes.
pub fn netlink(data: &[u8]) {
    fuzz_dump(data);
}

/// What kubeadm prints, and files that the node's user may have changed.
pub fn output(data: &[u8]) {
    fuzz_lines(data);
    fuzz_changes(data);
}

/// What a child says, in an error.
pub fn printable(data: &[u8]) {
    crate::child::fuzz(data);
}

/// Tables of /proc, and files of the same kind.
pub fn proc(data: &[u8]) {
    fuzz_texts(&String::from_utf8_lossy(data));
}
