//! Kubeconfigs for root and the node's user, rebuilt from the data of admin.conf.
//!
//! admin.conf belongs to the node's user. kubectl runs programs and reads files that a kubeconfig names, so root must not use
//! such a file as it is: out of it come one address and three blobs, everything else that could do something is refused (S6).

use std::path::{Component, Path};

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::need::{Level, Unmet};
use crate::yaml;

/// The largest blob, base64 characters: certificates and keys are below 8 KiB.
pub const MAX_BLOB: usize = 64 * 1024;

/// What base64 of `-----BEGIN ` starts with.
const PEM: &str = "LS0tLS1CRUdJTi";

/// kubeadm's kubeconfigs below /etc/kubernetes. They belong to the node's user, who may write into them what he likes.
pub const FILES: [&str; 5] =
    ["admin.conf", "super-admin.conf", "kubelet.conf", "controller-manager.conf", "scheduler.conf"];

/// A kubeconfig of the node that is not as kubeadm and the kubelet write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file.
    pub path: String,
    /// What is wrong with it.
    pub what: Wrong,
}

/// What is wrong with a kubeconfig.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wrong {
    /// It has settings that could make a client run a program, read a file or trust somebody else: `users[].user.exec`.
    Settings(Vec<String>),
    /// It cannot be read, and why.
    Unreadable(String),
}

/// The most settings of one file that are named.
const MOST_NAMED: usize = 5;

/// Settings without power over the client that uses them.
const HARMLESS: [(&str, &str, &[&str]); 3] = [
    (
        "clusters",
        "cluster",
        &["server", "certificate-authority-data", "tls-server-name", "disable-compression", "extensions"],
    ),
    ("users", "user", &["client-certificate-data", "client-key-data", "token", "extensions"]),
    ("contexts", "context", &["cluster", "user", "namespace", "extensions"]),
];

/// Settings that name a file, which may lie where kubeadm and the kubelet keep certificates.
const FILE_SETTINGS: [&str; 3] = ["certificate-authority", "client-certificate", "client-key"];

/// Where they keep them, as the node sees it.
const CERTIFICATES: [&str; 2] = ["/etc/kubernetes/pki", "/var/lib/kubelet/pki"];

/// The one document of a kubeconfig.
///
/// # Errors
/// What is wrong. The parser's own words could hold a piece of a key, so they are not in it.
pub fn parse(text: &str) -> Result<Value, &'static str> {
    let mut documents = yaml::documents(text, "").map_err(|_| "it is no YAML")?;
    match (documents.pop(), documents.is_empty()) {
        (Some(document), true) => Ok(document),
        _ => Err("it is not one document"),
    }
}

/// What is wrong with a kubeconfig of the node, from its text; `None`: nothing.
///
/// Every cluster, user and context is looked at, not only the current ones: whoever gets the file may choose another. No value is
/// in what comes out.
#[must_use]
pub fn fault(text: &str) -> Option<Wrong> {
    let value = match parse(text) {
        Ok(value) => value,
        Err(why) => return Some(Wrong::Unreadable(why.to_owned())),
    };
    let mut settings = Vec::new();
    for (list, inner, harmless) in HARMLESS {
        let elements = value.get(list).and_then(Value::as_array).into_iter().flatten();
        for map in elements.filter_map(|element| element.get(inner)).filter_map(Value::as_object) {
            let odd = |(key, value): &(&String, &Value)| {
                !harmless.contains(&key.as_str()) && !is_own_file(key, value)
            };
            let name = |(key, _): (&String, &Value)| format!("{list}[].{inner}.{}", shown(key));
            settings.extend(map.iter().filter(odd).map(name));
        }
    }
    settings.sort_unstable();
    settings.dedup();
    settings.truncate(MOST_NAMED);
    (!settings.is_empty()).then_some(Wrong::Settings(settings))
}

/// The kubelet's own certificate is a file that it renews.
fn is_own_file(key: &str, value: &Value) -> bool {
    let inside = |path: &Path| {
        CERTIFICATES.iter().any(|directory| path.starts_with(directory))
            && !path.components().any(|part| part == Component::ParentDir)
    };
    FILE_SETTINGS.contains(&key) && value.as_str().is_some_and(|path| inside(Path::new(path)))
}

