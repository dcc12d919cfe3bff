//! What the administrator asked for: the kubeadm shim's argv as typed data.

use std::fmt;
use std::path::PathBuf;

use crate::need::Ignored;

/// Flags whose values are secrets: shown as `<redacted>` wherever a request is printed.
pub const SECRET_FLAGS: [&str; 2] = ["token", "certificate-key"];

/// `kubeadm init`, flags parsed loosely once, each value as the user wrote it.
///
/// Every flag of kubeadm 1.34's init has its place here; a flag that was not given is `None` or empty.
/// `Debug` hides the values of [`SECRET_FLAGS`].
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Init {
    /// Flags that have a field in kubeadm's configuration: name without dashes, value; in argv order.
    ///
    /// A flag that was given twice is here twice: kubeadm lets the last one win, but for slices, which accumulate.
    pub config_flags: Vec<(String, String)>,
    /// Flags that kubeadm accepts beside `--config` (skip-phases, upload-certs, v, …) in the form `--name=value`, in
    /// argv order; also `vmodule` and `rootfs`, which `plan::kubeadm::merge` judges.
    pub pass_flags: Vec<String>,
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--dry-run`.
    pub dry_run: bool,
    /// `--ignore-preflight-errors`.
    pub ignored: Ignored,
}

impl fmt::Debug for Init {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config_flags: Vec<_> = self
            .config_flags
            .iter()
            .map(|(name, value)| {
                if SECRET_FLAGS.contains(&name.as_str()) {
                    (name, "<redacted>")
                } else {
                    (name, value.as_str())
                }
            })
            .collect();
        out.debug_struct("Init")
            .field("config_flags", &config_flags)
            .field("pass_flags", &self.pass_flags)
            .field("config", &self.config)
            .field("dry_run", &self.dry_run)
            .field("ignored", &self.ignored)
            .finish()
    }
}

/// `kubeadm reset`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reset {
    /// All of reset's flags for the real kubeadm, in the form `--name=value`, in argv order; without `--dry-run`.
    pub pass_flags: Vec<String>,
    /// `--config`: also in `pass_flags`; a relative path means the caller's directory.
    pub config: Option<PathBuf>,
    /// `-f`, `--force`: no question.
    pub force: bool,
    /// `--dry-run`.
    pub dry_run: bool,
    /// `--ignore-preflight-errors`; also in `pass_flags`.
    pub ignored: Ignored,
}
