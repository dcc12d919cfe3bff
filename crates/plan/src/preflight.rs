//! Facts against needs: every unmet one at once, with kubeadm's ids where it has one, each with a remedy to paste.
//!
//! CPUs, memory, swap, kernel configuration and files in /etc/kubernetes are left to kubeadm's own preflight, which runs inside.

use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;
use semver::Version;

use crate::cni;
use crate::config::{Cni, Config};
use crate::conntrack;
use crate::facts::{Facts, Listener};
use crate::host;
use crate::kubeadm::Output;
use crate::kubeconfig;
use crate::need::{Level, Unmet};
use crate::node::{NodeSpec, Protocol};
use crate::yaml;

mod firewall;
mod ids;
mod network;
mod resolver;
mod room;
mod userns;

pub use firewall::needs as firewall_needs;
pub use resolver::resolver;
pub use room::space;
pub use userns::{ALLOW as ALLOW_USER_NAMESPACES, PROFILE as APPARMOR_PROFILE, forbidding};

/// cgroup controllers that `Delegate=` of u7s.service names.
pub const DELEGATED: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// Those without which limits of pods are lost.
const NEEDED_CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// Needs that can be ignored by name at a price: the node runs degraded, with the OCI adapter.
pub const DEGRADING: [&str; 2] = ["CgroupControllers", "OomScore"];

/// Needs without which there is no node: `--ignore-preflight-errors` does not help.
pub const NEVER_IGNORED: [&str; 21] = [
    "IsPrivilegedUser",
    "Unit",
    "CgroupVersion",
    "DefaultRoute",
    "ResolvConf",
    "Subids",
    "SubidOverlap",
    "Tun",
    "UserNamespaces",
    "EtcdDataDir",
    "LowPort",
    "FileExisting-kubeadm",
    "FileExisting-kubelet",
    "FileExisting-kubectl",
    "FileExisting-crio",
    "FileExisting-conmon",
    "FileExisting-crun",
    "FileExisting-slirp4netns",
    "FileExisting-nft",
    "KubeadmVersion",
    "Firewall",
];

/// The oldest kernel that is supported: overlay in user namespaces (5.11), then the long-term one.
const KERNEL: (u32, u32) = (5, 15);

/// The oldest systemd: `Delegate=` with cpuset.
const SYSTEMD: u32 = 244;

/// All unmet needs of `kubeadm init` on this host, as errors or warnings; ignoring is the caller's.
///
/// Shape: in a fixed order, from the caller's rights over the host to the network.
#[must_use]
pub fn needs(config: &Config, facts: &Facts, merged: &Output) -> Vec<Unmet> {
    let mut unmet = privileges(facts);
    unmet.extend(unit(facts));
    unmet.extend(rootful(facts));
    unmet.extend(kernel(facts));
    unmet.extend(systemd(facts));
    unmet.extend(cgroups(facts));
    unmet.extend(oom_score(facts));
    unmet.extend(userns::needs(facts));
    unmet.extend(tun(facts));
    unmet.extend(room::modules(facts));
    unmet.extend(programs(config, facts, merged));
    unmet.extend(ids::subids(facts));
    unmet.extend(home(facts));
    unmet.extend(space(facts));
    unmet.extend(facts.cluster.kubeconfigs.iter().map(kubeconfig::need));
    unmet.extend(hostname(&merged.node_name));
    unmet.extend(resolver(facts));
    unmet.extend(etcd_data(merged));
    unmet.extend(strangers(facts));
    unmet.extend(lingering(facts));
    unmet.extend(network::needs(config, facts, merged));
    unmet.extend(ports(facts, merged));
    if merged.role.joins() {
        unmet.extend(conntrack::need(config, facts));
    }
    unmet
}

/// Warnings about a cluster that this node has joined, from its ClusterConfiguration: networks that cover the host's.
///
/// A text that is no such document, or names no network, gives none.
#[must_use]
pub fn joined(config: &Config, facts: &Facts, cluster: &str) -> Vec<Unmet> {
    let documents = yaml::documents(cluster, "ClusterConfiguration").unwrap_or_default();
    let network = |field: &str| {
        let text = documents.first()?.get("networking")?.get(field)?.as_str()?;
        text.split(',').find_map(|part| part.trim().parse::<Ipv4Net>().ok())
    };
    network::joined(config, facts, (network("podSubnet"), network("serviceSubnet")))
}

