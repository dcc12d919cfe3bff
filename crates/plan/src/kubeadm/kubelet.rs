//! Settings of *this* node's kubelet: a patch, never the cluster's ConfigMap.

use serde_json::{Value, json};

use super::fields::{Document, at, set};
use super::{Error, NodeFacts, VOLUME_PLUGINS};

/// Our patch: its name sorts after every name that a user's patch of the same target may have, so it is applied last.
pub(super) const PATCH: &str = "kubeletconfiguration~u7s+merge.json";

/// A setting that a rootless kubelet cannot do without.
#[derive(Debug)]
struct Need {
    /// Field of the KubeletConfiguration.
    path: &'static [&'static str],
    /// Flag of the kubelet for the same.
    flag: &'static str,
    /// What it must be.
    value: Value,
    /// Half a sentence.
    why: &'static str,
}

/// A user's document or patch that touches the kubelet's configuration.
#[derive(Debug)]
pub(super) struct Fragment {
    /// `KubeletConfiguration`, or `patch kubeletconfiguration0.yaml`.
    pub(super) origin: String,
    /// As a merge patch.
    pub(super) document: Document,
}

/// The text of [`PATCH`].
///
/// Needs are always in it; of our defaults only what none of the user's fragments sets.
///
/// # Errors
/// [`Error::Contradiction`] if a fragment sets a need to something else.
pub(super) fn patch(node: &NodeFacts, fragments: &[Fragment]) -> Result<String, Error> {
    let mut patch = Document::new();
    for need in needs(node) {
        for fragment in fragments {
            check(at(&fragment.document, need.path), &need, || {
                format!("{}.{}", fragment.origin, need.path.join("."))
            })?;
        }
        if need.path != GATE || node.kubernetes_version.minor < GATE_BY_DEFAULT {
            set(&mut patch, need.path, need.value)?;
        }
    }
    let given = |path: &[&str]| fragments.iter().any(|fragment| at(&fragment.document, path).is_some());
    for (path, value) in defaults(node) {
        let pair = path == ["cgroupsPerQOS"] || path == ["enforceNodeAllocatable"];
        let touched =
            given(path) || pair && (given(&["cgroupsPerQOS"]) || given(&["enforceNodeAllocatable"]));
        if !touched {
            set(&mut patch, path, value)?;
        }
    }
    let text = serde_json::to_string_pretty(&patch).unwrap_or_default();
    Ok(text + "\n")
}

const GATE: &[&str] = &["featureGates", "KubeletInUserNamespace"];

/// From this minor on [`GATE`] is on by default (kubernetes#134639), and a later one may drop it: it is set below only.
const GATE_BY_DEFAULT: u64 = 37;

fn needs(node: &NodeFacts) -> Vec<Need> {
    let need = |path, flag, value, why| Need { path, flag, value, why };
    let mut needs = vec![
        need(
            &["cgroupDriver"],
            "cgroup-driver",
            json!("cgroupfs"),
            "the systemd driver needs a user's systemd and bus, which the node does not have",
        ),
        need(
            &["failSwapOn"],
            "fail-swap-on",
            json!(false),
            "the host's swap is visible inside and cannot be turned off there",
        ),
        need(
            &["localStorageCapacityIsolation"],
            "local-storage-capacity-isolation",
            json!(false),
            "the file systems of the host cannot be measured inside",
        ),
        need(GATE, "", json!(true), "without it the kubelet ends when it cannot write the host's sysctls"),
        need(
            &["volumePluginDir"],
            "volume-plugin-dir",
            json!(VOLUME_PLUGINS),
            "the default under /usr cannot be made without root",
        ),
        need(
            &["protectKernelDefaults"],
            "protect-kernel-defaults",
            json!(false),
            "the host's sysctls cannot be set inside",
        ),
        need(
            &["resolvConf"],
            "resolv-conf",
            json!("/etc/resolv.conf"),
            "the node has a resolv.conf of its own, and a /run of its own",
        ),
        need(&["readOnlyPort"], "read-only-port", json!(0), "the read-only port knows no authentication"),
        need(
            &["authentication", "anonymous", "enabled"],
            "anonymous-auth",
            json!(false),
            "whoever reaches the kubelet without a certificate would own the node",
        ),
        need(
            &["authorization", "mode"],
            "authorization-mode",
            json!("Webhook"),
            "whoever reaches the kubelet with a certificate would own the node",
        ),
    ];
    if node.degraded {
        let why = "not every cgroup controller is delegated to this node";
        needs.push(need(&["cgroupsPerQOS"], "cgroups-per-qos", json!(false), why));
        needs.push(need(&["enforceNodeAllocatable"], "enforce-node-allocatable", json!(["none"]), why));
    }
    needs
}

