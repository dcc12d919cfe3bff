//! The user's documents by kind, checked and brought to v1beta4.

use serde_json::{Map, Value, json};

use super::fields::{self, Document};
use super::schema::{self, Field};
use super::{Error, fields::text};

/// The API version that we write.
pub(super) const V1BETA4: &str = "kubeadm.k8s.io/v1beta4";
const V1BETA3: &str = "kubeadm.k8s.io/v1beta3";
/// API version and kind of the kubelet's configuration.
const KUBELET: [&str; 2] = ["kubelet.config.k8s.io/v1beta1", "KubeletConfiguration"];
/// API version and kind of kube-proxy's configuration.
pub(super) const PROXY: [&str; 2] = ["kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration"];
/// kubeadm's kinds that init does not read.
const OTHERS: [&str; 3] = ["JoinConfiguration", "ResetConfiguration", "UpgradeConfiguration"];

/// What kubeadm's init reads; empty documents where the user gave none.
#[derive(Debug, Default)]
pub(super) struct Documents {
    /// InitConfiguration, v1beta4.
    pub(super) init: Document,
    /// ClusterConfiguration, v1beta4.
    pub(super) cluster: Document,
    /// KubeletConfiguration, if the user gave one.
    pub(super) kubelet: Option<Document>,
    /// KubeProxyConfiguration.
    pub(super) proxy: Document,
}

/// Sorts the user's documents by kind, checks their fields and migrates v1beta3.
///
/// `given`: the user gave a `--config`, so that one of kubeadm's own kinds must be in it.
///
/// # Errors
/// [`Error::Document`] for what is no configuration of kubeadm, [`Error::Invalid`] for a bad field.
pub(super) fn sort(documents: &[Value], given: bool) -> Result<Documents, Error> {
    let mut sorted = Documents::default();
    let mut seen = Vec::new();
    for (index, value) in documents.iter().enumerate() {
        let refuse = |why: String| Error::Document { number: index + 1, why };
        let document = value.as_object().ok_or_else(|| refuse("it is no map".into()))?;
        let (Some(version), Some(kind)) = (text(document, &["apiVersion"]), text(document, &["kind"])) else {
            return Err(refuse("kind and apiVersion is mandatory information that must be specified".into()));
        };
        if seen.contains(&kind) {
            return Err(refuse(format!("kind \"{}\" is specified twice", kind.escape_debug())));
        }
        seen.push(kind);
        match (version, kind) {
            (V1BETA4, "InitConfiguration") => sorted.init = checked(value, schema::INIT, kind)?,
            (V1BETA4, "ClusterConfiguration") => sorted.cluster = checked(value, schema::CLUSTER, kind)?,
            (V1BETA3, "InitConfiguration") => sorted.init = init3(checked(value, schema::INIT3, kind)?)?,
            (V1BETA3, "ClusterConfiguration") => {
                sorted.cluster = cluster3(checked(value, schema::CLUSTER3, kind)?)?
            }
            (V1BETA3 | V1BETA4, kind) if OTHERS.contains(&kind) => {}
            _ if [version, kind] == KUBELET => sorted.kubelet = Some(document.clone()),
            _ if [version, kind] == PROXY => sorted.proxy = document.clone(),
            _ => return Err(refuse(strange(version, kind))),
        }
    }
    if given && !seen.contains(&"InitConfiguration") && !seen.contains(&"ClusterConfiguration") {
        let why = "no InitConfiguration or ClusterConfiguration kind was found in the configuration file";
        return Err(Error::Document { number: documents.len(), why: why.into() });
    }
    move_timeout(&mut sorted)?;
    Ok(sorted)
}

/// The JoinConfiguration among the user's documents, its fields checked and v1beta3 migrated; kubeadm passes over the others.
///
/// # Errors
/// As [`sort`].
pub(super) fn sort_join(documents: &[Value], given: bool) -> Result<Document, Error> {
    let mut found = None;
    for (index, value) in documents.iter().enumerate() {
        let refuse = |why: String| Error::Document { number: index + 1, why };
        let document = value.as_object().ok_or_else(|| refuse("it is no map".into()))?;
        let (Some(version), Some(kind)) = (text(document, &["apiVersion"]), text(document, &["kind"])) else {
            return Err(refuse("kind and apiVersion is mandatory information that must be specified".into()));
        };
        if kind != "JoinConfiguration" {
            continue;
        }
        if found.is_some() {
            return Err(refuse(format!("kind \"{kind}\" is specified twice")));
        }
        found = Some(match version {
            V1BETA4 => checked(value, schema::JOIN, kind)?,
            V1BETA3 => join3(checked(value, schema::JOIN3, kind)?)?,
            _ => return Err(refuse(strange(version, kind).replace("kubeadm init", "kubeadm join"))),
        });
    }
    match found {
        None if given => {
            let why = "no JoinConfiguration kind was found in the configuration file";
            Err(Error::Document { number: documents.len(), why: why.into() })
        }
        found => Ok(found.unwrap_or_default()),
    }
}

/// v1beta3's JoinConfiguration as v1beta4's: its timeout of the discovery has another place.
fn join3(mut join: Document) -> Result<Document, Error> {
    arguments(&mut join, &["nodeRegistration", "kubeletExtraArgs"])?;
    let discovery = join.get_mut("discovery").and_then(Value::as_object_mut);
    let timeout = discovery.and_then(|fields| fields.shift_remove("timeout"));
    timeout.map_or(Ok(()), |timeout| fields::default(&mut join, &["timeouts", "discovery"], timeout))?;
    Ok(join)
}

