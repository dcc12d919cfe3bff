//! What every door must know first: the configuration, the node's user, and who calls.

use std::path::{Path, PathBuf};

use u7s_host::enter::{self, Author, Target};
use u7s_host::{control, probe};
use u7s_plan::config::{self, Config};
use u7s_plan::facts::UserFact;
use u7s_plan::kubeconfig;
use u7s_plan::need::{Level, Unmet};

use crate::Error;

/// Drop-ins of the administrator, read after the file itself in the order of their names.
const DROP_INS: &str = "/etc/u7s/config.d";

/// nobody and nogroup: a user who may do nothing.
pub(super) const NOBODY: u32 = 65534;

/// Who runs this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Caller {
    /// Root of the host.
    Root,
    /// The node's user, on the host.
    Node,
    /// Somebody who may not enter the node.
    Other,
}

impl Caller {
    /// Judges this process.
    pub(super) fn this(user: Option<&UserFact>) -> Self {
        match effective_uid() {
            0 => Self::Root,
            uid if user.is_some_and(|user| user.uid == uid) => Self::Node,
            _ => Self::Other,
        }
    }
}

/// /etc/u7s/config.toml and its drop-ins; without any of them the defaults.
pub(super) fn config() -> Result<Config, Error> {
    let mut paths = vec![PathBuf::from(config::PATH)];
    let entries = std::fs::read_dir(DROP_INS).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut drop_ins: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    drop_ins.sort();
    paths.extend(drop_ins);
    let there = paths.into_iter().filter(|path| path.exists());
    let read = |path: PathBuf| probe::document(&path).map(|text| (path.display().to_string(), text));
    Ok(config::read(&there.map(read).collect::<Result<Vec<_>, _>>()?)?)
}

/// The configuration of somebody who may not read it is the default: what he may do does not depend on it.
pub(super) fn config_or_default(caller_is_root: bool) -> Result<Config, Error> {
    match config() {
        Err(Error::Host(u7s_host::Error::Read { .. })) if !caller_is_root => Ok(Config::default()),
        other => other,
    }
}

/// The node's user, if the host knows it.
pub(super) fn user(config: &Config) -> Option<UserFact> {
    probe::user(&config.user)
}

/// The effective uid of this process.
pub(super) fn effective_uid() -> u32 {
    enter::effective_uid()
}

/// A document that the user named: a file, or a pipe of the calling shell (`--config <(…)`).
pub(super) fn document(path: &Path) -> Result<String, Error> {
    authored(path).map(|(text, _)| text)
}

/// As [`document`], with whose word it is.
pub(super) fn authored(path: &Path) -> Result<(String, Author), Error> {
    if !enter::is_own_descriptor(path) {
        return Ok(probe::authored(path)?);
    }
    let (bytes, author) = enter::read_argument(path)?;
    let text = String::from_utf8(bytes).map_err(|_| u7s_host::Error::NotText { path: path.to_owned() })?;
    Ok((text, author))
}

/// As [`document`], of a file that a document of this author names.
pub(super) fn document_of(path: &Path, author: Author, config: &Config) -> Result<String, Error> {
    match author {
        Author::Root => document(path),
        Author::Others => Ok(probe::document_of(path, author, &reader(config))?),
    }
}

/// As whom the names in somebody else's document are followed: the node's user, before there is one nobody.
pub(super) fn reader(config: &Config) -> UserFact {
    user(config).unwrap_or_else(|| UserFact { uid: NOBODY, gid: NOBODY, ..UserFact::default() })
}

/// kubeadm's own refusal of a caller who is not root.
///
/// Source: kubernetes, cmd/kubeadm/app/preflight/checks.go, `IsPrivilegedUserCheck`.
pub(super) fn not_privileged(command: &str) -> Error {
    need("IsPrivilegedUser", "user is not running as root", format!("sudo {command}"))
}

/// Makes sure that the real program is there, and is not this one (S9).
///
/// # Errors
/// `Missing`, `Recursion`.
pub(super) fn real(path: &Path) -> Result<&Path, Error> {
    use std::os::unix::fs::MetadataExt;
    let identity = |path: &Path| std::fs::metadata(path).map(|seen| (seen.dev(), seen.ino()));
    match (identity(path), identity(Path::new("/proc/self/exe"))) {
        (Err(_), _) => Err(Error::Missing { path: path.to_owned() }),
        (Ok(theirs), Ok(own)) if theirs == own => Err(Error::Recursion { path: path.to_owned() }),
        (Ok(_), _) => Ok(path),
    }
}

/// kubeadm inside uses the node's kubeconfigs: what they have that it would not write ends in other words, and late.
///
/// # Errors
/// `Unmet`, each with its file.
pub(super) fn sound_kubeconfigs() -> Result<(), Error> {
    let faults: Vec<Unmet> = probe::kubeconfigs().iter().map(kubeconfig::need).collect();
    if faults.is_empty() { Ok(()) } else { Err(Error::Unmet(faults)) }
}

/// One need that stops the run.
pub(super) fn need(id: &str, message: &str, remedy: String) -> Error {
    Error::Unmet(vec![Unmet { id: id.into(), message: message.into(), remedy, level: Level::Error }])
}

/// The node that runs.
///
/// # Errors
/// `Unmet` if none does; those of finding its pid 1.
pub(super) fn target(user: &UserFact) -> Result<Target, Error> {
    match Target::find(user) {
        Err(enter::Error::Control(control::Error::NotRunning { .. })) => Err(no_namespace()),
        found => Ok(found?),
    }
}

/// The node's namespaces do not run.
pub(super) fn no_namespace() -> Error {
    let remedy = "systemctl start u7s.service for a node that was made before, kubeadm init for a new one";
    need("Namespace", "the node's namespaces do not run", remedy.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s9_a_shim_in_place_of_the_real_program_is_not_called() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("kubeadm");
        assert!(matches!(real(&link), Err(Error::Missing { .. })));
        std::os::unix::fs::symlink(std::env::current_exe().unwrap(), &link).unwrap();
        assert!(matches!(real(&link), Err(Error::Recursion { .. })));
        assert!(real(Path::new("/bin/sh")).is_ok());
    }
}
