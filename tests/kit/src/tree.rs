//! The node tree: a small Debian that boots systemd in plain namespaces.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::store::{Job, Store};
use crate::{Error, debian};

pub(crate) const SUITE: &str = "trixie";

/// What a node has from its distribution: systemd, what u7s requires, what kubeadm's preflight and CRI-O look for, and
/// tools that tests use inside.
pub(crate) const PACKAGES: &[&str] = &[
    // the system
    "systemd",
    "systemd-sysv",
    "dbus",
    "procps",
    "kmod",
    "mount",
    "util-linux",
    "iproute2",
    "less",
    // u7s and CRI-O; netavark only because skopeo's configuration package wants one of its kind
    "slirp4netns",
    "crun",
    "conmon",
    "uidmap",
    "skopeo",
    "netavark",
    "libsqlite3-0",
    "libseccomp2",
    // kubeadm's preflight, kube-proxy
    "iptables",
    "nftables",
    "conntrack",
    "ipset",
    "ethtool",
    "ebtables",
    "socat",
    "ca-certificates",
    // tests
    "busybox-static",
    "iputils-ping",
    "curl",
    "strace",
    "openssl",
    "netcat-openbsd",
    "rpm",
];

/// Units that would do things of their own while a test looks on, or want hardware.
const MASKED: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "systemd-tmpfiles-clean.timer",
    "console-getty.service",
    "getty@tty1.service",
    "getty-static.service",
    "systemd-pstore.service",
    "systemd-firstboot.service",
    "netavark-dhcp-proxy.service",
    "netavark-dhcp-proxy.socket",
    "netavark-firewalld-reload.service",
];

/// What only costs time when a tree is copied.
const BALLAST: &[&str] = &[
    "var/cache/apt",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "var/log/apt",
    "var/log/bootstrap.log",
    "var/log/dpkg.log",
];

/// Gives the directory of the tree's root, after it was bootstrapped if the cache did not have it.
pub(crate) fn ensure(store: &Store<'_>) -> Result<PathBuf, Error> {
    let inputs = [SUITE.to_string(), PACKAGES.join(" "), MASKED.join(" "), BALLAST.join(" ")];
    store.entry("tree", &inputs.each_ref().map(String::as_bytes), build)
}

fn build(job: &Job<'_>) -> Result<(), Error> {
    bootstrap(job, &job.dir, &[])?;
    settle(&job.dir)?;
    // Sysctls outside net/ are the machine's: a booting node must not set them.
    remove_files(&job.dir.join("usr/lib/sysctl.d"))
}

/// A Debian with the packages of a node, and `more`, in the directory `root`.
pub(crate) fn bootstrap(job: &Job<'_>, root: &Path, more: &[&str]) -> Result<(), Error> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::Missing {
            what: "root, to bootstrap the node tree".into(),
            remedy: "run it with sudo".into(),
        });
    }
    debian::require(&["debootstrap", "debian-archive-keyring", "util-linux"], &|line| job.log.say(line))?;
    let mirror = debian::mirror()?;
    let limit = Duration::from_secs(900);
    let mut debootstrap = isolated();
    debootstrap.args(["debootstrap", "--variant=minbase", SUITE]).arg(root).arg(&mirror);
    job.log.run("bootstrap the node tree", limit, &mut debootstrap)?;
    // debootstrap does not understand virtual packages; apt does.
    let mut apt = within(root);
    apt.args(["apt-get", "-q", "-y", "install", "--no-install-recommends"]).args(PACKAGES).args(more);
    job.log.run("install packages into the node tree", limit, &mut apt)
}

/// A command line in a tree, to be completed.
pub(crate) fn within(root: &Path) -> Command {
    let mut command = isolated();
    command.arg("chroot").arg(root);
    command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// The version of an installed package.
///
/// Source: dpkg's status file: paragraphs of "Field: value".
pub(crate) fn version_of(root: &Path, package: &str) -> Option<String> {
    let status = fs::read_to_string(root.join("var/lib/dpkg/status")).ok()?;
    let name = format!("Package: {package}");
    let paragraph = status.split("\n\n").find(|paragraph| paragraph.lines().any(|line| line == name))?;
    paragraph.lines().find_map(|line| line.strip_prefix("Version: ")).map(String::from)
}

/// Its own mounts end with the command, so that none is left in a tree that gets removed.
fn isolated() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--"]);
    command
}

/// Removes ballast, masks units, takes its identity away.
pub(crate) fn settle(root: &Path) -> Result<(), Error> {
    for name in BALLAST {
        let path = root.join(name);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        if path.exists() {
            removed.map_err(Error::file("removing", &path))?;
        }
    }
    for unit in MASKED {
        let link = root.join("etc/systemd/system").join(unit);
        std::os::unix::fs::symlink("/dev/null", &link).map_err(Error::file("linking", link))?;
    }
    for name in ["lib/modules", "var/cache/apt/archives/partial", "var/lib/apt/lists/partial"] {
        let path = root.join(name);
        fs::create_dir_all(&path).map_err(Error::file("making", path))?;
    }
    let id = root.join("etc/machine-id");
    fs::write(&id, "").map_err(Error::file("writing", id))
}

fn remove_files(dir: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(Error::file("listing", dir))? {
        let path = entry.map_err(Error::file("listing", dir))?.path();
        fs::remove_file(&path).map_err(Error::file("removing", path))?;
    }
    Ok(())
}
