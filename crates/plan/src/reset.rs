//! `kubeadm reset` as a plan: the real reset inside, the end of everything that lives of the node, then everything that `init` wrote.
//!
//! Whoever broke out of a pod may have all ids of the node, and what it had: so nothing is taken away that holds it before it is
//! dead, the nft table last of all, and nothing of it stays in a directory that is root's again.
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

/// What kubeadm makes in /etc/kubernetes, and our audit policy and log: each goes with all it holds.
///
/// Source: kubernetes, cmd/kubeadm/app/cmd/phases/reset/cleanupnode.go, `resetConfigDir`.
const KUBERNETES_NAMES: [&str; 10] = [
    "manifests",
    "pki",
    "tmp",
    "audit",
    "admin.conf",
    "super-admin.conf",
    "kubelet.conf",
    "bootstrap-kubelet.conf",
    "controller-manager.conf",
    "scheduler.conf",
];

/// Where cron and at keep the jobs of users.
///
/// Source: cron(8) of Debian, of cronie, of busybox; at(1); openSUSE's and Fedora's packages.
const JOBS: [&str; 9] = [
    "/var/spool/cron",
    "/var/spool/cron/crontabs",
    "/var/spool/cron/tabs",
    "/var/spool/cron/atjobs",
    "/var/spool/cron/atspool",
    "/var/spool/at",
    "/var/spool/at/spool",
    "/var/spool/atjobs",
    "/var/spool/atspool",
];

/// Directories of the host in which every user may leave something.
const SHARED: [&str; 5] = ["/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock"];

/// How long what was asked to end beside the unit has, seconds.
const SESSIONS: u64 = 10;

/// How long killed processes have to be gone, seconds.
const PROCESSES: u64 = 20;

/// Plans `kubeadm reset`.
///
/// Shape: every step is tried, errors are collected. Each holds when there is nothing left to do, so that a second reset changes
/// nothing. The question "are you sure" was asked before: the real kubeadm gets `--force`.
///
/// The real reset runs only while the unit is active, or comes back from a kill; without it nothing of the cluster runs, and the files go all the same.
/// Root removes the files, once nothing lives that has one of the node's ids: subordinate ids own some, which the node's user could
/// not remove. A step that ends processes and fails ends the whole reset.
#[must_use]
pub fn reset(config: &Config, request: &request::Reset, facts: &Facts) -> Plan {
    let home = facts.user.as_ref().map_or_else(|| host::HOME.into(), |user| user.home.clone());
    let mut plan = Plan::default();
    plan.push(Phase::Enable, vec![disable()]);
    plan.push(Phase::Cluster, cluster(config, request, facts));
    plan.push(Phase::Namespace, end(config, facts));
    plan.push(Phase::Publish, unpublish(&home));
    plan.push(Phase::Configure, configure(facts, &home));
    plan.push(Phase::Host, host_steps(config, facts));
    plan
}

fn host_steps(config: &Config, facts: &Facts) -> Vec<Step> {
    let mut steps = Vec::new();
    if facts.user.is_some() {
        steps.push(end_processes(config));
        steps.push(Step::root(owned(&SHARED), "the node could leave something there"));
    }
    steps.extend([
        Step::root(Action::RemoveFirewall, "nothing is left whose traffic it bounds"),
        Step::root(Action::RemoveFile { path: timings::PATH.into() }, "written by init"),
        Step::root(
            Action::RemoveFile { path: host::UNSYNCED.into() },
            "nothing is left to be brought to disk",
        ),
        Step::root(Action::RestoreHost, "the host is as it was before init"),
    ]);
    steps
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

/// What lives of the node, in the unit and beside it.
fn end(config: &Config, facts: &Facts) -> Vec<Step> {
    let seconds = 120 * u64::from(config.timeout_factor);
    let stop = |unit: &str| Action::StopUnit { unit: unit.into(), seconds };
    let mut steps = vec![
        Step::root(stop(host::UNIT), "ends the namespaces and all in them"),
        Step::root(stop(host::STOP_UNIT), "it bounds the stop of the former"),
    ];
    if facts.user.is_some() {
        let user = || host::USER.to_owned();
        let sessions =
            Action::EndSessions { user: user(), seconds: SESSIONS * u64::from(config.timeout_factor) };
        let unmount = Action::Unmount { user: user(), path: host::RUN_DIR.into() };
        steps.extend([
            Step::root(owned(&JOBS), "cron and at would start something of the node again"),
            Step::root(sessions, "what broke out of a pod may have begun some"),
            end_processes(config),
            Step::root(unmount, "it was the node's"),
        ]);
    }
    steps
}

fn end_processes(config: &Config) -> Step {
    let seconds = PROCESSES * u64::from(config.timeout_factor);
    let action = Action::EndProcesses { user: host::USER.into(), seconds };
    Step::root(action, "nothing of the node may outlive its bounds")
}

fn owned(dirs: &[&str]) -> Action {
    Action::RemoveOwned { user: host::USER.into(), dirs: dirs.iter().map(PathBuf::from).collect() }
}

fn configure(facts: &Facts, home: &Path) -> Vec<Step> {
    let mut steps = Vec::new();
    if facts.user.is_some() {
        steps.push(clear(host::KUBERNETES_DIR, &KUBERNETES_NAMES, "of the cluster that goes"));
        steps.push(if home == Path::new(host::HOME) {
            clear(home, &["node"], "containers, images, etcd, logs of the node")
        } else {
            // A home that an administrator chose may hold more than a node.
            Step::root(tree(host::tree(home), false), "containers, images, etcd, logs of the node")
        });
    }
    let files = [node::PATH, crio::PATH, crio::STORAGE_PATH, crio::POLICY_PATH];
    steps.extend(files.map(|path| Step::root(Action::RemoveFile { path: path.into() }, "written by init")));
    steps.push(Step::root(tree(host::PATCHES_DIR, true), "written by init"));
    steps
}

fn clear(path: impl Into<PathBuf>, names: &[&str], why: &'static str) -> Step {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    Step::root(Action::ClearDir { path: path.into(), names }, why)
}

fn tree(path: impl Into<PathBuf>, keep_root: bool) -> Action {
    Action::RemoveTree { path: path.into(), keep_root }
}
