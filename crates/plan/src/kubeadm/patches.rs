//! The user's kubeadm patches beside ours.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::kubelet::{self, Fragment};
use super::{Error, Input, VOLUME_PLUGINS};
use crate::yaml;

/// kubeadm's targets, in the order in which it looks for them.
///
/// Source: kubernetes 1.34.4, cmd/kubeadm/app/util/patches/patches.go, `parseFilename`.
const TARGETS: [&str; 6] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubeletconfiguration",
    "corednsdeployment",
];

/// The user's files that kubeadm would pass over, by name.
#[must_use]
pub fn passed_over(files: &[(String, String)]) -> Vec<&str> {
    files.iter().map(|(name, _)| name.as_str()).filter(|name| target(name) == Ok(None)).collect()
}

/// The files of our patches directory: the user's, sorted by name as kubeadm applies them, and our own.
///
/// What kubeadm would pass over is left out: the node has no use for it.
///
/// `kubelet` is the user's KubeletConfiguration, the first fragment that ours must agree with; `manager`: the controller manager
/// gets a directory of flex volumes that this node can make, whatever its cluster says.
pub(super) fn files(
    input: &Input<'_>,
    kubelet: Option<Fragment>,
    manager: bool,
) -> Result<Vec<(String, String)>, Error> {
    let mut given: Vec<_> = input.user_patches.iter().collect();
    given.sort();
    let mut files = Vec::new();
    let mut fragments: Vec<Fragment> = kubelet.into_iter().collect();
    let mut names = BTreeSet::new();
    for (name, text) in given {
        let refuse = |why: &str| Error::Patch { file: name.escape_debug().to_string(), why: why.to_owned() };
        if name.is_empty() || name.contains(['/', '\0']) || name == "." || name == ".." {
            return Err(refuse("not the name of a file"));
        }
        if !names.insert(name) {
            return Err(refuse("there are two files of this name"));
        }
        let Some((target, kind)) = target(name)? else { continue };
        if target == "kubeletconfiguration" {
            if !name.is_ascii() || name.as_str() >= kubelet::PATCH {
                return Err(refuse("its name must sort before ours: use letters, digits and '-'"));
            }
            fragments.extend(read(name, text, kind)?);
        }
        files.push((name.clone(), text.clone()));
    }
    files.push((kubelet::PATCH.to_owned(), kubelet::patch(&input.node, &fragments)?));
    if manager {
        files.push((MANAGER_PATCH.to_owned(), manager_patch()));
    }
    files.sort();
    Ok(files)
}

/// Our patch of the controller manager of a joined control plane.
const MANAGER_PATCH: &str = "kube-controller-manager~u7s+strategic.json";

/// In a cluster that root began, the directory is the default under `/usr`, and the static pod would never start.
///
/// Source: kubernetes 1.34.4, cmd/kubeadm/app/phases/controlplane/volumes.go, `flexvolume-dir`.
fn manager_patch() -> String {
    let directory = json!({ "path": VOLUME_PLUGINS, "type": "DirectoryOrCreate" });
    let volume = json!({ "name": "flexvolume-dir", "hostPath": directory });
    format!("{:#}\n", json!({ "spec": { "volumes": [volume] } }))
}

/// Target and patch type of a file; `None` for a file that kubeadm passes over.
fn target(name: &str) -> Result<Option<(&'static str, Kind)>, Error> {
    if ![".json", ".yaml"].iter().any(|end| name.len() > end.len() && name.ends_with(end)) {
        return Ok(None);
    }
    let Some(target) = TARGETS.into_iter().find(|target| name.starts_with(target)) else { return Ok(None) };
    let rest = name.get(target.len()..).unwrap_or_default();
    let mark = rest.find(['.', '+', '\n']).unwrap_or(rest.len());
    let kind = match rest.get(mark..).and_then(|rest| rest.strip_prefix('+')) {
        Some(kind) if kind.starts_with("json") => Kind::Json,
        Some(kind) if kind.starts_with("merge") || kind.starts_with("strategic") => Kind::Merge,
        None => Kind::Merge,
        Some(_) => {
            let why = "unknown or missing patch type after '+', must be one of [json merge strategic]";
            return Err(Error::Patch { file: name.escape_debug().to_string(), why: why.into() });
        }
    };
    Ok(Some((target, kind)))
}

/// How a patch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// RFC 6902.
    Json,
    /// RFC 7386, or strategic, which is the same for what we look at.
    Merge,
}

/// What a patch of the kubelet's configuration sets.
fn read(name: &str, text: &str, kind: Kind) -> Result<Vec<Fragment>, Error> {
    let refuse = |why: &str| Error::Patch { file: name.escape_debug().to_string(), why: why.to_owned() };
    let documents = yaml::documents(text, name).map_err(|error| refuse(&error.to_string()))?;
    let origin = format!("patch {}, KubeletConfiguration", name.escape_debug());
    let mut fragments = Vec::new();
    for document in documents {
        let documents = match (kind, document) {
            (Kind::Merge, Value::Object(document)) => vec![document],
            (Kind::Merge, _) => return Err(refuse("a patch of this type is a map")),
            (Kind::Json, Value::Array(operations)) => operations.iter().filter_map(operation).collect(),
            (Kind::Json, _) => return Err(refuse("a patch of this type is a list of operations")),
        };
        fragments.extend(documents.into_iter().map(|document| Fragment { origin: origin.clone(), document }));
    }
    Ok(fragments)
}

/// An RFC 6902 operation that sets a value, as a merge patch.
fn operation(operation: &Value) -> Option<Map<String, Value>> {
    let sets = matches!(operation.get("op")?.as_str()?, "add" | "replace");
    let (pointer, value) = (operation.get("path")?.as_str()?, operation.get("value")?);
    let nested = |pointer: &str| {
        pointer.split('/').rev().fold(value.clone(), |value, key| {
            let mut map = Map::new();
            map.insert(key.replace("~1", "/").replace("~0", "~"), value);
            Value::Object(map)
        })
    };
    let nested = pointer.strip_prefix('/').map_or_else(|| value.clone(), nested);
    nested.as_object().filter(|_| sets).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_read_as_kubeadm_reads_them() {
        let merge = |target| Ok(Some((target, Kind::Merge)));
        let cases = [
            ("etcd.json", merge("etcd")),
            ("kube-apiserver0+merge.yaml", merge("kube-apiserver")),
            ("kubeletconfiguration+strategic.yaml", merge("kubeletconfiguration")),
            ("kubeletconfiguration1+json.json", Ok(Some(("kubeletconfiguration", Kind::Json)))),
            ("kubeletconfiguration.yml", Ok(None)),
            ("README", Ok(None)),
            (".json", Ok(None)),
            ("kubelet.yaml", Ok(None)),
        ];
        let files = cases.clone().map(|(name, _)| (name.to_owned(), String::new()));
        for (name, expected) in cases {
            assert_eq!(target(name), expected, "{name}");
        }
        assert!(target("etcd+foo.json").is_err() && target("etcd+.json").is_err());
        assert_eq!(passed_over(&files), ["kubeletconfiguration.yml", "README", ".json", "kubelet.yaml"]);
    }
}
