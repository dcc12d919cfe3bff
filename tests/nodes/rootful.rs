//! Rootful nodes of the harness: what the mixed clusters compare with and join.

use std::time::{Duration, Instant};

use u7s_harness::{Join, Lan, Node};

use crate::Listed;
use crate::world::{Check, World, exits, holds, note, programs, wants};

pub(crate) const TESTS: &[Listed] = &[("rootful::init_and_join_as_root", init_and_join_as_root)];

fn init_and_join_as_root(world: &World) -> Check {
    let lan = world.lan()?;
    let (first, second) = (rootful(&lan, "r1")?, rootful(&lan, "r2")?);
    let start = Instant::now();
    let init = first.rootful_init("")?.run()?;
    exits(&init, 0)?;
    note(format!("kubeadm init as root: {:.1} s", start.elapsed().as_secs_f64()));
    let line = first.ok(&["kubeadm", "token", "create", "--print-join-command"])?;
    let start = Instant::now();
    exits(&second.rootful_join(&Join::from_line(&line)?)?.run()?, 0)?;
    note(format!("kubeadm join as root: {:.1} s", start.elapsed().as_secs_f64()));
    let waits = ["wait", "--for=condition=Ready", "--timeout=90s"];
    for what in [&["nodes", "--all"][..], &["pods", "--all", "-A"]] {
        let argv: Vec<&str> = ["kubectl"].iter().chain(&waits).chain(what).copied().collect();
        exits(&first.command(&argv).within(Duration::from_secs(100)).run()?, 0)?;
    }
    let nodes = first.ok(&["kubectl", "get", "nodes", "-o", "name"])?;
    holds(nodes == "node/r1\nnode/r2", nodes)?;
    // A privileged pod, and on the node that joined.
    let proxy =
        "kubectl -n kube-system get pods -l k8s-app=kube-proxy -o name --field-selector spec.nodeName=r2";
    let pod = first.sh(proxy)?;
    let version =
        first.exec(&["kubectl", "-n", "kube-system", "exec", &pod, "--", "kube-proxy", "--version"])?;
    wants(&version, "Kubernetes v")?;
    let uid = second.sh("for pid in $(pgrep -x kube-proxy); do cat /proc/$pid/uid_map; done")?;
    holds(uid.split_whitespace().eq(["0", "0", "4294967295"]), format!("kube-proxy's id map: {uid}"))
}

fn rootful(lan: &Lan, name: &str) -> Result<Node, Box<dyn std::error::Error>> {
    let mut node = lan.node(name)?;
    node.install_kit(&[])?;
    node.boot(Duration::from_secs(90))?;
    node.install_rootful(&programs())?;
    node.bridge_network(&format!("10.244.{}.0/24", node.ip().octets()[3]))?;
    Ok(node)
}
