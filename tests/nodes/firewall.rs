//! The host's nft table `inet u7s`: what the node's user and pods may reach, on a host with rules of its own.

use std::error::Error;
use std::time::{Duration, Instant};

use u7s_harness::{Client, Invocation, Lan, Node, Output, Running, until};

use crate::Listed;
use crate::cluster::Cluster;
use crate::world::{Bare, Check, World, exits, holds, kubeadm, note, wants};

pub(crate) const TESTS: &[Listed] = &[
    ("firewall::the_hosts_own_rules_stay_and_what_they_drop_is_named", own_rules_stay),
    ("firewall::s17_loopback_and_metadata_are_refused_at_once", s17_refused_at_once),
    ("firewall::f27_a_stub_resolver_that_answers_loopback_only_answers_the_node", f27_a_stub_resolver),
    ("firewall::f9_a_socket_is_the_nodes_by_its_cgroup_whoever_its_user_is", f9_by_cgroup),
    ("firewall::f9_no_copy_of_a_broadcast_reaches_the_hosts_services", f9_broadcast),
    ("firewall::f9_metadata_services_of_all_clouds_are_refused", f9_clouds),
    ("firewall::the_list_bounds_what_the_node_reaches", the_list_bounds),
    ("firewall::the_table_comes_back_with_the_unit", the_table_comes_back),
    ("firewall::reset_takes_the_table_and_nothing_else", reset_takes_the_table),
];

/// Rules that a host may have: nft's own with a policy that drops, and iptables'.
const RULES: &str = "nft -f - <<'END'
table inet mine {
	set trusted {
		type ipv4_addr
		elements = { 198.51.100.77 }
	}
	chain input {
		type filter hook input priority 10; policy drop;
		iifname \"lo\" accept
		ct state established,related accept
		meta l4proto { icmp, ipv6-icmp } accept
		ip saddr @trusted tcp dport 22 accept
	}
}
END
iptables -A INPUT -s 203.0.113.0/24 -j DROP
iptables -t nat -A POSTROUTING -s 203.0.113.0/24 -j MASQUERADE";

/// Another address of the host.
const OTHER: &str = "192.0.2.7";
const METADATA: &str = "169.254.169.254";
/// A network beside the lan's, on the same wire.
const FAR: &str = "198.51.100.9";

/// A finished node on such a host, with listeners that the node must not reach, and a cloud beside it.
pub(crate) struct Walled {
    cluster: Cluster,
    cloud: Client,
    rules: String,
    _listeners: Vec<Running>,
}

impl Walled {
    pub(crate) fn new(lan: &Lan) -> Result<Self, Box<dyn Error>> {
        let mut bare = Bare::new(lan, "walled")?;
        let cloud = lan.client("cloud")?;
        let node = &bare.node;
        node.write("/etc/resolv.conf", "nameserver 127.0.0.53\n")?;
        node.sh(RULES)?;
        node.sh(&format!("ip addr add {OTHER}/32 dev lo"))?;
        let mut listeners = Vec::new();
        for address in ["127.0.0.1:8000", &format!("{OTHER}:8000"), &format!("{OTHER}:8001")] {
            listeners.push(node.spawn(&answering(address))?);
        }
        // As systemd-resolved: who does not ask from loopback is not answered.
        for kind in ["UDP4-LISTEN", "TCP4-LISTEN"] {
            let stub = format!("{kind}:53,bind=127.0.0.53,range=127.0.0.0/8,fork");
            listeners.push(node.spawn(&["socat", &stub, "PIPE"])?);
        }
        for address in [METADATA, FAR] {
            cloud.command(&["ip", "addr", "add", &format!("{address}/32"), "dev", "eth0"]).ok()?;
            node.sh(&format!("ip route add {address}/32 dev eth0"))?;
        }
        listeners.push(cloud.command(&answering("0.0.0.0:80")).spawn()?);
        let rules = node.sh("nft -s list ruleset")?;
        bare.before = node.snapshot()?;
        let cluster = Cluster::on(bare, &["init", crate::world::IGNORED])?;
        Ok(Self { cluster, cloud, rules, _listeners: listeners })
    }

