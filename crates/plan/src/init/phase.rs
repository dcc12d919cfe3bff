//! A phase of `kubeadm init` in a cluster that stands.

use std::path::PathBuf;

use semver::Version;
use serde_json::Value;

use crate::host::KUBELET_PORT;
use crate::kubeadm::{self, Input, NodeFacts};
use crate::need::Ignored;
use crate::node::NodeSpec;
use crate::request;

/// What kubeadm gets as `--config`: the cluster's own documents, as it has stored them, the flags laid over them, and the
/// InitConfiguration of this node; `None` on a worker, which makes no cluster.
///
/// # Errors
/// [`kubeadm::Error`]: what the flags say makes no rootless node.
pub fn phase(
    request: &request::Init,
    documents: Vec<Value>,
    node: &NodeSpec,
    patches_dir: PathBuf,
) -> Result<Option<String>, kubeadm::Error> {
    // The first forward of a control plane is its API server's.
    let api_port = node.forwards.first().map(|forward| forward.port).filter(|port| *port != KUBELET_PORT);
    let Some(api_port) = api_port else { return Ok(None) };
    let version = documents.iter().find_map(|document| document["kubernetesVersion"].as_str());
    let version = version.and_then(|text| Version::parse(text.trim_start_matches('v')).ok());
    let node = NodeFacts {
        node_ip: node.network.node_ip,
        hostname: node.node_name.clone(),
        // Says nothing here: the documents have one.
        kubernetes_version: version.unwrap_or_else(|| Version::new(1, 34, 0)),
        patches_dir,
        cri_socket: node.cri_socket.clone(),
        degraded: node.degraded.iter().any(|id| id == "CgroupControllers"),
        ignored: Ignored::default(),
        timeout_factor: 1,
        // Nor is the kubelet's configuration made here.
        memory: 0,
    };
    let input = Input { request, documents, user_patches: Vec::new(), node };
    kubeadm::phase(&input, api_port).map(Some)
}
