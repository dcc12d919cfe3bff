//! What was found, as files: one for each section, so that a run of one replaces nothing else.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Origin, Section};

/// A section with where and when it was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Machine, versions, date, noise.
    pub origin: Origin,
    /// What was found.
    pub section: Section,
}

/// Keeps a section.
pub(crate) fn write(out: &Path, name: &str, kept: &Kept) -> Result<(), Error> {
    let path = place(out, name);
    let parent = path.parent().unwrap_or(out);
    fs::create_dir_all(parent).map_err(Error::file("making", parent))?;
    let text = serde_json::to_string(kept).map_err(Error::json(format!("section {name}")))?;
    fs::write(&path, text + "\n").map_err(Error::file("writing", path))
}

/// A section that was kept; `None` if it never ran.
pub(crate) fn read(out: &Path, name: &str) -> Result<Option<Kept>, Error> {
    let path = place(out, name);
    match fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(Error::json(path.display().to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("reading", path)(error)),
    }
}

fn place(out: &Path, name: &str) -> PathBuf {
    out.join("benchmarks").join(format!("{name}.json"))
}
