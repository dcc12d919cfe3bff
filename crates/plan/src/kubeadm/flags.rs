//! Flags of `kubeadm init` folded into the documents.

use serde_json::{Value, json};

use super::documents::Documents;
use super::fields::{Document, set};
use super::{Error, fields};
use crate::request::Init;

/// Flags of one text and their fields in the InitConfiguration.
const INIT: &[(&str, &[&str])] = &[
    ("apiserver-advertise-address", &["localAPIEndpoint", "advertiseAddress"]),
    ("node-name", &["nodeRegistration", "name"]),
    ("certificate-key", &["certificateKey"]),
    ("cri-socket", &["nodeRegistration", "criSocket"]),
];

/// Flags of one text and their fields in the ClusterConfiguration.
const CLUSTER: &[(&str, &[&str])] = &[
    ("service-cidr", &["networking", "serviceSubnet"]),
    ("pod-network-cidr", &["networking", "podSubnet"]),
    ("service-dns-domain", &["networking", "dnsDomain"]),
    ("control-plane-endpoint", &["controlPlaneEndpoint"]),
    ("kubernetes-version", &["kubernetesVersion"]),
    ("cert-dir", &["certificatesDir"]),
    ("image-repository", &["imageRepository"]),
];

/// Refuses what kubeadm refuses beside `--config`, in its words.
///
/// Source: kubernetes 1.34.4, cmd/kubeadm/app/apis/kubeadm/validation, `ValidateMixedArguments`.
pub(super) fn mixed(request: &Init) -> Result<(), Error> {
    if request.config.is_none() {
        return Ok(());
    }
    let fields =
        request.config_flags.iter().map(|(name, _)| name.as_str()).filter(|name| *name != "node-name");
    let passed = request.pass_flags.iter().map(|flag| split(flag).0).filter(|name| *name == "vmodule");
    let mut names: Vec<_> = fields.chain(passed).map(str::to_owned).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() { Ok(()) } else { Err(Error::Mixed(names)) }
}

/// Writes the flags' values into their fields; an empty value is none, as in kubeadm.
pub(super) fn fold(request: &Init, documents: &mut Documents) -> Result<(), Error> {
    texts(request, INIT, &mut documents.init)?;
    texts(request, CLUSTER, &mut documents.cluster)?;
    if let Some(port) = request.value("apiserver-bind-port") {
        set(&mut documents.init, &["localAPIEndpoint", "bindPort"], number(port))?;
    }
    for (_, name) in request.config_flags.iter().filter(|(flag, _)| flag == "apiserver-cert-extra-sans") {
        fields::push(&mut documents.cluster, &["apiServer", "certSANs"], name.as_str().into())?;
    }
    if let Some(gates) = request.value("feature-gates") {
        fold_gates(gates, &mut documents.cluster)?;
    }
    fold_token(request, &mut documents.init)
}

/// Flags of join that have a field in the JoinConfiguration.
const JOIN: &[(&str, &[&str])] = &[
    ("node-name", &["nodeRegistration", "name"]),
    ("cri-socket", &["nodeRegistration", "criSocket"]),
    ("discovery-file", &["discovery", "file", "kubeConfigPath"]),
    ("tls-bootstrap-token", &["discovery", "tlsBootstrapToken"]),
    ("patches", &["patches", "directory"]),
];

/// Writes the flags of join into their fields: as kubeadm, endpoint and token flags count only with the endpoint, the API
/// server's only with `--control-plane`.
///
/// Source: kubernetes 1.34.4, cmd/kubeadm/app/cmd/join.go, `newJoinData`.
pub(super) fn fold_join(request: &Init, endpoint: Option<&str>, join: &mut Document) -> Result<(), Error> {
    texts(request, JOIN, join)?;
    let value = |flag| request.value(flag).filter(|value| !value.is_empty());
    if request.config_file().is_some() {
        return Ok(());
    }
    if let Some(token) = value("token").filter(|_| value("tls-bootstrap-token").is_none()) {
        set(join, &["discovery", "tlsBootstrapToken"], token)?;
    }
    if let Some(endpoint) = endpoint {
        let mut found = json!({ "apiServerEndpoint": endpoint });
        if let Some(token) = value("discovery-token").or_else(|| value("token")) {
            found["token"] = token.into();
        }
        let of = |(flag, _): &&(String, String)| flag == "discovery-token-ca-cert-hash";
        let hashes = request.config_flags.iter().filter(of).map(|(_, hash)| Value::from(hash.as_str()));
        found["caCertHashes"] = hashes.collect();
        if value("discovery-token-unsafe-skip-ca-verification") == Some("true") {
            found["unsafeSkipCAVerification"] = true.into();
        }
        set(join, &["discovery", "bootstrapToken"], found)?;
    }
    if value("control-plane") == Some("true") {
        set(join, &["controlPlane"], json!({}))?;
        texts(
            request,
            &[
                ("apiserver-advertise-address", &["controlPlane", "localAPIEndpoint", "advertiseAddress"]),
                ("certificate-key", &["controlPlane", "certificateKey"]),
            ],
            join,
        )?;
        if let Some(port) = value("apiserver-bind-port") {
            set(join, &["controlPlane", "localAPIEndpoint", "bindPort"], number(port))?;
        }
    }
    Ok(())
}