/// Unmet needs of `kubeadm reset`: only rights.
#[must_use]
pub fn reset_needs(facts: &Facts) -> Vec<Unmet> {
    privileges(facts)
}

/// What a node that was made before still needs of the host, to start again: its ids, its home, its ports, its devices.
#[must_use]
pub fn standing_needs(facts: &Facts, node: &NodeSpec) -> Vec<Unmet> {
    let mut unmet = userns::needs(facts);
    unmet.extend(tun(facts));
    unmet.extend(ids::same_subids(facts, node));
    unmet.extend(home(facts));
    unmet.extend(lingering(facts));
    unmet.extend(resolver(facts).filter(|need| need.level == Level::Error));
    let tcp = node.forwards.iter().filter(|forward| forward.protocol == Protocol::Tcp);
    unmet.extend(tcp.filter_map(|forward| taken(facts, forward.address, forward.port)));
    let drivers = [("slirp4netns", &node.programs.slirp4netns)];
    for (name, path) in drivers {
        if facts.programs.get(name).is_some_and(Option::is_none) {
            let need = missing_program(facts, name, name);
            unmet.push(Unmet {
                message: format!("{} (the node uses {})", need.message, path.display()),
                ..need
            });
        }
    }
    unmet
}

/// Those of [`DELEGATED`]'s needed controllers that the host lacks.
#[must_use]
pub fn missing_controllers(facts: &Facts) -> Vec<&'static str> {
    NEEDED_CONTROLLERS
        .into_iter()
        .filter(|name| !facts.cgroup.controllers.iter().any(|there| there == name))
        .collect()
}

/// Host limits that are lower than a node needs, and the value that each gets.
///
/// A key that does not exist is left alone.
#[must_use]
pub fn low_limits(facts: &Facts) -> Vec<(&'static str, u64)> {
    let low = |key: &str, least: u64| {
        let value = facts.sysctls.get(key).and_then(Option::as_deref);
        value.and_then(|text| text.trim().parse::<u64>().ok()).is_some_and(|value| value < least)
    };
    host::LIMITS.into_iter().filter(|(key, least)| low(key, *least)).collect()
}

fn error(id: &str, message: String, remedy: impl Into<String>) -> Unmet {
    Unmet { id: id.into(), message, remedy: remedy.into(), level: Level::Error }
}

/// How this distribution installs a package.
fn install(facts: &Facts, package: &str) -> String {
    let is = |name: &str| facts.os.iter().any(|id| id == name);
    if is("fedora") || is("rhel") {
        format!("dnf install {package}")
    } else {
        // ALT's command has the same name as Debian's.
        format!("apt-get install {package}")
    }
}

fn privileges(facts: &Facts) -> Vec<Unmet> {
    let need = || error("IsPrivilegedUser", "user is not running as root".into(), "sudo kubeadm init");
    (facts.euid != 0).then(need).into_iter().collect()
}

fn unit(facts: &Facts) -> Option<Unmet> {
    let unit = &facts.unit;
    if unit.load != "loaded" {
        return Some(error(
            "Unit",
            format!("{} is not installed (systemd says {:?})", host::UNIT, unit.load),
            "install u7s, then: systemctl daemon-reload",
        ));
    }
    let looping = unit.active == "activating" && unit.sub == "auto-restart";
    (unit.active == "failed" || looping).then(|| {
        error(
            "UnitFailed",
            format!("{} failed before (result {:?})", host::UNIT, unit.result),
            "journalctl -u u7s.service -n 50; when the cause is gone: systemctl stop u7s.service; systemctl reset-failed u7s.service",
        )
    })
}

