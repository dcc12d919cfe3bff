//! The OCI runtime adapter of degraded nodes: CRI-O's `runtime_path` there.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::process::ExitCode;

use u7s::{doors, report};

fn main() -> ExitCode {
    let argv: Vec<OsString> = std::env::args_os().skip(1).collect();
    report::finish("u7s-crun", doors::adapter::run(&argv))
}
