//! Files as root touches them: bounded, never through a symbolic link, replaced by rename.
//!
//! Each function opens every component of an absolute path anew with `RESOLVE_NO_SYMLINKS`, then works on descriptors.
//! The same functions run in a child that dropped to the node's user; there `owner` is that user.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};

use crate::error::{Error, opening};

mod named;
mod strangers;
mod sweep;

pub use named::{Author, is_own_descriptor};
pub(crate) use named::{author, open_told, proc_path, read_told, refused};
pub(crate) use strangers::{Cleared, Stays, clear, others, roots_own, without_access_lists};
pub(crate) use sweep::remove_tree;

/// What most files that we read may hold at most, bytes.
pub(crate) const LIMIT: u64 = 1 << 20;

/// Owner and permission bits of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rights {
    /// Host uid.
    pub(crate) uid: u32,
    /// Host gid.
    pub(crate) gid: u32,
    /// Permission bits, 0o7777.
    pub(crate) mode: u32,
}

impl Rights {
    fn of(stat: &FileStat) -> Self {
        Self { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777 }
    }
}

/// A regular file with its whole content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Whole {
    /// Owner and mode.
    pub(crate) rights: Rights,
    /// All bytes.
    pub(crate) bytes: Vec<u8>,
}

/// Reads a regular file of at most `limit` bytes; `None` if it or one of its parents does not exist.
///
/// Never blocks on a FIFO or a device, never follows a link.
///
/// # Errors
/// `Link`, `NotRegular`, `TooLarge`, `NotDirectory` for a parent, `Read` for the rest.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Option<Whole>, Error> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    match open(path, flags) {
        Ok(fd) => whole(path, File::from(fd), limit).map(Some),
        Err(Errno::ENOENT) => Ok(None),
        // A socket.
        Err(Errno::ENXIO) => Err(Error::NotRegular { path: path.to_owned() }),
        Err(errno) => Err(opening(path, errno)),
    }
}

/// As [`read`], following links: for facts of the machine, whose content goes nowhere. What root was told of by name: [`read_told`].
///
/// # Errors
/// As [`read`]; a missing file is an error too.
pub(crate) fn read_named(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let file = File::options()
        .read(true)
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open(path)
        .map_err(|source| Error::Read { path: path.to_owned(), source })?;
    whole(path, file, limit).map(|file| file.bytes)
}

/// As [`read`], as text.
///
/// # Errors
/// As [`read`], and `NotText`.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<Option<String>, Error> {
    let Some(file) = read(path, limit)? else { return Ok(None) };
    String::from_utf8(file.bytes).map(Some).map_err(|_| Error::NotText { path: path.to_owned() })
}

fn whole(path: &Path, file: File, limit: u64) -> Result<Whole, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let stat = fstat(&file).map_err(|errno| failed(errno.into()))?;
    if !is(&stat, SFlag::S_IFREG) {
        return Err(Error::NotRegular { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that grows from one that fits.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).map_or(true, |len| len > limit) {
        return Err(Error::TooLarge { path: path.to_owned(), limit });
    }
    Ok(Whole { rights: Rights::of(&stat), bytes })
}

/// What lies at `path`, itself not followed; `None` if it or a parent does not exist.
///
/// # Errors
/// `Link` where a parent is a link; `Read`.
pub(crate) fn stat(path: &Path) -> Result<Option<FileStat>, Error> {
    let (parent, name) = split(path)?;
    let dir = match open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC) {
        Ok(dir) => dir,
        Err(Errno::ENOENT) => return Ok(None),
        Err(errno) => return Err(opening(path, errno)),
    };
    stat_in(&dir, name).map_err(|errno| opening(path, errno))
}

/// Owner and mode of the directory at `path`; `None` if there is nothing.
///
/// # Errors
/// `Link` or `NotDirectory` if something else lies there.
pub(crate) fn directory(path: &Path) -> Result<Option<Rights>, Error> {
    if path == Path::new("/") {
        return Ok(Some(Rights { uid: 0, gid: 0, mode: 0o755 }));
    }
    match stat(path)? {
        None => Ok(None),
        Some(stat) if is(&stat, SFlag::S_IFDIR) => Ok(Some(Rights::of(&stat))),
        Some(stat) if is(&stat, SFlag::S_IFLNK) => Err(Error::Link { path: path.to_owned() }),
        Some(_) => Err(Error::NotDirectory { path: path.to_owned() }),
    }
}

