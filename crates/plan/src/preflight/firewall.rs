//! The host's own packet filter: whether ours can be loaded, and whether its rules drop what must reach the node.
//!
//! The rules are read as the kernel walks them, for a new connection from outside to each declared port. What they look at
//! and what is not known beforehand (the client, marks, limits) is decided for the host: a rule that may accept accepts, and
//! one that may drop does not. So a warning means that nobody outside reaches the port.

use std::net::{IpAddr, SocketAddr};

use crate::config::Config;
use crate::facts::Facts;
use crate::firewall::admits;
use crate::need::{Level, Unmet};
use crate::node::NodeSpec;

use super::{error, missing_program};

mod matches;
mod walk;

use matches::Packet;
use walk::{Chain, Rules};

/// Where Services are reached from outside. Source: kube-apiserver, `--service-node-port-range`.
const NODE_PORTS: (u16, u16) = (30_000, 32_767);

/// nft, and the host's rules against the node's ports.
///
/// `endpoint` is the API endpoint of the cluster, `host:port`, if it has one beside this node.
#[must_use]
pub fn needs(config: &Config, facts: &Facts, node: &NodeSpec, endpoint: Option<&str>) -> Vec<Unmet> {
    let mut unmet = Vec::new();
    unmet.extend(own(config, facts));
    unmet.extend(peers(config, node));
    unmet.extend(endpoint.and_then(|text| text.parse().ok()).and_then(|at| shut(config, facts, node, at)));
    let rules = facts.firewall.rules.as_deref().unwrap_or_default();
    unmet.extend(host(&Rules::new(rules), facts, node));
    unmet
}

/// Whether our own table can be loaded.
fn own(config: &Config, facts: &Facts) -> Option<Unmet> {
    const OFF: &str = "in /etc/u7s/config.toml, section [firewall]: enabled = false";
    if !config.firewall.enabled {
        return Some(warning(
            "Firewall",
            "pods reach the host's loopback and metadata services: the firewall is switched off".into(),
            "in /etc/u7s/config.toml, section [firewall]: enabled = true",
        ));
    }
    if !facts.programs.get("nft").is_some_and(Option::is_some) {
        let need = missing_program(facts, "nft", "nftables");
        let remedy = format!("{}; or, without bounds for pods, {OFF}", need.remedy);
        return Some(Unmet { remedy, ..need });
    }
    let why = facts.firewall.broken.as_ref()?;
    Some(error(
        "Firewall",
        format!("nft does not work here: {}", why.escape_debug()),
        format!("modprobe nf_tables; or, without bounds for pods, {OFF}"),
    ))
}

/// A list that leaves out the node's own address most likely leaves out its peers.
fn peers(config: &Config, node: &NodeSpec) -> Option<Unmet> {
    let address = node.network.node_ip;
    (!admits(&config.firewall, address.into())).then(|| {
        warning(
            "Egress",
            format!("firewall.egress does not hold {address}: nodes beside this one would not be reached"),
            "add the network of the cluster's nodes to firewall.egress in /etc/u7s/config.toml",
        )
    })
}

/// An endpoint by address that the table would refuse; one by name may lead anywhere.
fn shut(config: &Config, facts: &Facts, node: &NodeSpec, endpoint: SocketAddr) -> Option<Unmet> {
    let own = facts.addresses.iter().any(|route| IpAddr::from(route.network.addr()) == endpoint.ip());
    let forwarded = node.forwards.iter().any(|forward| forward.port == endpoint.port());
    let open = if own { forwarded } else { admits(&config.firewall, endpoint.ip()) };
    // The node's own address is its own inside.
    let inside = endpoint.ip() == IpAddr::from(node.network.node_ip);
    let allowed = !config.firewall.enabled || config.firewall.allow.contains(&endpoint);
    (!open && !inside && !allowed).then(|| {
        warning(
            "Egress",
            format!("the firewall would keep the node from the API endpoint {endpoint}"),
            format!("in /etc/u7s/config.toml, section [firewall]: allow = [\"{endpoint}\"]"),
        )
    })
}

