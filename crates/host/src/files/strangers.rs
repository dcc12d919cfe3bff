//! Removes from a directory what others than root put there, or may change, and leaves what is root's alone.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat};
use nix::unistd::{UnlinkatFlags, fchown, getegid, geteuid, unlinkat};
use u7s_sys::xattr;

use super::sweep::empty;
use super::{MOST_NAMES, is, names, open, open_in, parent_of, stat_in};
use crate::error::{Error, opening};

/// What was removed, and what could not be.
#[derive(Debug, Default)]
pub(crate) struct Cleared {
    /// How many entries are gone; a whole directory is one.
    pub(crate) removed: usize,
    /// What is left of others than root, and why.
    pub(crate) left: Vec<(PathBuf, Errno)>,
}

/// What may stay in a directory that is cleared.
pub(crate) struct Stays<'a> {
    /// Whether an entry may stay for its owner and mode.
    pub(crate) trusted: &'a dyn Fn(&FileStat) -> bool,
    /// Names in the directory itself that go, whoever owns them; a link of root's stays and is told.
    pub(crate) go: &'a [String],
    /// Names in the directory itself that are not looked at.
    pub(crate) keep: &'a [OsString],
}

/// Whether root alone can have made this entry, and can change it: no second name, no write by others.
pub(crate) fn roots_own(stat: &FileStat) -> bool {
    let writable = stat.st_mode & 0o002 != 0 || (stat.st_mode & 0o020 != 0 && stat.st_gid != 0);
    let shared = is(stat, SFlag::S_IFREG) && stat.st_nlink > 1;
    (stat.st_uid == 0 || stat.st_uid == root()) && (is(stat, SFlag::S_IFLNK) || (!writable && !shared))
}

/// uid that stands for root: this process' own.
fn root() -> u32 {
    geteuid().as_raw()
}

/// Clears the directory at `path`; a missing one is clear. No link is followed, no mount point entered.
///
/// A directory of others that holds what may stay becomes root's, without access lists.
///
/// # Errors
/// `Link`, `NotDirectory` if something else lies there; `Read`. What cannot be removed is in the result.
pub(crate) fn clear(path: &Path, stays: &Stays<'_>) -> Result<Cleared, Error> {
    let Some((parent, name)) = parent_of(path)? else { return Ok(Cleared::default()) };
    let root = match open_in(&parent, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
        Ok(root) => root,
        Err(Errno::ENOENT) => return Ok(Cleared::default()),
        Err(errno) => return Err(opening(path, errno)),
    };
    let device = fstat(&root).map_err(|errno| opening(path, errno))?.st_dev;
    let mut clearing = Clearing { stays, device, cleared: Cleared::default() };
    let cleared = clearing.all(&root, path, &mut |clearing, name, at| {
        if stays.keep.iter().any(|kept| kept == name) { Ok(()) } else { clearing.top(&root, name, at) }
    });
    cleared.map_err(|errno| opening(path, errno))?;
    Ok(clearing.cleared)
}

/// What in a directory is not trusted: path and owner, at most [`NAMED`]; of a whole tree its top alone.
///
/// Looks at no more than [`LOOKED_AT`] entries; what cannot be opened is passed over.
///
/// # Errors
/// `Link`, `NotDirectory`, `Read`: the directory itself.
pub(crate) fn others(path: &Path, trusted: &dyn Fn(&FileStat) -> bool) -> Result<Vec<(PathBuf, u32)>, Error> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(path, flags).map_err(|errno| opening(path, errno))?;
    let (mut found, mut left, mut waiting) = (Vec::new(), LOOKED_AT, vec![(root, path.to_owned())]);
    while let Some((dir, at)) = waiting.pop() {
        for name in names(&dir).unwrap_or_default() {
            left -= 1;
            if left == 0 || found.len() == NAMED {
                return Ok(found);
            }
            let Ok(Some(stat)) = stat_in(&dir, &name) else { continue };
            if !trusted(&stat) {
                found.push((at.join(&name), stat.st_uid));
            } else if is(&stat, SFlag::S_IFDIR)
                && waiting.len() < WAITING
                && let Ok(inner) = open_in(&dir, &name, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
            {
                waiting.push((inner, at.join(&name)));
            }
        }
    }
    Ok(found)
}

