//! docs/operations.md: its commands, as they stand there, on a node with a running cluster.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::Listed;
use crate::cluster::Cluster;
use crate::world::{Check, SHIMS, World, holds, note};

pub(crate) const TESTS: &[Listed] = &[
    ("operations::certificates_are_renewed_and_used", certificates_are_renewed_and_used),
    ("operations::a_snapshot_of_etcd_and_the_configuration", a_snapshot_of_etcd_and_the_configuration),
    ("operations::a_backup_is_restored", a_backup_is_restored),
];

/// How long a control plane needs to come up again.
const UP: Duration = Duration::from_secs(240);

/// The n-th block of commands in a section of the page.
fn commands(section: &str, number: usize) -> Result<String, Box<dyn std::error::Error>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let text = std::fs::read_to_string(path)?;
    let (_, after) = text.split_once(&format!("\n## {section}\n")).ok_or("no such section")?;
    let section = after.split("\n## ").next().unwrap_or_default();
    let block = section.split("```").skip(1).step_by(2).nth(number).ok_or("no such block")?;
    Ok(block.trim().to_owned())
}

fn typed(cluster: &Cluster, script: &str) -> Result<String, Box<dyn std::error::Error>> {
    note(script);
    // Its cache is kubectl's own.
    let script = format!("set -e; export PATH={SHIMS}:$PATH KUBECONFIG=/root/.kube/config\n{script}");
    let command = cluster.node().command(&["sh", "-c", &script]).env("KUBECACHEDIR", "/dev/shm/kubectl");
    Ok(command.within(UP).ok()?)
}

/// End of the API server's certificate, as a client is shown it.
fn served(cluster: &Cluster) -> Result<String, Box<dyn std::error::Error>> {
    let ip = cluster.node().ip();
    let script = format!(
        "echo | openssl s_client -connect {ip}:6443 2>/dev/null | openssl x509 -noout -serial || true"
    );
    Ok(cluster.node().sh(&script)?.trim().to_owned())
}

fn certificates_are_renewed_and_used(world: &World) -> Check {
    let cluster = world.cluster()?;
    cluster.converge(UP)?;
    let before = served(&cluster)?;
    holds(before.starts_with("serial="), format!("no certificate is served: {before}"))?;
    let said = typed(&cluster, &commands("Certificates", 0)?)?;
    holds(said.contains("apiserver-kubelet-client"), said)?;
    typed(&cluster, &commands("Certificates", 1)?)?;
    let now = cluster.node().until(UP, "another certificate of the API server", |_| {
        let now = served(&cluster).map_err(|error| error.to_string())?;
        if now.starts_with("serial=") && now != before { Ok(now) } else { Err(now) }
    })?;
    note(format!("{before} became {now}"));
    cluster.converge(UP)?;
    Ok(())
}

fn a_snapshot_of_etcd_and_the_configuration(world: &World) -> Check {
    let cluster = world.cluster()?;
    cluster.converge(UP)?;
    typed(&cluster, &commands("Backup and restore", 0)?)?;
    let files = cluster.node().sh(
        "stat -c '%n %s %u' /root/snapshot.db /root/kubernetes.tar.gz; ls /var/lib/u7s-admin/node/etcd",
    )?;
    note(&files);
    let size = |name: &str| {
        let line = files.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split(' ').nth(1)).and_then(|size| size.parse::<u64>().ok()).unwrap_or(0)
    };
    holds(size("/root/snapshot.db") > 100_000 && size("/root/kubernetes.tar.gz") > 10_000, files.clone())
}

/// What was made after the backup is gone, what was there before is back, and pods run.
fn a_backup_is_restored(world: &World) -> Check {
    let cluster = world.cluster()?;
    cluster.converge(UP)?;
    cluster.kubectl(&["create", "configmap", "before-backup"])?;
    typed(&cluster, &commands("Backup and restore", 1)?)?;
    cluster.converge(UP)?;
    cluster.kubectl(&["create", "configmap", "after-backup"])?;
    cluster.kubectl(&["delete", "configmap", "before-backup"])?;
    typed(&cluster, &commands("Backup and restore", 2)?)?;
    cluster.converge(UP)?;
    let list: Value = cluster.json(&["get", "configmaps"])?;
    let names: Vec<&str> = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|it| it["metadata"]["name"].as_str())
        .collect();
    note(format!("ConfigMaps: {names:?}"));
    holds(names.contains(&"before-backup") && !names.contains(&"after-backup"), format!("{names:?}"))?;
    cluster.kubectl(&["delete", "configmap", "before-backup"])?;
    Ok(())
}
