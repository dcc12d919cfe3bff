//! An archive for whoever helps: facts, logs and states of the node, without secrets.
//!
//! Programs of root's fixed path tell most of it; of the node's user's tree only two files are read, as data, through no
//! link. Every text passes [`u7s_plan::redact`] before it is written.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use serde_json::Value;
use u7s_plan::health::Seen;
use u7s_plan::{host, printable, redact};

use crate::child::Job;
use crate::error::Error;
use crate::files;
use crate::programs;

mod tar;

/// How long each program may take.
const DEADLINE: Duration = Duration::from_secs(15);

/// What is kept of each program's output, bytes.
const KEPT: usize = 8 << 20;

/// One member of the archive: its name and text, not yet redacted.
pub type Member = (String, String);

/// What each program is asked: name of the member, program, arguments.
///
/// `systemctl show` names its properties: the environment is not among them.
const QUESTIONS: [(&str, &str, &[&str]); 10] = [
    (
        "unit.txt",
        "systemctl",
        &[
            "show",
            "u7s.service",
            "--property=ActiveState,SubState,Result,StatusText,MainPID,NRestarts,ExecMainStartTimestamp,ExecMainStatus,MemoryCurrent,TasksCurrent,DropInPaths,FragmentPath,Delegate,DelegateControllers,ControlGroup",
        ],
    ),
    ("unit-files.txt", "systemctl", &["cat", "u7s.service"]),
    (
        "journal.txt",
        "journalctl",
        &["--no-pager", "--unit=u7s.service", "--lines=5000", "--output=short-iso-precise"],
    ),
    (
        "journal-kernel.txt",
        "journalctl",
        &["--no-pager", "--dmesg", "--lines=300", "--output=short-iso-precise"],
    ),
    ("nft-table.txt", "nft", &["list", "table", "inet", "u7s"]),
    ("addresses.txt", "ip", &["address"]),
    ("routes.txt", "ip", &["route"]),
    ("disk.txt", "df", &["-h", "-x", "tmpfs"]),
    ("uname.txt", "uname", &["-a"]),
    ("cgroups.txt", "systemd-cgls", &["--no-pager", "--unit", "u7s.service"]),
];

/// Everything that is asked of programs and files, beside what the caller has already.
#[must_use]
pub fn gather(seen: &Seen) -> Vec<Member> {
    let mut members: Vec<Member> =
        QUESTIONS.iter().map(|(name, program, args)| ((*name).to_owned(), said(program, args))).collect();
    let mut file = |name: &str, path: &Path| {
        let text = match files::read_text(path, files::LIMIT) {
            Ok(Some(text)) => text,
            Ok(None) => "(is not there)\n".to_owned(),
            Err(error) => format!("(not read: {error})\n"),
        };
        members.push((name.to_owned(), text));
    };
    for (name, path) in [
        ("os-release.txt", "/usr/lib/os-release"),
        ("cgroup-controllers.txt", "/sys/fs/cgroup/cgroup.controllers"),
        ("mounts-host.txt", "/proc/1/mountinfo"),
    ] {
        file(name, Path::new(path));
    }
    if let Some(status) = &seen.status {
        // By number: the pid may be another's by now, whose mounts are no secret either.
        file("mounts-node.txt", &PathBuf::from(format!("/proc/{}/mountinfo", status.init_pid)));
    }
    let home = seen.facts.user.as_ref().map_or_else(|| PathBuf::from(host::HOME), |user| user.home.clone());
    for name in ["config.yaml", "kubeadm-flags.env"] {
        file(&format!("kubelet/{name}"), &host::tree(&home).join("kubelet").join(name));
    }
    members
}

fn said(program: &str, args: &[&str]) -> String {
    let path = match programs::needed(program) {
        Ok(path) => path,
        Err(error) => return format!("(not asked: {error})\n"),
    };
    let job = Job { deadline: DEADLINE, kept: KEPT, ..Job::new(&path, args) };
    match job.run() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            if errors.is_empty() { text } else { format!("{text}\n(standard error)\n{errors}") }
        }
        Err(error) => format!("(not asked: {error})\n"),
    }
}

/// Facts that a stranger may see: not the host's users, not its packet filter.
#[must_use]
pub fn facts(facts: &u7s_plan::facts::Facts) -> Value {
    let mut value = serde_json::to_value(facts).unwrap_or_default();
    for (field, count) in [("users", facts.users.len()), ("hosts", facts.hosts.lines().count())] {
        value[field] = count.into();
    }
    value["firewall"]["rules"] = facts.firewall.rules.as_ref().map(Vec::len).into();
    let own = |text: &str| -> String {
        let is_own = |line: &&str| line.starts_with(&format!("{}:", host::USER));
        text.lines().filter(is_own).collect::<Vec<_>>().join("\n")
    };
    value["subuid"] = own(&facts.subuid).into();
    value["subgid"] = own(&facts.subgid).into();
    value
}

/// Writes the archive as a new file, 0600.
///
/// # Errors
/// `Write`: something lies there already, a link included, or the disk is full; then nothing of ours is left there.
pub fn write(path: &Path, members: &[Member], now: u64) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)
        .map_err(failed)?;
    let written = put(file, members, now);
    if written.is_err() {
        let _ = std::fs::remove_file(path);
    }
    written.map_err(failed)
}

fn put(mut file: File, members: &[Member], now: u64) -> std::io::Result<()> {
    for (name, text) in members {
        // Who helps reads it on a terminal.
        let clean = if name.ends_with(".json") {
            printable::json(&json(text))
        } else {
            printable::printable(&redact::text(text))
        };
        file.write_all(&tar::member(&format!("u7s-support/{name}"), clean.as_bytes(), now))?;
    }
    file.write_all(&tar::END)?;
    file.sync_all()
}

/// A document is redacted by its fields; one that is none is a text.
fn json(text: &str) -> String {
    match serde_json::from_str::<Value>(text) {
        Ok(mut value) => {
            redact::document(&mut value);
            format!("{value:#}\n")
        }
        Err(_) => redact::text(text),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn s12_the_archive_is_new_closed_and_without_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tar");
        let members = [
            ("a.txt".to_owned(), "token=CANARY\nrest\n\u{1b}[2J".to_owned()),
            ("b.json".to_owned(), r#"{"env":{"X":"CANARY"}}"#.to_owned()),
        ];
        write(&path, &members, 1_700_000_000).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(
            text.contains("u7s-support/a.txt")
                && text.contains("rest\n\\u{1b}[2J")
                && !text.contains("CANARY"),
            "{text}"
        );
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(write(&path, &members, 0).is_err(), "what is there stays");
        let link = dir.path().join("link.tar");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &link).unwrap();
        assert!(write(&link, &members, 0).is_err() && !dir.path().join("elsewhere").exists());
    }

    #[test]
    fn facts_for_strangers_do_not_name_the_hosts_users() {
        let seen = u7s_plan::facts::Facts {
            users: vec![("alice".into(), 1000)],
            subuid: "alice:100000:65536\nu7s-admin:165536:65536\n".into(),
            hosts: "127.0.0.1 localhost secret-host\n".into(),
            ..u7s_plan::facts::Facts::default()
        };
        let text = facts(&seen).to_string();
        assert!(
            !text.contains("alice") && !text.contains("secret-host") && text.contains("u7s-admin:165536"),
            "{text}"
        );
    }
}
