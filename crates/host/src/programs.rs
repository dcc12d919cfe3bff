//! Programs that root starts: from a fixed search path, owned by root, writable by root alone.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Root's fixed search path. The caller's `PATH` plays no role: it leads to our own shims first.
pub(crate) const SEARCHED: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// A program that root may start, as found: some programs look at the name they are called by.
    At(PathBuf),
    /// One that it may not, and why.
    Refused(String),
    /// Nothing.
    Missing,
}

/// Looks for `name` in [`SEARCHED`].
pub(crate) fn find(name: &str) -> Found {
    find_in(name, SEARCHED.split(':').map(Path::new), 0)
}

/// As [`find`], for a program that is needed.
///
/// # Errors
/// `NoProgram`.
pub(crate) fn needed(name: &str) -> Result<PathBuf, Error> {
    let reason = match find(name) {
        Found::At(path) => return Ok(path),
        Found::Refused(reason) => format!(": {reason}"),
        Found::Missing => String::new(),
    };
    Err(Error::NoProgram { program: name.to_owned(), searched: SEARCHED, reason })
}

fn find_in<'a>(name: &str, dirs: impl Iterator<Item = &'a Path>, owner: u32) -> Found {
    let mut found = Found::Missing;
    for candidate in dirs.map(|dir| dir.join(name)).filter(|path| path.is_file()) {
        match safe(&candidate, owner) {
            Ok(()) => return Found::At(candidate),
            Err(reason) => found = Found::Refused(reason),
        }
    }
    found
}

/// Whether nobody but `owner` can change what runs under this path: the file, the directories above it, and those of
/// the place that a link leads to.
fn safe(path: &Path, owner: u32) -> Result<(), String> {
    let real = fs::canonicalize(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let file = fs::metadata(&real).map_err(|error| format!("{}: {error}", real.display()))?;
    if file.mode() & 0o111 == 0 {
        return Err(format!("{} is not executable", path.display()));
    }
    for part in real.ancestors().chain(path.ancestors().skip(1)) {
        let seen = fs::metadata(part).map_err(|error| format!("{}: {error}", part.display()))?;
        if seen.uid() != owner && seen.uid() != 0 {
            return Err(format!("{} belongs to uid {}, not to root", part.display(), seen.uid()));
        }
        let sticky = seen.is_dir() && seen.mode() & 0o1000 != 0;
        if seen.mode() & 0o022 != 0 && !sticky {
            return Err(format!("{} may be written by others than root", part.display()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn program(path: &Path, mode: u32) {
        fs::write(path, "").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn look(name: &str, dir: &Path) -> Found {
        find_in(name, [dir].into_iter(), nix::unistd::geteuid().as_raw())
    }

    #[test]
    fn a_program_that_others_may_write_is_refused_with_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        program(&dir.path().join("good"), 0o755);
        program(&dir.path().join("loose"), 0o775);
        program(&dir.path().join("text"), 0o644);
        assert_eq!(look("good", dir.path()), Found::At(dir.path().join("good")));
        let refused = |name: &str| match look(name, dir.path()) {
            Found::Refused(reason) => reason,
            other => format!("{other:?}"),
        };
        assert!(refused("loose").ends_with("loose may be written by others than root"));
        assert!(refused("text").ends_with("text is not executable"));
        assert_eq!(look("none", dir.path()), Found::Missing);
    }

    #[test]
    fn a_link_into_a_directory_that_others_may_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        program(&open.join("target"), 0o755);
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        symlink(open.join("target"), dir.path().join("link")).unwrap();
        assert!(matches!(look("link", dir.path()), Found::Refused(_)));
    }

    #[test]
    fn a_program_that_is_needed_and_missing_is_named_with_the_search_path() {
        let error = needed("no-such-program").unwrap_err().to_string();
        assert_eq!(error, format!("no-such-program was not found in {SEARCHED}"));
    }
}
