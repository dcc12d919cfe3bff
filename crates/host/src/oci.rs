//! The machine's side of the OCI adapter: reads a bundle's config.json, finds out what this node may do, writes the
//! fitted document back.
//!
//! Runs inside the namespaces, as a child of conmon, for every container of a degraded node.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use u7s_plan::oci::{Change, NodeLimits, fit};

/// The largest config.json that is read, bytes. Real ones have some ten thousand.
pub const MAX_CONFIG: u64 = 4 << 20;

/// The process' own score; what it may be set to is found out by writing to it.
const SCORE: &str = "/proc/self/oom_score_adj";

/// Controllers of the node's root, as it is seen inside its cgroup namespace.
const CONTROLLERS: [&str; 2] =
    ["/sys/fs/cgroup/cgroup.controllers", "/sys/fs/cgroup/unified/cgroup.controllers"];

/// Why a bundle could not be fitted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// config.json, or a fact of the node, cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// It is larger than [`MAX_CONFIG`], or no regular file.
    #[error("{} is no file of at most {MAX_CONFIG} bytes", path.display())]
    Refused {
        /// Which file.
        path: PathBuf,
    },
    /// It is not JSON.
    #[error("{} is not JSON", path.display())]
    Json {
        /// Which file.
        path: PathBuf,
        /// Cause.
        source: serde_json::Error,
    },
    /// The fitted document cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
}

/// The bundle that a command line of an OCI runtime creates a container from; `None` for every other command.
///
/// `--bundle DIR`, `--bundle=DIR`, `-b DIR`, `-bDIR`; without any of them the current directory.
///
/// Source: crun(1), "create" and "run"; opencontainers/runtime-spec, runtime.md.
#[must_use]
pub fn bundle(argv: &[OsString]) -> Option<PathBuf> {
    let position = argv.iter().position(|arg| arg == "create" || arg == "run")?;
    let mut rest = argv.iter().skip(position + 1);
    let mut bundle = PathBuf::from(".");
    while let Some(arg) = rest.next() {
        let bytes = arg.as_bytes();
        let joined = bytes
            .strip_prefix(b"--bundle=")
            .or_else(|| bytes.strip_prefix(b"-b").filter(|dir| !dir.is_empty()));
        if arg == "--bundle" || arg == "-b" {
            bundle = rest.next().map(PathBuf::from)?;
        } else if let Some(directory) = joined {
            bundle = PathBuf::from(std::ffi::OsStr::from_bytes(directory));
        }
    }
    Some(bundle)
}

/// Fits the config.json of `bundle` to this node and says what was changed; an unchanged document is not rewritten.
///
/// # Errors
/// The document cannot be read, parsed or written, or the node's abilities cannot be found out.
pub fn fit_bundle(bundle: &Path) -> Result<Vec<Change>, Error> {
    fit_file(&bundle.join("config.json"), &limits()?)
}

fn fit_file(path: &Path, node: &NodeLimits) -> Result<Vec<Change>, Error> {
    let text = read(path)?;
    let config =
        serde_json::from_slice(&text).map_err(|source| Error::Json { path: path.to_owned(), source })?;
    let (fitted, changes) = fit(config, node);
    if !changes.is_empty() {
        replace(path, fitted.to_string().as_bytes())
            .map_err(|source| Error::Write { path: path.to_owned(), source })?;
    }
    Ok(changes)
}

/// What this node may do, asked of the kernel.
fn limits() -> Result<NodeLimits, Error> {
    let controllers = CONTROLLERS
        .iter()
        .find_map(|path| fs::read_to_string(path).ok())
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    Ok(NodeLimits { oom_score_adj: lowest_score(Path::new(SCORE))?, controllers })
}

