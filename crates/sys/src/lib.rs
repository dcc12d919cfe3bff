//! Every unsafe line and raw system call of u7s.
//!
//! This crate does and decides nothing: no path, name, number or order of the node is known here.
//! Safe calls that nix offers are used directly by the other crates.
#![allow(unsafe_code, reason = "the one crate for it; each block argues its condition")]

pub mod capability;
pub mod channel;
pub mod clone;
pub mod enter;
mod error;
pub mod fork;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod keyring;
pub mod memfd;
pub mod mount;
pub mod netlink;
pub mod pidfd;
pub mod sched;
pub mod spawn;
pub mod streams;
pub mod tap;
pub mod tty;
pub mod userns;
pub mod xattr;

pub use error::Error;
