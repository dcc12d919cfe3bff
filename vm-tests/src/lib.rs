//! Virtual machines with real systemd, cgroup v2 and Kubernetes from the kit, for end-to-end tests.
//!
//! ```no_run
//! # fn test() -> Result<(), u7s_vm::Error> {
//! let image = u7s_vm::Image::ensure(std::path::Path::new("target/release"), &|line| drop(line.to_owned()))?;
//! let mut machine = u7s_vm::Vm::new(&image, "n1")?;
//! machine.boot()?;
//! let release = machine.ok(&["uname", "-r"])?;
//! # drop(release); Ok(())
//! # }
//! ```
//!
//! One disk image, kept in the user's cache under a key of its content, serves all machines: each has an overlay over
//! it. Commands run in the guest by an agent on a virtio port, so neither its network nor its clock is needed.
//! Machines go when their value is dropped and when their process dies.

#![forbid(unsafe_code)]

mod cpio;
mod error;
pub mod frame;
mod image;
mod machine;
mod qmp;
mod speed;

pub use error::Error;
pub use image::Image;
pub use machine::{Options, Vm};
pub use qmp::Qmp;
pub use speed::Speed;
pub use u7s_harness::{Invocation, Output, Running, until};
