//! The host's nft table `inet u7s`: what the node's user may open connections to.
//!
//! Everything of the node leaves the host by sockets of its user (slirp4netns, the forwarder), so that one chain in the
//! output hook sees it all. A socket is the node's by its user or by its cgroup: some that the kernel makes on behalf of others have no
//! user that nft sees (SMC's). The table only refuses: it accepts nothing that a rule of the host would drop. One rule beside
//! that chain gives questions to a stub resolver on loopback the sender that it answers.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::Value;

use crate::config::Firewall;
use crate::facts::{Facts, UnitCgroup};
use crate::node::{Extent, Forward, NodeSpec};

/// Family and name of the table.
pub const TABLE: [&str; 2] = ["inet", "u7s"];

/// Arguments of nft(8) whose output [`Table::holds_in`] reads.
pub const LIST: [&str; 5] = ["-j", "list", "table", TABLE[0], TABLE[1]];

/// Arguments of nft(8) that list the names of all tables as JSON.
pub const TABLES: [&str; 3] = ["-j", "list", "tables"];

/// Arguments of nft(8) that list every rule of the host as JSON.
pub const RULESET: [&str; 3] = ["-j", "list", "ruleset"];

/// Removes the table, whether it is there or not, in one transaction.
pub const REMOVAL: &str = "add table inet u7s\ndelete table inet u7s\n";

/// Where clouds answer for the host: credentials of the machine, its start-up data, control of the machine.
///
/// Link-local as a whole: AWS, Google, OpenStack and others at 169.254.169.254, AWS also at 169.254.170.2 and .23, Scaleway at
/// 169.254.42.42, Tencent at 169.254.0.23 and 169.254.10.10; 100.100.100.200 is Alibaba's, 168.63.129.16 Azure's, 192.0.0.192 that of
/// Oracle's Classic. Source: the clouds' documentation of their metadata services; cloud-init's data sources.
const METADATA_V4: [&str; 4] = ["100.100.100.200", "168.63.129.16", "169.254.0.0/16", "192.0.0.192"];

/// As [`METADATA_V4`]: Scaleway, Alibaba, Akamai, Oracle, AWS (fd00:ec2::254 and ::23), Google; OpenStack, Hetzner and Akamai.
const METADATA_V6: [&str; 7] = [
    "fd00:42::42",
    "fd00:100::100:200",
    "fd00:a9fe:a9fe::1",
    "fd00:c1::a9fe:a9fe",
    "fd00:ec2::/32",
    "fd20:ce::254",
    "fe80::a9fe:a9fe",
];

/// The chain in the hook: before the host's own address translation (-100), after connection tracking (-200), so that it
/// judges what the sender asked for.
const PRIORITY: i64 = -150;

/// Where senders are changed. Source: nft(8), standard priority names, srcnat.
const SENDERS: i64 = 100;

/// Chains with a hook: name, type, hook and priority.
const HOOKED: [(&str, &str, &str, i64); 2] =
    [("output", "filter", "output", PRIORITY), ("resolver", "nat", "postrouting", SENDERS)];

/// The most name servers of resolv.conf that count. Source: resolv.conf(5), MAXNS.
const MOST_SERVERS: usize = 3;

/// The table as nft(8) reads it, and what tells it from another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// A whole transaction: it replaces a former table at once, or fails and changes nothing.
    pub text: String,
    /// Chain and comment of each rule, in the order in which nft lists them.
    rules: Vec<(&'static str, String)>,
    /// The same without what an older nft or kernel refuses: the rule by cgroup.
    pub by_user: Option<Box<Table>>,
}

/// Renders the table.
///
/// Shape: of the facts, the host's resolv.conf and the cgroup of the unit count. With `known` off the node's ids are made up, since
/// its user does not exist yet: then nft looks up the name when it loads the table.
#[must_use]
pub fn table(config: &Firewall, node: &NodeSpec, facts: &Facts, known: bool) -> Table {
    let users = users(node, known);
    let mut lines = vec![("output", format!("meta skuid {users} jump node"))];
    lines.extend(node_chain(config, node, &facts.resolv_conf).into_iter().map(|line| ("node", line)));
    lines.push(("resolver", format!("meta skuid {users} {STUB}")));
    lines.push(("refuse", "meta l4proto tcp reject with tcp reset".into()));
    lines.push(("refuse", "reject with icmpx admin-prohibited".into()));
    let by_user = assemble(&lines, 0);
    let Some((rule, id)) = facts.unit_cgroup.as_ref().and_then(by_cgroup) else { return by_user };
    lines.insert(1, ("output", rule));
    Table { by_user: Some(Box::new(by_user)), ..assemble(&lines, id) }
}

