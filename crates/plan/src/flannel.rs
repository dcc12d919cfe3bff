//! flannel as the network of the cluster: the objects that `kubeadm init` applies, for nodes of any kind.
//!
//! Every node that joins gets a pod of the DaemonSet, rootless or not, so that nothing of ours has to run there.

use ipnet::Ipv4Net;
use serde_json::{Value, json};

use crate::cni;
use crate::config::{Cni, Config};
use crate::kubeadm::{Output, Role};

/// Namespace of the objects that have one, upstream's.
pub const NAMESPACE: &str = "kube-flannel";

/// What is applied last: where it is, everything is.
pub const LAST: &[&str] = &["daemonset/kube-flannel-ds"];

/// Name of the file that the DaemonSet writes in /etc/cni/net.d, upstream's.
pub const FILE: &str = "10-flannel.conflist";

/// Where both containers find the ConfigMap.
const CONFIG_DIR: &str = "/etc/kube-flannel";

/// Names of the CNI template and of the script that fills it in, in the ConfigMap.
const TEMPLATE: &str = "cni-conf.json";
const SCRIPT: &str = "cni.sh";

/// What the objects are made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Image with flanneld and a shell.
    pub image: String,
    /// Network of all pods.
    pub pods: Ipv4Net,
    /// MTU of the net that carries vxlan, bytes; pods get 50 fewer.
    pub mtu: u32,
    /// Host or address of the API server as every node reaches it.
    pub api_host: String,
    /// Its port.
    pub api_port: String,
}

impl Settings {
    /// Those of a new cluster; `None` where it gets another network, and on a node that joins.
    ///
    /// `mtu` is the smaller one of the uplink's and of tap0's: a tap0 that is larger than the uplink carries whole TCP
    /// segments, but vxlan's packets leave as they are.
    #[must_use]
    pub fn of(config: &Config, merged: &Output, mtu: u32) -> Option<Self> {
        let pods = merged.pod_cidr.filter(|_| config.cni == Cni::Flannel)?;
        let Role::FirstControlPlane { api_port } = merged.role else { return None };
        let endpoint = merged.control_plane_endpoint.clone();
        let endpoint = endpoint.unwrap_or_else(|| merged.api_address.to_string());
        let (api_host, api_port) = match endpoint.rsplit_once(':') {
            Some((host, port)) => (host.to_owned(), port.to_owned()),
            None => (endpoint, api_port.to_string()),
        };
        let mtu = config.flannel.mtu.unwrap_or(mtu);
        Some(Self { image: config.flannel.image.clone(), pods, mtu, api_host, api_port })
    }
}

/// The objects as one `List`, in the order in which they need each other.
///
/// They are upstream's but for these: flanneld reaches the API server by its own address, as kube-proxy does, since the
/// address of the Service does not work before kube-proxy; it takes the interface that has the node's address; a second
/// container of the same image writes the CNI configuration for the bridge plugin, instead of upstream's plugin.
///
/// Source: flannel 0.26.7, Documentation/kube-flannel.yml, main.go.
#[must_use]
pub fn manifest(settings: &Settings) -> String {
    let list = json!({
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            namespace(),
            object("v1", "ServiceAccount", "flannel", Some(NAMESPACE), json!({})),
            role(),
            binding(),
            config_map(settings),
            daemon_set(settings),
        ],
    });
    format!("{list:#}\n")
}

fn namespace() -> Value {
    let mut namespace = object("v1", "Namespace", NAMESPACE, None, json!({}));
    namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = "privileged".into();
    namespace
}

/// Reading its own pod, as upstream's may, is not needed: the pod is told its node's name.
fn role() -> Value {
    let rules = json!([
        { "apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"] },
        { "apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"] },
    ]);
    object("rbac.authorization.k8s.io/v1", "ClusterRole", "flannel", None, json!({ "rules": rules }))
}

fn binding() -> Value {
    let fields = json!({
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "flannel" },
        "subjects": [{ "kind": "ServiceAccount", "name": "flannel", "namespace": NAMESPACE }],
    });
    object("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "flannel", None, fields)
}

