//! The fields of kubeadm's configuration kinds: typos and wrong types are told before anything is done.
//!
//! kubeadm's own init only warns of an unknown field, and goes on without what the user meant.

use serde_json::Value;

use super::Error;

/// What a field takes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Text; durations too.
    Text,
    /// Boolean.
    Bool,
    /// Integer.
    Int,
    /// List of texts.
    Texts,
    /// Texts by name.
    TextMap,
    /// Booleans by name.
    BoolMap,
    /// An object with these fields.
    Object(&'static [Field]),
    /// A list of objects with these fields.
    List(&'static [Field]),
    /// Not looked into.
    Any,
}

/// Name and type.
pub(super) type Field = (&'static str, Kind);

use Kind::{Any, Bool, BoolMap, Int, List, Object, Text, TextMap, Texts};

const TYPE: [Field; 2] = [("apiVersion", Text), ("kind", Text)];
const ARGS: Kind = List(&[("name", Text), ("value", Text)]);
const ENVS: Kind = List(&[("name", Text), ("value", Text), ("valueFrom", Any)]);
const VOLUMES: Kind =
    List(&[("name", Text), ("hostPath", Text), ("mountPath", Text), ("readOnly", Bool), ("pathType", Text)]);
const ENDPOINT: Kind = Object(&[("advertiseAddress", Text), ("bindPort", Int)]);
const TAINTS: Kind = List(&[("key", Text), ("value", Text), ("effect", Text), ("timeAdded", Text)]);
const TOKENS: Kind = List(&[
    ("token", Text),
    ("description", Text),
    ("ttl", Text),
    ("expires", Text),
    ("usages", Texts),
    ("groups", Texts),
]);
const REGISTRATION: Kind = Object(&[
    ("name", Text),
    ("criSocket", Text),
    ("taints", TAINTS),
    ("kubeletExtraArgs", ARGS),
    ("ignorePreflightErrors", Texts),
    ("imagePullPolicy", Text),
    ("imagePullSerial", Bool),
]);
const REGISTRATION3: Kind = Object(&[
    ("name", Text),
    ("criSocket", Text),
    ("taints", TAINTS),
    ("kubeletExtraArgs", TextMap),
    ("ignorePreflightErrors", Texts),
    ("imagePullPolicy", Text),
]);
const TIMEOUTS: Kind = Object(&[
    ("controlPlaneComponentHealthCheck", Text),
    ("kubeletHealthCheck", Text),
    ("kubernetesAPICall", Text),
    ("etcdAPICall", Text),
    ("tlsBootstrap", Text),
    ("discovery", Text),
    ("upgradeManifests", Text),
]);
const TOKEN_DISCOVERY: Kind = Object(&[
    ("token", Text),
    ("apiServerEndpoint", Text),
    ("caCertHashes", Texts),
    ("unsafeSkipCAVerification", Bool),
]);
const FILE_DISCOVERY: Kind = Object(&[("kubeConfigPath", Text)]);
const JOIN_CONTROL_PLANE: Kind = Object(&[("localAPIEndpoint", ENDPOINT), ("certificateKey", Text)]);
const PATCHES: Kind = Object(&[("directory", Text)]);
const NETWORKING: Kind = Object(&[("serviceSubnet", Text), ("podSubnet", Text), ("dnsDomain", Text)]);
const EXTERNAL: Kind = Object(&[
    ("endpoints", Texts),
    ("httpEndpoints", Texts),
    ("caFile", Text),
    ("certFile", Text),
    ("keyFile", Text),
]);
const COMPONENT: Kind = Object(&[("extraArgs", ARGS), ("extraVolumes", VOLUMES), ("extraEnvs", ENVS)]);
const COMPONENT3: Kind = Object(&[("extraArgs", TextMap), ("extraVolumes", VOLUMES)]);

/// InitConfiguration, v1beta4.
///
/// Source: kubernetes 1.34.4, cmd/kubeadm/app/apis/kubeadm/v1beta4/types.go; kubernetes#134890 for httpEndpoints.
pub(super) const INIT: &[Field] = &[
    TYPE[0],
    TYPE[1],
    ("bootstrapTokens", TOKENS),
    ("dryRun", Bool),
    ("nodeRegistration", REGISTRATION),
    ("localAPIEndpoint", ENDPOINT),
    ("certificateKey", Text),
    ("skipPhases", Texts),
    ("patches", PATCHES),
    ("timeouts", TIMEOUTS),
];

/// JoinConfiguration, v1beta4.
///
/// Source: kubernetes 1.34.4, cmd/kubeadm/app/apis/kubeadm/v1beta4/types.go.
pub(super) const JOIN: &[Field] = &[
    TYPE[0],
    TYPE[1],
    ("dryRun", Bool),
    ("nodeRegistration", REGISTRATION),
    ("caCertPath", Text),
    (
        "discovery",
        Object(&[("bootstrapToken", TOKEN_DISCOVERY), ("file", FILE_DISCOVERY), ("tlsBootstrapToken", Text)]),
    ),
    ("controlPlane", JOIN_CONTROL_PLANE),
    ("skipPhases", Texts),
    ("patches", PATCHES),
    ("timeouts", TIMEOUTS),
];

/// JoinConfiguration, v1beta3.
pub(super) const JOIN3: &[Field] = &[
    TYPE[0],
    TYPE[1],
    ("nodeRegistration", REGISTRATION3),
    ("caCertPath", Text),
    (
        "discovery",
        Object(&[
            ("bootstrapToken", TOKEN_DISCOVERY),
            ("file", FILE_DISCOVERY),
            ("tlsBootstrapToken", Text),
            ("timeout", Text),
        ]),
    ),
    ("controlPlane", JOIN_CONTROL_PLANE),
    ("skipPhases", Texts),
    ("patches", PATCHES),
];

/// ClusterConfiguration, v1beta4.
pub(super) const CLUSTER: &[Field] = &[
    TYPE[0],
    TYPE[1],
    (
        "etcd",
        Object(&[
            (
                "local",
                Object(&[
                    ("imageRepository", Text),
                    ("imageTag", Text),
                    ("dataDir", Text),
                    ("extraArgs", ARGS),
                    ("extraEnvs", ENVS),
                    ("serverCertSANs", Texts),
                    ("peerCertSANs", Texts),
                ]),
            ),
            ("external", EXTERNAL),
        ]),
    ),
    ("networking", NETWORKING),
    ("kubernetesVersion", Text),
    ("controlPlaneEndpoint", Text),
    (
        "apiServer",
        Object(&[("extraArgs", ARGS), ("extraVolumes", VOLUMES), ("extraEnvs", ENVS), ("certSANs", Texts)]),
    ),
    ("controllerManager", COMPONENT),
    ("scheduler", COMPONENT),
    ("dns", Object(&[("imageRepository", Text), ("imageTag", Text), ("disabled", Bool)])),
    ("proxy", Object(&[("disabled", Bool)])),
    ("certificatesDir", Text),
    ("imageRepository", Text),
    ("featureGates", BoolMap),
    ("clusterName", Text),
    ("encryptionAlgorithm", Text),
    ("certificateValidityPeriod", Text),
    ("caCertificateValidityPeriod", Text),
];

/// InitConfiguration, v1beta3.
///
/// Source: kubernetes 1.34.4, cmd/kubeadm/app/apis/kubeadm/v1beta3/types.go.
pub(super) const INIT3: &[Field] = &[
    TYPE[0],
    TYPE[1],
    ("bootstrapTokens", TOKENS),
    ("nodeRegistration", REGISTRATION3),
    ("localAPIEndpoint", ENDPOINT),
    ("certificateKey", Text),
    ("skipPhases", Texts),
    ("patches", PATCHES),
];

/// ClusterConfiguration, v1beta3.
pub(super) const CLUSTER3: &[Field] = &[
    TYPE[0],
    TYPE[1],
    (
        "etcd",
        Object(&[
            (
                "local",
                Object(&[
                    ("imageRepository", Text),
                    ("imageTag", Text),
                    ("dataDir", Text),
                    ("extraArgs", TextMap),
                    ("serverCertSANs", Texts),
                    ("peerCertSANs", Texts),
                ]),
            ),
            ("external", EXTERNAL),
        ]),
    ),
    ("networking", NETWORKING),
    ("kubernetesVersion", Text),
    ("controlPlaneEndpoint", Text),
    (
        "apiServer",
        Object(&[
            ("extraArgs", TextMap),
            ("extraVolumes", VOLUMES),
            ("certSANs", Texts),
            ("timeoutForControlPlane", Text),
        ]),
    ),
    ("controllerManager", COMPONENT3),
    ("scheduler", COMPONENT3),
    ("dns", Object(&[("imageRepository", Text), ("imageTag", Text)])),
    ("certificatesDir", Text),
    ("imageRepository", Text),
    ("featureGates", BoolMap),
    ("clusterName", Text),
];

/// Compares a value with what its field takes; null is always taken, as in Go.
///
/// # Errors
/// [`Error::Invalid`] names the field. Values are never quoted: one may be a token.
pub(super) fn check(value: &Value, kind: Kind, path: &str) -> Result<(), Error> {
    match (kind, value) {
        (Any, _) | (_, Value::Null) | (Text, Value::String(_)) | (Bool, Value::Bool(_)) => Ok(()),
        (Int, Value::Number(number)) if number.is_i64() => Ok(()),
        (Texts, Value::Array(items)) => each(items, Text, path),
        (List(fields), Value::Array(items)) => each(items, Object(fields), path),
        (TextMap, Value::Object(map)) => {
            map.iter().try_for_each(|(key, item)| check(item, Text, &format!("{path}.{key}")))
        }
        (BoolMap, Value::Object(map)) => {
            map.iter().try_for_each(|(key, item)| check(item, Bool, &format!("{path}.{key}")))
        }
        (Object(fields), Value::Object(map)) => {
            map.iter().try_for_each(|(key, item)| match fields.iter().find(|(name, _)| name == key) {
                Some((_, kind)) => check(item, *kind, &format!("{path}.{key}")),
                None => Err(unknown(key, fields, path)),
            })
        }
        _ => Err(mismatch(value, kind, path)),
    }
}

fn each(items: &[Value], kind: Kind, path: &str) -> Result<(), Error> {
    items.iter().enumerate().try_for_each(|(index, item)| check(item, kind, &format!("{path}[{index}]")))
}

fn unknown(key: &str, fields: &[Field], path: &str) -> Error {
    let near = fields.iter().map(|(name, _)| *name).find(|name| near(name, key));
    let why = match near {
        Some(name) => format!("unknown field; did you mean {name}?"),
        None => "unknown field".to_owned(),
    };
    Error::Invalid { path: format!("{path}.{}", key.escape_debug()), why }
}

/// Equal but for case, or for one character more, less or different.
fn near(name: &str, key: &str) -> bool {
    let start = name.bytes().zip(key.bytes()).take_while(|(a, b)| a.eq_ignore_ascii_case(b)).count();
    let tails = name.bytes().rev().zip(key.bytes().rev());
    let end = tails.take_while(|(a, b)| a.eq_ignore_ascii_case(b)).count();
    let longest = name.len().max(key.len());
    name.len().abs_diff(key.len()) <= 1 && start + end + 1 >= longest
}

fn mismatch(value: &Value, kind: Kind, path: &str) -> Error {
    let expected = match kind {
        Text => "a text",
        Bool => "true or false",
        Int => "an integer",
        Texts => "a list of texts",
        TextMap => "a map of texts",
        BoolMap => "a map of booleans",
        Object(_) => "a map",
        List(_) => "a list of maps",
        Any => "anything",
    };
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    };
    let quote = matches!((kind, value), (Text, Value::Bool(_) | Value::Number(_)));
    let hint = if quote { ": put it in quotes" } else { "" };
    Error::Invalid { path: path.to_owned(), why: format!("{expected} is expected, not {found}{hint}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(value: &Value) -> String {
        check(value, Object(CLUSTER), "ClusterConfiguration").expect_err("must be refused").to_string()
    }

    #[test]
    fn f44_unknown_fields_and_wrong_types_are_named() {
        let cases = [
            (
                json!({"networking": {"podSubnett": "x"}}),
                "ClusterConfiguration.networking.podSubnett: unknown field; did you mean podSubnet?",
            ),
            (
                json!({"Networking": {}}),
                "ClusterConfiguration.Networking: unknown field; did you mean networking?",
            ),
            (json!({"frob": 1}), "ClusterConfiguration.frob: unknown field"),
            (
                json!({"clusterName": 5}),
                "ClusterConfiguration.clusterName: a text is expected, not a number: put it in quotes",
            ),
            (
                json!({"apiServer": {"extraArgs": {"v": "1"}}}),
                "ClusterConfiguration.apiServer.extraArgs: a list of maps is expected, not a map",
            ),
            (
                json!({"apiServer": {"extraArgs": [{"name": "v", "value": true}]}}),
                "ClusterConfiguration.apiServer.extraArgs[0].value: a text is expected, not a boolean: put it in quotes",
            ),
            (
                json!({"dns": {"disabled": "yes"}}),
                "ClusterConfiguration.dns.disabled: true or false is expected, not a text",
            ),
            (json!({"etcd": []}), "ClusterConfiguration.etcd: a map is expected, not a list"),
        ];
        for (value, expected) in cases {
            assert_eq!(refused(&value), expected);
        }
        assert_eq!(check(&json!({"etcd": null, "dns": {"disabled": true}}), Object(CLUSTER), ""), Ok(()));
    }
}
