//! Names of everything that the harness makes on the machine, and the sweep of what dead runs left.
//!
//! A name is `<lan>.<member>`, where `<lan>` is `u7s-<pid>-<start time>-<number>` for tests: so its owner can be
//! recognized, also after its pid went to another process. A node that shall stay has the lan `u7s-keep`.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Error;
use crate::cgroup::{self, Cgroup};

const PREFIX: &str = "u7s-";
/// The lan of nodes that outlive the process which made them.
pub(crate) const KEEP: &str = "u7s-keep";

/// A name that no other lan has.
pub(crate) fn new_lan() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let pid = std::process::id();
    let start = start_time(pid).unwrap_or_default();
    format!("{PREFIX}{pid}-{start}-{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// The name of a member of a lan.
pub(crate) fn member(lan: &str, name: &str) -> String {
    format!("{lan}.{name}")
}

/// The directory of a lan's nodes, on the file system of the cache, where the node tree can be copied fast.
pub(crate) fn lan_dir(lan: &str) -> Result<PathBuf, Error> {
    Ok(u7s_kit::cache_dir()?.join("nodes").join(lan))
}

/// Removes what runs left whose process is no more: processes, cgroups and trees.
///
/// Network namespaces end by themselves with the processes that hold them.
///
/// Tolerant: another run may sweep the same at this moment, and what cannot be removed now is tried again next time.
pub(crate) fn sweep() {
    let cgroups: Vec<String> =
        cgroup::top_level().unwrap_or_default().into_iter().filter(|name| is_dead(name)).collect();
    for name in &cgroups {
        let _ = Cgroup::named(name).and_then(|cgroup| cgroup.destroy());
    }
    let Ok(nodes) = u7s_kit::cache_dir().map(|cache| cache.join("nodes")) else { return };
    for entry in fs::read_dir(nodes).into_iter().flatten().flatten() {
        if is_dead(&entry.file_name().to_string_lossy()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Members of a lan as the machine knows them: those with a directory.
pub(crate) fn members(lan: &str) -> Result<BTreeSet<String>, Error> {
    let entries = fs::read_dir(lan_dir(lan)?).into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(dirs.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

/// True for a name of ours whose process has ended.
fn is_dead(name: &str) -> bool {
    owner(name).is_some_and(|(pid, start)| start_time(pid) != Some(start))
}

/// The (pid, start time) in a name.
fn owner(name: &str) -> Option<(u32, u64)> {
    let lan = name.split('.').next()?;
    let mut parts = lan.strip_prefix(PREFIX)?.split('-');
    let owner = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let _number: u32 = parts.next()?.parse().ok()?;
    parts.next().is_none().then_some(owner)
}

/// When a process started, in clock ticks after boot: field 22 of proc_pid_stat(5).
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is in parentheses and may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// `Ok` when there is no such process, or only its exit status; else its state.
pub(crate) fn is_gone(pid: u32) -> Result<(), String> {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return Ok(()) };
    let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    if rest.starts_with(['Z', 'X']) { Ok(()) } else { Err(format!("state {rest:.1}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_names_are_alive() {
        let name = new_lan();
        assert!(!is_dead(&name), "{name}");
        assert!(!is_dead(&member(&name, "n1")));
        assert_ne!(name, new_lan());
    }

    #[test]
    fn a_reused_pid_does_not_keep_the_dead_alive() {
        assert!(is_dead(&format!("u7s-{}-1-0.n1", std::process::id())));
        assert!(is_dead("u7s-4194305-7-0"));
    }

    #[test]
    fn names_of_others_are_left_alone() {
        for name in ["u7s-keep", "u7s-keep.n1", "u7s-1-2-3-4", "u7s-x-1-0", "system.slice", "u7s.slice"] {
            assert!(!is_dead(name), "{name}");
        }
    }
}
