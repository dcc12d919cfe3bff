//! CRI-O's configuration, and the store and image policy that it shares with skopeo.

use std::path::{Path, PathBuf};

use semver::Version;
use serde::Serialize;

use crate::config::Config;
use crate::facts::Facts;
use crate::host;
use crate::kubeadm::Output;

/// CRI-O's `--config`.
pub const PATH: &str = "/etc/u7s/crio.conf";

/// containers-storage.conf(5) of the node, named by `CONTAINERS_STORAGE_CONF`.
///
/// CRI-O joins the options of the host's own file, which may belong to a rootful podman, to those of crio.conf: so it reads this one.
pub const STORAGE_PATH: &str = "/etc/u7s/storage.conf";

/// containers-policy.json(5) of the node; the host need not have /etc/containers/policy.json.
pub const POLICY_PATH: &str = "/etc/u7s/policy.json";

/// Image policies by namespace. CRI-O insists on making it if it is missing, and may not.
pub const POLICY_DIR: &str = "/etc/u7s/policies";

/// The node's image store as skopeo names it; an image name follows.
pub const STORE: &str = "containers-storage:[overlay@/var/lib/containers/storage+/run/containers/storage]";

const GRAPH_ROOT: &str = "/var/lib/containers/storage";
const RUN_ROOT: &str = "/run/containers/storage";

/// Capabilities of a container that asks for none: CRI-O's own list, written down so that an update cannot widen it.
///
/// Source: cri-o, internal/config/capabilities, `Default`.
const CAPABILITIES: [&str; 9] =
    ["CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE", "KILL"];

/// What [`render`] is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// conmon(8); `None`: found in the search path.
    pub conmon: Option<PathBuf>,
    /// pinns of CRI-O; `None`: likewise.
    pub pinns: Option<PathBuf>,
    /// The OCI runtime: crun, or our adapter.
    pub runtime: PathBuf,
    /// The pause image.
    pub pause_image: String,
    /// Existing plugin directories. CRI-O makes missing ones and dies where it may not.
    pub plugin_dirs: Vec<PathBuf>,
}

impl Settings {
    /// Settings of this host.
    #[must_use]
    pub fn of(config: &Config, facts: &Facts, merged: &Output, degraded: bool) -> Self {
        let program = |name: &str| facts.programs.get(name).cloned().flatten();
        let crun = || program("crun").unwrap_or_else(|| "/usr/bin/crun".into());
        let there = |directory: &&str| {
            // Phase Host makes the first.
            *directory == host::CNI_DIRS[0] || facts.cni_plugins.contains_key(Path::new(directory))
        };
        Self {
            conmon: program("conmon"),
            pinns: program("pinns"),
            runtime: if degraded { host::OCI_ADAPTER.into() } else { crun() },
            pause_image: config.images.pause.clone().unwrap_or_else(|| pause_image(facts, merged)),
            plugin_dirs: host::CNI_DIRS.into_iter().filter(there).map(PathBuf::from).collect(),
        }
    }
}

/// The text of [`PATH`].
///
/// Shape: every setting that a rootless node needs or that hardens it; all others stay CRI-O's.
///
/// Source: crio.conf(5) and pkg/config/config.go of CRI-O 1.34.
#[must_use]
pub fn render(settings: &Settings) -> String {
    let file = File {
        crio: Crio {
            root: GRAPH_ROOT,
            runroot: RUN_ROOT,
            storage_driver: "overlay",
            log_dir: "/var/log/crio/pods",
            version_file: "/run/crio/version",
            clean_shutdown_file: "/var/lib/crio/clean.shutdown",
            api: Api { listen: host::CRI_SOCKET, stream_address: "127.0.0.1", stream_port: "0" },
            runtime: Runtime {
                default_runtime: "crun",
                cgroup_manager: "cgroupfs",
                conmon: settings.conmon.as_deref(),
                conmon_cgroup: "pod",
                pinns_path: settings.pinns.as_deref(),
                namespaces_dir: "/run/crio/ns",
                container_exits_dir: "/run/crio/exits",
                container_attach_socket_dir: "/run/crio",
                apparmor_profile: "unconfined",
                default_capabilities: CAPABILITIES,
                add_inheritable_capabilities: false,
                enable_criu_support: false,
                runtimes: Runtimes {
                    crun: Handler {
                        runtime_path: &settings.runtime,
                        runtime_root: "/run/crun",
                        runtime_type: "oci",
                        monitor_env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                    },
                },
            },
            image: Image {
                pause_image: &settings.pause_image,
                signature_policy: POLICY_PATH,
                signature_policy_dir: POLICY_DIR,
            },
            network: Network { network_dir: "/etc/cni/net.d/", plugin_dirs: &settings.plugin_dirs },
        },
    };
    let head = "# Written by kubeadm init; changes go to /etc/u7s/crio.conf.d/*.conf.\n";
    // Only maps with keys that are no strings cannot be rendered; there are none.
    head.to_owned() + &toml::to_string(&file).unwrap_or_default()
}

