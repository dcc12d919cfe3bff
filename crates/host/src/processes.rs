//! Processes of the node, wherever on the host they live: by their ids, and by their cgroup.
//!
//! Only /proc/PID/status and /proc/PID/cgroup are read: both answer even for a process that hangs in a file system.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use u7s_plan::facts::UserFact;
use u7s_plan::subid::{self, Range};
use u7s_sys::pidfd;

use crate::child::printable;
use crate::enter::as_user;
use crate::files;
use crate::probe;

/// The most that is read of a file of /proc, bytes.
const LIMIT: u64 = 64 << 10;

/// How long the child that signals all processes of one id may take.
const SIGNALLING: Duration = Duration::from_secs(5);

/// The ids that a process of the node may have on the host: the user's own, and its subordinate ones.
///
/// Ids that root, another account or another user's range has as well are not among them: nobody else's process is touched.
#[derive(Debug, Clone)]
pub(crate) struct Ids {
    user: UserFact,
    ranges: Vec<Range>,
    others: Vec<Range>,
    accounts: BTreeSet<u32>,
}

/// A process that lives: not one that has ended and waits for its parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    /// Pid.
    pub(crate) pid: i32,
    /// Its name for itself, printable.
    pub(crate) name: String,
    /// Real uid.
    pub(crate) uid: u32,
    /// State letter of proc_pid_status(5).
    pub(crate) state: char,
    /// Its cgroup v2, as in /proc/PID/cgroup.
    cgroup: String,
}

impl Ids {
    /// Of the node's user, from /etc/subuid and what init wrote to node.json.
    pub(crate) fn of(user: &UserFact, name: &str) -> Self {
        let text = files::read(Path::new("/etc/subuid"), 64 << 20).ok().flatten();
        let text = String::from_utf8_lossy(&text.map(|file| file.bytes).unwrap_or_default()).into_owned();
        let (mut ranges, others) = subid::claims(&text, name, user.uid);
        let node = probe::node().ok().flatten();
        let mapped = node.iter().filter(|node| node.user.uid == user.uid).flat_map(|node| &node.uid_map);
        ranges.extend(mapped.map(|extent| Range { start: extent.outside, count: extent.count }));
        let accounts = probe::users().into_iter().map(|(_, uid)| uid).filter(|uid| *uid != user.uid);
        Self { user: user.clone(), ranges, others, accounts: accounts.collect() }
    }

    /// Whether this id is the node's alone.
    pub(crate) fn contains(&self, uid: u32) -> bool {
        let holds = |ranges: &[Range]| {
            ranges.iter().any(|range| uid >= range.start && uid - range.start < range.count)
        };
        uid != 0
            && (uid == self.user.uid
                || (holds(&self.ranges) && !holds(&self.others) && !self.accounts.contains(&uid)))
    }

    /// All processes that have one of these ids as any of their four.
    pub(crate) fn processes(&self) -> Vec<Process> {
        all(|process, uids| uids.iter().any(|uid| self.contains(*uid)).then_some(process))
    }

    /// Sends SIGKILL to every process of these ids: one by one, and all of an id at once, so that none forks out of reach.
    ///
    /// Must only be called while this process has one thread.
    pub(crate) fn kill(&self, processes: &[Process]) {
        for process in processes {
            // The pid may be another process' by now: it is looked at again once it is held.
            if let Ok(held) = pidfd::open(process.pid)
                && status(process.pid).is_some_and(|(_, uids)| uids.iter().any(|uid| self.contains(*uid)))
            {
                let _ = pidfd::signal(held.as_fd(), Some(Signal::SIGKILL));
            }
        }
        let uids: BTreeSet<u32> =
            processes.iter().map(|process| process.uid).filter(|uid| self.contains(*uid)).collect();
        for uid in uids.into_iter().take(64) {
            let user = UserFact { uid, ..self.user.clone() };
            // It has dropped to that id for good, so the kernel lets it reach no other. It may be killed itself meanwhile.
            let _ = as_user(&user, SIGNALLING, || kill(Pid::from_raw(-1), Signal::SIGKILL).is_ok());
        }
    }
}

