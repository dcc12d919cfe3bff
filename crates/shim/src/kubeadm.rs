//! The argv grammar of kubeadm: cobra's search for the command, pflag's flags.

use std::ffi::OsString;

use u7s_plan::request;

/// What a command line of kubeadm asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// `kubeadm init`: planned.
    Init(request::Init),
    /// `kubeadm reset`: planned.
    Reset(request::Reset),
    /// `kubeadm join`: into the namespace.
    Join,
    /// `kubeadm upgrade …`: into the namespace.
    Upgrade,
    /// `init phase`, `join phase`, `reset phase`: needs a running namespace.
    Phase,
    /// Needs no node: help, version, completion, printing and checking of configurations, generating of tokens and keys.
    ///
    /// Runs inside where a namespace runs, else on the host *without privileges*.
    Info,
    /// All else: into the namespace, byte for byte.
    Pass,
    /// kubeadm's own flag parser refuses this command line, or does not know the flag any more than we do.
    ///
    /// The caller runs the real kubeadm *without privileges*: text and exit status of the error are kubeadm's.
    Unknown {
        /// What we stumbled over.
        flag: OsString,
    },
    /// A value of `init` or `reset` that is no UTF-8: kubeadm would write it into its configuration; refused by us.
    NotUtf8 {
        /// The flag, with dashes.
        flag: String,
    },
}

/// Reads kubeadm's arguments, without the program's name.
#[must_use]
pub fn parse(argv: &[OsString]) -> Call {
    let _ = argv;
    Call::Info
}
