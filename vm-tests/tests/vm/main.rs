//! End to end on whole machines: systemd as pid 1, cgroup v2 with every controller, reboots and power cuts.
//!
//! One machine with a finished `kubeadm init` serves most tests; they run one after the other, in the order in which
//! they are listed, and the first that needs a machine brings it up, so that a filter works for each of them.

mod attempts;
mod clock;
mod cuts;
mod faults;
mod hostile;
mod init;
mod limits;
mod power;
mod proxy;
mod security;
mod stripped;
mod world;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use libtest_mimic::{Arguments, Trial};

use crate::world::{Check, World};

/// A test by its name.
pub(crate) type Listed = (&'static str, fn(&World) -> Check);

/// In which order, and which only in the long run, `U7S_LONG=1`. Those with machines of their own come before the cluster's.
const MODULES: [(&[Listed], bool); 14] = [
    (stripped::TESTS, false),
    (cuts::LONG, true),
    (init::TESTS, false),
    (limits::TESTS, false),
    (attempts::TESTS, false),
    (proxy::TESTS, false),
    (security::TESTS, false),
    (hostile::TESTS, false),
    (faults::TESTS, true),
    (power::TESTS, false),
    (clock::TESTS, true),
    (limits::LONG, true),
    (power::LONG, true),
    (hostile::LAST, true),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let world = Arc::new(World::default());
    let skip = std::env::var("U7S_LONG").unwrap_or_default().is_empty();
    let trials = MODULES.iter().flat_map(|(tests, long)| tests.iter().map(move |test| (test, skip && *long)));
    let trials = trials.map(|(test, skip)| trial(test, &world).with_ignored_flag(skip)).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Machines go now.
    drop(world);
    conclusion.exit_code()
}

fn trial((name, test): &Listed, world: &Arc<World>) -> Trial {
    let (name, test, world) = (*name, *test, Arc::clone(world));
    Trial::test(name, move || {
        world::new_notes();
        let began = Instant::now();
        let result = test(&world).map_err(|error| {
            // The runner's own list comes at the very end.
            world::note(format!("failed: {error}"));
            world.evidence(name);
            error.to_string().into()
        });
        world::note(format!("{:.1} s", began.elapsed().as_secs_f64()));
        result
    })
}