fn warning(id: &str, message: String, remedy: impl Into<String>) -> Unmet {
    Unmet { level: Level::Warning, ..error(id, message, remedy) }
}

/// One or several ports of one protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ports {
    protocol: &'static str,
    first: u16,
    last: u16,
}

impl Ports {
    fn one(protocol: &'static str, port: u16) -> Self {
        Self { protocol, first: port, last: port }
    }

    fn shown(self, dash: char) -> String {
        if self.first == self.last {
            self.first.to_string()
        } else {
            format!("{}{dash}{}", self.first, self.last)
        }
    }
}

/// What is to be reached from outside.
fn declared(node: &NodeSpec) -> Vec<Ports> {
    let mut ports: Vec<Ports> =
        node.forwards.iter().map(|forward| Ports::one(forward.protocol.as_str(), forward.port)).collect();
    ports.push(Ports { protocol: "tcp", first: NODE_PORTS.0, last: NODE_PORTS.1 });
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// One warning for each chain that drops, with all the ports that it drops.
fn host(rules: &Rules<'_>, facts: &Facts, node: &NodeSpec) -> Vec<Unmet> {
    let Some(uplink) = &facts.uplink else { return Vec::new() };
    let interface = uplink.interface.as_str();
    let packet = |protocol, port| Packet { protocol, port, interface, address: node.network.node_ip };
    let mut found: Vec<(Chain<'_>, Vec<Ports>)> = Vec::new();
    for ports in declared(node) {
        let at = |port| rules.drops(&packet(ports.protocol, port));
        // Of a range both ends must be dropped: a part that is open may be all that is wanted.
        let Some(chain) = at(ports.first).filter(|_| at(ports.last).is_some()) else { continue };
        match found.iter_mut().find(|(known, _)| *known == chain) {
            Some((_, list)) => list.push(ports),
            None => found.push((chain, vec![ports])),
        }
    }
    found.iter().map(|(chain, ports)| dropped(*chain, ports)).collect()
}

fn dropped(chain: Chain<'_>, ports: &[Ports]) -> Unmet {
    let names: Vec<String> =
        ports.iter().map(|ports| format!("{}/{}", ports.shown('-'), ports.protocol)).collect();
    let Chain { family, table, name } = chain;
    let place = format!("{family} {table} {name}").escape_debug().to_string();
    let message = format!("the host's own rules ({place}) drop {} from outside", names.join(", "));
    warning("HostFirewall", message, lines(chain, ports))
}

/// The lines to paste, for the program that made the chain.
fn lines(chain: Chain<'_>, ports: &[Ports]) -> String {
    let Chain { family, table, name } = chain;
    // What is pasted into a shell holds plain names only.
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    if ![family, table, name].into_iter().all(plain) {
        return "look at the rules and accept these ports: nft list ruleset".into();
    }
    if table == "firewalld" {
        let port = |ports: &Ports| format!("--add-port={}/{}", ports.shown('-'), ports.protocol);
        let ports: Vec<String> = ports.iter().map(port).collect();
        return format!("firewall-cmd --permanent {} && firewall-cmd --reload", ports.join(" "));
    }
    let by_iptables = family == "ip" && table == "filter" && name == "INPUT";
    let line = |protocol: &str| {
        let of = |dash| ports.iter().filter(move |it| it.protocol == protocol).map(move |it| it.shown(dash));
        if by_iptables {
            let list: Vec<String> = of(':').collect();
            format!("iptables -I INPUT -p {protocol} -m multiport --dports {} -j ACCEPT", list.join(","))
        } else {
            let list: Vec<String> = of('-').collect();
            format!(
                "nft insert rule {family} {table} {name} {protocol} dport '{{ {} }}' accept",
                list.join(", ")
            )
        }
    };
    let protocols = ["tcp", "udp"].into_iter().filter(|name| ports.iter().any(|it| it.protocol == *name));
    protocols.map(line).collect::<Vec<_>>().join(" && ")
}
