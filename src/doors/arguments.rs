//! Files and directories of the caller's on a command line that the real kubeadm carries out, and patches of the node.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde_json::{Value, json};
use u7s_host::enter::Kept;
use u7s_plan::host::PATCHES_DIR;
use u7s_plan::yaml;
use u7s_shim::kubeadm::words;

/// What kubeadm does with the file or directory that a flag names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Reads the file.
    Read,
    /// Reads the files in the directory.
    ReadAll,
    /// Writes the file.
    Write,
    /// Reads and writes files of its own names in the directory.
    Keep(Kept),
}

/// Flags whose value is a file or directory of the caller's.
///
/// Source: kubernetes 1.34, cmd/kubeadm/app/cmd.
const FLAGS: [(&str, Use); 8] = [
    ("config", Use::Read),
    ("kubeconfig", Use::Read),
    ("discovery-file", Use::Read),
    ("old-config", Use::Read),
    ("patches", Use::ReadAll),
    ("new-config", Use::Write),
    ("cert-dir", Use::Keep(Kept::Certificates)),
    ("kubeconfig-dir", Use::Keep(Kept::Kubeconfigs)),
];

/// Whether the command writes the kubelet's configuration or static pods, which the node's patches make fit for it.
///
/// Source: kubernetes 1.34, the commands with a flag `--patches`.
pub(super) fn is_patched(argv: &[OsString]) -> bool {
    let words: Vec<&[u8]> = words(argv).into_iter().map(OsStr::as_bytes).collect();
    match words[..] {
        [b"upgrade", b"apply" | b"node", b"phase", phase, ..] => {
            phase == b"control-plane" || phase == b"kubelet-config"
        }
        [b"upgrade", b"apply" | b"node", ..] => true,
        [b"init", b"phase", b"kubelet-start", ..] => true,
        [b"init", b"phase", b"control-plane" | b"etcd", _, ..] => true,
        [b"join", b"phase", b"kubelet-start" | b"etcd-join", ..] => true,
        [b"join", b"phase", b"control-plane-prepare", b"all" | b"control-plane", ..] => true,
        [b"join", b"phase", b"control-plane-join", b"all" | b"etcd", ..] => true,
        _ => false,
    }
}

/// The arguments, with the node's own patches where the command would take none.
///
/// Without them `kubeadm upgrade` would give the kubelet a configuration that knows nothing of the node's limits.
pub(super) fn patched(argv: &[OsString]) -> Vec<OsString> {
    let given = names(argv).iter().any(|named| named.flag == "patches" || named.flag == "config");
    let ours = (is_patched(argv) && !given).then(|| OsString::from(format!("--patches={PATCHES_DIR}")));
    // In front, since a `--` may come later; kubeadm looks for its commands behind flags.
    ours.into_iter().chain(argv.iter().cloned()).collect()
}

/// Where the documents of a configuration have the directory of patches, by kind.
const PLACES: [(&str, &[&str]); 4] = [
    ("InitConfiguration", &["/patches"]),
    ("JoinConfiguration", &["/patches"]),
    ("ResetConfiguration", &[]),
    ("UpgradeConfiguration", &["/apply/patches", "/node/patches"]),
];

/// The directory of patches that the documents name.
pub(super) fn patches_of(documents: &[Value]) -> Option<PathBuf> {
    let text = |place: &Value| place["directory"].as_str().filter(|text| !text.is_empty()).map(PathBuf::from);
    places(documents).find_map(|(document, place)| document.pointer(place).and_then(text))
}

fn places(documents: &[Value]) -> impl Iterator<Item = (&Value, &'static str)> {
    documents.iter().flat_map(|document| {
        let of_kind = PLACES.iter().filter(|(kind, _)| document["kind"] == *kind);
        of_kind.flat_map(move |(_, places)| places.iter().map(move |place| (document, *place)))
    })
}

/// The documents as one text, with this directory of patches; `None` if none of them can name one.
pub(super) fn with_patches(mut documents: Vec<Value>, directory: &str) -> Option<String> {
    let cluster = documents.iter().find(|document| document["kind"] == "ClusterConfiguration");
    if places(&documents).next().is_none() {
        // kubeadm's own defaults stand for a document that is not there.
        let version = cluster?["apiVersion"].clone();
        documents.push(json!({ "apiVersion": version, "kind": "InitConfiguration" }));
    }
    for document in &mut documents {
        let of_kind = PLACES.iter().find(|(kind, _)| document["kind"] == *kind);
        for place in of_kind.map_or(&[][..], |(_, places)| places) {
            let mut at = &mut *document;
            for key in place.split('/').skip(1) {
                at = at.as_object_mut()?.entry(key).or_insert_with(|| json!({}));
            }
            *at = json!({ "directory": directory });
        }
    }
    Some(
        documents
            .iter()
            .map(|document| format!("{}\n", yaml::json(document)))
            .collect::<Vec<_>>()
            .join("---\n"),
    )
}

/// A file or directory named on the command line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// Without dashes.
    pub(super) flag: &'static str,
    /// Position in argv.
    pub(super) index: usize,
    /// What stands before the name in that argument: `--config=`, or nothing.
    pub(super) prefix: String,
    pub(super) path: PathBuf,
    pub(super) for_: Use,
}

/// Whether what these arguments do to a directory of certificates is done there and then.
///
/// Other commands write the directory's name into manifests, where it must stay what it is.
fn keeps(argv: &[OsString]) -> bool {
    let words: Vec<&[u8]> = words(argv).into_iter().map(OsStr::as_bytes).collect();
    matches!(words[..], [b"certs" | b"certificates", ..] | [b"init", b"phase", b"certs" | b"kubeconfig", ..])
}

