//! `kubeadm init` and `kubeadm join` as plans.

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use secrecy::SecretString;
use semver::Version;
use serde_json::Value;

use crate::config::Config;
use crate::facts::Facts;
use crate::host;
use crate::kubeadm::{self, Input, NodeFacts, Output, Role};
use crate::need::{Ignored, Level, Unmet};
use crate::node::NodeSpec;
use crate::preflight;
use crate::request;
use crate::step::{Phase, PhaseSteps, Plan};

mod joining;
mod phase;
mod spec;
mod steps;
mod torn;

pub use joining::join;
pub use phase::phase;
pub use steps::{images, volatile};

/// What the user's own files say, read and parsed beforehand.
#[derive(Debug, Clone, Default)]
pub struct Docs {
    /// Documents of `--config`, in order.
    pub documents: Vec<Value>,
    /// Files of the user's patches directory ([`kubeadm::patches_directory`]): name and text.
    pub patches: Vec<(String, String)>,
    /// The discovery file of join ([`kubeadm::discovery_file`]), which holds credentials.
    pub discovery: Option<SecretString>,
}

/// What `kubeadm init` or `kubeadm join` would do on this host.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The whole plan, for people.
    pub plan: Plan,
    /// Needs that are not met, all of them; ignored ones are warnings. An error among them stops the run before its first step.
    pub unmet: Vec<Unmet>,
    /// The node's specification, as the plan writes it to [`crate::node::PATH`].
    pub node: NodeSpec,
    /// What comes out of it.
    pub summary: Summary,
    /// The user does not exist yet: after phase Host probe and plan again, what follows is a preview with made-up ids.
    pub provisional: bool,
}

/// The node in a few words; `Display` is two lines for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Name of the node.
    pub node_name: String,
    /// Its address.
    pub node_ip: Ipv4Addr,
    /// What it is in its cluster.
    pub role: Role,
    /// As in kubeadm's configuration.
    pub kubernetes_version: String,
    /// Networks of pods and services; a node that joins does not know them.
    pub networks: Option<(Ipv4Net, Ipv4Net)>,
    /// Where a node that joins finds the cluster, if its flags tell.
    pub joins_by: Option<String>,
    /// Needs that were ignored by name.
    pub degraded: Vec<String>,
    /// Ordinary pods do not run on this node.
    pub tainted: bool,
}

/// Plans `kubeadm init`.
///
/// Shape: each step is observed when it is applied, and one that holds changes nothing, so the plan of a finished node has them
/// all, but for sysctls and device modes that suffice already. Preflight has no steps: its result is [`Outcome::unmet`].
///
/// # Errors
/// [`kubeadm::Error`]: the user's flags and documents make no configuration of a rootless node.
pub fn init(
    config: &Config,
    request: &request::Init,
    docs: Docs,
    facts: &Facts,
) -> Result<Outcome, kubeadm::Error> {
    let node_ip = node_ip(request, &docs.documents, facts, ("InitConfiguration", &["localAPIEndpoint"]));
    let node =
        NodeFacts { ignored: traces(facts, request, &docs.documents), ..node_facts(config, facts, node_ip) };
    let merged =
        kubeadm::merge(&Input { request, documents: docs.documents, user_patches: docs.patches, node })?;
    Ok(outcome(config, facts, &merged, None))
}

/// What both commands make of a merged configuration.
fn outcome(config: &Config, facts: &Facts, merged: &Output, discovery: Option<SecretString>) -> Outcome {
    let unmet = judge(preflight::needs(config, facts, merged), merged);
    let degraded: Vec<String> = preflight::DEGRADING
        .into_iter()
        .filter(|id| unmet.iter().any(|need| need.id == *id))
        .map(str::to_owned)
        .collect();
    let node = spec::node(config, facts, merged, degraded.clone());
    let mut unmet = unmet;
    let endpoint = merged.control_plane_endpoint.as_deref();
    unmet.extend(judge(preflight::firewall_needs(config, facts, &node, endpoint), merged));
    let summary = Summary {
        node_name: merged.node_name.clone(),
        node_ip: merged.api_address,
        role: merged.role,
        kubernetes_version: merged.kubernetes_version.clone(),
        networks: merged.pod_cidr.zip(merged.service_cidr),
        joins_by: merged.control_plane_endpoint.clone().filter(|_| merged.role.joins()),
        degraded,
        tainted: merged.tainted,
    };
    let plan = steps::plan(config, facts, merged, (&node, discovery));
    Outcome { plan, unmet, node, summary, provisional: facts.user.is_none() }
}

impl Outcome {
    /// The needs that stop the run.
    pub fn errors(&self) -> impl Iterator<Item = &Unmet> {
        self.unmet.iter().filter(|need| need.level == Level::Error)
    }

