//! State of Kubernetes on this node.

use std::path::{Path, PathBuf};
use std::time::Duration;

use u7s_plan::control::{ComponentStatus, Status};
use u7s_plan::facts::{ClusterFact, UserFact};
use u7s_plan::host::{KUBERNETES_DIR, UNSYNCED};
use u7s_plan::kubeconfig::{self, Fault, Wrong};
use u7s_plan::node::ComponentName;
use u7s_plan::pki;

use super::names_that;
use crate::control::Client;
use crate::enter::{Entry, Input, Output, Target};
use crate::error;
use crate::files;
use crate::programs;

/// Looks at /etc/kubernetes, whose names are only seen, never followed; asks supervisor and API server if the node `runs`.
pub(crate) fn cluster(user: Option<&UserFact>, runs: bool, deadline: Duration) -> ClusterFact {
    let dir = Path::new(KUBERNETES_DIR);
    let seen = |name: &str| files::stat(&dir.join(name)).ok().flatten();
    let there = |name: &str| seen(name).is_some();
    let own = |name: &str| user.is_some_and(|user| seen(name).is_some_and(|file| file.st_uid == user.uid));
    let running = user.filter(|_| runs);
    let manifests = names_that(&dir.join("manifests"), &|name| !name.starts_with('.'));
    let (admin_conf, kubelet_conf) = (there("admin.conf"), there("kubelet.conf"));
    let unsynced = unsynced();
    let content = |name: String| seen(&format!("{}/{name}", pki::DIR)).map(|file| (name, file.st_size > 0));
    let pki = unsynced.iter().flat_map(|_| pki::names()).filter_map(content).collect();
    ClusterFact {
        admin_conf,
        kubelet_conf,
        manifests,
        api_ready: admin_conf && running.is_some_and(|user| api_ready(user, deadline)),
        begun: BEGUN.into_iter().any(own),
        finished: kubelet_conf && running.is_some_and(finished),
        strangers: strangers(dir, user),
        kubeconfigs: kubeconfigs(),
        unsynced,
        pki,
    }
}

/// What init would trust though others than root, and the node's user once the directory is its own, made it or may change it.
fn strangers(dir: &Path, user: Option<&UserFact>) -> Vec<(PathBuf, u32)> {
    let Ok(Some(seen)) = files::directory(dir) else { return Vec::new() };
    let nodes = user.is_some_and(|user| user.uid == seen.uid);
    let trusted = |stat: &nix::sys::stat::FileStat| {
        files::roots_own(stat) || (nodes && (stat.st_uid == seen.uid || stat.st_uid == 0))
    };
    files::others(dir, &trusted).unwrap_or_default()
}

/// Kubeconfigs that are not as kubeadm writes them: each is read as data, bounded and not followed.
///
/// A caller who may not read them sees none.
#[must_use]
pub fn kubeconfigs() -> Vec<Fault> {
    let fault = |name: &str| {
        let path = Path::new(KUBERNETES_DIR).join(name);
        let what = match files::read_text(&path, files::LIMIT) {
            Ok(text) => kubeconfig::fault(&text?)?,
            Err(_) if !nix::unistd::geteuid().is_root() => return None,
            Err(error) => Wrong::Unreadable(error::whole(&error)),
        };
        Some(Fault { path: path.display().to_string(), what })
    };
    kubeconfig::FILES.into_iter().filter_map(fault).collect()
}

/// Anything that cannot be read is another boot's: then more is made anew than need be.
fn unsynced() -> Option<String> {
    let path = Path::new(UNSYNCED);
    let read = files::read(path, 64).map(|read| read.map(|whole| whole.bytes));
    let text = match read {
        Ok(None) => return None,
        Ok(Some(bytes)) => String::from_utf8(bytes).unwrap_or_default(),
        Err(_) => String::new(),
    };
    Some(text.trim_end().to_owned())
}

/// What kubeadm makes early, in its order.
const BEGUN: [&str; 7] = [
    "pki/ca.crt",
    "bootstrap-kubelet.conf",
    "kubelet.conf",
    "manifests/etcd.yaml",
    "manifests/kube-apiserver.yaml",
    "manifests/kube-controller-manager.yaml",
    "manifests/kube-scheduler.yaml",
];

/// The supervisor has the kubelet enabled, which only init's last phase does.
fn finished(user: &UserFact) -> bool {
    let status = Client::new(user.uid).status();
    status.is_ok_and(|status| kubelet(&status).is_some_and(|kubelet| kubelet.enabled))
}

/// The kubelet in a status.
pub(crate) fn kubelet(status: &Status) -> Option<&ComponentStatus> {
    status.components.iter().find(|component| component.name == ComponentName::Kubelet)
}

