//! What kubeadm makes last, so that a run that was killed can be told from one that came to its end.

use serde_json::Value;

use super::fields::{Document, at};

/// Namespace and objects of the last phase that this init does not skip; no object if it skips all that make some.
///
/// Source: kubernetes 1.34.4, cmd/kubeadm/app/cmd/init.go, the order of the phases; phases/addons/proxy/proxy.go and
/// phases/addons/dns/dns.go, the order of the objects.
pub(super) fn objects(cluster: &Document, skipped: &[String]) -> (&'static str, &'static [&'static str]) {
    let skips = |phase: &str| {
        let above = phase.split_once('/').map(|(above, _)| above);
        skipped.iter().any(|name| name == phase || Some(name.as_str()) == above)
    };
    let disabled = |addon| at(cluster, &[addon, "disabled"]) == Some(&Value::Bool(true));
    if !skips("addon/kube-proxy") && !disabled("proxy") {
        ("kube-system", &["daemonset/kube-proxy", "rolebinding/kube-proxy"])
    } else if !skips("addon/coredns") && !disabled("dns") {
        ("kube-system", &["deployment/coredns", "service/kube-dns"])
    } else if !skips("bootstrap-token") {
        ("kube-public", &["configmap/cluster-info"])
    } else {
        ("kube-system", &[])
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_skipped_or_disabled_addon_is_not_waited_for() {
        let last = |cluster: Value, skipped: &[&str]| {
            let skipped: Vec<String> = skipped.iter().map(|phase| (*phase).to_owned()).collect();
            objects(cluster.as_object().unwrap(), &skipped).1.first().copied()
        };
        let none = json!({});
        assert_eq!(last(none.clone(), &[]), Some("daemonset/kube-proxy"));
        assert_eq!(last(none.clone(), &["addon/kube-proxy"]), Some("deployment/coredns"));
        assert_eq!(last(json!({"proxy": {"disabled": true}}), &[]), Some("deployment/coredns"));
        assert_eq!(last(none.clone(), &["addon"]), Some("configmap/cluster-info"));
        assert_eq!(
            last(json!({"proxy": {"disabled": true}}), &["addon/coredns"]),
            Some("configmap/cluster-info")
        );
        assert_eq!(last(none, &["addon", "bootstrap-token"]), None);
    }
}
