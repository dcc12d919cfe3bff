//! What the administrator asked for: the kubeadm shim's argv as typed data.

use std::path::PathBuf;

use crate::need::Ignored;

/// `kubeadm init`, flags parsed loosely once, each value as the user wrote it.
///
/// Every flag of kubeadm 1.34's init has its place here; a flag that was not given is `None` or empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Init {
    /// Flags that have a field in kubeadm's configuration: name without dashes, value; in argv order.
    pub config_flags: Vec<(String, String)>,
    /// Flags that kubeadm accepts beside `--config` (skip-phases, upload-certs, v, …): argv form, byte for byte.
    pub pass_flags: Vec<String>,
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--dry-run`.
    pub dry_run: bool,
    /// `--ignore-preflight-errors`.
    pub ignored: Ignored,
}

/// `kubeadm reset`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reset {
    /// Flags for the real kubeadm, byte for byte.
    pub pass_flags: Vec<String>,
    /// `-f`, `--force`: no question.
    pub force: bool,
    /// `--dry-run`.
    pub dry_run: bool,
    /// `--ignore-preflight-errors`.
    pub ignored: Ignored,
}
