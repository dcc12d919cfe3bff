//! Phases of `kubeadm init` in a cluster that stands: without `--config` kubeadm would write its own defaults over the settings.

use std::path::{Path, PathBuf};

use serde_json::Value;
use u7s_host::probe;
use u7s_plan::facts::UserFact;
use u7s_plan::node::NodeSpec;
use u7s_plan::{init, request, yaml};

use super::machine;
use crate::Error;

/// A cluster that stands, seen from a control plane.
#[derive(Debug)]
pub(super) struct Standing {
    node: NodeSpec,
    documents: Vec<Value>,
}

impl Standing {
    /// `None` where no cluster stands yet, and on a worker: there is nothing to write over.
    ///
    /// # Errors
    /// `Unmet` if the API server of the cluster does not answer.
    pub(super) fn find(user: &UserFact) -> Result<Option<Self>, Error> {
        if !Path::new("/etc/kubernetes/admin.conf").exists() {
            return Ok(None);
        }
        let Some(node) = probe::node()? else { return Ok(None) };
        let stored = probe::stored(user).ok_or_else(silent)?;
        let read = |text: &String| yaml::documents(text, "the cluster's own configuration");
        let documents: Vec<Vec<Value>> = stored.iter().map(read).collect::<Result<_, _>>()?;
        Ok(Some(Self { node, documents: documents.concat() }))
    }

    /// kubeadm's `--config` with the flags of the phase laid over what the cluster has.
    pub(super) fn configuration(&self, request: &request::Init, patches: PathBuf) -> Result<String, Error> {
        let text = init::phase(request, self.documents.clone(), &self.node, patches)?;
        text.ok_or_else(|| {
            Error::Usage("phases of init are for control planes, this node is a worker".into())
        })
    }
}

fn silent() -> Error {
    let remedy = "u7s status; or give the configuration yourself: kubeadm init phase ... --config FILE";
    machine::need(
        "ClusterConfiguration",
        "the cluster's own configuration cannot be had: its API server does not answer",
        remedy.into(),
    )
}
