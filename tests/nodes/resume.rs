//! An init that was killed at the border of a phase is completed by running it again.

use std::time::Duration;

use crate::Listed;
use crate::cluster::Cluster;
use crate::world::{Bare, Check, IGNORED, World, exits, holds, kubeadm};

pub(crate) const TESTS: &[Listed] =
    &[("resume::after_a_kill_behind_each_of_the_seven_phases", after_a_kill_behind_each_phase)];

const PHASES: [&str; 7] = ["preflight", "host", "configure", "namespace", "cluster", "publish", "enable"];

/// F18: the run is killed behind each phase in turn, and each next run goes on from there; the end is a clean run's.
fn after_a_kill_behind_each_phase(world: &World) -> Check {
    let lan = world.lan()?;
    let bare = Bare::new(&lan, "n2")?;
    for phase in PHASES {
        let run = kubeadm(&bare.node, &["init", IGNORED]).env("U7S_FAILPOINT", phase).run()?;
        println!("killed behind {phase}: {:?}", run.status);
        holds(run.code() != Some(0), format!("the failpoint behind {phase} did not end it: {run}"))?;
    }
    let run = kubeadm(&bare.node, &["init", IGNORED]).run()?;
    exits(&run, 0)?;
    let cluster = Cluster { bare, init: run, took: Duration::ZERO };
    cluster.converge(Duration::from_secs(180))?;
    let reset = kubeadm(cluster.node(), &["reset", "--force"]).run()?;
    exits(&reset, 0)?;
    let changes = cluster.bare.before.diff(&cluster.node().snapshot()?);
    holds(changes.is_empty(), format!("left behind: {changes:#?}"))
}
