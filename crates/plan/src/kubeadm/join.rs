//! The JoinConfiguration: how this node finds its cluster, and what it is there.

use std::path::{Path, PathBuf};

use secrecy::SecretString;
use serde_json::Value;

use super::documents;
use super::fields::{Document, at, items, set, text};
use super::init::{self, Scope};
use super::{DISCOVERY_FILE, Error, Input, Output, Role, flags, network, patches, render};

const SCOPE: Scope = Scope {
    kind: "JoinConfiguration",
    endpoint: &["controlPlane", "localAPIEndpoint"],
    key: &["controlPlane", "certificateKey"],
};

/// kubeadm's default place of the cluster's CA.
const CA: &str = "/etc/kubernetes/pki/ca.crt";

/// Completes the user's flags and document of `kubeadm join` with what a rootless node needs.
///
/// `endpoint` is the word of the command line. Pure: the same input gives the same text.
///
/// # Errors
/// The first [`Error`] that is found: kubeadm's own refusals, contradictions.
pub fn join(input: &Input<'_>, endpoint: Option<&str>) -> Result<Output, Error> {
    flags::mixed(input.request)?;
    let mut join = documents::sort_join(&input.documents, input.request.config_file().is_some())?;
    flags::fold_join(input.request, endpoint, &mut join)?;
    let pass_flags = flags::pass(input.request)?;
    let node_name = init::registration(&mut join, input, &SCOPE)?;
    let role = role(&mut join, input)?;
    let found = discovery(&mut join)?;
    ca_path(&join)?;
    let ignored = init::ignored(&mut join, input)?;
    let dry_run = input.request.dry_run || join.shift_remove("dryRun") == Some(Value::Bool(true));
    let control_plane = role != Role::Worker;
    Ok(Output {
        config: SecretString::from(render::join_whole(&join)),
        redacted: render::join_redacted(&join),
        patches: patches::files(input, None, control_plane)?,
        node_name,
        role,
        api_address: input.node.node_ip,
        pod_cidr: None,
        service_cidr: None,
        dns_domain: "cluster.local".into(),
        // The cluster's configuration tells, which is not known yet.
        etcd_data_dir: control_plane.then(|| PathBuf::from("/var/lib/etcd")),
        cert_dir: "/etc/kubernetes/pki".into(),
        image_repository: "registry.k8s.io".into(),
        kubernetes_version: format!("v{}", input.node.kubernetes_version),
        control_plane_endpoint: found,
        tainted: control_plane && init::tainted(&join),
        // A cluster that u7s made has the policy in every API server's arguments; in others it lies unused.
        audit: control_plane,
        dry_run,
        ignored,
        skip_phases: init::skip_phases(&join, input),
        last_objects: ("kube-system", &[]),
        pass_flags,
    })
}

/// `--control-plane` or `controlPlane` of the document make one; without, their flags mean nothing, as in kubeadm.
fn role(join: &mut Document, input: &Input<'_>) -> Result<Role, Error> {
    if at(join, &["controlPlane"]).is_none() {
        return Ok(Role::Worker);
    }
    let api_port = init::endpoint(join, input, &SCOPE)?;
    init::certificate_key(join, input, &SCOPE)?;
    Ok(Role::JoinedControlPlane { api_port })
}

/// Checks how the cluster is found, and gives `HOST:PORT` of its API server if it is known.
///
/// kubeadm's own rules, so that nothing is done before they hold; its further ones are told by kubeadm itself.
/// A discovery file is carried: the document names [`DISCOVERY_FILE`] instead.
///
/// Source: kubernetes 1.34.4, cmd/kubeadm/app/apis/kubeadm/validation, `ValidateDiscovery`.
fn discovery(join: &mut Document) -> Result<Option<String>, Error> {
    let refuse = |field: &str, why: &str| Error::Invalid { path: field.to_owned(), why: why.to_owned() };
    let token = at(join, &["discovery", "bootstrapToken"]).is_some();
    let file = text(join, &["discovery", "file", "kubeConfigPath"]).map(str::to_owned);
    match (token, &file) {
        (false, None) => {
            let why = "bootstrapToken or file must be set: give HOST:PORT and --token, or --discovery-file";
            return Err(refuse("discovery", why));
        }
        (true, Some(_)) => return Err(refuse("discovery", "bootstrapToken and file cannot both be set")),
        _ => {}
    }
    if let Some(file) = file {
        if !file.starts_with("https://") {
            set(join, &["discovery", "file", "kubeConfigPath"], DISCOVERY_FILE)?;
        }
        return Ok(None);
    }
    tokens(join)?;
    let endpoint = text(join, &["discovery", "bootstrapToken", "apiServerEndpoint"]);
    let Some(endpoint) = endpoint else {
        return Err(refuse("discovery.bootstrapToken.apiServerEndpoint", "Required value: HOST:PORT"));
    };
    if !endpoint.contains(':') {
        let why = format!("{}: missing port in address", endpoint.escape_debug());
        return Err(refuse("discovery.bootstrapToken.apiServerEndpoint", &why));
    }
    network::check_endpoint(endpoint, "discovery.bootstrapToken.apiServerEndpoint")?;
    Ok(Some(endpoint.to_owned()))
}

