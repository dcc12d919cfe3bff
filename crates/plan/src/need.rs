//! Needs of a node: what preflight compares the facts with.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// One unmet need.
///
/// `Display` is kubeadm's form: `[ERROR Id]: message`, the remedy is printed below it by the doors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unmet {
    /// Stable id: kubeadm's where one exists, never translated, never reused.
    pub id: String,
    /// What is wrong, a sentence without a full stop.
    pub message: String,
    /// A command to paste or a file to look at.
    pub remedy: String,
    /// Whether it stops the run.
    pub level: Level,
}

/// How much an unmet need weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Said, and goes on.
    Warning,
    /// Stops the run with exit status 2, unless ignored by name.
    Error,
}

impl fmt::Display for Unmet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Warning => "WARNING",
            Level::Error => "ERROR",
        };
        write!(out, "[{level} {}]: {}", self.id, self.message)
    }
}

/// Ids given to `--ignore-preflight-errors`: ours and kubeadm's, compared without case as kubeadm does, or `all`.
///
/// Source: kubernetes, cmd/kubeadm/app/preflight/checks.go, `RunChecks`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Ignored(BTreeSet<String>);

impl Ignored {
    /// Takes a list as given on the command line or in a configuration.
    pub fn new<I: IntoIterator<Item = S>, S: AsRef<str>>(ids: I) -> Self {
        Self(
            ids.into_iter().map(|id| id.as_ref().trim().to_lowercase()).filter(|id| !id.is_empty()).collect(),
        )
    }

    /// Whether `id` is ignored.
    #[must_use]
    pub fn contains(&self, id: &str) -> bool {
        self.0.contains("all") || self.0.contains(&id.to_lowercase())
    }

    /// The ids in kubeadm's form, lower case, sorted.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}