/// The need that a fault is: init, join and `u7s status` name it alike.
#[must_use]
pub fn need(fault: &Fault) -> Unmet {
    let path = &fault.path;
    let message = match &fault.what {
        Wrong::Settings(settings) => format!(
            "{path} has {}, which kubeadm does not write: whoever uses this file runs programs, reads files or trusts a server that somebody else chose",
            settings.join(", ")
        ),
        Wrong::Unreadable(why) => format!("{path} cannot be read as a kubeconfig: {why}"),
    };
    let remedy = format!(
        "do not use {path}; if nobody of yours changed it, somebody had the rights of the node's user: /usr/share/doc/u7s/troubleshooting.md, Kubeconfig"
    );
    Unmet { id: "Kubeconfig".into(), message, remedy, level: Level::Error }
}

/// Why a kubeconfig is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A part is missing or of the wrong type.
    #[error("{path}: {need} is needed")]
    Shape {
        /// `users[].user.client-key-data`.
        path: String,
        /// What must be there.
        need: &'static str,
    },
    /// A setting that could make kubectl run a program, read a file or trust somebody else.
    #[error("{path} is not allowed")]
    Forbidden {
        /// `users[].user.exec`.
        path: String,
    },
    /// The server's address is not `https://HOST:PORT`.
    #[error("clusters[].cluster.server: https://HOST:PORT is needed")]
    Server,
}

/// Rebuilds a kubeconfig from the parsed text of admin.conf.
///
/// Shape: JSON, which kubectl reads as YAML; one cluster, user and context with fixed names; server address, CA certificate,
/// client certificate and key of the current context, nothing else.
///
/// # Errors
/// [`Error::Forbidden`] for any other setting of the current cluster or user, [`Error::Shape`], [`Error::Server`].
/// No message holds a value.
///
/// Source: kubernetes, staging/src/k8s.io/client-go/tools/clientcmd/api/v1/types.go.
pub fn rebuild(value: &Value) -> Result<String, Error> {
    let current = text(value.get("current-context"), "current-context")?;
    let context = entry(value, "contexts", "context", current)?;
    let cluster_name = text(context.get("cluster"), "contexts[].context.cluster")?;
    let user_name = text(context.get("user"), "contexts[].context.user")?;
    let cluster = entry(value, "clusters", "cluster", cluster_name)?;
    let user = entry(value, "users", "user", user_name)?;
    only(cluster, "clusters[].cluster", &["server", "certificate-authority-data"])?;
    only(user, "users[].user", &["client-certificate-data", "client-key-data"])?;
    let server =
        cluster.get("server").and_then(Value::as_str).filter(|url| is_server(url)).ok_or(Error::Server)?;
    let built = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "kubernetes",
            "cluster": {
                "server": server,
                "certificate-authority-data": blob(cluster, "clusters[].cluster", "certificate-authority-data")?,
            },
        }],
        "users": [{
            "name": "kubernetes-admin",
            "user": {
                "client-certificate-data": blob(user, "users[].user", "client-certificate-data")?,
                "client-key-data": blob(user, "users[].user", "client-key-data")?,
            },
        }],
        "contexts": [{
            "name": "kubernetes-admin@kubernetes",
            "context": { "cluster": "kubernetes", "user": "kubernetes-admin" },
        }],
        "current-context": "kubernetes-admin@kubernetes",
    });
    Ok(format!("{built:#}\n"))
}

/// Whether the kubeconfig `there` already leads where the text that [`rebuild`] made leads: it has the same cluster, the same
/// user, and the context of both. What else is in it, and what its owner chose of it, is its owner's.
#[must_use]
pub fn holds(there: &Value, rebuilt: &str) -> bool {
    let Ok(wanted) = serde_json::from_str::<Value>(rebuilt) else { return false };
    let same = |list: &str, inner: &str, name: &str| {
        let of = |value| entry(value, list, inner, name).ok();
        of(&wanted).is_some() && of(&wanted) == of(there)
    };
    let context = entry(there, "contexts", "context", "kubernetes-admin@kubernetes").ok();
    let refers = |key: &str, name: &str| {
        context.is_some_and(|context| context.get(key).and_then(Value::as_str) == Some(name))
    };
    same("clusters", "cluster", "kubernetes")
        && same("users", "user", "kubernetes-admin")
        && refers("cluster", "kubernetes")
        && refers("user", "kubernetes-admin")
}

