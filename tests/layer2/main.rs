//! The supervisor as built, under an unprivileged user with the unit's capabilities, in namespaces of each test's own.
//!
//! Needs root, `unshare`, `nsenter`, `setpriv`, `ip`, `python3`, `strace`, slirp4netns and newuidmap; a missing one fails the test.
//! What is true is read from /proc and seen through sockets, never asked of the supervisor alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::tests_outside_test_module,
    reason = "a test that cannot go on shall say where"
)]

mod bench;
mod birth;
mod busy;
mod calls;
mod control;
mod death;
mod network;
mod pods;
mod ports;
mod proc;
mod refusal;
mod scarce;
