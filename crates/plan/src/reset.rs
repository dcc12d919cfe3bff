//! `kubeadm reset` as a plan: the real reset inside, then everything that `init` wrote, from the last phase to the first.
//!
//! What was there before init stays: the administrator's configuration, images in /var/lib/u7s, packaged files, and the user with
//! its subordinate ids unless phase Host made them, which undo.json knows.

use std::path::{Path, PathBuf};

use secrecy::SecretString;

use crate::config::Config;
use crate::crio;
use crate::facts::Facts;
use crate::host;
use crate::node;
use crate::request;
use crate::step::{Action, Owner, Phase, Plan, Step};
use crate::timings;

/// Files that kubeadm makes in /etc/kubernetes.
///
/// Source: kubernetes, cmd/kubeadm/app/cmd/phases/reset/cleanupnode.go, `resetConfigDir`.
const KUBERNETES_FILES: [&str; 6] = [
    "admin.conf",
    "super-admin.conf",
    "kubelet.conf",
    "bootstrap-kubelet.conf",
    "controller-manager.conf",
    "scheduler.conf",
];

/// Directories there that are kubeadm's or ours with all they hold.
const KUBERNETES_TREES: [&str; 3] = ["pki", "tmp", "audit"];

/// Plans `kubeadm reset`.
///
/// Shape: every step is tried, errors are collected. Each holds when there is nothing left to do, so that a second reset changes
/// nothing. The question "are you sure" was asked before: the real kubeadm gets `--force`.
///
/// The real reset runs only while the unit is active, or comes back from a kill; without it nothing of the cluster runs, and the files go all the same.
/// Files in /etc/kubernetes are removed by their owner, the node's user. The node's tree holds what subordinate ids own, so root
/// removes it, once the unit is down and nobody can move things under it.
#[must_use]
pub fn reset(config: &Config, request: &request::Reset, facts: &Facts) -> Plan {
    let home = facts.user.as_ref().map_or_else(|| host::HOME.into(), |user| user.home.clone());
    let mut plan = Plan::default();
    plan.push(Phase::Enable, vec![disable()]);
    plan.push(Phase::Publish, unpublish(&home));
    plan.push(Phase::Cluster, cluster(config, request, facts));
    plan.push(Phase::Namespace, vec![stop(config)]);
    plan.push(Phase::Configure, configure(facts, &home));
    plan.push(Phase::Host, host_steps());
    plan
}

fn host_steps() -> Vec<Step> {
    vec![
        Step::root(Action::RemoveFirewall, "nothing is left whose traffic it bounds"),
        Step::root(Action::RemoveFile { path: timings::PATH.into() }, "written by init"),
        Step::root(
            Action::RemoveFile { path: host::UNSYNCED.into() },
            "nothing is left to be brought to disk",
        ),
        Step::root(Action::RestoreHost, "the host is as it was before init"),
    ]
}

fn disable() -> Step {
    Step::root(Action::DisableUnit { unit: host::UNIT.into() }, "no node starts with the host")
}

fn unpublish(home: &Path) -> Vec<Step> {
    let [root, user] = host::kubeconfigs(home);
    let action = |path, owner| Action::UnpublishKubeconfig { path, owner };
    vec![
        Step::root(action(root, Owner::Root), "it leads to the cluster that goes"),
        Step::user(action(user, Owner::Node), "it leads to the cluster that goes"),
    ]
}

fn cluster(config: &Config, request: &request::Reset, facts: &Facts) -> Vec<Step> {
    let mut steps = match facts.unit.active.as_str() {
        "active" => Vec::new(),
        "activating" if facts.unit.result != GAVE_UP => vec![wait(config)],
        _ => return Vec::new(),
    };
    let kubeadm = facts.programs.get("kubeadm").cloned().flatten().unwrap_or_else(|| host::KUBEADM.into());
    let mut argv = vec![kubeadm.display().to_string(), "reset".into()];
    argv.extend(request.pass_flags.iter().filter(|flag| !is_force(flag)).cloned());
    // kubeadm takes no --force beside a configuration, which has a field for it.
    let document = request.document.clone().map(|mut document| {
        document.as_object_mut().map(|fields| fields.insert("force".into(), true.into()));
        SecretString::from(format!("{document:#}\n"))
    });
    argv.push(if document.is_some() { "--config={config}" } else { "--force" }.into());
    let seconds = 600 * u64::from(config.timeout_factor);
    let run = Action::Run {
        argv,
        config: document,
        documents: Vec::new(),
        secrets: Vec::new(),
        done_when: None,
        seconds,
    };
    // A join that is killed has announced its member before it writes the manifest.
    if facts.cluster.admin_conf || facts.cluster.manifests.iter().any(|name| name == "etcd.yaml") {
        steps.push(Step::inside(Action::LeaveEtcd, "a dead member would count against the others' quorum"));
    }
    steps.push(Step::inside(run, "leaves the cluster, ends its pods"));
    steps
}

/// `Result` of a unit whose process gave up by itself: each further start would end like that.
///
/// Source: systemd.exec(5), `$SERVICE_RESULT`.
const GAVE_UP: &str = "exit-code";

/// A unit that was killed is started again by systemd after a second: until then the node could not leave its cluster.
fn wait(config: &Config) -> Step {
    let seconds = 200 * u64::from(config.timeout_factor);
    let start = Action::StartUnit { unit: host::UNIT.into(), follows: Vec::new(), seconds };
    Step::root(start, "it was killed and comes back; the node leaves its cluster from inside")
}

fn is_force(flag: &str) -> bool {
    flag == "-f" || flag == "--force" || flag.starts_with("--force=")
}

fn stop(config: &Config) -> Step {
    let seconds = 120 * u64::from(config.timeout_factor);
    Step::root(Action::StopUnit { unit: host::UNIT.into(), seconds }, "ends the namespaces and all in them")
}

fn configure(facts: &Facts, home: &Path) -> Vec<Step> {
    let mut steps = Vec::new();
    if facts.user.is_some() {
        steps.extend(kubernetes());
        steps.push(Step::root(tree(host::tree(home), false), "containers, images, etcd, logs of the node"));
    }
    let files = [node::PATH, crio::PATH, crio::STORAGE_PATH, crio::POLICY_PATH];
    steps.extend(files.map(|path| Step::root(Action::RemoveFile { path: path.into() }, "written by init")));
    steps.push(Step::root(tree(host::PATCHES_DIR, true), "written by init"));
    steps
}

fn kubernetes() -> Vec<Step> {
    let below = |name: &str| Path::new(host::KUBERNETES_DIR).join(name);
    let mut steps = vec![Step::user(tree(below("manifests"), true), "static pods of the control plane")];
    steps.extend(
        KUBERNETES_TREES.map(|name| Step::user(tree(below(name), false), "of the cluster that goes")),
    );
    steps.extend(
        KUBERNETES_FILES
            .map(|name| Step::user(Action::RemoveFile { path: below(name) }, "of the cluster that goes")),
    );
    steps
}

fn tree(path: impl Into<PathBuf>, keep_root: bool) -> Action {
    Action::RemoveTree { path: path.into(), keep_root }
}
