//! This control plane's member of a stacked etcd cluster.

use std::time::Duration;

use serde_json::Value;

use super::{Applier, Ended};
use crate::child::last_line;
use crate::enter::{Entry, Input, Output, Target};
use crate::error::Error;
use crate::programs;

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

impl Applier<'_> {
    /// Removes the own member if there are others and the cluster does not know the node any more.
    ///
    /// Where the API server does not answer, nothing is known, and kubeadm says what it can do.
    pub(super) fn leave_etcd(&self) -> Result<Ended, Error> {
        let target = Target::find(&self.user()?)?;
        let Ok(kubectl) = programs::needed("kubectl") else {
            return Ok(Ended::Skipped("kubectl is not installed".into()));
        };
        let kubectl = kubectl.display().to_string();
        let own = ["--kubeconfig=/etc/kubernetes/kubelet.conf", "auth", "whoami", "--output=json"];
        let Ok(who) = ask(&target, &kubectl, &own) else {
            return Ok(Ended::Skipped("the API server does not answer".into()));
        };
        let name = json(&who)["status"]["userInfo"]["username"].as_str().unwrap_or_default().to_owned();
        let Some(node) = name.strip_prefix("system:node:").filter(|node| plain(node)) else {
            return Ok(Ended::Skipped("the kubelet has no node's certificate".into()));
        };
        let known = [
            "--kubeconfig=/etc/kubernetes/admin.conf",
            "get",
            "node",
            node,
            "--ignore-not-found",
            "--output=name",
        ];
        match ask(&target, &kubectl, &known) {
            Ok(found) if found.trim_ascii().is_empty() => remove(&target),
            Ok(_) => Ok(Ended::Held),
            Err(_) => Ok(Ended::Skipped("the API server does not answer".into())),
        }
    }
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

/// The name goes into a command line.
fn plain(node: &str) -> bool {
    !node.is_empty() && node.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
}
