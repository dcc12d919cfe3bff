//! Documents as text: JSON, which kubeadm reads as the YAML it is.

use serde_json::Value;

use super::documents::{self, Documents, V1BETA4};
use super::fields::Document;
use super::{init, join as joining};
use crate::yaml;

/// The whole configuration, with secrets.
pub(super) fn whole(documents: &Documents) -> String {
    let values = values(documents);
    join(&values)
}

/// The configuration for people: without tokens, keys and values of environments.
pub(super) fn redacted(documents: &Documents) -> String {
    let mut init = documents.init.clone();
    init::redact(&mut init);
    let mut values = values(documents);
    if let Some(first) = values.first_mut() {
        *first = documents::headed(V1BETA4, "InitConfiguration", &init);
    }
    values.iter_mut().for_each(init::redact_environment);
    join(&values)
}

/// A JoinConfiguration, with secrets.
pub(super) fn join_whole(document: &Document) -> String {
    join(&[documents::headed(V1BETA4, "JoinConfiguration", document)])
}

/// A JoinConfiguration for people: without tokens and keys.
pub(super) fn join_redacted(document: &Document) -> String {
    let mut document = document.clone();
    joining::redact(&mut document);
    join_whole(&document)
}

/// InitConfiguration first.
fn values(documents: &Documents) -> Vec<Value> {
    let kubelet = documents.kubelet.as_ref().map(documents::headed_kubelet);
    let [version, kind] = documents::PROXY;
    [
        Some(documents::headed(V1BETA4, "InitConfiguration", &documents.init)),
        Some(documents::headed(V1BETA4, "ClusterConfiguration", &documents.cluster)),
        kubelet,
        Some(documents::headed(version, kind, &documents.proxy)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn join(values: &[Value]) -> String {
    let texts: Vec<_> = values.iter().map(|value| format!("{}\n", yaml::json(value))).collect();
    texts.join("---\n")
}
