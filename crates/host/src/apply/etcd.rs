//! This control plane's member of a stacked etcd cluster.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::Value;
use u7s_plan::host::ETCD_PORTS;
use u7s_plan::node::NodeSpec;

use super::{Applier, Ended};
use crate::child::last_line;
use crate::enter::{Entry, Input, Output, Target};
use crate::error::Error;
use crate::{probe, programs};

/// Runs the etcdctl of the running etcd's own image: no other one need be installed.
///
/// The certificates lie at the same place on the node as in the container.
const ETCDCTL: &str = r#"for process in /proc/[0-9]*; do
    read -r name <"$process/comm" 2>/dev/null && [ "$name" = etcd ] &&
        exec "$process/root/usr/local/bin/etcdctl" --endpoints=https://127.0.0.1:2379 \
            --cacert=/etc/kubernetes/pki/etcd/ca.crt --cert=/etc/kubernetes/pki/etcd/server.crt \
            --key=/etc/kubernetes/pki/etcd/server.key --command-timeout=10s --write-out=json "$@"
done
echo no etcd runs here >&2
exit 1"#;

/// How long one question may take.
const ASK: Duration = Duration::from_secs(15);

/// The most that one answer may hold, bytes.
const MOST: usize = 1 << 20;

/// kubectl as an administrator.
const ADMIN: [&str; 2] = ["--kubeconfig=/etc/kubernetes/admin.conf", "--namespace=kube-system"];

/// etcdctl in the etcd pod of another control plane.
const THERE: [&str; 7] = [
    "etcdctl",
    "--endpoints=https://127.0.0.1:2379",
    "--cacert=/etc/kubernetes/pki/etcd/ca.crt",
    "--cert=/etc/kubernetes/pki/etcd/server.crt",
    "--key=/etc/kubernetes/pki/etcd/server.key",
    "--command-timeout=10s",
    "--write-out=json",
];

impl Applier<'_> {
    /// Removes the own member if there are others and kubeadm would not find its configuration: the Node was deleted, or a join
    /// was killed before its API server had a pod. What the killed join announced counts against the quorum, and as a learner
    /// keeps others from joining.
    ///
    /// Where the API server does not answer, nothing is known, and kubeadm says what it can do.
    ///
    /// Source: kubernetes 1.34.4, cmd/kubeadm/app/util/config/cluster.go, `GetNodeRegistration`, `getAPIEndpoint`.
    pub(super) fn leave_etcd(&self) -> Result<Ended, Error> {
        let target = Target::find(&self.user()?)?;
        let Ok(kubectl) = programs::needed("kubectl") else {
            return Ok(Ended::Skipped("kubectl is not installed".into()));
        };
        let Some(node) = probe::node()? else { return Ok(Ended::Held) };
        let kubectl = Kubectl { target: &target, program: kubectl.display().to_string() };
        let (name, server) =
            (format!("node/{}", node.node_name), format!("pod/kube-apiserver-{}", node.node_name));
        let wanted = ["get", &name, &server, "--ignore-not-found", "--output=name"];
        let Ok(found) = kubectl.ask(&wanted) else {
            return Ok(Ended::Skipped("the API server does not answer".into()));
        };
        let found = String::from_utf8_lossy(&found);
        let knows = |name: &str| found.lines().any(|line| line == name);
        if knows(&name) && knows(&server) {
            return Ok(Ended::Held);
        }
        kubectl.withdraw(&node).or_else(|_| remove(&target))
    }
}

/// kubectl inside.
struct Kubectl<'a> {
    target: &'a Target,
    program: String,
}

