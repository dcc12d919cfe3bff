//! `kubeadm reset` gives the host back as it was, and init works again.

use std::time::Duration;

use crate::Listed;
use crate::world::{Check, IGNORED, World, exits, holds, kubeadm, note};

pub(crate) const TESTS: &[Listed] = &[
    ("reset::gives_the_host_back_as_it_was", gives_the_host_back_as_it_was),
    ("reset::init_works_again", init_works_again),
];

fn gives_the_host_back_as_it_was(world: &World) -> Check {
    let cluster = world.cluster()?;
    let output = kubeadm(cluster.node(), &["reset", "--force"]).run()?;
    exits(&output, 0)?;
    let changes = cluster.bare.before.diff(&cluster.node().snapshot()?);
    note(format!("compared {} things", cluster.bare.before.len()));
    holds(changes.is_empty(), format!("left behind: {changes:#?}\n{output}"))?;
    let left =
        cluster.node().processes().into_iter().filter(|process| process.cgroup.contains("u7s")).count();
    holds(left == 0, format!("{left} processes left"))
}

fn init_works_again(world: &World) -> Check {
    let cluster = world.cluster()?;
    let output = kubeadm(cluster.node(), &["init", IGNORED]).run()?;
    exits(&output, 0)?;
    let took = cluster.converge(Duration::from_secs(180))?;
    note(format!("Ready {:.1} s after the second init", took.as_secs_f64()));
    let output = kubeadm(cluster.node(), &["reset", "--force"]).run()?;
    exits(&output, 0)?;
    let changes = cluster.bare.before.diff(&cluster.node().snapshot()?);
    holds(changes.is_empty(), format!("left behind: {changes:#?}"))
}
