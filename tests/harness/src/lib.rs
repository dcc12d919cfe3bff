//! Nested nodes: systemd in plain namespaces, several on one bridge, real Kubernetes from the kit.
//!
//! ```no_run
//! # fn test() -> Result<(), u7s_harness::Error> {
//! use std::time::Duration;
//! let lan = u7s_harness::Lan::new()?;
//! let mut node = lan.node("n1")?;
//! node.install_kit(&[])?;
//! node.boot(Duration::from_secs(60))?;
//! let version = node.ok(&["kubeadm", "version"])?;
//! # drop(version); Ok(())
//! # }
//! ```
//!
//! What a node lacks where the machine keeps controllers in cgroup v1: cpu, memory, pids and the others in its cgroup2,
//! and `CAP_SYS_RESOURCE` if the machine's root lacks it.
//! Its `/usr` is an overlay over the kit's tree; all else is a plain copy.
//! A node shares the machine's kernel: sysctls outside `net/` are the machine's, [`Lan`] puts back those that u7s sets.
//! Everything else is the node's own and goes when the value is dropped, also after a panic; what a killed test
//! process leaves is swept by the next [`Lan::new`].

#![forbid(unsafe_code)]

mod boot;
mod cgroup;
mod command;
mod error;
mod invocation;
mod keep;
mod lan;
mod names;
mod netns;
mod node;
mod releases;
mod rootful;
mod snapshot;
mod spawner;
mod sysctls;
mod wait;

pub use cgroup::Process;
pub use command::{Output, Running};
pub use error::Error;
pub use invocation::Invocation;
pub use keep::{close_kept, kept, open_kept};
pub use lan::{Client, Lan};
pub use nix::sys::signal::Signal;
pub use node::Node;
pub use releases::releases;
pub use rootful::Join;
pub use snapshot::Snapshot;
pub use u7s_kit::Kit;
pub use wait::until;
