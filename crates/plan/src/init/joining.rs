//! `kubeadm join` as a plan: like init's, but for what is the cluster's own.

use serde_json::Value;

use super::{Docs, Outcome, manifests, node_facts, node_ip, outcome, used_ports};
use crate::config::Config;
use crate::facts::Facts;
use crate::kubeadm::{self, Input, NodeFacts};
use crate::need::Ignored;
use crate::request;

/// The phase of `kubeadm join` that refuses a node which runs already.
const KUBELET_START: &str = "kubelet-start";

/// Where a JoinConfiguration says how its API server is reached.
const ENDPOINT: (&str, &[&str]) = ("JoinConfiguration", &["controlPlane", "localAPIEndpoint"]);

/// Plans `kubeadm join`.
///
/// Shape: as [`super::init`]'s. Settings of this node go into kubeadm's patches, so the cluster's ConfigMaps need not know of
/// rootless nodes.
///
/// # Errors
/// [`kubeadm::Error`]: the user's flags and documents make no configuration of a rootless node.
pub fn join(
    config: &Config,
    request: &request::Join,
    docs: Docs,
    facts: &Facts,
) -> Result<Outcome, kubeadm::Error> {
    let given = &request.given;
    let node_ip = node_ip(given, &docs.documents, facts, ENDPOINT);
    let ignored = traces(facts, given, &docs.documents);
    let node = NodeFacts { ignored, ..node_facts(config, facts, node_ip) };
    let input = Input { request: given, documents: docs.documents, user_patches: docs.patches, node };
    let mut merged = kubeadm::join(&input, request.endpoint.as_deref())?;
    if facts.cluster.kubelet_conf && interrupted(facts) {
        merged.skip(KUBELET_START);
    }
    Ok(outcome(config, facts, &merged, docs.discovery))
}

/// An earlier join was killed before its end.
fn interrupted(facts: &Facts) -> bool {
    facts.cluster.begun && !facts.cluster.finished
}

/// What kubeadm's own preflight inside would take for another cluster: the traces of a run of ours that was killed.
///
/// A control plane is checked as by init, too.
///
/// Source: kubernetes 1.34.4, cmd/kubeadm/app/preflight/checks.go, `RunInitNodeChecks`, `RunJoinNodeChecks`.
fn traces(facts: &Facts, given: &request::Init, documents: &[Value]) -> Ignored {
    if !interrupted(facts) {
        return Ignored::default();
    }
    let files = ["kubelet.conf", "bootstrap-kubelet.conf", "pki-ca.crt"]
        .map(|name| format!("FileAvailable--etc-kubernetes-{name}"));
    let directories =
        ["etc-kubernetes-manifests", "var-lib-etcd"].map(|name| format!("DirAvailable--{name}"));
    let ports = used_ports(given, documents, ENDPOINT);
    Ignored::new(files.into_iter().chain(manifests()).chain(directories).chain(ports))
}
