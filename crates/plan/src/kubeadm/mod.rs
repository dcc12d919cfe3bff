//! kubeadm's configuration: the user's flags and documents, completed with what a rootless node needs.
//!
//! kubeadm refuses flags beside `--config`, so the flags are folded into v1beta4 documents of ours, written as JSON.
//! Settings of *this* node go into kubeadm patches, so that the cluster's ConfigMaps stay usable by rootful nodes.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use secrecy::SecretString;
use semver::Version;
use serde_json::Value;

use crate::host;
use crate::need::Ignored;
use crate::request;

mod cluster;
mod documents;
mod error;
mod fields;
mod flags;
mod init;
mod join;
mod kubelet;
mod last;
mod merge;
mod network;
mod patches;
mod proxy;
mod render;
mod schema;
mod slow;

pub use error::Error;
pub(crate) use init::is_token;
pub use join::{discovery_file, join};
pub(crate) use join::{is_endpoint, is_hash as is_discovery_hash};
pub use merge::{merge, patches_directory, phase};
pub use patches::passed_over;

/// Directory of the flex volume plugins: the default lies under `/usr`, where a rootless node cannot write.
pub const VOLUME_PLUGINS: &str = "/var/lib/kubelet/volumeplugins";

/// Directory of the audit policy and log, the same inside and outside.
pub const AUDIT_DIR: &str = "/etc/kubernetes/audit";

/// Network that pods get when the user names none.
pub const POD_CIDR: &str = "10.244.0.0/16";

/// Where kubeadm finds a discovery file: the descriptor after that of the configuration.
pub const DISCOVERY_FILE: &str = "/proc/self/fd/4";

/// What a node is in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It begins the cluster.
    FirstControlPlane {
        /// Port of its API server.
        api_port: u16,
    },
    /// It joins the control plane.
    JoinedControlPlane {
        /// Port of its API server.
        api_port: u16,
    },
    /// It runs pods.
    Worker,
}

impl Role {
    /// Port of the node's own API server.
    #[must_use]
    pub fn api_port(self) -> Option<u16> {
        match self {
            Self::FirstControlPlane { api_port } | Self::JoinedControlPlane { api_port } => Some(api_port),
            Self::Worker => None,
        }
    }

    /// It joins a cluster that is there.
    #[must_use]
    pub fn joins(self) -> bool {
        !matches!(self, Self::FirstControlPlane { .. })
    }
}

/// What [`merge`] and [`join()`] work on.
#[derive(Debug)]
pub struct Input<'a> {
    /// The command line.
    pub request: &'a request::Init,
    /// The documents of the user's `--config`, in order; empty without one. Any number, v1beta4 or v1beta3.
    pub documents: Vec<Value>,
    /// Files of the user's patches directory (see [`patches_directory`]): name and text.
    pub user_patches: Vec<(String, String)>,
    /// This machine.
    pub node: NodeFacts,
}

/// What they must know about this machine.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    /// The host's external address, the node's only one.
    pub node_ip: Ipv4Addr,
    /// Host name; the node's name unless the user gives one, lower case as kubeadm does.
    pub hostname: String,
    /// Version of the kubeadm program.
    pub kubernetes_version: Version,
    /// Where `host` writes [`Output::patches`].
    pub patches_dir: PathBuf,
    /// CRI socket inside.
    pub cri_socket: PathBuf,
    /// cgroup v2 has not every controller: the kubelet cannot have limits of its own.
    pub degraded: bool,
    /// Preflight ids of kubeadm that this node must have ignored beside the user's.
    pub ignored: Ignored,
    /// Multiplies the timeouts of kubeadm and kubelet that the user does not set; 1 leaves them alone.
    pub timeout_factor: u32,
    /// Memory of the machine, bytes; 0 where it is not known.
    pub memory: u64,
}

/// What [`merge`] and [`join()`] give.
#[derive(Debug, Clone)]
pub struct Output {
    /// kubeadm's `--config`: several JSON documents parted by `---` lines.
    pub config: SecretString,
    /// [`Self::config`] without tokens and keys, for people.
    pub redacted: String,
    /// Files of [`NodeFacts::patches_dir`]: name and text.
    pub patches: Vec<(String, String)>,
    /// Name of the node, lower case.
    pub node_name: String,
    /// What the node is in its cluster.
    pub role: Role,
    /// Address of the node, and of its API server.
    pub api_address: Ipv4Addr,
    /// Network of the pods; a node that joins does not know it.
    pub pod_cidr: Option<Ipv4Net>,
    /// Network of the services; likewise.
    pub service_cidr: Option<Ipv4Net>,
    /// Domain of the services.
    pub dns_domain: String,
    /// Data directory of the local etcd; `None` with an external one, and on a worker.
    pub etcd_data_dir: Option<PathBuf>,
    /// Directory of the certificates.
    pub cert_dir: PathBuf,
    /// Registry of the control plane's images.
    pub image_repository: String,
    /// As in the configuration, mostly `v1.34.4`; the user may have asked for a label such as `stable-1.34`.
    pub kubernetes_version: String,
    /// Stable endpoint of the control plane, if the user gave one; on a node that joins the endpoint that it joins by.
    pub control_plane_endpoint: Option<String>,
    /// The node keeps the control plane's NoSchedule taint: ordinary pods do not run on it.
    pub tainted: bool,
    /// The API server reads our policy from [`AUDIT_DIR`]: `plan::audit` must be written there.
    pub audit: bool,
    /// A dry run was asked for, by flag or in the InitConfiguration.
    pub dry_run: bool,
    /// Preflight ids that the user wants ignored, by flag and configuration; without [`NodeFacts::ignored`], which are for
    /// kubeadm's checks inside alone.
    pub ignored: Ignored,
    /// Phases that kubeadm will skip, by flag or configuration.
    pub skip_phases: Vec<String>,
    /// What kubeadm makes last in this cluster: a namespace and objects in it.
    pub last_objects: (&'static str, &'static [&'static str]),
    /// Flags that kubeadm accepts beside `--config`.
    pub pass_flags: Vec<String>,
}

impl Output {
    /// Has kubeadm skip one more phase.
    ///
    /// kubeadm reads the configuration's list only where no flag gives one, so the flag repeats all of it; flags that are given
    /// several times add up.
    ///
    /// Source: kubernetes 1.34.4, cmd/kubeadm/app/cmd/join.go and init.go, `SetDataInitializer`.
    pub fn skip(&mut self, phase: &str) {
        if self.skip_phases.iter().any(|skipped| skipped == phase) {
            return;
        }
        self.skip_phases.push(phase.to_owned());
        self.pass_flags.retain(|flag| !flag.starts_with("--skip-phases="));
        self.pass_flags.push(format!("--skip-phases={}", self.skip_phases.join(",")));
    }

    /// TCP ports that other nodes and clients reach this one by: its API server, its kubelet, and etcd where other control planes
    /// can join.
    ///
    /// Without a `controlPlaneEndpoint` kubeadm lets no second control plane join.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        let stacked = self.etcd_data_dir.is_some() && self.control_plane_endpoint.is_some();
        let etcd = self.role.api_port().filter(|_| stacked).map(|_| host::ETCD_PORTS);
        let api = self.role.api_port().into_iter();
        api.chain([host::KUBELET_PORT]).chain(etcd.into_iter().flatten()).collect()
    }
}
