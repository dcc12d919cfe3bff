//! Files that the administrator names on a command line which is carried out as the node's user.
//!
//! Such a file is read with the caller's rights, bounded, and travels as a sealed memory file. Inside, the name on the
//! command line stays what it was wherever it leads to the same file; else `/proc/self/fd/N` takes its place.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, SFlag};
use nix::unistd::geteuid;
use u7s_plan::facts::UserFact;
use u7s_sys::enter::Ids;
use u7s_sys::memfd::{Reader, sealed};

use super::error::Error;
use super::user::{as_author, as_user};
use crate::files::{Author, author, is_own_descriptor, open_told, proc_path};

/// The largest file that is carried, bytes.
pub const MAX_FILE: u64 = 4 << 20;

/// The most files of a directory that are copied.
const MOST: usize = 100;

/// The directory of the unit that is the same inside and outside.
pub(crate) const SHARED: &str = "/run/u7s";

/// What marks a patch of u7s by its name.
const OURS: &str = "~u7s";

/// How long a copy on a tmpfs may take.
pub(crate) const LOCAL: Duration = Duration::from_secs(20);

/// How long a pipe may be silent, and how long it may take to its end: it may be that of somebody else.
const SILENCE: Duration = Duration::from_secs(10);
const WHOLE: Duration = Duration::from_secs(120);

/// The content of a file, for one reader, and what file it was.
#[derive(Debug)]
pub(crate) struct Carried {
    pub(crate) content: OwnedFd,
    /// Device and inode.
    pub(crate) identity: (u64, u64),
}

/// Reads the file that `path` names here, for `reader` to read elsewhere.
///
/// `None`: there is no such file here, or it is a directory or device; then the name is left to the program.
///
/// # Errors
/// `File`, `TooLarge`, `Silent`, `Link`.
pub(crate) fn carry(path: &Path, reader: Ids) -> Result<Option<Carried>, Error> {
    let Some(file) = open(path)? else { return Ok(None) };
    let failed = |source| Error::File { path: path.to_owned(), source };
    let seen = file.metadata().map_err(failed)?;
    let kind = SFlag::from_bits_truncate(seen.mode()) & SFlag::S_IFMT;
    // What was read from a pipe is gone: no name leads to it again.
    let identity = match kind {
        SFlag::S_IFREG => (seen.dev(), seen.ino()),
        SFlag::S_IFIFO => (u64::MAX, u64::MAX),
        _ => return Ok(None),
    };
    let bytes = read(&file, path, kind == SFlag::S_IFIFO)?;
    let content = sealed("u7s-argument", &bytes, Reader { uid: reader.uid, gid: reader.gid })?;
    Ok(Some(Carried { content, identity }))
}

/// Device and inode of a directory, names and contents of its files.
type Directory = ((u64, u64), Vec<(OsString, Vec<u8>)>);

/// A directory's plain files, copied to where the node's user reads them inside; removed again when dropped.
#[derive(Debug)]
pub(crate) struct Copied {
    /// The copy, the same path inside and outside.
    pub(crate) path: PathBuf,
    /// Device and inode of the original.
    pub(crate) identity: (u64, u64),
    user: UserFact,
}

/// Copies the directory that `path` names here below [`SHARED`], as the user; `None` if it is no directory here.
///
/// Of `others`, files whose names mark them as u7s' own come along. `author` is whose word `path` is.
///
/// # Errors
/// As [`carry`] for every file; `File` for [`MOST`] or more of them; `Child`: the copy could not be made.
/// `Foreign`: `path` is read as the user, who cannot.
pub(crate) fn copy(
    path: &Path,
    author: Author,
    others: &[&Path],
    reader: Ids,
) -> Result<Option<Copied>, Error> {
    let user = UserFact { uid: reader.uid, gid: reader.gid, ..UserFact::default() };
    let Some((identity, mut files)) = as_author(author, &user, path, plain_files)? else { return Ok(None) };
    for others in others {
        let ours = |(name, _): &(OsString, Vec<u8>)| name.to_string_lossy().contains(OURS);
        let found = plain_files(others)?.map(|(_, files)| files);
        files.extend(found.into_iter().flatten().filter(ours));
    }
    let target = Path::new(SHARED).join(format!("arguments-{}-{}", std::process::id(), identity.1));
    let copied = Copied { path: target.clone(), identity, user };
    let written =
        as_user(&copied.user, LOCAL, || write_all(&target, &files).map_err(|error| error.to_string()))?;
    written.map_err(|reason| Error::Child { uid: reader.uid, reason })?;
    Ok(Some(copied))
}

