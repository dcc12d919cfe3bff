//! `kubeadm upgrade` of a cluster of two rootless nodes from one patch release to the next.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

use serde_json::Value;
use u7s_harness::{Lan, Node, Output, Running, Signal, releases, until};

use crate::Listed;
use crate::cluster::{Cluster, SOON};
use crate::pair::{Joined, manifest};
use crate::world::{Bare, Check, IGNORED, SHIMS, World, exits, holds, kubeadm, note, programs, wants};

pub(crate) const TESTS: &[Listed] = &[
    ("upgrade::plan_names_the_later_release", plan_names_the_later_release),
    ("upgrade::apply_brings_the_later_control_plane", apply_brings_the_later_control_plane),
    ("upgrade::images_came_from_the_disk", images_came_from_the_disk),
    ("upgrade::kubelets_are_later_and_know_the_nodes_limits", kubelets_are_later_and_know_the_nodes_limits),
    ("upgrade::what_ran_before_runs_on", what_ran_before_runs_on),
    ("upgrade::the_node_comes_up_again_as_it_is_now", the_node_comes_up_again_as_it_is_now),
];

/// What kubeadm complains of in a nested node.
const COMPLAINT: &str = "--ignore-preflight-errors=SystemVerification";

/// The Service whose pod is asked all the time.
const PORT: u16 = 30_090;

/// A cluster that was made with the earlier release and is of the later one now.
pub(crate) struct Upgraded {
    a: Cluster,
    b: Joined,
    /// Versions of the kubelets before, as the API tells them.
    before: Vec<String>,
    /// Containers of pods before, by pod.
    containers: BTreeMap<String, String>,
    /// `kubeadm upgrade plan`, `upgrade apply` on A, `u7s load-images` and `upgrade node` on B.
    plan: Output,
    apply: Output,
    loaded: Output,
    node: Output,
    /// The API server's version once apply had ended, when all kubelets were still the earlier ones.
    server: String,
    /// One line for each time that a client outside asked the pod on B by A's port.
    asked: String,
    took: [Duration; 2],
}

impl Upgraded {
    pub(crate) fn new(lan: &Lan) -> Result<Self, Box<dyn Error>> {
        let [earlier, later] = releases();
        let a = Cluster::on(machine(lan, "up-a")?, &["init", IGNORED])?;
        let b = Joined::new(&a, machine(lan, "up-b")?, &[])?;
        a.all_ready(2, 2 * SOON)?;
        pods(&a, b.node())?;
        let before = kubelets(&a)?;
        let containers = containers(&a)?;
        let asking = ask(&a)?;

        for node in [a.node(), b.node()] {
            node.install_release(later, &["kubeadm"])?;
            node.install_later_images()?;
        }
        // kube-proxy's new image is wanted there as soon as A is upgraded.
        let loaded = b.node().command(&["u7s", "load-images"]).within(2 * SOON).run()?;
        let plan = kubeadm(a.node(), &["upgrade", "plan", COMPLAINT]).run()?;
        let began = Instant::now();
        let apply = kubeadm(a.node(), &["upgrade", "apply", later, "-y", COMPLAINT]).run()?;
        let applied = began.elapsed();
        let server = until(SOON, "the API server", || version(&a).map_err(|error| error.to_string()))?;
        kubelet(a.node(), later)?;
        let began = Instant::now();
        let node = kubeadm(b.node(), &["upgrade", "node", COMPLAINT]).run()?;
        let took = [applied, began.elapsed()];
        kubelet(b.node(), later)?;
        note(format!(
            "{earlier} to {later}: apply {:.1} s, worker {:.1} s",
            took[0].as_secs_f64(),
            took[1].as_secs_f64()
        ));
        settled(&a, later)?;
        let asked = heard(asking)?;
        Ok(Self { a, b, before, containers, plan, apply, loaded, node, server, asked, took })
    }
}

/// A machine with the earlier release, its images and u7s.
fn machine(lan: &Lan, name: &str) -> Result<Bare, Box<dyn Error>> {
    let [earlier, _] = releases();
    let mut node = lan.node(name)?;
    node.install_earlier_kit()?;
    node.boot(Duration::from_secs(90))?;
    node.install_release(earlier, &["kubeadm", "kubelet", "kubectl"])?;
    node.install_u7s(&programs())?;
    let before = node.snapshot()?;
    let client = lan.client(&format!("{name}-c"))?;
    Ok(Bare { node, client, before })
}

