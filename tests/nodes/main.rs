//! End to end, on nested nodes with real systemd, kubeadm, kubelet, CRI-O, crun and control plane: nothing is mocked.
//!
//! Tests run one after the other, in the order in which they are listed; those of one node share it, and the first
//! that needs it brings it up, so that `--filter NAME` works for each of them.

mod balance;
mod cluster;
mod commands;
mod faults;
mod firewall;
mod flannel;
mod ha;
mod init;
mod join;
mod machine;
mod mixed;
mod outside;
mod pair;
mod posture;
mod refusals;
mod reset;
mod resume;
mod rootful;
mod services;
mod strangers;
mod traffic;
mod world;

use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};

use crate::world::{Check, World};

/// A test by its name.
pub(crate) type Listed = (&'static str, fn(&World) -> Check);

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let world = Arc::new(World::default());
    let lists = [
        refusals::TESTS,
        init::TESTS,
        services::TESTS,
        flannel::TESTS,
        posture::TESTS,
        commands::TESTS,
        faults::TESTS,
        reset::TESTS,
        resume::TESTS,
        machine::TESTS,
        firewall::TESTS,
        rootful::TESTS,
        join::TESTS,
        traffic::TESTS,
        outside::TESTS,
        strangers::TESTS,
        mixed::TESTS,
        ha::TESTS,
    ];
    let trials = lists.into_iter().flatten().map(|(name, test)| {
        let world = Arc::clone(&world);
        Trial::test(*name, move || {
            world::new_notes();
            test(&world).map_err(|error| {
                // The runner's own list comes at the very end.
                world::note(format!("failed: {error}"));
                error.to_string().into()
            })
        })
    });
    let trials: Vec<Trial> = trials.collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Nodes and namespaces go now: exit runs no destructor.
    drop(world);
    conclusion.exit();
}
