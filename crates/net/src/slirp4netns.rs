//! slirp4netns: a user-mode TCP/IP stack behind tap0. Works everywhere, needs no privilege.
//!
//! It enters the user and network namespaces of the node by pid, opens tap0, which is there already and persistent, and
//! comes back. So `--configure` is not used: address, routes and MTU are the supervisor's and outlive any slirp4netns.
//! While none serves it, tap0 has no carrier and loses packets; when the next one comes, only the connections to the
//! outside that the dead one had carried are gone.
//!
//! Since 1.2.1 it can be handed the open tap0 instead. Whoever holds that descriptor keeps the carrier and the queued
//! packets, so nothing inside has to wait for the driver, nor to notice its restart.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use u7s_plan::node::Network;
use u7s_sys::spawn::{self, Program};

use crate::Error;
use crate::driver::{Driver, Link, Node};

/// Smallest MTU of IPv4, bytes. Source: RFC 791, section 3.2.
const LEAST_MTU: u32 = 68;

/// Largest MTU that slirp4netns takes, bytes. Source: slirp4netns(1), `--mtu`.
const MOST_MTU: u32 = 65_521;

/// The interface that is served.
const TAP: &str = "tap0";

/// The driver: program and settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slirp4netns {
    /// slirp4netns(1), absolute; 1.2.0 or newer.
    pub program: PathBuf,
    /// Addresses and MTU.
    pub network: Network,
}

impl Driver for Slirp4netns {
    fn validate(&self) -> Result<(), Error> {
        let failed = |source| Error::Program { path: self.program.clone(), source };
        let metadata = std::fs::metadata(&self.program).map_err(failed)?;
        if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
            return Err(failed(io::Error::from(io::ErrorKind::PermissionDenied)));
        }
        let mtu = self.network.mtu;
        if !(LEAST_MTU..=MOST_MTU).contains(&mtu) {
            return Err(Error::Mtu { mtu, least: LEAST_MTU, most: MOST_MTU });
        }
        let base = u32::from(self.network.range.network());
        fixed("gateway", Ipv4Addr::from(base.saturating_add(2)), self.network.gateway)?;
        fixed("name server", Ipv4Addr::from(base.saturating_add(3)), self.network.dns)
    }

    /// The process leads a session of its own, so that a terminal's Ctrl-C is the supervisor's alone, and has an empty
    /// environment: a NOTIFY_SOCKET is not for it.
    fn attach(&self, node: Node<'_>) -> Result<Link, Error> {
        let (ready, ready_inside) = pipe()?;
        let (exit_inside, exit) = pipe()?;
        let (output, output_inside) = pipe()?;
        let argv = self.command_line(&ready_inside, &exit_inside, node);
        let inherited: Vec<_> =
            [ready_inside.as_fd(), exit_inside.as_fd()].into_iter().chain(node.tap).collect();
        let (pid, pidfd) = spawn::start(&Program {
            argv: &argv,
            env: &BTreeMap::new(),
            stdout: output_inside.as_fd(),
            stderr: output_inside.as_fd(),
            inherited: &inherited,
            // By pid it enters by itself; its sandbox needs to be root of a user namespace in any case.
            user_namespace: node.tap.map(|_| node.pidfd),
        })
        .map_err(|source| Error::Hold { source })?;
        Ok(Link { pid, pidfd, ready, exit, output })
    }
}

impl Slirp4netns {
    fn command_line(&self, ready: &OwnedFd, exit: &OwnedFd, node: Node<'_>) -> Vec<String> {
        let network = &self.network;
        let mut line = vec![
            self.program.display().to_string(),
            format!("--mtu={}", network.mtu),
            "--disable-host-loopback".into(),
            "--enable-sandbox".into(),
            "--enable-seccomp".into(),
            format!("--cidr={}", network.range.trunc()),
            format!("--outbound-addr={}", network.node_ip),
            format!("--ready-fd={}", ready.as_raw_fd()),
            format!("--exit-fd={}", exit.as_raw_fd()),
        ];
        line.extend(match node.tap {
            Some(tap) => ["--netns-type=tapfd".into(), tap.as_raw_fd().to_string()],
            None => [node.pid.to_string(), TAP.into()],
        });
        line
    }
}