/// The names behind [`FLAGS`], as `--flag NAME` or `--flag=NAME`, up to a `--`.
pub(super) fn names(argv: &[OsString]) -> Vec<Named> {
    let mut names = Vec::new();
    let mut args = argv.iter().enumerate().take_while(|(_, arg)| *arg != "--").peekable();
    while let Some((index, arg)) = args.next() {
        let Some(text) = arg.as_bytes().strip_prefix(b"--") else { continue };
        let (name, value) = match text.iter().position(|byte| *byte == b'=') {
            Some(at) => (&text[..at], text.get(at + 1..)),
            None => (text, None),
        };
        let Some((flag, for_)) = FLAGS.iter().find(|(known, _)| known.as_bytes() == name) else { continue };
        if matches!(for_, Use::Keep(_)) && !keeps(argv) {
            continue;
        }
        let (index, prefix, path) = match (value, args.peek()) {
            (Some(value), _) => {
                (index, format!("--{}=", String::from_utf8_lossy(name)), OsStr::from_bytes(value))
            }
            (None, Some((next, value))) => (*next, String::new(), value.as_os_str()),
            (None, None) => continue,
        };
        if !path.is_empty() {
            names.push(Named { flag, index, prefix, path: path.into(), for_: *for_ });
        }
    }
    names
}

/// A command line that the real kubeadm carries out: names of files are found where they stand, and nothing is lost.
#[cfg(feature = "fuzzing")]
pub fn fuzz(argv: &[OsString]) {
    for named in names(argv) {
        let whole = [named.prefix.as_bytes(), named.path.as_os_str().as_bytes()].concat();
        assert!(argv.get(named.index).is_some_and(|word| word.as_bytes() == whole), "{named:?}");
    }
    assert!(patched(argv).ends_with(argv));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &str) -> Vec<(usize, String, String, Use)> {
        let argv: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let plain = |named: Named| (named.index, named.prefix, named.path.display().to_string(), named.for_);
        names(&argv).into_iter().map(plain).collect()
    }

    #[test]
    fn files_that_kubeadm_reads_are_found_in_both_forms() {
        assert_eq!(found("join --config join.yaml"), [(2, String::new(), "join.yaml".into(), Use::Read)]);
        assert_eq!(found("join --config=a=b --v=5"), [(1, "--config=".into(), "a=b".into(), Use::Read)]);
        assert_eq!(
            found("upgrade node --patches ./p --kubeconfig /k"),
            [(3, String::new(), "./p".into(), Use::ReadAll), (5, String::new(), "/k".into(), Use::Read)]
        );
    }

    #[test]
    fn files_that_kubeadm_writes_are_found_where_it_writes_them_at_once() {
        assert_eq!(found("config migrate --new-config out"), [(3, String::new(), "out".into(), Use::Write)]);
        assert_eq!(
            found("certs generate-csr --cert-dir=c --kubeconfig-dir k"),
            [
                (2, "--cert-dir=".into(), "c".into(), Use::Keep(Kept::Certificates)),
                (4, String::new(), "k".into(), Use::Keep(Kept::Kubeconfigs))
            ]
        );
        assert_eq!(found("init phase certs all --cert-dir c").len(), 1);
        assert_eq!(found("init phase kubeconfig admin --cert-dir c --kubeconfig-dir=k").len(), 2);
    }

    #[test]
    fn directories_that_stay_in_manifests_values_of_others_and_what_follows_two_dashes_are_not() {
        for line in [
            "init phase etcd local --cert-dir c",
            "init --cert-dir c",
            "join --token --",
            "join -- --config x",
            "join --config",
            "x",
        ] {
            assert_eq!(found(line), [], "{line}");
        }
    }

    fn patched_line(line: &str) -> String {
        let argv: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        patched(&argv).join(OsStr::new(" ")).into_string().unwrap()
    }

    #[test]
    fn commands_that_write_the_nodes_configuration_get_its_patches() {
        for line in [
            "upgrade apply v1.34.5 -y",
            "upgrade --dry-run node",
            "upgrade node phase kubelet-config",
            "init phase kubelet-start",
            "init phase etcd local",
            "join phase kubelet-start x:6443 --token t",
        ] {
            assert_eq!(patched_line(line), format!("--patches=/etc/u7s/patches {line}"));
        }
        for line in [
            "upgrade plan",
            "upgrade node --patches /p",
            "upgrade apply --config=/c",
            "init phase kubelet-start --config c",
            "init phase certs all",
            "upgrade apply phase preflight",
            "token create",
        ] {
            assert_eq!(patched_line(line), line);
        }
    }

    #[test]
    fn documents_get_the_nodes_patches_and_keep_the_rest() {
        let upgrade =
            json!({"apiVersion": "v", "kind": "UpgradeConfiguration", "apply": {"forceUpgrade": true}});
        let text = with_patches(vec![upgrade], "/p").unwrap();
        let seen: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(seen["apply"], json!({"forceUpgrade": true, "patches": {"directory": "/p"}}));
        assert_eq!(seen["node"], json!({"patches": {"directory": "/p"}}));
        let cluster = json!({"apiVersion": "v", "kind": "ClusterConfiguration"});
        let text = with_patches(vec![cluster], "/p").unwrap();
        let documents: Vec<Value> =
            text.split("---\n").map(|document| serde_json::from_str(document).unwrap()).collect();
        let added = json!({"apiVersion": "v", "kind": "InitConfiguration", "patches": {"directory": "/p"}});
        assert_eq!(documents, [json!({"apiVersion": "v", "kind": "ClusterConfiguration"}), added]);
        assert_eq!(with_patches(vec![json!({"kind": "Other"})], "/p"), None);
        let join = json!({"kind": "JoinConfiguration", "patches": {"directory": "/mine"}});
        assert_eq!(patches_of(&[join]), Some("/mine".into()));
    }
}
