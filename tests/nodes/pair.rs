//! Two nodes of one cluster: A began it, B joined. Each has a client beside it, a host that belongs to no cluster.

use std::error::Error;
use std::time::{Duration, Instant};

use serde_json::Value;
use u7s_harness::{Invocation, Lan, Node, Output, until};

use crate::cluster::{Cluster, Parts, listen};
use crate::world::{Bare, Check, IGNORED, kubeadm};

/// A's cluster with B in it.
pub(crate) struct Pair {
    pub(crate) a: Cluster,
    pub(crate) b: Joined,
}

/// A node that joined.
pub(crate) struct Joined {
    pub(crate) bare: Bare,
    /// The words behind `kubeadm join` that A printed.
    pub(crate) words: Vec<String>,
    /// Flags beside them.
    pub(crate) flags: Vec<String>,
    /// What `kubeadm join` printed.
    pub(crate) output: Output,
    /// How long it took.
    pub(crate) took: Duration,
    /// When each of its parts was first heard of.
    pub(crate) parts: Parts,
}

impl Pair {
    pub(crate) fn new(lan: &Lan) -> Result<Self, Box<dyn Error>> {
        let a = Cluster::named(lan, "a", &["init", IGNORED])?;
        let b = Joined::new(&a, Bare::new(lan, "b")?, &[])?;
        Ok(Self { a, b })
    }

    pub(crate) fn nodes(&self) -> [&Node; 2] {
        [self.a.node(), self.b.node()]
    }

    /// Waits until both nodes and all pods of kube-system and kube-flannel are Ready.
    pub(crate) fn converge(&self, limit: Duration) -> Result<Duration, Box<dyn Error>> {
        let began = Instant::now();
        self.a.all_ready(2, limit)?;
        Ok(began.elapsed())
    }

    /// A pod of the kit's tools on one node, Ready when this returns; gives its address.
    pub(crate) fn pod(&self, name: &str, node: &Node) -> Result<String, Box<dyn Error>> {
        self.a.apply(&manifest(name, node.name()))?;
        self.a.kubectl(&["wait", "--for=condition=Ready", "--timeout=80s", &format!("pod/{name}")])?;
        self.a.kubectl(&["get", "pod", name, "-o", "jsonpath={.status.podIP}"])
    }
}

impl Joined {
    /// Joins by what A prints, with further flags.
    pub(crate) fn new(a: &Cluster, bare: Bare, flags: &[String]) -> Result<Self, Box<dyn Error>> {
        let words = join_words(a)?;
        let given: Vec<&str> = flags.iter().map(String::as_str).collect();
        let began = Instant::now();
        let (output, parts) = listen(join(&bare.node, &words, &given).spawn()?, began)?;
        let flags = flags.to_vec();
        let joined = Self { bare, words, flags, output, took: began.elapsed(), parts };
        if joined.output.ok() {
            return Ok(joined);
        }
        let log = joined.node().exec(&["journalctl", "--no-pager", "-n", "60", "-o", "short-monotonic"])?;
        Err(format!("kubeadm join: {}\njournal: {}", joined.output, log.stdout).into())
    }

    pub(crate) fn node(&self) -> &Node {
        &self.bare.node
    }
}

/// A pod of the kit's tools on this node, that may ping and serves its /tmp by HTTP on port 7000, its own name in the file
/// `name`; beside them a name server on port 53, which without a configuration
/// answers each question with the address that it came from.
pub(crate) fn manifest(name: &str, node: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","labels":{{"app":"{name}"}}}},"spec":{{
        "nodeName":"{node}","terminationGracePeriodSeconds":1,"tolerations":[{{"operator":"Exists"}}],"containers":[{{
        "name":"c","image":"test.local/tools:1","imagePullPolicy":"Never",
        "command":["/bin/sh","-c","echo started; hostname >/tmp/name; exec busybox httpd -f -p 7000 -h /tmp"],
        "securityContext":{{"capabilities":{{"add":["NET_RAW"]}}}}}},{{
        "name":"dns","image":"registry.k8s.io/coredns/coredns:v1.12.1","imagePullPolicy":"Never"}}]}}}}"#
    )
}

/// What a control plane prints for others to join, without `kubeadm join`.
pub(crate) fn join_words(a: &Cluster) -> Result<Vec<String>, Box<dyn Error>> {
    let printed = kubeadm(a.node(), &["token", "create", "--print-join-command"]).ok()?;
    let line = printed.lines().find_map(|line| line.trim().strip_prefix("kubeadm join "));
    let line = line.ok_or_else(|| format!("no join command in {printed}"))?;
    Ok(line.split_whitespace().map(str::to_owned).collect())
}

/// `kubeadm join` on a rootless node.
pub(crate) fn join(node: &Node, words: &[String], flags: &[&str]) -> Invocation {
    let argv: Vec<&str> = ["join"]
        .into_iter()
        .chain(words.iter().map(String::as_str))
        .chain([IGNORED])
        .chain(flags.iter().copied())
        .collect();
    kubeadm(node, &argv)
}

/// Whether a node is Ready, as the cluster sees it.
pub(crate) fn ready_within(a: &Cluster, name: &str, limit: Duration) -> Check {
    until(limit, &format!("node {name} to be Ready"), || {
        let node = a.json(&["get", "node", name]).map_err(|error| error.to_string())?;
        if is_ready(&node) { Ok(()) } else { Err(node["status"]["conditions"].to_string()) }
    })?;
    Ok(())
}

/// The condition Ready of a node or pod.
pub(crate) fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
}
