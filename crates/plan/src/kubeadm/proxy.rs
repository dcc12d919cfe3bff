//! The KubeProxyConfiguration: connection tracking belongs to the host.

use serde_json::{Value, json};

use super::Error;
use super::fields::{Document, at, default, set};

/// Completes the document.
///
/// `maxPerCore` must be 0: `nf_conntrack_max` can only be written by the host's root, and kube-proxy ends when it
/// cannot. The timeouts are writable inside, so a user's own stay.
pub(super) fn complete(proxy: &mut Document) -> Result<(), Error> {
    let path = ["conntrack", "maxPerCore"];
    if let Some(value) = at(proxy, &path).filter(|value| **value != json!(0)) {
        return Err(Error::Contradiction {
            path: format!("KubeProxyConfiguration.{}", path.join(".")),
            value: value.to_string(),
            need: "0".into(),
            why: "the table of connections belongs to the host's kernel: set net.netfilter.nf_conntrack_max there",
        });
    }
    default(proxy, &["mode"], "iptables")?;
    set(proxy, &path, 0)?;
    default(proxy, &["conntrack", "min"], Value::from(0))?;
    default(proxy, &["conntrack", "tcpEstablishedTimeout"], "0s")?;
    default(proxy, &["conntrack", "tcpCloseWaitTimeout"], "0s")
}
