//! Looks at a node that was made: what supervisor, API server, certificates and processes tell.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use u7s_plan::certificate;
use u7s_plan::config::Config;
use u7s_plan::control::Status;
use u7s_plan::facts::{Facts, UserFact};
use u7s_plan::health::{Certificate, ClusterSeen, Seen};
use u7s_plan::host::{self, KUBERNETES_DIR};
use u7s_plan::node::NodeSpec;

use super::cluster::kubeconfigs;
use super::{documents, firewall, listeners, names_that, network, systemd_facts, text};
use crate::control::{Client, Error as ControlError, PATIENCE};
use crate::enter::{Entry, Input, Output, Target};
use crate::error::{Error, chain};
use crate::files;
use crate::programs::{self, Found};

/// How long the API server may take to answer.
const API: Duration = Duration::from_secs(5);

/// How long supervisor and API server may take to answer all questions together, times the configured factor.
const ANSWERS: Duration = Duration::from_secs(20);

/// What is left until then, and a moment at least: 0 would mean without end to some.
fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now()).max(Duration::from_millis(100))
}

/// Looks at everything that `u7s status` judges. The caller is root or the node's user, on the host.
///
/// Takes milliseconds, and as long as the API server takes to answer, at most 10 s; of a node that works against it at
/// most [`ANSWERS`], and some seconds to end what it asked.
///
/// # Errors
/// node.json that is not ours or cannot be read; `Netlink`.
pub fn standing(config: &Config) -> Result<Seen, Error> {
    let mut facts = super::local(config);
    let network = network::network()?;
    facts.addresses = network.addresses;
    facts.listeners = listeners::listeners(host::UNIT);
    facts.unit = systemd_facts().unit;
    facts.programs.insert("slirp4netns".into(), found("slirp4netns", &mut facts.refused));
    let node = documents::node()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut seen = Seen { now, facts, node, ..Seen::default() };
    let (Some(user), Some(node)) = (seen.facts.user.clone(), seen.node.clone()) else { return Ok(seen) };
    let until = Instant::now() + ANSWERS * config.timeout_factor.clamp(1, 100);
    let client = Client::new(user.uid);
    let owns = Owner::of(&user, &node);
    match client.status() {
        Ok(status) => {
            match client.patience(PATIENCE.min(left(until))).ports() {
                Ok(ports) => seen.ports = ports,
                Err(error) => seen.silent = Some(error.to_string()),
            }
            (seen.stopped, seen.foreign) = stopped(&status, &owns);
            seen.table = firewall::table(config, &seen.facts, &node);
            seen.cluster = Some(cluster(&user, &node, (status.init_pid, until)));
            seen.status = Some(status);
        }
        Err(ControlError::NotRunning { .. }) => {}
        Err(error) => {
            seen.silent = Some(error.to_string());
            seen.stopped = stopped_main(&user);
        }
    }
    seen.facts.cluster.kubeconfigs = kubeconfigs();
    seen.certificates = certificates(&seen.facts, now);
    Ok(seen)
}

fn found(name: &str, refused: &mut std::collections::BTreeMap<String, String>) -> Option<PathBuf> {
    match programs::find(name) {
        Found::At(path) => Some(path),
        Found::Missing => None,
        Found::Refused(why) => {
            refused.insert(name.into(), why);
            None
        }
    }
}

/// Whose processes the node's are: its user's, and those of the subordinate ids in its map.
struct Owner(Vec<(u32, u32)>);

impl Owner {
    fn of(user: &UserFact, node: &NodeSpec) -> Self {
        let extents = node.uid_map.iter().map(|extent| (extent.outside, extent.count));
        Self(extents.chain([(user.uid, 1)]).collect())
    }

    /// `None`: there is no such process.
    fn has(&self, pid: i32) -> Option<bool> {
        let uid = owner(pid)?;
        Some(
            self.0.iter().any(|(start, count)| uid.checked_sub(*start).is_some_and(|offset| offset < *count)),
        )
    }
}

