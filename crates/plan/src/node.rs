//! What the supervisor needs to know to build the node: the contract between `host`, which writes it as root, and
//! `supervisor`, which only reads it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// Where the node's specification lies: 0640 root:u7s-admin.
pub const PATH: &str = "/etc/u7s/node.json";

/// The version of [`NodeSpec`] that this program writes and reads.
pub const VERSION: u32 = 1;

/// The largest specification that is read, in bytes.
pub const MAX_BYTES: u64 = 1 << 20;

/// Everything that the supervisor needs to build the node's namespaces and to run its children.
///
/// Shape: rendered whole by `plan::init`, written by `host`, read by the supervisor at every start.
/// Unknown fields are refused: an older supervisor must not run half a newer specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSpec {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// The unprivileged user that owns the node.
    pub user: User,
    /// The node's Kubernetes name; also the host name inside.
    pub node_name: String,
    /// Id maps, inside to outside, checked again against /etc/subuid and /etc/subgid by the supervisor.
    pub uid_map: Vec<Extent>,
    /// As `uid_map`, for groups.
    pub gid_map: Vec<Extent>,
    /// The link of the namespace to the world.
    pub network: Network,
    /// Host ports that lead into the namespace.
    pub forwards: Vec<Forward>,
    /// Directories of the user's tree, created if missing, and the places where they are bound inside, in order.
    pub binds: Vec<Bind>,
    /// Sysctls written inside, in order: key with slashes (`net/ipv4/ip_forward`) and value.
    pub sysctls: Vec<(String, String)>,
    /// Text of /etc/resolv.conf inside.
    pub resolv_conf: String,
    /// Text of /etc/hosts inside.
    pub hosts: String,
    /// Absolute paths of the programs that the supervisor itself runs.
    pub programs: Programs,
    /// The node's services, started in this order and stopped in reverse: crio, kubelet.
    pub components: Vec<Component>,
    /// Path inside of the CRI socket.
    pub cri_socket: PathBuf,
    /// cgroup controllers that the node must have; fewer only where preflight was told to ignore it.
    pub controllers: Vec<String>,
    /// Needs that were unmet and ignored by name: the node runs degraded.
    pub degraded: Vec<String>,
    /// The node has joined a cluster that others began: its kube-proxy may want the host to be as [`crate::conntrack`] has it.
    #[serde(default)]
    pub joined: bool,
    /// Services from outside.
    #[serde(default)]
    pub services: Services,
    /// What every deadline of the supervisor's is multiplied by: `timeout_factor`, 1 to 100.
    #[serde(default = "ordinary")]
    pub patience: u32,
}

/// [`NodeSpec::patience`] of a file from before there was one.
fn ordinary() -> u32 {
    1
}

/// Whether, and by which program, the ports of the cluster's Services are opened on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Services {
    /// Follow them at all.
    pub follow: bool,
    /// Write the status of LoadBalancer Services, where this node has the cluster's admin.conf.
    pub load_balancer: bool,
    /// kubectl(1), absolute; without it nothing is followed.
    pub kubectl: Option<PathBuf>,
}

/// A user of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Host uid.
    pub uid: u32,
    /// Host gid of the primary group.
    pub gid: u32,
    /// Home directory: the node's own tree lies in `node` below it.
    pub home: PathBuf,
}

/// One line of an id map.
///
/// Source: user_namespaces(7), "User and group ID mappings".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extent {
    /// First id inside the namespace.
    pub inside: u32,
    /// First id on the host.
    pub outside: u32,
    /// How many ids, at least one.
    pub count: u32,
}

/// The network of the node as every driver must provide it (rules of docs/network.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Which program or device carries the packets.
    pub driver: Driver,
    /// The host's external address, put as /32 on `tap0`: the node's only address.
    pub node_ip: Ipv4Addr,
    /// MTU of `tap0`, bytes; from the uplink.
    pub mtu: u32,
    /// The driver's own range, apart from pod, service and host networks.
    pub range: Ipv4Net,
    /// Gateway, the second address of `range`; also the source of connections from the host itself.
    pub gateway: Ipv4Addr,
    /// The driver's name server, the third address of `range`.
    pub dns: Ipv4Addr,
    /// Network of the services: what is not translated there must never leave by `tap0`. Unknown on some joined nodes.
    #[serde(default)]
    pub service_cidr: Option<Ipv4Net>,
    /// Network of the pods: no client outside of the host has its address there. Unknown on joined nodes, which learn it.
    #[serde(default)]
    pub pod_cidr: Option<Ipv4Net>,
    /// Ports below `ip_unprivileged_port_start` that are bound while the supervisor still may, and opened on demand.
    #[serde(default)]
    pub low_ports: Vec<HostPort>,
}

/// Network drivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// User-mode TCP/IP by slirp4netns: works everywhere, needs no privilege.
    Slirp4netns,
    /// No way out: the node has its address and what is forwarded to it. For measuring what the namespaces alone cost.
    None,
}

/// Transport protocols of forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// `tcp`, `udp`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// One listener on the host that leads to the same port of the node's address inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Host address that is bound.
    pub address: Ipv4Addr,
    /// Port on the host and inside.
    pub port: u16,
}

/// `192.0.2.10:6443/tcp`.
impl fmt::Display for Forward {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}/{}", self.address, self.port, self.protocol)
    }
}

