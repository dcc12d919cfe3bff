//! Directories that the node could write: what root finds in them when the node is gone, and gives back.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use u7s_plan::host;

use super::{Applier, Ended, own};
use crate::error::{Error, opening};
use crate::files::{self, Cleared, Rights, Stays};
use crate::undo::FormerRights;

/// A directory of root's.
fn roots(mode: u32) -> Rights {
    let (uid, gid) = own();
    Rights { uid, gid, mode }
}

impl Applier<'_> {
    pub(super) fn clear_dir(&mut self, path: &Path, names: &[String]) -> Result<Ended, Error> {
        let Some(seen) = files::directory(path)? else { return Ok(Ended::Held) };
        let cleared = self.clear(path, seen, names)?;
        // Nobody wrote down whose it was: an init made it fit that did not live to say so.
        let known = self.undo.former().directories.contains_key(path);
        let node = self.ids().is_some_and(|ids| ids.contains(seen.uid));
        if path == Path::new(host::KUBERNETES_DIR) && node && !known {
            self.undo.directory(path, Some(roots(0o755)))?;
        }
        told(cleared)
    }

    /// A directory of root's own loses only what the node's ids own.
    fn clear(&self, path: &Path, seen: Rights, names: &[String]) -> Result<Cleared, Error> {
        let former = self.undo.former().directories.get(path).copied().flatten().map(|former| former.uid);
        let ids = self.ids();
        let nodes = |uid| ids.as_ref().is_some_and(|ids| ids.contains(uid));
        let keep = self.kept(path);
        if seen.uid == own().0 || (!nodes(seen.uid) && former.is_none()) {
            return files::clear(path, &Stays { trusted: &|stat| !nodes(stat.st_uid), go: &[], keep: &keep });
        }
        let trusted = |stat: &nix::sys::stat::FileStat| {
            files::roots_own(stat) || former.is_some_and(|uid| uid == stat.st_uid && uid != 0 && !nodes(uid))
        };
        files::clear(path, &Stays { trusted: &trusted, go: names, keep: &keep })
    }

    /// A kubeconfig of before init was put back just now.
    fn kept(&self, path: &Path) -> Vec<OsString> {
        let back = matches!(files::stat(&path.join(".kube/config")), Ok(Some(_)));
        let home = self.user().is_ok_and(|user| user.home == path);
        if home && back { vec![".kube".into()] } else { Vec::new() }
    }

    /// Gives a directory back: clear, with the owner and mode of before, or gone if it was not there.
    ///
    /// One that cannot be cleared is put aside: root's rootful kubelet would run a static pod in it.
    pub(super) fn give_back(&mut self, path: &Path, former: Option<FormerRights>) -> Result<(), Error> {
        let Some(seen) = files::directory(path)? else { return told_again(path) };
        let cleared = self.clear(path, seen, &[])?;
        if !cleared.left.is_empty() && seen.uid != own().0 {
            let aside = put_aside(path)?;
            return Err(Error::Several {
                errors: std::iter::once(Error::Aside { path: path.to_owned(), aside })
                    .chain(cleared.left.into_iter().map(|(path, errno)| left(path, errno)))
                    .collect(),
            });
        }
        if former.is_none() && files::remove_dir(path)? {
            return told_again(path);
        }
        let rights = former.map_or_else(|| roots(0o755), Rights::from);
        // What was not there before and is root's by now has whatever mode root gave it.
        if former.is_some() || seen.uid != own().0 {
            files::make_dir(path, rights)?;
            let dir = files::open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
                .map_err(|errno| opening(path, errno))?;
            files::without_access_lists(&dir)
                .map_err(|errno| Error::Write { path: path.to_owned(), source: errno.into() })?;
        }
        told_again(path)
    }
}

/// Until somebody has looked at what was put aside, the host is not as it was.
fn told_again(path: &Path) -> Result<(), Error> {
    let aside = aside(path, 0);
    match files::stat(&aside)? {
        Some(_) => Err(Error::Aside { path: path.to_owned(), aside }),
        None => Ok(()),
    }
}

/// What could not be removed, as errors.
fn told(cleared: Cleared) -> Result<Ended, Error> {
    let mut errors: Vec<Error> = cleared.left.into_iter().map(|(path, errno)| left(path, errno)).collect();
    match errors.pop() {
        None => Ok(if cleared.removed == 0 { Ended::Held } else { Ended::Done }),
        Some(only) if errors.is_empty() => Err(only),
        Some(last) => {
            errors.push(last);
            Err(Error::Several { errors })
        }
    }
}

fn left(path: PathBuf, errno: Errno) -> Error {
    let reason = match errno {
        Errno::ELOOP => "it is a symbolic link of root's in the place of a directory; if it may go, rm it",
        Errno::EXDEV | Errno::EBUSY => "something is mounted there; umount it",
        Errno::EPERM => "it is immutable; chattr -R -i -a it",
        Errno::EROFS => "it is read-only; remount it, or of a btrfs snapshot: btrfs property set it ro false",
        _ => return Error::Remove { path, source: errno.into() },
    };
    Error::LeftBehind { path, reason }
}

/// `/etc/kubernetes.u7s-left`, then `/etc/kubernetes.u7s-left-1`.
fn aside(path: &Path, number: u32) -> PathBuf {
    let mut name = path.file_name().unwrap_or_else(|| OsStr::new("directory")).to_owned();
    name.push(".u7s-left");
    if number > 0 {
        name.push(format!("-{number}"));
    }
    path.with_file_name(name)
}

/// Closed first, so that nothing of it can be used even where it cannot be renamed: where it is a mount point.
fn put_aside(path: &Path) -> Result<PathBuf, Error> {
    files::make_dir(path, roots(0o700))?;
    let free = |path: &PathBuf| matches!(files::stat(path), Ok(None));
    let target = (0..100).map(|number| aside(path, number)).find(free);
    let target = target.unwrap_or_else(|| aside(path, 0));
    match std::fs::rename(path, &target) {
        Ok(()) => Ok(target),
        Err(source) => Err(Error::Write { path: target, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_put_aside_beside_itself() {
        assert_eq!(aside(Path::new("/etc/kubernetes"), 0), Path::new("/etc/kubernetes.u7s-left"));
        assert_eq!(aside(Path::new("/etc/kubernetes"), 2), Path::new("/etc/kubernetes.u7s-left-2"));
    }

    #[test]
    fn what_keeps_a_file_from_being_removed_has_a_remedy() {
        for (errno, word) in [
            (Errno::ELOOP, "rm it"),
            (Errno::EXDEV, "umount"),
            (Errno::EPERM, "chattr"),
            (Errno::EROFS, "ro false"),
        ] {
            assert!(left("/x".into(), errno).to_string().contains(word));
        }
    }
}
