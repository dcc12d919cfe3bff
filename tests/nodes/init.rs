//! The README's first command, and what stands after it.

use std::time::Duration;

use serde_json::Value;

use crate::Listed;
use crate::world::{Check, IGNORED, SHIMS, World, exits, holds, kubeadm, note, wants};

pub(crate) const TESTS: &[Listed] = &[
    ("init::exits_0_and_prints_its_parts", exits_0_and_prints_its_parts),
    ("init::timings_show_what_the_run_spent_its_time_on", timings_show_what_the_run_spent_its_time_on),
    ("init::node_and_all_pods_become_ready", node_and_all_pods_become_ready),
    ("init::programs_are_those_that_the_kit_built", programs_are_those_that_the_kit_built),
    ("init::dry_run_and_u7s_plan_print_the_same", dry_run_and_u7s_plan_print_the_same),
    ("init::a_second_init_changes_nothing", a_second_init_changes_nothing),
    ("init::hardened_from_the_start", hardened_from_the_start),
];

fn exits_0_and_prints_its_parts(world: &World) -> Check {
    let cluster = world.cluster()?;
    exits(&cluster.init, 0)?;
    note(format!("whole init: {:.1} s", cluster.took.as_secs_f64()));
    let ends = cluster.parts.iter().skip(1).map(|(_, begin)| *begin).chain([cluster.took]);
    for ((name, begin), end) in cluster.parts.iter().zip(ends) {
        note(format!(
            "  {name:<22} at {:6.2} s for {:5.2} s",
            begin.as_secs_f64(),
            (end - *begin).as_secs_f64()
        ));
    }
    let status = cluster.status()?;
    let timing = |key: &str| Duration::from_micros(status["timings"][key].as_u64().unwrap_or(0));
    for (part, key) in
        [("namespace", "namespace_us"), ("mounts", "mounts_us"), ("network", "network_us"), ("CRI", "cri_us")]
    {
        note(format!("u7s.service start to {part}: {:.1} ms", timing(key).as_secs_f64() * 1e3));
        holds(timing(key) > Duration::ZERO, format!("no timing for {part}: {status}"))?;
    }
    note(format!("this node is degraded, openly: {IGNORED}; {}", status["degraded"]));
    Ok(())
}

/// The sum of the parts is the whole, and the whole is what a clock outside saw.
fn timings_show_what_the_run_spent_its_time_on(world: &World) -> Check {
    let cluster = world.cluster()?;
    let table = cluster.node().ok(&["u7s", "timings"])?;
    note(&table);
    for part in
        ["preflight", "u7s.service", "namespaces", "CRI", "images", "certs", "addons", "publish", "whole"]
    {
        holds(table.lines().any(|line| line.trim_start().starts_with(part)), format!("no line {part}"))?;
    }
    let run: Value = serde_json::from_str(&cluster.node().ok(&["u7s", "timings", "-o", "json"])?)?;
    let us = |part: &Value, key: &str| part[key].as_u64().unwrap_or(0);
    let phases = run["parts"].as_array().cloned().unwrap_or_default();
    let names: Vec<&str> = phases.iter().filter_map(|part| part["name"].as_str()).collect();
    let all = ["preflight", "host", "configure", "namespace", "cluster", "publish", "enable"];
    holds(names == all, format!("the phases are {names:?}"))?;
    let (whole, sum) = (us(&run, "took_us"), phases.iter().map(|part| us(part, "took_us")).sum::<u64>());
    holds(whole.abs_diff(sum) < 10_000, format!("the phases take {sum} us of {whole} us"))?;
    let seen = u64::try_from(cluster.took.as_micros())?;
    holds(whole < seen && seen - whole < 1_000_000, format!("{whole} us, and from outside {seen} us"))?;
    let file = cluster.node().ok(&["stat", "-c", "%a %u %g", "/var/lib/u7s/timings.json"])?;
    holds(file == "644 0 0", file)?;
    wants(&cluster.init, "u7s timings")
}

fn node_and_all_pods_become_ready(world: &World) -> Check {
    let cluster = world.cluster()?;
    let took = cluster.converge(Duration::from_secs(180))?;
    note(format!("all Ready {:.1} s after init", took.as_secs_f64()));
    note(cluster.kubectl(&["get", "nodes,pods", "-A", "-o", "wide"])?);
    Ok(())
}

