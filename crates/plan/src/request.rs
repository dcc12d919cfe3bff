//! What the administrator asked for: the kubeadm shim's argv as typed data.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::need::Ignored;

/// Flags whose values are secrets: shown as `<redacted>` wherever a request is printed.
pub const SECRET_FLAGS: [&str; 4] = ["token", "certificate-key", "discovery-token", "tls-bootstrap-token"];

/// How a command says what it does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Form {
    /// Lines for people.
    #[default]
    Text,
    /// Events for programs, one JSON object a line.
    Json,
}

/// `kubeadm init`, flags parsed loosely once, each value as the user wrote it; those of join have the same shape.
///
/// Every flag of kubeadm 1.34's init and join has its place here; a flag that was not given is `None` or empty.
/// `Debug` hides the values of [`SECRET_FLAGS`].
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Init {
    /// Flags that have a field in kubeadm's configuration: name without dashes, value; in argv order.
    ///
    /// A flag that was given twice is here twice: the last one wins, as in kubeadm. A list has one entry for each of
    /// its items, from all its occurrences. Numbers are decimal.
    pub config_flags: Vec<(String, String)>,
    /// Flags that kubeadm accepts beside `--config` (skip-phases, upload-certs, v, …) in the form `--name=value`, in
    /// argv order; also `vmodule` and `rootfs`, which `plan::kubeadm::merge` judges.
    pub pass_flags: Vec<String>,
    /// Items of `--skip-phases`, which is in [`Self::pass_flags`] too.
    pub skip_phases: Vec<String>,
    /// `--config` as it was given, which may be empty; [`Self::config_file`] is what to read.
    pub config: Option<PathBuf>,
    /// `--dry-run`.
    pub dry_run: bool,
    /// `--output`.
    pub output: Form,
    /// `--ignore-preflight-errors`; not in [`Self::pass_flags`], since it goes into the configuration.
    pub ignored: Ignored,
}

impl Init {
    /// The user's configuration file; a relative path means the caller's directory.
    ///
    /// `--config=` names none, as in kubeadm.
    #[must_use]
    pub fn config_file(&self) -> Option<&Path> {
        self.config.as_deref().filter(|path| !path.as_os_str().is_empty())
    }

    /// kubeadm's `-v`; what is no number is none.
    #[must_use]
    pub fn verbosity(&self) -> u32 {
        let last = self.pass_flags.iter().rev().find_map(|flag| flag.strip_prefix("--v="));
        last.and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    /// The value that counts of a flag that is no list.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.config_flags.iter().rev().find(|(flag, _)| flag == name).map(|(_, value)| value.as_str())
    }
}

impl fmt::Debug for Init {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(name, value): &(String, String)| {
            let secret = SECRET_FLAGS.contains(&name.as_str());
            (name.clone(), if secret { "<redacted>".to_owned() } else { value.clone() })
        };
        out.debug_struct("Init")
            .field("config_flags", &self.config_flags.iter().map(shown).collect::<Vec<_>>())
            .field("pass_flags", &self.pass_flags)
            .field("skip_phases", &self.skip_phases)
            .field("config", &self.config)
            .field("dry_run", &self.dry_run)
            .field("output", &self.output)
            .field("ignored", &self.ignored)
            .finish()
    }
}

/// `kubeadm join`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Join {
    /// Flags, `--config` and what else has the same meaning as for init; booleans are `true` or `false`.
    pub given: Init,
    /// The API server's `HOST:PORT`, the only word that join takes.
    pub endpoint: Option<String>,
}

/// `kubeadm reset`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reset {
    /// All of reset's flags for the real kubeadm but `--dry-run` and `--config`, in the form `--name=value`, in argv
    /// order.
    pub pass_flags: Vec<String>,
    /// `--config`; a relative path means the caller's directory.
    pub config: Option<PathBuf>,
    /// The ResetConfiguration of [`Self::config`], read by the door.
    pub document: Option<Value>,
    /// `-f`, `--force`: no question; also in [`Self::pass_flags`].
    pub force: bool,
    /// `--dry-run`.
    pub dry_run: bool,
    /// `--output`.
    pub output: Form,
    /// `--ignore-preflight-errors`; also in [`Self::pass_flags`].
    pub ignored: Ignored,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s14_debug_of_a_request_hides_token_and_key() {
        let token = "abcdef.0123456789abcdef";
        let flags = [
            ("token", token),
            ("discovery-token", token),
            ("tls-bootstrap-token", token),
            ("certificate-key", "feed"),
            ("node-name", "n1"),
        ];
        let config_flags = flags.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let shown = format!("{:?}", Init { config_flags, ..Init::default() });
        assert!(!shown.contains("0123456789") && !shown.contains("feed"), "{shown}");
        assert!(shown.contains("n1") && shown.contains("<redacted>"), "{shown}");
    }
}
