//! Reboots and power cuts of a node that runs (F19, F20).

use std::time::{Duration, Instant};

use u7s_vm::Vm;

use crate::Listed;
use crate::world::{Check, Cluster, SOON, World, holds, note};

pub(crate) const TESTS: &[Listed] = &[("power::f20_three_reboots", |world| reboots(world, 3))];

/// More of the same.
pub(crate) const LONG: &[Listed] = &[
    ("power::f19_a_power_cut_under_load", f19_a_power_cut_under_load),
    ("power::f20_twenty_reboots", |world| reboots(world, 20)),
];

/// What listens on the host for the node.
fn ports(cluster: &Cluster) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let mut ports: Vec<String> = cluster
        .vm
        .sh("ss -Hltn | awk '{ print $4 }'")?
        .lines()
        .filter(|address| !address.starts_with("127."))
        .map(String::from)
        .collect();
    ports.sort();
    Ok(ports)
}

/// Names and uids of all pods.
fn pods(cluster: &Cluster) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let path = "jsonpath={range .items[*]}{.metadata.name} {.metadata.uid}{\"\\n\"}{end}";
    let mut pods: Vec<String> =
        cluster.kubectl(&["get", "pods", "-A", "-o", path])?.lines().map(String::from).collect();
    pods.sort();
    Ok(pods)
}

/// Nobody does anything: the node must be Ready with the same pods and the same ports.
fn reboots(world: &World, count: usize) -> Check {
    let mut cluster = world.cluster()?;
    let (pods_before, ports_before) = (pods(&cluster)?, ports(&cluster)?);
    for number in 1..=count {
        let begin = Instant::now();
        let boot = cluster.vm.ok(&["cat", "/proc/sys/kernel/random/boot_id"])?;
        let (off, on) = cluster.vm.reboot()?;
        fresh(&cluster, &boot)?;
        cluster.converge()?;
        note(format!(
            "{number}: off after {:.0} s, agent after {:.0} s more, all Ready {:.0} s after the command",
            off.as_secs_f64(),
            on.as_secs_f64(),
            begin.elapsed().as_secs_f64()
        ));
        let (pods_now, ports_now) = (pods(&cluster)?, ports(&cluster)?);
        holds(pods_now == pods_before, format!("other pods: {pods_before:?}, now {pods_now:?}"))?;
        holds(ports_now == ports_before, format!("other ports: {ports_before:?}, now {ports_now:?}"))?;
    }
    Ok(())
}

fn fresh(cluster: &Cluster, before: &str) -> Check {
    let now = cluster.vm.ok(&["cat", "/proc/sys/kernel/random/boot_id"])?;
    holds(now != before, "it is the same boot")
}

/// Our files.
pub(crate) const OURS: &str = "/etc/u7s /var/lib/u7s /root/.kube /var/lib/u7s-admin/node/*.json";

/// Ours and kubeadm's.
pub(crate) const ALL: &str =
    "/etc/u7s /var/lib/u7s /root/.kube /var/lib/u7s-admin/node/*.json /etc/kubernetes";

/// No file is empty or holds NUL, as file systems leave what was not synced. The sibling that a file is written to before
/// it is renamed is nobody's, and goes when that file is written again.
pub(crate) fn whole(vm: &Vm, places: &str) -> Check {
    let script = format!(
        r#"find {places} -path /var/lib/u7s/images -prune -o -type f -print 2>/dev/null | while read -r file; do
            case $file in */audit.log|*/cache/*|*.u7s-new) continue ;; *.tmp|*.part|*.new|*/.tmp*) echo "half-written: $file" ;; esac
            [ -s "$file" ] || {{ echo "empty: $file"; continue; }}
            tr -d '\0' < "$file" | cmp -s - "$file" || echo "NUL in: $file"
        done"#
    );
    let bad = vm.sh(&script)?;
    holds(bad.is_empty(), format!("after a power cut: {bad}"))
}

fn f19_a_power_cut_under_load(world: &World) -> Check {
    let mut cluster = world.cluster()?;
    let pods_before = pods(&cluster)?;
    let write = "i=0; while :; do i=$((i+1)); kubectl create configmap load-$i --from-literal=a=b >/dev/null 2>&1; done";
    let load = cluster.vm.spawn(&["sh", "-c", write])?;
    cluster.vm.until(SOON, "load that has written something", |_| {
        let seen = cluster.kubectl(&["get", "configmap", "load-3", "-o", "name"]);
        seen.map(drop).map_err(|error| error.to_string())
    })?;
    cluster.vm.power_cut()?;
    drop(load);
    let begin = Instant::now();
    let on = cluster.vm.boot()?;
    let files = whole(&cluster.vm, ALL);
    cluster.converge()?;
    note(format!(
        "agent after {:.0} s, all Ready after {:.0} s",
        on.as_secs_f64(),
        begin.elapsed().as_secs_f64()
    ));
    files?;
    let pods_now = pods(&cluster)?;
    holds(pods_now == pods_before, format!("other pods: {pods_before:?}, now {pods_now:?}"))?;
    let count = cluster.kubectl(&["get", "configmap", "-o", "name"])?;
    let written = count.lines().filter(|line| line.contains("load-")).count();
    note(format!("{written} objects of the load were kept"));
    holds(written >= 3, "what etcd had acknowledged is gone")?;
    cluster
        .vm
        .command(&["sh", "-c", "kubectl delete $(kubectl get configmap -o name | grep load-)"])
        .within(cluster.vm.speed().scale(Duration::from_secs(60)))
        .ok()?;
    Ok(())
}