impl Drop for Copied {
    fn drop(&mut self) {
        let path = self.path.clone();
        // What stays behind lies in the unit's runtime directory, which ends with the unit.
        let _ = as_user(&self.user, LOCAL, || fs::remove_dir_all(path).is_ok());
    }
}

fn write_all(target: &Path, files: &[(OsString, Vec<u8>)]) -> io::Result<()> {
    fs::create_dir(target)?;
    files.iter().try_for_each(|(name, bytes)| fs::write(target.join(name), bytes))
}

/// Device and inode of a directory, and its plain files; `None` if it is no directory here.
fn plain_files(path: &Path) -> Result<Option<Directory>, Error> {
    let Some(directory) = open_directory(path)? else { return Ok(None) };
    let seen = directory.metadata().map_err(|source| Error::File { path: path.to_owned(), source })?;
    Ok(Some(((seen.dev(), seen.ino()), contents(path, &directory)?)))
}

/// Names and contents of the plain files in a directory, read through its descriptor; links in it are left out.
fn contents(path: &Path, directory: &File) -> Result<Vec<(OsString, Vec<u8>)>, Error> {
    let failed = |source| Error::File { path: path.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(proc_path(directory)).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_type().map_err(failed)?.is_file() {
            continue;
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(directory, entry.file_name().as_os_str(), flags, Mode::empty())
            .map_err(|errno| failed(errno.into()))?;
        let path = path.join(entry.file_name());
        files.push((entry.file_name(), read_plain(&file.into(), &path)?));
        if files.len() > MOST {
            return Err(failed(io::Error::other(format!("it holds more than {MOST} files"))));
        }
    }
    Ok(files)
}

/// Reads the file that `path` names here, whole and bounded, and says whose word it is: for documents that we parse.
///
/// # Errors
/// `TooLarge`, `Silent`, `Link`; a missing file, a directory or a device are `File`.
pub fn read_argument(path: &Path) -> Result<(Vec<u8>, Author), Error> {
    let failed = |errno: Errno| Error::File { path: path.to_owned(), source: errno.into() };
    let file = open(path)?.ok_or_else(|| failed(Errno::ENOENT))?;
    let seen = file.metadata().map_err(|source| Error::File { path: path.to_owned(), source })?;
    match SFlag::from_bits_truncate(seen.mode()) & SFlag::S_IFMT {
        SFlag::S_IFDIR => Err(failed(Errno::EISDIR)),
        kind => Ok((read(&file, path, kind != SFlag::S_IFREG)?, author(&file))),
    }
}

/// Opens with the caller's rights; root follows only links that root alone may change.
fn open(path: &Path) -> Result<Option<File>, Error> {
    open_with(path, OFlag::empty())
}

/// As [`open`], for a directory; `None`: there is none of that name.
pub(crate) fn open_directory(path: &Path) -> Result<Option<File>, Error> {
    open_with(path, OFlag::O_DIRECTORY)
}

fn open_with(path: &Path, kind: OFlag) -> Result<Option<File>, Error> {
    let failed = |errno: Errno| Error::File { path: path.to_owned(), source: errno.into() };
    match open_told(path, kind) {
        Ok(file) => Ok(Some(file)),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ENXIO) => Ok(None),
        Err(Errno::ELOOP) if geteuid().is_root() && !is_own_descriptor(path) => {
            Err(Error::Link { path: path.to_owned() })
        }
        Err(errno) => Err(failed(errno)),
    }
}

