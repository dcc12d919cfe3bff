//! The node that supervisors build here: what kubeadm's node has, with the payload in crio's place and no ports.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use u7s_plan::node::{
    Bind, Component, ComponentName, Driver, Extent, Network, NodeSpec, Programs, Services, User, VERSION,
};

use crate::Error;
use crate::stage::{Stage, payload, place};

/// Debian stable's driver, which enters the namespaces by itself.
pub(super) const STABLE: &str = "/usr/bin/slirp4netns";

/// Debian unstable's, which takes a tap by descriptor.
pub(super) const UNSTABLE: &str = "/opt/unstable/bin/slirp4netns";

/// As many directories as a node has bound.
const BINDS: usize = 12;

/// The MTU that podsec gives RootlessKit, bytes.
pub(super) const MTU: u32 = 65_520;

/// Writes a specification into the stage's node and gives its path.
pub(super) fn write(stage: &Stage, name: &str, change: impl FnOnce(&mut NodeSpec)) -> Result<String, Error> {
    let mut spec = specification(stage)?;
    change(&mut spec);
    for bind in &spec.binds {
        stage.node.ok(&["mkdir", "-p", &bind.target.display().to_string()])?;
    }
    let path = place(&format!("{name}.json"));
    stage.node.write(&path, serde_json::to_vec(&spec).map_err(Error::json("a specification"))?)?;
    Ok(path)
}

pub(crate) fn specification(stage: &Stage) -> Result<NodeSpec, Error> {
    let user = stage.user;
    let map = vec![
        Extent { inside: 0, outside: user.id, count: 1 },
        Extent { inside: 1, outside: user.subordinate, count: 65_536 },
    ];
    let home = PathBuf::from("/var/lib/u7s-admin");
    let bind = |number: usize| Bind {
        source: home.join(format!("node/bench{number}")),
        target: place(&format!("targets/{number}")).into(),
        mode: 0o700,
        shared: number == 0,
    };
    Ok(NodeSpec {
        version: VERSION,
        user: User { name: "u7s-admin".into(), uid: user.id, gid: user.id, home: home.clone() },
        node_name: stage.node.name().into(),
        uid_map: map.clone(),
        gid_map: map,
        network: network(stage.node.ip())?,
        forwards: Vec::new(),
        binds: (0..BINDS).map(bind).collect(),
        sysctls: sysctls(),
        resolv_conf: "nameserver 10.41.0.3\n".into(),
        hosts: "127.0.0.1 localhost\n".into(),
        programs: Programs {
            slirp4netns: STABLE.into(),
            slirp4netns_tapfd: false,
            newuidmap: Some("/usr/bin/newuidmap".into()),
            newgidmap: Some("/usr/bin/newgidmap".into()),
            nft: Some("/usr/sbin/nft".into()),
        },
        components: vec![component()],
        cri_socket: "/run/crio/crio.sock".into(),
        controllers: Vec::new(),
        degraded: Vec::new(),
        services: Services::default(),
        patience: 1,
        joined: false,
    })
}

fn network(node_ip: Ipv4Addr) -> Result<Network, Error> {
    let text = "10.41.0.0/24";
    let range = text.parse().map_err(|_| Error::Answer { what: "a range".into(), text: text.into() })?;
    Ok(Network {
        driver: Driver::Slirp4netns,
        node_ip,
        mtu: MTU,
        range,
        gateway: Ipv4Addr::new(10, 41, 0, 2),
        dns: Ipv4Addr::new(10, 41, 0, 3),
        service_cidr: None,
        pod_cidr: None,
        low_ports: Vec::new(),
    })
}

fn sysctls() -> Vec<(String, String)> {
    let table = [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/all/rp_filter", "2"),
        ("net/ipv4/ip_unprivileged_port_start", "0"),
        ("net/ipv4/ping_group_range", "0 65536"),
        ("net/ipv6/conf/all/forwarding", "1"),
    ];
    table.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

fn component() -> Component {
    Component {
        name: ComponentName::Crio,
        description: "the payload".into(),
        argv: payload().into(),
        env: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
        env_files: Vec::new(),
        arg_vars: Vec::new(),
        needs_file: None,
        always: true,
    }
}
