//! Parsers of what others write, each as a function of bytes that ends soon and never panics (S40).
//!
//! `scripts/fuzz` feeds them with what libFuzzer thinks of, the test `corpus` with the files that are kept below `corpus`. Parsers
//! that are private have their functions beside them, behind the feature `fuzzing` of their crate; the others have them here.
//! A function asserts more than that nothing panics: what is printed is read again, and what must never come out does not.

#![forbid(unsafe_code)]

mod arguments;
mod cluster;
mod documents;
mod secrets;
mod state;
mod texts;

/// A parser that is fuzzed.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of the directory of its corpus.
    pub name: &'static str,
    /// Takes what others may have written; panics where an invariant does not hold.
    pub run: fn(&[u8]),
}

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("arguments", arguments::arguments),
    target("certificate", documents::certificate),
    target("config", documents::config),
    target("control", state::control),
    target("cri", u7s_supervisor::fuzzing::cri),
    target("datagram", u7s_net::fuzzing::datagram),
    target("entered", u7s_host::fuzzing::entered),
    target("environment", u7s_supervisor::fuzzing::environment),
    target("forwarder", u7s_net::fuzzing::forwarder),
    target("images", u7s_host::fuzzing::images),
    target("kubeadm", cluster::kubeadm),
    target("kubeconfig", documents::kubeconfig),
    target("kubectl", u7s_host::fuzzing::kubectl),
    target("machine", texts::machine),
    target("netlink", netlink),
    target("nft", cluster::nft),
    target("node", u7s_supervisor::fuzzing::node),
    target("oci", documents::oci),
    target("output", output),
    target("pid_one", u7s_supervisor::fuzzing::pid_one),
    target("printable", printable),
    target("proc", proc),
    target("redact", secrets::redact),
    target("services", cluster::services),
    target("status", state::status),
    target("subids", texts::subids),
    target("timings", state::timings),
    target("translation", u7s::fuzzing::translation),
    target("undo", u7s_host::fuzzing::undo),
    target("yaml", documents::yaml),
];

/// The target of this name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// What the kernel answers by rtnetlink: dumps, and acknowledgements of a batch.
fn netlink(data: &[u8]) {
    u7s_host::fuzzing::netlink(data);
    u7s_sys::fuzzing::acknowledgement(data);
}

/// Tables and files of /proc, and of /etc where their form is the same.
fn proc(data: &[u8]) {
    u7s_host::fuzzing::proc(data);
    u7s_supervisor::fuzzing::proc(data);
    u7s_net::fuzzing::proc(data);
}

/// Text of others on its way to a terminal or to the journal (S39).
fn printable(data: &[u8]) {
    u7s::fuzzing::printable(data);
    u7s_host::fuzzing::printable(data);
    u7s_supervisor::fuzzing::printable(data);
}

/// Streams of children that are cut into lines.
fn output(data: &[u8]) {
    u7s_host::fuzzing::output(data);
    u7s_supervisor::fuzzing::output(data);
}

/// The text that bytes are, with replacement characters where they are none: as every reader of ours takes it.
fn text(data: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(data)
}

/// Parts that a NUL divides, as arguments are divided in /proc/PID/cmdline.
fn parts(data: &[u8]) -> Vec<&[u8]> {
    data.split(|byte| *byte == 0).collect()
}

/// What is printed is read again as the same.
fn comes_back<T>(value: &T)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let text = serde_json::to_vec(value).unwrap_or_default();
    let again = serde_json::from_slice::<T>(&text);
    assert!(again.as_ref().is_ok_and(|again| again == value), "{value:?} came back as {again:?}");
}