    /// The phases that may be applied with what is known now: all of them, or phase Host alone while the plan is provisional.
    pub fn phases(&self) -> impl Iterator<Item = &PhaseSteps> {
        self.plan.phases.iter().filter(|steps| !self.provisional || steps.phase == Phase::Host)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node_name, node_ip, kubernetes_version, .. } = self;
        write!(out, "node {node_name} at {node_ip}, Kubernetes {kubernetes_version}, ")?;
        match self.role.api_port() {
            Some(port) => writeln!(out, "API https://{node_ip}:{port}")?,
            None => writeln!(out, "worker")?,
        }
        if let Some((pods, services)) = self.networks {
            write!(out, "pods {pods}, services {services}, ")?;
        }
        if let Some(endpoint) = &self.joins_by {
            write!(out, "joined by {}, ", endpoint.escape_debug())?;
        }
        write!(out, "everything as {}", host::USER)?;
        if self.tainted {
            write!(out, ", tainted for the control plane")?;
        }
        if !self.degraded.is_empty() {
            write!(out, ", degraded: {}", self.degraded.join(", "))?;
        }
        Ok(())
    }
}

/// Ignored needs become warnings, as kubeadm's do, but for those without which there can be no node.
fn judge(needs: Vec<Unmet>, merged: &Output) -> Vec<Unmet> {
    needs
        .into_iter()
        .map(|need| {
            let ignored =
                merged.ignored.contains(&need.id) && !preflight::NEVER_IGNORED.contains(&need.id.as_str());
            if ignored { Unmet { level: Level::Warning, ..need } } else { need }
        })
        .collect()
}

fn node_facts(config: &Config, facts: &Facts, node_ip: Ipv4Addr) -> NodeFacts {
    let version = facts.versions.get("kubeadm").and_then(Option::as_deref);
    NodeFacts {
        node_ip,
        hostname: facts.hostname.clone(),
        // Without kubeadm the plan is for reading only: need FileExisting-kubeadm is never ignored.
        kubernetes_version: version
            .and_then(|text| Version::parse(text.trim_start_matches('v')).ok())
            .unwrap_or_else(|| Version::new(1, 34, 0)),
        patches_dir: host::PATCHES_DIR.into(),
        cri_socket: host::CRI_SOCKET.into(),
        degraded: !preflight::missing_controllers(facts).is_empty(),
        ignored: Ignored::default(),
        timeout_factor: config.timeout_factor,
        memory: facts.memory,
    }
}

/// What kubeadm's own preflight inside would take for another cluster: the traces of a run of ours that was killed.
///
/// kubeadm's phases may be run again, each uses what is there. A finished cluster is not begun again: nothing is ignored.
///
/// Source: kubernetes 1.34.4, cmd/kubeadm/app/preflight/checks.go, `RunInitNodeChecks` and the names of its checks.
fn traces(facts: &Facts, request: &request::Init, documents: &[Value]) -> Ignored {
    if !facts.cluster.begun || facts.cluster.finished {
        return Ignored::default();
    }
    let data = field(documents, "ClusterConfiguration", &["etcd", "local", "dataDir"]);
    let data = data.and_then(Value::as_str).unwrap_or("/var/lib/etcd").replace('/', "-");
    let ports = used_ports(request, documents, ("InitConfiguration", &["localAPIEndpoint"]));
    Ignored::new(manifests().into_iter().chain(ports).chain([format!("DirAvailable-{data}")]))
}

/// kubeadm's checks of the static pods' manifests.
fn manifests() -> [String; 4] {
    ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd"]
        .map(|name| format!("FileAvailable--etc-kubernetes-manifests-{name}.yaml"))
}

/// kubeadm's checks of the ports that the earlier run's processes hold; `endpoint` is kind and path of the local API endpoint.
fn used_ports(request: &request::Init, documents: &[Value], endpoint: (&str, &[&str])) -> [String; 6] {
    let (kind, path) = endpoint;
    let flag = request.value("apiserver-bind-port").map(str::to_owned);
    let configured = || {
        let port = field(documents, kind, path)?.get("bindPort")?;
        Some(port.as_str().map_or_else(|| port.to_string(), str::to_owned))
    };
    let port = flag.or_else(configured).unwrap_or_else(|| "6443".to_owned());
    [port.as_str(), "10250", "10257", "10259", "2379", "2380"].map(|port| format!("Port-{port}"))
}

/// A field of the user's document of this kind.
fn field<'a>(documents: &'a [Value], kind: &str, path: &[&str]) -> Option<&'a Value> {
    let document = documents.iter().find(|document| document["kind"] == kind)?;
    path.iter().try_fold(document, |value, key| value.get(key))
}

/// The address that the user advertises if it is one of this host's, else the uplink's.
///
/// An address that is not the host's is refused by [`kubeadm::merge`], which compares it with this one.
/// Without an uplink the unspecified address stands in: need DefaultRoute is never ignored.
fn node_ip(request: &request::Init, documents: &[Value], facts: &Facts, field: (&str, &[&str])) -> Ipv4Addr {
    let (kind, path) = field;
    let flag = request.config_flags.iter().rev().find(|(name, _)| name == "apiserver-advertise-address");
    let field = || {
        let document = documents.iter().find(|document| document["kind"] == kind)?;
        path.iter().fold(document, |value, key| &value[*key])["advertiseAddress"].as_str()
    };
    flag.map(|(_, value)| value.as_str())
        .or_else(field)
        .and_then(|text| text.trim().parse::<Ipv4Addr>().ok())
        .filter(|address| facts.addresses.iter().any(|route| route.network.addr() == *address))
        .or_else(|| facts.uplink.as_ref().map(|uplink| uplink.address))
        .unwrap_or(Ipv4Addr::UNSPECIFIED)
}