/// The rule that takes all sockets made in the unit or below, and the cgroup's number: nft resolves the path when it loads the table,
/// so after the next start of the unit this is another table.
fn by_cgroup(cgroup: &UnitCgroup) -> Option<(String, u64)> {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    let level = cgroup.path.split('/').filter(|part| !part.is_empty()).count();
    let fit = level > 0 && cgroup.path.bytes().all(plain);
    fit.then(|| (format!("socket cgroupv2 level {level} \"{}\" jump node", cgroup.path), cgroup.id))
}

/// Whether the list lets the node reach `address` outside of this host.
#[must_use]
pub fn admits(config: &Firewall, address: IpAddr) -> bool {
    !config.enabled
        || config.egress.as_ref().is_none_or(|list| list.iter().any(|network| network.contains(&address)))
}

/// The node's user and its subordinate ids: a process that got out of a pod may be one of these.
fn users(node: &NodeSpec, known: bool) -> String {
    if !known {
        return node.user.name.clone();
    }
    let last = |extent: &Extent| extent.outside.saturating_add(extent.count.saturating_sub(1));
    let others = node.uid_map.iter().filter(|extent| extent.outside != node.user.uid);
    let ranges = others.map(|extent| format!("{}-{}", extent.outside, last(extent)));
    set(std::iter::once(node.user.uid.to_string()).chain(ranges))
}

fn node_chain(config: &Firewall, node: &NodeSpec, resolv_conf: &str) -> Vec<String> {
    // TCP that stands is never touched, also where the host tracks no connection: only what would begin one is judged.
    let mut lines =
        vec!["ct state established,related accept".into(), "tcp flags & (syn | ack) != syn accept".into()];
    lines.extend(exceptions(&config.allow));
    // The copies of these that come back by loopback would reach the host's own services. The node has no use for them: its
    // addresses are fixed, and slirp4netns carries none.
    lines.push("fib daddr type { broadcast, multicast, anycast } goto refuse".into());
    lines.push(format!("oifname lo {DNS} accept"));
    let servers = name_servers(resolv_conf);
    lines.extend(by_family(&servers, |family, list| format!("{family} daddr {} {DNS} accept", set(list))));
    lines.extend(own_ports(&node.forwards));
    for (family, list) in [("ip", &METADATA_V4[..]), ("ip6", &METADATA_V6[..])] {
        lines.push(format!("{family} daddr {} goto refuse", set(list)));
    }
    lines.push("oifname lo goto refuse".into());
    if let Some(list) = &config.egress {
        lines.extend(egress(list));
    }
    lines
}

/// slirp4netns asks with the node's address, and systemd-resolved, like others that serve loopback, drops all that does not
/// come from there.
///
/// Source: systemd, resolved-dns-stub.c, dns_stub_process_query.
const STUB: &str =
    "oifname lo ip daddr 127.0.0.0/8 meta l4proto { tcp, udp } th dport 53 snat ip to 127.0.0.1";

/// Questions to a name server.
const DNS: &str = "meta l4proto { tcp, udp } th dport 53";

/// Loopback has a rule of its own.
fn name_servers(resolv_conf: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        address.split('%').next()?.parse().ok()
    };
    let mut servers: Vec<IpAddr> = resolv_conf.lines().filter_map(server).take(MOST_SERVERS).collect();
    servers.retain(|address| !address.is_loopback() && !address.is_unspecified());
    servers.sort_unstable();
    servers.dedup();
    servers
}

fn by_family(addresses: &[IpAddr], line: impl Fn(&str, Vec<String>) -> String) -> Vec<String> {
    let of = |v4: bool| {
        addresses.iter().filter(|address| address.is_ipv4() == v4).map(IpAddr::to_string).collect::<Vec<_>>()
    };
    let families = [("ip", of(true)), ("ip6", of(false))];
    families.into_iter().filter(|(_, list)| !list.is_empty()).map(|(name, list)| line(name, list)).collect()
}

fn exceptions(allow: &[SocketAddr]) -> Vec<String> {
    let line = |family: &str, v4: bool| {
        let mut list: Vec<&SocketAddr> = allow.iter().filter(|address| address.is_ipv4() == v4).collect();
        list.sort_unstable();
        list.dedup();
        let pairs = list.iter().map(|address| format!("{} . {}", address.ip(), address.port()));
        let pairs: Vec<String> = pairs.collect();
        (!pairs.is_empty())
            .then(|| format!("meta l4proto {{ tcp, udp }} {family} daddr . th dport {} accept", set(pairs)))
    };
    [line("ip", true), line("ip6", false)].into_iter().flatten().collect()
}