    /// From the host as the node's user, from inside its namespaces, from a pod.
    fn ask(&self, from: From, address: &str) -> Result<(Output, Duration), Box<dyn Error>> {
        let url = format!("http://{address}/");
        let argv = ["curl", "-s", "--http0.9", "--max-time", "10", &url];
        let start = Instant::now();
        let output = match from {
            From::User => self.cluster.node().command(&argv).user("u7s-admin").run()?,
            From::Inside => self.cluster.inside(&argv)?,
            From::Pod => self.cluster.in_pod("walled", &argv)?,
        };
        Ok((output, start.elapsed()))
    }

    fn reached(&self, from: From, address: &str) -> Check {
        let (output, took) = self.ask(from, address)?;
        note(format!("{from:?} to {address}: reached after {:.2} s", took.as_secs_f64()));
        holds(output.stdout.contains("reached"), format!("{from:?} to {address}: {output}"))
    }

    /// curl's exit status 7: connection refused; a silent loss would be 28.
    fn refused(&self, from: From, address: &str) -> Check {
        let (output, took) = self.ask(from, address)?;
        note(format!("{from:?} to {address}: refused after {:.2} s", took.as_secs_f64()));
        let at_once = output.code() == Some(7) && took < Duration::from_secs(20);
        holds(at_once, format!("{from:?} to {address}, {took:?}: {output}"))
    }

    fn is_loaded(&self) -> Result<bool, Box<dyn Error>> {
        Ok(self.cluster.node().exec(&["nft", "list", "table", "inet", "u7s"])?.ok())
    }
}

#[derive(Debug, Clone, Copy)]
enum From {
    User,
    Inside,
    Pod,
}

const EVERYWHERE: [From; 3] = [From::User, From::Inside, From::Pod];

/// A listener that answers a line of anything.
fn answering(address: &str) -> [String; 3] {
    let (host, port) = address.split_once(':').unwrap_or_default();
    let listen = format!("TCP4-LISTEN:{port},bind={host},fork,reuseaddr");
    ["socat".into(), listen, "SYSTEM:read x; echo reached".into()]
}

fn own_rules_stay(world: &World) -> Check {
    let walled = world.walled()?;
    let node = walled.cluster.node();
    let line = "[WARNING HostFirewall]: the host's own rules (inet mine input) drop 6443/tcp, 10250/tcp, 30000-32767/tcp, 8472/udp from outside";
    wants(&walled.cluster.init, line)?;
    let hint = "nft insert rule inet mine input tcp dport '{ 6443, 10250, 30000-32767 }' accept && nft insert rule inet mine input udp dport '{ 8472 }' accept";
    wants(&walled.cluster.init, hint)?;
    let others = node.sh("nft -s list ruleset")?;
    let ours = node.sh("nft -s list table inet u7s")?;
    note(&ours);
    let left = others.replace(&ours, "");
    holds(left.trim() == walled.rules.trim(), format!("before: {}\nafter: {left}", walled.rules))?;
    let api = format!("https://{}:6443/readyz", node.ip());
    let curl = |limit| -> Invocation { walled.cloud.command(&["curl", "-sk", "--max-time", limit, &api]) };
    exits(&curl("2").run()?, 28)?;
    node.sh(hint)?;
    wants(&curl("10").run()?, "ok")?;
    let checked = node.exec(&["u7s", "check"])?;
    let row = checked.stdout.lines().find(|line| line.contains(" HostFirewall "));
    holds(row.is_some_and(|row| row.starts_with("pass ")), format!("still: {checked}"))
}

fn s17_refused_at_once(world: &World) -> Check {
    let walled = world.walled()?;
    let cluster = &walled.cluster;
    cluster.converge(Duration::from_secs(180))?;
    cluster.pod("walled", "{}")?;
    let peer = format!("{}:80", walled.cloud.ip());
    for from in EVERYWHERE {
        walled.reached(from, &peer)?;
        walled.refused(from, &format!("{METADATA}:80"))?;
        walled.refused(from, &format!("{OTHER}:8000"))?;
    }
    walled.refused(From::User, "127.0.0.1:8000")?;
    let root = cluster.node().exec(&["curl", "-s", "--http0.9", "http://127.0.0.1:8000/"])?;
    wants(&root, "reached")?;
    // The gateway stands for the host's loopback in slirp4netns.
    let (gateway, _) = walled.ask(From::Pod, "10.41.0.2:8000")?;
    holds(!gateway.ok(), format!("{gateway}"))?;
    let user = cluster.node().command(&["kubectl", "get", "nodes", "-o", "name"]).user("u7s-admin");
    let home = "/var/lib/u7s-admin/.kube/config";
    wants(&user.env("KUBECONFIG", home).env("KUBECACHEDIR", "/dev/shm/kube-user").run()?, "node/walled")
}

