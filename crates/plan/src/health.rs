//! How a node that was made stands: what was seen of it, judged. What is wrong has an id and a remedy, as in preflight.

use std::fmt;

use serde::Serialize;

use crate::calendar;
use crate::certificate::Validity;
use crate::control::{ActiveState, ComponentStatus, Origin, Port, Status};
use crate::facts::{Facts, Space};
use crate::need::{Ignored, Level, Unmet};
use crate::node::{ComponentName, Driver, NodeSpec};
use crate::{host, kubeconfig, preflight};

/// Days before its end from which a certificate is complained about: kubeadm renews its own at every upgrade.
pub const CERTIFICATE_DAYS: u64 = 30;

/// The shims' place, as remedies name it.
const IN_PATH: &str = "PATH=/usr/libexec/u7s/bin:$PATH";

/// What was seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Seconds since the epoch.
    pub now: u64,
    /// Machine, users, listeners, our unit; programs are asked for by name only.
    pub facts: Facts,
    /// The node as init or join made it.
    pub node: Option<NodeSpec>,
    /// What the supervisor says of itself.
    pub status: Option<Status>,
    /// Why it says nothing, or not all.
    pub silent: Option<String>,
    /// Processes of the node that somebody stopped: who and pid.
    pub stopped: Vec<(String, i32)>,
    /// What the supervisor says is a process of the node and is somebody else's.
    pub foreign: Vec<String>,
    /// Ports of the host.
    pub ports: Vec<Port>,
    /// The host's nft table of the node.
    pub table: TableSeen,
    /// The cluster's view; `None` where it was not asked, since the node does not run or the caller may not.
    pub cluster: Option<ClusterSeen>,
    /// Certificates of this node.
    pub certificates: Vec<Certificate>,
}

/// How the host's nft table of the node stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TableSeen {
    /// It is switched off, the caller may not look, or nft does not say.
    #[default]
    Unseen,
    /// The very table that is wanted is in force.
    Holds,
    /// There is none.
    Missing,
    /// It was changed, or what it is made from is another now.
    Other,
}

/// What the API server says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ClusterSeen {
    /// It answers: this node's own on a control plane, the cluster's on a worker.
    pub api: bool,
    /// Why it does not, in kubectl's words.
    pub api_problem: Option<String>,
    /// The node's condition Ready is True.
    pub ready: bool,
    /// Why it is not, and which pressures there are: the conditions' own messages.
    pub conditions: Vec<String>,
}

/// A certificate of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// As `kubeadm certs renew` calls it; the kubelet's own: `kubelet`.
    pub name: String,
    /// Its file on the host.
    pub path: String,
    /// Seconds since the epoch.
    pub begins: u64,
    /// Seconds since the epoch.
    pub ends: u64,
    /// Whole days left, negative when it has ended.
    pub days: i64,
}

impl Certificate {
    /// As seen at `now`.
    #[must_use]
    pub fn new(name: &str, path: &str, validity: Validity, now: u64) -> Self {
        let Validity { begins, ends } = validity;
        let seconds = i64::try_from(ends).unwrap_or(i64::MAX) - i64::try_from(now).unwrap_or(i64::MAX);
        Self { name: name.into(), path: path.into(), begins, ends, days: seconds.div_euclid(86_400) }
    }
}

/// The judgement in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All is well.
    Ok,
    /// It works, but something wants to be looked at.
    Degraded,
    /// It does not work, or not as a node of its cluster.
    Failed,
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
        })
    }
}

/// One word over all problems that are not ignored by name.
#[must_use]
pub fn verdict(problems: &[Unmet], ignored: &Ignored) -> Verdict {
    let counted =
        problems.iter().filter(|problem| !ignored.contains(&problem.id)).map(|problem| problem.level);
    match counted.max() {
        None => Verdict::Ok,
        Some(Level::Warning) => Verdict::Degraded,
        Some(Level::Error) => Verdict::Failed,
    }
}

/// Everything that is wrong, causes before their effects.
#[must_use]
pub fn problems(seen: &Seen) -> Vec<Unmet> {
    let Some(node) = &seen.node else {
        return vec![error(
            "Namespace",
            "there is no node on this host: neither kubeadm init nor kubeadm join has run".into(),
            format!("u7s check; {IN_PATH} kubeadm init"),
        )];
    };
    let runs = seen.status.as_ref().is_some_and(|status| status.ready);
    let mut found: Vec<Unmet> = preflight::standing_needs(&seen.facts, node);
    if runs {
        // What is lost now is missed at the next start.
        for need in &mut found {
            need.level = Level::Warning;
            need.message = format!("{}; the node would not start again", need.message);
        }
    }
    found.extend(preflight::space(&seen.facts));
    found.extend(preflight::resolver(&seen.facts).filter(|need| need.level == Level::Warning));
    found.extend(address(seen, node));
    found.extend(seen.stopped.iter().map(stopped));
    found.extend(seen.foreign.iter().map(|who| foreign(who)));
    match &seen.status {
        None => found.push(silent(seen)),
        Some(status) => {
            found.extend(running(status, node));
            found.extend(seen.silent.as_deref().map(speechless));
        }
    }
    found.extend(table(seen.table));
    found.extend(seen.ports.iter().filter_map(closed));
    found.extend(seen.facts.cluster.kubeconfigs.iter().map(kubeconfig::need));
    found.extend(certificates(seen));
    found.extend(seen.cluster.iter().flat_map(|cluster| self::cluster(cluster, node)));
    if !node.degraded.is_empty() {
        let ids = node.degraded.join(", ");
        found.push(warning(
            "Degraded",
            format!("the node was made with unmet needs: {ids}"),
            format!("/usr/share/doc/u7s/troubleshooting.md, {ids}; as agreed: u7s status --ignore=Degraded"),
        ));
    }
    found
}