/// Replaces the file at `path` by `bytes`: temporary sibling, fsync, rename, fsync of the directory.
///
/// Should: another process sees the old text or the new one, whole.
/// Must not: replace anything but a regular file, or follow a link.
///
/// # Errors
/// `Link`, `NotRegular`, `Write`.
pub(crate) fn replace(path: &Path, bytes: &[u8], rights: Rights) -> Result<(), Error> {
    let failed = |errno: Errno| Error::Write { path: path.to_owned(), source: errno.into() };
    let (parent, name) = split(path)?;
    let dir =
        open(parent, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).map_err(
            |errno| match errno {
                Errno::ELOOP => Error::Link { path: path.to_owned() },
                other => failed(other),
            },
        )?;
    match stat_in(&dir, name).map_err(failed)? {
        Some(stat) if is(&stat, SFlag::S_IFLNK) => return Err(Error::Link { path: path.to_owned() }),
        Some(stat) if !is(&stat, SFlag::S_IFREG) => return Err(Error::NotRegular { path: path.to_owned() }),
        _ => {}
    }
    let sibling = sibling(name);
    let fresh = fresh_file(&dir, &sibling).map_err(failed)?;
    let filled = fill(fresh, bytes, rights).and_then(|()| {
        renameat(&dir, sibling.as_os_str(), &dir, name)?;
        Ok(nix::unistd::fsync(&dir)?)
    });
    filled.map_err(|source| {
        let _ = unlinkat(&dir, sibling.as_os_str(), UnlinkatFlags::NoRemoveDir);
        Error::Write { path: path.to_owned(), source }
    })
}

/// A run that was killed may have left a sibling: it is nobody's file, so it goes.
fn fresh_file(dir: &OwnedFd, name: &OsStr) -> nix::Result<OwnedFd> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno),
    }
    let how = OpenHow::new()
        .flags(OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .mode(Mode::from_bits_truncate(0o600))
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(dir, name, how)
}

fn fill(fd: OwnedFd, bytes: &[u8], rights: Rights) -> std::io::Result<()> {
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    fit(&file, rights)?;
    file.sync_all()
}

/// Owner first: the kernel takes set-id bits away with it.
fn fit<Fd: std::os::fd::AsFd>(fd: Fd, rights: Rights) -> nix::Result<()> {
    fchown(&fd, Some(Uid::from_raw(rights.uid)), Some(Gid::from_raw(rights.gid)))?;
    fchmod(&fd, Mode::from_bits_truncate(rights.mode))
}

/// Makes one directory whose parent exists, or fits owner and mode of the existing one.
///
/// # Errors
/// `Link`, `NotDirectory`, `Write`.
pub(crate) fn make_dir(path: &Path, rights: Rights) -> Result<(), Error> {
    let failed = |errno: Errno| Error::Write { path: path.to_owned(), source: errno.into() };
    let (parent, name) = split(path)?;
    let dir = open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .map_err(|errno| opening(path, errno))?;
    match mkdirat(&dir, name, Mode::from_bits_truncate(0o700)) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let made =
        open_in(&dir, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(|errno| opening(path, errno))?;
    fit(&made, rights).map_err(failed)
}

/// Removes a file that is no directory, and a sibling that a killed run may have left; missing ones are fine.
///
/// # Errors
/// `Remove`.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    let Some((dir, name)) = parent_of(path)? else { return Ok(()) };
    for name in [name.to_owned(), sibling(name)] {
        unlink(&dir, &name, UnlinkatFlags::NoRemoveDir)
            .map_err(|errno| Error::Remove { path: path.to_owned(), source: errno.into() })?;
    }
    Ok(())
}

/// Brings the names in the directory at `path` to disk: from now on a power cut leaves them as they are.
///
/// # Errors
/// `Link`, `NotDirectory`, `Write`.
pub(crate) fn settle(path: &Path) -> Result<(), Error> {
    let dir = open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .map_err(|errno| opening(path, errno))?;
    nix::unistd::fsync(&dir).map_err(|errno| Error::Write { path: path.to_owned(), source: errno.into() })
}