/// The lowest oom score that may be written here.
///
/// The kernel keeps a floor with every process that it tells nobody: the value that a privileged writer set last. The
/// floor is at most the present score, so it is searched for between -1000 and that by trying, and the present score
/// is put back; only this short-lived process' own score moves meanwhile.
///
/// Source: proc_pid_oom_score_adj(5); fs/proc/base.c, `__set_oom_adj`, which compares with `oom_score_adj_min`.
fn lowest_score(path: &Path) -> Result<i64, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let present: i64 = fs::read_to_string(path).map_err(failed)?.trim().parse().unwrap_or(0);
    let may = |score: i64| {
        OpenOptions::new().write(true).open(path).and_then(|mut file| write!(file, "{score}")).is_ok()
    };
    let (mut refused, mut granted) = (-1001, present);
    while granted - refused > 1 {
        let middle = refused + (granted - refused) / 2;
        if may(middle) {
            granted = middle;
        } else {
            refused = middle;
        }
    }
    if granted != present && !may(present) {
        return Err(failed(io::Error::other("the present score cannot be put back")));
    }
    Ok(granted)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_NOFOLLOW).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    let seen = file.metadata().map_err(failed)?;
    if !seen.is_file() || seen.len() > MAX_CONFIG {
        return Err(Error::Refused { path: path.to_owned() });
    }
    let mut text = Vec::new();
    file.take(MAX_CONFIG).read_to_end(&mut text).map_err(failed)?;
    Ok(text)
}

/// Temporary sibling with the former owner and mode, then rename: crun never sees half a document.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let former = fs::symlink_metadata(path)?;
    let sibling = path.with_extension("json.u7s");
    match fs::remove_file(&sibling) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = write_as(&sibling, text, &former).and_then(|()| fs::rename(&sibling, path));
    if written.is_err() {
        // The error that is handed on matters more than a file that the bundle's removal takes along.
        let _ = fs::remove_file(&sibling);
    }
    written
}

fn write_as(path: &Path, text: &[u8], like: &fs::Metadata) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    fchown(&file, Some(like.uid()), Some(like.gid()))?;
    file.set_permissions(fs::Permissions::from_mode(like.mode() & 0o7777))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn only_the_commands_that_read_a_bundle_have_one() {
        let cases = [
            ("--root /r create --bundle /b --pid-file p id", Some("/b")),
            ("create --bundle=/b id", Some("/b")),
            ("create -b /b id", Some("/b")),
            ("create -b/b id", Some("/b")),
            ("run id", Some(".")),
            ("start id", None),
            ("delete --force id", None),
            ("--version", None),
            ("create --bundle", None),
        ];
        for (line, bundle_of) in cases {
            assert_eq!(bundle(&words(line)), bundle_of.map(PathBuf::from), "{line}");
        }
    }

    fn config(dir: &Path, document: &Value) -> PathBuf {
        let path = dir.join("config.json");
        fs::write(&path, document.to_string()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        path
    }

    #[test]
    fn a_changed_document_keeps_its_mode_and_leaves_no_sibling() {
        let dir = tempfile::tempdir().unwrap();
        let path = config(dir.path(), &json!({"process": {"oomScoreAdj": -998}}));
        let node = NodeLimits { oom_score_adj: 0, controllers: Vec::new() };
        let changes = fit_file(&path, &node).unwrap();
        assert_eq!(changes.len(), 1);
        assert_eq!(fs::read_to_string(&path).unwrap(), r#"{"process":{"oomScoreAdj":0}}"#);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_unchanged_document_is_not_rewritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = config(dir.path(), &json!({"process": {"oomScoreAdj": 5}}));
        let inode = fs::metadata(&path).unwrap().ino();
        let node = NodeLimits { oom_score_adj: 0, controllers: Vec::new() };
        assert!(fit_file(&path, &node).unwrap().is_empty());
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    }

    #[test]
    fn a_document_that_is_a_link_or_endless_or_no_json_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let node = NodeLimits { oom_score_adj: 0, controllers: Vec::new() };
        let path = dir.path().join("config.json");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(matches!(fit_file(&path, &node), Err(Error::Read { .. })));
        fs::remove_file(&path).unwrap();
        File::create(&path).unwrap().set_len(MAX_CONFIG + 1).unwrap();
        assert!(matches!(fit_file(&path, &node), Err(Error::Refused { .. })));
        fs::write(&path, "{").unwrap();
        assert!(matches!(fit_file(&path, &node), Err(Error::Json { .. })));
    }

    #[test]
    fn the_lowest_score_is_found_and_the_present_one_put_back() {
        let score = || fs::read_to_string(SCORE).unwrap();
        let before = score();
        let lowest = lowest_score(Path::new(SCORE)).unwrap();
        assert_eq!(score(), before);
        assert!((-1000..=before.trim().parse().unwrap()).contains(&lowest));
    }
}
