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

/// What must go, as paths inside, for kubeadm to write what is lost; nothing where nothing is lost. Authorities are the last:
/// as long as an empty one is there, a run that is killed meanwhile can be made good by the next.
///
/// For the files of a run that the host did not survive: a file without content is one that kubeadm had begun to write. A
/// certificate authority that an administrator put there has content, and stays.
#[must_use]
pub fn lost(seen: &Seen) -> Vec<String> {
    let (mut pairs, mut authorities, mut files) = (Vec::new(), Vec::new(), Vec::new());
    for Authority { name, signs } in &AUTHORITIES {
        let whole = is_whole(seen, name, signs);
        if !whole {
            authorities.extend(pair(name));
        }
        let broken = |pair: &&&str| !whole || is_half(seen, &self::pair(pair));
        pairs.extend(signs.iter().filter(broken).flat_map(|name| pair(name)));
        if !whole && *name == CLUSTER {
            files.extend(KUBECONFIGS.map(|name| format!("{KUBERNETES_DIR}/{name}")));
            files.push(KUBELET.to_owned());
        }
    }
    if is_half(seen, &ACCOUNTS.map(str::to_owned)) {
        pairs.extend(ACCOUNTS.map(str::to_owned));
    }
    if pairs.is_empty() && authorities.is_empty() {
        return Vec::new();
    }
    files.extend(MANIFESTS.map(|name| format!("{KUBERNETES_DIR}/manifests/{name}.yaml")));
    files.extend(pairs.into_iter().chain(authorities).map(|name| format!("{KUBERNETES_DIR}/{DIR}/{name}")));
    files
}

/// Neither of an authority's files is empty, and a certificate is there if anything else is. That one alone may be an
/// administrator's.
fn is_whole(seen: &Seen, name: &str, signs: &[&str]) -> bool {
    let [key, crt] = pair(name).map(|name| seen.get(&name).copied());
    let signed = || signs.iter().flat_map(|name| pair(name)).any(|name| seen.contains_key(&name));
    key != Some(false) && crt != Some(false) && (crt.is_some() || (key.is_none() && !signed()))
}

/// One has content, the other has not or is not there; or both are empty.
fn is_half(seen: &Seen, pair: &[String; 2]) -> bool {
    let [one, other] = pair.each_ref().map(|name| seen.get(name).copied());
    one != other || one == Some(false)
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

    #[test]
    fn half_a_pair_takes_the_other_half_with_it() {
        for state in [Some(false), None] {
            assert_eq!(without(&[("apiserver.crt", state)]), ["pki/apiserver.key", "pki/apiserver.crt"]);
            assert_eq!(without(&[("apiserver.key", state)]), ["pki/apiserver.key", "pki/apiserver.crt"]);
            assert_eq!(without(&[("sa.pub", state)]), ["pki/sa.key", "pki/sa.pub"]);
        }
        assert!(lost(&all()).is_empty());
        let seen: Seen = all().into_iter().filter(|(name, _)| !name.starts_with("etcd/peer")).collect();
        assert!(lost(&seen).is_empty(), "a pair that was not begun");
    }

    #[test]
    fn an_authority_takes_all_that_it_signed_with_it_and_no_other() {
        let gone = without(&[("front-proxy-ca.key", Some(false))]);
        let names =
            ["front-proxy-client.key", "front-proxy-client.crt", "front-proxy-ca.key", "front-proxy-ca.crt"];
        assert_eq!(gone, names.map(|name| format!("pki/{name}")));
        let gone = without(&[("ca.crt", Some(false))]);
        for path in ["admin.conf", "kubelet.conf", "/var/lib/kubelet/pki", "pki/apiserver.crt", "pki/ca.key"]
        {
            assert!(gone.iter().any(|name| name == path), "{path} is not in {gone:?}");
        }
        assert!(!gone.iter().any(|name| name.contains("etcd") || name.contains("front")), "{gone:?}");
        let gone = without(&[("etcd/ca.crt", None), ("etcd/ca.key", None)]);
        assert!(gone.contains(&"pki/etcd/server.crt".to_owned()), "signed by nobody that is known: {gone:?}");
        assert_eq!(without(&[("etcd/ca.crt", None)]).last().map(String::as_str), Some("pki/etcd/ca.crt"));
    }
}