/// Whether the local API server says that it is ready.
///
/// By kubectl inside, as the node's user: TLS and an admin.conf that this user may have written are not for root.
/// Anything but a plain yes in time is a no; without kubectl too.
pub(crate) fn api_ready(user: &UserFact, deadline: Duration) -> bool {
    kubectl(user, ADMIN, &["get", "--raw", "/readyz"], deadline)
        .is_some_and(|said| said.trim_ascii() == b"ok")
}

/// Whether the API server has all of these objects; as [`api_ready`].
pub(crate) fn api_has(user: &UserFact, namespace: &str, objects: &[&str], deadline: Duration) -> bool {
    let namespace = format!("--namespace={namespace}");
    let argv: Vec<&str> =
        ["get", &namespace, "--output=name"].into_iter().chain(objects.iter().copied()).collect();
    objects.is_empty() || kubectl(user, ADMIN, &argv, deadline).is_some()
}

/// Whether the cluster knows the node, as a control plane if it is to be one: what `kubeadm join` does last.
pub(crate) fn node_known(user: &UserFact, node: &str, control_plane: bool, deadline: Duration) -> bool {
    let credentials = if control_plane { ADMIN } else { "--kubeconfig=/etc/kubernetes/kubelet.conf" };
    let own = ["get", "node", node, "--output=name"];
    let role = ["get", "nodes", "--selector=node-role.kubernetes.io/control-plane", "--output=name"];
    let name = format!("node/{node}");
    let said = kubectl(user, credentials, if control_plane { &role } else { &own }, deadline);
    said.is_some_and(|said| said.split(|byte| *byte == b'\n').any(|line| line == name.as_bytes()))
}

/// The cluster's ClusterConfiguration, as every node may read it; `None` if it cannot be had.
///
/// Source: kubernetes, cmd/kubeadm/app/phases/uploadconfig, role `kubeadm:nodes-kubeadm-config`.
#[must_use]
pub fn configuration(user: &UserFact) -> Option<String> {
    let words = ["get", "configmap", "kubeadm-config", "--namespace=kube-system", "--output=json"];
    let said = kubectl(user, "--kubeconfig=/etc/kubernetes/kubelet.conf", &words, Duration::from_secs(10))?;
    let map: serde_json::Value = serde_json::from_slice(&said).ok()?;
    map["data"]["ClusterConfiguration"].as_str().map(str::to_owned)
}

/// What a control plane's cluster has stored of its configuration: ClusterConfiguration, then those of kubelet and kube-proxy, if
/// there are; `None` if its API server cannot be asked.
///
/// Source: kubernetes, cmd/kubeadm/app/constants, names of the ConfigMaps and their keys.
#[must_use]
pub fn stored(user: &UserFact) -> Option<Vec<String>> {
    const PLACES: [(&str, &str); 3] = [
        ("kubeadm-config", "ClusterConfiguration"),
        ("kubelet-config", "kubelet"),
        ("kube-proxy", "config.conf"),
    ];
    let words = ["get", "configmap", "--namespace=kube-system", "--output=json", "--ignore-not-found"];
    let words: Vec<&str> = words.into_iter().chain(PLACES.map(|(name, _)| name)).collect();
    let said = kubectl(user, ADMIN, &words, Duration::from_secs(10))?;
    let list: serde_json::Value = serde_json::from_slice(&said).ok()?;
    let maps = list["items"].as_array()?;
    let of = |(name, key): (&str, &str)| {
        let map = maps.iter().find(|map| map["metadata"]["name"] == name)?;
        map["data"][key].as_str().map(str::to_owned)
    };
    of(PLACES[0])?;
    Some(PLACES.into_iter().filter_map(of).collect())
}

/// Credentials of a control plane.
const ADMIN: &str = "--kubeconfig=/etc/kubernetes/admin.conf";

/// What kubectl said, at most 64 KiB; `None` if it failed, or not in time.
fn kubectl(user: &UserFact, credentials: &str, words: &[&str], deadline: Duration) -> Option<Vec<u8>> {
    let kubectl = programs::needed("kubectl").ok()?;
    let target = Target::find(user).ok()?;
    let timeout = format!("--request-timeout={}s", deadline.as_secs().max(1));
    let argv = [kubectl.as_os_str(), credentials.as_ref(), timeout.as_ref()]
        .into_iter()
        .chain(words.iter().map(AsRef::as_ref));
    let asked =
        Entry::inside(&target, argv).directory("/").input(Input::Null).output(Output::Capture(64 << 10));
    // The client needs its own start on top of the request.
    let ended = asked.deadline(deadline + Duration::from_secs(5)).run().ok()?;
    ended.status.success().then_some(ended.stdout)
}
