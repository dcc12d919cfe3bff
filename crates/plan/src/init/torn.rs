//! What a host that went down during an init or a join left behind by name only.
//!
//! etcd brings its data to disk itself, and so do we; CRI-O's layers and kubeadm's files wait in memory for up to half a
//! minute, while their names may be on disk. [`host::UNSYNCED`] says that this may be so.

use std::path::PathBuf;

use crate::config::Config;
use crate::facts::Facts;
use crate::host;
use crate::node::NodeSpec;
use crate::pki;
use crate::step::{Action, Owner, Step};

use super::steps::write;

/// Before anything is written whose content may not be on disk: a mark for the next run, and no store of images that
/// an earlier one left.
pub(super) fn begun(config: &Config, facts: &Facts, node: &NodeSpec) -> Vec<Step> {
    if facts.cluster.finished {
        return Vec::new();
    }
    if !facts.torn() {
        return vec![mark(facts)];
    }
    let stop = Action::StopUnit { unit: host::UNIT.into(), seconds: 120 * u64::from(config.timeout_factor) };
    let path = host::tree(&node.user.home).join("containers");
    let empty = Action::RemoveTree { path, keep_root: true };
    vec![
        Step::root(stop, "its images may be without content"),
        Step::root(empty, "the host went down while images were written"),
    ]
}

/// Inside, before kubeadm looks: it uses a file that is there, and refuses an empty one.
///
/// The earlier mark stays until this is done: a run that is killed before is no reason to take what is left for whole.
pub(super) fn cleared(facts: &Facts) -> Vec<Step> {
    if facts.cluster.finished || !facts.torn() {
        return Vec::new();
    }
    let mut steps = Vec::new();
    let lost = pki::lost(&facts.cluster.pki);
    if !lost.is_empty() {
        let argv = ["/usr/bin/rm", "-rf", "--"].into_iter().map(str::to_owned).chain(lost);
        steps.push(run(argv.collect(), "the host went down while a key or certificate was written"));
    }
    let find =
        ["/usr/bin/find", "/etc/kubernetes", "/var/lib/kubelet", "-xdev", "-type", "f", "-empty", "-delete"];
    let why = "the host went down while they were written: kubeadm writes them again";
    steps.push(run(find.map(str::to_owned).into(), why));
    steps.push(mark(facts));
    steps
}

fn run(argv: Vec<String>, why: &'static str) -> Step {
    let action = Action::Run {
        argv,
        config: None,
        documents: Vec::new(),
        secrets: Vec::new(),
        done_when: None,
        seconds: 60,
    };
    Step::inside(action, why)
}

fn mark(facts: &Facts) -> Step {
    let text = format!("{}\n", facts.boot_id);
    let action = write(PathBuf::from(host::UNSYNCED), 0o600, Owner::Root, text);
    Step::root(action, "what comes now is not on disk before the end")
}
