//! Flags and documents into one configuration.

use std::path::PathBuf;

use secrecy::SecretString;
use serde_json::Value;

use super::documents;
use super::kubelet::Fragment;
use super::{
    Error, Input, Output, Role, cluster, fields, flags, init, last, network, patches, proxy, render,
};
use crate::request;

/// Completes the user's flags and documents with what a rootless node needs.
///
/// Pure: the same input gives the same text.
///
/// # Errors
/// The first [`Error`] that is found: kubeadm's own refusals, contradictions, networks that overlap.
pub fn merge(input: &Input<'_>) -> Result<Output, Error> {
    flags::mixed(input.request)?;
    let mut documents = documents::sort(&input.documents, input.request.config_file().is_some())?;
    flags::fold(input.request, &mut documents)?;
    let pass_flags = flags::pass(input.request)?;
    let init = init::complete(&mut documents.init, input)?;
    let cluster = cluster::complete(&mut documents.cluster, input)?;
    proxy::complete(&mut documents.proxy)?;
    let networks = network::networks(&documents.cluster, input)?;
    let kubelet = documents.kubelet.clone();
    let fragment = kubelet.map(|document| Fragment { origin: "KubeletConfiguration".into(), document });
    Ok(Output {
        config: SecretString::from(render::whole(&documents)),
        redacted: render::redacted(&documents),
        patches: patches::files(input, fragment, false)?,
        node_name: init.node_name,
        role: Role::FirstControlPlane { api_port: init.api_port },
        api_address: input.node.node_ip,
        pod_cidr: Some(networks.pods),
        service_cidr: Some(networks.services),
        dns_domain: cluster.dns_domain,
        etcd_data_dir: cluster.etcd_data_dir,
        cert_dir: cluster.cert_dir,
        image_repository: cluster.image_repository,
        kubernetes_version: cluster.kubernetes_version,
        control_plane_endpoint: cluster.control_plane_endpoint,
        tainted: init.tainted,
        audit: cluster.audit,
        dry_run: init.dry_run,
        ignored: init.ignored,
        last_objects: last::objects(&documents.cluster, &init.skip_phases),
        skip_phases: init.skip_phases,
        pass_flags,
    })
}

/// The configuration of one phase of init in a cluster that stands.
///
/// [`Input::documents`] are the cluster's own, as it has stored them: they stay so, but for what the flags say. The
/// InitConfiguration is this node's, whose API server has the port `api_port`. No secret is in it.
///
/// # Errors
/// As [`merge`], of the flags alone: what the cluster has is not judged.
pub fn phase(input: &Input<'_>, api_port: u16) -> Result<String, Error> {
    let mut documents = documents::sort(&input.documents, false)?;
    flags::fold(input.request, &mut documents)?;
    fields::default(&mut documents.init, &["localAPIEndpoint", "bindPort"], api_port)?;
    init::complete(&mut documents.init, input)?;
    if documents.proxy.is_empty() {
        proxy::complete(&mut documents.proxy)?;
    }
    Ok(render::whole(&documents))
}

/// The user's own patches directory: `--patches`, or `patches.directory` of the document of this kind.
///
/// A relative path means the caller's directory.
#[must_use]
pub fn patches_directory(request: &request::Init, documents: &[Value], kind: &str) -> Option<PathBuf> {
    let field = || {
        let wanted = |document: &&Value| document.get("kind").and_then(Value::as_str) == Some(kind);
        fields::text(documents.iter().find(wanted)?.as_object()?, &["patches", "directory"])
    };
    request.value("patches").filter(|directory| !directory.is_empty()).or_else(field).map(PathBuf::from)
}
