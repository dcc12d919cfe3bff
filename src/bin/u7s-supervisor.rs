//! `ExecStart` of u7s.service: builds the node's namespaces and keeps what runs in them alive.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::process::ExitCode;

use u7s::{End, doors, report};

fn main() -> ExitCode {
    let argv: Vec<OsString> = std::env::args_os().skip(1).collect();
    let options = match doors::supervisor::parse(argv) {
        Ok(doors::supervisor::Asked::Serve(options)) => options,
        Ok(doors::supervisor::Asked::Print(text)) => {
            return report::finish("u7s-supervisor", report::result(&text).map(|()| End::OK));
        }
        Err(problem) => {
            report::line(&format!("u7s-supervisor: {problem}; see u7s-supervisor --help"));
            return ExitCode::from(3);
        }
    };
    tracing_subscriber::fmt()
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .with_writer(|| u7s_supervisor::Stderr)
        .init();
    match u7s_supervisor::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", u7s_supervisor::chain(&error));
            ExitCode::FAILURE
        }
    }
}
