//! `u7s plan`: what kubeadm's `init`, `join` and `reset` would do.

use std::ffi::OsString;

use clap::Subcommand;
use u7s_plan::request;
use u7s_shim::kubeadm::{Call, parse};

use crate::doors::{init, kubeadm, reset};
use crate::{End, Error};

/// Whose plan is shown.
#[derive(Debug, Subcommand)]
pub(super) enum Planned {
    /// `kubeadm init`, with its flags.
    #[command(disable_help_flag = true)]
    Init {
        /// Flags of `kubeadm init`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
        flags: Vec<OsString>,
    },
    /// `kubeadm join`, with its endpoint and flags.
    #[command(disable_help_flag = true)]
    Join {
        /// Endpoint and flags of `kubeadm join`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ENDPOINT FLAGS")]
        flags: Vec<OsString>,
    },
    /// `kubeadm reset`, with its flags.
    #[command(disable_help_flag = true)]
    Reset {
        /// Flags of `kubeadm reset`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
        flags: Vec<OsString>,
    },
}

/// Prints the plan.
///
/// # Errors
/// Those of planning; `Unmet` if the host is not ready.
pub(super) fn run(planned: Planned) -> Result<End, Error> {
    match planned {
        Planned::Init { flags } => show("init", flags),
        Planned::Join { flags } => show("join", flags),
        Planned::Reset { flags } => show("reset", flags),
    }
}

/// The same request as the shim's, shown. What kubeadm would refuse or explain, kubeadm refuses and explains.
fn show(command: &str, flags: Vec<OsString>) -> Result<End, Error> {
    let argv: Vec<OsString> = std::iter::once(command.into()).chain(flags).collect();
    match parse(&argv) {
        Call::Init(request) => init::show(init::Command::Init(&request)),
        Call::Join(request) => init::show(init::Command::Join(&request)),
        Call::Reset(request) => reset::run(&request::Reset { dry_run: true, ..request }),
        Call::Phase => {
            Err(Error::Usage(format!("only the whole of kubeadm {command} has a plan, not its phases")))
        }
        _ => kubeadm::run(&argv),
    }
}
