//! One module for each program, and what they share.

pub mod adapter;
pub mod kubeadm;
pub mod supervisor;
pub mod systemctl;
pub mod tool;

mod arguments;
mod checked;
mod images;
mod init;
mod machine;
mod pass;
mod phase;
mod ports;
mod progress;
mod reset;
mod stopwatch;

#[cfg(feature = "fuzzing")]
pub use arguments::fuzz as fuzz_arguments;