fn rootful(facts: &Facts) -> Option<Unmet> {
    (!facts.rootful.is_empty()).then(|| {
        error(
            "RootfulRuntime",
            format!("{} of the host is running as root", facts.rootful.join(" and ")),
            format!("systemctl disable --now {}", facts.rootful.join(" ")),
        )
    })
}

fn kernel(facts: &Facts) -> Option<Unmet> {
    let mut numbers = facts.kernel.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (version < KERNEL).then(|| {
        error(
            "KernelVersion",
            format!("the kernel is {:?}, {}.{} or newer is needed", facts.kernel, KERNEL.0, KERNEL.1),
            "install a newer kernel and reboot",
        )
    })
}

fn systemd(facts: &Facts) -> Option<Unmet> {
    let remedy = "systemctl --version";
    match facts.systemd {
        0 => Some(error("Systemd", "systemd does not answer".into(), "systemctl is-system-running")),
        version if version < SYSTEMD => {
            Some(error("Systemd", format!("systemd is {version}, {SYSTEMD} or newer is needed"), remedy))
        }
        _ => None,
    }
}

fn cgroups(facts: &Facts) -> Option<Unmet> {
    if !facts.cgroup.unified {
        return Some(error(
            "CgroupVersion",
            "/sys/fs/cgroup is not cgroup v2".into(),
            "add systemd.unified_cgroup_hierarchy=1 to the kernel's command line and reboot",
        ));
    }
    let missing = missing_controllers(facts);
    (!missing.is_empty()).then(|| {
        error(
            "CgroupControllers",
            format!("cgroup v2 lacks the controllers {}: limits of pods would be lost", missing.join(", ")),
            "boot with cgroup_no_v1=all; or, without limits: kubeadm init --ignore-preflight-errors=CgroupControllers",
        )
    })
}

fn oom_score(facts: &Facts) -> Option<Unmet> {
    (!facts.oom_floor).then(|| {
        error(
            "OomScore",
            "systemd may not lower oom scores here (CAP_SYS_RESOURCE is missing)".into(),
            "give the container that systemd runs in CAP_SYS_RESOURCE; or, with the kernel's own choice of victims: kubeadm init --ignore-preflight-errors=OomScore",
        )
    })
}

fn tun(facts: &Facts) -> Option<Unmet> {
    let there = facts.devices.get(Path::new(host::TUN)).is_some_and(Option::is_some);
    (!there).then(|| {
        error(
            "Tun",
            format!("{} is missing: the node's network cannot be made", host::TUN),
            "modprobe tun; in a container, pass the device in",
        )
    })
}

/// Programs and the packages that carry them, where the name differs.
const PACKAGES: [(&str, &str); 6] = [
    ("kubeadm", "kubeadm"),
    ("kubelet", "kubelet"),
    ("crio", "cri-o"),
    ("conmon", "conmon"),
    ("crun", "crun"),
    ("slirp4netns", "slirp4netns"),
];

fn programs(config: &Config, facts: &Facts, merged: &Output) -> Vec<Unmet> {
    let missing = |name: &str| !facts.programs.get(name).is_some_and(Option::is_some);
    let need = |name: &str, package: &str| missing_program(facts, name, package);
    let mut unmet: Vec<Unmet> = PACKAGES
        .into_iter()
        .filter(|(name, _)| missing(name))
        .map(|(name, package)| need(name, &package_of(facts, package)))
        .collect();
    if !facts.preload.is_empty() && missing("skopeo") {
        unmet.push(need("skopeo", "skopeo"));
    }
    let applies = config.cni == Cni::Flannel && !merged.role.joins();
    if applies && missing("kubectl") {
        unmet.push(need("kubectl", &package_of(facts, "kubectl")));
    } else if config.services.follow && missing("kubectl") {
        let Unmet { id, message, remedy, .. } = need("kubectl", &package_of(facts, "kubectl"));
        let message = format!("{message}: ports of Services are not opened on this host");
        unmet.push(Unmet { id, message, remedy, level: Level::Warning });
    }
    if !missing("kubeadm") {
        unmet.extend(version(facts));
    }
    unmet.extend(plugins(config, facts));
    unmet
}