/// How many of those that are not trusted are named.
const NAMED: usize = 5;

/// How many entries are looked at.
const LOOKED_AT: usize = 10_000;

/// How many directories are open at a time.
const WAITING: usize = 200;

/// Takes away what could give others rights to a directory beside its mode.
///
/// Source: acl(5); linux, fs/posix_acl.c.
pub(crate) fn without_access_lists(dir: &OwnedFd) -> nix::Result<()> {
    for name in [c"system.posix_acl_access", c"system.posix_acl_default"] {
        xattr::remove(dir.as_fd(), name).map_err(|error| error.errno().unwrap_or(Errno::EIO))?;
    }
    Ok(())
}

/// Directories deeper than this go with all they hold.
const MAX_DEPTH: u32 = 32;

struct Clearing<'a> {
    stays: &'a Stays<'a>,
    device: u64,
    cleared: Cleared,
}

impl Clearing<'_> {
    /// Does something with every name of a directory: a part of them at a time, as long as some go.
    fn all(
        &mut self,
        dir: &OwnedFd,
        at: &Path,
        each: &mut dyn FnMut(&mut Self, &OsStr, &Path) -> nix::Result<()>,
    ) -> nix::Result<()> {
        loop {
            let (names, removed) = (names(dir)?, self.cleared.removed);
            let left = self.cleared.left.len();
            for name in &names {
                let at = at.join(name);
                if let Err(errno) = each(self, name, &at) {
                    self.cleared.left.push((at, errno));
                }
            }
            if names.len() < MOST_NAMES {
                return Ok(());
            }
            if removed == self.cleared.removed {
                return Err(Errno::E2BIG);
            }
            // They are met again.
            self.cleared.left.truncate(left);
        }
    }

    fn top(&mut self, dir: &OwnedFd, name: &OsStr, at: &Path) -> nix::Result<()> {
        let Some(stat) = stat_in(dir, name)? else { return Ok(()) };
        let goes = self.stays.go.iter().any(|goes| name == OsStr::new(goes));
        if !goes {
            return self.entry((dir, name), &stat, at, 0);
        }
        if is(&stat, SFlag::S_IFLNK) && (self.stays.trusted)(&stat) {
            return Err(Errno::ELOOP);
        }
        self.remove(dir, name, &stat)
    }

    fn entry(
        &mut self,
        (dir, name): (&OwnedFd, &OsStr),
        stat: &FileStat,
        at: &Path,
        depth: u32,
    ) -> nix::Result<()> {
        let trusted = (self.stays.trusted)(stat);
        if !is(stat, SFlag::S_IFDIR) {
            return if trusted { Ok(()) } else { self.remove(dir, name, stat) };
        }
        if stat.st_dev != self.device {
            // Somebody else's file system: what root mounted stays.
            return if trusted { Ok(()) } else { Err(Errno::EXDEV) };
        }
        if depth >= MAX_DEPTH {
            return if trusted { Err(Errno::ENAMETOOLONG) } else { self.remove(dir, name, stat) };
        }
        let inner = open_in(dir, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        self.all(&inner, at, &mut |clearing, name, at| match stat_in(&inner, name)? {
            Some(stat) => clearing.entry((&inner, name), &stat, at, depth + 1),
            None => Ok(()),
        })?;
        if trusted {
            return Ok(());
        }
        match unlinkat(dir, name, UnlinkatFlags::RemoveDir) {
            Ok(()) => self.cleared.removed += 1,
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {
                fchown(&inner, Some(geteuid()), Some(getegid()))?;
                fchmod(&inner, Mode::from_bits_truncate(stat.st_mode & 0o755))?;
                without_access_lists(&inner)?;
            }
            Err(errno) => return Err(errno),
        }
        Ok(())
    }

    fn remove(&mut self, dir: &OwnedFd, name: &OsStr, stat: &FileStat) -> nix::Result<()> {
        if is(stat, SFlag::S_IFDIR) {
            empty(&open_in(dir, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?)?;
            unlinkat(dir, name, UnlinkatFlags::RemoveDir)?;
        } else {
            unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)?;
        }
        self.cleared.removed += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Stands for the owner: a test without root has one uid.
    fn executable(stat: &FileStat) -> bool {
        stat.st_mode & 0o100 == 0 || is(stat, SFlag::S_IFDIR)
    }

    #[test]
    fn what_is_not_trusted_goes_at_every_depth_and_its_links_are_not_followed() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("deep/er")).unwrap();
        for (name, mode) in
            [("stays", 0o600), ("goes", 0o700), ("deep/er/stays", 0o600), ("deep/er/goes", 0o700)]
        {
            std::fs::write(root.join(name), "").unwrap();
            std::fs::set_permissions(root.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        symlink(&outside, root.join("link")).unwrap();
        let go = ["link".to_owned(), "gone".to_owned()];
        let trusted = |stat: &FileStat| executable(stat) && !is(stat, SFlag::S_IFLNK);
        let cleared = clear(&root, &Stays { trusted: &trusted, go: &go, keep: &[] }).unwrap();
        assert_eq!((cleared.removed, cleared.left.len()), (3, 0), "{cleared:?}");
        assert!(root.join("stays").exists() && root.join("deep/er/stays").exists() && outside.exists());
        assert!(!root.join("goes").exists() && !root.join("deep/er/goes").exists());
        assert!(!root.join("link").is_symlink());
    }

    #[test]
    fn what_is_not_trusted_is_named_by_its_top_five_at_most() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("deep/er")).unwrap();
        std::fs::write(dir.path().join("deep/er/odd"), "x").unwrap();
        let empty = |stat: &FileStat| stat.st_size == 0 || is(stat, SFlag::S_IFDIR);
        let found = others(dir.path(), &empty).unwrap();
        assert_eq!(found, [(dir.path().join("deep/er/odd"), root())]);
        for number in 0..9 {
            std::fs::write(dir.path().join(number.to_string()), "x").unwrap();
        }
        assert_eq!(others(dir.path(), &empty).unwrap().len(), 5);
        assert!(others(&dir.path().join("none"), &empty).is_err());
    }

    #[test]
    fn a_trusted_link_in_the_place_of_what_goes_stays_and_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir(&root).unwrap();
        symlink("/etc", root.join("pki")).unwrap();
        let stays = Stays { trusted: &|_| true, go: &["pki".to_owned()], keep: &[] };
        let cleared = clear(&root, &stays).unwrap();
        assert_eq!(cleared.left, [(root.join("pki"), Errno::ELOOP)]);
        assert!(root.join("pki").is_symlink());
    }

    #[test]
    fn a_second_name_or_a_right_to_write_makes_a_file_of_root_not_its_own() {
        let stat = |kind: SFlag, uid, mode, links| {
            let mut stat = nix::sys::stat::stat("/").unwrap();
            (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_nlink) =
                (kind.bits() | mode, root() + uid, 7, links);
            stat
        };
        assert!(roots_own(&stat(SFlag::S_IFREG, 0, 0o644, 1)));
        assert!(roots_own(&stat(SFlag::S_IFDIR, 0, 0o755, 5)));
        assert!(roots_own(&stat(SFlag::S_IFLNK, 0, 0o777, 1)));
        for (kind, uid, mode, links) in [
            (SFlag::S_IFREG, 996, 0o600, 1),
            (SFlag::S_IFREG, 0, 0o644, 2),
            (SFlag::S_IFREG, 0, 0o664, 1),
            (SFlag::S_IFREG, 0, 0o602, 1),
            (SFlag::S_IFDIR, 0, 0o777, 2),
            (SFlag::S_IFLNK, 996, 0o777, 1),
        ] {
            assert!(!roots_own(&stat(kind, uid, mode, links)), "{uid} {mode:o} {links}");
        }
    }
}
