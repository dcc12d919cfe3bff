//! A kube-proxy with kubeadm's own settings on a host that u7s has prepared for it.

use serde_json::{Value, json};

use crate::Listed;
use crate::world::{Check, Cluster, SOON, World, holds, note};

pub(crate) const TESTS: &[Listed] =
    &[("proxy::a_kube_proxy_with_kubeadms_settings_runs", a_kube_proxy_with_kubeadms_settings_runs)];

const MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
const HASHSIZE: &str = "/sys/module/nf_conntrack/parameters/hashsize";

/// The cluster is u7s' own, whose kube-proxy leaves the table alone: its settings are taken out, as in a rootful cluster, and
/// the node is told that it has joined, since only then `u7s host-apply` fits the table. A node in a network namespace of a
/// container cannot show this: there the table is read-only.
fn a_kube_proxy_with_kubeadms_settings_runs(world: &World) -> Check {
    let cluster = world.cluster()?;
    let before = cluster.vm.sh(&format!("cat {MAX}; stat -c %a {HASHSIZE}"))?;
    let configured = cluster.json(&["get", "-n", "kube-system", "configmap", "kube-proxy"])?;
    let node = cluster.vm.read("/etc/u7s/node.json")?;
    let result = run_with_defaults(&cluster, &configured, &node);
    let back = put_back(&cluster, &configured, &node, &before);
    result.and(back)
}

fn run_with_defaults(cluster: &Cluster, configured: &Value, node: &str) -> Check {
    let text = configured["data"]["config.conf"].as_str().unwrap_or_default();
    let (without, taken) = without_conntrack(text);
    note(format!("taken out: {}", taken.trim().replace('\n', ", ")));
    holds(taken.contains("maxPerCore: 0"), format!("no settings of ours in it: {text}"))?;
    let mut joined: Value = serde_json::from_str(node)?;
    joined["joined"] = json!(true);
    // Whatever a former run left.
    cluster.vm.sh(&format!("echo 65536 > {MAX}; chmod 600 {HASHSIZE}"))?;
    cluster.vm.write("/etc/u7s/node.json", serde_json::to_string_pretty(&joined)?)?;
    cluster.vm.ok(&["u7s", "host-apply"])?;
    let after = cluster
        .vm
        .sh(&format!("cat {MAX} /proc/sys/net/netfilter/nf_conntrack_buckets; stat -c %a {HASHSIZE}"))?;
    let words: Vec<&str> = after.lines().collect();
    note(format!("nf_conntrack_max, nf_conntrack_buckets, mode of hashsize: {}", words.join(" ")));
    // kube-proxy's conntrack.min counts up to four processors.
    holds(words.first() == Some(&"131072") && words.last() == Some(&"644"), format!("not fitted: {after}"))?;
    replace(cluster, configured, &without)?;
    let name = restart(cluster)?;
    let log = cluster.kubectl(&["logs", "-n", "kube-system", &name])?;
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("conntrack")).collect();
    note(lines.join("\n"));
    holds(!log.contains("permission denied") && !log.contains("read-only"), format!("refused: {log}"))
}

/// The section `conntrack:` of kube-proxy's YAML made empty, and what was in it.
fn without_conntrack(text: &str) -> (String, String) {
    let (mut kept, mut taken, mut inside) = (String::new(), String::new(), false);
    for line in text.lines() {
        inside = if inside { line.starts_with(' ') } else { line.starts_with("conntrack:") };
        let target = if inside { &mut taken } else { &mut kept };
        target.push_str(line);
        target.push('\n');
    }
    (kept + "conntrack: {}\n", taken)
}

fn replace(cluster: &Cluster, configured: &Value, text: &str) -> Check {
    let name = configured["metadata"]["name"].as_str().unwrap_or("kube-proxy");
    let patch = json!({"data": {"config.conf": text}}).to_string();
    cluster
        .kubectl(&["patch", "-n", "kube-system", "configmap", name, "--type=merge", "-p", &patch])
        .map(drop)
}

/// Another kube-proxy, which is Ready; gives its name. It has no probe, so Ready is no more than that it runs: its log tells the rest.
fn restart(cluster: &Cluster) -> Result<String, Box<dyn std::error::Error>> {
    let list = ["get", "-n", "kube-system", "pods", "-l", "k8s-app=kube-proxy"];
    let old = cluster.json(&list)?["items"][0]["metadata"]["uid"].clone();
    cluster.kubectl(&["delete", "-n", "kube-system", "pod", "-l", "k8s-app=kube-proxy", "--wait=false"])?;
    let pod = cluster.vm.until(SOON, "another kube-proxy that is Ready", |_| {
        let pods = cluster.json(&list).map_err(|error| error.to_string())?;
        let all = pods["items"].as_array().cloned().unwrap_or_default();
        let new = all.into_iter().find(|pod| pod["metadata"]["uid"] != old).ok_or("no new one")?;
        let status = &new["status"]["containerStatuses"][0];
        if crate::world::is_ready(&new) { Ok(new) } else { Err(status.to_string()) }
    })?;
    let status = &pod["status"]["containerStatuses"][0];
    note(format!("kube-proxy: Ready, {} restarts", status["restartCount"]));
    holds(status["restartCount"] == 0, format!("it had to be restarted: {status}"))?;
    Ok(pod["metadata"]["name"].as_str().unwrap_or_default().to_owned())
}

fn put_back(cluster: &Cluster, configured: &Value, node: &str, before: &str) -> Check {
    cluster.vm.write("/etc/u7s/node.json", node)?;
    replace(cluster, configured, configured["data"]["config.conf"].as_str().unwrap_or_default())?;
    if let [max, mode] = before.lines().collect::<Vec<_>>()[..] {
        cluster.vm.sh(&format!("echo {max} > {MAX}; chmod {mode} {HASHSIZE}"))?;
    }
    restart(cluster).map(drop)
}
