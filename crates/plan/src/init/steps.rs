//! The steps of `kubeadm init`.

use std::path::{Path, PathBuf};

use secrecy::SecretString;

use crate::audit;
use crate::cni;
use crate::config::{Cni, Config};
use crate::conntrack;
use crate::crio;
use crate::facts::Facts;
use crate::firewall;
use crate::flannel;
use crate::host;
use crate::kubeadm::{self, Output, Role};
use crate::node::{self, ComponentName, NodeSpec};
use crate::preflight;
use crate::step::{Action, Done, Owner, Phase, Plan, Step};
use crate::subid;

use super::{spec, torn};

/// Mode that lets every user open the tap device, as udev sets it on most hosts.
const TUN_MODE: u32 = 0o666;

/// The whole plan, phase by phase.
pub(super) fn plan(
    config: &Config,
    facts: &Facts,
    merged: &Output,
    with: (&NodeSpec, Option<SecretString>),
) -> Plan {
    let (node, discovery) = with;
    let mut plan = Plan::default();
    plan.push(Phase::Host, host_steps(config, facts, merged, node));
    let mut files = configure(config, facts, merged, node);
    let stays = facts.unit.active == "active" && facts.cluster.finished;
    if stays {
        files.iter_mut().for_each(keep);
    }
    plan.push(Phase::Configure, torn::begun(config, facts, node).into_iter().chain(files).collect());
    plan.push(Phase::Namespace, namespace(config, facts, stays));
    plan.push(Phase::Cluster, vec![cluster(config, facts, merged, discovery)]);
    if merged.role.api_port().is_some() {
        let mut published = publish(node);
        published.extend(cluster_network(config, facts, merged, node));
        plan.push(Phase::Publish, published);
    }
    plan.push(Phase::Enable, sync(config, facts, node).into_iter().chain(enable()).collect());
    plan
}

/// A change of /etc/hosts or of a flag must not end the pods of a finished node that runs: its files stay as they are.
fn keep(step: &mut Step) {
    let former = std::mem::replace(&mut step.action, Action::RestoreHost);
    step.action = match former {
        Action::WriteFile { path, mode, owner, text } => Action::Keep { path, mode, owner, text: Some(text) },
        Action::RemoveFile { path } => Action::Keep { path, mode: 0, owner: Owner::Root, text: None },
        other => other,
    };
}

/// What a reboot loses on the host: `u7s host-apply` applies it before every start of the unit.
///
/// Made from root's own data and facts only. `node` is what init wrote to [`crate::node::PATH`]; without it there is no node whose
/// traffic could be bounded.
#[must_use]
pub fn volatile(config: &Config, facts: &Facts, node: Option<&NodeSpec>) -> Plan {
    let mut steps = volatile_steps(facts);
    if node.is_some_and(|node| node.joined) {
        steps.extend(conntrack::steps(config, facts));
    }
    steps.extend(node.map(|node| firewall_step(config, facts, node, true)));
    let mut plan = Plan::default();
    plan.push(Phase::Host, steps);
    plan
}

/// Images from disk into the store of a node that runs: an upgrade asks for others than init did.
///
/// `preload` is [`Facts::preload`].
#[must_use]
pub fn images(preload: &[PathBuf]) -> Plan {
    let mut plan = Plan::default();
    plan.push(Phase::Namespace, load_steps(preload));
    plan
}

/// Before anything of the node runs: no packet of it leaves unjudged.
fn firewall_step(config: &Config, facts: &Facts, node: &NodeSpec, known: bool) -> Step {
    if !config.firewall.enabled {
        return Step::root(Action::RemoveFirewall, "switched off in the configuration");
    }
    let table = firewall::table(&config.firewall, node, facts, known);
    Step::root(Action::LoadFirewall { table }, "keeps pods from metadata services and from the host itself")
}

