//! The OCI runtime of degraded nodes: crun, after the container's specification was fitted to what the node may do.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use u7s_host::enter;
use u7s_host::oci::{bundle, fit_bundle};
use u7s_plan::oci::Change;

use super::machine;
use crate::{End, Error};

/// The real runtime, inside.
const CRUN: &str = "/usr/bin/crun";

/// Where changes are noted, inside; in the node's own tree it is below `log`.
///
/// Standard error is the container's own while it is created, and there is no journal inside.
const LOG: &str = "/var/log/u7s-crun.log";

/// A log that is larger is put aside once, bytes.
const MAX_LOG: u64 = 1 << 20;

/// Fits the bundle where there is one, then becomes crun with the same arguments; `argv` is without the program's name.
///
/// # Errors
/// `Oci`: the specification cannot be read or written. `Missing`, `Recursion`: crun.
pub fn run(argv: &[OsString]) -> Result<End, Error> {
    if let Some(bundle) = bundle(argv) {
        let changes = fit_bundle(&bundle)?;
        if !changes.is_empty() {
            // A container that runs without a line in a log is better than none.
            let _ = note(Path::new(LOG), &bundle, &changes);
        }
    }
    let source = Command::new(machine::real(Path::new(CRUN))?).args(argv).exec();
    Err(enter::Error::Watch { program: CRUN.into(), source }.into())
}

/// One line for each change, written at once: several containers are created at the same time.
fn note(log: &Path, bundle: &Path, changes: &[Change]) -> std::io::Result<()> {
    if std::fs::metadata(log).is_ok_and(|seen| seen.len() > MAX_LOG) {
        std::fs::rename(log, former(log))?;
    }
    let name = bundle.display().to_string();
    let lines: String = changes.iter().map(|change| format!("{}: {change}\n", name.escape_debug())).collect();
    let mut file = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(log)?;
    file.write_all(lines.as_bytes())
}

fn former(log: &Path) -> PathBuf {
    log.with_extension("log.1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change() -> Change {
        Change { path: "linux.resources.memory".into(), asked: "{\"limit\":1}".into(), now: None }
    }

    #[test]
    fn changes_are_noted_one_a_line_with_their_bundle() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("x.log");
        note(&log, Path::new("/b\n"), &[change(), change()]).unwrap();
        let text = std::fs::read_to_string(&log).unwrap();
        assert_eq!(text, "/b\\n: linux.resources.memory: dropped {\"limit\":1}\n".repeat(2));
    }

    #[test]
    fn a_long_log_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("x.log");
        std::fs::write(&log, vec![b'x'; 1 + usize::try_from(MAX_LOG).unwrap()]).unwrap();
        note(&log, Path::new("/b"), &[change()]).unwrap();
        assert!(std::fs::metadata(&log).unwrap().len() < 100);
        assert!(former(&log).exists());
    }
}
