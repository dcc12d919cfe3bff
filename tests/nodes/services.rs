//! What a user does with the node: pods, DNS, kubectl from here and from another host, systemctl.

use std::time::Duration;

use serde_json::Value;
use u7s_harness::until;

use crate::Listed;
use crate::cluster::SOON;
use crate::world::{Check, World, exits, holds, note, wants};

pub(crate) const TESTS: &[Listed] = &[
    ("services::a_pod_resolves_and_reaches_the_api", a_pod_resolves_and_reaches_the_api),
    ("services::logs_exec_and_port_forward", logs_exec_and_port_forward),
    ("services::kubectl_as_root_and_as_the_user", kubectl_as_root_and_as_the_user),
    ("services::another_host_reaches_the_api_and_is_audited", another_host_reaches_the_api_and_is_audited),
    ("services::systemctl_answers_as_the_real_one", systemctl_answers_as_the_real_one),
];

fn a_pod_resolves_and_reaches_the_api(world: &World) -> Check {
    let cluster = world.cluster()?;
    cluster.converge(Duration::from_secs(120))?;
    cluster.pod("first", "{}")?;
    let name = cluster.in_pod("first", &["nslookup", "kubernetes.default.svc.cluster.local"])?;
    wants(&name, "10.96.0.1")?;
    let short = cluster
        .in_pod("first", &["sh", "-c", "curl -sk --max-time 10 https://kubernetes.default/version"])?;
    wants(&short, "gitVersion")?;
    let address =
        cluster.in_pod("first", &["curl", "-sk", "--max-time", "10", "https://10.96.0.1:443/readyz"])?;
    wants(&address, "ok")
}

fn logs_exec_and_port_forward(world: &World) -> Check {
    let cluster = world.cluster()?;
    cluster.pod("first", "{}")?;
    let logs = cluster.kubectl(&["logs", "first"])?;
    holds(logs.trim() == "started", format!("kubectl logs: {logs}"))?;
    let exec = cluster.in_pod("first", &["sh", "-c", "echo $((6*7)); exit 7"])?;
    wants(&exec, "42")?;
    exits(&exec, 7)?;
    let forward = cluster
        .kubectl_command(&["-n", "kube-system", "port-forward", "deploy/coredns", "18181:8181"])
        .spawn()?;
    let answer = until(Duration::from_secs(20), "CoreDNS's /ready through port-forward", || {
        let output = cluster.node().exec(&["curl", "-s", "--max-time", "3", "http://127.0.0.1:18181/ready"]);
        let output = output.map_err(|error| error.to_string())?;
        if output.stdout == "OK" { Ok(output.stdout) } else { Err(output.to_string()) }
    });
    drop(forward);
    note(format!("port-forward: {}", answer?));
    Ok(())
}

fn kubectl_as_root_and_as_the_user(world: &World) -> Check {
    let cluster = world.cluster()?;
    let root = cluster.kubectl(&["get", "nodes", "-o", "name"])?;
    holds(root == "node/n1", format!("as root: {root}"))?;
    let user = cluster.node().command(&["kubectl", "get", "nodes", "-o", "name"]);
    let user = user
        .user("u7s-admin")
        .env("HOME", "/var/lib/u7s-admin")
        .env("KUBECACHEDIR", "/dev/shm/kubectl-user")
        .within(SOON)
        .ok()?;
    holds(user == "node/n1", format!("as u7s-admin: {user}"))?;
    for (path, owner) in [("/root/.kube/config", "root"), ("/var/lib/u7s-admin/.kube/config", "u7s-admin")] {
        let stat = cluster.node().ok(&["stat", "-c", "%a %U", path])?;
        holds(stat == format!("600 {owner}"), format!("{path}: {stat}"))?;
    }
    Ok(())
}

