//! Parsers of this crate for `tests/fuzz`.

pub use crate::spec::fuzz as node;

/// Answers of the container runtime: HTTP/2, gRPC, a message of CRI.
pub fn cri(data: &[u8]) {
    crate::cri::fuzz(data);
}

/// Environment files that kubeadm and administrators leave.
pub fn environment(data: &[u8]) {
    crate::environment::fuzz(data);
}

/// Streams of children.
pub fn output(data: &[u8]) {
    crate::output::fuzz(data);
}

/// Packets between supervisor and pid 1 of the node.
pub fn pid_one(data: &[u8]) {
    crate::message::fuzz(data);
}

/// Lines on their way to the journal.
pub fn printable(data: &[u8]) {
    crate::journal::fuzz(data);
}

/// Tables of /proc, and words of the API server that become parts of a question.
pub fn proc(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    crate::cgroup::fuzz(&text);
    crate::start::fuzz(&text);
    crate::services::fuzz(&text);
}
