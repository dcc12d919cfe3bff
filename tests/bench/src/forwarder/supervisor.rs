//! The node that our supervisor is told to build: no component, only the network and its forwards.

use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;
use u7s_plan::node::{Bind, Driver, Extent, Forward, Network, NodeSpec, Programs, Services, User, VERSION};

use super::peers::NODE;

/// First subordinate id of the user that peers run as.
pub(super) const SUBIDS: u32 = 700_000;

/// A node of the user `uid` whose files are below `root`.
pub(super) fn spec(root: &Path, uid: u32, forwards: Vec<Forward>) -> NodeSpec {
    let map = vec![
        Extent { inside: 0, outside: uid, count: 1 },
        Extent { inside: 1, outside: SUBIDS, count: 65_536 },
    ];
    NodeSpec {
        version: VERSION,
        user: User { name: "bench".into(), uid, gid: uid, home: root.join("home") },
        node_name: "n1".into(),
        uid_map: map.clone(),
        gid_map: map,
        network: network(),
        forwards,
        binds: vec![Bind {
            source: root.join("home/node/kubelet"),
            target: root.join("target"),
            mode: 0o700,
            shared: true,
        }],
        sysctls: [("net/ipv4/ip_forward", "1"), ("net/ipv4/conf/all/rp_filter", "2")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        resolv_conf: "nameserver 10.41.0.3\n".into(),
        hosts: format!("127.0.0.1 localhost\n{NODE} n1\n"),
        programs: Programs {
            slirp4netns: "/usr/bin/slirp4netns".into(),
            slirp4netns_tapfd: false,
            newuidmap: Some("/usr/bin/newuidmap".into()),
            newgidmap: Some("/usr/bin/newgidmap".into()),
            nft: Some("/usr/sbin/nft".into()),
        },
        components: Vec::new(),
        cri_socket: "/run/crio/crio.sock".into(),
        controllers: Vec::new(),
        degraded: Vec::new(),
        services: Services::default(),
        patience: 1,
        joined: false,
    }
}

fn network() -> Network {
    Network {
        driver: Driver::Slirp4netns,
        node_ip: NODE,
        mtu: 65_520,
        range: Ipv4Net::new_assert(Ipv4Addr::new(10, 41, 0, 0), 24),
        gateway: Ipv4Addr::new(10, 41, 0, 2),
        dns: Ipv4Addr::new(10, 41, 0, 3),
        service_cidr: None,
        pod_cidr: None,
        low_ports: Vec::new(),
    }
}