/// Processes in a cgroup or below it; `group` as systemd's `ControlGroup` has it.
pub(crate) fn in_cgroup(group: &str) -> Vec<Process> {
    let below = format!("{group}/");
    all(|process, _| (process.cgroup == group || process.cgroup.starts_with(&below)).then_some(process))
}

/// `123 (evil, uid 996), 124 (…)`: at most five.
pub(crate) fn list(processes: &[Process]) -> String {
    let shown: Vec<String> = processes.iter().take(5).map(ToString::to_string).collect();
    let more = if processes.len() > 5 { format!(" and {} more", processes.len() - 5) } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

impl std::fmt::Display for Process {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} ({}, uid {}, {})", self.pid, self.name, self.uid, self.state)
    }
}

fn all(wanted: impl Fn(Process, &[u32]) -> Option<Process>) -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| status(pid).and_then(|(process, uids)| wanted(process, &uids))).collect()
}

/// A process and its four uids; `None` if it has ended.
///
/// One whose first thread has ended while others live is in state Z as well.
///
/// Source: proc_pid_status(5): `Name`, `State`, `Uid`, `Threads`; proc_pid_cgroup(5): the line of hierarchy 0.
fn status(pid: i32) -> Option<(Process, Vec<u32>)> {
    let text = text(&format!("/proc/{pid}/status"))?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    let uids: Vec<u32> = field("Uid")?.split_ascii_whitespace().filter_map(|id| id.parse().ok()).collect();
    let state = field("State")?.chars().next()?;
    let threads: u32 = field("Threads").and_then(|count| count.trim().parse().ok()).unwrap_or(1);
    if state == 'X' || (state == 'Z' && threads <= 1) {
        return None;
    }
    let cgroup = self::text(&format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let cgroup = cgroup.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default().to_owned();
    let name = printable(field("Name").unwrap_or_default());
    Some((Process { pid, name, uid: *uids.first()?, state, cgroup }, uids))
}

fn text(path: &str) -> Option<String> {
    let bytes = files::read_named(Path::new(path), LIMIT).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> Ids {
        let range = |start, count| Range { start, count };
        Ids {
            user: UserFact { uid: 996, ..UserFact::default() },
            ranges: vec![range(524_288, 65_536)],
            others: vec![range(524_300, 10)],
            accounts: BTreeSet::from([524_400]),
        }
    }

    #[test]
    fn ids_of_the_node_are_its_users_and_the_subordinate_ones_that_nobody_else_has() {
        for id in [996, 524_288, 524_299, 524_310, 589_823] {
            assert!(ids().contains(id), "{id}");
        }
        for id in [0, 1, 995, 524_287, 524_300, 524_309, 524_400, 589_824, u32::MAX] {
            assert!(!ids().contains(id), "{id}");
        }
    }

    #[test]
    fn this_process_is_found_by_its_cgroup_and_a_zombie_is_no_process() {
        let own = i32::try_from(std::process::id()).unwrap();
        let (process, uids) = status(own).unwrap();
        assert_eq!(uids.first(), Some(&process.uid));
        assert!(in_cgroup(&process.cgroup).iter().any(|seen| seen.pid == own));
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while status(pid).is_some() {
            assert!(std::time::Instant::now() < end);
            std::thread::sleep(Duration::from_millis(5));
        }
        child.wait().unwrap();
    }

    #[test]
    fn processes_are_named_five_at_most() {
        let process = |pid| Process { pid, name: "x".into(), uid: 996, state: 'S', cgroup: String::new() };
        let many: Vec<Process> = (1..=7).map(process).collect();
        assert_eq!(list(&many[..1]), "1 (x, uid 996, S)");
        assert!(list(&many).ends_with("5 (x, uid 996, S) and 2 more"));
    }
}
