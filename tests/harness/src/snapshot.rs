//! What is in a node at one moment, so that a test can say what an init and a reset have left.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::{Error, Node};

/// Files up to this size, outside `/usr`, are compared by content; others by size and time of change.
const HASHED_BYTES: u64 = 64 << 10;

/// Entries that start with one of these are left out, each for its reason.
const IGNORED: &[(&str, &str)] = &[
    (
        "file /run/systemd/",
        "systemd's own state; units and drop-ins below /run/systemd/system are kept, see KEPT",
    ),
    ("file /run/log/journal", "the journal"),
    ("file /run/dbus", "the bus"),
    ("file /run/netns", "made by ip(8), empty when unused"),
    ("file /run/lock", "locks of programs that have ended"),
    ("file /run/utmp", "logins"),
    ("file /run/xtables.lock", "iptables leaves its lock"),
    ("file /dev/", "the node's own; devices are not u7s's to make"),
    ("file /tmp/systemd-private", "PrivateTmp= of running units"),
    ("file /var/tmp/systemd-private", "PrivateTmp= of running units"),
    ("file /var/log/", "logs stay after a reset, by kubeadm's custom too"),
    ("file /var/lib/systemd/", "timers, random seed, catalog"),
    ("file /var/cache/", "ldconfig and others rebuild it"),
    ("file /var/.updated", "systemd's stamp"),
    ("file /etc/.updated", "systemd's stamp"),
    ("file /etc/.pwd.lock", "lock of the account files"),
    ("file /etc/machine-id", "committed by systemd after the first boot"),
    ("mount /run/user", "a login session"),
    ("mount /run/credentials", "credentials of units that are starting"),
    ("unit-file run-", "named after a pid"),
    ("unit run-", "named after a pid"),
    ("unit systemd-hostnamed.service", "started by the bus on request, ends by itself"),
    ("unit systemd-timedated.service", "started by the bus on request, ends by itself"),
    ("unit systemd-localed.service", "started by the bus on request, ends by itself"),
    ("unit systemd-tmpfiles-clean.service", "runs by timer"),
    ("unit network-online.target", "stays active once a unit that waits for the network was started"),
    ("unit user", "login sessions"),
    ("unit session", "login sessions"),
    ("cgroup /exec", "the harness's own commands"),
    ("cgroup /user.slice", "login sessions"),
    ("cgroup /system.slice/systemd-", "systemd's helpers come and go"),
    ("sysctl kernel/random/", "changes by itself"),
    ("sysctl kernel/ns_last_pid", "changes by itself"),
    ("sysctl kernel/pty/nr", "changes by itself"),
    ("sysctl kernel/tainted", "the machine's"),
    ("sysctl kernel/hung_task_detect_count", "counts what hangs anywhere on the machine"),
    ("sysctl kernel/hung_task_warnings", "counts what hangs anywhere on the machine"),
    ("sysctl fs/dentry-state", "changes by itself"),
    ("sysctl fs/file-nr", "changes by itself"),
    ("sysctl fs/inode-", "changes by itself"),
    ("sysctl fs/aio-nr", "changes by itself"),
    ("sysctl fs/quota/", "changes by itself"),
    ("sysctl net/netfilter/nf_conntrack_count", "changes by itself"),
];

/// Exceptions from [`IGNORED`].
const KEPT: &[&str] = &[
    "file /run/systemd/system",
    "file /run/systemd/generator",
    "file /var/log/pods",
    "file /var/log/containers",
];

/// Pseudo file systems that hold no files of anybody.
const SYSCTLS: &str = "cd /proc/sys && grep -rs '' fs kernel net user vm || true";

/// Owner, mode, type and content of files; mounts; listening ports; units; cgroups; packet filter; sysctls.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// "file /etc/hosts" to "f 644 0:0 56 HASH", "port tcp 0.0.0.0:22" to "", and so on.
    entries: BTreeMap<String, String>,
}