fn host_steps(config: &Config, facts: &Facts, merged: &Output, node: &NodeSpec) -> Vec<Step> {
    let mut steps = Vec::new();
    if facts.user.is_none() {
        steps.extend(user_steps(node));
    }
    steps.extend(volatile_steps(facts));
    if node.joined {
        steps.extend(conntrack::steps(config, facts));
    }
    steps.push(firewall_step(config, facts, node, facts.user.is_some()));
    steps.extend(target_steps(merged));
    steps.push(Step::root(
        Action::MakeDir { path: node.user.home.clone(), mode: 0o700, owner: Owner::Node, fit: false },
        "the home of the node's user",
    ));
    // The child before the parent: afterwards the parent is the user's, and root stays out of it.
    for (path, mode) in [("/etc/kubernetes/manifests", 0o700), (host::KUBERNETES_DIR, 0o755)] {
        steps.push(Step::root(
            Action::MakeDir { path: path.into(), mode, owner: Owner::Node, fit: true },
            "kubeadm writes here as the node's user",
        ));
    }
    steps
}

fn user_steps(node: &NodeSpec) -> [Step; 2] {
    let (name, home) = (node.user.name.clone(), node.user.home.clone());
    [
        Step::root(Action::CreateUser { name: name.clone(), home }, "owns the node"),
        Step::root(Action::AddSubids { user: name, count: subid::NEEDED }, "users inside images and pods"),
    ]
}

fn volatile_steps(facts: &Facts) -> Vec<Step> {
    let module =
        |name: &str| Step::root(Action::LoadModule { name: name.into() }, "cannot be loaded from inside");
    let mut steps: Vec<Step> = host::MODULES.into_iter().map(module).collect();
    steps.extend(preflight::low_limits(facts).into_iter().map(|(key, value)| {
        Step::root(
            Action::SetSysctl { key: key.into(), value: value.to_string() },
            "all of the node counts against one user",
        )
    }));
    if facts.devices.get(Path::new(host::TUN)).copied().flatten().is_some_and(|mode| mode & 0o006 != 0o006) {
        steps.push(Step::root(
            Action::SetDeviceMode { path: host::TUN.into(), mode: TUN_MODE },
            "the node makes its tap device",
        ));
    }
    steps
}

fn target_steps(merged: &Output) -> Vec<Step> {
    let mut targets: Vec<PathBuf> = host::TARGETS.into_iter().map(PathBuf::from).collect();
    let etcd = spec::etcd_target(merged);
    if !targets.contains(&etcd) {
        targets.push(etcd);
    }
    targets
        .into_iter()
        .map(|path| {
            Step::root(
                Action::MakeDir { path, mode: 0o755, owner: Owner::Root, fit: false },
                "the node needs it to exist",
            )
        })
        .collect()
}

fn configure(config: &Config, facts: &Facts, merged: &Output, node: &NodeSpec) -> Vec<Step> {
    let mut steps = root_files(config, facts, merged, node);
    steps.extend(patch_steps(facts, merged));
    if merged.audit {
        steps.push(Step::user(
            Action::MakeDir { path: kubeadm::AUDIT_DIR.into(), mode: 0o700, owner: Owner::Node, fit: true },
            "the API server's audit policy and log",
        ));
        steps.push(Step::user(
            write(audit::POLICY_PATH, 0o600, Owner::Node, audit::policy()),
            "what the API server audits",
        ));
    }
    steps.extend(cni_steps(config, merged, &host::tree(&node.user.home)));
    steps
}

fn root_files(config: &Config, facts: &Facts, merged: &Output, node: &NodeSpec) -> Vec<Step> {
    let directory = |path: &str, mode, owner| Action::MakeDir { path: path.into(), mode, owner, fit: true };
    let mut spec = serde_json::to_string_pretty(node).unwrap_or_default();
    spec.push('\n');
    let crio = crio::render(&crio::Settings::of(config, facts, merged, !node.degraded.is_empty()));
    vec![
        Step::root(directory(host::CONFIG_DIR, 0o755, Owner::Root), "configuration of the node"),
        Step::root(directory(host::CRIO_DROP_INS, 0o755, Owner::Root), "CRI-O drop-ins of the administrator"),
        Step::root(directory(crio::POLICY_DIR, 0o755, Owner::Root), "image policies by namespace"),
        Step::root(directory(host::PATCHES_DIR, 0o750, Owner::RootForNode), "kubeadm patches of this node"),
        Step::root(write(crio::POLICY_PATH, 0o644, Owner::Root, crio::policy()), "which images may run"),
        Step::root(write(crio::STORAGE_PATH, 0o644, Owner::Root, crio::storage()), "where images lie inside"),
        Step::root(write(crio::PATH, 0o640, Owner::RootForNode, crio), "CRI-O's configuration"),
        Step::root(write(node::PATH, 0o640, Owner::RootForNode, spec), "the supervisor's specification"),
    ]
}

