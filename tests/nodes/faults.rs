//! `kill -9` of each part: Ready again within the bounds of the fault table, and nothing left over.

use std::collections::BTreeSet;
use std::error::Error;
use std::time::{Duration, Instant};

use u7s_harness::{Process, Signal, until};

use crate::Listed;
use crate::cluster::Cluster;
use crate::world::{Check, World, holds, note};

pub(crate) const TESTS: &[Listed] = &[
    ("faults::f6_kubelet", f6_kubelet),
    ("faults::f5_crio", f5_crio),
    ("faults::f4_slirp4netns", f4_slirp4netns),
    ("faults::f8_each_part_of_the_control_plane", f8_each_part_of_the_control_plane),
    ("faults::f3_pid_1", f3_pid_1),
    ("faults::f1_supervisor", f1_supervisor),
    ("faults::stop_leaves_nothing_and_start_brings_it_back", stop_leaves_nothing),
];

/// What takes minutes.
pub(crate) const LONG: &[Listed] =
    &[("faults::f7_the_monitor_of_etcds_container", f7_the_monitor_of_etcds_container)];

/// The one process of this name in u7s.service, or in one leaf of its cgroup.
fn one(cluster: &Cluster, comm: &str, leaf: &str) -> Result<Process, Box<dyn Error>> {
    let mut matching: Vec<Process> = cluster
        .node()
        .processes()
        .into_iter()
        .filter(|process| {
            process.cgroup.contains("/u7s.service") && process.cgroup.ends_with(leaf) && process.comm == comm
        })
        .collect();
    matching.sort_by_key(|process| process.pid);
    matching.into_iter().next().ok_or_else(|| format!("{comm} does not run").into())
}

/// Processes of containers: those whose death would be a pod's.
fn containers(cluster: &Cluster) -> BTreeSet<i32> {
    let names = ["etcd", "kube-apiserver", "kube-controller", "kube-scheduler", "kube-proxy", "coredns"];
    let all = cluster.node().processes();
    all.iter().filter(|process| names.contains(&process.comm.as_str())).map(|process| process.pid).collect()
}

/// Kills one part and waits for another process in its place.
fn replace(cluster: &Cluster, comm: &str, leaf: &str, limit: Duration) -> Result<Duration, Box<dyn Error>> {
    let old = one(cluster, comm, leaf)?;
    let start = Instant::now();
    cluster.node().signal(&old, Signal::SIGKILL)?;
    until(limit, &format!("another {comm}"), || match one(cluster, comm, leaf) {
        Ok(new) if new.pid != old.pid => Ok(()),
        Ok(_) => Err("the old one".into()),
        Err(error) => Err(error.to_string()),
    })?;
    note(format!("{comm} back after {:.2} s", start.elapsed().as_secs_f64()));
    // slirp4netns has a helper of its own for a moment when it starts.
    until(Duration::from_secs(5), &format!("one {comm} and no orphan"), || {
        let all = cluster.node().processes();
        match all.iter().filter(|process| process.comm == comm && process.cgroup.ends_with(leaf)).count() {
            1 => Ok(()),
            count => Err(format!("{count} of them")),
        }
    })?;
    Ok(start.elapsed())
}

fn f6_kubelet(world: &World) -> Check {
    let cluster = world.cluster()?;
    cluster.converge(Duration::from_secs(120))?;
    let pods = containers(&cluster);
    replace(&cluster, "kubelet", "/node/init", Duration::from_secs(10))?;
    cluster.converge(Duration::from_secs(30))?;
    holds(containers(&cluster) == pods, "a pod was restarted")
}

fn f5_crio(world: &World) -> Check {
    let cluster = world.cluster()?;
    cluster.converge(Duration::from_secs(120))?;
    let pods = containers(&cluster);
    replace(&cluster, "crio", "/node/init", Duration::from_secs(10))?;
    until(Duration::from_secs(10), "CRI answering again", || {
        let status = cluster.status().map_err(|error| error.to_string())?;
        if status["ready"] == true && status["components"][0]["active"] == "active" {
            Ok(())
        } else {
            Err(status.to_string())
        }
    })?;
    cluster.converge(Duration::from_secs(60))?;
    holds(containers(&cluster) == pods, "crio's death killed a pod")?;
    cluster.pod("after-crio", "{}")
}