fn tokens(join: &Document) -> Result<(), Error> {
    let token = ["discovery", "bootstrapToken", "token"];
    let tls = ["discovery", "tlsBootstrapToken"];
    for (path, needed) in [(&token[..], true), (&tls[..], false)] {
        let value = text(join, path).unwrap_or_default();
        if (needed || !value.is_empty()) && !init::is_token(value) {
            let why = "the bootstrap token is invalid: it reads [a-z0-9]{6}.[a-z0-9]{16}";
            return Err(Error::Invalid { path: path.join("."), why: why.into() });
        }
    }
    let hashes = items(join, &["discovery", "bootstrapToken", "caCertHashes"]);
    let unsafely =
        at(join, &["discovery", "bootstrapToken", "unsafeSkipCAVerification"]) == Some(&Value::Bool(true));
    let path = "discovery.bootstrapToken.caCertHashes";
    if hashes.is_empty() && !unsafely {
        let why = "using token-based discovery without caCertHashes can be unsafe. Set --discovery-token-ca-cert-hash, or \
                   unsafeSkipCAVerification as true in your kubeadm config file or pass \
                   --discovery-token-unsafe-skip-ca-verification flag to continue";
        return Err(Error::Invalid { path: path.into(), why: why.into() });
    }
    match hashes.iter().filter_map(Value::as_str).find(|hash| !is_hash(hash)) {
        Some(hash) => {
            let why = format!("invalid public key hash {:?}: it reads sha256: and 64 hex digits", hash);
            Err(Error::Invalid { path: path.into(), why })
        }
        None => Ok(()),
    }
}

/// Source: kubernetes, cmd/kubeadm/app/util/pubkeypin, `Set.Allow`.
pub(crate) fn is_hash(hash: &str) -> bool {
    let hex = hash.to_ascii_lowercase();
    hex.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// `HOST:PORT` of an API server.
pub(crate) fn is_endpoint(endpoint: &str) -> bool {
    let bare = endpoint.strip_prefix('[').and_then(|rest| rest.split_once("]:"));
    match bare {
        Some((host, port)) => host.parse::<std::net::Ipv6Addr>().is_ok() && port.parse::<u16>().is_ok(),
        None => endpoint.contains(':') && network::check_endpoint(endpoint, "").is_ok(),
    }
}

/// The CA's certificate lies in the one directory of the host that both sides see.
fn ca_path(join: &Document) -> Result<(), Error> {
    let given = text(join, &["caCertPath"]).unwrap_or(CA);
    if Path::new(given).starts_with("/etc/kubernetes") && !given.split('/').any(|part| part == "..") {
        return Ok(());
    }
    Err(Error::Contradiction {
        path: "JoinConfiguration.caCertPath".into(),
        value: given.escape_debug().to_string(),
        need: "a file in /etc/kubernetes".into(),
        why: "no other directory of the host's certificates is seen and written inside the namespaces",
    })
}

/// The document of a dry run: tokens and keys hidden.
pub(super) fn redact(join: &mut Document) {
    for path in [
        &["discovery", "bootstrapToken", "token"][..],
        &["discovery", "tlsBootstrapToken"],
        &["controlPlane", "certificateKey"],
    ] {
        if text(join, path).is_some() {
            // The value was found there, so that its parents are objects.
            let _ = set(join, path, "<redacted>");
        }
    }
}

/// The user's discovery file, if he names one that is no URL: read by the door.
#[must_use]
pub fn discovery_file(request: &crate::request::Init, documents: &[Value]) -> Option<PathBuf> {
    let field = || {
        let document = documents.iter().find(|document| document["kind"] == "JoinConfiguration")?;
        document["discovery"]["file"]["kubeConfigPath"].as_str()
    };
    request
        .value("discovery-file")
        .or_else(field)
        .filter(|path| !path.is_empty() && !path.starts_with("https://"))
        .map(PathBuf::from)
}
