//! The API server's audit policy.

/// The policy's file, inside and outside.
pub const POLICY_PATH: &str = "/etc/kubernetes/audit/policy.yaml";

/// The log's file, inside and outside.
pub const LOG_PATH: &str = "/etc/kubernetes/audit/audit.log";

/// The text of [`POLICY_PATH`].
#[must_use]
pub fn policy() -> String {
    String::new()
}