/// One pod on each node, the one on B behind a port of both hosts.
fn pods(a: &Cluster, b: &Node) -> Check {
    for (name, node) in [("kept-a", a.node()), ("kept-b", b)] {
        a.apply(&manifest(name, node.name()))?;
        a.kubectl(&["wait", "--for=condition=Ready", "--timeout=80s", &format!("pod/{name}")])?;
    }
    a.apply(&format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"kept"}},"spec":{{"type":"NodePort",
        "selector":{{"app":"kept-b"}},"ports":[{{"port":7000,"nodePort":{PORT}}}]}}}}"#
    ))
}

/// Asks several times a second, from a host that belongs to no cluster, until it is stopped.
fn ask(a: &Cluster) -> Result<Running, Box<dyn Error>> {
    let (client, ip) = (&a.bare.client, a.node().ip());
    let url = format!("http://{ip}:{PORT}/name");
    until(SOON, "the Service to be reached from outside", || {
        let said = client.exec(&["curl", "-s", "-m", "1", &url]).map_err(|error| error.to_string())?;
        if said.stdout.trim() == "kept-b" { Ok(()) } else { Err(said.to_string()) }
    })?;
    let script = format!("while :; do echo $(curl -s -m 1 {url}) $(date +%s.%N); sleep 0.2; done");
    Ok(client.command(&["sh", "-c", &script]).spawn()?)
}

fn heard(asking: Running) -> Result<String, Box<dyn Error>> {
    let (heard, _) = asking.so_far();
    asking.signal(Signal::SIGKILL);
    asking.wait(Duration::from_secs(10))?;
    Ok(heard)
}

/// What an administrator does after kubeadm: the package's new kubelet, and its restart.
fn kubelet(node: &Node, version: &str) -> Check {
    node.install_release(version, &["kubelet", "kubectl"])?;
    node.command(&["systemctl", "restart", "kubelet"]).first_in_path(SHIMS).ok().map(drop)?;
    Ok(())
}

fn version(a: &Cluster) -> Result<String, Box<dyn Error>> {
    let seen: Value = serde_json::from_str(&a.kubectl(&["get", "--raw", "/version"])?)?;
    Ok(seen["gitVersion"].as_str().unwrap_or_default().to_owned())
}

fn kubelets(a: &Cluster) -> Result<Vec<String>, Box<dyn Error>> {
    let path = "jsonpath={.items[*].status.nodeInfo.kubeletVersion}";
    Ok(a.kubectl(&["get", "nodes", "-o", path])?.split_whitespace().map(str::to_owned).collect())
}

/// Waits until kubelets and kube-proxy are of this version, and everything is Ready.
fn settled(a: &Cluster, version: &str) -> Check {
    until(2 * SOON, "both kubelets to be of the later release", || {
        let seen = kubelets(a).map_err(|error| error.to_string())?;
        if seen == [version, version] { Ok(()) } else { Err(seen.join(" ")) }
    })?;
    a.kubectl_command(&["-n", "kube-system", "rollout", "status", "ds/kube-proxy", "--timeout=120s"])
        .within(2 * SOON)
        .ok()?;
    a.all_ready(2, 2 * SOON)
}

/// Containers of CoreDNS, flannel and our own pods: an upgrade of the same minor release has no reason to touch them.
fn containers(a: &Cluster) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
    let pods = a.json(&["get", "pods", "-A"])?;
    let of = |pod: &Value| {
        let name = pod["metadata"]["name"].as_str()?.to_owned();
        let kept = ["coredns-", "kube-flannel-", "kept-"].iter().any(|start| name.starts_with(start));
        let statuses = pod["status"]["containerStatuses"].as_array()?;
        let ids: Vec<&str> = statuses.iter().filter_map(|one| one["containerID"].as_str()).collect();
        kept.then(|| (name, ids.join(" ")))
    };
    Ok(pods["items"].as_array().into_iter().flatten().filter_map(of).collect())
}