/// Images and documents follow kubeadm's version: a guess would bring up another cluster than the one that was meant.
fn version(facts: &Facts) -> Option<Unmet> {
    let told = facts.versions.get("kubeadm").and_then(Option::as_deref);
    let known = told.is_some_and(|text| Version::parse(text.trim_start_matches('v')).is_ok());
    (!known).then(|| {
        error(
            "KubeadmVersion",
            "kubeadm did not tell its version in time".to_owned(),
            "kubeadm version -o short; if it answers now, the machine was busy: say it again",
        )
    })
}

/// Not installed, or not to be started by root.
fn missing_program(facts: &Facts, name: &str, package: &str) -> Unmet {
    let id = format!("FileExisting-{name}");
    match facts.refused.get(name) {
        Some(reason) => error(
            &id,
            format!("{name} is not used: {}", reason.escape_debug()),
            format!("chown root: and chmod go-w what is named; or, as packaged: {}", install(facts, package)),
        ),
        None => error(&id, format!("{name} is not installed"), install(facts, package)),
    }
}

/// ALT's packages of Kubernetes carry its minor version in their names.
fn package_of(facts: &Facts, package: &str) -> String {
    if !facts.os.iter().any(|id| id == "altlinux") {
        return package.into();
    }
    let version = facts.versions.values().flatten().next();
    let minor = version.and_then(|text| text.trim_start_matches('v').split('.').nth(1)).unwrap_or("NN");
    match package {
        "kubeadm" | "kubelet" => format!("kubernetes1.{minor}-{package}"),
        "kubectl" => format!("kubernetes1.{minor}-client"),
        "cri-o" => format!("cri-o1.{minor}"),
        _ => package.into(),
    }
}

fn plugins(config: &Config, facts: &Facts) -> Vec<Unmet> {
    if config.cni == Cni::None {
        return Vec::new();
    }
    let missing = |name: &&str| !facts.cni_plugins.values().flatten().any(|plugin| plugin == name);
    let package =
        if facts.os.iter().any(|id| id == "debian") { "containernetworking-plugins" } else { "cni-plugins" };
    cni::PLUGINS
        .into_iter()
        .filter(missing)
        .map(|name| {
            error(
                &format!("FileExisting-cni-{name}"),
                format!("the CNI plugin {name} is in none of {}", host::CNI_DIRS.join(", ")),
                install(facts, package),
            )
        })
        .collect()
}

/// File systems that cannot carry the upper layer of an overlay, or not from a user namespace.
const BAD_STORES: [&str; 8] = ["nfs", "nfs4", "cifs", "smb3", "overlay", "vfat", "9p", "virtiofs"];

/// The node, and a kubelet of root's after it, take what lies there for their own.
fn strangers(facts: &Facts) -> Option<Unmet> {
    let (first, uid) = facts.cluster.strangers.first()?;
    let paths: Vec<String> =
        facts.cluster.strangers.iter().map(|(path, _)| path.display().to_string()).collect();
    Some(error(
        "KubernetesDir",
        format!(
            "{} of uid {uid} may be changed by others than root, and a node would trust it",
            first.display()
        ),
        format!("ls -ldn {0}; if it may go: rm -r {0}", paths.join(" ")),
    ))
}

/// A node needs none: whoever broke out of a pod may have asked logind for it, to outlive the unit and its bounds.
fn lingering(facts: &Facts) -> Option<Unmet> {
    facts.lingering.then(|| Unmet {
        level: Level::Warning,
        ..error(
            "Lingering",
            format!(
                "{} lingers: what it wants is started at each boot, outside of the unit's bounds",
                host::USER
            ),
            format!("loginctl disable-linger {}", host::USER),
        )
    })
}

