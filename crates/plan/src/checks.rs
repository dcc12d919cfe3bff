//! Every id that may stand in front of a complaint: never reused, never translated; docs/troubleshooting.md has a section
//! for each.

use serde::Serialize;

use crate::need::{Level, Unmet};

/// One id, or a family of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    /// The id, also the heading in docs/troubleshooting.md. A family ends with a dash: `Port-`.
    pub id: &'static str,
    /// What is wanted, a few words.
    pub wants: &'static str,
    /// Who looks at it.
    pub by: By,
}

/// Who looks at a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// `u7s check`, whoever asks.
    Anybody,
    /// `u7s check` of root alone.
    Root,
    /// Commands of a node that is to run, `u7s status` among them.
    Node,
}

const fn check(id: &'static str, wants: &'static str, by: By) -> Check {
    Check { id, wants, by }
}

/// All of them, in the order in which `u7s check` shows them.
pub const CHECKS: [Check; 53] = [
    check("KernelVersion", "Linux 5.15 or newer", By::Anybody),
    check("Systemd", "systemd 244 or newer answers", By::Anybody),
    check("Unit", "u7s.service is installed", By::Anybody),
    check("UnitFailed", "u7s.service has not failed", By::Anybody),
    check("RootfulRuntime", "no kubelet and no crio of the host runs", By::Anybody),
    check("CgroupVersion", "cgroup v2 alone", By::Anybody),
    check("CgroupControllers", "controllers cpu, memory and pids", By::Anybody),
    check("CgroupWrite", "a cgroup can be handed to the node's user (tried)", By::Root),
    check("OomScore", "systemd may lower oom scores", By::Anybody),
    check("UserNamespaces", "user namespaces are allowed (tried)", By::Anybody),
    check("IdMap", "ids are mapped (tried)", By::Anybody),
    check("Overlay", "an overlay can be mounted (tried), and the disk can carry it", By::Anybody),
    check("Tun", "/dev/net/tun, and a tap device (tried)", By::Anybody),
    check("Modules", "the kernel's modules are installed", By::Anybody),
    check("Subids", "65536 subordinate ids for u7s-admin", By::Anybody),
    check("SubidOverlap", "they are nobody else's", By::Anybody),
    check("Home", "the home of u7s-admin is its own and closed", By::Anybody),
    check("DiskSpace", "the disk has room for images", By::Anybody),
    check(
        "FileExisting-",
        "programs and CNI plugins are installed, and only root can change them",
        By::Anybody,
    ),
    check("KubeadmVersion", "kubeadm tells its version", By::Anybody),
    check("Kubeconfig", "kubeconfigs of the node are as kubeadm writes them", By::Root),
    check("Hostname", "the host name can be a node's name", By::Anybody),
    check("ResolvConf", "the host's /etc/resolv.conf is a file that the unit sees", By::Anybody),
    check("EtcdDataDir", "etcd's directory can be the node's own", By::Anybody),
    check("KubernetesDir", "/etc/kubernetes holds only what root put there", By::Anybody),
    check("Lingering", "nothing of u7s-admin is started beside u7s.service", By::Anybody),
    check("DefaultRoute", "a default route, so the node has an address", By::Anybody),
    check("PodCIDR", "the pod network is free", By::Anybody),
    check("ServiceCIDR", "the service network is free", By::Anybody),
    check("RangeOverlap", "the node's own range is free", By::Anybody),
    check("Port-", "the node's ports are free", By::Anybody),
    check("LowPort", "the node's user may bind its ports", By::Anybody),
    check("Conntrack", "the host's table of connections fits kube-proxy", By::Node),
    check("Firewall", "nft works", By::Root),
    check("HostFirewall", "the host's rules let the node's ports through", By::Root),
    check("Egress", "the firewall lets the node reach its peers", By::Anybody),
    check("IsPrivilegedUser", "the caller is root", By::Node),
    check("Images", "there are images to load", By::Node),
    check("ClusterConfiguration", "the cluster's own configuration can be had", By::Node),
    check("Namespace", "the node's namespaces run", By::Node),
    check("Supervisor", "the supervisor answers", By::Node),
    check("NetworkDriver", "slirp4netns serves the node's network", By::Node),
    check("RunSpace", "the node's /run has room", By::Node),
    check("NodeAddress", "the host still has the node's address", By::Node),
    check("CRI", "CRI-O runs and answers", By::Node),
    check("Kubelet", "the kubelet runs", By::Node),
    check("ApiServer", "the API server answers", By::Node),
    check("NodeReady", "the cluster says that the node is Ready", By::Node),
    check("Certificate", "no certificate has expired or soon will", By::Node),
    check("FirewallTable", "the host's nft table bounds what pods reach", By::Node),
    check("ForwardRules", "the forwarder's rules are loaded inside", By::Node),
    check("Services", "ports of Services are opened", By::Node),
    check("Degraded", "no need was ignored when the node was made", By::Node),
];

