//! The ClusterConfiguration: what every node of the cluster, rootful ones too, can live with.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::fields::{self, Document, argument, default, default_argument, items, push, text};
use super::flags::origin;
use super::{AUDIT_DIR, Error, Input, VOLUME_PLUGINS, network};
use crate::audit;

/// kubeadm's default data directory of etcd.
const ETCD_DIR: &str = "/var/lib/etcd";
/// kubeadm's default directory of the certificates.
const CERT_DIR: &str = "/etc/kubernetes/pki";
/// kubeadm's default registry.
const REGISTRY: &str = "registry.k8s.io";
/// kubeadm's default domain of the services.
const DOMAIN: &str = "cluster.local";

const API_ARGS: [&str; 2] = ["apiServer", "extraArgs"];
const API_VOLUMES: [&str; 2] = ["apiServer", "extraVolumes"];
const API_NAMES: [&str; 2] = ["apiServer", "certSANs"];
const MANAGER_ARGS: [&str; 2] = ["controllerManager", "extraArgs"];

/// The audit arguments beside policy and path: days, files, megabytes.
const AUDIT_LIMITS: [(&str, &str); 3] =
    [("audit-log-maxage", "30"), ("audit-log-maxbackup", "3"), ("audit-log-maxsize", "500")];

/// What the rest of the plan must know of a completed ClusterConfiguration.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) dns_domain: String,
    pub(super) etcd_data_dir: Option<PathBuf>,
    pub(super) cert_dir: PathBuf,
    pub(super) image_repository: String,
    pub(super) kubernetes_version: String,
    pub(super) control_plane_endpoint: Option<String>,
    pub(super) audit: bool,
}

/// Completes the document.
pub(super) fn complete(cluster: &mut Document, input: &Input<'_>) -> Result<Facts, Error> {
    default(cluster, &["networking", "podSubnet"], super::POD_CIDR)?;
    default(cluster, &["kubernetesVersion"], format!("v{}", input.node.kubernetes_version))?;
    names(cluster, input)?;
    controller_manager(cluster)?;
    super::slow::complete(cluster, input.node.timeout_factor)?;
    api_server(cluster, input)?;
    let audit = audit_log(cluster)?;
    Ok(Facts {
        dns_domain: domain(cluster, input)?,
        etcd_data_dir: etcd_dir(cluster)?,
        cert_dir: cert_dir(cluster, input)?,
        image_repository: word(cluster, "imageRepository", input, ("image-repository", REGISTRY))?,
        kubernetes_version: word(cluster, "kubernetesVersion", input, ("kubernetes-version", ""))?,
        control_plane_endpoint: endpoint(cluster, input)?,
        audit,
    })
}

/// The API server is reached at the node's address, and from inside at loopback too.
fn names(cluster: &mut Document, input: &Input<'_>) -> Result<(), Error> {
    for name in [input.node.node_ip.to_string(), "127.0.0.1".to_owned()] {
        if !items(cluster, &API_NAMES).iter().any(|item| item.as_str() == Some(&name)) {
            push(cluster, &API_NAMES, name.into())?;
        }
    }
    Ok(())
}

/// The default directory of flex volumes lies under `/usr`: the static pod would never start.
fn controller_manager(cluster: &mut Document) -> Result<(), Error> {
    let name = "flex-volume-plugin-dir";
    same_argument(
        cluster,
        &MANAGER_ARGS,
        (name, VOLUME_PLUGINS),
        "the default under /usr cannot be made without root",
    )?;
    default_argument(cluster, &MANAGER_ARGS, name, VOLUME_PLUGINS)
}

/// The node has one address; another one would be advertised to pods and never answer.
fn api_server(cluster: &Document, input: &Input<'_>) -> Result<(), Error> {
    let ours = input.node.node_ip.to_string();
    let why = "the node has one address, which is one of the host's own";
    same_argument(cluster, &API_ARGS, ("advertise-address", &ours), why)
}

fn same_argument(
    cluster: &Document,
    path: &[&str],
    need: (&str, &str),
    why: &'static str,
) -> Result<(), Error> {
    let (name, need) = need;
    match argument(cluster, path, name) {
        Some(value) if value != need => Err(Error::Contradiction {
            path: format!("ClusterConfiguration.{}, {name}", path.join(".")),
            value: value.escape_debug().to_string(),
            need: need.to_owned(),
            why,
        }),
        _ => Ok(()),
    }
}

/// Audit policy and log from the first start on; what the user set stays.
///
/// Gives whether the API server reads our policy. A joining control plane needs the policy at the same path.
fn audit_log(cluster: &mut Document) -> Result<bool, Error> {
    default_argument(cluster, &API_ARGS, "audit-policy-file", audit::POLICY_PATH)?;
    default_argument(cluster, &API_ARGS, "audit-log-path", audit::LOG_PATH)?;
    for (name, value) in AUDIT_LIMITS {
        default_argument(cluster, &API_ARGS, name, value)?;
    }
    let ours = |name, path| argument(cluster, &API_ARGS, name) == Some(path);
    let (policy, log) =
        (ours("audit-policy-file", audit::POLICY_PATH), ours("audit-log-path", audit::LOG_PATH));
    if policy || log {
        audit_volume(cluster, log)?;
    }
    Ok(policy)
}

