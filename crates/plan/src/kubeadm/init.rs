//! The InitConfiguration: the node's name, address and runtime.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::fields::{self, Document, at, items, set, text};
use super::flags::origin;
use super::{Error, Input, kubelet, network};
use crate::need::Ignored;
use crate::request;

/// kubeadm's default port of the API server.
const API_PORT: u16 = 6443;

/// Where the fields that init and join share lie.
#[derive(Debug)]
pub(super) struct Scope {
    /// Kind of the document.
    pub(super) kind: &'static str,
    /// Path of the local API endpoint.
    pub(super) endpoint: &'static [&'static str],
    /// Path of the certificate key.
    pub(super) key: &'static [&'static str],
}

impl Scope {
    /// How to name the origin of a value: the flag if it was given, else the field.
    pub(super) fn origin(&self, request: &request::Init, flag: &str, path: &[&str]) -> String {
        origin(request, flag, &format!("{}.{}", self.kind, path.join(".")))
    }

    fn below<'a>(&self, field: &'a str) -> Vec<&'a str> {
        self.endpoint.iter().copied().chain([field]).collect()
    }
}

/// The InitConfiguration.
const SCOPE: Scope =
    Scope { kind: "InitConfiguration", endpoint: &["localAPIEndpoint"], key: &["certificateKey"] };

/// Path of the kubelet's extra arguments.
pub(super) const KUBELET_ARGS: [&str; 2] = ["nodeRegistration", "kubeletExtraArgs"];

/// What the rest of the plan must know of a completed InitConfiguration.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) node_name: String,
    pub(super) api_port: u16,
    pub(super) tainted: bool,
    pub(super) dry_run: bool,
    pub(super) ignored: Ignored,
    pub(super) skip_phases: Vec<String>,
}

/// Completes the document.
pub(super) fn complete(init: &mut Document, input: &Input<'_>) -> Result<Facts, Error> {
    let node_name = registration(init, input, &SCOPE)?;
    let api_port = endpoint(init, input, &SCOPE)?;
    tokens(init, input)?;
    certificate_key(init, input, &SCOPE)?;
    let ignored = ignored(init, input)?;
    let dry_run = input.request.dry_run || init.shift_remove("dryRun") == Some(Value::Bool(true));
    Ok(Facts {
        node_name,
        api_port,
        tainted: tainted(init),
        dry_run,
        ignored,
        skip_phases: skip_phases(init, input),
    })
}

/// What every node says of itself; gives its name.
pub(super) fn registration(
    document: &mut Document,
    input: &Input<'_>,
    scope: &Scope,
) -> Result<String, Error> {
    let node_name = node_name(document, input, scope)?;
    socket(document, input, scope)?;
    kubelet::check_arguments(items(document, &KUBELET_ARGS), &input.node, scope.kind)?;
    fields::default_argument(document, &KUBELET_ARGS, "node-ip", &input.node.node_ip.to_string())?;
    set(document, &["patches", "directory"], input.node.patches_dir.to_string_lossy().as_ref())?;
    timeouts(document, input.node.timeout_factor)?;
    Ok(node_name)
}

/// Address and port of the local API server; gives the port.
pub(super) fn endpoint(document: &mut Document, input: &Input<'_>, scope: &Scope) -> Result<u16, Error> {
    address(document, input, scope)?;
    port(document, input, scope)
}

/// The user's name or the host's, lower case, as kubeadm's `GetHostname`; it also becomes a host name inside.
fn node_name(init: &mut Document, input: &Input<'_>, scope: &Scope) -> Result<String, Error> {
    let path = ["nodeRegistration", "name"];
    let given = text(init, &path);
    let origin = match given {
        Some(_) => scope.origin(input.request, "node-name", &path),
        None => "host name".to_owned(),
    };
    let name = given.unwrap_or(&input.node.hostname).trim().to_lowercase();
    // From 64 characters on it is need Hostname; one that is too long for DNS never comes so far.
    if name.len() > 253 {
        network::short_name(&name, &origin, (63, "a node's name"))?;
    }
    network::check_name(&name, &origin)?;
    set(init, &path, name.as_str())?;
    Ok(name)
}

