//! End to end, on nested nodes with real systemd, kubeadm, kubelet, CRI-O, crun and control plane: nothing is mocked.
//!
//! Tests run one after the other, in the order in which they are listed; those of one node share it, and the first
//! that needs it brings it up, so that `--filter NAME` works for each of them.

mod balance;
mod cluster;
mod commands;
mod double;
mod faults;
mod firewall;
mod flannel;
mod ha;
mod hostile_stop;
mod hostile_waits;
mod init;
mod join;
mod kubeconfigs;
mod lies;
mod machine;
mod mixed;
mod operations;
mod outside;
mod package;
mod packages;
mod pair;
mod posture;
mod progress;
mod refusals;
mod reset;
mod resume;
mod rootful;
#[path = "../documents/schema.rs"]
mod schema;
mod services;
mod strangers;
mod traffic;
mod troubles;
mod uncovered;
mod upgrade;
mod world;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use libtest_mimic::{Arguments, Trial};

use crate::world::{Check, World};

/// A test by its name.
pub(crate) type Listed = (&'static str, fn(&World) -> Check);

/// Modules whose tests run one after the other, in this order.
struct Group {
    name: &'static str,
    modules: &'static [&'static [Listed]],
}

/// Every module is in one of them, or the compiler tells of tests that nobody uses.
///
/// scripts/nodes.sh runs the first one alone: times of a quiet machine are to be seen there, and limits of the machine
/// that u7s raises and puts back. The others run beside each other, since they mostly wait; the longest begin.
const GROUPS: [Group; 14] = [
    Group {
        name: "quiet",
        modules: &[
            init::TESTS,
            progress::TESTS,
            services::TESTS,
            posture::TESTS,
            uncovered::TESTS,
            faults::TESTS,
            reset::TESTS,
            resume::TESTS,
            machine::TESTS,
        ],
    },
    Group { name: "strangers", modules: &[strangers::TESTS] },
    Group { name: "ha", modules: &[ha::TESTS] },
    Group { name: "pair", modules: &[join::TESTS, traffic::TESTS, outside::TESTS] },
    Group { name: "mixed", modules: &[mixed::TESTS] },
    Group { name: "commands", modules: &[commands::TESTS, operations::TESTS] },
    Group { name: "lies", modules: &[kubeconfigs::TESTS, lies::TESTS] },
    Group { name: "flannel", modules: &[flannel::TESTS] },
    Group { name: "firewall", modules: &[firewall::TESTS, rootful::TESTS] },
    Group { name: "package", modules: &[package::TESTS] },
    Group { name: "hostile", modules: &[hostile_stop::TESTS] },
    Group { name: "troubles", modules: &[troubles::TESTS, hostile_waits::TESTS] },
    Group { name: "refusals", modules: &[refusals::TESTS] },
    Group { name: LONG, modules: &[faults::LONG, upgrade::TESTS] },
];

/// Left out unless `U7S_LONG` is set: takes minutes, and the kit's second release of Kubernetes.
const LONG: &str = "long";

/// `U7S_NODES=NAME` runs one group, `U7S_NODES=names` tells their names; without, all run.
fn main() -> ExitCode {
    if let Some(ended) = double::play() {
        return ended;
    }
    let wanted = std::env::var("U7S_NODES").unwrap_or_default();
    if wanted == "names" {
        GROUPS.iter().for_each(|group| world::say(group.name));
        return ExitCode::SUCCESS;
    }
    let groups: Vec<&Group> =
        GROUPS.iter().filter(|group| wanted.is_empty() || group.name == wanted).collect();
    if groups.is_empty() {
        world::say(format!("U7S_NODES is {wanted}, but there is no such group of tests"));
        return ExitCode::FAILURE;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let world = Arc::new(World::default());
    let trials = groups.into_iter().flat_map(|group| trials(group, &world)).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Nodes and namespaces go now.
    drop(world);
    conclusion.exit_code()
}

fn trials(group: &Group, world: &Arc<World>) -> Vec<Trial> {
    let left_out = group.name == LONG && std::env::var("U7S_LONG").unwrap_or_default().is_empty();
    let trial = |(name, test): &Listed| {
        let (world, test) = (Arc::clone(world), *test);
        Trial::test(*name, move || {
            world::new_notes();
            let began = Instant::now();
            let result = test(&world).map_err(|error| {
                // The runner's own list comes at the very end.
                world::note(format!("failed: {error}"));
                error.to_string().into()
            });
            world::note(format!("{:.1} s", began.elapsed().as_secs_f64()));
            result
        })
        .with_ignored_flag(left_out)
    };
    group.modules.iter().copied().flatten().map(trial).collect()
}