fn error(id: &str, message: String, remedy: impl Into<String>) -> Unmet {
    Unmet { id: id.into(), message, remedy: remedy.into(), level: Level::Error }
}

fn warning(id: &str, message: String, remedy: impl Into<String>) -> Unmet {
    Unmet { level: Level::Warning, ..error(id, message, remedy) }
}

fn address(seen: &Seen, node: &NodeSpec) -> Option<Unmet> {
    let own = node.network.node_ip;
    let there = seen.facts.addresses.iter().any(|route| route.network.addr() == own);
    (!there && !seen.facts.addresses.is_empty()).then(|| {
        error(
            "NodeAddress",
            format!("the host has no longer the node's address {own}"),
            format!(
                "ip -4 address; give it back to the interface, or: {IN_PATH} kubeadm reset, then join again"
            ),
        )
    })
}

fn stopped((who, pid): &(String, i32)) -> Unmet {
    let id = match who.as_str() {
        "slirp4netns" => "NetworkDriver",
        "crio" => "CRI",
        "kubelet" => "Kubelet",
        _ => "Supervisor",
    };
    error(id, format!("{who} (pid {pid}) is stopped: somebody sent it SIGSTOP"), format!("kill -CONT {pid}"))
}

/// No pid is told: it would lead an administrator to a process of somebody else's.
fn foreign(who: &str) -> Unmet {
    error(
        "Supervisor",
        format!(
            "the supervisor names a process of another user as {who}: what it says is not to be believed"
        ),
        "u7s logs supervisor; if nothing explains it, the node was broken into: u7s support, then kubeadm reset",
    )
}

/// The supervisor says nothing: the unit does not run, or hangs.
fn silent(seen: &Seen) -> Unmet {
    let unit = &seen.facts.unit;
    let log = "journalctl -u u7s.service -n 50";
    let why = seen.silent.as_deref().unwrap_or("it does not answer");
    match (unit.active.as_str(), unit.sub.as_str()) {
        ("active" | "reloading", _) => speechless(why),
        ("activating", "auto-restart" | "auto-restart-queued") | ("failed", _) => error(
            "UnitFailed",
            format!(
                "u7s.service fails again and again (result {:?}); what it lacks is named above, or in its log",
                unit.result
            ),
            log,
        ),
        ("activating", sub) => error(
            "Namespace",
            format!("u7s.service is starting ({sub})"),
            "u7s status    (again, in a minute)",
        ),
        (active, _) => error(
            "Namespace",
            format!("u7s.service is {active}: the node does not run"),
            "systemctl start u7s.service",
        ),
    }
}

/// The supervisor runs and does not say what it was asked for.
fn speechless(why: &str) -> Unmet {
    error(
        "Supervisor",
        format!("u7s.service runs, but {why}"),
        "journalctl -u u7s.service -n 50; systemctl restart u7s.service",
    )
}

fn running(status: &Status, node: &NodeSpec) -> Vec<Unmet> {
    const LOG: &str = "journalctl -u u7s.service -n 50";
    let mut found = Vec::new();
    let driver = node.network.driver != Driver::None;
    if driver && (status.driver_pid.is_none() || status.state.contains("slirp4netns")) {
        found.push(error(
            "NetworkDriver",
            format!("slirp4netns does not serve the node: {}", status.state),
            format!("{} --version; {LOG}", node.programs.slirp4netns.display()),
        ));
    }
    found.extend(status.components.iter().filter_map(|component| component_problem(component, status)));
    if !status.ready && found.is_empty() {
        found.push(error("Namespace", format!("the node is not ready: {}", status.state), LOG));
    }
    if let Some(why) = &status.rules {
        found.push(warning(
            "ForwardRules",
            format!(
                "the forwarder's rules are not loaded, ports of Services and datagrams do not work: {why}"
            ),
            LOG,
        ));
    }
    found.extend(status.run.and_then(run_space));
    if !status.services.refused.is_empty() {
        found.push(warning(
            "Services",
            format!("ports of Services are not open: {}", status.services.refused.join("; ")),
            "u7s ports list",
        ));
    }
    found
}