/// The node's own forwarded ports on any address of the host but loopback: kubectl of its user, an endpoint that this
/// host shares with other control planes.
fn own_ports(forwards: &[Forward]) -> Option<String> {
    let mut ports: Vec<u16> = forwards.iter().map(|forward| forward.port).collect();
    ports.sort_unstable();
    ports.dedup();
    let list = set(ports.iter().map(u16::to_string));
    (!ports.is_empty()).then(|| {
        format!("oifname lo ip daddr != 127.0.0.0/8 meta l4proto {{ tcp, udp }} th dport {list} accept")
    })
}

fn egress(list: &[IpNet]) -> Vec<String> {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for network in list {
        match network {
            IpNet::V4(network) => v4.push(*network),
            IpNet::V6(network) => v6.push(*network),
        }
    }
    // Networks in others and neighbours: nft takes no overlapping elements.
    let v4 = Ipv4Net::aggregate(&v4).iter().map(Ipv4Net::to_string).collect::<Vec<_>>();
    let v6 = Ipv6Net::aggregate(&v6).iter().map(Ipv6Net::to_string).collect::<Vec<_>>();
    let accept = |family: &str, list: Vec<String>| {
        (!list.is_empty()).then(|| format!("{family} daddr {} accept", set(list)))
    };
    let end = Some("goto refuse".to_owned());
    [accept("ip", v4), accept("ip6", v6), end].into_iter().flatten().collect()
}

fn set<T: AsRef<str>>(elements: impl IntoIterator<Item = T>) -> String {
    let mut text = String::from("{ ");
    for (index, element) in elements.into_iter().enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        // Writing to a String cannot fail.
        let _ = write!(text, "{comma}{}", element.as_ref());
    }
    text + " }"
}

/// Puts the lines into their chains; each carries the digest of all of them, and of the cgroup that is meant, and its number as a
/// comment.
///
/// The target of a jump stands before it: nft resolves names in order.
fn assemble(lines: &[(&'static str, String)], cgroup: u64) -> Table {
    let digest = digest(lines) ^ cgroup;
    let mut text = format!("{REMOVAL}table inet u7s {{\n");
    let mut rules = Vec::new();
    for chain in CHAINS {
        let _ = writeln!(text, "\tchain {chain} {{");
        if let Some((_, kind, hook, priority)) = HOOKED.iter().find(|(name, ..)| *name == chain) {
            let _ = writeln!(text, "\t\ttype {kind} hook {hook} priority {priority}; policy accept;");
        }
        for (_, line) in lines.iter().filter(|(of, _)| *of == chain) {
            let comment = format!("u7s {digest:016x} {}", rules.len() + 1);
            let _ = writeln!(text, "\t\t{line} comment \"{comment}\"");
            rules.push((chain, comment));
        }
        text.push_str("\t}\n");
    }
    text.push_str("}\n");
    Table { text, rules, by_user: None }
}

/// Chains in the order in which they are made.
const CHAINS: [&str; 4] = ["refuse", "node", "output", "resolver"];

/// FNV-1a, 64 bits: it tells one table of ours from another, nobody is to be kept from making an equal one.
fn digest(lines: &[(&'static str, String)]) -> u64 {
    let bytes = lines.iter().flat_map(|(chain, line)| chain.bytes().chain([b'\t']).chain(line.bytes()));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl Table {
    /// Number of rules.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// It has none; never.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether this very table is loaded and in force, by what `nft -j list table inet u7s` says.
    ///
    /// The rules themselves are not compared: every version of nft writes them in its own way. Each rule carries the digest
    /// of the whole table and its number, so that a missing, additional, replaced or moved one shows; chains, hook and
    /// policy are compared as they are.
    #[must_use]
    pub fn holds_in(&self, listing: &Value) -> bool {
        let objects = listing["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
        let of =
            |kind: &'static str| objects.iter().map(move |object| &object[kind]).filter(|it| !it.is_null());
        let rules = of("rule").map(|rule| (rule["chain"].as_str(), rule["comment"].as_str()));
        let same = rules.eq(self.rules.iter().map(|(chain, comment)| (Some(*chain), Some(comment.as_str()))));
        let dormant = of("table").any(|table| !table["flags"].is_null());
        let mut chains: Vec<&str> = of("chain").filter_map(|chain| chain["name"].as_str()).collect();
        chains.sort_unstable();
        let hooked = of("chain").filter(|chain| !chain["hook"].is_null());
        same && !dormant
            && chains == ["node", "output", "refuse", "resolver"]
            && hooked.map(in_force).eq([true; 2])
    }
}

fn in_force(chain: &Value) -> bool {
    HOOKED.iter().any(|(name, kind, hook, priority)| {
        chain["name"] == *name
            && chain["type"] == *kind
            && chain["hook"] == *hook
            && chain["prio"] == *priority
            && chain["policy"] == "accept"
    })
}
