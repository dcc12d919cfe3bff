//! Removes whole trees, also those of a user who works against it.

use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, renameat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::{each_name, open_in, parent_of, unlink};
use crate::error::{Error, opening};

/// Removes all that a directory holds, and itself unless `keep_root`; a missing one is fine.
///
/// Whoever owns the files beneath may work against it at the same time: nothing outside the tree is touched, no link is
/// followed, no mount point entered. The depth of the tree is not bounded by descriptors or stack: what lies deep is
/// moved up and removed in a further round.
///
/// # Errors
/// `Link` or `NotDirectory` if the root is something else; `Remove`, with ETIMEDOUT after half an hour.
pub(crate) fn remove_tree(path: &Path, keep_root: bool) -> Result<(), Error> {
    let failed = |errno: Errno| Error::Remove { path: path.to_owned(), source: errno.into() };
    let Some((parent, name)) = parent_of(path)? else { return Ok(()) };
    let root = match open_in(&parent, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
        Ok(root) => root,
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(opening(path, errno)),
    };
    empty(&root).map_err(failed)?;
    if keep_root {
        return Ok(());
    }
    unlink(&parent, name, UnlinkatFlags::RemoveDir).map_err(failed)
}

/// Removes all that an open directory holds; see [`remove_tree`].
pub(super) fn empty(root: &OwnedFd) -> nix::Result<()> {
    let mut sweep = Sweep { root, raised: 0, until: Instant::now() + MAX_TIME };
    let mut rounds = 0;
    while sweep.round()? {
        rounds += 1;
        if rounds > MAX_ROUNDS {
            return Err(Errno::EBUSY);
        }
    }
    Ok(())
}

/// Directories deeper than this below the root are moved up to it.
const MAX_DEPTH: u32 = 64;

/// Rounds before a tree that keeps growing is given up: enough for `MAX_DEPTH * MAX_ROUNDS` levels.
const MAX_ROUNDS: u32 = 100_000;

/// How often a directory is read again because it still held something: who fills it meanwhile is not waited for.
const MAX_PASSES: u32 = 16;

/// How long all of it may take. A store of images of a million files takes minutes on a slow disk.
const MAX_TIME: Duration = Duration::from_secs(1800);

struct Sweep<'a> {
    root: &'a OwnedFd,
    raised: u64,
    until: Instant,
}

impl Sweep<'_> {
    /// Removes what it can reach; true if something was moved up and waits for the next round.
    fn round(&mut self) -> nix::Result<bool> {
        let raised = self.raised;
        self.empty(self.root, 0)?;
        Ok(self.raised != raised)
    }

    /// Names are taken from the directory one at a time: it may hold millions.
    ///
    /// What getdents(2) has passed over while entries went is found when it is read once more, until nothing is left.
    fn empty(&mut self, dir: &OwnedFd, depth: u32) -> nix::Result<()> {
        for _ in 0..MAX_PASSES {
            let mut seen = false;
            each_name(dir, &mut |name| {
                seen = true;
                if Instant::now() > self.until {
                    return Err(Errno::ETIMEDOUT);
                }
                self.remove(dir, name, depth).map(ControlFlow::Continue)
            })?;
            if !seen {
                break;
            }
        }
        Ok(())
    }

    fn remove(&mut self, dir: &OwnedFd, name: &OsStr, depth: u32) -> nix::Result<()> {
        match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EISDIR) => {}
            Err(errno) => return Err(errno),
        }
        if depth == MAX_DEPTH {
            return self.raise(dir, name);
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let how = OpenHow::new().flags(flags).resolve(
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV,
        );
        let inner = openat2(dir, name, how)?;
        self.empty(&inner, depth + 1)?;
        drop(inner);
        unlink(dir, name, UnlinkatFlags::RemoveDir)
    }

    /// Moves a deep directory to the root under a name that is free.
    fn raise(&mut self, dir: &OwnedFd, name: &OsStr) -> nix::Result<()> {
        self.raised += 1;
        let target = OsString::from(format!(".u7s-removed-{}-{}", std::process::id(), self.raised));
        renameat(dir, name, self.root, target.as_os_str())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::{Mode, mkdirat};

    use super::super::{list, open};
    use super::*;

    fn fifo(path: &Path) {
        nix::unistd::mkfifo(path, Mode::from_bits_truncate(0o600)).unwrap();
    }

    #[test]
    fn a_removed_tree_takes_nothing_with_it_that_its_links_point_to() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("precious"), "").unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        symlink(&outside, tree.join("a/link")).unwrap();
        fifo(&tree.join("a/b/pipe"));
        let planted = dir.path().join("planted");
        symlink(&outside, &planted).unwrap();
        assert!(remove_tree(&planted, false).is_err());
        remove_tree(&tree, true).unwrap();
        assert!(list(&tree).unwrap().is_empty());
        remove_tree(&tree, false).unwrap();
        remove_tree(&tree, false).unwrap();
        assert!(outside.join("precious").exists());
        assert!(!tree.exists());
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        let mut at = open(&tree, OFlag::O_RDONLY | OFlag::O_DIRECTORY).unwrap();
        for _ in 0..5000 {
            mkdirat(&at, "d", Mode::from_bits_truncate(0o700)).unwrap();
            at = open_in(&at, OsStr::new("d"), OFlag::O_RDONLY | OFlag::O_DIRECTORY).unwrap();
        }
        remove_tree(&tree, false).unwrap();
        assert!(!tree.exists());
    }
}