/// Whether there is anything for [`remove`]: the file itself, or a sibling that a killed run left.
///
/// # Errors
/// As [`stat`].
pub(crate) fn left(path: &Path) -> Result<bool, Error> {
    let (parent, name) = split(path)?;
    Ok(stat(path)?.is_some() || stat(&parent.join(sibling(name)))?.is_some())
}

/// Removes a directory if it is empty; says whether it is gone.
///
/// # Errors
/// `Remove`.
pub(crate) fn remove_dir(path: &Path) -> Result<bool, Error> {
    let Some((dir, name)) = parent_of(path)? else { return Ok(true) };
    match unlink(&dir, name, UnlinkatFlags::RemoveDir) {
        Ok(()) => Ok(true),
        Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::EBUSY | Errno::ENOTDIR) => Ok(false),
        Err(errno) => Err(Error::Remove { path: path.to_owned(), source: errno.into() }),
    }
}

/// The most names of one directory that are kept in memory: whoever owns it could make millions of them.
pub(crate) const MOST_NAMES: usize = 10_000;

/// The most names that are looked at to find those: a second of work.
const MOST_LOOKS: usize = 1 << 20;

/// Gives each name in a directory to `see`, `.` and `..` left out, until that breaks off: none is kept.
fn each_name(dir: &OwnedFd, see: &mut dyn FnMut(&OsStr) -> nix::Result<ControlFlow<()>>) -> nix::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let own = open_in(dir, OsStr::new("."), OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
    let mut entries = nix::dir::Dir::from_fd(own)?;
    for entry in entries.iter() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." && see(name)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// The first [`MOST_NAMES`] names in an open directory.
pub(crate) fn names(dir: &OwnedFd) -> nix::Result<Vec<OsString>> {
    let mut names = Vec::new();
    each_name(dir, &mut |name| {
        names.push(name.to_owned());
        let full = names.len() == MOST_NAMES;
        Ok(if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    Ok(names)
}

/// Names in the directory at `path`, sorted; empty if it does not exist.
///
/// # Errors
/// `TooManyFiles`: more than [`MOST_NAMES`]. `Link`, `NotDirectory`, `Read`.
#[cfg(test)]
pub(crate) fn list(path: &Path) -> Result<Vec<OsString>, Error> {
    let (names, whole) = some(path, MOST_NAMES, &|_| true)?;
    if whole { Ok(names) } else { Err(Error::TooManyFiles { path: path.to_owned(), limit: MOST_NAMES }) }
}

/// At most `most` of the names in the directory at `path` that are `wanted`, sorted, and whether these are all.
///
/// # Errors
/// `Link`, `NotDirectory`, `Read`.
pub(crate) fn some(
    path: &Path,
    most: usize,
    wanted: &dyn Fn(&OsStr) -> bool,
) -> Result<(Vec<OsString>, bool), Error> {
    let dir = match open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC) {
        Ok(dir) => dir,
        Err(Errno::ENOENT) => return Ok((Vec::new(), true)),
        Err(errno) => return Err(opening(path, errno)),
    };
    let (mut names, mut whole, mut looks) = (Vec::new(), true, 0);
    let mut keep = |name: &OsStr| {
        looks += 1;
        let is_wanted = wanted(name);
        if looks > MOST_LOOKS || (is_wanted && names.len() == most) {
            whole = false;
            return Ok(ControlFlow::Break(()));
        }
        names.extend(is_wanted.then(|| name.to_owned()));
        Ok(ControlFlow::Continue(()))
    };
    each_name(&dir, &mut keep).map_err(|errno| opening(path, errno))?;
    names.sort();
    Ok((names, whole))
}

/// Whether the directory at `path` holds nothing; one that does not exist holds nothing.
///
/// # Errors
/// `Link`, `NotDirectory`, `Read`.
pub(crate) fn is_empty(path: &Path) -> Result<bool, Error> {
    let (names, whole) = some(path, 0, &|_| true)?;
    Ok(names.is_empty() && whole)
}

/// Sets the permission bits of the character device at `path`.
///
/// # Errors
/// `NotDevice`, `Link`, `Write`.
pub(crate) fn set_device_mode(path: &Path, mode: u32) -> Result<(), Error> {
    let fd = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC).map_err(|errno| opening(path, errno))?;
    let stat = fstat(&fd).map_err(|errno| opening(path, errno))?;
    if !fittable(path, &stat) {
        return Err(Error::NotDevice { path: path.to_owned() });
    }
    // fchmod refuses an O_PATH descriptor, and opening a device may have effects: chmod by the descriptor's link.
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    std::fs::set_permissions(link, std::os::unix::fs::PermissionsExt::from_mode(mode))
        .map_err(|source| Error::Write { path: path.to_owned(), source })
}

/// Permission bits of the character device, or parameter of a kernel module, at `path`; `None` if there is none.
///
/// # Errors
/// `Link`, `Read`.
pub(crate) fn device_mode(path: &Path) -> Result<Option<u32>, Error> {
    Ok(stat(path)?.filter(|stat| fittable(path, stat)).map(|stat| stat.st_mode & 0o7777))
}

/// Whether its mode is one of those that a plan may change.
fn fittable(path: &Path, stat: &FileStat) -> bool {
    is(stat, SFlag::S_IFCHR) || (is(stat, SFlag::S_IFREG) && path.starts_with("/sys/module"))
}

/// Whether a `stat` is of this kind.
pub(crate) fn is(stat: &FileStat, kind: SFlag) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == kind
}

/// Opens an absolute path without following any link.
pub(crate) fn open(path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    if !path.is_absolute() {
        return Err(Errno::EINVAL);
    }
    let resolve = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    openat2(nix::fcntl::AT_FDCWD, path, OpenHow::new().flags(flags).resolve(resolve))
}

/// Opens what lies below an open directory: no link is followed, nothing outside is reached.
pub(crate) fn open_below(dir: &OwnedFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    open_in(dir, path.as_os_str(), flags)
}

fn open_in(dir: &OwnedFd, name: &OsStr, flags: OFlag) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    openat2(dir, name, OpenHow::new().flags(flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).resolve(resolve))
}

