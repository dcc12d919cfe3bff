//! One init or reset at a time.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

use crate::error::{Error, opening};

/// Where the lock lies: 0600 root, in a directory that root alone may write. /run/lock is open to all on many hosts:
/// whoever came first there decided whether a command of root's ran.
pub const PATH: &str = "/run/u7s.lock";

/// The lock of a running init or reset; dropped with the value, or by the kernel with the process.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: Flock<File>,
}

/// How often a file that its former holder has just removed is met before that is an error.
const ROUNDS: u32 = 100;

impl Lock {
    /// Takes the lock at [`PATH`], or says at once who holds it.
    ///
    /// # Errors
    /// `Busy` with the holder's pid; `NotOurs` or `Link` if something else lies at its place, also a file of another
    /// owner; `Read`, `Write` if the place is not writable.
    pub fn take() -> Result<Self, Error> {
        Self::take_at(Path::new(PATH))
    }

    fn take_at(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Write { path: path.to_owned(), source };
        for _ in 0..ROUNDS {
            match Flock::lock(open(path)?, FlockArg::LockExclusiveNonblock) {
                Ok(mut file) if is_at(&file, path) => {
                    note_pid(&mut file).map_err(failed)?;
                    return Ok(Self { path: path.to_owned(), _file: file });
                }
                Ok(_) => {}
                Err((file, Errno::EWOULDBLOCK)) => return Err(Error::Busy { pid: holder(file) }),
                Err((_, errno)) => return Err(failed(errno.into())),
            }
        }
        Err(Error::Busy { pid: None })
    }
}

impl Drop for Lock {
    /// Nothing of ours stays on a host without a node. Still held: whoever opened the file before finds that it is gone.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether the file is the one that has this name now.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |seen: std::io::Result<std::fs::Metadata>| seen.map(|seen| (seen.dev(), seen.ino())).ok();
    identity(file.metadata()).is_some_and(|own| identity(std::fs::symlink_metadata(path)) == Some(own))
}

/// What lies there is ours only if its owner says so.
fn open(path: &Path) -> Result<File, Error> {
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let how = OpenHow::new()
        .flags(flags)
        .mode(Mode::from_bits_truncate(0o600))
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    let not_ours = |uid| Error::NotOurs { path: path.to_owned(), uid };
    let file = openat2(nix::fcntl::AT_FDCWD, path, how).map(File::from).map_err(|errno| match errno {
        // A directory, a socket.
        Errno::EISDIR | Errno::ENXIO => not_ours(path.symlink_metadata().map_or(0, |seen| seen.uid())),
        other => opening(path, other),
    })?;
    let seen = file.metadata().map_err(|source| Error::Read { path: path.to_owned(), source })?;
    if !seen.is_file() || seen.uid() != nix::unistd::geteuid().as_raw() || seen.nlink() != 1 {
        return Err(not_ours(seen.uid()));
    }
    Ok(file)
}

fn note_pid(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}

fn holder(file: File) -> Option<i32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_taker_is_told_the_pid_of_the_first_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = Lock::take_at(&path).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let refused = Lock::take_at(&path).unwrap_err();
        assert_eq!(refused.to_string(), format!("another init or reset is running, pid {own}"));
        drop(first);
        assert!(!path.exists(), "the lock's file stays");
        Lock::take_at(&path).unwrap();
    }

    #[test]
    fn a_file_that_its_holder_has_removed_is_not_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let stale = open(&path).unwrap();
        drop(Lock::take_at(&path).unwrap());
        let held = Lock::take_at(&path).unwrap();
        assert!(!is_at(&stale, &path));
        assert!(matches!(Lock::take_at(&path), Err(Error::Busy { .. })));
        drop(held);
    }

    #[test]
    fn a_planted_link_or_fifo_is_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("victim"), &link).unwrap();
        assert!(matches!(Lock::take_at(&link), Err(Error::Link { .. })));
        assert!(!dir.path().join("victim").exists());
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, Mode::from_bits_truncate(0o600)).unwrap();
        assert!(matches!(Lock::take_at(&pipe), Err(Error::NotOurs { .. })));
        assert!(matches!(Lock::take_at(dir.path()), Err(Error::NotOurs { .. })));
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(matches!(Lock::take_at(&socket), Err(Error::NotOurs { .. })));
    }

    #[test]
    fn f8_the_lock_lies_where_root_alone_may_put_something() {
        for directory in Path::new(PATH).ancestors().skip(1) {
            let seen = std::fs::metadata(directory).unwrap();
            assert_eq!((seen.uid(), seen.mode() & 0o022), (0, 0), "{}", directory.display());
        }
    }

    #[test]
    fn a_file_with_a_second_name_is_not_taken_for_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("lock"), dir.path().join("other"));
        std::fs::write(&other, "").unwrap();
        std::fs::hard_link(&other, &path).unwrap();
        let refused = Lock::take_at(&path).unwrap_err().to_string();
        let own = nix::unistd::geteuid();
        assert_eq!(
            refused,
            format!("{} is no lock of this program, but something of uid {own}", path.display())
        );
    }
}
