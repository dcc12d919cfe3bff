//! Network namespaces that threads of this process work in.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::Arc;

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace; it lives at least as long as this value.
#[derive(Debug, Clone)]
pub(super) struct Net(Arc<File>);

impl Net {
    /// A new one with `lo` up.
    pub(super) fn new() -> io::Result<Self> {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let net = Self(Arc::new(made.join().map_err(|_| broken())??));
        net.ip("link set lo up")?;
        Ok(net)
    }

    /// That of a process.
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        File::open(format!("/proc/{pid}/ns/net")).map(|file| Self(Arc::new(file)))
    }

    /// Runs `work` on a thread inside and waits for it.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                work()
            });
            thread.join().unwrap_or_else(|_| Err(broken()))
        })
    }

    /// Takes the calling thread inside, for good.
    pub(super) fn enter(&self) -> io::Result<()> {
        Ok(setns(&*self.0, CloneFlags::CLONE_NEWNET)?)
    }

    /// `ip ARGUMENTS` inside.
    pub(super) fn ip(&self, arguments: &str) -> io::Result<()> {
        self.run(|| {
            let output = Command::new("ip").args(arguments.split(' ')).stdin(Stdio::null()).output()?;
            if output.status.success() {
                return Ok(());
            }
            let text = String::from_utf8_lossy(&output.stderr);
            Err(io::Error::other(format!("ip {arguments}: {}", text.trim_end())))
        })
    }

    /// A name for ip(8) that means this namespace while this value lives.
    pub(super) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

fn broken() -> io::Error {
    io::Error::other("a thread of the benchmark panicked")
}
