//! The node's specification.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use crate::config::{Cni, Config};
use crate::crio;
use crate::facts::{Facts, UserFact};
use crate::forwarding::VXLAN;
use crate::host;
use crate::kubeadm::Output;
use crate::node::{
    Bind, Component, ComponentName, Driver, Extent, Forward, Network, NodeSpec, Programs, Protocol, Services,
    User, VERSION,
};
use crate::preflight;
use crate::subid::{self, Range};

/// The id that stands for one that is not known yet: (uid_t)-1, which no call accepts.
const UNKNOWN: u32 = u32::MAX;

/// The search path of everything inside.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Renders the specification; facts that are missing are unmet needs, so that a stand-in is never applied.
pub(super) fn node(config: &Config, facts: &Facts, merged: &Output, degraded: Vec<String>) -> NodeSpec {
    let user = user(config, facts);
    let network = network(config, facts, merged);
    NodeSpec {
        version: VERSION,
        node_name: merged.node_name.clone(),
        uid_map: id_map(&facts.subuid, &user, user.uid),
        gid_map: id_map(&facts.subgid, &user, user.gid),
        forwards: forwards(config, merged),
        binds: binds(facts, merged, &user.home),
        sysctls: sysctls(),
        resolv_conf: resolv_conf(&facts.resolv_conf, network.dns),
        hosts: hosts(&facts.hosts, &merged.node_name, network.node_ip),
        programs: Programs {
            slirp4netns: program(facts, "slirp4netns"),
            slirp4netns_tapfd: takes_tap(facts),
            newuidmap: found(facts, "newuidmap"),
            newgidmap: found(facts, "newgidmap"),
            nft: found(facts, "nft"),
        },
        components: vec![crio_component(facts), kubelet_component(facts)],
        cri_socket: host::CRI_SOCKET.into(),
        controllers: controllers(facts),
        degraded,
        joined: merged.role.joins(),
        services: Services {
            follow: config.services.follow,
            load_balancer: config.services.load_balancer,
            kubectl: found(facts, "kubectl"),
        },
        patience: config.timeout_factor,
        network,
        user,
    }
}

/// Directory of the node's tree that covers the etcd data directory inside.
pub(super) fn etcd_target(merged: &Output) -> PathBuf {
    merged.etcd_data_dir.clone().unwrap_or_else(|| "/var/lib/etcd".into())
}

fn user(config: &Config, facts: &Facts) -> User {
    let unknown = || UserFact { uid: UNKNOWN, gid: UNKNOWN, home: host::HOME.into(), home_owner: None };
    let UserFact { uid, gid, home, .. } = facts.user.clone().unwrap_or_else(unknown);
    User { name: config.user.clone(), uid, gid, home }
}

/// The map of one file; empty where the file is refused, which is need Subids or SubidOverlap.
fn id_map(text: &str, user: &User, own: u32) -> Vec<Extent> {
    let ranges: Vec<Range> = subid::parse(text, &user.name, user.uid).unwrap_or_default();
    subid::id_map(own, &ranges)
}

fn network(config: &Config, facts: &Facts, merged: &Output) -> Network {
    let range = config.network.range;
    let nth = |n: u32| Ipv4Addr::from(u32::from(range.network()).wrapping_add(n));
    let uplink = facts.uplink.as_ref().map_or(1500, |uplink| uplink.mtu);
    Network {
        driver: Driver::Slirp4netns,
        node_ip: merged.api_address,
        // slirp4netns takes no more than 65521.
        mtu: config.network.mtu.unwrap_or(uplink).clamp(1280, 65_520),
        range,
        gateway: nth(2),
        dns: nth(3),
        service_cidr: merged.service_cidr,
        pod_cidr: merged.pod_cidr,
        low_ports: config.network.low_ports.clone(),
    }
}

/// Source: slirp4netns(1) of 1.2.1, `--netns-type`; that of 1.2.0 does not know it.
fn takes_tap(facts: &Facts) -> bool {
    let version = facts.versions.get("slirp4netns").and_then(Option::as_deref);
    version
        .and_then(|version| semver::Version::parse(version).ok())
        .is_some_and(|version| version >= semver::Version::new(1, 2, 1))
}

/// The least that a node needs, on its own address only: flannel's tunnel beside the ports of its role.
fn forwards(config: &Config, merged: &Output) -> Vec<Forward> {
    let forward = |protocol, port| Forward { protocol, address: merged.api_address, port };
    let tunnel = (config.cni == Cni::Flannel).then(|| forward(Protocol::Udp, VXLAN));
    merged.ports().into_iter().map(|port| forward(Protocol::Tcp, port)).chain(tunnel).collect()
}

/// Modes are those that the directories have on a rootful node; the home above them is 0700.
fn binds(facts: &Facts, merged: &Output, home: &Path) -> Vec<Bind> {
    let tree = host::tree(home);
    let bind =
        |name: &str, target: PathBuf, mode| Bind { source: tree.join(name), target, mode, shared: false };
    let mut binds = vec![
        Bind { shared: true, ..bind("kubelet", "/var/lib/kubelet".into(), 0o750) },
        bind("cni", "/var/lib/cni".into(), 0o755),
        bind("containers", "/var/lib/containers".into(), 0o755),
        bind("crio", "/var/lib/crio".into(), 0o755),
        bind("etcd", etcd_target(merged), 0o700),
        bind("log", "/var/log".into(), 0o755),
        bind("cni-net.d", "/etc/cni/net.d".into(), 0o755),
        bind("root", "/root".into(), 0o700),
    ];
    // Network plugins that come as pods write to /opt/cni/bin. Where the host's own plugins lie there, they stay in sight instead.
    if facts.cni_plugins.get(Path::new("/opt/cni/bin")).is_none_or(Vec::is_empty) {
        binds.push(bind("opt-cni", "/opt/cni/bin".into(), 0o755));
    }
    binds
}

