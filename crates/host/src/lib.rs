//! Eyes and hands of root: `probe` looks at the machine, `apply` changes it, step by step, as a plan says.
//!
//! Everything here is short-lived and runs as root, so it is careful with what the node's user can write: such data is
//! read bounded and as data, such trees are written by a child that dropped to that user, programs are absolute, root-owned
//! and started with an environment of our own. What a plan writes is never reached through a symbolic link. What root is told
//! of by name is reached only through links that root alone may change, and what a document names that others than root may
//! have written is read as the node's user.
#![forbid(unsafe_code)]

pub mod apply;
pub mod control;
pub mod enter;
pub mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod lock;
pub mod oci;
pub mod probe;
pub mod stop;
pub mod support;
pub mod timings;
pub mod undo;

mod child;
mod files;
mod nft;
mod processes;
mod programs;
mod systemd;

pub use error::Error;