/// The volume of policy and log, unless the user mounts the same directory.
fn audit_volume(cluster: &mut Document, written: bool) -> Result<(), Error> {
    let name = "u7s-audit";
    let clash = items(cluster, &API_VOLUMES).iter().enumerate().find_map(|(index, volume)| {
        let (volume_name, mount) = (volume["name"].as_str(), volume["mountPath"].as_str());
        let mounted = mount.is_some_and(|mount| Path::new(mount) == Path::new(AUDIT_DIR));
        (mounted || volume_name == Some(name)).then(|| (index, volume.clone(), mounted))
    });
    let Some((index, volume, mounted)) = clash else {
        let ours = json!({
            "name": name, "hostPath": AUDIT_DIR, "mountPath": AUDIT_DIR, "readOnly": false, "pathType": "DirectoryOrCreate",
        });
        return push(cluster, &API_VOLUMES, ours);
    };
    let host_path = volume["hostPath"].as_str().unwrap_or_default();
    let writable = volume["readOnly"] != Value::Bool(true);
    if mounted && Path::new(host_path) == Path::new(AUDIT_DIR) && (writable || !written) {
        return Ok(());
    }
    Err(Error::Contradiction {
        path: format!("ClusterConfiguration.apiServer.extraVolumes[{index}]"),
        value: format!("{} mounted from {}", volume["mountPath"], volume["hostPath"]),
        need: format!("{AUDIT_DIR} mounted from {AUDIT_DIR}, writable"),
        why: "the API server reads its audit policy and writes its audit log there; set audit-policy-file and \
              audit-log-path to keep them elsewhere",
    })
}

fn domain(cluster: &Document, input: &Input<'_>) -> Result<String, Error> {
    let domain = text(cluster, &["networking", "dnsDomain"]).unwrap_or(DOMAIN);
    network::check_name(
        domain,
        &origin(input.request, "service-dns-domain", "ClusterConfiguration.networking.dnsDomain"),
    )?;
    Ok(domain.to_owned())
}

/// The local etcd's data directory: a directory of the node's user is bound over it.
fn etcd_dir(cluster: &Document) -> Result<Option<PathBuf>, Error> {
    if fields::at(cluster, &["etcd", "external"]).is_some() {
        return Ok(None);
    }
    let given = text(cluster, &["etcd", "local", "dataDir"]).unwrap_or(ETCD_DIR);
    let path = Path::new(given);
    let lost =
        ["/proc", "/sys", "/dev", "/run", "/var/run", "/tmp"].iter().any(|root| path.starts_with(root));
    let covers = COVERED.iter().any(|covered| Path::new(covered).starts_with(path));
    if !plain(path) || lost || covers {
        let why = format!(
            "{}: the data of etcd needs a directory of its own that outlives a restart",
            given.escape_debug()
        );
        return Err(Error::Invalid { path: "ClusterConfiguration.etcd.local.dataDir".into(), why });
    }
    Ok(Some(path.to_owned()))
}

/// Directories that the node needs as they are: nothing may be bound over them or a parent of theirs.
const COVERED: [&str; 12] = [
    "/usr/bin",
    "/bin",
    "/lib/modules",
    "/etc/kubernetes/pki",
    "/etc/cni/net.d",
    "/etc/crio",
    "/opt/cni/bin",
    "/var/lib/kubelet",
    "/var/lib/containers",
    "/var/lib/cni",
    "/var/lib/crio",
    "/var/log",
];

/// The certificates lie in the one directory of the host that both sides see.
fn cert_dir(cluster: &Document, input: &Input<'_>) -> Result<PathBuf, Error> {
    let given = text(cluster, &["certificatesDir"]).unwrap_or(CERT_DIR);
    let path = Path::new(given);
    if plain(path) && path.starts_with("/etc/kubernetes") && path != Path::new("/etc/kubernetes") {
        return Ok(path.to_owned());
    }
    Err(Error::Contradiction {
        path: origin(input.request, "cert-dir", "ClusterConfiguration.certificatesDir"),
        value: given.escape_debug().to_string(),
        need: "a directory in /etc/kubernetes".into(),
        why: "no other directory of the host's certificates is seen and written inside the namespaces",
    })
}

/// Absolute, without `.` or `..`.
fn plain(path: &Path) -> bool {
    let normal = |part: &str| part != "." && part != ".." && !part.contains(char::is_control);
    path.is_absolute() && path.to_str().is_some_and(|text| text.split('/').all(normal))
}

/// A value without blanks and control characters, which goes into names of images.
fn word(cluster: &Document, field: &str, input: &Input<'_>, flag: (&str, &str)) -> Result<String, Error> {
    let (flag, default) = flag;
    let value = text(cluster, &[field]).unwrap_or(default);
    if value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"./:_-+@[]".contains(&byte)) {
        return Ok(value.to_owned());
    }
    let path = origin(input.request, flag, &format!("ClusterConfiguration.{field}"));
    Err(Error::Invalid {
        path,
        why: format!("{}: not a value that an image's name can hold", value.escape_debug()),
    })
}

fn endpoint(cluster: &Document, input: &Input<'_>) -> Result<Option<String>, Error> {
    let Some(endpoint) = text(cluster, &["controlPlaneEndpoint"]) else { return Ok(None) };
    let path = origin(input.request, "control-plane-endpoint", "ClusterConfiguration.controlPlaneEndpoint");
    network::check_endpoint(endpoint, &path)?;
    Ok(Some(endpoint.to_owned()))
}
