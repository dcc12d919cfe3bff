//! `ExecStart` of u7s.service: builds the node's namespaces and keeps what runs in them alive.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Keeps the rootless Kubernetes node of this machine: started by u7s.service, not by hand.
#[derive(Parser)]
#[command(name = "u7s-supervisor", version)]
struct Arguments {
    /// Specification of the node, written by `kubeadm init`.
    #[arg(long, value_name = "PATH", default_value = u7s_plan::node::PATH)]
    spec: PathBuf,
    /// Directory of control.sock, private to the node's user.
    #[arg(long, value_name = "DIR", default_value = "/run/u7s")]
    runtime_dir: PathBuf,
}

fn main() -> ExitCode {
    let Arguments { spec, runtime_dir } = Arguments::parse();
    tracing_subscriber::fmt()
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .with_writer(|| u7s_supervisor::Stderr)
        .init();
    match u7s_supervisor::run(&u7s_supervisor::Options { spec, runtime_dir }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", u7s_supervisor::chain(&error));
            ExitCode::FAILURE
        }
    }
}
