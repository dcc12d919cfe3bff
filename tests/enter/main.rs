//! Entering a node, proved on a throw-away user namespace: needs root, no Kubernetes.
//!
//! The program itself is also the driver: with `U7S_ENTER` set it enters the node that the variable names and becomes
//! the door that a test looks at from outside, with whatever standard streams the test gave it.

#![expect(clippy::print_stdout, reason = "a test prints what it saw")]

mod driver;
mod node;
mod streams;
mod terminal;

use libtest_mimic::{Arguments, Trial};

/// What a test gives: nothing, or a sentence.
pub(crate) type Check = Result<(), Box<dyn std::error::Error>>;

/// A test by its name.
pub(crate) type Listed = (&'static str, fn(&node::Node) -> Check);

fn main() -> std::process::ExitCode {
    if let Some(code) = driver::run() {
        return code;
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
    let trials = [node::TESTS, streams::TESTS, terminal::TESTS].into_iter().flatten().map(|(name, test)| {
        let node = std::sync::Arc::clone(&node);
        Trial::test(*name, move || test(&node).map_err(|error| error.to_string().into()))
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    drop(node);
    conclusion.exit_code()
}

/// Fails with a sentence unless it holds.
pub(crate) fn holds(condition: bool, sentence: impl Into<String>) -> Check {
    if condition { Ok(()) } else { Err(sentence.into().into()) }
}
