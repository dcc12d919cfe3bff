//! What the kernel says about a process.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// One field of /proc/PID/status.
pub(crate) fn status(pid: i32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let prefix = format!("{field}:\t");
    text.lines()
        .find_map(|line| line.strip_prefix(&prefix))
        .unwrap_or_else(|| panic!("no {field} of {pid}"))
        .to_owned()
}

/// The effective, permitted, inheritable and ambient sets, in this order.
pub(crate) fn capabilities(pid: i32) -> [u64; 4] {
    ["CapEff", "CapPrm", "CapInh", "CapAmb"]
        .map(|field| u64::from_str_radix(&status(pid, field), 16).unwrap())
}

/// A map with single blanks.
pub(crate) fn map(pid: i32, kind: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/{kind}")).unwrap();
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// The namespace that a process is in: `net:[4026531840]`.
pub(crate) fn namespace(pid: i32, kind: &str) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap()
}

/// Name in the cgroup2 hierarchy.
pub(crate) fn cgroup(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned()
}

/// All processes of a user, zombies left out.
pub(crate) fn of_user(uid: u32) -> Vec<(i32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(text) = fs::read_to_string(entry.path().join("status")) else { continue };
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
        };
        let owner: Option<u32> = field("Uid:").split_whitespace().next().and_then(|uid| uid.parse().ok());
        if owner == Some(uid) && !field("State:").starts_with('Z') {
            found.push((pid, field("Name:")));
        }
    }
    found
}

/// Polls until `condition` gives something; panics with `what` after `limit`.
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + limit;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < until, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