/// A port of the host as people write it: `[ADDRESS:]PORT[/tcp|/udp]`, TCP if nothing is said.
///
/// In documents it is that text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPort {
    /// Host address; unset: the node's.
    pub address: Option<Ipv4Addr>,
    /// Port, not 0.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// A text that names no port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no port: [ADDRESS:]PORT[/tcp|/udp] is needed, such as 8080, 53/udp or 127.0.0.1:8080")]
pub struct NoPort(String);

impl HostPort {
    /// The forward that it means on a node with this address.
    #[must_use]
    pub fn on(self, node_ip: Ipv4Addr) -> Forward {
        let Self { address, port, protocol } = self;
        Forward { protocol, address: address.unwrap_or(node_ip), port }
    }
}

impl FromStr for HostPort {
    type Err = NoPort;

    fn from_str(text: &str) -> Result<Self, NoPort> {
        let wrong = || NoPort(text.chars().take(60).collect());
        let (place, protocol) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.split('/').next().unwrap_or_default(), Protocol::Tcp),
            Some((place, "udp")) => (place, Protocol::Udp),
            Some(_) => return Err(wrong()),
        };
        let (address, port) = match place.rsplit_once(':') {
            Some((address, port)) => (Some(address.parse().map_err(|_| wrong())?), port),
            None => (None, place),
        };
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| digits && *port > 0).ok_or_else(wrong)?;
        Ok(Self { address, port, protocol })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.address {
            write!(out, "{address}:")?;
        }
        write!(out, "{}/{}", self.port, self.protocol)
    }
}

impl TryFrom<String> for HostPort {
    type Error = NoPort;

    fn try_from(text: String) -> Result<Self, NoPort> {
        text.parse()
    }
}

impl From<HostPort> for String {
    fn from(port: HostPort) -> Self {
        port.to_string()
    }
}

/// A directory of the user's tree bound into the namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bind {
    /// Directory on the host; inside the user's home it is created with `mode` if missing.
    pub source: PathBuf,
    /// Existing directory that it covers inside.
    pub target: PathBuf,
    /// Permission bits of a created source.
    pub mode: u32,
    /// Made shared after binding (`mount --make-rshared`), as the kubelet's directory needs for CSI.
    pub shared: bool,
}

/// Programs that the supervisor runs, absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Programs {
    /// slirp4netns(1).
    pub slirp4netns: PathBuf,
    /// It takes `tap0` as an open descriptor (`--netns-type=tapfd`), as 1.2.1 and later do: the node need not wait for it.
    #[serde(default)]
    pub slirp4netns_tapfd: bool,
    /// newuidmap(1), for the fallback without capabilities.
    pub newuidmap: Option<PathBuf>,
    /// newgidmap(1), likewise.
    pub newgidmap: Option<PathBuf>,
    /// nft(8), which loads the forwarder's rules inside.
    #[serde(default)]
    pub nft: Option<PathBuf>,
}

/// A service inside the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// Name without `.service`, as the systemctl shim knows it.
    pub name: ComponentName,
    /// Text that `systemctl status` shows.
    pub description: String,
    /// Program and arguments; the program is absolute.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// KEY=VALUE files read as data at each start, missing ones skipped; later ones win.
    pub env_files: Vec<PathBuf>,
    /// Variables whose value, split at blanks with shell quotes, is appended to `argv`.
    pub arg_vars: Vec<String>,
    /// A file inside without which a start is refused (the kubelet's config.yaml).
    pub needs_file: Option<PathBuf>,
    /// Started with the node without being enabled.
    pub always: bool,
}

/// The closed set of services that our supervisor answers for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComponentName {
    /// CRI-O.
    Crio,
    /// The kubelet.
    Kubelet,
}

impl ComponentName {
    /// All of them, in start order.
    pub const ALL: [Self; 2] = [Self::Crio, Self::Kubelet];

    /// The unit's name without suffix.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Crio => "crio",
            Self::Kubelet => "kubelet",
        }
    }

    /// The component that a unit name means: `kubelet` or `kubelet.service`.
    #[must_use]
    pub fn of_unit(unit: &str) -> Option<Self> {
        let name = unit.strip_suffix(".service").unwrap_or(unit);
        Self::ALL.into_iter().find(|component| component.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_read_as_people_write_it() {
        let cases = [
            ("8080", Some("8080/tcp")),
            ("53/udp", Some("53/udp")),
            ("80/tcp", Some("80/tcp")),
            ("127.0.0.1:8080", Some("127.0.0.1:8080/tcp")),
            ("192.0.2.10:53/udp", Some("192.0.2.10:53/udp")),
            ("0", None),
            ("+80", None),
            ("65536", None),
            ("", None),
            ("80/sctp", None),
            ("80/tcp/udp", None),
            (":80", None),
            ("localhost:80", None),
            ("[::1]:80", None),
        ];
        for (text, expected) in cases {
            let port = text.parse::<HostPort>().map(|port| port.to_string()).ok();
            assert_eq!(port.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_port_without_an_address_is_one_of_the_node() {
        let node = Ipv4Addr::new(192, 0, 2, 10);
        let text = |port: &str| port.parse::<HostPort>().unwrap().on(node).to_string();
        assert_eq!(text("80"), "192.0.2.10:80/tcp");
        assert_eq!(text("127.0.0.1:53/udp"), "127.0.0.1:53/udp");
    }
}
