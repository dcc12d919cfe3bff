//! The cache: one directory per recipe and key, built once and atomically.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use nix::fcntl::{Flock, FlockArg};

use crate::run::Log;
use crate::{Error, Say, hash};

/// Part of every key: a change of how things are built rebuilds them.
const BUILDER: &str = "u7s-kit 1";

/// `$XDG_CACHE_HOME/u7s`, by default `~/.cache/u7s`.
///
/// # Errors
/// [`Error::Missing`]: neither `XDG_CACHE_HOME` nor `HOME` is set.
pub fn cache_dir() -> Result<PathBuf, Error> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_CACHE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .map(|dir| dir.join("u7s"))
        .ok_or_else(|| Error::Missing {
            what: "a cache directory".into(),
            remedy: "set HOME or XDG_CACHE_HOME".into(),
        })
}

/// The kit's part of the cache.
pub(crate) struct Store<'a> {
    root: PathBuf,
    say: Say<'a>,
}

/// One build: the directory to fill, and its log.
pub(crate) struct Job<'a> {
    pub(crate) dir: PathBuf,
    pub(crate) log: Log<'a>,
}

impl<'a> Store<'a> {
    pub(crate) fn open(say: Say<'a>) -> Result<Self, Error> {
        let root = cache_dir()?.join("kit");
        fs::create_dir_all(&root).map_err(Error::file("making", &root))?;
        Ok(Self { root, say })
    }

    /// Gives the directory of a recipe, after `build` has filled it if it was not there.
    ///
    /// `inputs` is everything that decides the result.
    /// `build` works in a sibling that is renamed when it returns `Ok` and removed when it does not.
    pub(crate) fn entry(
        &self,
        name: &str,
        inputs: &[&[u8]],
        build: impl FnOnce(&Job<'_>) -> Result<(), Error>,
    ) -> Result<PathBuf, Error> {
        let place = self.root.join(format!("{name}-{}", key(name, inputs)));
        if place.exists() {
            return Ok(place);
        }
        let _lock = self.lock(name)?;
        if !place.exists() {
            self.build(name, &place, build)?;
        }
        Ok(place)
    }

    fn build(
        &self,
        name: &str,
        place: &Path,
        build: impl FnOnce(&Job<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let dir = place.with_extension("part");
        if dir.exists() {
            fs::remove_dir_all(&dir).map_err(Error::file("removing", &dir))?;
        }
        fs::create_dir_all(&dir).map_err(Error::file("making", &dir))?;
        let log = Log::create(place.with_extension("log"), self.say)?;
        let start = Instant::now();
        let job = Job { dir: dir.clone(), log };
        if let Err(error) = build(&job) {
            let _ = fs::remove_dir_all(&dir);
            return Err(error);
        }
        fs::rename(&dir, place).map_err(Error::file("renaming", &dir))?;
        (self.say)(&format!("kit: {name} is ready after {} s", start.elapsed().as_secs()));
        self.drop_old(name, place);
        Ok(())
    }

    /// One builder at a time for each recipe; the lock goes with the value, also when its process dies.
    fn lock(&self, name: &str) -> Result<Flock<File>, Error> {
        let path = self.root.join(format!("{name}.lock"));
        let open = || OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = open().map_err(Error::file("opening", &path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(lock),
            Err((file, _)) => {
                (self.say)(&format!("kit: waiting for another run that builds {name}"));
                Flock::lock(file, FlockArg::LockExclusive)
                    .map_err(|(_, errno)| Error::file("locking", &path)(errno.into()))
            }
        }
    }

    /// Keeps the two newest results of a recipe: another branch of the project may use the older one.
    /// Halves that a killed run left go at once; the caller holds the recipe's lock.
    ///
    /// Tolerant, because a full cache is a smaller evil than a failed test run.
    fn drop_old(&self, name: &str, newest: &Path) {
        let Ok(entries) = fs::read_dir(&self.root) else { return };
        let is_ours = |path: &PathBuf| path != newest && path.is_dir() && recipe_of(path) == Some(name);
        let age = |path: &PathBuf| {
            fs::metadata(path).and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
        };
        let mut old: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_ours).collect();
        let is_half = |path: &PathBuf| path.extension().is_some();
        old.sort_by_key(|path| (is_half(path), age(path)));
        if let Some(keep) = old.iter().rposition(|path| !is_half(path)) {
            old.remove(keep);
        }
        for path in old {
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// The key of a finished entry: what stands behind the last dash of its name.
pub(crate) fn key_of(entry: &Path) -> String {
    let name = entry.file_name().unwrap_or_default().to_string_lossy();
    name.rsplit('-').next().unwrap_or_default().to_string()
}

fn recipe_of(entry: &Path) -> Option<&str> {
    entry.file_name()?.to_str()?.rsplit_once('-').map(|(name, _)| name)
}

fn key(name: &str, inputs: &[&[u8]]) -> String {
    let mut all = format!("{BUILDER}\n{name}\n").into_bytes();
    for input in inputs {
        all.extend_from_slice(hash::sha256(input).as_bytes());
    }
    hash::sha256(&all)[..16].to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(root: &Path) -> Store<'_> {
        Store { root: root.to_path_buf(), say: &|_| () }
    }

    #[test]
    fn an_entry_is_built_once() {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        let make = |job: &Job<'_>| fs::write(job.dir.join("x"), "1").map_err(Error::file("writing", "x"));
        let first = store.entry("thing", &[b"a"], make).unwrap();
        let again =
            store.entry("thing", &[b"a"], |_| Err(Error::Missing { what: "no".into(), remedy: "no".into() }));
        assert_eq!(first, again.unwrap());
        assert_ne!(first, store.entry("thing", &[b"b"], make).unwrap());
    }

    #[test]
    fn a_failed_build_leaves_no_entry() {
        let root = tempfile::tempdir().unwrap();
        let failing = |_: &Job<'_>| Err(Error::Missing { what: "x".into(), remedy: "y".into() });
        assert!(store(root.path()).entry("thing", &[], failing).is_err());
        let left: Vec<_> =
            fs::read_dir(root.path()).unwrap().flatten().filter(|e| e.path().is_dir()).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn a_half_of_a_killed_run_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        store.entry("thing", &[b"a"], |_| Ok(())).unwrap();
        fs::create_dir(root.path().join("thing-0123.part")).unwrap();
        store.entry("thing", &[b"b"], |_| Ok(())).unwrap();
        let dirs: Vec<_> =
            fs::read_dir(root.path()).unwrap().flatten().filter(|e| e.path().is_dir()).collect();
        assert_eq!(dirs.len(), 2, "{dirs:?}");
        assert!(!root.path().join("thing-0123.part").exists());
    }

    #[test]
    fn only_two_results_of_a_recipe_are_kept() {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        for input in [b"a", b"b", b"c"] {
            store.entry("thing", &[input], |_| Ok(())).unwrap();
        }
        let dirs = fs::read_dir(root.path()).unwrap().flatten().filter(|e| e.path().is_dir()).count();
        assert_eq!(dirs, 2);
    }
}
