//! `kubeadm init` where nothing is missing.

use crate::Listed;
use crate::world::{Check, World, exits, holds, note};

pub(crate) const TESTS: &[Listed] = &[(
    "init::no_preflight_error_is_ignored_and_all_is_ready",
    no_preflight_error_is_ignored_and_all_is_ready,
)];

/// The one command of the README, without a flag.
fn no_preflight_error_is_ignored_and_all_is_ready(world: &World) -> Check {
    let cluster = world.cluster()?;
    if let Some((output, took)) = &cluster.init {
        exits(output, 0)?;
        note(format!("kubeadm init: {:.0} s", took.as_secs_f64()));
    }
    let environment = cluster.vm.sh("tr '\\0' '\\n' < /proc/$(pgrep -x crio)/environ")?;
    holds(!environment.contains("_CRIO_ROOTLESS"), format!("_CRIO_ROOTLESS is set: {environment}"))?;
    let kubelet = cluster.vm.sh("cat /proc/$(pgrep -x kubelet)/root/var/lib/kubelet/config.yaml")?;
    for line in ["cgroupsPerQOS: true", "enforceNodeAllocatable:\n- pods\n"] {
        holds(kubelet.contains(line), format!("no `{line}` in the kubelet's configuration: {kubelet}"))?;
    }
    Ok(())
}
