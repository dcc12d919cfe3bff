//! One node with a finished `kubeadm init`, and how tests talk to it.

use std::error::Error;
use std::time::{Duration, Instant};

use serde_json::Value;
use u7s_harness::{Invocation, Lan, Node, Output, Running, until};

use crate::pair::is_ready;
use crate::world::{Bare, Check, IGNORED, kubeadm};

/// How long Kubernetes may take for things that take seconds.
pub(crate) const SOON: Duration = Duration::from_secs(90);

/// A node after the first `kubeadm init`.
pub(crate) struct Cluster {
    pub(crate) bare: Bare,
    /// What the first init printed.
    pub(crate) init: Output,
    /// How long it took.
    pub(crate) took: Duration,
    /// When each part was first heard of, ours and kubeadm's own phases, in order.
    pub(crate) parts: Parts,
}

impl Cluster {
    pub(crate) fn new(lan: &Lan) -> Result<Self, Box<dyn Error>> {
        Self::named(lan, "n1", &["init", IGNORED])
    }

    /// On a node of this name, with the whole command line of kubeadm.
    pub(crate) fn named(lan: &Lan, name: &str, arguments: &[&str]) -> Result<Self, Box<dyn Error>> {
        Self::on(Bare::new(lan, name)?, arguments)
    }

    /// On a node that is there.
    pub(crate) fn on(bare: Bare, arguments: &[&str]) -> Result<Self, Box<dyn Error>> {
        let start = Instant::now();
        let (init, parts) = listen(kubeadm(&bare.node, arguments).spawn()?, start)?;
        let cluster = Self { bare, init, took: start.elapsed(), parts };
        if !cluster.init.ok() {
            let log =
                cluster.node().exec(&["journalctl", "--no-pager", "-n", "60", "-o", "short-monotonic"])?;
            return Err(format!("kubeadm init: {}\njournal: {}", cluster.init, log.stdout).into());
        }
        Ok(cluster)
    }

    pub(crate) fn node(&self) -> &Node {
        &self.bare.node
    }

    /// kubectl as root on the host; gives what it prints.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String, Box<dyn Error>> {
        Ok(self.kubectl_command(arguments).ok()?)
    }

    /// kubectl's cache is its own: it lies where the comparison after a reset does not look.
    pub(crate) fn kubectl_command(&self, arguments: &[&str]) -> Invocation {
        let argv: Vec<&str> = std::iter::once("kubectl").chain(arguments.iter().copied()).collect();
        self.node().command(&argv).env("KUBECACHEDIR", "/dev/shm/kubectl").within(SOON)
    }

    /// A JSON answer of kubectl.
    pub(crate) fn json(&self, arguments: &[&str]) -> Result<Value, Box<dyn Error>> {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["-o", "json"]).collect();
        Ok(serde_json::from_str(&self.kubectl(&arguments)?)?)
    }

    /// Runs a command inside the node's namespaces.
    pub(crate) fn inside(&self, argv: &[&str]) -> Result<Output, Box<dyn Error>> {
        let argv: Vec<&str> = ["u7s", "shell", "--"].into_iter().chain(argv.iter().copied()).collect();
        Ok(self.node().exec(&argv)?)
    }

    /// The node's time, as the API writes times.
    pub(crate) fn now(&self) -> Result<String, Box<dyn Error>> {
        Ok(self.node().sh("date -u +%FT%TZ")?)
    }

    /// As [`converge`](Self::converge), after a stop of the whole node: what etcd remembers of before says Ready, too, so only
    /// containers that were started since count.
    pub(crate) fn converge_anew(&self, since: &str, limit: Duration) -> Result<Duration, Box<dyn Error>> {
        let start = Instant::now();
        until(limit, "containers that were started since", || {
            let pods = self.json(&["get", "pods", "-n", "kube-system"]).map_err(|error| error.to_string())?;
            let old = not_started_since(&pods, since);
            if old.is_empty() { Ok(()) } else { Err(old.join(", ")) }
        })?;
        self.converge(limit.saturating_sub(start.elapsed()))?;
        // kube-proxy has no readiness, and asks an API server that was away again after a growing pause.
        until(limit.saturating_sub(start.elapsed()), "kube-proxy's rules for CoreDNS' pods", || {
            let missing = self.without_rules().map_err(|error| error.to_string())?;
            if missing.is_empty() { Ok(()) } else { Err(missing.join(", ")) }
        })?;
        Ok(start.elapsed())
    }

    /// Addresses of CoreDNS' pods to which kube-proxy leads nobody yet.
    fn without_rules(&self) -> Result<Vec<String>, Box<dyn Error>> {
        let pods = self.json(&["get", "pods", "-n", "kube-system", "-l", "k8s-app=kube-dns"])?;
        let rules = self.node().ok(&["u7s", "shell", "--", "iptables-save", "-t", "nat"])?;
        let addresses = pods["items"].as_array().into_iter().flatten().map(|pod| &pod["status"]["podIP"]);
        let led = |address: &String| rules.contains(&format!("--to-destination {address}:53"));
        Ok(addresses.map(|address| address.as_str().unwrap_or("?").to_owned()).filter(|a| !led(a)).collect())
    }

    /// Waits until the node and every pod that kubeadm makes, and flannel's, are Ready.
    pub(crate) fn converge(&self, limit: Duration) -> Result<Duration, Box<dyn Error>> {
        let start = Instant::now();
        until(limit, "a Ready node and all its pods", || {
            let node = self.json(&["get", "nodes"]).map_err(|error| error.to_string())?;
            let pods = self.json(&["get", "pods", "-A"]).map_err(|error| error.to_string())?;
            let waiting = unready(&node, &pods);
            if waiting.is_empty() { Ok(()) } else { Err(waiting.join(", ")) }
        })?;
        Ok(start.elapsed())
    }

    /// Waits until so many nodes are there and Ready, and every pod of kube-* namespaces.
    pub(crate) fn all_ready(&self, nodes: usize, limit: Duration) -> Check {
        until(limit, "all nodes and pods to be Ready", || {
            let text = |error: Box<dyn Error>| error.to_string();
            let list = |kind: &[&str]| -> Result<Vec<Value>, String> {
                let found = self.json(kind).map_err(text)?;
                Ok(found["items"].as_array().cloned().unwrap_or_default())
            };
            let mut waiting: Vec<String> = Vec::new();
            let there = list(&["get", "nodes"])?;
            if there.len() != nodes {
                waiting.push(format!("{} of {nodes} nodes", there.len()));
            }
            let pods = list(&["get", "pods", "--all-namespaces"])?;
            let system = pods.iter().filter(|pod| {
                pod["metadata"]["namespace"].as_str().is_some_and(|name| name.starts_with("kube-"))
            });
            let objects = there.iter().chain(system).filter(|object| !is_ready(object));
            waiting.extend(objects.map(|object| object["metadata"]["name"].to_string()));
            if waiting.is_empty() { Ok(()) } else { Err(waiting.join(", ")) }
        })?;
        Ok(())
    }

    /// Applies a manifest from text.
    pub(crate) fn apply(&self, manifest: &str) -> Check {
        self.kubectl_command(&["apply", "-f", "-"]).input(manifest).ok()?;
        Ok(())
    }

    /// A pod of the kit's tools that sleeps, Ready when this returns.
    pub(crate) fn pod(&self, name: &str, security: &str) -> Check {
        self.apply(&format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","namespace":"default"}},"spec":{{
            "terminationGracePeriodSeconds":1,"tolerations":[{{"operator":"Exists"}}],"containers":[{{"name":"c",
            "image":"test.local/tools:1","imagePullPolicy":"Never","command":["/bin/sh","-c","echo started; exec sleep 100000"],
            "securityContext":{security}}}]}}}}"#
        ))?;
        self.kubectl(&["wait", "--for=condition=Ready", "--timeout=80s", &format!("pod/{name}")]).map(drop)
    }

    /// Runs a command in a pod.
    pub(crate) fn in_pod(&self, pod: &str, argv: &[&str]) -> Result<Output, Box<dyn Error>> {
        let arguments: Vec<&str> = ["exec", pod, "--"].into_iter().chain(argv.iter().copied()).collect();
        Ok(self.kubectl_command(&arguments).run()?)
    }

    /// The supervisor's status document.
    pub(crate) fn status(&self) -> Result<Value, Box<dyn Error>> {
        // Its exit status tells of a degraded node, which these are.
        Ok(serde_json::from_str(&self.node().exec(&["u7s", "status", "-o", "json"])?.stdout)?)
    }
}