/// slirp4netns asked with the node's address, and was not answered: no name outside of the cluster was known in it.
fn f27_a_stub_resolver(world: &World) -> Check {
    let cluster = &world.walled()?.cluster;
    for kind in ["UDP4", "TCP4"] {
        let script = format!("echo through the stub | socat -T3 - {kind}:10.41.0.3:53");
        wants(&cluster.inside(&["sh", "-c", &script])?, "through the stub")?;
    }
    Ok(())
}

/// SMC's own TCP sockets have no user that nft sees; the cgroup is that of who made them. Root stands for them here.
fn f9_by_cgroup(world: &World) -> Check {
    let walled = world.walled()?;
    let node = walled.cluster.node();
    let ask = |cgroup: &str| {
        let script = format!(
            "echo $$ > /sys/fs/cgroup/{cgroup}/cgroup.procs && \
             exec curl -s --http0.9 --max-time 10 http://127.0.0.1:8000/"
        );
        node.exec(&["sh", "-c", &script])
    };
    for start in ["first", "second"] {
        let leaf = node.sh("cut -d: -f3 /proc/$(systemctl show -P MainPID u7s)/cgroup | tail -n 1")?;
        let unit = ask(leaf.trim().trim_start_matches('/'))?;
        holds(unit.code() == Some(7), format!("{start} start, {leaf}: {unit}"))?;
        wants(&ask("system.slice")?, "reached")?;
        if start == "first" {
            node.command(&["systemctl", "restart", "u7s"]).within(Duration::from_secs(120)).ok()?;
        }
    }
    walled.cluster.converge(Duration::from_secs(180)).map(drop)
}

/// The node's user was refused by no rule, and root's service had its datagram.
fn f9_broadcast(world: &World) -> Check {
    let walled = world.walled()?;
    let node = walled.cluster.node();
    // The copies come in by the device that they left by, not by loopback.
    node.sh("nft insert rule inet mine input udp dport 9999 accept")?;
    let outcome = copies(node);
    node.sh("nft delete rule inet mine input handle \
         $(nft -a list chain inet mine input | sed -n 's/.*dport 9999 .*handle //p'); rm -f /run/heard")?;
    outcome
}

fn copies(node: &Node) -> Check {
    let receive = "UDP4-RECV:9999,reuseaddr,ip-add-membership=239.1.1.1:eth0";
    let _service = node.spawn(&["socat", "-u", receive, "OPEN:/run/heard,creat,append"])?;
    let send = |user: &str, word: &str, target: &str| {
        let script = format!(
            "echo {word} | socat -u - UDP4-DATAGRAM:{target}:9999,broadcast,ip-multicast-if={}",
            node.ip()
        );
        node.command(&["sh", "-c", &script]).user(user).run()
    };
    let lan = node.sh("ip -4 -o addr show dev eth0 | sed -n 's/.* brd \\([^ ]*\\).*/\\1/p'")?;
    let targets = ["255.255.255.255", lan.trim(), "239.1.1.1"];
    for target in targets.into_iter().filter(|target| !target.is_empty()) {
        let said = send("u7s-admin", "admin", target)?;
        holds(!said.ok() && said.stderr.contains("not permitted"), format!("to {target}: {said}"))?;
        until(Duration::from_secs(30), &format!("a copy of root's own to {target}"), || {
            let said = send("root", target, target).map_err(|error| error.to_string())?;
            let heard = node.sh("cat /run/heard 2>/dev/null || true").map_err(|error| error.to_string())?;
            if heard.contains(target) { Ok(()) } else { Err(format!("{heard:?} {said}")) }
        })?;
    }
    let heard = node.sh("cat /run/heard")?;
    holds(!heard.contains("admin"), heard)
}

