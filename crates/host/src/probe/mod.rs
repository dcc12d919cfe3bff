//! Looks at the machine: every fact that a plan is made from, without judgement and without changing anything.
//!
//! Reads are bounded, programs are given a deadline. What cannot be read is left empty: preflight names it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use u7s_plan::config::Config;
use u7s_plan::facts::{Facts, UnitFact};
use u7s_plan::host;

use crate::error::Error;
use crate::files;
use crate::systemd::Systemd;

mod cluster;
mod documents;
mod firewall;
mod listeners;
mod machine;
mod network;
mod standing;
mod tools;
mod trial;
mod users;

pub(crate) use cluster::{api_has, api_ready, kubelet, node_known};
pub use cluster::{configuration, kubeconfigs, stored};
pub use documents::{Patch, authored, document, document_of, node, patches};
pub(crate) use machine::{Modules, read_only, sysctl};
pub use standing::standing;
pub use trial::trial;
pub use users::find as user;
pub(crate) use users::{LINGER, users};

/// Tables of /proc and files of the same kind, for `tests/fuzz`.
#[cfg(feature = "fuzzing")]
pub fn fuzz_texts(text: &str) {
    listeners::fuzz(text);
    users::fuzz(text);
    machine::fuzz(text);
    tools::fuzz(text);
    let _ = unit_of(text, "u7s.service");
}

#[cfg(feature = "fuzzing")]
pub use {firewall::fuzz as fuzz_listing, network::fuzz as fuzz_dump, standing::fuzz as fuzz_node};

/// Sees all that [`Facts`] holds.
///
/// Works for root and for others: what only root may see (owners of sockets, state of the cluster) is then missing.
/// Takes as long as the slowest program takes to tell its version; each has 5 s, times the configured factor.
///
/// # Errors
/// `Netlink` alone: without routes nothing can be planned. Everything else that fails leaves its fact empty.
pub fn facts(config: &Config) -> Result<Facts, Error> {
    let deadline = Duration::from_secs(5) * config.timeout_factor.clamp(1, 100);
    let network = network::network()?;
    let tools = tools::tools(deadline);
    let systemd = systemd_facts();
    let running = systemd.unit.active == "active";
    let mut facts = Facts {
        euid: nix::unistd::geteuid().as_raw(),
        uplink: network.uplink,
        routes: network.routes,
        addresses: network.addresses,
        listeners: listeners::listeners(host::UNIT),
        programs: tools.programs,
        refused: tools.refused,
        versions: tools.versions,
        pause_image: tools.pause_image,
        cni_plugins: tools.cni_plugins,
        systemd: systemd.version,
        firewall: firewall::firewall(deadline),
        unit: systemd.unit,
        rootful: systemd.rootful,
        preload: preload(config),
        patches: names(Path::new(host::PATCHES_DIR)),
        ..Facts::default()
    };
    machine::fill(&mut facts);
    users::fill(&mut facts, &config.user);
    facts.cluster = cluster::cluster(facts.user.as_ref(), running, deadline);
    Ok(facts)
}

/// Sees only what a reboot may have changed on the machine: sysctls, modules, devices and the like, in a millisecond.
///
/// Runs no program and asks nobody: `u7s host-apply` stands in the way of every start of the unit.
#[must_use]
pub fn machine() -> Facts {
    let mut facts = Facts { euid: nix::unistd::geteuid().as_raw(), ..Facts::default() };
    machine::fill(&mut facts);
    facts
}

/// As [`machine`], with the users and their ids, the home and its disk.
#[must_use]
pub fn local(config: &Config) -> Facts {
    let mut facts = machine();
    users::fill(&mut facts, &config.user);
    facts
}

/// What systemd says; all empty if it does not answer.
#[derive(Debug, Default)]
struct SystemdFacts {
    version: u32,
    unit: UnitFact,
    rootful: Vec<String>,
}

/// Units of a rootful node: theirs and ours would fight for ports and directories.
const ROOTFUL: [&str; 2] = ["kubelet.service", "crio.service"];

fn systemd_facts() -> SystemdFacts {
    let Ok(systemd) = Systemd::connect() else { return SystemdFacts::default() };
    let unit = |name: &str| systemd.unit(name).map(|state| state.fact).unwrap_or_default();
    let active = |name: &&str| matches!(unit(name).active.as_str(), "active" | "activating" | "reloading");
    SystemdFacts {
        version: systemd.version().unwrap_or(0),
        unit: unit(host::UNIT),
        rootful: ROOTFUL.into_iter().filter(active).map(str::to_owned).collect(),
    }
}