fn programs_are_those_that_the_kit_built(world: &World) -> Check {
    let cluster = world.cluster()?;
    let lan = world.lan()?;
    let kit = lan.kit();
    for name in ["kubeadm", "kubelet", "crio"] {
        let seen = cluster.node().ok(&["sha256sum", &format!("/usr/bin/{name}")])?;
        let built = kit.sha256(name).ok_or("the kit has no such program")?;
        note(format!("{name} {built}"));
        holds(seen.starts_with(built), format!("{name}: {seen} is not {built}"))?;
    }
    // And those are what runs: the kubelet's own executable, seen from outside.
    let exe = cluster.node().sh("sha256sum /proc/$(pgrep -x kubelet)/exe")?;
    holds(exe.starts_with(kit.sha256("kubelet").unwrap_or("?")), format!("the running kubelet is {exe}"))
}

fn dry_run_and_u7s_plan_print_the_same(world: &World) -> Check {
    let bare = world.bare()?;
    let dry = kubeadm(&bare.node, &["init", "--dry-run", IGNORED]).run()?;
    let plan = bare.node.command(&["u7s", "plan", "init", IGNORED]).run()?;
    exits(&dry, 0)?;
    exits(&plan, 0)?;
    holds(dry.stdout == plan.stdout, format!("they differ:\n{}\n---\n{}", dry.stdout, plan.stdout))?;
    holds(dry.stdout.contains("/etc/u7s/node.json"), format!("no plan: {dry}"))?;
    let after = bare.node.snapshot()?;
    let changes = bare.before.diff(&after);
    holds(changes.is_empty(), format!("a dry run changed: {changes:#?}"))
}

fn a_second_init_changes_nothing(world: &World) -> Check {
    let cluster = world.cluster()?;
    cluster.converge(Duration::from_secs(120))?;
    let pids = |cluster: &crate::cluster::Cluster| {
        let mut pids: Vec<i32> = cluster.node().processes().iter().map(|process| process.pid).collect();
        pids.sort_unstable();
        pids
    };
    let config = || {
        cluster.node().sh("find /etc/kubernetes /etc/u7s /var/lib/u7s/timings.json /root/.kube -type f ! -path '*/audit/audit*' -exec sha256sum {} + -exec stat -c '%n %a %u %g %Y' {} + | sort")
    };
    let (files, processes) = (config()?, pids(&cluster));
    let again = kubeadm(cluster.node(), &["init", IGNORED]).run()?;
    exits(&again, 0)?;
    holds(config()? == files, "files changed")?;
    let gone: Vec<i32> = processes.into_iter().filter(|pid| !pids(&cluster).contains(pid)).collect();
    note(format!("processes that ended meanwhile (none of ours may): {gone:?}"));
    wants(&again, "nothing to do")
}

/// hardening.md §3, those of the first init: read back from the running parts, not from files.
fn hardened_from_the_start(world: &World) -> Check {
    let cluster = world.cluster()?;
    cluster.converge(Duration::from_secs(120))?;
    let config = cluster.kubectl(&["get", "--raw", "/api/v1/nodes/n1/proxy/configz"])?;
    let config: Value = serde_json::from_str(&config)?;
    let kubelet = &config["kubeletconfig"];
    holds(kubelet["seccompDefault"] == true, format!("seccompDefault: {kubelet}"))?;
    holds(kubelet["authentication"]["anonymous"]["enabled"] == false, "anonymous access is on")?;
    holds(kubelet["readOnlyPort"].as_u64().unwrap_or(0) == 0, "the read-only port is on")?;
    let ip = cluster.node().ip();
    let anonymous = cluster.bare.client.exec(&[
        "curl",
        "-sk",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        &format!("https://{ip}:10250/pods"),
    ])?;
    holds(anonymous.stdout == "401", format!("S44: an anonymous request to the kubelet: {anonymous}"))?;
    let shown = cluster.kubectl(&["-n", "kube-system", "get", "cm", "kubelet-config", "-o", "yaml"])?;
    holds(!shown.contains("KubeletInUserNamespace"), "rootless settings are in the cluster's ConfigMap")?;
    note(format!("shims used: {SHIMS}"));
    Ok(())
}
