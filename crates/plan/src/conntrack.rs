//! The kernel's table of connections, sized on the host as a rootful kube-proxy would size it.
//!
//! A kube-proxy with kubeadm's settings writes `nf_conntrack_max` unless it *is* what it wants, reads `hashsize`, which is root's
//! alone, and writes that if it is too small; when any of it is refused it ends. Inside all of it is refused: the table is the
//! kernel's. A cluster that u7s made does without (`maxPerCore: 0`); that of a rootful control plane is not known before the join.
//!
//! Source: kubernetes 1.34.4, cmd/kube-proxy/app/conntrack.go (`SetMax`, `setIntSysCtl`), server_linux.go (`getConntrackMax`),
//! pkg/proxy/apis/config/v1alpha1/defaults.go. Its TCP timeouts are the network namespace's own and can be written inside.

use std::path::Path;

use crate::config::Config;
use crate::facts::Facts;
use crate::need::{Level, Unmet};
use crate::step::{Action, Step};

/// How many connections the kernel follows.
pub const MAX: &str = "net/netfilter/nf_conntrack_max";

/// Size of its hash table, where it can be set on the host.
pub const BUCKETS: &str = "net/netfilter/nf_conntrack_buckets";

/// The same size, where kube-proxy reads it.
pub const HASHSIZE: &str = "/sys/module/nf_conntrack/parameters/hashsize";

/// The size is no secret: [`BUCKETS`] shows it to everybody.
const READABLE: u32 = 0o644;

/// kube-proxy's `conntrack.maxPerCore` and `conntrack.min`, which kubeadm leaves alone.
const DEFAULTS: (u64, u64) = (32 * 1024, 128 * 1024);

/// What a kube-proxy with the defaults, or the administrator, wants [`MAX`] to be; `None`: the host's value stays.
#[must_use]
pub fn wanted(config: &Config, facts: &Facts) -> Option<u64> {
    let (per_core, least) = DEFAULTS;
    let default = || (facts.online_cpus > 0).then(|| least.max(per_core * u64::from(facts.online_cpus)));
    config.network.conntrack_max.map_or_else(default, Some).filter(|max| *max > 0)
}

/// Root's steps on a host whose node has joined, but for what is so already.
///
/// None where the table cannot be set: in every network namespace but the first ([`need`]).
#[must_use]
pub fn steps(config: &Config, facts: &Facts) -> Vec<Step> {
    let Some(max) = wanted(config, facts).filter(|_| !facts.read_only.iter().any(|key| key == MAX)) else {
        return Vec::new();
    };
    let why = "a kube-proxy with kubeadm's settings wants it so, and cannot set it inside";
    let set = |key: &str, value: u64| {
        Step::root(Action::SetSysctl { key: key.into(), value: value.to_string() }, why)
    };
    let mut steps = Vec::new();
    if value(facts, MAX) != Some(max) {
        steps.push(set(MAX, max));
    }
    if value(facts, BUCKETS).is_some_and(|buckets| buckets < max / 4) {
        steps.push(set(BUCKETS, max / 4));
    }
    if !readable(facts) {
        let action = Action::SetDeviceMode { path: HASHSIZE.into(), mode: READABLE };
        steps.push(Step::root(action, "kube-proxy reads it, and ends when it cannot"));
    }
    steps
}

/// A warning before a join where the table is not as wanted and cannot be set.
#[must_use]
pub fn need(config: &Config, facts: &Facts) -> Option<Unmet> {
    let max = wanted(config, facts).filter(|_| facts.read_only.iter().any(|key| key == MAX))?;
    let is = value(facts, MAX)?;
    let large = value(facts, BUCKETS).is_none_or(|buckets| buckets >= max / 4);
    (is != max || !large || !readable(facts)).then(|| Unmet {
        id: "Conntrack".into(),
        message: format!(
            "in a cluster with kubeadm's own settings kube-proxy ends on this node: it wants net.netfilter.nf_conntrack_max to be \
             {max} (it is {is}) and to read {HASHSIZE}, which only the machine's first network namespace allows to be set"
        ),
        remedy: format!(
            "on the machine itself: sysctl -w net.netfilter.nf_conntrack_max={max}; chmod 0644 {HASHSIZE}; or for the whole \
             cluster, in ConfigMap kube-system/kube-proxy: conntrack: {{maxPerCore: 0, min: 0}}"
        ),
        level: Level::Warning,
    })
}

