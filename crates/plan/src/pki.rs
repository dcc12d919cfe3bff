//! kubeadm's keys and certificates, and what of them is lost with one of them.
//!
//! kubeadm takes a pair of which one half is there for an administrator's, and a certificate authority without its key for
//! one whose key is elsewhere: it then fails, or leaves a control plane that does not start.
//!
//! Source: kubernetes, cmd/kubeadm/app/phases/certs/certs.go and certlist.go; cmd/kubeadm/app/constants.

use std::collections::BTreeMap;

use crate::host::KUBERNETES_DIR;

/// Where kubeadm has them below [`KUBERNETES_DIR`] when it is not told otherwise.
pub const DIR: &str = "pki";

/// Files that are there, by their names below [`DIR`], and whether each has content.
pub type Seen = BTreeMap<String, bool>;

/// An authority, and the pairs that it signs.
struct Authority {
    name: &'static str,
    signs: &'static [&'static str],
}

const AUTHORITIES: [Authority; 3] = [
    Authority { name: CLUSTER, signs: &["apiserver", "apiserver-kubelet-client"] },
    Authority { name: "front-proxy-ca", signs: &["front-proxy-client"] },
    Authority {
        name: "etcd/ca",
        signs: &["etcd/server", "etcd/peer", "etcd/healthcheck-client", "apiserver-etcd-client"],
    },
];

/// The authority that kubeconfigs hold, too.
const CLUSTER: &str = "ca";

/// Key pair of service accounts.
const ACCOUNTS: [&str; 2] = ["sa.key", "sa.pub"];

/// What holds a certificate of the cluster's authority, or its own.
const KUBECONFIGS: [&str; 6] = [
    "admin.conf",
    "super-admin.conf",
    "controller-manager.conf",
    "scheduler.conf",
    "kubelet.conf",
    "bootstrap-kubelet.conf",
];
const KUBELET: &str = "/var/lib/kubelet/pki";

/// What starts with keys and certificates; kubeadm runs again where they are missing.
const MANIFESTS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// All names below [`DIR`] that kubeadm writes.
pub fn names() -> impl Iterator<Item = String> {
    let pairs =
        AUTHORITIES.iter().flat_map(|authority| std::iter::once(&authority.name).chain(authority.signs));
    pairs.flat_map(|name| pair(name)).chain(ACCOUNTS.map(str::to_owned))
}

fn pair(name: &str) -> [String; 2] {
    ["key", "crt"].map(|kind| format!("{name}.{kind}"))
}

/// What must go, as paths inside, for kubeadm to write what is lost; nothing where no file is empty.
///
/// For the files of a run that the host did not survive: a file without content is one that kubeadm had begun to write. Empty
/// ones are not named: whoever removes them does so afterwards, so that a run that is killed meanwhile is made good by the
/// next. A half or an authority that is alone may be an administrator's, and stays.
#[must_use]
pub fn lost(seen: &Seen) -> Vec<String> {
    let is_empty = |pair: &[String; 2]| pair.iter().any(|name| seen.get(name) == Some(&false));
    let (mut names, mut files) = (Vec::new(), Vec::new());
    for Authority { name, signs } in &AUTHORITIES {
        let gone = is_empty(&pair(name));
        let pairs = signs.iter().map(|name| pair(name)).filter(|pair| gone || is_empty(pair));
        names.extend(pairs.chain(gone.then(|| pair(name))).flatten());
        if gone && *name == CLUSTER {
            files.extend(KUBECONFIGS.map(|name| format!("{KUBERNETES_DIR}/{name}")));
            files.push(KUBELET.to_owned());
        }
    }
    let accounts = ACCOUNTS.map(str::to_owned);
    names.extend(is_empty(&accounts).then_some(accounts).into_iter().flatten());
    if names.is_empty() {
        return Vec::new();
    }
    files.extend(MANIFESTS.map(|name| format!("{KUBERNETES_DIR}/manifests/{name}.yaml")));
    let whole = names.into_iter().filter(|name| seen.get(name) == Some(&true));
    files.extend(whole.map(|name| format!("{KUBERNETES_DIR}/{DIR}/{name}")));
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Seen {
        names().map(|name| (name, true)).collect()
    }

    fn without(changed: &[(&str, Option<bool>)]) -> Vec<String> {
        let mut seen = all();
        for (name, state) in changed {
            match state {
                Some(content) => seen.insert((*name).to_owned(), *content),
                None => seen.remove(*name),
            };
        }
        let short = |path: String| path.trim_start_matches("/etc/kubernetes/").to_owned();
        lost(&seen).into_iter().map(short).filter(|path| !path.starts_with("manifests/")).collect()
    }

    #[test]
    fn what_is_whole_or_was_never_begun_stays() {
        assert_eq!(names().count(), 22);
        assert!(lost(&all()).is_empty());
        assert!(lost(&Seen::new()).is_empty());
        // A node that joined has the certificate alone, as one has whose administrator keeps the key elsewhere.
        assert!(lost(&Seen::from([("ca.crt".to_owned(), true)])).is_empty());
        assert!(without(&[("ca.key", None)]).is_empty());
    }

    /// An administrator may have the other half elsewhere, as for an etcd of their own.
    #[test]
    fn half_a_pair_that_is_alone_stays() {
        for name in ["apiserver-etcd-client.key", "sa.pub", "ca.crt", "etcd/ca.crt"] {
            assert!(without(&[(name, None)]).is_empty(), "{name}");
        }
        assert!(without(&[("etcd/ca.crt", None), ("etcd/ca.key", None)]).is_empty());
    }

    #[test]
    fn an_empty_half_takes_the_other_half_with_it() {
        assert_eq!(without(&[("apiserver.crt", Some(false))]), ["pki/apiserver.key"]);
        assert_eq!(without(&[("apiserver.key", Some(false))]), ["pki/apiserver.crt"]);
        assert_eq!(without(&[("sa.pub", Some(false))]), ["pki/sa.key"]);
        let both = Seen::from(["sa.key", "sa.pub"].map(|name| (name.to_owned(), false)));
        assert_eq!(lost(&both).len(), MANIFESTS.len(), "kubeadm runs again");
    }

    #[test]
    fn an_authority_takes_all_that_it_signed_with_it_and_no_other() {
        let gone = without(&[("front-proxy-ca.key", Some(false))]);
        let names = ["front-proxy-client.key", "front-proxy-client.crt", "front-proxy-ca.crt"];
        assert_eq!(gone, names.map(|name| format!("pki/{name}")));
        let gone = without(&[("ca.crt", Some(false))]);
        for path in ["admin.conf", "kubelet.conf", "/var/lib/kubelet/pki", "pki/apiserver.crt", "pki/ca.key"]
        {
            assert!(gone.iter().any(|name| name == path), "{path} is not in {gone:?}");
        }
        assert!(!gone.iter().any(|name| name.contains("etcd") || name.contains("front")), "{gone:?}");
    }
}