/// Words for a document that is none of ours, those of kubeadm for its own old versions.
fn strange(version: &str, kind: &str) -> String {
    let last = [
        ("v1alpha1", "v1.11"),
        ("v1alpha2", "v1.12"),
        ("v1alpha3", "v1.14"),
        ("v1beta1", "v1.15"),
        ("v1beta2", "v1.22"),
    ];
    let old =
        version.strip_prefix("kubeadm.k8s.io/").and_then(|short| last.iter().find(|(old, _)| *old == short));
    let (version, kind) = (version.escape_debug(), kind.escape_debug());
    match old {
        Some((_, kubeadm)) => format!(
            "your configuration file uses an old API spec: \"{version}\" (kind: \"{kind}\"). Please use kubeadm {kubeadm} \
             instead and run 'kubeadm config migrate --old-config old-config-file --new-config new-config-file', which \
             will write the new, similar spec using a newer API version."
        ),
        None => format!(
            "apiVersion \"{version}\" with kind \"{kind}\" is no configuration that kubeadm init reads"
        ),
    }
}

fn checked(value: &Value, fields: &'static [Field], kind: &str) -> Result<Document, Error> {
    schema::check(value, schema::Kind::Object(fields), kind)?;
    let mut value = value.clone();
    fields::strip_nulls(&mut value);
    Ok(value.as_object().cloned().unwrap_or_default())
}

/// v1beta3's InitConfiguration as v1beta4's.
fn init3(mut init: Document) -> Result<Document, Error> {
    arguments(&mut init, &["nodeRegistration", "kubeletExtraArgs"])?;
    Ok(init)
}

/// v1beta3's ClusterConfiguration as v1beta4's, but for the timeout that [`move_timeout`] moves.
fn cluster3(mut cluster: Document) -> Result<Document, Error> {
    for parents in [&["apiServer"][..], &["controllerManager"], &["scheduler"], &["etcd", "local"]] {
        arguments(&mut cluster, &[parents, &["extraArgs"]].concat())?;
    }
    Ok(cluster)
}

/// A map of arguments as v1beta4's sorted list.
fn arguments(document: &mut Document, path: &[&str]) -> Result<(), Error> {
    let Some(map) = fields::at(document, path).and_then(Value::as_object) else { return Ok(()) };
    let mut sorted: Vec<_> = map.iter().collect();
    sorted.sort_by_key(|(name, _)| *name);
    let list: Vec<_> =
        sorted.into_iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    fields::set(document, path, list)
}

/// v1beta3's `apiServer.timeoutForControlPlane` is a timeout of v1beta4's InitConfiguration.
fn move_timeout(documents: &mut Documents) -> Result<(), Error> {
    let api_server = documents.cluster.get_mut("apiServer").and_then(Value::as_object_mut);
    let Some(timeout) = api_server.and_then(|fields| fields.shift_remove("timeoutForControlPlane")) else {
        return Ok(());
    };
    fields::default(&mut documents.init, &["timeouts", "controlPlaneComponentHealthCheck"], timeout)
}

/// The document with its version and kind in front.
pub(super) fn headed(version: &str, kind: &str, document: &Document) -> Value {
    let mut headed = Map::new();
    headed.insert("apiVersion".into(), version.into());
    headed.insert("kind".into(), kind.into());
    let body = document.iter().filter(|(key, _)| *key != "apiVersion" && *key != "kind");
    headed.extend(body.map(|(key, value)| (key.clone(), value.clone())));
    Value::Object(headed)
}

/// The kubelet's configuration with its version and kind in front.
pub(super) fn headed_kubelet(document: &Document) -> Value {
    headed(KUBELET[0], KUBELET[1], document)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(documents: &[Value]) -> String {
        sort(documents, true).expect_err("must be refused").to_string()
    }

    #[test]
    fn f44_documents_that_are_no_configuration_are_refused() {
        let init = json!({"apiVersion": V1BETA4, "kind": "InitConfiguration"});
        let cases = [
            (vec![json!([1])], "document 1 of the configuration: it is no map"),
            (
                vec![json!({"kind": "X"})],
                "document 1 of the configuration: kind and apiVersion is mandatory information that must be specified",
            ),
            (
                vec![init.clone(), init.clone()],
                "document 2 of the configuration: kind \"InitConfiguration\" is specified twice",
            ),
            (
                vec![init.clone(), json!({"apiVersion": "foo/v1", "kind": "X\u{1b}["})],
                "document 2 of the configuration: apiVersion \"foo/v1\" with kind \"X\\u{1b}[\" is no configuration that kubeadm init reads",
            ),
            (
                vec![json!({"apiVersion": "kubeadm.k8s.io/v1beta9", "kind": "InitConfiguration"})],
                "document 1 of the configuration: apiVersion \"kubeadm.k8s.io/v1beta9\" with kind \"InitConfiguration\" is no configuration that kubeadm init reads",
            ),
            (
                vec![],
                "document 0 of the configuration: no InitConfiguration or ClusterConfiguration kind was found in the configuration file",
            ),
            (
                vec![json!({"apiVersion": V1BETA4, "kind": "JoinConfiguration"})],
                "document 1 of the configuration: no InitConfiguration or ClusterConfiguration kind was found in the configuration file",
            ),
        ];
        for (documents, expected) in cases {
            assert_eq!(refused(&documents), expected);
        }
        let old = refused(&[json!({"apiVersion": "kubeadm.k8s.io/v1beta2", "kind": "InitConfiguration"})]);
        assert!(old.contains("uses an old API spec") && old.contains("kubeadm v1.22"), "{old}");
    }
}