/// The effective uid of a process.
///
/// Source: Linux, fs/proc/base.c, `task_dump_owner`: directories belong to it, dumpable or not.
fn owner(pid: i32) -> Option<u32> {
    files::stat(Path::new(&format!("/proc/{pid}"))).ok().flatten().map(|stat| stat.st_uid)
}

/// Those of the node's own processes that are in state T, and what the supervisor calls its own that is not the node's.
///
/// The pids are the supervisor's word: whoever owns the node could lead root to any stopped process.
///
/// Source: proc_pid_stat(5), field 3.
fn stopped(status: &Status, owns: &Owner) -> (Vec<(String, i32)>, Vec<String>) {
    let components =
        status.components.iter().filter_map(|component| Some((component.name.as_str(), component.pid?)));
    let own = [("the node's pid 1", status.init_pid)].into_iter();
    let driver = status.driver_pid.map(|pid| ("slirp4netns", pid));
    let all = own.chain(driver).chain(components);
    let (mut stopped, mut foreign) = (Vec::new(), Vec::new());
    for (name, pid) in all {
        match owns.has(pid) {
            Some(true) if is_stopped(pid) => stopped.push((name.to_owned(), pid)),
            Some(false) => foreign.push(name.to_owned()),
            _ => {}
        }
    }
    (stopped, foreign)
}

/// The supervisor, when it does not answer: the process of its user that has its name.
fn stopped_main(user: &UserFact) -> Vec<(String, i32)> {
    let ours = |name: &str| {
        let Ok(pid) = name.parse::<i32>() else { return false };
        let comm = || text(format!("/proc/{pid}/comm"));
        owner(pid) == Some(user.uid) && comm().trim() == "u7s-supervisor" && is_stopped(pid)
    };
    let pids = names_that(Path::new("/proc"), &ours).into_iter().filter_map(|name| name.parse().ok());
    pids.map(|pid| ("u7s-supervisor".to_owned(), pid)).collect()
}

fn is_stopped(pid: i32) -> bool {
    let stat = text(format!("/proc/{pid}/stat"));
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}

/// What the API server says of this node, asked with the kubelet's own credentials.
fn cluster(user: &UserFact, node: &NodeSpec, within: (i32, Instant)) -> ClusterSeen {
    let words = ["get", "node", &node.node_name, "--output=json"];
    match asked(user, "--kubeconfig=/etc/kubernetes/kubelet.conf", &words, within) {
        Ok(said) => conditions(&said),
        Err(why) => ClusterSeen {
            api: why.contains("NotFound"),
            conditions: vec![why.clone()],
            api_problem: Some(why),
            ..ClusterSeen::default()
        },
    }
}

fn asked(
    user: &UserFact,
    credentials: &str,
    words: &[&str],
    (init, until): (i32, Instant),
) -> Result<Vec<u8>, String> {
    let kubectl = programs::needed("kubectl").map_err(|error| error.to_string())?;
    let target = Target::verified(init, user).map_err(|error| chain(&error))?;
    let timeout = format!("--request-timeout={}s", API.as_secs());
    let first = [kubectl.as_os_str(), credentials.as_ref(), timeout.as_ref()].into_iter();
    let argv = first.chain(words.iter().map(AsRef::as_ref));
    let entry =
        Entry::inside(&target, argv).directory("/").input(Input::Null).output(Output::Capture(256 << 10));
    let ended = entry.deadline((API * 2).min(left(until))).run().map_err(|error| chain(&error))?;
    if ended.status.success() {
        return Ok(ended.stdout);
    }
    let text = String::from_utf8_lossy(&ended.stderr);
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("kubectl failed");
    Err(crate::child::printable(last))
}

