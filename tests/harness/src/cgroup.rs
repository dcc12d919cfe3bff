//! A cgroup of one node's own, below the machine's cgroup2 mount wherever that is.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Error, until};

/// The cgroup that a node's systemd sees as its root; nothing outside it is touched.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
}

/// A process in a node.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its pid on this machine.
    pub pid: i32,
    /// Its pid in each namespace from this machine's inwards; the second one is the node's.
    pub pids: Vec<i32>,
    /// Its parent on this machine.
    pub parent: i32,
    /// Real, effective, saved and file system user id, as this machine sees them.
    pub uids: [u32; 4],
    /// The first 15 characters of its program's name.
    pub comm: String,
    /// Its command line.
    pub argv: Vec<String>,
    /// Its cgroup below the node's root, starting with a slash.
    pub cgroup: String,
}

impl Cgroup {
    /// Names a cgroup of this machine without making it.
    ///
    /// # Errors
    /// [`Error::NoCgroup2`].
    pub(crate) fn named(name: &str) -> Result<Self, Error> {
        Ok(Self { path: mount_point()?.join(name) })
    }

    pub(crate) fn create(&self) -> Result<(), Error> {
        fs::create_dir_all(self.exec_leaf()).map_err(Error::file("making", &self.path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where commands that enter from outside live: systemd owns the other children.
    pub(crate) fn exec_leaf(&self) -> PathBuf {
        self.path.join("exec")
    }

    /// Kills all that is in it, waits for the end, and removes it with everything below.
    pub(crate) fn destroy(&self) -> Result<(), Error> {
        if !self.path.exists() {
            return Ok(());
        }
        let kill = self.path.join("cgroup.kill");
        fs::write(&kill, "1").map_err(Error::file("writing", kill))?;
        let what = format!("the last process of {}", self.path.display());
        until(Duration::from_secs(30), &what, || self.is_empty())?;
        until(Duration::from_secs(10), &format!("the removal of {}", self.path.display()), || {
            remove(&self.path)
        })
    }

    fn is_empty(&self) -> Result<(), String> {
        let events = fs::read_to_string(self.path.join("cgroup.events")).unwrap_or_default();
        if events.contains("populated 1") { Err(events) } else { Ok(()) }
    }

    /// All cgroups below, as paths that start with a slash, sorted.
    pub(crate) fn below(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut open = vec![self.path.clone()];
        while let Some(dir) = open.pop() {
            let Ok(entries) = fs::read_dir(&dir) else { continue };
            let dirs = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            open.extend(dirs.map(|entry| entry.path()));
            if let Ok(name) = dir.strip_prefix(&self.path) {
                found.push(format!("/{}", name.display()));
            }
        }
        found.sort();
        found
    }

    /// All processes in it; those that end while we look are left out.
    pub(crate) fn processes(&self) -> Vec<Process> {
        let list = |name: &String| {
            let text =
                fs::read_to_string(self.path.join(&name[1..]).join("cgroup.procs")).unwrap_or_default();
            let pids: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
            pids.into_iter().filter_map(|pid| process(pid, name)).collect::<Vec<_>>()
        };
        self.below().iter().flat_map(list).collect()
    }
}

fn process(pid: i32, cgroup: &str) -> Option<Process> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let argv = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    let uids: Vec<u32> = numbers(field("Uid")?);
    Some(Process {
        pid,
        pids: numbers(field("NSpid")?),
        parent: field("PPid")?.parse().ok()?,
        uids: uids.try_into().ok()?,
        comm: field("Name")?.to_string(),
        argv: argv
            .split(|byte| *byte == 0)
            .map(|arg| String::from_utf8_lossy(arg).into_owned())
            .filter(|arg| !arg.is_empty())
            .collect(),
        cgroup: cgroup.to_string(),
    })
}

fn numbers<T: std::str::FromStr>(text: &str) -> Vec<T> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// Removes a tree of empty cgroups, the deepest first; one that is gone already is fine.
fn remove(path: &Path) -> Result<(), String> {
    let Ok(entries) = fs::read_dir(path) else { return Ok(()) };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove(&entry.path())?;
    }
    match fs::remove_dir(path) {
        Err(error) if path.exists() => Err(format!("{}: {error}", path.display())),
        _ => Ok(()),
    }
}

/// Names of cgroups right below the mount.
pub(crate) fn top_level() -> Result<Vec<String>, Error> {
    let mount = mount_point()?;
    let entries = fs::read_dir(&mount).map_err(Error::file("listing", mount))?;
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

/// The cgroup2 mount: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` beside version 1, or elsewhere.
fn mount_point() -> Result<PathBuf, Error> {
    let path = "/proc/self/mountinfo";
    let text = fs::read_to_string(path).map_err(Error::file("reading", path))?;
    find_mount(&text).ok_or(Error::NoCgroup2)
}

/// Source: proc_pid_mountinfo(5): the fifth field is the mount point, the first after " - " the type.
fn find_mount(mountinfo: &str) -> Option<PathBuf> {
    let point = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let point = left.split(' ').nth(4)?;
        right.starts_with("cgroup2 ").then(|| PathBuf::from(point))
    };
    mountinfo.lines().find_map(point)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_of_a_hybrid_machine() {
        let text = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                    41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(find_mount(text), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(find_mount("1 2 0:3 / / rw - ext4 /dev/x rw\n"), None);
    }

    #[test]
    fn we_are_a_process() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let own = process(pid, "/").unwrap();
        assert_eq!(own.pids.first(), Some(&pid));
        assert!(!own.argv.is_empty());
    }
}
