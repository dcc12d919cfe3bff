//! Network lists of the bridge plugin: one for a node alone, one that is filled in from flannel's subnet file.

use ipnet::Ipv4Net;
use serde_json::{Value, json};

/// Name of the file of [`bridge`] in /etc/cni/net.d.
pub const FILE: &str = "10-u7s-bridge.conflist";

/// Plugins that [`bridge`] and [`flannel`] name.
pub const PLUGINS: [&str; 3] = ["bridge", "host-local", "portmap"];

/// Stands for the node's part of the pod network in [`flannel`], with its quotes a part of a JSON text.
pub const SUBNET: &str = "@SUBNET@";

/// Stands for the MTU of pods in [`flannel`]; a number takes the place of the quotes, too.
pub const MTU: &str = "@MTU@";

/// Length of the prefix that kube-controller-manager gives to a node.
///
/// Source: kube-controller-manager(8), `--node-cidr-mask-size-ipv4`.
const NODE_PREFIX: u8 = 24;

/// The network list: a bridge with addresses of the first node's part of `pods`, and host ports.
///
/// The first node gets the first /24 from kube-controller-manager; a smaller network is used whole.
/// A node that is not alone needs another network: flannel, or one that the administrator brings.
///
/// Source: cni.dev/plugins, pages bridge, host-local, portmap; CNI specification 1.0.0.
#[must_use]
pub fn bridge(pods: Ipv4Net) -> String {
    let part = Ipv4Net::new(pods.network(), NODE_PREFIX.max(pods.prefix_len())).unwrap_or(pods);
    list("u7s-bridge", &part.to_string(), true, json!({}))
}

/// The network list of a node of flannel: what flannel's own plugin would hand to the bridge plugin.
///
/// [`SUBNET`] and [`MTU`] stand where every node has its own values.
/// Packets that leave the pod network are masqueraded by flanneld, not here.
/// A bridge that an earlier cluster left behind gets the new address: `forceAddress`.
///
/// Source: github.com/flannel-io/cni-plugin, `delegateAdd`; cni.dev/plugins, page bridge.
#[must_use]
pub fn flannel() -> String {
    list("cbr0", SUBNET, false, json!({ "mtu": MTU, "forceAddress": true }))
}

/// A bridge with routed addresses and host ports; `more` are further fields of the bridge.
fn list(name: &str, subnet: &str, masquerade: bool, more: Value) -> String {
    let mut bridge = json!({
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": true,
        "ipMasq": masquerade,
        "hairpinMode": true,
        "ipam": {
            "type": "host-local",
            "ranges": [[{ "subnet": subnet }]],
            "routes": [{ "dst": "0.0.0.0/0" }],
        },
    });
    if let (Some(fields), Value::Object(more)) = (bridge.as_object_mut(), more) {
        fields.extend(more);
    }
    let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
    let list = json!({ "cniVersion": "1.0.0", "name": name, "plugins": [bridge, portmap] });
    format!("{list:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(pods: &str) -> String {
        let list: Value = serde_json::from_str(&bridge(pods.parse().unwrap())).unwrap();
        list["plugins"][0]["ipam"]["ranges"][0][0]["subnet"].as_str().unwrap().into()
    }

    #[test]
    fn the_first_node_has_the_first_24_bit_network() {
        assert_eq!(subnet("10.244.0.0/16"), "10.244.0.0/24");
        assert_eq!(subnet("10.1.2.0/24"), "10.1.2.0/24");
        assert_eq!(subnet("10.1.2.64/26"), "10.1.2.64/26");
    }
}
