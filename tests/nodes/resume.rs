//! An init that was killed at the border of a phase is completed by running it again.

use std::time::Duration;

use crate::Listed;
use crate::cluster::Cluster;
use crate::world::{Bare, Check, IGNORED, World, exits, holds, kubeadm, note};

pub(crate) const TESTS: &[Listed] = &[
    ("resume::after_a_kill_behind_each_of_the_seven_phases", after_a_kill_behind_each_phase),
    ("resume::f19_a_manifest_that_a_power_cut_took_is_written_again", f19_manifests_are_lost),
    ("resume::f19_keys_that_a_power_cut_took_are_made_again", f19_keys_are_lost),
];

const PHASES: [&str; 7] = ["preflight", "host", "configure", "namespace", "cluster", "publish", "enable"];

/// F18: the run is killed behind each phase in turn, and each next run goes on from there; the end is a clean run's.
fn after_a_kill_behind_each_phase(world: &World) -> Check {
    let lan = world.lan()?;
    let bare = Bare::new(&lan, "n2")?;
    log_systemctl(&bare)?;
    for phase in PHASES {
        let run = kubeadm(&bare.node, &["init", IGNORED]).env("U7S_FAILPOINT", phase).run()?;
        note(format!("killed behind {phase}: {:?}", run.status));
        holds(run.code() != Some(0), format!("the failpoint behind {phase} did not end it: {run}"))?;
    }
    let run = kubeadm(&bare.node, &["init", IGNORED]).run()?;
    exits(&run, 0)?;
    let cluster = Cluster { bare, init: run, took: Duration::ZERO, parts: Vec::new() };
    cluster.converge(Duration::from_secs(180))?;
    let reset = kubeadm(cluster.node(), &["reset", "--force"]).run()?;
    exits(&reset, 0)?;
    compare_systemctl_calls(&cluster)?;
    let changes = cluster.bare.before.diff(&cluster.node().snapshot()?);
    holds(changes.is_empty(), format!("left behind: {changes:#?}"))
}

/// A power cut took the text of manifests, and init the empty files. The API server answers without the controller manager's:
/// it is written again all the same. The API server itself is started by nobody before that: it is not waited for.
fn f19_manifests_are_lost(world: &World) -> Check {
    let lan = world.lan()?;
    let bare = Bare::new(&lan, "n2")?;
    let cut_short = || -> Check {
        let run = kubeadm(&bare.node, &["init", IGNORED]).env("U7S_FAILPOINT", "cluster").run()?;
        holds(run.code() != Some(0), format!("the failpoint did not end it: {run}"))
    };
    let manifests = "/etc/kubernetes/manifests";
    cut_short()?;
    bare.node.sh(&format!("rm {manifests}/kube-controller-manager.yaml"))?;
    cut_short()?;
    bare.node.sh(&format!("test -s {manifests}/kube-controller-manager.yaml"))?;
    bare.node.sh(&format!("systemctl stop u7s && rm {manifests}/kube-apiserver.yaml"))?;
    let run = kubeadm(&bare.node, &["init", IGNORED, "--output", "json"]).run()?;
    exits(&run, 0)?;
    let mut lines = run.stdout.lines().chain(run.stderr.lines());
    let waited = lines.find(|line| line.contains("API server of the existing"));
    holds(waited.is_none(), format!("{waited:?}"))?;
    let cluster = Cluster { bare, init: run, took: Duration::ZERO, parts: Vec::new() };
    cluster.converge(Duration::from_secs(180)).map(drop)
}

/// A power cut left keys and certificates without content. kubeadm takes the other half of a pair for an administrator's: it
/// fails, or leaves a control plane that does not start. The cluster had answered already, so its etcd knows the former authority.
fn f19_keys_are_lost(world: &World) -> Check {
    let lan = world.lan()?;
    let bare = Bare::new(&lan, "n2")?;
    let run = kubeadm(&bare.node, &["init", IGNORED]).env("U7S_FAILPOINT", "cluster").run()?;
    holds(run.code() != Some(0), format!("the failpoint did not end it: {run}"))?;
    for (lost, stays) in [
        ("sa.pub etcd/server.key front-proxy-ca.key", "ca.key etcd/ca.key apiserver.crt etcd/peer.crt"),
        ("ca.key", "etcd/ca.key etcd/server.crt front-proxy-ca.crt sa.key"),
    ] {
        let sums = format!("cd /etc/kubernetes/pki && sha256sum {stays}");
        let before = bare.node.sh(&sums)?;
        let mark = "echo another-boot > /var/lib/u7s/unsynced";
        bare.node
            .sh(&format!("systemctl stop u7s && cd /etc/kubernetes/pki && truncate -s 0 {lost} && {mark}"))?;
        // kubeadm has its control plane when it comes to the border.
        let run = kubeadm(&bare.node, &["init", IGNORED]).env("U7S_FAILPOINT", "publish").run()?;
        holds(run.code().is_none_or(|code| code == 137), format!("without {lost}: {run}"))?;
        bare.node.sh(&format!("cd /etc/kubernetes/pki && for f in {lost}; do test -s $f; done"))?;
        let after = bare.node.sh(&sums)?;
        holds(after == before, format!("made again without need: {before}, now {after}"))?;
    }
    let run = kubeadm(&bare.node, &["init", IGNORED]).run()?;
    exits(&run, 0)?;
    let cluster = Cluster { bare, init: run, took: Duration::ZERO, parts: Vec::new() };
    cluster.converge(Duration::from_secs(180)).map(drop)
}

/// Every call of systemctl that kubeadm 1.34 makes in init and reset; what the shim must answer.
///
/// Source: kubernetes, cmd/kubeadm/app/util/initsystem/initsystem_unix.go, and this test's own log.
const CALLS: [&str; 8] = [
    "daemon-reload",
    "is-active firewalld",
    "is-active systemd-resolved",
    "is-enabled kubelet",
    "restart kubelet",
    "status firewalld",
    "status kubelet",
    "stop kubelet",
];

/// Puts a logger in front of the shim: what it hears goes to a file inside, then the real shim answers.
fn log_systemctl(bare: &Bare) -> Check {
    let logger =
        "#!/bin/sh\necho \"$*\" >> /srv/systemctl.log\nexec /usr/libexec/u7s/systemctl-shim \"$@\"\n";
    bare.node.sh("mv /usr/libexec/u7s/bin/systemctl /usr/libexec/u7s/systemctl-shim; touch /srv/systemctl.log; chmod 666 /srv/systemctl.log")?;
    bare.node.write("/usr/libexec/u7s/bin/systemctl", logger)?;
    bare.node.sh("chmod 755 /usr/libexec/u7s/bin/systemctl").map(drop)?;
    Ok(())
}

/// A call that is not in the table is one that nobody thought of.
fn compare_systemctl_calls(cluster: &Cluster) -> Check {
    let log = cluster.node().read("/srv/systemctl.log")?;
    cluster
        .node()
        .sh("mv /usr/libexec/u7s/systemctl-shim /usr/libexec/u7s/bin/systemctl; rm /srv/systemctl.log")?;
    let mut calls: Vec<&str> = log.lines().map(|line| line.trim_end_matches(".service")).collect();
    calls.sort_unstable();
    calls.dedup();
    note(format!("kubeadm's calls of systemctl: {calls:?}"));
    holds(calls == CALLS, format!("kubeadm calls systemctl as nobody thought of: {calls:?}"))
}