/// Source: kubernetes, staging/src/k8s.io/api/core/v1/types.go, `NodeCondition`.
fn conditions(said: &[u8]) -> ClusterSeen {
    let document: Value = serde_json::from_slice(said).unwrap_or_default();
    let mut seen = ClusterSeen { api: true, ..ClusterSeen::default() };
    for condition in document["status"]["conditions"].as_array().into_iter().flatten() {
        let (kind, status) = (condition["type"].as_str().unwrap_or_default(), condition["status"].as_str());
        let holds = status == Some("True");
        if kind == "Ready" {
            seen.ready = holds;
        }
        if (kind == "Ready") != holds {
            let message = condition["message"].as_str().unwrap_or_default();
            seen.conditions.push(crate::child::printable(&format!(
                "{kind} is {}: {message}",
                status.unwrap_or("unknown")
            )));
        }
    }
    seen
}

/// Certificates by kubeadm's names, and where they lie.
const PKI: [(&str, &str); 9] = [
    ("ca", "pki/ca.crt"),
    ("apiserver", "pki/apiserver.crt"),
    ("apiserver-kubelet-client", "pki/apiserver-kubelet-client.crt"),
    ("apiserver-etcd-client", "pki/apiserver-etcd-client.crt"),
    ("front-proxy-ca", "pki/front-proxy-ca.crt"),
    ("front-proxy-client", "pki/front-proxy-client.crt"),
    ("etcd-ca", "pki/etcd/ca.crt"),
    ("etcd-server", "pki/etcd/server.crt"),
    ("etcd-peer", "pki/etcd/peer.crt"),
];

/// Kubeconfigs with a client certificate in them.
const KUBECONFIGS: [&str; 4] =
    ["admin.conf", "super-admin.conf", "controller-manager.conf", "scheduler.conf"];

/// All that are there; nothing is followed, nothing is larger than a MiB.
fn certificates(facts: &Facts, now: u64) -> Vec<Certificate> {
    let dir = Path::new(KUBERNETES_DIR);
    let read = |path: &Path| files::read_text(path, files::LIMIT).ok().flatten();
    let certificate = |name: &str, path: &Path, pem: &str| {
        certificate::validity(pem)
            .map(|validity| Certificate::new(name, &path.display().to_string(), validity, now))
    };
    let mut found: Vec<Certificate> = Vec::new();
    for (name, below) in PKI {
        let path = dir.join(below);
        found.extend(read(&path).and_then(|pem| certificate(name, &path, &pem)));
    }
    for name in KUBECONFIGS {
        let path = dir.join(name);
        found.extend(
            read(&path).and_then(|text| certificate(name, &path, &certificate::of_kubeconfig(&text)?)),
        );
    }
    let home = facts.user.as_ref().map_or_else(|| PathBuf::from(host::HOME), |user| user.home.clone());
    let kubelet = host::tree(&home).join("kubelet/pki");
    // kubelet-client-current.pem is a link to the newest of these.
    let newest = names_that(&kubelet, &|name| name.starts_with("kubelet-client-2")).pop();
    found.extend(
        newest.map(|name| kubelet.join(name)).and_then(|path| certificate("kubelet", &path, &read(&path)?)),
    );
    found
}

/// A Node as its API server tells it: conditions are lines without control characters.
#[cfg(feature = "fuzzing")]
pub fn fuzz(data: &[u8]) {
    let seen = conditions(data);
    assert!(seen.conditions.iter().all(|line| !line.contains(char::is_control)), "{seen:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_that_are_as_they_should_be_are_not_told() {
        let document = |ready: &str, pressure: &str| {
            format!(
                r#"{{"status":{{"conditions":[{{"type":"DiskPressure","status":"{pressure}","message":"p"}},
                {{"type":"Ready","status":"{ready}","message":"r"}}]}}}}"#
            )
        };
        let seen = conditions(document("True", "False").as_bytes());
        assert_eq!((seen.api, seen.ready, seen.conditions.len()), (true, true, 0));
        let seen = conditions(document("Unknown", "True").as_bytes());
        assert_eq!(seen.conditions, ["DiskPressure is True: p", "Ready is Unknown: r"]);
        assert!(!seen.ready && !conditions(b"no JSON").ready);
    }

    #[test]
    fn a_process_is_stopped_only_by_its_state() {
        assert!(!is_stopped(std::process::id().cast_signed()));
    }
}