/// The text of [`STORAGE_PATH`].
#[must_use]
pub fn storage() -> String {
    format!("[storage]\ndriver = \"overlay\"\ngraphroot = \"{GRAPH_ROOT}\"\nrunroot = \"{RUN_ROOT}\"\n")
}

/// The text of [`POLICY_PATH`]: every image is accepted.
#[must_use]
pub fn policy() -> String {
    format!("{:#}\n", serde_json::json!({ "default": [{ "type": "insecureAcceptAnything" }] }))
}

/// The pause image of kubeadm, in the registry of its configuration.
///
/// kubeadm was asked for its list, or its version tells.
/// Source: kubernetes, cmd/kubeadm/app/constants/constants.go, `PauseVersion`, by minor.
fn pause_image(facts: &Facts, merged: &Output) -> String {
    let listed = facts.pause_image.as_deref().and_then(|image| image.rsplit_once(':')).map(|(_, tag)| tag);
    let version = facts.versions.get("kubeadm").and_then(Option::as_deref);
    let minor = version
        .and_then(|text| Version::parse(text.trim_start_matches('v')).ok())
        .map_or(u64::MAX, |version| version.minor);
    let known = if minor <= 33 { "3.10" } else { "3.10.1" };
    format!("{}/pause:{}", merged.image_repository, listed.unwrap_or(known))
}

#[derive(Serialize)]
struct File<'a> {
    crio: Crio<'a>,
}

#[derive(Serialize)]
struct Crio<'a> {
    root: &'a str,
    runroot: &'a str,
    storage_driver: &'a str,
    log_dir: &'a str,
    version_file: &'a str,
    clean_shutdown_file: &'a str,
    api: Api<'a>,
    runtime: Runtime<'a>,
    image: Image<'a>,
    network: Network<'a>,
}

#[derive(Serialize)]
struct Api<'a> {
    listen: &'a str,
    stream_address: &'a str,
    stream_port: &'a str,
}

#[derive(Serialize)]
struct Runtime<'a> {
    default_runtime: &'a str,
    cgroup_manager: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    conmon: Option<&'a Path>,
    conmon_cgroup: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pinns_path: Option<&'a Path>,
    namespaces_dir: &'a str,
    container_exits_dir: &'a str,
    container_attach_socket_dir: &'a str,
    /// CRI-O would load its own profile, which needs root of the host.
    apparmor_profile: &'a str,
    default_capabilities: [&'a str; CAPABILITIES.len()],
    add_inheritable_capabilities: bool,
    /// Checkpoint and restore.
    enable_criu_support: bool,
    runtimes: Runtimes<'a>,
}

#[derive(Serialize)]
struct Runtimes<'a> {
    crun: Handler<'a>,
}

#[derive(Serialize)]
struct Handler<'a> {
    runtime_path: &'a Path,
    runtime_root: &'a str,
    runtime_type: &'a str,
    monitor_env: [&'a str; 1],
}

#[derive(Serialize)]
struct Image<'a> {
    pause_image: &'a str,
    signature_policy: &'a str,
    signature_policy_dir: &'a str,
}

#[derive(Serialize)]
struct Network<'a> {
    network_dir: &'a str,
    plugin_dirs: &'a [PathBuf],
}
