//! Networks and names of the configuration, checked as kubeadm checks them, and against each other.

use std::net::Ipv4Addr;

use ipnet::{Ipv4Net, Ipv6Net};

use super::fields::{Document, argument, text};
use super::flags::origin;
use super::{Error, Input};

/// kubeadm's default network of the services.
const SERVICE_CIDR: &str = "10.96.0.0/12";

/// Arguments of the controller manager.
const MANAGER_ARGS: [&str; 2] = ["controllerManager", "extraArgs"];

/// The two networks of a cluster, host bits cut off as Go's `ParseCIDR` does.
#[derive(Debug)]
pub(super) struct Networks {
    pub(super) pods: Ipv4Net,
    pub(super) services: Ipv4Net,
}

/// Reads both networks of a completed ClusterConfiguration.
///
/// # Errors
/// [`Error::Invalid`] for what kubeadm would refuse and for IPv6; [`Error::Overlap`] if one lies in the other, which
/// kubeadm does not check. The host's own networks are preflight's: needs PodCIDR and ServiceCIDR.
pub(super) fn networks(cluster: &Document, input: &Input<'_>) -> Result<Networks, Error> {
    let pod_path = origin(input.request, "pod-network-cidr", "ClusterConfiguration.networking.podSubnet");
    let service_path = origin(input.request, "service-cidr", "ClusterConfiguration.networking.serviceSubnet");
    let pods = parse(text(cluster, &["networking", "podSubnet"]).unwrap_or(super::POD_CIDR), &pod_path)?;
    let services =
        parse(text(cluster, &["networking", "serviceSubnet"]).unwrap_or(SERVICE_CIDR), &service_path)?;
    check_services(services, &service_path)?;
    check_pods(pods, cluster, &pod_path)?;
    disjoint((&pod_path, pods), (&service_path, services))?;
    Ok(Networks { pods, services })
}

fn parse(text: &str, path: &str) -> Result<Ipv4Net, Error> {
    let refuse =
        |why: &str| Error::Invalid { path: path.to_owned(), why: format!("{}: {why}", text.escape_debug()) };
    if text.contains(',') {
        return Err(refuse("dual stack is not supported yet: give one IPv4 network"));
    }
    if text.parse::<Ipv6Net>().is_ok() {
        return Err(refuse("IPv6 is not supported yet: give an IPv4 network"));
    }
    let network: Ipv4Net =
        text.parse().map_err(|_| refuse("couldn't parse subnet: an IPv4 network reads 10.244.0.0/16"))?;
    Ok(network.trunc())
}

/// Source: kubernetes, kubeadm's `MinimumAddressesInServiceSubnet`, `MaximumBitsForServiceSubnet`.
fn check_services(network: Ipv4Net, path: &str) -> Result<(), Error> {
    let refuse =
        |why: String| Err(Error::Invalid { path: path.to_owned(), why: format!("{network}: {why}") });
    let addresses = 1_u64 << (32 - network.prefix_len());
    if addresses < 10 {
        return refuse(format!("subnet with {addresses} address(es) is too small, the minimum is 10"));
    }
    if network.prefix_len() < 12 {
        return refuse(
            "specified service subnet is too large; for 32-bit addresses, the mask must be >= 12".into(),
        );
    }
    Ok(())
}

/// Source: kubernetes, kubeadm's `ValidatePodSubnetNodeMask`.
fn check_pods(network: Ipv4Net, cluster: &Document, path: &str) -> Result<(), Error> {
    if argument(cluster, &MANAGER_ARGS, "allocate-node-cidrs") == Some("false") {
        return Ok(());
    }
    let refuse =
        |why: String| Err(Error::Invalid { path: path.to_owned(), why: format!("{network}: {why}") });
    let given = argument(cluster, &MANAGER_ARGS, "node-cidr-mask-size-ipv4").unwrap_or("24");
    let Ok(node) = given.parse::<u8>() else {
        return refuse(format!("node-cidr-mask-size-ipv4 is {}, no integer", given.escape_debug()));
    };
    let mask = network.prefix_len();
    if mask > node {
        return refuse(format!(
            "the size of pod subnet with mask {mask} is smaller than the size of node subnet with mask {node}"
        ));
    }
    if node - mask > 16 {
        return refuse(format!(
            "pod subnet mask ({mask}) and node-mask ({node}) difference is greater than 16"
        ));
    }
    Ok(())
}

fn disjoint(first: (&str, Ipv4Net), second: (&str, Ipv4Net)) -> Result<(), Error> {
    if !first.1.contains(&second.1) && !second.1.contains(&first.1) {
        return Ok(());
    }
    Err(Error::Overlap {
        first: first.0.to_owned(),
        first_net: first.1.to_string(),
        second: second.0.to_owned(),
        second_net: second.1.to_string(),
    })
}

/// RFC 1123 subdomain, as Kubernetes takes it for node names and domains.
///
/// Source: kubernetes, apimachinery/pkg/util/validation, `IsDNS1123Subdomain`.
pub(super) fn check_name(name: &str, path: &str) -> Result<(), Error> {
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let label = |label: &str| {
        let (first, last) = (label.bytes().next(), label.bytes().next_back());
        first.is_some_and(edge)
            && last.is_some_and(edge)
            && label.bytes().all(|byte| edge(byte) || byte == b'-')
    };
    short_name(name, path, (253, "a DNS name"))?;
    if name.split('.').all(label) {
        return Ok(());
    }
    let why = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
               start and end with an alphanumeric character";
    Err(Error::Invalid { path: path.to_owned(), why: format!("{}: {why}", name.escape_debug()) })
}

/// A name that is too long is not blamed for its letters, and only its beginning is shown.
pub(super) fn short_name(name: &str, path: &str, (most, what): (usize, &str)) -> Result<(), Error> {
    let count = name.chars().count();
    if count <= most {
        return Ok(());
    }
    let start: String = name.chars().take(20).collect();
    let why = format!("{}...: it has {count} characters, {what} has {most} at most", start.escape_debug());
    Err(Error::Invalid { path: path.to_owned(), why })
}

/// Whether an endpoint `host[:port]` names this node's address.
pub(super) fn check_endpoint(endpoint: &str, path: &str) -> Result<(), Error> {
    let (host, port) = match endpoint.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => (host, Some(port)),
        _ => (endpoint, None),
    };
    let right_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    let right_host = host.parse::<Ipv4Addr>().is_ok() || check_name(&host.to_lowercase(), path).is_ok();
    if right_host && right_port {
        return Ok(());
    }
    let why = format!("{}: endpoint is not valid, it reads host or host:port", endpoint.escape_debug());
    Err(Error::Invalid { path: path.to_owned(), why })
}
