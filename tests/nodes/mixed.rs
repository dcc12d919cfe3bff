//! Rootless and rootful nodes in one cluster: neither knows of the other's way.

use std::error::Error;
use std::time::{Duration, Instant};

use u7s_harness::{Invocation, Join, Lan, Node, Output, until};
use u7s_plan::config::Config;
use u7s_plan::flannel;

use crate::Listed;
use crate::cluster::SOON;
use crate::pair::{Pair, is_ready};
use crate::world::{Bare, Check, IGNORED, World, exits, holds, kubeadm, note, programs, wants};

pub(crate) const TESTS: &[Listed] = &[
    ("mixed::a_rootful_worker_joins_a_rootless_cluster", a_rootful_worker_joins_a_rootless_cluster),
    ("mixed::a_rootless_worker_joins_a_rootful_cluster", a_rootless_worker_joins_a_rootful_cluster),
];

/// An ordinary node, booted, without a network of its own: flannel comes as a pod.
pub(crate) fn rootful(lan: &Lan, name: &str) -> Result<Node, Box<dyn Error>> {
    let mut node = lan.node(name)?;
    node.install_kit(&[])?;
    node.boot(Duration::from_secs(90))?;
    node.install_rootful(&programs())?;
    Ok(node)
}

fn a_rootful_worker_joins_a_rootless_cluster(world: &World) -> Check {
    let pair = world.pair()?;
    let worker = rootful(&*world.lan()?, "rf")?;
    let line = kubeadm(pair.a.node(), &["token", "create", "--print-join-command"]).ok()?;
    let line = line.lines().find(|line| line.contains("kubeadm join")).unwrap_or_default().to_owned();
    let began = Instant::now();
    exits(&worker.rootful_join(&Join::from_line(&line)?)?.run()?, 0)?;
    note(format!("the rootful worker joined in {:.1} s", began.elapsed().as_secs_f64()));
    pair.a.all_ready(3, Duration::from_secs(240))?;
    let uids = worker
        .sh("for pid in $(pgrep -x kubelet); do stat -c %u /proc/$pid; cat /proc/$pid/uid_map; done")?;
    holds(uids.split_whitespace().eq(["0", "0", "0", "4294967295"]), format!("its kubelet: {uids}"))?;
    let one = Talker { name: "less".into(), address: pair.pod("less", pair.b.node())? };
    let other = Talker { name: "full".into(), address: pair.pod("full", &worker)? };
    talk(&|words| pair.a.kubectl_command(words), &one, &other)?;
    gone(&pair, &worker)
}

/// The pair is two nodes again.
fn gone(pair: &Pair, worker: &Node) -> Check {
    pair.a.kubectl(&["delete", "pod", "less", "full", "--now"])?;
    pair.a.kubectl(&["delete", "node", worker.name()])?;
    pair.a.all_ready(2, Duration::from_secs(60))
}