/// The open parent and the name of `path`; `None` if the parent does not exist.
fn parent_of(path: &Path) -> Result<Option<(OwnedFd, &OsStr)>, Error> {
    let (parent, name) = split(path)?;
    match open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC) {
        Ok(dir) => Ok(Some((dir, name))),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(opening(path, errno)),
    }
}

/// What an open directory has under a name, itself not followed.
pub(crate) fn stat_in(dir: &OwnedFd, name: &OsStr) -> nix::Result<Option<FileStat>> {
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn unlink(dir: &OwnedFd, name: &OsStr, flags: UnlinkatFlags) -> nix::Result<()> {
    match unlinkat(dir, name, flags) {
        Err(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

/// Parent and name of an absolute path without `..`.
fn split(path: &Path) -> Result<(&Path, &OsStr), Error> {
    let plain = path.is_absolute() && path.components().all(|part| !matches!(part, Component::ParentDir));
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if plain => Ok((parent, name)),
        _ => Err(Error::Path { path: path.to_owned() }),
    }
}

/// Name of the temporary sibling. It is fixed, so that a later run removes what a killed one left.
fn sibling(name: &OsStr) -> OsString {
    let mut sibling = OsString::from(".");
    sibling.push(name);
    sibling.push(".u7s-new");
    sibling
}

/// `path` and its ancestors that do not exist, topmost first.
///
/// # Errors
/// As [`directory`].
pub(crate) fn missing(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut missing = Vec::new();
    for ancestor in path.ancestors() {
        if directory(ancestor)?.is_some() {
            break;
        }
        missing.push(ancestor.to_owned());
    }
    missing.reverse();
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn own(mode: u32) -> Rights {
        Rights { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw(), mode }
    }

    fn fifo(path: &Path) {
        nix::unistd::mkfifo(path, Mode::from_bits_truncate(0o600)).unwrap();
    }

    #[test]
    fn a_replaced_file_has_text_and_mode_and_leaves_no_sibling() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        replace(&path, b"one", own(0o640)).unwrap();
        replace(&path, b"two", own(0o600)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(list(dir.path()).unwrap(), ["a"]);
    }

    #[test]
    fn a_sibling_left_by_a_killed_run_is_replaced_and_removed_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(dir.path().join(".a.u7s-new"), "half").unwrap();
        replace(&path, b"one", own(0o600)).unwrap();
        assert_eq!(list(dir.path()).unwrap(), ["a"]);
        std::fs::write(dir.path().join(".a.u7s-new"), "half").unwrap();
        remove(&path).unwrap();
        assert!(list(dir.path()).unwrap().is_empty());
        remove(&path).unwrap();
    }

    #[test]
    fn f13_more_names_than_are_kept_are_an_error_that_names_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..=MOST_NAMES {
            // Other names of one file are the cheapest.
            match number {
                0 => drop(std::fs::write(dir.path().join("0"), "")),
                _ => std::fs::hard_link(dir.path().join("0"), dir.path().join(number.to_string())).unwrap(),
            }
        }
        assert!(matches!(list(dir.path()), Err(Error::TooManyFiles { path, .. }) if path == dir.path()));
        let (first, whole) = some(dir.path(), 3, &|name| name != "7").unwrap();
        assert_eq!((first.len(), whole), (3, false));
        let (one, whole) = some(dir.path(), 3, &|name| name == "9999").unwrap();
        assert_eq!((one, whole), (vec![OsString::from("9999")], true));
        assert!(!is_empty(dir.path()).unwrap());
        // Nothing of it is kept while it is removed.
        remove_tree(dir.path(), true).unwrap();
        assert!(is_empty(dir.path()).unwrap() && is_empty(&dir.path().join("none")).unwrap());
    }

    #[test]
    fn a_link_at_the_target_or_above_it_is_refused_and_its_target_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        let planted = dir.path().join("planted");
        symlink(&victim, &planted).unwrap();
        assert!(matches!(replace(&planted, b"x", own(0o600)), Err(Error::Link { .. })));
        assert!(matches!(read(&planted, LIMIT), Err(Error::Link { .. })));
        let above = dir.path().join("above");
        symlink(dir.path(), &above).unwrap();
        assert!(matches!(replace(&above.join("victim"), b"x", own(0o600)), Err(Error::Link { .. })));
        assert!(matches!(make_dir(&above, own(0o700)), Err(Error::Link { .. } | Error::NotDirectory { .. })));
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    }

    #[test]
    fn a_directory_or_fifo_in_place_of_a_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        fifo(&pipe);
        assert!(matches!(read(&pipe, LIMIT), Err(Error::NotRegular { .. })));
        assert!(matches!(read_named(&pipe, LIMIT), Err(Error::NotRegular { .. })));
        assert!(matches!(read(dir.path(), LIMIT), Err(Error::NotRegular { .. })));
        assert!(matches!(replace(&pipe, b"x", own(0o600)), Err(Error::NotRegular { .. })));
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(make_dir(&file, own(0o700)), Err(Error::NotDirectory { .. })));
    }

    #[test]
    fn a_file_larger_than_the_limit_is_refused_and_one_of_the_limit_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big");
        std::fs::write(&path, [0; 17]).unwrap();
        assert!(matches!(read(&path, 16), Err(Error::TooLarge { limit: 16, .. })));
        assert_eq!(read(&path, 17).unwrap().unwrap().bytes.len(), 17);
        assert!(read(&dir.path().join("none/none"), 16).unwrap().is_none());
    }

    #[test]
    fn a_relative_path_or_one_with_dots_is_refused() {
        for path in ["relative", "/tmp/../etc/x", "/"] {
            assert!(matches!(replace(Path::new(path), b"", own(0o600)), Err(Error::Path { .. })), "{path}");
        }
    }

    #[test]
    fn an_existing_directory_is_fitted_and_missing_ones_are_named_topmost_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x/y");
        assert_eq!(missing(&path).unwrap(), [dir.path().join("x"), path.clone()]);
        make_dir(&dir.path().join("x"), own(0o755)).unwrap();
        std::fs::set_permissions(dir.path().join("x"), std::fs::Permissions::from_mode(0o777)).unwrap();
        make_dir(&dir.path().join("x"), own(0o700)).unwrap();
        assert_eq!(directory(&dir.path().join("x")).unwrap().unwrap().mode, 0o700);
        assert!(!remove_dir(dir.path()).unwrap());
        assert!(remove_dir(&dir.path().join("x")).unwrap());
    }

    #[test]
    fn a_plain_file_is_no_device() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("null");
        std::fs::write(&path, "").unwrap();
        assert!(matches!(set_device_mode(&path, 0o666), Err(Error::NotDevice { .. })));
        assert_eq!(device_mode(&path).unwrap(), None);
        assert_eq!(device_mode(Path::new("/dev/null")).unwrap(), Some(0o666));
    }
}
