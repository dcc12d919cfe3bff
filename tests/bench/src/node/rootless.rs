//! The node that u7s makes.

use std::path::Path;
use std::time::{Duration, Instant};

use u7s_harness::{Lan, Node};
use u7s_plan::timings::{Part, Run};

use super::{ADDONS, CERTIFICATES, CHECKS, CONTROL_PLANE, IMAGES, PUBLISH, READY, RUNTIME, Seen, watch};
use crate::Error;

/// Where the shims are.
const SHIMS: &str = "/usr/libexec/u7s/bin";

/// What a nested node cannot have where the machine keeps controllers in cgroup v1.
const IGNORED: &str = "--ignore-preflight-errors=CgroupControllers,OomScore,SystemVerification";

/// A node of its own: init, Ready, so many starts of its unit, and a reboot if one is wanted.
pub(super) fn measure(
    lan: &Lan,
    programs: &Path,
    (name, starts, reboot): (&str, usize, bool),
) -> Result<Seen, Error> {
    let mut node = lan.node(name)?;
    node.install_kit(&[])?;
    node.boot(Duration::from_secs(90))?;
    node.install_u7s(programs)?;
    node.write("/etc/u7s/config.d/bench.toml", "cni = \"bridge\"\n")?;
    let mut seen = init(&node)?;
    let (ready, dns) = watch::ready(&node)?;
    seen.parts.push((READY, ready));
    seen.dns = dns.saturating_sub(ready);
    if reboot {
        seen.reboot = watch::reboot(&mut node)?;
    }
    node.ok(&["systemctl", "stop", "u7s"])?;
    for _ in 0..starts {
        let start = Instant::now();
        // Type=notify: it returns with READY, which is said once CRI has answered.
        node.ok(&["systemctl", "start", "u7s"])?;
        seen.starts.push(start.elapsed());
        node.ok(&["systemctl", "stop", "u7s"])?;
    }
    node.remove()?;
    Ok(seen)
}

/// The parts as u7s itself took their times; what is around them, from exec to exit, counts to the first part.
fn init(node: &Node) -> Result<Seen, Error> {
    let command = node.command(&["kubeadm", "init", IGNORED]).first_in_path(SHIMS).within(watch::LIMIT);
    let seen = watch::kubeadm(command)?;
    let text = node.ok(&["u7s", "timings", "-o", "json"])?;
    let run: Run = serde_json::from_str(&text).map_err(Error::json("u7s timings"))?;
    let phases = |names: &[&str]| -> Duration { names.iter().map(|name| took(&run.parts, &[name])).sum() };
    let whole = Duration::from_micros(run.took_us);
    let around = seen.ended.saturating_sub(whole);
    let images = took(&run.parts, &["namespace", "images"]);
    let kubeadm = phases(&["cluster"]);
    let control_plane = seen.stands.saturating_sub(seen.waits);
    // The end of kubeadm on the clock outside: what follows is ours.
    let end = seen.ended.saturating_sub(phases(&["publish", "enable"]));
    let addons = end.saturating_sub(seen.stands);
    let parts = vec![
        (CHECKS, phases(&["preflight", "host", "configure"]) + around),
        (RUNTIME, phases(&["namespace"]).saturating_sub(images)),
        (IMAGES, images),
        (CERTIFICATES, kubeadm.saturating_sub(control_plane + addons)),
        (CONTROL_PLANE, control_plane),
        (ADDONS, addons),
        (PUBLISH, phases(&["publish", "enable"])),
    ];
    Ok(Seen { parts, ..Seen::default() })
}

/// How long all parts of this path took together.
fn took(parts: &[Part], path: &[&str]) -> Duration {
    let Some((first, rest)) = path.split_first() else { return Duration::ZERO };
    let named = parts.iter().filter(|part| part.name == *first);
    if rest.is_empty() {
        return named.map(|part| Duration::from_micros(part.took_us)).sum();
    }
    named.map(|part| took(&part.parts, rest)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_by_their_path_and_added() {
        let part = |name: &str, took_us, parts| Part { name: name.into(), at_us: 0, took_us, parts };
        let parts = [
            part("host", 5, vec![]),
            part("namespace", 9, vec![part("images", 3, vec![]), part("images", 4, vec![])]),
            part("host", 6, vec![]),
        ];
        let us = |path: &[&str]| took(&parts, path).as_micros();
        assert_eq!((us(&["host"]), us(&["namespace", "images"]), us(&["none"])), (11, 7, 0));
    }
}