/// The API server listens on the node's address: it is the only one inside.
fn address(init: &mut Document, input: &Input<'_>, scope: &Scope) -> Result<(), Error> {
    let path = scope.below("advertiseAddress");
    let ours = input.node.node_ip.to_string();
    let given = text(init, &path).unwrap_or("0.0.0.0");
    // kubeadm takes 0.0.0.0 for the address of the default route.
    let same = given
        .parse::<Ipv4Addr>()
        .is_ok_and(|address| address.is_unspecified() || address == input.node.node_ip);
    if !same {
        return Err(Error::Contradiction {
            path: scope.origin(input.request, "apiserver-advertise-address", &path),
            value: given.escape_debug().to_string(),
            need: ours,
            why: "the node has one address, which is one of the host's own",
        });
    }
    set(init, &path, ours)
}

fn port(init: &Document, input: &Input<'_>, scope: &Scope) -> Result<u16, Error> {
    let path = scope.below("bindPort");
    let Some(value) = at(init, &path) else { return Ok(API_PORT) };
    let port = value.as_u64().and_then(|port| u16::try_from(port).ok());
    match port {
        // Go's zero means unset in a configuration.
        Some(0) if input.request.value("apiserver-bind-port").is_none() => Ok(API_PORT),
        Some(port) if port > 0 => Ok(port),
        _ => Err(Error::Invalid {
            path: scope.origin(input.request, "apiserver-bind-port", &path),
            why: format!("{value} is no port number from 1 to 65535"),
        }),
    }
}

/// Only the node's own CRI-O answers inside.
fn socket(init: &mut Document, input: &Input<'_>, scope: &Scope) -> Result<(), Error> {
    let path = ["nodeRegistration", "criSocket"];
    let ours = format!("unix://{}", input.node.cri_socket.display());
    let given = text(init, &path).unwrap_or(&ours);
    let plain = |socket: &str| {
        let path = socket.strip_prefix("unix://").unwrap_or(socket);
        path.strip_prefix("/var/run/").map_or_else(|| path.to_owned(), |rest| format!("/run/{rest}"))
    };
    if plain(given) != plain(&ours) {
        return Err(Error::Contradiction {
            path: scope.origin(input.request, "cri-socket", &path),
            value: given.escape_debug().to_string(),
            need: ours,
            why: "containers run under the node's own CRI-O, which listens there inside the namespaces",
        });
    }
    set(init, &path, ours)
}

/// kubeadm's timeouts in seconds.
///
/// Source: kubernetes 1.34.4, cmd/kubeadm/app/constants.
const TIMEOUTS: [(&str, u32); 7] = [
    ("controlPlaneComponentHealthCheck", 240),
    ("kubeletHealthCheck", 240),
    ("kubernetesAPICall", 60),
    ("etcdAPICall", 120),
    ("tlsBootstrap", 300),
    ("discovery", 300),
    ("upgradeManifests", 300),
];

/// Longer timeouts for a slow machine.
fn timeouts(init: &mut Document, factor: u32) -> Result<(), Error> {
    for (name, seconds) in TIMEOUTS.into_iter().filter(|_| factor > 1) {
        fields::default(init, &["timeouts", name], format!("{}s", u64::from(seconds) * u64::from(factor)))?;
    }
    Ok(())
}