fn f9_clouds(world: &World) -> Check {
    let walled = world.walled()?;
    let node = walled.cluster.node();
    for address in ["100.100.100.200", "168.63.129.16", "169.254.42.42", "192.0.0.192"] {
        walled.cloud.command(&["ip", "addr", "add", &format!("{address}/32"), "dev", "eth0"]).ok()?;
        node.sh(&format!("ip route add {address}/32 dev eth0"))?;
        walled.refused(From::User, &format!("{address}:80"))?;
        let root =
            node.exec(&["curl", "-s", "--http0.9", "--max-time", "10", &format!("http://{address}/")])?;
        wants(&root, "reached")?;
        node.sh(&format!("ip route del {address}/32 dev eth0"))?;
    }
    Ok(())
}

fn the_list_bounds(world: &World) -> Check {
    let walled = world.walled()?;
    let node = walled.cluster.node();
    let peer = format!("{}:80", walled.cloud.ip());
    let (far, allowed) = (format!("{FAR}:80"), format!("{OTHER}:8001"));
    for from in EVERYWHERE {
        walled.reached(from, &far)?;
        walled.refused(from, &allowed)?;
    }
    let lists = format!("[firewall]\negress = [\"10.77.0.0/24\"]\nallow = [\"{allowed}\"]\n");
    node.sh("mkdir -p /etc/u7s/config.d")?;
    node.write("/etc/u7s/config.d/walls.toml", lists)?;
    node.ok(&["u7s", "host-apply"])?;
    for from in EVERYWHERE {
        walled.reached(from, &peer)?;
        walled.reached(from, &allowed)?;
        walled.refused(from, &far)?;
        walled.refused(from, &format!("{METADATA}:80"))?;
    }
    // Who comes from there is answered all the same.
    let api = format!("https://{}:6443/readyz", node.ip());
    let asked = walled.cloud.exec(&["curl", "-sk", "--max-time", "10", "--interface", FAR, &api])?;
    wants(&asked, "ok")?;
    node.sh("rm -r /etc/u7s/config.d")?;
    node.ok(&["u7s", "host-apply"])?;
    walled.reached(From::Pod, &far)
}

fn the_table_comes_back(world: &World) -> Check {
    let walled = world.walled()?;
    let node = walled.cluster.node();
    // Each start of the unit has a cgroup of its own, which the comments tell.
    let listed = || node.sh("nft list table inet u7s | sed 's/u7s [0-9a-f]\\{16\\}/u7s DIGEST/'");
    let loaded = node.sh("nft list table inet u7s")?;
    let same = listed()?;
    for spoil in ["nft delete table inet u7s", "nft flush chain inet u7s node"] {
        node.sh(spoil)?;
        node.ok(&["u7s", "host-apply"])?;
        holds(node.sh("nft list table inet u7s")? == loaded, format!("after {spoil}"))?;
    }
    let again = kubeadm(node, &["init", crate::world::IGNORED]).run()?;
    wants(&again, "there was nothing to do")?;
    node.sh("nft delete table inet u7s && systemctl restart u7s")?;
    holds(listed()? == same, "after a restart of the unit")?;
    walled.cluster.converge(Duration::from_secs(180)).map(drop)
}

fn reset_takes_the_table(world: &World) -> Check {
    let walled = world.walled()?;
    let node = walled.cluster.node();
    let before = node.sh("nft -s list ruleset")?.replace(&node.sh("nft -s list table inet u7s")?, "");
    exits(&kubeadm(node, &["reset", "--force"]).run()?, 0)?;
    holds(!walled.is_loaded()?, "the table is still there")?;
    let after = node.sh("nft -s list ruleset")?;
    holds(after.trim() == before.trim(), format!("before: {before}\nafter: {after}"))?;
    let changes = walled.cluster.bare.before.diff(&node.snapshot()?);
    // The line that was pasted is the administrator's.
    let left: Vec<_> = changes.iter().filter(|line| !line.starts_with("~ nft inet mine")).collect();
    holds(left.is_empty(), format!("left behind: {left:#?}"))
}
