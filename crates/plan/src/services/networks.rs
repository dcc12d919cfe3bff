//! The networks of a cluster that others began, as its kubeadm left them in the API.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde_json::Value;

use crate::yaml;

/// Path of the API where kubeadm keeps a cluster's configuration; every node may read it.
///
/// Source: kubernetes, cmd/kubeadm/app/phases/uploadconfig, role `kubeadm:nodes-kubeadm-config`.
pub const CONFIGURATION: &str = "/api/v1/namespaces/kube-system/configmaps/kubeadm-config";

/// No network of pods or services is larger: what claims to be would shut clients out.
const SHORTEST_PREFIX: u8 = 8;

/// The networks of the pods and of the services that a ConfigMap `kubeadm-config` names, in this order.
///
/// Shape: IPv4 only. One that has the node's own address in it, or is larger than any, is left out.
#[must_use]
pub fn networks(config_map: &[u8], node_ip: Ipv4Addr) -> Vec<Ipv4Net> {
    let map: Value = serde_json::from_slice(config_map).unwrap_or_default();
    let text = map["data"]["ClusterConfiguration"].as_str().unwrap_or_default();
    let documents = yaml::documents(text, "kubeadm-config").unwrap_or_default();
    let Some(configuration) = documents.first() else { return Vec::new() };
    let named = ["podSubnet", "serviceSubnet"].map(|name| configuration["networking"][name].as_str());
    let networks = named.into_iter().flatten().flat_map(|list| list.split(','));
    networks
        .filter_map(|network| network.trim().parse::<Ipv4Net>().ok())
        .filter(|network| network.prefix_len() >= SHORTEST_PREFIX && !network.contains(&node_ip))
        .map(|network| network.trunc())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(networking: &str) -> Vec<String> {
        let text = format!("apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\n{networking}");
        let map = serde_json::json!({"data": {"ClusterConfiguration": text}}).to_string();
        let networks = networks(map.as_bytes(), Ipv4Addr::new(192, 0, 2, 10));
        networks.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_cluster_tells_its_networks() {
        let both = "networking:\n  podSubnet: 10.244.1.0/16,fd00::/48\n  serviceSubnet: 10.96.0.0/12\n";
        assert_eq!(read(both), ["10.244.0.0/16", "10.96.0.0/12"]);
        assert_eq!(read("networking:\n  serviceSubnet: 10.96.0.0/12\n"), ["10.96.0.0/12"]);
    }

    #[test]
    fn what_would_shut_clients_out_is_not_believed() {
        for network in ["0.0.0.0/0", "192.0.2.0/24", "10.0.0.0/7", "none", "10.244.0.0"] {
            assert!(read(&format!("networking: {{podSubnet: {network}}}\n")).is_empty(), "{network}");
        }
        for text in ["", "[", "networking: []\n", "networking: {podSubnet: 5}\n"] {
            assert!(read(text).is_empty(), "{text}");
        }
        assert!(networks(b"not JSON", Ipv4Addr::LOCALHOST).is_empty());
    }
}
