//! How the forwarder's packets find their way inside: marks, tables, its tun device, and the nft table that ties them.
//!
//! ```text
//!   connections   own sockets inside, bound to the client's address, packets marked STREAM_MARK
//!   datagrams     whole packets through the device TUN, to the node's address, from the client's
//! ```
//! The answers of both go to the client's address, whose route leads to tap0 and out of the wrong door. So the mark is kept in
//! conntrack, and every packet of an answer gets it back, wherever it comes from: a local socket, or a pod behind DNAT.

use std::fmt::Write as _;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::node::Network;

/// Mark of packets of forwarded connections, under [`MARKS`].
///
/// Apart from kube-proxy's 0x4000 and 0x8000, the portmap plugin's 0x2000, Cilium's 0x0f00 and Calico's upper half.
pub const STREAM_MARK: u32 = 0x10;

/// Mark of answers to forwarded datagrams, under [`MARKS`].
pub const DATAGRAM_MARK: u32 = 0x20;

/// The bits that are ours.
pub const MARKS: u32 = 0x30;

/// Routing table for [`STREAM_MARK`]: `local default dev lo`, everything is delivered to local sockets.
pub const STREAM_TABLE: u32 = 117;

/// Routing table for [`DATAGRAM_MARK`]: `default dev u7s0`.
pub const DATAGRAM_TABLE: u32 = 118;

/// Device by which datagrams come in and answers go out.
pub const TUN: &str = "u7s0";

/// Port of flannel's vxlan: the node's own packets to it leave by [`TUN`], too, and not by the user-mode stack.
///
/// Source: flannel, Documentation/backends.md.
pub const VXLAN: u16 = 8472;

/// Networks in which no host on the network has its address: this host, the link, groups.
///
/// 169.254.0.0/16 is where clouds answer for the host. Source: RFC 6890, special-purpose registries.
const NOBODY: [(Ipv4Addr, u8); 4] = [
    (Ipv4Addr::UNSPECIFIED, 8),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// Networks from which no client outside of the host is let in.
///
/// Inside, a packet from such an address is one of a pod, a service or the node itself: policies by source would believe it.
/// The kernel of the host does not refuse them all: its reverse path check lets in whatever has no other way back than the
/// default route. What comes from the host itself is not meant.
#[must_use]
pub fn inside(network: &Network) -> Vec<Ipv4Net> {
    let nobody = NOBODY.into_iter().filter_map(|(address, prefix)| Ipv4Net::new(address, prefix).ok());
    let clusters = [network.pod_cidr, network.service_cidr].into_iter().flatten();
    let node = Ipv4Net::from(network.node_ip);
    let all = nobody.chain([network.range, node]).chain(clusters);
    all.map(|network| network.trunc()).collect()
}

/// Renders the nft table that is loaded inside, whole; loading it again replaces it.
///
/// Beside the marks it refuses what goes to the service network and was translated by nobody: it would leave by tap0, be
/// lost, and its untranslated flow would stay in conntrack, so that all later packets go the same way.
#[must_use]
pub fn rules(network: &Network) -> String {
    let ours = !MARKS;
    let (stream, datagram) = (STREAM_MARK, DATAGRAM_MARK);
    let mut text = format!(
        "table ip u7s
delete table ip u7s
table ip u7s {{
  chain untracked_in {{
    type filter hook prerouting priority raw;
    iifname \"{TUN}\" udp dport {VXLAN} notrack
  }}
  chain untracked_out {{
    type filter hook output priority raw;
    oifname \"{TUN}\" udp dport {VXLAN} notrack
  }}
  chain incoming {{
    type filter hook prerouting priority mangle;
    iifname \"{TUN}\" ct direction original ct mark set ct mark & {ours:#x} | {datagram:#x}
    iifname \"lo\" ct direction original ct mark & {MARKS:#x} == {stream:#x} meta mark set meta mark | {stream:#x}
    ct direction reply ct mark & {MARKS:#x} == {stream:#x} meta mark set meta mark | {stream:#x}
    ct direction reply ct mark & {MARKS:#x} == {datagram:#x} meta mark set meta mark | {datagram:#x}
  }}
  chain remember {{
    type filter hook output priority mangle - 1;
    ct direction original meta mark & {MARKS:#x} == {stream:#x} ct mark set ct mark & {ours:#x} | {stream:#x} meta mark set meta mark & {ours:#x}
  }}
  chain answers {{
    type route hook output priority mangle;
    ct direction reply ct mark & {MARKS:#x} == {stream:#x} meta mark set meta mark | {stream:#x}
    ct direction reply ct mark & {MARKS:#x} == {datagram:#x} meta mark set meta mark | {datagram:#x}
  }}
"
    );
    if let Some(services) = network.service_cidr {
        for hook in ["forward", "output"] {
            let _ = write!(
                text,
                "  chain lost_{hook} {{
    type filter hook {hook} priority filter;
    oifname \"tap0\" ip daddr {services} meta l4proto tcp reject with tcp reset
    oifname \"tap0\" ip daddr {services} reject with icmp host-unreachable
  }}
"
            );
        }
    }
    text.push_str("}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Driver;

    fn network() -> Network {
        Network {
            driver: Driver::Slirp4netns,
            node_ip: Ipv4Addr::new(192, 0, 2, 10),
            mtu: 1500,
            range: "10.41.0.0/24".parse().unwrap(),
            gateway: Ipv4Addr::new(10, 41, 0, 2),
            dns: Ipv4Addr::new(10, 41, 0, 3),
            service_cidr: None,
            pod_cidr: None,
            low_ports: Vec::new(),
        }
    }

    #[test]
    fn services_are_guarded_where_their_network_is_known() {
        assert!(!rules(&network()).contains("reject"));
        let text = rules(&Network { service_cidr: Some("10.96.0.0/12".parse().unwrap()), ..network() });
        assert_eq!(text.matches("ip daddr 10.96.0.0/12").count(), 4, "{text}");
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }

    #[test]
    fn addresses_of_the_inside_are_no_clients_and_those_of_the_lan_are() {
        let known = Network {
            service_cidr: Some("10.96.0.0/12".parse().unwrap()),
            pod_cidr: Some("10.244.1.0/16".parse().unwrap()),
            ..network()
        };
        let refused = |network: &Network, client: &str| {
            let client: Ipv4Addr = client.parse().unwrap();
            inside(network).iter().any(|network| network.contains(&client))
        };
        for client in
            ["10.41.0.2", "10.41.0.3", "169.254.169.254", "127.0.0.1", "224.0.0.1", "255.255.255.255"]
        {
            assert!(refused(&network(), client), "{client}");
        }
        for client in ["192.0.2.10", "0.0.0.0", "10.244.0.3", "10.96.0.1"] {
            assert!(refused(&known, client), "{client}");
        }
        for client in ["192.0.2.11", "10.0.0.5", "172.16.0.1", "8.8.8.8", "100.64.0.1", "223.255.255.255"] {
            assert!(!refused(&known, client), "{client}");
        }
        assert!(!refused(&network(), "10.244.0.3"), "its network is not known");
    }

    #[test]
    fn marks_stay_within_the_bits_that_are_ours() {
        assert_eq!((STREAM_MARK | DATAGRAM_MARK) & !MARKS, 0);
        assert_ne!(STREAM_MARK, DATAGRAM_MARK);
        assert!(rules(&network()).contains("ct mark & 0xffffffcf | 0x20"));
    }
}