fn another_host_reaches_the_api_and_is_audited(world: &World) -> Check {
    let cluster = world.cluster()?;
    let ip = cluster.node().ip();
    let client = &cluster.bare.client;
    let version = client.exec(&["curl", "-sk", "--max-time", "10", &format!("https://{ip}:6443/version")])?;
    wants(&version, "gitVersion")?;
    let path = format!("/api/v1/namespaces/from-{}/secrets", std::process::id());
    let answer = client.exec(&["curl", "-sk", "--max-time", "10", &format!("https://{ip}:6443{path}")])?;
    wants(&answer, "is forbidden")?;
    let address = client.ip().to_string();
    let event = until(Duration::from_secs(20), "the request in the audit log", || {
        let log =
            cluster.node().read("/etc/kubernetes/audit/audit.log").map_err(|error| error.to_string())?;
        log.lines()
            .find(|line| line.contains(&path))
            .map(str::to_owned)
            .ok_or_else(|| format!("{} bytes", log.len()))
    })?;
    let event: Value = serde_json::from_str(&event)?;
    note(format!("S18: audited sourceIPs {}, the client is {address}", event["sourceIPs"]));
    holds(event["sourceIPs"][0] == address.as_str(), format!("sourceIPs: {}", event["sourceIPs"]))
}

/// Each state of an ordinary unit of the real systemd, and of our kubelet inside: same text, same status.
fn systemctl_answers_as_the_real_one(world: &World) -> Check {
    let cluster = world.cluster()?;
    let node = cluster.node();
    node.write(
        "/run/systemd/system/probe.service",
        "[Service]\nExecStart=/bin/sleep 100000\n[Install]\nWantedBy=multi-user.target\n",
    )?;
    let real = |arguments: &[&str]| {
        node.command(&[&["/usr/bin/systemctl"], arguments].concat()).env("LC_ALL", "C").run()
    };
    let ours =
        |arguments: &[&str]| cluster.inside(&[&["/usr/libexec/u7s/bin/systemctl"], arguments].concat());
    exits(&real(&["daemon-reload"])?, 0)?;
    exits(&ours(&["daemon-reload"])?, 0)?;
    let compare = |verb: &str| -> Check {
        let (theirs, mine) = (real(&[verb, "probe"])?, ours(&[verb, "kubelet"])?);
        note(format!(
            "{verb}: real {:?} {:?}, ours {:?} {:?}",
            theirs.stdout,
            theirs.code(),
            mine.stdout,
            mine.code()
        ));
        holds(
            theirs.stdout == mine.stdout && theirs.code() == mine.code(),
            format!("{verb}: real {theirs} ours {mine}"),
        )
    };
    exits(&real(&["start", "probe"])?, 0)?;
    compare("is-active")?;
    exits(&real(&["stop", "probe"])?, 0)?;
    exits(&ours(&["stop", "kubelet"])?, 0)?;
    compare("is-active")?;
    for verb in ["start", "restart", "stop", "start"] {
        let (theirs, mine) = (real(&[verb, "probe"])?, ours(&[verb, "kubelet"])?);
        holds(
            theirs.code() == mine.code() && theirs.stdout == mine.stdout,
            format!("{verb}: {theirs} {mine}"),
        )?;
        compare("is-active")?;
    }
    for verb in ["is-active", "is-enabled", "status", "start", "stop", "restart"] {
        let (theirs, mine) = (real(&[verb, "no-such-unit"])?, ours(&[verb, "no-such-unit"])?);
        note(format!(
            "{verb} no-such-unit: real {:?} {:?} {:?}",
            theirs.stdout,
            theirs.stderr,
            theirs.code()
        ));
        let same =
            theirs.stdout == mine.stdout && theirs.stderr == mine.stderr && theirs.code() == mine.code();
        holds(same, format!("{verb} of an unknown unit: real {theirs} ours {mine}"))?;
    }
    let status = ours(&["status", "kubelet"])?;
    wants(&status, "Loaded: loaded")?;
    wants(&status, "Active: active (running)")?;
    exits(&status, 0)?;
    node.sh("systemctl stop probe; rm /run/systemd/system/probe.service; systemctl daemon-reload")?;
    cluster.converge(Duration::from_secs(120)).map(drop)
}