fn f4_slirp4netns(world: &World) -> Check {
    let cluster = world.cluster()?;
    cluster.converge(Duration::from_secs(120))?;
    let pods = containers(&cluster);
    let link = || cluster.inside(&["sh", "-c", "cd /sys/class/net/tap0; cat carrier carrier_changes"]);
    let before = link()?.stdout;
    replace(&cluster, "slirp4netns", "/supervisor", Duration::from_secs(2))?;
    let after = link()?.stdout;
    holds(
        before == after && after.starts_with("1\n"),
        format!("tap0 lost its carrier: {before:?} {after:?}"),
    )?;
    cluster.converge(Duration::from_secs(30))?;
    holds(containers(&cluster) == pods, "a pod was restarted")?;
    // A packet from inside really passes again: a listener on the other host.
    let (client, ip) = (&cluster.bare.client, cluster.bare.client.ip());
    let listener = client.command(&["socat", "-u", "TCP-LISTEN:7000,reuseaddr", "STDOUT"]).spawn()?;
    until(Duration::from_secs(10), "a connection out of the namespace", || {
        let sent = cluster.inside(&[
            "sh",
            "-c",
            &format!("echo through | socat -u STDIN TCP:{ip}:7000,connect-timeout=2"),
        ]);
        let sent = sent.map_err(|error| error.to_string())?;
        if sent.ok() { Ok(()) } else { Err(sent.to_string()) }
    })?;
    let heard = listener.wait(Duration::from_secs(10))?;
    holds(heard.stdout == "through\n", format!("the other host heard: {heard}"))
}

/// The API server says that it and etcd are ready.
fn api_ready(cluster: &Cluster) -> Result<(), String> {
    let answer = cluster.kubectl(&["--request-timeout=5s", "get", "--raw", "/readyz"]);
    match answer.map_err(|error| error.to_string())?.as_str() {
        "ok" => Ok(()),
        other => Err(other.to_owned()),
    }
}

fn f8_each_part_of_the_control_plane(world: &World) -> Check {
    let cluster = world.cluster()?;
    cluster.converge(Duration::from_secs(120))?;
    cluster.kubectl(&["create", "configmap", "f8", "--from-literal=a=b"])?;
    for comm in ["kube-apiserver", "etcd", "kube-scheduler", "kube-controller"] {
        let begin = Instant::now();
        replace(&cluster, comm, "", Duration::from_secs(60))?;
        until(Duration::from_secs(60).saturating_sub(begin.elapsed()), "/readyz", || api_ready(&cluster))?;
        note(format!("/readyz {:.1} s after the end of {comm}", begin.elapsed().as_secs_f64()));
    }
    cluster.converge(Duration::from_secs(120))?;
    let kept = cluster.kubectl(&["get", "configmap", "f8", "-o", "jsonpath={.data.a}"])?;
    cluster.kubectl(&["delete", "configmap", "f8"])?;
    holds(kept == "b", "etcd lost what was written before")
}

/// Without its conmon a container lives on, but nobody tells CRI-O of its end: that of etcd is found out by its liveness probe
/// (eight times ten seconds) and the kubelet's stop, as on a rootful node.
fn f7_the_monitor_of_etcds_container(world: &World) -> Check {
    let cluster = world.cluster()?;
    cluster.converge(Duration::from_secs(120))?;
    cluster.kubectl(&["create", "configmap", "f7", "--from-literal=a=b"])?;
    let etcd = one(&cluster, "etcd", "")?;
    let monitor = cluster.node().processes().into_iter().find(|process| process.pid == etcd.parent);
    let monitor = monitor.filter(|process| process.comm == "conmon").ok_or("etcd's parent is no conmon")?;
    let begin = Instant::now();
    cluster.node().signal(&monitor, Signal::SIGKILL)?;
    // It may have died of its next line already.
    let _ = cluster.node().signal(&etcd, Signal::SIGKILL);
    until(Duration::from_secs(300), "another etcd with a monitor", || {
        let now = one(&cluster, "etcd", "").map_err(|error| error.to_string())?;
        let all = cluster.node().processes();
        let parent = all.iter().find(|process| process.pid == now.parent);
        let watched = parent.is_some_and(|parent| parent.comm == "conmon");
        if watched { api_ready(&cluster) } else { Err(format!("etcd {} is a child of {parent:?}", now.pid)) }
    })?;
    note(format!("etcd has a monitor again after {:.1} s", begin.elapsed().as_secs_f64()));
    cluster.converge(Duration::from_secs(120))?;
    let kept = cluster.kubectl(&["get", "configmap", "f7", "-o", "jsonpath={.data.a}"])?;
    cluster.kubectl(&["delete", "configmap", "f7"])?;
    holds(kept == "b", "etcd lost what was written before")
}