fn home(facts: &Facts) -> Vec<Unmet> {
    let mut unmet = Vec::new();
    let Some(user) = &facts.user else { return unmet };
    let home = user.home.display();
    match user.home_owner {
        Some((owner, _)) if owner != user.uid => unmet.push(error(
            "Home",
            format!("{home} belongs to uid {owner}, not to {} (uid {})", host::USER, user.uid),
            format!("ls -ldn {home}; if what it holds may go: kubeadm reset"),
        )),
        Some((_, mode)) if mode & 0o077 != 0 => unmet.push(error(
            "Home",
            format!(
                "{home} has the mode {:04o}: other users could reach setuid programs of images",
                mode & 0o7777
            ),
            format!("chmod 0700 {home}"),
        )),
        _ => {}
    }
    if let Some(kind) = facts.home_fs.as_deref().filter(|kind| BAD_STORES.contains(kind)) {
        unmet.push(error(
            "Overlay",
            format!("{home} lies on {kind}, which cannot carry the images' overlay"),
            format!("mount a local file system (ext4, xfs, btrfs) on {home}"),
        ));
    }
    unmet
}

/// The node's name is the host name inside too, which may have 63 bytes at most; that it is a DNS name is judged with the
/// configuration.
fn hostname(name: &str) -> Option<Unmet> {
    let why = if name.len() > 63 {
        "it is longer than 63 characters"
    } else if name == "localhost" || name.starts_with("localhost.") {
        "it means every host"
    } else {
        return None;
    };
    Some(error(
        "Hostname",
        format!("{name:?} cannot be the node's name: {why}"),
        "hostnamectl set-hostname NAME, or kubeadm init --node-name=NAME",
    ))
}

/// The node's own directory covers etcd's data directory, and must not cover what the host needs.
fn etcd_data(merged: &Output) -> Option<Unmet> {
    let data = merged.etcd_data_dir.as_ref().filter(|path| !coverable(path))?;
    Some(error(
        "EtcdDataDir",
        format!("{} cannot be covered by the node's own directory", data.display()),
        "choose an etcd data directory of its own below /var/lib, /srv, /opt, /mnt or /data",
    ))
}

/// Whether a bind may cover this directory: its own, where data lie, not around another target.
fn coverable(path: &Path) -> bool {
    let roots = ["/var/lib", "/srv", "/opt", "/mnt", "/data"].map(Path::new);
    let others = host::TARGETS.into_iter().filter(|target| *target != "/var/lib/etcd");
    let mut reserved = others.chain([host::STATE_DIR, host::HOME]).map(Path::new);
    roots.into_iter().any(|root| path.starts_with(root) && path != root)
        && !reserved.any(|other| other.starts_with(path) || path.starts_with(other))
}

fn ports(facts: &Facts, merged: &Output) -> Vec<Unmet> {
    let mut unmet = Vec::new();
    let lowest = facts.sysctls.get("net/ipv4/ip_unprivileged_port_start").and_then(Option::as_deref);
    let lowest: u16 = lowest.and_then(|text| text.trim().parse().ok()).unwrap_or(1024);
    if let Some(port) = merged.role.api_port().filter(|port| *port < lowest) {
        unmet.push(error(
            "LowPort",
            format!("port {port} of the API server is below {lowest}, {} may not bind it", host::USER),
            format!("kubeadm init --apiserver-bind-port=6443; or: sysctl -w net.ipv4.ip_unprivileged_port_start={port}"),
        ));
    }
    for port in merged.ports() {
        unmet.extend(taken(facts, merged.api_address, port));
    }
    unmet
}

fn taken(facts: &Facts, address: Ipv4Addr, port: u16) -> Option<Unmet> {
    // Only root sees whose a socket is; where the node runs, its own ports are taken by itself.
    let unseen = facts.euid != 0 && facts.unit.active == "active";
    let clash = |listener: &&Listener| {
        let same = listener.address == address || listener.address.is_unspecified();
        let own = listener.ours || (unseen && listener.owner.is_none());
        listener.port == port && same && !own
    };
    let listener = facts.listeners.iter().find(clash)?;
    let owner = listener.owner.as_ref().map(|(pid, name)| format!(" by {} (pid {pid})", name.escape_debug()));
    Some(error(
        &format!("Port-{port}"),
        format!("port {port} is in use{}", owner.unwrap_or_default()),
        format!("stop what listens there: ss -ltnp 'sport = :{port}'"),
    ))
}
