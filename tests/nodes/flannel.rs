//! The network of the cluster: flannel by default, the bridge plugin alone where the administrator wants that.

use std::time::Duration;

use u7s_harness::until;

use crate::Listed;
use crate::cluster::{Cluster, SOON};
use crate::world::{Bare, Check, IGNORED, World, exits, holds, kubeadm, note, wants};

pub(crate) const TESTS: &[Listed] = &[
    (
        "flannel::pods_have_addresses_and_mtu_of_the_subnet_file",
        pods_have_addresses_and_mtu_of_the_subnet_file,
    ),
    ("flannel::pods_reach_each_other_and_a_host_port", pods_reach_each_other_and_a_host_port),
    ("flannel::what_the_administrator_changed_stays", what_the_administrator_changed_stays),
    ("flannel::comes_back_when_the_node_restarts", comes_back_when_the_node_restarts),
    ("flannel::a_bridge_needs_no_image", a_bridge_needs_no_image),
];

/// Where the node's configuration lies on the host.
const CNI_DIR: &str = "/var/lib/u7s-admin/node/cni-net.d";

/// A server on port 8000 of its pod, whose `/hostname` is the pod's name.
fn server(cluster: &Cluster, name: &str, ports: &str) -> Check {
    cluster.apply(&format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","namespace":"default"}},"spec":{{
        "terminationGracePeriodSeconds":1,"tolerations":[{{"operator":"Exists"}}],"containers":[{{"name":"c",
        "image":"test.local/tools:1","imagePullPolicy":"Never","command":["/bin/sh","-c",
        "trap 'exit 0' TERM; cd /tmp; hostname > hostname; httpd -f -p 8000 & wait"],"ports":{ports}}}]}}}}"#
    ))?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=80s", &format!("pod/{name}")]).map(drop)
}