/// Runs a command to its end and notes when each `[part]` of its output was first seen.
pub(crate) fn listen(mut running: Running, start: Instant) -> Result<(Output, Parts), Box<dyn Error>> {
    let mut parts: Parts = Vec::new();
    until(Duration::from_secs(300), "the end of kubeadm", || {
        let (stdout, stderr) = running.so_far();
        for line in stdout.lines().chain(stderr.lines()) {
            let name = line.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(name, _)| name);
            if let Some(name) = name.filter(|name| parts.iter().all(|(known, _)| known != name)) {
                parts.push((name.to_owned(), start.elapsed()));
            }
        }
        running.try_status().map_err(|error| error.to_string())?.ok_or_else(String::new)
    })?;
    Ok((running.wait(Duration::from_secs(5))?, parts))
}

/// Names of parts and when they began.
pub(crate) type Parts = Vec<(String, Duration)>;

/// What is not there or not Ready yet of a node and the pods of a new cluster.
fn unready(nodes: &Value, pods: &Value) -> Vec<String> {
    let mut waiting = Vec::new();
    let nodes = nodes["items"].as_array().cloned().unwrap_or_default();
    if nodes.is_empty() || !nodes.iter().all(is_ready) {
        waiting.push("node".to_owned());
    }
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    for (prefix, count) in EXPECTED {
        let of_kind = pods
            .iter()
            .filter(|pod| pod["metadata"]["name"].as_str().is_some_and(|name| name.starts_with(prefix)));
        let ready = of_kind.filter(|pod| pod["status"]["phase"] == "Running" && is_ready(pod)).count();
        if ready != *count {
            waiting.push(format!("{prefix} {ready} of {count}"));
        }
    }
    waiting
}

/// kubeadm's pods and flannel's by the start of their names.
const EXPECTED: &[(&str, usize)] = &[
    ("etcd-", 1),
    ("kube-apiserver-", 1),
    ("kube-controller-manager-", 1),
    ("kube-scheduler-", 1),
    ("kube-proxy-", 1),
    ("kube-flannel-ds-", 1),
    ("coredns-", 2),
];

/// Pods of which a container does not run, or runs since before a time (RFC 3339, seconds, UTC: texts compare as times).
fn not_started_since(pods: &Value, time: &str) -> Vec<String> {
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    let fresh = |container: &Value| {
        container["state"]["running"]["startedAt"].as_str().is_some_and(|started| started >= time)
    };
    let old = pods.iter().filter(|pod| {
        let containers = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        containers.is_empty() || !containers.iter().all(fresh)
    });
    old.map(|pod| pod["metadata"]["name"].as_str().unwrap_or("?").to_owned()).collect()
}
