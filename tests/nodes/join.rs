//! `kubeadm join`: a second node, and what two nodes do for each other.

use std::time::{Duration, Instant};

use u7s_harness::Node;

use crate::Listed;
use crate::pair::{join, ready_within};
use crate::world::{Check, World, exits, holds, note, wants};

pub(crate) const TESTS: &[Listed] = &[
    ("join::a_worker_joins_and_is_ready", a_worker_joins_and_is_ready),
    ("join::token_and_key_are_in_no_file", token_and_key_are_in_no_file),
    ("join::a_second_join_changes_nothing", a_second_join_changes_nothing),
];

fn a_worker_joins_and_is_ready(world: &World) -> Check {
    let pair = world.pair()?;
    let b = &pair.b;
    exits(&b.output, 0)?;
    note(format!("whole join: {:.1} s", b.took.as_secs_f64()));
    let ends = b.parts.iter().skip(1).map(|(_, begin)| *begin).chain([b.took]);
    for ((name, begin), end) in b.parts.iter().zip(ends) {
        let (begin, took) = (begin.as_secs_f64(), (end - *begin).as_secs_f64());
        note(format!("  {name:<22} at {begin:6.2} s for {took:5.2} s"));
    }
    let table = b.node().ok(&["u7s", "timings"])?;
    note(&table);
    holds(table.starts_with("kubeadm join\n") && table.contains("kubelet-start"), table)?;
    let began = Instant::now();
    ready_within(&pair.a, "b", Duration::from_secs(120))?;
    note(format!("node b Ready {:.1} s after join", began.elapsed().as_secs_f64()));
    let took = pair.converge(Duration::from_secs(180))?;
    note(format!("all pods Ready after {:.1} s more", took.as_secs_f64()));
    note(pair.a.kubectl(&["get", "nodes,pods", "-A", "-o", "wide"])?);
    let address = pair.b.node().ip().to_string();
    let seen = pair.a.kubectl(&["get", "node", "b", "-o", "jsonpath={.status.addresses[0].address}"])?;
    holds(seen == address, format!("the cluster sees {seen}, the host is {address}"))
}

/// S14: what lets a node join must not be found on its disk afterwards.
fn token_and_key_are_in_no_file(world: &World) -> Check {
    let pair = world.pair()?;
    let token = pair.b.words.iter().find(|word| word.len() == 23 && word.as_bytes()[6] == b'.');
    let token = token.ok_or("no token among the words of join")?;
    let secret = token.split_once('.').map_or("", |(_, secret)| secret);
    nowhere(pair.b.node(), secret)
}

/// Looks through everything that the node wrote: files of the host and of the node's tree, and the journal.
pub(crate) fn nowhere(node: &Node, secret: &str) -> Check {
    let script = format!(
        "grep -rlF --binary-files=text -e {secret} /etc /run /var/lib/u7s /var/lib/u7s-admin/node/kubelet \
         /var/lib/u7s-admin/node/log /var/lib/u7s-admin/node/root /var/log /root /tmp 2>/dev/null; \
         journalctl --no-pager | grep -cF -e {secret}"
    );
    let output = node.exec(&["sh", "-c", &script])?;
    holds(output.stdout.trim() == "0", format!("the secret is in: {}", output.stdout))
}

fn a_second_join_changes_nothing(world: &World) -> Check {
    let pair = world.pair()?;
    let before = pair.b.node().sh("pgrep -x kubelet; pgrep -x crio")?;
    let output = join(pair.b.node(), &pair.b.words, &[]).run()?;
    exits(&output, 0)?;
    wants(&output, "there was nothing to do")?;
    let after = pair.b.node().sh("pgrep -x kubelet; pgrep -x crio")?;
    holds(before == after, format!("processes before {before}, after {after}"))
}