/// Settings of hardening that a user may weigh otherwise.
fn defaults(node: &NodeFacts) -> Vec<(&'static [&'static str], Value)> {
    let mut defaults: Vec<(&'static [&'static str], Value)> = vec![
        (&["seccompDefault"], json!(true)),
        (&["rotateCertificates"], json!(true)),
        // The kubelet's own values, in full: naming one signal alone would drop the others.
        (
            &["evictionHard"],
            json!({
                "memory.available": "100Mi",
                "nodefs.available": "10%",
                "nodefs.inodesFree": "5%",
                "imagefs.available": "15%",
                "imagefs.inodesFree": "5%",
            }),
        ),
    ];
    if node.timeout_factor > 1 {
        // The kubelet's own value is two minutes.
        defaults
            .push((&["runtimeRequestTimeout"], json!(format!("{}m", 2 * u64::from(node.timeout_factor)))));
        // Its own value is 40: how long a node counts as alive without renewing its lease.
        defaults.push((&["nodeLeaseDurationSeconds"], json!(40 * u64::from(node.timeout_factor))));
    }
    if !node.degraded {
        defaults.push((&["podPidsLimit"], json!(4096)));
        defaults.push((&["cgroupsPerQOS"], json!(true)));
        defaults.push((&["enforceNodeAllocatable"], json!(["pods"])));
        let memory = format!("{}Mi", reserved_mebibytes(node.memory));
        defaults.push((&["systemReserved"], json!({"cpu": "100m", "memory": memory})));
    }
    defaults
}

/// Memory that pods cannot have, MiB.
///
/// 512 are for what lives beside the pods: kubelet, CRI-O, watchers, the kernel's own memory, the host's services. With 256 an
/// emulated host of 6 GiB stood still under node pressure (F11). The rest is what `MemoryMax=90%` of u7s.service keeps from the
/// whole node: the kubelet shall evict pods before the kernel kills in the unit.
fn reserved_mebibytes(memory: u64) -> u64 {
    512 + (memory >> 20) / 10
}

fn check(given: Option<&Value>, need: &Need, path: impl Fn() -> String) -> Result<(), Error> {
    let unset = |value: &Value| value.as_str() == Some("") || value.as_array().is_some_and(Vec::is_empty);
    match given {
        Some(value) if !unset(value) && *value != need.value => Err(Error::Contradiction {
            path: path(),
            value: shown(value),
            need: shown(&need.value),
            why: need.why,
        }),
        _ => Ok(()),
    }
}

/// A value as a user writes it: texts without quotes, control characters escaped.
fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), |text| text.escape_debug().to_string())
}

/// Compares `nodeRegistration.kubeletExtraArgs` with what the node needs.
///
/// Flags win over the kubelet's configuration file, so the patch alone would not hold.
pub(super) fn check_arguments(arguments: &[Value], node: &NodeFacts, kind: &str) -> Result<(), Error> {
    let node_ip = node.node_ip.to_string();
    let socket = format!("unix://{}", node.cri_socket.display());
    let fixed = [
        ("node-ip", node_ip.as_str(), "the node has one address, which is one of the host's own"),
        ("container-runtime-endpoint", socket.as_str(), "containers run under the node's own CRI-O"),
        ("root-dir", "/var/lib/kubelet", "no other directory of the kubelet is the node user's own"),
    ];
    for argument in arguments {
        let field = |key: &str| argument.get(key).and_then(Value::as_str).unwrap_or_default();
        let (name, value) = (field("name"), field("value"));
        let clash = |need: String, why: &'static str| Error::Contradiction {
            path: format!("{kind}.nodeRegistration.kubeletExtraArgs, {name}"),
            value: value.escape_debug().to_string(),
            need,
            why,
        };
        if let Some((_, need, why)) = fixed.iter().find(|(flag, need, _)| *flag == name && *need != value) {
            return Err(clash((*need).to_owned(), why));
        }
        for need in needs(node) {
            let wanted = flag_value(&need.value);
            if need.flag == name && wanted != value {
                return Err(clash(wanted, need.why));
            }
            if name == "feature-gates" && need.path == GATE && value.contains("KubeletInUserNamespace=false")
            {
                return Err(clash("KubeletInUserNamespace=true".to_owned(), need.why));
            }
        }
    }
    Ok(())
}

/// A value in the form of a flag: lists by commas.
fn flag_value(value: &Value) -> String {
    match value.as_array() {
        Some(items) => items.iter().map(flag_value).collect::<Vec<_>>().join(","),
        None => shown(value),
    }
}
