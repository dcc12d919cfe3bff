//! The API server's audit policy: who changed what, without the chatter of the control plane and without secrets.

use serde_json::{Value, json};

/// The policy's file, inside and outside.
pub const POLICY_PATH: &str = "/etc/kubernetes/audit/policy.yaml";

/// The log's file, inside and outside.
pub const LOG_PATH: &str = "/etc/kubernetes/audit/audit.log";

/// Resources of an API group; all of them if none is named.
type Resources = (&'static str, &'static [&'static str]);

/// Requests of the control plane that come many times a second.
struct Chatter {
    users: &'static [&'static str],
    verbs: &'static [&'static str],
    /// All of them if none is named.
    resources: &'static [Resources],
}

const CHATTER: [Chatter; 4] = [
    Chatter {
        users: &["system:kube-proxy"],
        verbs: &["list", "watch"],
        resources: &[("", &["endpoints", "nodes", "services"]), ("discovery.k8s.io", &["endpointslices"])],
    },
    Chatter {
        users: &["system:kube-scheduler", "system:kube-controller-manager"],
        verbs: &["list", "watch"],
        resources: &[],
    },
    Chatter {
        users: &["system:kube-controller-manager"],
        verbs: &["get"],
        resources: &[("metrics.k8s.io", &[])],
    },
    Chatter {
        users: &["system:kube-scheduler", "system:kube-controller-manager"],
        verbs: &["get", "update"],
        resources: &[("coordination.k8s.io", &["leases"])],
    },
];

/// Resources whose bodies hold secrets, or long data of no use: the request alone is noted.
const BODILESS: [Resources; 3] = [
    ("", &["secrets", "configmaps", "serviceaccounts/token"]),
    ("authentication.k8s.io", &["tokenreviews"]),
    ("", &["pods/exec", "pods/attach", "pods/portforward", "pods/proxy", "services/proxy", "nodes/proxy"]),
];

/// The text of [`POLICY_PATH`]: JSON, which the API server reads as the YAML it is.
///
/// The first rule that fits decides. Left out: the stage RequestReceived (each request is noted once, when it is
/// answered), health checks, events, what the components read and watch for themselves. Never left out: what members
/// of `system:masters` and service accounts read and do. Bodies are noted of changes only, and never where they hold
/// secrets.
///
/// Source: kubernetes.io, "Auditing"; kubernetes, cluster/gce/gci/configure-helper.sh, for what is chatter.
#[must_use]
pub fn policy() -> String {
    let reads = json!(["get", "list", "watch"]);
    let leases = json!({"group": "coordination.k8s.io", "resources": ["leases"]});
    let paths = json!(["/healthz*", "/livez*", "/readyz*", "/version", "/openapi/*", "/metrics"]);
    let events =
        json!([{"group": "", "resources": ["events"]}, {"group": "events.k8s.io", "resources": ["events"]}]);
    let status = json!([{"group": "", "resources": ["nodes/status", "pods/status"]}, leases]);
    let mut rules = vec![
        json!({"level": "None", "nonResourceURLs": paths}),
        // The API server itself is a member of system:masters.
        json!({"level": "None", "users": ["system:apiserver"], "verbs": reads}),
        json!({"level": "None", "users": ["system:apiserver"], "resources": [leases]}),
    ];
    rules.extend(bodiless());
    rules.push(json!({"level": "None", "resources": events}));
    rules.extend(CHATTER.iter().map(chatter));
    rules.extend([
        json!({"level": "None", "userGroups": ["system:nodes"], "verbs": reads}),
        json!({"level": "None", "userGroups": ["system:nodes"], "verbs": ["update", "patch"], "resources": status}),
        json!({"level": "Request", "verbs": ["create", "update", "patch", "delete", "deletecollection"]}),
        json!({"level": "Metadata"}),
    ]);
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "omitManagedFields": true,
        "rules": rules,
    });
    format!("{policy:#}\n")
}

