//! Terminals for entered processes: a fresh pseudo-terminal, its size, its line settings.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, unlockpt};

use crate::Error;

/// Both ends of a pseudo-terminal, close-on-exec.
#[derive(Debug)]
pub struct Pty {
    /// Our end.
    pub master: OwnedFd,
    /// The end of the process that runs on it.
    pub slave: OwnedFd,
}

/// Size of a terminal in characters and pixels, as the kernel keeps it.
#[derive(Clone, Copy)]
pub struct Size(libc::winsize);

/// Makes a pseudo-terminal. The slave is opened through the master, never by a path that somebody could have mounted over.
///
/// # Errors
/// ENOSPC: the limit `/proc/sys/kernel/pty/max` is reached. ENOENT: there is no `/dev/ptmx`.
///
/// Source: pty(7), ioctl_tty(2) `TIOCGPTPEER`.
pub fn open() -> Result<Pty, Error> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = posix_openpt(flags).map_err(Error::call("posix_openpt"))?;
    grantpt(&master).map_err(Error::call("grantpt"))?;
    unlockpt(&master).map_err(Error::call("unlockpt"))?;
    // SAFETY: TIOCGPTPEER takes open flags by value and reads no memory of ours.
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags.bits()) };
    if slave == -1 {
        return Err(Error::last("ioctl(TIOCGPTPEER)"));
    }
    // SAFETY: a result other than -1 is a new descriptor that nobody else owns.
    let slave = unsafe { OwnedFd::from_raw_fd(slave) };
    Ok(Pty { master: master.into(), slave })
}

/// The size of the terminal behind a descriptor.
///
/// # Errors
/// ENOTTY: it is no terminal.
pub fn size(terminal: impl AsFd) -> Result<Size, Error> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ stores one winsize through its argument, which points to a live, writable winsize.
    let result = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    if result == -1 {
        return Err(Error::last("ioctl(TIOCGWINSZ)"));
    }
    Ok(Size(size))
}

/// Sets it; the foreground process of the terminal gets SIGWINCH if it changed.
///
/// # Errors
/// ENOTTY: it is no terminal.
pub fn set_size(terminal: impl AsFd, size: Size) -> Result<(), Error> {
    // SAFETY: TIOCSWINSZ reads one winsize through its argument, which points to a live winsize.
    let result = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size.0) };
    if result == -1 {
        return Err(Error::last("ioctl(TIOCSWINSZ)"));
    }
    Ok(())
}

impl From<Size> for (u16, u16) {
    /// Width and height in characters.
    fn from(size: Size) -> Self {
        (size.0.ws_col, size.0.ws_row)
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::isatty;

    use super::*;

    #[test]
    fn both_ends_are_terminals_and_share_a_size() {
        let pty = open().unwrap();
        assert!(isatty(&pty.slave).unwrap());
        let wanted = Size(libc::winsize { ws_row: 7, ws_col: 20, ws_xpixel: 0, ws_ypixel: 0 });
        set_size(&pty.master, wanted).unwrap();
        assert_eq!(<(u16, u16)>::from(size(&pty.slave).unwrap()), (20, 7));
    }

    #[test]
    fn a_file_has_no_size() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(size(&file).err().and_then(|error| error.errno()), Some(nix::errno::Errno::ENOTTY));
    }
}