/// What a rootful node has from its host; a new network namespace copies some of it from there, for better or worse.
///
/// Loose reverse path checks: the forwarder's connections carry addresses that are routed elsewhere, and so do pods'.
/// The forwarder's own settings are written by the supervisor.
fn sysctls() -> Vec<(String, String)> {
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let mut all = vec![pair("net/ipv4/ip_forward", "1")];
    all.extend(
        ["all", "default", "lo", "tap0"].map(|name| pair(&format!("net/ipv4/conf/{name}/rp_filter"), "2")),
    );
    all
}

/// The driver's name server, with the host's search list and options.
fn resolv_conf(host: &str, dns: Ipv4Addr) -> String {
    let mut text = format!("nameserver {dns}\n");
    for line in host.lines() {
        let mut words = line.split_whitespace();
        if let Some(keyword @ ("search" | "options")) = words.next() {
            // trust-ad speaks of the host's own resolver.
            let rest: Vec<&str> = words.filter(|word| *word != "trust-ad").collect();
            if !rest.is_empty() {
                let _ = writeln!(text, "{keyword} {}", rest.join(" "));
            }
        }
    }
    text
}

/// The most that the inner hosts file takes over from the host's, bytes: lists against advertisements have megabytes, and
/// with one of them the specification would be larger than the supervisor reads ([`crate::node::MAX_BYTES`]).
const MOST_HOSTS: usize = 256 * 1024;

/// Loopback and the node itself, then what else the host's file knows (registries, other nodes), the first lines first.
///
/// Names that lead nowhere (0.0.0.0, as lists against advertisements have them) are left out.
fn hosts(host: &str, node_name: &str, node_ip: Ipv4Addr) -> String {
    let short = node_name.split_once('.').map(|(short, _)| format!(" {short}")).unwrap_or_default();
    let mut text = format!(
        "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{node_ip} {node_name}{short}\n"
    );
    for line in host.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let address = words.next().unwrap_or_default();
        let nowhere = |address: std::net::IpAddr| address.is_loopback() || address.is_unspecified();
        let loopback = address.parse().is_ok_and(nowhere);
        let names: Vec<&str> = words.filter(|name| *name != node_name && *name != "localhost").collect();
        let line = format!("{address} {}\n", names.join(" "));
        if !loopback && !names.is_empty() && text.len() + line.len() <= MOST_HOSTS {
            text.push_str(&line);
        }
    }
    text
}

/// Those of `Delegate=` in u7s.service that the host has.
fn controllers(facts: &Facts) -> Vec<String> {
    preflight::DELEGATED
        .into_iter()
        .filter(|name| facts.cgroup.controllers.iter().any(|there| there == name))
        .map(str::to_owned)
        .collect()
}

/// `_CRIO_ROOTLESS` stays unset: with it CRI-O forgets every container's cgroup and limits.
fn crio_component(facts: &Facts) -> Component {
    let mut env = environment();
    env.insert("CONTAINERS_STORAGE_CONF".into(), crio::STORAGE_PATH.into());
    Component {
        name: ComponentName::Crio,
        description: "Container Runtime Interface for OCI (CRI-O)".into(),
        argv: words(&program(facts, "crio"), &["--config", crio::PATH, "--config-dir", host::CRIO_DROP_INS]),
        env,
        env_files: Vec::new(),
        arg_vars: Vec::new(),
        needs_file: None,
        always: true,
    }
}

/// Command line of kubeadm's own drop-in for kubelet.service.
///
/// Source: kubernetes/release, cmd/krel/templates/latest/kubeadm/10-kubeadm.conf.
fn kubelet_component(facts: &Facts) -> Component {
    Component {
        name: ComponentName::Kubelet,
        description: "kubelet: The Kubernetes Node Agent".into(),
        argv: words(
            &program(facts, "kubelet"),
            &[
                "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf",
                "--kubeconfig=/etc/kubernetes/kubelet.conf",
                "--config=/var/lib/kubelet/config.yaml",
            ],
        ),
        env: environment(),
        env_files: ["/var/lib/kubelet/kubeadm-flags.env", "/etc/default/kubelet", "/etc/sysconfig/kubelet"]
            .map(PathBuf::from)
            .to_vec(),
        arg_vars: ["KUBELET_KUBEADM_ARGS", "KUBELET_EXTRA_ARGS"].map(str::to_owned).to_vec(),
        needs_file: Some("/var/lib/kubelet/config.yaml".into()),
        always: false,
    }
}

fn environment() -> BTreeMap<String, String> {
    [("PATH", PATH), ("HOME", "/root"), ("LANG", "C.UTF-8")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

fn words(program: &Path, arguments: &[&str]) -> Vec<String> {
    let mut argv = vec![program.display().to_string()];
    argv.extend(arguments.iter().map(|word| (*word).to_owned()));
    argv
}

fn found(facts: &Facts, name: &str) -> Option<PathBuf> {
    facts.programs.get(name).cloned().flatten()
}

/// A program's path; a missing one is need FileExisting.
fn program(facts: &Facts, name: &str) -> PathBuf {
    found(facts, name).unwrap_or_else(|| Path::new("/usr/bin").join(name))
}