/// The object `inner` of the one element of the list `list` that is called `name`.
fn entry<'a>(value: &'a Value, list: &str, inner: &str, name: &str) -> Result<&'a Map<String, Value>, Error> {
    let shape = |need| Error::Shape { path: format!("{list}[].{inner}"), need };
    let elements = value.get(list).and_then(Value::as_array).ok_or_else(|| shape("a list"))?;
    let mut named =
        elements.iter().filter(|element| element.get("name").and_then(Value::as_str) == Some(name));
    match (named.next(), named.next()) {
        (Some(element), None) => {
            element.get(inner).and_then(Value::as_object).ok_or_else(|| shape("an object"))
        }
        _ => Err(shape("one entry of the name that is referred to")),
    }
}

fn text<'a>(value: Option<&'a Value>, path: &str) -> Result<&'a str, Error> {
    value.and_then(Value::as_str).ok_or_else(|| Error::Shape { path: path.into(), need: "a text" })
}

fn only(map: &Map<String, Value>, path: &str, known: &[&str]) -> Result<(), Error> {
    match map.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => Err(Error::Forbidden { path: format!("{path}.{}", shown(key)) }),
    }
}

/// The name of a setting that somebody made up.
fn shown(key: &str) -> String {
    key.chars().take(40).collect::<String>().escape_debug().to_string()
}

/// PEM in base64, within [`MAX_BLOB`].
fn blob<'a>(map: &'a Map<String, Value>, path: &str, key: &str) -> Result<&'a str, Error> {
    let good = |text: &&str| {
        let body = text.trim_end_matches('=');
        text.len() <= MAX_BLOB
            && text.len().is_multiple_of(4)
            && text.len() - body.len() <= 2
            && body.starts_with(PEM)
            && body.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/')
    };
    let shape = || Error::Shape { path: format!("{path}.{key}"), need: "PEM in base64" };
    map.get(key).and_then(Value::as_str).filter(good).ok_or_else(shape)
}

