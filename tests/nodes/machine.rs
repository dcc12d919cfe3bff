//! Tests of other crates that change the machine they run on: they get a node of their own.

use std::path::Path;
use std::time::Duration;

use crate::Listed;
use crate::world::{Check, World, exits, holds, note};

pub(crate) const TESTS: &[Listed] =
    &[("machine::users_sysctls_and_units_of_a_real_systemd", users_sysctls_and_units_of_a_real_systemd)];

/// `crates/host/tests/systemd.rs`, built by scripts/test, in a node with nothing of u7s.
fn users_sysctls_and_units_of_a_real_systemd(world: &World) -> Check {
    let program = std::env::var("U7S_SYSTEMD_TESTS").map_err(|_| {
        "U7S_SYSTEMD_TESTS does not name the built tests: run scripts/test --layer 3, or set it to what \
         `cargo test -p u7s-host --features systemd --test systemd --no-run` prints"
    })?;
    holds(Path::new(&program).is_file(), format!("{program} is not there"))?;
    let lan = world.lan()?;
    let mut node = lan.node("hands")?;
    node.bind(Path::new(&program), "/usr/local/bin/systemd-tests")?;
    node.boot(Duration::from_secs(90))?;
    let output = node.command(&["/usr/local/bin/systemd-tests"]).within(Duration::from_secs(120)).run()?;
    note(&output.stdout);
    exits(&output, 0)
}