fn value(facts: &Facts, key: &str) -> Option<u64> {
    facts.sysctls.get(key)?.as_deref()?.trim().parse().ok()
}

fn readable(facts: &Facts) -> bool {
    let mode = facts.devices.get(Path::new(HASHSIZE)).copied().flatten();
    mode.is_some_and(|mode| mode & 0o004 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host with this many CPUs, table, hash table and mode of its size.
    fn host(cpus: u32, max: &str, buckets: &str, mode: u32) -> Facts {
        let known = |(key, value): (&str, &str)| (key.to_owned(), Some(value.to_owned()));
        Facts {
            online_cpus: cpus,
            sysctls: [(MAX, max), (BUCKETS, buckets)].map(known).into(),
            devices: [(HASHSIZE.into(), Some(mode))].into(),
            ..Facts::default()
        }
    }

    fn told(config: &Config, facts: &Facts) -> Vec<String> {
        steps(config, facts).iter().map(|step| step.action.to_string()).collect()
    }

    #[test]
    fn the_table_is_exactly_what_a_default_kube_proxy_wants_or_it_would_write_and_end() {
        let set = |max: u32| format!("set the sysctl net.netfilter.nf_conntrack_max to \"{max}\"");
        let mode = format!("set the mode of {HASHSIZE} to 0644");
        let config = Config::default();
        assert_eq!(told(&config, &host(2, "262144", "262144", 0o600)), [set(131_072), mode.clone()]);
        assert_eq!(told(&config, &host(4, "65536", "65536", 0o644)), [set(131_072)]);
        assert_eq!(told(&config, &host(8, "262144", "262144", 0o600)), [mode]);
        assert_eq!(told(&config, &host(8, "262144", "262144", 0o644)), [""; 0]);
        let buckets = "set the sysctl net.netfilter.nf_conntrack_buckets to \"524288\"".to_owned();
        assert_eq!(told(&config, &host(64, "262144", "262144", 0o644)), [set(2_097_152), buckets]);
        assert_eq!(told(&config, &host(0, "1", "1", 0o600)), [""; 0], "an unknown number of CPUs");
        // The module is not loaded yet: the step before loads it.
        let fresh = Facts { online_cpus: 1, ..Facts::default() };
        assert_eq!(told(&config, &fresh).len(), 2);
    }

    #[test]
    fn the_administrators_number_counts_and_0_leaves_the_host_alone() {
        let mut config = Config::default();
        config.network.conntrack_max = Some(1_000_000);
        assert_eq!(told(&config, &host(2, "262144", "262144", 0o644)).len(), 1);
        config.network.conntrack_max = Some(0);
        assert_eq!(told(&config, &host(2, "262144", "262144", 0o600)), [""; 0]);
    }

    #[test]
    fn in_another_network_namespace_it_is_a_warning_with_both_ways_out() {
        let config = Config::default();
        let mut facts = host(2, "262144", "262144", 0o644);
        assert_eq!(need(&config, &facts), None, "it can be set");
        facts.read_only = vec![MAX.into()];
        assert_eq!(told(&config, &facts), [""; 0]);
        let told = need(&config, &facts).unwrap();
        assert_eq!((told.id.as_str(), told.level), ("Conntrack", Level::Warning));
        assert!(told.message.contains("to be 131072 (it is 262144)"), "{told}");
        assert!(told.remedy.contains("nf_conntrack_max=131072") && told.remedy.contains("maxPerCore: 0"));
        facts.sysctls.insert(MAX.into(), Some("131072".into()));
        assert_eq!(need(&config, &facts), None, "it is as wanted");
        facts.devices.insert(HASHSIZE.into(), Some(0o600));
        assert!(need(&config, &facts).is_some(), "kube-proxy could not read it");
        facts.sysctls.clear();
        assert_eq!(need(&config, &facts), None, "nothing is known");
    }
}
