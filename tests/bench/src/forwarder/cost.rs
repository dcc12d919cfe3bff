//! A peer's processes: a cgroup of their own that counts what they use and ends them.

use std::fs;
use std::io;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the end of killed processes may take.
const END: Duration = Duration::from_secs(10);

/// A cgroup below the machine's cgroup2 mount; its processes die with this value.
#[derive(Debug)]
pub(super) struct Group(PathBuf);

impl Group {
    /// A new one, delegated to `uid` as systemd would.
    ///
    /// Source: cgroups(7), "Cgroups delegation".
    pub(super) fn new(name: &str, uid: u32) -> io::Result<Self> {
        let group = Self(mount_point()?.join(name));
        fs::create_dir(&group.0)?;
        for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            chown(group.0.join(file), Some(uid), Some(uid))?;
        }
        Ok(group)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// All processes in it and below.
    pub(super) fn processes(&self) -> Vec<u32> {
        let mut found = Vec::new();
        let mut open = vec![self.0.clone()];
        while let Some(group) = open.pop() {
            let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
            open.extend(groups_in(&group));
        }
        found
    }

    /// Time on a CPU of all that was ever in it.
    ///
    /// Source: Documentation/admin-guide/cgroup-v2.rst, `cpu.stat`, which is there without the controller.
    pub(super) fn cpu(&self) -> io::Result<Duration> {
        let text = fs::read_to_string(self.0.join("cpu.stat"))?;
        let value = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
        let microseconds = value.and_then(|value| value.parse().ok());
        microseconds.map(Duration::from_micros).ok_or_else(|| io::Error::other("no usage_usec in cpu.stat"))
    }

    /// Proportional set size of its processes together, bytes.
    ///
    /// Source: proc_pid_smaps(5).
    pub(super) fn memory(&self) -> u64 {
        let of = |pid: u32| kibibytes(&format!("/proc/{pid}/smaps_rollup"), "Pss:");
        self.processes().into_iter().filter_map(of).sum::<u64>() * 1024
    }

    /// Stops its processes, or lets them go on; returns when that is so.
    ///
    /// Source: Documentation/admin-guide/cgroup-v2.rst, `cgroup.freeze` and `frozen` of `cgroup.events`.
    pub(super) fn freeze(&self, frozen: bool) -> io::Result<()> {
        fs::write(self.0.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
        let wanted = if frozen { "frozen 1" } else { "frozen 0" };
        let until = Instant::now() + END;
        while !fs::read_to_string(self.0.join("cgroup.events"))?.lines().any(|line| line == wanted) {
            if Instant::now() > until {
                return Err(io::Error::other(format!(
                    "waited {END:?} for {wanted:?} of {}",
                    self.0.display()
                )));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn kill(&self) -> io::Result<()> {
        fs::write(self.0.join("cgroup.kill"), "1")?;
        let until = Instant::now() + END;
        while let Err(error) = remove(&self.0) {
            if Instant::now() > until {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Nobody can be told here; what cannot be removed is empty and does no harm.
        let _ = self.kill();
    }
}

/// Memory of the kernel's own that cannot be reclaimed, of the whole machine, bytes.
pub(super) fn kernel_memory() -> u64 {
    kibibytes("/proc/meminfo", "SUnreclaim:").unwrap_or(0) * 1024
}

fn kibibytes(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// The cgroup2 mount.
///
/// Source: proc_mounts(5): the second field is the mount point, the third the type.
fn mount_point() -> io::Result<PathBuf> {
    let text = fs::read_to_string("/proc/mounts")?;
    let mut mounts = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mount = mounts.find(|fields| fields.get(2) == Some(&"cgroup2"));
    mount.map(|fields| fields[1].into()).ok_or_else(|| io::Error::other("no cgroup2 is mounted"))
}

fn groups_in(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn remove(group: &Path) -> io::Result<()> {
    for inner in groups_in(group) {
        remove(&inner)?;
    }
    fs::remove_dir(group)
}