/// As [`read`], of what was a plain file when the directory was read: its owner may have put a pipe there since.
fn read_plain(file: &File, path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::File { path: path.to_owned(), source };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("this is no plain file")));
    }
    read(file, path, false)
}

/// Never more than [`MAX_FILE`]; of a pipe never longer than [`SILENCE`] for each piece and [`WHOLE`] for all of it.
fn read(file: &File, path: &Path, waits: bool) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::File { path: path.to_owned(), source };
    let (mut bytes, mut chunk, mut file) = (Vec::new(), [0; 16 * 1024], file);
    let until = Instant::now() + WHOLE;
    loop {
        if waits {
            wait(file, path, until)?;
        }
        match file.read(&mut chunk) {
            Ok(0) => return Ok(bytes),
            Ok(count) => bytes.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Somebody else reads the same pipe. What is no pipe never has nothing to give.
            Err(error) if waits && error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(failed(error)),
        }
        if u64::try_from(bytes.len()).map_or(true, |length| length > MAX_FILE) {
            return Err(Error::TooLarge { path: path.to_owned(), limit: MAX_FILE });
        }
    }
}

fn wait(file: &File, path: &Path, whole: Instant) -> Result<(), Error> {
    let until = whole.min(Instant::now() + SILENCE);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut ready = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(0) if until == whole => {
                return Err(Error::Slow { path: path.to_owned(), seconds: WHOLE.as_secs() });
            }
            Ok(0) => return Err(Error::Silent { path: path.to_owned(), seconds: SILENCE.as_secs() }),
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::File { path: path.to_owned(), source: errno.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Ids {
        Ids { uid: geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() }
    }

    #[test]
    fn a_file_travels_whole_and_keeps_its_identity() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("join.yaml");
        fs::write(&path, "kind: X\n").unwrap();
        let carried = carry(&path, me()).unwrap().unwrap();
        assert_eq!(carried.identity.1, fs::metadata(&path).unwrap().ino());
        let mut text = String::new();
        File::from(carried.content).read_to_string(&mut text).unwrap();
        assert_eq!(text, "kind: X\n");
    }

    #[test]
    fn what_is_no_file_here_is_left_to_the_program() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path(), &dir.path().join("none"), Path::new("/dev/null")] {
            assert!(carry(path, me()).unwrap().is_none());
        }
    }

    #[test]
    fn f52_a_pipe_is_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        let there = path.clone();
        let writer = std::thread::spawn(move || fs::write(there, "kind: Y\n").unwrap());
        // A pipe opened without waiting may have no writer yet, which poll(2) waits for.
        assert_eq!(read_argument(&path).unwrap().0, b"kind: Y\n");
        writer.join().unwrap();
    }

    /// getdents(2) said that it is a file, and by the time it is opened it is a pipe with a writer that never writes.
    #[test]
    fn f13_what_became_a_pipe_since_its_name_was_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubeletconfiguration.yaml");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        let writer = File::options().read(true).write(true).open(&path).unwrap();
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
        let pipe = File::from(nix::fcntl::open(&path, flags, Mode::empty()).unwrap());
        assert!(matches!(read_plain(&pipe, &path), Err(Error::File { .. })));
        // And without that look: what never has anything to give is not asked again and again.
        assert!(matches!(read(&pipe, &path, false), Err(Error::File { .. })));
        let late = wait(&pipe, &path, Instant::now());
        assert!(matches!(late, Err(Error::Slow { .. })));
        drop(writer);
    }

    #[test]
    fn f44_a_file_of_any_size_is_not_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("huge");
        File::create(&path).unwrap().set_len(100 << 20).unwrap();
        assert!(matches!(read_argument(&path), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn a_missing_document_of_our_own_is_named() {
        let error = read_argument(Path::new("/nonexistent/x.yaml")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nonexistent/x.yaml");
    }
}
