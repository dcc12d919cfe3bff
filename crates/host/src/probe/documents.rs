//! Files that root named on kubeadm's command line, `--config` and `--patches`, and those that such a document names.

use std::fs::FileType;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use u7s_plan::facts::UserFact;
use u7s_plan::node::{self, NodeSpec};

use crate::enter::as_author;
use crate::error::Error;
use crate::files::{self, Author};

/// The most files that a patches directory may hold.
const MOST: usize = 100;

/// A file of a patches directory: name and text.
pub type Patch = (String, String);

/// Text of the file that `--config` names: a regular file of at most 1 MiB.
///
/// Links are followed where root alone may change them. A FIFO is refused without waiting for its writer.
///
/// # Errors
/// `Enter` with its `Link`, `Read`, `NotRegular`, `TooLarge`, `NotText`.
pub fn document(path: &Path) -> Result<String, Error> {
    authored(path).map(|(text, _)| text)
}

/// As [`document`], with whose word it is: that decides about the files that it names itself.
///
/// # Errors
/// As [`document`].
pub fn authored(path: &Path) -> Result<(String, Author), Error> {
    let (bytes, author) = files::read_told(path, files::LIMIT)?;
    let text = String::from_utf8(bytes).map_err(|_| Error::NotText { path: path.to_owned() })?;
    Ok((text, author))
}

/// As [`document`], of a file that a document of this author names; `user` is the node's.
///
/// # Errors
/// As [`document`]; `Enter` with its `Foreign`: it is read as the user, who cannot.
pub fn document_of(path: &Path, author: Author, user: &UserFact) -> Result<String, Error> {
    as_author(author, user, path, document)
}

/// The node's specification as init wrote it; `None` before init and after reset.
///
/// # Errors
/// `Node` if another version or somebody else wrote it, and those of [`document`].
pub fn node() -> Result<Option<NodeSpec>, Error> {
    let path = Path::new(node::PATH);
    if files::stat(path)?.is_none() {
        return Ok(None);
    }
    let read = serde_json::from_str(&document(path)?);
    read.map(Some).map_err(|source| Error::Node { path: path.to_owned(), source: source.into() })
}

/// All regular files of the directory of patches that this author names, in the order of their names.
///
/// Directories and other things in it are left out, as kubeadm leaves out what it does not know.
///
/// # Errors
/// `Read` for the directory, `TooManyFiles`, and those of [`document_of`].
pub fn patches(dir: &Path, author: Author, user: &UserFact) -> Result<Vec<Patch>, Error> {
    as_author(author, user, dir, all_patches)
}

fn all_patches(dir: &Path) -> Result<Vec<Patch>, Error> {
    let failed = |source| Error::Read { path: dir.to_owned(), source };
    let held = files::open_told(dir, OFlag::O_DIRECTORY).map_err(|errno| files::refused(dir, errno))?;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(files::proc_path(&held)).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = dir.join(entry.file_name());
        if !is_patch(&path, entry.file_type().map_err(failed)?)? {
            continue;
        }
        names.push(entry.file_name().into_string().map_err(|_| Error::NotText { path })?);
        if names.len() > MOST {
            return Err(Error::TooManyFiles { path: dir.to_owned(), limit: MOST });
        }
    }
    names.sort();
    names.into_iter().map(|name| document(&dir.join(&name)).map(|text| (name, text))).collect()
}

/// A regular file, or a link to one: that it may be followed is judged before its target is looked at.
fn is_patch(path: &Path, kind: FileType) -> Result<bool, Error> {
    if !kind.is_symlink() {
        return Ok(kind.is_file());
    }
    match files::open_told(path, OFlag::O_PATH) {
        Ok(target) => Ok(target.metadata().is_ok_and(|seen| seen.is_file())),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(files::refused(path, errno)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn f52_a_fifo_a_directory_or_a_huge_file_as_config_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, Mode::from_bits_truncate(0o600)).unwrap();
        assert_eq!(
            document(&pipe).unwrap_err().to_string(),
            format!("{} is not a regular file", pipe.display())
        );
        assert!(matches!(document(dir.path()), Err(Error::NotRegular { .. })));
        let huge = dir.path().join("huge");
        fs::File::create(&huge).unwrap().set_len(100 << 20).unwrap();
        assert!(matches!(document(&huge), Err(Error::TooLarge { .. })));
        assert!(matches!(document(&dir.path().join("none")), Err(Error::Read { .. })));
        let binary = dir.path().join("binary");
        fs::write(&binary, [0xff]).unwrap();
        assert!(matches!(document(&binary), Err(Error::NotText { .. })));
        assert!(matches!(document(Path::new("/dev/zero")), Err(Error::NotRegular { .. })));
    }

    #[test]
    fn patches_are_read_in_order_and_what_is_no_file_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("etcd1.json"), "b").unwrap();
        fs::write(dir.path().join("etcd0.json"), "a").unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("pipe"), Mode::from_bits_truncate(0o600)).unwrap();
        let found = patches(dir.path(), Author::Root, &UserFact::default()).unwrap();
        assert_eq!(found, [("etcd0.json".into(), "a".into()), ("etcd1.json".into(), "b".into())]);
        let none = patches(&dir.path().join("none"), Author::Root, &UserFact::default());
        assert!(matches!(none, Err(Error::Read { .. })));
    }
}