/// Tokens have kubeadm's form, so that a bad one is told before anything is done.
fn tokens(init: &Document, input: &Input<'_>) -> Result<(), Error> {
    for (index, token) in items(init, &["bootstrapTokens"]).iter().enumerate() {
        let Some(token) = token.get("token").and_then(Value::as_str) else { continue };
        if !is_token(token) {
            let field = format!("InitConfiguration.bootstrapTokens[{index}].token");
            let why =
                "the bootstrap token was not of the form \"\\A([a-z0-9]{6})\\.([a-z0-9]{16})\\z\"".to_owned();
            return Err(Error::Invalid { path: origin(input.request, "token", &field), why });
        }
    }
    Ok(())
}

/// So has the certificate key.
pub(super) fn certificate_key(document: &Document, input: &Input<'_>, scope: &Scope) -> Result<(), Error> {
    let key = text(document, scope.key).unwrap_or_default();
    let whole = key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !key.is_empty() && !whole {
        return Err(Error::Invalid {
            path: scope.origin(input.request, "certificate-key", scope.key),
            why: "the key must be an AES key of size 32, hex encoded".into(),
        });
    }
    Ok(())
}

/// Source: kubernetes, bootstraptoken/v1, `BootstrapTokenPattern`.
pub(crate) fn is_token(token: &str) -> bool {
    let right = |part: &str, length| {
        part.len() == length && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    token.split_once('.').is_some_and(|(id, secret)| right(id, 6) && right(secret, 16))
}

/// Flag, configuration and the node's own needs together, written into the configuration; gives the user's own.
pub(super) fn ignored(init: &mut Document, input: &Input<'_>) -> Result<Ignored, Error> {
    let path = ["nodeRegistration", "ignorePreflightErrors"];
    let configured = items(init, &path).iter().filter_map(Value::as_str);
    let asked = Ignored::new(configured.chain(input.request.ignored.ids()));
    let all = asked.ids().any(|id| id == "all");
    if all && asked.ids().count() > 1 {
        let why = "don't specify individual checks if 'all' is used".to_owned();
        return Err(Error::Invalid { path: "ignore-preflight-errors".into(), why });
    }
    let ours = input.node.ignored.ids().filter(|_| !all);
    let ignored = Ignored::new(asked.ids().chain(ours));
    if ignored.ids().next().is_some() {
        set(init, &path, ignored.ids().map(Value::from).collect::<Vec<_>>())?;
    }
    Ok(asked)
}

/// Whether ordinary pods are kept away; without a list kubeadm sets the control plane's taint.
pub(super) fn tainted(init: &Document) -> bool {
    let repels = |taint: &Value| matches!(taint["effect"].as_str(), Some("NoSchedule" | "NoExecute"));
    at(init, &["nodeRegistration", "taints"])
        .is_none_or(|taints| taints.as_array().is_some_and(|list| list.iter().any(repels)))
}

/// kubeadm reads the configuration's list only if the flag gives none.
pub(super) fn skip_phases(init: &Document, input: &Input<'_>) -> Vec<String> {
    let flag = &input.request.skip_phases;
    let configured =
        || items(init, &["skipPhases"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    if flag.is_empty() { configured() } else { flag.clone() }
}

/// The document of a dry run: tokens and keys hidden.
pub(super) fn redact(init: &mut Document) {
    let hidden = || Value::from("<redacted>");
    if init.contains_key("certificateKey") {
        init.insert("certificateKey".into(), hidden());
    }
    let tokens = init.get_mut("bootstrapTokens").and_then(Value::as_array_mut);
    for token in tokens.into_iter().flatten().filter_map(Value::as_object_mut) {
        if token.contains_key("token") {
            token.insert("token".into(), hidden());
        }
    }
}

/// `value` of every entry of `extraEnvs` hidden: a proxy's address may hold a password.
pub(super) fn redact_environment(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                if key == "extraEnvs" {
                    let entries = value
                        .as_array_mut()
                        .into_iter()
                        .flatten()
                        .filter(|entry| entry.get("value").is_some());
                    entries.for_each(|entry| entry["value"] = json!("<redacted>"));
                } else {
                    redact_environment(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact_environment),
        _ => {}
    }
}
