//! State of Kubernetes on this node.

use std::path::Path;
use std::time::Duration;

use u7s_plan::facts::{ClusterFact, UserFact};
use u7s_plan::host::KUBERNETES_DIR;

use super::names;
use crate::enter::{Entry, Input, Output, Target};
use crate::files;
use crate::programs;

/// Looks at /etc/kubernetes, whose names are only seen, never followed; asks the API server if the node of `user` runs.
pub(crate) fn cluster(user: Option<&UserFact>, deadline: Duration) -> ClusterFact {
    let dir = Path::new(KUBERNETES_DIR);
    let there = |name: &str| files::stat(&dir.join(name)).ok().flatten().is_some();
    let manifests = names(&dir.join("manifests")).into_iter().filter(|name| !name.starts_with('.'));
    let (admin_conf, kubelet_conf) = (there("admin.conf"), there("kubelet.conf"));
    ClusterFact {
        admin_conf,
        kubelet_conf,
        manifests: manifests.collect(),
        api_ready: admin_conf && user.is_some_and(|user| api_ready(user, deadline)),
    }
}

/// Whether the local API server says that it is ready.
///
/// By kubectl inside, as the node's user: TLS and an admin.conf that this user may have written are not for root.
/// Anything but a plain yes in time is a no; without kubectl too.
pub(crate) fn api_ready(user: &UserFact, deadline: Duration) -> bool {
    let Ok(kubectl) = programs::needed("kubectl") else { return false };
    let Ok(target) = Target::find(user) else { return false };
    let timeout = format!("--request-timeout={}s", deadline.as_secs().max(1));
    let argv = [kubectl.as_os_str(), "--kubeconfig=/etc/kubernetes/admin.conf".as_ref(), timeout.as_ref()]
        .into_iter()
        .chain(["get", "--raw", "/readyz"].map(AsRef::as_ref));
    let asked = Entry::inside(&target, argv).directory("/").input(Input::Null).output(Output::Capture(4096));
    // The client needs its own start on top of the request.
    let answer = asked.deadline(deadline + Duration::from_secs(5)).run();
    answer.is_ok_and(|ended| ended.status.success() && ended.stdout.trim_ascii() == b"ok")
}