/// Layouts and archives of images that only root can have put there.
#[must_use]
pub fn preload(config: &Config) -> Vec<PathBuf> {
    sources(&config.images.preload)
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let owned = |path: &Path| {
        let stat = files::stat(path).ok().flatten()?;
        (stat.st_uid == 0 && stat.st_mode & 0o022 == 0).then_some(())
    };
    let image = |path: &PathBuf| {
        path.join("index.json").is_file() || path.extension().is_some_and(|end| end == "tar")
    };
    if owned(dir).is_none() {
        return Vec::new();
    }
    let entries = names(dir).into_iter().map(|name| dir.join(name));
    // The directory itself may be one layout.
    let layouts = std::iter::once(dir.to_owned()).chain(entries);
    layouts.filter(|path| owned(path).is_some() && image(path)).collect()
}

/// Names in a directory, sorted; of more than [`files::MOST_NAMES`] any so many, which is enough to see that it is not
/// as it should be.
fn names(dir: &Path) -> Vec<String> {
    names_that(dir, &|_| true)
}

/// As [`names`], of those that are `wanted`.
fn names_that(dir: &Path, wanted: &dyn Fn(&str) -> bool) -> Vec<String> {
    let wanted = |name: &OsStr| name.to_str().is_some_and(wanted);
    let (names, _) = files::some(dir, files::MOST_NAMES, &wanted).unwrap_or_default();
    names.into_iter().filter_map(|name| name.into_string().ok()).collect()
}

/// Text of a file of the kernel or of root's, at most 1 MiB of it; empty if it cannot be read. Follows links.
fn text(path: impl AsRef<Path>) -> String {
    let bytes = files::read_named(path.as_ref(), files::LIMIT).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// As [`text`] for a file of /proc that may be larger: up to 64 MiB.
fn proc_text(path: &str) -> String {
    let bytes = files::read_named(Path::new(path), 64 << 20).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether a text of /proc/PID/cgroup lies in a unit.
fn unit_of(cgroup: &str, unit: &str) -> bool {
    cgroup
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .any(|path| path.split('/').any(|part| part == unit))
}

/// Whether `path` is an executable file.
fn executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_of_the_unit_is_told_from_one_that_only_looks_like_it() {
        let text = "4:pids:/x\n0::/system.slice/u7s.service/node/init\n";
        assert!(unit_of(text, "u7s.service"));
        assert!(!unit_of("0::/system.slice/not-u7s.service/x\n", "u7s.service"));
        assert!(!unit_of("0::/user.slice/u7s.service.d\n", "u7s.service"));
    }

    #[test]
    fn facts_of_this_machine_are_seen_without_root_or_systemd() {
        let facts = facts(&Config::default()).unwrap();
        assert_eq!(facts.euid, nix::unistd::geteuid().as_raw());
        assert!(facts.memory > 0 && facts.cpus > 0 && !facts.kernel.is_empty() && !facts.hostname.is_empty());
        assert!(facts.users.iter().any(|(name, uid)| name == "root" && *uid == 0));
        assert!(facts.programs.contains_key("kubeadm") && facts.devices.contains_key(Path::new(host::TUN)));
        assert!(!facts.inside);
    }

    #[test]
    fn preload_lists_layouts_and_archives_and_nothing_that_others_may_write() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let layout = dir.path().join("layout");
        fs::create_dir(&layout).unwrap();
        fs::write(layout.join("index.json"), "{}").unwrap();
        fs::write(dir.path().join("images.tar"), "").unwrap();
        fs::write(dir.path().join("README"), "").unwrap();
        let loose = dir.path().join("loose.tar");
        fs::write(&loose, "").unwrap();
        fs::set_permissions(&loose, fs::Permissions::from_mode(0o666)).unwrap();
        let expected = if nix::unistd::geteuid().is_root() {
            vec![dir.path().join("images.tar"), layout]
        } else {
            vec![]
        };
        assert_eq!(sources(dir.path()), expected);
        assert!(sources(&dir.path().join("none")).is_empty());
    }
}