/// slirp4netns puts gateway and name server at fixed places of its range.
fn fixed(role: &'static str, expected: Ipv4Addr, found: Ipv4Addr) -> Result<(), Error> {
    if expected == found { Ok(()) } else { Err(Error::Fixed { role, expected, found }) }
}

/// Both ends non-blocking: a supervisor that does not read must not stop the node's network.
fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(failed("pipe2"))
}

fn failed(call: &'static str) -> impl FnOnce(Errno) -> Error {
    move |source| Error::Process { call, source }
}

#[cfg(test)]
mod tests {
    use std::os::fd::BorrowedFd;
    use std::time::Duration;

    use super::*;
    use crate::driver::Health;

    fn driver(program: &str) -> Slirp4netns {
        let network = Network {
            driver: u7s_plan::node::Driver::Slirp4netns,
            node_ip: Ipv4Addr::new(192, 0, 2, 10),
            mtu: 1500,
            range: "10.41.0.0/24".parse().unwrap(),
            gateway: Ipv4Addr::new(10, 41, 0, 2),
            dns: Ipv4Addr::new(10, 41, 0, 3),
            service_cidr: None,
            pod_cidr: None,
            low_ports: Vec::new(),
        };
        Slirp4netns { program: program.into(), network }
    }

    /// This process as the node.
    fn own(tap: Option<BorrowedFd<'_>>, check: impl FnOnce(Node<'_>)) {
        let pid = i32::try_from(std::process::id()).unwrap();
        let pidfd = u7s_sys::pidfd::open(pid).unwrap();
        check(Node { pid, pidfd: pidfd.as_fd(), tap });
    }

    #[test]
    fn the_command_line_is_this() {
        let (ready, exit) = pipe().unwrap();
        let settings = format!(
            "/usr/bin/slirp4netns --mtu=1500 --disable-host-loopback --enable-sandbox --enable-seccomp \
             --cidr=10.41.0.0/24 --outbound-addr=192.0.2.10 --ready-fd={} --exit-fd={}",
            ready.as_raw_fd(),
            exit.as_raw_fd()
        );
        let line =
            |node: Node<'_>| driver("/usr/bin/slirp4netns").command_line(&ready, &exit, node).join(" ");
        let pid = std::process::id();
        own(None, |node| assert_eq!(line(node), format!("{settings} {pid} tap0")));
        let tap = io::stderr();
        own(Some(tap.as_fd()), |node| assert_eq!(line(node), format!("{settings} --netns-type=tapfd 2")));
    }

    #[test]
    fn what_cannot_work_is_refused_before_anything_is_touched() {
        let text = |driver: &Slirp4netns| driver.validate().unwrap_err().to_string();
        driver("/bin/true").validate().unwrap();
        assert_eq!(text(&driver("/nonexistent/slirp4netns")), "network driver /nonexistent/slirp4netns");
        assert_eq!(text(&driver("/etc/passwd")), "network driver /etc/passwd");
        let mut wrong = driver("/bin/true");
        wrong.network.mtu = 65_522;
        assert_eq!(text(&wrong), "slirp4netns carries an MTU of 68 to 65521 bytes, not 65522");
        let mut wrong = driver("/bin/true");
        wrong.network.dns = Ipv4Addr::new(10, 41, 0, 4);
        assert_eq!(
            text(&wrong),
            "slirp4netns puts its name server at 10.41.0.3, the specification at 10.41.0.4"
        );
    }

    #[test]
    fn a_missing_program_is_named() {
        own(None, |node| {
            let error = driver("/nonexistent/slirp4netns").attach(node).unwrap_err();
            let Error::Hold { source } = error else { panic!("{error}") };
            assert_eq!(source.to_string(), "execve /nonexistent/slirp4netns");
        });
    }

    #[test]
    fn an_ended_driver_is_seen_and_reaped() {
        own(None, |node| {
            let link = driver("/bin/false").attach(node).unwrap();
            assert!(crate::driver::ends_within(&link.pidfd, Duration::from_secs(10)).unwrap());
            let Health::Ended(status) = link.health().unwrap() else { panic!("still running") };
            assert_eq!(link.detach(Duration::ZERO).unwrap(), status);
        });
    }
}