impl Check {
    /// Whether a need's id is this one, or of this family.
    #[must_use]
    pub fn covers(&self, id: &str) -> bool {
        if self.id.ends_with('-') { id.starts_with(self.id) } else { id == self.id }
    }
}

/// A line of the table of `u7s check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The id; for a family without any unmet need, its name.
    pub id: String,
    /// How it went.
    pub result: Result,
    /// What is wanted.
    pub wants: &'static str,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Result {
    /// Met.
    Pass,
    /// Not met, and no hindrance.
    Warning,
    /// Not met.
    Error,
    /// It could not be looked at: by this caller, or before a module is loaded.
    Unseen,
}

impl Result {
    /// `pass`, `WARN`, `FAIL`, `n/a`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warning => "WARN",
            Self::Error => "FAIL",
            Self::Unseen => "n/a",
        }
    }
}

/// The table: every check that `u7s check` looks at, with what `unmet` says of it; `untried` are ids that could not be tried.
#[must_use]
pub fn table(unmet: &[Unmet], untried: &[&str], root: bool) -> Vec<Line> {
    let mut lines = Vec::new();
    for check in CHECKS.iter().filter(|check| check.by != By::Node) {
        let mut found: Vec<(&str, Level)> = unmet
            .iter()
            .filter(|need| check.covers(&need.id))
            .map(|need| (need.id.as_str(), need.level))
            .collect();
        found.dedup();
        let line = |id: &str, result| Line { id: id.into(), result, wants: check.wants };
        if found.is_empty() {
            let unseen = (check.by == By::Root && !root) || untried.contains(&check.id);
            let result = if unseen { Result::Unseen } else { Result::Pass };
            lines.push(line(check.id.trim_end_matches('-'), result));
        }
        for (id, level) in found {
            lines.push(line(id, if level == Level::Error { Result::Error } else { Result::Warning }));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(id: &str, level: Level) -> Unmet {
        Unmet { id: id.into(), message: "m".into(), remedy: "r".into(), level }
    }

    #[test]
    fn every_check_has_a_line_and_families_have_one_for_each_unmet_member() {
        let unmet = [
            need("Port-6443", Level::Error),
            need("Port-10250", Level::Error),
            need("DiskSpace", Level::Warning),
        ];
        let lines = table(&unmet, &["IdMap"], false);
        let of = |id: &str| lines.iter().find(|line| line.id == id).map(|line| line.result);
        assert_eq!(of("Port-6443"), Some(Result::Error));
        assert_eq!(of("Port-10250"), Some(Result::Error));
        assert_eq!(of("Port"), None);
        assert_eq!(of("FileExisting"), Some(Result::Pass));
        assert_eq!(of("DiskSpace"), Some(Result::Warning));
        assert_eq!(
            (of("Firewall"), table(&[], &[], true).iter().any(|line| line.result == Result::Unseen)),
            (Some(Result::Unseen), false)
        );
        assert_eq!((of("Namespace"), of("IdMap")), (None, Some(Result::Unseen)));
    }

    #[test]
    fn no_id_stands_twice() {
        let mut ids: Vec<&str> = CHECKS.iter().map(|check| check.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), CHECKS.len());
    }
}
