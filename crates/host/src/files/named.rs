//! Files that root was told to read by name: no way to them leads over a link that somebody else may change.
//!
//! Such files go to the node, so a link in a directory of the node's user would hand it any file of root's.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, lstat};
use nix::unistd::geteuid;

use super::{is, whole};
use crate::enter;
use crate::error::Error;

/// The most links on one way, as the kernel has it.
const LINKS: usize = 40;

/// Whose word the content of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// Root's, or that of whom root lets speak for it by a pipe.
    Root,
    /// Perhaps somebody else's, who can write the file or put another one in its place.
    Others,
}

/// Reads a regular file of at most `limit` bytes that root was told of by name, and says whose word it is.
///
/// # Errors
/// `Enter` with its `Link`, `NotRegular`, `TooLarge`, `Read`; a missing file is an error too.
pub(crate) fn read_told(path: &Path, limit: u64) -> Result<(Vec<u8>, Author), Error> {
    let file = open_told(path, OFlag::empty()).map_err(|errno| refused(path, errno))?;
    let author = author(&file);
    whole(path, file, limit).map(|file| (file.bytes, author))
}

/// The sentence for an errno of [`open_told`].
pub(crate) fn refused(path: &Path, errno: Errno) -> Error {
    let path = path.to_owned();
    match errno {
        Errno::ELOOP if geteuid().is_root() => enter::Error::Link { path }.into(),
        other => Error::Read { path, source: other.into() },
    }
}

/// Opens what `path` names here for reading, with the caller's rights; never waits for the other end of a pipe.
///
/// Root follows a link only where every entry of the way up to it is root's alone to change.
///
/// # Errors
/// ELOOP: a link that others than root may change, or too many; those of open(2).
pub(crate) fn open_told(path: &Path, kind: OFlag) -> nix::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | kind;
    let opened = if !geteuid().is_root() || is_own_descriptor(path) {
        nix::fcntl::open(path, flags, Mode::empty())
    } else {
        // By its descriptor: whatever has its name by now is another file.
        nix::fcntl::open(&proc_path(&held(path)?), flags, Mode::empty())
    };
    opened.map(File::from)
}

/// Takes hold of what `path` names, component by component.
fn held(path: &Path) -> nix::Result<OwnedFd> {
    let whole = std::path::absolute(path)
        .map_err(|error| error.raw_os_error().map_or(Errno::ENOENT, Errno::from_raw))?;
    let (mut at, mut fixed, mut links) = (root()?, true, 0);
    let mut rest = parts(&whole);
    while let Some(part) = rest.pop() {
        let next = hold(&at, &part)?;
        let seen = fstat(&next)?;
        fixed = fixed && is_fixed(&fstat(&at)?, &seen);
        if !is(&seen, SFlag::S_IFLNK) {
            at = next;
            continue;
        }
        links += 1;
        if !fixed || links > LINKS {
            return Err(Errno::ELOOP);
        }
        let target = PathBuf::from(readlinkat(&next, "")?);
        if target.is_absolute() {
            at = root()?;
        }
        rest.extend(parts(&target));
    }
    Ok(at)
}

fn root() -> nix::Result<OwnedFd> {
    nix::fcntl::open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

/// The names on a way, the last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let name = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().rev().filter_map(name).collect()
}

/// A directory first, so that one that is mounted on demand is mounted.
fn hold(at: &OwnedFd, name: &OsString) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(at, name.as_os_str(), flags | OFlag::O_DIRECTORY, Mode::empty()) {
        Err(Errno::ENOTDIR | Errno::ELOOP) => openat(at, name.as_os_str(), flags, Mode::empty()),
        other => other,
    }
}

/// Whether root alone may put something else in the place of this entry of a directory.
fn is_fixed(directory: &FileStat, entry: &FileStat) -> bool {
    let closed = directory.st_mode & 0o022 == 0;
    // In /tmp and its like nobody but the owners of directory and entry may.
    let sticky = directory.st_mode & 0o1000 != 0 && entry.st_uid == 0;
    directory.st_uid == 0 && (closed || sticky)
}

/// Whose word the content of an open file is.
pub(crate) fn author(file: &File) -> Author {
    if roots_alone(file).unwrap_or(false) { Author::Root } else { Author::Others }
}

fn roots_alone(file: &File) -> nix::Result<bool> {
    let seen = fstat(file)?;
    if seen.st_uid != 0 || seen.st_mode & 0o022 != 0 {
        return Ok(false);
    }
    // A pipe of the caller's shell, or its here-document, has no name that could lead elsewhere.
    if !is(&seen, SFlag::S_IFREG) || seen.st_nlink == 0 {
        return Ok(true);
    }
    let path = PathBuf::from(nix::fcntl::readlink(&proc_path(file))?);
    for (entry, directory) in path.ancestors().zip(path.ancestors().skip(1)) {
        if !is_fixed(&lstat(directory)?, &lstat(entry)?) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `/dev/stdin`, `/dev/fd/63` and their like: links of the kernel's to what this process itself holds.
#[must_use]
pub fn is_own_descriptor(path: &Path) -> bool {
    path == Path::new("/dev/stdin") || ["/dev/fd", "/proc/self/fd"].iter().any(|dir| path.starts_with(dir))
}

/// Where the kernel shows an open file.
pub(crate) fn proc_path(file: &impl AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}