/// The whole tree dies and a new one stands: no pid of the old one is left.
fn rebuilt(cluster: &Cluster, victim: &Process, dead_within: Duration) -> Check {
    let old: BTreeSet<i32> = cluster
        .node()
        .processes()
        .iter()
        .filter(|process| process.cgroup.contains("/u7s.service/node"))
        .map(|process| process.pid)
        .collect();
    let start = Instant::now();
    let killed_at = cluster.now()?;
    cluster.node().signal(victim, Signal::SIGKILL)?;
    until(dead_within, "the old tree's end", || {
        let left: Vec<Process> =
            cluster.node().processes().into_iter().filter(|process| old.contains(&process.pid)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })?;
    note(format!("{} processes dead after {:.2} s", old.len(), start.elapsed().as_secs_f64()));
    until(Duration::from_secs(30), "u7s.service active again", || {
        let output =
            cluster.node().exec(&["systemctl", "is-active", "u7s"]).map_err(|error| error.to_string())?;
        if output.ok() { Ok(()) } else { Err(output.stdout) }
    })?;
    note(format!("active again after {:.2} s", start.elapsed().as_secs_f64()));
    cluster.converge_anew(&killed_at, Duration::from_secs(90).saturating_sub(start.elapsed()))?;
    note(format!("Ready again after {:.2} s", start.elapsed().as_secs_f64()));
    Ok(())
}

fn f3_pid_1(world: &World) -> Check {
    let cluster = world.cluster()?;
    cluster.converge(Duration::from_secs(120))?;
    cluster.kubectl(&["create", "configmap", "kept", "--from-literal=a=b"])?;
    let pid = cluster.status()?["init_pid"].as_i64().ok_or("no init_pid")?;
    // The status names pids as the node's systemd sees them; the harness sees the machine's.
    let victim = cluster
        .node()
        .processes()
        .into_iter()
        .find(|process| process.pids.get(1).copied().map(i64::from) == Some(pid));
    rebuilt(&cluster, &victim.ok_or("pid 1 is not among the processes")?, Duration::from_secs(5))?;
    let kept = cluster.kubectl(&["get", "configmap", "kept", "-o", "jsonpath={.data.a}"])?;
    cluster.kubectl(&["delete", "configmap", "kept"])?;
    holds(kept == "b", "etcd lost what was written before")
}

fn f1_supervisor(world: &World) -> Check {
    let cluster = world.cluster()?;
    cluster.converge(Duration::from_secs(120))?;
    let victim = one(&cluster, "u7s-supervisor", "/supervisor")?;
    rebuilt(&cluster, &victim, Duration::from_secs(5))
}

fn stop_leaves_nothing(world: &World) -> Check {
    let cluster = world.cluster()?;
    cluster.converge(Duration::from_secs(120))?;
    let node = cluster.node();
    let start = Instant::now();
    node.command(&["systemctl", "stop", "u7s"]).within(Duration::from_secs(95)).ok()?;
    note(format!("stopped in {:.2} s", start.elapsed().as_secs_f64()));
    let left: Vec<Process> =
        node.processes().into_iter().filter(|process| process.cgroup.contains("/u7s.service")).collect();
    holds(left.is_empty(), format!("processes left: {left:?}"))?;
    let cgroup =
        node.exec(&["sh", "-c", "find /sys/fs/cgroup/system.slice/u7s.service -type d 2>/dev/null"])?;
    holds(cgroup.stdout.is_empty(), format!("cgroups left: {}", cgroup.stdout))?;
    let changes = cluster.bare.before.diff(&node.snapshot()?);
    let mounts: Vec<&String> = changes.iter().filter(|change| change.contains(" mount ")).collect();
    holds(mounts.is_empty(), format!("mounts left: {mounts:?}"))?;
    let ports = node.sh("ss -Hlnt | awk '{print $4}'")?;
    holds(!ports.contains("6443") && !ports.contains("10250"), format!("ports left: {ports}"))?;
    let result = node.ok(&["systemctl", "show", "-p", "Result", "--value", "u7s"])?;
    holds(result == "success", format!("the unit's result is {result}"))?;
    node.command(&["systemctl", "start", "u7s"]).within(Duration::from_secs(60)).ok()?;
    let took = cluster.converge(Duration::from_secs(90))?;
    note(format!("start to all Ready: {:.2} s", took.as_secs_f64()));
    Ok(())
}
