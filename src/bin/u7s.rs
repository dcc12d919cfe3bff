//! The administrator's tool.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::process::ExitCode;

use u7s::{doors, report};

fn main() -> ExitCode {
    let argv: Vec<OsString> = std::env::args_os().collect();
    report::finish(doors::tool::doing(&argv), doors::tool::run(&argv))
}