impl Kubectl<'_> {
    fn ask(&self, words: &[&str]) -> Result<Vec<u8>, Error> {
        ask(self.target, &self.program, &[&ADMIN[..], words].concat())
    }

    /// By another control plane's etcd: the own one may not run, and a learner takes no such request.
    fn withdraw(&self, node: &NodeSpec) -> Result<Ended, Error> {
        let own = format!("pod/etcd-{}", node.node_name);
        let pods = self.ask(&["get", "pods", "--selector=component=etcd", "--output=name"])?;
        let pods = String::from_utf8_lossy(&pods);
        let mut last = Ok(Ended::Held);
        for pod in pods.lines().filter(|pod| *pod != own) {
            last = self.withdraw_by(pod, node);
            if last.is_ok() {
                break;
            }
        }
        last
    }

    fn withdraw_by(&self, pod: &str, node: &NodeSpec) -> Result<Ended, Error> {
        let etcdctl = |words: &[&str]| self.ask(&[&["exec", pod, "--"], &THERE[..], words].concat());
        let members = json(&etcdctl(&["member", "list"])?);
        let Some(id) = member(&members, node.network.node_ip) else { return Ok(Ended::Held) };
        etcdctl(&["member", "remove", &format!("{id:x}")])?;
        Ok(Ended::Done)
    }
}

/// The member whose peers reach it at this address.
///
/// Source: kubernetes, cmd/kubeadm/app/util/etcd, `GetPeerURL`.
fn member(members: &Value, address: Ipv4Addr) -> Option<u64> {
    let url = format!("https://{address}:{}", ETCD_PORTS[1]);
    let here = |member: &&Value| {
        member["peerURLs"].as_array().is_some_and(|urls| urls.iter().any(|seen| *seen == *url))
    };
    members["members"].as_array()?.iter().find(here)?["ID"].as_u64()
}

/// # Errors
/// etcd refused: the others have no quorum without this member.
fn remove(target: &Target) -> Result<Ended, Error> {
    let members = json(&etcdctl(target, &["member", "list"])?);
    if members["members"].as_array().is_none_or(|members| members.len() < 2) {
        return Ok(Ended::Held);
    }
    let status = json(&etcdctl(target, &["endpoint", "status"])?);
    let Some(id) = status[0]["Status"]["header"]["member_id"].as_u64() else { return Ok(Ended::Held) };
    etcdctl(target, &["member", "remove", &format!("{id:x}")])?;
    Ok(Ended::Done)
}

fn etcdctl(target: &Target, words: &[&str]) -> Result<Vec<u8>, Error> {
    let argv: Vec<&str> = ["-c", ETCDCTL, "etcdctl"].into_iter().chain(words.iter().copied()).collect();
    ask(target, "/bin/sh", &argv)
}

/// What a program inside says, as the node's user.
fn ask(target: &Target, program: &str, words: &[&str]) -> Result<Vec<u8>, Error> {
    let argv = std::iter::once(program).chain(words.iter().copied());
    let entry = Entry::inside(target, argv).directory("/").input(Input::Null).output(Output::Capture(MOST));
    let ended = entry.deadline(ASK).run()?;
    if ended.status.success() {
        return Ok(ended.stdout);
    }
    let status = ended.status.to_string();
    Err(Error::Failed { program: program.into(), status, said: last_line(&ended.stderr) })
}

/// An answer that is no JSON is null, which holds nothing that is looked for.
fn json(text: &[u8]) -> Value {
    serde_json::from_slice(text).unwrap_or_default()
}

/// Answers of etcdctl.
#[cfg(feature = "fuzzing")]
pub fn fuzz(data: &[u8]) {
    let _ = member(&json(data), Ipv4Addr::LOCALHOST);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_member_is_known_by_its_address_before_it_has_a_name() {
        let list = json(
            br#"{"members":[{"ID":13803658152347727308,"name":"c1","peerURLs":["https://10.77.0.2:2380"]},
                 {"ID":255,"peerURLs":["https://10.77.0.22:2380"],"isLearner":true}]}"#,
        );
        assert_eq!(member(&list, Ipv4Addr::new(10, 77, 0, 22)), Some(255));
        assert_eq!(member(&list, Ipv4Addr::new(10, 77, 0, 2)), Some(13_803_658_152_347_727_308));
        assert_eq!(member(&list, Ipv4Addr::new(10, 77, 0, 3)), None);
        assert_eq!(member(&Value::Null, Ipv4Addr::LOCALHOST), None);
    }
}
