//! Files that root named on kubeadm's command line: `--config` and `--patches`.

use std::path::Path;

use u7s_plan::node::{self, NodeSpec};

use crate::error::Error;
use crate::files;

/// The most files that a patches directory may hold.
const MOST: usize = 100;

/// A file of a patches directory: name and text.
pub type Patch = (String, String);

/// Text of the file that `--config` names: a regular file of at most 1 MiB.
///
/// Links are followed: root named the path. A FIFO is refused without waiting for its writer.
///
/// # Errors
/// `Read`, `NotRegular`, `TooLarge`, `NotText`.
pub fn document(path: &Path) -> Result<String, Error> {
    let bytes = files::read_named(path, files::LIMIT)?;
    String::from_utf8(bytes).map_err(|_| Error::NotText { path: path.to_owned() })
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

/// All regular files of the directory that `--patches` names, in the order of their names.
///
/// Directories and other things in it are left out, as kubeadm leaves out what it does not know.
///
/// # Errors
/// `Read` for the directory, `TooManyFiles`, and those of [`document`].
pub fn patches(dir: &Path) -> Result<Vec<Patch>, Error> {
    let failed = |source| Error::Read { path: dir.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.path().is_file() {
            continue;
        }
        let name = entry.file_name().into_string().map_err(|_| Error::NotText { path: entry.path() })?;
        names.push(name);
        if names.len() > MOST {
            return Err(Error::TooManyFiles { path: dir.to_owned(), limit: MOST });
        }
    }
    names.sort();
    names.into_iter().map(|name| document(&dir.join(&name)).map(|text| (name, text))).collect()
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
        let found = patches(dir.path()).unwrap();
        assert_eq!(found, [("etcd0.json".into(), "a".into()), ("etcd1.json".into(), "b".into())]);
        assert!(matches!(patches(&dir.path().join("none")), Err(Error::Read { .. })));
    }
}
