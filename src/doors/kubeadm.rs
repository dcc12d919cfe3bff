//! The kubeadm shim: `init`, `join` and `reset` are planned, everything else is the real kubeadm's.

use std::ffi::OsString;

use u7s_shim::kubeadm::{Call, parse};

use super::{init, pass, reset};
use crate::{End, Error};

/// Does what a command line of kubeadm asks for; `argv` is without the program's name.
///
/// # Errors
/// [`Error`], for `report` to explain. What the real kubeadm says and exits with is no error of ours.
pub fn run(argv: &[OsString]) -> Result<End, Error> {
    match parse(argv) {
        Call::Init(request) => init::run(init::Command::Init(&request)),
        Call::Join(request) => init::run(init::Command::Join(&request)),
        Call::Reset(request) => reset::run(&request),
        Call::Unknown { .. } => pass::refuse(argv),
        Call::NotUtf8 { flag } => Err(Error::NotUtf8 { flag }),
        Call::NoForm { value } => {
            Err(Error::Usage(format!("--output is text or json, not {:?}", value.to_string_lossy())))
        }
        Call::Info => pass::speak(argv),
        Call::Upgrade | Call::Phase | Call::Pass => pass::enter(argv),
    }
}

/// What the user asked for, for the head of a complaint: the first word, or the program.
#[must_use]
pub fn doing(argv: &[OsString]) -> &str {
    const PLANNED: [&str; 3] = ["init", "join", "reset"];
    let first = argv.iter().filter_map(|arg| arg.to_str()).find(|arg| !arg.starts_with('-'));
    first.filter(|word| PLANNED.contains(word)).unwrap_or("kubeadm")
}