fn patch_steps(facts: &Facts, merged: &Output) -> Vec<Step> {
    let path = |name: &str| Path::new(host::PATCHES_DIR).join(name);
    let stale = facts.patches.iter().filter(|name| merged.patches.iter().all(|(wanted, _)| wanted != *name));
    let remove =
        stale.map(|name| Step::root(Action::RemoveFile { path: path(name) }, "a patch of an earlier run"));
    let write = merged.patches.iter().map(|(name, text)| {
        Step::root(
            write(path(name), 0o640, Owner::RootForNode, text.clone()),
            "settings of this node, not of the cluster",
        )
    });
    remove.chain(write).collect()
}

fn cni_steps(config: &Config, merged: &Output, tree: &Path) -> Vec<Step> {
    let directory = tree.join("cni-net.d");
    let path = directory.join(cni::FILE);
    let go = |why| vec![Step::user(Action::RemoveFile { path: path.clone() }, why)];
    match (config.cni, merged.pod_cidr) {
        (_, None) => go("the cluster has a network of its own"),
        (Cni::None, _) => go("the administrator brings a cluster network"),
        (Cni::Flannel, _) => go("flannel writes one of its own"),
        (Cni::Bridge, Some(pods)) => vec![
            Step::user(
                Action::MakeDir { path: tree.to_owned(), mode: 0o700, owner: Owner::Node, fit: false },
                "the node's own tree",
            ),
            Step::user(
                Action::MakeDir { path: directory, mode: 0o755, owner: Owner::Node, fit: false },
                "/etc/cni/net.d inside",
            ),
            Step::user(
                write(path, 0o644, Owner::Node, cni::bridge(pods)),
                "network of the pods on a single node",
            ),
        ],
    }
}

fn namespace(config: &Config, facts: &Facts, stays: bool) -> Vec<Step> {
    let read = [node::PATH, crio::PATH, crio::STORAGE_PATH, crio::POLICY_PATH].map(PathBuf::from);
    let start = Action::StartUnit {
        unit: host::UNIT.into(),
        follows: if stays { Vec::new() } else { read.to_vec() },
        // A little longer than TimeoutStartSec= of the unit, so that systemd tells why.
        seconds: 200 * u64::from(config.timeout_factor),
    };
    let mut steps = vec![Step::root(start, "network, CRI-O and all that is to come run in it")];
    steps.extend(torn::cleared(facts));
    steps.extend(load_steps(&facts.preload));
    steps
}

fn load_steps(preload: &[PathBuf]) -> Vec<Step> {
    let load = |source: &PathBuf| {
        Step::inside(Action::LoadImages { source: source.clone() }, "no registry is needed for them")
    };
    preload.iter().map(load).collect()
}

