//! One init or reset at a time.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

use crate::error::{Error, opening};

/// Where the lock lies: 0600 root.
pub const PATH: &str = "/run/lock/u7s.lock";

/// The lock of a running init or reset; dropped with the value, or by the kernel with the process.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock at [`PATH`], or says at once who holds it.
    ///
    /// # Errors
    /// `Busy` with the holder's pid; `NotRegular` or `Link` if somebody planted something else at its place, also a
    /// file of another owner; `Read`, `Write` if the place is not writable.
    pub fn take() -> Result<Self, Error> {
        Self::take_at(Path::new(PATH))
    }

    fn take_at(path: &Path) -> Result<Self, Error> {
        let file = open(path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                note_pid(&mut file).map_err(|source| Error::Write { path: path.to_owned(), source })?;
                Ok(Self { _file: file })
            }
            Err((file, Errno::EWOULDBLOCK)) => Err(Error::Busy { pid: holder(file) }),
            Err((_, errno)) => Err(Error::Write { path: path.to_owned(), source: errno.into() }),
        }
    }
}

/// The directory is world-writable: what lies there is ours only if the owner says so.
fn open(path: &Path) -> Result<File, Error> {
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    // /run/lock itself may be a link of the distribution (to /run or /var/lock), so only magic links are barred.
    let how = OpenHow::new()
        .flags(flags)
        .mode(Mode::from_bits_truncate(0o600))
        .resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file =
        openat2(nix::fcntl::AT_FDCWD, path, how).map(File::from).map_err(|errno| opening(path, errno))?;
    let seen = file.metadata().map_err(|source| Error::Read { path: path.to_owned(), source })?;
    if !seen.is_file() || seen.uid() != nix::unistd::geteuid().as_raw() || seen.nlink() != 1 {
        return Err(Error::NotRegular { path: path.to_owned() });
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
        Lock::take_at(&path).unwrap();
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
        assert!(matches!(Lock::take_at(&pipe), Err(Error::NotRegular { .. })));
    }
}