/// Every container needs files in the node's /run. It is memory, so the disk's free space says nothing of it.
fn run_space(run: Space) -> Option<Unmet> {
    /// Percent.
    const LEAST: u64 = 5;
    let Space { total, free, files, free_files } = run;
    let what = if free.saturating_mul(100) < total.saturating_mul(LEAST) {
        format!("{} of {} MiB are free", free >> 20, total >> 20)
    } else if free_files.saturating_mul(100) < files.saturating_mul(LEAST) {
        format!("{free_files} of {files} inodes are free")
    } else {
        return None;
    };
    Some(error(
        "RunSpace",
        format!("the node's /run is full: {what}; no container starts"),
        "u7s shell -- du -xhd2 /run; what a pod left there goes with: systemctl restart u7s.service",
    ))
}

fn component_problem(component: &ComponentStatus, status: &Status) -> Option<Unmet> {
    let name = component.name.as_str();
    let (id, wanted) = match component.name {
        ComponentName::Crio => ("CRI", true),
        ComponentName::Kubelet => ("Kubelet", component.enabled),
    };
    let last =
        component.last_exit.as_ref().map(|exit| format!(", it ended last with {exit}")).unwrap_or_default();
    let log = format!("u7s logs {name} -n 50; {IN_PATH} systemctl restart {name}");
    if component.active == ActiveState::Active {
        let unanswered = component.name == ComponentName::Crio && status.runtime.is_none();
        return unanswered.then(|| error(id, "CRI-O runs and does not answer".into(), log));
    }
    if !wanted {
        let message = format!("{name} is not enabled: kubeadm has not come to its end on this host");
        return Some(error(id, message, format!("{IN_PATH} kubeadm init    (or join: it goes on)")));
    }
    let state = format!("{:?}", component.active).to_lowercase();
    Some(error(id, format!("{name} is {state}{last}"), log))
}

/// The node works without it, but pods reach more than they should.
fn table(seen: TableSeen) -> Option<Unmet> {
    let message = match seen {
        TableSeen::Unseen | TableSeen::Holds => return None,
        TableSeen::Missing => {
            "the host's nft table inet u7s is gone: nothing keeps pods from the host itself and from metadata services"
        }
        TableSeen::Other => {
            "the host's nft table inet u7s is not the one that configuration, node.json and resolv.conf ask for"
        }
    };
    Some(warning("FirewallTable", message.into(), "u7s host-apply"))
}

/// A port of the node itself must be open; others are a pity.
fn closed(port: &Port) -> Option<Unmet> {
    let problem = port.problem.as_ref()?;
    let number = port.forward.port;
    let need = error(
        &format!("Port-{number}"),
        format!("{} is not open: {problem}", port.forward),
        format!("ss -lntup 'sport = :{number}'; u7s ports list"),
    );
    Some(if port.origin == Origin::Node { need } else { Unmet { level: Level::Warning, ..need } })
}

fn certificates(seen: &Seen) -> Vec<Unmet> {
    let late = |certificate: &&Certificate| {
        certificate.days < i64::try_from(CERTIFICATE_DAYS).unwrap_or(0) || certificate.begins > seen.now
    };
    seen.certificates.iter().filter(late).map(|certificate| expiry(certificate, seen.now)).collect()
}

fn expiry(certificate: &Certificate, now: u64) -> Unmet {
    let Certificate { name, path, begins, ends, days } = certificate;
    let remedy = match name.as_str() {
        "kubelet" => format!(
            "the kubelet renews its own while the API server answers: u7s logs kubelet -n 50; by hand: {IN_PATH} kubeadm join, after kubeadm reset"
        ),
        name if name.ends_with("ca") => {
            "https://kubernetes.io/docs/tasks/tls/manual-rotation-of-ca-certificates".to_owned()
        }
        _ => format!(
            "export {IN_PATH}; kubeadm certs renew all && systemctl restart u7s.service && kubeadm init"
        ),
    };
    let at = |seconds: &u64| calendar::rfc3339(*seconds);
    if *begins > now {
        return error(
            "Certificate",
            format!("{name} ({path}) is valid from {} only: is the clock right?", at(begins)),
            "timedatectl",
        );
    }
    if *ends <= now {
        return error("Certificate", format!("{name} ({path}) has expired at {}", at(ends)), remedy);
    }
    warning("Certificate", format!("{name} ({path}) expires at {}, in {days} days", at(ends)), remedy)
}

fn cluster(cluster: &ClusterSeen, node: &NodeSpec) -> Vec<Unmet> {
    let name = &node.node_name;
    if !cluster.api {
        let why = cluster.api_problem.as_deref().unwrap_or("no answer in time");
        return vec![error(
            "ApiServer",
            format!("the API server does not answer: {why}"),
            "u7s logs kubelet -n 50; u7s shell -- crictl ps -a; ls /var/lib/u7s-admin/node/log/pods",
        )];
    }
    let said = cluster.conditions.join("; ");
    if !cluster.ready {
        return vec![error(
            "NodeReady",
            format!("the cluster does not see {name} as Ready: {said}"),
            format!("kubectl describe node {name}; u7s logs kubelet -n 50"),
        )];
    }
    if said.is_empty() {
        return Vec::new();
    }
    vec![warning(
        "NodeReady",
        format!("the kubelet of {name} complains: {said}"),
        format!("kubectl describe node {name}; df -h {}", host::HOME),
    )]
}
