//! The node's supervisor: makes the namespaces, keeps what runs in them alive, answers for it, and cleans up behind it.
//!
//! It starts with a single thread and, under the unit, two capabilities. When [`run`] has cloned pid 1 and written its id
//! maps, no capability is left; only then the network driver and the runtime (one thread) start.
//! The thread rule: pid 1 and driver die with the *thread* that started them, so all of this happens on the main thread.
#![forbid(unsafe_code)]

mod backoff;
mod cgroup;
mod control;
mod cri;
mod environment;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod idmap;
mod inside;
mod journal;
mod link;
mod message;
mod namespace;
mod notify;
mod output;
mod patience;
mod pid_one;
mod ports;
mod probe;
mod rules;
mod serve;
mod service;
mod services;
mod small;
mod spec;
mod start;
mod status;
mod stop;
mod tick;
mod tree;
mod watch;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Instant;

use u7s_net::forward::{self, Listeners};
use u7s_plan::control::{SOCKET, Timings};
use u7s_plan::node::NodeSpec;

pub use cri::Fault;
pub use error::{Error, chain};
pub use journal::Stderr;
pub use spec::Problem;

/// Where the supervisor finds and leaves things; the defaults are those of the unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The node's specification.
    pub spec: PathBuf,
    /// Directory of the control socket on the host, 0700 and the user's; inside it is always /run/u7s.
    pub runtime_dir: PathBuf,
}

/// Everything that stands before the runtime starts.
pub(crate) struct Prepared {
    pub(crate) spec: NodeSpec,
    pub(crate) tree: tree::Tree,
    pub(crate) cgroup: cgroup::Node,
    pub(crate) namespace: namespace::Namespace,
    pub(crate) channel: OwnedFd,
    /// What pid 1 and the forwarder write.
    pub(crate) output: OwnedFd,
    pub(crate) link: link::Attachment,
    pub(crate) listeners: Listeners,
    pub(crate) control: control::Socket,
    pub(crate) timings: Timings,
    pub(crate) began: Instant,
}

/// Builds the node, serves it until SIGTERM, and removes it.
///
/// Must be called on the main thread of a process that has no other.
///
/// # Errors
/// Why the node could not be built or kept. No process, mount or cgroup of it is left then.
pub fn run(options: &Options) -> Result<(), Error> {
    let prepared = prepare(options)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("start the runtime"))?;
    runtime.block_on(serve::serve(prepared))
}

/// All that can be refused is asked before the clone; ports are bound first of all, so that nobody else takes them.
fn prepare(options: &Options) -> Result<Prepared, Error> {
    let began = Instant::now();
    let spec = spec::read(&options.spec, nix::unistd::geteuid().as_raw())?;
    patience::set(spec.patience);
    idmap::check(&spec)?;
    let way = idmap::choose(&spec)?;
    let driver = u7s_net::driver::of(&spec);
    if let Some(driver) = &driver {
        driver.validate().map_err(|source| Error::Network { what: "check the network", source })?;
    }
    let listeners = listen(&spec)?;
    let control = control::bind(&socket_of(options))?;
    let tree = tree::Tree::prepare(&spec)?;
    let cgroup = cgroup::prepare(&spec)?;
    let blueprint = inside::Blueprint { spec: &spec, tree: &tree, runtime_dir: &options.runtime_dir };
    let (namespace, channel, output) = namespace::create(way, &cgroup, blueprint)?;
    namespace::drop_privileges()?;
    let namespace_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    let link = match driver {
        Some(driver) => link::Attachment::new(driver, &namespace, namespace::wait_for_tap(&channel)?)?,
        None => link::Attachment::none(&namespace)?,
    };
    let timings = Timings { namespace_us, ..Timings::default() };
    Ok(Prepared { spec, tree, cgroup, namespace, channel, output, link, listeners, control, timings, began })
}

/// The node's own ports, and the low ones that only now can be had; without one of those the node is still one.
fn listen(spec: &NodeSpec) -> Result<Listeners, Error> {
    let mut listeners =
        forward::bind(&spec.forwards).map_err(|source| Error::Network { what: "forward ports", source })?;
    let low: Vec<_> = spec.network.low_ports.iter().map(|port| port.on(spec.network.node_ip)).collect();
    for error in listeners.reserve(&low) {
        tracing::warn!("network.low_ports: {}", chain(&error));
    }
    Ok(listeners)
}

fn socket_of(options: &Options) -> PathBuf {
    let name = std::path::Path::new(SOCKET).file_name().unwrap_or_default();
    options.runtime_dir.join(name)
}
