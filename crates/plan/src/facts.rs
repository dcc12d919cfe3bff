//! What `host::probe` saw of the machine: raw facts without judgement.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Everything that a plan is made from, beside configuration and request.
///
/// Texts are bounded by the prober (1 MiB each); a fact that could not be read is `None` or empty, never guessed.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Facts {
    /// Effective uid of this process.
    pub euid: u32,
    /// This process is already inside the node's namespaces.
    pub inside: bool,
    /// `uname -r`.
    pub kernel: String,
    /// Host name.
    pub hostname: String,
    /// The node's user, if the host knows it.
    pub user: Option<UserFact>,
    /// All users of /etc/passwd: name and uid.
    pub users: Vec<(String, u32)>,
    /// Text of /etc/subuid.
    pub subuid: String,
    /// Text of /etc/subgid.
    pub subgid: String,
    /// cgroups.
    pub cgroup: CgroupFact,
    /// Bounding set of pid 1 holds CAP_SYS_RESOURCE: systemd can lower oom scores.
    pub oom_floor: bool,
    /// systemd's version, 0 if it does not answer.
    pub systemd: u32,
    /// Character devices and parameters of modules by path ([`crate::host::DEVICES`]): mode bits, `None` if missing or neither.
    pub devices: BTreeMap<PathBuf, Option<u32>>,
    /// Sysctls by key with slashes ([`crate::host::SYSCTLS`]); `None` where the key does not exist.
    pub sysctls: BTreeMap<String, Option<String>>,
    /// Those of them that nobody may write: in every network namespace but the first some are so, whoever asks.
    pub read_only: Vec<String>,
    /// AppArmor has a profile for our programs ([`crate::preflight::APPARMOR_PROFILE`]).
    pub apparmor_profile: bool,
    /// Space of the file system that holds the user's home, or will; `None` if it cannot be told.
    pub space: Option<Space>,
    /// Kernel modules that are neither loaded nor built in, and that this kernel's package does not carry.
    pub absent_modules: Vec<String>,
    /// Kernel modules that are loaded or built in, of those asked for ([`crate::host::MODULES`]); `None`: cannot be told.
    pub modules: BTreeMap<String, Option<bool>>,
    /// Programs by name ([`crate::host::PROGRAMS`]): first match in root's fixed search path.
    pub programs: BTreeMap<String, Option<PathBuf>>,
    /// Programs that were found and are not used, since others than root could change them: name and reason.
    pub refused: BTreeMap<String, String>,
    /// `kubeadm version -o short`, `kubelet --version`, ... by program: the version without `v`.
    pub versions: BTreeMap<String, Option<String>>,
    /// The interface of the default route.
    pub uplink: Option<Uplink>,
    /// All IPv4 routes but the default one.
    pub routes: Vec<Route>,
    /// IPv4 addresses with prefix, by interface.
    pub addresses: Vec<Route>,
    /// Listening TCP sockets of the host.
    pub listeners: Vec<Listener>,
    /// The host's own packet filter.
    pub firewall: FirewallFact,
    /// Our unit.
    pub unit: UnitFact,
    /// The cgroup of our unit, while it has one.
    pub unit_cgroup: Option<UnitCgroup>,
    /// Rootful `kubelet` and `crio` units that are active.
    pub rootful: Vec<String>,
    /// Images waiting in /var/lib/u7s/images: OCI layouts and archives.
    pub preload: Vec<PathBuf>,
    /// State of the cluster on this node.
    pub cluster: ClusterFact,
    /// Memory of the machine, bytes.
    pub memory: u64,
    /// Number of CPUs that this process may use.
    pub cpus: u32,
    /// Number of CPUs that are online, whoever may use them: what kube-proxy counts. 0: not known.
    pub online_cpus: u32,
    /// `ID` of os-release, then the words of `ID_LIKE`.
    pub os: Vec<String>,
    /// CNI plugin directories that exist ([`crate::host::CNI_DIRS`]) and the names of the executables in them.
    pub cni_plugins: BTreeMap<PathBuf, Vec<String>>,
    /// The pause image in the list of `kubeadm config images list`, if that could be asked.
    pub pause_image: Option<String>,
    /// Text of the host's /etc/resolv.conf.
    pub resolv_conf: String,
    /// What the host's /etc/resolv.conf is.
    pub resolver: ResolvConf,
    /// Text of the host's /etc/hosts.
    pub hosts: String,
    /// Type of the file system that holds the user's home, as in /proc/self/mountinfo: `ext4`, `nfs4`, ...
    pub home_fs: Option<String>,
    /// Names of the files in /etc/u7s/patches.
    pub patches: Vec<String>,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// logind starts the manager of the node's user at each boot.
    pub lingering: bool,
}

