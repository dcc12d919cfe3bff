//! Sealed memory files: a document that is handed to a child and that nobody can change any more.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, fchown};

use crate::Error;

/// Who may open a memory file again through `/proc/PID/fd`: its owner, nobody else.
#[derive(Debug, Clone, Copy)]
pub struct Reader {
    /// Host uid.
    pub uid: u32,
    /// Host gid.
    pub gid: u32,
}

/// Puts `content` into a memory file, gives it to `reader` (0400) and seals it against every change.
///
/// `name` shows up in `/proc/PID/fd` only. The offset is at the start; the descriptor is close-on-exec.
///
/// # Errors
/// Any of the calls failed: ENOMEM and ENOSPC for the content, EPERM where `reader` is somebody else and the caller is
/// not root.
///
/// Source: memfd_create(2), fcntl(2) "File Sealing".
pub fn sealed(name: &str, content: &[u8], reader: Reader) -> Result<OwnedFd, Error> {
    let file = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)
        .map_err(Error::call("memfd_create"))?;
    let mut file = File::from(file);
    file.write_all(content)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .map_err(|error| Error::Call { call: "write to a memory file", source: errno(&error) })?;
    fchmod(&file, Mode::S_IRUSR).map_err(Error::call("fchmod of a memory file"))?;
    fchown(&file, Some(Uid::from_raw(reader.uid)), Some(Gid::from_raw(reader.gid)))
        .map_err(Error::call("fchown of a memory file"))?;
    let seals =
        SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(Error::call("fcntl(F_ADD_SEALS)"))?;
    Ok(file.into())
}

/// An empty memory file that `owner` alone may open through `/proc/PID/fd` and write (0600).
///
/// The descriptor is close-on-exec. Nothing bounds what is written into it: whoever reads it must.
///
/// # Errors
/// Any of the calls failed; EPERM where `owner` is somebody else and the caller is not root.
pub fn writable(name: &str, owner: Reader) -> Result<OwnedFd, Error> {
    let file = memfd_create(name, MFdFlags::MFD_CLOEXEC).map_err(Error::call("memfd_create"))?;
    fchmod(&file, Mode::S_IRUSR | Mode::S_IWUSR).map_err(Error::call("fchmod of a memory file"))?;
    fchown(&file, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))
        .map_err(Error::call("fchown of a memory file"))?;
    Ok(file)
}

/// The error number behind an I/O error of a plain descriptor.
fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;

    use super::*;

    fn me() -> Reader {
        Reader { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() }
    }

    #[test]
    fn the_content_can_be_read_by_path_and_by_descriptor() {
        let file = File::from(sealed("test", b"kind: X\n", me()).unwrap());
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        assert_eq!(std::fs::read(path).unwrap(), b"kind: X\n");
        let mut text = String::new();
        (&file).read_to_string(&mut text).unwrap();
        assert_eq!(text, "kind: X\n");
    }

    #[test]
    fn nothing_can_change_it() {
        let mut file = File::from(sealed("test", b"abc", me()).unwrap());
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(0).is_err());
        assert!(file.set_len(10).is_err());
        assert!(fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::empty())).is_err());
    }

    #[test]
    fn what_is_written_by_path_is_read_by_descriptor() {
        use std::os::unix::fs::PermissionsExt;
        let mut file = File::from(writable("test", me()).unwrap());
        std::fs::write(format!("/proc/self/fd/{}", file.as_raw_fd()), "kind: X\n").unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "kind: X\n");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    }

    #[test]
    fn only_its_owner_has_a_permission_bit() {
        use std::os::unix::fs::PermissionsExt;
        let file = File::from(sealed("test", b"", me()).unwrap());
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7777, 0o400);
    }
}
