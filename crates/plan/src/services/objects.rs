//! The few fields of Services, pods and nodes that matter here, read from the API's JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::{FIELD_MANAGER, LABEL};

/// Label of nodes that load balancers leave out.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// Annotation of the API's images of static pods.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Namespace, empty for nodes, and name.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// Transport protocols of ports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Transport {
    /// TCP, also where nothing is said.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port of the node's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// Its protocol.
    pub transport: Transport,
    /// Its number, not 0.
    pub number: u16,
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "RawService")]
pub struct Service {
    /// Which.
    pub key: Key,
    /// Its identity; a namesake has another.
    pub uid: String,
    /// When it was made, as the API writes it: sorts by time.
    pub created: String,
    /// Its type is LoadBalancer.
    pub balanced: bool,
    /// It has a `loadBalancerClass`, and with it a load balancer that is not ours.
    pub classed: bool,
    /// Its status was written by [`FIELD_MANAGER`].
    pub written_by_us: bool,
    /// `port` of each port.
    front: Vec<Port>,
    /// `nodePort` of each port that has one.
    nodes: Vec<Port>,
    /// `healthCheckNodePort`.
    pub health_port: Option<u16>,
    /// Addresses of its status at which kube-proxy answers (`ipMode` other than `Proxy`).
    pub ingress: Vec<Ipv4Addr>,
    /// Its status names anything at all.
    has_status: bool,
}

/// A pod's wishes for ports of its host.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "RawPod")]
pub struct Pod {
    /// Which.
    pub key: Key,
    /// Its identity; a namesake has another.
    pub uid: String,
    /// `hostPort` of each container, and the address that it is bound to, if it is a certain one.
    ///
    /// Empty for pods that have ended, and for static pods on the host network: the ports of a control plane are the
    /// node's own affair.
    pub ports: Vec<(Port, Option<Ipv4Addr>)>,
}

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "RawNode")]
pub struct Member {
    /// Which.
    pub key: Key,
    /// Condition Ready is true, and it is not being deleted.
    pub ready: bool,
    /// It carries [`LABEL`].
    pub follows: bool,
    /// Load balancers shall leave it out.
    pub excluded: bool,
    /// Its first IPv4 address of type InternalIP.
    pub address: Option<Ipv4Addr>,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T> {
    /// Where a watch goes on.
    pub version: String,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
    /// The objects.
    pub items: Vec<T>,
}

/// One line of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<T> {
    /// Made or changed.
    Is(T),
    /// Deleted, or not selected any more.
    Gone(T),
    /// Nothing that matters.
    Other,
    /// The watch cannot go on: the server's words.
    Failed(String),
}

/// An object with a key.
pub trait Item: DeserializeOwned {
    /// Its key.
    fn key(&self) -> &Key;
}

/// Reads one page of a list.
///
/// # Errors
/// It is no list of these objects; nesting is bounded by `serde_json`, length by the caller.
pub fn list<T: Item>(text: &[u8]) -> Result<List<T>, serde_json::Error> {
    let RawList { metadata, items } = serde_json::from_slice(text)?;
    let next = Some(metadata.next).filter(|next| !next.is_empty());
    Ok(List { version: metadata.version, next, items: items.unwrap_or_default() })
}

/// Reads one line of a watch.
///
/// # Errors
/// It is no event of these objects.
pub fn event<T: Item>(line: &[u8]) -> Result<Event<T>, serde_json::Error> {
    Ok(match serde_json::from_slice(line)? {
        RawEvent::Added(object) | RawEvent::Modified(object) => Event::Is(object),
        RawEvent::Deleted(object) => Event::Gone(object),
        RawEvent::Bookmark(_) => Event::Other,
        RawEvent::Error(failure) => Event::Failed(failure.message),
    })
}

impl Item for Service {
    fn key(&self) -> &Key {
        &self.key
    }
}

impl Item for Pod {
    fn key(&self) -> &Key {
        &self.key
    }
}

impl Item for Member {
    fn key(&self) -> &Key {
        &self.key
    }
}

impl Service {
    /// `port` of each port.
    pub fn front_ports(&self) -> impl Iterator<Item = Port> {
        self.front.iter().copied()
    }

    /// `nodePort` of each port that has one.
    pub fn node_ports(&self) -> impl Iterator<Item = Port> {
        self.nodes.iter().copied()
    }

    /// Its status is ours to write: no class names another, and no other has written it.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.balanced && !self.classed && (self.written_by_us || !self.has_status)
    }

    /// Whether its status names others than these sorted addresses. No address is no wish, unless the status is ours.
    pub(super) fn ingress_differs(&self, addresses: &[Ipv4Addr]) -> bool {
        let mut present = self.ingress.clone();
        present.sort_unstable();
        present != addresses
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => out.write_str(&self.name),
            namespace => write!(out, "{namespace}/{}", self.name),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
            Transport::Sctp => "sctp",
        };
        write!(out, "{}/{transport}", self.number)
    }
}

#[derive(Deserialize)]
struct RawList<T> {
    metadata: RawListMeta,
    items: Option<Vec<T>>,
}

#[derive(Deserialize)]
struct RawListMeta {
    #[serde(rename = "resourceVersion")]
    version: String,
    #[serde(default, rename = "continue")]
    next: String,
}

#[derive(Deserialize)]
#[serde(tag = "type", content = "object", rename_all = "UPPERCASE")]
enum RawEvent<T> {
    Added(T),
    Modified(T),
    Deleted(T),
    Bookmark(IgnoredAny),
    Error(RawFailure),
}