fn cluster(config: &Config, facts: &Facts, merged: &Output, discovery: Option<SecretString>) -> Step {
    let kubeadm = facts.programs.get("kubeadm").cloned().flatten().unwrap_or_else(|| host::KUBEADM.into());
    let (command, why) = match merged.role {
        Role::FirstControlPlane { .. } => ("init", "the unmodified kubeadm brings up the control plane"),
        Role::JoinedControlPlane { .. } => ("join", "the unmodified kubeadm joins the control plane"),
        Role::Worker => ("join", "the unmodified kubeadm joins the cluster"),
    };
    let mut argv = vec![kubeadm.display().to_string(), command.into(), "--config={config}".into()];
    argv.extend(merged.pass_flags.iter().cloned());
    let done = match merged.role {
        Role::FirstControlPlane { .. } => {
            Done::Begun { file: "/etc/kubernetes/kubelet.conf".into(), objects: merged.last_objects }
        }
        role => Done::Joined {
            file: "/etc/kubernetes/kubelet.conf".into(),
            node: merged.node_name.clone(),
            control_plane: role.api_port().is_some(),
        },
    };
    Step::inside(
        Action::Run {
            argv,
            config: Some(merged.config.clone()),
            documents: discovery.into_iter().collect(),
            // The kubelet's credential until the cluster has signed its own; kubeadm removes it unless it is killed.
            secrets: vec!["/etc/kubernetes/bootstrap-kubelet.conf".into()],
            done_when: Some(done),
            seconds: 1800 * u64::from(config.timeout_factor),
        },
        why,
    )
}

fn publish(node: &NodeSpec) -> Vec<Step> {
    let [root, user] = host::kubeconfigs(&node.user.home);
    let action =
        |path, owner| Action::PublishKubeconfig { source: "/etc/kubernetes/admin.conf".into(), path, owner };
    vec![
        Step::root(action(root, Owner::Root), "kubectl for root"),
        Step::user(action(user, Owner::Node), "kubectl for the node's user"),
    ]
}

/// flannel for the new cluster. A finished one has it, or its administrator took it out or changed it: it stays as it is.
fn cluster_network(config: &Config, facts: &Facts, merged: &Output, node: &NodeSpec) -> Option<Step> {
    let uplink = facts.uplink.as_ref().map_or(node.network.mtu, |uplink| uplink.mtu);
    let settings = flannel::Settings::of(config, merged, uplink.min(node.network.mtu))?;
    let kubectl = facts.programs.get("kubectl").cloned().flatten().unwrap_or_else(|| host::KUBECTL.into());
    let arguments = [
        "--kubeconfig=/etc/kubernetes/admin.conf",
        "apply",
        "--server-side",
        "--force-conflicts",
        "--field-manager=u7s",
        // It would have the whole OpenAPI document made first, which on a slow machine takes longer than kubectl waits.
        "--validate=false",
        "--filename={config}",
    ];
    let argv = std::iter::once(kubectl.display().to_string()).chain(arguments.map(str::to_owned));
    let run = Action::Run {
        argv: argv.collect(),
        config: Some(flannel::manifest(&settings).into()),
        documents: Vec::new(),
        secrets: Vec::new(),
        done_when: Some(Done::Begun {
            file: "/etc/kubernetes/kubelet.conf".into(),
            objects: (flannel::NAMESPACE, flannel::LAST),
        }),
        seconds: 120 * u64::from(config.timeout_factor),
    };
    Some(Step::inside(run, "flannel, the network of the cluster"))
}

/// Before the node starts with the host: then all of it is there.
fn sync(config: &Config, facts: &Facts, node: &NodeSpec) -> Vec<Step> {
    if facts.cluster.finished && facts.cluster.unsynced.is_none() {
        return Vec::new();
    }
    let paths = vec![node.user.home.clone(), host::KUBERNETES_DIR.into()];
    let sync = Action::Sync { paths, seconds: 300 * u64::from(config.timeout_factor) };
    vec![
        Step::root(sync, "a power cut from now on leaves all of the node"),
        Step::root(Action::RemoveFile { path: host::UNSYNCED.into() }, "all is on disk"),
    ]
}

fn enable() -> Vec<Step> {
    vec![
        Step::root(
            Action::EnableComponent { component: ComponentName::Kubelet, enabled: true },
            "starts with the node",
        ),
        Step::root(Action::EnableUnit { unit: host::UNIT.into() }, "starts with the host"),
    ]
}

pub(super) fn write(path: impl Into<PathBuf>, mode: u32, owner: Owner, text: String) -> Action {
    Action::WriteFile { path: path.into(), mode, owner, text }
}