fn plan_names_the_later_release(world: &World) -> Check {
    let upgraded = world.upgraded()?;
    let [earlier, later] = releases();
    exits(&upgraded.plan, 0)?;
    note(&upgraded.plan.stdout);
    holds(upgraded.before == [earlier, earlier], format!("kubelets before: {:?}", upgraded.before))?;
    wants(&upgraded.plan, &format!("kubeadm upgrade apply {later}"))
}

fn apply_brings_the_later_control_plane(world: &World) -> Check {
    let upgraded = world.upgraded()?;
    let [_, later] = releases();
    exits(&upgraded.apply, 0)?;
    note(format!("apply took {:.1} s", upgraded.took[0].as_secs_f64()));
    wants(
        &upgraded.apply,
        &format!("SUCCESS! A control plane node of your cluster was upgraded to \"{later}\""),
    )?;
    holds(upgraded.server == later, format!("the API server is {}", upgraded.server))?;
    let path = "jsonpath={range .items[*]}{.spec.containers[0].image} {end}";
    let images = upgraded.a.kubectl(&["-n", "kube-system", "get", "pods", "-o", path])?;
    for name in ["apiserver", "controller-manager", "scheduler"] {
        let image = format!("registry.k8s.io/kube-{name}:{later}");
        holds(images.split_whitespace().any(|seen| seen == image), format!("no {image} among {images}"))?;
    }
    let proxies = images.matches(&format!("registry.k8s.io/kube-proxy:{later}")).count();
    holds(proxies == 2, format!("{proxies} of 2 kube-proxy: {images}"))
}

/// No registry can be reached: what was not loaded would have been missed.
fn images_came_from_the_disk(world: &World) -> Check {
    let upgraded = world.upgraded()?;
    exits(&upgraded.loaded, 0)?;
    note(upgraded.loaded.to_string());
    wants(&upgraded.apply, "[namespace] done: load the images of /var/lib/u7s/images/later")?;
    let events = upgraded.a.kubectl(&["get", "events", "-A", "-o", "jsonpath={.items[*].message}"])?;
    holds(!events.contains("Failed to pull image"), events)?;
    // There was nothing to load any more.
    wants(&upgraded.node, "load the images of")?;
    holds(!upgraded.node.stderr.contains("done: load"), upgraded.node.to_string())
}

fn kubelets_are_later_and_know_the_nodes_limits(world: &World) -> Check {
    let upgraded = world.upgraded()?;
    exits(&upgraded.node, 0)?;
    note(upgraded.a.kubectl(&["get", "nodes", "-o", "wide"])?);
    for node in [upgraded.a.node(), upgraded.b.node()] {
        let config = "/var/lib/u7s-admin/node/kubelet/config.yaml";
        node.sh(&format!(
            "stat -c %U {config} | grep -qx u7s-admin; grep -q 'failSwapOn: false' {config}; grep -q 'cgroupDriver: cgroupfs' {config}"
        ))?;
        let root = node.sh("ps -o user= -C kubelet")?;
        holds(root.trim() == "u7s-admin", format!("the kubelet runs as {root}"))?;
    }
    Ok(())
}

fn what_ran_before_runs_on(world: &World) -> Check {
    let upgraded = world.upgraded()?;
    let now = containers(&upgraded.a)?;
    for (pod, ids) in &upgraded.containers {
        holds(now.get(pod) == Some(ids), format!("{pod}: {ids} before, now {:?}", now.get(pod)))?;
    }
    note(format!("{} pods run in the same containers", upgraded.containers.len()));
    let missed: Vec<&str> = upgraded.asked.lines().filter(|line| !line.starts_with("kept-b ")).collect();
    let all = upgraded.asked.lines().count();
    note(format!("asked from outside {all} times, {} without an answer", missed.len()));
    holds(all > 50 && missed.is_empty(), format!("no answer of {all}: {missed:?}"))
}

/// As after a reboot of the host: what the upgrade wrote stands on the disk.
fn the_node_comes_up_again_as_it_is_now(world: &World) -> Check {
    let upgraded = world.upgraded()?;
    let [_, later] = releases();
    upgraded.a.node().command(&["systemctl", "restart", "u7s.service"]).within(SOON).ok()?;
    settled(&upgraded.a, later)?;
    holds(version(&upgraded.a)? == later, "the API server is another")
}