impl Snapshot {
    pub(crate) fn take(node: &Node) -> Result<Self, Error> {
        let mut snapshot = Self::default();
        snapshot.mounts(node)?;
        snapshot.files(node)?;
        for line in node.ok(&["ss", "-Hltun"])?.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [protocol, _, _, _, local, ..] = words[..] {
                snapshot.add(format!("port {protocol} {local}"), String::new());
            }
        }
        snapshot.units(node)?;
        for cgroup in node.cgroup.below() {
            snapshot.add(format!("cgroup {cgroup}"), String::new());
        }
        for (name, text) in tables(&node.ok(&["nft", "-s", "list", "ruleset"])?) {
            snapshot.add(format!("nft {name}"), text);
        }
        for line in node.ok(&["sh", "-c", SYSCTLS])?.lines() {
            if let Some((name, value)) = line.split_once(':') {
                snapshot.add(format!("sysctl {name}"), value.into());
            }
        }
        Ok(snapshot)
    }

    /// What `later` has that this has not ("+"), the reverse ("-"), and what changed ("~"); empty if they are the same.
    #[must_use]
    pub fn diff(&self, later: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, old) in &self.entries {
            match later.entries.get(name) {
                None => lines.push(format!("- {name} {old}")),
                Some(new) if new != old => lines.push(format!("~ {name}: {old} -> {new}")),
                Some(_) => {}
            }
        }
        let added = later.entries.iter().filter(|(name, _)| !self.entries.contains_key(*name));
        lines.extend(added.map(|(name, new)| format!("+ {name} {new}")));
        lines
    }

    /// How many things it holds; a snapshot of a booted node has thousands.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if nothing was seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Several values of one name (lines of a sysctl, stacked mounts) are joined.
    fn add(&mut self, name: String, value: String) {
        if is_ignored(&name) {
            return;
        }
        let entry = self.entries.entry(name).or_default();
        if !entry.is_empty() {
            entry.push_str(" | ");
        }
        entry.push_str(&value);
    }

    fn mounts(&mut self, node: &Node) -> Result<(), Error> {
        for mount in mounts_of(node)? {
            self.add(format!("mount {}", mount.point), format!("{} {}", mount.kind, mount.options));
        }
        Ok(())
    }

    fn units(&mut self, node: &Node) -> Result<(), Error> {
        let list =
            |what: &str| node.ok(&["systemctl", what, "--all", "--plain", "--no-legend", "--no-pager"]);
        for line in list("list-unit-files")?.lines() {
            if let [unit, state, ..] = line.split_whitespace().collect::<Vec<_>>()[..] {
                self.add(format!("unit-file {unit}"), state.into());
            }
        }
        for line in list("list-units")?.lines() {
            // Inactive units are forgotten and remembered as systemd likes.
            if let [unit, load, active, sub, ..] = line.split_whitespace().collect::<Vec<_>>()[..]
                && active != "inactive"
            {
                self.add(format!("unit {unit}"), format!("{load} {active} {sub}"));
            }
        }
        Ok(())
    }

    /// The tree and every tmpfs in it; nothing below other mounts.
    fn files(&mut self, node: &Node) -> Result<(), Error> {
        let root = format!("/proc/{}/root", node.pid1()?);
        let is_foreign =
            |mount: &Mount| mount.kind != "tmpfs" && !["/", "/usr"].contains(&mount.point.as_str());
        let foreign: Vec<String> =
            mounts_of(node)?.into_iter().filter(is_foreign).map(|mount| mount.point).collect();
        let mut open = vec![String::new()];
        while let Some(dir) = open.pop() {
            // What vanishes while we look was not there to stay.
            let Ok(entries) = fs::read_dir(format!("{root}{dir}/")) else { continue };
            for entry in entries.flatten() {
                let path = format!("{dir}/{}", entry.file_name().to_string_lossy());
                let Ok(meta) = entry.metadata() else { continue };
                if foreign.contains(&path) {
                    continue;
                }
                let record = describe(&entry.path(), &path, &meta);
                if meta.is_dir() {
                    open.push(path.clone());
                }
                self.add(format!("file {path}"), record);
            }
        }
        Ok(())
    }
}

