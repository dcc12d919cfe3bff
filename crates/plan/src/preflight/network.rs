//! The networks of the node, against the host's and against each other.

use ipnet::Ipv4Net;

use crate::config::Config;
use crate::facts::Facts;
use crate::kubeadm::Output;
use crate::need::{Level, Unmet};

use super::error;

/// One of our networks.
struct Claim {
    id: &'static str,
    name: &'static str,
    network: Ipv4Net,
    /// The start of the remedy; a free network follows.
    remedy: &'static str,
    /// After it.
    end: &'static str,
    /// Where to look for a free network of the same size.
    candidates: &'static [[u8; 4]],
}

/// Private networks to propose: distributions, clouds and container engines use others by default.
const PODS: [[u8; 4]; 4] = [[10, 244, 0, 0], [10, 112, 0, 0], [172, 24, 0, 0], [192, 168, 0, 0]];
const SERVICES: [[u8; 4]; 4] = [[10, 96, 0, 0], [10, 128, 0, 0], [172, 16, 0, 0], [192, 168, 0, 0]];
const RANGES: [[u8; 4]; 4] = [[10, 41, 0, 0], [10, 42, 0, 0], [172, 31, 41, 0], [192, 168, 41, 0]];

/// Networks that are no host's and can be no node's, each with what it is for.
///
/// Source: RFC 6890, 2.2.2; Linux, net/ipv4/fib_frontend.c and include/linux/in.h, `ipv4_is_*`.
const RESERVED: [([u8; 4], u8, &str); 5] = [
    ([0, 0, 0, 0], 8, "(this network)"),
    ([127, 0, 0, 0], 8, "(loopback)"),
    ([169, 254, 0, 0], 16, "(link-local addresses and metadata services)"),
    ([224, 0, 0, 0], 4, "(multicast)"),
    ([240, 0, 0, 0], 4, "(reserved, and broadcast)"),
];

/// No way out, and overlaps; both networks are named.
pub(super) fn needs(config: &Config, facts: &Facts, merged: &Output) -> Vec<Unmet> {
    let mut unmet = Vec::new();
    if facts.uplink.is_none() {
        unmet.push(error(
            "DefaultRoute",
            "the host has no default IPv4 route, so the node has no address".into(),
            "ip route add default via GATEWAY dev INTERFACE",
        ));
    }
    let claims = claims(config, (merged.pod_cidr, merged.service_cidr));
    let hosts = hosts(facts);
    for (index, claim) in claims.iter().enumerate() {
        let others = claims.iter().skip(index + 1).map(|other| (other.network, format!("({})", other.name)));
        let all: Vec<(Ipv4Net, String)> = hosts.iter().cloned().chain(others).collect();
        for (network, name) in reserved().chain(all).filter(|(network, _)| overlap(*network, claim.network)) {
            unmet.push(error(
                claim.id,
                format!("{} {} overlaps {network} {name}", claim.name, claim.network),
                remedy(claim, &hosts, &claims),
            ));
        }
    }
    unmet
}

fn reserved() -> impl Iterator<Item = (Ipv4Net, String)> {
    let network = |(start, prefix, name): ([u8; 4], u8, &str)| {
        Some((Ipv4Net::new(start.into(), prefix).ok()?, name.to_owned()))
    };
    RESERVED.into_iter().filter_map(network)
}

/// What a node that has joined finds out: networks of its cluster that cover the host's.
///
/// Before, only the cluster knows them, and kubeadm does not compare.
pub(super) fn joined(
    config: &Config,
    facts: &Facts,
    networks: (Option<Ipv4Net>, Option<Ipv4Net>),
) -> Vec<Unmet> {
    let hosts = hosts(facts);
    let clash = |claim: Claim| {
        let (network, name) = hosts.iter().find(|(network, _)| overlap(*network, claim.network))?;
        Some(Unmet {
            level: Level::Warning,
            ..error(
                claim.id,
                format!(
                    "{} {} of the cluster overlaps {network} {name}: this node and its pods do not reach it",
                    claim.name, claim.network
                ),
                "kubeadm reset; then give the host another network, or join a cluster that was made with --pod-network-cidr and --service-cidr apart from it",
            )
        })
    };
    claims(config, networks)
        .into_iter()
        .filter(|claim| claim.id != "RangeOverlap")
        .filter_map(clash)
        .collect()
}

/// A node that joins does not know the cluster's networks.
fn claims(config: &Config, networks: (Option<Ipv4Net>, Option<Ipv4Net>)) -> Vec<Claim> {
    let (pods, services) = networks;
    let pods = pods.map(|network| Claim {
        id: "PodCIDR",
        name: "the pod network",
        network,
        remedy: "kubeadm init --pod-network-cidr=",
        end: "",
        candidates: &PODS,
    });
    let services = services.map(|network| Claim {
        id: "ServiceCIDR",
        name: "the service network",
        network,
        remedy: "kubeadm init --service-cidr=",
        end: "",
        candidates: &SERVICES,
    });
    let range = Claim {
        id: "RangeOverlap",
        name: "the node's own range",
        network: config.network.range,
        remedy: "in /etc/u7s/config.toml, section [network]: range = \"",
        end: "\"",
        candidates: &RANGES,
    };
    pods.into_iter().chain(services).chain([range]).collect()
}

/// Networks of the host: routes, then addresses whose network no route names; each once.
fn hosts(facts: &Facts) -> Vec<(Ipv4Net, String)> {
    let mut hosts: Vec<(Ipv4Net, String)> = Vec::new();
    for route in facts.routes.iter().chain(&facts.addresses) {
        let network = route.network.trunc();
        if network.prefix_len() > 0 && !hosts.iter().any(|(known, _)| *known == network) {
            hosts.push((network, format!("on {}", route.interface.escape_debug())));
        }
    }
    hosts
}

fn overlap(one: Ipv4Net, other: Ipv4Net) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// The first candidate of the claim's size that is free everywhere, or the place to write one.
fn remedy(claim: &Claim, hosts: &[(Ipv4Net, String)], claims: &[Claim]) -> String {
    let free = |network: &Ipv4Net| {
        hosts.iter().all(|(host, _)| !overlap(*host, *network))
            && claims
                .iter()
                .filter(|other| other.id != claim.id)
                .all(|other| !overlap(other.network, *network))
    };
    let prefix = claim.network.prefix_len();
    let found = claim
        .candidates
        .iter()
        .filter_map(|start| Ipv4Net::new((*start).into(), prefix).ok())
        .filter(|network| network.network() == network.addr())
        .find(free);
    match found {
        Some(network) => format!("{}{network}{}", claim.remedy, claim.end),
        None => format!("{}A.B.C.D/{prefix}{}", claim.remedy, claim.end),
    }
}