fn address(cluster: &Cluster, pod: &str) -> Result<String, Box<dyn std::error::Error>> {
    cluster.kubectl(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"])
}

/// The file of the pod with this name, from wherever `get` asks.
fn answers(
    what: &str,
    name: &str,
    get: impl Fn() -> Result<u7s_harness::Output, Box<dyn std::error::Error>>,
) -> Check {
    until(Duration::from_secs(30), what, || {
        let output = get().map_err(|error| error.to_string())?;
        if output.stdout.trim() == name { Ok(()) } else { Err(output.to_string()) }
    })?;
    Ok(())
}

fn pods_have_addresses_and_mtu_of_the_subnet_file(world: &World) -> Check {
    let cluster = world.cluster()?;
    cluster.converge(Duration::from_secs(120))?;
    let files = cluster.node().ok(&["ls", CNI_DIR])?;
    holds(files == "10-flannel.conflist", format!("in {CNI_DIR}: {files}"))?;
    let subnets = cluster.inside(&["cat", "/run/flannel/subnet.env"])?;
    let part = cluster.kubectl(&["get", "node", "n1", "-o", "jsonpath={.spec.podCIDR}"])?;
    let list = cluster.node().read(&format!("{CNI_DIR}/10-flannel.conflist"))?;
    let list: serde_json::Value = serde_json::from_str(&list)?;
    let bridge = &list["plugins"][0];
    note(format!("the node's part {part}, {}", subnets.stdout.replace('\n', " ")));
    holds(bridge["ipam"]["ranges"][0][0]["subnet"] == part.as_str(), format!("{bridge}"))?;
    cluster.pod("first", "{}")?;
    let link = cluster.in_pod("first", &["cat", "/sys/class/net/eth0/mtu"])?;
    let uplink: u32 = cluster.node().sh("cat /sys/class/net/eth0/mtu")?.trim().parse()?;
    note(format!("uplink {uplink}, pod {}", link.stdout.trim()));
    holds(link.stdout.trim() == (uplink - 50).to_string(), format!("MTU of the pod: {link}"))?;
    wants(&subnets, &format!("FLANNEL_MTU={}", uplink - 50))
}

fn pods_reach_each_other_and_a_host_port(world: &World) -> Check {
    let cluster = world.cluster()?;
    cluster.pod("first", "{}")?;
    server(&cluster, "served", r#"[{"containerPort":8000,"hostPort":18000}]"#)?;
    let (pod, node) = (address(&cluster, "served")?, cluster.node().ip());
    let direct = format!("http://{pod}:8000/hostname");
    answers("the other pod", "served", || cluster.in_pod("first", &["curl", "-s", "-m5", &direct]))?;
    let port = format!("http://{node}:18000/hostname");
    answers("the host port, from a pod", "served", || {
        cluster.in_pod("first", &["curl", "-s", "-m5", &port])
    })?;
    answers("the host port, from the node", "served", || cluster.inside(&["curl", "-s", "-m5", &port]))?;
    cluster.kubectl(&["delete", "pod", "served"]).map(drop)
}

/// A finished cluster is its administrator's: init neither puts flannel back nor in order.
fn what_the_administrator_changed_stays(world: &World) -> Check {
    let cluster = world.cluster()?;
    let flannel = ["-n", "kube-flannel", "daemonset/kube-flannel-ds"];
    let with = |words: &[&str]| cluster.kubectl(&[words, &flannel[..]].concat());
    cluster.kubectl(&[&["label", "--overwrite"], &flannel[..], &["tier=mine"]].concat())?;
    let before = with(&["get", "-o", "jsonpath={.metadata.resourceVersion} {.metadata.labels.tier}"])?;
    let again = kubeadm(cluster.node(), &["init", IGNORED]).run()?;
    exits(&again, 0)?;
    wants(&again, "nothing to do")?;
    let after = with(&["get", "-o", "jsonpath={.metadata.resourceVersion} {.metadata.labels.tier}"])?;
    cluster.kubectl(&[&["label", "--overwrite"], &flannel[..], &["tier=node"]].concat())?;
    holds(before == after && after.ends_with(" mine"), format!("{before}, then {after}"))
}

/// /run inside is new then, and with it the subnet file; the bridge and the tunnel went with the namespace.
fn comes_back_when_the_node_restarts(world: &World) -> Check {
    let cluster = world.cluster()?;
    cluster.pod("first", "{}")?;
    let part = cluster.kubectl(&["get", "node", "n1", "-o", "jsonpath={.spec.podCIDR}"])?;
    cluster.node().ok(&["systemctl", "restart", "u7s"])?;
    until(SOON, "flannel's link and subnet file", || {
        let seen = cluster
            .inside(&["sh", "-c", "cat /run/flannel/subnet.env && ip -o addr show dev flannel.1"])
            .map_err(|error| error.to_string())?;
        if seen.ok() && seen.stdout.contains("inet ") { Ok(()) } else { Err(seen.to_string()) }
    })?;
    let took = cluster.converge(Duration::from_secs(180))?;
    note(format!("all Ready {:.1} s later, the node's part is {part}", took.as_secs_f64()));
    server(&cluster, "served", "[]")?;
    let direct = format!("http://{}:8000/hostname", address(&cluster, "served")?);
    until(SOON, "an old pod reaches a new one", || {
        let output =
            cluster.in_pod("first", &["curl", "-s", "-m5", &direct]).map_err(|error| error.to_string())?;
        if output.stdout.trim() == "served" { Ok(()) } else { Err(output.to_string()) }
    })?;
    cluster.kubectl(&["delete", "pod", "served"]).map(drop)
}

/// `cni = "bridge"`: nothing of flannel, and pods with host ports all the same.
fn a_bridge_needs_no_image(world: &World) -> Check {
    let lan = world.lan()?;
    let bare = Bare::new(&lan, "n5")?;
    bare.node.write("/etc/u7s/config.toml", "cni = \"bridge\"\n")?;
    let init = kubeadm(&bare.node, &["init", IGNORED]).run()?;
    exits(&init, 0)?;
    let cluster = Cluster { bare, init, took: Duration::ZERO, parts: Vec::new() };
    cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=80s", "node/n5"])?;
    let pods = cluster.kubectl(&["get", "pods", "-A", "-o", "name"])?;
    holds(!pods.contains("flannel"), format!("flannel was applied: {pods}"))?;
    // A cluster this young may not have it yet.
    cluster.kubectl(&["wait", "--for=create", "--timeout=60s", "serviceaccount/default"])?;
    server(&cluster, "served", r#"[{"containerPort":8000,"hostPort":18000}]"#)?;
    let port = format!("http://{}:18000/hostname", cluster.node().ip());
    answers("the host port, from the node", "served", || cluster.inside(&["curl", "-s", "-m5", &port]))
}
