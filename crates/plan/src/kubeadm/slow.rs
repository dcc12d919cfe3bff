//! Leases and heartbeats of a slow machine: with the usual ones its control plane takes itself for dead and starts again.

use super::Error;
use super::fields::{self, Document, argument, default_argument};

/// Seconds of client-go's leader election: lease, renewal, retry. Source: component-base, config/v1alpha1 defaults.
const ELECTION: [(&str, u64); 3] = [
    ("leader-elect-lease-duration", 15),
    ("leader-elect-renew-deadline", 10),
    ("leader-elect-retry-period", 2),
];
/// After how many seconds without a word a node counts as lost. Source: kube-controller-manager(1).
const GRACE: (&str, u64) = ("node-monitor-grace-period", 50);
/// Milliseconds of etcd's own election, and what it takes at most for each. Source: etcd, server/embed/config.go.
const HEARTBEATS: [(&str, u64, u64); 2] =
    [("heartbeat-interval", 100, 5_000), ("election-timeout", 1_000, 50_000)];

/// Multiplies them by `timeout_factor`, but for what the user set himself.
pub(super) fn complete(cluster: &mut Document, timeout_factor: u32) -> Result<(), Error> {
    let factor = u64::from(timeout_factor);
    if factor <= 1 {
        return Ok(());
    }
    for component in ["controllerManager", "scheduler"] {
        let path = [component, "extraArgs"];
        // They bound each other: whoever sets one of them has thought of all.
        if ELECTION.iter().any(|(name, _)| argument(cluster, &path, name).is_some()) {
            continue;
        }
        for (name, seconds) in ELECTION {
            default_argument(cluster, &path, name, &format!("{}s", seconds * factor))?;
        }
    }
    let (name, seconds) = GRACE;
    default_argument(cluster, &["controllerManager", "extraArgs"], name, &format!("{}s", seconds * factor))?;
    if fields::at(cluster, &["etcd", "external"]).is_some() {
        return Ok(());
    }
    let path = ["etcd", "local", "extraArgs"];
    if HEARTBEATS.iter().any(|(name, ..)| argument(cluster, &path, name).is_some()) {
        return Ok(());
    }
    for (name, milliseconds, most) in HEARTBEATS {
        default_argument(cluster, &path, name, &(milliseconds * factor).min(most).to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn completed(given: serde_json::Value) -> serde_json::Value {
        let mut cluster = given.as_object().unwrap().clone();
        complete(&mut cluster, 100).unwrap();
        cluster.into()
    }

    #[test]
    fn one_value_of_the_users_keeps_its_companions_as_they_are() {
        let own = |name: &str| json!([{"name": name, "value": "7"}]);
        let given = json!({"scheduler": {"extraArgs": own("leader-elect-renew-deadline")},
            "etcd": {"local": {"extraArgs": own("heartbeat-interval")}}});
        let seen = completed(given.clone());
        assert_eq!((&seen["scheduler"], &seen["etcd"]), (&given["scheduler"], &given["etcd"]));
        assert_eq!(seen["controllerManager"]["extraArgs"].as_array().unwrap().len(), 4);
    }

    #[test]
    fn etcd_gets_no_more_than_it_takes_and_one_elsewhere_nothing() {
        let seen = completed(json!({}));
        let values = [5_000, 50_000].map(|value| json!(value.to_string()));
        let seen = &seen["etcd"]["local"]["extraArgs"];
        assert_eq!([&seen[0]["value"], &seen[1]["value"]], values.each_ref());
        assert!(completed(json!({"etcd": {"external": {}}}))["etcd"].get("local").is_none());
    }
}