/// What a resolv.conf is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum ResolvConf {
    /// A file, or what reads like one.
    File {
        /// Its path without any links; `None`: it cannot be told.
        target: Option<PathBuf>,
    },
    /// There is none.
    Missing,
    /// A link to a file that is not there.
    Dangling {
        /// The absolute path of the file.
        target: PathBuf,
    },
    /// Links that lead to each other.
    Loop,
    /// A directory.
    Directory,
}

impl Default for ResolvConf {
    fn default() -> Self {
        Self::File { target: None }
    }
}

/// The node's user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UserFact {
    /// Host uid.
    pub uid: u32,
    /// Host gid.
    pub gid: u32,
    /// Home directory.
    pub home: PathBuf,
    /// Owner uid and mode of the home directory, if it exists.
    pub home_owner: Option<(u32, u32)>,
}

/// Space of a file system, for those who are not root.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that are free.
    pub free: u64,
    /// Files in all, 0 where the file system does not count them.
    pub files: u64,
    /// Files that can still be made.
    pub free_files: u64,
}

/// What cgroup hierarchy there is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CgroupFact {
    /// /sys/fs/cgroup is cgroup2.
    pub unified: bool,
    /// Controllers of its root.
    pub controllers: Vec<String>,
}

/// The way out of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Uplink {
    /// Interface name.
    pub interface: String,
    /// Source address of the default route.
    pub address: Ipv4Addr,
    /// Next hop, if there is one.
    pub gateway: Option<Ipv4Addr>,
    /// MTU, bytes.
    pub mtu: u32,
}

/// A network and the interface that leads to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Destination, or address with prefix.
    pub network: Ipv4Net,
    /// Interface name.
    pub interface: String,
}

/// A listening TCP socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listener {
    /// Bound address; 0.0.0.0 also for `[::]`.
    pub address: Ipv4Addr,
    /// Port.
    pub port: u16,
    /// Pid and name of a process that holds it, if it could be found.
    pub owner: Option<(i32, String)>,
    /// It belongs to u7s.service itself.
    pub ours: bool,
}

/// The host's packet filter as nft(8) shows it: its own rules, those of iptables-nft and of firewalld.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct FirewallFact {
    /// Chains, rules, sets and maps, as `nft -j list ruleset` lists them; `None` if that is not known: nft is missing, was not
    /// asked since the caller is not root, took too long, or said more than 8 MiB.
    pub rules: Option<Vec<Value>>,
    /// Why nft does not work here: the kernel has no nf_tables, or this root may not use it.
    pub broken: Option<String>,
}

/// State of u7s.service as systemd tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UnitFact {
    /// `LoadState`: `loaded`, `not-found`, ...
    pub load: String,
    /// `ActiveState`.
    pub active: String,
    /// `SubState`.
    pub sub: String,
    /// `Result` of the last run.
    pub result: String,
    /// `UnitFileState`.
    pub file: String,
}

/// The cgroup of a unit in the unified hierarchy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UnitCgroup {
    /// Below the root of the hierarchy, without a leading slash: `system.slice/u7s.service`.
    pub path: String,
    /// The kernel's number of it; each start of the unit has another.
    pub id: u64,
}

/// State of Kubernetes on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ClusterFact {
    /// /etc/kubernetes/admin.conf is there.
    pub admin_conf: bool,
    /// /etc/kubernetes/kubelet.conf is there.
    pub kubelet_conf: bool,
    /// Static pod manifests in /etc/kubernetes/manifests.
    pub manifests: Vec<String>,
    /// `/readyz` of the local API server answered ok.
    pub api_ready: bool,
    /// The node's user has begun a cluster here: kubelet.conf or a manifest is its own.
    pub begun: bool,
    /// An earlier init came to its last phase: the running supervisor has the kubelet enabled, and kubelet.conf is there.
    pub finished: bool,
    /// What /etc/kubernetes holds that neither root nor the node's user made, or that others may change: path and owner, the
    /// first few. What the node's user made counts as long as the directory is root's.
    pub strangers: Vec<(PathBuf, u32)>,
    /// Kubeconfigs of the node that are not as kubeadm writes them.
    pub kubeconfigs: Vec<crate::kubeconfig::Fault>,
    /// Boot of an earlier run that was killed before what it wrote was on disk, from [`crate::host::UNSYNCED`].
    pub unsynced: Option<String>,
    /// Keys and certificates of kubeadm's that are there; only looked for where `unsynced` says something.
    pub pki: crate::pki::Seen,
}

impl Facts {
    /// The host went down under an earlier run: of what kubeadm and CRI-O wrote then, names may be left without content.
    #[must_use]
    pub fn torn(&self) -> bool {
        self.cluster.unsynced.as_ref().is_some_and(|boot| *boot != self.boot_id)
    }
}
