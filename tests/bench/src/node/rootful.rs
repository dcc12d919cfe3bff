//! Its twin as root.

use std::path::Path;
use std::time::{Duration, Instant};

use u7s_harness::{Lan, Node};

use super::{ADDONS, CERTIFICATES, CONTROL_PLANE, IMAGES, READY, RUNTIME, Seen, watch};
use crate::Error;

/// Where the harness shows the kit's images.
const LAYOUT: &str = "/var/lib/u7s/images/kit";

/// As a person would: one after the other.
const COPY: &str = "\
store='[overlay@/var/lib/containers/storage+/run/containers/storage]'
for image; do
    skopeo --insecure-policy copy -q \"oci:$0:$image\" \"containers-storage:$store$image\"
done";

/// Back to a node that has neither images nor a running CRI-O.
const EMPTY: &str = "\
systemctl stop crio
umount /var/lib/containers/storage/overlay 2>/dev/null || :
rm -rf /var/lib/containers/storage /run/containers/storage";

/// A node of its own: images, CRI-O, init, Ready, and a reboot if one is wanted.
pub(super) fn measure(lan: &Lan, programs: &Path, (name, reboot): (&str, bool)) -> Result<Seen, Error> {
    let mut node = lan.node(name)?;
    node.install_kit(&[])?;
    node.boot(Duration::from_secs(90))?;
    node.install_rootful(programs)?;
    node.bridge_network(&format!("10.244.{}.0/24", node.ip().octets()[3]))?;
    node.sh(EMPTY)?;
    let mut seen = init(&node, lan.kit().images())?;
    let (ready, dns) = watch::ready(&node)?;
    seen.parts.push((READY, ready));
    seen.dns = dns.saturating_sub(ready);
    if reboot {
        seen.reboot = watch::reboot(&mut node)?;
    }
    node.remove()?;
    Ok(seen)
}

fn init(node: &Node, images: &[String]) -> Result<Seen, Error> {
    // It writes kubeadm's configuration, which is no part of the race.
    let kubeadm = node.rootful_init("")?;
    let start = Instant::now();
    let words = ["sh", "-euc", COPY, LAYOUT].into_iter();
    let argv: Vec<&str> = words.chain(images.iter().map(String::as_str)).collect();
    node.command(&argv).within(watch::LIMIT).ok()?;
    let copied = start.elapsed();
    node.ok(&["systemctl", "start", "crio"])?;
    let runs = start.elapsed();
    let seen = watch::kubeadm(kubeadm)?;
    let parts = vec![
        (RUNTIME, runs.saturating_sub(copied)),
        (IMAGES, copied),
        (CERTIFICATES, seen.waits),
        (CONTROL_PLANE, seen.stands.saturating_sub(seen.waits)),
        (ADDONS, seen.ended.saturating_sub(seen.stands)),
    ];
    Ok(Seen { parts, ..Seen::default() })
}