fn a_rootless_worker_joins_a_rootful_cluster(world: &World) -> Check {
    world.retire();
    let lan = world.lan()?;
    let first = rootful(&lan, "rc")?;
    exits(&first.rootful_init("")?.run()?, 0)?;
    let kubectl = |words: &[&str]| -> Invocation {
        let argv: Vec<&str> = std::iter::once("kubectl").chain(words.iter().copied()).collect();
        first.command(&argv).within(SOON)
    };
    let settings = flannel::Settings {
        image: Config::default().flannel.image,
        pods: "10.244.0.0/16".parse()?,
        mtu: 1500,
        api_host: first.ip().to_string(),
        api_port: "6443".into(),
    };
    kubectl(&["apply", "-f", "-"]).input(flannel::manifest(&settings)).ok()?;
    kubectl(&["taint", "nodes", "--all", "node-role.kubernetes.io/control-plane-"]).ok()?;
    let worker = Bare::new(&lan, "rl")?;
    let line = first.ok(&["kubeadm", "token", "create", "--print-join-command"])?;
    let words: Vec<&str> = line.split_whitespace().skip(2).collect();
    let began = Instant::now();
    let join = kubeadm(&worker.node, &[&["join", IGNORED], words.as_slice()].concat()).run()?;
    exits(&join, 0)?;
    note(format!("the rootless worker joined in {:.1} s", began.elapsed().as_secs_f64()));
    warned_of_conntrack(&worker.node, &join)?;
    for name in ["rc", "rl"] {
        until(Duration::from_secs(240), &format!("node {name} to be Ready"), || {
            let node =
                kubectl(&["get", "node", name, "-o", "json"]).ok().map_err(|error| error.to_string())?;
            let node: serde_json::Value = serde_json::from_str(&node).map_err(|error| error.to_string())?;
            if is_ready(&node) { Ok(()) } else { Err(node["status"]["conditions"].to_string()) }
        })?;
    }
    let owner = worker.node.sh("stat -c %U /proc/$(pgrep -xo kubelet)")?;
    holds(owner == "u7s-admin", format!("the rootless kubelet is {owner}'s"))?;
    let pod = |name: &str, node: &str| -> Result<Talker, Box<dyn Error>> {
        kubectl(&["apply", "-f", "-"]).input(crate::pair::manifest(name, node)).ok()?;
        kubectl(&["wait", "--for=condition=Ready", "--timeout=80s", &format!("pod/{name}")]).ok()?;
        let address = kubectl(&["get", "pod", name, "-o", "jsonpath={.status.podIP}"]).ok()?;
        Ok(Talker { name: name.into(), address })
    };
    let (one, other) = (pod("full", "rc")?, pod("less", "rl")?);
    talk(&kubectl, &one, &other)?;
    exits(&kubeadm(&worker.node, &["reset", "--force"]).run()?, 0)
}

/// A nested node's network namespace is not the kernel's first: what kube-proxy wants cannot be set, and the machine's stays.
fn warned_of_conntrack(node: &Node, join: &Output) -> Check {
    let max = node.sh("cat /proc/sys/net/netfilter/nf_conntrack_max")?;
    wants(join, "[WARNING Conntrack]")?;
    wants(join, &format!("(it is {max})"))?;
    wants(join, "maxPerCore: 0")?;
    let line = join.stderr.lines().find(|line| line.contains("Conntrack")).unwrap_or_default();
    note(line);
    let after = node.sh("cat /proc/sys/net/netfilter/nf_conntrack_max; stat -c %a /sys/module/nf_conntrack/parameters/hashsize")?;
    holds(after == format!("{max}\n600"), format!("the machine's table is another: {after}"))
}

/// A pod and its address.
struct Talker {
    name: String,
    address: String,
}

/// Both ways: ping, a TCP exchange, and a name by the cluster's DNS.
fn talk(kubectl: &dyn Fn(&[&str]) -> Invocation, one: &Talker, other: &Talker) -> Check {
    for (from, to) in [(one, other), (other, one)] {
        until(Duration::from_secs(30), &format!("{} to reach {}", from.name, to.name), || {
            let ping = kubectl(&["exec", &from.name, "--", "ping", "-c", "3", "-W", "2", &to.address]).run();
            let ping = ping.map_err(|error| error.to_string())?;
            if ping.ok() { Ok(()) } else { Err(ping.to_string()) }
        })?;
        let url = format!("http://{}:7000/name", to.address);
        until(Duration::from_secs(30), &format!("{} to hear {}", from.name, to.name), || {
            let heard = kubectl(&["exec", &from.name, "--", "curl", "-s", "--max-time", "5", &url]).run();
            let heard = heard.map_err(|error| error.to_string())?;
            if heard.stdout.trim() == to.name { Ok(()) } else { Err(heard.to_string()) }
        })?;
        let name = kubectl(&["exec", &from.name, "--", "nslookup", "kubernetes.default.svc.cluster.local"]);
        holds(name.run()?.stdout.contains("10.96.0.1"), format!("{} has no DNS", from.name))?;
        note(format!("{} ({}) reaches {} ({})", from.name, from.address, to.name, to.address));
    }
    Ok(())
}
