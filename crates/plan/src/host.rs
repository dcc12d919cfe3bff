//! Layout: where things lie on the host and inside, and which of the host's abilities a node looks at.
//!
//! `host::probe` asks for exactly these names, the plan judges what it found.

use std::path::{Path, PathBuf};

use crate::conntrack;

/// Login and group name of the node's user; u7s.service names it too.
pub const USER: &str = "u7s-admin";

/// The unit that runs the node.
pub const UNIT: &str = "u7s.service";

/// The unit that bounds how long a stop of [`UNIT`] takes.
pub const STOP_UNIT: &str = "u7s-stop.service";

/// Runtime directory of [`UNIT`].
pub const RUN_DIR: &str = "/run/u7s";

/// Directory of the node's configuration: root's, readable by the node.
pub const CONFIG_DIR: &str = "/etc/u7s";

/// kubeadm patches of this node.
pub const PATCHES_DIR: &str = "/etc/u7s/patches";

/// CRI-O drop-ins of the administrator.
pub const CRIO_DROP_INS: &str = "/etc/u7s/crio.conf.d";

/// Kubernetes' directory, one and the same on both sides.
pub const KUBERNETES_DIR: &str = "/etc/kubernetes";

/// Root's own state: undo.json and images.
pub const STATE_DIR: &str = "/var/lib/u7s";

/// There while an init or join has written what its end will bring to disk: the boot in which it began, and a line end.
pub const UNSYNCED: &str = "/var/lib/u7s/unsynced";

/// CRI socket inside.
pub const CRI_SOCKET: &str = "/run/crio/crio.sock";

/// Home of [`USER`] when it does not exist yet.
pub const HOME: &str = "/var/lib/u7s-admin";

/// Ports of etcd: clients, which are other control planes that join or leave, and peers.
pub const ETCD_PORTS: [u16; 2] = [2379, 2380];

/// The kubelet's port, always forwarded.
pub const KUBELET_PORT: u16 = 10_250;

/// The unmodified kubeadm, when the prober found none.
pub const KUBEADM: &str = "/usr/bin/kubeadm";

/// kubectl, likewise.
pub const KUBECTL: &str = "/usr/bin/kubectl";

/// The OCI adapter of degraded nodes.
pub const OCI_ADAPTER: &str = "/usr/libexec/u7s/u7s-crun";

/// Kernel modules that a node uses: loaded in phase Host, since nothing inside can load one.
///
/// Every one may be built in or missing; what cannot be done without is judged by its effect (/dev/net/tun, overlay mounts).
/// Source: kube-proxy's, flannel's and the bridge plugin's calls; `modinfo -F depends` leaves the rest to modprobe.
pub const MODULES: [&str; 8] =
    ["tun", "overlay", "bridge", "br_netfilter", "veth", "vxlan", "nf_tables", "nf_conntrack"];

/// The tap device.
pub const TUN: &str = "/dev/net/tun";

/// Devices, and a parameter of a module, whose mode is a fact.
pub const DEVICES: [&str; 2] = [TUN, conntrack::HASHSIZE];

/// Sysctls that are facts: what may forbid user namespaces, what bounds ports, and what [`LIMITS`] and [`conntrack`] fit.
pub const SYSCTLS: [&str; 12] = [
    "kernel/unprivileged_userns_clone",
    "kernel/userns_restrict",
    "kernel/apparmor_restrict_unprivileged_userns",
    "user/max_user_namespaces",
    "net/ipv4/ip_unprivileged_port_start",
    "net/ipv4/ping_group_range",
    "fs/inotify/max_user_instances",
    "fs/inotify/max_user_watches",
    "kernel/keys/maxkeys",
    "kernel/keys/maxbytes",
    conntrack::MAX,
    conntrack::BUCKETS,
];

/// Limits of the host that count against one user, here the whole node, and the least that a node needs of them.
///
/// inotify: every kubelet watch and every container's; the figures of systemd/u7s.sysctl.
/// keys: each container gets a session keyring, and a user other than root has 200 keys by default, fewer than the containers
/// of 110 pods; a name is a container's id, so 250 bytes a key suffice.
pub const LIMITS: [(&str, u64); 4] = [
    ("fs/inotify/max_user_instances", 8192),
    ("fs/inotify/max_user_watches", 524_288),
    ("kernel/keys/maxkeys", 10_000),
    ("kernel/keys/maxbytes", 2_500_000),
];

/// Programs of the host that a node runs, apart from kubeadm and its own needs.
pub const PROGRAMS: [&str; 12] = [
    "kubeadm",
    "kubelet",
    "kubectl",
    "crio",
    "conmon",
    "crun",
    "pinns",
    "slirp4netns",
    "skopeo",
    "newuidmap",
    "newgidmap",
    "nft",
];

/// Directories where distributions keep CNI plugins.
pub const CNI_DIRS: [&str; 3] = ["/opt/cni/bin", "/usr/libexec/cni", "/usr/lib/cni"];

/// Directories of the host that a node covers with its own or mounts, made if missing and never changed if there.
///
/// `/usr/lib/modules` is `/lib/modules`, which kube-proxy's manifest mounts.
pub const TARGETS: [&str; 8] = [
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/lib/containers",
    "/var/lib/crio",
    "/var/lib/etcd",
    "/etc/cni/net.d",
    "/opt/cni/bin",
    "/usr/lib/modules",
];

/// The node's own tree: a directory for each bind.
#[must_use]
pub fn tree(home: &Path) -> PathBuf {
    home.join("node")
}

/// Root's kubeconfig and the user's.
#[must_use]
pub fn kubeconfigs(home: &Path) -> [PathBuf; 2] {
    ["/root".as_ref(), home].map(|home: &Path| home.join(".kube/config"))
}