#[derive(Deserialize)]
struct RawFailure {
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMeta {
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    creation_timestamp: String,
    deletion_timestamp: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    managed_fields: Vec<RawManager>,
}

impl RawMeta {
    fn key(&mut self) -> Key {
        Key { namespace: std::mem::take(&mut self.namespace), name: std::mem::take(&mut self.name) }
    }
}

#[derive(Deserialize)]
struct RawManager {
    #[serde(default)]
    manager: String,
    #[serde(default)]
    subresource: String,
}

#[derive(Deserialize)]
struct RawService {
    metadata: RawMeta,
    #[serde(default)]
    spec: RawServiceSpec,
    #[serde(default)]
    status: RawServiceStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawServiceSpec {
    #[serde(default, rename = "type")]
    kind: String,
    load_balancer_class: Option<String>,
    #[serde(default)]
    health_check_node_port: i64,
    #[serde(default)]
    ports: Vec<RawServicePort>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawServicePort {
    #[serde(default)]
    protocol: Transport,
    #[serde(default)]
    port: i64,
    #[serde(default)]
    node_port: i64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawServiceStatus {
    #[serde(default)]
    load_balancer: RawBalancer,
}

#[derive(Default, Deserialize)]
struct RawBalancer {
    #[serde(default)]
    ingress: Vec<RawIngress>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawIngress {
    #[serde(default)]
    ip: String,
    #[serde(default)]
    ip_mode: String,
}

impl From<RawService> for Service {
    fn from(raw: RawService) -> Self {
        let RawService { mut metadata, spec, status } = raw;
        let balanced = spec.kind == "LoadBalancer";
        let ports = |number: fn(&RawServicePort) -> i64| {
            spec.ports.iter().filter_map(|raw| port(raw.protocol, number(raw))).collect()
        };
        let ingress = &status.load_balancer.ingress;
        let answered = ingress.iter().filter(|one| one.ip_mode != "Proxy");
        Self {
            key: metadata.key(),
            uid: metadata.uid,
            created: metadata.creation_timestamp,
            balanced,
            classed: spec.load_balancer_class.is_some(),
            written_by_us: metadata
                .managed_fields
                .iter()
                .any(|one| one.manager == FIELD_MANAGER && one.subresource == "status"),
            front: if balanced { ports(|raw| raw.port) } else { Vec::new() },
            nodes: if balanced || spec.kind == "NodePort" { ports(|raw| raw.node_port) } else { Vec::new() },
            health_port: port(Transport::Tcp, spec.health_check_node_port).map(|port| port.number),
            ingress: answered.filter_map(|one| one.ip.parse().ok()).collect(),
            has_status: !ingress.is_empty(),
        }
    }
}

fn port(transport: Transport, number: i64) -> Option<Port> {
    u16::try_from(number).ok().filter(|number| *number > 0).map(|number| Port { transport, number })
}

#[derive(Deserialize)]
struct RawPod {
    metadata: RawMeta,
    #[serde(default)]
    spec: RawPodSpec,
    #[serde(default)]
    status: RawPodStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPodSpec {
    #[serde(default)]
    host_network: bool,
    #[serde(default)]
    containers: Vec<RawContainer>,
    #[serde(default)]
    init_containers: Vec<RawContainer>,
}

#[derive(Deserialize)]
struct RawContainer {
    #[serde(default)]
    ports: Vec<RawContainerPort>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawContainerPort {
    #[serde(default)]
    protocol: Transport,
    #[serde(default)]
    host_port: i64,
    #[serde(default, rename = "hostIP")]
    host_ip: String,
}

#[derive(Default, Deserialize)]
struct RawPodStatus {
    #[serde(default)]
    phase: String,
}

impl From<RawPod> for Pod {
    fn from(raw: RawPod) -> Self {
        let RawPod { mut metadata, spec, status } = raw;
        let is_static = spec.host_network && metadata.annotations.contains_key(MIRROR);
        let has_ended = status.phase == "Succeeded" || status.phase == "Failed";
        let containers = spec.containers.iter().chain(&spec.init_containers);
        let ports = containers.flat_map(|container| &container.ports).filter_map(host_port);
        let ports = if is_static || has_ended { Vec::new() } else { ports.collect() };
        Self { key: metadata.key(), uid: metadata.uid, ports }
    }
}

/// The port and the certain address of a container's port; `None` if it has none on the host, or one of another family.
fn host_port(raw: &RawContainerPort) -> Option<(Port, Option<Ipv4Addr>)> {
    let port = port(raw.protocol, raw.host_port)?;
    match raw.host_ip.as_str() {
        "" | "0.0.0.0" | "::" => Some((port, None)),
        certain => Some((port, Some(certain.parse().ok()?))),
    }
}

#[derive(Deserialize)]
struct RawNode {
    metadata: RawMeta,
    #[serde(default)]
    status: RawNodeStatus,
}

#[derive(Default, Deserialize)]
struct RawNodeStatus {
    #[serde(default)]
    conditions: Vec<RawCondition>,
    #[serde(default)]
    addresses: Vec<RawAddress>,
}

#[derive(Deserialize)]
struct RawCondition {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    status: String,
}

#[derive(Deserialize)]
struct RawAddress {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    address: String,
}

impl From<RawNode> for Member {
    fn from(raw: RawNode) -> Self {
        let RawNode { mut metadata, status } = raw;
        let mut conditions = status.conditions.iter();
        let addresses = status.addresses.iter().filter(|address| address.kind == "InternalIP");
        Self {
            key: metadata.key(),
            ready: metadata.deletion_timestamp.is_none()
                && conditions.any(|condition| condition.kind == "Ready" && condition.status == "True"),
            follows: metadata.labels.contains_key(LABEL),
            excluded: metadata.labels.contains_key(EXCLUDED),
            address: addresses.filter_map(|address| address.address.parse().ok()).next(),
        }
    }
}
