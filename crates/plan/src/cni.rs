//! The cluster network of a single node.

use ipnet::Ipv4Net;
use serde_json::json;

/// Name of the file in /etc/cni/net.d.
pub const FILE: &str = "10-u7s-bridge.conflist";

/// Plugins that [`bridge`] names.
pub const PLUGINS: [&str; 3] = ["bridge", "host-local", "portmap"];

/// Length of the prefix that kube-controller-manager gives to a node.
///
/// Source: kube-controller-manager(8), `--node-cidr-mask-size-ipv4`.
const NODE_PREFIX: u8 = 24;

/// The network list: a bridge with addresses of the first node's part of `pods`, and host ports.
///
/// The first node gets the first /24 from kube-controller-manager; a smaller network is used whole.
/// A node that is not alone needs another network: set `cni = "none"` and bring one.
///
/// Source: cni.dev/plugins, pages bridge, host-local, portmap; CNI specification 1.0.0.
#[must_use]
pub fn bridge(pods: Ipv4Net) -> String {
    let part = Ipv4Net::new(pods.network(), NODE_PREFIX.max(pods.prefix_len())).unwrap_or(pods);
    let list = json!({
        "cniVersion": "1.0.0",
        "name": "u7s-bridge",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "ipMasq": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{ "subnet": part }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    });
    format!("{list:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(pods: &str) -> String {
        let list: serde_json::Value = serde_json::from_str(&bridge(pods.parse().unwrap())).unwrap();
        list["plugins"][0]["ipam"]["ranges"][0][0]["subnet"].as_str().unwrap().into()
    }

    #[test]
    fn the_first_node_has_the_first_24_bit_network() {
        assert_eq!(subnet("10.244.0.0/16"), "10.244.0.0/24");
        assert_eq!(subnet("10.1.2.0/24"), "10.1.2.0/24");
        assert_eq!(subnet("10.1.2.64/26"), "10.1.2.64/26");
    }
}