/// `https://`, a name, an IPv4 or bracketed IPv6 address, a port; no user, path or query.
fn is_server(url: &str) -> bool {
    let Some((host, port)) = url.strip_prefix("https://").and_then(|rest| rest.rsplit_once(':')) else {
        return false;
    };
    let name = |host: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        !host.is_empty() && host.len() <= 253 && host.bytes().all(plain)
    };
    let bracketed = || host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = || bracketed().is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
    let port =
        port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
    port && (name(host) || address())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOB: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg==";

    fn admin() -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "preferences": {},
            "current-context": "kubernetes-admin@kubernetes",
            "clusters": [{
                "name": "kubernetes",
                "cluster": { "server": "https://10.77.0.11:6443", "certificate-authority-data": BLOB },
            }],
            "contexts": [{
                "name": "kubernetes-admin@kubernetes",
                "context": { "cluster": "kubernetes", "user": "kubernetes-admin" },
            }],
            "users": [{
                "name": "kubernetes-admin",
                "user": { "client-certificate-data": BLOB, "client-key-data": BLOB },
            }],
        })
    }

    #[test]
    fn what_kubeadm_writes_comes_out_again() {
        let mut expected = admin();
        expected.as_object_mut().unwrap().remove("preferences");
        let built: Value = serde_json::from_str(&rebuild(&admin()).unwrap()).unwrap();
        assert_eq!(built, expected);
    }

    fn fault_of(value: &Value) -> Option<Vec<String>> {
        match fault(&value.to_string()) {
            None => None,
            Some(Wrong::Settings(settings)) => Some(settings),
            Some(Wrong::Unreadable(why)) => Some(vec![why]),
        }
    }

    #[test]
    fn f1_whatever_gives_a_file_power_over_its_user_is_a_fault_wherever_it_stands() {
        assert_eq!(fault_of(&admin()), None);
        let cases = [
            ("/users/0/user", "exec", json!({"command": "/bin/sh"}), "users[].user.exec"),
            ("/users/0/user", "auth-provider", json!({"name": "x"}), "users[].user.auth-provider"),
            ("/users/0/user", "tokenFile", json!("/etc/shadow"), "users[].user.tokenFile"),
            ("/users/0/user", "as", json!("x"), "users[].user.as"),
            ("/users/0/user", "as-groups", json!(["x"]), "users[].user.as-groups"),
            ("/users/0/user", "client-key", json!("/etc/shadow"), "users[].user.client-key"),
            ("/users/0/user", "client-key", json!("/var/lib/kubelet/pki/../../x"), "users[].user.client-key"),
            ("/clusters/0/cluster", "proxy-url", json!("http://x"), "clusters[].cluster.proxy-url"),
            (
                "/clusters/0/cluster",
                "insecure-skip-tls-verify",
                json!(true),
                "clusters[].cluster.insecure-skip-tls-verify",
            ),
            (
                "/clusters/0/cluster",
                "certificate-authority",
                json!("/tmp/ca"),
                "clusters[].cluster.certificate-authority",
            ),
        ];
        for (place, key, value, expected) in cases {
            let mut hostile = admin();
            hostile.pointer_mut(place).unwrap()[key] = value.clone();
            assert_eq!(fault_of(&hostile), Some(vec![expected.to_owned()]));
            let list = place.split('/').nth(1).unwrap();
            let mut second = admin();
            let mut other = hostile.pointer(&format!("/{list}/0")).unwrap().clone();
            other["name"] = json!("other");
            second[list].as_array_mut().unwrap().push(other);
            assert_eq!(fault_of(&second), Some(vec![expected.to_owned()]), "not the current one");
        }
        assert_eq!(fault("a: [\n"), Some(Wrong::Unreadable("it is no YAML".into())));
        assert_eq!(fault(""), Some(Wrong::Unreadable("it is not one document".into())));
    }

    #[test]
    fn f1_the_kubelets_own_files_are_no_fault_and_a_fault_has_a_remedy_and_no_value() {
        let mut kubelet = admin();
        let pem = "/var/lib/kubelet/pki/kubelet-client-current.pem";
        kubelet["users"][0]["user"] = json!({"client-certificate": pem, "client-key": pem});
        assert_eq!(fault_of(&kubelet), None);
        kubelet["users"][0]["user"] = json!({"exec": {"command": "CANARY"}, "a\u{1b}[31m": "CANARY"});
        let fault =
            Fault { path: "/etc/kubernetes/kubelet.conf".into(), what: fault(&kubelet.to_string()).unwrap() };
        let need = need(&fault);
        assert!(need.message.contains("has users[].user.a\\u{1b}[31m, users[].user.exec, which"), "{need}");
        assert!(
            !need.message.contains("CANARY")
                && need.remedy.contains("do not use /etc/kubernetes/kubelet.conf")
        );
    }

    #[test]
    fn a_kubeconfig_with_more_in_it_still_leads_here_and_one_with_another_key_does_not() {
        let rebuilt = rebuild(&admin()).unwrap();
        assert!(holds(&admin(), &rebuilt));
        let mut more = admin();
        more["contexts"][0]["context"]["namespace"] = json!("shop");
        more["clusters"]
            .as_array_mut()
            .unwrap()
            .push(json!({"name": "other", "cluster": {"server": "https://x:1"}}));
        more["current-context"] = json!("other");
        assert!(holds(&more, &rebuilt));
        for (pointer, value) in [
            ("/users/0/user/client-key-data", json!("LS0tLS1CRUdJTiBPTEQ=")),
            ("/clusters/0/cluster/server", json!("https://10.77.0.12:6443")),
            ("/contexts/0/context/user", json!("joe")),
            ("/clusters", json!([])),
        ] {
            let mut other = admin();
            *other.pointer_mut(pointer).unwrap() = value;
            assert!(!holds(&other, &rebuilt), "{pointer}");
        }
        assert!(!holds(&Value::Null, &rebuilt));
    }

    #[test]
    fn s6_whatever_could_run_or_read_something_is_refused() {
        let cases = [
            ("/users/0/user", "exec", json!({ "command": "/tmp/x" }), "users[].user.exec is not allowed"),
            (
                "/users/0/user",
                "auth-provider",
                json!({ "name": "x" }),
                "users[].user.auth-provider is not allowed",
            ),
            ("/users/0/user", "tokenFile", json!("/etc/shadow"), "users[].user.tokenFile is not allowed"),
            ("/users/0/user", "token", json!("x"), "users[].user.token is not allowed"),
            ("/users/0/user", "as", json!("x"), "users[].user.as is not allowed"),
            ("/users/0/user", "client-key", json!("/etc/shadow"), "users[].user.client-key is not allowed"),
            (
                "/users/0/user",
                "client-certificate",
                json!("/x"),
                "users[].user.client-certificate is not allowed",
            ),
            ("/users/0/user", "a\u{1b}[31m", json!(1), "users[].user.a\\u{1b}[31m is not allowed"),
            (
                "/clusters/0/cluster",
                "proxy-url",
                json!("http://x"),
                "clusters[].cluster.proxy-url is not allowed",
            ),
            (
                "/clusters/0/cluster",
                "certificate-authority",
                json!("/etc/shadow"),
                "clusters[].cluster.certificate-authority is not allowed",
            ),
            (
                "/clusters/0/cluster",
                "insecure-skip-tls-verify",
                json!(true),
                "clusters[].cluster.insecure-skip-tls-verify is not allowed",
            ),
            ("/clusters/0/cluster", "extensions", json!([]), "clusters[].cluster.extensions is not allowed"),
        ];
        for (place, key, value, message) in cases {
            let mut hostile = admin();
            hostile.pointer_mut(place).unwrap()[key] = value;
            assert_eq!(rebuild(&hostile).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn s6_what_lies_outside_the_current_context_is_dropped() {
        let mut hostile = admin();
        hostile["users"].as_array_mut().unwrap().push(json!({ "name": "other", "user": { "exec": {} } }));
        hostile["contexts"][0]["context"]["namespace"] = json!("x");
        hostile["preferences"] = json!({ "colors": true });
        hostile["extensions"] = json!([{}]);
        assert_eq!(rebuild(&hostile), rebuild(&admin()));
    }

    #[test]
    fn s6_addresses_and_blobs_are_checked() {
        for url in [
            "http://10.0.0.1:6443",
            "https://10.0.0.1",
            "https://u:p@10.0.0.1:6443",
            "https://10.0.0.1:6443/x",
            "https://10.0.0.1:0",
            "https://:6443",
            "https://a b:6443",
            "https://[::1:6443",
            "https://h:+443",
        ] {
            let mut hostile = admin();
            hostile["clusters"][0]["cluster"]["server"] = json!(url);
            assert_eq!(rebuild(&hostile), Err(Error::Server), "{url}");
        }
        assert!(is_server("https://[fd00::1]:6443"));
        let long = format!("{PEM}{}", "A".repeat(MAX_BLOB));
        for blob in ["", "x", "LS0tLS1CRUdJTiB\n", "QUJD", "LS0tLS1CRUdJTi==A===", long.as_str()] {
            let mut hostile = admin();
            hostile["users"][0]["user"]["client-key-data"] = json!(blob);
            assert_eq!(
                rebuild(&hostile).unwrap_err().to_string(),
                "users[].user.client-key-data: PEM in base64 is needed"
            );
        }
    }

    #[test]
    fn s6_odd_shapes_are_errors() {
        let mut twice = admin();
        let user = twice["users"][0].clone();
        twice["users"].as_array_mut().unwrap().push(user);
        for hostile in [json!(null), json!([]), json!({ "current-context": 1 }), twice] {
            assert!(matches!(rebuild(&hostile), Err(Error::Shape { .. })), "{hostile}");
        }
    }
}
