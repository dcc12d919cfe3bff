//! The life of the cloned process: it builds the node's namespaces around itself, then it is their pid 1.

mod init;
mod mounts;
mod network;
pub(crate) mod pods;

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use u7s_net::forward;
use u7s_plan::node::{Driver, NodeSpec};

use self::init::Built;
use crate::Error;
use crate::error::chain;
use crate::message::{self, Command, Event, Order};
use crate::tree::Tree;
use crate::{cgroup, small};

/// How long the supervisor may take to write the id maps: above the deadline of newuidmap.
const MAPS: Duration = Duration::from_secs(15);

/// Where the node's cgroup namespace is seen inside.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The node's own, where CRI-O keeps what belongs to each container.
const RUN: &str = "/run";

/// The sysctl without which a node is none.
const IP_FORWARD: &str = "net/ipv4/ip_forward";

/// What the cloned process needs to know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blueprint<'a> {
    /// The node.
    pub(crate) spec: &'a NodeSpec,
    /// The user's tree on the host.
    pub(crate) tree: &'a Tree,
    /// Directory of the control socket on the host; inside it is /run/u7s.
    pub(crate) runtime_dir: &'a Path,
}

/// Builds the node and serves as its pid 1 until the supervisor is gone or says so; the result is the exit status.
///
/// Should: run in the process that clone3 made, with a single thread, in the cgroup `node`.
/// Must not: return to the frames of the supervisor.
pub(crate) fn live(channel: OwnedFd, output: &OwnedFd, blueprint: Blueprint<'_>) -> i32 {
    match settle(&channel, output).and_then(|()| build(&channel, blueprint)) {
        Ok(built) => init::serve(channel, &blueprint.spec.network, built),
        Err(error) => {
            let _ = message::send(channel.as_fd(), &Event::Failed { reason: chain(&error) }, &[]);
            1
        }
    }
}

/// The order is that of the measurements: the network driver waits for tap0 only, and needs longest.
fn build(channel: &OwnedFd, blueprint: Blueprint<'_>) -> Result<Built, Error> {
    let spec = blueprint.spec;
    if spec.network.driver != Driver::None {
        let tap = network::make_tap()?;
        // A driver that opens it by name needs it free.
        let handed: &[OwnedFd] = if spec.programs.slirp4netns_tapfd {
            &[tap]
        } else {
            drop(tap);
            &[]
        };
        message::send(channel.as_fd(), &Event::Tap, handed)?;
    }
    network::configure(&spec.network)?;
    let runtime_dir = mounts::before_maps(blueprint.runtime_dir)?;
    wait_for_maps(channel)?;
    nix::unistd::setgroups(&[]).map_err(call("leave supplementary groups"))?;
    let mut warnings = enter_init_cgroup(spec)?;
    mounts::after_maps(blueprint, &runtime_dir)?;
    let forwarder = forward::SYSCTLS.map(|(key, value)| (key.to_owned(), value.to_owned()));
    warnings.extend(write_sysctls(&forwarder)?);
    warnings.extend(write_sysctls(&spec.sysctls)?);
    nix::unistd::sethostname(&spec.node_name).map_err(call("set the host name"))?;
    let run =
        fs::File::options().read(true).custom_flags(libc::O_PATH).open(RUN).map_err(Error::read(RUN))?;
    Ok(Built { warnings, run: run.into(), leftovers: blueprint.tree.old_var_tmp() })
}

/// Ties this process to the supervisor and takes from it what it shall not have.
fn settle(channel: &OwnedFd, output: &OwnedFd) -> Result<(), Error> {
    nix::sys::prctl::set_name(c"u7s-init").map_err(call("take the name u7s-init"))?;
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(call("ask for the signal at the supervisor's death"))?;
    nix::unistd::dup2_stderr(output).map_err(call("redirect standard error"))?;
    u7s_sys::fork::close_all_but(&[channel.as_fd()])
        .map_err(Error::system("close the supervisor's descriptors"))?;
    let null =
        fs::File::options().read(true).write(true).open("/dev/null").map_err(Error::read("/dev/null"))?;
    nix::unistd::dup2_stdin(&null).map_err(call("redirect standard input"))?;
    nix::unistd::dup2_stdout(&null).map_err(call("redirect standard output"))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    unshare(CloneFlags::CLONE_NEWCGROUP).map_err(call("make the cgroup namespace"))
}

/// A supervisor that died before `settle` asked for the signal shows here as the end of the channel.
fn wait_for_maps(channel: &OwnedFd) -> Result<(), Error> {
    let late = Error::Deadline { what: "the id maps", seconds: MAPS.as_secs() };
    let deadline = Instant::now() + MAPS;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(channel.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Err(late),
            Ok(_) => break,
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(call("wait for the id maps")(errno)),
        }
    }
    match message::receive::<Order>(channel.as_fd())? {
        Some((Order { command: Command::Mapped, .. }, _)) => Ok(()),
        _ => Err(late),
    }
}

/// Moves to `init`, then enables the controllers for its siblings: no process may stay in an inner cgroup.
fn enter_init_cgroup(spec: &NodeSpec) -> Result<Vec<String>, Error> {
    let root = Path::new(CGROUPS);
    let procs = root.join(pods::INIT).join("cgroup.procs");
    fs::write(&procs, "0").map_err(Error::write(&procs))?;
    let controllers = root.join("cgroup.controllers");
    let controllers = small::read(&controllers).map_err(Error::read(controllers))?;
    let available: Vec<&str> = controllers.split_whitespace().collect();
    let needed: &[String] = if spec.degraded.is_empty() { &spec.controllers } else { &[] };
    cgroup::enable(root, &available, needed)
}

/// A key that the kernel lacks or guards is a warning: a node without it still works, as far as it goes.
fn write_sysctls(sysctls: &[(String, String)]) -> Result<Vec<String>, Error> {
    let mut warnings = Vec::new();
    for (key, value) in sysctls {
        let path = Path::new("/proc/sys").join(key);
        match fs::write(&path, value) {
            Ok(()) => {}
            Err(error) if key == IP_FORWARD => return Err(Error::write(path)(error)),
            Err(error) => warnings.push(format!("sysctl {key} was not set to {value:?}: {error}")),
        }
    }
    Ok(warnings)
}

fn call(what: &'static str) -> impl FnOnce(nix::errno::Errno) -> Error {
    move |errno| Error::Io { what, source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_sysctl_is_a_warning_but_for_ip_forward() {
        let missing = [("net/ipv4/no_such_key".to_owned(), "1".to_owned())];
        let warnings = write_sysctls(&missing).unwrap();
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0].starts_with("sysctl net/ipv4/no_such_key was not set to \"1\": "),
            "{warnings:?}"
        );
    }
}