fn texts(request: &Init, table: &[(&str, &[&str])], document: &mut Document) -> Result<(), Error> {
    for (flag, path) in table {
        if let Some(value) = request.value(flag).filter(|value| !value.is_empty()) {
            set(document, path, value)?;
        }
    }
    Ok(())
}

/// A port as the shim wrote it; what is no number stays text, which the check of the port refuses.
fn number(text: &str) -> Value {
    text.parse::<i64>().map_or_else(|_| text.into(), Value::from)
}

/// `A=true,B=false`; whether kubeadm knows a gate is its own business.
fn fold_gates(gates: &str, cluster: &mut Document) -> Result<(), Error> {
    for gate in gates.split(',').map(str::trim).filter(|gate| !gate.is_empty()) {
        let refuse = |why: String| Error::Flag { name: "feature-gates".into(), why };
        let (name, value) = gate.split_once('=').unwrap_or((gate, ""));
        let enabled = match value.trim() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            "" => {
                return Err(refuse(format!(
                    "missing bool value for feature-gate key:{}",
                    name.escape_debug()
                )));
            }
            other => {
                let (other, name) = (other.escape_debug(), name.escape_debug());
                return Err(refuse(format!(
                    "invalid value {other} for feature-gate key: {name}, use true|false instead"
                )));
            }
        };
        set(cluster, &["featureGates", name.trim()], enabled)?;
    }
    Ok(())
}

/// `--token` and `--token-ttl` make the first and only token, as in kubeadm.
fn fold_token(request: &Init, init: &mut Document) -> Result<(), Error> {
    let value = |flag| request.value(flag).filter(|value| !value.is_empty());
    let (token, ttl) = (value("token"), value("token-ttl"));
    if token.is_none() && ttl.is_none() {
        return Ok(());
    }
    let mut entry = json!({});
    if let Some(token) = token {
        entry["token"] = token.into();
    }
    if let Some(ttl) = ttl {
        entry["ttl"] = ttl.into();
    }
    set(init, &["bootstrapTokens"], vec![entry])
}

/// The flags that kubeadm gets beside our `--config`.
///
/// # Errors
/// [`Error::Flag`] for `--vmodule`, which kubeadm refuses there, and `--rootfs`.
pub(super) fn pass(request: &Init) -> Result<Vec<String>, Error> {
    let mut passed = Vec::new();
    for flag in &request.pass_flags {
        match split(flag) {
            ("vmodule", _) => {
                let why = "kubeadm does not take it beside a configuration file, which a rootless node always has: use --v";
                return Err(Error::Flag { name: "vmodule".into(), why: why.into() });
            }
            ("rootfs", "" | "/") => {}
            ("rootfs", _) => {
                let why =
                    "kubeadm runs in the node's own namespaces and cannot change its root directory there";
                return Err(Error::Flag { name: "rootfs".into(), why: why.into() });
            }
            _ => passed.push(flag.clone()),
        }
    }
    Ok(passed)
}

/// Name and value of `--name=value`.
fn split(flag: &str) -> (&str, &str) {
    let flag = flag.trim_start_matches('-');
    flag.split_once('=').unwrap_or((flag, ""))
}

/// How to name the origin of a value: the flag if it was given, else the field.
pub(super) fn origin(request: &Init, flag: &str, field: &str) -> String {
    if request.value(flag).is_some_and(|value| !value.is_empty()) {
        format!("--{flag}")
    } else {
        field.to_owned()
    }
}
