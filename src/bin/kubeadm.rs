//! The kubeadm shim, first in PATH on the host and inside the node.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::process::ExitCode;

use u7s::{doors, report};

fn main() -> ExitCode {
    let argv: Vec<OsString> = std::env::args_os().skip(1).collect();
    report::finish(doors::kubeadm::doing(&argv), doors::kubeadm::run(&argv))
}
