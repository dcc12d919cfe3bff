//! Signals to all pods at once: every cgroup of the node but pid 1's own.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Name of the cgroup that holds pid 1, the components and the conmons.
pub(crate) const INIT: &str = "init";

/// How deep pods' cgroups are looked for: kubepods, class, pod, container, and what a container makes.
const DEPTH: usize = 16;

/// Sends `signal` (none: only counts) to the processes of each cgroup below `root` but [`INIT`]; returns how many there were.
///
/// KILL goes by `cgroup.kill`, which no fork escapes.
pub(super) fn signal(root: &Path, signal: Option<Signal>) -> u32 {
    let Ok(entries) = fs::read_dir(root) else { return 0 };
    let mut count = 0;
    for entry in entries.flatten() {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_dir && entry.file_name() != INIT {
            count += signal_tree(&entry.path(), signal, DEPTH);
            if signal == Some(Signal::SIGKILL) {
                // Where the kernel lacks it (< 5.14), each process was killed by number.
                let _ = fs::write(entry.path().join("cgroup.kill"), "1");
            }
        }
    }
    count
}

fn signal_tree(directory: &Path, signal: Option<Signal>, depth: usize) -> u32 {
    let mut count = 0;
    // A process of another pid namespace shows as 0, and 1 is this process.
    let procs = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    for pid in procs.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1) {
        count += u32::from(kill(Pid::from_raw(pid), signal).is_ok());
    }
    if depth == 0 {
        return count;
    }
    let Ok(entries) = fs::read_dir(directory) else { return count };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        count += signal_tree(&entry.path(), signal, depth - 1);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_cgroups_but_the_own_one_are_signalled() {
        let root = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let own = root.path().join(INIT);
        let pod = root.path().join("kubepods/burstable/pod1");
        fs::create_dir_all(&own).unwrap();
        fs::create_dir_all(&pod).unwrap();
        fs::write(own.join("cgroup.procs"), format!("{}\n", child.id())).unwrap();
        assert_eq!(signal(root.path(), Some(Signal::SIGKILL)), 0);
        fs::write(pod.join("cgroup.procs"), format!("0\n1\n{}\n", child.id())).unwrap();
        assert_eq!(signal(root.path(), None), 1);
        assert_eq!(child.try_wait().unwrap(), None);
        assert_eq!(signal(root.path(), Some(Signal::SIGKILL)), 1);
        assert!(!child.wait().unwrap().success());
    }
}
