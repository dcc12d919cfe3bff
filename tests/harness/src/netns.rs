//! Network namespaces, each held by a process of its own; all links are made inside, never in the machine's own.
//!
//! Not by names in /run/netns: those are shared mounts, and a slirp4netns that root starts anywhere on the machine
//! unmounts them all (its sandbox makes only `/` private before it drops the old tree).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::command::run;
use crate::{Error, names, spawner, until};

const LIMIT: Duration = Duration::from_secs(20);

/// A process that can be recognized after others got its pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// In clock ticks after boot.
    start: u64,
}

impl ProcessId {
    /// That of a running process.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let start = names::start_time(u32::try_from(pid).ok()?)?;
        Some(Self { pid, start })
    }

    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// A network namespace; it lasts as long as its holder or another process in it.
#[derive(Debug)]
pub(crate) struct Netns {
    pub(crate) holder: ProcessId,
    child: Option<Child>,
}

impl Netns {
    /// A new one with `lo` up; its holder dies with this process unless it `stays`.
    pub(crate) fn create(stays: bool) -> Result<Self, Error> {
        let mut command = spawner::ending_with_us(!stays);
        command.args(["unshare", "--net", "sleep", "infinity"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let start = |source| Error::Start { program: "unshare --net".into(), source };
        let child = spawner::spawn(command).map_err(start)?;
        let pid = i32::try_from(child.id()).unwrap_or_default();
        let own = fs::read_link("/proc/self/ns/net").unwrap_or_default();
        let is_apart = || match fs::read_link(format!("/proc/{pid}/ns/net")) {
            Ok(net) if net != own => ProcessId::of(pid).ok_or_else(|| "it has ended".to_string()),
            Ok(_) => Err("still in ours".into()),
            Err(error) => Err(error.to_string()),
        };
        let holder = until(LIMIT, "a network namespace (root is needed)", is_apart)?;
        let netns = Self { holder, child: Some(child) };
        netns.ip(&["link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// That of a holder that another process started, if it lives.
    pub(crate) fn of(holder: ProcessId) -> Option<Self> {
        holder.is_alive().then_some(Self { holder, child: None })
    }

    fn path(&self) -> PathBuf {
        Path::new("/proc").join(self.holder.pid.to_string()).join("ns/net")
    }

    /// The start of a command line that runs the rest of it inside.
    pub(crate) fn enter(&self) -> Vec<String> {
        vec!["nsenter".into(), format!("--net={}", self.path().display()), "--".into()]
    }

    /// ip(8) inside.
    pub(crate) fn ip(&self, args: &[&str]) -> Result<(), Error> {
        self.run("ip", args)
    }

    /// A program of this machine inside.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> Result<(), Error> {
        let net = format!("--net={}", self.path().display());
        run(&[&["nsenter", &net, "--", program], args].concat(), LIMIT).map(drop)
    }

    /// Ends the holder.
    pub(crate) fn delete(&mut self) {
        if self.holder.is_alive() {
            let _ = kill(Pid::from_raw(self.holder.pid), Signal::SIGKILL);
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }
}
