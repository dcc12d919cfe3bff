//! Entering a node, proved on a throw-away user namespace: needs root, no Kubernetes.
//!
//! The program itself is also the driver: with `U7S_ENTER` set it enters the node that the variable names and becomes
//! the door that a test looks at from outside, with whatever standard streams the test gave it.

#![expect(clippy::print_stdout, reason = "a test prints what it saw")]

mod driver;
mod fuse;
mod inherited;
mod node;
mod streams;
mod terminal;
mod waits;

use libtest_mimic::{Arguments, Trial};

/// What a test gives: nothing, or a sentence.
pub(crate) type Check = Result<(), Box<dyn std::error::Error>>;

/// A test by its name.
pub(crate) type Listed = (&'static str, fn(&node::Node) -> Check);

fn main() -> std::process::ExitCode {
    if let Some(code) = fuse::run().or_else(inherited::run).or_else(driver::run) {
        return code;
    }
    if signals_are_ignored() {
        let error = with_default_signals();
        u7s::report::line(&format!("env --default-signal: {error}"));
        return std::process::ExitCode::FAILURE;
    }
    let mut arguments = Arguments::from_args();
    // One node, and one thread: the work of a user is done by a copy of the process.
    arguments.test_threads = Some(1);
    let node = match node::Node::new() {
        Ok(node) => std::sync::Arc::new(node),
        Err(error) => {
            u7s::report::line(&format!("no node to enter: {error}"));
            return std::process::ExitCode::FAILURE;
        }
    };
    let trials = [node::TESTS, streams::TESTS, terminal::TESTS, inherited::TESTS, waits::TESTS]
        .into_iter()
        .flatten()
        .map(|(name, test)| {
            let node = std::sync::Arc::clone(&node);
            Trial::test(*name, move || test(&node).map_err(|error| error.to_string().into()))
        });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    drop(node);
    conclusion.exit_code()
}

/// A background job of a script begins with SIGINT and SIGQUIT ignored, which no shell in a test could trap.
fn signals_are_ignored() -> bool {
    const HUP_INT_QUIT_USR1_TERM: u64 = 0b0100_0010_0000_0111;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0) & HUP_INT_QUIT_USR1_TERM != 0
}

/// Starts this program again with every signal's default; returns only if that fails.
fn with_default_signals() -> std::io::Error {
    use std::os::unix::process::CommandExt;
    let program = std::env::current_exe().unwrap_or_default();
    std::process::Command::new("env")
        .arg("--default-signal")
        .arg(program)
        .args(std::env::args_os().skip(1))
        .exec()
}

/// Fails with a sentence unless it holds.
pub(crate) fn holds(condition: bool, sentence: impl Into<String>) -> Check {
    if condition { Ok(()) } else { Err(sentence.into().into()) }
}
