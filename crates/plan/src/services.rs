//! Services from outside: which ports of the host the cluster's Services and pods want open, and which addresses the
//! status of a LoadBalancer Service shall name.
//!
//! All that comes in here was written by users of the cluster: what they may have is bounded by [`Rules`] and [`MOST`].
//! Inside, a connection to the node's address is kube-proxy's or the portmap plugin's; a port that is open here leads there.

mod networks;
mod notice;
mod objects;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use crate::control::MOST_REFUSED;

pub use networks::{CONFIGURATION, networks};
pub use notice::Notice;
pub use objects::{Event, Item, Key, List, Member, Pod, Port, Service, Transport, event, list};

/// The most ports that Services and pods together may have open on one node: each is a descriptor or more.
pub const MOST: usize = 4096;

/// The label of nodes that open ports for Services: their addresses go into `status.loadBalancer.ingress`.
///
/// A node gives it to itself. Rootful nodes have it only if their administrator says so: there a LoadBalancer port of 22
/// would lead away from the host's own sshd.
pub const LABEL: &str = "u7s/services";

/// The field manager that our patches of a Service's status carry; what another one wrote is left alone.
pub const FIELD_MANAGER: &str = "u7s";

/// TCP ports that no LoadBalancer Service gets, on top of those that the node itself has open: kube-proxy would lead
/// connections of the cluster's own parts to them astray, on every node.
///
/// etcd's, the API server's default, the kubelet's and those of the control plane's parts.
/// Source: "Ports and Protocols" of the Kubernetes reference; kubeadm's constants.
const CLUSTER: [u16; 11] = [2379, 2380, 2381, 6443, 10_248, 10_249, 10_250, 10_255, 10_256, 10_257, 10_259];

/// UDP likewise: vxlan, flannel's and the standard's.
const CLUSTER_UDP: [u16; 2] = [8472, 4789];

/// What this node knows of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Services of type NodePort and LoadBalancer; others do no harm.
    pub services: BTreeMap<Key, Service>,
    /// Pods of this node.
    pub pods: BTreeMap<Key, Pod>,
    /// All nodes; empty where this node does not write status.
    pub members: BTreeMap<Key, Member>,
}

/// What this node may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The node's address.
    pub node_ip: Ipv4Addr,
    /// Ports that the node itself has open.
    pub own: BTreeSet<Port>,
    /// It writes the status of LoadBalancer Services.
    pub writes: bool,
}

/// The judgement of one [`View`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Ports of the node's address to be open, each with the first that wants it.
    pub open: BTreeMap<Port, Claim>,
    /// What is not opened whatever the host says: the first [`MOST_REFUSED`].
    pub refused: BTreeMap<(Claim, Port), Reason>,
    /// How many more are not opened: one pod can ask for as many ports as its manifest has room for.
    pub refused_more: usize,
    /// LoadBalancer Services that are served by us: the addresses that their status shall name, none for those that
    /// lost a port to others. While no node is ready, what they name stays.
    ingress: BTreeMap<Key, Vec<Ipv4Addr>>,
}

/// Who wants a port, and as what.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// As what.
    pub kind: Kind,
    /// Service or pod.
    pub by: Key,
}

/// Kinds of claims, the stronger first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `spec.ports[].nodePort`, given out by the API server, one Service each.
    NodePort,
    /// `spec.healthCheckNodePort`, likewise.
    HealthCheck,
    /// `spec.ports[].port` of a LoadBalancer Service.
    LoadBalancer,
    /// `hostPort` of a container.
    HostPort,
}

/// Why a port is not opened.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// SCTP is not forwarded.
    Sctp,
    /// A port of the node or of the cluster's own parts.
    Own,
    /// A stronger or older claim has it.
    Claimed(Claim),
    /// More than [`MOST`].
    TooMany,
}

/// A status to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    /// The Service.
    pub service: Key,
    /// Text of a JSON merge patch of the subresource `status`; it names the uid, so that a namesake is not meant.
    pub text: String,
}

impl Wanted {
    /// What `view` asks for, within `rules`.
    #[must_use]
    pub fn of(view: &View, rules: &Rules) -> Self {
        let mut wanted = Self::default();
        for service in view.services.values() {
            wanted.claim_node_ports(service, rules);
        }
        let addresses = if rules.writes { addresses(&view.members) } else { Vec::new() };
        let mut balancers: Vec<&Service> =
            view.services.values().filter(|service| service.balanced).collect();
        balancers.sort_by_key(|service| (&service.created, &service.key));
        let mut held = BTreeMap::new();
        for service in balancers {
            wanted.claim_balanced(service, rules, &addresses, &mut held);
        }
        for pod in view.pods.values() {
            for (port, _) in pod.ports.iter().filter(|(_, ip)| ip.is_none_or(|ip| ip == rules.node_ip)) {
                wanted.claim(Claim { kind: Kind::HostPort, by: pod.key.clone() }, *port, rules);
            }
        }
        wanted
    }

    /// Patches of the Services whose status does not name what it should.
    ///
    /// `opened` are the ports that this node has really open: where its own address is named, all of the Service must be.
    #[must_use]
    pub fn patches(&self, view: &View, rules: &Rules, opened: &BTreeSet<Port>) -> Vec<Patch> {
        let mut patches = Vec::new();
        for (key, addresses) in &self.ingress {
            let Some(service) = view.services.get(key) else { continue };
            let here = addresses.contains(&rules.node_ip);
            let ready = !here || service.front_ports().all(|port| opened.contains(&port));
            if ready && service.ingress_differs(addresses) {
                patches.push(patch(service, addresses));
            }
        }
        patches
    }

