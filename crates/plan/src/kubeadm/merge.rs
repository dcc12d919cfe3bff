//! Flags and documents into one configuration.

use std::path::PathBuf;

use serde_json::Value;

use super::{Error, Input, Output};
use crate::request;

/// Completes the user's flags and documents with what a rootless node needs.
///
/// # Errors
/// See [`Error`]; the first that is found.
pub fn merge(input: &Input<'_>) -> Result<Output, Error> {
    let _ = input;
    Err(Error::Mixed(Vec::new()))
}

/// The user's own patches directory: `--patches`, or `patches.directory` of the InitConfiguration.
#[must_use]
pub fn patches_directory(request: &request::Init, documents: &[Value]) -> Option<PathBuf> {
    let flag = request
        .config_flags
        .iter()
        .rev()
        .find(|(name, _)| name == "patches")
        .map(|(_, value)| value.as_str());
    let field = || {
        let document = documents.iter().find(|document| document["kind"] == "InitConfiguration")?;
        document["patches"]["directory"].as_str()
    };
    flag.or_else(field).filter(|directory| !directory.is_empty()).map(PathBuf::from)
}
