//! Everything that can end a program of ours with a complaint. What is said about it, and with which exit status, is
//! [`crate::report`]'s.

use std::path::PathBuf;

use u7s_host::{control, enter, oci};
use u7s_plan::need::Unmet;
use u7s_plan::{config, kubeadm, yaml};

/// Why a program of ours did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host or the node could not be looked at or changed.
    #[error(transparent)]
    Host(#[from] u7s_host::Error),
    /// A program could not be run as the node's user.
    #[error(transparent)]
    Enter(#[from] enter::Error),
    /// The supervisor gave no answer.
    #[error(transparent)]
    Control(#[from] control::Error),
    /// A container's specification could not be fitted.
    #[error(transparent)]
    Oci(#[from] oci::Error),
    /// /etc/u7s is wrong.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The user's document is no YAML.
    #[error(transparent)]
    Yaml(#[from] yaml::Error),
    /// The user's flags and documents make no rootless node.
    #[error(transparent)]
    Request(#[from] kubeadm::Error),
    /// Needs that are not met; errors among them.
    #[error("{}", unmet(.0))]
    Unmet(Vec<Unmet>),
    /// Parts of reset failed; all others were done.
    #[error("{} of reset's steps failed", .0.len())]
    Reset(Vec<u7s_host::Error>),
    /// The command line is none of ours.
    #[error("{0}")]
    Usage(String),
    /// A value that no configuration can hold.
    #[error("the value of --{flag} is not UTF-8")]
    NotUtf8 {
        /// The flag, without dashes.
        flag: String,
    },
    /// `init` and `reset` change the host, which is out of reach in here.
    #[error("this shell is inside the node's namespaces")]
    Inside,
    /// A program of the host is missing.
    #[error("{} is not there", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// What should be the real program is this shim itself: it would call itself without end.
    #[error("{} is u7s's own shim, not the real program", path.display())]
    Recursion {
        /// Where the real one should be.
        path: PathBuf,
    },
    /// There is no run whose times could be shown.
    #[error("no kubeadm init or join of ours has run on this machine since it was made or reset")]
    NoRun,
    /// The question was not answered with yes.
    ///
    /// Source: kubernetes, cmd/kubeadm/app/util/util.go, `InteractivelyConfirmAction`.
    #[error("won't proceed; the user didn't answer (Y|y) in order to continue")]
    Declined,
    /// A file of the caller's could not be made.
    #[error("cannot write {}", path.display())]
    Write {
        /// Where it should go.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// A program inside printed something that others would use or type as root, and it is not what it is called.
    #[error("what kubeadm inside printed is not {what} and is not passed on: {why}")]
    NotOfItsForm {
        /// What was asked for: `a kubeconfig`.
        what: &'static str,
        /// Why it is none.
        why: String,
    },
    /// A result could not be written.
    #[error("cannot write to standard output")]
    Output(#[source] std::io::Error),
}

fn unmet(needs: &[Unmet]) -> String {
    let errors = needs.iter().filter(|need| need.level == u7s_plan::need::Level::Error).count();
    let (noun, verb) = if errors == 1 { ("need", "is") } else { ("needs", "are") };
    format!("the host is not ready, {errors} {noun} {verb} unmet")
}