    fn claim_node_ports(&mut self, service: &Service, rules: &Rules) {
        let claim = |kind| Claim { kind, by: service.key.clone() };
        for port in service.node_ports() {
            self.claim(claim(Kind::NodePort), port, rules);
        }
        if let Some(number) = service.health_port {
            self.claim(claim(Kind::HealthCheck), Port { transport: Transport::Tcp, number }, rules);
        }
    }

    /// A Service gets all of its ports or none: half of one behind an address would be a lie in its status.
    fn claim_balanced<'a>(
        &mut self,
        service: &'a Service,
        rules: &Rules,
        addresses: &[Ipv4Addr],
        held: &mut BTreeMap<Port, &'a Key>,
    ) {
        let ours = rules.writes && service.is_ours();
        if !ours && service.ingress.is_empty() {
            return;
        }
        let claim = Claim { kind: Kind::LoadBalancer, by: service.key.clone() };
        let mut lost = false;
        for port in service.front_ports() {
            if let Some(reason) = self.objection(service, port, rules, held) {
                self.refuse(claim.clone(), port, reason);
                lost = true;
            }
        }
        if ours && (lost || !addresses.is_empty()) {
            self.ingress.insert(service.key.clone(), if lost { Vec::new() } else { addresses.to_vec() });
        }
        if lost {
            return;
        }
        held.extend(service.front_ports().map(|port| (port, &service.key)));
        let named = service.ingress.contains(&rules.node_ip) || ours && addresses.contains(&rules.node_ip);
        for port in service.front_ports().filter(|_| named) {
            self.claim(claim.clone(), port, rules);
        }
    }

    fn objection(
        &self,
        service: &Service,
        port: Port,
        rules: &Rules,
        held: &BTreeMap<Port, &Key>,
    ) -> Option<Reason> {
        if port.transport == Transport::Sctp {
            return Some(Reason::Sctp);
        }
        if rules.own.contains(&port) || is_cluster(port) {
            return Some(Reason::Own);
        }
        if let Some(by) = held.get(&port) {
            return Some(Reason::Claimed(Claim { kind: Kind::LoadBalancer, by: (*by).clone() }));
        }
        self.open.get(&port).filter(|claim| claim.by != service.key).cloned().map(Reason::Claimed)
    }

    fn claim(&mut self, claim: Claim, port: Port, rules: &Rules) {
        let reason = match self.open.get(&port) {
            _ if port.transport == Transport::Sctp => Reason::Sctp,
            _ if rules.own.contains(&port) => Reason::Own,
            Some(other) if other.by == claim.by => return,
            Some(other) => Reason::Claimed(other.clone()),
            None if self.open.len() >= MOST => Reason::TooMany,
            None => {
                self.open.insert(port, claim);
                return;
            }
        };
        self.refuse(claim, port, reason);
    }

    fn refuse(&mut self, claim: Claim, port: Port, reason: Reason) {
        let wish = (claim, port);
        if self.refused.len() < MOST_REFUSED || self.refused.contains_key(&wish) {
            self.refused.insert(wish, reason);
        } else {
            self.refused_more += 1;
        }
    }
}

fn is_cluster(port: Port) -> bool {
    let list: &[u16] = match port.transport {
        Transport::Tcp => &CLUSTER,
        Transport::Udp => &CLUSTER_UDP,
        Transport::Sctp => &[],
    };
    list.contains(&port.number)
}

/// The addresses that LoadBalancer Services are reached at: those of all nodes that are ready and carry [`LABEL`], sorted,
/// so that every control plane comes to the same list.
///
/// As with the load balancers of clouds, nodes with `node.kubernetes.io/exclude-from-external-load-balancers`, which kubeadm
/// gives to control planes, are left out, unless there are no others.
fn addresses(members: &BTreeMap<Key, Member>) -> Vec<Ipv4Addr> {
    let serving = || members.values().filter(|member| member.follows);
    let only_excluded = serving().all(|member| member.excluded);
    let mut addresses: Vec<Ipv4Addr> = serving()
        .filter(|member| member.ready && (only_excluded || !member.excluded))
        .filter_map(|member| member.address)
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn patch(service: &Service, addresses: &[Ipv4Addr]) -> Patch {
    let ingress: Vec<_> = addresses.iter().map(|ip| serde_json::json!({"ip": ip})).collect();
    let text = serde_json::json!({
        "metadata": {"uid": service.uid},
        "status": {"loadBalancer": {"ingress": ingress}},
    });
    Patch { service: service.key.clone(), text: text.to_string() }
}

impl fmt::Display for Claim {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::NodePort => "NodePort of Service",
            Kind::HealthCheck => "healthCheckNodePort of Service",
            Kind::LoadBalancer => "LoadBalancer port of Service",
            Kind::HostPort => "hostPort of pod",
        };
        write!(out, "{kind} {}", self.by)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sctp => out.write_str("SCTP is not forwarded"),
            Self::Own => out.write_str("the node or the cluster itself needs that port"),
            Self::Claimed(claim) => write!(out, "it is the {claim}"),
            Self::TooMany => write!(out, "more than {MOST} ports are wanted"),
        }
    }
}

#[cfg(test)]
mod tests;