fn bodiless() -> impl Iterator<Item = Value> {
    BODILESS.iter().map(|(group, resources)| {
        json!({"level": "Metadata", "resources": [{"group": group, "resources": resources}]})
    })
}

fn chatter(chatter: &Chatter) -> Value {
    let mut rule = json!({"level": "None", "users": chatter.users, "verbs": chatter.verbs});
    if !chatter.resources.is_empty() {
        let resources = chatter.resources.iter().map(|(group, names)| match names {
            [] => json!({"group": group}),
            names => json!({"group": group, "resources": names}),
        });
        rule["resources"] = resources.collect();
    }
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The level of a request, as the API server finds it; of rules, only what this policy uses.
    fn level(user: (&str, &[&str]), verb: &str, group: &str, resource: &str) -> String {
        let policy: Value = serde_json::from_str(&policy()).unwrap();
        let names = |rule: &Value, key: &str| -> Option<Vec<String>> {
            Some(rule.get(key)?.as_array()?.iter().map(|name| name.as_str().unwrap().to_owned()).collect())
        };
        let fits = |rule: &&Value| {
            let one_of = |key: &str, values: &[&str]| {
                names(rule, key).is_none_or(|names| names.iter().any(|name| values.contains(&name.as_str())))
            };
            let resources = rule.get("resources").and_then(Value::as_array).is_none_or(|list| {
                list.iter().any(|item| {
                    item["group"] == group
                        && names(item, "resources")
                            .is_none_or(|names| names.iter().any(|name| name == resource))
                })
            });
            rule.get("nonResourceURLs").is_none()
                && one_of("users", &[user.0])
                && one_of("userGroups", user.1)
                && one_of("verbs", &[verb])
                && resources
        };
        let rules = policy["rules"].as_array().unwrap();
        rules.iter().find(fits).unwrap()["level"].as_str().unwrap().to_owned()
    }

    #[test]
    fn s24_admins_and_service_accounts_are_noted_and_secret_bodies_are_not() {
        let admin = ("kubernetes-admin", &["system:masters", "system:authenticated"][..]);
        let account =
            ("system:serviceaccount:default:app", &["system:serviceaccounts", "system:authenticated"][..]);
        let node = ("system:node:n1", &["system:nodes", "system:authenticated"][..]);
        let manager = ("system:kube-controller-manager", &["system:authenticated"][..]);
        let cases = [
            (admin, "get", "", "pods", "Metadata"),
            (admin, "list", "coordination.k8s.io", "leases", "Metadata"),
            (admin, "create", "", "pods", "Request"),
            (admin, "create", "", "secrets", "Metadata"),
            (admin, "create", "", "pods/exec", "Metadata"),
            (account, "get", "", "pods", "Metadata"),
            (account, "delete", "apps", "deployments", "Request"),
            (account, "get", "", "secrets", "Metadata"),
            (node, "get", "", "pods", "None"),
            (node, "get", "", "secrets", "Metadata"),
            (node, "create", "", "serviceaccounts/token", "Metadata"),
            (node, "update", "coordination.k8s.io", "leases", "None"),
            (node, "delete", "", "pods", "Request"),
            (manager, "watch", "", "pods", "None"),
            (manager, "list", "", "secrets", "Metadata"),
            (manager, "update", "coordination.k8s.io", "leases", "None"),
            (manager, "create", "", "pods", "Request"),
        ];
        for (user, verb, group, resource, expected) in cases {
            assert_eq!(level(user, verb, group, resource), expected, "{} {verb} {resource}", user.0);
        }
    }

    #[test]
    fn s24_no_secret_ever_has_its_body_noted() {
        for verb in ["get", "list", "watch", "create", "update", "patch", "delete"] {
            for user in ["system:kube-controller-manager", "kubernetes-admin", "system:apiserver", "x"] {
                let level = level((user, &[]), verb, "", "secrets");
                assert!(["None", "Metadata"].contains(&level.as_str()), "{user} {verb}: {level}");
            }
        }
    }
}