struct Mount {
    point: String,
    kind: String,
    options: String,
}

fn mounts_of(node: &Node) -> Result<Vec<Mount>, Error> {
    let path = format!("/proc/{}/mountinfo", node.pid1()?);
    let text = fs::read_to_string(&path).map_err(Error::file("reading", path))?;
    Ok(text.lines().filter_map(parse_mount).collect())
}

/// Source: proc_pid_mountinfo(5).
fn parse_mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(4);
    let (point, options) = (left.next()?.to_string(), left.next()?.to_string());
    Some(Mount { point, options, kind: right.split(' ').next()?.to_string() })
}

fn describe(place: &Path, path: &str, meta: &Metadata) -> String {
    let kind = meta.file_type();
    let (letter, content) = if kind.is_symlink() {
        ("l", fs::read_link(place).map(|target| target.display().to_string()).unwrap_or_default())
    } else if kind.is_dir() {
        ("d", String::new())
    } else if kind.is_file() {
        ("f", content_of(place, path, meta))
    } else if kind.is_char_device() || kind.is_block_device() {
        ("n", meta.rdev().to_string())
    } else {
        (if kind.is_socket() { "s" } else { "p" }, String::new())
    };
    format!("{letter} {:o} {}:{} {content}", meta.mode() & 0o7777, meta.uid(), meta.gid())
}

fn content_of(place: &Path, path: &str, meta: &Metadata) -> String {
    let size = meta.len();
    if size > HASHED_BYTES || path.starts_with("/usr/") {
        return format!("{size} changed {}.{}", meta.mtime(), meta.mtime_nsec());
    }
    let digest = Sha256::digest(fs::read(place).unwrap_or_default());
    let short: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{size} {short}")
}

/// Splits `nft list ruleset` into its tables.
fn tables(ruleset: &str) -> Vec<(String, String)> {
    let mut tables: Vec<(String, String)> = Vec::new();
    for line in ruleset.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix("table ") {
            tables.push((name.trim_end_matches(['{', ' ']).to_string(), String::new()));
        } else if let Some((_, text)) = tables.last_mut() {
            *text += line.trim();
            *text += ";";
        }
    }
    tables
}

fn is_ignored(name: &str) -> bool {
    IGNORED.iter().any(|(prefix, _)| name.starts_with(prefix))
        && !KEPT.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(entries: &[(&str, &str)]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        entries.iter().for_each(|(name, value)| snapshot.add((*name).into(), (*value).into()));
        snapshot
    }

    #[test]
    fn a_difference_is_told_in_both_directions() {
        let before = snapshot(&[("file /a", "1"), ("file /b", "1"), ("file /c", "1")]);
        let after = snapshot(&[("file /b", "2"), ("file /c", "1"), ("port tcp *:1", "")]);
        assert_eq!(before.diff(&after), ["- file /a 1", "~ file /b: 1 -> 2", "+ port tcp *:1 "]);
        assert!(before.diff(&before).is_empty());
    }

    #[test]
    fn the_journal_is_ignored_but_drop_ins_are_not() {
        let seen = snapshot(&[
            ("file /run/systemd/journal/x", ""),
            ("file /run/systemd/system/u7s.service.d/x.conf", ""),
        ]);
        assert_eq!(seen.len(), 1);
    }

    #[test]
    fn tables_of_nft() {
        let text = "table inet u7s {\n\tchain a {\n\t}\n}\ntable ip nat {\n}\n";
        assert_eq!(
            tables(text),
            [("inet u7s".into(), "chain a {;};};".to_string()), ("ip nat".into(), "};".into())]
        );
    }

    #[test]
    fn a_mount_line() {
        let mount = parse_mount("41 31 0:38 / /run rw,nosuid shared:9 - tmpfs tmpfs rw,mode=755").unwrap();
        assert_eq!(
            (mount.point.as_str(), mount.options.as_str(), mount.kind.as_str()),
            ("/run", "rw,nosuid", "tmpfs")
        );
    }
}
