//! The durations of the last init or join, kept for `u7s timings`.

use std::path::Path;

use u7s_plan::timings::{PATH, Run, VERSION};

use crate::error::Error;
use crate::files::{self, LIMIT, Rights};

/// Keeps a run in place of the last one.
///
/// # Errors
/// Those of writing.
pub fn keep(run: &Run) -> Result<(), Error> {
    keep_at(Path::new(PATH), run)
}

/// The last run; `None` before the first, and for a document that is not ours.
///
/// # Errors
/// Those of reading.
pub fn last() -> Result<Option<Run>, Error> {
    last_at(Path::new(PATH))
}

fn keep_at(path: &Path, run: &Run) -> Result<(), Error> {
    let failed = |source: serde_json::Error| Error::Write { path: path.to_owned(), source: source.into() };
    let mut bytes = serde_json::to_vec_pretty(run).map_err(failed)?;
    bytes.push(b'\n');
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    files::replace(path, &bytes, Rights { uid, gid, mode: 0o644 })
}

fn last_at(path: &Path) -> Result<Option<Run>, Error> {
    let Some(file) = files::read(path, LIMIT)? else { return Ok(None) };
    Ok(serde_json::from_slice(&file.bytes).ok().filter(|run: &Run| run.version == VERSION))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_kept_and_read_and_anything_else_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("timings.json");
        assert_eq!(last_at(&path).unwrap(), None);
        let run = Run {
            version: VERSION,
            command: "kubeadm init".into(),
            began: 1,
            failed: None,
            took_us: 2,
            parts: Vec::new(),
        };
        keep_at(&path, &run).unwrap();
        assert_eq!(last_at(&path).unwrap(), Some(run));
        std::fs::write(&path, "{\"version\": 2}").unwrap();
        assert_eq!(last_at(&path).unwrap(), None);
    }
}