fn config_map(settings: &Settings) -> Value {
    let network = json!({
        "Network": settings.pods,
        "EnableNFTables": false,
        "Backend": { "Type": "vxlan", "MTU": settings.mtu },
    });
    let data = json!({
        "net-conf.json": format!("{network:#}\n"),
        TEMPLATE: cni::flannel(),
        SCRIPT: include_str!("flannel/cni.sh"),
    });
    object("v1", "ConfigMap", "kube-flannel-cfg", Some(NAMESPACE), json!({ "data": data }))
}

fn daemon_set(settings: &Settings) -> Value {
    let labels = labels();
    let spec = json!({
        "selector": { "matchLabels": { "app": "flannel" } },
        "template": { "metadata": { "labels": labels }, "spec": pod(settings) },
    });
    object("apps/v1", "DaemonSet", "kube-flannel-ds", Some(NAMESPACE), json!({ "spec": spec }))
}

fn pod(settings: &Settings) -> Value {
    let linux = json!({ "key": "kubernetes.io/os", "operator": "In", "values": ["linux"] });
    let terms = json!([{ "matchExpressions": [linux] }]);
    let path = |path: &str, kind: &str| json!({ "path": path, "type": kind });
    json!({
        "affinity": { "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": terms },
        } },
        "hostNetwork": true,
        "priorityClassName": "system-node-critical",
        "tolerations": [{ "operator": "Exists" }],
        "serviceAccountName": "flannel",
        "containers": [flanneld(settings), writer(settings)],
        "volumes": [
            { "name": "run", "hostPath": path("/run/flannel", "DirectoryOrCreate") },
            { "name": "cni", "hostPath": path("/etc/cni/net.d", "DirectoryOrCreate") },
            { "name": "flannel-cfg", "configMap": { "name": "kube-flannel-cfg" } },
            { "name": "xtables-lock", "hostPath": path("/run/xtables.lock", "FileOrCreate") },
        ],
    })
}

/// With its node's name from the start flanneld waits for an API server that comes up later, and does not end.
fn flanneld(settings: &Settings) -> Value {
    let field =
        |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let value = |name: &str, value: &str| json!({ "name": name, "value": value });
    json!({
        "name": "kube-flannel",
        "image": settings.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/opt/bin/flanneld"],
        "args": ["--ip-masq", "--kube-subnet-mgr", "--iface=$(NODE_IP)"],
        "env": [
            field("NODE_NAME", "spec.nodeName"),
            field("NODE_IP", "status.hostIP"),
            value("KUBERNETES_SERVICE_HOST", &settings.api_host),
            value("KUBERNETES_SERVICE_PORT", &settings.api_port),
            value("EVENT_QUEUE_DEPTH", "5000"),
        ],
        "resources": { "requests": { "cpu": "100m", "memory": "50Mi" } },
        "securityContext": {
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"] },
        },
        "volumeMounts": [
            mount("run", "/run/flannel"),
            mount("flannel-cfg", CONFIG_DIR),
            mount("xtables-lock", "/run/xtables.lock"),
        ],
    })
}

fn writer(settings: &Settings) -> Value {
    let [script, template] = [SCRIPT, TEMPLATE].map(|name| format!("{CONFIG_DIR}/{name}"));
    let target = format!("/etc/cni/net.d/{FILE}");
    let mut run = mount("run", "/run/flannel");
    run["readOnly"] = true.into();
    json!({
        "name": "cni",
        "image": settings.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", script, template, "/run/flannel/subnet.env", target],
        "resources": { "requests": { "cpu": "1m", "memory": "4Mi" } },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
        "volumeMounts": [run, mount("cni", "/etc/cni/net.d"), mount("flannel-cfg", CONFIG_DIR)],
    })
}

fn mount(name: &str, path: &str) -> Value {
    json!({ "name": name, "mountPath": path })
}

fn labels() -> Value {
    json!({ "app": "flannel", "k8s-app": "flannel", "tier": "node" })
}

/// An object of the API with upstream's labels; `fields` are those beside its name.
fn object(api: &str, kind: &str, name: &str, namespace: Option<&str>, fields: Value) -> Value {
    let mut object = json!({
        "apiVersion": api,
        "kind": kind,
        "metadata": { "name": name, "labels": labels() },
    });
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = namespace.into();
    }
    if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), fields) {
        object.extend(fields);
    }
    object
}
